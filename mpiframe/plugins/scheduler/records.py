"""What is kept on disk about a job, so that it is found again by its id after a restart of the client.

The record lies beside the job's script. An index in the user's state folder leads from ids to records:
`$MPIFRAME_SCHEDULER_STATE`, or `mpiframe/scheduler` below `$XDG_STATE_HOME` (`~/.local/state`).
How a job ended it writes itself, into a third file: lines `begin TIME HOST` and `exit CODE TIME`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mpiframe.plugins.scheduler import files, index
from mpiframe.plugins.scheduler.errors import JobNotFound
from mpiframe.plugins.scheduler.files import JobFiles
from mpiframe.plugins.scheduler.states import JobStatus, State

_VERSION = 1
_SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Record:
    """One job, as its client knew it. id is "" before it was submitted; ended is empty until then."""

    id: str
    qtype: str
    name: str
    files: JobFiles
    count: int | None
    command: str
    is_function: bool
    submitted_at: float
    cancelled: bool = False
    clean_files: bool = False
    clean_outputs: bool = False
    ended: tuple[JobStatus, ...] = ()

    @property
    def tasks(self) -> list[int | None]:
        """The tasks of the array; [None] for a job that is none."""
        return [None] if self.count is None else list(range(self.count))

    def dump(self) -> bytes:
        """As JSON."""
        values = {"version": _VERSION, **{field: getattr(self, field) for field in self.__slots__}}
        values["files"] = dataclasses.asdict(self.files)
        values["ended"] = [dataclasses.asdict(one) for one in self.ended]
        return json.dumps(values).encode()

    def save(self) -> None:
        """Replace the record on disk. Raises OSError."""
        files.replace(self.files.record, self.dump())


def load(path: str) -> Record:
    """The record in a file. Raises OSError, and ValueError for what is no record."""
    with open(path, encoding="utf-8") as file:
        values: dict[str, Any] = json.load(file)
    if not isinstance(values, dict) or values.pop("version", None) != _VERSION:
        raise ValueError(f"{path} is no record of a job, or of another version of mpiframe")
    try:
        values["files"] = JobFiles(**values["files"])
        values["ended"] = tuple(
            JobStatus(**{**one, "state": State(one["state"])}) for one in values.get("ended", ())
        )
        return Record(**values)
    except (TypeError, KeyError) as error:
        raise ValueError(f"{path} is no record of a job: {error}") from error


def state_folder() -> str:
    """Where the index and the local queue live."""
    named = os.environ.get("MPIFRAME_SCHEDULER_STATE")
    if not named:
        home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
        named = os.path.join(home, "mpiframe", "scheduler")
    return os.path.abspath(named)


def _ids(qtype: str) -> str:
    return os.path.join(state_folder(), "ids", qtype)


class Place:
    """Where a new job's record and its line in the index will be.

    Making files is what takes time on a disk, so `make` does it while the batch system takes in the job;
    `keep` fills them once the id is known.
    """

    def __init__(self, record: Record) -> None:
        self._qtype = record.qtype
        self._part = f"{record.files.record}.{secrets.token_hex(4)}.part"
        self._file = -1
        self._entry: index.Entry | None = None
        self._error: OSError | None = None

    def make(self) -> None:
        """Make the files. What goes wrong, `keep` raises: the job may have been taken in meanwhile."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            self._file = os.open(self._part, flags, 0o600)
            self._entry = index.Entry(_ids(self._qtype))
        except OSError as error:
            self._error = error

    def keep(self, record: Record) -> None:
        """Write the record, and put its id into the index. Raises OSError; then there is no record."""
        try:
            if self._error is not None:
                raise self._error
            assert self._entry is not None
            with open(self._file, "wb") as file:
                self._file = -1
                file.write(record.dump())
            os.replace(self._part, record.files.record)
            self._entry.add(record.id, record.files.record)
        except OSError:
            files.remove([record.files.record])
            raise
        finally:
            self.discard()

    def discard(self) -> None:
        """Take away what was made and not used."""
        if self._entry is not None:
            self._entry.close()
            self._entry = None
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        files.remove([self._part])


def find(qtype: str, number: str) -> Record:
    """The record of a job by its id. Raises JobNotFound."""
    found = []
    for path in index.records_of(_ids(qtype), number):
        with contextlib.suppress(OSError, ValueError):
            record = load(path)
            if record.id == number:
                found.append(record)
    if not found:
        raise JobNotFound(f"no record of a job {number!r} of {qtype}")
    return max(found, key=lambda one: one.submitted_at)  # ids begin anew where a batch system was set up anew


def own_statuses(record: Record, tasks: Iterable[int | None]) -> dict[int | None, JobStatus]:
    """What these tasks wrote themselves about their ends; without those that wrote nothing."""
    found = {}
    for task in tasks:
        status = own_status(record, task)
        if status is not None:
            found[task] = status
    return found


def own_status(record: Record, task: int | None) -> JobStatus | None:
    """How a task ended in its own words, or that it began; None if it has not begun."""
    text = files.read_text(files.of_task(record.files.end, task))
    lines = [line.split() for line in text.splitlines(keepends=True) if line.endswith("\n")]
    if not lines or not lines[-1]:
        return None
    hosts = [line[2] for line in lines if line[0] == "begin" and len(line) > 2]
    host, last = (hosts[-1] if hosts else ""), lines[-1]
    if last[0] == _SKIPPED:
        reason = f"job {last[1]}, for which it waited, did not end as it had to"
        return JobStatus(record.id, State.CANCELLED, task, reason=reason, host=host, name=record.name)
    if last[0] == "exit":
        code = int(last[1])
        state = State.COMPLETED if code == 0 else State.CANCELLED if record.cancelled else State.FAILED
        return JobStatus(record.id, state, task, exit_code=code, host=host, name=record.name)
    return JobStatus(record.id, State.RUNNING, task, host=host, name=record.name)


def made_in(folder: str, suffix: str = "cluster", qtype: str | None = None) -> list[str]:
    """The files that jobs made in a folder, of those jobs that have ended or were never submitted."""
    found: list[str] = []
    for entry in sorted(os.listdir(folder)):
        if not entry.endswith(f".{suffix}.record"):
            continue
        try:
            record = load(os.path.join(folder, entry))
        except (OSError, ValueError):
            continue
        if qtype is not None and record.qtype != qtype:
            continue
        own = own_statuses(record, record.tasks)
        over = record.ended or not record.id or all([t in own and own[t].ended for t in record.tasks])
        if over:
            found += record.files.scripts(record.tasks) + record.files.outputs(record.tasks)
    return [path for path in found if os.path.exists(path)]
