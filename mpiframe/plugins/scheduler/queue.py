"""The queue: every job that this process has to do with, one query for all of them, and waiting.

Job.submit --> Queue.send --> backend (sbatch, qsub, the local queue)
Queue.wait --> refresh: one status query for all open jobs, seldom more than one an interval
                --> who is missing: their own records, then the accounting
                --> changes to the subscribers, ends to the records on disk
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from mpiframe.plugins.scheduler import records
from mpiframe.plugins.scheduler.backends import DRIVERS, Backend, CommandBackend, check_queue
from mpiframe.plugins.scheduler.drivers import Dependency, Kind, Submission
from mpiframe.plugins.scheduler.errors import JobNotFound, OptionError, SchedulerDown, SubmitError
from mpiframe.plugins.scheduler.files import of_task
from mpiframe.plugins.scheduler.local import LocalBackend
from mpiframe.plugins.scheduler.lost import look_for
from mpiframe.plugins.scheduler.progress import Bar
from mpiframe.plugins.scheduler.records import Record
from mpiframe.plugins.scheduler.states import JobStatus, State
from mpiframe.plugins.scheduler.tracking import Tracked

log = logging.getLogger("mpiframe.plugins.scheduler")

POLL_SECONDS = 1.0
"""The time between two queries while things change."""
LONGEST_POLL_SECONDS = 20.0
"""The time between two queries when nothing has changed for long."""
_SLOWER = 1.5
PATIENCE_SECONDS = 300.0
"""How long a batch system may be unreachable before a wait gives up: servers are restarted."""

_MET: dict[str, Callable[[State], bool]] = {
    "afterok": lambda state: state is State.COMPLETED,
    "afternotok": lambda state: state.ended and state is not State.COMPLETED,
    "afterany": lambda state: state.ended,
}


class Queue:
    """One batch system as one user sees it.

    qtype: "slurm", "pbs", "torque", "sge" or "local"; None finds out. poll_seconds: the shortest time
    between two status queries, however many jobs and threads wait; it grows up to
    longest_poll_seconds while nothing changes. All methods may be called from any thread.
    Raises OptionError for another qtype.
    """

    def __init__(
        self,
        qtype: str | None = None,
        *,
        user: str | None = None,
        poll_seconds: float = POLL_SECONDS,
        longest_poll_seconds: float = LONGEST_POLL_SECONDS,
        patience_seconds: float = PATIENCE_SECONDS,
        backend: Backend | None = None,
    ) -> None:
        self.qtype = check_queue(qtype)
        self.user = user
        self.backend = backend or (
            LocalBackend() if self.qtype == "local" else CommandBackend(DRIVERS[self.qtype]())
        )
        self._shortest = poll_seconds
        self._longest = max(longest_poll_seconds, poll_seconds)
        self._patience = patience_seconds
        self._delay = poll_seconds
        self._asked = -1e9
        self._failing = (0.0, -1e9)  # since when it cannot be reached, and when that was last seen
        self._lost = False
        self._jobs: dict[str, Tracked] = {}
        self._open: dict[str, Tracked] = {}
        self._records: dict[str, Record] = {}
        self._subscribers: list[Callable[[JobStatus], None]] = []
        self._lock = threading.RLock()
        self._query = threading.Lock()

    def __repr__(self) -> str:
        with self._lock:
            return f"<Queue {self.qtype}: {len(self._open)} open of {len(self._jobs)} jobs>"

    # -- jobs ------------------------------------------------------------------------------------

    def send(self, job: Submission, record: Record) -> Record:
        """Submit a job whose files are written. Raises SubmitError, SchedulerDown."""
        place = records.Place(record)
        try:
            number = self.backend.submit(job, place.make)
        except BaseException:
            place.discard()
            raise
        record = dataclasses.replace(record, id=number, submitted_at=time.time())
        try:
            place.keep(record)
        except OSError as error:
            with contextlib.suppress(SchedulerDown):
                self.backend.cancel([number])
            raise SubmitError(
                f"job {number} was cancelled again, because its record cannot be written: {error}"
            ) from error
        self.track(record)
        return record

    def track(self, record: Record) -> None:
        """Have the next queries ask about a job, too."""
        with self._lock:
            self._records[record.id] = record
            if record.id not in self._jobs:
                self._add(Tracked(record.id, record.tasks), record.ended)

    def follow(self, number: str) -> None:
        """Have the next queries ask about a job of which there is no record."""
        with self._lock:
            if number not in self._jobs:
                self._add(Tracked(number, [None]), ())

    def status(self, number: str) -> list[JobStatus]:
        """What is known of a job and its tasks, asked now if it is not fresh. Raises JobNotFound."""
        tracked = self._known(number)
        if not tracked.ended:
            self.refresh()
        with self._lock:
            return list(tracked.tasks.values())

    def last_status(self, number: str) -> list[JobStatus]:
        """What is known of a job, without asking."""
        with self._lock:
            return list(self._jobs[number].tasks.values())

    def has_ended(self, number: str) -> bool:
        """Whether nothing more will be learned of a job, without asking."""
        with self._lock:
            return self._jobs[number].ended

    def jobs(self) -> list[JobStatus]:
        """All jobs of the user that the batch system lists, whoever submitted them."""
        return self.backend.listing(self.user)

    def cancel(self, jobs: Any) -> None:
        """End jobs: a Job, an id, or several. Those that have ended are left as they are."""
        ids = [number for number in ids_of(jobs) if not self._known(number).ended]
        for number in ids:
            record = self._records.get(number)
            if record is not None:
                self._records[number] = dataclasses.replace(record, cancelled=True)
                with contextlib.suppress(OSError):
                    self._records[number].save()
        if ids:
            self.backend.cancel(ids)
            self.hasten()

    def dependency(self, number: str, kind: Kind) -> Dependency | None:
        """What to tell the batch system, None for what is fulfilled. Raises OptionError, SubmitError."""
        tracked, record = self._jobs.get(number), self._record(number)
        paths = () if record is None else tuple(of_task(record.files.end, t) for t in record.tasks)
        if tracked is not None and not tracked.ended:
            return Dependency(number, kind, paths)
        listed = self.backend.status([number])
        if not listed and record is None:
            raise OptionError(f"there is no job {number!r} of {self.qtype} to wait for")
        seen = Tracked(number, sorted({one.task for one in listed}, key=str) or [None])
        if tracked is None and record is not None:
            seen = Tracked(number, record.tasks)
        seen.update(listed or (record.ended if record else ()))
        state = tracked.state if tracked is not None else seen.state
        if _MET[kind](state):
            return None
        looks = self.backend.dialect.checks_dependencies and paths  # the job's script will see for itself
        if not listed and state.ended and not looks:
            raise SubmitError(
                f"job {number} has ended as {state}: what waits for it ({kind}) would never run"
            )
        return Dependency(number, kind, paths)

    # -- watching --------------------------------------------------------------------------------

    def subscribe(self, callback: Callable[[JobStatus], None]) -> Callable[[], None]:
        """Call `callback` with every change, in the thread that saw it; what is returned ends that."""
        with self._lock:
            self._subscribers.append(callback)

        def end() -> None:
            with self._lock, contextlib.suppress(ValueError):
                self._subscribers.remove(callback)

        return end

    def refresh(self, *, force: bool = False) -> bool:
        """Ask about all open jobs, at most once an interval; whether anything changed.

        Raises SchedulerDown.
        """
        with self._query:
            now = time.monotonic()
            if not force and now - self._asked < self._shortest:
                return False
            with self._lock:
                asked = dict(self._open)
            if not asked:
                return False
            try:
                changed = self._ask(asked)
                self._failing = 0.0, -1e9
            finally:
                self._asked = time.monotonic()  # of a batch system that is slow to answer less is asked
        for status in changed:
            self._tell(status)
        return bool(changed)

    def hasten(self) -> None:
        """Have whoever waits ask soon: something has happened that the next query may show."""
        with self._lock:
            self._delay, self._asked = self._shortest, -1e9

    def wait(
        self, jobs: Any, timeout: float | None = None, *, progress: bool = False, any_of: bool = False
    ) -> bool:
        """Until all jobs (with any_of, any of them) have ended: True; False if `timeout` seconds pass.

        jobs: a Job, an id, or several. progress: show a bar on standard error. The cost is one query an
        interval, however many they are. Raises JobNotFound, and SchedulerDown if the batch system
        cannot be reached for longer than the queue's patience.
        """
        ids = ids_of(jobs)
        left = {number for number in ids if not self._known(number).ended}
        enough = len(ids) - 1 if any_of else 0
        bar = Bar(sum(self._count(left).values())) if progress else None
        for _ in self._rounds(timeout):
            with self._lock:
                left.intersection_update(self._open)
            if bar is not None:
                bar.show(self._count(left))
            if len(left) <= enough:
                return True
        return False

    def as_completed(self, jobs: Any, timeout: float | None = None) -> Iterator[str]:
        """The ids of jobs as they end. Raises TimeoutError."""
        left = dict.fromkeys(ids_of(jobs))
        for number in left:
            self._known(number)
        for _ in self._rounds(timeout):
            for number in [number for number in left if self.has_ended(number)]:
                del left[number]
                yield number
            if not left:
                return
        raise TimeoutError(f"{len(left)} jobs have not ended after {timeout} s")

    def _rounds(self, timeout: float | None) -> Iterator[None]:
        """One round a query, until the time is up."""
        deadline = None if timeout is None else time.monotonic() + timeout
        yield
        while True:
            # Taken before the look at what is known: what changes in between ends the pause at once.
            mark, pushes = ("", 0), self.backend.pushes
            try:
                mark = self.backend.mark()
                # However many wait, and however shortly each: one query an interval.
                if pushes or time.monotonic() >= self._asked + self._delay:
                    changed = self.refresh(force=pushes)
                    self._delay = self._shortest if changed else min(self._delay * _SLOWER, self._longest)
            except SchedulerDown as error:
                if self._has_no_patience():
                    raise
                log.warning("%s cannot be asked, trying again: %s", self.qtype, error)
                pushes = False
                self._delay = min(self._delay * _SLOWER, self._longest)
            yield
            pause = self._longest
            if not pushes or self._lost:
                pause = min(max(0.0, self._asked + self._delay - time.monotonic()), self._longest)
            if deadline is not None:
                # Not by the pause: that is none, too, where whoever was told of a change took his time.
                left = deadline - time.monotonic()
                if left <= 0:
                    return
                pause = min(pause, left)
            try:
                self.backend.pause(pause, mark)
            except SchedulerDown:
                continue  # the query says so, too

    def _has_no_patience(self) -> bool:
        """Whether it could not be reached for too long, whoever asked."""
        with self._lock:
            now, (since, last) = time.monotonic(), self._failing
            since = now if now - last > self._patience else since  # else it is the same outage
            self._failing = since, now
            return now - since >= self._patience

    def _ask(self, asked: dict[str, Tracked]) -> list[JobStatus]:
        found: dict[str, list[JobStatus]] = {}
        statuses, unknown = self.backend.changes(list(asked))
        for status in statuses:
            if status.job in asked:
                found.setdefault(status.job, []).append(status)
        now, changed = time.monotonic(), []
        lost: dict[str, set[int | None]] = {}
        with self._lock:
            for number, of_job in found.items():
                changed += asked[number].update(of_job)
            for number in asked if unknown is None else unknown & set(asked):
                tracked = asked[number]
                listed = {status.task for status in found.get(number, ())}
                missing = set(tracked.open()) - listed
                if missing and not (None in listed and None not in tracked.tasks):
                    lost[number] = missing
        self._lost = bool(lost)
        if lost:
            kept = {number: self._record(number) for number in lost}
            changed += look_for({n: asked[n] for n in lost}, lost, kept, self.backend, self._lock, now)
        with self._lock:
            for number in {*found, *lost}:
                if asked[number].ended and self._open.pop(number, None) is not None:
                    self._keep_end(number, asked[number])
        return changed

    def _known(self, number: str) -> Tracked:
        with self._lock:
            if number in self._jobs:
                return self._jobs[number]
        record = self._record(number)
        if record is not None:
            self.track(record)
            return self._jobs[number]
        listed = self.backend.status([number]) or self.backend.accounting([number])
        if not listed:
            raise JobNotFound(f"there is no job {number!r} of {self.qtype}")
        with self._lock:
            tasks = {one.task for one in listed}
            self._add(Tracked(number, tasks - {None} or tasks), listed)
            return self._jobs[number]

    def _add(self, tracked: Tracked, statuses: Sequence[JobStatus]) -> None:
        tracked.update(statuses)
        self._jobs[tracked.job] = tracked
        if not tracked.ended:
            self._open[tracked.job] = tracked
            self._delay = self._shortest

    def _record(self, number: str) -> Record | None:
        if number not in self._records:
            try:
                self._records[number] = records.find(self.qtype, number)
            except JobNotFound:
                return None
        return self._records[number]

    def _keep_end(self, number: str, tracked: Tracked) -> None:
        record = self._records.get(number)
        if record is None or tracked.state is State.UNKNOWN:
            return
        self._records[number] = dataclasses.replace(record, ended=tuple(tracked.tasks.values()))
        # Without it the same is learned again after a restart, if the batch system still knows.
        with contextlib.suppress(OSError):
            self._records[number].save()

    def _count(self, numbers: Iterable[str]) -> dict[State, int]:
        """The tasks of these jobs that have not ended, by state."""
        with self._lock:
            tasks = [task for number in numbers for task in self._jobs[number].tasks.values()]
        states = [task.state for task in tasks if not task.ended]
        return {state: states.count(state) for state in dict.fromkeys(states)}

    def _tell(self, status: JobStatus) -> None:
        with self._lock:
            subscribers = list(self._subscribers)
        for callback in subscribers:
            try:
                callback(status)
            except Exception:
                log.exception("a subscriber to the queue raised")


def ids_of(jobs: Any) -> list[str]:
    """The ids in a Job, an id, or several of either. Raises OptionError for a job not submitted."""
    if isinstance(jobs, (str, int)):
        return [str(jobs)]
    if hasattr(jobs, "submit") and hasattr(jobs, "id"):
        if not jobs.id:
            raise OptionError(f"{jobs!r} was not submitted")
        return [str(jobs.id)]
    return list(dict.fromkeys(number for job in jobs for number in ids_of(job)))


_defaults: dict[str, Queue] = {}
_defaults_lock = threading.Lock()


def default_queue(qtype: str | None = None) -> Queue:
    """The one queue of this process for this batch system, so that all jobs share its queries."""
    name = check_queue(qtype)
    with _defaults_lock:
        if name not in _defaults:
            _defaults[name] = Queue(name)
        return _defaults[name]
