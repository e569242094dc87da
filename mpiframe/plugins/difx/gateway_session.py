"""One client of the gateway: its packets are read and carried out, replies and messages are sent to it."""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import pwd
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any

from mpiframe.plugins.difx import (
    gateway_filelists,
    gateway_files,
    gateway_jobs,
    gateway_mark5,
    gateway_monitor,
    gateway_runs,
)
from mpiframe.plugins.difx.gateway_channels import (
    Channel,
    ChannelClosed,
    ConnectedChannel,
    Inbox,
    Outgoing,
    PacketChannel,
)
from mpiframe.plugins.difx.messages import LONGEST_MESSAGE, Message, read
from mpiframe.plugins.difx.messages_bodies import (
    Command,
    FileOperation,
    FileTransfer,
    GetDirectory,
    MachinesDefinition,
    Mark5Control,
    Mark5Copy,
    Start,
    Stop,
    Vex2DifxRun,
)
from mpiframe.plugins.difx.messages_xml import MessageError
from mpiframe.plugins.difx.multicast import Group
from mpiframe.plugins.difx.protocol import (
    Id,
    Packet,
    ProtocolError,
    Reader,
    read_counted,
    read_int,
    write_int,
    write_packet,
)
from mpiframe.plugins.difx.versions import shown_environment

if TYPE_CHECKING:
    from mpiframe.plugins.difx.gateway import Gateway

_READ_BYTES = 1 << 16
_MOST_COMMANDS = 64
_TOKEN_SECONDS = 10.0
_SELECTED = {
    "ALERT_MESSAGES": "DifxAlertMessage",
    "COMMAND_MESSAGES": "DifxCommand",
    "FILEOPERATION_MESSAGES": "DifxFileOperation",
    "FILETRANSFER_MESSAGES": "DifxFileTransfer",
    "GETDIRECTORY_MESSAGES": "DifxGetDirectory",
    "MARK5COPY_MESSAGES": "DifxMark5Copy",
    "INFO_MESSAGES": "DifxInfoMessage",
    "LOAD_MESSAGES": "DifxLoadMessage",
    "MARK5STATUS_MESSAGES": "Mark5StatusMessage",
    "MACHINESDEFINITION_MESSAGES": "DifxMachinesDefinition",
    "MK5CONTROL_MESSAGES": "DifxMk5Control",
    "SMART_MESSAGES": "DifxSmartMessage",
    "STATUS_MESSAGES": "DifxStatusMessage",
    "STOP_MESSAGES": "DifxStop",
    "VEX2DIFXRUN_MESSAGES": "DifxVex2DifxRun",
    "WEIGHT_MESSAGES": "",
    "UNKNOWN_MESSAGES": "Unknown",
}
_WITH_REPLY: dict[type, Callable[[Session, Channel, Any], Coroutine[Any, Any, None]]] = {
    FileTransfer: gateway_files.transfer,
    GetDirectory: gateway_mark5.directory,
    MachinesDefinition: gateway_runs.define_machines,
    Mark5Control: gateway_mark5.control,
    Mark5Copy: gateway_mark5.copy,
    Start: gateway_jobs.start,
    Vex2DifxRun: gateway_runs.vex2difx,
}
"""What carries out the commands whose reply goes to their <port>."""
_log = logging.getLogger(__name__)


