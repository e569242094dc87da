"""`mpiframe submit`: a script with its ranks as a job of whichever batch system there is.

    mpiframe submit -n 16 --walltime 2:00:00 --queue long script.py --its-own-option

The options of the job are those of `Job`, by the same names and synonyms.
"""

from __future__ import annotations

import argparse
import difflib
import os
import shlex
import signal
import sys
from collections.abc import Sequence

from mpiframe.plugins.scheduler.drivers import Driver
from mpiframe.plugins.scheduler.errors import OptionError, SchedulerError
from mpiframe.plugins.scheduler.following import follow, on_ctrl_c
from mpiframe.plugins.scheduler.job import Job
from mpiframe.plugins.scheduler.options import SPECS
from mpiframe.plugins.scheduler.states import JobStatus, State

USAGE_STATUS = 2
INTERRUPTED_STATUS = 130
_BROKEN_PIPE_STATUS = 141
_SIGNALLED = 128

# -n says how many ranks; what a function needs is nothing to a script.
_LEFT_OUT = ("mpi", "mpiframe", "imports", "syspaths")

_EPILOG = """\
Without --wait the job's id is all that is printed on standard output. With it the job's output comes as it
is written, and the exit status is the job's (128 and the number of a signal that ended it, 1 for a job that
was cancelled or ran out of time without one). Ctrl-C then asks what is to become of the job; where there is
no terminal to ask at, it cancels the job. Options of the job that are not given come from the profile.

example: mpiframe submit --qtype slurm -n 16 --walltime 2:00:00 --memory 4GB --wait script.py --its-own-option
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `mpiframe submit` takes, the options of jobs by their table."""
    parser.usage = "mpiframe submit -n N [options] script.py|-m module [arguments ...]"
    parser.description = "Submit a Python script (or module), with N-1 servers, to a batch system."
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "-n", type=int, required=True, metavar="N", help="ranks, the client among them (2 or more)"
    )
    parser.add_argument("--qtype", metavar="NAME", help="slurm, pbs, torque, sge or local (default: found)")
    parser.add_argument("--name", help="of the job (default: the script's)")
    parser.add_argument("--profile", metavar="NAME", help="a profile of the config file, not the default one")
    parser.add_argument("--wait", action="store_true", help="show the output, end as the job ends")
    parser.add_argument("--dry-run", action="store_true", help="print the scripts, submit nothing")
    parser.add_argument(
        "--resilient",
        action="store_true",
        help="a server that dies fails only its own requests, and can be replaced",
    )
    parser.add_argument(
        "--casampi", action="store_true", help="a script written for mpi4casa, as for `mpiframe run`"
    )
    group = parser.add_argument_group("options of the job")
    for name, spec in SPECS.items():
        if name in _LEFT_OUT:
            continue
        flags = [f"--{word.replace('_', '-')}" for word in (name, *spec.synonyms)]
        if spec.kind == "bool":
            group.add_argument(*flags, dest=f"job_{name}", action="store_const", const=True, help=spec.help)
        elif spec.kind in ("list", "any"):
            group.add_argument(
                *flags, dest=f"job_{name}", action="append", metavar=spec.kind.upper(),
                help=f"{spec.help.replace('%', '%%')}; repeat for more",
            )  # fmt: skip
        else:
            help_text = spec.help.replace("%", "%%")
            group.add_argument(*flags, dest=f"job_{name}", metavar=spec.kind.upper(), help=help_text)
    # Both take all that follows, so that a script's own options are not taken for ours.
    parser.add_argument("-m", dest="module", nargs=argparse.REMAINDER, help="a module to run")
    parser.add_argument("program", nargs=argparse.REMAINDER, help="a script and its arguments")


def refuse_unknown(parser: argparse.ArgumentParser, unknown: Sequence[str]) -> None:
    """Leave with the nearest of the options for the first of these words, if there is one."""
    if not unknown:
        return
    known = [flag for action in parser._actions for flag in action.option_strings]
    word = unknown[0].partition("=")[0]
    near = difflib.get_close_matches(word, known, 1)
    parser.error(f"there is no option {word}" + (f"; did you mean {near[0]}?" if near else ""))


