"""The engine of `map` without servers, and futures whose end and whose watchers come at the same time."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import itertools
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from mpiframe.answers import CommandFuture
from mpiframe.errors import CommandCancelled, CommandError, CommandTimeout
from mpiframe.mapping import Items, MapRun
from mpiframe.messages import Request, Status


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads take the interpreter from each other as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class Loop:
    """What futures need of the client's loop: to wait, and to cancel."""

    def wait(self, done: Callable[[], bool], timeout: float | None = None) -> bool:
        deadline = time.monotonic() + (20.0 if timeout is None else timeout)
        while not done():
            if time.monotonic() >= deadline:
                return False
            time.sleep(0)
        return True

    def cancel(self, request: Request) -> bool:
        return False


def request_of(id: int = 1) -> Request:
    return Request(id, None, 1, "f", ())


def end(request: Request, value: Any = None, error: Any = None, seconds: float = 1e-3) -> None:
    """What the client notes when a command has ended."""
    request.started_at, request.finished_at = 100.0, 100.0 + seconds
    request.value, request.error = value, error
    request.status = Status.DONE if error is None else Status.FAILED
    request.ended = request.told = True


class Servers:
    """Threads that take chunks and end their futures; `take(values)` makes one item's value."""

    def __init__(self, count: int = 2, seconds: float = 1e-3) -> None:
        self.loop = Loop()
        self.chunks: list[tuple[int, int]] = []
        self.seconds = seconds  # that each item is said to have taken
        self._ids = itertools.count(1)
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._serve, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def start(self, chunk: Sequence[Any], first: int) -> CommandFuture:
        self.chunks.append((first, len(chunk)))
        request = request_of(next(self._ids))
        future = CommandFuture(self.loop, request, first)
        self._queue.put((future, request, list(chunk)))
        return future

    def _serve(self) -> None:
        while (item := self._queue.get()) is not None:
            future, request, chunk = item
            end(request, chunk, seconds=self.seconds * len(chunk))
            future.settle(request)

    def stop(self) -> None:
        for _ in self._threads:
            self._queue.put(None)

    def map(self, items: Any, size: int | None = None, limit: int | None = None, **options: Any) -> Any:
        """What `Client.map` does."""
        chosen = {"ordered": True, "timeout": 20.0} | options
        found = Items([items], limit is not None)
        run = MapRun(found, size, limit, 2, chosen["ordered"], chosen["timeout"], self.start, self.loop.wait)
        return run.results()


@pytest.fixture
def servers() -> Iterator[Servers]:
    found = Servers()
    yield found
    found.stop()


# -- items -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("make", [range, lambda n: list(range(n)), lambda n: iter(range(n))])
def test_items_in_chunks(lazy: bool, make: Callable[[int], Any]) -> None:
    items = Items([make(10)], lazy)
    got = [list(items.take(count)) for count in (1, 3, 100, 1)]
    assert got == [[0], [1, 2, 3], [4, 5, 6, 7, 8, 9], []]
    assert items.index == 10


def test_what_is_left() -> None:
    assert Items([range(10**12)], True).left() == 10**12
    whole = Items([iter([1, 2, 3])], False)
    assert whole.left() == 3
    whole.take(2)
    assert whole.left() == 1
    assert Items([iter([1])], True).left() is None


def test_several_iterables_end_with_the_shortest() -> None:
    items = Items([itertools.count(), "abc"], False)
    assert not items.single
    assert items.take(10) == [(0, "a"), (1, "b"), (2, "c")]


def test_lazy_items_are_not_drawn_early() -> None:
    drawn: list[int] = []
    items = Items([(drawn.append(n) or n for n in itertools.count())], True)
    assert drawn == []
    items.take(3)
    assert drawn == [0, 1, 2]


# -- a run -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize(("size", "limit"), [(None, None), (7, None), (None, 50), (5, 50)])
@pytest.mark.parametrize("count", [0, 1, 2, 999])
def test_every_result_once(
    servers: Servers, size: int | None, limit: int | None, ordered: bool, count: int
) -> None:
    for source in (range(count), list(range(count)), iter(range(count))):
        got = list(servers.map(source, size, limit, ordered=ordered))
        assert (got if ordered else sorted(got)) == list(range(count))


