"""Which host does what in a job: its `.machines` and `.threads` files, of nodes that were seen to work."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from mpiframe.plugins.difx.files import Files
from mpiframe.plugins.difx.formats import FormatError, Machines, Threads
from mpiframe.plugins.difx.formats.visibilities import input_path
from mpiframe.plugins.difx.hosts import is_here
from mpiframe.plugins.difx.job_events import JobError, MachinesStep
from mpiframe.plugins.difx.mpirun import Mpirun
from mpiframe.plugins.difx.programs import ProgramError, run

NODE_SECONDS = 20.0
_AT_ONCE = 32

OnStep = Callable[[MachinesStep, str], object]


@dataclass(frozen=True)
class MachinesReport:
    """What was written. dropped: nodes that do not work, with what they said; warnings: for people."""

    machines_file: str
    threads_file: str
    machines: tuple[str, ...]
    threads: tuple[int, ...]
    dropped: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()


def define_machines(
    job: str,
    manager: str,
    datastreams: Sequence[str],
    cores: Sequence[tuple[str, int]],
    files: Files,
    *,
    test_with: Mpirun | None = None,
    environment: Mapping[str, str] | None = None,
    prefix: Sequence[str] = (),
    machines_file: str | None = None,
    threads_file: str | None = None,
    node_seconds: float = NODE_SECONDS,
    on_step: OnStep = lambda *_: None,
) -> MachinesReport:
    """Write a job's `.machines` and `.threads` files.

    Parameters
    ----------
    cores: hosts with their numbers of threads; the manager's host loses one, which the manager needs.
    test_with: the mpirun to test each node with, None tests none; a core whose node fails is left out, a
        manager or datastream whose node fails is an error. prefix: what DiFX's programs are run by.
    machines_file, threads_file: None are those that belong to the job.

    Raises JobError where nothing can be written with sense, PathRefused, OSError.
    """
    stem = input_path(job).removesuffix(".input")
    on_step(MachinesStep.STARTED, "")
    on_step(MachinesStep.CHECKING, "")
    _refuse_none(stem, manager, datastreams, cores, on_step)
    machines_path, threads_path = _paths(stem, machines_file, threads_file, on_step)
    on_step(MachinesStep.CHECKED, "")
    dropped: dict[str, str] = {}
    if test_with is not None:
        on_step(MachinesStep.TESTING_NODES, "")
        wanted = [manager, *datastreams, *(host for host, _ in cores)]
        dropped = _failing(wanted, test_with, environment or {}, prefix, node_seconds, on_step)
        needed = [host for host in (manager, *datastreams) if host in dropped]
        if needed:
            text = f"{needed[0]} does not work: {dropped[needed[0]]}"
            raise _refused(on_step, MachinesStep.TERMINATED, text)
    used, warnings = _usable([core for core in cores if core[0] not in dropped], manager, on_step)
    if not used:
        raise _refused(on_step, MachinesStep.NO_CORES, f"no core is left for {stem}")
    machines = Machines.of(manager, list(datastreams), [host for host, _ in used])
    threads = Threads(tuple(count for _, count in used))
    written, failed = MachinesStep.MACHINES_WRITTEN, MachinesStep.MACHINES_NOT_WRITTEN
    _write(files, machines_path, machines, written, failed, on_step)
    written, failed = MachinesStep.THREADS_WRITTEN, MachinesStep.THREADS_NOT_WRITTEN
    _write(files, threads_path, threads, written, failed, on_step)
    on_step(MachinesStep.ENDED, "")
    return MachinesReport(
        machines_path,
        threads_path,
        tuple(machines.hosts),
        threads.threads,
        tuple(dropped.items()),
        tuple(warnings),
    )


def _refuse_none(
    stem: str, manager: str, datastreams: Sequence[str], cores: Sequence[tuple[str, int]], on_step: OnStep
) -> None:
    for what, given, step in (
        ("manager", manager, MachinesStep.NO_MANAGER),
        ("datastream", datastreams, MachinesStep.NO_DATASTREAMS),
        ("core", cores, MachinesStep.NO_CORES),
    ):
        if not given:
            raise _refused(on_step, step, f"no host for the {what} of {stem}")


def _paths(stem: str, machines_file: str | None, threads_file: str | None, on_step: OnStep) -> list[str]:
    """The files to write; of a name that was given and is empty it is said that the job's own is taken."""
    chosen = []
    for step, silent, given, usual in (
        (MachinesStep.MACHINES_FILE, MachinesStep.NO_MACHINES_FILE, machines_file, f"{stem}.machines"),
        (MachinesStep.THREADS_FILE, MachinesStep.NO_THREADS_FILE, threads_file, f"{stem}.threads"),
    ):
        if given == "":
            on_step(silent, usual)
        chosen.append(given or usual)
        on_step(step, chosen[-1])
    return chosen


