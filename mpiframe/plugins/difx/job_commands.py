"""Passes, machines, jobs and Mark 5 units as commands and events of the DiFX plugin; a mixin for it.

files = difx.vex2difx("/data/exp", "exp.v2d")          # events: ("file", path), ("pass", stream, line)
difx.define_machines(job, "head", ["ds1", "ds2"], [("c1", 8), ("c2", 8)], test=True)
number = difx.start_job(job, force=True)               # events: ("job", JobEvent)
result = difx.wait_job(number)
"""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from mpiframe.plugins.base import command
from mpiframe.plugins.difx import job_cli
from mpiframe.plugins.difx.file_commands import FileCommands
from mpiframe.plugins.difx.filelists import FileList, make_list
from mpiframe.plugins.difx.formats.difxlog import Run
from mpiframe.plugins.difx.job_events import JobError, JobEvent, JobResult, MachinesStep, StopReport
from mpiframe.plugins.difx.job_queue import JobQueue, QueueState, Waiting
from mpiframe.plugins.difx.job_run import JobRun
from mpiframe.plugins.difx.jobs import JobOptions, Jobs
from mpiframe.plugins.difx.machines import MachinesReport, define_machines, read_machines
from mpiframe.plugins.difx.mark5 import Mark5, Module
from mpiframe.plugins.difx.passes import CALC, Pass, PassReport

_PANEL_ROWS = 50


@dataclasses.dataclass(frozen=True)
class RunInfo:
    """A run, now. outcome: None while it goes on; progress: 0 to 1, None before the job tells any."""

    number: int
    input: str
    state: str
    progress: float | None
    result: JobResult | None


