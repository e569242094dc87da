"""Runs sessions, each in a process of its own that ends in time and leaves nothing behind.

Used by speed.py. A session is kept as a dict, as it goes to the file of results:

    mpi, peer, group, servers, round    what it was
    figures                             name -> values, or {"missing": why}
    start                               seconds until the client could work, from the start of its world
    seconds, load, others               how long it took; the machine's load before; cores that others used
    why                                 what went wrong, if anything did
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import ENTRIES

ROOT = Path(__file__).resolve().parents[2]
QUIET = 0.4  # cores that others may use
_GLANCE_SECONDS = 0.3
END_SECONDS = 10  # for a world that was asked to end
ASK_SECONDS = 60  # for one question to a Python, on a cold file system

_ASK = """
import importlib.metadata, json, platform, sys
from mpiframe import launcher
versions = {}
for package in sys.argv[1:]:
    try:
        versions[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        pass
mpi = launcher.find_library()
print(json.dumps([f"{mpi.vendor} {mpi.version}", versions | {"Python": platform.python_version()}]))
"""

Session = dict[str, Any]


@dataclass
class Python:
    """An interpreter with an MPI, and what is installed beside it."""

    path: str
    mpi: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)  # package -> why it could not be installed

    def look(self) -> None:
        """Find out which MPI and which packages it has. Raises CalledProcessError if it has no MPI."""
        packages = sorted({entry.package for entry in ENTRIES.values() if entry.package})
        asked = subprocess.run(
            [self.path, "-c", _ASK, *packages],
            env=_environment(),
            capture_output=True,
            text=True,
            check=True,
            timeout=ASK_SECONDS,
        )
        self.mpi, self.versions = json.loads(asked.stdout.splitlines()[-1])

    def install(self, package: str) -> None:
        """Install a peer if it is not there; if that fails, keep why."""
        if package in self.versions:
            return
        command = [self.path, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", package]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
            self.refused[package] = f"pip cannot install it: {(errors or ['?'])[-1][:150]}"

    def missing(self, peer: str) -> str | None:
        """Why this peer cannot be measured here; None if it can, as far as one can see."""
        package = ENTRIES[peer].package
        if not package or package in self.versions:
            return None
        return self.refused.get(package, "not installed")


def _environment() -> dict[str, str]:
    path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(path), "PYTHONWARNINGS": "ignore"}


def run(python: Python, peer: str, group: str, servers: int, seconds: float, quick: bool) -> Session:
    """Run one session, for at most so many seconds."""
    session: Session = {"mpi": python.mpi, "peer": peer, "group": group, "servers": servers, "figures": {}}
    with tempfile.TemporaryDirectory(prefix="mf-", ignore_cleanup_errors=True) as text:
        folder = Path(text).resolve()
        found, output = folder / "found.json", folder / "output"
        words = [f"{seconds:g}", str(servers), peer, group, str(found), *(["--quick"] if quick else [])]
        before = _Clock()
        status = _supervise([python.path, "-m", "benchmarks.peers.world", *words], folder, output, seconds)
        session |= before.since()
        with contextlib.suppress(OSError, ValueError):
            session |= json.loads(found.read_text(encoding="utf-8"))
        if status != 0:
            said = output.read_text(errors="replace")
            session["why"] = f"not ended after {seconds:g} s" if status == 124 else _reason(said, status)
            session["said"] = said[-2000:]
    return session


def left_out(python: Python, peer: str, group: str, servers: int, number: int, why: str) -> Session:
    """A session that was not run."""
    known = {"mpi": python.mpi, "peer": peer, "group": group, "servers": servers, "round": number}
    return {**known, "figures": {}, "load": os.getloadavg()[0], "others": 0.0, "seconds": 0.0, "why": why}


def _supervise(command: list[str], folder: Path, output: Path, seconds: float) -> int:
    """Run the command with nothing of ours but this process above it; its exit status, 124 for too long.

    `benchmarks.peers.world` keeps to its time itself and ends what is below it. Here it is only helped.
    """
    (folder / "tmp").mkdir()
    with open(output, "wb") as out:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=_environment() | {"TMPDIR": str(folder / "tmp")},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        return process.wait(seconds + END_SECONDS)
    except subprocess.TimeoutExpired:
        return 124
    finally:
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _reason(said: str, status: int) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    why = next(
        (line for line in reversed(lines) if "Error" in line), lines[-1] if lines else "it said nothing"
    )
    return f"exit status {status}: {why[:150]}"


class _Clock:
    """The machine's time, from here on: how much of it others had."""

    def __init__(self) -> None:
        self._load = os.getloadavg()[0]
        self._start, self._busy, self._ours = time.perf_counter(), _busy_seconds(), _our_seconds()

    def since(self) -> dict[str, float]:
        """Seconds passed, load at the start, and cores that were used by other processes than ours."""
        seconds = time.perf_counter() - self._start
        others = (_busy_seconds() - self._busy) - (_our_seconds() - self._ours)
        return {"seconds": seconds, "load": self._load, "others": max(others / seconds, 0.0)}


def await_quiet(patience: float) -> float:
    """Wait until other processes use little of the machine, or for so many seconds; the seconds this took."""
    start = time.perf_counter()
    while (took := time.perf_counter() - start) < patience:
        clock = _Clock()
        time.sleep(_GLANCE_SECONDS)  # a time in which we do nothing shows what the others do
        if clock.since()["others"] < QUIET:
            break
    return took


def _busy_seconds() -> float:
    """CPU time that all processes of this machine have used, and that its host kept from it."""
    try:
        with open("/proc/stat") as file:
            user, nice, system, _, _, irq, soft, steal = map(int, file.readline().split()[1:9])
    except OSError:
        return 0.0
    return float(user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")


def _our_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return children.ru_utime + children.ru_stime + time.process_time()


def say(text: str) -> None:
    """Tell how far things are, beside the results on standard output."""
    print(text, file=sys.stderr, flush=True)
