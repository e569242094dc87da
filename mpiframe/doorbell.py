"""Doorbells: the stream sockets between client and servers that wake, interrupt and tell who lives.

Every server opens two connections to the client. On the *bell* either side writes single bytes that mean
"look at MPI"; the thread that uses MPI sleeps on it. On the *control* connection travel fixed-size
records: interrupts, pings, and the client's farewell; a thread of the server that makes no MPI call reads
it, so a busy server can be reached. Two connections rather than one, so that neither reader ever wakes the
other. No command and no pickle travels on either.

Both ends prove that they know a secret that was exchanged over MPI (HMAC-SHA256 over both sides' nonces)
before anything else is read. The listener lives for the seconds of the start only: on a Unix socket in a
private folder for servers of the same host, on one interface's address for others.
"""

from __future__ import annotations

import hmac
import os
import selectors
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

BELL, CONTROL = 0, 1
_MAGIC = b"mpiframe-doorbell-1\n"
_NONCE = 16
_PROOF = 32
_HELLO = struct.Struct(f"!{len(_MAGIC)}sIB{_NONCE}s")  # magic, rank, kind, nonce
_CHALLENGE = struct.Struct(f"!{_NONCE}s{_PROOF}s")  # the client's nonce and proof
_PATIENCE = 5.0  # seconds that one connection may take to prove itself
_HALF_OPEN = 256  # connections that may be proving themselves at once, beside the two of each server

RECORD = struct.Struct("!cqdQ")
"""What travels on the control connection: kind, id, CPU seconds, resident bytes (unused ones are 0)."""
INTERRUPT, BREAK, RECALL, RECALLED = b"I", b"B", b"R", b"r"
PING, PONG, ABANDON, FAREWELL = b"P", b"p", b"A", b"F"
LEAVE = b"L"  # end the process now, whatever it does, and leave MPI as it is

Address = tuple[str, ...]
"""("unix", path) or ("tcp", host, port)"""


def _prove(secret: bytes, side: bytes, rank: int, kind: int, nonces: bytes) -> bytes:
    return hmac.digest(secret, side + struct.pack("!IB", rank, kind) + nonces, "sha256")


def connect(
    address: Address, secret: bytes, rank: int, timeout: float
) -> tuple[socket.socket, socket.socket]:
    """Open a server's two connections: (bell, control). Raises OSError where that cannot be done."""
    bell = _connect_one(address, secret, rank, BELL, timeout)
    try:
        return bell, _connect_one(address, secret, rank, CONTROL, timeout)
    except OSError:
        bell.close()
        raise


def _connect_one(address: Address, secret: bytes, rank: int, kind: int, timeout: float) -> socket.socket:
    if address[0] == "unix":
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        place: str | tuple[str, int] = address[1]
    else:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        place = (address[1], int(address[2]))
    try:
        sock.settimeout(timeout)
        sock.connect(place)
        nonce = os.urandom(_NONCE)
        sock.sendall(_HELLO.pack(_MAGIC, rank, kind, nonce))
        theirs, proof = _CHALLENGE.unpack(_receive(sock, _CHALLENGE.size))
        if not hmac.compare_digest(proof, _prove(secret, b"client", rank, kind, nonce + theirs)):
            raise ConnectionRefusedError(f"whoever listens at {address} does not know the secret")
        sock.sendall(_prove(secret, b"server", rank, kind, nonce + theirs))
        sock.settimeout(None)
        return sock
    except BaseException:
        sock.close()
        raise


