"""The hub among strangers, crowds and the slow: without the secret there is nothing, and nobody waits."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import time
from collections.abc import Iterator

import numpy as np
import pytest

from mpiframe.attached.client import connect
from mpiframe.doorbell import receive_exactly
from mpiframe.errors import MpiframeError, RequestError, WorldError
from mpiframe.hub import wire
from tests.conftest import Launcher, launching, pythons
from tests.interactive.attached import LIMIT, SECRET, WORLD, HubWorld, hub_world, until

SMALL = {"MPIFRAME_SESSION_MEMORY": str(8 << 20)}


@pytest.fixture(scope="module")
def shared() -> Iterator[HubWorld]:
    """A world that many tests share: of one MPI, for nothing of this is MPI's."""
    with launching(pythons()[0]) as launcher, hub_world(launcher, env=SMALL) as world:
        yield world


def is_closed(sock: socket.socket) -> bool:
    """Whether the hub closes this connection, within the time of the test."""
    try:
        while sock.recv(4096):
            pass
    except ConnectionResetError:
        pass
    return True


def test_who_does_not_know_the_secret_is_sent_away(shared: HubWorld) -> None:
    with pytest.raises(WorldError, match=r"world 'survey' cannot be attached to: .*does not know the secret"):
        connect(shared.address, b"\x08" * 32, name="survey")
    with shared.knock() as sock:
        sock.sendall(wire.HELLO.pack(wire.MAGIC, b"n" * wire.NONCE))
        answer = receive_exactly(sock, wire.CHALLENGE.size, time.monotonic() + LIMIT)
        sock.sendall(wire.CHALLENGE.unpack(answer)[1])  # the hub's own
        assert is_closed(sock)
    assert shared.attach().push("1", 1, True)[0].ret == 1


@pytest.mark.parametrize(
    "words",
    [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + b"x" * 80, os.urandom(4096), b"\0" * 200, wire.MAGIC * 9],
)
def test_garbage_is_not_answered(shared: HubWorld, words: bytes) -> None:
    with shared.knock() as sock:
        sock.sendall(words)
        assert is_closed(sock)


@pytest.mark.parametrize(
    "words",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        struct.pack("!4sI", b"mfs1", 9) + b'{"op":"x"',
        struct.pack("!4sI", b"mfs1", 1 << 30),
        struct.pack("!4sI", b"mfs1", 13) + b'{"sizes":[5]}' + b"12345" + b"\0" * 100,
    ],
)
def test_garbage_with_the_secret_ends_its_connection_only(shared: HubWorld, words: bytes) -> None:
    client = shared.attach()
    with shared.knock() as sock:
        wire.introduce(sock, SECRET, time.monotonic() + LIMIT)
        sock.settimeout(LIMIT)
        sock.sendall(words)
        sock.shutdown(socket.SHUT_WR)
        assert is_closed(sock)
    assert client.push("1", 1, True)[0].ret == 1


@pytest.mark.parametrize(
    "header",
    [
        {"op": "no such thing"},
        {"op": "push", "ids": [1], "to": [1], "command": {}},
        {
            "op": "push",
            "ids": [1, 2],
            "to": [1],
            "command": {"mode": 0, "key": 0, "source": "1", "label": None},
        },
        {"op": "push", "ids": ["x"], "to": [1], "command": {"mode": 17, "key": 0}},
        {"op": "cancel", "id": [], "running": 1},
        {"op": "adopt", "ids": 5},
        {"op": "interrupt", "ranks": 5, "named": True},
        {"op": "servers", "more": 1},
        {"op": "hello", "session": "again", "take_over": True, "user": "u", "who": "w"},
        {
            "op": "together",
            "ids": [1],
            "ranks": [1],
            "which": [4],
            "commands": [],
            "label": "",
            "seconds": None,
        },
        {},
    ],
)
def test_nonsense_with_the_secret_is_answered_with_an_error(
    shared: HubWorld, header: dict[str, object]
) -> None:
    client = shared.attach()
    number = client._loop._last_call + 1
    client._loop._calls[number] = None
    client._loop._send({**header, "n": number})
    until(lambda: client._loop._calls[number] is not None)
    found = client._loop._calls.pop(number)
    assert found is not None
    assert "error" in found[0]
    assert client.push("6 * 7", 2, True)[0].ret == 42


def test_what_cannot_be_pushed_ends_with_an_error(shared: HubWorld) -> None:
    client = shared.attach()
    client._encoder.functions._keys[b"never sent"] = 77
    client._loop._told.add(1)  # so its body is left out
    with pytest.raises(MpiframeError, match="cannot make sense"):
        client.submit(lambda: 1).result(LIMIT)


def test_half_open_connections_keep_nobody_out(shared: HubWorld) -> None:
    strangers = [shared.knock() for _ in range(300)]
    try:
        for sock in strangers[::2]:
            with contextlib.suppress(OSError):  # the oldest were sent away for the others already
                sock.sendall(wire.MAGIC[:5])
        start = time.monotonic()
        assert shared.attach().push("1", 1, True)[0].ret == 1
        assert time.monotonic() - start < wire.PATIENCE
        assert all(is_closed(sock) for sock in strangers[:200])
    finally:
        for sock in strangers:
            sock.close()


@pytest.mark.long
def test_who_says_nothing_is_sent_away_in_time(shared: HubWorld) -> None:
    with shared.knock() as silent, shared.knock() as slow:
        slow.sendall(wire.HELLO.pack(wire.MAGIC, b"n" * wire.NONCE))
        assert is_closed(silent)
        assert is_closed(slow)


