"""Doorbells: the stream sockets between client and servers that wake, interrupt and tell who lives.

Every server opens two connections to the client. On the *bell* either side writes single bytes that mean
"look at MPI"; the thread that uses MPI sleeps on it. On the *control* connection travel fixed-size
records: interrupts, pings, and the client's farewell; a thread of the server that makes no MPI call reads
it, so a busy server can be reached. Two connections rather than one, so that neither reader ever wakes the
other. No command and no pickle travels on either.

Both ends prove that they know a secret that was exchanged over MPI (HMAC-SHA256 over both sides' nonces)
before anything else is read. The listener lives for the seconds of the start only: on a Unix socket in a
private folder for servers of the same host, on one interface's address for others.

What follows the proof is neither signed nor secret. Who can write into a TCP connection of others can so
ring, interrupt and end, as who can write into MPI's own connections can, but can have nothing run.
"""

from __future__ import annotations

import contextlib
import errno
import hmac
import math
import os
import selectors
import socket
import struct
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

BELL, CONTROL = 0, 1
_MAGIC = b"mpiframe-doorbell-1\n"
_NONCE = 16
_PROOF = 32
_HELLO = struct.Struct(f"!{len(_MAGIC)}sIB{_NONCE}s")  # magic, rank, kind, nonce
_CHALLENGE = struct.Struct(f"!{_NONCE}s{_PROOF}s")  # the client's nonce and proof
_PATIENCE = 5.0  # seconds that one connection may take to prove itself
_ATTEMPTS = 4  # to get past those who crowd the listener
_HALF_OPEN = 256  # connections that may be proving themselves at once, beside the two of each server

RECORD = struct.Struct("!cqdQ")
"""What travels on the control connection: kind, id, CPU seconds, resident bytes (unused ones are 0)."""
INTERRUPT, BREAK, RECALL, RECALLED, CANCEL = b"I", b"B", b"R", b"r", b"C"
PING, PONG, ABANDON, FAREWELL = b"P", b"p", b"A", b"F"
LEAVE = b"L"  # end the process now, whatever it does, and leave MPI as it is

Address = tuple[str, ...]
"""("unix", path) or ("tcp", host, port); ("none", why) where there is no doorbell"""


def _prove(secret: bytes, side: bytes, rank: int, kind: int, nonces: bytes) -> bytes:
    return hmac.digest(secret, side + struct.pack("!IB", rank, kind) + nonces, "sha256")


def connect(
    address: Address, secret: bytes, rank: int, timeout: float, link_timeout: float = 0.0
) -> tuple[socket.socket, socket.socket]:
    """Open a server's two connections, (bell, control), within `timeout` seconds.

    `link_timeout` as in `Config`. Raises OSError where it cannot be done.
    """
    deadline = time.monotonic() + timeout
    bell = _connect_patiently(address, secret, rank, BELL, deadline)
    try:
        control = _connect_patiently(address, secret, rank, CONTROL, deadline)
    except OSError:
        bell.close()
        raise
    _watch_link(control, link_timeout)
    return bell, control


def _watch_link(control: socket.socket, seconds: float) -> None:
    """Have the kernel close a control connection whose other end could not be reached for so long.

    Not the bell: a process that is stopped reads no bells, and one whose buffer is full of them would seem
    to be out of reach. On the control connection there is never much that is unread.
    """
    if control.family != socket.AF_INET or not seconds:
        return
    control.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", math.ceil(seconds / 3)),
        ("TCP_KEEPINTVL", math.ceil(seconds / 6)),
        ("TCP_KEEPCNT", 4),
        ("TCP_USER_TIMEOUT", math.ceil(seconds * 1000)),
    ):
        if hasattr(socket, name):  # the last, which is for bytes that nobody acknowledges, is Linux's own
            control.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _connect_patiently(
    address: Address, secret: bytes, rank: int, kind: int, deadline: float
) -> socket.socket:
    """A listener that is flooded with strangers sends some away who are none: they may come again."""
    for _ in range(_ATTEMPTS - 1):
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):  # the latter before a word was said
            return _connect_one(address, secret, rank, kind, deadline)
    return _connect_one(address, secret, rank, kind, deadline)


def _connect_one(address: Address, secret: bytes, rank: int, kind: int, deadline: float) -> socket.socket:
    if address[0] == "unix":
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        place: str | tuple[str, int] = address[1]
    else:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        place = (address[1], int(address[2]))
    try:
        sock.settimeout(seconds_left(deadline))
        sock.connect(place)
        nonce = os.urandom(_NONCE)
        sock.sendall(_HELLO.pack(_MAGIC, rank, kind, nonce))
        theirs, proof = _CHALLENGE.unpack(receive_exactly(sock, _CHALLENGE.size, deadline))
        if not hmac.compare_digest(proof, _prove(secret, b"client", rank, kind, nonce + theirs)):
            raise ConnectionRefusedError(f"whoever listens at {address} does not know the secret")
        sock.sendall(_prove(secret, b"server", rank, kind, nonce + theirs))
        sock.settimeout(None)
        return sock
    except BaseException:
        sock.close()
        raise


