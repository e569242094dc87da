"""`Job`, `submit`, and the functions around them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from mpiframe.compat.cluster.queue import Queue, check_queue
from mpiframe.plugins.scheduler import Job as _Job
from mpiframe.plugins.scheduler import JobStatus, default_queue, made_in
from mpiframe.plugins.scheduler import submit_file as _submit_file
from mpiframe.plugins.scheduler.errors import OptionError


class Script:
    """A file of a job, and what is to be in it."""

    def __init__(self, file_name: str) -> None:
        self.file_name = file_name

    @property
    def exists(self) -> bool:
        """Whether it is there."""
        return os.path.exists(self.file_name)

    written = exists

    @property
    def script(self) -> str:
        """Its text, "" if it is not there."""
        if not self.exists:
            return ""
        with open(self.file_name, encoding="utf-8", errors="replace") as file:
            return file.read()

    def __repr__(self) -> str:
        return f"Script<{self.file_name}{'' if self.exists else ', not written'}>"


class Job(_Job):
    """A job as python-cluster had it; see `mpiframe.plugins.scheduler.Job` for all that it can.

    args: a tuple or list for the command or function; path: the folder to run in.
    """

    def __init__(
        self,
        command: str | Sequence[str] | Callable[..., Any],
        args: Any = None,
        name: str | None = None,
        path: str | None = None,
        qtype: str | None = None,
        profile: str | None = None,
        **kwds: Any,
    ) -> None:
        if path is not None:
            kwds["path"] = path
        kwargs = kwds.pop("kwargs", None)
        queue = default_queue(check_queue(qtype))
        super().__init__(command, args, kwargs, name=name, queue=queue, profile=profile, **kwds)
        self._kept: tuple[str, str] | None = None

    @property
    def qtype(self) -> str:
        """The mode."""
        return self.queue.qtype

    @property
    def submitted(self) -> bool:
        """Whether it was submitted."""
        return bool(self.id)

    @property
    def written(self) -> bool:
        """Whether its scripts are there."""
        return self.submission.exists

    @property
    def submission(self) -> Script:
        """What is submitted."""
        return Script(self.files.submission)

    @property
    def exec_script(self) -> Script:
        """The command, or what calls the function."""
        script = Script(self.files.script)
        return self.submission if self.is_function and not script.exists else script

    @property
    def function(self) -> Script | None:
        """The function with its arguments, pickled; None for a command."""
        return Script(self.files.function_in) if self.is_function else None

    @property
    def exitcode(self) -> int | None:
        """The exit code, None before the end."""
        return self.exit_code

    @property
    def queue_info(self) -> JobStatus | None:
        """What the queue says; None before it was submitted."""
        return self.statuses[0] if self.id else None

    @property
    def stdout(self) -> str:
        """Standard output so far, also after `clean` deleted the file."""
        return self._kept[0] if self._kept else super().stdout

    @property
    def stderr(self) -> str:
        """Standard error so far, also after `clean` deleted the file."""
        return self._kept[1] if self._kept else super().stderr

    def write(self, overwrite: bool = True) -> str:
        """Write the scripts; their names are the job's own, so there is nothing to overwrite."""
        if not overwrite and self.written:
            return self.files.submission
        return super().write()

    def submit(self, max_queue_len: int | None = None) -> Job:
        """Submit it, once the queue is short enough; the job itself. 0: however long it is."""
        if max_queue_len != 0:
            Queue(qtype=self.qtype).wait_to_submit(max_queue_len)
        super().submit()
        return self

    def update(self) -> None:
        """Ask the queue, if it was not asked just now."""
        if self.id:
            self.queue.refresh()

    def update_queue_info(self) -> JobStatus | None:
        """Ask, and return what is known."""
        self.update()
        return self.queue_info

    def get_stdout(self, update: bool = True) -> str:
        """Standard output so far."""
        return self._text(update, "stdout")

    def get_stderr(self, update: bool = True) -> str:
        """Standard error so far."""
        return self._text(update, "stderr")

    def get_exitcode(self, update: bool = True) -> int | None:
        """The exit code, if it is known."""
        if update:
            self.update()
        return self.exit_code if self.id else None

    def clean(self, delete_outputs: bool = False) -> list[str]:
        """Delete what the job made; with delete_outputs its output, too, which is read before."""
        if delete_outputs:
            self._kept = self.stdout, self.stderr
        return super().clean(delete_outputs)

    def _text(self, update: bool, which: str) -> str:
        if update:
            self.update()
        return str(getattr(self, which))


def make_job(*args: Any, **kwargs: Any) -> Job:
    """Make a job, with the arguments of `Job`; nothing is written."""
    return Job(*args, **kwargs)


def submit(*args: Any, **kwargs: Any) -> Job:
    """Make a job, with the arguments of `Job`, and submit it."""
    return Job(*args, **kwargs).submit()


def make_job_file(*args: Any, **kwargs: Any) -> str:
    """Make a job, with the arguments of `Job`, and write its scripts; the path of the one to submit."""
    return Job(*args, **kwargs).write()


def submit_file(
    script_file: str, dependencies: Any = None, threads: int | None = None, qtype: str | None = None
) -> Any:
    """Submit a script as it is; the id, a number where it is one. threads: cores, in local mode."""
    waits = dependencies if isinstance(dependencies, (list, tuple)) else [dependencies]
    options: dict[str, Any] = {"cores": threads} if threads else {}
    waited = [one for one in waits if one is not None]
    number = _submit_file(script_file, waited, default_queue(check_queue(qtype)), **options)
    return int(number) if number.isdigit() else number


def clean(jobs: Any) -> list[str]:
    """Delete the files of one or several jobs, but for their output."""
    several = jobs if isinstance(jobs, (list, tuple)) else [jobs]
    if not all([isinstance(job, _Job) for job in several]):
        raise OptionError("clean takes a Job, or a list of them")
    return [path for job in several for path in job.clean()]


def clean_dir(
    directory: str = ".", suffix: str = "cluster", qtype: str | None = None, confirm: bool = False
) -> set[str]:
    """Delete all files that jobs made in a folder, of jobs that have ended; the deleted ones.

    Only what is in a job's own record is deleted, whatever other files are called.
    confirm: ask on the terminal first.
    """
    found = made_in(os.path.abspath(directory), suffix, None if qtype is None else check_queue(qtype))
    if confirm and found:
        print("\n".join(found))
        if input(f"Delete these {len(found)} files? [y/N] ").strip().lower() not in ("y", "yes"):
            return set()
    for path in found:
        os.unlink(path)
    return set(found)
