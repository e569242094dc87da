"""`mpiframe list`: the worlds of this user on this host."""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Sequence

from mpiframe.worlds import places
from mpiframe.worlds.places import Card, Place

_HOW = {"background": "start", "foreground": "batch", "script": "script", "private": "private"}
_HEADINGS = ("NAME", "MPI", "RANKS", "SESSIONS", "SINCE", "HOST", "HOW")
_GAP = 2
_TODAY = 86400.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `mpiframe list` takes."""
    parser.usage = "mpiframe list [--long]"
    parser.description = (
        "List the worlds that run on this host: how they were started is one of start, batch (start "
        "--foreground), script (run --name) and private (mpiframe.launch). Those that died are named below."
    )
    parser.add_argument(
        "--long", action="store_true", help="their commands, sockets, processes and logs, too"
    )


def run(options: argparse.Namespace) -> int:
    """Print the list; 0 also where it is empty."""
    alive, dead = places.survey()
    width = shutil.get_terminal_size().columns
    print("\n".join(table(alive, width, time.time(), options.long) or ["no world runs here"]))
    for place, card in dead:
        print(_death(place, card, width))
    return 0


def table(worlds: Sequence[tuple[Place, Card]], width: int, now: float, long: bool = False) -> list[str]:
    """The lines of a table as wide as that, or a few short lines for each world where it would be wider."""
    rows = [_HEADINGS, *(_row(card, now) for _, card in worlds)] if worlds else []
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEADINGS))] if rows else []
    if not long and sum(widths) + _GAP * (len(widths) - 1) <= width:
        gap = " " * _GAP
        return [gap.join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [line for place, card in worlds for line in _paragraph(place, card, now, long, width)]


def _row(card: Card, now: float) -> tuple[str, ...]:
    state = "" if card.ready else " (starting)"
    return (
        card.name, card.mpi, str(card.ranks), str(card.sessions), _since(card.since, now), card.host,
        _HOW.get(card.how, card.how) + state,
    )  # fmt: skip


def _since(epoch: float, now: float) -> str:
    short = "%H:%M" if now - epoch < _TODAY else "%Y-%m-%d %H:%M"
    return time.strftime(short, time.localtime(epoch))


def _paragraph(place: Place, card: Card, now: float, long: bool, width: int) -> list[str]:
    _, mpi, ranks, sessions, since, host, how = _row(card, now)
    facts = [mpi, f"{ranks} ranks", f"{sessions} sessions" if sessions != "1" else "1 session",
             f"since {since}", f"on {host}", how]  # fmt: skip
    lines = [card.name, *_filled(facts, width)]
    if long:
        lines += [f"  command  {card.command}", f"  folder   {card.cwd}", f"  process  {card.pid}",
                  f"  socket   {place.socket}"]  # fmt: skip
        lines += [f"  TCP      {card.listen}"] if card.listen else []
        lines += [f"  log      {place.log}"] if place.log.exists() else []
    return lines


def _filled(facts: Sequence[str], width: int) -> list[str]:
    """The facts in lines that are no wider than that, if no fact is."""
    lines: list[str] = []
    for fact in facts:
        if lines and len(lines[-1]) + 2 + len(fact) <= width:
            lines[-1] += f", {fact}"
        else:
            lines.append(f"  {fact}")
    return lines


def _death(place: Place, card: Card, width: int) -> str:
    assert card.ended is not None
    facts = [f"{place.name} died {'after ' if card.estimated else ''}{places.moment(card.ended)}"]
    if place.log.exists():
        facts.append(f"log {place.log}")
    line = ", ".join(facts)
    return line if len(line) <= width else "\n  ".join(facts)
