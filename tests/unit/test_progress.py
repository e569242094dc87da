"""Waiting with a bar: what is counted, when it is drawn, what is yielded; without servers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mpiframe import progress
from mpiframe.answers import CommandFuture
from mpiframe.bars import Picture
from mpiframe.errors import CommandArgumentError, CommandError, CommandTimeout, RequestError
from mpiframe.mapping import Items, MapRun
from mpiframe.messages import Request, Status


class Clock:
    """The time that `progress` sees: it passes when somebody waits, however long the machine takes."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.look = 0.0  # seconds that a look at the requests takes

    def monotonic(self) -> float:
        return self.now

    def perf_counter(self) -> float:
        self.now += self.look
        return self.now


class Display:
    """Keeps what is drawn, and when."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.pictures: list[Picture] = []
        self.times: list[float] = []

    def draw(self, picture: Picture) -> None:
        self.pictures.append(picture)
        self.times.append(self.clock.now)

    @property
    def last(self) -> Picture:
        return self.pictures[-1]


class Loop:
    """A client's loop whose answers come when the test says so, or by themselves, one at a look."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.todo: list[Callable[[], None]] = []  # the ends to come, one whenever somebody waits
        self.between = 0.0  # seconds from one of them to the next
        self.later: list[tuple[float, Callable[[], None]]] = []  # and those that come at a time
        self.interrupted: list[Request] = []
        self.waits = 0
        self.raises: BaseException | None = None

    def wait(self, done: Callable[[], bool], timeout: float | None = None) -> bool:
        self.waits += 1
        until = self.clock.now + (20.0 if timeout is None else timeout)
        while not done():
            if self.todo:
                if self.clock.now + self.between > until:
                    self.clock.now = until
                    return False
                self.clock.now += self.between
                self.todo.pop(0)()
            elif self.raises is not None:
                raise self.raises
            elif self.later and self.later[0][0] <= until:
                self.clock.now, end = self.later.pop(0)
                end()
            else:
                self.clock.now = until
                return False
        return True

    def cancel(self, request: Request) -> bool:
        return False

    def call_off(self, request: Request) -> bool:
        return False

    def was_interrupted(self, requests: Any) -> None:
        self.interrupted = list(requests)


class Client:
    """A client's books."""

    def __init__(self, clock: Clock) -> None:
        self._loop = Loop(clock)
        self.requests: dict[int, Request] = {}
        self._ids = itertools.count(1)

    def _known(self, id: Any) -> Request:
        try:
            return self.requests[id]
        except (KeyError, TypeError):
            raise RequestError(f"no request {id!r}") from None

    def push(self, server: int = 1, command: str = "f()") -> int:
        request = Request(next(self._ids), server, 1, command, ())
        request.server = server
        self.requests[request.id] = request
        return request.id

    def submit(self, server: int = 1) -> CommandFuture:
        id = self.push(server)
        request = self.requests.pop(id)
        request.future = CommandFuture(self._loop, request)
        return request.future

    def ends(self, what: Any, error: Exception | None = None) -> Callable[[], None]:
        """What ends this request or future."""
        request = what.request if isinstance(what, CommandFuture) else self.requests[what]

        def end() -> None:
            request.status = Status.DONE if error is None else Status.FAILED
            request.error = error  # type: ignore[assignment]
            request.started_at, request.finished_at = 1.0, 2.0
            request.ended = request.told = True
            if request.future is not None:
                request.future.settle(request)

        return end

    def ends_after(self, seconds: float, *futures: CommandFuture) -> None:
        """Let these end one after the other, so many seconds apart."""
        begun = self._loop.clock.now
        self._loop.later = [(begun + seconds * n, self.ends(one)) for n, one in enumerate(futures, 1)]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(progress, "time", found)
    return found


