"""The sockets between client and servers: who may connect, and who is sent away."""

from __future__ import annotations

import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mpiframe import doorbell
from mpiframe.doorbell import BELL, CONTROL, Acceptor

SECRET = b"s" * 32
RANKS = range(1, 100)
LIMIT = 60.0  # seconds after which a test gives up; nothing here takes a tenth of one


def step_until(acceptor: Acceptor, test: Callable[[], Any]) -> None:
    deadline = time.monotonic() + LIMIT
    while not test():
        assert time.monotonic() < deadline, "this did not happen in time"
        acceptor.step(0.05)


@contextmanager
def background(function: Callable[[], Any]) -> Iterator[dict[str, Any]]:
    """Run it in a thread; what it returned or raised is there after the block."""
    found: dict[str, Any] = {}

    def run() -> None:
        try:
            found["value"] = function()
        except BaseException as error:
            found["error"] = error
        found["ended"] = True

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield found
    thread.join(LIMIT)
    assert not thread.is_alive()


@pytest.fixture(params=["unix", "tcp"])
def place(request: pytest.FixtureRequest) -> Iterator[tuple[Acceptor, doorbell.Address]]:
    acceptor = Acceptor(SECRET, RANKS)
    with doorbell.private_folder() as folder:
        if request.param == "unix":
            address = acceptor.listen_unix(os.path.join(folder, "bell"))
        else:
            address = acceptor.listen_tcp("127.0.0.1")
        yield acceptor, address
        acceptor.close()


def raw(address: doorbell.Address) -> socket.socket:
    """A connection that says nothing yet."""
    if address[0] == "unix":
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(LIMIT)
        try:
            sock.connect(address[1])
        except OSError:
            sock.close()
            raise
        return sock
    return socket.create_connection((address[1], int(address[2])), LIMIT)


def receive(sock: socket.socket, size: int) -> bytes:
    return doorbell.receive_exactly(sock, size, time.monotonic() + LIMIT)


def is_sent_away(acceptor: Acceptor, sock: socket.socket) -> bool:
    """Whether the listener closes this connection without a word."""
    with background(lambda: sock.recv(1)) as found:
        step_until(acceptor, lambda: "ended" in found)
    return found.get("value") == b"" or isinstance(found.get("error"), ConnectionResetError)


def join(acceptor: Acceptor, address: doorbell.Address, rank: int) -> tuple[Any, Any]:
    with background(lambda: doorbell.connect(address, SECRET, rank, LIMIT)) as found:
        step_until(acceptor, lambda: acceptor.complete(rank) or "error" in found)
    bell, control = found["value"]
    return bell, control


# -- those who belong here ------------------------------------------------------------------------


def test_a_server_opens_two_connections(place: tuple[Acceptor, doorbell.Address]) -> None:
    acceptor, address = place
    assert not acceptor.complete(3)
    bell, control = join(acceptor, address, 3)
    with bell, control:
        assert set(acceptor.arrived) == {3}
        mine = acceptor.arrived[3]
        assert set(mine) == {BELL, CONTROL}
        for sock in mine.values():
            sock.settimeout(LIMIT)
        bell.sendall(b"!")
        assert mine[BELL].recv(9) == b"!"
        mine[CONTROL].sendall(b"?")
        assert control.recv(9) == b"?"
        assert bell.gettimeout() is None
        assert control.gettimeout() is None


def test_a_closed_end_is_seen_at_once(place: tuple[Acceptor, doorbell.Address]) -> None:
    acceptor, address = place
    bell, control = join(acceptor, address, 1)
    bell.close()
    control.close()
    for sock in acceptor.arrived[1].values():
        sock.settimeout(LIMIT)
        assert sock.recv(1) == b""


def test_many_servers_at_once(place: tuple[Acceptor, doorbell.Address]) -> None:
    acceptor, address = place
    ranks = range(1, 41)
    ends: list[tuple[Any, Any]] = []

    def connect_all() -> None:
        threads = [
            threading.Thread(target=lambda r=r: ends.append(doorbell.connect(address, SECRET, r, LIMIT)))
            for r in ranks
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT)

    with background(connect_all):
        step_until(acceptor, lambda: all(map(acceptor.complete, ranks)))
    assert len(ends) == len(ranks)
    for bell, control in ends:
        bell.close()
        control.close()


