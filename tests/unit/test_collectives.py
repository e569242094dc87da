"""What collectives do without servers: parts of sequences, and how values are combined."""

from __future__ import annotations

import operator
import pickle
from typing import Any

import mpi4py
import numpy as np
import pytest

mpi4py.rc(initialize=False, finalize=False)  # nothing here calls MPI

from mpiframe import collectives, group  # noqa: E402 - MPI is started when it is imported first
from mpiframe.errors import CommandArgumentError, WorldError  # noqa: E402

NOTHING = group._NOTHING


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("size", [0, 1, 2, 3, 6, 7, 8, 100])
@pytest.mark.parametrize("kind", [list, tuple, bytearray, np.array])
def test_parts_are_contiguous_and_even(kind: Any, size: int, count: int) -> None:
    whole = kind([n % 256 for n in range(size)])
    parts = collectives.split(whole, count, "x")
    assert len(parts) == count
    assert [int(v) for part in parts for v in part] == [n % 256 for n in range(size)]
    sizes = [len(part) for part in parts]
    assert sizes == sorted(sizes, reverse=True)
    assert max(sizes) - min(sizes) <= 1
    assert all(type(part) is type(whole) for part in parts)


@pytest.mark.parametrize("value", ["text", b"bytes", {"a": 1}, {1}, 5, None, iter([1]), np.array(1.0)])
def test_what_has_no_parts(value: Any) -> None:
    with pytest.raises(CommandArgumentError, match="table"):
        collectives.split(value, 2, "table")


def test_nothing_is_the_same_thing_everywhere() -> None:
    assert pickle.loads(pickle.dumps(NOTHING)) is NOTHING


def test_combining_with_nothing() -> None:
    assert group.combine(operator.add, NOTHING, False, 3) == (3, False)
    assert group.combine(operator.add, 3, False, NOTHING) == (3, False)
    assert group.combine(operator.add, NOTHING, False, NOTHING) == (NOTHING, False)


@pytest.mark.parametrize("op", [np.add, operator.add, operator.iadd, operator.or_, np.maximum])
def test_arrays_are_combined_in_place_once_they_are_ours(op: Any) -> None:
    first, second = np.array([1, 2]), np.array([4, 1])
    total, ours = group.combine(op, first, False, second)
    assert ours
    assert total is not first
    assert first.tolist() == [1, 2]
    again, ours = group.combine(op, total, True, second)
    assert ours
    assert again is total
    assert second.tolist() == [4, 1]


class Own(np.ndarray):
    pass


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (np.zeros(3), np.zeros((2, 3))),
        (np.zeros(3), np.zeros(3, np.float32)),
        (np.zeros(3), 1.0),
        (np.array(1.0), np.array(2.0)),
        (np.zeros(3, object), np.zeros(3, object)),
        (np.zeros(3).view(Own), np.zeros(3).view(Own)),
        (np.ma.zeros(3), np.ma.zeros(3)),
    ],
)
def test_other_values_are_combined_as_the_operation_does(a: Any, b: Any) -> None:
    total, ours = group.combine(operator.add, a, True, b)
    assert not ours
    assert type(total) is type(a + b)
    assert np.asarray(total).dtype == np.asarray(a + b).dtype
    assert total is not a


def test_other_operations_are_never_done_in_place() -> None:
    a, b = np.arange(3), np.arange(3)
    total, ours = group.combine(lambda x, y: x - y, a, True, b)
    assert (total.tolist(), ours) == ([0, 0, 0], False)
    assert a.tolist() == [0, 1, 2]
    total, ours = group.combine(np.less, a, True, b)  # of another type than its operands
    assert (total.dtype, ours) == (np.dtype(bool), False)


class Unhashable:
    __hash__ = None  # type: ignore[assignment]

    def __call__(self, a: Any, b: Any) -> Any:
        return (a, b)


def test_an_operation_that_has_no_hash() -> None:
    assert group.combine(Unhashable(), 1, False, 2) == ((1, 2), False)


@pytest.mark.parametrize("code", ["i1", "u8", "f4", "f8", "c8", "c16", "g"])
def test_arrays_that_mpi_combines(code: str) -> None:
    assert group._kind(np.zeros((2, 3), code)) == (np.dtype(code).str, (2, 3))


@pytest.mark.parametrize(
    "value",
    [
        None,
        3,
        NOTHING,
        [1.0],
        np.float64(3),
        np.array(3.0),
        np.zeros(0),
        np.zeros(3, ">f8"),
        np.zeros(3, bool),
        np.zeros(3, object),
        np.zeros(3, "M8[s]"),
        np.zeros(3, [("a", "f8")]),
        np.ma.zeros(3),
        np.zeros(3).view(Own),
    ],
)
def test_values_that_mpi_does_not_combine(value: Any) -> None:
    assert group._kind(value) is None


def test_outside_a_server_there_are_no_collectives() -> None:
    for call in (lambda: group.meet((1, 2)), lambda: group.put({"x": 1}), lambda: group.evaluate(1, "1")):
        with pytest.raises(WorldError, match="on servers"):
            call()
