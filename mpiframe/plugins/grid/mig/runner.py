"""The keeper of one job: a process in a session of its own, which outlives the client that started it.

`runner.main(folder, home, lock)` runs a local job: waits for a slot, runs it, moves its files home, and notes
each step in the record. `runner.main(folder)` runs one for a server of a world: it ends the job as soon as
the server, at the other end of its standard input, is gone.

SIGTERM ends the job: it is CANCELED.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from mpiframe.plugins.grid.mig import disk, shell, slots, states
from mpiframe.plugins.grid.mig.records import Record, here, process_start

_FETCH_SECONDS = 60.0
BOOT = (
    "import sys; sys.path[:] = [sys.argv[1], *filter(None, sys.path)]; "
    "from mpiframe.plugins.grid.mig import runner; runner.main(*sys.argv[2:])"
)
"""For `python -c`, with the folder that holds the package, and the arguments of `main`."""


class _Wanted(BaseException):
    """SIGTERM: somebody wants the job to end."""


def main(folder: str, home: str = "", lock: str = "") -> None:
    """Run the job of a folder to its end. lock: the number of the open file that says that we live."""
    if lock:
        _close_all_but({0, 1, 2, int(lock)})
    # Until there is a shell, the signal raises; then a byte in this pipe says the same.
    reader, writer = os.pipe()
    os.chdir(folder)
    if home:
        _keep(Record(home, os.path.basename(folder)), reader, writer)
    else:
        _serve(folder, reader, writer)


def _close_all_but(kept: set[int]) -> None:
    """What was open in a client that may be an MPI rank: its launcher would wait for us to close it."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in kept:
            with contextlib.suppress(OSError):
                os.close(int(name))


def command(*arguments: str) -> list[str]:
    """The command line of a keeper."""
    package = __file__
    for _ in range(5):  # mpiframe/plugins/grid/mig/runner.py
        package = os.path.dirname(package)
    return [sys.executable, "-c", BOOT, package, *arguments]


# -- a local job -----------------------------------------------------------------------------------


def _keep(record: Record, reader: int, writer: int) -> None:
    def end(_number: int, _frame: Any) -> None:
        raise _Wanted

    signal.signal(signal.SIGTERM, end)
    record.kept_by(os.getpid())
    try:
        try:
            if record.wants_end():
                raise _Wanted
            slots.take(slots.folder(os.path.dirname(record.folder), here()), slots.count())
            signal.signal(signal.SIGTERM, lambda *_: os.write(writer, b"!"))
            if record.wants_end():
                raise _Wanted
            state, reason = _run_local(record, reader)
        except (_Wanted, shell.Stopped):
            state, reason = states.CANCELED, ""
        except Exception as error:
            state, reason = states.FAILED, f"{type(error).__name__}: {error}"
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        shutil.rmtree(record.path("exec"), ignore_errors=True)
        record.change(state, **({"reason": reason} if reason else {}))
    except _Wanted:  # in the midst of the words above
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        shutil.rmtree(record.path("exec"), ignore_errors=True)
        record.change(states.CANCELED)


def _run_local(record: Record, reader: int) -> tuple[str, str]:
    with open(record.path("spec"), encoding="utf-8") as file:
        spec = shell.Spec.from_json(file.read())
    record.change(states.EXECUTING)

    def started(pid: int) -> None:
        record.change(states.EXECUTING, shell=[pid, process_start(pid)])

    reason, outputs = _execute(spec, record.folder, record.output, [reader], started)
    for number, (source, destination) in enumerate(outputs, 1):
        bring = disk.copy if source in [later for later, _ in outputs[number:]] else disk.move
        try:
            bring(source, disk.inside(record.home, destination))
        except Exception as error:
            reason = reason or f"its output file {destination} could not be moved home: {error}"
    return (states.FAILED, reason) if reason else (states.FINISHED, "")


def _execute(
    spec: shell.Spec,
    folder: str,
    output: Callable[[str], str],
    stop: Sequence[int],
    started: Callable[[int], None],
) -> tuple[str, list[tuple[str, str]]]:
    """(why it failed or "", the output files that are there: path and destination)."""
    root = os.path.join(folder, "exec")
    for address, destination, program in spec.urls:
        _fetch(address, disk.inside(root, destination), program)
    with open(output("stdout"), "ab") as out, open(output("stderr"), "ab") as err:
        ended = shell.run(spec, folder, out.fileno(), err.fileno(), stop, started)
    reason = ended.reason
    try:
        disk.replace(output("status"), shell.status_text(spec.lines, ended.statuses).encode(errors="replace"))
    except OSError as error:
        reason = reason or f"its exit statuses could not be written: {error}"
    found, missing = [], []
    for source, destination in spec.outputs:
        path = os.path.join(root, source)
        if os.path.isfile(path):
            found.append((path, destination))
        else:
            missing.append(source)
    if missing and not reason:
        reason = f"it made no {' and no '.join(missing)}, which its description names as output"
    return reason, found


def _fetch(address: str, destination: str, program: bool) -> None:
    if not address.startswith(("http://", "https://", "ftp://")):
        raise ValueError(f"{address} cannot be fetched: only http, https and ftp are known here")
    import urllib.request  # late: it takes as long as all the rest, and few jobs need it

    os.makedirs(os.path.dirname(destination), exist_ok=True)
    with urllib.request.urlopen(address, timeout=_FETCH_SECONDS) as source, open(destination, "wb") as file:
        shutil.copyfileobj(source, file)
    if program:
        disk.make_program(destination)


# -- a job on a server of a world ------------------------------------------------------------------


def _serve(folder: str, reader: int, writer: int) -> None:
    """The job of a folder; `outcome` is written when it has ended."""
    signal.signal(signal.SIGTERM, lambda *_: os.write(writer, b"!"))
    with open(os.path.join(folder, "spec"), encoding="utf-8") as file:
        spec = shell.Spec.from_json(file.read())
    try:
        # The server holds the other end of standard input: readable means that it closed it, or died.
        reason, outputs = _execute(
            spec,
            folder,
            lambda ending: os.path.join(folder, ending),
            [sys.stdin.fileno(), reader],
            lambda _: None,
        )
    except shell.Stopped:
        shutil.rmtree(folder, ignore_errors=True)
        return
    except Exception as error:
        reason, outputs = f"{type(error).__name__}: {error}", []
    with contextlib.suppress(OSError):
        disk.replace(os.path.join(folder, "outcome"), json.dumps([reason, outputs]).encode())