def _receive(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = sock.recv(size - len(data))
        if not part:
            raise ConnectionResetError("the connection was closed during the doorbell's handshake")
        data += part
    return data


def swap_events(bell: socket.socket, mine: list[int], timeout: float) -> tuple[int, ...]:
    """Exchange eventfds over a bell between two processes of one host; the peer's, to ring it by.

    An eventfd wakes a sleeper in two thirds of the time that a socket takes: the kernel does not put the
    woken process on the core of the one who rang.
    """
    bell.settimeout(timeout)
    socket.send_fds(bell, [b"e"], mine)
    data, fds, _, _ = socket.recv_fds(bell, 1, 4)
    bell.settimeout(None)
    if data != b"e" or not fds:
        raise ConnectionResetError("the doorbell's event was not handed over")
    return tuple(fds)


@dataclass(slots=True, eq=False)
class _Guest:
    """A connection that has yet to prove itself."""

    sock: socket.socket
    since: float
    data: bytearray = field(default_factory=bytearray)
    rank: int = -1
    kind: int = -1
    nonces: bytes = b""


class Acceptor:
    """The client's listener; lives until every expected server has come, or has said it will not."""

    def __init__(self, secret: bytes, expected: int = 0) -> None:
        self._secret = secret
        self._expected = expected
        self._selector = selectors.DefaultSelector()
        self._listeners: list[socket.socket] = []
        self._guests: dict[socket.socket, _Guest] = {}
        self.arrived: dict[int, dict[int, socket.socket]] = {}  # rank -> kind -> socket

    def listen_unix(self, path: str) -> Address:
        """Listen on a Unix socket; its folder must be private (mode 0700)."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.bind(path)
        os.chmod(path, 0o600)
        self._listen(sock)
        return ("unix", path)

    def listen_tcp(self, host: str) -> Address:
        """Listen on a free port of one interface's address."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.bind((host, 0))
        self._listen(sock)
        return ("tcp", host, str(sock.getsockname()[1]))

    def _listen(self, sock: socket.socket) -> None:
        sock.listen(4096)  # a Unix socket turns those away at once for which there is no room
        sock.setblocking(False)
        self._listeners.append(sock)
        self._selector.register(sock, selectors.EVENT_READ)

    def step(self, timeout: float) -> None:
        """Wait at most `timeout` seconds for connections, and take them one step further."""
        for key, _ in self._selector.select(timeout):
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            guest = self._guests.get(sock)
            if guest is None:
                self._welcome(sock)
            else:
                self._hear(guest)
        now = time.monotonic()
        for guest in [g for g in self._guests.values() if now - g.since > _PATIENCE]:
            self._dismiss(guest)

    def complete(self, rank: int) -> bool:
        """Whether both connections of this server have come."""
        return len(self.arrived.get(rank, ())) == 2

    def close(self) -> None:
        """Stop listening; connections that have proved themselves stay open."""
        for guest in list(self._guests.values()):
            self._dismiss(guest)
        for sock in self._listeners:
            sock.close()
        self._selector.close()

    def _welcome(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except OSError:
            return  # it went away before we looked
        if len(self._guests) >= _HALF_OPEN + 2 * self._expected:
            self._dismiss(min(self._guests.values(), key=lambda g: g.since))
        sock.setblocking(False)
        self._guests[sock] = _Guest(sock, time.monotonic())
        self._selector.register(sock, selectors.EVENT_READ)

    def _hear(self, guest: _Guest) -> None:
        wanted = _HELLO.size if guest.rank < 0 else _PROOF
        try:
            part = guest.sock.recv(wanted - len(guest.data))
        except BlockingIOError:
            return
        except OSError:
            part = b""
        if not part:
            self._dismiss(guest)
            return
        guest.data += part
        if len(guest.data) < wanted:
            return
        data = bytes(guest.data)
        guest.data.clear()
        if guest.rank < 0:
            self._challenge(guest, data)
        else:
            self._judge(guest, data)

    def _challenge(self, guest: _Guest, hello: bytes) -> None:
        magic, rank, kind, nonce = _HELLO.unpack(hello)
        if magic != _MAGIC or kind not in (BELL, CONTROL):
            self._dismiss(guest)
            return
        guest.rank, guest.kind = rank, kind
        mine = os.urandom(_NONCE)
        guest.nonces = nonce + mine
        proof = _prove(self._secret, b"client", rank, kind, guest.nonces)
        try:
            guest.sock.sendall(_CHALLENGE.pack(mine, proof))
        except OSError:
            self._dismiss(guest)

    def _judge(self, guest: _Guest, proof: bytes) -> None:
        expected = _prove(self._secret, b"server", guest.rank, guest.kind, guest.nonces)
        if not hmac.compare_digest(proof, expected):
            self._dismiss(guest)
            return
        self._selector.unregister(guest.sock)
        del self._guests[guest.sock]
        if guest.sock.family == socket.AF_INET:
            guest.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.arrived.setdefault(guest.rank, {})[guest.kind] = guest.sock

    def _dismiss(self, guest: _Guest) -> None:
        self._selector.unregister(guest.sock)
        del self._guests[guest.sock]
        guest.sock.close()


@contextmanager
def private_folder() -> Iterator[str]:
    """A folder that only this user can enter, gone afterwards; in memory where the system allows."""
    import shutil
    import tempfile

    # The launcher's folder goes with the run, whatever becomes of us; memory is next best.
    places = [os.environ.get("MPIFRAME_RUN_DIR", ""), "/dev/shm"]
    base = next((p for p in places if p and os.access(p, os.W_OK | os.X_OK)), None)
    folder = tempfile.mkdtemp(prefix="mpiframe-", dir=base)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
