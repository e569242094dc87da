"""A real sshd on loopback, with keys that live as long as the test, and `ssh -L` through it."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

SECONDS = 20.0


def find(name: str) -> str:
    """The path of a program of OpenSSH; in `launch/test --interactive` one that is missing is a failure."""
    path = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    assert path is not None, f"{name} is missing (Debian: apt-get install openssh-server openssh-client)"
    return path


def _await(condition: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert process.poll() is None, log.read_text(errors="replace")
        assert time.monotonic() < deadline, log.read_text(errors="replace")
        time.sleep(0.01)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


class Ssh:
    """A running sshd, and how to get through it."""

    def __init__(self, folder: Path, port: int) -> None:
        self._folder = folder
        self._port = port

    @contextlib.contextmanager
    def forward(self, local: str, remote: str) -> Iterator[None]:
        """`ssh -L local:remote`, both either the path of a socket or, local a port, remote host:port."""
        log = self._folder / "ssh.log"
        with open(log, "wb") as file:
            process = subprocess.Popen(
                [
                    find("ssh"), "-N", "-L", f"{local}:{remote}", "-p", str(self._port),
                    "-F", "/dev/null", "-i", str(self._folder / "user"), "-o", "BatchMode=yes",
                    "-o", "ExitOnForwardFailure=yes", "-o", f"UserKnownHostsFile={self._folder / 'known'}",
                    f"{getpass.getuser()}@127.0.0.1",
                ],
                stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            )  # fmt: skip
        try:
            _await(
                lambda: os.path.exists(local) if local.startswith("/") else _listens(int(local)), process, log
            )
            yield
        finally:
            process.terminate()
            process.wait(SECONDS)
            if local.startswith("/"):  # ssh leaves it
                Path(local).unlink(missing_ok=True)


@contextlib.contextmanager
def running() -> Iterator[Ssh]:
    """An sshd of this user's, which lets in nobody but this test."""
    # Not below pytest's own folders: those others may enter, and sshd is particular about that.
    with tempfile.TemporaryDirectory(prefix="mf-ssh-", dir="/tmp") as text:
        folder, port = Path(text), free_port()
        for name in ("host", "user"):
            subprocess.run(
                [find("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True
            )
        shutil.copy(folder / "user.pub", folder / "authorized")
        kind, key, *_ = (folder / "host.pub").read_text().split()
        (folder / "known").write_text(f"[127.0.0.1]:{port} {kind} {key}\n")
        (folder / "config").write_text(
            f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {folder}/host\n"
            f"AuthorizedKeysFile {folder}/authorized\nPidFile none\nUsePAM no\n"
            f"PasswordAuthentication no\nStrictModes no\nPermitRootLogin yes\n"
        )
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        log = folder / "sshd.log"
        with open(log, "wb") as file:
            process = subprocess.Popen(
                [find("sshd"), "-D", "-e", "-f", str(folder / "config")],
                stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            )  # fmt: skip
        try:
            _await(lambda: _listens(port), process, log)
            yield Ssh(folder, port)
        finally:
            process.terminate()
            process.wait(SECONDS)