@pytest.fixture
def display(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> Display:
    found = Display(clock)
    monkeypatch.setattr(progress, "find_display", lambda show: None if show is False else found)
    return found


@pytest.fixture
def client(clock: Clock) -> Client:
    return Client(clock)


# -- waiting for all -------------------------------------------------------------------------------


def test_ids_are_waited_for_and_given_back_in_order(client: Client, display: Display) -> None:
    ids = [client.push(server) for server in (1, 2, 1, 2)]
    client._loop.todo = [client.ends(id) for id in reversed(ids)]
    assert progress.progress(client, [ids[:2], ids[2:]]) == ids
    assert display.last.over
    assert (display.last.done, display.last.total, display.last.failed) == (4, 4, 0)
    assert display.last.servers == {1: 2, 2: 2}
    assert set(client.requests) == set(ids)  # nothing was fetched
    assert display.last.label == "f()"


def test_futures_and_ids_may_be_mixed_and_failures_are_counted(client: Client, display: Display) -> None:
    future, id, other = client.submit(), client.push(2), client.submit()
    client._loop.todo = [client.ends(id, CommandError("no")), client.ends(other), client.ends(future)]
    assert progress.progress(client, (one for one in (future, id, other))) == [future, id, other]
    assert (display.last.done, display.last.failed) == (3, 1)


def test_one_request_need_not_be_in_a_list(client: Client, display: Display) -> None:
    id = client.push()
    client._loop.todo = [client.ends(id)]
    assert progress.progress(client, id) == [id]


def test_nothing_is_not_waited_for_nor_drawn(client: Client, display: Display) -> None:
    assert progress.progress(client, []) == []
    assert list(progress.progress(client, [], ordered=False)) == []
    assert display.pictures == []


def test_what_had_ended_before_does_not_count_as_quick(client: Client, display: Display) -> None:
    before, now = client.push(), client.submit()
    early = client.submit()
    client.ends(before)()
    client.ends(early)()
    client._loop.todo = [client.ends(now)]
    progress.progress(client, [before, early, now])
    assert (display.last.done, display.last.there) == (3, 2)
    assert display.last.servers == {1: 1}


def test_without_a_display_it_only_waits(client: Client, display: Display) -> None:
    id = client.push()
    client._loop.todo = [client.ends(id)]
    assert progress.progress(client, id, show=False) == [id]
    assert display.pictures == []


# -- each as it ends -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["push", "submit"])
def test_each_is_yielded_when_it_ends(client: Client, display: Display, kind: str) -> None:
    things = [getattr(client, kind)() for _ in range(3)]
    order = [things[2], things[0], things[1]]
    ends = [client.ends(thing) for thing in order]
    found = []
    iterator = progress.progress(client, things, ordered=False)
    assert display.pictures == []  # not before it is asked
    for end in ends:
        client._loop.todo = [end]
        found.append(next(iterator))
    assert found == order
    assert next(iterator, None) is None
    assert display.last.over


def test_when_nobody_wants_more_the_bar_is_over_and_requests_go_on(client: Client, display: Display) -> None:
    futures = [client.submit() for _ in range(3)]
    client._loop.todo = [client.ends(futures[1])]
    iterator = progress.progress(client, futures, ordered=False)
    assert next(iterator) is futures[1]
    iterator.close()
    assert display.last.over
    assert display.last.done == 1
    assert not futures[0].done()


def test_a_look_at_many_requests_is_not_had_at_each_answer(
    client: Client, display: Display, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    original = progress._Requests.look

    def look(requests: Any, early: bool = False) -> bool:
        nonlocal looks
        seen = original(requests, early)
        looks += seen
        return seen

    monkeypatch.setattr(progress._Requests, "look", look)
    ids = [client.push() for _ in range(5000)]
    client._loop.todo = [client.ends(id) for id in ids]
    # One look at 5000 takes far more than what comes between two answers.
    client._loop.between, display.clock.look = 1e-5, 5e-4
    begun = display.clock.now
    assert progress.progress(client, ids) == ids
    assert 1 < looks <= 2 + (display.clock.now - begun) / 5e-3  # each ten times what the last one took


# -- errors ----------------------------------------------------------------------------------------


def test_what_is_no_request_is_refused_at_the_call(client: Client, display: Display) -> None:
    id = client.push()
    other = Client(Clock()).submit()
    for bad in ([id, 17], "abc", None, [id, id], [2.5]):
        with pytest.raises(RequestError):
            progress.progress(client, bad, ordered=False)
    with pytest.raises(CommandArgumentError, match="another client"):
        progress.progress(client, [other])
    assert display.pictures == []


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("kind", ["push", "submit"])
def test_time_passes(client: Client, display: Display, ordered: bool, kind: str) -> None:
    things = [getattr(client, kind)() for _ in range(2)]
    client._loop.todo = [client.ends(things[0])]
    with pytest.raises(CommandTimeout, match="1 of 2"):
        list(progress.progress(client, things, ordered=ordered, timeout=0.05))
    assert display.last.over
    assert display.last.done == 1


def test_ctrl_c_interrupts_what_is_waited_for(client: Client, display: Display) -> None:
    id, future, ended = client.push(), client.submit(), client.push()
    waiting = {id, future.request.id}  # type: ignore[union-attr]
    client._loop.todo = [client.ends(ended)]
    client._loop.raises = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        progress.progress(client, [ended, id, future])
    assert {request.id for request in client._loop.interrupted} == waiting
    assert display.last.over


# -- when it is drawn ------------------------------------------------------------------------------


def test_it_is_drawn_seldom_however_much_ends(client: Client, display: Display) -> None:
    futures = [client.submit() for _ in range(2000)]
    client._loop.todo, client._loop.between = [client.ends(future) for future in futures], 1e-3
    progress.progress(client, futures)
    # The first one, the last one, and one for each tenth of a second.
    assert 20 <= len(display.pictures) <= 22
    between = [b - a for a, b in zip(display.times, display.times[1:-1], strict=False)]
    assert all(gap >= 0.0999 for gap in between)


def test_where_nothing_ends_only_the_clock_moves_on(client: Client, display: Display) -> None:
    future = client.submit()
    client.ends_after(1.3, future)
    progress.progress(client, [future])
    # At first, after a second, when it has ended, and for good.
    assert display.times == pytest.approx([1000.0, 1001.0, 1001.3, 1001.3])
    assert client._loop.waits <= 5  # it slept in between


def test_what_ends_is_drawn_soon(client: Client, display: Display) -> None:
    futures = [client.submit() for _ in range(3)]
    client.ends_after(0.25, *futures)
    progress.progress(client, futures)
    assert [picture.done for picture in display.pictures] == [0, 1, 2, 3, 3]
    assert display.times == pytest.approx([1000.0, 1000.25, 1000.5, 1000.75, 1000.75])


# -- map -------------------------------------------------------------------------------------------


class Chunks:
    """Starts chunks of a map that end when somebody waits."""

    def __init__(self, client: Client, fails: int | None = None) -> None:
        self.client, self.fails = client, fails

    def __call__(self, chunk: Any, first: int) -> CommandFuture:
        future = self.client.submit(1 + first % 2)
        request = future.request
        assert request is not None
        request.value = [item * 2 for item in chunk]
        error = CommandError("no") if self.fails in chunk else None
        self.client._loop.todo.append(self.client.ends(future, error))
        return future


def mapped(
    client: Client, items: Any, wanted: Any = True, fails: int | None = None, limit: int | None = None
) -> Iterator[Any]:
    """`Client.map`, without a client."""
    source = Items([items], lazy=limit is not None)
    watch = progress.of_map(client._loop, wanted, len, [items], source.left())
    begin: Any = Chunks(client, fails)
    if watch is None:
        return MapRun(source, 2, limit, 2, True, None, begin, client._loop.wait).results()
    run = MapRun(source, 2, limit, 2, True, None, watch.counting(begin), watch.wait, True)
    return watch.while_yielding(run.results())


def test_a_map_counts_its_items(client: Client, display: Display) -> None:
    assert list(mapped(client, range(7))) == list(range(0, 14, 2))
    assert (display.last.done, display.last.total) == (7, 7)
    assert display.last.label == "len"
    assert display.last.over
    assert sum(display.last.servers.values()) == 7


def test_a_map_over_endless_items_has_no_total(client: Client, display: Display) -> None:
    iterator = mapped(client, itertools.count(), "counting", limit=4)
    assert list(itertools.islice(iterator, 6)) == [0, 2, 4, 6, 8, 10]
    iterator.close()  # type: ignore[attr-defined]
    assert display.last.over
    assert display.last.total is None
    assert display.last.label == "counting"


def test_a_window_over_a_list_has_a_total(client: Client, display: Display) -> None:
    assert len(list(mapped(client, list(range(9)), limit=4))) == 9
    assert display.last.total == 9


def test_a_map_that_fails_says_so(client: Client, display: Display) -> None:
    with pytest.raises(CommandError):
        list(mapped(client, range(8), fails=3))
    assert display.last.failed == 2  # the items of its chunk
    assert display.last.over


def test_what_is_no_label_is_refused(client: Client, display: Display) -> None:
    with pytest.raises(CommandArgumentError, match="progress must be"):
        mapped(client, range(3), 7)
    assert list(mapped(client, range(3), False)) == [0, 2, 4]
    assert display.pictures == []