def submit(given: argparse.Namespace, program: Sequence[str]) -> int:
    """Submit `program` (a script or `-m` and a module, with arguments); the exit status.

    Raises SchedulerError.
    """
    if given.n < 2:
        raise OptionError(f"-n {given.n}: a world has a client and at least one server, so 2 or more ranks")
    options = {name[len("job_") :]: value for name, value in vars(given).items() if name.startswith("job_")}
    words = [*(flag for flag in ("--resilient", "--casampi") if getattr(given, flag[2:])), *program]
    name = given.name or os.path.basename(program[1] if program[0] == "-m" else program[0])
    if options["dir"] is not None and program[0] != "-m":
        words[-len(program)] = os.path.abspath(program[0])  # it is sought here, and run there
    job = Job(words, name=name, qtype=given.qtype, profile=given.profile, mpiframe=given.n, **options)
    if given.dry_run:
        print(_shown(job))
        return 0
    job.submit()
    if not given.wait:
        print(job.id)
        return 0
    _say(f"job {job.id} of {job.queue.qtype} is submitted")
    return _wait(job)


def _shown(job: Job) -> str:
    """The job's scripts, under the names they would have, and what would submit the first."""
    texts, dialect = job.texts(), job.queue.backend.dialect
    shown = [f"# ==> {path} <==\n{text.rstrip()}\n" for path, text in texts.items()]
    if isinstance(dialect, Driver):
        shown.append("# " + shlex.join(dialect.submit_argv(job.files.submission, job.waits_for)))
    else:
        shown.append("# handed to the local queue of this host")
    return "\n".join(shown)


def _wait(job: Job) -> int:
    cancelled = [False]

    def interrupted() -> bool:
        if cancelled[0]:
            _say(f"job {job.id} was told to end, and is left to it")
            return False
        answer = _ask(job)
        if answer == "cancel":
            _say(f"cancelling job {job.id}; Ctrl-C again: do not wait for its end")
            job.cancel()
            cancelled[0] = True
        elif answer == "leave":
            _say(f"job {job.id} goes on")
        else:
            _say(f"waiting on for job {job.id}")
        return answer != "leave"

    try:
        if not follow(job, sys.stdout.buffer, sys.stderr.buffer, interrupted):
            return INTERRUPTED_STATUS
    except BrokenPipeError:
        _say(f"nobody reads the output; job {job.id} goes on")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that its closing says no more
        return _BROKEN_PIPE_STATUS
    except KeyboardInterrupt:
        _say(f"job {job.id} goes on")
        return INTERRUPTED_STATUS
    except SchedulerError:
        _say(f"job {job.id} may go on")
        raise
    statuses = job.statuses
    job.discard_as_asked()
    for status in statuses:
        if status.state is not State.COMPLETED:
            which = "" if status.task is None else f"task {status.task} of "
            _say(f"{which}job {job.id}: {status.words}")
    return INTERRUPTED_STATUS if cancelled[0] else max((_status(one) for one in statuses), default=1)


def _ask(job: Job) -> str:
    """What is to become of a job: cancel, leave or wait."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return "cancel"
    question = f"job {job.id} is {job.state}. Cancel it (c, or Ctrl-C), leave it to itself (l), wait on (w)? "
    _say(question, end="")
    try:
        with on_ctrl_c(signal.default_int_handler):
            answer = sys.stdin.readline()
    except KeyboardInterrupt:
        _say("", end="\n")
        return "cancel"
    if not answer:
        return "leave"  # the terminal is gone
    return {"c": "cancel", "l": "leave"}.get(answer.strip().lower()[:1], "wait")


def _status(one: JobStatus) -> int:
    """The exit status that says how a task ended."""
    if one.signal is not None and one.exit_code is None:
        return _SIGNALLED + one.signal
    if one.exit_code:
        return one.exit_code
    return 0 if one.state is State.COMPLETED else 1


def _say(text: str, end: str = "\n") -> None:
    print(f"mpiframe submit: {text}" if text else text, end=end, file=sys.stderr, flush=True)
