"""dask-mpi: rank 0 is dask's scheduler, rank 1 the client, the others workers; they talk over TCP."""

from __future__ import annotations

from typing import Any

import dask
import dask_mpi
from distributed import Client

from . import tasks
from .base import Peer


class ThePeer(Peer):
    """Tasks are `pure=False`, so that each is really run."""

    def start(self) -> bool:
        dask.config.set({"distributed.admin.large-graph-warning-threshold": "8GiB"})
        is_client = dask_mpi.initialize(nthreads=1, memory_limit=0, dashboard=False, exit=False)
        if not is_client:
            return False
        self._client = Client()
        self._client.wait_for_workers(self.servers)
        self._addresses = list(self._client.scheduler_info()["workers"])
        return True

    def stop(self) -> None:
        from dask_mpi.execute import send_close_signal

        send_close_signal()

    def server_pids(self) -> set[int]:
        return set(self._client.run(tasks.pid).values())

    def noop(self) -> None:
        self._client.submit(tasks.noop, pure=False).result()

    def submit_many(self, n: int) -> None:
        self._client.gather(self._client.map(tasks.noop, range(n), pure=False))

    def map_many(self, n: int, chunk: int | None) -> Any:
        """By chunks of ours: its map makes a task of each item."""
        size = chunk or 1
        chunks = [list(range(start, min(start + size, n))) for start in range(0, n, size)]
        found = self._client.gather(self._client.map(tasks.doubles, chunks, pure=False))
        return [value for values in found for value in values]

    def argument(self, array: Any) -> None:
        """Scattered to the worker, as its documentation says for large ones."""
        first = self._addresses[0]
        there = self._client.scatter(array, workers=[first], hash=False)
        self._client.submit(tasks.length, there, workers=[first], pure=False).result()

    def result(self, size: int) -> Any:
        return self._client.submit(tasks.stored, size, workers=self._addresses[:1], pure=False).result()

    def broadcast(self, array: Any) -> None:
        self._client.scatter(array, broadcast=True, hash=False)

    def reduce(self, n: int) -> Any:
        """A tree of sums on the workers, by dask's own fold."""
        import dask.bag

        parts = dask.bag.from_sequence(range(n), npartitions=self.servers).map(tasks.part)
        return parts.fold(_add).compute()


def _add(a: Any, b: Any) -> Any:
    return a + b
