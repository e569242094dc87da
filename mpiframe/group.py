"""The server's side of collectives: these functions are sent as ordinary commands by `collectives`.

A collective is one command on each of its members, in the order of their FIFO queues. Each waits asleep at a
gate until all have come; only then does any of them call MPI, so nobody spins for a member that is busy.
"""

from __future__ import annotations

import copy
import operator
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy
from mpi4py import MPI

from mpiframe import codec, server
from mpiframe.errors import WorldError
from mpiframe.group_comm import GroupComm, look_for_breaks
from mpiframe.messages import Mode, Up
from mpiframe.namespace import ItemError

_TAG = 71  # of the making of communicators
_PIECE = 1 << 30  # bytes a single MPI call may move: some MPIs fail from 2 GiB on
_LARGE = 64 * 1024

_comms: dict[tuple[int, ...], tuple[int, GroupComm]] = {}  # by members: (the client's number for it, it)
_partials: dict[int, tuple[Any, bool]] = {}  # of each reduction: (what was combined so far, is it ours)


class _Nothing:
    """What a server has that got no item."""

    def __reduce__(self) -> str:
        return "_NOTHING"


_NOTHING = _Nothing()

_UFUNCS: dict[Any, numpy.ufunc] = {
    operator.add: numpy.add,
    operator.iadd: numpy.add,
    operator.mul: numpy.multiply,
    operator.imul: numpy.multiply,
    operator.or_: numpy.bitwise_or,
    operator.and_: numpy.bitwise_and,
    operator.xor: numpy.bitwise_xor,
}
_IN_PLACE = {*_UFUNCS.values(), numpy.maximum, numpy.minimum, numpy.fmax, numpy.fmin}
"""Whose result has the type of both operands, if these have the same."""
_MPI_OPS: dict[Any, MPI.Op] = {
    # Not maximum and minimum: MPI's have their own way with NaN.
    numpy.add: MPI.SUM,
    numpy.multiply: MPI.PROD,
    numpy.bitwise_or: MPI.BOR,
    numpy.bitwise_and: MPI.BAND,
    numpy.bitwise_xor: MPI.BXOR,
}


def _here() -> server.Server:
    here = server.current()
    if here is None:
        raise WorldError("collectives run on servers; this process is none")
    return here


def meet(ranks: tuple[int, ...]) -> GroupComm:
    """Wait for the other members; the communicator among them. Raises GroupBroken."""
    here = _here()

    def communicator(wanted: tuple[int, Any, list[str] | None]) -> GroupComm:
        number, pieces, ports = wanted
        # Another number than last time: a collective has failed in that one, and something may be left in it.
        known = _comms.get(ranks)
        if known is not None and known[0] == number:
            if pieces is not None and here.rank == pieces[0][0]:
                here.post((int(Up.PORTS), here.running, []))  # the others have it, too
            return known[1]
        look_for_breaks(lambda: here.broken != 0 and here.broken == here.running)
        if pieces is None:
            comm = GroupComm(_of_natives(list(ranks)))
        else:
            comm = GroupComm(_of_pieces(ranks, pieces[0], pieces[1], ports))
        _comms[ranks] = number, comm
        return comm

    return here.meet(communicator)


def _of_natives(ranks: list[int]) -> MPI.Intracomm:
    """A communicator among servers that were there from the start."""
    # Not from the transport's communicator: Open MPI makes one by messages in the old one, with our tag,
    # and the transport would take them for its own.
    base = _here().world.base
    everyone = base.Get_group()
    group = everyone.Incl(ranks)
    comm: MPI.Intracomm = base.Create_group(group, _TAG)
    group.Free()
    everyone.Free()
    return comm


def _of_pieces(
    ranks: tuple[int, ...], first: list[int], newcomers: list[int], ports: list[str] | None
) -> MPI.Intracomm:
    """A communicator with servers that came later: they connect, one after the other, to the first of all."""
    here = _here()
    if here.rank == first[0]:
        ports = [MPI.Open_port() for _ in newcomers]
        here.post((int(Up.PORTS), here.running, ports))
    assert ports is not None
    if here.rank in first:
        comm: MPI.Intracomm = MPI.COMM_SELF if len(first) == 1 else _of_natives(first)
        left = ports
    else:
        place = newcomers.index(here.rank)
        comm = MPI.COMM_SELF.Connect(ports[place]).Merge(True)
        left = ports[place + 1 :]
    for port in left:
        comm = comm.Accept(port).Merge(False)
    if here.rank == first[0]:
        for port in ports:
            MPI.Close_port(port)
    return MPI.Intracomm(comm.Split(0, ranks.index(here.rank)))


def forget(reduction: int) -> None:
    """A reduction has failed; its parts are of no use."""
    _partials.pop(reduction, None)


