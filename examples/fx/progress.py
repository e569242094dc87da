"""A progress bar for the terminal."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import TextIO


class Progress:
    """A bar on the terminal; nothing where there is none.

    MPI launchers connect a rank's stderr to a pipe. The terminal is then the one that
    `mpiframe run` names, or else the process's own.
    """

    def __init__(self, label: str, total: int) -> None:
        self.label, self.total, self.done, self.shown = label, total, 0, 0.0
        self.terminal: TextIO | None = None
        name = os.environ.get("MPIFRAME_TERMINAL", "/dev/tty")
        with contextlib.suppress(OSError):
            tty = sys.stderr if sys.stderr.isatty() else open(name, "w", opener=_open)  # noqa: SIM115
            self.terminal = tty

    def step(self) -> None:
        self.done += 1
        now = time.monotonic()
        if self.terminal and now - self.shown > 0.1:
            self.shown = now
            full = 30 * self.done // self.total
            bar = "#" * full + "." * (30 - full)
            print(f"\r{self.label} [{bar}] {self.done}/{self.total}", end="", file=self.terminal)
            self.terminal.flush()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self.terminal:
            print("\r\x1b[K", end="", file=self.terminal, flush=True)  # leave the line empty
            if self.terminal is not sys.stderr:
                self.terminal.close()


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOCTTY)  # only to write; not to be stopped by its Ctrl-C
