"""What the client writes on control connections: no more than a server that is stopped can leave unread."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import mpi4py
import pytest

mpi4py.rc(initialize=False, finalize=False)  # nothing here calls MPI

from mpiframe import doorbell  # noqa: E402 - MPI is started when it is imported first
from mpiframe.client_loop import ClientLoop  # noqa: E402
from mpiframe.config import Config  # noqa: E402
from mpiframe.messages import Request  # noqa: E402
from mpiframe.transport import Peer  # noqa: E402


class Server:
    """The other end of a control connection."""

    def __init__(self, loop: ClientLoop, sock: socket.socket) -> None:
        self.loop, self._sock = loop, sock

    def unread(self) -> Counter[bytes]:
        """What was written since the last call, by kind."""
        self._sock.setblocking(False)
        data = b""
        try:
            while part := self._sock.recv(1 << 16):
                data += part
        except BlockingIOError:
            pass
        return Counter(data[i : i + 1] for i in range(0, len(data), doorbell.RECORD.size))


@pytest.fixture
def server() -> Iterator[Server]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    nothing = lambda *_: None  # noqa: E731
    transport = SimpleNamespace(
        peers={1: Peer(1, control=ours)}, watch=nothing, unwatch=nothing, show=nothing, drop=nothing
    )
    world: Any = SimpleNamespace(transport=transport, servers=[1], members={}, config=Config())
    loop = ClientLoop(world, SimpleNamespace(partial=False), nothing)  # type: ignore[arg-type]
    loop.dispatcher.joined(1)
    with ours, theirs:
        yield Server(loop, theirs)


def test_a_server_that_answers_no_ping_is_not_sent_more_of_them(server: Server) -> None:
    pulse = server.loop.pulse
    for _ in range(100):
        pulse.ping()
    assert server.unread() == {doorbell.PING: 1}
    server.loop.heard(1, doorbell.RECORD.pack(doorbell.PONG, 0, 1.5, 4096))
    assert pulse.usage[1] == (1.5, 4096)
    pulse.ping()
    assert server.unread() == {doorbell.PING: 1}


def test_each_command_is_asked_back_once(server: Server) -> None:
    loop = server.loop

    def waiting(*serials: int) -> list[Request]:
        return [Request(id=10 + n, target=None, key=1, command="", frame=(), serial=n) for n in serials]

    for _ in range(100):
        loop._ahead.ask_back(1, waiting(2, 3, 4))
    assert server.unread() == {doorbell.RECALL: 3}
    loop._ahead.ask_back(1, waiting(4, 5))
    assert server.unread() == {doorbell.RECALL: 1}


def test_a_command_that_could_not_be_asked_back_is_asked_back_later(server: Server) -> None:
    loop = server.loop
    while loop.lines.send(1, doorbell.INTERRUPT, 7):  # until there is no room
        pass
    request = Request(id=10, target=None, key=1, command="", frame=(), serial=1)
    loop._ahead.ask_back(1, [request])
    assert server.unread()[doorbell.RECALL] == 0
    loop._ahead.ask_back(1, [request])
    assert server.unread() == {doorbell.RECALL: 1}
