"""The doorbell among strangers: what a peer without the secret, or with too much of it, can do. Nothing."""

from __future__ import annotations

import ast
import contextlib
import gc
import os
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mpiframe
from mpiframe import doorbell
from mpiframe.config import Config
from mpiframe.control import Control
from mpiframe.doorbell import BELL, CONTROL, RECORD, Acceptor

SECRET = b"s" * 32
RANKS = range(1, 9)
LIMIT = 60.0  # seconds after which a test gives up
LONG = bool(os.environ.get("MPIFRAME_TEST_LONG"))  # `launch/test --faults`: further, at random
FUZZ = settings(max_examples=1_000 if LONG else 60, derandomize=not LONG, database=None, deadline=None)
PACKAGE = Path(mpiframe.__file__).parent


class Gate:
    """An Acceptor that a thread of its own steps, as the client does while its world opens."""

    def __init__(self, kind: str, folder: str, **options: Any) -> None:
        self.acceptor = Acceptor(SECRET, RANKS, **options)
        if kind == "unix":
            self.address = self.acceptor.listen_unix(os.path.join(folder, "bell"))
        else:
            self.address = self.acceptor.listen_tcp("127.0.0.1")
        self.most_guests = 0
        self.error: BaseException | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._step, daemon=True)
        self._thread.start()

    def _step(self) -> None:
        try:
            while not self._over.is_set():
                self.acceptor.step(0.01)
                self.most_guests = max(self.most_guests, len(self.acceptor._guests))
        except BaseException as error:
            self.error = error

    def close(self) -> None:
        self._over.set()
        self._thread.join(LIMIT)
        self.acceptor.close()
        assert self.error is None

    def knock(self) -> socket.socket:
        """A connection that says nothing yet."""
        if self.address[0] == "unix":
            sock = socket.socket(socket.AF_UNIX)
            place: Any = self.address[1]
        else:
            sock = socket.socket(socket.AF_INET)
            place = (self.address[1], int(self.address[2]))
        sock.settimeout(LIMIT)
        sock.connect(place)
        return sock

    def join(self, rank: int) -> tuple[socket.socket, socket.socket]:
        ends = doorbell.connect(self.address, SECRET, rank, LIMIT)
        until(lambda: self.acceptor.complete(rank))
        return ends

    def challenge(self, sock: socket.socket, rank: int, kind: int, nonce: bytes) -> tuple[bytes, bytes]:
        """Say hello; the client's nonce and proof."""
        sock.sendall(doorbell._HELLO.pack(doorbell._MAGIC, rank, kind, nonce))
        return doorbell._CHALLENGE.unpack(
            doorbell.receive_exactly(sock, doorbell._CHALLENGE.size, time.monotonic() + LIMIT)
        )  # type: ignore[return-value]


def until(condition: Callable[[], Any], seconds: float = LIMIT) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "this did not happen in time"
        time.sleep(0.002)


def is_closed(sock: socket.socket) -> bool:
    """Whether the other end closes it without a word."""
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.fixture(params=["unix", "tcp"])
def gate(request: pytest.FixtureRequest) -> Iterator[Gate]:
    with doorbell.private_folder() as folder:
        made = Gate(request.param, folder)
        try:
            yield made
        finally:
            made.close()


NONCE = b"n" * 16


# -- crowds ----------------------------------------------------------------------------------------


def crowd(gate: Gate, count: int) -> list[socket.socket]:
    return [gate.knock() for _ in range(count)]