def test_those_who_proved_themselves_outlive_the_listener(
    place: tuple[Acceptor, doorbell.Address],
) -> None:
    acceptor, address = place
    bell, control = join(acceptor, address, 1)
    mine, other = acceptor.take(1)
    acceptor.close()
    with bell, control, mine, other:
        bell.sendall(b"!")
        mine.settimeout(LIMIT)
        assert mine.recv(1) == b"!"
    with pytest.raises(OSError):
        raw(address).close()


# -- those who do not -----------------------------------------------------------------------------


def test_a_server_with_a_wrong_secret_turns_away_itself(
    place: tuple[Acceptor, doorbell.Address],
) -> None:
    acceptor, address = place
    with background(lambda: doorbell.connect(address, b"x" * 32, 3, LIMIT)) as found:
        step_until(acceptor, lambda: "ended" in found)
    assert isinstance(found["error"], ConnectionRefusedError)
    assert "does not know the secret" in str(found["error"])
    assert acceptor.arrived == {}


@pytest.mark.parametrize("rank", [RANKS[0], RANKS[-1]])
def test_who_knows_the_words_but_not_the_secret_is_sent_away(
    place: tuple[Acceptor, doorbell.Address], rank: int
) -> None:
    acceptor, address = place
    with raw(address) as sock:
        sock.sendall(doorbell._HELLO.pack(doorbell._MAGIC, rank, BELL, b"n" * 16))
        with background(lambda: receive(sock, doorbell._CHALLENGE.size)) as found:
            step_until(acceptor, lambda: "ended" in found)
        _, proof = doorbell._CHALLENGE.unpack(found["value"])
        # Neither a guess nor the client's own proof, sent back, is one.
        sock.sendall(proof)
        assert is_sent_away(acceptor, sock)
    assert acceptor.arrived == {}


def test_a_proof_is_of_use_once_only(place: tuple[Acceptor, doorbell.Address]) -> None:
    acceptor, address = place
    hello = doorbell._HELLO.pack(doorbell._MAGIC, 3, BELL, b"n" * 16)
    proofs = []
    for attempt in range(2):
        with raw(address) as sock:
            sock.sendall(hello)
            with background(lambda s=sock: receive(s, 48)) as found:
                step_until(acceptor, lambda f=found: "ended" in f)
            theirs = found["value"][:16]
            proofs.append(doorbell._prove(SECRET, b"server", 3, BELL, b"n" * 16 + theirs))
            sock.sendall(proofs[0])
            if attempt == 0:
                step_until(acceptor, lambda: acceptor.arrived)
            else:
                assert is_sent_away(acceptor, sock)
    assert proofs[0] != proofs[1]


@pytest.mark.parametrize(
    "words",
    [
        b"\0" * 100,
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3,
        doorbell._HELLO.pack(b"mpiframe-doorbell-0\n", 1, BELL, b"n" * 16),
        doorbell._HELLO.pack(doorbell._MAGIC, 1, 7, b"n" * 16),
        os.urandom(4096),
    ],
    ids=["zeros", "http", "version", "kind", "noise"],
)
def test_garbage_is_sent_away(place: tuple[Acceptor, doorbell.Address], words: bytes) -> None:
    acceptor, address = place
    with raw(address) as sock:
        sock.sendall(words)
        assert is_sent_away(acceptor, sock)
    assert acceptor.arrived == {}
    bell, control = join(acceptor, address, 2)  # and nobody else suffers
    bell.close()
    control.close()


def test_one_that_leaves_half_way_is_forgotten(place: tuple[Acceptor, doorbell.Address]) -> None:
    acceptor, address = place
    for words in (b"", b"mpi", doorbell._HELLO.pack(doorbell._MAGIC, 1, BELL, b"n" * 16)):
        sock = raw(address)
        step_until(acceptor, lambda: acceptor._guests)
        sock.sendall(words)
        sock.close()
        step_until(acceptor, lambda: not acceptor._guests)
    assert acceptor.arrived == {}


