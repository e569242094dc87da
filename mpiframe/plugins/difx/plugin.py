"""DiFX as a plugin of a server at the cluster's head node.

difx = client.plugin("difx", target=1, roots=["/data"])

Commands for files, versions, messages, passes, machines, jobs, spectra. A subscriber's events are tuples, of
which the first item says what they are: ("message", Message), ("spectrum", number, Update), ("file", path),
("machines", step, text), ("job", JobEvent), ("queue", Waiting).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mpiframe.plugins.base import Context, Plugin, command
from mpiframe.plugins.difx.file_commands import DifxFiles
from mpiframe.plugins.difx.gateway_commands import GatewayCommands
from mpiframe.plugins.difx.job_commands import JobCommands
from mpiframe.plugins.difx.jobs import JobOptions, Jobs
from mpiframe.plugins.difx.messages_commands import MessageCommands
from mpiframe.plugins.difx.monitor_commands import MonitorCommands
from mpiframe.plugins.difx.multicast import Group
from mpiframe.plugins.difx.passes import CALC_PROGRAMS
from mpiframe.plugins.difx.stopping import Patience
from mpiframe.plugins.difx.versions import VersionError, Versions, shown_environment


@dataclass
class DifxOptions:
    """roots: where files may lie, () takes $JOB_ROOT or else the working directory.

    interface: of the messages, by name or address. group, port: of the messages, None takes those of the
    environment. base: the folder of DiFX's versions, None takes $DIFX_BASE. version: which one, None takes
    $DIFX_VERSION, DIFX-DEVEL or the only one. shown: more environment variables that clients may see.
    program, mpirun, mpi_options, environment: of jobs, where these do not say, as for `JobOptions`.
    calc_programs: those that clients of the gateway may have run, the first by default.
    patience: how long each means of stopping a job is given.
    """

    roots: Sequence[str] = ()
    interface: str = "lo"
    group: str | None = None
    port: int | None = None
    base: str | None = None
    version: str | None = None
    shown: Sequence[str] = ()
    program: str = "mpifxcorr"
    mpirun: str = "mpirun"
    mpi_options: str | Sequence[str] | None = None
    calc_programs: Sequence[str] = CALC_PROGRAMS
    environment: Mapping[str, str] = field(default_factory=dict)
    patience: Patience = field(default_factory=Patience)

    def __post_init__(self) -> None:
        for what in ("roots", "shown", "calc_programs"):
            if isinstance(getattr(self, what), str):
                raise ValueError(f"{what} is a list, not the text {getattr(self, what)!r}")
        if not self.calc_programs:
            raise ValueError("calc_programs is empty: one is needed")
        self.messages()
        self.job_options({})
        if self.version is not None:
            Versions(self.base).choose(self.version)

    def messages(self) -> Group:
        """The group of the messages. Raises MessageError."""
        found = Group.find(self.interface)
        return Group(self.group or found.address, self.port or found.port, self.interface)

    def job_options(self, given: dict[str, Any]) -> JobOptions:
        """Options of a job, ours where they are not given. Raises ValueError."""
        ours = {name: getattr(self, name) for name in ("version", "program", "mpirun", "mpi_options")}
        environment = {**self.environment, **given.get("environment", {})}
        return JobOptions(**{**ours, **given, "environment": environment})

    def folders(self) -> list[str]:
        """The roots."""
        return list(self.roots) or [os.environ.get("JOB_ROOT") or os.getcwd()]


@dataclass(frozen=True)
class VersionInfo:
    """available: names; base: the folder of them; chosen: the one that programs are of.

    chosen is None where they are those on the PATH, and where there are several of which none was named.
    user: whose programs run; environment: the variables that clients may see.
    """

    available: list[str]
    chosen: str | None
    base: str
    user: int
    environment: dict[str, str]


class DifxFace(DifxFiles):
    """The DiFX plugin at the client. Its attributes are the plugin's commands, and those of this class."""

    def __init__(self, proxy: Any) -> None:
        self._proxy = proxy

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._proxy, name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *dir(self._proxy)})

    def __repr__(self) -> str:
        return repr(self._proxy)

    def schedule(
        self,
        scheduler: Any,
        job: str,
        *,
        after: Sequence[str] = (),
        batch: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> str:
        """Submit a job to the batch system of a scheduler plugin; the batch system's id of it.

        scheduler: what `client.plugin("scheduler", ...)` returned. after: ids of what has to be done first.
        batch: options of the scheduler, as partition or time. options: as for `start_job`.
        """
        given = dict(batch or {})
        if after:
            given["depends"] = list(after)
        return str(scheduler.submit(self._proxy.batch_command(job, **options), **given))


class Difx(JobCommands, MessageCommands, MonitorCommands, GatewayCommands, Plugin):
    """Files, versions, messages, jobs and spectra of a DiFX correlator."""

    name = "difx"
    Options = DifxOptions
    face = DifxFace

    def start(self, context: Context) -> None:
        """Nothing is opened yet."""
        self.context = context
        config: DifxOptions = context.config
        self._versions = Versions(config.base)
        self._jobs: Jobs | None = None

    def stop(self) -> None:
        """End what runs, hear no more, and let go of the files."""
        self.gateway_end()
        if self._jobs is not None:
            self.jobs_close()
        self.monitors_close()
        self.messages_close()
        self.files_close()

    def panel(self) -> dict[str, Any] | None:
        """The jobs, once there was one."""
        return self.jobs_panel() if self._jobs is not None else None

    def files_roots(self) -> list[str]:
        """Of the options."""
        config: DifxOptions = self.context.config
        return config.folders()

    @property
    def jobs(self) -> Jobs:
        """The jobs of this host."""
        if self._jobs is None:
            config: DifxOptions = self.context.config
            self._jobs = Jobs(self.files, config.messages(), self._versions, patience=config.patience)
        return self._jobs

    def job_options(self, given: dict[str, Any]) -> JobOptions:
        """Options of a job, those of the plugin where they are not given."""
        super().job_options(given)
        config: DifxOptions = self.context.config
        return config.job_options(given)

    def messages_group(self) -> Group:
        """Of the options, else of the environment."""
        config: DifxOptions = self.context.config
        return config.messages()

    @command
    def versions(self) -> VersionInfo:
        """The versions of DiFX that there are, and what clients may know of the environment."""
        config: DifxOptions = self.context.config
        chosen = None
        with contextlib.suppress(VersionError):
            chosen = self._versions.choose(config.version)
        return VersionInfo(
            self._versions.names(),
            chosen,
            self._versions.base,
            os.getuid(),
            shown_environment(config.shown),
        )
