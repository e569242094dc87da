"""The work of pilots on MPI servers, as the client hands it out.

        client                        servers (any number)                the database
       Crew.run ---- run a token ----> a free one ---- heartbeats, result ---->
         |   <------ how it went ------
         |
         |  a few left, or none
         +---------- claim n ---------> one that is free, one at a time -- one view, one save of n -->

Only one server at a time asks for tokens, for all of them, so hundreds do not hammer the database. No server
is special: whichever is free claims, gives back what a dead one had, and takes back what has expired.
"""

from __future__ import annotations

import contextlib
import queue
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mpiframe.errors import MpiframeError, ServerLost
from mpiframe.plugins.grid.errors import DatabaseDown, PilotError
from mpiframe.plugins.grid.pilot import PilotReport
from mpiframe.plugins.grid.progress import Bar, Progress, Rate
from mpiframe.plugins.grid.runner import RETURNED, TokenRun, Work
from mpiframe.plugins.grid.views import DONE, ERROR, LOCKED, TODO

UNSAVED = "unsaved"
_SHORT_SECONDS = 5.0  # tokens that take less are claimed ahead of time
_LOOK_SECONDS = 10.0
_FIRST_WAIT_SECONDS = 1.0
_LONGEST_WAIT_SECONDS = 30.0
_PATIENCE_SECONDS = 600.0


@dataclass(frozen=True)
class PilotSettings:
    """What every server has to know of the pilots of one call."""

    view: str
    session: str
    lease_seconds: float
    max_returns: int
    max_token_seconds: float | None
    isolate: bool
    attach: tuple[str, ...]
    work_dir: str | None
    kill_seconds: float


@dataclass(frozen=True)
class Hears:
    """Who is told."""

    bar: Bar | None
    on_token: Callable[[int, TokenRun], None] | None
    on_progress: Callable[[Progress], None] | None


@dataclass(frozen=True)
class _Sent:
    """A request under way. what: prepare, reload, claim, release, recover, look, run; payload: with what."""

    rank: int
    what: str
    payload: Any = None


