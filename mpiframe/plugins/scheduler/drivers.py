"""What every batch system's driver does: build commands, read their outputs. No driver does any I/O."""

from __future__ import annotations

import re
import shlex
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from mpiframe.plugins.scheduler.options import Options
from mpiframe.plugins.scheduler.states import JobStatus

Kind = Literal["afterok", "afterany", "afternotok"]
KINDS: tuple[Kind, ...] = ("afterok", "afterany", "afternotok")


@dataclass(frozen=True, slots=True)
class Dependency:
    """A job that has to end first. `records`: where its tasks write how they ended, if it is ours."""

    job: str
    kind: Kind = "afterok"
    records: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Submission:
    """All that a driver gets to know of a job. Paths are absolute.

    log: for what the batch system itself has to say. count: tasks of an array, None for a single job;
    limit: how many of them may run at once. ours: the script is one that we wrote (`submission_text`).
    """

    name: str
    options: Options
    folder: str
    script: str
    out: str
    err: str
    log: str
    depends: tuple[Dependency, ...] = ()
    count: int | None = None
    limit: int | None = None
    ours: bool = False


class Dialect(ABC):
    """How a job's script has to look for one batch system.

    redirects: whether the script sends the output to its files itself, because the batch system would
    deliver it late, or elsewhere. checks_dependencies: whether the script looks itself how the jobs ended
    that it waited for, because the batch system only knows that they ended.
    index: shell expression for the task's number in an array, from 0; empty outside of one.
    gate: what a script does first, before anything of it can be seen.
    """

    name: ClassVar[str]
    prefix: ClassVar[str]
    suffix: ClassVar[str]
    index: ClassVar[str]
    redirects: ClassVar[bool] = True
    checks_dependencies: ClassVar[bool] = False
    gate: ClassVar[str] = ""

    @abstractmethod
    def header(self, job: Submission) -> list[str]:
        """The options for the head of the script, one a line, quoted as the batch system reads them."""


class Driver(Dialect):
    """One batch system, as commands and their outputs."""

    unknown_id: ClassVar[re.Pattern[str]]
    """What the commands say of an id they do not know: an answer, not a failure."""
    batch: ClassVar[int] = 2000
    """How many ids one command may be asked about."""
    account_batch: ClassVar[int] = 200
    """The same for the accounting."""

    @abstractmethod
    def submit_argv(self, script: str, depends: Sequence[Dependency]) -> list[str]:
        """The command that submits a script."""

    @abstractmethod
    def parse_submit(self, text: str) -> str:
        """The id in what that command printed. Raises ValueError."""

    @abstractmethod
    def status_argv(self, ids: Sequence[str] | None, user: str) -> list[str]:
        """The command that lists these jobs, or all of the user's for None, with every task of arrays."""

    @abstractmethod
    def parse_status(self, text: str) -> list[JobStatus]:
        """The jobs that it listed. Raises ValueError for what cannot be read."""

    @abstractmethod
    def accounting_argv(self, ids: Sequence[str]) -> list[str] | None:
        """The command that tells of jobs that have left the queue; None where there is no other."""

    @abstractmethod
    def parse_accounting(self, text: str) -> list[JobStatus]:
        """The jobs that it told of."""

    @abstractmethod
    def cancel_argv(self, ids: Sequence[str]) -> list[str]:
        """The command that ends jobs."""


def depend_groups(depends: Sequence[Dependency]) -> list[tuple[str, list[str]]]:
    """Ids by kind, in the order of the first of each kind."""
    groups: dict[str, list[str]] = {}
    for one in depends:
        ids = groups.setdefault(one.kind, [])
        if one.job not in ids:
            ids.append(one.job)
    return list(groups.items())


def plain_name(name: str, most: int) -> str:
    """A name that PBS and Grid Engine take: it begins with a letter, and has no blank nor slash."""
    clean = re.sub(r"[^\w.+-]", "_", name, flags=re.ASCII)
    return (clean if clean[:1].isalpha() else f"j{clean}")[:most]


def plain_path(path: str) -> str:
    """A path for the batch system's own messages, or nowhere if it has letters that it might read itself."""
    return path if re.fullmatch(r"[\w./+-]+", path, flags=re.ASCII) else "/dev/null"


def option_line(name: str, value: object) -> str:
    """`--name=value`, quoted where needed."""
    return f"--{name}={shlex.quote(str(value))}"


def single_id(text: str, pattern: re.Pattern[str]) -> str:
    """The id on the last line that is one: sites print messages before it. Raises ValueError."""
    for line in reversed(text.splitlines()):
        if match := pattern.fullmatch(line.strip()):
            return match[1]
    raise ValueError(f"no job id in {text.strip()!r}")
