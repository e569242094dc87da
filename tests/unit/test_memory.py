"""Receive memory is used again only when nobody holds it."""

from __future__ import annotations

import numpy as np

from mpiframe.memory import ReceiveMemory


def test_what_is_let_go_of_is_used_again() -> None:
    memory = ReceiveMemory(1 << 20)
    space = memory.take(1000)
    address = space.ctypes.data
    del space
    assert memory.take(1000).ctypes.data == address


def test_what_is_held_is_left_alone() -> None:
    memory = ReceiveMemory(1 << 20)
    space = memory.take(1000)
    array = np.frombuffer(space, np.uint16)[5:7]  # as unpickling makes them: only the view is held
    array[:] = 7
    del space
    memory.take(1000)[:] = 0
    assert array.tolist() == [7, 7]


def test_no_more_is_kept_than_the_limit() -> None:
    memory = ReceiveMemory(1000)
    assert memory.take(2000).nbytes == 2000
    spaces = [memory.take(400) for _ in range(5)]
    assert len({s.ctypes.data for s in spaces}) == 5
    assert memory.kept <= 1000


def test_it_is_writable() -> None:
    assert ReceiveMemory(0).take(10).flags.writeable
