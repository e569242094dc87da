"""What is on disk of a local job: its record, and who looks after it.

<home>/.mig_jobs/ID/   record (JSON), spec, alive (a lock, held as long as its keeper lives), canceled
                       (somebody wants it to end), exec/ (where it runs), log (of its keeper)

The keeper, a process of its own or an MPI client, alone changes the record. A record whose job has not ended
and whose keeper is gone is closed by whoever finds it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import shutil
import signal
import time
from typing import Any

from mpiframe.plugins.grid.mig import disk, states
from mpiframe.plugins.grid.mig.errors import MigLocalError

_RESERVE = b"\0" * 16384
_FIRST_LOOK_SECONDS = 0.02
_LONGEST_LOOK_SECONDS = 2.0


class Record:
    """The record of one job, in its folder."""

    def __init__(self, home: str, job_id: str) -> None:
        self.id = job_id
        self.home = home
        self.folder = os.path.join(home, disk.JOBS, job_id)

    def path(self, name: str) -> str:
        """A file of the job's folder."""
        return os.path.join(self.folder, name)

    def output(self, ending: str = "") -> str:
        """The folder of what the job said, or one of its files."""
        folder = os.path.join(self.home, disk.OUTPUT, self.id)
        return os.path.join(folder, f"{self.id}.{ending}") if ending else folder

    @property
    def exists(self) -> bool:
        """Whether there is such a job."""
        return os.path.isfile(self.path("record"))

    def read(self) -> dict[str, Any]:
        """What is known of the job, whether its keeper lives or not. Raises OSError, ValueError."""
        with open(self.path("record"), encoding="utf-8") as file:
            found: dict[str, Any] = json.load(file)
        return found

    def create(self, values: dict[str, Any]) -> None:
        """Begin a record, with room for its last change, which a full disk must not lose. Raises OSError."""
        disk.replace(self.path("reserve"), _RESERVE)
        disk.replace(self.path("record"), json.dumps({"id": self.id, **values}).encode())

    def change(self, status: str, **values: Any) -> None:
        """Note a new state, with its time. Raises OSError."""
        found = self.read()
        found.update(values, status=status)
        found[status.lower()] = time.time()
        content = json.dumps(found).encode()
        try:
            disk.replace(self.path("record"), content)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path("reserve"))
            disk.replace(self.path("record"), content)
        if status in states.ENDED:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path("reserve"))

    def wants_end(self) -> bool:
        """Whether somebody has canceled it."""
        return os.path.exists(self.path("canceled"))

    def is_kept(self) -> bool:
        """Whether somebody looks after it."""
        return disk.is_held(self.path("alive"))

    def resolve(self) -> dict[str, Any]:
        """What is true of the job now: `read`, and the end of one whose keeper is gone."""
        found = self.read()
        if found["status"] in states.ENDED or self.is_kept():
            return found
        with disk.locked(self.path("closing")):
            found = self.read()  # the keeper's last words may have come meanwhile
            if found["status"] not in states.ENDED:
                self._end_group(found)
                shutil.rmtree(self.path("exec"), ignore_errors=True)
                if self.wants_end():
                    self.change(states.CANCELED)
                else:
                    self.change(
                        states.FAILED, reason=found.get("if_gone") or "its process was ended from outside"
                    )
                found = self.read()
        return found

    def _end_group(self, found: dict[str, Any]) -> None:
        pid, born = found.get("shell", (0, 0))
        with contextlib.suppress(OSError, ValueError):
            if pid and self._keeper_here() and process_start(pid) == born:
                os.killpg(pid, signal.SIGKILL)

    def keeper(self) -> int | None:
        """A pidfd of the process that looks after it, to be closed; None if there is none."""
        try:
            pid = self._keeper_here()
            pidfd = os.pidfd_open(pid)
        except (OSError, ValueError):
            return None  # of another host, or gone
        # Held after the pidfd was opened: then it is the keeper's, not that of a later process.
        if self.is_kept():
            return pidfd
        os.close(pidfd)
        return None

    def is_kept_elsewhere(self) -> bool:
        """Whether a process of another host looks after it. One that is being started is nobody's yet."""
        try:
            with open(self.path("keeper"), encoding="ascii") as file:
                where = file.read().partition(" ")[2]
        except OSError:
            return False
        return where != here() and self.is_kept()

    def kept_by(self, pid: int) -> None:
        """Note which process of this host holds `alive`. Raises OSError."""
        disk.replace(self.path("keeper"), f"{pid} {here()}".encode())

    def _keeper_here(self) -> int:
        """The keeper's number, 0 for one of another host. Raises OSError, ValueError."""
        with open(self.path("keeper"), encoding="ascii") as file:
            pid, _, where = file.read().partition(" ")
        return int(pid) if where == here() else 0

    def signal(self, number: int) -> None:
        """To the keeper, if it lives on this host."""
        pidfd = self.keeper()
        if pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, number)
            os.close(pidfd)

    def wait(self, seconds: float | None) -> bool:
        """Until the job has ended; whether it has. Its keeper's end is an event, and nothing is asked twice.

        A keeper of many jobs (an MPI client, seen from another process) outlives this one: its record is
        looked at now and then.
        """
        limit = None if seconds is None else time.monotonic() + seconds
        step = None if self.read().get("own_keeper", True) else _FIRST_LOOK_SECONDS
        while self.resolve()["status"] not in states.ENDED:
            left = None if limit is None else limit - time.monotonic()
            if left is not None and left <= 0:
                return False
            pause = min((s for s in (left, step) if s is not None), default=None)
            pidfd = self.keeper()
            if pidfd is None:
                if self.is_kept_elsewhere():
                    raise MigLocalError(
                        f"job {self.id} runs on another host, and cannot be watched from here"
                    )
                if self.is_kept():  # by who is about to start its keeper
                    select.poll().poll(1000 * min(_FIRST_LOOK_SECONDS, pause or _FIRST_LOOK_SECONDS))
                continue
            try:
                poll = select.poll()  # select knows no descriptor from 1024 on
                poll.register(pidfd, select.POLLIN)
                poll.poll(None if pause is None else pause * 1000)
            finally:
                os.close(pidfd)
            step = step and min(2 * step, _LONGEST_LOOK_SECONDS)
        return True


def here() -> str:
    """Tells hosts and containers apart, whose processes have numbers of their own."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return os.uname().nodename


def process_start(pid: int) -> int:
    """When a process began, in ticks since boot, which tells it from a later one with its number; 0: none."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return int(file.read().rpartition(")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return 0
