"""mpi4py by hand: the limit. Servers wait inside MPI, which spins; each figure has a loop of its own."""

from __future__ import annotations

import os
from typing import Any

import numpy

from . import tasks
from .base import Peer

_WINDOW = 32  # items that may be under way to each server


class ThePeer(Peer):
    """Rank 0 tells the others which loop comes next, and ends each by sending None."""

    chunks = (None, 1000, 10_000)

    def __init__(self, fresh: bool = False) -> None:
        super().__init__()
        self._fresh = fresh  # receive every array into new memory
        self._buffers: dict[int, Any] = {}

    def start(self) -> bool:
        from mpi4py import MPI

        self._mpi = MPI
        self._comm = MPI.COMM_WORLD
        if self._comm.Get_rank() == 0:
            return True
        while (what := self._comm.recv(source=0)) is not None:
            getattr(self, f"_serve_{what}")()
        return False

    def stop(self) -> None:
        self._tell_all(None)

    def begin(self, what: str) -> None:
        self._tell_all(what)

    def end(self) -> None:
        self._tell_all(None)

    def _tell_all(self, what: Any) -> None:
        for rank in range(1, self.servers + 1):
            self._comm.send(what, rank)

    def _space(self, size: int) -> Any:
        if self._fresh:
            return numpy.empty(size, numpy.uint8)
        if size not in self._buffers:
            self._buffers[size] = numpy.ones(size, numpy.uint8)
        return self._buffers[size]

    def server_pids(self) -> set[int]:
        self._tell_all("pid")
        return {self._comm.recv(source=rank) for rank in range(1, self.servers + 1)}

    def _serve_pid(self) -> None:
        self._comm.send(os.getpid(), 0)

    # -- one pickled message there, one back -------------------------------------------------------

    def noop(self) -> None:
        self._comm.send("None", 1)
        self._comm.recv(source=1)

    def _serve_noop(self) -> None:
        comm = self._comm
        while comm.recv(source=0) is not None:
            comm.send(2, 0)

    _serve_pause = _serve_noop

    def _serve_idle(self) -> None:
        self._comm.recv(source=0)

    # -- one message each way per item, a window of them under way ----------------------------------

    def submit_many(self, n: int) -> None:
        comm, servers, window = self._comm, self.servers, _WINDOW * self.servers
        for i in range(n):
            comm.send(i, 1 + i % servers)
            if i >= window:
                comm.recv(source=1 + (i - window) % servers)
        for i in range(max(n - window, 0), n):
            comm.recv(source=1 + i % servers)

    def _serve_submit(self) -> None:
        comm = self._comm
        while (item := comm.recv(source=0)) is not None:
            comm.send(tasks.noop(item), 0)

    _serve_growth = _serve_many = _serve_submit

    def map_many(self, n: int, chunk: int | None) -> Any:
        comm, servers = self._comm, self.servers
        size = chunk or -(-n // servers)
        chunks = [range(start, min(start + size, n)) for start in range(0, n, size)]
        results: list[int] = []
        sent = []  # not waited for: a server that sends a result back would not take the next chunk yet
        for i, items in enumerate(chunks):
            sent.append(comm.isend(list(items), 1 + i % servers))
            if i >= 2 * servers:
                results += comm.recv(source=1 + i % servers)
        for i in range(max(len(chunks) - 2 * servers, 0), len(chunks)):
            results += comm.recv(source=1 + i % servers)
        self._mpi.Request.waitall(sent)
        return results

    def _serve_map(self) -> None:
        comm = self._comm
        while (items := comm.recv(source=0)) is not None:
            comm.send([tasks.double(x) for x in items], 0)

    # -- buffers -----------------------------------------------------------------------------------

    def argument(self, array: Any) -> None:
        self._comm.send(array.nbytes, 1)
        self._comm.Send(array, 1)
        self._comm.recv(source=1)

    def _serve_argument(self) -> None:
        while (size := self._comm.recv(source=0)) is not None:
            self._comm.Recv(self._space(size), source=0)
            self._comm.send(size, 0)

    def result(self, size: int) -> Any:
        self._comm.send(size, 1)
        space = self._space(size)
        self._comm.Recv(space, source=1)
        return space

    def _serve_result(self) -> None:
        while (size := self._comm.recv(source=0)) is not None:
            self._comm.Send(tasks.stored(size), 0)

    def broadcast(self, array: Any) -> None:
        self._tell_all(array.nbytes)
        self._comm.Bcast(array, root=0)
        self._comm.Barrier()  # the root may leave Bcast before the others have all of it

    def _serve_broadcast(self) -> None:
        while (size := self._comm.recv(source=0)) is not None:
            self._comm.Bcast(self._space(size), root=0)
            self._comm.Barrier()

    def reduce(self, n: int) -> Any:
        self._tell_all(n)
        total = numpy.empty(tasks.PART // 8)
        self._comm.Reduce(numpy.zeros_like(total), total, op=self._mpi.SUM, root=0)
        return total

    def _serve_reduce(self) -> None:
        comm = self._comm
        while (n := comm.recv(source=0)) is not None:
            mine = range(comm.Get_rank() - 1, n, self.servers)
            total = tasks.part(mine[0])
            for i in mine[1:]:
                total += tasks.part(i)
            comm.Reduce(total, None, op=self._mpi.SUM, root=0)
