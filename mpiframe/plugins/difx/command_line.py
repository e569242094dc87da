"""`mpiframe difx ...`: what it takes, and what is done. Imports what is heavy only when it runs."""

from __future__ import annotations

import argparse
import contextlib
import sys

from mpiframe.errors import MpiframeError
from mpiframe.plugins.difx import gateway_cli, job_cli

_FAILED = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The subcommands, added to the parser of `mpiframe difx`."""
    commands = parser.add_subparsers(dest="difx_command", required=True, metavar="plot|run|stop|serve")
    plot = commands.add_parser(
        "plot",
        help="draw amplitude, phase and lag spectrum of a baseline",
        description="Draw mean amplitude and phase of a baseline against frequency, and its lag spectrum.",
        epilog="example: mpiframe difx plot tiny_1.input --baseline FD-OV -o fringe.png",
        allow_abbrev=False,
    )
    plot.add_argument("job", metavar="JOB", help="its .input file, or what the names of its files begin with")
    plot.add_argument("--baseline", metavar="A-B", help="two telescopes (default: the first pair of them)")
    plot.add_argument(
        "--freq", type=int, action="append", metavar="N", help="only this band; repeat for more"
    )
    plot.add_argument(
        "--pol", action="append", metavar="AB", help="only this product, as RR; repeat for more"
    )
    plot.add_argument("--source", type=int, metavar="N", help="only this source, by its index")
    plot.add_argument("--follow", action="store_true", help="draw anew as the job runs, until Ctrl-C")
    plot.add_argument(
        "--every",
        type=float,
        default=2.0,
        metavar="SECONDS",
        help="no more often than this with --follow (default: %(default)s)",
    )
    job_cli.add_arguments(
        commands.add_parser(
            "run",
            help="run a job whose files are all there",
            description="Run mpifxcorr on the hosts of a job's .machines file, to its end.",
            epilog="SIGTERM and Ctrl-C end the job, on all its hosts. The exit status is 0 if it was done.",
            allow_abbrev=False,
        ),
        commands.add_parser(
            "stop",
            help="end a job, whoever started it",
            description="End a job on all hosts of its .machines file, and look whether it is gone there.",
            epilog="The exit status is 0 if nothing of it is left, which was seen on all hosts.",
            allow_abbrev=False,
        ),
    )
    gateway_cli.add_arguments(
        commands.add_parser(
            "serve",
            help="serve clients of DiFX's guiServer",
            description="Serve clients that were written for DiFX's guiServer, in its protocol.",
            allow_abbrev=False,
        )
    )
    plot.add_argument("-o", dest="output", metavar="FILE", help="the picture (default: JOB.A-B.png)")


def run(options: argparse.Namespace) -> int:
    """Do what the options say, and return the exit status: 1 with a message if that failed."""
    if options.difx_command == "serve":
        return gateway_cli.run(options)
    if options.difx_command in ("run", "stop"):
        try:
            return job_cli.run(options)
        except (MpiframeError, OSError, ValueError) as error:
            print(f"mpiframe difx {options.difx_command}: {error}", file=sys.stderr)
            return _FAILED

    from mpiframe.plugins.difx import plot

    chosen = {"freqs": options.freq, "polarisations": options.pol, "source": options.source}
    try:
        if not options.follow:
            print(plot.plot_job(options.job, options.baseline, options.output, **chosen))
            return 0
        pictures = plot.follow_job(
            options.job, options.baseline, options.output, every_seconds=options.every, **chosen
        )
        with contextlib.closing(pictures):
            for number, path in enumerate(pictures):
                if number == 0:
                    print(path, flush=True)
    except (MpiframeError, KeyError, OSError, ValueError) as error:
        message = error.args[0] if isinstance(error, KeyError) else error
        print(f"mpiframe difx plot: {message}", file=sys.stderr)
        return _FAILED
    except KeyboardInterrupt:  # how one ends following
        pass
    return 0
