"""`mpiframe.attach`: from a name, an address or a socket to a client of a world that runs."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from mpiframe.attached.client import AttachedClient, connect
from mpiframe.errors import WorldError
from mpiframe.shell import jupyter
from mpiframe.worlds import places, secure
from mpiframe.worlds.secure import Key

CONNECT_SECONDS = 10.0


def attach(
    world: str | os.PathLike[str] | None = None,
    session: str | None = None,
    *,
    key: str | os.PathLike[str] | None = None,
    take_over: bool = False,
    timeout: float = CONNECT_SECONDS,
    output: str = "redirect",
    output_dir: str | None = None,
    watch: bool = False,
) -> AttachedClient:
    """Work with a world that runs, as its client does, from a process without MPI.

    Parameters
    ----------
    world: its name (`mpiframe list` shows them; None for the only one that runs on this host); or
        "HOST:PORT", where it listens on TCP or where a tunnel to that begins; or the path of a socket that is
        forwarded to its own (`ssh -L`), with a slash in it. The last two want its key.
    session: None begins a new one. The name of one that is there comes back to its requests and results.
    key: the file that `mpiframe key` prints and `mpiframe start --key` writes. Without `world` it says where
        that listens, too.
    take_over: also if another process is attached to the session, which then is not any more.
    timeout: seconds to be attached in.
    output, output_dir: what becomes of what one's commands print, as for `Client`.
    watch: only to look on; the session is not shown among the others.

    Raises WorldError where there is no such world, with those there are; where it has died, with when and its
    log; where nobody listens, or whoever does is not that world; where the key is wrong, or others may read
    it; and where the session is another process's.
    """
    deadline = time.monotonic() + timeout
    known = None if key is None else Key.read(key)
    if world is None and known is not None:
        if not known.address:
            raise WorldError(
                f"{key} names no address, because its world does not listen on TCP: forward its socket by "
                "`ssh -L`, and give the path of yours"
            )
        world = known.address
    found = _find(world, known, key, timeout)
    try:
        client = connect(
            found.address,
            found.secret,
            session,
            sock=found.sock,
            take_over=take_over,
            timeout=max(0.1, deadline - time.monotonic()),
            name=found.name,
            output=output,
            output_dir=output_dir,
            watch=watch,
        )
    except WorldError as error:
        cause = error.__cause__
        if known is not None and isinstance(cause, ConnectionRefusedError) and cause.errno is None:
            where = ":".join(map(str, found.address[1:]))
            raise WorldError(
                f"the secret in the key file is not that of the world at {where}: was that started anew? "
                "`mpiframe key NAME` on its host prints the right one"
            ) from error
        raise
    jupyter.welcome(client)
    return client


@dataclass(frozen=True)
class _Found:
    """Where a world's hub listens, and what it takes to be let in."""

    address: tuple[str, ...]
    secret: bytes
    name: str
    sock: socket.socket | None = None  # a connection that is open already


def _find(
    world: str | os.PathLike[str] | None,
    known: Key | None,
    key: str | os.PathLike[str] | None,
    timeout: float,
) -> _Found:
    if isinstance(world, os.PathLike) or (world is not None and "/" in world):
        path = os.fspath(world)
        secret = _wanted(known, f"the socket {path}").secret
        return _Found(("unix", os.path.expanduser(path)), secret, Path(path).stem)
    if world is not None and secure.is_address(world):
        known = _wanted(known, world)
        if not known.fingerprint:
            raise WorldError(
                f"{key} is the key of a world that did not listen on TCP when it was made: "
                "fetch it again (`mpiframe key NAME` on its host)"
            )
        host, port = secure.split_address(world)
        sock = secure.connect(world, known.fingerprint, timeout)
        return _Found(("tcp", host, str(port)), known.secret, known.name, sock)
    place, card = places.running(world)
    if not card.ready:
        raise WorldError(f"the world {place.name} is only just starting: try again in a moment")
    return _Found(("unix", str(place.socket)), place.secret(), place.name)


def _wanted(key: Key | None, where: str) -> Key:
    if key is None:
        raise WorldError(
            f"to attach to {where} takes the key of its world: `mpiframe key NAME > FILE`, on its host"
        )
    return key
