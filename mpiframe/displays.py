"""Where progress bars are drawn: a terminal, a notebook, or lines in a log.

On a terminal the bars of this process are the last lines of what is printed: while there are any,
`sys.stdout` and `sys.stderr` are stood in for by streams that take the bars away, print, and put them back,
so that nothing is torn, whichever thread prints. Who draws is told when by `progress`; nothing here waits.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import threading
import time
from collections.abc import Sequence
from typing import IO, Any, Protocol

from mpiframe.bars import Picture, Shown, paint, paint_richly

TERMINAL = "MPIFRAME_TERMINAL"
"""The variable in which `mpiframe run` names the terminal it was started on: ranks get pipes."""
TERMINAL_STREAMS = "MPIFRAME_TERMINAL_STREAMS"
"""And this says which of rank 0's streams end there."""
_LINE_SECONDS = 10.0  # between two lines in a log
_ROOM = 0.05  # seconds that bars stay away for text that comes through a pipe


class Display(Protocol):
    """Where one bar is drawn."""

    def draw(self, picture: Picture) -> None:
        """Show this instead of what was shown before; the last one has `over` set."""


def find_display(show: bool | None) -> Display | None:
    """Where a bar belongs in this process; None where it is not to be seen.

    show: None means a notebook or a terminal, if there is one; True means lines in standard error
    otherwise; False means nothing.
    """
    if show is False:
        return None
    if in_notebook():
        return NotebookDisplay()
    terminal = _terminal()
    if terminal is not None:
        return TerminalDisplay(_screen_on(*terminal))
    return LogDisplay() if show and sys.stderr is not None else None


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    shell = running_ipython()
    return shell is not None and getattr(shell, "kernel", None) is not None


def running_ipython() -> Any:
    """The IPython that this process is, or None; IPython is not imported for it."""
    module = sys.modules.get("IPython")
    find = getattr(module, "get_ipython", None)
    return None if find is None else find()


class NotebookDisplay:
    """An output of the cell, which is exchanged as time goes by."""

    def __init__(self) -> None:
        self._handle: Any = None

    def draw(self, picture: Picture) -> None:
        """As `Display`."""
        from IPython import display as ipython

        display: Any = ipython.display  # which has no types

        if self._handle is None:
            self._handle = display(Shown(picture), display_id=True)
        else:
            self._handle.update(Shown(picture))


class LogDisplay:
    """A line now and then where there is no terminal, and one at the end."""

    def __init__(self) -> None:
        self._next = _LINE_SECONDS

    def draw(self, picture: Picture) -> None:
        """As `Display`."""
        if not picture.over and picture.seconds < self._next:
            return
        self._next = picture.seconds + _LINE_SECONDS
        words = ", ".join(picture.facts())
        with contextlib.suppress(OSError, ValueError):
            print(f"{picture.label}: {words}" if picture.label else words, file=sys.stderr, flush=True)


