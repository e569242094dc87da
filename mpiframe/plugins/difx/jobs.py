"""Jobs: mpifxcorr on the hosts of a job's `.machines` file, checked, started, followed, stopped and judged.

jobs = Jobs(Files(["/data"]), Group.find(interface="eth1"))
run = jobs.start("/data/exp/exp_1.input", force=True, on_event=print)
result = run.wait()                # judged by exit status and messages, whatever stands on stderr
run.stop()                         # gone on all hosts when it returns, or it says where not
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from mpiframe.plugins.difx.files import Files
from mpiframe.plugins.difx.formats import DifxLog, Input, Machines
from mpiframe.plugins.difx.formats.difxlog import Run
from mpiframe.plugins.difx.formats.visibilities import input_path
from mpiframe.plugins.difx.hosts import JobHosts, pattern
from mpiframe.plugins.difx.job_events import JobError, JobEvent, StopReport
from mpiframe.plugins.difx.job_run import ANSWERS, JobRun
from mpiframe.plugins.difx.messages import Message
from mpiframe.plugins.difx.messages_bodies import Status, Stop
from mpiframe.plugins.difx.messages_states import DifxState
from mpiframe.plugins.difx.mpirun import Mpirun, check_program, checked_options
from mpiframe.plugins.difx.multicast import Group, Listener, Sender
from mpiframe.plugins.difx.stopping import Patience, Stoppable, stop
from mpiframe.plugins.difx.versions import Versions, run_environment

CHECKS = ("require", "warn", "only", "no")
_LONGEST_NAME = 31


@dataclass(frozen=True)
class JobOptions:
    """How a job is run.

    force: delete the output of an earlier run, which else is an error. restart_seconds: begin so far into the
    job, and keep what there is. check: what to do with the verdict of checkmpifxcorr: "require" a good one,
    "warn", run "only" that, or "no" check. program: the correlator. version: of DiFX, None the usual one.
    mpirun, mpi_options: as for `Mpirun.find`. environment: more variables for the job, on all hosts, and
    for mpirun itself, which sees nothing of what a batch system or an MPI tells this process.
    """

    force: bool = False
    restart_seconds: float = 0.0
    check: str = "require"
    program: str = "mpifxcorr"
    version: str | None = None
    mpirun: str = "mpirun"
    mpi_options: str | Sequence[str] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.check not in CHECKS:
            raise ValueError(f"check is one of {', '.join(CHECKS)}, not {self.check!r}")
        if not 0 <= self.restart_seconds < float("inf"):
            raise ValueError(f"restart_seconds has to be 0 or more, not {self.restart_seconds!r}")
        check_program(self.program)
        if self.mpi_options is not None:
            checked_options(self.mpi_options)
        for name, value in self.environment.items():
            if not name or not isinstance(value, str) or "=" in name or "\0" in name + value:
                raise ValueError(f"{name!r} cannot be a variable of the environment")


def job_name(input_file: str) -> str:
    """The name of a job, by which its messages are known; cut as DiFX cuts it."""
    return (
        os.path.basename(input_file).removesuffix(".input").encode()[:_LONGEST_NAME].decode(errors="ignore")
    )


class Jobs:
    """The jobs of this host. Of any thread; what it needs of the network is opened when it is needed."""

    def __init__(
        self,
        files: Files,
        group: Group,
        versions: Versions | None = None,
        *,
        patience: Patience | None = None,
        history: int = 100,
    ) -> None:
        """`history`: so many runs that have ended are remembered."""
        self.files, self.group = files, group
        self.versions = Versions() if versions is None else versions
        self.patience = Patience() if patience is None else patience
        self._history = history
        self._runs: dict[int, JobRun] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._listener: Listener | None = None
        self._sender: Sender | None = None

    def start(
        self,
        job: str,
        options: JobOptions | None = None,
        on_event: Callable[[JobEvent], object] = lambda _: None,
        **named: object,
    ) -> JobRun:
        """Start a job, and return at once; options by name, or as `JobOptions`.

        What is wrong with the job itself is an event and the result's text. Raises JobError if it runs
        already, ValueError for the options, VersionError, MessageError if its messages cannot be heard.
        """
        chosen = options if options is not None else JobOptions(**named)  # type: ignore[arg-type]
        path = input_path(job)
        self.versions.choose(chosen.version)
        listener = self._heard_by()
        with self._lock:
            for run in self._runs.values():
                if run.input == path and not run.result.done():
                    raise JobError(f"{path} runs already, as run {run.number}: stop it first")
            made = JobRun(next(self._numbers), path, job_name(path), chosen, self, listener, on_event)
            self._runs[made.number] = made
            ended = [number for number, run in self._runs.items() if run.result.done()]
            for number in ended[: -self._history]:
                del self._runs[number]
        made.start()
        return made

    def run(self, number: int) -> JobRun:
        """A run by its number. Raises JobError."""
        with self._lock:
            if number not in self._runs:
                known = ", ".join(map(str, self._runs)) or "none"
                raise JobError(f"there is no run {number} here, only {known}")
            return self._runs[number]

    def runs(self) -> list[JobRun]:
        """The runs of this session, the oldest first."""
        with self._lock:
            return list(self._runs.values())

    def stop(
        self, job: int | str, patience: Patience | None = None, *, options: JobOptions | None = None
    ) -> StopReport:
        """End a run, by its number or its job, or one that another started, if its hosts are known.

        The latter is found by its `.machines` file, its program and its `.input` file. Takes a few seconds;
        see `stopping`. Raises JobError where there is nothing of the kind.
        """
        patience = patience or self.patience
        if isinstance(job, int):
            return self.run(job).stop(patience)
        path = input_path(job)
        for run in reversed(self.runs()):
            if run.input == path and not run.result.done():
                return run.stop(patience)
        return self._stop_stranger(path, options or JobOptions(), patience)

    def log(self, job: str) -> list[Run]:
        """All runs that a job's `.difxlog` tells of, the oldest first; [] where there is none."""
        path = input_path(job).removesuffix(".input") + ".difxlog"
        try:
            text = self.files.read(path).decode("utf-8", "replace")
        except FileNotFoundError:
            return []
        return DifxLog.parse(text, path).runs()

    def close(self) -> None:
        """Stop what runs, and hear and send no more."""
        stopping = [
            threading.Thread(target=run.stop, args=(self.patience,))
            for run in self.runs()
            if not run.result.done()
        ]
        for thread in stopping:
            thread.start()
        for thread in stopping:
            thread.join()
        with self._lock:
            for one in (self._listener, self._sender):
                if one is not None:
                    one.close()
            self._listener = self._sender = None

    # -- for the runs --

    def environment(self, options: JobOptions) -> dict[str, str]:
        """The environment of a job's programs."""
        group = {"DIFX_MESSAGE_GROUP": self.group.address, "DIFX_MESSAGE_PORT": str(self.group.port)}
        return run_environment(group | dict(options.environment))

    def mpirun(self, options: JobOptions) -> Mpirun:
        """The mpirun of a job. Raises ProgramError."""
        return Mpirun.find(
            options.mpirun,
            environment=self.environment(options),
            options=options.mpi_options,
            exported=tuple(options.environment),
        )

    def machines(self, path: str) -> Machines:
        """The `.machines` file of a job. Raises FormatError, OSError."""
        name = path.removesuffix(".input") + ".machines"
        return Machines.parse(self.files.read(name).decode("utf-8", "replace"), name)

    def read_input(self, path: str) -> Input:
        """The `.input` file of a job. Raises FormatError, OSError."""
        return Input.parse(self.files.read(path).decode("utf-8", "replace"), path)

    def hosts(self, path: str, machines: Sequence[str], options: JobOptions, mpirun: Mpirun) -> JobHosts:
        """Where the processes of a job are, and this host, where its mpirun is."""
        found_by = pattern(os.path.basename(options.program), path)
        return JobHosts(["localhost", *machines], found_by, mpirun, self.environment(options))

    def ask_to_stop(self, path: str, options: JobOptions) -> None:
        """Send the DifxStop that rank 0 of a job hears. Raises MessageError."""
        with self._lock:
            if self._sender is None:
                self._sender = Sender(self.group)
        body = Stop(path, version=options.version, program=options.program)
        self._sender.send(body, identifier=job_name(path), process=0)

    def _stop_stranger(self, path: str, options: JobOptions, patience: Patience) -> StopReport:
        """End a job that we did not start."""
        try:
            machines = self.machines(path).hosts
        except FileNotFoundError as error:
            raise JobError(f"{path} does not run here, and has no .machines file to say where") from error
        hosts = self.hosts(path, machines, options, self.mpirun(options))
        answered, ended = threading.Event(), threading.Event()

        def heard(message: Message) -> None:
            if isinstance(message.body, Status):
                if message.body.state in ANSWERS:
                    answered.set()
                if isinstance(message.body.state, DifxState) and message.body.state.ended:
                    ended.set()

        subscription = self._heard_by().subscribe(heard, [Status], [job_name(path)])
        try:
            return stop(
                Stoppable(
                    path,
                    lambda: self.ask_to_stop(path, options),
                    answered=answered.wait,
                    ended=ended.wait,
                    signal=lambda _: 0,
                    hosts=hosts,
                    watched=False,
                ),
                patience,
            )
        finally:
            subscription.cancel()

    def _heard_by(self) -> Listener:
        with self._lock:
            if self._listener is None:
                self._listener = Listener(self.group)
            return self._listener