def _usable(
    cores: Sequence[tuple[str, int]], manager: str, on_step: OnStep
) -> tuple[list[tuple[str, int]], list[str]]:
    """Cores with the threads that are theirs, where there is one; and warnings of the others."""
    used, warnings = [], []
    for host, threads in cores:
        own = threads - 1 if host == manager else threads
        if own < 1:
            warnings.append(f"{host} has no thread left for a core")
            on_step(MachinesStep.FEW_THREADS, warnings[-1])
        else:
            used.append((host, own))
    return used, warnings


def _write(
    files: Files,
    path: str,
    content: Machines | Threads,
    written: MachinesStep,
    failed: MachinesStep,
    on_step: OnStep,
) -> None:
    try:
        files.send(path, content.text().encode())
    except FormatError as error:  # as for a name that is no host's
        raise _refused(on_step, failed, str(error)) from error
    except OSError as error:
        on_step(failed, f"{path}: {error.strerror}")
        raise
    on_step(written, path)


def read_machines(job: str, datastreams: int, files: Files) -> tuple[str, list[str], list[tuple[str, int]]]:
    """What a job's files say: the manager, the hosts of so many datastreams, cores with their threads.

    Raises FormatError, OSError.
    """
    stem = input_path(job).removesuffix(".input")
    text = files.read(f"{stem}.machines").decode("utf-8", "replace")
    manager, streams, cores = Machines.parse(text, f"{stem}.machines").split(datastreams)
    text = files.read(f"{stem}.threads").decode("utf-8", "replace")
    threads = Threads.parse(text, f"{stem}.threads").threads
    if len(threads) < len(cores):
        raise FormatError(f"{len(threads)} numbers of threads for {len(cores)} cores", f"{stem}.threads")
    return manager, streams, list(zip(cores, threads, strict=False))


def _failing(
    hosts: Sequence[str],
    mpirun: Mpirun,
    environment: Mapping[str, str],
    prefix: Sequence[str],
    seconds: float,
    on_step: OnStep,
) -> dict[str, str]:
    """Which hosts do not run a program by mpirun, all asked at once, and what they said."""

    def test(host: str) -> str:
        words = mpirun.on("localhost" if is_here(host) else host, [*prefix, "true"])
        try:
            code, _, said = run(words, folder="/", environment=environment, seconds=seconds)
        except ProgramError as error:
            return str(error)
        text = " ".join(line.strip() for line in said if line.strip("- \t"))
        return "" if code == 0 else (text[:300] or f"{os.path.basename(words[0])} ended with {code}")

    found = {}
    unique = list(dict.fromkeys(hosts))
    with ThreadPoolExecutor(min(_AT_ONCE, len(unique)), thread_name_prefix="DiFX nodes") as pool:
        for host, wrong in zip(unique, pool.map(test, unique), strict=True):
            if wrong:
                found[host] = wrong
            on_step(MachinesStep.NODE_FAILED if wrong else MachinesStep.NODE_WORKS, host)
    return found


def _refused(on_step: OnStep, step: MachinesStep, text: str) -> JobError:
    on_step(step, text)
    if step is not MachinesStep.TERMINATED:
        on_step(MachinesStep.TERMINATED, text)
    return JobError(text)