@pytest.mark.usefixtures("restless")
@pytest.mark.parametrize("ordered", [True, False])
def test_results_while_other_threads_add_chunks(servers: Servers, ordered: bool) -> None:
    for _ in range(60):
        got = list(servers.map(range(2000), ordered=ordered))
        assert (got if ordered else sorted(got)) == list(range(2000))


class Disturbed(dict[Any, Any]):
    """A dict that another thread changes right after somebody has begun to look through it."""

    def __init__(self, content: dict[Any, Any], disturb: Callable[[], None]) -> None:
        super().__init__(content)
        self._disturb = disturb

    def __iter__(self) -> Iterator[Any]:
        found = super().__iter__()
        thread = threading.Thread(target=self._disturb, daemon=True)
        thread.start()
        thread.join(0.05)  # not for ever: it may have to wait until the look is over
        return found


def test_a_chunk_is_added_while_the_next_result_is_looked_up() -> None:
    pending: deque[tuple[CommandFuture, Sequence[Any]]] = deque()

    def settle_one(take: Callable[[], Any]) -> None:
        with contextlib.suppress(IndexError):
            future, chunk = take()
            end(future.request, list(chunk), seconds=0.05)
            future.settle(future.request)

    class Settling(Loop):
        def wait(self, done: Callable[[], bool], timeout: float | None = None) -> bool:
            while not done():
                settle_one(pending.popleft)
            return True

    def start(chunk: Sequence[Any], first: int) -> CommandFuture:
        future = CommandFuture(Settling(), request_of(first + 1), first)
        pending.append((future, chunk))
        return future

    run = MapRun(Items([range(20)], False), None, None, 2, True, None, start, Settling().wait)
    run._under_way = Disturbed(run._under_way, lambda: settle_one(pending.pop))
    assert list(run.results()) == list(range(20))


@pytest.mark.usefixtures("restless")
def test_runs_in_several_threads(servers: Servers) -> None:
    def work(number: int) -> bool:
        for _ in range(10):
            got = list(servers.map(range(500), ordered=bool(number % 2)))
            assert sorted(got) == list(range(500))
        return True

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4), timeout=40))


def test_slow_items_go_one_by_one(servers: Servers) -> None:
    servers.seconds = 0.05
    assert list(servers.map(range(40))) == list(range(40))
    assert {size for _, size in servers.chunks} == {1}


def test_quick_items_go_in_growing_chunks_and_small_ones_at_the_end(servers: Servers) -> None:
    servers.seconds = 1e-6
    assert list(servers.map(range(100_000))) == list(range(100_000))
    sizes = [size for _, size in servers.chunks]
    assert sizes[0] == 1
    assert max(sizes) > 500
    assert len(sizes) < 500
    assert sizes[-1] < 100


def test_a_window_holds(servers: Servers) -> None:
    drawn = itertools.count()
    results = servers.map((next(drawn) for _ in itertools.repeat(None)), limit=20)
    for taken in range(1, 300):
        next(results)
        assert drawn.__reduce__()[1][0] <= taken + 20
    results.close()


@pytest.mark.parametrize("ordered", [True, False])
def test_items_that_raise_later_are_told_after_what_came_before(ordered: bool) -> None:
    """Whoever takes the results hears of it in its place, from whatever thread started the chunk."""
    servers = Servers()
    start = servers.start

    def refuse(chunk: Sequence[Any], first: int) -> CommandFuture:
        if 300 in chunk:
            raise OSError("cannot be sent")
        return start(chunk, first)

    servers.start = refuse  # type: ignore[method-assign]
    for _ in range(20):
        got: list[int] = []
        with pytest.raises(OSError, match="cannot be sent"):
            got.extend(servers.map(range(1000), ordered=ordered))
        if ordered:
            assert got == list(range(len(got)))
            assert len(got) > 200
    servers.stop()


# -- futures that end while others look ------------------------------------------------------------


