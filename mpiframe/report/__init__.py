"""`mpiframe report`: a trace as a picture and in words, with what limited the run."""

from __future__ import annotations

import argparse
import os
import shutil
import sys

from mpiframe.errors import WorldError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the subcommand takes."""
    parser.description = "What a run did with its servers and what limited it, in words and as a picture."
    parser.epilog = "example: mpiframe run -n 4 --trace run.json script.py; mpiframe report run.json"
    parser.add_argument("trace", help="a file that `mpiframe run --trace` has written")
    parser.add_argument("-o", "--output", metavar="FILE", help="the picture (default: TRACE.png); .pdf, .svg")
    parser.add_argument("--text", action="store_true", help="no picture, which needs matplotlib")


def run(options: argparse.Namespace) -> int:
    """Carry the subcommand out; raises WorldError."""
    # Late: numpy and what stands on it are for this alone.
    from mpiframe.report import analysis, reading, words

    try:
        trace = reading.read(options.trace)
    except OSError as error:
        raise WorldError(f"cannot read {options.trace}: {error.strerror or error}") from error
    try:
        found = analysis.analyse(trace)
    except ValueError as error:
        raise WorldError(f"there is nothing to say of {options.trace}: {error}") from error
    text = words.text(found, shutil.get_terminal_size((100, 24)).columns)
    if not options.text:
        output = options.output or default_output(options.trace)
        _draw(found, output)
        text += f"\nwrote {output}\n"
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:  # of `head`, which has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def default_output(trace: str) -> str:
    """The picture beside the trace."""
    for ending in (".gz", ".json"):
        trace = trace.removesuffix(ending)
    return f"{trace}.png"


def _draw(found: object, output: str) -> None:
    try:
        from mpiframe.report import picture
    except ImportError as error:
        raise WorldError(
            f"the picture needs matplotlib, which is not here ({error}): pip install "
            "'mpiframe[interactive]', or ask for --text"
        ) from error
    try:
        picture.draw(found, output)  # type: ignore[arg-type]
    except (OSError, ValueError) as error:
        raise WorldError(f"the picture {output} cannot be written: {error}") from error