def test_two_hundred_attached_processes_work_at_once(shared: HubWorld) -> None:
    clients = [shared.attach() for _ in range(200)]
    assert len({client.session for client in clients}) == 200
    futures = [client.submit(pow, n, 2) for n, client in enumerate(clients)]
    assert [future.result(LIMIT) for future in futures] == [n * n for n in range(200)]
    for client in clients:
        client.close()


def test_who_does_not_read_holds_nobody_up_and_loses_nothing(shared: HubWorld) -> None:
    process = shared.process(
        """
        import numpy
        client = attach("slow")
        client.push("import numpy", "all", True)
        ids = [client.push("numpy.full(1 << 17, 3.0)") for _ in range(60)]
        print("pushed", flush=True)
        sys.stdin.readline() if sys.stdin else None
        values = [r.ret.sum() for r in client.get(ids)]
        assert values == [3.0 * (1 << 17)] * 60, values
        print("fetched", flush=True)
        client.close()
        """
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "pushed\n"
    process.send_signal(signal.SIGSTOP)
    watcher = shared.attach()

    def is_held() -> bool:
        return watcher.push("'here'", 1, True, timeout=LIMIT)[0].ret == "here" and settled()

    seen: list[list[object]] = []

    def settled() -> bool:
        """Whether nothing more of it is run, though much of it is queued."""
        seen.append([(s.state, s.queued) for s in watcher.servers])
        return len(seen) > 3 and seen[-1] == seen[-2] == seen[-3] and all(s[0] == "idle" for s in seen[-1])

    until(is_held)
    process.send_signal(signal.SIGCONT)
    said, _ = process.communicate(timeout=LIMIT)
    assert said == "fetched\n"


def test_results_that_wait_for_nobody_are_bounded_and_none_is_lost(shared: HubWorld) -> None:
    client = shared.attach("heavy")
    client.push("import numpy", "all", True)
    # Of what this process is sent while it is attached the oldest may be let go.
    client.push("import os, time\nwhile not os.path.exists('heavy has left'): time.sleep(0.01)", "all")
    code = "(__import__('time').sleep(0.01), numpy.full(1 << 15, 1.0))[1]"
    # 15 MiB, where 8 may wait; of more than 16 some would be let go until they are asked for below.
    ids = [client.push(code) for _ in range(60)]
    client.close()
    (shared.folder / "heavy has left").touch()
    watcher = shared.attach()
    until(lambda: all(s.state == "idle" for s in watcher.servers))
    with shared.attach("heavy") as client:
        states = [row.status for row in client.requests()]
        assert states.count("done") < 50
        assert states.count("queued") > 10
        answers = client.get(ids, timeout=LIMIT)
        assert [float(answer.ret[-1]) for answer in answers] == [1.0] * 60


def test_what_a_process_had_and_let_be_is_let_go_with_a_word(shared: HubWorld) -> None:
    client = shared.attach("rita")
    client.push("import numpy", 1, True)
    ids = [client.push("numpy.full(1 << 17, 2.0)", 1) for _ in range(40)]
    until(lambda: all(client._loop.requests[id].told for id in ids))
    again = shared.attach("rita", take_over=True)
    states = {row.id: row.status for row in again.requests()}
    assert states[ids[0]] == "dropped"
    assert states[ids[-1]] == "done"
    first, last = again.get([ids[0], ids[-1]], timeout=LIMIT)
    assert float(last.ret[0]) == 2.0
    with pytest.raises(
        RequestError, match=r"request 2 .*was let go.*session 'rita'.*MPIFRAME_SESSION_MEMORY"
    ):
        first.result()


def test_a_transfer_that_breaks_off_harms_nobody(shared: HubWorld) -> None:
    process = shared.process(
        """
        import threading
        import numpy
        client = attach("torn")
        client.push("x = 1", 1, True)
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGKILL)).start()
        while True:
            client.submit(numpy.sum, numpy.zeros(1 << 22), target=1)
        """
    )
    assert process.wait(LIMIT) == -signal.SIGKILL
    with shared.attach("torn") as client:
        assert client.push("x", 1, True, timeout=LIMIT)[0].ret == 1
        client.close(drop=True)
    process = shared.process(
        """
        client = attach("torn")
        client.push("import numpy", 1, True)
        ids = [client.push("numpy.zeros(1 << 18)", 1) for _ in range(3)]
        print("pushed", flush=True)
        time.sleep(60)
        """
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGSTOP)
    process.kill()
    process.wait(LIMIT)
    with shared.attach("torn") as client:
        sizes = [answer.ret.nbytes for answer in client.get([2, 3, 4], timeout=LIMIT)]
        assert sizes == [1 << 21] * 3


def test_large_arrays_go_both_ways(shared: HubWorld) -> None:
    client = shared.attach()
    array = np.random.default_rng(1).integers(0, 1 << 60, 1 << 23)
    assert np.array_equal(client.submit(np.flip, array, target=1).result(LIMIT), np.flip(array))


@pytest.mark.long
def test_a_server_that_dies_is_told_of(launcher: Launcher) -> None:
    with hub_world(launcher, 3, WORLD, options=("--resilient",)) as world:
        client = world.attach()
        future = client.submit(os.kill, client.servers[0].pid, signal.SIGKILL, target=1)
        with pytest.raises(MpiframeError, match=r"request 1 \(kill\) is lost: server 1 on"):
            future.result(LIMIT)
        until(lambda: client._loop.dispatcher.is_lost(1))
        with pytest.raises(MpiframeError, match="server 1 is lost"):
            client.push("1", 1)
        assert [r.ret for r in client.push("1", "all", True)] == [1]
        client.restart(1)
        until(lambda: client._loop.dispatcher.is_live(1))
        assert [r.ret for r in client.push("2", "all", True)] == [2, 2]
