"""The local queue: one process a user and host, started by the first client, which outlives its clients.

    client --Unix socket, JSON lines, after a secret--> this process --fork--> the jobs' scripts
                                                          journal on disk

It sleeps in one `select` on the socket, its clients, and a pidfd for each job; it ends by itself when
nothing is left to do. Killed, it is started again by the next client, reads its journal, and finds its
jobs where they are: they run on in sessions of their own, and write their exit codes themselves.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hmac
import json
import math
import os
import secrets
import selectors
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Iterator
from typing import Any

from mpiframe.machine import usable_cores
from mpiframe.plugins.scheduler import files
from mpiframe.plugins.scheduler.local_journal import total_memory_mb
from mpiframe.plugins.scheduler.local_tasks import LocalTasks, Running

LINE_LIMIT = 64 * 1024 * 1024


class Connection:
    """One client. Nothing of it is read as a request before it has shown the secret."""

    def __init__(self, link: socket.socket) -> None:
        self.link, self.trusted = link, False
        self.incoming, self.outgoing = bytearray(), bytearray()
        self.watching: tuple[int, float] | None = None


class LocalServer:
    """The queue of one folder. Requests: submit, status, changes, watch, list, cancel, limits, stop."""

    def __init__(self, folder: str, cores: int, memory: int, linger: float) -> None:
        self._folder, self._linger = folder, linger
        self._epoch = secrets.token_hex(8)
        self._connections: dict[int, Connection] = {}
        self._selector = selectors.DefaultSelector()
        self._tasks = LocalTasks(
            folder,
            cores,
            memory,
            lambda pidfd, running: self._selector.register(pidfd, selectors.EVENT_READ, running),
            self._selector.unregister,
        )
        self._idle_since = 0.0
        self._stopping = False

    # -- life ------------------------------------------------------------------------------------

    def open(self) -> None:
        """Read the journal, take up what runs, listen. Raises OSError."""
        self._tasks.recover()
        self._secret = secrets.token_hex(32)
        files.replace(os.path.join(self._folder, "secret"), self._secret.encode())
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with in_folder(self._folder) as short:
            files.remove([f"{short}/socket"])
            self._listener.bind(f"{short}/socket")
            os.chmod(f"{short}/socket", 0o600)
        self._listener.listen(64)
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ, self._listener)

    def run(self) -> None:
        """Serve until there has been nothing to do for the linger time."""
        self._tasks.start_tasks()
        self._idle_since = time.monotonic()  # on a busy machine it took long to come here
        while not self._stopping:
            self._tasks.commit()
            self._answer_watchers()
            timeout = self._next_timeout()
            ready = self._selector.select(timeout)
            if not ready and timeout == 0 and self._is_idle():  # nor does anybody stand at the door
                break
            for key, events in ready:
                self._handle(key.data, events)
            self._tasks.run_timers()
            self._tasks.commit()  # first: what cannot be written down is not started
            self._tasks.start_tasks()
        self._tasks.commit()
        files.remove([os.path.join(self._folder, "socket")])

    def _is_idle(self) -> bool:
        return self._tasks.is_idle and not self._connections

    def _next_timeout(self) -> float | None:
        now = time.monotonic()
        due = [self._tasks.due]
        due += [c.watching[1] for c in self._connections.values() if c.watching]
        if self._is_idle():
            due.append(self._idle_since + self._linger)
        else:
            self._idle_since = now
        return max(0.0, min(due) - now) if due and min(due) < math.inf else None

    def _handle(self, what: Any, events: int) -> None:
        if isinstance(what, Running):
            self._tasks.finished(what)
        elif isinstance(what, Connection):
            self._serve(what, events)
        else:
            with contextlib.suppress(BlockingIOError, ConnectionError):
                link, _ = self._listener.accept()
                link.setblocking(False)
                connection = Connection(link)
                self._connections[link.fileno()] = connection
                self._selector.register(link, selectors.EVENT_READ, connection)

    # -- clients ---------------------------------------------------------------------------------

    def _serve(self, connection: Connection, events: int) -> None:
        try:
            if events & selectors.EVENT_READ:
                data = connection.link.recv(1 << 20)
                if not data:
                    raise ConnectionError
                connection.incoming += data
                if len(connection.incoming) > (LINE_LIMIT if connection.trusted else 4096):
                    raise ConnectionError
                self._read_lines(connection)
            self._flush(connection)
        except (BlockingIOError, InterruptedError):
            pass
        except (OSError, ValueError):
            self._hang_up(connection)
        except Exception:
            traceback.print_exc()  # into the log: one request that is wrong is not everybody's end
            self._hang_up(connection)

    def _read_lines(self, connection: Connection) -> None:
        while (cut := connection.incoming.find(b"\n")) >= 0:
            line = bytes(connection.incoming[:cut])
            del connection.incoming[: cut + 1]
            request = json.loads(line)
            if not isinstance(request, dict):
                raise ValueError(line)
            if not connection.trusted:
                shown = str(request.get("secret", ""))
                if not hmac.compare_digest(shown.encode(), self._secret.encode()) or not _same_user(
                    connection.link
                ):
                    raise ConnectionError
                connection.trusted = True
                self._reply(connection, {"epoch": self._epoch, "seq": self._tasks.sequence})
                continue
            answer = self._answer(connection, request)
            if answer is not None:
                self._reply(connection, answer)

    def _reply(self, connection: Connection, answer: dict[str, Any]) -> None:
        self._tasks.commit()  # nobody is told what a crash could still undo
        connection.outgoing += json.dumps(answer).encode() + b"\n"
        self._flush(connection)

    def _flush(self, connection: Connection) -> None:
        if connection.outgoing:
            with contextlib.suppress(BlockingIOError):
                del connection.outgoing[: connection.link.send(connection.outgoing)]
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if connection.outgoing else 0)
        self._selector.modify(connection.link, wanted, connection)

    def _hang_up(self, connection: Connection) -> None:
        self._connections.pop(connection.link.fileno(), None)
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(connection.link)
        connection.link.close()
        self._idle_since = time.monotonic()

    def _answer(self, connection: Connection, request: dict[str, Any]) -> dict[str, Any] | None:
        verb = request["op"]
        if verb == "submit":
            return self._tasks.submit(request["spec"], request.get("values"))
        if verb == "status":
            statuses, unknown = self._tasks.statuses(request["ids"])
            return {"statuses": statuses, "unknown": unknown, "seq": self._tasks.sequence}
        if verb == "changes":
            return {"statuses": self._tasks.changes(request["since"]), "seq": self._tasks.sequence}
        if verb == "watch":
            connection.watching = (request["since"], time.monotonic() + request["seconds"])
            return None
        if verb == "list":
            return {"statuses": self._tasks.everything()}
        if verb == "cancel":
            self._tasks.cancel(request["ids"])
            return {}
        if verb == "limits":
            return {**self._tasks.limits(request["cores"], request["memory"])}
        if verb == "stop":
            self._stopping = True
            return {"pid": os.getpid()}
        raise ValueError(f"no such request: {verb!r}")

    def _answer_watchers(self) -> None:
        now = time.monotonic()
        for connection in list(self._connections.values()):
            if connection.watching is None:
                continue
            since, until = connection.watching
            if self._tasks.sequence > since or now >= until:
                connection.watching = None
                try:
                    self._reply(connection, {"seq": self._tasks.sequence})
                except OSError:
                    self._hang_up(connection)


@contextlib.contextmanager
def in_folder(folder: str) -> Iterator[str]:
    """A short name for a folder: the path of a socket may have about a hundred letters."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _same_user(link: socket.socket) -> bool:
    _, uid, _ = struct.unpack("3i", link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return bool(uid == os.getuid())


def main() -> int:
    """Become the queue of a folder, in the background; 0 once it listens, or another one does."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--cores", type=int, default=0)
    parser.add_argument("--memory", type=int, default=0)
    parser.add_argument("--linger", type=float, default=10.0)
    given = parser.parse_args()
    # Held for life, and not by the jobs: whoever has it is the queue of this folder.
    lock = os.open(os.path.join(given.folder, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return 0
    server = LocalServer(
        given.folder, given.cores or usable_cores(), given.memory or total_memory_mb(), given.linger
    )
    server.open()
    if os.fork():
        os._exit(0)  # whoever started us need not wait for the queue's end
    os.setsid()
    os.ftruncate(lock, 0)
    os.write(lock, f"{os.getpid()}\n".encode())  # for whoever wonders
    log = os.open(
        os.path.join(given.folder, "log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
    )
    null = os.open(os.devnull, os.O_RDONLY)
    for target, source in ((0, null), (1, log), (2, log)):
        os.dup2(source, target)
    os.chdir("/")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    server.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
