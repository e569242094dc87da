"""Programs that pilots start: each in a session of its own, timed, and ended with all that it has started."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mpiframe.launcher.environment import scrub_environment
from mpiframe.plugins.grid.credentials import PASSWORD

KILL_SECONDS = 10.0
"""How long a child has from SIGTERM to SIGKILL."""


@dataclass(frozen=True)
class Ended:
    """How a child ended. code: its exit code, or 128 and the signal; stopped: why we ended it, or empty."""

    code: int
    stopped: str
    seconds: float


class Stop:
    """Tells whoever waits for a child that it is to be ended, from any thread and from a signal handler."""

    def __init__(self) -> None:
        self.reason = ""
        self.read_end, self._write_end = os.pipe()

    def __call__(self, reason: str) -> None:
        self.reason = self.reason or reason
        os.write(self._write_end, b"!")

    def close(self) -> None:
        """Let go of the pipe."""
        for end in (self.read_end, self._write_end):
            os.close(end)


class Guard:
    """Ends our children if we are killed: a small process that is told of each, and sees us go."""

    def __init__(self, kill_seconds: float = KILL_SECONDS) -> None:
        self._kill_seconds = kill_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def tell(self, sign: str, pid: int) -> None:
        """`+` for one that began, `-` for one that has ended."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                path = str(Path(__file__).with_name("guard.py"))
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", path, str(self._kill_seconds)],
                    stdin=subprocess.PIPE,
                    env=environment({}),
                    start_new_session=True,
                )
            assert self._process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(f"{sign}{pid}\n".encode())
                self._process.stdin.flush()

    def close(self) -> None:
        """Let it end."""
        with self._lock:
            process, self._process = self._process, None
        if process is not None and process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            process.wait()


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """What a child gets: ours, without what is an MPI rank's own and without the database's password."""
    clean = scrub_environment(os.environ, purpose="child")
    clean.pop(PASSWORD, None)
    return {**clean, **extra}


def run(
    argv: Sequence[str],
    folder: str,
    env: Mapping[str, str],
    out: str,
    err: str,
    *,
    seconds: float | None,
    stop: Stop,
    guard: Guard,
    kill_seconds: float = KILL_SECONDS,
) -> Ended:
    """Run a program to its end, or for so many seconds, or until `stop`. Raises OSError if it cannot start.

    Its output goes to the files out and err. What it has started and left in its group is ended with it.
    """
    begun = time.monotonic()
    with open(out, "wb") as out_file, open(err, "wb") as err_file:
        process = subprocess.Popen(
            list(argv),
            cwd=folder,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=out_file,
            stderr=err_file,
            start_new_session=True,
        )
    pidfd = -1
    try:
        pidfd = os.pidfd_open(process.pid)
        guard.tell("+", process.pid)
        stopped = _await(pidfd, stop, seconds)
        if stopped:
            _end(process, pidfd, kill_seconds)
    except BaseException:  # an interrupt: it ends with us
        _end(process, pidfd, kill_seconds)
        raise
    finally:
        _kill(process.pid, signal.SIGKILL)  # its number is its own until it is reaped
        code = process.wait()
        guard.tell("-", process.pid)
        if pidfd >= 0:
            os.close(pidfd)
    return Ended(code if code >= 0 else 128 - code, stopped, time.monotonic() - begun)


def _await(pidfd: int, stop: Stop, seconds: float | None) -> str:
    """Wait for the end; why it has to be made to come, or empty."""
    if stop.reason:
        return stop.reason
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    poller.register(stop.read_end, select.POLLIN)
    ready = poller.poll(None if seconds is None else max(0.0, seconds) * 1000)
    if not ready:
        return "time"
    return "" if pidfd in [one for one, _ in ready] else stop.reason


def _end(process: subprocess.Popen[bytes], pidfd: int, kill_seconds: float) -> None:
    _kill(process.pid, signal.SIGTERM)
    if pidfd >= 0:
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        poller.poll(kill_seconds * 1000)
    _kill(process.pid, signal.SIGKILL)


def _kill(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
