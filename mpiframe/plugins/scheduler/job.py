"""A job: a shell command, or a Python function with arguments, on a batch system."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from mpiframe.plugins.scheduler import calls, depends, files, records, script
from mpiframe.plugins.scheduler.backends import check_queue
from mpiframe.plugins.scheduler.config_file import options_of
from mpiframe.plugins.scheduler.drivers import Dependency, Submission
from mpiframe.plugins.scheduler.errors import OptionError, SubmitError
from mpiframe.plugins.scheduler.files import JobFiles, of_task
from mpiframe.plugins.scheduler.options import array_of
from mpiframe.plugins.scheduler.queue import Queue, default_queue
from mpiframe.plugins.scheduler.records import Record
from mpiframe.plugins.scheduler.states import JobStatus, State, whole


class Job:
    """One job, or an array of them.

    command: shell text; or a list of words, each quoted; or a callable, with `args` and `kwargs`, which
    runs in this same Python. args after a command are further words. each: an array of one task for
    each item, whose function is called with the item before its arguments.
    profile and options: see `config_file` and `option_help`; options given here win.
    Nothing is written or sent before `submit` (or `write`). Raises OptionError.
    """

    def __init__(
        self,
        command: str | Sequence[str] | Callable[..., Any],
        args: Any = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        name: str | None = None,
        queue: Queue | None = None,
        qtype: str | None = None,
        profile: str | None = None,
        each: Iterable[Any] | None = None,
        **options: Any,
    ) -> None:
        self.queue = queue if queue is not None else default_queue(qtype)
        if qtype is not None and check_queue(qtype) != self.queue.qtype:
            raise OptionError(f"the queue given is one of {self.queue.qtype}, not of {qtype}")
        self.is_function = callable(command)
        self._each = None if each is None else list(each)
        if self._each is not None:
            if not self.is_function or not self._each:
                raise OptionError("each needs a function, and an item at least")
            options.setdefault("array", len(self._each))
        self.options = options_of(options, profile)
        self._count: int | None = None
        self._limit: int | None = None
        if self.options.array:
            self._count, self._limit = array_of(self.options.array)
        if self._each is not None and self._count != len(self._each):
            raise OptionError(f"array {self.options.array} and the {len(self._each)} items do not agree")
        if self.is_function and (self.options.mpi or self.options.mpiframe):
            raise OptionError("mpi and mpiframe start commands; a function runs in one process")
        self._command, self._call = "", None
        if self.is_function:
            self._call = calls.pickled_call(command, args, kwargs, self._each, self.options)
        else:
            self._command = calls.shell_text(command, args, kwargs)
        self.name = name or calls.name_of(command)
        if not self.name.isprintable():
            raise OptionError(f"name {self.name!r} has to be printable text")
        self.folder = os.path.abspath(self.options.dir or ".")
        filedir = os.path.join(self.folder, self.options.filedir or ".")
        self.files = JobFiles.named(
            self.name,
            os.path.normpath(filedir),
            self.options.suffix,
            self.queue.backend.dialect.suffix,
            self.options.outfile,
            self.options.errfile,
        )
        self._written: tuple[Submission, Record] | None = None
        self._record: Record | None = None

    @classmethod
    def find(cls, number: str | int, qtype: str | None = None, queue: Queue | None = None) -> Job:
        """A job of an earlier session (or of this one) by its id. Raises JobNotFound."""
        queue = queue if queue is not None else default_queue(qtype)
        record = records.find(queue.qtype, str(number))
        queue.track(record)
        job = cls.__new__(cls)
        job.queue, job.name, job.files = queue, record.name, record.files
        job.is_function, job._command, job._count = record.is_function, record.command, record.count
        job.folder, job._limit, job._each, job._call = record.files.folder, None, None, None
        job.options = options_of(
            {"clean_files": record.clean_files, "clean_outputs": record.clean_outputs}, None, defaults=False
        )
        job._written, job._record = None, record
        return job

    def __repr__(self) -> str:
        if self._record is None or not self.id:
            return f"<Job {self.name!r}, not submitted>"
        return f"<Job {self.id} {self.name!r} on {self.queue.qtype}: {self._known_state()}>"

    # -- sending ---------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """What the batch system calls it; "" before it was submitted."""
        return "" if self._record is None else self._record.id

    @property
    def tasks(self) -> list[int | None]:
        """The tasks of an array; [None] for a single job."""
        return [None] if self._count is None else list(range(self._count))

    @property
    def waits_for(self) -> tuple[Dependency, ...]:
        """The jobs that it will wait for, asked about now. Raises OptionError, SubmitError."""
        return depends.resolve(self.options.depends, self.queue)

    @property
    def scripts(self) -> list[str]:
        """The files that `write` wrote and that are there."""
        return [path for path in self.files.scripts(self.tasks) if os.path.exists(path)]

    def write(self) -> str:
        """Write the scripts, all or none; the path of the one to submit. Raises SubmitError, OptionError."""
        self._write(with_record=True)
        return self.files.submission

    def texts(self) -> dict[str, str]:
        """The scripts that `write` would write, by path; the one to submit first. Nothing is written.

        Raises OptionError.
        """
        contents = self._prepare()[2]
        scripts = (self.files.submission, self.files.script)
        return {path: contents[path].decode() for path in scripts if path in contents}

    def submit(self) -> Job:
        """Write the scripts and submit them; the job itself. Raises SubmitError, SchedulerDown.

        If it fails, no file is left.
        """
        if self.id:
            raise SubmitError(f"job {self.id} was submitted before")
        submission, record = self._write(with_record=False)
        try:
            self._record = self.queue.send(submission, record)
        except BaseException:
            files.remove(self.files.scripts(self.tasks))
            self._written = None
            raise
        return self

    def _write(self, *, with_record: bool) -> tuple[Submission, Record]:
        if self._written is not None:
            return self._written
        submission, record, contents = self._prepare()
        if with_record:  # otherwise it is written once, with the id in it
            contents[self.files.record] = record.dump()
        files.write_all(contents)
        self._written = submission, record
        return self._written

    def _prepare(self) -> tuple[Submission, Record, dict[str, bytes]]:
        """What is sent, what is kept of it, and the contents of its files."""
        waits = self.waits_for
        named = self.files
        submission = Submission(
            self.name,
            self.options,
            self.folder,
            named.submission,
            named.out,
            named.err,
            named.log,
            waits,
            self._count,
            self._limit,
            ours=True,
        )
        record = Record(
            "",
            self.queue.qtype,
            self.name,
            named,
            self._count,
            self._command,
            self.is_function,
            0.0,
            clean_files=self.options.clean_files,
            clean_outputs=self.options.clean_outputs,
        )
        contents = {}
        command = self._command
        if self._call is not None:
            command = script.function_command(named)
            contents[named.function_in] = self._call
        if self._call is None or self.options.modules:
            contents[named.script] = script.command_text(command, self.options).encode()
            command = script.script_command(named)
        text = script.submission_text(self.queue.backend.dialect, submission, named, command, waits)
        return submission, record, {named.submission: text.encode(), **contents}

    # -- watching --------------------------------------------------------------------------------

    @property
    def statuses(self) -> list[JobStatus]:
        """What is known of each task, asked now if it is not fresh."""
        return self.queue.status(self._submitted())

    @property
    def state(self) -> State:
        """The state of the job, for an array that of the whole."""
        return whole(status.state for status in self.statuses)

    @property
    def done(self) -> bool:
        """Whether the job has ended, or nothing more will be learned of it."""
        self.queue.status(self._submitted())
        return self.queue.has_ended(self.id)

    def wait(self, timeout: float | None = None, *, progress: bool = False) -> bool:
        """Until the job has ended: True; False if `timeout` seconds pass before."""
        return self.queue.wait(self._submitted(), timeout, progress=progress)

    def cancel(self) -> None:
        """End the job; one that has ended is left as it is."""
        self.queue.cancel(self._submitted())

    @property
    def exit_code(self) -> int | None:
        """The exit code: 0 to 255; minus the number of a signal that ended it; None if nobody knows.

        For an array, the first of its tasks' that is not 0.
        """
        codes = self.exit_codes
        if all([code == 0 for code in codes]):
            return 0
        return next((code for code in codes if code), None)

    @property
    def exit_codes(self) -> list[int | None]:
        """The exit code of each task."""
        return [
            -status.signal if status.signal is not None and status.exit_code is None else status.exit_code
            for status in self.statuses
        ]

    @property
    def stdout(self) -> str:
        """Standard output so far, that of an array's tasks one after the other."""
        return "".join(files.read_text(of_task(self.files.out, task)) for task in self.tasks)

    @property
    def stderr(self) -> str:
        """Standard error so far."""
        return "".join(files.read_text(of_task(self.files.err, task)) for task in self.tasks)

    def get(self, timeout: float | None = None) -> tuple[int | None, str, str]:
        """(exit code, standard output, standard error), once it has ended. Raises TimeoutError."""
        self._await(timeout)
        found = self.exit_code, self.stdout, self.stderr
        self.discard_as_asked()
        return found

    def result(self, timeout: float | None = None) -> Any:
        """What the function returned, once it has; for an array the list of it.

        Raises the function's own exception, its cause the job's traceback; JobFailed for a job that
        ended without a result; TimeoutError after `timeout` seconds.
        """
        if not self.is_function:
            raise OptionError(f"{self!r} runs a command, which has no result; get() has its exit code")
        self._await(timeout)
        answers = [calls.answer_of(self.files, status) for status in self.statuses]
        self.discard_as_asked()
        return answers[0] if self._count is None else answers

    def clean(self, delete_outputs: bool = False) -> list[str]:
        """Delete the files that this job made; those of its output only if asked. The deleted ones."""
        gone = files.remove(self.files.scripts(self.tasks))
        if delete_outputs:
            gone += files.remove(self.files.outputs(self.tasks))
        return gone

    def discard_as_asked(self) -> None:
        """Delete what `clean_files` and `clean_outputs` say, as `get` and `result` do after reading it."""
        if self.options.clean_files:
            files.remove(self.files.scripts(self.tasks))
        if self.options.clean_outputs:
            files.remove(self.files.outputs(self.tasks))

    # -- inside ----------------------------------------------------------------------------------

    def _submitted(self) -> str:
        if not self.id:
            raise OptionError(f"{self!r} has to be submitted first")
        return self.id

    def _known_state(self) -> State:
        return whole(status.state for status in self.queue.last_status(self.id))

    def _await(self, timeout: float | None) -> None:
        if not self.wait(timeout):
            raise TimeoutError(f"job {self.id} has not ended after {timeout} s")


def submit(command: Any, args: Any = None, kwargs: Mapping[str, Any] | None = None, **options: Any) -> Job:
    """Make a Job and submit it; see `Job` for the arguments."""
    return Job(command, args, kwargs, **options).submit()
