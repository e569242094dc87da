"""How DiFXControl's clients reach a server: by TCP, or by MPI through the DiFX plugin of a server of a world.

Either way the client has a socket. Over MPI its other end is in this process, and what comes there travels
as commands and events of the plugin.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import socket
import ssl
import threading
import time
from typing import Any

from mpiframe.plugins.difx.protocol import Id, write_packet

TOKEN_FILE = "MPIFRAME_DIFX_TOKEN_FILE"
"""The variable with the path of a file that holds the token of a gateway."""
CA_FILE, CERT_FILE, KEY_FILE = "MPIFRAME_DIFX_CA", "MPIFRAME_DIFX_CERT", "MPIFRAME_DIFX_KEY"
"""Variables with paths: of the CA of a gateway with TLS, and of a client's own certificate and key."""
_READ_BYTES = 1 << 18
_END_SECONDS = 10.0
_TAKEN_SECONDS = 5.0
_plugins: list[Any] = []
_pumps: list[tuple[socket.socket, threading.Thread]] = []


def mpi_mode_on(client: Any, target: Any = 1, **options: Any) -> None:
    """Connect by MPI from now on: to the DiFX plugin of a server of an `mpiframe.Client`.

    target: its rank; options: of the plugin, such as roots. Host and port of `connect` are not used then.
    """
    mpi_mode_off()
    _plugins.append(client.plugin("difx", target=target, **options))


def mpi_mode_off() -> None:
    """Connect by TCP again. Connections that there are stay."""
    _plugins.clear()


def connected(host: str, port: int, seconds: float) -> socket.socket:
    """A socket to a server. Raises OSError."""
    if _plugins:
        return by_mpi(_plugins[-1])
    if ca := os.environ.get(CA_FILE):
        context = ssl.create_default_context(cafile=ca)
        if certificate := os.environ.get(CERT_FILE):
            context.load_cert_chain(certificate, os.environ.get(KEY_FILE))
        made = _by_tls(host, port, context, seconds)
    else:
        made = socket.create_connection((host, port), seconds)
    try:
        if made.family != socket.AF_UNIX:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if path := os.environ.get(TOKEN_FILE):
            with open(path, encoding="utf-8") as file:
                made.sendall(write_packet(Id.TOKEN, file.read().strip().encode()))
        made.settimeout(None)
    except BaseException:
        made.close()
        raise
    return made


def _by_tls(host: str, port: int, context: ssl.SSLContext, seconds: float) -> socket.socket:
    """A socket whose other end is encrypted in a thread: one of TLS cannot be waited for, nor shared."""
    ours, theirs = socket.socketpair()
    answer: queue.Queue[OSError | None] = queue.Queue()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_READ_BYTES):
                writer.write(data)
                await writer.drain()
        writer.transport.abort() if writer.transport.is_closing() else writer.close()

    async def connect() -> None:
        near_reader, near = await asyncio.open_connection(sock=theirs)
        try:
            opening = asyncio.open_connection(host, port, ssl=context)
            far_reader, far = await asyncio.wait_for(opening, seconds)
        except (OSError, asyncio.TimeoutError) as error:
            near.close()
            answer.put(error if isinstance(error, OSError) else OSError(f"no TLS with {host}:{port}"))
            return
        answer.put(None)
        await asyncio.gather(copy(near_reader, far), copy(far_reader, near))

    threading.Thread(target=lambda: asyncio.run(connect()), name="DiFX by TLS", daemon=True).start()
    error = answer.get()
    if error is not None:
        ours.close()
        raise error
    return ours


def by_mpi(plugin: Any) -> socket.socket:
    """A socket whose other end is the gateway in the DiFX plugin of a server."""
    ours, theirs = socket.socketpair()
    early: list[tuple[int, bytes]] = []
    number: list[int] = []
    lock = threading.Lock()

    def take(found: int, data: bytes) -> None:
        with contextlib.suppress(OSError):  # the client has closed
            if number == [found]:
                theirs.sendall(data) if data else theirs.shutdown(socket.SHUT_WR)

    def hear(_: int, event: Any) -> None:
        if not (isinstance(event, tuple) and event[:1] == ("packets",)):
            return
        with lock:
            if not number:
                early.append(event[1:])
                return
        take(*event[1:])

    forget = plugin.subscribe(hear)
    opened = plugin.gateway_open()
    with lock:
        number.append(opened)
        for one in early:
            take(*one)

    def send() -> None:
        try:
            while data := theirs.recv(_READ_BYTES):
                plugin.gateway_send(opened, data)
        except OSError:
            pass
        except Exception:  # the server is lost, or the world has ended: that is the end of the connection
            with contextlib.suppress(OSError):
                theirs.shutdown(socket.SHUT_RDWR)
        finally:
            forget()
            with contextlib.suppress(Exception):
                plugin.gateway_close(opened)
            theirs.close()

    thread = threading.Thread(target=send, name=f"DiFX by MPI {opened}", daemon=True)
    _pumps.append((ours, thread))
    thread.start()
    return ours


def let_go(connection: socket.socket) -> None:
    """Close a connection, when its server has: a gateway serves none whose client is gone before it looks."""
    deadline = time.monotonic() + _TAKEN_SECONDS
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_WR)
        while (left := deadline - time.monotonic()) > 0:
            connection.settimeout(left)
            if not connection.recv(_READ_BYTES):
                break
    connection.close()


def settle() -> None:
    """Wait until connections that were closed have ended at their servers, too."""
    for one in [one for one in _pumps if one[0].fileno() < 0]:
        one[1].join(_END_SECONDS)
        _pumps.remove(one)
