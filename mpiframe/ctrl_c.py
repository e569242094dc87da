"""Ctrl-C at the client: where KeyboardInterrupt may be raised, and where it has to wait a moment.

An exception between the moment a message comes out of MPI and its entry in the books would lose an answer,
and somebody would wait for it for ever. So the handler looks at where the main thread is. In the user's code
it raises at once, as ever; within the runtime it takes note, and the wait that is going on raises at its next
safe point. It tries again a little later, and has those who sleep look up: to raise in a condition of threads
would upset its own books, which are kept in Python, too.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable
from signal import SIGINT, default_int_handler
from types import FrameType
from typing import Any

_AGAIN = 0.02  # seconds until it is tried again
_BOOKS = (
    "driver",
    "client_loop",
    "lines",
    "ahead",
    "pressed",
    "transport",
    "queues",
    "answers",
    "attached.loop",
    "hub.wire",
)
_KEEPING_BOOKS = {f"mpiframe.{name}" for name in _BOOKS}
_PRINTING = ("mpiframe.output", "mpiframe.displays", "mpiframe.bars")
"""What servers print is printed in the middle of the books, by streams that may be others', as Jupyter's."""


class CtrlC:
    """SIGINT's handler while a client is open.

    kick: wakes the thread that sleeps on the doorbells; it takes no lock. notify: wakes those that follow it.
    """

    def __init__(self, kick: Callable[[], None], notify: Callable[[], None]) -> None:
        self.pressed = False  # and not raised yet
        self._repeated = False  # the next signal is our own, for a press that was put off
        self._kick, self._notify = kick, notify
        self._thread = threading.main_thread().ident or 0

    def install(self) -> None:
        """Take SIGINT over, unless the program has a handler of its own; from any thread.

        Called again and again, because Jupyter puts Python's own handler back for each cell.
        """
        if threading.get_ident() == self._thread and signal.getsignal(SIGINT) is default_int_handler:
            signal.signal(SIGINT, self._strike)

    def remove(self) -> None:
        """Give SIGINT back; from any thread, but only the main thread's call has an effect."""
        if threading.get_ident() == self._thread and signal.getsignal(SIGINT) == self._strike:
            signal.signal(SIGINT, default_int_handler)

    def check(self) -> None:
        """Raise KeyboardInterrupt if it was put off, and this is the thread it is for."""
        if self.pressed and threading.get_ident() == self._thread:
            self.pressed = False
            raise KeyboardInterrupt

    def _strike(self, _: int, frame: FrameType | None) -> Any:
        repeated, self._repeated = self._repeated, False
        if repeated and not self.pressed:
            return  # it was raised meanwhile, and one press is raised once
        if not _keeps_books(frame):
            self.pressed = False
            raise KeyboardInterrupt
        self.pressed = True
        self._kick()
        timer = threading.Timer(_AGAIN, self._again)
        timer.daemon = True
        with contextlib.suppress(RuntimeError):  # no thread to be had: then the next wait raises
            timer.start()

    def _again(self) -> None:
        if self.pressed:
            self._notify()
            self._repeated = True
            signal.pthread_kill(self._thread, SIGINT)


def _keeps_books(frame: FrameType | None) -> bool:
    """Whether the runtime is at work in this frame, and no code of the user's that it has called."""
    frame = _printer_of(frame)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name in _KEEPING_BOOKS:
            return True
        if name.partition(".")[0] not in sys.stdlib_module_names and not name.startswith("mpiframe."):
            return False
        frame = frame.f_back
    return False


def _printer_of(frame: FrameType | None) -> FrameType | None:
    """The frame that has this one print something, or the frame itself."""
    outer = frame
    while outer is not None:
        name = outer.f_globals.get("__name__", "")
        if name in _PRINTING:
            return outer
        if name.startswith("mpiframe."):
            break
        outer = outer.f_back
    return frame
