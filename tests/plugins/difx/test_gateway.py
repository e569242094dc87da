"""The gateway against clients that are wrong, hostile, slow or many; a gateway of its own for each test."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import select
import shutil
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from mpiframe import cli
from mpiframe.compat import DiFXJobControl
from mpiframe.compat._difx_packets import bytes_of
from mpiframe.plugins.difx import follow, gateway_monitor
from mpiframe.plugins.difx import gateway as gateway_module
from mpiframe.plugins.difx.follow import Follower
from mpiframe.plugins.difx.gateway import Gateway, GatewayError, GatewayOptions
from mpiframe.plugins.difx.gateway_channels import Outgoing
from mpiframe.plugins.difx.gateway_peers import may_connect, owner_of_peer
from mpiframe.plugins.difx.gateway_session import Session
from mpiframe.plugins.difx.jobs import JobOptions
from mpiframe.plugins.difx.messages import Message
from mpiframe.plugins.difx.messages_bodies import Info
from mpiframe.plugins.difx.multicast import Group
from mpiframe.plugins.difx.protocol import (
    LONGEST_PACKET,
    Id,
    Packet,
    ProtocolError,
    Reader,
    framed_items,
    read_int,
    write_counted,
    write_int,
    write_item,
    write_packet,
)
from tests.plugins.difx.peers import SECONDS, Peer, connected
from tests.plugins.difx.recorded import transcript

LONG = bool(os.environ.get("MPIFRAME_TEST_LONG"))
TOKEN = "a token for this test alone"


Opened = Callable[..., tuple[Gateway, int]]


@pytest.fixture
def group() -> Group:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.1", 0))
        return Group(f"239.{random.randrange(1, 255)}.9.{random.randrange(1, 255)}", one.getsockname()[1])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """What clients may use; beside it lies what they may not."""
    made = tmp_path / "root"
    made.mkdir()
    (tmp_path / "secret").write_text("not for clients")
    (made / "out").symlink_to(tmp_path)
    return made


@pytest.fixture
def opened(root: Path, group: Group) -> Iterator[Opened]:
    """Makes gateways, which leave no thread behind."""
    before = set(threading.enumerate())
    with contextlib.ExitStack() as stack:

        def make(host: str = "127.0.0.1", **options: Any) -> tuple[Gateway, int]:
            made = stack.enter_context(Gateway(GatewayOptions([str(root)], group=group, **options)))
            return made, made.listen(host, 0)

        yield make
        while Peer.all:
            Peer.all.pop().close()
    left = [one for one in threading.enumerate() if one not in before and "gateway" in one.name]
    assert left == []
    gc.collect()  # a transport that nobody closed is told of here, and not in another test


# -- packets --------------------------------------------------------------------------------------


@pytest.mark.parametrize("portion", [1, 3, 8, 1000])
def test_packets_are_read_in_whatever_portions_they_come(portion: int) -> None:
    data = write_packet(8) + write_packet(3, b"abc") + write_item(7, b"xy") + write_item(8, b"")
    reader = Reader()
    found = [one for at in range(0, len(data), portion) for one in reader.feed(data[at : at + portion])]
    assert found == [Packet(8), Packet(3, b"abc"), Packet(22, b"xy", 7), Packet(22, b"", 8)]
    assert reader.held == 0


def test_data_of_a_channel_may_be_long_and_come_in_pieces_and_others_may_not() -> None:
    content = os.urandom(300_000)
    data = write_item(5, content)
    reader = Reader()
    pieces = [one for at in range(0, len(data), 70_001) for one in reader.feed(data[at : at + 70_001])]
    assert b"".join(one.data for one in pieces) == content
    assert [one.more for one in pieces] == [True] * (len(pieces) - 1) + [False]
    for wrong in (
        write_packet(3, b"x" * (LONGEST_PACKET + 1)),
        write_int(3) + write_int(-1),
        write_int(22) + write_int(3) + b"abc",
    ):
        with pytest.raises(ProtocolError):
            list(Reader().feed(wrong))


def test_a_size_of_32_bits_without_a_sign_is_written_as_it_is_read() -> None:
    assert write_int(-2) == write_int(0xFFFFFFFE) == b"\xff\xff\xff\xfe"
    assert read_int(write_int(0x80000001)) & 0xFFFFFFFF == 0x80000001
    assert framed_items(101) == [b"\0\0\0e", b"\0\0\0\0"]
    assert framed_items(102, b"ab") == [b"\0\0\0f", b"\0\0\0\2", b"ab"]


# -- who may connect ------------------------------------------------------------------------------


def test_it_listens_on_other_addresses_only_with_a_secret(opened: Opened) -> None:
    with pytest.raises(GatewayError, match="token"):
        opened(host="0.0.0.0")
    with pytest.raises(GatewayError, match="guessed"):
        opened(host="0.0.0.0", token="short")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # encrypts, but lets everybody in
    with pytest.raises(GatewayError, match="CA"):
        opened(host="0.0.0.0", tls=context)
    opened(host="0.0.0.0", token=TOKEN)


def test_a_token_has_to_come_first(
    opened: Opened, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, port = opened(token=TOKEN)
    for first in (write_packet(Id.VERSION), write_packet(Id.TOKEN, b"another"), os.urandom(100)):
        peer = Peer(port)
        peer.connection.sendall(first)
        answers = [packet.id for packet in iter(peer.next, None)]
        assert Id.VERSION not in answers
        peer.close()
    secret = tmp_path / "token"
    secret.write_text(f"{TOKEN}\n")
    monkeypatch.setenv("MPIFRAME_DIFX_TOKEN_FILE", str(secret))
    difx = connected(port)
    assert difx.sendFile(f"{root}/a", "b") == 1
    difx.close()


def test_certificates_let_clients_in(
    opened: Opened, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca, other = trustme.CA(), trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    ca.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    _, port = opened(tls=context)
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("MPIFRAME_DIFX_CA", str(tmp_path / "ca.pem"))
    for authority, welcome in ((other, False), (ca, True)):
        client = authority.issue_cert("client@example.org")
        path = tmp_path / f"client-{welcome}.pem"
        client.private_key_and_cert_chain_pem.write_to_path(str(path))
        monkeypatch.setenv("MPIFRAME_DIFX_CERT", str(path))
        difx = connected(port)
        assert difx.sendFile(f"{root}/a", "b") == (1 if welcome else None)
        difx.close()


def test_on_the_loopback_only_its_own_user_is_served(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        one = stack.enter_context(socket.create_connection(server.getsockname()))
        two = stack.enter_context(server.accept()[0])
        assert owner_of_peer(one) == owner_of_peer(two) == os.getuid()
        one.shutdown(socket.SHUT_WR)
        assert owner_of_peer(two) == os.getuid()
        one.close()  # as one would who is not to be known: anybody's is root's then
        assert owner_of_peer(two) is None
        assert not may_connect(two)
    monkeypatch.setattr(gateway_module, "may_connect", lambda connection: False)
    _, port = opened()
    peer = Peer(port)
    refused = peer.next()
    assert refused is not None
    assert refused.id == Id.ERROR
    assert b"own user" in refused.data
    assert peer.next() is None
    _, port = opened(any_user=True)
    assert Peer(port).version()


def test_the_command_line_takes_no_token_that_others_can_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    path.chmod(0o644)
    words = ["difx", "serve", "--port", "0", "--root", str(tmp_path)]
    assert cli.main([*words, "--token-file", str(path)]) == 1
    assert "chmod 600" in capsys.readouterr().err
    assert cli.main([*words, "--host", "0.0.0.0"]) == 1
    assert "token" in capsys.readouterr().err


# -- clients that are wrong -----------------------------------------------------------------------


def test_garbage_and_half_packets_end_a_client_and_no_other(opened: Opened) -> None:
    gateway, port = opened()
    good = Peer(port)
    chance = random.Random(1)
    for size in [1, 4, 7, 8, 9, 100, 5000] * 5:
        bad = Peer(port)
        with contextlib.suppress(OSError):
            bad.connection.sendall(chance.randbytes(size))
        bad.close()
    half = Peer(port)
    half.connection.sendall(write_packet(Id.VERSION)[:5])
    assert good.version().startswith("mpiframe")
    half.connection.sendall(write_packet(Id.VERSION)[5:])
    assert half.until(lambda one: one.id == Id.VERSION)
    too_long = Peer(port)
    too_long.connection.sendall(write_int(3) + write_int(1 << 30))
    answer = too_long.next()
    assert answer is not None
    assert answer.id == Id.ERROR
    assert too_long.next() is None
    assert good.version()
    assert settled(lambda: gateway.clients <= 3, True), under_way(gateway)


def test_packets_of_no_use_are_ignored_or_warned_of(opened: Opened) -> None:
    _, port = opened()
    peer = Peer(port)
    for number in (0, 9, 99, -5, 1 << 30):
        peer.send(number, b"whatever")
    for number in (Id.RELAY, Id.START_MONITOR, Id.GENERATE_FILELIST, Id.JOB_STATUS):
        peer.send(number, b"\xff")
        assert peer.until(lambda one: one.id == Id.WARNING)
    for text in (b"", b"<", b"<a/>", b"<!DOCTYPE a [<!ENTITY b 'c'>]><difxMessage>&b;</difxMessage>"):
        peer.send(Id.COMMAND, text)
        assert b"parse" in peer.until(lambda one: one.id == Id.WARNING).data
    peer.command("DifxInfoMessage", "<message>a</message>")
    assert b"DifxInfoMessage" in peer.until(lambda one: one.id == Id.WARNING).data
    peer.command("DifxFileOperation", "<operation>ls</operation><path>/</path>")
    assert b"<port>" in peer.until(lambda one: one.id == Id.WARNING).data
    assert peer.version()


def test_groups_that_a_client_names_are_not_kept(opened: Opened) -> None:
    _, port = opened()
    peer = Peer(port)
    peer.version()
    before = handles()
    for number in range(1, 100):
        peer.send(Id.MULTICAST_SETTINGS, f"239.1.2.{number}\n50777".encode())
        peer.send(Id.RELAY, write_int(1))
        peer.send(Id.RELAY_COMMAND, Message(Info("to each of them")).write())
        peer.version()
    assert handles() <= before + 2  # the group that it hears now, and its own sender


def test_200_clients_at_once_are_served_and_more_than_allowed_refused(opened: Opened, root: Path) -> None:
    gateway, port = opened(most_clients=200)
    (root / "file").write_text("x")
    peers = [Peer(port) for _ in range(200)]
    for number, peer in enumerate(peers):
        peer.send(Id.CHANNEL_ALL_DATA_ON)
        peer.command(
            "DifxFileOperation", f"<port>{number}</port><operation>ls</operation><path>{root}/file</path>"
        )
    line = f"{root}/file\n".encode()
    for number, peer in enumerate(peers):
        assert peer.channel(number) == [write_int(len(line)), line, write_int(0)]
    assert gateway.clients == 200
    one_more = Peer(port)
    answer = one_more.next()
    assert answer is not None
    assert answer.id == Id.ERROR
    for peer in [*peers, one_more]:
        peer.close()


def test_a_client_that_reads_nothing_holds_up_no_other_and_no_memory(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Outgoing, "ROOM_BYTES", 1 << 18)
    gateway, port = opened()
    slow, quick = Peer(port), Peer(port)
    for peer in (slow, quick):
        peer.send(Id.RELAY, write_int(1))
        peer.version()
    sender = gateway.sender()
    for number in range(2500):
        head = f"<header><type>DifxInfoMessage</type><identifier>{number}</identifier></header>"
        sender.send_raw(f"<difxMessage>{head}<body>{' ' * 7500}</body></difxMessage>".encode())
        # One after the other: none is lost in between.
        assert f"<identifier>{number}<" in quick.until(lambda one: one.id == Id.RELAY).data.decode()
    sessions = list(gateway._sessions)
    assert sum(one._out.dropped for one in sessions) > 0
    assert all(one._out.writer.transport.get_write_buffer_size() < 1 << 19 for one in sessions)
    slow.close()
    assert quick.version()


def test_a_client_that_takes_no_file_is_given_up(opened: Opened, root: Path) -> None:
    gateway, port = opened(patience_seconds=0.2)
    (root / "large").write_bytes(bytes(30_000_000))
    slow = Peer(port)
    slow.send(Id.CHANNEL_ALL_DATA_ON)
    body = f"<origin>{root}/large</origin><direction>from DiFX</direction><port>1</port>"
    slow.command("DifxFileTransfer", body)
    quick = Peer(port)
    deadline = time.monotonic() + SECONDS
    while gateway.clients > 1:
        assert quick.version()
        assert time.monotonic() < deadline


# -- its end --------------------------------------------------------------------------------------


def test_it_closes_whoever_has_just_connected(root: Path, group: Group) -> None:
    """Clients of whom nobody has heard yet, and what is accepted while it closes."""
    for number in range(30):
        with contextlib.ExitStack() as stack:
            with Gateway(GatewayOptions([str(root)], group=group)) as gateway:
                port = gateway.listen("127.0.0.1", 0)
                peers = [
                    stack.enter_context(socket.create_connection(("127.0.0.1", port), SECONDS))
                    for _ in range(1 + number % 5)
                ]
            for peer in peers:
                with contextlib.suppress(ConnectionResetError):
                    assert peer.recv(1) == b""
    gc.collect()


def test_it_closes_clients_in_the_midst_of_a_handshake(opened: Opened) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    gateway, port = opened(tls=context)
    peers = [Peer(port) for _ in range(3)]
    peers[1].connection.sendall(b"\x16\x03\x01")  # the beginning of a hello
    assert settled(lambda: connections_of(port), 3)
    gateway.close()
    assert [peer.next() for peer in peers] == [None] * 3
    gc.collect()


def connections_of(port: int) -> int:
    """How many connections that it has accepted this process has at a port."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError), opened_again(name) as one:
            found += one.type == socket.SOCK_STREAM and one.getsockname()[1:] == (port,) and is_connected(one)
    return found


