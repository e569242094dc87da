"""An analysis in words: what limited the run, and the report for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

import numpy as np

from mpiframe.report.analysis import REASONS, RUNNING, Analysis, Server
from mpiframe.wording import duration

_BUSY = 0.85  # from here on the servers are what limits
_MANY = 40  # servers that are all shown
_WORTH = 0.10  # a share of the servers' time that is worth a line


def limits(analysis: Analysis) -> list[str]:
    """What limited the run, the most important first: a sentence or two each."""
    spent, servers, trace = analysis.spent, analysis.servers, analysis.trace
    busiest, running = analysis.busiest, spent[RUNNING]
    words = []
    if running >= _BUSY:
        words.append(
            f"The servers: they ran commands for {running:.0%} of the time. More servers, or quicker "
            "commands, would make it shorter."
        )
    reasons = sorted((key for key in REASONS if spent[key] >= _WORTH), key=lambda key: -spent[key])
    for key in reasons:
        words.append(_say(key, analysis))
    share = busiest.spent[RUNNING]
    others = [s.spent[RUNNING] for s in servers if s is not busiest]
    if others and share >= 0.6 and share >= 1.5 * float(np.mean(others)) and "elsewhere" not in reasons:
        own = int((~trace.any[trace.server == busiest.rank].astype(bool)).sum())
        why = (
            f"{own} of its {busiest.commands} commands were pushed for it by its rank"
            if own
            else "any server might have run its commands, so its host may be slower"
        )
        words.append(
            f"One server: {busiest.label} was busy for {share:.0%} of the time, the others for "
            f"{float(np.mean(others)):.0%}; {why}."
        )
    return words or [
        f"Nothing stands out: the servers ran commands for {running:.0%} of the time, and waited for many "
        "things, each for less than a tenth of it."
    ]


def _say(key: str, analysis: Analysis) -> str:
    share = f"{analysis.spent[key]:.0%} of the servers' time"
    trace, busiest = analysis.trace, analysis.busiest
    if key == "unpushed":
        return (
            f"The script: for {share} nothing was pushed that they could have run. Push the next commands "
            "before the results of the last ones are worked on."
        )
    if key == "few":
        return (
            f"The script: for {share} it waited for the few commands it had pushed, fewer than there are "
            f"servers ({len(analysis.servers)}). Push more of them before you wait (submit, map)."
        )
    if key == "client":
        rate = float(np.quantile(analysis.rate, 0.9))
        return (
            f"The client: for {share} commands were there, or came as fast as they could be pushed, but were "
            f"not handed over in time; it managed about {rate:,.0f} a second. Let each command do more "
            "(map takes chunks by itself)."
        )
    if key == "transfer":
        size = int(trace.out.sum() + trace.back.sum())
        return (
            f"Transfers: for {share} large arguments and results were on their way, {size_of(size)} in all. "
            "Leave them on the servers (broadcast, scatter, variables), or combine them there (reduce)."
        )
    if key == "elsewhere":
        own = int((~trace.any[trace.server == busiest.rank].astype(bool)).sum())
        return (
            f"One server: for {share} they had nothing to do while commands waited for others by their rank; "
            f"{busiest.label} was the busiest ({busiest.spent[RUNNING]:.0%} of the time, {own} commands "
            "pushed for it). Push for any server (target None) what any can run."
        )
    took = trace.finished - trace.started
    longest = int(np.argmax(took))
    return (
        f"A few long commands: for {share} nothing was left to run while the last commands of a round ended "
        f"elsewhere; the longest was {trace.names[trace.name[longest]]} "
        f"({duration(float(took[longest]))}, request {int(trace.id[longest])}). Push the longest first, or "
        "cut them in pieces."
    )


def size_of(size: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def headline(analysis: Analysis) -> str:
    """The run in a line."""
    trace, busiest = analysis.trace, analysis.busiest
    parts = [
        f"{len(trace):,} commands on {len(analysis.servers)} servers in {duration(analysis.seconds)}",
        f"servers busy {analysis.spent[RUNNING]:.0%}",
        f"busiest: {busiest.label} ({duration(busiest.busy)}, {busiest.spent[RUNNING]:.0%})",
    ]
    return "; ".join(parts)


def notes(analysis: Analysis) -> list[str]:
    """What is to be known of the trace itself."""
    trace, found = analysis.trace, []
    if trace.failed or trace.unrun:
        ends = [f"{trace.failed} failed"] if trace.failed else []
        kinds = sorted({status for _, _, status in trace.unrun})
        ends += [f"{sum(status == kind for _, _, status in trace.unrun)} {kind}" for kind in kinds]
        found.append(f"Of the requests {', '.join(ends)}.")
    if not trace.whole:
        found.append("The trace lacks its end: the run was ended by force, or goes on.")
    if missing := trace.facts.get("missing"):
        found.append(f"{missing:,} records are missing: they came faster than they could be written.")
    for rank, (offset, error) in sorted(trace.clocks.items()):
        found.append(
            f"The clock of {trace.servers.get(rank, rank)} was {duration(abs(offset))} "
            f"{'ahead' if offset > 0 else 'behind'}; its times are right to {duration(error)}."
        )
    return found


def text(analysis: Analysis, width: int = 100) -> str:
    """The report for a terminal of so many columns."""
    return "\n".join(_lines(analysis, max(width, 40))) + "\n"


def _shown(analysis: Analysis) -> list[Server]:
    """All servers, or of very many the busiest and the idlest."""
    servers = analysis.servers
    if len(servers) <= _MANY:
        return servers
    order = sorted(servers, key=lambda s: -s.busy)
    return [*order[: _MANY // 2], *order[-_MANY // 2 :]]


def _lines(analysis: Analysis, width: int) -> Iterator[str]:
    yield from textwrap.wrap(headline(analysis), width)
    yield ""
    yield "What limited the run"
    for line in limits(analysis):
        yield from textwrap.wrap(line, width, initial_indent="- ", subsequent_indent="  ")
    yield ""
    few = "" if len(analysis.servers) <= _MANY else f" (the first and last {_MANY // 2})"
    yield f"Servers: busy, commands, why idle{few}"[:width]
    room = min(max(len(s.label) for s in analysis.servers), max(width - 30, 10))
    bar = max(min(width - room - 24, 40), 4)
    for server in _shown(analysis):
        share = server.spent[RUNNING]
        filled = "#" * round(share * bar)
        why = max(REASONS, key=lambda key: server.spent[key])
        line = f"{server.label[:room]:<{room}} {share:>4.0%} {filled:<{bar}} {server.commands:>8,}"
        if server.spent[why] >= 0.05 and width >= len(line) + 18:
            line += f"  {why} {server.spent[why]:.0%}"
        yield line
    yield ""
    yield "Waited   median    90 %    99 %    most"
    for phase, values in analysis.waits.items():
        marks = [*np.quantile(values, [0.5, 0.9, 0.99]), values.max()]
        yield f"{phase:<7}" + "".join(f"{duration(float(mark)):>8}" for mark in marks)
    yield ""
    yield "Commands by the time they ran"
    for name, count, seconds in analysis.names:
        numbers = f"{duration(seconds):>9} {count:>8,} x "
        yield numbers + name[: max(width - len(numbers), 8)]
    if analysis.transfers:
        yield ""
        yield "Largest transfers"
        for t in analysis.transfers:
            arrow = "to" if t.way == "out" else "from"
            speed = f"{size_of(t.size / t.seconds)}/s" if t.seconds > 0 else "-"
            line = f"{size_of(t.size):>10} {duration(t.seconds):>9} {speed:>12}  {arrow} {t.server}: "
            yield f"{line}{t.name}"[:width]
    for note in notes(analysis):
        yield ""
        yield from textwrap.wrap(note, width)
