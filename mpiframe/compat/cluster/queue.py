"""`Queue`, `wait`, and which batch system it is."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

from mpiframe.compat.cluster import config_file
from mpiframe.plugins.scheduler import Queue as _Queue
from mpiframe.plugins.scheduler import SchedulerError, State, backends, default_queue
from mpiframe.plugins.scheduler.errors import JobNotFound, OptionError
from mpiframe.plugins.scheduler.states import JobStatus

ALLOWED_MODES = ["local", "torque", "slurm", "pbs", "sge"]
ClusterError = SchedulerError
MODE: str | None = None

MAX_JOBS = 3000
QUEUED = (State.PENDING, State.HELD)


def get_cluster_environment() -> str:
    """Find out which batch system there is, and set MODE."""
    global MODE
    MODE = backends.get_cluster_environment()
    return MODE


def check_queue(qtype: str | None = None) -> str:
    """The mode that is meant. Raises ClusterError for one that there is not."""
    return backends.check_queue(qtype if qtype is not None else MODE)


def wait(jobs: Any) -> bool:
    """Wait until jobs have ended: a Job, an id, or several."""
    return Queue(qtype=_mode_of(jobs)).wait(jobs)


def _mode_of(jobs: Any) -> str | None:
    first = jobs[0] if isinstance(jobs, (list, tuple)) and jobs else jobs
    return getattr(first, "qtype", None)


class Queue:
    """The jobs of a user, as the batch system lists them: `jobs`, `running`, `queued`, `complete`.

    user: None or "self" for one's own.
    """

    class QueueError(SchedulerError):
        """A job is not in the queue."""

    class QueueJob:
        """One job of the list."""

        def __init__(self, status: JobStatus) -> None:
            self.id = status.job if status.task is None else f"{status.job}_{status.task}"
            self.name, self.owner, self.user, self.queue = status.name, status.user, status.user, status.queue
            self.state, self.nodes, self.threads = str(status.state), status.host, status.cores
            self.exitcode = status.exit_code
            self.disappeared = False
            self.status = status

        def __repr__(self) -> str:
            return f"QueueJob<{self.id}:{self.state}({self.name})>"

    def __init__(self, user: str | None = None, qtype: str | None = None) -> None:
        self.qtype = check_queue(qtype)
        self.user = None if user in (None, "self", "current") else str(user)
        shared = default_queue(self.qtype)
        self._queue = shared if self.user is None else _Queue(self.qtype, user=self.user)
        self.jobs: dict[str, Queue.QueueJob] = {}
        self._updated = float("-inf")
        self.update()

    def update(self) -> None:
        """Ask for the list, at most once every `queue_update` seconds of the config file."""
        now = time.monotonic()
        if now - self._updated < float(config_file.get("queue", "queue_update", 1)):
            return
        self._updated = now
        before, self.jobs = self.jobs, {}
        for status in self._queue.jobs():
            one = self.QueueJob(status)
            self.jobs[one.id] = one
        for number, gone in before.items():
            if number not in self.jobs:
                gone.disappeared = True
                if not gone.status.ended:
                    gone.state = "complete"  # which says no more than that it is not in the list any more
                self.jobs[number] = gone

    @property
    def queue(self) -> list[QueueJob]:
        """All jobs."""
        return list(self.jobs.values())

    @property
    def running(self) -> dict[str, QueueJob]:
        """Those that run."""
        return self._in(State.RUNNING)

    @property
    def queued(self) -> dict[str, QueueJob]:
        """Those that wait."""
        return self._in(*QUEUED)

    @property
    def complete(self) -> dict[str, QueueJob]:
        """Those that have ended, however."""
        return {n: job for n, job in self.jobs.items() if job.disappeared or job.status.ended}

    completed = complete

    def can_submit(self, max_queue_len: int | None = None) -> bool:
        """Whether fewer jobs than `max_queue_len` run or wait; 0 is no limit, None the config file's."""
        limit = (
            int(config_file.get("queue", "max_jobs", MAX_JOBS)) if max_queue_len is None else max_queue_len
        )
        if limit < 0:
            raise OptionError("max_queue_len has to be 0 or more")
        if limit == 0:
            return True
        self.update()
        return len(self.running) + len(self.queued) < limit

    def wait_to_submit(self, max_queue_len: int | None = None) -> None:
        """Wait until `can_submit`."""
        while not self.can_submit(max_queue_len):
            mark = self._queue.backend.mark()
            self._updated = float("-inf")
            if self.can_submit(max_queue_len):
                return
            seconds = float(config_file.get("queue", "sleep_len", 1))
            if self._queue.backend.pushes:
                self._queue.backend.pause(seconds, mark)
            else:
                threading.Event().wait(seconds)

    def wait(self, jobs: Any) -> bool:
        """Wait until jobs have ended. Raises QueueError for one that there is not."""
        try:
            return self._queue.wait(jobs)
        except JobNotFound as error:
            raise self.QueueError(str(error)) from error

    def _in(self, *states: State) -> dict[str, QueueJob]:
        return {n: job for n, job in self.jobs.items() if job.status.state in states and not job.disappeared}

    def __getitem__(self, number: Any) -> QueueJob:
        return self.jobs[str(number)]

    def __iter__(self) -> Iterator[QueueJob]:
        return iter(self.queue)

    def __len__(self) -> int:
        return len(self.jobs)

    def __repr__(self) -> str:
        counts = f"jobs:{len(self)};completed:{len(self.complete)};queued:{len(self.queued)}"
        return f"Queue<{counts};user={self.user}>"
