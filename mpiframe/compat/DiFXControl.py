"""DiFX's `DiFXControl`: a client of the guiServer. A script of it runs with the import changed.

from mpiframe.compat import DiFXControl
difx = DiFXControl.Client()
difx.connect("headnode", 50200)      # a guiServer, or `mpiframe difx serve`

After `DiFXControl.mpi_mode_on(client)` connections go to the DiFX plugin of a server instead. Written from
the documentation and the packets. What differs from the original: time-outs call back and begin anew with
each packet, empty files come at once, nothing is printed but what one asks for, the thread that
listens does not keep a script from ending. Content that is no UTF-8 is kept, as surrogates.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import select
import socket
import struct
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any
from xml.sax.saxutils import escape

from mpiframe.compat._difx_link import by_mpi, connected, mpi_mode_off, mpi_mode_on, settle
from mpiframe.compat._difx_xml import (
    DifxAlertMessage,
    DifxCommandMessage,
    DifxDiagnosticMessage,
    DifxFileOperation,
    DifxFileTransfer,
    DifxGetDirectory,
    DifxInfoMessage,
    DifxLoadMessage,
    DifxMachinesDefinition,
    DifxMark5Copy,
    DifxMk5Control,
    DifxParameter,
    DifxSmartMessage,
    DifxStart,
    DifxStatusMessage,
    DifxStop,
    DifxTransientMessage,
    DifxVex2DifxRun,
    Mark5DriveStatsMessage,
    Mark5StatusMessage,
    Mark5VersionMessage,
    XMLMessage,
    parseXML,
)
from mpiframe.plugins.difx.protocol import (
    ProtocolError,
    Reader,
    read_int,
    write_counted,
    write_int,
    write_packet,
)

__all__ = [
    "Client", "DifxAlertMessage", "DifxCommandMessage", "DifxDiagnosticMessage", "DifxFileOperation",
    "DifxFileTransfer", "DifxGetDirectory", "DifxInfoMessage", "DifxLoadMessage", "DifxMachinesDefinition",
    "DifxMark5Copy", "DifxMk5Control", "DifxParameter", "DifxSmartMessage", "DifxStart", "DifxStatusMessage",
    "DifxStop", "DifxTransientMessage", "DifxVex2DifxRun", "Mark5DriveStatsMessage", "Mark5StatusMessage",
    "Mark5VersionMessage", "MonitorThread", "XMLMessage", "mpi_mode_off", "mpi_mode_on", "parseXML",
]  # fmt: skip

_DEFAULT_PORT = 50401
_CONNECT_SECONDS = 30.0
_LONGEST_PACKET = 0x7FFFFFFF
_READ_BYTES = 1 << 16
_LAST_ERRORS = 4  # the highest sizes of a file are -1 to -4
_TYPES = (
    ("DifxLoadMessage", "LOAD"), ("DifxAlertMessage", "ALERT"), ("Mark5StatusMessage", "MARK5STATUS"),
    ("DifxStatusMessage", "STATUS"), ("DifxInfoMessage", "INFO"), ("DifxDatastreamMessage", ""),
    ("DifxCommand", "COMMAND"), ("DifxParameter", ""), ("DifxStart", ""), ("DifxStop", "STOP"),
    ("Mark5VersionMessage", ""), ("Mark5ConditionMessage", ""), ("DifxTransientMessage", ""),
    ("DifxSmartMessage", "SMART"), ("Mark5DriveStatsMessage", ""), ("DifxDiagnosticMessage", ""),
    ("DifxFileTransfer", "FILETRANSFER"), ("DifxFileOperation", "FILEOPERATION"),
    ("DifxVex2DifxRun", "VEX2DIFXRUN"), ("DifxMachinesDefinition", "MACHINESDEFINITION"),
    ("DifxGetDirectory", "GETDIRECTORY"), ("DifxMk5Control", "MK5CONTROL"), ("DifxMark5Copy", "MARK5COPY"),
)  # fmt: skip
"""The types of messages in DiFX's order, from 1 on, with their names for a selection; "" has none."""


