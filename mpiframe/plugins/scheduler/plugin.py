"""The scheduler as a plugin of a server: `client.plugin("scheduler", target=1, qtype="slurm")`.

Its commands take and give ids. What waits (`wait`, `get`, `result`) leaves the server free meanwhile.
Each change of a job's state is an event, a `JobStatus`, for `proxy.subscribe`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from mpiframe.plugins.base import Context, Plugin, command
from mpiframe.plugins.scheduler import options as options_module
from mpiframe.plugins.scheduler.backends import check_queue
from mpiframe.plugins.scheduler.job import Job
from mpiframe.plugins.scheduler.queue import LONGEST_POLL_SECONDS, POLL_SECONDS, Queue
from mpiframe.plugins.scheduler.states import JobStatus, whole
from mpiframe.plugins.scheduler.watcher import Watcher

_PANEL_ROWS = 50


@dataclass
class SchedulerOptions:
    """qtype: the batch system, None finds out; the rest as for `Queue`."""

    qtype: str | None = None
    poll_seconds: float = POLL_SECONDS
    longest_poll_seconds: float = LONGEST_POLL_SECONDS

    def __post_init__(self) -> None:
        check_queue(self.qtype)
        if not 0 < self.poll_seconds <= self.longest_poll_seconds:
            raise ValueError("poll_seconds has to be more than 0, and not more than longest_poll_seconds")


class Scheduler(Plugin):
    """Submits and watches jobs from one server."""

    name = "scheduler"
    Options = SchedulerOptions

    def start(self, context: Context) -> None:
        """Open the queue; nothing is asked yet."""
        self.context = context
        config: SchedulerOptions = context.config
        self._queue = Queue(
            config.qtype,
            poll_seconds=config.poll_seconds,
            longest_poll_seconds=config.longest_poll_seconds,
        )
        self._jobs: dict[str, Job] = {}
        self._watcher = Watcher(self._queue)
        self._end = self._queue.subscribe(self._changed)

    def stop(self) -> None:
        """Watch no longer. The jobs go on."""
        self._end()
        self._watcher.stop()

    def panel(self) -> dict[str, Any]:
        """The jobs of this session, the newest first, as far as the batch system told of them."""
        rows = []
        for number in list(self._jobs)[: -_PANEL_ROWS - 1 : -1]:
            tasks = self._queue.last_status(number)
            counts = Counter(str(one.state) for one in tasks)
            state = str(whole(one.state for one in tasks))
            words = tasks[0].words if len(tasks) == 1 else ", ".join(f"{n} {s}" for s, n in counts.items())
            rows.append([number, self._jobs[number].name, state, "" if words == state else words])
        return {
            "title": f"Batch jobs ({self._queue.qtype})",
            "facts": {"submitted": len(self._jobs)},
            "columns": ["job", "name", "state", "details"],
            "rows": rows,
        }

    def _changed(self, status: JobStatus) -> None:
        self.context.emit(status)
        self.context.changed()

    @command
    def qtype(self) -> str:
        """Which batch system it is."""
        return self._queue.qtype

    @command
    def submit(
        self, command: Any, args: Any = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> str:
        """Submit a command or a function; its id. Arguments as for `Job`."""
        job = Job(command, args, kwargs, queue=self._queue, **options).submit()
        self._jobs[job.id] = job
        self._watcher.future(job.id)
        self.context.changed()
        return job.id

    @command
    def status(self, number: str) -> list[JobStatus]:
        """What is known of a job and its tasks."""
        return self._queue.status(str(number))

    @command
    def wait(self, number: str) -> Future[list[JobStatus]]:
        """The statuses of a job's tasks, once it has ended."""
        return self._watcher.future(str(number))

    @command
    def get(self, number: str) -> Future[Any]:
        """(exit code, standard output, standard error), once it has ended."""
        return self._once_ended(number, Job.get)

    @command
    def result(self, number: str) -> Future[Any]:
        """What the job's function returned, once it has; what it raised is raised."""
        return self._once_ended(number, Job.result)

    @command
    def cancel(self, number: str) -> None:
        """End a job."""
        self._queue.cancel(str(number))

    @command
    def jobs(self) -> list[JobStatus]:
        """All jobs of the user that the batch system lists."""
        return self._queue.jobs()

    @command
    def clean(self, number: str, delete_outputs: bool = False) -> list[str]:
        """Delete the files that a job made; the deleted ones."""
        return self._job(number).clean(delete_outputs)

    @command
    def option_help(self) -> str:
        """All options of jobs, as text."""
        return str(options_module.option_help(self._queue.qtype))

    def _job(self, number: str) -> Job:
        """A job of this session, or of an earlier one."""
        number = str(number)
        if number not in self._jobs:
            self._jobs[number] = Job.find(number, queue=self._queue)
        return self._jobs[number]

    def _once_ended(self, number: str, read: Callable[[Job], Any]) -> Future[Any]:
        job = self._job(number)
        answer: Future[Any] = Future()

        def ended(future: Future[list[JobStatus]]) -> None:
            try:
                future.result()
                answer.set_result(read(job))
            except BaseException as error:
                answer.set_exception(error)

        self._watcher.future(job.id).add_done_callback(ended)
        return answer