def spmd(
    ranks: tuple[int, ...], function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Call `function(comm, ...)` on all members at once."""
    return _here().namespace.call(function, (meet(ranks), *args), kwargs)


# -- variables ---------------------------------------------------------------------------------------


def put(variables: dict[str, Any]) -> None:
    """Set variables in the user's namespace."""
    _here().namespace.names.update(variables)


def relay(ranks: tuple[int, ...], variables: dict[str, Any] | None) -> None:
    """Set variables that the first member has and the others get from it, by MPI's own broadcast."""
    comm = meet(ranks)
    data, buffers = codec.dumps(variables, _LARGE) if variables is not None else (b"", ())
    views = [memoryview(b).cast("B") for b in buffers]
    data, sizes = comm.bcast((data, [v.nbytes for v in views]))
    spaces = views if comm.rank == 0 else [numpy.empty(size, numpy.uint8) for size in sizes]
    for space in spaces:
        for start in range(0, len(space), _PIECE):
            MPI.Intracomm.Bcast(comm, [space[start : start + _PIECE], MPI.BYTE], 0)
    put(variables if variables is not None else codec.loads(data, spaces))


# -- reductions --------------------------------------------------------------------------------------


def fold(
    reduction: int,
    op: Callable[[Any, Any], Any],
    function: Callable[..., Any],
    items: Sequence[tuple[Any, ...]],
) -> None:
    """Combine `function` of each item with what this server has so far."""
    call = _here().namespace.call
    total, ours = _partials.pop(reduction, (_NOTHING, False))
    for index, args in enumerate(items):
        try:
            value = call(function, args, {})
            # A view of it would refer to it, too.
            fresh = type(value) is numpy.ndarray and value.flags.owndata and _references(value) == _ALONE
            total, ours = combine(op, total, ours, value, fresh)
            # Before the next is made: what is freed at once is used again, and pages that are in use are
            # what large arrays are quick by.
            del value
        except BaseException as error:
            raise ItemError(index, error) from error
    _partials[reduction] = total, ours


def evaluate(reduction: int, source: str) -> None:
    """Take the value of an expression as this server's part."""
    _partials[reduction] = _here().namespace.run_string(Mode.EVAL, source, None), False


def _references(value: Any) -> int:
    return sys.getrefcount(value)


def _alone() -> int:
    value = numpy.empty(0)
    return _references(value)


_ALONE = _alone()
"""What `_references` says of what only the caller's variable refers to; Pythons differ in what they count."""


def combine(
    op: Callable[[Any, Any], Any], total: Any, ours: bool, value: Any, fresh: bool = False
) -> tuple[Any, bool]:
    """(`op(total, value)`, whether it may be changed in place); in place where `total` is ours.

    `fresh`: `value` is nobody else's, so it is ours if it is all there is.
    """
    if total is _NOTHING:
        return value, fresh and value.flags.writeable and value.dtype.isnative
    if value is _NOTHING:
        return total, ours
    ufunc = _UFUNCS.get(op, op) if _hashable(op) else op
    if isinstance(ufunc, numpy.ufunc) and ufunc in _IN_PLACE and _alike(total, value):
        return (ufunc(total, value, out=total), True) if ours else (ufunc(total, value), True)
    return op(total, value), False


def _hashable(op: Any) -> bool:
    return getattr(type(op), "__hash__", None) is not None


def _alike(a: Any, b: Any) -> bool:
    return (
        type(a) is numpy.ndarray
        and type(b) is numpy.ndarray
        and a.dtype == b.dtype
        and a.shape == b.shape
        and a.ndim > 0
        and not a.dtype.hasobject
    )


def finish(
    reduction: int,
    ranks: tuple[int, ...],
    op: Callable[[Any, Any], Any],
    everywhere: str | None,
) -> Any:
    """Combine what the members have, in their order. The first one's answer is the whole.

    With `everywhere`, the whole becomes a variable of that name on each member instead.
    """
    part, ours = _partials.pop(reduction, (_NOTHING, False))
    total = part
    if len(ranks) > 1:
        total = _across(meet(ranks), op, part, ours, everywhere is not None)
    if everywhere is None:
        return total
    put({everywhere: copy.deepcopy(total) if total is part and not ours else total})
    return None


def _across(comm: GroupComm, op: Callable[[Any, Any], Any], total: Any, ours: bool, to_all: bool) -> Any:
    kinds = comm.allgather(_kind(total))
    ufunc = _UFUNCS.get(op, op) if _hashable(op) else op
    mpi_op = _MPI_OPS.get(ufunc) if isinstance(ufunc, numpy.ufunc) else None
    alike = kinds[0] is not None and all(kind == kinds[0] for kind in kinds)
    if mpi_op is not None and alike and (mpi_op in (MPI.SUM, MPI.PROD) or total.dtype.kind in "iu"):
        return _across_arrays(comm, mpi_op, total, ours, to_all)
    total = _up_the_tree(comm, op, total, ours)
    return comm.bcast(total) if to_all else total


def _kind(value: Any) -> tuple[Any, ...] | None:
    """What arrays that MPI can combine have to have in common; None for all other values."""
    if type(value) is not numpy.ndarray or value.ndim == 0 or not value.nbytes:
        return None
    if value.dtype.kind not in "iufc" or not value.dtype.isnative or value.dtype.itemsize > 16:
        return None
    return value.dtype.str, value.shape


def _across_arrays(comm: GroupComm, op: MPI.Op, total: Any, ours: bool, to_all: bool) -> Any:
    """All are here and have arrays alike, so MPI's blocking calls will not wait for long."""
    if not ours or not total.flags.c_contiguous:
        total = numpy.array(total, order="C")
    flat = total.reshape(-1)
    step = _PIECE // flat.itemsize
    for start in range(0, flat.size, step):
        piece = flat[start : start + step]
        if to_all:
            MPI.Intracomm.Allreduce(comm, MPI.IN_PLACE, piece, op)
        elif comm.rank == 0:
            MPI.Intracomm.Reduce(comm, MPI.IN_PLACE, piece, op, 0)
        else:
            MPI.Intracomm.Reduce(comm, piece, None, op, 0)
    return total if to_all or comm.rank == 0 else None


def _up_the_tree(comm: GroupComm, op: Callable[[Any, Any], Any], total: Any, ours: bool) -> Any:
    """Combine neighbours, then neighbours of these: `op` need not commute. The whole arrives at the first."""
    distance = 1
    while distance < comm.size:
        if comm.rank & distance:
            comm.send(total, comm.rank - distance)
            return None
        if comm.rank + distance < comm.size:
            total, ours = combine(op, total, ours, comm.recv(source=comm.rank + distance))
        distance *= 2
    return total