class MonitorThread(threading.Thread):
    """Reads packets of a socket, and hands each to a callback. `start` it, or call `newPacket` oneself."""

    ok, stopped, packetIDFail, packetLengthFail, packetDataFail, noConnection = 1, 2, 3, 4, 5, 6

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(name="DiFX monitor", daemon=True)
        self.sock = sock
        self.status = self.ok
        self.bytesReceived = 0
        self._callback: Callable[[int, bytes | None], object] | None = None
        self._failCallback: Callable[[], object] | None = None
        self._packets = Reader(whole=True, longest=_LONGEST_PACKET)
        self._bell, self._ring = socket.socketpair()

    def setCallback(self, callback: Callable[[int, bytes | None], object]) -> None:
        """callback(id, data): for each packet; data is None where there are none."""
        self._callback = callback

    def setFailCallback(self, callback: Callable[[], object]) -> None:
        """callback(): when the connection ends."""
        self._failCallback = callback

    def run(self) -> None:
        """Read until `stop`, or the end."""
        while self.status == self.ok:
            ready, _, _ = select.select([self.sock, self._bell], [], [])
            if self._bell in ready:
                break
            self.newPacket()

    def newPacket(self) -> None:
        """Read what there is; waits where there is nothing."""
        try:
            data = self.sock.recv(_READ_BYTES)
        except OSError:
            data = b""
        if self.status != self.ok:
            return
        if not data:
            self._fail(self.packetDataFail if self._packets.held else self.noConnection)
            return
        self.bytesReceived += len(data)
        try:
            for packet in self._packets.feed(data):
                content = packet.data if packet.channel < 0 else write_int(packet.channel) + packet.data
                if self._callback is not None:
                    try:
                        self._callback(packet.id, content or None)
                    except Exception:  # of a script's function: the packets that follow are for others, too
                        traceback.print_exc()
        except ProtocolError:
            self._fail(self.packetLengthFail)

    def _fail(self, status: int) -> None:
        self.status = status
        if self._failCallback is not None:
            self._failCallback()

    def stop(self) -> None:
        """Read no more."""
        self.status = self.stopped
        self._ring.close()
        if threading.current_thread() is not self:
            if self.is_alive():
                self.join(_CONNECT_SECONDS)
            self._bell.close()


class Frames:
    """Makes packets within a channel of its items.

    An item that carries data is taken whole: the guiServer gives some lengths that are too short.
    """

    def __init__(self) -> None:
        self._head = b""
        self._data = b""

    def feed(self, item: bytes) -> list[tuple[int, bytes]]:
        """The packets that an item completes."""
        made = []
        while item or len(self._head) == 8:
            if len(self._head) < 8:
                missing = 8 - len(self._head)
                self._head, item = self._head + item[:missing], item[missing:]
                continue
            length = max(0, read_int(self._head, 4))
            if length:
                self._data, item = self._data + item, b""
            if len(self._data) < length:
                break
            made.append((read_int(self._head), self._data))
            self._head = self._data = b""
        return made


def text_of(data: bytes | None) -> str:
    """A text of a packet."""
    return (data or b"").decode("utf-8", "surrogateescape")


def bytes_of(text: str | bytes) -> bytes:
    """The other way; bytes as they are."""
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")


def element(tag: str, value: object, indent: str = "\t\t") -> str:
    """An element of a command, as the original writes it."""
    return f"{indent}<{tag}>{escape(str(value))}</{tag}>\n"


