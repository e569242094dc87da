"""`Client.map`: items in chunks, chunks as commands, results in order or as they come."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from mpiframe.answers import CommandFuture
from mpiframe.errors import CommandTimeout

Start = Callable[[list[tuple[Any, ...]], int], CommandFuture]
"""Starts one chunk: (argument tuples, index of the first item) -> future of the list of values."""
Wait = Callable[[Callable[[], bool], float | None], bool]


class MapRun:
    """One call of map: at most `limit` chunks of `size` items are under way or wait to be taken."""

    def __init__(
        self,
        items: Iterator[tuple[Any, ...]],
        size: int,
        limit: int | None,
        ordered: bool,
        timeout: float | None,
        start: Start,
        wait: Wait,
    ) -> None:
        self._items = items
        self._size = size
        self._limit = limit
        self._ordered = ordered
        self._timeout = timeout
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._start = start
        self._wait = wait
        self._index = 0  # of the next item to be started
        self._under_way: dict[CommandFuture, None] = {}  # an ordered set
        self._finished: deque[CommandFuture] = deque()  # used where order does not matter
        self._fill()

    def results(self) -> Iterator[Any]:
        """Yield the values; what is still queued when the caller stops early is cancelled."""
        try:
            while self._under_way:
                future = next(iter(self._under_way)) if self._ordered else self._next_finished()
                values = future.result(self._left())
                del self._under_way[future]
                self._fill()
                yield from values
        finally:
            for future in self._under_way:
                future.cancel()

    def _fill(self) -> None:
        while self._limit is None or len(self._under_way) < self._limit:
            chunk = list(itertools.islice(self._items, self._size))
            if not chunk:
                return
            future = self._start(chunk, self._index)
            self._index += len(chunk)
            self._under_way[future] = None
            if not self._ordered:
                future.add_done_callback(self._finished.append)  # type: ignore[arg-type]

    def _next_finished(self) -> CommandFuture:
        if not self._wait(lambda: bool(self._finished), self._left()):
            raise CommandTimeout(f"no result of the map has come within {self._timeout} s; it goes on")
        return self._finished.popleft()

    def _left(self) -> float | None:
        return None if self._deadline is None else max(self._deadline - time.monotonic(), 0.0)
