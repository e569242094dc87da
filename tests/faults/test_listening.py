"""What a world listens on, seen from inside by Python's audit events: nothing that is not needed."""

from __future__ import annotations

from typing import Any

import pytest

SCRIPT = """
import sys
bound = []
def audit(event, args):
    if event == "socket.bind":
        bound.append((args[0].family.name, args[1]))
sys.addaudithook(audit)

import mpiframe
client = mpiframe.Client()
from mpiframe.opening import opened
print("WAKES", sorted(set(opened().facts().doorbell.values())))
assert list(client.map(abs, range(20))) == list(range(20))
assert client.spmd(lambda comm: comm.allreduce(1)) == [2, 2]
print("BOUND", [(family, place if family == "AF_INET" else "") for family, place in bound])
client.close()
"""


@pytest.mark.parametrize(
    ("doorbell", "wakes", "bound"),
    [
        ("auto", "['unix']", "[('AF_UNIX', '')]"),
        ("tcp", "['tcp']", "[('AF_INET', ('127.0.0.1', 0))]"),
        ("off", "['polling']", "[]"),
    ],
)
def test_a_world_on_one_host_listens_on_no_network(
    launcher: Any, doorbell: str, wakes: str, bound: str
) -> None:
    ended = launcher.run(SCRIPT, 3, plain=True, env={"MPIFRAME_DOORBELL": doorbell}).expect(0)
    assert f"WAKES {wakes}" in ended.stdout
    assert f"BOUND {bound}" in ended.stdout
