"""charm4py: chares in a group, one a process; charm.pool for tasks. It is started by its own charmrun."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

from charm4py import Chare, Group, Reducer, charm

from . import tasks
from .base import Peer, gather_pids


class Worker(Chare):  # type: ignore[misc]
    """On every process, the client's too, which gets no work."""

    def noop(self) -> None:
        """Do nothing."""

    def length(self, array: Any) -> int:
        return tasks.length(array)

    def stored(self, size: int) -> Any:
        return tasks.stored(size)

    def hold(self, array: Any) -> None:
        self.held = array

    def sum(self, n: int, servers: int, done: Any) -> None:
        """The sum of this one's parts, into charm4py's own reduction."""
        mine = range(self.thisIndex - 1, n, servers) if self.thisIndex else ()
        total = tasks.part(mine[0] if mine else 0)  # the client adds the one that is all zeros
        for i in mine[1:]:
            total += tasks.part(i)
        self.reduce(done, total, Reducer.sum)


class ThePeer(Peer):
    """The client is process 0. Processes that have nothing to do spin."""

    def run(self, measure: Callable[[Peer], None]) -> None:
        def main(_: Any) -> None:
            try:
                self.start()
                measure(self)
            except BaseException:
                traceback.print_exc()  # charm.exit ends the process here and now
            finally:
                charm.exit()

        charm.start(main, modules=[__name__])  # where its chares are

    def start(self) -> bool:
        self._group = Group(Worker)
        self._worker = self._group[1]
        self.servers = charm.numPes() - 1
        self._worker.noop(ret=True).get()
        return True

    def server_pids(self) -> set[int]:
        return gather_pids(lambda n: charm.pool.map(tasks.pid, range(n)), self.servers)

    def noop(self) -> None:
        self._worker.noop(ret=True).get()

    def submit_many(self, n: int) -> None:
        charm.pool.map(tasks.noop, range(n))

    def map_many(self, n: int, chunk: int | None) -> Any:
        return charm.pool.map(tasks.double, range(n), chunksize=chunk or 1)

    def argument(self, array: Any) -> None:
        self._worker.length(array, ret=True).get()

    def result(self, size: int) -> Any:
        return self._worker.stored(size, ret=True).get()

    def broadcast(self, array: Any) -> None:
        self._group.hold(array, awaitable=True).get()

    def reduce(self, n: int) -> Any:
        done = charm.Future()
        self._group.sum(n, self.servers, done)
        return done.get()
