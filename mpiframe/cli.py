"""The command `mpiframe`: `run` starts a script on ranks, `doctor` looks; others live where their work is.

Importing this starts no MPI; the ranks are processes of their own.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.machinery
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from mpiframe import __version__, doctor, launcher
from mpiframe.errors import WorldError

_USAGE_STATUS = 2  # what argparse uses for a wrong command line

_LATE = {
    "top": ("mpiframe.watch.top", "look at a running world in the terminal"),
    "dashboard": ("mpiframe.watch.dashboard.command_line", "look at a running world in a browser"),
    "shell": ("mpiframe.shell.command_line", "a prompt that is the client, with servers behind it"),
    "report": ("mpiframe.report", "what limited a run that was traced: words and a picture"),
    "difx": ("mpiframe.plugins.difx.command_line", "jobs of the DiFX correlator"),
    "start": ("mpiframe.worlds.start", "leave a world running, to attach to"),
    "attach": ("mpiframe.worlds.attach", "work with a world that runs"),
    "list": ("mpiframe.worlds.listing", "the worlds that run here"),
    "stop": ("mpiframe.worlds.stop", "end a world"),
    "key": ("mpiframe.worlds.key", "the key file by which a world is reached over TCP"),
}
"""Subcommands by their modules, which have `add_arguments(parser)` and `run(options)`, and are imported when
they are used; and what each is for."""

SUBCOMMANDS = ("run", "submit", "doctor", *_LATE, "-h", "--help", "--version")
"""What `python -m mpiframe` takes for its own, and not for the script that it is to run."""

_CASAMPI = "mpiframe.compat.casampi"

_RUN_EPILOG = """\
Ctrl-C interrupts the script on rank 0, as KeyboardInterrupt. What has not ended after the grace
time, or at a second Ctrl-C, is ended by force. The exit status is that of the ranks, 130 after
Ctrl-C unless the script still ended well.

