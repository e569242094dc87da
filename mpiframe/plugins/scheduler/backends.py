"""Where jobs are sent: the few verbs that the queue needs, and their form for batch systems with commands."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import subprocess
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cache

from mpiframe.launcher.environment import scrub_environment
from mpiframe.plugins.scheduler import commands
from mpiframe.plugins.scheduler.drivers import Dialect, Driver, Submission
from mpiframe.plugins.scheduler.errors import OptionError, SchedulerDown, SubmitError
from mpiframe.plugins.scheduler.gridengine import GridEngine
from mpiframe.plugins.scheduler.pbs import OpenPbs, Torque
from mpiframe.plugins.scheduler.slurm import Slurm
from mpiframe.plugins.scheduler.states import JobStatus

COMMAND_SECONDS = 120.0
"""How long a command of a batch system may take. A busy server can need a minute."""

DRIVERS: dict[str, type[Driver]] = {driver.name: driver for driver in (Slurm, OpenPbs, Torque, GridEngine)}

# What the commands say where it is the server that is not there, not the job that is wrong.
_DOWN = re.compile(
    r"unable to contact|unable to communicate|cannot connect|can't connect|connection refused|"
    r"socket timed out|unable to send message to qmaster|no route to host|cannot be resolved|"
    r"unable to process configuration|communication failure|commlib error|could not establish a connection",
    re.IGNORECASE,
)


Mark = tuple[str, int]


class Backend(ABC):
    """One batch system. All methods may be called from any thread."""

    dialect: Dialect

    @property
    def name(self) -> str:
        """Its name among `BACKENDS`."""
        return self.dialect.name

    @abstractmethod
    def submit(self, job: Submission, meanwhile: Callable[[], object] | None = None) -> str:
        """Send a job whose script is written; its id. `meanwhile` is called once, while that is under way.

        Raises SubmitError, SchedulerDown.
        """

    @abstractmethod
    def status(self, ids: Sequence[str]) -> list[JobStatus]:
        """Those of these jobs that it knows, in one query. Raises SchedulerDown."""

    @abstractmethod
    def listing(self, user: str | None) -> list[JobStatus]:
        """All jobs of a user; None for one's own. Raises SchedulerDown."""

    @abstractmethod
    def accounting(self, ids: Sequence[str]) -> list[JobStatus]:
        """What is known of jobs that have left the queue; [] where nothing is."""

    @abstractmethod
    def cancel(self, ids: Sequence[str]) -> None:
        """End jobs; those that have ended are no error. Raises SchedulerDown."""

    def changes(self, ids: Sequence[str]) -> tuple[list[JobStatus], set[str] | None]:
        """What may be new of these jobs since the last call, in one query, and those it does not know.

        None for the second: all it knows is in the first, so who is missing there is unknown.
        """
        return self.status(ids), None

    @property
    def pushes(self) -> bool:
        """Whether `pause` is told of changes, so that there is no need to ask seldom."""
        return False

    def mark(self) -> Mark:
        """What `pause` takes, so that no change from now on is slept through."""
        return "", 0

    def pause(self, seconds: float, mark: Mark) -> None:  # noqa: ARG002
        """Wait so long, or less where something has changed since the mark."""
        threading.Event().wait(seconds)


