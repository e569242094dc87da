"""What servers print while somebody types at a prompt: it appears above the line, which stays as it was."""

from __future__ import annotations

import ctypes
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

_AGAIN = 0.05  # seconds until a thread that has not heard is called again
_EDITING, _AT_WORK = 0x80000, 0x4020  # of readline's states: it reads a line; it acts on a key just now
_CALL = signal.SIGURG  # ignored where nobody has asked for it, and used by nothing else here


class Waiting:
    """Text that waits to be printed; a stream for those who print, from any thread."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._lock = threading.Lock()
        self._pieces: list[str] = []
        self._wake = wake

    def write(self, text: str) -> int:
        """Keep the text, and see that it is shown."""
        with self._lock:
            self._pieces.append(text)
        self._wake()
        return len(text)

    def flush(self) -> None:
        """Nothing is held back for long."""

    def take(self) -> str:
        """What waits; it is the caller's to print now."""
        with self._lock:
            text = "".join(self._pieces)
            self._pieces.clear()
            return text

    def __bool__(self) -> bool:
        return True

    @property
    def empty(self) -> bool:
        """Whether all was taken."""
        return not self._pieces


class Readline:
    """Prints above the line that readline edits, in the thread that edits it.

    That thread waits in C for a key. A signal has it look up: Python's handler runs in it between two keys,
    when readline is not at work. A signal that comes while it is would be forgotten until the next key, so it
    is sent again until the text was taken.
    """

    def __init__(self) -> None:
        self.stream = Waiting(self._call)
        self._thread = threading.get_ident()
        self._waits = threading.Event()
        self._over = False
        self._redraw = _redrawing()
        self._before: Any = None
        self._editing = False

    def __enter__(self) -> Readline:
        self._before = signal.signal(_CALL, self._heard)
        threading.Thread(target=self._insist, name="mpiframe-live", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        self._waits.set()
        signal.signal(_CALL, self._before if self._before is not None else signal.SIG_DFL)

    def read(self, prompt: str) -> str:
        """A line, as `input` reads it."""
        from mpiframe.output import beside_prompt

        try:
            with beside_prompt(self.stream):
                self._editing = True
                try:
                    return input(prompt)
                finally:
                    self._editing = False
        finally:
            _print(self.stream.take())

    def _call(self) -> None:
        self._waits.set()

    def _insist(self) -> None:
        while True:
            self._waits.wait()
            if self._over:
                return
            if self.stream.empty or not self._editing:
                self._waits.clear()
                if self.stream.empty or not self._editing:  # not in this very moment
                    continue
            signal.pthread_kill(self._thread, _CALL)
            threading.Event().wait(_AGAIN)

    def _heard(self, _number: int, _frame: FrameType | None) -> None:
        if self._editing and not self.stream.empty:
            self._redraw(lambda: _print(self.stream.take()))


def _print(text: str) -> None:
    if text:
        sys.stdout.write(text)
        sys.stdout.flush()


def _redrawing() -> Callable[[Callable[[], None]], None]:
    """How something is printed in the middle of a line: take the line away, print, draw the line again."""
    import readline

    try:
        library = ctypes.CDLL(readline.__file__ if hasattr(readline, "__file__") else None)
        clear, fresh, draw = library.rl_clear_visible_line, library.rl_on_new_line, library.rl_redisplay
        state = ctypes.c_ulong.in_dll(library, "rl_readline_state")
    except (AttributeError, OSError, TypeError, ValueError):  # libedit, or another kind of library

        def plainly(show: Callable[[], None]) -> None:
            sys.stdout.write("\r\x1b[K")
            show()
            sys.stdout.write(readline.get_line_buffer())
            sys.stdout.flush()

        return plainly
    flush = ctypes.CDLL(None).fflush

    def redraw(show: Callable[[], None]) -> None:
        if not state.value & _EDITING or state.value & _AT_WORK:
            return  # there is no line yet, or no more; or it is about to change. We are called again
        clear()
        flush(None)  # readline writes by C's own buffers
        show()
        fresh()
        draw()
        flush(None)

    return redraw
