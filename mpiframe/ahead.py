"""Servers that were sent commands ahead: what waits behind a long command is had back.

Commands are sent before their server is free, so that it need not wait for them. Behind a long one they would
wait though other servers are free. With the loop's lock, all of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from mpiframe import doorbell
from mpiframe.instructions import Instruction
from mpiframe.lines import Lines
from mpiframe.messages import Request
from mpiframe.queues import Dispatcher

_STUCK = 10e-3
"""Seconds that a server may be on one command until what was sent ahead behind it is had back."""


class Ahead:
    """Looks in time whether each of them has come to another command."""

    def __init__(
        self, dispatcher: Dispatcher, lines: Lines, carry_out: Callable[[list[Instruction]], None]
    ) -> None:
        self._dispatcher = dispatcher
        self._lines = lines
        self._carry_out = carry_out
        # By rank: which command it was on, and the monotonic seconds at which it should be on another.
        self._expected: dict[int, tuple[int | None, float]] = {}
        self._asked: dict[int, int] = {}  # rank -> serial of the last command it was asked not to run

    def expect(self, rank: int) -> bool:
        """Others wait for what this server is on to end; whether that was not known, so that `due` is new."""
        if rank in self._expected:
            return False
        self._expected[rank] = self._dispatcher.running(rank), time.monotonic() + _STUCK
        return True

    def gone(self, rank: int) -> None:
        """A server is lost; one in its place counts its commands anew."""
        self._expected.pop(rank, None)
        self._asked.pop(rank, None)

    def due(self) -> float | None:
        """When `look` has something to do, in monotonic seconds."""
        for _, at in self._expected.values():  # the first is the earliest
            return at
        return None

    def look(self, now: float) -> None:
        """Have back what waits behind those that are still on the same command."""
        dispatcher = self._dispatcher
        while self._expected:
            rank, (id, at) = next(iter(self._expected.items()))
            if at > now:
                break
            del self._expected[rank]
            waiting, running = dispatcher.recallable(rank), dispatcher.running(rank)
            if running == id:
                self.ask_back(rank, waiting)
                if dispatcher.awaited() == rank:
                    self._carry_out(dispatcher.spread())
            if waiting or dispatcher.awaited() == rank:
                self._expected[rank] = running, now + _STUCK

    def ask_back(self, rank: int, waiting: list[Request]) -> None:
        """Each once: a server that is stopped must not be sent records without end."""
        for request in waiting:
            if request.serial > self._asked.get(rank, 0):
                if not self._lines.send(rank, doorbell.RECALL, request.id, request.serial):
                    return
                self._asked[rank] = request.serial
