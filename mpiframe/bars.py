"""What a progress bar looks like: as text, in colours, as HTML. `displays` draws it, `progress` says when."""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from typing import Any

_MOST_SERVERS = 64  # that get a row of their own in a notebook


@dataclass(frozen=True, slots=True)
class Picture:
    """The state of a bar at one moment.

    total: None if nobody knows. rate: a second, lately. left: seconds until the end, if it can be told.
    servers: how many each of them has done, by rank.
    """

    label: str
    total: int | None
    done: int
    failed: int
    seconds: float
    rate: float
    left: float | None
    servers: dict[int, int] = field(default_factory=dict)
    unit: str = ""
    over: bool = False  # it will not change any more
    there: int = 0  # of those done: were so from the start, as what a journal holds

    @property
    def fraction(self) -> float:
        """How much of it has ended, from 0 to 1; 0 where that is not known."""
        return min(self.done / self.total, 1.0) if self.total else float(self.total == 0)

    def count(self) -> str:
        """So many of so many."""
        return f"{self.done:,}" + ("" if self.total is None else f"/{self.total:,}") + self.unit

    def facts(self) -> list[str]:
        """What is to be said beside the bar, the most important first."""
        words = [self.count()]
        if self.failed:
            words.append(f"{self.failed:,} failed")
        if self.over:
            words.append(f"in {clock(self.seconds)}")
        elif self.left is not None:
            words.append(f"{clock(self.left)} left")
        if self.rate:
            words.append(f"{number(self.rate)}/s")
        if self.there:
            words.append(f"{self.there:,} were there")
        return words

    def rates(self) -> list[tuple[int, int, float]]:
        """(server, how many it has done, how many a second) of each, by rank."""
        seconds = max(self.seconds, 1e-3)
        return [(rank, done, done / seconds) for rank, done in sorted(self.servers.items())]


def clock(seconds: float) -> str:
    """A span of time, short: 4.2 s, 3:07, 12:00:00."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def number(value: float) -> str:
    """A rate, with as many figures as say something."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"


# -- as text ---------------------------------------------------------------------------------------


def paint(picture: Picture, width: int) -> list[str]:
    """Lines of at most `width` characters: the bar, and how many each server has done."""
    width = max(width - 1, 8)  # the last column makes some terminals begin a new line
    facts = picture.facts()
    while len(facts) > 1 and len("  ".join(facts)) > width - 12:
        facts.pop()
    words = "  ".join(facts)[:width]
    room = width - len(words)
    label = picture.label
    if len(label) + 1 > room - 2:
        label = "" if room < 12 else label[: max(room // 2 - 4, 1)] + "..."
    room -= len(label) + bool(label) + 1
    bar = ""
    if picture.total is not None and room >= 6:
        inner = min(room, 42) - 2
        full = int(inner * picture.fraction)
        bar = "[" + "#" * full + "." * (inner - full) + "] "
    lines = [(f"{label} " if label else "") + bar + words]
    if len(picture.servers) > 1:
        lines.append(_row(picture, width))
    return lines


def paint_richly(picture: Picture, width: int) -> list[str]:
    """As `paint`, in colours, by rich."""
    import io

    from rich.console import Console
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=max(width - 1, 8), legacy_windows=False)
    facts = picture.facts()
    while len(facts) > 1 and len("  ".join(facts)) > width - 12:
        facts.pop()
    words = Text("  ").join(
        Text(fact, style="red" if fact.endswith("failed") else "green" if picture.over else "cyan")
        for fact in facts
    )
    room = width - words.cell_len - 3
    label = Text(picture.label)
    label.truncate(min(max(width // 3, 4), max(room - 4, 0)), overflow="ellipsis")
    room = min(room - label.cell_len - 1, 40)
    parts: list[Any] = [label] if label.cell_len else []
    if picture.total is not None and room >= 4:
        parts.append(ProgressBar(total=1.0, completed=picture.fraction, width=room))
    grid = Table.grid(padding=(0, 1, 0, 0))
    for _ in (*parts, words):
        grid.add_column(no_wrap=True, overflow="ellipsis")
    grid.add_row(*parts, words)
    console.print(grid)
    if len(picture.servers) > 1:
        console.print(Text(_row(picture, width - 1), style="dim"), no_wrap=True, overflow="ellipsis")
    return out.getvalue().rstrip("\n").split("\n")


def _row(picture: Picture, width: int) -> str:
    """The servers in one line, as many as there is room for."""
    text, parts = "", picture.rates()
    for index, (rank, done, rate) in enumerate(parts):
        part = f"{rank}: {done:,} ({number(rate)}/s)"
        more = f"{text}  {part}" if text else part
        rest = len(parts) - index - 1
        if len(more) + (len(f"  +{rest}") if rest else 0) > width:
            return f"{text}  +{rest + 1}"[:width] if text else f"{len(parts)} servers"[:width]
        text = more
    return text


# -- as HTML ---------------------------------------------------------------------------------------


def to_html(picture: Picture) -> str:
    """The bar for a notebook; its servers are folded away."""
    value = f' value="{picture.fraction:.4f}"' if picture.total is not None or picture.over else ""
    words = html.escape("  ".join(picture.facts())).replace("  ", " &nbsp; ")
    if picture.failed:
        words = words.replace(
            f"{picture.failed:,} failed", f'<b style="color:#b00">{picture.failed:,} failed</b>', 1
        )
    text = (
        f'<div class="mpiframe-progress" style="font-family:monospace">{html.escape(picture.label)} '
        f'<progress max="1"{value} style="width:16em;vertical-align:middle"></progress> {words}'
    )
    rates = picture.rates()
    if len(rates) > 1:
        rows = "".join(
            f"<tr><td>server {rank}</td><td>{done:,}</td><td>{number(rate)}/s</td></tr>"
            for rank, done, rate in rates[:_MOST_SERVERS]
        )
        more = f"<tr><td>+{len(rates) - _MOST_SERVERS}</td></tr>" if len(rates) > _MOST_SERVERS else ""
        text += f"<details><summary>{len(rates)} servers</summary><table>{rows}{more}</table></details>"
    return text + "</div>"


class Shown:
    """What a notebook displays of a bar, as HTML or as text."""

    def __init__(self, picture: Picture) -> None:
        self._picture = picture

    def _repr_html_(self) -> str:
        return to_html(self._picture)

    def __repr__(self) -> str:
        return "\n".join(paint(self._picture, 80))
