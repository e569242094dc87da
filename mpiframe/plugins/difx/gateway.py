"""The guiServer's protocol in front of our own classes, for clients that were written for DiFX's guiServer.

Nobody says who he is in that protocol. So it listens on the loopback alone, and there only to its own user;
on other addresses a token or certificates of clients are needed. Clients reach files inside of the roots
only, run programs that the options name, and see variables that the options show.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
import ssl
import threading
import weakref
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from mpiframe.errors import MpiframeError
from mpiframe.plugins.difx.files import Files
from mpiframe.plugins.difx.gateway_channels import Outgoing
from mpiframe.plugins.difx.gateway_peers import may_connect
from mpiframe.plugins.difx.gateway_session import Session
from mpiframe.plugins.difx.jobs import Jobs
from mpiframe.plugins.difx.messages import read
from mpiframe.plugins.difx.messages_xml import LONGEST_BYTES, MessageError
from mpiframe.plugins.difx.multicast import Group, Sender
from mpiframe.plugins.difx.passes import CALC_PROGRAMS
from mpiframe.plugins.difx.protocol import DEFAULT_PORT, Id, write_packet
from mpiframe.plugins.difx.versions import Versions

_DATAGRAMS_AT_ONCE = 256
_SHORTEST_TOKEN = 16
_THREADS = 64
_CLOSE_SECONDS = 20.0
_log = logging.getLogger(__name__)


class GatewayError(MpiframeError):
    """The gateway cannot be opened like this; the text says why and what to do."""


@dataclass(frozen=True)
class GatewayOptions:
    """roots: folders that clients may use. base: of DiFX's versions, None takes $DIFX_BASE.

    token: what clients have to send first. tls: with CERT_REQUIRED it makes sure of clients, too.
    any_user: serve other users of this machine too. shown: more variables that clients may see and set.
    launchers, correlators, calc_programs: what may be run, the first by default; mpi_options: as in `Mpirun`.
    judge_by_stderr: call a run bad that wrote to stderr, as the guiServer does. patience_seconds: how long a
    client may take nothing of what it is sent.
    """

    roots: Sequence[str]
    base: str | None = None
    group: Group = field(default_factory=Group)
    token: str | None = None
    tls: ssl.SSLContext | None = None
    any_user: bool = False
    most_clients: int = 256
    shown: Sequence[str] = ()
    launchers: Sequence[str] = ("mpirun", "mpiexec")
    correlators: Sequence[str] = ("mpifxcorr",)
    calc_programs: Sequence[str] = CALC_PROGRAMS
    mpi_options: str | None = None
    judge_by_stderr: bool = False
    patience_seconds: float = 60.0
    version_text: str = "mpiframe"

    def __post_init__(self) -> None:
        if self.token is not None and len(self.token) < _SHORTEST_TOKEN:
            raise GatewayError(
                f"a token of {len(self.token)} signs can be guessed: {_SHORTEST_TOKEN} are needed"
            )


class Gateway:
    """Serves clients in an event loop of its own thread, from its making to `close`.

    jobs: those that run; shared with the plugin, if that has some.
    """

    def __init__(self, options: GatewayOptions, *, jobs: Jobs | None = None) -> None:
        """Raises PathRefused and OSError for the roots."""
        self.options = options
        self.versions = Versions(options.base)
        self.files = Files(options.roots)
        self._own_jobs = jobs is None
        self.jobs = jobs if jobs is not None else Jobs(self.files, options.group, self.versions)
        self._sessions: dict[Session, asyncio.Task[None]] = {}
        self._transports: weakref.WeakSet[asyncio.WriteTransport] = weakref.WeakSet()
        self._relays: dict[Group, _Relay] = {}
        self._sender: Sender | None = None
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        # Each program that runs, and each file that is waited for, takes one.
        self._loop.set_default_executor(ThreadPoolExecutor(_THREADS, thread_name_prefix="DiFX gateway"))
        self._thread = threading.Thread(target=self._run, name="DiFX gateway", daemon=True)
        self._thread.start()

    # -- from outside of its thread --

    def listen(self, host: str = "127.0.0.1", port: int = DEFAULT_PORT) -> int:
        """Take connections; the port, which is chosen where 0 is given.

        Raises GatewayError for an address that others reach where nothing keeps them out, and OSError.
        """
        safe = self.options.token is not None or (
            self.options.tls is not None and self.options.tls.verify_mode == ssl.CERT_REQUIRED
        )
        if not is_loopback(host) and not safe:
            raise GatewayError(
                f"{host} can be reached by others: give a token, or a certificate with a CA for clients'"
            )
        return int(self._called(self._listen(host, port)))

    def adopt(self, connection: socket.socket) -> None:
        """Serve a client at the other end of a socket that we have already; it is trusted."""
        self._called(self._adopt(connection))

    @property
    def clients(self) -> int:
        """How many there are now."""
        return len(self._sessions)

    def close(self) -> None:
        """Let all clients go, and stop their jobs."""
        if not self._thread.is_alive():
            return
        self._called(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CLOSE_SECONDS)
        if self._own_jobs:
            self.jobs.close()
        self.files.close()

    def __enter__(self) -> Gateway:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _called(self, what: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(_CLOSE_SECONDS)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()

    # -- in its thread --

    async def _listen(self, host: str, port: int) -> int:
        self._server = await self._loop.create_server(
            lambda: _Protocol(self._connected, self.know), host, port, ssl=self.options.tls
        )
        return int(self._server.sockets[0].getsockname()[1])

    async def _adopt(self, connection: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=connection)
        self.know(writer.transport)
        self._serve(Session(self, reader, writer, "a client of the plugin", ""))

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        address = writer.get_extra_info("peername")
        if not address:  # gone already
            writer.transport.abort()
            return
        peer = f"{address[0]}:{address[1]}"
        refusal = ""
        if len(self._sessions) >= self.options.most_clients:
            refusal = f"there are {len(self._sessions)} clients already"
        elif not self._is_known(writer):
            refusal = "this gateway serves its own user only, and has to find the client there to tell"
        if refusal:
            _log.warning("%s was refused: %s", peer, refusal)
            writer.write(write_packet(Id.ERROR, f"refused: {refusal}".encode()))
            await Outgoing(writer, self.options.patience_seconds).close()
            return
        _log.info("client connection from address %s", peer)
        self._serve(Session(self, reader, writer, peer, address[0]))

    def _is_known(self, writer: asyncio.StreamWriter) -> bool:
        """Whether a token or certificate makes sure of the client, or Linux does."""
        options = self.options
        if options.token is not None or options.any_user:
            return True
        if options.tls is not None and options.tls.verify_mode == ssl.CERT_REQUIRED:
            return True
        return may_connect(writer.get_extra_info("socket"))

    def _serve(self, session: Session) -> None:
        task = self._loop.create_task(session.run())
        self._sessions[session] = task
        task.add_done_callback(lambda _: self._sessions.pop(session, None))

    def know(self, transport: asyncio.WriteTransport) -> None:
        """A connection that is closed with the gateway, whatever becomes of the task that made it."""
        self._transports.add(transport)

    def forget(self, session: Session) -> None:
        """A client is gone."""
        _log.info("%s disconnected", session.peer)
        self.listen_for(session, None)

    def listen_for(self, session: Session, group: Group | None) -> None:
        """Hand the messages of a group to a client, None for no more. Raises MessageError."""
        for one in [one for one in self._relays.values() if session in one.sessions and one.group != group]:
            one.sessions.discard(session)
            if not one.sessions:
                one.close()
                del self._relays[one.group]
        if group is not None:
            if group not in self._relays:
                self._relays[group] = _Relay(group, self._loop)
            self._relays[group].sessions.add(session)

    def sender(self) -> Sender:
        """Sends to the group of the options. Raises MessageError."""
        if self._sender is None:
            self._sender = Sender(self.options.group)
        return self._sender

    def multicast(self, group: Group, data: bytes) -> None:
        """Send a message to a group. Raises MessageError."""
        if group == self.options.group:
            self.sender().send_raw(data)
            return
        with Sender(group) as sender:  # not kept: a client may name any number of groups
            sender.send_raw(data)

    async def _close(self) -> None:
        if self._server is not None:
            # A server that is closed when asyncio makes a transport of what it has accepted leaves that open,
            # for good. So no more is accepted first, and there are turns for what was.
            for one in self._server.sockets:
                self._loop.remove_reader(one)
            await self._turns()
            self._server.close()
        for transport in list(self._transports):
            transport.abort()
        tasks = list(self._sessions.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # Handshakes, connections that were being made, clients that were not served yet.
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for other in others:
            other.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for transport in list(self._transports):
            transport.abort()
        await self._turns()  # in which the transports end
        for relay in self._relays.values():
            relay.close()
        if self._sender is not None:
            self._sender.close()

    async def _turns(self) -> None:
        """A few turns of the loop: what asyncio has put off is done, and what that puts off."""
        for _ in range(4):
            turn = self._loop.create_future()
            self._loop.call_soon(turn.set_result, None)
            await turn


class _Protocol(asyncio.StreamReaderProtocol):
    """Tells of a client's transport as soon as there is one: the client's task begins but a turn later."""

    def __init__(
        self,
        connected: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]],
        know: Callable[[asyncio.WriteTransport], object],
    ) -> None:
        super().__init__(asyncio.StreamReader(), connected)
        self._know = know

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._know(transport)
        super().connection_made(transport)


class _Relay:
    """The messages of a group, to the clients that want them."""

    def __init__(self, group: Group, loop: asyncio.AbstractEventLoop) -> None:
        self.group = group
        self.sessions: set[Session] = set()
        self._loop = loop
        self._socket = group.receiving_socket()
        loop.add_reader(self._socket, self._ready)

    def _ready(self) -> None:
        for _ in range(_DATAGRAMS_AT_ONCE):
            try:
                data = self._socket.recv(LONGEST_BYTES)
            except BlockingIOError:
                return
            except OSError:  # a bad checksum, an ICMP error: the next one may be good
                continue
            try:
                kind = read(data).type
            except MessageError:
                continue
            for session in self.sessions:
                session.heard(data, kind)

    def close(self) -> None:
        """Hear no more."""
        self._loop.remove_reader(self._socket)
        self._socket.close()


def is_loopback(host: str) -> bool:
    """Whether an address is within this machine alone."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
