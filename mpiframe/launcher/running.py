"""Runs a world from its start to its end, with the signals that arrive meanwhile."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import IO

from mpiframe.launcher.foreground import SIGNALS, Foreground
from mpiframe.launcher.planning import LaunchPlan
from mpiframe.launcher.processes import adopting_orphans
from mpiframe.launcher.resilient import ResilientWorld
from mpiframe.launcher.supervise import FORWARDED, GRACE_SECONDS, SEGMENTS_FILE, World, forget_segments

_MEMORY = "/dev/shm"


def run(
    plan: LaunchPlan,
    *,
    grace: float = GRACE_SECONDS,
    timeout: float | None = None,
    output: IO[bytes] | None = None,
    foreground: Foreground | None = None,
) -> int:
    """Start the world of `plan`, wait for its end, and return the exit status.

    The status is mpiexec's; 130 after a Ctrl-C and 143 after SIGTERM unless the job still ended
    well; 124 if `timeout` seconds passed; 128 plus the signal's number if mpiexec itself was
    killed. Whatever happens, no process of the world is left on this host on return. Call it from
    the main thread, because it handles signals.

    Parameters
    ----------
    grace: seconds the job may take to end by itself after a signal.
    timeout: seconds after which it is ended by force; None for no limit.
    output: a file for standard output and error of all ranks; None leaves them the caller's.
    foreground: the terminal in which rank 0 will be at a prompt, if it will. Ctrl-C is the prompt's then,
        and the terminal is given back as it was.

    Raises WorldError if mpiexec cannot be started.
    """
    # Mode 0700: only this user can write there. In memory where that can be had: ranks map a page of it.
    memory = _MEMORY if os.access(_MEMORY, os.W_OK | os.X_OK) else None
    with adopting_orphans(), _signals_as_bytes(() if foreground is None else SIGNALS) as inbox:
        directory = Path(tempfile.mkdtemp(prefix=_prefix(os.getpid()), dir=memory))
        try:
            kind = ResilientWorld if plan.resilient else World
            world = kind(plan, directory, inbox, output, foreground)
            try:
                return world.wait(grace, timeout)
            finally:
                world.clear()
        finally:
            shutil.rmtree(directory, ignore_errors=True)  # where no Ctrl-C can cut it short


def tidy_after(pid: int) -> None:
    """Remove what the run of a process has left that was killed: its directory, and its ranks' shared memory.

    `pid` must be no process of this host any more, and its ranks have ended.
    """
    for place in (_MEMORY, tempfile.gettempdir()):
        for directory in Path(place).glob(f"{_prefix(pid)}*"):
            with contextlib.suppress(OSError):
                if directory.stat().st_uid == os.geteuid():
                    forget_segments(directory / SEGMENTS_FILE)
                    shutil.rmtree(directory, ignore_errors=True)


def _prefix(pid: int) -> str:
    return f"mpiframe-{pid}-"


@contextlib.contextmanager
def _signals_as_bytes(others: tuple[int, ...]) -> Iterator[socket.socket]:
    """Within, signals that matter here do nothing but appear, as their numbers, on the socket."""

    def noticed(number: int, frame: FrameType | None) -> None:
        """The wake-up socket has been written to already."""

    numbers = [number for number in (*FORWARDED, *others, signal.SIGCHLD) if not _is_nohup(number)]
    ours, kernels = socket.socketpair()
    with ours, kernels:
        kernels.setblocking(False)
        before = {number: signal.signal(number, noticed) for number in numbers}
        wakeup = signal.set_wakeup_fd(kernels.fileno(), warn_on_full_buffer=False)
        try:
            yield ours
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)


def _is_nohup(number: int) -> bool:
    # SIGINT is taken even if ignored: shells ignore it for what a script starts in the background,
    # and whoever sends it there by `kill` means it.
    return number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN
