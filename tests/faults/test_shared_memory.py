"""MPI's shared memory goes with the world, however the world ends."""

from __future__ import annotations

import os
from typing import Any

import pytest

SCRIPT = """
import os, signal, sys
import mpiframe
client = mpiframe.Client()

def mapped():
    paths = [line.split(None, 5)[5].strip() for line in open("/proc/self/maps") if "/dev/shm/" in line]
    return sorted({path.removesuffix(" (deleted)") for path in paths})

assert client.spmd(lambda comm: comm.allreduce(1)) == [3, 3, 3]
paths = set(mapped())
for answer in [client.submit(mapped, target=rank) for rank in (1, 2, 3)]:
    paths |= set(answer.result())
with open("paths", "w") as file:
    file.write("\\n".join(paths))
"""

KILLED = """
future = client.submit(lambda: os.kill(os.getpid(), signal.SIGKILL), target=2)
try:
    future.result(timeout=20)
finally:
    os._exit(3)
"""


@pytest.mark.parametrize("how", ["well", "by a server that is killed", "by a client that is killed"])
def test_no_segment_is_left(launcher: Any, how: str) -> None:
    ends = {
        "well": "",
        "by a server that is killed": KILLED,
        "by a client that is killed": "os.kill(os.getpid(), signal.SIGKILL)",
    }
    world = launcher.start(SCRIPT + ends[how], 4)
    ended = world.wait()
    assert (ended.status == 0) == (how == "well"), ended.said
    paths = (world.folder / "paths").read_text().splitlines()
    assert any("mpich_shm_" in path or "segment" in path for path in paths), paths
    assert [path for path in paths if os.path.exists(path)] == []
