"""The communicator that the members of a collective command get: mpi4py's, but no wait in it is for ever.

A call that would block starts MPI's non-blocking variant and looks, while it waits, whether the collective
still stands. When another member has failed it never will complete, and raises `GroupBroken` instead.
Libraries that use the communicator from C block as they always do.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy
from mpi4py import MPI

from mpiframe import codec
from mpiframe.errors import GroupBroken

_LARGE = 64 * 1024  # bytes; while that many are moved MPI has to be called all the time
_SPIN = 2e-3  # seconds of looking again at once; then in growing steps, others may need the core
_STEP, _LONGEST = 50e-6, 1e-3

_broken: Callable[[], bool] = lambda: False  # noqa: E731 - the server that this process is puts its own here
_left: list[Any] = []  # requests that will never complete, with their buffers: MPI may still look at them


def look_for_breaks(broken: Callable[[], bool]) -> None:
    """Tell how to know, in this process, that the collective which runs has failed."""
    global _broken
    _broken = broken


def _check() -> None:
    if _broken():
        raise GroupBroken("another member of this collective has failed; its own error says why")


def _until(test: Callable[[], Any], pending: Any, large: bool) -> Any:
    """What `test` gives once that is true."""
    if result := test():
        return result
    begin, step = time.perf_counter(), _STEP
    try:
        while not (result := test()):
            _check()
            if large or time.perf_counter() - begin < _SPIN:
                os.sched_yield()
            else:
                time.sleep(step)
                step = min(step * 1.5, _LONGEST)
    except BaseException:  # an interrupt among them
        _left.append(pending)
        raise
    return result


def _size(buffer: Any) -> int:
    """About how many bytes a message specification of mpi4py holds."""
    if isinstance(buffer, (list, tuple)):
        return max((_size(part) for part in buffer), default=0)
    return int(getattr(buffer, "nbytes", 0) or 0)


def _waiting(name: str) -> Callable[..., Any]:
    """The blocking method whose non-blocking twin is called `name`."""

    def call(self: Any, *args: Any, **kwargs: Any) -> None:
        _check()
        request = getattr(self, name)(*args, **kwargs)
        _until(request.Test, (request, args, kwargs), max(map(_size, args), default=0) >= _LARGE)

    call.__name__ = name[1:].capitalize()
    call.__doc__ = f"As mpi4py's, by way of {name}."
    return call


class GroupComm(MPI.Intracomm):
    """An mpi4py communicator among the members of a collective command, in the order of its targets."""

    Barrier = _waiting("Ibarrier")
    Bcast = _waiting("Ibcast")
    Gather = _waiting("Igather")
    Gatherv = _waiting("Igatherv")
    Scatter = _waiting("Iscatter")
    Scatterv = _waiting("Iscatterv")
    Allgather = _waiting("Iallgather")
    Allgatherv = _waiting("Iallgatherv")
    Alltoall = _waiting("Ialltoall")
    Alltoallv = _waiting("Ialltoallv")
    Alltoallw = _waiting("Ialltoallw")
    Reduce = _waiting("Ireduce")
    Allreduce = _waiting("Iallreduce")
    Reduce_scatter = _waiting("Ireduce_scatter")
    Reduce_scatter_block = _waiting("Ireduce_scatter_block")
    Scan = _waiting("Iscan")
    Exscan = _waiting("Iexscan")
    Send = _waiting("Isend")
    Ssend = _waiting("Issend")
    barrier = Barrier

    def Recv(
        self, buf: Any, source: int = MPI.ANY_SOURCE, tag: int = MPI.ANY_TAG, status: Any = None
    ) -> None:
        """As mpi4py's."""
        _check()
        request = self.Irecv(buf, source, tag)
        _until(lambda: request.Test(status), (request, buf), _size(buf) >= _LARGE)

    def Sendrecv(
        self,
        sendbuf: Any,
        dest: int,
        sendtag: int = 0,
        recvbuf: Any = None,
        source: int = MPI.ANY_SOURCE,
        recvtag: int = MPI.ANY_TAG,
        status: Any = None,
    ) -> None:
        """As mpi4py's."""
        _check()
        going = self.Isend(sendbuf, dest, sendtag)
        try:
            self.Recv(recvbuf, source, recvtag, status)
        except BaseException:
            _left.append((going, sendbuf))
            raise
        _until(going.Test, (going, sendbuf), _size(sendbuf) >= _LARGE)

    def Sendrecv_replace(
        self,
        buf: Any,
        dest: int,
        sendtag: int = 0,
        source: int = MPI.ANY_SOURCE,
        recvtag: int = MPI.ANY_TAG,
        status: Any = None,
    ) -> None:
        """As mpi4py's."""
        if isinstance(buf, (list, tuple)):
            going: Any = [numpy.array(buf[0], copy=True), *buf[1:]]
        else:
            going = numpy.array(buf, copy=True)
        self.Sendrecv(going, dest, sendtag, buf, source, recvtag, status)

    def Probe(
        self, source: int = MPI.ANY_SOURCE, tag: int = MPI.ANY_TAG, status: Any = None
    ) -> Literal[True]:
        """As mpi4py's."""
        _until(lambda: self.Iprobe(source, tag, status), None, False)
        return True

    def Mprobe(self, source: int = MPI.ANY_SOURCE, tag: int = MPI.ANY_TAG, status: Any = None) -> Any:
        """As mpi4py's."""
        return _until(lambda: self.Improbe(source, tag, status), None, False)

    probe = Probe

    def mprobe(self, source: int = MPI.ANY_SOURCE, tag: int = MPI.ANY_TAG, status: Any = None) -> Any:
        """As mpi4py's: a message whose `recv` gives the object."""
        return _until(lambda: self.improbe(source, tag, status), None, False)

    # -- objects, one with another: pickle data in one message, as mpi4py has them -------------------

    def send(self, obj: Any, dest: int, tag: int = 0) -> None:
        """As mpi4py's; classes and functions made by commands go along by value."""
        self.Send([_dumps(obj), MPI.BYTE], dest, tag)

    def ssend(self, obj: Any, dest: int, tag: int = 0) -> None:
        """As mpi4py's."""
        self.Ssend([_dumps(obj), MPI.BYTE], dest, tag)

    def isend(self, obj: Any, dest: int, tag: int = 0) -> MPI.Request:
        """As mpi4py's."""
        return self.Isend([_dumps(obj), MPI.BYTE], dest, tag)

    def recv(
        self, buf: Any = None, source: int = MPI.ANY_SOURCE, tag: int = MPI.ANY_TAG, status: Any = None
    ) -> Any:
        """As mpi4py's; `buf` is not needed."""
        del buf
        found = status if status is not None else MPI.Status()
        message = self.Mprobe(source, tag, found)
        data = bytearray(found.Get_count(MPI.BYTE))
        request = message.Irecv([data, MPI.BYTE])
        _until(request.Test, (request, data), len(data) >= _LARGE)
        return codec.loads(data) if data else None

    def sendrecv(
        self,
        sendobj: Any,
        dest: int,
        sendtag: int = 0,
        recvbuf: Any = None,
        source: int = MPI.ANY_SOURCE,
        recvtag: int = MPI.ANY_TAG,
        status: Any = None,
    ) -> Any:
        """As mpi4py's."""
        data = _dumps(sendobj)
        going = self.Isend([data, MPI.BYTE], dest, sendtag)
        try:
            got = self.recv(recvbuf, source, recvtag, status)
        except BaseException:
            _left.append((going, data))
            raise
        _until(going.Test, (going, data), len(data) >= _LARGE)
        return got

    # -- objects, all together -----------------------------------------------------------------------

    def bcast(self, obj: Any, root: int = 0) -> Any:
        """As mpi4py's."""
        mine = _dumps(obj) if self.rank == root else b""
        size = numpy.array([len(mine)], numpy.int64)
        self.Bcast(size, root)
        data = mine if self.rank == root else bytearray(int(size[0]))
        self.Bcast([data, MPI.BYTE], root)
        return obj if self.rank == root else codec.loads(data)

    def gather(self, sendobj: Any, root: int = 0) -> list[Any] | None:
        """As mpi4py's."""
        data = _dumps(sendobj)
        sizes = numpy.zeros(self.size, numpy.int64)
        self.Gather(numpy.array([len(data)], numpy.int64), sizes, root)
        space = bytearray(int(sizes.sum()))
        self.Gatherv([data, MPI.BYTE], [space, (sizes, _starts(sizes)), MPI.BYTE], root)
        return _cut(space, sizes) if self.rank == root else None

    def scatter(self, sendobj: Sequence[Any] | None, root: int = 0) -> Any:
        """As mpi4py's."""
        parts = self._parts(sendobj) if self.rank == root else [b""] * self.size
        sizes, own = numpy.array([len(part) for part in parts], numpy.int64), numpy.zeros(1, numpy.int64)
        self.Scatter(sizes, own, root)
        space = bytearray(int(own[0]))
        self.Scatterv([b"".join(parts), (sizes, _starts(sizes)), MPI.BYTE], [space, MPI.BYTE], root)
        return codec.loads(space)

    def allgather(self, sendobj: Any) -> list[Any]:
        """As mpi4py's."""
        data = _dumps(sendobj)
        sizes = numpy.zeros(self.size, numpy.int64)
        self.Allgather(numpy.array([len(data)], numpy.int64), sizes)
        space = bytearray(int(sizes.sum()))
        self.Allgatherv([data, MPI.BYTE], [space, (sizes, _starts(sizes)), MPI.BYTE])
        return _cut(space, sizes)

    def alltoall(self, sendobj: Sequence[Any]) -> list[Any]:
        """As mpi4py's."""
        parts = self._parts(sendobj)
        sizes, theirs = numpy.array([len(part) for part in parts], numpy.int64), numpy.zeros(self.size, "i8")
        self.Alltoall(sizes, theirs)
        space = bytearray(int(theirs.sum()))
        self.Alltoallv(
            [b"".join(parts), (sizes, _starts(sizes)), MPI.BYTE],
            [space, (theirs, _starts(theirs)), MPI.BYTE],
        )
        return _cut(space, theirs)

    def reduce(self, sendobj: Any, op: Callable[[Any, Any], Any] = MPI.SUM, root: int = 0) -> Any:
        """As mpi4py's; `op` may be any associative function of two, combined in the order of ranks."""
        values = self.gather(sendobj, root)
        return None if values is None else functools.reduce(op, values)

    def allreduce(self, sendobj: Any, op: Callable[[Any, Any], Any] = MPI.SUM) -> Any:
        """As mpi4py's; `op` as in `reduce`."""
        return functools.reduce(op, self.allgather(sendobj))

    def scan(self, sendobj: Any, op: Callable[[Any, Any], Any] = MPI.SUM) -> Any:
        """As mpi4py's; `op` as in `reduce`."""
        return functools.reduce(op, self.allgather(sendobj)[: self.rank + 1])

    def exscan(self, sendobj: Any, op: Callable[[Any, Any], Any] = MPI.SUM) -> Any:
        """As mpi4py's; `op` as in `reduce`."""
        values = self.allgather(sendobj)[: self.rank]
        return functools.reduce(op, values) if values else None

    def _parts(self, objects: Sequence[Any] | None) -> list[bytes]:
        if objects is None or len(objects) != self.size:
            got = "None" if objects is None else f"{len(objects)}"
            raise ValueError(f"a list of {self.size} objects is needed, one for each member, not {got}")
        return [_dumps(obj) for obj in objects]


def _dumps(obj: Any) -> bytes:
    return codec.dumps(obj, sys.maxsize)[0]


def _starts(sizes: Any) -> Any:
    return numpy.concatenate(([0], numpy.cumsum(sizes)[:-1]))


def _cut(space: bytearray, sizes: Any) -> list[Any]:
    view = memoryview(space)
    return [
        codec.loads(view[start : start + size]) for start, size in zip(_starts(sizes), sizes, strict=True)
    ]
