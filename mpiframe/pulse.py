"""How the servers are: asked over their control connections, which need neither MPI nor their main thread."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import RLock

from mpiframe import doorbell

_HURRY = 0.2
"""Seconds that an answer takes at most, unless something is amiss."""


class Pulse:
    """Asks and listens; a ping that is not answered is not followed by another."""

    def __init__(
        self,
        lock: RLock,
        ranks: Callable[[], list[int]],
        control: Callable[[int, bytes], bool],
        wait: Callable[[Callable[[], bool], float], bool],
        patience: float,
    ) -> None:
        self._lock = lock
        self._ranks = ranks
        self._control = control
        self._wait = wait
        self._patience = patience
        self.usage: dict[int, tuple[float, int]] = {}  # rank -> CPU seconds, resident bytes
        self.pinged: dict[int, float] = {}  # rank -> when (seconds since the epoch) it was last asked
        self.ponged: dict[int, float] = {}  # and when it last answered
        self._unanswered: dict[int, float] = {}  # rank -> when (monotonic) it was asked

    def ping(self) -> None:
        """Ask every server that has answered so far."""
        with self._lock:
            for rank in self._ranks():
                if rank not in self._unanswered and self._control(rank, doorbell.PING):
                    self.pinged[rank] = time.time()
                    self._unanswered[rank] = time.monotonic()

    def ask(self) -> None:
        """Ask, and wait for the answers: a moment, and longer for servers that have not been waited for."""
        self.ping()
        if not self._wait(lambda: not self._unanswered, min(_HURRY, self._patience)):
            with self._lock:
                last = max(self._unanswered.values(), default=0.0)
            left = last + self._patience - time.monotonic()
            if left > 0:
                self._wait(lambda: not self._unanswered, left)

    def answered(self, rank: int, cpu: float, rss: int) -> None:
        """A server has answered; with the lock."""
        self.usage[rank] = (cpu, rss)
        self.ponged[rank] = time.time()
        self._unanswered.pop(rank, None)

    def gone(self, rank: int) -> None:
        """A server is lost; with the lock."""
        self._unanswered.pop(rank, None)

    def is_unresponsive(self, rank: int) -> bool:
        """Whether a server has left a ping unanswered for longer than the patience of the settings."""
        since = self._unanswered.get(rank)
        return since is not None and time.monotonic() - since >= self._patience