@pytest.mark.usefixtures("restless")
@pytest.mark.parametrize("how", ["settle", "alone"])
def test_callbacks_are_called_once_whenever_they_are_added(how: str) -> None:
    """As the client does it: `settle_alone`, and `settle` if somebody is to be told."""
    threads, rounds, each = 3, 150, 4
    futures = [CommandFuture(Loop(), request_of(n)) for n in range(rounds)]
    called: list[list[int]] = [[] for _ in range(rounds)]
    barrier = threading.Barrier(threads + 1)

    def add(thread: int) -> None:
        for n, future in enumerate(futures):
            barrier.wait(20)
            for k in range(each):
                future.add_done_callback(lambda f, n=n, k=k: called[n].append(thread * each + k))

    def settle() -> None:
        for future in futures:
            end(future.request, 7)
            barrier.wait(20)
            if how == "settle" or not future.settle_alone(7, 0.05):
                future.settle(future.request)

    with concurrent.futures.ThreadPoolExecutor(threads + 1) as pool:
        working = [pool.submit(add, thread) for thread in range(threads)] + [pool.submit(settle)]
        for future in working:
            future.result(40)
    for n, future in enumerate(futures):
        assert sorted(called[n]) == list(range(threads * each))
        assert future.result() == 7


@pytest.mark.usefixtures("restless")
@pytest.mark.parametrize("how", ["settle", "alone"])
def test_threads_that_wait_while_it_ends(how: str) -> None:
    rounds = 150
    futures = [CommandFuture(Loop(), request_of(n)) for n in range(rounds)]
    barrier = threading.Barrier(4)

    def settle() -> None:
        for n, future in enumerate(futures):
            end(future.request, n, CommandError("bad") if n % 3 == 0 else None)
            barrier.wait(20)
            if how == "settle" or n % 3 == 0 or not future.settle_alone(n, 0.05):
                future.settle(future.request)

    def wait() -> None:
        for future in futures:
            barrier.wait(20)
            done, _ = concurrent.futures.wait([future], 10, concurrent.futures.FIRST_COMPLETED)
            assert done == {future}

    def complete() -> None:
        for future in futures:
            barrier.wait(20)
            assert list(concurrent.futures.as_completed([future], 10)) == [future]

    def ask() -> None:
        for n, future in enumerate(futures):
            barrier.wait(20)
            error = future.exception(10)
            assert (error is None) == (n % 3 != 0)
            if error is None:
                assert future.result() == n

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for working in [pool.submit(work) for work in (settle, wait, complete, ask)]:
            working.result(40)


def test_a_callback_of_a_callback() -> None:
    future = CommandFuture(Loop(), request_of())
    called: list[str] = []

    def first(done: Any) -> None:
        called.append("first")
        done.add_done_callback(lambda _: called.append("inner"))

    future.add_done_callback(first)
    future.add_done_callback(lambda _: called.append("second"))
    end(future.request, 1)
    future.settle(future.request)
    assert sorted(called) == ["first", "inner", "second"]
    future.add_done_callback(lambda _: called.append("late"))
    assert called[-1] == "late"


def test_a_cancelled_one() -> None:
    future = CommandFuture(Loop(), request_of())
    called: list[Any] = []
    future.add_done_callback(called.append)
    waiting = threading.Thread(target=concurrent.futures.wait, args=([future], 20))
    waiting.start()
    future.request.status = Status.CANCELLED
    future.settle(future.request)
    waiting.join(20)
    assert not waiting.is_alive()
    assert called == [future]
    assert future.cancelled()
    assert future.done()
    with pytest.raises(CommandCancelled):
        future.result()
    with pytest.raises(concurrent.futures.CancelledError):
        future.exception()


def test_a_time_out_of_waiting() -> None:
    future = CommandFuture(Loop(), request_of())
    with pytest.raises(CommandTimeout, match="goes on"):
        future.result(0.01)
    done, waiting = concurrent.futures.wait([future], 0.01)
    assert (done, waiting) == (set(), {future})
    assert not future.done()


def test_from_a_coroutine() -> None:
    futures = [CommandFuture(Loop(), request_of(n)) for n in range(3)]

    async def main() -> list[Any]:
        wrapped = [asyncio.wrap_future(future) for future in futures]
        thread = threading.Thread(target=settle)
        thread.start()
        values = await asyncio.gather(*wrapped, return_exceptions=True)
        thread.join(20)
        return values

    def settle() -> None:
        for n, future in enumerate(futures):
            end(future.request, n, CommandError("bad") if n == 2 else None)
            future.settle(future.request)

    first, second, third = asyncio.run(asyncio.wait_for(main(), 20))
    assert (first, second) == (0, 1)
    assert isinstance(third, CommandError)
