"""mpiframe."""

from __future__ import annotations

from typing import Any

import numpy

import mpiframe

from . import tasks
from .base import NotThere, Peer


class ThePeer(Peer):
    """Commands by `push` and `submit`; the servers spin for a moment, then sleep."""

    chunks = (None,)
    idle_seconds = 10.0

    def start(self) -> bool:
        self._client = mpiframe.Client(output="quiet")
        return True

    def stop(self) -> None:
        self._client.close()

    def server_pids(self) -> set[int]:
        return {server.pid for server in self._client.servers}

    def noop(self) -> None:
        self._client.push("None", target=1, block=True)

    def submit_many(self, n: int) -> None:
        submit, noop = self._client.submit, tasks.noop
        for future in [submit(noop) for _ in range(n)]:
            future.result()

    def map_many(self, n: int, chunk: int | None) -> Any:
        return list(self._client.map(tasks.double, range(n), chunksize=chunk))

    def argument(self, array: Any) -> None:
        assert self._client.submit(tasks.length, array, target=1).result() == array.nbytes

    def result(self, size: int) -> Any:
        return self._client.submit(tasks.stored, size, target=1).result()

    def broadcast(self, array: Any) -> None:
        if not hasattr(self._client, "broadcast"):
            raise NotThere("not there yet")
        self._client.broadcast(x=array)

    def reduce(self, n: int) -> Any:
        if not hasattr(self._client, "reduce"):
            raise NotThere("not there yet")
        return self._client.reduce(numpy.add, tasks.part, range(n))
