"""mpi4py.futures on the ranks that are there: MPICommExecutor, or MPIPoolExecutor under -m mpi4py.futures."""

from __future__ import annotations

from typing import Any

from mpi4py import MPI, futures

from . import tasks
from .base import Peer, gather_pids


class ThePeer(Peer):
    """A task goes to whichever server is free; nothing can be sent to a chosen one, or to all."""

    def __init__(self, pool: bool = False, pkl5: bool = False) -> None:
        super().__init__()
        options = {"use_pkl5": True} if pkl5 else {}
        if pool:
            self._context: Any = futures.MPIPoolExecutor(**options)
        else:
            self._context = futures.MPICommExecutor(MPI.COMM_WORLD, root=0, **options)

    def start(self) -> bool:
        self._executor = self._context.__enter__()
        if self._executor is None:
            self._context.__exit__(None, None, None)
            return False
        return True

    def stop(self) -> None:
        self._context.__exit__(None, None, None)

    def server_pids(self) -> set[int]:
        return gather_pids(lambda n: self._executor.map(tasks.pid, range(n)), self.servers)

    def noop(self) -> None:
        self._executor.submit(tasks.noop).result()

    def submit_many(self, n: int) -> None:
        for future in [self._executor.submit(tasks.noop) for _ in range(n)]:
            future.result()

    def map_many(self, n: int, chunk: int | None) -> Any:
        return list(self._executor.map(tasks.double, range(n), chunksize=chunk or 1))

    def argument(self, array: Any) -> None:
        self._executor.submit(tasks.length, array).result()

    def result(self, size: int) -> Any:
        return self._executor.submit(tasks.stored, size).result()

    def reduce(self, n: int) -> Any:
        """Summed by the client as they come, so that no more than a few are held."""
        total: Any = 0
        for array in self._executor.map(tasks.part, range(n), unordered=True):
            total = total + array
        return total
