"""How many local jobs run at once: as many as there are slots, the others wait in their order.

A slot is a file with a lock on it, so a job that is killed gives its slot back. One job at a time, the one
whose turn it is, looks for a free slot; it sleeps until one of the jobs that have them ends.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import select

from mpiframe.machine import usable_cores

SLOTS = "MPIFRAME_MIG_SLOTS"
"""The variable that sets how many jobs run at once; by default, one a core."""


def count() -> int:
    """How many slots there are. Raises ValueError for a setting that is no number."""
    text = os.environ.get(SLOTS, "")
    if not text:
        return usable_cores()
    if not text.isdigit() or int(text) < 1:
        raise ValueError(f"the environment variable {SLOTS} must be a number from 1 on, not {text!r}")
    return int(text)


def folder(parent: str, host: str) -> str:
    """Where the slots of one host are, in a home that several may see. Raises OSError."""
    path = os.path.join(parent, f".slots-{hashlib.sha256(host.encode()).hexdigest()[:16]}")
    os.makedirs(path, mode=0o700, exist_ok=True)
    return path


def take(folder: str, number: int) -> None:
    """Wait for one of the slots, and keep it until this process ends. A signal handler may raise."""
    turn = _open(os.path.join(folder, "turn"))
    fcntl.flock(turn, fcntl.LOCK_EX)
    slots = [_open(os.path.join(folder, f"slot.{index}")) for index in range(number)]
    while (mine := _free(slots)) is None:
        _await_an_end(slots)
    os.ftruncate(mine, 0)
    os.pwrite(mine, str(os.getpid()).encode(), 0)
    for slot in slots:
        if slot != mine:
            os.close(slot)
    os.close(turn)


def _open(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _free(slots: list[int]) -> int | None:
    for slot in slots:
        try:
            fcntl.flock(slot, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        return slot
    return None


def _await_an_end(slots: list[int]) -> None:
    """Until a process ends that had a slot; at once if one has meanwhile."""
    poll = select.poll()
    pidfds: list[int] = []
    try:
        for slot in slots:
            text = os.pread(slot, 32, 0)
            try:
                pidfds.append(os.pidfd_open(int(text)))
            except (OSError, ValueError):
                return
        for pidfd in pidfds:
            poll.register(pidfd, select.POLLIN)
        # Whoever had a slot when it was read may have ended before it was watched: its lock is free then.
        if (free := _free(slots)) is not None:
            fcntl.flock(free, fcntl.LOCK_UN)
            return
        poll.poll()
    finally:
        for pidfd in pidfds:
            os.close(pidfd)
