"""A world with a hub, and processes attached to it, for the tests."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mpiframe.attached.client import AttachedClient, connect
from tests.conftest import Launcher, RunningWorld

SECRET = b"\x07" * 32
LIMIT = 60.0  # seconds after which a test gives up

WORLD = """
    import os, socket, sys
    import mpiframe
    from mpiframe.hub.server import Hub

    if __name__ == "__main__":
        client = mpiframe.Client(restart=sys.argv[1] if len(sys.argv) > 1 else "never")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind("hub.sock")
        os.chmod("hub.sock", 0o600)
        listener.listen(512)
        hub = Hub(client, [(listener, None)], bytes([7]) * 32, name="survey").start()
        open("ready", "w").close()
        hub.serve()
"""
"""The script of a world that does nothing but serve its hub."""


class HubWorld:
    """A running world, and the place of its hub."""

    def __init__(self, world: RunningWorld, python: str) -> None:
        self.world = world
        self.folder = world.folder
        self.address = ("unix", str(world.folder / "hub.sock"))
        self._python = python
        self._attached: list[AttachedClient] = []
        self._processes: list[subprocess.Popen[str]] = []
        world.await_file("ready")

    def attach(self, session: str | None = None, **options: Any) -> AttachedClient:
        """This process as an attached one; closed by `end` at the latest."""
        client = connect(self.address, SECRET, session, name="survey", **{"output": "quiet", **options})
        self._attached.append(client)
        return client

    def knock(self) -> socket.socket:
        """A connection that says nothing yet."""
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(LIMIT)
        sock.connect(self.address[1])
        return sock

    def process(self, script: str, *words: str) -> subprocess.Popen[str]:
        """A process of its own, that finds `attach()` and what it needs beside its script."""
        path = self.folder / f"attached-{len(self._processes)}.py"
        head = f"""
            import os, signal, sys, time
            from mpiframe.attached.client import connect

            def attach(session=None, **options):
                return connect({self.address!r}, {SECRET!r}, session, name="survey", **options)
        """
        path.write_text(textwrap.dedent(head) + textwrap.dedent(script))
        root = Path(__file__).resolve().parents[2]
        process = subprocess.Popen(
            [self._python, str(path), *words],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(root)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._processes.append(process)
        return process

    def run(self, script: str, *words: str) -> str:
        """What such a process says, once it has ended well."""
        process = self.process(script, *words)
        said, _ = process.communicate(timeout=LIMIT)
        assert process.returncode == 0, said
        return said

    def end(self) -> None:
        """Stop the world; nothing of it is left."""
        try:
            for client in self._attached:
                client.close()
            for process in self._processes:
                process.kill()
                process.communicate()
            if self.world.process.poll() is None:
                with contextlib.suppress(Exception):  # a test may have broken it; `wait` tells
                    connect(self.address, SECRET, timeout=LIMIT / 2).stop_world()
            self.world.wait(LIMIT)
        finally:
            self.world.kill()


@contextlib.contextmanager
def hub_world(launcher: Launcher, ranks: int = 3, script: str = WORLD, **options: Any) -> Iterator[HubWorld]:
    """A world with a hub, for as long as the block."""
    world = HubWorld(launcher.start(script, ranks, **options), launcher.python.executable)
    try:
        yield world
    finally:
        world.end()


def until(condition: Callable[[], Any], seconds: float = LIMIT) -> None:
    """Wait until this is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        threading.Event().wait(0.01)


def in_thread(function: Callable[[], Any]) -> threading.Thread:
    """A thread that does this."""
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


__all__ = ["LIMIT", "SECRET", "WORLD", "HubWorld", "hub_world", "in_thread", "until"]