class CommandBackend(Backend):
    """A batch system that is used through its commands."""

    def __init__(self, driver: Driver) -> None:
        self.dialect = self._driver = driver
        self._accounting_works = True

    def submit(self, job: Submission, meanwhile: Callable[[], object] | None = None) -> str:
        """Run the submit command."""
        argv = self._driver.submit_argv(job.script, job.depends)
        done = self._run(argv, job.folder, meanwhile)
        if done.returncode != 0:
            message = f"{argv[0]} refused the job {job.name!r}: {_words(done)}"
            raise SchedulerDown(message) if _DOWN.search(done.stderr) else SubmitError(message)
        try:
            return self._driver.parse_submit(done.stdout)
        except ValueError as error:
            raise SubmitError(f"{argv[0]} took the job {job.name!r}, but {error}") from None

    def status(self, ids: Sequence[str]) -> list[JobStatus]:
        """Run the status command, once for as many ids as it may be asked about."""
        wanted, found = set(ids), []
        for start in range(0, len(ids), self._driver.batch):
            part = ids[start : start + self._driver.batch]
            found += self._query(self._driver.status_argv(part, getpass.getuser()))
        return [one for one in found if one.job in wanted]

    def listing(self, user: str | None) -> list[JobStatus]:
        """Run the status command for everything."""
        return self._query(self._driver.status_argv(None, user or getpass.getuser()))

    def accounting(self, ids: Sequence[str]) -> list[JobStatus]:
        """Run the accounting command, where there is one and the site keeps books."""
        found: list[JobStatus] = []
        for start in range(0, len(ids), self._driver.account_batch):
            argv = self._driver.accounting_argv(ids[start : start + self._driver.account_batch])
            if argv is None or not self._accounting_works or shutil.which(argv[0]) is None:
                break
            done = self._run(argv)
            if done.returncode == 0:
                found += self._parse(argv, done, accounting=True)
            elif "accounting storage is disabled" in done.stderr:
                self._accounting_works = False
        return [one for one in found if one.ended]

    def cancel(self, ids: Sequence[str]) -> None:
        """Run the cancel command."""
        for start in range(0, len(ids), self._driver.batch):
            done = self._run(self._driver.cancel_argv(ids[start : start + self._driver.batch]))
            if done.returncode != 0 and not self._only_unknown(done):
                raise SchedulerDown(f"jobs could not be cancelled: {_words(done)}")

    def _query(self, argv: list[str]) -> list[JobStatus]:
        done = self._run(argv)
        if done.returncode != 0 and not self._only_unknown(done):
            raise SchedulerDown(f"{argv[0]} failed with status {done.returncode}: {_words(done)}")
        return self._parse(argv, done)

    def _parse(
        self, argv: list[str], done: subprocess.CompletedProcess[str], accounting: bool = False
    ) -> list[JobStatus]:
        parse = self._driver.parse_accounting if accounting else self._driver.parse_status
        try:
            return parse(done.stdout)
        except ValueError as error:
            raise SchedulerDown(f"what {argv[0]} printed cannot be read: {error}") from error

    def _only_unknown(self, done: subprocess.CompletedProcess[str]) -> bool:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        return bool(lines) and any(self._driver.unknown_id.search(line) for line in lines)

    def _run(
        self, argv: list[str], folder: str | None = None, meanwhile: Callable[[], object] | None = None
    ) -> subprocess.CompletedProcess[str]:
        # A rank's own variables would make the job take itself for that rank.
        env = scrub_environment(os.environ, purpose="job") | {"LC_ALL": "C"}
        try:
            return commands.run(argv, env, folder, meanwhile, COMMAND_SECONDS)
        except FileNotFoundError as error:
            if folder is not None and not os.path.isdir(folder):
                raise SubmitError(f"there is no folder {folder} to run the job in") from error
            raise SchedulerDown(
                f"there is no program {argv[0]!r} on PATH, which {self.name} needs; is it installed here, "
                "or does a module have to be loaded?"
            ) from error
        except subprocess.TimeoutExpired as error:
            raise SchedulerDown(f"{argv[0]} did not answer within {COMMAND_SECONDS:g} s") from error
        except OSError as error:
            raise SchedulerDown(f"{argv[0]} cannot be started: {error}") from error


def _words(done: subprocess.CompletedProcess[str]) -> str:
    return (done.stderr.strip() or done.stdout.strip() or f"status {done.returncode}")[-2000:]


@cache
def get_cluster_environment() -> str:
    """Which batch system this machine submits to: slurm, sge, pbs, torque, or local without any.

    `qsub` is a command of three of them, told apart by what its neighbours say.
    """
    if shutil.which("sbatch"):
        return "slurm"
    return whose_qsub() if shutil.which("qsub") else "local"


def whose_qsub() -> str:
    """The batch system that `qsub` is a command of: sge, pbs or torque. Raises SchedulerDown."""
    if shutil.which("qconf") or shutil.which("qacct") or os.environ.get("SGE_ROOT"):
        return "sge"
    try:
        done = subprocess.run(
            ["qstat", "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SchedulerDown(f"there is a qsub, but qstat does not say whose: {error}") from error
    return "pbs" if "pbs_version" in done.stdout + done.stderr else "torque"


def check_queue(qtype: str | None = None) -> str:
    """The name of the batch system to use. Raises OptionError for one that there is not."""
    if qtype in (None, "auto"):
        return get_cluster_environment()
    found = {"normal": "local", "openpbs": "pbs", "pbspro": "pbs", "gridengine": "sge"}.get(str(qtype), qtype)
    if found not in (*DRIVERS, "local"):
        raise OptionError(f"there is no batch system {qtype!r}; there are {', '.join([*DRIVERS, 'local'])}")
    return str(found)
