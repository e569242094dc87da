"""How the client of a resilient world and its launcher speak to each other: two pipes in the run directory.

    orders  client -> launcher   {"start": [...]}   start servers, each with the ticket by which it joins
                                 {"end": rank}      end this server's launcher
                                 {"over": status}   the world has ended; end whatever is left of it
    replies launcher -> client   {"ended": rank, "serial": ..., "status": ...}   a server's launcher has ended
            server -> client     {"ready": rank, "serial": ...}   it is about to connect

One JSON object a line. The directory is this user's alone (mode 0700), and so are the pipes. When the client
is gone its end of `orders` is closed: the launcher knows at once, whatever became of the client.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import threading
from pathlib import Path
from typing import Any

from mpiframe.launcher.environment import RUN_DIR

_ORDERS, _NEWS = "orders", "replies"


class _Lines:
    """Whole lines out of a pipe."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.closed = False
        self._data = b""

    def read(self) -> list[dict[str, Any]]:
        """What has arrived; never waits. `closed` is set when nobody can write any more."""
        while True:
            try:
                part = os.read(self.fd, 65536)
            except BlockingIOError:
                break
            if not part:
                self.closed = True
                break
            self._data += part
        *lines, self._data = self._data.split(b"\n")
        found = []
        for line in lines:
            with contextlib.suppress(ValueError):
                value = json.loads(line)
                if isinstance(value, dict):
                    found.append(value)
        return found


def _write(fd: int, message: dict[str, Any]) -> None:
    data = json.dumps(message).encode() + b"\n"
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:
            select.select([], [fd], [])


class Desk:
    """The launcher's end."""

    def __init__(self, directory: Path) -> None:
        for name in (_ORDERS, _NEWS):
            os.mkfifo(directory / name, 0o600)
        self._orders = _Lines(os.open(directory / _ORDERS, os.O_RDONLY | os.O_NONBLOCK))
        # For reading, too: then there is no need that the client has come, nor that it still lives.
        self._news = os.open(directory / _NEWS, os.O_RDWR | os.O_NONBLOCK)

    @property
    def fd(self) -> int:
        """Readable when there are orders, or the client is gone."""
        return self._orders.fd

    @property
    def client_is_gone(self) -> bool:
        """Whether the client came, and its process has ended since."""
        return self._orders.closed

    def orders(self) -> list[dict[str, Any]]:
        """What the client wants done; never waits."""
        return self._orders.read()

    def tell(self, message: dict[str, Any]) -> None:
        """Write to the client, unless it has long stopped reading."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._news, json.dumps(message).encode() + b"\n")

    def close(self) -> None:
        os.close(self._orders.fd)
        os.close(self._news)


class Link:
    """The client's end; any thread may use it."""

    def __init__(self, orders: int, news: int) -> None:
        self._orders = orders
        self._news = _Lines(news)
        self._lock = threading.Lock()

    @property
    def fd(self) -> int:
        """Readable when there is news."""
        return self._news.fd

    @property
    def closed(self) -> bool:
        """Whether the launcher is gone."""
        return self._news.closed

    def order(self, **message: Any) -> None:
        """Tell the launcher what to do. Raises OSError if it is gone."""
        with self._lock:
            _write(self._orders, message)

    def news(self) -> list[dict[str, Any]]:
        """What has happened since the last call; never waits."""
        with self._lock:
            return self._news.read()


_link: Link | None = None


def link() -> Link | None:
    """The way to the launcher, if there is a resilient one on this host."""
    global _link
    folder = os.environ.get(RUN_DIR, "")
    if _link is None and folder:
        try:
            orders = os.open(os.path.join(folder, _ORDERS), os.O_WRONLY | os.O_NONBLOCK)
            news = os.open(os.path.join(folder, _NEWS), os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            return None
        _link = Link(orders, news)
    return _link


def tell_client(message: dict[str, Any]) -> None:
    """From a server of the client's host. Raises OSError where there is no such launcher."""
    fd = os.open(os.path.join(os.environ.get(RUN_DIR, ""), _NEWS), os.O_WRONLY | os.O_NONBLOCK)
    try:
        _write(fd, message)
    finally:
        os.close(fd)