def seconds_left(deadline: float) -> float:
    """Until then (monotonic seconds). Raises TimeoutError if it is over."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("there was no answer to the handshake in time")
    return left


def receive_exactly(sock: socket.socket, size: int, deadline: float) -> bytes:
    """So many bytes of a handshake, in time. Raises TimeoutError or ConnectionResetError."""
    data = b""
    while len(data) < size:
        sock.settimeout(seconds_left(deadline))  # for all of it: bytes may come one by one
        part = sock.recv(size - len(data))
        if not part:
            raise ConnectionResetError("the connection was closed during the handshake")
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


def pid_behind(sock: socket.socket) -> int:
    """The process at the other end, by its number in our process namespace; 0 if it has none there."""
    if sock.family != socket.AF_UNIX:
        return 0
    size = struct.calcsize("3i")
    return int(struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))[0])


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

    def __init__(self, secret: bytes, expected: Iterable[int], link_timeout: float = 0.0) -> None:
        self._secret = secret
        self._expected = frozenset(expected)
        self._link_timeout = link_timeout
        self._selector = selectors.DefaultSelector()
        self._listeners: list[socket.socket] = []
        self._guests: dict[socket.socket, _Guest] = {}
        self.arrived: dict[int, dict[int, socket.socket]] = {}  # rank -> kind -> socket
        self._taken: set[int] = set()

    def listen_unix(self, path: str) -> Address:
        """Listen on a Unix socket; its folder must be private (mode 0700)."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.bind(path)
        os.chmod(path, 0o600)
        self._listen(sock)
        return ("unix", path)

    def listen_tcp(self, host: str, ports: Iterable[int] = (0,)) -> Address:
        """Listen on one interface's address, on the first of these ports that is free (0: any).

        Raises OSError if none is.
        """
        for port in ports:
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            try:
                if port:  # connections of the last run may linger on it
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind((host, port))
                self._listen(sock)
            except OSError as error:
                sock.close()
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
            return ("tcp", host, str(sock.getsockname()[1]))
        raise OSError(errno.EADDRINUSE, f"no port of MPIFRAME_DOORBELL_PORTS is free on {host}")

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

    def take(self, rank: int) -> tuple[socket.socket, socket.socket]:
        """(bell, control) of a server that is complete; the caller's from here on."""
        sockets = self.arrived.pop(rank)
        self._taken.add(rank)
        return sockets[BELL], sockets[CONTROL]

    def close(self) -> None:
        """Stop listening; connections that were not taken are closed."""
        for guest in list(self._guests.values()):
            self._dismiss(guest)
        for sockets in self.arrived.values():
            for sock in sockets.values():
                sock.close()
        self.arrived.clear()
        for sock in self._listeners:
            sock.close()
        self._selector.close()

    def _welcome(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except OSError:
            return  # it went away before we looked
        if len(self._guests) >= _HALF_OPEN + 2 * len(self._expected):
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
        if magic != _MAGIC or kind not in (BELL, CONTROL) or rank not in self._expected:
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
        known = guest.rank in self._taken or guest.kind in self.arrived.get(guest.rank, ())
        if not hmac.compare_digest(proof, expected) or known:  # a server comes once
            self._dismiss(guest)
            return
        self._selector.unregister(guest.sock)
        del self._guests[guest.sock]
        if guest.sock.family == socket.AF_INET:
            guest.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if guest.kind == CONTROL:
                _watch_link(guest.sock, self._link_timeout)
        self.arrived.setdefault(guest.rank, {})[guest.kind] = guest.sock

    def _dismiss(self, guest: _Guest) -> None:
        self._selector.unregister(guest.sock)
        del self._guests[guest.sock]
        guest.sock.close()


@contextlib.contextmanager
def private_folder() -> Iterator[str]:
    """A folder that only this user can enter, gone afterwards; in memory where the system allows."""
    import shutil
    import tempfile

    # The launcher's folder goes with the run, whatever becomes of us; memory is next best.
    places = [os.environ.get("MPIFRAME_RUN_DIR", ""), "/dev/shm"]
    base = next((p for p in places if p and os.access(p, os.W_OK | os.X_OK)), None)
    folder = tempfile.mkdtemp(prefix="mpiframe-bell-", dir=base)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
