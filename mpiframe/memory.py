"""Memory to receive large buffers into."""

from __future__ import annotations

import sys
from collections import deque
from typing import Any


class ReceiveMemory:
    """What the user has let go of is used again, because fresh pages are half of the cost of receiving.

    limit: bytes that are kept for that at most.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._spaces: deque[Any] = deque()
        self.kept = 0  # bytes that are kept, in use or not

    def take(self, size: int) -> Any:
        """An array of `size` bytes, writable, with any content."""
        import numpy  # late: most worlds never move anything large

        for space in self._spaces:
            # Referred to by `_spaces`, by `space` and by the call itself: nobody else has it or a view of it.
            if space.nbytes == size and sys.getrefcount(space) == 3:
                return space
        space = numpy.empty(size, numpy.uint8)
        if size <= self._limit:
            self._spaces.append(space)
            self.kept += size
            while self.kept > self._limit:
                self.kept -= self._spaces.popleft().nbytes
        return space