@pytest.mark.parametrize("words", [b"", b"mpiframe", doorbell._HELLO.pack(doorbell._MAGIC, 1, BELL, NONCE)])
def test_a_thousand_half_open_connections_keep_no_server_out(gate: Gate, words: bytes) -> None:
    gc.collect()  # or what other tests have left would close descriptors meanwhile
    descriptors = len(os.listdir("/proc/self/fd"))
    strangers = []
    try:
        for _ in range(1_000):
            sock = gate.knock()
            strangers.append(sock)
            with contextlib.suppress(ConnectionError):  # sent away already
                sock.sendall(words)
        ends = [gate.join(rank) for rank in RANKS]
        assert set(gate.acceptor.arrived) == set(RANKS)
        assert gate.most_guests <= doorbell._HALF_OPEN + 2 * len(RANKS)
    finally:
        for sock in strangers:
            sock.close()
    for bell, control in ends:
        bell.close()
        control.close()
    until(lambda: not gate.acceptor._guests)
    for rank in RANKS:
        for sock in gate.acceptor.take(rank):
            sock.close()
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_a_thousand_that_say_a_letter_now_and_then_are_sent_away_in_time(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    hello = doorbell._HELLO.pack(doorbell._MAGIC, 1, BELL, NONCE)
    slow = crowd(gate, 1_000)
    with selectors.DefaultSelector() as selector:
        for sock in slow:
            sock.setblocking(False)
            selector.register(sock, selectors.EVENT_READ)
        joined = threading.Event()

        def join() -> None:
            for end in gate.join(3):
                end.close()
            monkeypatch.setattr(doorbell, "_PATIENCE", 0.5)  # for the others, among which it was
            joined.set()

        threading.Thread(target=join, daemon=True).start()
        left, said, deadline = set(slow), 0, time.monotonic() + LIMIT
        while left:
            assert time.monotonic() < deadline, f"{len(left)} are still heard out"
            for key, _ in selector.select(0):
                selector.unregister(key.fileobj)
                left.discard(key.fileobj)  # type: ignore[arg-type]
            for sock in left:
                with contextlib.suppress(OSError):
                    sock.send(hello[said % 9 : said % 9 + 1])
            said += 1
            time.sleep(0.02)
    for sock in slow:
        sock.close()
    assert joined.wait(LIMIT)
    until(lambda: not gate.acceptor._guests)
    assert set(gate.acceptor.arrived) == {3}


def test_a_server_that_was_crowded_out_comes_again(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    sent_away: list[int] = []
    challenge = Acceptor._challenge

    def crowded(self: Acceptor, guest: Any, hello: bytes) -> None:
        if len(sent_away) < 2:
            sent_away.append(guest.sock.fileno())
            self._dismiss(guest)
        else:
            challenge(self, guest, hello)

    monkeypatch.setattr(Acceptor, "_challenge", crowded)
    bell, control = gate.join(2)
    bell.close()
    control.close()
    assert len(sent_away) == 2


# -- those who know the secret, and use it wrongly ------------------------------------------------------


def prove(rank: int, kind: int, theirs: bytes, side: bytes = b"server") -> bytes:
    return doorbell._prove(SECRET, side, rank, kind, NONCE + theirs)


@pytest.mark.parametrize("rank", [0, RANKS[-1] + 1, 2**32 - 1])
def test_a_rank_that_nobody_expects_is_sent_away(gate: Gate, rank: int) -> None:
    with gate.knock() as sock:
        sock.sendall(doorbell._HELLO.pack(doorbell._MAGIC, rank, BELL, NONCE))
        assert is_closed(sock)
    assert gate.acceptor.arrived == {}


@pytest.mark.parametrize("when", ["it waits to be taken", "it was taken"])
def test_a_server_comes_once(gate: Gate, when: str) -> None:
    bell, control = gate.join(2)
    if when == "it was taken":
        mine, other = gate.acceptor.take(2)
    else:
        mine, other = gate.acceptor.arrived[2][BELL], gate.acceptor.arrived[2][CONTROL]
    with bell, control, mine, other:
        for kind in (BELL, CONTROL):
            with gate.knock() as sock:
                theirs, _ = gate.challenge(sock, 2, kind, NONCE)
                sock.sendall(prove(2, kind, theirs))
                assert is_closed(sock)
        mine.settimeout(LIMIT)
        bell.sendall(b"!")
        assert mine.recv(9) == b"!"  # the first is not disturbed


@pytest.mark.parametrize(
    ("rank", "kind", "side"),
    [(4, BELL, b"server"), (3, CONTROL, b"server"), (3, BELL, b"client"), (3, BELL, b"")],
)
def test_a_proof_is_for_one_rank_one_connection_and_one_side(
    gate: Gate, rank: int, kind: int, side: bytes
) -> None:
    with gate.knock() as sock:
        theirs, _ = gate.challenge(sock, 3, BELL, NONCE)
        sock.sendall(prove(rank, kind, theirs, side))
        assert is_closed(sock)
    assert gate.acceptor.arrived == {}


def test_the_clients_own_proof_sent_back_is_none(gate: Gate) -> None:
    with gate.knock() as first, gate.knock() as second:
        theirs, proof = gate.challenge(first, 3, BELL, NONCE)
        first.sendall(proof)
        assert is_closed(first)
        # Nor is one that it gave for its own nonce, on another connection.
        _, reflected = gate.challenge(second, 3, BELL, theirs)
        second.sendall(reflected)
        assert is_closed(second)
    assert gate.acceptor.arrived == {}


def test_what_was_overheard_of_a_server_is_of_no_use_later(gate: Gate) -> None:
    overheard = []
    with gate.knock() as sock:
        theirs, _ = gate.challenge(sock, 3, BELL, NONCE)
        overheard = [doorbell._HELLO.pack(doorbell._MAGIC, 3, BELL, NONCE), prove(3, BELL, theirs)]
        sock.sendall(overheard[1])
        until(lambda: 3 in gate.acceptor.arrived)
    with gate.knock() as sock:
        sock.sendall(b"".join(overheard))
        with contextlib.suppress(ConnectionResetError):
            doorbell.receive_exactly(sock, doorbell._CHALLENGE.size, time.monotonic() + LIMIT)
        assert is_closed(sock)
    assert set(gate.acceptor.arrived[3]) == {BELL}


def test_a_server_is_not_led_to_a_listener_that_passes_it_on_as_another(gate: Gate) -> None:
    """Someone in between, who changes the rank, can neither prove itself to the one nor to the other."""
    with socket.create_server(("127.0.0.1", 0)) as between:
        between.settimeout(LIMIT)
        found: list[BaseException] = []

        def server() -> None:
            try:
                doorbell.connect(("tcp", *map(str, between.getsockname())), SECRET, 5, LIMIT)
            except OSError as error:
                found.append(error)

        thread = threading.Thread(target=server)
        thread.start()
        sock, _ = between.accept()
        with sock, gate.knock() as onwards:
            hello = doorbell.receive_exactly(sock, doorbell._HELLO.size, time.monotonic() + LIMIT)
            magic, rank, kind, nonce = doorbell._HELLO.unpack(hello)
            onwards.sendall(doorbell._HELLO.pack(magic, rank + 1, kind, nonce))
            sock.sendall(
                doorbell.receive_exactly(onwards, doorbell._CHALLENGE.size, time.monotonic() + LIMIT)
            )
            assert is_closed(sock)  # it gives no proof
        thread.join(LIMIT)
    assert isinstance(found[0], ConnectionRefusedError)
    assert gate.acceptor.arrived == {}


def test_what_is_not_taken_is_closed_in_the_end(gate: Gate) -> None:
    bell, control = gate.join(1)
    gate.close()
    with bell, control:
        bell.settimeout(LIMIT)
        assert bell.recv(1) == b""


# -- links -----------------------------------------------------------------------------------------


def test_the_kernel_watches_the_link_of_a_control_connection_but_never_of_a_bell() -> None:
    gate = Gate("tcp", "", link_timeout=30.0)
    try:
        bell, control = doorbell.connect(gate.address, SECRET, 1, LIMIT, 30.0)
        until(lambda: gate.acceptor.complete(1))
        mine, other = gate.acceptor.take(1)
        with bell, control, mine, other:
            for sock in (control, other):
                assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
                tcp = {
                    name: sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, f"TCP_{name}"))
                    for name in ("KEEPIDLE", "KEEPINTVL", "USER_TIMEOUT")
                }
                assert tcp == {"KEEPIDLE": 10, "KEEPINTVL": 5, "USER_TIMEOUT": 30_000}
            for sock in (bell, mine):
                assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 0
    finally:
        gate.close()