class Crew:
    """One call of `pilot`. All of it happens in the calling thread, but for the callbacks of futures."""

    def __init__(
        self,
        proxy: Any,
        settings: PilotSettings,
        work: Work,
        max_seconds: float | None,
        max_tokens: int | None,
        linger: bool,
        hears: Hears,
    ) -> None:
        self._proxy, self._settings, self._work = proxy, settings, work
        self._key = settings.session
        self._max_seconds, self._max_tokens, self._linger = max_seconds, max_tokens, linger
        self._hears = hears
        self._report = PilotReport()
        self._begun = time.monotonic()
        self._free: deque[int] = deque()
        self._unprepared: list[int] = []  # because the database was away just then
        self._prepared = False
        self._under_way: dict[Any, _Sent] = {}
        self._ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._pool: deque[dict[str, Any]] = deque()  # claimed, and not begun
        self._pool_since = 0.0
        self._chores: deque[tuple[str, Any]] = deque()
        self._started = 0
        self._seconds = 0.0  # that all tokens took
        self._dry_until = 0.0
        self._none_left = False  # as the last claim found
        self._looked = False  # for expired ones, since the last claim that brought something
        self._failing_since: float | None = None
        self._wait = _FIRST_WAIT_SECONDS
        self._counts = dict.fromkeys((TODO, LOCKED, DONE, ERROR), 0)
        self._next_look = 0.0
        self._counted = False
        self._news = self._news_then = 0  # of answers, now and when it was last looked
        self._rate = Rate()

    # -- the loop ----------------------------------------------------------------------------------

    def run(self) -> PilotReport:
        """Until there are no more."""
        try:
            for rank in self._proxy.ranks:
                self._send(rank, "prepare")
            while not self._is_over():
                self._hand_out()
                self._take_one(self._patience())
            self._clear(raising=True)
            self._count_again()
        except BaseException:
            self._abandon()
            raise
        finally:
            self._dismiss()
        self._report.seconds = time.monotonic() - self._begun
        self._tell(final=True)
        return self._report

    def _is_over(self) -> bool:
        if not self._report.stopped:
            self._report.stopped = self._why_stop()
        if self._report.stopped:
            return not self._under_way
        if not self._free and not self._under_way and not self._unprepared:
            raise PilotError(
                f"no server is left; what they had comes back after {self._settings.lease_seconds:g} s"
            )
        if self._under_way or self._pool or self._chores or not self._none_left or not self._looked:
            return False
        return not (self._linger and (self._counts[LOCKED] or self._todo_there()))

    def _todo_there(self) -> int:
        """How many are to be done; of a view of the user's own nobody knows but by claiming."""
        return self._counts[TODO] if self._settings.view == TODO else 0

    def _why_stop(self) -> str:
        if self._max_seconds is not None and time.monotonic() - self._begun >= self._max_seconds:
            return f"{self._max_seconds:g} s are over"
        if self._max_tokens is not None and self._started >= self._max_tokens:
            return f"{self._max_tokens} tokens were run"
        return ""

    def _hand_out(self) -> None:
        """Give every free server something to do, as far as there is something."""
        if self._report.stopped:
            return
        if self._pool and time.monotonic() - self._pool_since > self._settings.lease_seconds / 2:
            self._release(list(self._pool), "", counted=False)  # before their lease runs out
            self._pool.clear()
        while self._unprepared and not self._is_dry():
            self._send(self._unprepared.pop(), "prepare")
        while self._free:
            if self._chores:
                self._send(self._free.popleft(), *self._chores.popleft())
            elif self._should_claim():
                count = self._how_many()
                self._send(self._free.popleft(), "claim", count)
            elif self._should_look():
                wait = (
                    _LOOK_SECONDS
                    if self._is_heard()
                    else max(_LOOK_SECONDS, self._settings.lease_seconds / 4)
                )
                self._next_look = time.monotonic() + wait
                self._news_then = self._news
                self._send(self._free.popleft(), "look")
            elif self._pool and not self._is_enough():
                self._started += 1
                self._send(self._free.popleft(), "run", self._pool.popleft())
            else:
                return

    def _is_enough(self) -> bool:
        return self._max_tokens is not None and self._started >= self._max_tokens

    def _should_claim(self) -> bool:
        if self._is_dry() or self._how_many() < 1 or self._is_under_way("claim", "release", "recover"):
            return False
        if self._is_heard() and not self._counted:
            return False  # whoever is told of counts is told right ones
        low = self._servers() // 2 if self._are_short() else 0
        return len(self._pool) <= low

    def _how_many(self) -> int:
        wanted = len(self._free) + (self._servers() if self._are_short() else 0)
        if self._max_tokens is not None:
            wanted = min(wanted, self._max_tokens - self._started - len(self._pool))
        return wanted

    def _should_look(self) -> bool:
        """Whether to count, and to take back what has expired."""
        if self._is_under_way("look") or (self._counted and self._is_under_way("prepare")):
            return False
        return time.monotonic() >= self._next_look or (self._none_left and not self._looked)

    def _are_short(self) -> bool:
        ended = len(self._report.runs)
        return ended > 0 and self._seconds / ended < _SHORT_SECONDS

    def _is_heard(self) -> bool:
        return self._hears.bar is not None or self._hears.on_progress is not None

    def _servers(self) -> int:
        return len(self._free) + len(self._under_way)

    def _is_dry(self) -> bool:
        return time.monotonic() < self._dry_until

    def _is_under_way(self, *whats: str) -> bool:
        return any([one.what in whats for one in self._under_way.values()])

    def _patience(self) -> float:
        """Seconds until something has to be done, though nothing is heard."""
        moments = [self._next_look, time.monotonic() + _LONGEST_WAIT_SECONDS]
        if self._is_dry():
            moments.append(self._dry_until)
        if self._max_seconds is not None and not self._report.stopped:
            moments.append(self._begun + self._max_seconds)
        return max(0.0, min(moments) - time.monotonic())

    # -- requests ----------------------------------------------------------------------------------

    def _send(self, rank: int, what: str, payload: Any = None) -> None:
        server, key = self._proxy.on(rank), self._key
        try:
            if what == "reload":
                future = self._proxy.reload(rank)
            elif what == "prepare":
                future = server.pilot_prepare.submit(key, self._settings, self._work)
            elif what == "run":
                left = None
                if self._max_seconds is not None:
                    left = self._begun + self._max_seconds - time.monotonic()
                future = server.pilot_run.submit(key, payload, left)
            elif what == "look":
                future = server.pilot_look.submit(key)
            else:
                future = getattr(server, f"pilot_{what}").submit(key, *_as_args(payload))
        except ServerLost:
            self._lost(_Sent(rank, what, payload))
            return
        self._under_way[future] = _Sent(rank, what, payload)
        future.add_done_callback(self._ended.put)

    def _take_one(self, seconds: float) -> None:
        """Take in what ended, all of it; wait for the first so long."""
        try:
            future = self._ended.get(timeout=seconds) if self._ended.empty() else self._ended.get()
        except queue.Empty:
            return
        while True:
            self._answered(future)
            try:
                future = self._ended.get_nowait()
            except queue.Empty:
                return

    def _answered(self, future: Any) -> None:
        sent = self._under_way.pop(future, None)
        if sent is None:
            return
        try:
            value = future.result()
        except ServerLost:
            self._lost(sent)
        except MpiframeError as error:
            self._free.append(sent.rank)
            self._failed(sent, error)
        else:
            if sent.what == "reload":
                self._send(sent.rank, "prepare")
                return
            self._free.append(sent.rank)
            self._news += sent.what != "look"
            self._failing_since, self._wait = None, _FIRST_WAIT_SECONDS
            if sent.what == "run":
                self._after_run(sent.rank, value)
            elif sent.what == "prepare":
                self._prepared = True
            else:
                getattr(self, f"_after_{sent.what}")(value)

    def _lost(self, sent: _Sent) -> None:
        if sent.what != "reload":
            self._report.lost.append(sent.rank)
            self._send(sent.rank, "reload")  # another one may have been put in its place
        else:
            self._proxy.recovered(sent.rank)
        if sent.what == "run":
            self._release([sent.payload], f"server {sent.rank} was lost")
            self._unlocked()
        elif sent.what == "claim":
            known = [one["claim"] for one in self._pool]
            known += [one.payload["claim"] for one in self._under_way.values() if one.what == "run"]
            self._chores.append(("recover", (known,)))
        elif sent.what in ("release", "recover"):
            self._chores.append((sent.what, sent.payload))

    def _failed(self, sent: _Sent, error: MpiframeError) -> None:
        cause = error.__cause__
        if sent.what == "reload":
            self._free.remove(sent.rank)
            return
        if sent.what == "run":
            doc = sent.payload
            self._unlocked()
            words = str(cause or error)
            if isinstance(cause, KeyboardInterrupt):  # by somebody else's `client.interrupt`
                self._note(sent.rank, TokenRun(doc["_id"], RETURNED, 0, 0.0, "interrupted"))
                self._counts[TODO] += 1
                self._more_to_claim()
                return
            self._note(sent.rank, TokenRun(doc["_id"], UNSAVED, 1, 0.0, words))
            if not isinstance(cause, PilotError):  # which says where the result is
                self._release([doc], words.splitlines()[0] if words else "it failed")
            return
        if not isinstance(cause, DatabaseDown):
            raise error
        if sent.what == "prepare":
            if not self._prepared:
                raise DatabaseDown(str(cause)) from error
            self._free.remove(sent.rank)
            self._unprepared.append(sent.rank)
        now = time.monotonic()
        self._failing_since = self._failing_since or now
        if now - self._failing_since > _PATIENCE_SECONDS:
            raise DatabaseDown(str(cause)) from error
        if sent.what in ("release", "recover"):
            self._chores.append((sent.what, sent.payload))
        self._dry_until = self._next_look = now + self._wait
        self._none_left = False  # nobody knows
        self._wait = min(2 * self._wait, _LONGEST_WAIT_SECONDS)

    # -- answers -----------------------------------------------------------------------------------

    def _after_claim(self, docs: list[dict[str, Any]]) -> None:
        self._counts[TODO] = max(0, self._counts[TODO] - len(docs))
        self._counts[LOCKED] += len(docs)
        if docs:
            self._looked = False
            self._pool.extend(docs)
            self._pool_since = time.monotonic()
        else:
            wait = min(self._settings.lease_seconds / 4, _LONGEST_WAIT_SECONDS)
            self._dry_until, self._none_left = time.monotonic() + wait, True

    def _more_to_claim(self) -> None:
        self._dry_until, self._none_left = 0.0, False

    def _after_release(self, given: list[str]) -> None:
        if given:
            self._more_to_claim()

    _after_recover = _after_release

    def _after_look(self, found: tuple[list[str], dict[str, int]]) -> None:
        expired, counts = found
        if self._news == self._news_then or not self._counted:
            self._counts, self._counted = (
                counts,
                True,
            )  # else they may be of before or after what was heard meanwhile
        self._looked = True
        if expired or self._todo_there():
            self._more_to_claim()
        self._tell()

    def _unlocked(self) -> bool:
        """A token is locked no more; whether it was counted so: the database may have told it before."""
        counted = self._counts[LOCKED] > 0
        self._counts[LOCKED] -= counted
        return counted

    def _after_run(self, rank: int, run: TokenRun) -> None:
        if self._unlocked():
            state = TODO if run.state == RETURNED else run.state if run.state in self._counts else DONE
            self._counts[state] += 1
        if run.state == RETURNED:
            self._more_to_claim()
        self._note(rank, run)

    def _note(self, rank: int, run: TokenRun) -> None:
        self._report.runs.append(run)
        self._seconds += run.seconds
        self._rate(1)
        if self._hears.on_token is not None:
            self._hears.on_token(rank, run)
        self._tell()

    def _tell(self, final: bool = False) -> None:
        if not self._is_heard() or not self._counted:
            return
        counts = self._counts
        waiting = min(len(self._pool), counts[LOCKED])
        running = counts[LOCKED] - waiting
        now = Progress(counts[TODO] + waiting, running, counts[DONE], counts[ERROR], self._rate())
        if self._hears.bar is not None:
            self._hears.bar.show(now, final)
        if self._hears.on_progress is not None:
            self._hears.on_progress(now)

    # -- the end -----------------------------------------------------------------------------------

    def _release(self, docs: list[dict[str, Any]], reason: str, counted: bool = True) -> None:
        self._chores.append(("release", ({one["_id"]: one["claim"] for one in docs}, counted, reason)))

    def _clear(self, raising: bool = False) -> None:
        """Give back what was claimed and not begun."""
        if self._pool:
            self._release(list(self._pool), "", counted=False)
            self._pool.clear()
        while self._chores and self._free:
            what, payload = self._chores.popleft()
            with contextlib.nullcontext() if raising else contextlib.suppress(Exception):
                rank = self._free[0]
                getattr(self._proxy.on(rank), f"pilot_{what}")(self._key, *_as_args(payload))

    def _count_again(self) -> None:
        """The counts as they are in the end: those kept on the way know nothing of other pilots."""
        if self._free and self._is_heard():
            with contextlib.suppress(MpiframeError):
                _, self._counts = self._proxy.on(self._free[0]).pilot_look(self._key)

    def _dismiss(self) -> None:
        """Let the servers forget this call."""
        for rank in self._free:
            try:
                self._proxy.on(rank).pilot_end(self._key)
            except ServerLost:
                self._report.lost.append(rank)
                self._proxy.recovered(rank)
            except MpiframeError:
                pass  # it is no matter now

    def _abandon(self) -> None:
        """Something went wrong here, or Ctrl-C: what runs is interrupted, and given back by its servers."""
        self._report.stopped = self._report.stopped or "abandoned"
        for sent in list(self._under_way.values()):
            if sent.what == "run":
                with contextlib.suppress(MpiframeError):
                    self._proxy.on(sent.rank).interrupt()
        deadline = time.monotonic() + self._settings.kill_seconds + _LONGEST_WAIT_SECONDS
        while self._under_way and time.monotonic() < deadline:
            try:
                future = self._ended.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            sent = self._under_way.pop(future)
            with contextlib.suppress(BaseException):
                value = future.result()
                self._free.append(sent.rank)
                if sent.what == "claim":
                    self._pool.extend(value)
                continue
            if not isinstance(future.exception(), ServerLost):
                self._free.append(sent.rank)
        self._clear()


def _as_args(payload: Any) -> tuple[Any, ...]:
    return payload if isinstance(payload, tuple) else (payload,)
