"""Worlds on other machines, through a real sshd: the two ways that `mpiframe key --help` shows."""

from __future__ import annotations

from mpiframe.worlds.secure import Key
from tests.interactive import sshd
from tests.interactive.test_places_tcp import desk, key, refused, shared, works
from tests.interactive.worlds import Desk

__all__ = ["desk", "key", "shared"]  # fixtures


def test_through_ssh_one_attaches_to_the_socket_or_to_the_port(desk: Desk, key: Key) -> None:
    with sshd.running() as ssh:
        local = str(desk.folder / "here.sock")
        with ssh.forward(local, str(desk.worlds / "survey/socket")):
            works(desk, local)
        port = sshd.free_port()
        with ssh.forward(str(port), key.address):
            works(desk, f"127.0.0.1:{port}")
        assert "nobody can be reached at" in refused(desk, f"127.0.0.1:{port}", key)
