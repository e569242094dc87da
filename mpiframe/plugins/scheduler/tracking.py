"""What is known of the jobs that somebody waits for. No I/O: the queue feeds it, and asks it what to ask.

A job that the queue no longer lists has not ended for that: its own record and the accounting are asked,
and only after a while, and several queries, is its end called unknown.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from mpiframe.plugins.scheduler.states import JobStatus, State, whole

VANISHED_SECONDS = 15.0
"""How long a job may be in no list before its end is called unknown: accounting comes late."""
VANISHED_QUERIES = 3
_SHELL_SIGNAL = 128


class Tracked:
    """One job and its tasks."""

    def __init__(self, job: str, tasks: Iterable[int | None]) -> None:
        self.job = job
        self.tasks: dict[int | None, JobStatus] = {
            task: JobStatus(job, State.PENDING, task) for task in tasks
        }
        self._missed: dict[int | None, tuple[float, int]] = {}
        self._gave_up = False

    @property
    def state(self) -> State:
        """Of the whole job."""
        return whole(status.state for status in self.tasks.values())

    @property
    def ended(self) -> bool:
        """Whether nothing more will be learned: every task ended, or its end is called unknown."""
        return self._gave_up or all([status.ended for status in self.tasks.values()])

    def update(self, found: Iterable[JobStatus]) -> list[JobStatus]:
        """Take in what a query said of this job; what is new. An end is never taken back."""
        changed = []
        for status in found:
            task = status.task
            if task not in self.tasks:
                if task is None and len(self.tasks) == 1:
                    task = next(iter(self.tasks))  # an array of one, which some submit as a single job
                    status = dataclasses.replace(status, task=task)
                else:
                    continue  # an array's own line
            self._missed.pop(task, None)
            before = self.tasks[task]
            if not before.ended and before != status:
                self.tasks[task] = status
                changed.append(status)
        return changed

    def open(self) -> list[int | None]:
        """The tasks that have not ended."""
        return [task for task, status in self.tasks.items() if not status.ended]

    def missing(self, tasks: Iterable[int | None], now: float) -> list[JobStatus]:
        """These tasks were found nowhere; what is new, once that has been so for long enough."""
        changed = []
        for task in tasks:
            since, times = self._missed.get(task, (now, 0))
            self._missed[task] = (since, times + 1)
            if times + 1 >= VANISHED_QUERIES and now - since >= VANISHED_SECONDS:
                reason = "it left the queue, and neither the accounting nor its own record says how it ended"
                status = dataclasses.replace(self.tasks[task], state=State.UNKNOWN, reason=reason)
                if status != self.tasks[task]:
                    self.tasks[task] = status
                    changed.append(status)
        open_tasks = self.open()
        self._gave_up = bool(open_tasks) and all(self.tasks[t].state is State.UNKNOWN for t in open_tasks)
        return changed


def settled(own: Mapping[int | None, JobStatus]) -> list[JobStatus]:
    """Those ends in a job's own words that need no other witness.

    A shell says 128 and more for a command that a signal ended: whether that was a time-out, a lack of
    memory or someone's wish, the accounting may know.
    """
    return [status for status in own.values() if status.ended and (status.exit_code or 0) <= _SHELL_SIGNAL]
