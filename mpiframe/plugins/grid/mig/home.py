"""Jobs on this machine: a folder that stands for the home on the server, and the jobs' records in it.

A job belongs to the home, not to the client that submitted it: another client finds it by its id.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from mpiframe.launcher.environment import scrub_environment
from mpiframe.plugins.grid.mig import disk, mrsl, runner, shell, slots, states
from mpiframe.plugins.grid.mig.errors import (
    CLIENT_ERROR,
    FILE_NOT_FOUND,
    SYSTEM_ERROR,
    MigLocalError,
    MigServerError,
    MigUnknownJobIdError,
)
from mpiframe.plugins.grid.mig.mrsl import Description
from mpiframe.plugins.grid.mig.records import Record
from mpiframe.plugins.grid.mig.server import Upload

_ID = re.compile(r"[A-Za-z0-9_.-]+")
_TIMES = ("received", "queued", "executing", "finished", "failed", "canceled")
_WITHOUT_MEANING = (
    "MOUNT", "RESOURCE", "VGRID", "MAXFILL", "NOTIFY", "VERIFYFILES", "NODECOUNT", "CPUCOUNT", "MEMORY",
    "DISK", "RETRIES", "ARCHITECTURE", "JOBTYPE", "PLATFORM", "MAXPRICE", "SANDBOX",
)  # fmt: skip
"""Keywords that choose a resource of the grid, or its service: here there is one, and no service."""


class LocalServer:
    """Runs jobs on this machine, as many at once as it has cores.

    home: the folder that stands for the home; by default `MPIFRAME_MIG_HOME`, or <tmp>/<user>_mig_home.
    Raises MigLocalError if it cannot be made or is another user's.
    """

    def __init__(self, home: str | None = None) -> None:
        self.home = disk.open_home(home)
        self._children: set[int] = set()
        try:
            slots.count()
        except ValueError as error:
            raise MigLocalError(str(error)) from None

    def test(self) -> None:
        """Raise MigLocalError unless the home can be written."""
        if not os.access(self.home, os.W_OK | os.X_OK):
            raise MigLocalError(f"the home of local jobs, {self.home}, cannot be written")

    # -- jobs ------------------------------------------------------------------------------------

    def submit(self, text: str, uploads: Sequence[Upload], name: str) -> str:  # noqa: ARG002
        """Put the files into the home, and start the job's process; its id."""
        description = mrsl.parse(text)
        self._check(description)
        for one in uploads:
            self._copy_in(one)
        record, alive = self.prepare(description)
        try:
            self._start(record, alive)
        except OSError as error:
            shutil.rmtree(record.folder, ignore_errors=True)
            raise MigLocalError(f"the process of job {record.id} cannot be started: {error}") from error
        finally:
            os.close(alive)
        return record.id

    def prepare(self, description: Description, **values: Any) -> tuple[Record, int]:
        """A job's folder, with its input files and its record, and its open lock (-1 where it is shared).

        Nothing is left of one that cannot be made.
        """
        stamp = time.strftime("%Y%m%d_%H%M%S")
        alive = -1
        record = Record(self.home, f"local_{stamp}_{secrets.token_hex(4)}")
        full = description.expanded(record.id)
        spec = shell.Spec(
            record.id,
            full["EXECUTE"],
            (*_runtime(full), *full["ENVIRONMENT"]),
            tuple((source, dest, program) for source, dest, program in _inputs(full) if "://" in source),
            tuple(full.files("OUTPUTFILES")),
            float(full["CPUTIME"]) if "CPUTIME" in full.given else None,
        )
        try:
            os.mkdir(record.folder, 0o700)
            os.mkdir(record.path("exec"))
            os.makedirs(record.output(), mode=0o700, exist_ok=True)
            for ending in ("stdout", "stderr"):
                disk.replace(record.output(ending), b"")
            disk.replace(record.path("spec"), spec.to_json().encode())
            for source, destination, program in _inputs(full):
                if "://" not in source:
                    self._copy_input(record, source, destination, program)
            # Before there is a record: of one that nobody looks after others would say that it failed.
            alive = self._claim(record)
            now = time.time()
            times = {"received": now, "queued": now}
            record.create(
                {
                    "status": states.QUEUED,
                    "name": full["JOBNAME"],
                    "execute": list(spec.lines),
                    **times,
                    **values,
                }
            )
        except BaseException as error:
            if alive >= 0:
                os.close(alive)
            shutil.rmtree(record.folder, ignore_errors=True)
            shutil.rmtree(record.output(), ignore_errors=True)
            if isinstance(error, OSError):
                raise MigLocalError(f"the job's files cannot be written: {error}") from error
            raise
        return record, alive

    def _claim(self, record: Record) -> int:
        """Make `alive`, held by this process, which is no keeper that others may end; its descriptor."""
        return disk.hold_new(record.path("alive"))

    def record(self, job_id: str) -> Record:
        """The record of a job. Raises MigUnknownJobIdError."""
        record = Record(self.home, str(job_id))
        if not _ID.fullmatch(str(job_id)) or set(str(job_id)) <= {"."} or not record.exists:
            raise MigUnknownJobIdError(f"there is no job {job_id!r} in {self.home}", CLIENT_ERROR)
        return record

    def info(self, job_id: str) -> dict[str, str]:
        """ID, STATUS, the times of its states, EXECUTE, and for one that FAILED the REASON."""
        record = self.record(job_id)
        self._reap()
        return describe(record.resolve())

    def cancel(self, job_id: str) -> None:
        """End a job with all its processes; returns when it has. Raises MigServerError if it has before."""
        record = self.record(job_id)
        self.refuse_ended(record)
        if record.is_kept_elsewhere():
            raise MigLocalError(f"job {job_id} runs on another host, and cannot be canceled from here")
        disk.replace(record.path("canceled"), b"")
        record.signal(signal.SIGTERM)
        if not record.wait(2 * shell.KILL_SECONDS + 4):
            record.signal(signal.SIGKILL)  # its keeper hangs: its lock goes with it
            record.wait(shell.KILL_SECONDS)
        self._reap()

    @staticmethod
    def refuse_ended(record: Record) -> None:
        """As the server does: a job that has ended cannot be canceled."""
        status = record.resolve()["status"]
        if status in states.ENDED:
            raise MigServerError(
                f"job {record.id} is {status}: only a job that is QUEUED or EXECUTING can be canceled",
                CLIENT_ERROR,
            )

    def wait(self, job_id: str, seconds: float | None) -> bool:
        """Until a job has ended; whether it has."""
        return self.record(job_id).wait(seconds)

    def ids(self) -> list[str]:
        """All jobs of this home, the oldest first."""
        folder = os.path.join(self.home, disk.JOBS)
        return sorted(name for name in os.listdir(folder) if Record(self.home, name).exists)

    def _check(self, description: Description) -> None:
        for source, destination in description.files("OUTPUTFILES"):
            if "://" in destination:
                raise MigLocalError(f"output {source} cannot be sent to {destination} from here: name a file")
            disk.inside(self.home, destination)
            if os.path.isabs(source) or ".." in source.split("/"):
                raise MigLocalError(f"output {source} is not in the folder in which the job runs")

    @staticmethod
    def without_meaning(description: Description) -> list[str]:
        """The keywords of a description that change nothing here."""
        return [keyword for keyword in _WITHOUT_MEANING if keyword in description.given]

    def _copy_in(self, upload: Upload) -> None:
        destination = disk.inside(self.home, upload.name)
        if os.path.realpath(upload.path) == os.path.realpath(destination):
            return
        try:
            disk.copy(upload.path, destination, upload.program)
        except OSError as error:
            raise MigLocalError(f"{upload.path} cannot be copied to {destination}: {error}") from error

    def _copy_input(self, record: Record, source: str, destination: str, program: bool) -> None:
        path = disk.inside(self.home, source)
        if not os.path.isfile(path):
            raise MigServerError(f"the job's input file {source} is not in {self.home}", FILE_NOT_FOUND)
        disk.copy(path, disk.inside(record.path("exec"), destination), program)

    def _start(self, record: Record, alive: int) -> None:
        # The lock passes to the process with its descriptor, so there is no moment without it.
        log = os.open(record.path("log"), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        try:
            lock = max(alive, log, null, 2) + 1
            words = runner.command(record.folder, self.home, str(lock))
            # Not a Popen: nobody here has to live as long as it does.
            pid = os.posix_spawn(
                sys.executable,
                words,
                scrub_environment(os.environ),
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, alive, lock),
                    (os.POSIX_SPAWN_DUP2, null, 0),
                    (os.POSIX_SPAWN_DUP2, log, 1),
                    (os.POSIX_SPAWN_DUP2, log, 2),
                ],
                setsid=True,
            )
        finally:
            os.close(log)
            os.close(null)
        self._children.add(pid)
        record.kept_by(pid)

    def _reap(self) -> None:
        for pid in list(self._children):
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(pid, os.WNOHANG)[0] == 0:
                    continue
            self._children.discard(pid)

    # -- files -----------------------------------------------------------------------------------

    def upload(self, path: str, destination: str) -> None:
        """Copy a file into the home."""
        self._copy_in(Upload(path, destination))

    def download(self, path: str, destination: str) -> None:
        """Copy a file of the home."""
        source = self._file(path)
        try:
            disk.copy(source, os.path.abspath(destination))
        except OSError as error:
            raise MigLocalError(f"{path} cannot be written to {destination}: {error}") from error

    def cat(self, path: str) -> bytes:
        """What is in a file, or in all that match a pattern."""
        found = self._matching(path)
        content = b""
        for name in found:
            with open(self._file(os.path.relpath(name, self.home)), "rb") as file:
                content += file.read()
        return content

    def ls(self, path: str) -> list[str]:
        """Names in a folder, without those that begin with a dot."""
        names: list[str] = []
        for found in self._matching(path):
            if os.path.isdir(found):
                names += sorted(name for name in os.listdir(found) if not name.startswith("."))
            else:
                names.append(os.path.basename(found))
        return names

    def exists(self, path: str) -> bool:
        """Whether there is such a file or folder."""
        try:
            return bool(self._matching(path))
        except MigServerError as error:
            if error.error_code == FILE_NOT_FOUND:
                return False
            raise

    def mkdir(self, path: str) -> None:
        """Make a folder; its parent has to be there."""
        self._do(os.mkdir, path)

    def remove(self, path: str) -> None:
        """Delete a file, or all that match a pattern."""
        for found in self._matching(path):
            self._do(os.unlink, os.path.relpath(found, self.home))

    def rmdir(self, path: str) -> None:
        """Delete an empty folder."""
        self._do(os.rmdir, path)

    def _do(self, call: Any, path: str) -> None:
        try:
            call(disk.inside(self.home, path))
        except FileNotFoundError:
            raise _not_found(path) from None
        except OSError as error:
            raise MigServerError(f"{path}: {error.strerror}", SYSTEM_ERROR) from error

    def _file(self, path: str) -> str:
        found = disk.inside(self.home, path)
        if not os.path.isfile(found):
            raise _not_found(path)
        return found

    def _matching(self, path: str) -> list[str]:
        exact = disk.inside(self.home, path)
        if os.path.lexists(exact):
            return [exact]
        found = [
            disk.inside(self.home, name) for name in sorted(glob.glob(path.lstrip("/"), root_dir=self.home))
        ]
        if not found:
            raise _not_found(path)
        return found


