"""The texts of a job's scripts. What comes from the user is quoted, or in a file of its own."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence

from mpiframe.plugins.scheduler import run_function
from mpiframe.plugins.scheduler.drivers import Dependency, Dialect, Submission
from mpiframe.plugins.scheduler.errors import OptionError
from mpiframe.plugins.scheduler.files import JobFiles
from mpiframe.plugins.scheduler.options import Options

# No other program is started but the command: on a busy node each costs more than all the rest.
_BODY = """\
{gate}index={index}
end={end}{task}
export MPIFRAME_ARRAY_INDEX="$index"
{redirect}ended() {{
    printf 'exit %d %(%s)T\\n' "$1" -1 >>"$end"
    exit "$1"
}}
printf 'begin %(%s)T %s\\n' -1 "$HOSTNAME" >"$end" || exit 1
{checks}cd -- {folder} || ended 1
# With a trap the shell outlives the signal that ends the command, and can say what came of it.
trap : TERM INT
{run}
ended $?
"""

# Shell: FILE has to exist and its last line to be `exit 0 ...` (or, for afternotok, not to be).
_CHECK = """\
read -r word code _ < <(tail -n 1 -- {record} 2>/dev/null)
if {condition}; then
    printf 'skipped %s\\n' {job} >>"$end"
    exit 1
fi
"""

_MODULES = """\
if ! type module >/dev/null 2>&1; then
    for file in /etc/profile.d/modules.sh /etc/profile.d/lmod.sh; do
        if [ -r "$file" ]; then . "$file"; fi
    done
fi
"""


def submission_text(
    dialect: Dialect, job: Submission, files: JobFiles, run: str, depends: Sequence[Dependency] = ()
) -> str:
    """The script that is submitted: directives, then a command, `run`, with a record of its end."""
    header = [f"{dialect.prefix} {line}" for line in dialect.header(job)]
    for line in header:
        if not line.isprintable():  # a line break would be a directive, or a command, of its own
            raise OptionError(f"{line!r} has to be printable text on one line")
    task = "" if job.count is None else '."${index:=0}"'
    redirect = f"exec >{shlex.quote(job.out)}{task} 2>{shlex.quote(job.err)}{task}\n"
    body = _BODY.format(
        gate=dialect.gate,
        index=dialect.index,
        end=shlex.quote(files.end),
        task=task,
        redirect=redirect if dialect.redirects else "",
        checks="".join(_check(one) for one in depends) if dialect.checks_dependencies else "",
        folder=shlex.quote(job.folder),
        run=run,
    )
    return "\n".join(["#!/bin/bash", *header, "# Written by mpiframe.", body])


def _check(one: Dependency) -> str:
    if one.kind == "afterany":
        return ""
    if not one.records:
        raise OptionError(
            f"this batch system knows only that a job has ended: {one.kind} needs a job of mpiframe, "
            f"and {one.job} is none"
        )
    good = '[ "$word $code" = "exit 0" ]'
    if one.kind == "afterok":
        return "".join(
            _CHECK.format(record=shlex.quote(path), condition=f"! {good}", job=shlex.quote(one.job))
            for path in one.records
        )
    if len(one.records) > 1:
        raise OptionError(f"afternotok of an array ({one.job}) cannot be asked for here")
    return _CHECK.format(record=shlex.quote(one.records[0]), condition=good, job=shlex.quote(one.job))


def command_text(command: str, options: Options) -> str:
    """The script of a command: modules, then the command, under a launcher if it is to have ranks."""
    lines = ["#!/bin/bash"]
    if options.modules:
        lines.append(_MODULES.rstrip())
        lines += [f"module load {shlex.quote(module)} || exit 1" for module in options.modules]
    if options.mpi:
        command = f"{shlex.quote(_mpiexec())} -n {options.mpi} {command}"
    if options.mpiframe:
        command = f"{shlex.quote(sys.executable)} -m mpiframe run -n {options.mpiframe} {command}"
    return "\n".join([*lines, command, ""])


def function_command(files: JobFiles) -> str:
    """The command that calls the function in `function_in`, with this interpreter."""
    words = [sys.executable, os.path.abspath(run_function.__file__), files.function_in, files.function_out]
    return shlex.join(words)


def script_command(files: JobFiles) -> str:
    """The command that runs the script of a command."""
    return shlex.join(["/bin/bash", files.script])


def _mpiexec() -> str:
    """The launcher of this environment's own MPI, or whichever is on the job's PATH."""
    own = os.path.join(sys.prefix, "bin", "mpiexec")
    return own if os.path.exists(own) else "mpiexec"
