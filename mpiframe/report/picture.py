"""An analysis as a picture: who was busy when, where the servers' time went, and how long commands waited."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from mpiframe.report.analysis import REASONS, RUNNING, Analysis
from mpiframe.report.words import headline, limits, notes, size_of
from mpiframe.wording import duration

matplotlib.use("agg")

_COLOURS = {
    RUNNING: "#2f6db3",
    "transfer": "#e0883a",
    "client": "#c8443c",
    "few": "#d9b93b",
    "elsewhere": "#8d6bb0",
    "stragglers": "#5aa58a",
    "unpushed": "#d9dce1",
}
_LABELS = {
    RUNNING: "running commands",
    "transfer": "large transfers",
    "client": "client too slow",
    "few": "few commands at a time",
    "elsewhere": "commands wait for others",
    "stragglers": "last ones run elsewhere",
    "unpushed": "nothing pushed",
}
_PHASES = {"queue": "#5f6b7a", "send": "#e0883a", "answer": "#5aa58a"}
_INK, _FAINT = "#20252b", "#8a929c"
_ROWS = 40  # servers that get a row of their own in the picture


def draw(analysis: Analysis, path: str) -> None:
    """Write the picture; its form is that of the name's ending. Raises OSError, ValueError."""
    with matplotlib.rc_context({
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.edgecolor": _FAINT,
        "axes.labelcolor": _INK,
        "text.color": _INK,
        "xtick.color": _INK,
        "ytick.color": _INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }):  # fmt: skip
        _figure(analysis).savefig(path, dpi=110)


def _figure(analysis: Analysis) -> Figure:
    servers = analysis.servers
    rows = min(len(servers), _ROWS)
    tall = 0.9 + 0.24 * min(rows, 12) + 0.16 * max(rows - 12, 0)
    said = _paragraphs(analysis)
    heads = 0.75 + 0.19 * sum(len(part) for part in said)
    heights = [heads, tall, 1.5, max(tall, 2.2), 2.4]
    figure = Figure(figsize=(12, sum(heights) + 2.6), layout="constrained")
    engine = figure.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)
    engine.set(h_pad=0.08, w_pad=0.08)
    grid = figure.add_gridspec(5, 2, height_ratios=heights, width_ratios=[1.25, 1])
    _words(figure.add_subplot(grid[0, :]), analysis, said)
    when = figure.add_subplot(grid[1, :])
    _utilisation(when, analysis)
    _flow(figure.add_subplot(grid[2, :], sharex=when), analysis)
    _shares(figure.add_subplot(grid[3, :]), analysis, heights[3])
    _waits(figure.add_subplot(grid[4, 0]), analysis)
    _tables(figure.add_subplot(grid[4, 1]), analysis)
    return figure


def _paragraphs(analysis: Analysis) -> list[list[str]]:
    return [textwrap.wrap(line, 150) for line in [*limits(analysis), *notes(analysis)]]


def _words(axes: Axes, analysis: Analysis, said: list[list[str]]) -> None:
    axes.set_axis_off()
    script, *arguments = analysis.trace.facts.get("command") or [""]
    command = " ".join([Path(script).name, *arguments])
    lines = sum(len(part) for part in said) + 3.4
    step = 1.0 / lines
    axes.text(0, 1, headline(analysis), fontsize=12, weight="bold", va="top", transform=axes.transAxes)
    about = f"{command[:90]}   {' '.join(analysis.trace.facts.get('mpi', '').split(',')[0].split())}"
    axes.text(0, 1 - 1.5 * step, about, color=_FAINT, va="top", transform=axes.transAxes)
    at = 1 - 3.0 * step
    for part in said:
        for number, line in enumerate(part):
            mark = "•  " if number == 0 else "    "
            axes.text(0, at, mark + line, va="top", transform=axes.transAxes)
            at -= step


def _utilisation(axes: Axes, analysis: Analysis) -> None:
    table = np.array([server.busy_in for server in analysis.servers])
    labels = [server.label for server in analysis.servers]
    if len(table) > _ROWS:
        parts = np.array_split(np.arange(len(table)), _ROWS)
        labels = [f"servers {analysis.servers[p[0]].rank}-{analysis.servers[p[-1]].rank}" for p in parts]
        table = np.array([table[part].mean(axis=0) for part in parts])
    first, last = analysis.start, analysis.end
    colours = matplotlib.colors.LinearSegmentedColormap.from_list("busy", ["#eef1f5", _COLOURS[RUNNING]])
    axes.imshow(
        table,
        aspect="auto",
        cmap=colours,
        vmin=0,
        vmax=1,
        interpolation="nearest",
        extent=(0, last - first, len(table) - 0.5, -0.5),
    )
    axes.set_yticks(range(len(table)), labels, fontsize=8)
    for row in range(1, len(table)):
        axes.axhline(row - 0.5, color="white", linewidth=1.5)
    axes.tick_params(length=0)
    axes.set_title("Who was busy when (the darker, the more of the time)")


