"""The files of one job: their names, and writing them all or none.

<name>.<8 letters>.<suffix>.sbatch   what is submitted (.qsub, .sge, .job)
....<suffix>.script                  the command; a function has one only if there are modules to load
....<suffix>.out .err                its output; of an array one for each task, .out.0 and so on
....<suffix>.log                     what the batch system itself has to say (PBS, Grid Engine)
....<suffix>.end                     when it began and how it ended, written by the job itself
....<suffix>.record                  the job as its client knew it
...._func.<suffix>.py.pickle.in .out a function with its arguments; its result
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mpiframe.plugins.scheduler.errors import SubmitError

_TOKEN_BYTES = 4


@dataclass(frozen=True, slots=True)
class JobFiles:
    """The paths of one job's files. out and err may be the user's own, in other folders."""

    folder: str
    base: str
    suffix: str
    kind: str
    out: str
    err: str

    @classmethod
    def named(
        cls, name: str, folder: str, suffix: str, kind: str, out: str | None = None, err: str | None = None
    ) -> JobFiles:
        """Files with names that no other job has. A relative `out` or `err` is one in `folder`."""
        clean = re.sub(r"[^\w.+-]", "_", name)[:100].lstrip(".-") or "job"
        base = f"{clean}.{secrets.token_hex(_TOKEN_BYTES)}"
        stem = os.path.join(folder, f"{base}.{suffix}")
        return cls(
            folder,
            base,
            suffix,
            kind,
            os.path.join(folder, out) if out else f"{stem}.out",
            os.path.join(folder, err) if err else f"{stem}.err",
        )

    def path(self, ending: str) -> str:
        """The file with this ending."""
        return os.path.join(self.folder, f"{self.base}.{self.suffix}.{ending}")

    @property
    def submission(self) -> str:
        """What is submitted."""
        return self.path(self.kind)

    @property
    def script(self) -> str:
        """The command, as a script."""
        return self.path("script")

    @property
    def log(self) -> str:
        """Messages of the batch system."""
        return self.path("log")

    @property
    def end(self) -> str:
        """What the job writes about itself."""
        return self.path("end")

    @property
    def record(self) -> str:
        """What its client wrote about it."""
        return self.path("record")

    @property
    def function_in(self) -> str:
        """The function with its arguments."""
        return os.path.join(self.folder, f"{self.base}_func.{self.suffix}.py.pickle.in")

    @property
    def function_out(self) -> str:
        """Its result."""
        return os.path.join(self.folder, f"{self.base}_func.{self.suffix}.py.pickle.out")

    def scripts(self, tasks: Iterable[int | None]) -> list[str]:
        """All files but the outputs."""
        single = [self.submission, self.script, self.function_in, self.log, self.record]
        each = [of_task(path, task) for task in tasks for path in (self.end, self.function_out)]
        return single + each

    def outputs(self, tasks: Iterable[int | None]) -> list[str]:
        """Standard output and error."""
        return [of_task(path, task) for task in tasks for path in (self.out, self.err)]


def of_task(path: str, task: int | None) -> str:
    """The file of one task of an array."""
    return path if task is None else f"{path}.{task}"


def write_all(contents: Mapping[str, bytes]) -> None:
    """Write new files; if one cannot be written, none is left. Raises SubmitError.

    Only the user can read them: they hold what a function was called with.
    """
    written: list[str] = []
    try:
        for path, content in contents.items():
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            descriptor = os.open(path, flags, 0o700 if content.startswith(b"#!") else 0o600)
            written.append(path)
            with open(descriptor, "wb") as file:
                file.write(content)
    except OSError as error:
        remove(written)
        raise SubmitError(
            f"cannot write the job's file {error.filename or path}: {error.strerror}"
        ) from error


def replace(path: str, content: bytes) -> None:
    """Write a file so that a reader sees the old or the new one, never a part. Raises OSError."""
    part = f"{path}.{secrets.token_hex(_TOKEN_BYTES)}.part"
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(content)
        os.replace(part, path)
    except OSError:
        remove([part])
        raise


def remove(paths: Iterable[str]) -> list[str]:
    """Delete those of the files that are there; the deleted ones."""
    gone = []
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
            gone.append(path)
    return gone


def read_text(path: str) -> str:
    """A file's text, "" if there is none (yet); what is no UTF-8 is replaced."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        return ""
