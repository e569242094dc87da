"""The server's end of the control connection: a thread that hears the client while a command runs."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from mpiframe import doorbell
from mpiframe.machine import process_usage

if TYPE_CHECKING:
    from mpiframe.server import Server

_LOOK = 0.2
"""Seconds between looks at what C code printed; a file cannot tell that it was written to."""


class Control(threading.Thread):
    """Reads records; makes no MPI call, so it can be reached whatever the server is doing."""

    def __init__(self, server: Server, sock: socket.socket) -> None:
        super().__init__(name="mpiframe-control", daemon=True)
        self._server = server
        self._sock = sock
        self._over = threading.Event()
        self._orderly = False
        self.client_gone = False  # without a farewell
        self._ending = threading.Lock()

    def run(self) -> None:
        """Hear the client until it says farewell or is gone."""
        poller = select.poll()
        poller.register(self._sock, select.POLLIN)
        data = b""
        size = doorbell.RECORD.size
        while True:
            # While no command runs nobody prints, so there is nothing to look for.
            if not poller.poll(_LOOK * 1000 if self._server.running else _LOOK * 5000):
                if self._server.running:
                    self._server.press_again()
                    self._server.look_for_text()
                continue
            try:
                part = self._sock.recv(4096)
            except OSError:
                part = b""
            if not part:
                self.client_gone = True
                self.leave()
                return
            data += part
            while len(data) >= size:
                record, data = data[:size], data[size:]
                if self._obey(record):
                    return

    def _tell(self, kind: bytes, id: int, seconds: float, number: int) -> None:
        # The client may have closed its end. Its last words, a farewell, are still to be read here.
        with contextlib.suppress(OSError):
            self._sock.sendall(doorbell.RECORD.pack(kind, id, seconds, number))

    def _obey(self, record: bytes) -> bool:
        kind, id, _, serial = doorbell.RECORD.unpack(record)
        if kind == doorbell.INTERRUPT:
            self._server.interrupt(id)
        elif kind == doorbell.BREAK:
            self._server.broken = id
        elif kind == doorbell.RECALL:
            if self._server.recall(serial):
                self._tell(doorbell.RECALLED, id, 0.0, serial)
        elif kind == doorbell.CANCEL:
            if self._server.recall(serial):
                self._tell(doorbell.RECALLED, id, 0.0, serial)
            else:
                self._server.interrupt(id)
        elif kind == doorbell.PING:
            cpu, rss = process_usage()
            self._tell(doorbell.PONG, id, cpu, rss)
        elif kind == doorbell.ABANDON:
            self._server.abandon()
        elif kind == doorbell.LEAVE:
            self._server.leave()
        elif kind == doorbell.FAREWELL:
            self._orderly = True
            self._server.may_finalize = not id
            self._over.set()
            return True
        return False

    @staticmethod
    def _after(seconds: float, action: Callable[[], None]) -> None:
        timer = threading.Timer(seconds, action)
        timer.daemon = True
        timer.start()

    def _leave_if_busy(self) -> None:
        if self._server.running:
            os._exit(1)

    def leave(self) -> None:
        """The client is gone without a farewell, or SIGTERM has come: abandon the command and leave."""
        with self._ending:
            if self._over.is_set():
                return
            self._over.set()
        config = self._server.world.config
        if self.client_gone:  # else it may know of the end when the plugins have stopped
            self._server.orphan()
        self._server.abandon()
        self._after(config.grace, self._leave_if_busy)
        self._after(config.grace + config.stop_timeout, lambda: os._exit(1))  # for the stop hooks

    def wait_for_the_end(self) -> None:
        """Sleep until the client's process ends; leave at once if it ended badly."""
        self._over.wait()
        if not self._orderly:
            # MPI's Finalize waits for all ranks, and one of them is gone.
            os._exit(1)
