"""`mpiframe difx run JOB` and `mpiframe difx stop JOB`: a job without a session, such as a batch job."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mpiframe.plugins.difx.job_events import JobEvent
    from mpiframe.plugins.difx.jobs import JobOptions, Jobs

_FAILED, _STOPPED = 1, 130


def add_arguments(run: argparse.ArgumentParser, stop: argparse.ArgumentParser) -> None:
    """The options of both."""
    for parser in (run, stop):
        parser.add_argument("job", metavar="JOB", help="its .input file")
        parser.add_argument(
            "--interface", default="lo", metavar="NAME", help="where its messages are (default: %(default)s)"
        )
        parser.add_argument("--program", default="mpifxcorr", metavar="NAME", help="(default: %(default)s)")
        parser.add_argument(
            "--mpirun", default="mpirun", metavar="PATH", help="DiFX's own (default: %(default)s)"
        )
        parser.add_argument("--difx", metavar="VERSION", help="which version of DiFX")
    run.add_argument("--force", action="store_true", help="delete the output of an earlier run")
    run.add_argument("--check", default="require", metavar="HOW", help="require, warn, only or no")
    run.add_argument("--restart-seconds", type=float, default=0.0, metavar="S", help="begin so far into it")
    run.add_argument("--mpi-options", metavar="TEXT", help="options for mpirun, in one word")


def command(job: str, interface: str, options: JobOptions) -> list[str]:
    """The command line that runs a job so. Raises ValueError for what it has no words for."""
    if options.environment:
        raise ValueError(
            "a job of a batch system has the environment that it is submitted with: leave environment out"
        )
    words = [sys.executable, "-m", "mpiframe", "difx", "run", job, "--interface", interface]
    words += ["--program", options.program, "--mpirun", options.mpirun, "--check", options.check]
    if options.version is not None:
        words += ["--difx", options.version]
    if options.force:
        words.append("--force")
    if options.restart_seconds:
        words += ["--restart-seconds", f"{options.restart_seconds:g}"]
    if options.mpi_options is not None:
        import shlex

        given = options.mpi_options
        words.append(f"--mpi-options={given if isinstance(given, str) else shlex.join(given)}")
    return words


def run(given: argparse.Namespace) -> int:
    """Run or stop the job; the exit status. Raises MpiframeError, OSError, ValueError."""
    from mpiframe.plugins.difx.files import Files
    from mpiframe.plugins.difx.jobs import JobOptions, Jobs
    from mpiframe.plugins.difx.multicast import Group

    path = os.path.abspath(given.job)
    common = {"program": given.program, "mpirun": given.mpirun, "version": given.difx}
    with Files([os.path.dirname(path)]) as files:
        jobs = Jobs(files, Group.find(given.interface))
        try:
            if given.difx_command == "stop":
                report = jobs.stop(path, options=JobOptions(**common))
                print(report)
                return 0 if report.gone else _FAILED
            options = JobOptions(
                **common,
                force=given.force,
                check=given.check,
                restart_seconds=given.restart_seconds,
                mpi_options=given.mpi_options,
            )
            return _run(jobs, path, options)
        finally:
            jobs.close()


def _run(jobs: Jobs, path: str, options: JobOptions) -> int:
    from mpiframe.plugins.difx.job_events import Outcome

    stopped = threading.Event()
    ended = threading.Event()

    def stop(*_: object) -> None:
        stopped.set()
        ended.set()

    # A batch system ends a job by SIGTERM to this process: what runs on other hosts is ended by us.
    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        made = jobs.start(path, options, _tell)
        made.result.add_done_callback(lambda _: ended.set())
        ended.wait()
        if stopped.is_set():
            print(jobs.stop(made.number), file=sys.stderr)
        result = made.wait(1.0)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    print(f"{path}: {result.outcome}: {result.text} ({result.seconds:.1f} s)")
    if stopped.is_set():
        return _STOPPED
    return 0 if result.outcome in (Outcome.DONE, Outcome.CHECKED) else _FAILED


def _tell(event: JobEvent) -> None:
    if event.progress is not None and event.status is not None:
        print(f"{event.status.state} {event.progress:.1%}", file=sys.stderr, flush=True)
    elif event.text:
        print(event.text, file=sys.stderr, flush=True)
