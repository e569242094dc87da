"""`mpiframe top [NAME]`: a running world in the terminal, live."""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from typing import Any

from mpiframe.errors import WorldError
from mpiframe.watch.source import GONE, Source, add_world, missing, open_source, rate, size, span

_SECONDS = 1.0
_COLOURS = {"busy": "yellow", "idle": "green", "lost": "red", "unresponsive": "magenta", "starting": "cyan"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What it takes."""
    parser.description = "Look at a running world in the terminal. q or Ctrl-C leaves; the world goes on."
    add_world(parser)
    parser.add_argument("--once", action="store_true", help="print one table and end")
    parser.add_argument(
        "--every",
        type=_seconds,
        default=_SECONDS,
        metavar="SECONDS",
        help="from one look to the next (default: 1)",
    )


def run(options: argparse.Namespace) -> int:
    """Show it until q, Ctrl-C or the end of the world; the exit status. Raises WorldError."""
    try:
        import rich  # noqa: F401 - told here, where it can be said what to do
    except ImportError as error:
        raise missing(error) from error
    with open_source(options.name, "top", options.key) as (source, _):
        if options.once:
            return once(source)
        return live(source, options.every)


def once(source: Source) -> int:
    """Print one table."""
    from rich.console import Console

    view = View()
    view.take(source(0))
    for seconds in (0.1, 0.4):  # for the first word of CPU times, and for rates
        select.select([], [], [], seconds)
        view.take(source(view.seq))
    console = Console(highlight=False)
    console.print(view.render(console.width, None))
    return 0


def live(source: Source, seconds: float) -> int:
    """Show it in place of what stands in the terminal. Raises WorldError without a terminal."""
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False)
    if not (console.is_terminal and sys.stdin.isatty()):
        raise WorldError("this is no terminal; `mpiframe top --once` prints one table")
    view, since, gone = View(), 0, None
    with _keys() as wait, Live(console=console, screen=True, auto_refresh=False) as screen:
        due = 0.0
        while True:
            if time.monotonic() >= due:
                due = time.monotonic() + seconds
                try:
                    view.take(source(since))
                    since = view.seq
                except GONE as error:
                    gone = str(error)
                    break
            screen.update(view.render(console.width, console.height), refresh=True)
            if wait(due - time.monotonic()) in ("q", "Q", "\x03", "\x04", "\x1b"):
                break
    if gone is not None:
        # What was last seen stays to be read.
        console.print(view.render(console.width, None))
        print(f"mpiframe top: the world has gone: {gone}", file=sys.stderr)
    return 0


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """A function that waits for a key, so many seconds at most; "" for none, and when the size changes."""
    stdin = sys.stdin.fileno()
    before = termios.tcgetattr(stdin)
    woken, wake = os.pipe()
    os.set_blocking(woken, False)
    os.set_blocking(wake, False)

    def wait(seconds: float) -> str:
        ready = select.select([stdin, woken], [], [], max(seconds, 0.0))[0]
        if woken in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(woken, 4096)
        if stdin in ready:
            data = os.read(stdin, 64)
            return data[:1].decode("ascii", "replace") if data else "q"  # the terminal is gone
        return ""

    def resized(*_: object) -> None:
        """That it was called is all there is to know: the table is drawn anew after each wait."""

    def ended(number: int, _frame: object) -> None:
        sys.exit(128 + number)  # by way of what puts the terminal right

    wanted: dict[int, Callable[[int, Any], Any]] = {
        signal.SIGWINCH: resized,
        signal.SIGTERM: ended,
        signal.SIGHUP: ended,
    }
    handlers = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    # By this the very signal ends the wait, also one that comes just before it begins.
    before_wake = signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    try:
        tty.setcbreak(stdin)
        with contextlib.suppress(KeyboardInterrupt):
            yield wait
    finally:
        termios.tcsetattr(stdin, termios.TCSADRAIN, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(before_wake)
        os.close(woken)
        os.close(wake)


class View:
    """The last two snapshots, and how they look."""

    def __init__(self) -> None:
        self._now: dict[str, Any] = {}
        self._before: dict[str, Any] = {}

    @property
    def seq(self) -> int:
        """Of the last snapshot."""
        return int(self._now.get("seq", 0))

    def take(self, snapshot: dict[str, Any]) -> None:
        """The next one."""
        self._before, self._now = self._now, snapshot

    def render(self, width: int, height: int | None) -> Any:
        """A table so wide and, unless it is None, so high."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        now = self._now
        parts: list[Any] = [
            Text(plain(line), no_wrap=True, overflow="ellipsis") for line in self._heading(width)
        ]
        table = Table(box=None, padding=(0, 1, 0, 0), expand=True, show_edge=False, header_style="bold")
        columns = [column for column in _COLUMNS if width >= column[1]]
        for title, _, justify, _ in columns:
            if title == "command":
                table.add_column(title, no_wrap=True, overflow="ellipsis", ratio=1, min_width=6)
            else:
                table.add_column(title, justify=justify, no_wrap=True, overflow="crop")
        servers = now["servers"]
        room = len(servers) if height is None else max(height - len(parts) - 1 - len(now["sessions"][:3]), 1)
        shown = servers
        if len(servers) > room:
            # What works or is amiss is worth more than what is idle.
            shown = sorted(servers, key=lambda s: s["state"] == "idle")[: room - 1]
            shown.sort(key=lambda s: int(s["rank"]))
        for server in shown:
            cells = [
                Text(plain(cell(self, server)), style=_style(title, server)) for title, _, _, cell in columns
            ]
            table.add_row(*cells)
        parts.append(table)
        if len(shown) < len(servers):
            parts.append(Text(f"... and {len(servers) - len(shown)} more", style="dim"))
        for session in now["sessions"][:3]:
            here = "attached" if session.get("connected") else "away"
            words = (
                f"{session['name']}: {here}, {session.get('queued', 0)} queued, {session.get('done', 0)} done"
            )
            parts.append(Text(plain(words), style="dim", no_wrap=True, overflow="ellipsis"))
        return Group(*parts)

    def _heading(self, width: int) -> list[str]:
        now = self._now
        world, servers, statuses = now["world"], now["servers"], now["statuses"]
        busy = sum(s["state"] == "busy" for s in servers)
        speed = sum((self.rate("done", s) or 0) + (self.rate("failed", s) or 0) for s in servers)
        queued = now["shared_queue"] + sum(s["queued"] for s in servers)
        failed = sum(statuses.get(key, 0) for key in ("failed", "lost", "timeout"))
        first = [f"mpiframe {world['name'] or 'world'}", f"up {span(now['now'] - world['started'])}"]
        if world["closed"]:
            first.append("closed")
        second = [f"{busy}/{len(servers)} busy", f"{rate(speed)} cmd/s", f"{queued} queued"]
        third = [f"{statuses.get('done', 0)} done", f"{failed} failed"]
        if width >= 80:
            hosts = world["hosts"]
            first += [world["mpi"], f"{world['ranks']} ranks on {hosts} host{'' if hosts == 1 else 's'}"]
            return [" - ".join(first), ", ".join(second + third), ""]
        return [" - ".join(first), ", ".join(second), ", ".join(third), ""]

    def rate(self, key: str, server: dict[str, Any]) -> float | None:
        """How much a figure of a server grew a second, from the one snapshot to the other."""
        same = (server["rank"], server["pid"])  # not the one that a replacement came for
        before = next((s for s in self._before.get("servers", ()) if (s["rank"], s["pid"]) == same), None)
        if before is None or server[key] is None or before[key] is None:
            return None
        seconds = float(self._now["now"] - self._before["now"])
        return max(float(server[key] - before[key]) / seconds, 0.0) if seconds > 0 else None

    def since(self, server: dict[str, Any]) -> str:
        """How long its command has run."""
        return "" if server["since"] is None else span(self._now["now"] - server["since"])


def plain(text: str) -> str:
    """The text without what a terminal would take for orders."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.0f}"


def _command(server: dict[str, Any]) -> str:
    return "" if server["running"] is None else f"#{server['running']} {server['command'] or ''}"


# Title, from which width of the terminal on, how it is justified, and what stands there.
_COLUMNS: tuple[tuple[str, int, Any, Callable[[View, dict[str, Any]], str]], ...] = (
    ("rank", 0, "right", lambda _, s: str(s["rank"])),
    ("host", 100, "left", lambda _, s: s["host"]),
    ("state", 0, "left", lambda _, s: s["state"]),
    ("queue", 0, "right", lambda _, s: str(s["queued"])),
    ("CPU%", 0, "right", lambda v, s: _percent(v.rate("cpu", s))),
    ("memory", 60, "right", lambda _, s: size(s["rss"])),
    ("cmd/s", 50, "right", lambda v, s: rate(v.rate("done", s))),
    ("done", 90, "right", lambda _, s: str(s["done"])),
    ("failed", 70, "right", lambda _, s: str(s["failed"])),
    ("for", 60, "right", lambda v, s: v.since(s)),
    ("command", 0, "left", lambda _, s: _command(s)),
)


def _style(title: str, server: dict[str, Any]) -> str:
    if title == "state":
        return _COLOURS.get(server["state"], "")
    return "red" if title == "failed" and server["failed"] else ""


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0.1 <= (value := float(text)) <= 3600:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds from 0.1 to 3600")