class Client:
    """A connection to a guiServer, with the original's names. Errors are printed, or called back."""

    BROKEN_SOCKET, FAILED_CONNECTION = 1, 2
    RELAY_PACKET, RELAY_COMMAND_PACKET, COMMAND_PACKET = 1, 2, 3
    INFORMATION_PACKET, WARNING_PACKET, ERROR_PACKET = 4, 5, 6
    MULTICAST_SETTINGS_PACKET, GUISERVER_VERSION, GUISERVER_DIFX_VERSION = 7, 8, 9
    AVAILABLE_DIFX_VERSION, DIFX_BASE, GUISERVER_ENVIRONMENT, DIFX_SETUP_PATH = 10, 11, 12, 13
    START_DIFX_MONITOR, DIFX_RUN_LABEL, GUISERVER_USER, MESSAGE_SELECTION_PACKET = 14, 15, 16, 17
    CHANNEL_ALL_DATA, CHANNEL_ALL_DATA_ON, CHANNEL_ALL_DATA_OFF = 18, 19, 20
    CHANNEL_CONNECTION, CHANNEL_DATA, GENERATE_FILELIST, GET_JOB_STATUS = 21, 22, 23, 24

    def __init__(self) -> None:
        self.i = struct.Struct("I")
        self.d = struct.Struct("!d")
        self.socketOK = True
        self.sock: socket.socket | None = None
        self.monitorThread: MonitorThread | None = None
        self.bytesReceived = 0
        self.versionPreference: str | None = None
        self.serverVersion: str | None = None
        self.difxBase: str | None = None
        self.serverUser: str | None = None
        self.availableVersion: list[str] = []
        self.serverEnvironment: dict[str, str] = {}
        self.channelResponse = False
        self.channelPool = 12345
        self.channelCallbacks: dict[int, Callable[[bytes], object] | None] = {}
        self._waitTime = 5.0
        self._runFile: str | None = None
        self._news = threading.Condition(threading.RLock())
        self._sending = threading.Lock()
        self._finalCallback: Callable[..., object] | None = None
        self._intervalCallback: Callable[..., object] | None = None
        self._timeoutCallback: Callable[..., object] | None = None
        self._messageCallback: Callable[[Any], object] | None = None
        self._warningCallback: Callable[[Any], object] | None = None
        self._errorCallback: Callable[[Any], object] | None = None
        self._allCallbacks: list[Callable[..., object]] = []
        self._relayCallbacks: list[Callable[..., object]] = []
        self._failCallbacks: list[Callable[..., object]] = []

    # -- connection --

    def connect(self, host: Any = None, port: int | None = None) -> None:
        """Connect to a host and port, also given as a tuple, or to a DiFX plugin of a server.

        Without them: DIFX_CONTROL_HOST or localhost; DIFX_CONTROL_PORT, DIFX_MESSAGE_PORT or 50401.
        """
        if isinstance(host, (tuple, list)):
            host, port = (*host, None)[:2] if len(host) < 2 else (host[0], host[1])
        try:
            if hasattr(host, "gateway_open"):
                self.sock = by_mpi(host)
            else:
                environment = os.environ
                where = host or environment.get("DIFX_CONTROL_HOST") or "localhost"
                found = port or environment.get("DIFX_CONTROL_PORT") or environment.get("DIFX_MESSAGE_PORT")
                self.sock = connected(where, int(found or _DEFAULT_PORT), _CONNECT_SECONDS)
            self.socketOK = True
        except (OSError, ValueError) as error:
            print(f"connection to the DiFX server failed: {error}")
            self.socketOK = False
            self._failed(self.FAILED_CONNECTION)

    def monitor(self) -> None:
        """Listen to the server, in a thread."""
        if self._listen():
            assert self.monitorThread is not None
            self.monitorThread.start()
            self.channelData(True)

    def passiveMonitor(self) -> None:
        """The same for those who wait for `sock` themselves, and then call `monitorThread.newPacket()`."""
        if self._listen():
            self.channelData(True)

    def _listen(self) -> bool:
        if self.sock is None:
            print("there is no connection: call connect() first")
            return False
        self.monitorThread = MonitorThread(self.sock)
        self.monitorThread.setCallback(self.packetCallback)
        self.monitorThread.setFailCallback(self.failCallback)
        return True

    def close(self) -> None:
        """End the connection."""
        if self.monitorThread is not None:
            self.monitorThread.stop()
        if self.sock is not None:
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)
            self.sock.close()
            settle()

    def failCallback(self) -> None:
        """The connection has ended."""
        self.socketOK = False
        with self._news:
            self._news.notify_all()
        self._failed(self.BROKEN_SOCKET)

    def _failed(self, code: int) -> None:
        for callback in list(self._failCallbacks):
            call_with(callback, code)

    # -- callbacks --

    def waitTime(self, seconds: float) -> None:
        """How long to wait for an answer, and then for each following part of it."""
        self._waitTime = float(seconds)

    def finalCallback(self, callback: Callable[..., object] | None) -> None:
        """Called when something is complete."""
        self._finalCallback = callback

    def intervalCallback(self, callback: Callable[..., object] | None) -> None:
        """Called when a part is."""
        self._intervalCallback = callback

    def timeoutCallback(self, callback: Callable[..., object] | None) -> None:
        """Called when no answer came in time."""
        self._timeoutCallback = callback

    def messageCallback(self, callback: Callable[[Any], object] | None) -> None:
        """callback(text): what goes on."""
        self._messageCallback = callback

    def warningCallback(self, callback: Callable[[Any], object] | None) -> None:
        """callback(text): what may be wrong."""
        self._warningCallback = callback

    def errorCallback(self, callback: Callable[[Any], object] | None) -> None:
        """callback(text): what is wrong."""
        self._errorCallback = callback

    def addAllCallback(self, callback: Callable[..., object]) -> None:
        """callback(id, data): each packet."""
        self._allCallbacks.append(callback)

    def addRelayCallback(self, callback: Callable[..., object]) -> None:
        """callback(text): each relayed message of DiFX; or callback(client, text)."""
        self._relayCallbacks.append(callback)

    def addFailCallback(self, callback: Callable[..., object]) -> None:
        """callback(code), or callback(): the connection failed or broke."""
        self._failCallbacks.append(callback)

    def doFinalCallback(self, arg: object = None) -> None:
        """Something is complete."""
        _do(self._finalCallback, arg)

    def doIntervalCallback(self, arg: object = None) -> None:
        """A part is."""
        _do(self._intervalCallback, arg)

    def doTimeoutCallback(self, arg: object = None) -> None:
        """No answer came in time."""
        _do(self._timeoutCallback, arg)

    def message(self, text: object) -> None:
        """To the message callback."""
        if self._messageCallback is not None:
            self._messageCallback(text)

    def warning(self, text: object) -> None:
        """To the warning callback."""
        if self._warningCallback is not None:
            self._warningCallback(text)

    def error(self, text: object) -> None:
        """To the error callback."""
        if self._errorCallback is not None:
            self._errorCallback(text)

    # -- packets --

    def packetCallback(self, packetId: int, data: bytes | None) -> None:
        """Called with each packet that comes."""
        if self.monitorThread is not None:
            self.bytesReceived = self.monitorThread.bytesReceived
        for callback in list(self._allCallbacks):
            callback(packetId, data)
        if packetId == self.RELAY_PACKET:
            for callback in list(self._relayCallbacks):
                call_with(callback, text_of(data), before=self)
        elif packetId == self.GUISERVER_VERSION:
            self.serverVersion = text_of(data)
        elif packetId == self.DIFX_BASE:
            self.difxBase = text_of(data)
        elif packetId == self.GUISERVER_USER:
            self.serverUser = text_of(data)
        elif packetId == self.AVAILABLE_DIFX_VERSION:
            if (name := text_of(data)) not in self.availableVersion:
                self.availableVersion.append(name)
        elif packetId == self.GUISERVER_ENVIRONMENT:
            name, _, value = text_of(data).partition("=")
            self.serverEnvironment[name] = value
        elif packetId == self.CHANNEL_ALL_DATA:
            with self._news:
                self.channelResponse = True
                self._news.notify_all()
        elif packetId == self.CHANNEL_DATA:
            self.consumeChannelData(data or b"")

    def consumeChannelData(self, data: bytes) -> None:
        """An item on a channel."""
        callback = self.channelCallbacks.get(read_int(data)) if len(data) >= 4 else None
        if callback is not None:
            with self._news:
                callback(data[4:])
                self._news.notify_all()

    def newChannel(self, callback: Callable[[bytes], object] | None) -> int:
        """A number for replies, which go to callback(bytes)."""
        with self._news:
            self.channelPool += 1
            self.channelCallbacks[self.channelPool] = callback
            return self.channelPool

    def closeChannel(self, channel: int | None) -> None:
        """No more replies with this number."""
        if channel is not None:
            self.channelCallbacks.pop(channel, None)

    def packetProtocol(
        self, data: bytes, packet: tuple[Any, Any, Any, bool] | None
    ) -> tuple[int | None, int | None, bytes | None, bool]:
        """(id, length, data, complete) with an item added; begin with (None, None, None, False)."""
        number, length, held, complete = packet or (None, None, None, False)
        if number is None or complete:
            return read_int(data), None, None, False
        if length is None:
            length = read_int(data)
            return number, length, None, length == 0
        held = (held or b"") + data
        return number, length, held, len(held) >= length

    def sendPacket(self, packetId: int, data: str | bytes = b"") -> None:
        """Send a packet."""
        if self.sock is None:
            return
        try:
            with self._sending:
                self.sock.sendall(write_packet(packetId, bytes_of(data)))
        except OSError:
            self.socketOK = False

    def sendCommandPacket(self, command: str, body: str) -> None:
        """Send a command: its type, and the elements of its body."""
        self.sendPacket(
            self.COMMAND_PACKET,
            '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n<difxMessage>\n    <header>\n'
            f"        <type>{command}</type>\n    </header>\n    <body>\n{body}    </body>\n</difxMessage>",
        )

    def sendChannelData(self, channel: int, data: str | bytes) -> None:
        """Send an item on a channel."""
        self.sendPacket(self.CHANNEL_DATA, write_int(channel) + bytes_of(data))

    def sendChannelPacket(self, channel: int, packetId: int, data: str | bytes = b"") -> None:
        """Send a packet on a channel, which are three items."""
        content = bytes_of(data)
        for item in (write_int(packetId), write_int(len(content)), content):
            self.sendChannelData(channel, item)

    # -- the server --

    def relayPackets(self, on: bool = True) -> None:
        """Relay the messages of DiFX to us, or do not."""
        self.sendPacket(self.RELAY_PACKET, write_int(1 if on else 0))

    def messageSelection(self, types: Sequence[Any] | None = None) -> None:
        """Relay messages of these types only: names, or their numbers; None takes all."""
        if types is None:
            self.sendPacket(self.MESSAGE_SELECTION_PACKET, "ALL_MESSAGES")
            return
        names = dict(_TYPES) | {str(n): name for n, (_, name) in enumerate(_TYPES, 1)}
        chosen = [f"{names[str(one)]}_MESSAGES\n" for one in types if names.get(str(one))]
        self.sendPacket(self.MESSAGE_SELECTION_PACKET, "SELECTED_MESSAGES\n" + "".join(chosen))

    def channelData(self, on: bool = True) -> None:
        """Have replies on this connection, or on others that the server opens."""
        self.sendPacket(self.CHANNEL_ALL_DATA_ON if on else self.CHANNEL_ALL_DATA_OFF)

    def versionRequest(self) -> None:
        """Ask for versions and environment, which come into our attributes."""
        self.channelResponse = False
        self.sendPacket(self.GUISERVER_VERSION)

    def version(self, preference: str | None = None) -> None:
        """Choose a version of DiFX, if the server has it: DIFX-DEVEL by default."""
        self.versionRequest()
        if not self._waitFor(lambda: self.channelResponse):
            print("SERVER DID NOT RESPOND!")
            self.socketOK = False
            return
        wanted = preference or "DIFX-DEVEL"
        # The documentation writes DIFX_DEVEL for what is called DIFX-DEVEL.
        alike = [one for one in self.availableVersion if one.replace("_", "-") == wanted.replace("_", "-")]
        if wanted in self.availableVersion or len(alike) == 1:
            self.versionPreference = wanted if wanted in self.availableVersion else alike[0]
            self.setVersionRunFile(self.versionPreference)
        else:
            print(f'Version "{wanted}" is not available.')

    def setVersionRunFile(self, version: str) -> None:
        """The path of a version's script."""
        self._runFile = f"{self.difxBase}/bin/rungeneric.{version}"

    def runFile(self, path: str | None = None) -> str | None:
        """Set the path, or get it."""
        if path is not None:
            self._runFile = path
        return self._runFile

    def getenv(self, name: str) -> str | None:
        """A variable of the server's."""
        return self.serverEnvironment.get(name)

    # -- waiting --

    def _waitFor(self, complete: Callable[[], object], heard: Callable[[], object] = lambda: None) -> bool:
        """Wait until this is true, at most `waitTime` after `heard` changed last; whether it became true."""
        passive = self.monitorThread is not None and not self.monitorThread.is_alive()
        last, deadline = heard(), time.monotonic() + self._waitTime
        while True:
            with self._news:
                if complete():
                    return True
                if (now := heard()) != last:
                    last, deadline = now, time.monotonic() + self._waitTime
                left = deadline - time.monotonic()
                if left <= 0 or not self.socketOK or self.sock is None:
                    self.doTimeoutCallback()
                    return False
                if not passive:
                    self._news.wait(left)
            if passive:  # nobody reads but we
                ready, _, _ = select.select([self.sock], [], [], left)
                if ready and self.monitorThread is not None:
                    self.monitorThread.newPacket()

    # -- files --

    def fileOperation(
        self, channel: int, command: str, args: str | None, path: str, dataNode: str | None = None
    ) -> None:
        """Send a DifxFileOperation."""
        body = element("port", channel, "      ") + element("operation", command, "     ")
        if args is not None:
            body += element("arg", args, "     ")
        body += element("path", path, "     ")
        if dataNode is not None:
            body += element("dataNode", dataNode, "     ")
        self.sendCommandPacket("DifxFileOperation", body)

    def _change(self, command: str, path: str, args: str | None = None) -> None:
        channel = self.newChannel(None)
        self.fileOperation(channel, command, args, path)
        self.closeChannel(channel)

    def mkdir(self, path: str) -> None:
        """Make a folder, and those above it."""
        self._change("mkdir", path)

    def rmdir(self, path: str) -> None:
        """Remove an empty folder."""
        self._change("rmdir", path)

    def rm(self, path: str, args: str | None = None) -> None:
        """Remove a file; args: -r, -f."""
        self._change("rm", path, args)

    def mv(self, path: str, to: str) -> None:
        """Rename."""
        self._change("mv", path, to)

    def cp(self, path: str, to: str) -> None:
        """Copy."""
        self._change("cp", path, to)

    def touch(self, path: str) -> None:
        """Make an empty file, or its time new."""
        self._change("touch", path)

    def ls(self, path: str, args: str | None = None) -> list[str] | None:
        """The lines of `ls`; None for what is not there, and for an empty folder."""
        lines: list[str] = []
        stream = _Counted(lambda item: lines.append(text_of(item).strip()))
        channel = self.newChannel(stream.feed)
        self.fileOperation(channel, "ls", args or "", path)
        self._waitFor(lambda: stream.ended, lambda: len(lines))
        self.closeChannel(channel)
        return lines or None

    def getFile(self, path: str, waitToFinish: bool = True) -> str | None:
        """The content of a file; None if it cannot be had, a part of it when no more comes.

        Without waiting: None, and the callbacks tell; `fileContent` has what came.
        """
        self.fileSize: int | None = None
        self.fileContent = b""
        state: dict[str, int] = {"ended": False}

        def take(item: bytes) -> None:
            if self.fileSize is None:
                self.fileSize = read_int(item) & 0xFFFFFFFF
                self.doIntervalCallback()
            else:
                pieces.append(item)
                state["got"] = state.get("got", 0) + len(item)
                self.fileContent = b"" if waitToFinish else self.fileContent + item
                self.doIntervalCallback()
            failed = self.fileSize > 0xFFFFFFFF - _LAST_ERRORS
            if failed or state.get("got", 0) >= self.fileSize:
                state["ended"] = True
                if not waitToFinish:
                    self.closeChannel(channel)
                self.doFinalCallback()

        pieces: list[bytes] = []
        channel = self.newChannel(take)
        body = element("origin", path) + element("direction", "from DiFX") + element("port", channel)
        self.sendCommandPacket("DifxFileTransfer", body)
        if not waitToFinish:
            return None
        self._waitFor(lambda: state["ended"], lambda: len(pieces))
        self.closeChannel(channel)
        if self.fileSize is not None and self.fileSize > 0xFFFFFFFF - _LAST_ERRORS:
            return None
        self.fileContent = b"".join(pieces)
        return text_of(self.fileContent)

    def sendFile(self, path: str, content: str | bytes, waitToFinish: bool = True) -> int | None:
        """Write a file; how many bytes the server has, 2**32 less 1 and so on for errors."""
        answer: list[int] = []

        def take(item: bytes) -> None:
            answer.append(read_int(item) & 0xFFFFFFFF)
            if not waitToFinish:
                self.closeChannel(channel)
            self.doFinalCallback()

        data = bytes_of(content)
        channel = self.newChannel(take)
        body = element("destination", path) + element("direction", "to DiFX") + element("port", channel)
        self.sendCommandPacket("DifxFileTransfer", body)
        self.sendChannelData(channel, write_int(len(data)))
        self.sendChannelData(channel, data)
        if not waitToFinish:
            return None
        self._waitFor(lambda: answer)
        self.closeChannel(channel)
        return answer[0] if answer else None

    # -- jobs --

    def jobStatus(
        self, path: str, shortStatus: bool = True, waitToFinish: bool = True
    ) -> tuple[str | None, list[tuple[str, tuple[str | None, str]]] | None]:
        """(the time, [(an .input file, (when, its state))]); (None, None) if no answer came."""
        found: list[tuple[str, tuple[str | None, str]]] = []
        moment: list[str] = []
        state: dict[str, int] = {"ended": False, "heard": 0}
        others = {105: "No .difxlog", 107: ".difxlog open error", 108: "No status in .difxlog"}
        frames = Frames()

        def take(item: bytes) -> None:
            for number, data in frames.feed(item):
                state["heard"] += 1
                text = text_of(data)
                if number == 110:
                    moment.append(text)
                elif number == 104:
                    found.append((text, (None, "Unknown")))
                elif number == 106 and found:
                    found[-1] = (found[-1][0], (text[:24], text[24:]))
                elif number in others and found:
                    found[-1] = (found[-1][0], (None, others[number]))
                elif number in (101, 109):
                    state["ended"] = True
                    self.doFinalCallback()

        channel = self.newChannel(take)
        self.sendPacket(
            self.GET_JOB_STATUS,
            write_int(1 if shortStatus else 0)
            + write_counted(bytes_of(path))
            + write_counted(self._ownAddress().encode())
            + write_int(channel),
        )
        if not waitToFinish:
            return None, None
        complete = self._waitFor(lambda: state["ended"], lambda: state["heard"])
        self.closeChannel(channel)
        return (moment[0] if moment else None, found) if complete else (None, None)

    def _ownAddress(self) -> str:
        with contextlib.suppress(OSError):
            if self.sock is not None and self.sock.family == socket.AF_INET:
                return str(self.sock.getsockname()[0])
        return "127.0.0.1"


class _Counted:
    """A stream of lengths, each with so many bytes; 0 is its end."""

    def __init__(self, callback: Callable[[bytes], object]) -> None:
        self.ended = False
        self._callback = callback
        self._held = b""

    def feed(self, item: bytes) -> None:
        """An item, or any other part of the stream."""
        self._held += item
        while len(self._held) >= 4 and not self.ended:
            length = read_int(self._held)
            if length <= 0:
                self.ended = True
            elif len(self._held) < 4 + length:
                return
            else:
                found, self._held = self._held[4 : 4 + length], self._held[4 + length :]
                self._callback(found)


Counted = _Counted


def _do(callback: Callable[..., object] | None, argument: object) -> None:
    if callback is not None:
        callback() if argument is None else callback(argument)


def call_with(callback: Callable[..., object], *arguments: object, before: object = None) -> object:
    """Call back with as many arguments as the function takes.

    The documentation has functions that take none where there is one, and a `self` where there is no object.
    """
    try:
        inspect.signature(callback).bind(*arguments)
    except TypeError:
        try:
            inspect.signature(callback).bind(before, *arguments)
        except TypeError:
            return callback()
        return callback(before, *arguments)
    except ValueError:  # something built in, which does not tell
        pass
    return callback(*arguments)
