"""How far the tokens are: counts, and a bar on standard error."""

from __future__ import annotations

import sys
import time
from collections import deque
from dataclasses import dataclass
from typing import TextIO

_WIDTH = 30
_RATE_SECONDS = 60.0


@dataclass(frozen=True)
class Progress:
    """Where the tokens of a type stand. rate: how many ended a second, of late."""

    todo: int
    running: int
    done: int
    error: int
    rate: float

    @property
    def total(self) -> int:
        """How many there are."""
        return self.todo + self.running + self.done + self.error


class Rate:
    """How many a second, over the last minute."""

    def __init__(self) -> None:
        self._times = deque([time.monotonic()])

    def __call__(self, ended: int = 0) -> float:
        now = time.monotonic()
        self._times.extend([now] * ended)
        while len(self._times) > 1 and self._times[0] < now - _RATE_SECONDS:
            self._times.popleft()
        took = now - self._times[0]
        return (len(self._times) - 1) / took if took > 0 else 0.0


class Bar:
    """One line that is written over; on what is no terminal, a line for each change of a tenth."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._last = ""
        self._tenth = -1

    def show(self, now: Progress, final: bool = False) -> None:
        """Say it."""
        ended, total = now.done + now.error, max(now.total, 1)
        filled = _WIDTH * ended // total
        line = (
            f"[{'#' * filled}{'.' * (_WIDTH - filled)}] {now.todo} todo, {now.running} running, "
            f"{now.done} done, {now.error} error, {now.rate:.3g} /s"
        )
        if self._stream.isatty():
            self._stream.write(f"\r{line.ljust(len(self._last))}" + ("\n" if final else ""))
        elif final or 10 * ended // total != self._tenth:
            self._tenth = 10 * ended // total
            self._stream.write(f"{line}\n")
        self._stream.flush()
        self._last = line
