"""Ends a process whose MPI sleeps in a call that never does, so that no request waits for it for ever.

What `transport` asks of MPI never waits: it probes, tests and begins. An MPI that sleeps there all the same
is caught in a lock of its own (`launcher.planning` tells of one that was), or its network's driver is. The
thread that called it holds the lock around the transport, and so holds up whoever waits for an answer, with a
time-out or without. So a thread that needs no lock looks now and then at the others. One that is within the
transport, asleep, and was not awake since the last looks, is stuck. It cannot be one that waits for the
interpreter, which wakes every 5 ms, nor is it stopped or swapped out, which is another state.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Callable

from mpiframe import machine, transport
from mpiframe.fuse import Fuse
from mpiframe.world import CLIENT, World

_LOOKS = 6
"""In a row, in which nothing has moved. Looks, not seconds: we may have been stopped ourselves."""
_MAY_SLEEP = {"block"}  # of the functions of `transport`
_FLUSH_SECONDS = 2.0  # for what was printed last, which may be held up as well


def watch(world: World) -> None:
    """Look after this process's MPI until it ends; nothing where `Config.stuck_timeout` is 0."""
    seconds = world.config.stuck_timeout
    if seconds > 0:
        terminal, library = os.dup(2), world.facts().mpi  # servers capture what is written to 2
        watcher = _Watch(seconds, lambda thread: _end(world, library, thread, terminal))
        threading.Thread(target=watcher.run, name="mpiframe-stuck", daemon=True).start()


class _Watch:
    """Calls `stuck` with a thread's name when it has not moved for so many seconds, and ends."""

    def __init__(self, seconds: float, stuck: Callable[[str], None]) -> None:
        self._seconds = seconds
        self._stuck = stuck
        # thread -> how often it had gone to sleep, and looks since the last time
        self._unmoved: dict[int, tuple[str, int]] = {}

    def run(self) -> None:
        pause = threading.Event()
        while not (stuck := self.look()):
            pause.wait(self._seconds / _LOOKS)
        self._stuck(stuck)

    def look(self) -> str:
        """The name of a thread that is stuck, or ""."""
        names = {thread.native_id: thread.name for thread in threading.enumerate()}
        before, self._unmoved = self._unmoved, {}
        for thread in _in_transport():
            sleeps = machine.asleep(thread)
            if sleeps is None:
                continue
            at, looks = before.get(thread, ("", 0))
            self._unmoved[thread] = sleeps, looks + 1 if at == sleeps else 0
            if self._unmoved[thread][1] >= _LOOKS:
                return names.get(thread, str(thread))
        return ""


def _in_transport() -> list[int]:
    """The native ids of the threads that are in a function of `transport`, or in a C function it called."""
    natives = {thread.ident: thread.native_id for thread in threading.enumerate()}
    found = []
    for ident, frame in sys._current_frames().items():
        code, native = frame.f_code, natives.get(ident)
        if code.co_filename == transport.__file__ and code.co_name not in _MAY_SLEEP and native is not None:
            found.append(native)
    return found


def _end(world: World, library: str, thread: str, terminal: int) -> None:
    """Say what has happened, and end this process; not by MPI, which may want the lock that is held."""
    me, seconds = world.members[world.rank], world.config.stuck_timeout
    if world.rank == CLIENT:
        who, what = "the client", "What was not answered is lost, and the run ends."
    elif world.resilient:
        who, what = f"server {world.rank}", "The server is ended, and what it had to do is lost."
    else:
        who, what = f"server {world.rank}", "The server is ended, and the run with it."
    words = (
        f"mpiframe: {who} on {me.host} (process {me.pid}): MPI has slept for {seconds:g} s "
        f"(MPIFRAME_STUCK_TIMEOUT) in a call that never waits, in the thread {thread}, and will not come "
        f"back. {what} The library is {library}; if this comes again, try another version of it, or another "
        "network (its BTL, UCX or OFI settings). Where each thread is:\n"
    )
    with contextlib.suppress(OSError):
        os.write(terminal, words.encode())
        faulthandler.dump_traceback(terminal)
    with contextlib.suppress(OSError):
        Fuse().light(_FLUSH_SECONDS)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # closed, or gone
            stream.flush()
    os.kill(os.getpid(), signal.SIGKILL)
