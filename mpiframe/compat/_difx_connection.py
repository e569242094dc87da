"""A connection to a guiServer: callbacks, packets, channels for replies; the base of DiFXControl's client."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

from mpiframe.compat._difx_link import by_mpi, connected, let_go, settle
from mpiframe.compat._difx_packets import CONNECT_SECONDS, MonitorThread, bytes_of, call_with, text_of
from mpiframe.plugins.difx.protocol import read_int, write_int, write_packet

_DEFAULT_PORT = 50401


class Connection:
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
                self.sock = connected(where, int(found or _DEFAULT_PORT), CONNECT_SECONDS)
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
        """End the connection, once the server has taken what was sent, or some seconds have passed."""
        if self.monitorThread is not None:
            self.monitorThread.stop()
        if self.sock is not None:
            let_go(self.sock)
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

    def channelData(self, on: bool = True) -> None:
        """Have replies on this connection, or on others that the server opens."""
        self.sendPacket(self.CHANNEL_ALL_DATA_ON if on else self.CHANNEL_ALL_DATA_OFF)

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

    def _ownAddress(self) -> str:
        with contextlib.suppress(OSError):
            if self.sock is not None and self.sock.family == socket.AF_INET:
                return str(self.sock.getsockname()[0])
        return "127.0.0.1"


def _do(callback: Callable[..., object] | None, argument: object) -> None:
    if callback is not None:
        callback() if argument is None else callback(argument)
