"""Where a reply goes: a channel within the client's own connection, or a connection back to the client."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from mpiframe.plugins.difx.protocol import (
    LONGEST_PIECE,
    ProtocolError,
    framed_items,
    read_int,
    write_counted,
    write_int,
    write_item,
)

_T = TypeVar("_T")
_PIECES_HELD = 64
_CONNECT_SECONDS = 10.0


class ChannelClosed(Exception):
    """The client is gone, or takes nothing any more."""


class Channel(Protocol):
    """One reply, and what the client says to it."""

    async def items(self, *items: bytes) -> None:
        """Send items, each for itself, once there is room for them. Raises ChannelClosed."""

    def offer(self, *items: bytes) -> bool:
        """Send items now, or drop all of them where the client is far behind; whether they were sent."""

    async def receive(self) -> bytes:
        """The next bytes from the client, in any portions. Raises ChannelClosed at their end."""

    async def close(self) -> None:
        """No more of it."""


async def send_framed(channel: Channel, number: int, data: bytes = b"") -> None:
    """Send a packet within a channel."""
    await channel.items(*framed_items(number, data))


async def send_counted(channel: Channel, data: bytes) -> None:
    """Send a length and so many bytes, which are two items."""
    await channel.items(*([write_int(len(data)), data] if data else [write_counted(data)]))


async def receive_exactly(channel: Channel, size: int, held: bytearray) -> bytes:
    """So many bytes; `held` keeps what came beyond. Raises ChannelClosed."""
    while len(held) < size:
        held += await channel.receive()
    found = bytes(held[:size])
    del held[:size]
    return found


async def receive_framed(channel: Channel, held: bytearray, longest: int) -> tuple[int, bytes]:
    """A packet within a channel. Raises ProtocolError for one that is too long, and ChannelClosed."""
    head = await receive_exactly(channel, 8, held)
    number, length = read_int(head), read_int(head, 4)
    if not 0 <= length <= longest:
        raise ProtocolError(f"a packet {number} with {length} bytes on a channel")
    return number, await receive_exactly(channel, length, held)


async def kept(making: Awaitable[_T], undo: Callable[[_T], object]) -> _T:
    """Wait for something that has to be undone if we are cancelled before we have it."""
    task = asyncio.ensure_future(making)

    def made(_: object) -> None:
        if not task.cancelled() and task.exception() is None:
            undo(task.result())

    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(made)
        raise


class Inbox:
    """What a client sent on a channel, until it is read: a bounded part of it."""

    def __init__(self) -> None:
        self._pieces: asyncio.Queue[bytes] = asyncio.Queue(_PIECES_HELD)
        self.closed = False

    async def put(self, piece: bytes) -> None:
        """Keep a piece, once there is room; forget it if nobody reads any more."""
        if not self.closed:
            await self._pieces.put(piece)

    async def get(self) -> bytes:
        """The next piece. Raises ChannelClosed."""
        if self.closed and self._pieces.empty():
            raise ChannelClosed
        piece = await self._pieces.get()
        if not piece and self.closed:
            raise ChannelClosed
        return piece

    def close(self) -> None:
        """Nobody reads, or writes, any more: whoever waits is let go."""
        self.closed = True
        while not self._pieces.empty():
            self._pieces.get_nowait()
        self._pieces.put_nowait(b"")


class PacketChannel:
    """A channel within the connection: each item is a CHANNEL_DATA packet."""

    def __init__(
        self,
        number: int,
        inbox: Inbox,
        connection: Outgoing,
        forget: Callable[[int, Inbox], None],
    ) -> None:
        self._number = number
        self._inbox = inbox
        self._connection = connection
        self._forget = forget

    async def items(self, *items: bytes) -> None:
        """As in `Channel`."""
        self._connection.write(b"".join(write_item(self._number, one) for one in items))
        await self._connection.drained()

    def offer(self, *items: bytes) -> bool:
        """As in `Channel`."""
        return self._connection.offer(b"".join(write_item(self._number, one) for one in items))

    async def receive(self) -> bytes:
        """As in `Channel`."""
        return await self._inbox.get()

    async def close(self) -> None:
        """As in `Channel`."""
        self._inbox.close()
        self._forget(self._number, self._inbox)


class ConnectedChannel:
    """A connection back to the client: the same items, as a plain stream."""

    def __init__(self, reader: asyncio.StreamReader, connection: Outgoing) -> None:
        self._reader = reader
        self._connection = connection

    @classmethod
    async def connect(
        cls, host: str, port: int, patience_seconds: float, know: Callable[[asyncio.WriteTransport], object]
    ) -> ConnectedChannel:
        """Connect to a client that listens; `know` is told of the transport. Raises OSError."""
        opening = asyncio.open_connection(host, port, limit=LONGEST_PIECE)
        reader, writer = await asyncio.wait_for(
            kept(opening, lambda made: made[1].transport.abort()), _CONNECT_SECONDS
        )
        know(writer.transport)
        return cls(reader, Outgoing(writer, patience_seconds))

    async def items(self, *items: bytes) -> None:
        """As in `Channel`."""
        self._connection.write(b"".join(items))
        await self._connection.drained()

    def offer(self, *items: bytes) -> bool:
        """As in `Channel`."""
        return self._connection.offer(b"".join(items))

    async def receive(self) -> bytes:
        """As in `Channel`."""
        with contextlib.suppress(OSError):
            if found := await self._reader.read(LONGEST_PIECE):
                return found
        raise ChannelClosed

    async def close(self) -> None:
        """As in `Channel`."""
        await self._connection.close()


class Outgoing:
    """The writing half of a connection: nobody who reads slowly makes it grow without end.

    patience_seconds: how long a client may take nothing at all before it is given up.
    """

    ROOM_BYTES = 4 << 20
    """How far behind a client may be before what can be done without is dropped."""

    def __init__(self, writer: asyncio.StreamWriter, patience_seconds: float) -> None:
        self.writer = writer
        self.dropped = 0
        self._patience = patience_seconds
        self._turn = asyncio.Lock()  # Python 3.10 allows but one to wait for a drain

    def write(self, data: bytes) -> None:
        """Send. Raises ChannelClosed."""
        if self.writer.is_closing():
            raise ChannelClosed
        self.writer.write(data)

    def offer(self, data: bytes) -> bool:
        """Send, unless the client is far behind; whether it was sent."""
        behind = self.writer.transport.get_write_buffer_size() > self.ROOM_BYTES
        if behind or self.writer.is_closing():
            self.dropped += 1
            return False
        self.writer.write(data)
        return True

    async def drained(self) -> None:
        """Wait until there is room for more. Raises ChannelClosed, also when patience ends."""
        async with self._turn:
            # No wait_for: before Python 3.12 it can lose a cancellation that comes as the wait ends.
            giving_up = asyncio.get_running_loop().call_later(self._patience, self.writer.transport.abort)
            try:
                await self.writer.drain()
            except OSError:
                raise ChannelClosed from None
            finally:
                giving_up.cancel()

    async def close(self) -> None:
        """Send what is left, and close."""
        self.writer.close()
        giving_up = asyncio.get_running_loop().call_later(self._patience, self.writer.transport.abort)
        try:
            await self.writer.wait_closed()
        except OSError:
            pass
        finally:
            giving_up.cancel()
