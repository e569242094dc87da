"""schwimmbad's MPIPool: a map, whose ranks wait inside MPI."""

from __future__ import annotations

from typing import Any

from . import tasks
from .base import Peer, gather_pids


class ThePeer(Peer):
    """All it has is `map`, one item a message; a single task is a map of one item."""

    chunks = (100, 1000, 10_000)

    def start(self) -> bool:
        from mpi4py import MPI
        from schwimmbad import MPIPool

        if MPI.COMM_WORLD.Get_rank() != 0:
            # Its workers leave by sys.exit from within, which is the session's end all right.
            MPIPool()
        self._pool = MPIPool()
        return True

    def stop(self) -> None:
        self._pool.close()

    def server_pids(self) -> set[int]:
        return gather_pids(lambda n: self._pool.map(tasks.pid, range(n)), self.servers)

    def noop(self) -> None:
        self._pool.map(tasks.noop, (0,))

    def submit_many(self, n: int) -> None:
        if n > 30_000:  # it numbers its items by MPI's tags
            for start in range(0, n, 30_000):
                self._pool.map(tasks.noop, range(start, min(start + 30_000, n)))
            return
        self._pool.map(tasks.noop, range(n))

    def map_many(self, n: int, chunk: int | None) -> Any:
        """Its items are chunks that we made: it has no chunk size."""
        size = chunk or 1
        chunks = [list(range(start, min(start + size, n))) for start in range(0, n, size)]
        return [value for values in self._pool.map(tasks.doubles, chunks) for value in values]

    def argument(self, array: Any) -> None:
        self._pool.map(tasks.length, (array,))

    def result(self, size: int) -> Any:
        return self._pool.map(tasks.stored, (size,))[0]

    def reduce(self, n: int) -> Any:
        total: Any = 0
        for array in self._pool.map(tasks.part, range(n)):
            total = total + array
        return total
