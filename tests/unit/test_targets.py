"""What a target may be, and what is said of one that may not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mpiframe.errors import MpiframeError, ServerLost, TargetError
from mpiframe.queues import Dispatcher
from mpiframe.targets import places, resolve


def world(*ranks: int, lost: tuple[int, ...] = ()) -> Dispatcher:
    dispatcher = Dispatcher()
    for rank in (*ranks, *lost):
        dispatcher.joined(rank)
    for rank in lost:
        dispatcher.lost(rank)
    return dispatcher


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (None, None),
        (1, 1),
        (np.int64(2), 2),
        (np.uint8(3), 3),
        ("all", [1, 2, 3]),
        ([2, 1], [2, 1]),
        ((3,), [3]),
        ({2}, [2]),
        (range(1, 3), [1, 2]),
        (iter([3, 1]), [3, 1]),
        (np.array([1, 3]), [1, 3]),
        ([np.int32(1), 2], [1, 2]),
    ],
    ids=repr,
)
def test_what_a_target_may_be(target: Any, expected: Any) -> None:
    found = resolve(target, world(1, 2, 3))
    assert found == expected
    assert type(found) is type(expected)
    for rank in found if isinstance(found, list) else []:
        assert type(rank) is int


@pytest.mark.parametrize(
    ("target", "says"),
    [
        (0, "rank 0 is the client"),
        ([1, 0], "rank 0 is the client"),
        (4, "there is no server 4"),
        (-1, "there is no server -1"),
        (10**30, "there is no server 1000"),
        (np.int64(4), "there is no server 4"),
        ([1, 4], "there is no server 4"),
        ([], "empty list"),
        ((), "empty list"),
        (np.array([], int), "empty list"),
        (True, "True in target is a bool"),
        (False, "False in target is a bool"),
        ([1, True], "True in target is a bool"),
        (np.True_, "is a bool"),
        ([np.True_], "is a bool"),
        (1.0, "1.0 is a float"),
        ([1.0], "1.0 in target is a float"),
        (np.float64(1), "is a float64"),
        (np.array([1.0]), "is a float64"),
        (np.array(1), "target"),
        (1j, "is a complex"),
        ("1", "'1' is no target"),
        ("ALL", "'ALL' is no target"),
        ("", "'' is no target"),
        (["all"], "'all' in target is a str"),
        (b"all", "is a bytes"),
        ({1: 2}, "is a dict"),
        ([None], "None in target is a NoneType"),
        ([[1]], "[1] in target is a list"),
        (object, "is a type"),
    ],
    ids=repr,
)
def test_what_it_may_not_be_is_told_with_the_choices(target: Any, says: str) -> None:
    with pytest.raises(TargetError) as caught:
        resolve(target, world(1, 2, 3))
    text = str(caught.value)
    assert says in text
    for choice in ("None", "servers: 1, 2, 3", "a list of ranks", '"all"'):
        assert choice in text
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, MpiframeError)


@pytest.mark.parametrize("target", [2, [1, 2], np.int64(2)], ids=repr)
def test_a_lost_server_is_told_from_one_that_never_was(target: Any) -> None:
    with pytest.raises(ServerLost, match=r"server 2 is lost; choose .*servers: 1, 3"):
        resolve(target, world(1, 3, lost=(2,)))


def test_all_means_those_that_live() -> None:
    assert resolve("all", world(1, 3, lost=(2,))) == [1, 3]


def test_no_server_is_left() -> None:
    with pytest.raises(ServerLost, match="no server is left"):
        resolve("all", world(lost=(1,)))
    with pytest.raises(TargetError, match="none left"):
        resolve(7, world(lost=(1,)))


def test_many_servers_are_named_shortly() -> None:
    with pytest.raises(TargetError, match="servers: 1 to 500"):
        resolve(501, world(*range(1, 501)))
    with pytest.raises(TargetError, match="servers: 1, 2, 3, 4, 5, 6, 8"):
        resolve(0, world(1, 2, 3, 4, 5, 6, 8))


# -- places, whether somebody is there or not ------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "expected"),
    [(2, [2]), ("all", [1, 2, 3]), ([3, 1, 3], [3, 1]), (np.int64(1), [1]), (range(1, 3), [1, 2])],
)
def test_places(target: Any, expected: list[int]) -> None:
    assert places(target, [1, 2, 3]) == expected


@pytest.mark.parametrize("target", [0, 4, True, None, "some", 1.0, [1, 4], [True], b"1"])
def test_no_places(target: Any) -> None:
    with pytest.raises(TargetError, match='choose of 1, 2, 3, or "all"'):
        places(target, [1, 2, 3])
