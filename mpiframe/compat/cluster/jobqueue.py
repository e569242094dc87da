"""Functions on this machine with cores and dependencies: `JobQueue`, on the local queue."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mpiframe.plugins.scheduler import Job as _Job
from mpiframe.plugins.scheduler import LocalBackend, State, afterany
from mpiframe.plugins.scheduler import Queue as _Queue
from mpiframe.plugins.scheduler.errors import JobFailed, JobNotFound, SchedulerError

_WORDS = {State.PENDING: "queued", State.HELD: "waiting", State.RUNNING: "running"}


class Job:
    """A function with arguments, the jobs that it waits for (however they end), and its cores."""

    def __init__(
        self,
        function: Callable[..., Any],
        args: Any = None,
        kwargs: dict[str, Any] | None = None,
        depends: Sequence[int] | None = None,
        cores: int = 1,
    ) -> None:
        self.function, self.args, self.kwargs = function, args, kwargs
        self.depends, self.cores = list(depends or ()), cores
        self.jobno: int | None = None
        self.state = "Not Submitted"
        self.out: Any = None
        self.exitcode: int | None = None

    def __repr__(self) -> str:
        return f"JobQueue.Job<{self.jobno}(function:{getattr(self.function, '__name__', '?')})>"


class JobQueue:
    """Runs functions in processes of their own, no more than `cores` cores of them at once."""

    def __init__(self, cores: int | None = None) -> None:
        self._cores = cores
        self.jobs: dict[int, Job] = {}
        self._own: dict[int, _Job] = {}
        self._open()

    def add(
        self,
        function: Callable[..., Any],
        args: Any = None,
        kwargs: dict[str, Any] | None = None,
        dependencies: Sequence[int] | None = None,
        cores: int = 1,
    ) -> int:
        """Add a function; its number. Raises JobNotFound for a dependency that there is not."""
        job = Job(function, args, kwargs, dependencies, cores)
        for number in job.depends:
            if number not in self._own:
                raise JobNotFound(f"there is no job {number} to wait for")
        waits = [afterany(self._own[number]) for number in job.depends]
        folder = self._folder
        own = _Job(function, args, kwargs, queue=self._queue, cores=cores, depends=waits, filedir=folder)
        own.submit()
        job.jobno = int(own.id)
        self.jobs[job.jobno], self._own[job.jobno] = job, own
        return job.jobno

    def get(self, job: int) -> Any:
        """What a function returned, once it has; what it raised is raised."""
        if job not in self._own:
            raise JobNotFound(f"there is no job {job}")
        return self._own[job].result()

    def wait(self, jobs: Any = None) -> bool:
        """Wait for jobs, all of them by default."""
        numbers = list(self._own) if jobs is None else jobs if isinstance(jobs, (list, tuple)) else [jobs]
        done = self._queue.wait([self._own[int(number)] for number in numbers])
        self.update()
        return done

    def update(self) -> None:
        """Bring `jobs` up to date."""
        for number, own in self._own.items():
            job = self.jobs[number]
            state = own.state
            job.state = _WORDS.get(state, "done")
            if state.ended and job.exitcode is None:
                job.exitcode = own.exit_code
                try:
                    job.out = own.result()
                except BaseException as error:
                    job.out = error

    def restart(self, force: bool = False) -> None:
        """End all jobs and begin anew. Raises JobFailed if some have not ended, unless forced."""
        left = [own for own in self._own.values() if not own.done]
        if left and not force:
            raise JobFailed(f"{len(left)} jobs have not ended; restart(force=True) ends them")
        for own in left:
            own.cancel()
        self._queue.wait(left)
        self.jobs.clear()
        self._own.clear()

    def close(self) -> None:
        """End the queue itself; at the end of the process, or of this object, that happens anyway."""
        self._finalizer()

    @property
    def done(self) -> dict[int, Job]:
        """Jobs that have ended."""
        return self._in("done")

    @property
    def running(self) -> dict[int, Job]:
        """Jobs that run."""
        return self._in("running")

    @property
    def queued(self) -> dict[int, Job]:
        """Jobs for which there is no room yet."""
        return self._in("queued")

    @property
    def waiting(self) -> dict[int, Job]:
        """Jobs that wait for others."""
        return self._in("waiting")

    def _in(self, state: str) -> dict[int, Job]:
        self.update()
        return {number: job for number, job in self.jobs.items() if job.state == state}

    def _open(self) -> None:
        # Books of its own: its jobs and its cores are not those of the user's other queues.
        self._folder = tempfile.mkdtemp(prefix="mpiframe-jobqueue-")
        backend = LocalBackend(f"{self._folder}/books", self._cores, linger_seconds=1.0)
        self._finalizer = weakref.finalize(self, _close, backend, self._folder)
        self._queue = _Queue("local", backend=backend)

    def __getitem__(self, number: int) -> Job:
        self.update()
        return self.jobs[number]

    def __iter__(self) -> Iterator[Job]:
        return iter(self.jobs.values())

    def __len__(self) -> int:
        return len(self.jobs)

    def __repr__(self) -> str:
        return f"JobQueue<jobs:{len(self)}>"


def job_runner(jobqueue: Any, outputs: Any, cores: int | None = None, jobno: int | None = None) -> None:
    """Run the jobs that come in by one queue, and give them back by the other, as {number: Job}.

    jobqueue, outputs: of `multiprocessing` or `queue`. It ends with what was begun when None comes in.
    Numbers, those in `depends` too, count from `jobno` (1).
    """
    runner = JobQueue(cores)
    first = 1 if jobno is None else jobno
    numbers: dict[int, int] = {}
    try:
        while (job := jobqueue.get()) is not None:
            waits = [numbers[number] for number in job.depends]
            numbers[first + len(numbers)] = runner.add(job.function, job.args, job.kwargs, waits, job.cores)
        runner.wait()
        for number, own in numbers.items():
            found = runner[own]
            found.jobno = number
            outputs.put({number: found})
    finally:
        runner.close()


def _close(backend: LocalBackend, folder: str) -> None:
    with contextlib.suppress(SchedulerError):
        backend.stop()
    shutil.rmtree(folder, ignore_errors=True)


def __getattr__(name: str) -> Any:
    """`JQUEUE`, the one queue of this process, is made when it is first asked for."""
    if name != "JQUEUE":
        raise AttributeError(name)
    globals()["JQUEUE"] = made = JobQueue()
    return made
