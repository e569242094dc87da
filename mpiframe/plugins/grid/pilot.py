"""A pilot without MPI: claims tokens and runs them, until there are no more or its time is over.

    Pilot(database, "t_obs", analyse, max_token_seconds=3600, max_seconds=86400).run()

As many as wanted may run at once, on whatever hosts; claims keep them apart.
"""

from __future__ import annotations

import contextlib
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from mpiframe.plugins.grid.claims import LEASE_SECONDS, MAX_RETURNS, Claims
from mpiframe.plugins.grid.couchdb import Database
from mpiframe.plugins.grid.progress import Bar, Progress, Rate
from mpiframe.plugins.grid.runner import LATE, RETURNED, Interrupted, Runner, TokenRun, Work
from mpiframe.plugins.grid.token_list import TokenList
from mpiframe.plugins.grid.tokens import Token
from mpiframe.plugins.grid.views import DONE, ERROR, LOCKED, TODO

_LONGEST_WAIT_SECONDS = 30.0


@dataclass
class PilotReport:
    """What pilots did. stopped: why they ended before there were no more tokens, or empty."""

    runs: list[TokenRun] = field(default_factory=list)
    stopped: str = ""
    seconds: float = 0.0
    lost: list[int] = field(default_factory=list)
    """The ranks of servers that were lost on the way; their tokens went back."""

    def count(self, state: str) -> int:
        """How many runs ended so: done, error, returned, late."""
        return sum(one.state == state for one in self.runs)

    @property
    def done(self) -> int:
        """How many tokens were done."""
        return self.count(DONE)

    @property
    def error(self) -> int:
        """How many ended in error."""
        return self.count(ERROR)

    def __str__(self) -> str:
        parts = [f"{self.done} done", f"{self.error} in error"]
        parts += [f"{self.count(one)} {one}" for one in (RETURNED, LATE) if self.count(one)]
        parts += [f"servers {self.lost} lost"] if self.lost else []
        return f"{', '.join(parts)}; {self.seconds:.1f} s" + (
            f"; stopped: {self.stopped}" if self.stopped else ""
        )


class Pilot:
    """Works off tokens.

    Parameters
    ----------
    database, token_type, view: from which tokens are claimed.
    work, max_token_seconds, isolate, attach, work_dir: as for `Runner`.
    max_seconds: how long in all; a token that runs then is given back.
    max_tokens: how many at most.
    batch: how many are claimed at once.
    linger: stay until no token is locked by anybody, to take up those of pilots that died.
    lease_seconds, max_returns: as for `Claims`.
    on_token: called with each `TokenRun`. progress: show a bar.
    """

    def __init__(
        self,
        database: Database,
        token_type: str,
        work: Work,
        view: str = TODO,
        *,
        max_seconds: float | None = None,
        max_tokens: int | None = None,
        batch: int = 1,
        linger: bool = False,
        lease_seconds: float = LEASE_SECONDS,
        max_returns: int = MAX_RETURNS,
        on_token: Callable[[TokenRun], None] | None = None,
        progress: bool = False,
        **runner: Any,
    ) -> None:
        check_limits(max_seconds, max_tokens)
        if batch < 1:
            raise ValueError(f"batch has to be at least 1, not {batch!r}")
        self._tokens = TokenList(token_type, database)
        self.claims = Claims(database, token_type, view, lease_seconds=lease_seconds, max_returns=max_returns)
        self._runner = Runner(self.claims, work, **runner)
        self._max_seconds, self._max_tokens = max_seconds, max_tokens
        self._batch, self._linger = batch, linger
        self._on_token = on_token
        self._bar = Bar() if progress else None
        self._rate = Rate()

    def stop(self, reason: str = "stopped") -> None:
        """End after the token that runs, which is given back if it is a program's; from any thread."""
        self._runner.stop(reason)

    def run(self) -> PilotReport:
        """Work until there are no more tokens, or a limit is reached.

        SIGTERM and an interrupt give back what runs, and end the pilot with SystemExit or KeyboardInterrupt.
        Raises NotFound if there is no such view, DatabaseDown, PilotError.
        """
        report = PilotReport()
        begun = time.monotonic()
        until = None if self._max_seconds is None else begun + self._max_seconds
        with self._signals():
            try:
                self.claims.prepare()
                report.stopped = self._work(report, until)
            except Interrupted:
                report.stopped = self._runner.stop.reason
            finally:
                report.seconds = time.monotonic() - begun
                reason = self._runner.stop.reason
                self._runner.close()
        if reason == "SIGTERM":
            raise SystemExit(128 + signal.SIGTERM)
        if reason == "SIGINT":
            raise KeyboardInterrupt
        return report

    def _work(self, report: PilotReport, until: float | None) -> str:
        next_look = time.monotonic()
        while True:
            if why := self._why_stop(report, until):
                return why
            if time.monotonic() >= next_look:
                self.claims.reclaim()
                next_look = time.monotonic() + self.claims.lease_seconds / 2
            claimed = self.claims.claim(self._count(report))
            if not claimed and self.claims.reclaim():
                continue
            if not claimed and not self._wait_for_others(until):
                self._show(final=True)
                return self._runner.stop.reason
            self._run_all(claimed, report, until)

    def _run_all(self, claimed: list[Token], report: PilotReport, until: float | None) -> None:
        try:
            while claimed and not self._why_stop(report, until):
                token = claimed.pop(0)
                one = self._runner(token, until)
                report.runs.append(one)
                self._rate(1)
                if self._on_token is not None:
                    self._on_token(one)
                self._show()
        finally:
            if claimed:
                self.claims.release({one.id: one["claim"] for one in claimed}, counted=False)

    def _count(self, report: PilotReport) -> int:
        if self._max_tokens is None:
            return self._batch
        return min(self._batch, self._max_tokens - len(report.runs))

    def _why_stop(self, report: PilotReport, until: float | None) -> str:
        if self._runner.stop.reason:
            return self._runner.stop.reason
        if until is not None and time.monotonic() >= until:
            return f"{self._max_seconds:g} s are over"
        if self._max_tokens is not None and len(report.runs) >= self._max_tokens:
            return f"{self._max_tokens} tokens were run"
        return ""

    def _wait_for_others(self, until: float | None) -> bool:
        """Whether there may be more, after a while: somebody has tokens, whose lease may run out."""
        if not self._linger:
            return False
        now = self._tokens.overview()
        if not now[LOCKED] and not now[TODO]:
            return False
        wait = min(self.claims.lease_seconds / 4, _LONGEST_WAIT_SECONDS)
        if until is not None:
            wait = min(wait, max(0.0, until - time.monotonic()))
        poller = select.poll()
        poller.register(self._runner.stop.read_end, select.POLLIN)
        poller.poll(wait * 1000)
        return True

    def _show(self, final: bool = False) -> None:
        if self._bar is not None:
            now = self._tokens.overview()
            self._bar.show(Progress(now[TODO], now[LOCKED], now[DONE], now[ERROR], self._rate()), final)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def strike(number: int, _: Any) -> None:
            self._runner.stop(signal.Signals(number).name)
            if self._runner.in_function:
                raise Interrupted

        before = {one: signal.signal(one, strike) for one in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def check_limits(max_seconds: float | None, max_tokens: int | None) -> None:
    """Raise ValueError for limits that are none."""
    if max_seconds is not None and not max_seconds > 0:
        raise ValueError(f"max_seconds has to be more than 0, not {max_seconds!r}")
    if max_tokens is not None and (isinstance(max_tokens, bool) or max_tokens < 1):
        raise ValueError(f"max_tokens has to be at least 1, not {max_tokens!r}")