def is_connected(one: socket.socket) -> bool:
    try:
        return bool(one.getpeername())
    except OSError:
        return False


@contextlib.contextmanager
def opened_again(name: str) -> Iterator[socket.socket]:
    """A socket of this process, by its number, for a moment. Raises OSError for what is none, or closed."""
    copy = os.dup(int(name))
    try:
        one = socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        raise
    with one:
        yield one


def test_it_closes_while_a_client_reads_nothing_of_a_reply_that_it_listens_for(
    opened: Opened, root: Path
) -> None:
    gateway, port = opened()
    (root / "large").write_bytes(bytes(30_000_000))
    peer = Peer(port)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(SECONDS)
        number = listening.getsockname()[1]
        body = f"<origin>{root}/large</origin><direction>from DiFX</direction><port>{number}</port>"
        peer.command("DifxFileTransfer", body)
        connection, _ = listening.accept()
        with connection:
            assert connection.recv(4)
            begun = time.monotonic()
            gateway.close()
            assert time.monotonic() - begun < SECONDS / 2  # its patience would be a minute
    gc.collect()


# -- files ----------------------------------------------------------------------------------------


def test_nothing_outside_of_the_roots_can_be_read_or_changed(
    opened: Opened, root: Path, tmp_path: Path
) -> None:
    _, port = opened()
    difx = connected(port)
    said: list[bytes] = []
    difx.addAllCallback(lambda number, data: said.append(data) if number == Id.ERROR else None)
    (root / "own").write_text("own")
    for outside in (f"{tmp_path}/secret", f"{root}/../secret", f"{root}/out/secret"):
        assert difx.getFile(outside) is None
        assert difx.sendFile(outside, "changed") == 0xFFFFFFFD
        assert difx.ls(outside) is None
        difx.rm(outside, "-rf")
        difx.touch(f"{outside}-touched")
        difx.mkdir(f"{outside}-made/a")
        difx.cp(f"{root}/own", outside)
        difx.mv(f"{root}/own", outside)
        difx.cp(outside, f"{root}/copied")
    for command in ("; touch injected", "$(touch injected)", "`touch injected`", "x && touch injected"):
        difx.mkdir(f"{root}/{command}")
        difx.rm(f"{root}/nothing", command)
        difx.ls(f"{root}", command)
    difx.mv(f"{root}/own", "relative")
    assert difx.getFile("relative") is None
    assert difx.sendFile("relative", "x") == 0xFFFFFFFF
    assert difx.ls(str(root)) is not None
    assert (tmp_path / "secret").read_text() == "not for clients"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["root", "secret"]
    assert not list(tmp_path.rglob("injected"))
    assert (root / "own").exists()
    assert said
    difx.close()


