"""DiFX's `DiFXFileTransfer`: `getFile` and `sendFile`, on a client's connection or on one of its own."""

from __future__ import annotations

from mpiframe.compat._difx_attached import AttachedClient
from mpiframe.compat._difx_packets import element


class Client(AttachedClient):
    """As DiFXControl.Client, whose methods these are, and the command itself."""

    def sendFileTransfer(
        self,
        origin: str | None,
        destination: str | None,
        dataNode: str | None,
        address: str | None,
        direction: str,
        port: int,
    ) -> None:
        """Send a DifxFileTransfer."""
        named = {"origin": origin, "destination": destination, "dataNode": dataNode, "address": address}
        body = "".join(element(tag, value) for tag, value in named.items() if value is not None)
        self.sendCommandPacket(
            "DifxFileTransfer", body + element("direction", direction) + element("port", port)
        )
