"""What a job runs: read from what the user gave, and what came of a function read back from its file."""

from __future__ import annotations

import os
import pickle
import shlex
import sys
from collections.abc import Mapping
from typing import Any

from mpiframe.plugins.scheduler import files
from mpiframe.plugins.scheduler.errors import JobFailed, OptionError
from mpiframe.plugins.scheduler.files import JobFiles, of_task
from mpiframe.plugins.scheduler.options import Options
from mpiframe.plugins.scheduler.states import JobStatus


class JobTraceback(Exception):
    """Where, in the job, the exception was raised that has this as its cause."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n{self.text}"


def name_of(command: Any) -> str:
    """What a job is called that was given no name: its function or its program."""
    if callable(command):
        return str(getattr(command, "__name__", type(command).__name__)).strip("<>")
    words = command.split() if isinstance(command, str) else [str(word) for word in command]
    return os.path.basename(words[0]) if words else "job"


def shell_text(command: Any, args: Any, kwargs: Mapping[str, Any] | None) -> str:
    """A command with its arguments as one line of shell. Raises OptionError."""
    if kwargs:
        raise OptionError("kwargs go with a function")
    text = command if isinstance(command, str) else shlex.join(str(word) for word in command)
    if not text.strip() or "\0" in text:
        raise OptionError("the command is empty, or holds a zero byte")
    words = [args] if isinstance(args, (str, int, float)) else list(args or ())
    return " ".join([text, *(shlex.quote(str(word)) for word in words)])


def pickled_call(
    function: Any, args: Any, kwargs: Mapping[str, Any] | None, each: list[Any] | None, options: Options
) -> bytes:
    """A function with its arguments as `run_function` reads it. Raises OptionError."""
    import cloudpickle  # late: commands do without

    if isinstance(args, Mapping):
        args, kwargs = (), {**args, **(kwargs or {})}
    elif args is None:
        args = ()
    elif not isinstance(args, (list, tuple)):
        args = (args,)
    path = [os.path.abspath(entry) for entry in [*options.syspaths, *sys.path]]
    prepare = pickle.dumps({"path": path, "imports": list(options.imports)})
    try:
        call: bytes = cloudpickle.dumps((function, tuple(args), dict(kwargs or {}), each), protocol=5)
    except Exception as error:
        raise OptionError(f"the function or its arguments cannot be sent to a job: {error!r}") from error
    return prepare + call


def answer_of(named: JobFiles, status: JobStatus) -> Any:
    """What a task's function returned. Raises what it raised, and JobFailed for one without an answer."""
    try:
        with open(of_task(named.function_out, status.task), "rb") as file:
            answer = pickle.load(file)
    except FileNotFoundError:
        raise JobFailed(_how(named, status), str(status.state), status.exit_code) from None
    if answer[0] == "ok":
        return answer[1]
    error, text = answer[1], answer[2]
    raise error from JobTraceback(text)


def _how(named: JobFiles, status: JobStatus) -> str:
    what = f"job {status.job}" if status.task is None else f"task {status.task} of job {status.job}"
    said = files.read_text(of_task(named.err, status.task)).strip()[-2000:]
    return f"{what} left no result: {status.words}" + (f"\n{said}" if said else "")
