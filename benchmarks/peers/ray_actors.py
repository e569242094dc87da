"""ray on one host: an actor a server, which answers sooner than ray's stateless tasks do."""

from __future__ import annotations

import os
from typing import Any

import ray

from . import tasks
from .base import Peer


@ray.remote(num_cpus=1)
class Worker:
    """What the other peers' servers do."""

    def noop(self) -> None:
        """Do nothing."""

    def pid(self) -> int:
        return os.getpid()

    def doubles(self, xs: list[int]) -> list[int]:
        return tasks.doubles(xs)

    def length(self, array: Any) -> int:
        return tasks.length(array)

    def stored(self, size: int) -> Any:
        return tasks.stored(size)

    def sum(self, mine: Any) -> Any:
        total = tasks.part(mine[0])
        for i in mine[1:]:
            total += tasks.part(i)
        return total


class ThePeer(Peer):
    """Arrays go through ray's object store, which is shared memory."""

    def start(self) -> bool:
        ray.init(
            address="local",
            num_cpus=self.servers,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
        )
        self._workers = [Worker.remote() for _ in range(self.servers)]
        self.server_pids()
        return True

    def stop(self) -> None:
        ray.shutdown()

    def server_pids(self) -> set[int]:
        return set(ray.get([worker.pid.remote() for worker in self._workers]))

    def noop(self) -> None:
        ray.get(self._workers[0].noop.remote())

    def submit_many(self, n: int) -> None:
        workers, servers = self._workers, self.servers
        ray.get([workers[i % servers].noop.remote() for i in range(n)])

    def map_many(self, n: int, chunk: int | None) -> Any:
        """By chunks of ours: actors have no map."""
        size = chunk or 1
        refs = [
            self._workers[i % self.servers].doubles.remote(list(range(start, min(start + size, n))))
            for i, start in enumerate(range(0, n, size))
        ]
        return [value for values in ray.get(refs) for value in values]

    def argument(self, array: Any) -> None:
        ray.get(self._workers[0].length.remote(array))

    def result(self, size: int) -> Any:
        return ray.get(self._workers[0].stored.remote(size))

    def broadcast(self, array: Any) -> None:
        put = ray.put(array)
        ray.get([worker.length.remote(put) for worker in self._workers])

    def reduce(self, n: int) -> Any:
        """Partial sums by the actors: the best that can be said in ray."""
        parts = [w.sum.remote(range(i, n, self.servers)) for i, w in enumerate(self._workers)]
        return sum(ray.get(parts))
