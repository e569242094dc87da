"""What servers are asked to do, for every peer the same. Imported by the servers, so small and quick."""

from __future__ import annotations

import functools
import os
from typing import Any

import numpy

PART = 8 << 20  # bytes of each array that is summed


def noop(*_: Any) -> None:
    """Do nothing."""


def double(x: int) -> int:
    """Something trivial to map."""
    return 2 * x


def doubles(xs: list[int]) -> list[int]:
    """The same for a chunk, for peers whose map has no chunks."""
    return [2 * x for x in xs]


def length(array: Any) -> int:
    """Take an array in."""
    return int(array.nbytes)


@functools.cache
def stored(size: int) -> Any:
    """An array that the server has already, to be sent as a result."""
    return numpy.ones(size, numpy.uint8)


def part(i: int) -> Any:
    """One of the arrays that are summed."""
    return numpy.full(PART // 8, float(i))


def is_sum(total: Any, n: int) -> bool:
    """Whether this is the sum of part(0) ... part(n - 1)."""
    return len(total) == PART // 8 and total[0] == total[-1] == n * (n - 1) / 2


def pid(*_: Any) -> int:
    """Who runs this."""
    return os.getpid()