def test_a_silent_one_holds_nobody_up_and_is_sent_away_in_the_end(
    place: tuple[Acceptor, doorbell.Address], monkeypatch: pytest.MonkeyPatch
) -> None:
    acceptor, address = place
    with raw(address) as silent:
        step_until(acceptor, lambda: acceptor._guests)
        bell, control = join(acceptor, address, 1)
        bell.close()
        control.close()
        assert len(acceptor._guests) == 1
        monkeypatch.setattr(doorbell, "_PATIENCE", -1.0)
        assert is_sent_away(acceptor, silent)


def test_one_that_speaks_slowly_is_heard_out(place: tuple[Acceptor, doorbell.Address]) -> None:
    acceptor, address = place
    nonce = b"n" * 16
    with raw(address) as sock:
        for byte in doorbell._HELLO.pack(doorbell._MAGIC, 5, CONTROL, nonce):
            sock.sendall(bytes([byte]))
            acceptor.step(0.01)
        with background(lambda: receive(sock, 48)) as found:
            step_until(acceptor, lambda: "ended" in found)
        theirs, proof = doorbell._CHALLENGE.unpack(found["value"])
        assert proof == doorbell._prove(SECRET, b"client", 5, CONTROL, nonce + theirs)
        for byte in doorbell._prove(SECRET, b"server", 5, CONTROL, nonce + theirs):
            sock.sendall(bytes([byte]))
            acceptor.step(0.01)
        step_until(acceptor, lambda: 5 in acceptor.arrived)
    assert set(acceptor.arrived[5]) == {CONTROL}
    assert not acceptor.complete(5)


def test_those_who_have_yet_to_prove_themselves_are_bounded(
    place: tuple[Acceptor, doorbell.Address], monkeypatch: pytest.MonkeyPatch
) -> None:
    acceptor, address = place
    monkeypatch.setattr(doorbell, "_HALF_OPEN", 4 - 2 * len(RANKS))
    crowd: list[socket.socket] = []
    try:
        for number in range(12):
            crowd.append(raw(address))
            step_until(acceptor, lambda n=number: len(acceptor._guests) >= min(n + 1, 4))
            acceptor.step(0.01)
            assert len(acceptor._guests) <= 4
        assert is_sent_away(acceptor, crowd[0])  # the oldest
        bell, control = join(acceptor, address, 1)
        bell.close()
        control.close()
    finally:
        for sock in crowd:
            sock.close()


# -- the server's end -----------------------------------------------------------------------------


