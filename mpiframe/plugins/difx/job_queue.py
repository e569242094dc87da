"""A queue of jobs: those of low priority first, none before those that it waits for are done."""

from __future__ import annotations

import dataclasses
import enum
import functools
import itertools
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from mpiframe.plugins.difx.job_events import JobError, JobResult, Outcome

_log = logging.getLogger(__name__)


class QueueState(str, enum.Enum):
    """Where a job of the queue is. DROPPED: taken out, or what it waits for did not end well."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    DROPPED = "dropped"

    def __str__(self) -> str:
        return self.value

    @property
    def ended(self) -> bool:
        """Whether nothing more becomes of it."""
        return self in (QueueState.DONE, QueueState.FAILED, QueueState.DROPPED)


@dataclass(frozen=True)
class Waiting:
    """A job of the queue. after: numbers of those that have to be done first; text: why it ended so."""

    number: int
    job: str
    priority: int
    after: tuple[int, ...]
    state: QueueState = QueueState.WAITING
    text: str = ""
    result: JobResult | None = None
    options: dict[str, Any] = field(default_factory=dict, repr=False)


class JobQueue:
    """Starts jobs in their turn. Of any thread."""

    def __init__(self, start: Callable[[Waiting], Future[JobResult]], at_once: int = 1) -> None:
        """`start`: begins a job, and gives its end; what it raises is the job's failure."""
        self._start = start
        self._jobs: dict[int, Waiting] = {}
        self._ends: dict[int, Future[Waiting]] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.RLock()
        self._subscribers: list[Callable[[Waiting], object]] = []
        self._closed = False
        self._at_once = 1
        self.at_once = at_once

    @property
    def at_once(self) -> int:
        """How many may run at the same time."""
        return self._at_once

    @at_once.setter
    def at_once(self, number: int) -> None:
        if number < 1:
            raise ValueError(f"at least one job has to run at once, not {number}")
        self._at_once = number
        self._next()

    def subscribe(self, callback: Callable[[Waiting], object]) -> None:
        """Call back with each change."""
        self._subscribers.append(callback)

    def add(self, job: str, priority: int, after: Sequence[int], options: dict[str, Any]) -> int:
        """Queue a job; its number. Raises JobError for one to wait for that there is not."""
        with self._lock:
            if self._closed:
                raise JobError("the queue is closed")
            for one in after:
                if one not in self._jobs:
                    raise JobError(f"there is no job {one} in the queue to wait for")
            number = next(self._numbers)
            made = Waiting(number, job, priority, tuple(after), options=options)
            self._ends[number] = Future()
            self._set(made)
        self._next()
        return number

    def remove(self, number: int) -> None:
        """Take out a job that waits. Raises JobError for one that runs or has ended."""
        with self._lock:
            found = self._known(number)
            if found.state is not QueueState.WAITING:
                raise JobError(f"job {number} of the queue does not wait: it is {found.state}")
            self._set(dataclasses.replace(found, state=QueueState.DROPPED, text="it was taken out"))
        self._next()

    def jobs(self) -> list[Waiting]:
        """All, in the order in which they were queued."""
        with self._lock:
            return list(self._jobs.values())

    def ended(self, number: int) -> Future[Waiting]:
        """Its end. Raises JobError."""
        with self._lock:
            self._known(number)
            return self._ends[number]

    def close(self) -> None:
        """Start no more; what waits is dropped."""
        with self._lock:
            self._closed = True
            for one in self.jobs():
                if one.state is QueueState.WAITING:
                    self._set(dataclasses.replace(one, state=QueueState.DROPPED, text="the queue was closed"))

    # ------------------------------------------------------------------------------------------------

    def _next(self) -> None:
        """Start what may be started."""
        while True:
            with self._lock:
                self._drop_the_hopeless()
                running = sum(one.state is QueueState.RUNNING for one in self._jobs.values())
                ready = [one for one in self._jobs.values() if self._is_ready(one)]
                if self._closed or not ready or running >= self._at_once:
                    return
                chosen = min(ready, key=lambda one: (one.priority, one.number))
                chosen = dataclasses.replace(chosen, state=QueueState.RUNNING)
                self._set(chosen)
            try:
                end = self._start(chosen)
            except Exception as error:
                self._finish(chosen, QueueState.FAILED, f"it could not be started: {error}", None)
                continue
            end.add_done_callback(functools.partial(self._has_ended, chosen.number))

    def _is_ready(self, one: Waiting) -> bool:
        done = all(self._jobs[other].state is QueueState.DONE for other in one.after)
        return one.state is QueueState.WAITING and done

    def _drop_the_hopeless(self) -> None:
        """What waits for something that will never be done is dropped, and what waits for that."""
        for one in self.jobs():  # in the order of their numbers: each waits for lower ones only
            lost = [n for n in one.after if self._jobs[n].state in (QueueState.FAILED, QueueState.DROPPED)]
            if one.state is QueueState.WAITING and lost:
                text = f"job {lost[0]}, for which it waits, is {self._jobs[lost[0]].state}"
                self._set(dataclasses.replace(one, state=QueueState.DROPPED, text=text))

    def _has_ended(self, number: int, future: Future[JobResult]) -> None:
        with self._lock:
            chosen = self._jobs[number]
        result = future.result()
        state = QueueState.DONE if result.outcome in (Outcome.DONE, Outcome.CHECKED) else QueueState.FAILED
        self._finish(chosen, state, result.text, result)
        self._next()

    def _finish(self, one: Waiting, state: QueueState, text: str, result: JobResult | None) -> None:
        with self._lock:
            self._set(dataclasses.replace(one, state=state, text=text, result=result))

    def _set(self, one: Waiting) -> None:
        self._jobs[one.number] = one
        for callback in self._subscribers:
            try:
                callback(one)
            except Exception:
                _log.exception("a subscriber of the queue raised")
        if one.state.ended:
            self._ends[one.number].set_result(one)

    def _known(self, number: int) -> Waiting:
        if number not in self._jobs:
            raise JobError(f"there is no job {number} in the queue, only {list(self._jobs) or 'none'}")
        return self._jobs[number]