def test_a_link_time_out_of_zero_waits_for_ever(gate: Gate) -> None:
    bell, control = gate.join(1)
    with bell, control:
        assert control.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0


def test_the_listener_takes_the_first_free_port_of_those_it_may_have() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.socket() as other:
        port = taken.getsockname()[1]
        acceptor = Acceptor(SECRET, RANKS)
        with pytest.raises(OSError, match="MPIFRAME_DOORBELL_PORTS"):
            acceptor.listen_tcp("127.0.0.1", [port])
        # Free for who may use a port again, and not given to anybody else meanwhile.
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", 0))
        free = other.getsockname()[1]
        assert acceptor.listen_tcp("127.0.0.1", [port, free]) == ("tcp", "127.0.0.1", str(free))
        acceptor.close()


# -- garbage ---------------------------------------------------------------------------------------

# A stranger's history: what it sends, piece by piece, and whether it then leaves.
PIECES = st.one_of(
    st.binary(max_size=120),
    st.builds(
        doorbell._HELLO.pack,
        st.just(doorbell._MAGIC),
        st.integers(0, 2**32 - 1),
        st.integers(0, 255),
        st.binary(min_size=16, max_size=16),
    ),
    st.just(b"mpiframe-doorbell-1\n"),
)
STRANGERS = st.lists(st.tuples(st.lists(PIECES, max_size=4), st.booleans()), min_size=1, max_size=6)


