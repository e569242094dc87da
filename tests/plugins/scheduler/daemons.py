"""What the batch systems of the tests share: daemons in a folder of their own, ended without a trace."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

LEAVE_SECONDS = 10.0
_ENVIRONMENT = dict(os.environ)  # without the variables of another batch system that was started meanwhile


class Daemons:
    """Started by `start`, ended by `stop`; jobs are submitted with `variables` in the environment.

    marks: what is in the environment, or on the command line, of every process that is ours.
    """

    def __init__(self, prefix: str) -> None:
        # Not pytest's own folder: the path of a Unix socket may have about a hundred letters.
        self.folder = Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp"))
        self.folder.chmod(0o755)
        self.variables: dict[str, str] = {}
        self.extra: dict[str, str] = {}
        """Variables for the daemons and their tools alone."""
        self.processes: list[subprocess.Popen[bytes]] = []

    def run(self, *argv: str) -> subprocess.Popen[bytes]:
        """Start a daemon; what it says goes into the folder."""
        with open(self.folder / f"{os.path.basename(argv[0])}.out", "ab") as out:
            process = subprocess.Popen(
                argv,
                env=self._environment(),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        self.processes.append(process)
        return process

    def command(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run a tool to its end."""
        return subprocess.run(
            argv, env=self._environment(), capture_output=True, text=True, timeout=60, check=False
        )

    def wait_until(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        """Ask again and again; an AssertionError with the daemons' logs if it takes too long."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                logs = [*self.folder.glob("*.log"), *self.folder.glob("*.out")]
                said = "\n".join(path.read_text(errors="replace")[-2000:] for path in logs)
                raise AssertionError(f"{what}\n{said}")
            time.sleep(0.05)

    def end(self, *groups: Sequence[subprocess.Popen[bytes]], seconds: float) -> None:
        """End the daemons, one group after the other. Raises AssertionError if any process is left."""
        for group in groups:
            for process in group:
                process.terminate()
            for process in group:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(seconds)
        left = self._left()
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in self.processes:
            process.wait(LEAVE_SECONDS)
        shutil.rmtree(self.folder, ignore_errors=True)
        assert not left, f"left behind: {left}"

    def _environment(self) -> dict[str, str]:
        return {**_ENVIRONMENT, **self.variables, **self.extra}

    def _left(self) -> dict[int, str]:
        """Processes of ours, a moment for them to go included."""
        deadline = time.monotonic() + LEAVE_SECONDS
        while (found := self._ours()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return found

    def _ours(self) -> dict[int, str]:
        """Those with our folder in their variables, or on their command lines, but for who asks."""
        variables = [f"{name}={value}".encode() for name, value in self.variables.items() if "/" in value]
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_text(errors="replace").replace("\0", " ")
                environment = (entry / "environ").read_bytes()
                ours = str(self.folder) in words or any([one in environment for one in variables])
                if ours and int(entry.name) not in (os.getpid(), os.getppid()) and words.strip():
                    found[int(entry.name)] = words
        return found


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nobody listens on, below those that connections out are given."""
    found: list[int] = []
    for port in random.sample(range(20_000, 32_000), 1000):
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise AssertionError("no free ports")