def _flow(axes: Axes, analysis: Analysis) -> None:
    middles = (analysis.steps[1:] + analysis.steps[:-1]) / 2 - analysis.start
    axes.fill_between(middles, analysis.rate, step="mid", color=_COLOURS[RUNNING], alpha=0.35, linewidth=0)
    axes.plot(middles, analysis.rate, color=_COLOURS[RUNNING], linewidth=1, drawstyle="steps-mid")
    axes.set_ylabel("commands ended\na second", color=_COLOURS[RUNNING])
    axes.set_ylim(bottom=0)
    axes.set_xlim(0, analysis.seconds)
    axes.set_xlabel("seconds since the first push")
    axes.set_title("Throughput, and commands that wait")
    waiting = axes.twinx()
    waiting.plot(middles, analysis.waiting, color=_COLOURS["client"], linewidth=1)
    waiting.set_ylabel("commands\nthat wait", color=_COLOURS["client"])
    waiting.set_ylim(bottom=0)
    waiting.spines["right"].set_visible(True)
    for side in (axes, waiting):
        side.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4, integer=True))


def _shares(axes: Axes, analysis: Analysis, tall: float) -> None:
    servers = analysis.servers
    if len(servers) > _ROWS:
        order = sorted(servers, key=lambda s: -s.busy)
        servers = [*order[: _ROWS // 2], *order[-_ROWS // 2 :]]
    left = np.zeros(len(servers))
    for key in (RUNNING, *REASONS):
        widths = np.array([server.spent[key] * 100 for server in servers])
        if widths.max() >= 0.5:
            axes.barh(range(len(servers)), widths, 0.72, left, color=_COLOURS[key], label=_LABELS[key])
            for row, width in enumerate(widths):
                if width >= 7:
                    dark = key in (RUNNING, "client", "elsewhere")
                    axes.text(
                        left[row] + width / 2,
                        row,
                        f"{width:.0f} %",
                        ha="center",
                        va="center",
                        fontsize=7.5,
                        color="white" if dark else _INK,
                    )
        left += widths
    labels = [f"{s.label}  ({s.commands:,})" for s in servers]
    axes.set_yticks(range(len(servers)), labels, fontsize=8)
    for row, server in enumerate(servers):
        if server is analysis.busiest:
            axes.get_yticklabels()[row].set_fontweight("bold")
    axes.set_ylim(len(servers) - 0.4, -0.6)
    axes.set_xlim(0, 100)
    axes.tick_params(length=0)
    axes.set_xlabel("% of the run")
    axes.set_title("Where the servers' time went (commands in brackets, the busiest in bold)")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.5 / tall), ncol=7, frameon=False, fontsize=8)


def _waits(axes: Axes, analysis: Analysis) -> None:
    most = max(float(values.max()) for values in analysis.waits.values())
    bins = np.logspace(-6, np.log10(max(most, 1e-5)) + 0.05, 70)
    highest = 1
    words = {"queue": "in the queue", "send": "being sent", "answer": "its answer"}
    for phase, values in analysis.waits.items():
        counts, _ = np.histogram(np.clip(values, 1e-6, None), bins)
        highest = max(highest, int(counts.max()))
        middle, late = (duration(float(np.quantile(values, share))) for share in (0.5, 0.99))
        label = f"{words[phase]}: median {middle}, 99 % {late}"
        axes.stairs(counts, bins, color=_PHASES[phase], label=label, linewidth=1.5)
        axes.stairs(counts, bins, color=_PHASES[phase], fill=True, alpha=0.12)
    axes.set_xscale("log")
    axes.set_ylim(0, 1.4 * highest)  # the legend has its place
    axes.xaxis.set_major_formatter(lambda value, _: duration(value))
    axes.set_ylabel("commands")
    axes.set_xlabel("time a command spent")
    axes.set_title("How long commands waited")
    axes.legend(loc="upper right", frameon=False, fontsize=8)


def _tables(axes: Axes, analysis: Analysis) -> None:
    axes.set_axis_off()
    lines: list[tuple[str, str, Any]] = [("Commands by the time they ran", "", "bold")]
    for name, count, seconds in analysis.names[:5]:
        lines.append((f"{duration(seconds)}", f"{count:,} x {name}", "normal"))
    lines.append(("", "", "normal"))
    lines.append(("Largest transfers", "", "bold"))
    for t in analysis.transfers[:5]:
        arrow = "to" if t.way == "out" else "from"
        lines.append((size_of(t.size), f"{arrow} {t.server} in {duration(t.seconds)}: {t.name}", "normal"))
    if not analysis.transfers:
        lines.append(("none", "of 64 KiB or more", "normal"))
    for row, (left, right, weight) in enumerate(lines):
        at = 1 - row / 13
        axes.text(0.0, at, left, weight=weight, va="top", transform=axes.transAxes)
        axes.text(0.2, at, right[:58], va="top", transform=axes.transAxes)
