"""The client's ends of the control connections, one a server, on which nothing waits for MPI.

All but `send` and `reach` is called with the loop's lock.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable
from threading import RLock

from mpiframe import doorbell
from mpiframe.machine import is_stopped
from mpiframe.transport import Peer, Transport


class Lines:
    """Writes records to servers, and hears theirs while somebody sleeps on the doorbells."""

    def __init__(
        self,
        transport: Transport,
        lock: RLock,
        heard: Callable[[int, bytes], None],
        gone: Callable[[int], None],
    ) -> None:
        self._transport = transport
        self._lock = lock
        self._heard, self._gone = heard, gone

    def listen(self, peer: Peer) -> None:
        """Hear this server from now on, if it has a line."""
        if peer.control is not None:
            peer.control.setblocking(False)
            self._transport.watch(peer.control.fileno(), self._reader(peer.rank, peer.control))

    def reach(self, rank: int) -> bool:
        """Whether there is a line to this server."""
        peer = self._transport.peers.get(rank)
        return peer is not None and peer.control is not None

    def send(self, rank: int, kind: bytes, id: int = 0, serial: int = 0) -> bool:
        """Write a record; whether there is a line that takes it."""
        peer = self._transport.peers.get(rank)
        if peer is None or peer.control is None:
            return False
        try:
            peer.control.send(doorbell.RECORD.pack(kind, id, 0.0, serial))
        except OSError:
            return False
        return True

    def abort(self, rank: int) -> None:
        """End the process behind this server's line, if it is of this host, and have it say where it was."""
        peer = self._transport.peers.get(rank)
        pid = doorbell.pid_behind(peer.control) if peer is not None and peer.control is not None else 0
        if pid:
            # SIGABRT has it say where it is. A stopped process cannot, and if it were continued for it, it
            # could answer what is queued before it has ended.
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL if is_stopped(pid) else signal.SIGABRT)

    def _reader(self, rank: int, sock: socket.socket) -> Callable[[], None]:
        """What is called when there is something to read: the records of one server, whole."""
        data, size = b"", doorbell.RECORD.size

        def read() -> None:
            nonlocal data
            with self._lock:
                try:
                    part = sock.recv(4096)
                except BlockingIOError:
                    return  # another thread has read it
                except OSError:
                    part = b""
                if not part:
                    self._gone(rank)
                    return
                data += part
                while len(data) >= size:
                    record, data = data[:size], data[size:]
                    self._heard(rank, record)

        return read