class JobCommands(FileCommands):
    """The plugin's `stop` has to call `jobs_close`."""

    _passes: list[Pass] | None = None
    _queue: JobQueue | None = None

    @property
    def jobs(self) -> Jobs:
        """What the commands work on."""
        raise NotImplementedError

    def job_options(self, given: dict[str, Any]) -> JobOptions:
        """Options of a job by name, with what the plugin's own say. Raises ValueError."""
        known = [one.name for one in dataclasses.fields(JobOptions)]
        for name in given:
            if name not in known:
                raise ValueError(f"a job has no option {name!r}, only {', '.join(known)}")
        return JobOptions(**given)

    def jobs_panel(self) -> dict[str, Any]:
        """The runs and what waits, the newest first."""
        runs = [_info(run) for run in self.jobs.runs()][: -_PANEL_ROWS - 1 : -1]
        waiting = [one for one in self.queue() if one.state is QueueState.WAITING]
        rows: list[list[Any]] = [
            [
                one.number,
                os.path.basename(one.input).removesuffix(".input"),
                one.state if one.result is None else str(one.result.outcome),
                None if one.progress is None else {"progress": one.progress},
                "" if one.result is None else one.result.text,
            ]
            for one in runs
        ]
        return {
            "title": "DiFX jobs",
            "facts": {"running": sum(one.result is None for one in runs), "queued": len(waiting)},
            "columns": ["run", "job", "state", "progress", "details"],
            "rows": rows,
        }

    # -- passes and machines --

    @command
    def vex2difx(
        self,
        folder: str,
        file: str,
        calc_command: str = CALC,
        calc_only: bool = False,
        version: str | None = None,
    ) -> Future[PassReport]:
        """Run vex2difx on a .v2d file, and calc on the jobs it makes; each new file is a ("file", path)."""
        version = self.job_options({} if version is None else {"version": version}).version
        made = Pass(
            folder, file, self.files, self.jobs.versions,
            version=version, calc_command=calc_command, calc_only=calc_only,
            environment=self.jobs.environment(self.job_options({})),
        )  # fmt: skip
        if self._passes is None:
            self._passes = []
        self._passes.append(made)

        def work() -> PassReport:
            try:
                return made.run(
                    lambda path: self.context.emit(("file", path)),
                    lambda stream, line: self.context.emit(("pass", stream, line)),
                )
            finally:
                if self._passes is not None:
                    self._passes.remove(made)

        return self.pool.submit(work)

    @command
    def define_machines(
        self,
        job: str,
        manager: str,
        datastreams: Sequence[str],
        cores: Sequence[tuple[str, int]],
        test: bool = False,
        **options: Any,
    ) -> Future[MachinesReport]:
        """Write a job's .machines and .threads files; each step is an event ("machines", step, text).

        test: run a program on each node first, and leave out cores whose node fails. options: of
        `machines.define_machines`, and mpirun, mpi_options, version of the job.
        """
        mine: dict[str, Any] = {
            name: options.pop(name) for name in ("mpirun", "mpi_options", "version") if name in options
        }
        chosen = self.job_options(mine)

        def told(step: MachinesStep, text: str) -> None:
            self.context.emit(("machines", step, text))

        return self.pool.submit(
            lambda: define_machines(
                job, manager, datastreams, [(host, int(threads)) for host, threads in cores], self.files,
                test_with=self.jobs.mpirun(chosen) if test else None,
                environment=self.jobs.environment(chosen),
                prefix=self.jobs.versions.command([], chosen.version),
                on_step=told,
                **options,
            )
        )  # fmt: skip

    @command
    def machines(self, job: str) -> tuple[str, list[str], list[tuple[str, int]]]:
        """What a job's files say: the manager, the datastreams' hosts, cores with their threads."""
        streams = len(self.jobs.read_input(job).datastreams)
        return read_machines(job, streams, self.files)

    # -- jobs --

    @command
    def start_job(self, job: str, **options: Any) -> int:
        """Start a job; the run's number. Options as `JobOptions`; its news are events ("job", JobEvent)."""
        return self._start(job, options).number

    @command
    def wait_job(self, number: int) -> Future[JobResult]:
        """How a run ended, once it has."""
        return _follow(self.jobs.run(number).result)

    @command
    def stop_job(self, job: int | str) -> Future[StopReport]:
        """End a run, by number or .input file, on all its hosts; what that took, and whether it is gone."""
        answer: Future[StopReport] = Future()

        def work() -> None:  # a thread of its own: all others may be waiting for something
            try:
                answer.set_result(self.jobs.stop(job, options=self.job_options({})))
            except BaseException as error:
                answer.set_exception(error)

        threading.Thread(target=work, name="DiFX stop", daemon=True).start()
        return answer

    @command
    def runs(self) -> list[RunInfo]:
        """The runs of this session, the oldest first."""
        return [_info(run) for run in self.jobs.runs()]

    @command
    def history(self, job: str) -> list[Run]:
        """All runs that a job's .difxlog tells of, in full, the oldest first."""
        return self.jobs.log(job)

    @command
    def batch_command(self, job: str, **options: Any) -> list[str]:
        """The command line by which a batch system runs a job; options as for `start_job`."""
        return job_cli.command(job, self.jobs.group.interface, self.job_options(options))

    # -- the queue --

    @command
    def enqueue(
        self,
        job: str,
        priority: int = 0,
        after: Sequence[int] = (),
        at_once: int | None = None,
        **options: Any,
    ) -> int:
        """Queue a job: low priorities first, none before those of `after` are done; its number in the queue.

        at_once: from now on so many of the queue run at the same time (1 at first).
        """
        chosen = self.job_options(options)
        if self._queue is None:
            self._queue = JobQueue(lambda waiting: self._start(waiting.job, options=waiting.options).result)
            self._queue.subscribe(self._queue_changed)
        if at_once is not None:
            self._queue.at_once = at_once
        return self._queue.add(job, priority, after, dataclasses.asdict(chosen))

    @command
    def dequeue(self, number: int) -> None:
        """Take a job that waits out of the queue; those that wait for it are taken out too."""
        self._queued().remove(number)

    @command
    def queue(self) -> list[Waiting]:
        """The jobs of the queue, also those that have ended, in the order in which they were queued."""
        return self._queue.jobs() if self._queue is not None else []

    @command
    def wait_queued(self, number: int) -> Future[Waiting]:
        """What became of a job of the queue, once it has ended or was taken out."""
        return _follow(self._queued().ended(number))

    # -- Mark 5 --

    @command
    def mark5_control(self, unit: str, text: str) -> Future[list[str]]:
        """Send a command to the daemon of a Mark 5 unit; what it said."""
        return self.pool.submit(lambda: self._mark5().control(unit, text))

    @command
    def mark5_directory(self, unit: str, vsn: str, generate: bool = False) -> Future[Module]:
        """The directory of a module in a Mark 5 unit."""
        return self.pool.submit(lambda: self._mark5().directory(unit, vsn, generate=generate))

    @command
    def mark5_files(self, unit: str, folder: str) -> Future[list[str]]:
        """What lies in a folder of a Mark 5 unit."""
        return self.pool.submit(lambda: self._mark5().files(unit, folder))

    @command
    def mark5_copy(self, unit: str, vsn: str, scans: str, to: str) -> Future[None]:
        """Copy scans of a module to a folder of the unit; lines are events ("mark5", stream, line)."""
        return self.pool.submit(
            lambda: self._mark5().copy(
                unit, vsn, scans, to, lambda stream, line: self.context.emit(("mark5", stream, line))
            )
        )

    @command
    def filelist(
        self, names: Sequence[str], to: str, format: str, mjd: int, version: str | None = None
    ) -> Future[FileList]:
        """Write a new .filelist of data files, with the times that m5bsum or vsum tell of them.

        format: begins with MARK5B or VDIF. mjd: a day near to the times, which the data do not say in full.
        """
        version = self.job_options({} if version is None else {"version": version}).version
        return self.pool.submit(
            lambda: make_list(self.files, self.jobs.versions, names, to, format, mjd, version)
        )

    def jobs_close(self) -> None:
        """Stop all that runs."""
        if self._queue is not None:
            self._queue.close()
            self._queue = None
        for one in list(self._passes or ()):
            one.stop()
        self.jobs.close()

    # ------------------------------------------------------------------------------------------------

    def _start(self, job: str, options: dict[str, Any]) -> JobRun:
        def told(event: JobEvent) -> None:
            self.context.emit(("job", event))
            self.context.changed()

        run = self.jobs.start(job, self.job_options(options), told)
        run.result.add_done_callback(lambda _: self.context.changed())
        return run

    def _queue_changed(self, waiting: Waiting) -> None:
        self.context.emit(("queue", waiting))
        self.context.changed()

    def _queued(self) -> JobQueue:
        if self._queue is None:
            raise JobError("the queue is empty")
        return self._queue

    def _mark5(self) -> Mark5:
        chosen = self.job_options({})
        return Mark5(self.jobs.versions, self.jobs.mpirun(chosen), chosen.version)


def _info(run: JobRun) -> RunInfo:
    result = run.result.result() if run.result.done() else None
    return RunInfo(run.number, run.input, str(run.state), run.progress, result)


def _follow(future: Future[Any]) -> Future[Any]:
    """Another Future with the same end: who cancels it does not cancel what it waits for."""
    answer: Future[Any] = Future()
    answer.set_running_or_notify_cancel()

    def ended(one: Future[Any]) -> None:
        error = one.exception()
        if error is None:
            answer.set_result(one.result())
        else:
            answer.set_exception(error)

    future.add_done_callback(ended)
    return answer
