"""How a world that can be found by a name is ended: in order, or by force.

Its lock is its life: who ends it waits for the moment in which nobody holds it any more.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Collection

from mpiframe import launcher
from mpiframe.errors import MpiframeError, WorldError
from mpiframe.launcher.processes import descendants, send
from mpiframe.worlds import folders, places
from mpiframe.worlds.places import Card, Place

STOP_SECONDS = 10.0
"""How long a world may take to end in order."""

KILL_SECONDS = 5.0  # for the kernel to take away what was killed
FORCE_SECONDS = 6.0  # for the launcher to end its ranks by force, beside its own grace time


def stop(place: Place, card: Card, *, ask: Callable[[], None], timeout: float = STOP_SECONDS) -> list[str]:
    """End a world, in order if it can be done within `timeout` seconds, by force if not; what was done.

    ask: has its hub end it; may raise OSError or MpiframeError where that cannot be reached.

    Raises WorldError where it still runs, and where it cannot be reached and its processes are not of this
    host.
    """
    gone = _LockWatch(place)
    done = []
    began = time.monotonic()

    def ended() -> str:
        return f"after {time.monotonic() - began:.1f} s"

    try:
        if card.how == "script" and card.space == places.process_space():
            done.append("interrupted its script, as Ctrl-C does")
            _signal(card, signal.SIGINT)
        else:
            ask()
            done.append("asked it to end")
        if gone.wait(timeout) and not await_gone([card.pid], KILL_SECONDS):
            return [*done, f"it ended in order {ended()}"]
        done.append(f"it had not ended {ended()}")
    except (OSError, MpiframeError) as error:
        done.append(f"it could not be asked to end: {error}")
    if card.space != places.process_space():
        raise WorldError(
            f"{place.name}: {'; '.join(done)}. Its processes are not of this host or container and cannot be "
            f"ended from here: use `mpiframe stop {place.name}` on {card.host}"
        )
    pids = {pid: places.ticks_of(pid) for pid in descendants(card.pid)} | {card.pid: card.ticks}
    for _ in range(2):  # the second SIGTERM has the launcher wait no longer
        _signal(card, signal.SIGTERM)
        if gone.wait(card.grace if _ == 0 else FORCE_SECONDS):
            break
    else:
        pids |= {pid: places.ticks_of(pid) for pid in descendants(card.pid)}
        send([pid for pid, ticks in pids.items() if places.ticks_of(pid) == ticks], signal.SIGKILL)
        gone.wait(KILL_SECONDS)
        launcher.tidy_after(card.pid)
    left = await_gone([pid for pid, ticks in pids.items() if places.ticks_of(pid) == ticks], KILL_SECONDS)
    if left:
        raise WorldError(f"{place.name}: {'; '.join(done)}; processes that even SIGKILL did not end: {left}")
    with folders.guard(place.folder.parent):
        if not place.is_alive():
            places.remove(place)
    return [*done, f"ended it by force, {ended()}"]


def _signal(card: Card, number: int) -> None:
    """To the process that runs the world, if it is still that one."""
    if places.ticks_of(card.pid) == card.ticks:
        send([card.pid], number)


class _LockWatch:
    """Tells when nobody holds a world's lock any more, which is when its process has ended."""

    def __init__(self, place: Place) -> None:
        self._gone = threading.Event()
        try:
            lock = os.open(place.folder / "lock", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            self._gone.set()
            return
        threading.Thread(target=self._wait, args=(lock,), name="mpiframe-lock", daemon=True).start()

    def _wait(self, lock: int) -> None:
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_SH)
        os.close(lock)
        self._gone.set()

    def wait(self, seconds: float) -> bool:
        return self._gone.wait(seconds)


def await_gone(pids: Collection[int], seconds: float) -> list[int]:
    """Wait so long for processes to end; those that have not."""
    limit = time.monotonic() + seconds
    while (left := [pid for pid in pids if places.ticks_of(pid)]) and (rest := limit - time.monotonic()) > 0:
        if not hasattr(os, "pidfd_open"):
            time.sleep(0.01)
            continue
        try:
            with open(os.pidfd_open(left[0])) as handle:
                select.select([handle], [], [], rest)
        except ProcessLookupError:
            continue
        except OSError:  # a kernel that has no such thing
            time.sleep(0.01)
    return left
