"""A bar on standard error while many jobs are waited for."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TextIO

from mpiframe.plugins.scheduler.states import State

_WIDTH = 30


class Bar:
    """One line that is written over; on what is no terminal, a line for each change."""

    def __init__(self, total: int, stream: TextIO | None = None) -> None:
        self._total = total
        self._stream = stream if stream is not None else sys.stderr
        self._last = ""

    def show(self, states: Mapping[State, int]) -> None:
        """Say how many there are still, by state."""
        left = sum(states.values())
        done = self._total - left
        filled = _WIDTH * done // self._total if self._total else _WIDTH
        counts = ", ".join(f"{number} {state}" for state, number in states.items())
        line = f"[{'#' * filled}{'.' * (_WIDTH - filled)}] {done}/{self._total} {counts}".rstrip()
        if line == self._last:
            return
        if self._stream.isatty():
            self._stream.write(f"\r{line.ljust(len(self._last))}" + ("" if left else "\n"))
        else:
            self._stream.write(f"{line}\n")
        self._stream.flush()
        self._last = line
