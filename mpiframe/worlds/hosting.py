"""Opens the hub of a world that has a name, where those who look for it will find it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
from typing import TYPE_CHECKING, Any

from mpiframe.errors import WorldError
from mpiframe.hub.server import Hub
from mpiframe.launcher.environment import PLACE
from mpiframe.watch.snapshots import Watch
from mpiframe.worlds import secure
from mpiframe.worlds.places import Place

if TYPE_CHECKING:
    from mpiframe.client import Client

_BACKLOG = 128


def open_hub(client: Client | Any) -> Hub:
    """Have the hub of this process's world listen in its place, and say so to whoever has started it.

    Raises WorldError where rank 0 is not on the host of its place, or cannot listen where it is to.
    """
    place = Place.of_this_process()
    os.environ.pop(PLACE, None)  # what this process starts is not to take the place for its own
    card = place.card() if place is not None else None
    if place is None or card is None:
        raise WorldError(
            f"rank 0 is on {socket.gethostname()}, which is not the host that the world was started on, and "
            "could not be found there: name that host first in the host file, or start the world where it is"
        )
    listeners: list[tuple[socket.socket, ssl.SSLContext | None]] = [(_unix(place), None)]
    address = ""
    if card.listen:
        context = secure.server_context(place.certificate)
        tcp, address = _tcp(card.listen)
        listeners.append((tcp, context))
    watch = Watch(client, place.name, card.command)
    # A script is not asked whether it has come to its end: it is interrupted, as by Ctrl-C.
    on_stop = _interrupt if card.how == "script" else _nothing
    hub = Hub(client, listeners, place.secret(), name=place.name, snapshot=watch.snapshot, on_stop=on_stop)

    def changed() -> None:
        with contextlib.suppress(OSError):  # it is for the list only
            place.note(sessions=hub.sessions.count_attached())

    hub.on_change = changed
    watch.sessions = hub.sessions.rows
    # Whoever hears it may connect already; from now on the card is the hub's thread's.
    place.announce(address)
    return hub.start()


def _interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def _nothing() -> None:
    """`Hub.serve` ends by itself."""


def _unix(place: Place) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(str(place.socket))  # its folder lets nobody else in, whatever the socket's mode is
        os.chmod(place.socket, 0o600)
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise WorldError(f"the hub cannot listen on {place.socket}: {error.strerror}") from None
    return sock


def _tcp(wanted: str) -> tuple[socket.socket, str]:
    host, port = secure.split_address(wanted)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        sock = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise WorldError(
            f"the hub cannot listen on {wanted}: {error.strerror or error}. Choose another --listen"
        ) from None
    return sock, secure.join_address(host, sock.getsockname()[1])
