"""Looks after a process that Open MPI was asked to start, until it has come through MPI's start.

Open MPI's launcher may not hear it, if servers have died in an order that it cannot bear (see `ends`, which
prevents that where it can). The process then waits for the launcher, our spawn for the process, the launcher
for nothing, and none of it ever ends. What can be seen of that is that both sleep, and go on to do so.

Such a process is left alone to the end of the run: its connection has a number of which the launcher believes
that it watches it. If it were ended, the next one would get the same number, and not be heard either.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from mpiframe import machine
from mpiframe.launcher import processes

_LOOK = 0.5  # seconds between two looks
_LOST = 6  # looks in which nothing has moved. Looks, not seconds: we may have been stopped ourselves
_NOWHERE = 12  # looks in which there was nobody, and the launcher did nothing


class Newcomer:
    """A process that is to be started; made before it is."""

    def __init__(self, argv: list[str]) -> None:
        self.argv = argv
        self._is_through = False  # its MPI is up
        self._is_lost = False  # the launcher does not hear it
        self._is_given_up = False
        self._launcher = processes.open_mpi_launcher()
        self._before = processes.children(self._launcher)
        self._pid: int | None = None
        self._asleep: dict[str, str] | None = None
        self._looks = 0  # since anything moved
        self._next = 0.0

    def trouble(self) -> str:
        """Why it will not come, to be said after "server 3 "; "" as long as it may."""
        now = time.monotonic()
        if now < self._next or not self._launcher:
            return ""
        self._next = now + _LOOK
        alive = processes.children(self._launcher)
        if self._pid is None:
            return self._seek(alive - self._before)
        if self._pid not in alive:
            return f"(process {self._pid}) ended before it joined"
        asleep = machine.threads_asleep(self._pid) if self._waits_for_launcher() else None
        self._looks = self._looks + 1 if asleep and asleep == self._asleep else 0
        self._asleep = asleep
        self._is_lost = self._looks >= _LOST
        if not self._is_lost:
            return ""
        return (
            f"(process {self._pid}) waits in MPI's start for Open MPI's launcher, which has lost it and does "
            "nothing; it is left to the end of the run"
        )

    def come_through(self) -> bool:
        """Its MPI is up; whether it is still waited for. From the thread that started it."""
        self._is_through = True
        if self._is_given_up:
            self._end()
        return not self._is_given_up

    def give_up(self) -> None:
        """Nobody waits for it any more: end it if it is there, and the launcher hears it."""
        self._is_given_up = True
        if self._is_through or not self._is_lost:
            self._end()

    def _end(self) -> None:
        if self._pid is not None and self._is_ours(self._pid):
            with contextlib.suppress(OSError):
                os.kill(self._pid, signal.SIGKILL)

    def _seek(self, new: set[int]) -> str:
        self._pid = min(filter(self._is_ours, new), default=None)
        self._looks = 0 if new or not self._is_launcher_idle() else self._looks + 1
        if self._looks < _NOWHERE:
            return ""
        return "was not started by Open MPI's launcher, or ended at once (what it said is above)"

    def _is_ours(self, pid: int) -> bool:
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]
            return command == [os.fsencode(word) for word in self.argv]
        return False

    def _waits_for_launcher(self) -> bool:
        """Whether it may: before MPI's start a script may sleep as it likes, and after it, too."""
        if self._is_through or machine.is_stopped(self._pid or 0) or not self._is_launcher_idle():
            return False
        with contextlib.suppress(OSError):
            return "/libmpi" in Path(f"/proc/{self._pid}/maps").read_text()
        return False

    def _is_launcher_idle(self) -> bool:
        return not machine.is_stopped(self._launcher) and machine.threads_asleep(self._launcher) is not None