class TerminalDisplay:
    """Some of the last lines of the terminal."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen

    def draw(self, picture: Picture) -> None:
        """As `Display`."""
        self._screen.draw(self, picture)


_UP_AND_CLEAR = "\x1b[1A\x1b[2K"


class Screen:
    """The bars at the bottom of a terminal.

    out: the terminal. through: None where what the process prints goes there, too, and at once. Otherwise it
    goes through pipes, of which those of the streams named here end on the terminal: what they print while
    there are bars is written to it directly. Of others nobody knows; the bars make room for a moment when
    they print.
    """

    def __init__(self, out: IO[str], through: Sequence[str] | None = None) -> None:
        self._out = out
        self._through = through
        self._lock = threading.RLock()  # reentrant: a destructor may print in the middle of a drawing
        self._bars: dict[TerminalDisplay, list[str]] = {}  # the lines of each
        self._lines: list[str] = []  # that are on the terminal now
        self._in_line = False  # somebody has printed a line without its end
        self._away_until = 0.0  # monotonic seconds
        self._paint = _painter()
        self._aside: list[tuple[str, Any, _Aside]] = []
        self._rests = False  # where there is a prompt

    def draw(self, bar: TerminalDisplay, picture: Picture) -> None:
        """Draw this bar anew; if it is over, it stays where it is, and what follows comes below."""
        with self._lock:
            lines = self._paint(picture, self._width())
            text = self._erased()
            if picture.over:
                self._bars.pop(bar, None)
                text += "\n" * self._in_line + "".join(f"{line}\n" for line in lines)
                self._in_line = False
            else:
                self._bars[bar] = lines
            if self._bars:
                self._install()
            self._write(text + self._drawn())
            if not self._bars:
                self._remove()

    def print(self, file: Any, text: str, direct: bool) -> int:
        """Print above the bars; `direct`: the file is this terminal."""
        with self._lock:
            erased = self._erased()
            if not direct:
                self._write(erased)
                self._away_until = time.monotonic() + _ROOM
                file.write(text)
                return len(text)
            self._in_line = not text.endswith("\n") if text else self._in_line
            file.write(erased + text + self._drawn())
            file.flush()
            return len(text)

    def rest(self, *_: Any) -> None:
        """Take the bars away until they are drawn again: what follows is a prompt's."""
        with self._lock:
            if self._bars:
                self._write(self._erased())
                self._bars.clear()
                self._remove()

    # -- inside, with the lock -----------------------------------------------------------------------

    def _erased(self) -> str:
        """What takes the bars away and leaves the cursor where they began."""
        lines, self._lines = self._lines, []
        return "" if not lines else "\r\x1b[2K" + _UP_AND_CLEAR * (len(lines) - 1)

    def _drawn(self) -> str:
        """The bars; the cursor stays at their end."""
        if self._in_line or not self._bars or time.monotonic() < self._away_until:
            return ""
        self._lines = [line for lines in self._bars.values() for line in lines]
        return "\n".join(self._lines)

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # a terminal that is gone stops no computation
            self._out.write(text)
            self._out.flush()

    def _width(self) -> int:
        try:
            return os.get_terminal_size(self._out.fileno()).columns or 80
        except (OSError, ValueError):
            return shutil.get_terminal_size().columns

    def _install(self) -> None:
        if self._aside:
            return
        shell = running_ipython()
        if shell is not None and not self._rests:
            self._rests = True
            shell.events.register("post_run_cell", self.rest)
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is None or (self._through is None and not _is_terminal(stream)):
                continue
            target, direct = stream, self._through is None
            if self._through is not None and name in self._through and stream is getattr(sys, f"__{name}__"):
                with contextlib.suppress(OSError, ValueError):
                    stream.flush()
                target, direct = self._out, True
            aside = _Aside(self, stream, target, direct)
            self._aside.append((name, stream, aside))
            setattr(sys, name, aside)

    def _remove(self) -> None:
        for name, stream, aside in self._aside:
            aside.retire()
            if getattr(sys, name) is aside:  # somebody else may have put a stream of theirs before it
                setattr(sys, name, stream)
        self._aside = []


class _Aside:
    """Stands in for a standard stream while there are bars."""

    def __init__(self, screen: Screen, stream: Any, target: Any, direct: bool) -> None:
        self._screen: Screen | None = screen
        self._stream = stream
        self._target = target
        self._direct = direct

    def write(self, text: str) -> int:
        """Print above the bars."""
        screen = self._screen
        if screen is None or not isinstance(text, str):
            return int(self._stream.write(text))
        return screen.print(self._target, text, self._direct)

    def writelines(self, lines: Any) -> None:
        """As of any stream."""
        for line in lines:
            self.write(line)

    def retire(self) -> None:
        """Be no more than the stream itself, for whoever has kept this one."""
        self._screen = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


_screen: Screen | None = None
_screen_lock = threading.Lock()


def _screen_on(out: IO[str], through: Sequence[str] | None) -> Screen:
    """The one of this process; two would draw over each other."""
    global _screen
    with _screen_lock:
        if _screen is None or (_screen._out is not out and not _screen._bars):
            _screen = Screen(out, through)
        return _screen


_opened: dict[str, IO[str]] = {}


def _terminal() -> tuple[IO[str], Sequence[str] | None] | None:
    """What a Screen is made of, if there is a terminal."""
    stream: Any = sys.stderr
    if isinstance(stream, _Aside):
        stream = stream._stream
    if _is_terminal(stream):
        return stream, None
    name = os.environ.get(TERMINAL)
    if not name:
        return None
    if name not in _opened:
        try:
            # Only to write to, and not to be stopped by its Ctrl-C.
            _opened[name] = open(  # noqa: SIM115 - as long as the process
                name, "w", encoding="utf-8", errors="replace", opener=_open_quietly
            )
        except OSError:
            return None
    return _opened[name], os.environ.get(TERMINAL_STREAMS, "").split()


def _open_quietly(path: str, flags: int) -> int:
    return os.open(path, flags & ~os.O_CREAT & ~os.O_TRUNC | os.O_NOCTTY)


def _is_terminal(stream: Any) -> bool:
    try:
        return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"
    except (OSError, ValueError, AttributeError):
        return False


def _painter() -> Any:
    try:
        import rich  # noqa: F401 - is it there?
    except ImportError:
        return paint
    return paint if os.environ.get("NO_COLOR") else paint_richly
