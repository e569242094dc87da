"""What it costs to work from an attached process: by the command, and by the byte.

    mpiframe run -n 3 benchmarks/attached.py [--commands 3000] [--mebibytes 64 1024]

    round trip   one command after the other is waited for; the median
    submit       futures, none waited for until all are pushed; the mean
    argument     an array goes to a server, against the same bytes through a bare Unix socket
    result       an array comes from a server, where it has to be made first

The first two stand beside what the world's own client needs for them, in the same run. An array goes twice,
from process to hub and from hub to server, one after the other. Nothing here passes or fails.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from mpiframe.attached.client import connect


def seconds(action: Callable[[], Any]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def commands(client: Any, count: int) -> str:
    client.push("1", "all", True)
    rounds = [seconds(lambda: client.push("1", 1, True)) for _ in range(count)]
    whole = seconds(lambda: [f.result() for f in [client.submit(abs, -1) for _ in range(count)]])
    return f"round trip {statistics.median(rounds) * 1e6:5.0f} us   submit {whole / count * 1e6:5.0f} us"


def bare(array: Any) -> float:
    """The same bytes through a socket, into memory of their own."""
    here, there = socket.socketpair()

    def receive() -> None:
        room, got = memoryview(np.empty_like(array)), 0
        while got < array.nbytes:
            got += there.recv_into(room[got:])
        there.sendall(b"!")

    thread = threading.Thread(target=receive)

    def move() -> None:
        thread.start()
        here.sendall(array)
        here.recv(1)

    with here, there:
        took = seconds(move)
        thread.join()
    return took


def arrays(client: Any, size: int) -> None:
    array = np.ones(size, np.uint8)
    raw = min(bare(array) for _ in range(3))
    there = min(seconds(lambda: client.submit(len, array, target=1).result()) for _ in range(4))
    back = min(seconds(lambda: client.submit(np.ones, size, np.uint8, target=1).result()) for _ in range(4))
    print(
        f"{size >> 20:5} MiB   bare socket {raw:6.3f} s   argument {there:6.3f} s   result {back:6.3f} s",
        flush=True,
    )


def attached(path: str, secret: bytes, options: argparse.Namespace) -> None:
    with connect(("unix", path), secret) as client:
        print("attached    ", commands(client, options.commands), flush=True)
        for size in options.mebibytes:
            arrays(client, size << 20)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--commands", type=int, default=3000)
    parser.add_argument("--mebibytes", type=int, nargs="*", default=[64])
    parser.add_argument("--attached", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.attached:
        attached(options.attached, bytes.fromhex(sys.stdin.readline()), options)
        return
    import mpiframe
    from mpiframe.hub.server import Hub

    with mpiframe.Client() as client, tempfile.TemporaryDirectory() as folder:
        secret, path = os.urandom(32), os.path.join(folder, "hub")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()
            Hub(client, [(listener, None)], secret).start()
            print(f"load {os.getloadavg()[0]:.1f}")
            print("world's own ", commands(client, options.commands), flush=True)
            child = [sys.executable, *sys.argv, "--attached", path]
            subprocess.run(child, input=secret.hex(), text=True, check=True)
            client.close()


if __name__ == "__main__":
    main()
