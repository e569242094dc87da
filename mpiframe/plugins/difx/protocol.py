"""The packets of the guiServer's TCP protocol, as both sides write and read them.

A packet is an id, a length and so many bytes, both numbers big endian and signed. Replies to commands travel
on channels, as packets of their own: `CHANNEL_DATA` with the channel's number before the data. Each number of
a reply is such a packet alone; the original client takes every one for an item, and cannot split or join.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from typing import NamedTuple

from mpiframe.errors import MpiframeError

DEFAULT_PORT = 50200
LONGEST_PACKET = 1 << 20
"""Bytes of a packet that is read as a whole. Data on a channel may be of any length, and come in pieces."""
LONGEST_PIECE = 1 << 16
FILE_BLOCK = 1024
"""Bytes of a file that the guiServer puts into one packet."""
_HEAD = struct.Struct("!ii")
_INT = struct.Struct("!i")
_DOUBLE = struct.Struct("!d")


class Id(enum.IntEnum):
    """Packets of a connection. C: from the client, S: from the server."""

    RELAY = 1  # C: 0 or 1; S: a message of DiFX
    RELAY_COMMAND = 2  # C: a message for DiFX
    COMMAND = 3  # C
    INFORMATION = 4  # S
    WARNING = 5  # S
    ERROR = 6  # S
    MULTICAST_SETTINGS = 7  # C
    VERSION = 8  # C: asks; S
    DIFX_VERSION = 9  # never sent
    AVAILABLE_VERSION = 10  # S
    DIFX_BASE = 11  # S
    ENVIRONMENT = 12  # S: NAME=value
    SETUP_PATH = 13  # C
    START_MONITOR = 14  # C
    RUN_LABEL = 15  # C
    USER = 16  # S
    MESSAGE_SELECTION = 17  # C
    CHANNEL_ALL_DATA = 18  # S: the end of an answer to VERSION
    CHANNEL_ALL_DATA_ON = 19  # C
    CHANNEL_ALL_DATA_OFF = 20  # C
    CHANNEL_CONNECTION = 21  # S: a channel's number
    CHANNEL_DATA = 22  # both
    GENERATE_FILELIST = 23  # C
    JOB_STATUS = 24  # C
    TOKEN = 1937  # C: a secret, before all else; not known to DiFX's own


class ProtocolError(MpiframeError, ValueError):
    """What came is no packet, and nothing after it can be understood."""


class Packet(NamedTuple):
    """A packet, or a piece of one on a channel. more: whether pieces of the same packet follow.

    channel: of CHANNEL_DATA, whose `data` is what comes after that number; -1 for others.
    """

    id: int
    data: bytes = b""
    channel: int = -1
    more: bool = False


def write_packet(number: int, data: bytes = b"") -> bytes:
    """A packet's bytes. Raises ProtocolError for data that has no place in one."""
    if len(data) > 0x7FFFFFFF:
        raise ProtocolError(f"{len(data)} bytes are too many for a packet")
    return _HEAD.pack(number, len(data)) + data


def write_int(value: int) -> bytes:
    """A number in a packet's data; what is not below 2**31 is taken for a size, as the original does."""
    return _INT.pack((value + 0x80000000) % 0x100000000 - 0x80000000)


def read_int(data: bytes, offset: int = 0) -> int:
    """The number that stands there. Raises ProtocolError."""
    if offset < 0 or len(data) < offset + _INT.size:
        raise ProtocolError(f"a number was expected at byte {offset} of {len(data)}")
    return int(_INT.unpack_from(data, offset)[0])


def write_double(value: float) -> bytes:
    """A number of eight bytes."""
    return _DOUBLE.pack(value)


def read_double(data: bytes) -> float:
    """The number of eight bytes. Raises ProtocolError."""
    if len(data) != _DOUBLE.size:
        raise ProtocolError(f"eight bytes were expected, not {len(data)}")
    return float(_DOUBLE.unpack(data)[0])


def read_counted(data: bytes, offset: int) -> tuple[bytes, int]:
    """(a length's worth of bytes after that length, where the next thing begins). Raises ProtocolError."""
    length = read_int(data, offset)
    start = offset + _INT.size
    if not 0 <= length <= len(data) - start:
        raise ProtocolError(f"{length} bytes were announced, {len(data) - start} are left")
    return data[start : start + length], start + length


def write_counted(data: bytes) -> bytes:
    """A length, and so many bytes."""
    return write_int(len(data)) + data


def write_item(channel: int, data: bytes) -> bytes:
    """A packet that carries one item on a channel."""
    return write_packet(Id.CHANNEL_DATA, write_int(channel) + data)


def framed_items(number: int, data: bytes = b"", *, always_data: bool = False) -> list[bytes]:
    """The items that are a packet within a channel: id, length, and data if there are any.

    always_data: also empty ones, as the monitor's client sends them.
    """
    items = [write_int(number), write_int(len(data))]
    return [*items, data] if data or always_data else items


class Reader:
    """Makes packets of bytes, in whatever portions they come.

    whole: hand out data of channels as whole packets too, as a client needs them, of at most `longest` bytes.
    """

    def __init__(self, *, whole: bool = False, longest: int = LONGEST_PACKET) -> None:
        self._whole = whole
        self._longest = longest
        self._buffer = bytearray()
        self._channel = -1
        self._left = 0  # of a packet that is handed out in pieces

    @property
    def held(self) -> int:
        """How many bytes wait for more of their packet."""
        return len(self._buffer)

    def feed(self, data: bytes) -> Iterator[Packet]:
        """The packets that these bytes complete. Raises ProtocolError, after which there are no more."""
        self._buffer += data
        while True:
            made = self._piece() if self._left else self._packet()
            if made is None:
                return
            yield made

    def _packet(self) -> Packet | None:
        if len(self._buffer) < _HEAD.size:
            return None
        number, length = _HEAD.unpack_from(self._buffer)
        on_channel = number == Id.CHANNEL_DATA
        if length < 0 or (length > self._longest and (self._whole or not on_channel)):
            raise ProtocolError(f"a packet with id {number} and {length} bytes")
        if on_channel and length < _INT.size:
            raise ProtocolError(f"data of a channel, but only {length} bytes")
        in_pieces = on_channel and not self._whole and length > LONGEST_PIECE
        needed = _HEAD.size + (_INT.size if in_pieces else length)
        if len(self._buffer) < needed:
            return None
        found = bytes(self._buffer[_HEAD.size : needed])
        del self._buffer[:needed]
        if not on_channel:
            return Packet(number, found)
        channel = read_int(found)
        if in_pieces:
            self._channel, self._left = channel, length - _INT.size
            return self._piece() if self._buffer else None
        return Packet(number, found[_INT.size :], channel)

    def _piece(self) -> Packet | None:
        found = bytes(self._buffer[: min(self._left, LONGEST_PIECE)])
        if not found:
            return None
        del self._buffer[: len(found)]
        self._left -= len(found)
        return Packet(Id.CHANNEL_DATA, found, self._channel, self._left > 0)