def test_content_is_kept_as_it_is(opened: Opened, root: Path) -> None:
    _, port = opened()
    difx = connected(port)
    for content in (b"", b"\0", b"a\0b" * 2000, os.urandom(3_000_001)):
        assert difx.sendFile(f"{root}/f", content) == len(content)
        assert (root / "f").read_bytes() == content
        text = difx.getFile(f"{root}/f")
        assert text is not None
        assert bytes_of(text) == content
    assert sorted(one.name for one in root.iterdir()) == ["f", "out"]
    difx.close()


def test_an_upload_that_ends_early_leaves_what_was_there(opened: Opened, root: Path) -> None:
    gateway, port = opened()
    (root / "f").write_text("before")
    peer = Peer(port)
    peer.send(Id.CHANNEL_ALL_DATA_ON)
    body = f"<destination>{root}/f</destination><direction>to DiFX</direction><port>1</port>"
    peer.command("DifxFileTransfer", body)
    peer.connection.sendall(write_item(1, write_int(1000)) + write_item(1, b"x" * 500))
    peer.until(lambda one: one.id == Id.CHANNEL_CONNECTION)
    assert settled(lambda: len(list(root.iterdir())), 3)  # what came is kept beside it until all is there
    peer.close()
    other = Peer(port)
    deadline = time.monotonic() + SECONDS
    while gateway.clients > 1:
        assert other.version()
        assert time.monotonic() < deadline, under_way(gateway)
    assert settled(lambda: sorted(one.name for one in root.iterdir()), ["f", "out"])
    assert (root / "f").read_text() == "before"


