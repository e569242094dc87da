"""Has Open MPI's launcher take the ends of servers in the order that it can bear.

The launcher hears twice that a rank has died: PMIx from its connection, which breaks, and PRRTE from the
process and from what it prints to, which ends. Where two die at once, PRRTE now and then is the quicker one.
Then PMIx (as of Open MPI 5.0.11) closes the connection before it tells libevent (openpmix/openpmix, pull
request 4279), and the launcher does not hear the next process that comes, or is stuck for good.

PRRTE waits for the end of all that a rank prints to. That does not end as long as somebody has some of it
open. So the client has it open, too, where it is a pipe (standard error is), and closes it once the launcher
has gone to sleep after the connection broke.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import stat
import threading
from collections.abc import Iterator, Mapping

from mpiframe import machine
from mpiframe.launcher import processes

_REST_SECONDS = 0.1  # for a launcher that passes on what others print, and so does not sleep


class Ends:
    """The ends of the servers on this host, for one client."""

    def __init__(self) -> None:
        self._launcher = processes.open_mpi_launcher()
        self._held: dict[int, list[int]] = {}  # rank -> descriptors
        self._gone: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
        self._open = 0  # servers that are gone, and what they printed to is open
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def hold(self, pids: Mapping[int, int]) -> None:
        """Hold open what these servers print to. `pids`: rank -> process id."""
        if not self._launcher:
            return
        read = {key for _, key in _pipes(self._launcher, stat.S_IRUSR)}
        for rank, pid in pids.items():
            written = {key: path for path, key in _pipes(pid, stat.S_IWUSR) if key in read}
            with contextlib.suppress(OSError):  # it has died already, or we have too many open files
                self._held[rank] = []
                for path in written.values():
                    self._held[rank].append(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))

    def gone(self, rank: int) -> None:
        """A server has died: let the launcher know all of it, as soon as that does no harm. Does not wait."""
        descriptors = self._held.pop(rank, [])
        if not descriptors:
            return
        with self._changed:
            self._open += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="mpiframe-ends", daemon=True)
                self._thread.start()
        self._gone.put(descriptors)

    def settle(self) -> None:
        """Return when the launcher has dealt with all servers that are gone."""
        with self._changed:
            self._changed.wait_for(lambda: not self._open)
        if self._launcher:
            machine.await_rest(self._launcher, _REST_SECONDS)

    def _run(self) -> None:
        while True:
            gone = [self._gone.get()]
            while not self._gone.empty():
                gone.append(self._gone.get())
            machine.await_rest(self._launcher, _REST_SECONDS)
            for descriptor in itertools.chain.from_iterable(gone):
                with contextlib.suppress(OSError):
                    os.close(descriptor)
            with self._changed:
                self._open -= len(gone)
                self._changed.notify_all()


def _pipes(pid: int, right: int) -> Iterator[tuple[str, tuple[int, int]]]:
    """The paths of the pipes that a process has open for reading or writing, and which they are."""
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            path = f"/proc/{pid}/fd/{name}"
            with contextlib.suppress(OSError):  # closed meanwhile
                found = os.stat(path)
                if stat.S_ISFIFO(found.st_mode) and os.lstat(path).st_mode & right:
                    yield path, (found.st_dev, found.st_ino)
