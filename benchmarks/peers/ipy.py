"""ipyparallel with engines that mpiexec starts; client, hub and engines talk over ZeroMQ."""

from __future__ import annotations

import logging
import os
from typing import Any

import ipyparallel
import numpy

from mpiframe import launcher

from . import tasks
from .base import Peer


class ThePeer(Peer):
    """Engines are sent to directly: its load-balanced view goes through one more process."""

    chunks = (None,)

    def start(self) -> bool:
        os.environ["IPYTHONDIR"] = os.getcwd()
        plan = launcher.plan(self.servers, [])
        os.environ |= plan.env_added
        config = ipyparallel.cluster.launcher.MPILauncher
        config.mpi_cmd.default_args = ([plan.mpiexec],)
        os.environ["PATH"] = os.pathsep.join([os.path.dirname(plan.mpiexec), os.environ["PATH"]])
        self._cluster = ipyparallel.Cluster(
            engines="mpi", n=self.servers, profile_dir=os.getcwd(), log_level=logging.ERROR
        )
        self._client = self._cluster.start_and_connect_sync(activate=False)
        self._all = self._client[:]
        self._one = self._client[0]
        self._balanced = self._client.load_balanced_view()
        return True

    def stop(self) -> None:
        self._cluster.stop_cluster_sync()

    def server_pids(self) -> set[int]:
        return set(self._all.apply_sync(tasks.pid))

    def noop(self) -> None:
        self._one.apply_sync(tasks.noop)

    def submit_many(self, n: int) -> None:
        for answer in [self._balanced.apply_async(tasks.noop) for _ in range(n)]:
            answer.get()

    def map_many(self, n: int, chunk: int | None) -> Any:
        assert chunk is None, "each engine gets one part"
        return self._all.map_sync(tasks.double, range(n))

    def argument(self, array: Any) -> None:
        self._one.apply_sync(tasks.length, array)

    def result(self, size: int) -> Any:
        return self._one.apply_sync(tasks.stored, size)

    def broadcast(self, array: Any) -> None:
        self._all.push({"x": array}, block=True)

    def reduce(self, n: int) -> Any:
        """Partial sums by hand."""
        mine = [range(i, n, self.servers) for i in range(self.servers)]
        return numpy.sum(self._all.map_sync(_sum, mine), axis=0)


def _sum(mine: range) -> Any:
    total = tasks.part(mine[0])
    for i in mine[1:]:
        total += tasks.part(i)
    return total
