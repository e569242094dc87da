"""`Client.map`: items in chunks, chunks as commands, results in order or as they come.

Where the caller names no size, chunks grow with what was measured: from one item on, to as many as take a
few milliseconds, but never so many that the servers could not share what is left.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from mpiframe.answers import CommandFuture
from mpiframe.errors import CommandTimeout

_CHUNK_SECONDS = 4e-3
"""What a chunk should take: a hundred times what it costs to send one, and short enough to balance."""
_CLIENT_SECONDS = 50e-6  # what a chunk costs the client, generously: many servers need longer ones
_GROWTH = 16  # at most so many times as large as the last chunk that was measured
_AHEAD = 3  # chunks under way for each server: one runs, one is there, one is in the hands of the client
_SHARES = 4  # chunks for each server that are to be left at the end

Start = Callable[[Sequence[Any], int], CommandFuture]
"""Starts one chunk: (items, index of the first one) -> future of the list of values."""
Wait = Callable[[Callable[[], bool], float | None], bool]


class Items:
    """What is mapped over, handed out in chunks. One iterable's items are passed as they are, several
    iterables' as tuples.
    """

    def __init__(self, iterables: Sequence[Iterable[Any]], lazy: bool) -> None:
        self.single = len(iterables) == 1
        source: Iterable[Any] = iterables[0] if self.single else zip(*iterables)  # noqa: B905 - as in map
        self._whole: Sequence[Any] | None = None
        self._iterator: Iterator[Any] = iter(())
        if type(source) is range:
            self._whole = source  # a part of it is a few bytes, however long
        elif lazy:
            self._iterator = iter(source)
        else:
            self._whole = list(source)
        self.index = 0  # of the next one

    def take(self, count: int) -> Sequence[Any]:
        """The next items, fewer at the end."""
        if self._whole is not None:
            chunk = self._whole[self.index : self.index + count]
        else:
            chunk = list(itertools.islice(self._iterator, count))
        self.index += len(chunk)
        return chunk

    def at_hand(self) -> int:
        """How many of the next ones, at most, have values already; they may be taken in one chunk."""
        return 0

    def left(self) -> int | None:
        """How many are left, None if nobody knows."""
        return None if self._whole is None else len(self._whole) - self.index


class MapRun:
    """One call of map.

    size: items a chunk, None to find out. limit: the most items that may be under way or wait to be taken;
    then they are drawn when results are taken, else as fast as the servers work. watched: `wait` does more
    than to wait, so each wait has to be its.
    """

    def __init__(
        self,
        items: Items,
        size: int | None,
        limit: int | None,
        servers: int,
        ordered: bool,
        timeout: float | None,
        start: Start,
        wait: Wait,
        watched: bool = False,
    ) -> None:
        self._items = items
        self._size = size
        self._limit = limit
        self._servers = servers
        self._ordered = ordered
        self._timeout = timeout
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._start = start
        self._wait = wait
        self._watched = watched
        self._filling = threading.Lock()  # held by whoever starts chunks; nobody ever waits for it
        self._wanted = False  # somebody else would have started some
        self._count = threading.Lock()  # around the numbers below, and nothing else
        self._under_way: dict[concurrent.futures.Future[Any], int] = {}  # in order; items in each
        self._running = 0  # chunks that have not ended
        self._held = 0  # items under way or not taken
        self._finished: deque[concurrent.futures.Future[Any]] = deque()  # used where order does not matter
        self._next_size = size or 1
        self._exhausted = False
        self._fill()

    def results(self) -> Iterator[Any]:
        """Yield the values; what is still queued when the caller stops early is cancelled.

        After Ctrl-C what runs is interrupted, too.
        """
        try:
            while self._more():
                future = self._first() if self._ordered else self._next_finished()
                if self._watched:
                    self._wait(future.done, self._left())  # the result says so if the time is up
                values = future.result(self._left())
                with self._count:
                    waiting = max(self._under_way.pop(future) - 1, 0)
                    self._held -= 1
                del future
                self._fill()
                yield from values
                del values
                with self._count:
                    self._held -= waiting
                self._fill()
        except KeyboardInterrupt:
            for future in self._end():
                if isinstance(future, CommandFuture):
                    future.call_off()
            raise
        finally:
            for future in self._end():
                future.cancel()

    def _end(self) -> list[concurrent.futures.Future[Any]]:
        """Start nothing more; what is under way."""
        self._exhausted = True
        with self._count:
            return list(self._under_way)

    def _first(self) -> concurrent.futures.Future[Any]:
        with self._count:
            return next(iter(self._under_way))

    def _more(self) -> bool:
        """Whether there are results to come."""
        while not self._under_way:
            with self._filling:  # whoever starts chunks may be about to add one
                ended = self._exhausted and not self._under_way
            if ended:
                return False
            self._fill()
        return True

    def _fill(self) -> None:
        # Starting a chunk may bring the news that another has ended, of this map or of one that another
        # thread is busy with; to wait here could be to wait for each other.
        self._wanted = True
        while self._wanted and self._filling.acquire(blocking=False):
            try:
                self._wanted = False
                while not self._exhausted and self._has_room():
                    self._start_one()
            finally:
                self._filling.release()

    def _start_one(self) -> None:
        index = self._items.index
        try:
            chunk = self._items.take(self._chunk_size())
            if not len(chunk):
                self._exhausted = True
                return
            future: concurrent.futures.Future[Any] = self._start(chunk, index)
        except Exception as error:
            if not index:
                raise  # the call itself has failed
            self._fail(error)
            return
        with self._count:
            self._under_way[future] = len(chunk)
            self._held += len(chunk)
            self._running += 1
        if self._size is None:
            future.add_done_callback(self._learn)
        if not self._ordered:
            future.add_done_callback(self._finished.append)

    def _has_room(self) -> bool:
        if self._limit is not None:
            return not self._held or self._held + self._chunk_size() <= self._limit
        return self._size is not None or self._running < _AHEAD * self._servers

    def _chunk_size(self) -> int:
        at_hand = self._items.at_hand()
        if at_hand:  # in good pieces, of which a window takes several
            return at_hand if self._limit is None else max(min(at_hand, self._limit // 4), 1)
        size = self._next_size
        if self._size is None:
            left = self._items.left()
            if left is not None:
                size = min(size, max(left // (_SHARES * self._servers), 1))
            if self._limit is not None:
                size = min(size, max(self._limit // (2 * self._servers), 1))
        return size

    def _learn(self, future: concurrent.futures.Future[Any]) -> None:
        """A chunk has ended: see how long its items took, and start what follows it."""
        with self._count:
            self._running -= 1
        took: float | None = future.seconds  # type: ignore[attr-defined]
        count = self._under_way.get(future)
        if count and took is not None:
            seconds = max(took, 1e-7) / count
            wanted = max(_CHUNK_SECONDS, _CLIENT_SECONDS * self._servers)
            self._next_size = max(1, min(math.ceil(wanted / seconds), _GROWTH * count))
        if self._limit is None:
            self._fill()

    def _fail(self, error: Exception) -> None:
        """What follows cannot be started; whoever takes the results is to hear of it in its place."""
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        with self._count:
            self._exhausted = True
            self._under_way[future] = 0
        future.set_exception(error)
        self._finished.append(future)

    def _next_finished(self) -> concurrent.futures.Future[Any]:
        if not self._wait(lambda: bool(self._finished), self._left()):
            raise CommandTimeout(f"no result of the map has come within {self._timeout} s; it goes on")
        return self._finished.popleft()

    def _left(self) -> float | None:
        return None if self._deadline is None else max(self._deadline - time.monotonic(), 0.0)
