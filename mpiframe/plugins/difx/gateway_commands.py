"""The guiServer's protocol over MPI: a client's packets are commands of the DiFX plugin, the answers events.

number = difx.gateway_open()
difx.gateway_send(number, packets)         # events: ("packets", number, bytes); b"" at the end
difx.gateway_close(number)
"""

from __future__ import annotations

import itertools
import shlex
import socket
import threading
from typing import Any

from mpiframe.errors import MpiframeError
from mpiframe.plugins.base import Context, command
from mpiframe.plugins.difx.gateway import Gateway, GatewayOptions
from mpiframe.plugins.difx.jobs import Jobs
from mpiframe.plugins.difx.multicast import Group

_READ_BYTES = 1 << 18


class LinkError(MpiframeError, LookupError):
    """There is no such connection to the gateway: it was closed, or the plugin was loaded anew."""


class GatewayCommands:
    """The plugin says which folders and messages; its `stop` has to call `gateway_end`."""

    context: Context
    _gateway: Gateway | None = None
    _links: dict[int, socket.socket] | None = None
    _link_numbers: Any = None

    def files_roots(self) -> list[str]:
        """The folders that clients may use."""
        raise NotImplementedError

    def messages_group(self) -> Group:
        """Whose messages are relayed."""
        raise NotImplementedError

    @property
    def jobs(self) -> Jobs:
        """The jobs of this host, which are those of the gateway's clients too."""
        raise NotImplementedError

    def gateway_options(self) -> GatewayOptions:
        """Of the gateway."""
        config = self.context.config
        options = config.mpi_options
        return GatewayOptions(
            roots=self.files_roots(),
            base=config.base,
            group=self.messages_group(),
            shown=config.shown,
            launchers=(config.mpirun, "mpirun", "mpiexec"),
            correlators=(config.program, "mpifxcorr"),
            calc_programs=config.calc_programs,
            mpi_options=options if options is None or isinstance(options, str) else shlex.join(options),
        )

    @command
    def gateway_open(self) -> int:
        """A connection to the gateway; its number, which events ("packets", number, bytes) bear."""
        if self._gateway is None or self._links is None:
            self._gateway, self._links = Gateway(self.gateway_options(), jobs=self.jobs), {}
            self._link_numbers = itertools.count(1)
        number = next(self._link_numbers)
        ours, theirs = socket.socketpair()
        self._gateway.adopt(theirs)
        self._links[number] = ours
        threading.Thread(
            target=self._pass_on, args=(number, ours), name=f"DiFX link {number}", daemon=True
        ).start()
        return int(number)

    @command
    def gateway_send(self, number: int, data: bytes) -> None:
        """Hand bytes of packets to the gateway. Raises LinkError."""
        self._link(number).sendall(data)

    @command
    def gateway_close(self, number: int) -> None:
        """End a connection; one that has ended is none to end."""
        link = (self._links or {}).pop(number, None)
        if link is not None:
            _shut(link)

    def gateway_end(self) -> None:
        """End all connections, and the gateway."""
        gateway, self._gateway = self._gateway, None
        for number in list(self._links or {}):
            self.gateway_close(number)
        if gateway is not None:
            gateway.close()

    def _link(self, number: int) -> socket.socket:
        links = self._links or {}
        if number not in links:
            raise LinkError(
                f"there is no connection {number} to the gateway; there are {sorted(links) or 'none'}"
            )
        return links[number]

    def _pass_on(self, number: int, link: socket.socket) -> None:
        with link:
            try:
                while data := link.recv(_READ_BYTES):
                    self.context.emit(("packets", number, data))
            except OSError:
                pass
        (self._links or {}).pop(number, None)
        self.context.emit(("packets", number, b""))


def _shut(link: socket.socket) -> None:
    try:
        link.shutdown(socket.SHUT_RDWR)
    except OSError:  # the other end was quicker
        pass
