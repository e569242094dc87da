"""How the members' communicator waits: no wait is for ever, and what MPI may still use is kept."""

from __future__ import annotations

import inspect
import itertools
import sys
from typing import Any

import mpi4py
import numpy as np
import pytest

mpi4py.rc(initialize=False, finalize=False)  # nothing here calls MPI

from mpi4py import MPI  # noqa: E402 - MPI is started when it is imported first

from mpiframe import codec, group_comm  # noqa: E402
from mpiframe.errors import GroupBroken  # noqa: E402
from mpiframe.group_comm import GroupComm  # noqa: E402


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether the collective has failed; a list, to be changed while something waits."""
    state = [False]
    monkeypatch.setattr(group_comm, "_broken", lambda: state[-1])
    monkeypatch.setattr(group_comm, "_left", [])
    return state


OURS = [
    name
    for name, value in vars(GroupComm).items()
    if callable(value) and not name.startswith("_") and hasattr(MPI.Intracomm, name)
]


def test_its_methods_are_those_of_mpi4py() -> None:
    own = [name for name in vars(GroupComm) if not name.startswith("_")]
    assert set(own) == set(OURS)
    assert len(own) > 30


BLOCKING = [
    *("Send", "Ssend", "Recv", "Sendrecv", "Sendrecv_replace", "Probe", "Mprobe"),
    *("send", "ssend", "recv", "sendrecv", "probe", "mprobe"),
    *("Barrier", "Bcast", "Gather", "Gatherv", "Scatter", "Scatterv", "Allgather", "Allgatherv"),
    *("Alltoall", "Alltoallv", "Alltoallw", "Reduce", "Allreduce", "Reduce_scatter", "Reduce_scatter_block"),
    *("Scan", "Exscan", "barrier", "bcast", "gather", "scatter", "allgather", "alltoall"),
    *("reduce", "allreduce", "scan", "exscan"),
]


@pytest.mark.parametrize("name", BLOCKING)
def test_every_method_that_waits_is_its_own(name: str) -> None:
    """mpi4py's would wait in C, where nothing can end it."""
    assert name in vars(GroupComm)


@pytest.mark.parametrize("name", [n for n in OURS if n.islower()] + ["Recv", "Sendrecv", "Probe", "Mprobe"])
def test_their_arguments_have_the_names_of_mpi4pys(name: str) -> None:
    documented = (getattr(MPI.Intracomm, name).__doc__ or "").split("\n")[0]
    for parameter in inspect.signature(getattr(GroupComm, name)).parameters.values():
        if parameter.name not in ("self", "args", "kwargs"):
            assert f"{parameter.name}" in documented, documented


@pytest.mark.parametrize(
    ("buffer", "size"),
    [
        (np.zeros(10), 80),
        ([np.zeros(3), MPI.DOUBLE], 24),
        ((np.zeros(3), [1, 2], MPI.DOUBLE), 24),
        ([memoryview(b"abc"), MPI.BYTE], 3),
        (MPI.IN_PLACE, 0),
        (None, 0),
        ([], 0),
        (3, 0),
    ],
)
def test_sizes_of_buffers(buffer: Any, size: int) -> None:
    assert group_comm._size(buffer) == size


def test_waiting_ends_with_what_is_waited_for(broken: list[bool]) -> None:
    answers = iter([None, False, 0, "found"])
    assert group_comm._until(lambda: next(answers), None, False) == "found"
    broken.append(True)
    assert group_comm._until(lambda: "at once", None, False) == "at once"


@pytest.mark.parametrize("large", [False, True])
def test_waiting_ends_when_the_collective_has_failed(broken: list[bool], large: bool) -> None:
    looks = itertools.count()

    def look() -> bool:
        if next(looks) == 50:
            broken.append(True)
        return False

    pending = object()
    with pytest.raises(GroupBroken):
        group_comm._until(look, pending, large)
    assert group_comm._left == [pending]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_mpi_may_still_write_to_is_kept_when_a_wait_is_interrupted(
    broken: list[bool], error: type[BaseException]
) -> None:
    looks = itertools.count()

    def look() -> bool:
        if next(looks) == 50:
            raise error("while it waits")
        return False

    pending = object()
    with pytest.raises(error):
        group_comm._until(look, pending, False)
    assert group_comm._left == [pending]


def test_pieces_of_a_space() -> None:
    values = [None, "text" * 100, {"a": [1, 2]}, b""]
    data = [codec.dumps(value, sys.maxsize)[0] for value in values]
    sizes = np.array([len(part) for part in data], np.int64)
    assert group_comm._starts(sizes).tolist() == [0, *np.cumsum(sizes)[:-1].tolist()]
    assert group_comm._cut(bytearray(b"".join(data)), sizes) == values


def test_functions_travel_by_value() -> None:
    by = 3
    assert codec.loads(group_comm._dumps(lambda x: x + by))(1) == 4
