"""The results as Markdown."""

from __future__ import annotations

import statistics
from typing import Any

from . import ENTRIES
from .figures import COMPARED, FIGURES, MANY_SERVERS, TARGETS, Figure, Results, Target
from .running import QUIET


def markdown(machine: dict[str, Any], results: Results) -> str:
    """All tables, with what must be known of the machine."""
    parts = [_machine(machine, results)]
    for mpi in results.mpis:
        parts += [f"### {mpi}", _targets(results, mpi), _values(results, mpi)]
    parts.append(_absent(machine, results))
    return "\n\n".join(part for part in parts if part) + "\n"


def _machine(machine: dict[str, Any], results: Results) -> str:
    before, after = (", ".join(f"{x:.2f}" for x in machine[when]) for when in ("load before", "load after"))
    others = [session["others"] for session in results.sessions if session["seconds"]]
    rounds = 1 + max((session["round"] for session in results.sessions), default=0)
    text = [
        f"A client and 2 servers on {machine['cores']} cores, {machine['date']}; {rounds} round(s) over the "
        f"peers in {machine['seconds'] / 60:.0f} min. Load {before} before, {after} after (1, 5, 15 minutes; "
        "ours is in it)."
    ]
    if others:
        text.append(f"Other processes used {statistics.median(others):.1f} cores, {max(others):.1f} at most.")
    if noisy := sum(x >= QUIET for x in others):
        text.append(
            f"In {noisy} of {len(others)} sessions it was more than {QUIET}; they count where there is no "
            "quieter round."
        )
    return " ".join(text)


def amount(figure: Figure, value: float | None) -> str:
    """A value with its unit."""
    if value is None:
        return "-"
    if figure.size:
        return f"{_short(figure.size / value / 1e9)} GB/s"
    if figure.unit == "s":
        scale, unit = next(
            (s, u) for s, u in ((1, "s"), (1e3, "ms"), (1e6, "us")) if value * s >= 1 or s == 1e6
        )
        return f"{_short(value * scale)} {unit}"
    if figure.unit == "%":
        return f"{value:.2%}"
    if figure.unit == "x":
        return f"{value:.2f}"
    return f"{_short(value / 1e6)} M/s" if value >= 1e6 else f"{value:,.0f}/s"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _times(value: float) -> str:
    return f"{value:,.0f} x" if value >= 100 else f"{value:.1f} x" if value >= 10 else f"{value:.2f} x"


# -- what is wanted ------------------------------------------------------------------------------------


def _targets(results: Results, mpi: str) -> str:
    lines = ["| figure | ours | compared with | that | ratio | wanted | |", "|---|---|---|---|---|---|---|"]
    last = ""
    for target in TARGETS:
        if not any(results.rounds(mpi, peer, target.figure) for peer in ("ours", *target.against)):
            continue  # its group was not asked for
        cells = _target(results, mpi, target)
        title = cells[0]
        if title == last:  # said once for all its lines
            cells[0] = cells[1] = ""
        last = title
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _target(results: Results, mpi: str, target: Target) -> list[str]:
    figure = FIGURES[target.figure]
    ours = _with_details(results, mpi, "ours", target.figure)
    if target.figure == "many":
        ratio = results.growth_of_cpu(mpi)
        value = amount(figure, results.value(mpi, "ours", "many", servers=MANY_SERVERS))
        return _limit(
            figure, value, target, ratio, "" if ratio is None else _times(ratio), f"{target.wanted} x"
        )
    if not target.against:
        value = results.value(mpi, "ours", target.figure)
        wanted = amount(figure, target.wanted)
        return _limit(figure, ours, target, value, amount(figure, value), wanted)
    other = results.best(mpi, target.against, target.figure)
    words = target.words or ENTRIES[target.against[0]].title
    if other is None:
        reasons = (results.missing(mpi, peer, target.figure) for peer in target.against)
        why = next((f"that {reason}" for reason in reasons if reason), "not measured")
        return [figure.title, ours, words, "-", "-", _times(target.wanted), why]
    ratio = results.ratio(mpi, target.figure, other)
    shown = amount(figure, results.value(mpi, other, target.figure))
    if ratio is None:
        why = results.missing(mpi, "ours", target.figure) or "not measured"
        return [figure.title, ours, words, shown, "-", _times(target.wanted), why]
    verdict = "yes" if ratio >= target.wanted else "**no**"
    return [figure.title, ours, words, shown, _times(ratio), _times(target.wanted), verdict]


def _limit(figure: Figure, ours: str, target: Target, value: Any, ratio: str, wanted: str) -> list[str]:
    verdict = "not measured" if value is None else "yes" if value < target.wanted else "**no**"
    return [figure.title, ours, target.words or "-", "-", ratio or "-", f"under {wanted}", verdict]


# -- all values ----------------------------------------------------------------------------------------


def _values(results: Results, mpi: str) -> str:
    peers = [
        peer
        for peer in ENTRIES
        if (mpi == results.mpis[0] or ENTRIES[peer].each_mpi)
        and any(results.rounds(mpi, peer, figure) for figure in COMPARED)
    ]
    lines = [
        f"| | {' | '.join(ENTRIES[peer].title for peer in peers)} |",
        f"|---|{'---|' * len(peers)}",
    ]
    for name in COMPARED:
        if not any(results.rounds(mpi, peer, name) for peer in peers):
            continue  # its group was not asked for
        cells = [_with_details(results, mpi, peer, name) for peer in peers]
        lines.append(f"| {FIGURES[name].title} | {' | '.join(cells)} |")
    starts = [_start(results, mpi, peer) for peer in peers]
    lines.append(f"| from the start of the world to the first command | {' | '.join(starts)} |")
    return "\n".join(lines)


def _with_details(results: Results, mpi: str, peer: str, name: str) -> str:
    """The value, and beside it the p99, the CPU time, or the chunk size that was best."""
    value = results.value(mpi, peer, name)
    if value is None:
        why = results.missing(mpi, peer, name)
        return f"({why})" if why else "-"
    text = amount(FIGURES[name], value)
    last = list(results.rounds(mpi, peer, name).values())[-1]
    if name in ("noop", "pause"):
        text += f" (p99 {amount(FIGURES[name], results.value(mpi, peer, name, 'p99'))})"
    if name == "map_many" and last.get("chunk"):
        text += f" (chunks of {last['chunk']:,})"
    if name in ("pause", "idle"):
        cpu = last["cpu"]
        text += f"; CPU: client {cpu['client']:.1%}, server {cpu['server']:.1%}"
        if cpu["helpers"] > 0.001:
            text += f", helpers {cpu['helpers']:.1%}"
    return text


def _start(results: Results, mpi: str, peer: str) -> str:
    home = mpi if ENTRIES[peer].each_mpi else results.mpis[0]
    found = [s["start"] for s in results.sessions if (s["mpi"], s["peer"]) == (home, peer) and "start" in s]
    return f"{statistics.median(found):.1f} s" if found else "-"


# -- what is not there ---------------------------------------------------------------------------------


def _absent(machine: dict[str, Any], results: Results) -> str:
    lines = [f"- {ENTRIES[peer].title} was not measured: {why}." for peer, why in machine["absent"].items()]
    for session in results.sessions:
        if "why" in session:
            which = f"{ENTRIES[session['peer']].title} ({session['mpi']}), {session['group']}"
            lines.append(f"- {which}, round {session['round'] + 1}: {session['why']}.")
    return "\n".join(lines)