def describe(found: Mapping[str, Any]) -> dict[str, str]:
    """A record as the server tells of a job."""
    info = {"ID": found["id"], "JOB ID": found["id"], "STATUS": found["status"]}
    info["EXECUTE"] = "; ".join(found["execute"])
    for name in _TIMES:
        if name in found:
            info[name.upper()] = time.asctime(time.gmtime(found[name]))
    for name in ("name", "reason", "resource"):
        if found.get(name):
            info[name.upper()] = str(found[name])
    return info


def _not_found(path: str) -> MigServerError:
    return MigServerError(f"{path}: No such file or directory", FILE_NOT_FOUND)


def _inputs(description: Description) -> list[tuple[str, str, bool]]:
    """(source, destination, whether it is a program) of all files that a job needs."""
    return [
        (source, destination, keyword == "EXECUTABLES")
        for keyword in ("INPUTFILES", "EXECUTABLES")
        for source, destination in description.files(keyword)
    ]


def _runtime(description: Description) -> list[tuple[str, str]]:
    """What a resource with a runtime environment for Python sets: the variable PYTHON."""
    for name in description["RUNTIMEENVIRONMENT"]:
        if name.upper().startswith("PYTHON"):
            wanted = shutil.which("python2") if name.upper().startswith("PYTHON-2") else None
            return [("PYTHON", wanted or sys.executable)]
    return []