example: mpiframe run -n 4 script.py --its-own-option
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: that of the process) and return the exit status.

    2 for a command line that cannot be carried out, with a message on standard error; argparse
    leaves with SystemExit(2) itself for one that it cannot read.
    """
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["submit"]:
        return _submit(argv[1:])
    options = _parser(argv[0] if argv else "").parse_args(argv)
    try:
        if options.subcommand == "doctor":
            return doctor.main(options.mpiexec)
        if options.subcommand in _LATE:
            status: int = _module(options.subcommand).run(options)
            return status
        return _run(options)
    except WorldError as error:
        print(f"mpiframe {options.subcommand}: {error}", file=sys.stderr)
        return _USAGE_STATUS


def _run(options: argparse.Namespace) -> int:
    words = ["-m", _CASAMPI if options.casampi else "mpiframe", *_program(options)]
    return start(options, words, traced(options))


def start(
    options: argparse.Namespace,
    words: Sequence[str],
    variables: Mapping[str, str] | None = None,
    foreground: launcher.Foreground | None = None,
) -> int:
    """Start ranks that run `python words`, and wait for their end; the exit status. Raises WorldError.

    `options` are those of `add_launching`, and `--dry-run` and `--name`.
    """
    if options.name is not None and not options.dry_run:
        from mpiframe.worlds import background  # late: a world without a name does without it

        orders = background.orders(options, "script", words, variables)
        return background.run_named(options.name, orders, foreground=foreground)
    plan = launcher.plan(
        options.n,
        words,
        mpiexec=options.mpiexec,
        hostfile=options.hostfile,
        extra=options.launcher_arg,
        resilient=options.resilient,
        variables=variables,
    )
    if options.dry_run:
        print(plan)
        return 0
    return launcher.run(plan, grace=options.grace, foreground=foreground)


def _submit(argv: Sequence[str]) -> int:
    # Late: the other subcommands do without the scheduler.
    from mpiframe.plugins.scheduler import SchedulerError, submit_command

    parser = argparse.ArgumentParser(prog="mpiframe submit", allow_abbrev=False)
    submit_command.add_arguments(parser)
    options, unknown = parser.parse_known_args(argv)
    submit_command.refuse_unknown(parser, unknown)
    try:
        return submit_command.submit(options, _program(options))
    except (WorldError, SchedulerError) as error:
        print(f"mpiframe submit: {error}", file=sys.stderr)
        return _USAGE_STATUS


def _program(options: argparse.Namespace) -> list[str]:
    """The script or module with its arguments, once it is known to exist."""
    if options.module is not None:
        if not options.module:
            raise WorldError("-m needs the name of a module")
        top = options.module[0].partition(".")[0]
        # Looked up where the ranks will, and without importing the packages above it: that could
        # start MPI in this process.
        if top not in sys.builtin_module_names and not importlib.machinery.PathFinder.find_spec(
            top, [os.getcwd(), *sys.path]
        ):
            raise WorldError(f"there is no module {top!r} on Python's path, nor in {os.getcwd()}")
        return ["-m", *options.module]
    if not options.program:
        raise WorldError(
            "nothing to run: give a script, as in `mpiframe run -n 4 script.py`, or -m and a module"
        )
    if not os.path.exists(options.program[0]):
        raise WorldError(f"there is no script {options.program[0]} (looked in {os.getcwd()})")
    return list(options.program)


def _module(subcommand: str) -> Any:
    return importlib.import_module(_LATE[subcommand][0])


def _parser(chosen: str) -> argparse.ArgumentParser:
    """The parser; of the subcommands that live elsewhere only the chosen one knows its options."""
    parser = argparse.ArgumentParser(
        prog="mpiframe",
        description="An MPI-native parallel runtime: rank 0 is the client, the others are servers.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"mpiframe {__version__}")
    commands = parser.add_subparsers(dest="subcommand", required=True, metavar="|".join(SUBCOMMANDS[:-3]))
    run = commands.add_parser(
        "run",
        usage="mpiframe run -n N [options] script.py|-m module [arguments ...]",
        help="start a script on several ranks",
        description="Start a Python script (or module) on rank 0, with N-1 servers.",
        epilog=_RUN_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_launching(run)
    run.add_argument("--dry-run", action="store_true", help="print the command, do not run it")
    run.add_argument(
        "--name",
        metavar="NAME",
        help="so that `mpiframe top NAME`, `dashboard` and `attach` find it while it runs",
    )
    add_trace(run)
    run.add_argument(
        "--casampi",
        action="store_true",
        help="a script written for mpi4casa: its `import casampi` and `import mpi4casa` get ours",
    )
    # Both take all that follows, so that a script's own options are not taken for ours.
    run.add_argument("-m", dest="module", nargs=argparse.REMAINDER, help="a module to run")
    run.add_argument("program", nargs=argparse.REMAINDER, help="a script and its arguments")
    commands.add_parser("submit", help="have a batch system start it: `mpiframe submit --help`")
    check = commands.add_parser(
        "doctor",
        help="say what works on this machine, and what to do about what does not",
        allow_abbrev=False,
    )
    _add_mpiexec(check)
    for name, (_, purpose) in _LATE.items():
        late = commands.add_parser(name, help=purpose, allow_abbrev=False)
        if name == chosen:
            _module(name).add_arguments(late)
    return parser


def add_launching(parser: argparse.ArgumentParser) -> None:
    """The options of whatever starts ranks."""
    parser.add_argument(
        "-n", type=int, required=True, metavar="N", help="ranks, the client among them (2 or more)"
    )
    _add_mpiexec(parser)
    parser.add_argument(
        "--hostfile", metavar="FILE", help="hosts to use, in the format of the MPI, or a line a rank"
    )
    parser.add_argument(
        "--grace",
        type=seconds,
        default=launcher.GRACE_SECONDS,
        metavar="SECONDS",
        help="time to end after Ctrl-C before force is used (default: %(default)s)",
    )
    parser.add_argument(
        "--launcher-arg",
        action="append",
        default=[],
        metavar="ARG",
        help="an argument for mpiexec, as --launcher-arg=--map-by; repeat for more",
    )
    parser.add_argument(
        "--resilient",
        action="store_true",
        help="a server that dies fails only its own requests, and can be replaced",
    )


def add_trace(parser: argparse.ArgumentParser) -> None:
    """The option that has a world traced; `traced` is what comes of it."""
    parser.add_argument(
        "--trace",
        metavar="FILE",
        help="write what becomes of each command, for ui.perfetto.dev and `mpiframe report FILE`; "
        "compressed if FILE ends in .gz",
    )


def traced(options: argparse.Namespace) -> dict[str, str]:
    """The variables that rank 0 gets for it."""
    return {} if options.trace is None else {"MPIFRAME_TRACE": os.path.abspath(options.trace)}


def _add_mpiexec(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--mpiexec", metavar="PATH", help="the launcher to use (default: found)")


def seconds(text: str) -> float:
    """The value of an option that is a time."""
    with contextlib.suppress(ValueError):
        if 0 <= (value := float(text)) < float("inf"):
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
