"""`mpiframe shell`: its options, and the world that it starts in the foreground."""

from __future__ import annotations

import argparse

from mpiframe import launcher
from mpiframe.cli import add_launching, start
from mpiframe.launcher.foreground import is_terminal

_EPILOG = """\
Ctrl-C interrupts the command that is waited for, or gives a new line; Ctrl-D or exit leaves; Ctrl-\\
ends everything by force; Ctrl-Z does nothing. From a pipe, commands are read as a script.

example: mpiframe shell -n 4
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `mpiframe shell`."""
    parser.usage = "mpiframe shell -n N [options]"
    parser.description = "A prompt on rank 0, with N-1 servers behind it."
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add_launching(parser)
    parser.add_argument("--dry-run", action="store_true", help="print the command, do not run it")
    parser.add_argument(
        "--name",
        metavar="NAME",
        help="so that `mpiframe top NAME`, `dashboard` and `attach` find it while it runs",
    )
    parser.add_argument("--plain", action="store_true", help="Python's own prompt, though IPython is there")


def run(options: argparse.Namespace) -> int:
    """Start the world and lend it this terminal; the exit status. Raises WorldError."""
    foreground = None
    words = ["-m", "mpiframe", "-m", "mpiframe.shell"]
    if not is_terminal(0):
        words.append("--read")
    elif not options.dry_run:
        foreground = launcher.Foreground()
    if options.plain:
        words.append("--plain")
    return start(options, words, foreground=foreground)
