"""Clients of the gateway: one that can send anything, and those of mpiframe.compat."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import ClassVar

from mpiframe.compat import DiFXControl
from mpiframe.plugins.difx.protocol import Id, Packet, Reader, write_packet

SECONDS = 60.0


class Peer:
    """A client that can send anything; `opened` closes what a test leaves open."""

    all: ClassVar[list[Peer]] = []

    def __init__(self, port: int) -> None:
        self.connection = socket.create_connection(("127.0.0.1", port), SECONDS)
        self._packets: list[Packet] = []
        self._reader = Reader(whole=True, longest=1 << 30)
        Peer.all.append(self)

    def send(self, number: int, data: bytes = b"") -> None:
        self.connection.sendall(write_packet(number, data))

    def command(self, kind: str, body: str) -> None:
        text = f"<difxMessage><header><type>{kind}</type></header><body>{body}</body></difxMessage>"
        self.send(Id.COMMAND, text.encode())

    def next(self) -> Packet | None:
        """None at the end."""
        while not self._packets:
            try:
                data = self.connection.recv(1 << 16)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self._packets += self._reader.feed(data)
        return self._packets.pop(0)

    def until(self, wanted: Callable[[Packet], bool]) -> Packet:
        while packet := self.next():
            if wanted(packet):
                return packet
        raise AssertionError("the connection ended")

    def version(self) -> str:
        self.send(Id.VERSION)
        found = self.until(lambda one: one.id == Id.VERSION).data.decode()
        self.until(lambda one: one.id == Id.CHANNEL_ALL_DATA)
        return found

    def channel(self, number: int, end: bytes = b"\0\0\0\0") -> list[bytes]:
        """The items of a reply."""
        items: list[bytes] = []
        while not items or items[-1] != end:
            items.append(self.until(lambda one: one.channel == number).data)
        return items

    def close(self) -> None:
        self.connection.close()


def connected(port: int) -> DiFXControl.Client:
    difx = DiFXControl.Client()
    difx.waitTime(SECONDS)
    difx.connect("127.0.0.1", port)
    difx.monitor()
    return difx