@settings(FUZZ, suppress_health_check=[HealthCheck.too_slow])
@given(strangers=STRANGERS)
def test_no_garbage_gets_in_nor_stops_the_listener(strangers: list[tuple[list[bytes], bool]]) -> None:
    acceptor = Acceptor(SECRET, RANKS)
    address = acceptor.listen_tcp("127.0.0.1")
    socks = []
    try:
        for pieces, leaves in strangers:
            sock = socket.create_connection((address[1], int(address[2])), LIMIT)
            socks.append(sock)
            for piece in pieces:
                with contextlib.suppress(OSError):
                    sock.sendall(piece)
                acceptor.step(0)
            if leaves:
                sock.close()
        for _ in range(3 * len(strangers) + 3):
            acceptor.step(0)
        assert acceptor.arrived == {}
        ends: list[Any] = []
        thread = threading.Thread(target=lambda: ends.extend(doorbell.connect(address, SECRET, 1, LIMIT)))
        thread.start()
        deadline = time.monotonic() + LIMIT
        while not acceptor.complete(1):
            assert time.monotonic() < deadline
            acceptor.step(0.05)
        thread.join(LIMIT)
        socks += ends
        assert set(acceptor.arrived) == {1}
    finally:
        acceptor.close()
        for sock in socks:
            sock.close()


