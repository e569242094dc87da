"""Packets of the guiServer's protocol as DiFX's clients read and write them; the base of DiFXControl."""

from __future__ import annotations

import inspect
import select
import socket
import threading
import traceback
from collections.abc import Callable
from xml.sax.saxutils import escape

from mpiframe.plugins.difx.protocol import ProtocolError, Reader, read_int, write_int

CONNECT_SECONDS = 30.0
_LONGEST_PACKET = 0x7FFFFFFF
_READ_BYTES = 1 << 16


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
                self.join(CONNECT_SECONDS)
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


class Counted:
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