@pytest.mark.parametrize("words", [b"\0" * 48, b"HTTP/1.1 400 Bad Request\r\n\r\n" * 4])
def test_a_listener_that_cannot_prove_itself_is_refused(words: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = ("tcp", "127.0.0.1", str(listener.getsockname()[1]))
        with background(lambda: doorbell.connect(address, SECRET, 1, LIMIT)) as found:
            sock, _ = listener.accept()
            with sock:
                receive(sock, doorbell._HELLO.size)
                sock.sendall(words)
                with suppress(OSError):  # the other end may have seen enough, and closed
                    sock.shutdown(socket.SHUT_WR)
                    assert sock.recv(100) == b""  # no proof is given to a stranger
    assert isinstance(found["error"], ConnectionError)


def test_a_listener_that_sends_everyone_away_is_asked_again_but_not_for_ever() -> None:
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(LIMIT)
        address = ("tcp", "127.0.0.1", str(listener.getsockname()[1]))
        with background(lambda: doorbell.connect(address, SECRET, 1, LIMIT)) as found:
            for _ in range(doorbell._ATTEMPTS):
                sock, _ = listener.accept()
                with sock:
                    asked.append(receive(sock, doorbell._HELLO.size))
    assert isinstance(found["error"], ConnectionResetError)
    assert len(set(asked)) == doorbell._ATTEMPTS  # no nonce is used twice


def test_who_is_sent_away_before_a_word_is_said_asks_again_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On a Unix socket that is another error: nobody reads what is being written."""
    asked = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "bell"))
        listener.listen()

        def send_away(size: int) -> bytes:
            listener.accept()[0].close()
            asked.append(size)
            return bytes(size)

        # The nonce is drawn between the connection and the first word.
        monkeypatch.setattr(doorbell, "os", SimpleNamespace(urandom=send_away))
        with pytest.raises(BrokenPipeError):
            doorbell.connect(("unix", str(tmp_path / "bell")), SECRET, 1, LIMIT)
    assert len(asked) == doorbell._ATTEMPTS


def test_a_listener_that_trickles_does_not_hold_a_server_longer_than_one_that_is_silent() -> None:
    over = threading.Event()

    def trickle(sock: socket.socket) -> None:
        with suppress(OSError):
            while not over.wait(0.05):
                sock.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = ("tcp", "127.0.0.1", str(listener.getsockname()[1]))
        with background(lambda: doorbell.connect(address, SECRET, 1, 0.5)) as found:
            sock, _ = listener.accept()
            with sock, background(lambda: trickle(sock)):
                step = time.monotonic() + LIMIT
                while "ended" not in found and time.monotonic() < step:
                    over.wait(0.01)
                over.set()
    assert isinstance(found["error"], TimeoutError)


def test_a_listener_that_says_nothing_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = ("tcp", "127.0.0.1", str(listener.getsockname()[1]))
        with pytest.raises(TimeoutError):
            doorbell.connect(address, SECRET, 1, 0.05)


@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_where_nobody_listens(kind: str, tmp_path: Any) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # so that nobody else listens there meanwhile
        port = str(silent.getsockname()[1])
        addresses = {"unix": ("unix", str(tmp_path / "nobody")), "tcp": ("tcp", "127.0.0.1", port)}
        with pytest.raises((FileNotFoundError, ConnectionRefusedError)):
            doorbell.connect(addresses[kind], SECRET, 1, LIMIT)


# -- the rest -------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "eventfd"), reason="this system or Python has no eventfd")
def test_events_are_swapped_and_wake_the_other_side() -> None:
    ours, theirs = os.eventfd(0), os.eventfd(0)
    a, b = socket.socketpair()
    fds = [ours, theirs]
    try:
        with a, b:
            with background(lambda: doorbell.swap_events(b, [theirs], LIMIT)) as found:
                got = doorbell.swap_events(a, [ours], LIMIT)
            other = found["value"]
            fds += [*got, *other]
            assert len(got) == len(other) == 1
            os.eventfd_write(got[0], 5)
            assert os.eventfd_read(theirs) == 5
            os.eventfd_write(other[0], 6)
            assert os.eventfd_read(ours) == 6
            assert a.gettimeout() is None
    finally:
        for fd in fds:
            os.close(fd)


@pytest.mark.parametrize("words", [b"x", b"e", b""], ids=["wrong", "no event", "closed"])
def test_events_that_do_not_come_are_an_error(words: bytes) -> None:
    a, b = socket.socketpair()
    with a, b, open(os.devnull) as file:
        b.sendall(words)
        b.shutdown(socket.SHUT_WR)
        with pytest.raises(ConnectionResetError):
            doorbell.swap_events(a, [file.fileno()], LIMIT)


def test_the_folder_is_private_and_goes_away() -> None:
    with doorbell.private_folder() as folder:
        assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
        acceptor = Acceptor(SECRET, RANKS)
        path = os.path.join(folder, "bell")
        acceptor.listen_unix(path)
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        acceptor.close()
    assert not os.path.exists(folder)


def test_tcp_listens_on_one_interface_only() -> None:
    acceptor = Acceptor(SECRET, RANKS)
    kind, host, port = acceptor.listen_tcp("127.0.0.1")
    (listener,) = acceptor._listeners
    assert listener.getsockname() == ("127.0.0.1", int(port))
    assert (kind, host) == ("tcp", "127.0.0.1")
    acceptor.close()


def test_records_have_a_fixed_size_and_kinds_differ() -> None:
    kinds = [
        doorbell.INTERRUPT,
        doorbell.PING,
        doorbell.PONG,
        doorbell.ABANDON,
        doorbell.FAREWELL,
    ]
    assert len(set(kinds)) == len(kinds)
    record = doorbell.RECORD.pack(doorbell.PONG, 2**40, 1.5, 2**41)
    assert len(record) == doorbell.RECORD.size
    assert doorbell.RECORD.unpack(record) == (doorbell.PONG, 2**40, 1.5, 2**41)


def test_the_process_at_the_other_end() -> None:
    """Only where the kernel vouches for it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        assert doorbell.pid_behind(ours) == os.getpid()
    with socket.socket(socket.AF_INET) as far:
        assert doorbell.pid_behind(far) == 0