@settings(FUZZ)
@given(answer=st.binary(max_size=120))
def test_a_listener_of_garbage_is_refused_with_an_error_of_the_system(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = ("tcp", *map(str, listener.getsockname()))
        listener.settimeout(LIMIT)
        over = threading.Event()

        def serve() -> None:
            with contextlib.suppress(OSError):
                while not over.is_set():
                    sock, _ = listener.accept()
                    with sock:
                        sock.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        with pytest.raises(OSError):
            doorbell.connect(address, SECRET, 1, 2.0)
        over.set()
        with contextlib.suppress(OSError):
            socket.create_connection(listener.getsockname(), LIMIT).close()
        thread.join(LIMIT)


class Heard:
    """A server, as far as its control thread sees it: what it was told to do."""

    def __init__(self) -> None:
        self.running = 0
        self.world = SimpleNamespace(config=Config())
        self.told: list[tuple[Any, ...]] = []
        self.broken = 0

    def interrupt(self, id: int) -> None:
        self.told.append(("interrupt", id))

    def recall(self, serial: int) -> bool:
        self.told.append(("recall", serial))
        return serial % 2 == 0

    def abandon(self) -> None:
        self.told.append(("abandon",))

    def leave(self) -> None:
        self.told.append(("leave",))

    def orphan(self) -> None:
        self.told.append(("orphan",))


KINDS = b"IBRPAL"


@settings(FUZZ)
@given(
    records=st.lists(
        st.tuples(
            st.one_of(st.sampled_from(KINDS), st.integers(0, 255)),
            st.binary(min_size=RECORD.size - 1, max_size=RECORD.size - 1),
        ),
        max_size=12,
    ),
    cut=st.lists(st.integers(1, 60), max_size=20),
    tail=st.binary(max_size=RECORD.size - 1),
)
def test_any_bytes_on_the_control_connection_are_records_or_nothing(
    records: list[tuple[int, bytes]], cut: list[int], tail: bytes
) -> None:
    data = b"".join(bytes([kind]) + rest for kind, rest in records if kind != ord("F"))
    whole = [data[i : i + RECORD.size] for i in range(0, len(data), RECORD.size)]
    expected: list[tuple[Any, ...]] = []
    for record in whole:
        kind, id, _, serial = RECORD.unpack(record)
        if kind == b"I":
            expected.append(("interrupt", id))
        elif kind == b"R":
            expected.append(("recall", serial))
        elif kind == b"C":
            expected.append(("recall", serial))
            if serial % 2:  # it has begun
                expected.append(("interrupt", id))
        elif kind == b"A":
            expected.append(("abandon",))
        elif kind == b"L":
            expected.append(("leave",))
    ours, theirs = socket.socketpair()
    server = Heard()
    control = Control(server, theirs)  # type: ignore[arg-type]
    control._after = lambda seconds, action: None  # type: ignore[method-assign] # it would end this process
    with ours, theirs:
        control.start()
        data += tail
        while data:
            size = cut.pop() if cut else len(data)
            ours.sendall(data[:size])
            data = data[size:]
        ours.shutdown(socket.SHUT_WR)
        control.join(LIMIT)
        assert not control.is_alive()
        answers = b""
        with contextlib.suppress(BlockingIOError):
            ours.setblocking(False)
            while part := ours.recv(4096):
                answers += part
    assert server.told == [*expected, ("orphan",), ("abandon",)]
    assert len(answers) % RECORD.size == 0
    kinds = [answers[i : i + 1] for i in range(0, len(answers), RECORD.size)]
    recalls = [serial for what, *rest in expected if what == "recall" for serial in rest]
    assert kinds.count(b"r") == len([serial for serial in recalls if serial % 2 == 0])
    assert kinds.count(b"p") == len([record for record in whole if record[:1] == b"P"])


def test_records_are_of_numbers_only() -> None:
    assert set(RECORD.format.lstrip("!")) <= set("cqdQ")
    assert struct.calcsize(RECORD.format) == RECORD.size == 25


# -- no pickle is read from a socket ---------------------------------------------------------------

READS = {"recv", "recv_into", "recvfrom", "recvfrom_into", "recvmsg", "recvmsg_into", "recv_fds", "makefile"}
SOCKET_READERS = {
    ("doorbell", "receive_exactly"),
    ("doorbell", "swap_events"),
    ("doorbell", "_hear"),
    ("hub.server", "_hear_guest"),
    ("hub.wire", "_talk"),
    ("hub.wire", "_talk_in"),
    ("control", "run"),
    ("lines", "read"),
    ("transport", "_drain"),
    ("launcher.supervise", "_next_signal"),
    ("plugins.scheduler.local", "__init__"),  # JSON
    ("plugins.scheduler.local_server", "_serve"),  # JSON, once the secret was shown
    ("plugins.difx.multicast", "_run"),  # XML
    ("plugins.difx.gateway", "_ready"),  # XML, passed on as it is
    ("plugins.difx.gateway_commands", "_pass_on"),  # packets of bytes, passed on as they are
    ("compat._difx_link", "send"),  # the same
    ("compat._difx_link", "let_go"),  # what comes until the other end closes, thrown away
    ("compat._difx_packets", "newPacket"),  # packets of bytes
}
OVER_MPI = {("group_comm", "sendrecv"), ("group", "_up_the_tree")}
"""Functions that call a method of such a name on a communicator."""
UNDOERS = {"loads", "load", "unpack", "eval", "exec", "Unpickler", "decode"}


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def own_calls(function: ast.FunctionDef) -> Iterator[tuple[str, str]]:
    """(receiver, name) of every call in a function, without those of functions inside it."""
    inside = {n for f in functions(function) if f is not function for n in ast.walk(f)}
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and node not in inside:
            called = node.func
            if isinstance(called, ast.Attribute):
                yield ast.unparse(called.value), called.attr
            elif isinstance(called, ast.Name):
                yield "", called.id


def test_who_reads_sockets_is_known_and_undoes_no_pickle() -> None:
    found = set()
    for path in PACKAGE.rglob("*.py"):
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        for function in functions(ast.parse(path.read_text(encoding="utf-8"))):
            calls = list(own_calls(function))
            if not READS & {name for _, name in calls}:
                continue
            found.add((module, function.name))
            if (module, function.name) in SOCKET_READERS:
                undone = [(on, name) for on, name in calls if name in UNDOERS]
                assert all(on in ("_CHALLENGE", "_HELLO", "doorbell.RECORD") for on, _ in undone), undone
    assert found == SOCKET_READERS | OVER_MPI


@pytest.mark.parametrize(
    "module",
    [
        "doorbell",
        "hub/wire",
        "hub/server",
        "hub/calls",  # what is pickled in a session's frames is passed on as it is
        "hub/sessions",
        "control",
        "machine",
        "launcher/supervise",
        "launcher/orders",
        "plugins/scheduler/local",
        "plugins/scheduler/local_server",
        "plugins/difx/multicast",
        "plugins/difx/gateway",
        "plugins/difx/gateway_commands",
        "plugins/difx/protocol",
        "compat/_difx_link",
        "compat/_difx_connection",
        "compat/_difx_packets",
    ],
)
def test_modules_of_sockets_do_not_even_import_what_could_undo_a_pickle(module: str) -> None:
    tree = ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            assert not {"pickle", "cloudpickle", "marshal", "codec"} & set(name.split(".")), (module, name)
