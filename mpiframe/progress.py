"""`Client.progress` and the bars of `Client.map`: waiting with something to look at.

A Watch counts what ends. It is told by the callbacks of futures, or looks at the requests when an answer has
come; it draws at most ten times a second, and the thread that waits is the one that draws. So a bar costs
nothing where nothing happens, but for a look at the clock each second.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from typing import TYPE_CHECKING, Any, Protocol

from mpiframe.answers import CommandFuture, Loop
from mpiframe.bars import Picture
from mpiframe.displays import Display, find_display
from mpiframe.errors import CommandArgumentError, CommandTimeout, RequestError
from mpiframe.messages import Request, Status
from mpiframe.wording import shorten

if TYPE_CHECKING:
    from mpiframe.mapping import Start

_REDRAW = 0.1  # seconds from one drawing to the next, at least
_TICK = 1.0  # seconds after which the clock of a bar moves on where nothing has ended
_LATELY = 15.0  # seconds of which the rate is told
_SHARE = 0.1  # of the time, at most, is spent on looking which requests have ended


class Waits(Protocol):
    """What is needed of a client."""

    _loop: Any

    def _known(self, id: Any) -> Request:
        """The request of this id; RequestError."""


class Watch:
    """Counts what ends and shows it.

    total: how many are to end, None if nobody knows. display: where it is drawn; None shows nothing.
    """

    def __init__(
        self, loop: Loop, label: str, total: int | None, display: Display | None, unit: str = ""
    ) -> None:
        self.total = total
        self.done = 0  # those that failed among them
        self.failed = 0
        self._loop = loop
        self._label = label
        self._unit = unit
        self._display = display
        self._there = 0
        self._servers: dict[int, int] = {}
        self._news: deque[tuple[int | None, int, bool, bool]] = deque()  # (server, how many, failed, there)
        self._begun = time.monotonic()
        self._due = self._begun  # when it may be drawn again
        self._drawn = False
        self._samples: deque[tuple[float, int]] = deque([(self._begun, 0)])

    # -- what ends ---------------------------------------------------------------------------------

    def count(
        self, request: Request | None, items: int = 1, failed: bool = False, there: bool = False
    ) -> None:
        """Something has ended; from any thread. there: it had ended before anybody waited."""
        server = None if request is None or there else request.server
        self._news.append((server, items, failed, there))

    def follow(self, future: Any, then: Callable[[Any], None] | None = None) -> None:
        """Count the future when it is done, and call `then` with it."""
        request = future.request  # which it lets go of at its end
        there = future.done()

        def ended(future: Any) -> None:
            # What was cancelled is no failure: somebody has changed his mind.
            self.count(request, 1, not future.cancelled() and future.exception() is not None, there)
            if then is not None:
                then(future)

        future.add_done_callback(ended)

    def counting(self, start: Start) -> Start:
        """As `start`, which begins chunks of a map, and counts their items when they have ended.

        What a journal holds is in futures of another kind.
        """

        def begin(chunk: Sequence[Any], first: int) -> CommandFuture:
            future = start(chunk, first)
            request = future.request if isinstance(future, CommandFuture) else None
            items = len(chunk)  # but the chunk itself is not kept

            def ended(future: Any) -> None:
                if not future.cancelled():  # nobody wants more
                    failed = future.exception() is not None
                    self.count(request, items, failed, there=not isinstance(future, CommandFuture))

            future.add_done_callback(ended)
            return future

        return begin

    # -- waiting -----------------------------------------------------------------------------------

    def wait(self, done: Callable[[], bool], timeout: float | None = None) -> bool:
        """As `Loop.wait`, and draws meanwhile."""
        if self._display is None:
            return self._loop.wait(done, timeout)
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            self.look()
            if done():
                return True
            now = time.monotonic()
            if deadline is not None and now >= deadline:
                return False
            known = len(self._news)
            pause = max(self._due - now, 0.0) if known else max(self._due - now, _TICK)
            if deadline is not None:
                pause = min(pause, deadline - now)

            def stirred(known: int = known) -> bool:
                # The first thing that ends sets the time of the next drawing; others share it.
                return done() or (not known and len(self._news) > 0)

            if not self._loop.wait(stirred, pause) and not known:
                self.look(tick=True)

    def look(self, tick: bool = False) -> None:
        """Draw, if there is something new and it is time."""
        if self._display is None or not (self._news or tick or not self._drawn):
            return
        now = time.monotonic()
        if now >= self._due:
            self._draw(now)

    def over(self) -> None:
        """Draw it for the last time, if it was ever seen."""
        if self._drawn:
            self._draw(time.monotonic(), over=True)
            self._drawn = False

    def while_yielding(self, results: Iterator[Any]) -> Iterator[Any]:
        """Yield these, which `wait` here; at their end, or when nobody wants more, the bar is over."""
        try:
            yield from results
        finally:
            self.over()

    # -- inside ------------------------------------------------------------------------------------

    def _draw(self, now: float, over: bool = False) -> None:
        assert self._display is not None
        self._take()
        self._due = now + _REDRAW
        self._drawn = True
        self._display.draw(self._picture(now, over))

    def _take(self) -> None:
        news = self._news
        while news:
            server, items, failed, there = news.popleft()
            self.done += items
            self.failed += items if failed else 0
            self._there += items if there else 0
            if server is not None:
                self._servers[server] = self._servers.get(server, 0) + items

    def _picture(self, now: float, over: bool) -> Picture:
        computed = self.done - self._there
        samples = self._samples
        samples.append((now, computed))
        while len(samples) > 2 and now - samples[1][0] > _LATELY:
            samples.popleft()
        since, before = (self._begun, 0) if over else samples[0]
        rate = (computed - before) / max(now - since, 1e-3)
        left = None
        if self.total is not None and rate:
            left = max(self.total - self.done, 0) / rate
        return Picture(
            self._label,
            self.total,
            self.done,
            self.failed,
            now - self._begun,
            rate,
            left,
            dict(self._servers),
            self._unit,
            over,
            self._there,
        )


class _Requests:
    """Requests that were pushed, of whose ends nobody tells: they are looked at when something has come.

    To look at all of them at each answer would take ever longer the more there are, so a look waits until
    ten times what the last one took has passed.
    """

    def __init__(
        self, requests: Sequence[tuple[Any, Request]], ended: Callable[[Any, Request], None]
    ) -> None:
        self.open = requests  # (what was given, its request)
        self.next = 0.0  # in seconds of the performance counter: not before
        self._ended = ended

    def look(self, early: bool = False) -> bool:
        """Tell of those that have ended since; False if it is too early to look, and it was not said to."""
        begun = time.perf_counter()
        if begun < self.next and not early:
            return False
        still = []
        for pair in self.open:
            if pair[1].told:
                self._ended(*pair)
            else:
                still.append(pair)
        self.open = still
        now = time.perf_counter()
        self.next = now + (now - begun) / _SHARE
        return True


class _Waiting:
    """One call of `progress`."""

    def __init__(self, client: Waits, given: Sequence[Any], label: str | None, show: bool | None) -> None:
        self.given = given
        self.ready: deque[Any] = deque()  # those that have ended, as it was noticed
        self._futures = [one for one in given if isinstance(one, CommandFuture)]
        for future in self._futures:
            if future._loop is not client._loop:
                raise CommandArgumentError("progress was given a future that another client has made")
        pairs = [(one, client._known(one)) for one in given if not isinstance(one, CommandFuture)]
        if len({id(r) for _, r in pairs}) < len(pairs) or len(set(self._futures)) < len(self._futures):
            raise RequestError("a request is named twice; it ends once")
        commands = [r.command for _, r in pairs]
        commands += [f.request.command for f in self._futures if f.request is not None]
        self._loop: Loop = client._loop
        display = find_display(show) if given else None
        self.watch = Watch(self._loop, _label(commands) if label is None else label, len(given), display)
        self._requests = _Requests(pairs, self._ended)
        self._early = False  # an answer has come when it was too early to look at the requests
        self._there = True
        self._requests.look()
        self._there = False
        for future in self._futures:
            self.watch.follow(future, self.ready.append)

    def until(self, enough: Callable[[], bool], deadline: float | None) -> bool:
        """Wait until so many have ended; False if the time is up."""
        try:
            while not enough():
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    self._requests.look(early=True)
                    return enough()
                if not self._early:
                    self.watch.wait(lambda: self._news(enough), left)
                    continue
                pause = max(self._requests.next - time.perf_counter(), 0.0)
                self.watch.wait(enough, pause if left is None else min(pause, left))
                self._early = not self._requests.look()
        except KeyboardInterrupt:
            self._requests.look(early=True)
            waiting = [request for _, request in self._requests.open]
            waiting += [f.request for f in self._futures if f.request is not None and not f.done()]
            self._loop.was_interrupted(waiting)
            raise
        return True

    def all(self, timeout: float | None) -> list[Any]:
        """Wait for all of them, and give them back."""
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            if self.given:
                self.watch.look()
            if not self.until(lambda: len(self.ready) == len(self.given), deadline):
                raise self._late(timeout)
        finally:
            self.watch.over()
        return list(self.given)

    def each(self, timeout: float | None, deadline: float | None) -> Iterator[Any]:
        """Each as it ends."""
        if self.given:
            self.watch.look()
        for _ in self.given:
            if not self.ready and not self.until(lambda: bool(self.ready), deadline):
                raise self._late(timeout)
            self.watch.look()
            yield self.ready.popleft()

    def _news(self, enough: Callable[[], bool]) -> bool:
        if self._requests.open and not self._requests.look():
            self._early = True
            return True
        return enough()

    def _ended(self, given: Any, request: Request) -> None:
        failed = request.status not in (Status.DONE, Status.CANCELLED)
        self.watch.count(request, failed=failed, there=self._there)
        self.ready.append(given)

    def _late(self, timeout: float | None) -> CommandTimeout:
        late = len(self._requests.open) + sum(not future.done() for future in self._futures)
        return CommandTimeout(
            f"{late} of {len(self.given)} requests have not ended within the {timeout} s that were waited "
            "for; they go on"
        )


def progress(
    client: Waits,
    requests: Any,
    *,
    label: str | None = None,
    ordered: bool = True,
    show: bool | None = None,
    timeout: float | None = None,
) -> Any:
    """See `Client.progress`."""
    waiting = _Waiting(client, list(each_given(requests)), label, show)
    if ordered:
        return waiting.all(timeout)
    deadline = None if timeout is None else time.monotonic() + timeout
    return waiting.watch.while_yielding(waiting.each(timeout, deadline))


def of_map(
    loop: Loop, wanted: bool | str, fn: Any, iterables: Sequence[Iterable[Any]], left: int | None
) -> Watch | None:
    """The watch of a map, None where it would not be seen. `wanted` may be its label, `left` its total."""
    if not isinstance(wanted, (bool, str)):
        raise CommandArgumentError(
            f"progress must be True, False or a label for the bar, not {wanted!r} (a {type(wanted).__name__})"
        )
    display = find_display(None) if wanted is not False else None
    if display is None:
        return None
    if left is None:  # they are drawn from as it goes, and it ends with the shortest
        sizes = [len(items) for items in iterables if isinstance(items, Sized)]
        left = min(sizes, default=None)
    return Watch(loop, wanted if isinstance(wanted, str) else shorten(fn, 24), left, display)


def each_given(requests: Any) -> Iterator[Any]:
    """The ids and futures of what may be one, or a list, or lists in a list."""
    if isinstance(requests, Iterable) and not isinstance(requests, (str, bytes)):
        for one in requests:
            yield from each_given(one)
    else:
        yield requests


def _label(commands: Sequence[Any]) -> str:
    """What they have in common."""
    names = {shorten(command, 24) for command in commands[:1000]}
    return names.pop() if len(names) == 1 else ""