class Session:
    """A client, from its first packet to its last. All of it runs in the gateway's event loop.

    peer: what it is called in logs; host: where it may be connected back to, "" for nowhere.
    """

    def __init__(
        self,
        gateway: Gateway,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        peer: str,
        host: str,
    ) -> None:
        self.gateway = gateway
        self.peer = peer
        self.setup: str | None = None  # a version that the client chose for all that it runs
        self.changes: asyncio.Task[None] | None = None  # the last of the operations that change files
        self._host = host
        self._in = reader
        self._out = Outgoing(writer, gateway.options.patience_seconds)
        self._inboxes: dict[int, Inbox] = {}
        self._in_channels = False
        self._relaying = False
        self._selection: frozenset[str] | None = None
        self._group = gateway.options.group
        self._tasks: set[asyncio.Task[None]] = set()
        self._kept: set[asyncio.Task[None]] = set()
        self.needs_token = gateway.options.token is not None and host != ""

    # -- its life --

    async def run(self) -> None:
        """Serve the client until it goes, or sends what is no packet."""
        try:
            await self._serve()
            # A client may ask for something and go: what has just come is begun, what has no reply is done.
            await asyncio.sleep(0)
            if self._kept:
                await asyncio.wait(set(self._kept))
        finally:
            await self._end()

    async def _serve(self) -> None:
        packets = self._packets()
        try:
            if self.needs_token:
                self._check_token(await asyncio.wait_for(anext(packets), _TOKEN_SECONDS))
            async for packet in packets:
                await self._take(packet)
        except asyncio.TimeoutError:
            self.say(Id.ERROR, "the connection is closed: no token came")
        except StopAsyncIteration:  # gone before it said anything
            pass
        except (OSError, ChannelClosed):
            pass
        except ProtocolError as error:
            _log.warning("%s: %s; the connection is closed", self.peer, error)
            self.say(Id.ERROR, f"the connection is closed: {error}")

    async def _packets(self) -> AsyncIterator[Packet]:
        reader = Reader()
        while data := await self._in.read(_READ_BYTES):
            for packet in reader.feed(data):
                yield packet

    async def _end(self) -> None:
        self.gateway.forget(self)
        for task in list(self._tasks):
            task.cancel()
        for inbox in list(self._inboxes.values()):
            inbox.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._out.close()

    def _check_token(self, packet: Packet) -> None:
        wanted = self.gateway.options.token
        assert wanted is not None
        if packet.id != Id.TOKEN or not hmac.compare_digest(packet.data, wanted.encode()):
            raise ProtocolError("a token is needed here, and what came is not it")

    # -- to the client --

    def say(self, number: Id, text: str) -> bool:
        """Send a diagnostic; False where the client is too far behind to take it."""
        return self._out.offer(write_packet(number, text.encode("utf-8", "surrogateescape")))

    def warn(self, text: str) -> None:
        """Send a warning."""
        self.say(Id.WARNING, text)

    def heard(self, data: bytes, kind: str) -> None:
        """Relay a message of DiFX, if it is of a type that the client wants."""
        if self._relaying and (self._selection is None or kind in self._selection):
            self._out.offer(write_packet(Id.RELAY, data))

    async def open_channel(self, port: int, inbox: Inbox) -> Channel:
        """Where replies with this port go. Raises OSError where the client cannot be connected back to."""
        if not self._in_channels and self._host:
            if not 0 < port < 1 << 16:
                raise ProtocolError(f"{port} is no port of a client's to connect to")
            # To where the client is, whatever address it gave: else one could have us connect anywhere.
            patience = self.gateway.options.patience_seconds
            return await ConnectedChannel.connect(self._host, port, patience, self.gateway.know)
        self._out.write(write_packet(Id.CHANNEL_CONNECTION, write_int(port)))
        return PacketChannel(port, inbox, self._out, self._forget_inbox)

    def _forget_inbox(self, port: int, inbox: Inbox) -> None:
        if self._inboxes.get(port) is inbox:
            del self._inboxes[port]

    # -- from the client --

    async def _take(self, packet: Packet) -> None:
        if packet.id == Id.CHANNEL_DATA:
            if inbox := self._inboxes.get(packet.channel):
                await inbox.put(packet.data)
            return
        handlers: dict[int, Callable[[bytes], Awaitable[None] | None]] = {
            Id.RELAY: self._relay,
            Id.RELAY_COMMAND: self._send_message,
            Id.COMMAND: self._command,
            Id.MULTICAST_SETTINGS: self._settings,
            Id.VERSION: self._version,
            Id.SETUP_PATH: self._setup_path,
            Id.START_MONITOR: self._start_monitor,
            Id.MESSAGE_SELECTION: self._select,
            Id.CHANNEL_ALL_DATA_ON: lambda _: self._set_channels(True),
            Id.CHANNEL_ALL_DATA_OFF: lambda _: self._set_channels(False),
            Id.GENERATE_FILELIST: self._filelist,
            Id.JOB_STATUS: self._job_status,
        }
        # Others are ignored, as the guiServer does.
        if handler := handlers.get(packet.id):
            try:
                done = handler(packet.data)
                if done is not None:
                    await done
            except ProtocolError as error:
                # The packet's own length was right: what follows it can be read.
                self.warn(f"a packet of id {packet.id} cannot be read: {error}")

    def _set_channels(self, on: bool) -> None:
        self._in_channels = on

    def _relay(self, data: bytes) -> None:
        self._relaying = read_int(data) != 0
        try:
            self.gateway.listen_for(self, self._group if self._relaying else None)
        except MessageError as error:
            self._relaying = False
            self.say(Id.ERROR, str(error))

    def _settings(self, data: bytes) -> None:
        address, _, port = data.decode("latin-1").partition("\n")
        try:
            group = Group.find(
                self.gateway.options.group.interface,
                {"DIFX_MESSAGE_GROUP": address.strip(), "DIFX_MESSAGE_PORT": port.strip("\0 \n\r")},
            )
            if self._relaying:
                self.gateway.listen_for(self, group)
        except MessageError as error:
            self.warn(f"the messages stay those of {self._group.address}: {error}")
        else:
            self._group = group

    def _select(self, data: bytes) -> None:
        names = data.decode("latin-1").split()
        if names[:1] == ["ALL_MESSAGES"]:
            self._selection = None
        elif names[:1] == ["SELECTED_MESSAGES"]:
            if unknown := [one for one in names[1:] if one not in _SELECTED]:
                self.warn(f"no messages are called {', '.join(unknown)[:200]}")
            self._selection = frozenset(_SELECTED.get(one, "") for one in names[1:])
        else:
            self.warn("a selection begins with ALL_MESSAGES or SELECTED_MESSAGES")

    async def _send_message(self, data: bytes) -> None:
        try:
            read(data)
            if len(data) > LONGEST_MESSAGE:
                raise MessageError(f"{len(data)} bytes; DiFX reads no more than {LONGEST_MESSAGE}")
            self.gateway.multicast(self._group, data)
        except MessageError as error:
            self.warn(f"the message was not sent: {error}")

    async def _version(self, _: bytes) -> None:
        gateway = self.gateway
        self._out.write(write_packet(Id.VERSION, gateway.options.version_text.encode()))
        self._out.write(write_packet(Id.DIFX_BASE, gateway.versions.base.encode()))
        try:
            user = pwd.getpwuid(os.getuid()).pw_name
        except KeyError:  # a number that this machine has no name for
            user = str(os.getuid())
        self._out.write(write_packet(Id.USER, user.encode()))
        names = gateway.versions.names()
        for name in names:
            self._out.write(write_packet(Id.AVAILABLE_VERSION, name.encode()))
        if not names:
            self.warn(
                f"there is no rungeneric.* in {gateway.versions.base or '$DIFX_BASE, which is not set'}"
            )
        for name, value in shown_environment(gateway.options.shown).items():
            text = f"{name}={value}".encode("utf-8", "surrogateescape")
            self._out.write(write_packet(Id.ENVIRONMENT, text))
        self._out.write(write_packet(Id.CHANNEL_ALL_DATA))
        await self._out.drained()

    def _setup_path(self, data: bytes) -> None:
        wanted = data.decode("utf-8", "surrogateescape").strip("\0 \n")
        for name in self.gateway.versions.names():
            if wanted == self.gateway.versions.command([], name)[0]:
                self.setup = name
                return
        if wanted:
            self.warn(f"{wanted[:200]!r} is no rungeneric.* of this server, and will not be run")
        self.setup = None

    # -- commands --

    def _command(self, data: bytes) -> None:
        try:
            message = read(data)
        except MessageError as error:
            self.warn(f"could not parse the command: {error}")
            return
        body = message.body
        if handler := _WITH_REPLY.get(type(body)):
            self.reply(getattr(body, "port", None), handler, body)
        elif isinstance(body, FileOperation):
            gateway_files.operate(self, body)
        elif isinstance(body, Stop):
            self.begin(gateway_jobs.stop(self, body), kept=True)
        elif isinstance(body, Command):
            self._multicast(message)
        else:
            self.warn(
                f"Received command message type {message.type[:40]} - it is none that is carried out here"
            )

    def _multicast(self, message: Message) -> None:
        try:
            self.gateway.multicast(self._group, message.write())
        except MessageError as error:
            self.warn(f"the message was not sent: {error}")

    def _start_monitor(self, data: bytes) -> None:
        self.reply(read_int(data), gateway_monitor.serve, None)

    def _filelist(self, data: bytes) -> None:
        wanted = gateway_filelists.Wanted.read(data)
        self.reply(wanted.port, gateway_filelists.file_list, wanted)

    def _job_status(self, data: bytes) -> None:
        path, place = read_counted(data, 4)
        _, place = read_counted(data, place)
        self.reply(read_int(data, place), gateway_files.job_status, path.decode("utf-8", "surrogateescape"))

    def reply(
        self,
        port: int | None,
        handler: Callable[[Session, Channel, Any], Coroutine[Any, Any, None]],
        body: Any,
    ) -> None:
        """Carry a command out that has a reply, beside all others."""
        if port is None:
            self.warn("the command has no <port> for its reply, and was not carried out")
            return
        # From now on: what the client sends on it may come before the channel is opened. One that uses a
        # number again, while it is still in use, sends to the later command.
        inbox = self._inboxes[port] = Inbox()
        before = self.changes
        if not self.begin(self._replying(port, inbox, before, handler, body)):
            self._forget_inbox(port, inbox)

    async def _replying(
        self,
        port: int,
        inbox: Inbox,
        before: asyncio.Task[None] | None,
        handler: Callable[[Session, Channel, Any], Coroutine[Any, Any, None]],
        body: Any,
    ) -> None:
        try:
            if before is not None:
                await asyncio.wait([before])
            channel = await self.open_channel(port, inbox)
            try:
                await handler(self, channel, body)
            finally:
                await channel.close()
        finally:
            inbox.close()
            self._forget_inbox(port, inbox)

    def begin(self, what: Coroutine[Any, Any, None], kept: bool = False) -> asyncio.Task[None] | None:
        """Run something beside all else, until the client goes; None where it has too much under way.

        kept: to its end, also when the client goes.
        """
        if len(self._tasks) >= _MOST_COMMANDS:
            what.close()
            self.warn(f"{_MOST_COMMANDS} commands are under way, this one was not carried out")
            return None
        task = asyncio.get_running_loop().create_task(self._guarded(what))
        for tasks in (self._tasks, self._kept)[: 1 + kept]:
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        task.add_done_callback(lambda _: what.close())  # which was not begun, if the client went at once
        return task

    async def _guarded(self, what: Coroutine[Any, Any, None]) -> None:
        try:
            await what
        except (ChannelClosed, asyncio.TimeoutError):
            pass
        except ProtocolError as error:
            self.warn(str(error))
        except OSError as error:
            self.say(Id.ERROR, str(error))
        except Exception as error:
            _log.exception("%s: a command failed", self.peer)
            self.say(Id.ERROR, f"the command failed: {error}")