def test_replies_come_to_where_the_client_listens_if_it_wants_no_channels(opened: Opened, root: Path) -> None:
    _, port = opened()
    (root / "a").write_text("x")
    peer = Peer(port)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(SECONDS)
        number = listening.getsockname()[1]
        # Wherever it says that it is: it is connected back to where it is.
        peer.command(
            "DifxFileOperation",
            f"<address>192.0.2.1</address><port>{number}</port><operation>ls</operation><path>{root}/a</path>",
        )
        connection, _ = listening.accept()
        with connection:
            connection.settimeout(SECONDS)
            found = b""
            while data := connection.recv(1000):
                found += data
    assert found == write_counted(f"{root}/a\n".encode()) + write_int(0)


# -- programs -------------------------------------------------------------------------------------


@pytest.fixture
def job(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A job's folder; no program of DiFX is there."""
    programs = tmp_path.parent / f"{tmp_path.name}-programs"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.delenv("DIFX_BASE", raising=False)
    folder = root / "exp"
    folder.mkdir()
    return folder


@pytest.mark.parametrize(
    "wrong",
    [
        "<mpiWrapper>/bin/touch {root}/ran;</mpiWrapper>",
        "<difxProgram>touch</difxProgram>",
        "<mpiOptions>--prefix {root}</mpiOptions>",
        "<difxVersion>../../bin</difxVersion>",
    ],
)
def test_a_client_cannot_say_which_programs_are_run(
    wrong: str, opened: Opened, root: Path, job: Path
) -> None:
    _, port = opened()
    (job / "a.input").write_text("x")
    peer = Peer(port)
    peer.send(Id.CHANNEL_ALL_DATA_ON)
    nodes = '<manager node="a"/><datastream nodes="a"/><process nodes="a" threads="2"/>'
    peer.command("DifxStart", f"<input>{job}/a.input</input><port>1</port>{nodes}{wrong.format(root=root)}")
    items = peer.channel(1, write_int(100))
    assert items == [write_int(102), write_int(0), write_int(103), write_int(0), write_int(100)]
    for body in (
        f"<passPath>{job}</passPath><file>a.v2d</file><calcCommand>touch {root}/ran</calcCommand>",
        f"<passPath>{job}</passPath><file>-f;touch ran</file>",
        f"<passPath>{job}</passPath><file>../a.v2d</file>",
        "<passPath>/etc</passPath><file>a.v2d</file>",
    ):
        peer.command("DifxVex2DifxRun", f"<port>2</port>{body}")
        assert peer.until(lambda one: one.id == Id.ERROR)
        assert peer.channel(2) == [write_int(0)]
    peer.send(Id.SETUP_PATH, b"/bin/touch ran")
    assert b"rungeneric" in peer.until(lambda one: one.id == Id.WARNING).data
    assert not list(root.rglob("ran"))


def test_only_named_variables_are_shown(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a secret")
    monkeypatch.setenv("DIFX_HEAD_NODE", "head")
    monkeypatch.setenv("OUR_SITE", "x=y")
    _, port = opened(shown=["OUR_SITE"])
    difx = connected(port)
    difx.version()
    assert difx.getenv("DIFX_HEAD_NODE") == "head"
    assert difx.getenv("OUR_SITE") == "x=y"
    assert difx.getenv("PATH") is None
    assert "a secret" not in str(difx.serverEnvironment)
    difx.close()


def test_what_stops_where_nothing_runs_says_so(opened: Opened, root: Path, job: Path) -> None:
    _, port = opened()
    difx = DiFXJobControl.Client()
    errors: list[bytes | None] = []
    told = threading.Event()

    def hear(number: int, data: bytes | None) -> None:
        if number == Id.ERROR:
            errors.append(data)
            told.set()

    difx.addAllCallback(hear)
    difx.connect("127.0.0.1", port)
    difx.monitor()
    difx.stop(f"{job}/none.input")
    assert told.wait(SECONDS)
    assert b"was not stopped" in (errors[0] or b"")
    difx.close()


def test_a_client_that_goes_while_its_monitor_is_opened_leaves_nothing(
    opened: Opened, root: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(data / "real_run_tiny" / "tiny_1.input", root)
    before = set(threading.enumerate())
    gateway, port = opened()
    entered, gone = threading.Event(), threading.Event()
    stopped, stop = threading.Semaphore(0), gateway_monitor._Watching.stop

    def opening(path: str, **options: Any) -> Follower:
        entered.set()
        assert gone.wait(SECONDS)
        return Follower(path, **options)

    def stopping(watching: gateway_monitor._Watching) -> None:
        stopped.release()
        stop(watching)

    monkeypatch.setattr(follow, "Follower", opening)
    monkeypatch.setattr(gateway_monitor._Watching, "stop", stopping)
    peer = Peer(port)
    peer.send(Id.CHANNEL_ALL_DATA_ON)
    peer.send(Id.START_MONITOR, write_int(1))
    for item in framed_items(gateway_monitor.INPUT_PATH, f"{root}/tiny_1.input".encode()):
        peer.send(Id.CHANNEL_DATA, write_int(1) + item)
    assert entered.wait(SECONDS)
    peer.close()
    for _ in ("what was followed before", "this one, when the client has gone"):
        assert stopped.acquire(timeout=SECONDS)
    gone.set()
    assert settled(lambda: gateway.clients, 0), under_way(gateway)
    gateway.close()
    assert settled(lambda: [one for one in threading.enumerate() if one not in before], [])


# -- anything at all ------------------------------------------------------------------------------


def mutated(data: bytes, chance: random.Random) -> bytes:
    """With some bytes changed, left out, doubled or cut."""
    changed = bytearray(data)
    for _ in range(chance.randrange(1, 6)):
        at = chance.randrange(len(changed) + 1)
        what = chance.randrange(4)
        if what == 0 and at < len(changed):
            changed[at] = chance.randrange(256)
        elif what == 1:
            del changed[at : at + chance.randrange(1, 20)]
        elif what == 2:
            changed[at:at] = changed[at : at + chance.randrange(1, 40)]
        else:
            changed[at:at] = chance.choice(
                [b"<", b">", b"&", b"/..", b"*", b"\0", b"\xff", b"-1", b"9" * 30, b"$(id)", b"</body>"]
            )
    return bytes(changed)


def handles() -> int:
    return len(os.listdir("/proc/self/fd"))


def described() -> Counter[str]:
    """What is open: files by their paths, sockets by their kinds and addresses."""
    found: Counter[str] = Counter()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            path = os.readlink(f"/proc/self/fd/{name}")
            if not path.startswith("socket:"):
                found[path] += 1
                continue
            with opened_again(name) as one:
                found[f"{one.family.name} {one.type.name} {one.getsockname()}"] += 1
    return found


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def settled(what: Callable[[], object], wanted: object) -> bool:
    """Whether it becomes so: the gateway ends its sessions in its own time."""
    deadline = time.monotonic() + SECONDS
    while what() != wanted and time.monotonic() < deadline:
        time.sleep(0.01)
    return what() == wanted


@pytest.mark.timeout(3600 if LONG else 120)
def test_random_packets_and_mutated_commands_do_no_harm(
    opened: Opened, root: Path, job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """No crash, nothing left open, no memory lost, no file outside of the roots written, read or run.

    Only what the gateway has taken counts: a packet that is none at all ends its connection.
    """
    packets, commands = (1_000_000, 10_000) if LONG else (2_000, 200)
    taken: Counter[bool] = Counter()
    take = Session._take

    async def counted(session: Session, packet: Packet) -> None:
        taken[packet.id == Id.COMMAND] += 1
        await take(session, packet)

    monkeypatch.setattr(Session, "_take", counted)
    # Where relative paths, and those of a home, would lead.
    for name in ("working", "home"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "working")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    programs = Path(os.environ["PATH"])
    gateway, port = opened(patience_seconds=5.0)
    chance = random.Random(7)
    seeds = [one for name in ("smoke", "flow") for one in transcript.read(name, str(root)) if one.from_client]
    xml = [one.data for one in seeds if one.id == Id.COMMAND]
    others = [one for one in seeds if one.id != Id.COMMAND]
    assert settled(lambda: gateway.clients, 0)
    # These three are kept, once they were used; the second has a thread, which opens something too.
    gateway.sender()
    listener = gateway.jobs._heard_by()
    gateway.jobs.ask_to_stop(f"{root}/none.input", JobOptions())
    assert settled(lambda: listener.received, 1)
    there, memory = described(), 0.0
    kinds = [int(one) for one in Id if one not in (Id.COMMAND, Id.TOKEN)]
    while taken[False] < packets or taken[True] < commands:
        peer = Peer(port)
        peer.send(Id.CHANNEL_ALL_DATA_ON)
        batch = []
        for _ in range(500):
            if chance.random() < commands / (packets + commands):
                number, data = int(Id.COMMAND), mutated(chance.choice(xml), chance)
            elif chance.random() < 0.5:
                one = chance.choice(others)
                number, data = one.id, mutated(one.packet_data, chance)
            else:
                number, data = chance.choice(kinds), chance.randbytes(chance.randrange(40))
            if number == Id.CHANNEL_DATA and chance.random() < 0.99:
                data = data.ljust(4, b"\0")  # without the number of its channel it ends the connection
            batch.append(write_packet(number, data))
        if chance.random() < 0.5:  # all of it is waited for; else the client goes in the midst of it
            swallow(peer, b"".join(batch), to_its_end=True)
        else:
            swallow(peer, b"".join(batch) + (chance.randbytes(50) if chance.random() < 0.2 else b""))
        peer.close()
        if not memory and taken[False] > packets // 4:
            memory = resident_mib()
    good = Peer(port)
    assert good.version()
    good.close()
    assert settled(lambda: gateway.clients, 0), under_way(gateway)
    assert settled(lambda: described() - there, Counter()), described() - there
    assert resident_mib() < memory + 64
    assert [one.getMessage() for one in caplog.records if one.exc_info] == []  # nothing unforeseen was raised
    assert (tmp_path / "secret").read_text() == "not for clients"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["home", "root", "secret", "working"]
    assert [*(tmp_path / "home").iterdir(), *(tmp_path / "working").iterdir(), *programs.iterdir()] == []


def under_way(gateway: Gateway) -> list[str]:
    """What the sessions that are left do."""
    stacks = []
    for session, task in list(gateway._sessions.items()):
        for one in [task, *session._tasks]:
            inner: Any = one.get_coro()
            while inner is not None:
                frame = getattr(inner, "cr_frame", None) or getattr(inner, "ag_frame", None)
                stacks.append(f"{inner} {frame and frame.f_lineno}")
                inner = getattr(inner, "cr_await", None) or getattr(inner, "ag_await", None)
    return stacks


def swallow(peer: Peer, data: bytes, to_its_end: bool = False) -> None:
    """Send all of it, and read what comes back meanwhile, or until all of it was read there.

    The gateway may close the connection.
    """
    view = memoryview(data)
    peer.connection.setblocking(False)
    try:
        while view or to_its_end:
            waiting = [peer.connection] if view else []
            ready, writable, _ = select.select([peer.connection], waiting, [], SECONDS)
            assert ready or writable
            if ready:
                answer = peer.connection.recv(1 << 16)
                assert b"not for clients" not in answer
                if not answer:
                    return
            if writable:
                view = view[peer.connection.send(view) :]
                if not view and to_its_end:
                    peer.connection.shutdown(socket.SHUT_WR)
    except (ConnectionError, BlockingIOError):
        pass
