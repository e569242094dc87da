"""Frames over TLS: both ways at once, from several threads."""

from __future__ import annotations

import select
import socket
import ssl
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from mpiframe.hub.wire import Stream
from mpiframe.worlds import secure

LIMIT = 60.0


def handshaken(folder: Path) -> tuple[ssl.SSLSocket, ssl.SSLSocket]:
    """The two ends of a connection."""
    path = folder / "certificate.pem"
    secure.make_certificate(path, "test")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # TLS is the matter here, not trust
    ours, theirs = socket.socketpair()
    ends: list[ssl.SSLSocket] = []
    server = secure.server_context(path)
    thread = threading.Thread(target=lambda: ends.append(server.wrap_socket(theirs, server_side=True)))
    thread.start()
    near = context.wrap_socket(ours)
    thread.join(LIMIT)
    return near, ends[0]


def test_large_and_small_frames_go_both_ways_at_once(tmp_path: Path) -> None:
    streams = [Stream(sock, lambda: None) for sock in handshaken(tmp_path)]
    array = np.random.default_rng(2).integers(0, 255, 8 << 20, np.uint8)
    found: list[list[Any]] = [[], []]
    over = threading.Event()

    def watch(index: int) -> None:
        stream = streams[index]
        while not over.is_set():
            select.select([stream], [stream] if stream.unsent else [], [], 0 if stream.more else 0.01)
            stream.flush()
            found[index] += stream.receive()

    def speak(stream: Stream, who: int) -> None:
        for n in range(20):
            stream.send({"who": who, "n": n}, [array] if n % 10 == 3 else [b"x" * n])

    threads = [threading.Thread(target=watch, args=(index,)) for index in (0, 1)]
    threads += [threading.Thread(target=speak, args=(stream, who)) for stream in streams for who in (1, 2)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + LIMIT
    while min(map(len, found)) < 40 and time.monotonic() < deadline:
        over.wait(0.01)
    over.set()
    for thread in threads:
        thread.join(LIMIT)
    for frames in found:
        for who in (1, 2):
            own = [(header["n"], buffers[0]) for header, buffers in frames if header["who"] == who]
            assert [n for n, _ in own] == list(range(20))
            assert all(np.array_equal(b, array) if n % 10 == 3 else b == b"x" * n for n, b in own)
    for stream in streams:
        stream.close()
