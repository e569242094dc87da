"""An MPI that sleeps in a call that never does: the process is ended, and says so."""

from __future__ import annotations

import os
import socket
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

SECONDS = 100.0
SAID = "MPI has slept for 2 s (MPIFRAME_STUCK_TIMEOUT) in a call that never waits"

# Open MPI cannot be had to do it at any moment one would like, so in these a system call does it.
STUCK = """
def sleep_in_mpi(transport):
    import ctypes
    pause = ctypes.CDLL(None).pause
    pause.argtypes = [ctypes.py_object] * 3
    transport._improbe = pause
"""
HEAD = f"""
import os, time
import mpiframe
{STUCK}
client = mpiframe.Client()
def get_stuck():
    sleep_in_mpi(mpiframe.server.current()._transport)
"""


def run(launcher: Any, body: str, *options: str, ranks: int = 3, seconds: float = 2, **env: str) -> Any:
    env["MPIFRAME_STUCK_TIMEOUT"] = str(seconds)
    script = HEAD + textwrap.dedent(body)
    return launcher.run(script, ranks, seconds=SECONDS, options=options, env=env)


@pytest.mark.parametrize(
    "options", [(), pytest.param(("--resilient",), marks=pytest.mark.long)], ids=["plain", "resilient"]
)
def test_the_client(launcher: Any, options: tuple[str, ...]) -> None:
    """What it had printed is not lost, and `result(timeout=...)` is held up, too."""
    body = """
    print("before")
    future = client.submit(time.sleep, 600)
    sleep_in_mpi(client._loop._transport)
    future.result(timeout=1)
    print("after")
    """
    ended = run(launcher, body, *options)
    assert ended.status != 0
    assert "before" in ended.stdout
    assert "after" not in ended.stdout
    said = ended.stderr
    for words in (f"the client on {socket.gethostname()} (process ", SAID, "the run ends", "transport.py"):
        assert words in said, said


def test_a_server(launcher: Any) -> None:
    """It alone ends where the world outlives it, and its requests do."""
    body = """
    client.submit(get_stuck, target=1).result(30)
    futures = [client.submit(abs, -i, target=1) for i in range(3)]
    for future in futures:
        assert isinstance(future.exception(30), mpiframe.ServerLost), future
    assert client.submit(abs, -3).result(30) == 3
    client.restart(1)
    assert client.submit(abs, -4, target=1).result(30) == 4
    client.close()
    """
    ended = run(launcher, body, "--resilient").expect(0)
    assert ended.stderr.count(SAID) == 1, ended.stderr
    assert "mpiframe: server 1 on " in ended.stderr
    assert "what it had to do is lost" in ended.stderr


@pytest.mark.long
def test_a_server_of_a_world_that_ends_with_it(launcher: Any) -> None:
    body = """
    client.submit(get_stuck, target=1).result(30)
    client.submit(abs, -1, target=1).result()
    """
    ended = run(launcher, body)
    assert ended.status != 0
    for words in ("mpiframe: server 1 on ", SAID, "the run with it"):
        assert words in ended.stderr, ended.stderr


@pytest.mark.long
def test_who_sleeps_or_was_stopped_is_not_stuck(launcher: Any) -> None:
    body = """
    import signal, subprocess
    long = client.submit(time.sleep, 3, target=1)
    pids = [os.getpid(), *(s.pid for s in client.servers)]
    names = " ".join(map(str, pids))
    subprocess.Popen(["sh", "-c", f"sleep 0.5; kill -STOP {names}; sleep 2; kill -CONT {names}"])
    time.sleep(1)
    long.result(60)
    time.sleep(2)
    assert client.submit(abs, -1, target=2).result(30) == 1
    client.close()
    """
    assert "MPI has slept" not in run(launcher, body, seconds=0.5).expect(0).said


@pytest.mark.long
def test_a_deadlock_of_open_mpi(launcher: Any) -> None:
    """The real one: TCP with what `mpiframe run --resilient` takes away. MPICH has none, and goes through."""
    body = """
    import random
    chance = random.Random(5)
    much = bytes(1 << 26)
    for rank in range(1, 7):
        futures = [client.submit(len, much, target=rank) for _ in range(4)]
        time.sleep(chance.random() * 0.05)
        os.kill(next(s.pid for s in client.servers if s.rank == rank), 9)
        for future in futures:
            future.exception(60)
    client.close()
    print("through")
    """
    usual = {
        "OMPI_MCA_btl": "self,tcp",
        "OMPI_MCA_btl_tcp_flags": "send,put,inplace,need-ack,need-csum,hetero-rdma",
    }
    ended = run(launcher, body, "--resilient", ranks=7, **usual)
    assert (SAID in ended.stderr) == (ended.status != 0) == ("through" not in ended.stdout), ended.said


def segments() -> set[Path]:
    return set(Path("/dev/shm").glob("mpich_shm_*"))


LATE = """
import os, time
if "1" in (os.environ.get("PMIX_RANK"), os.environ.get("PMI_RANK")):
    time.sleep(20)
"""


def test_a_rank_that_does_not_come_to_mpis_start(launcher: Any) -> None:
    """The other waits for it there, and no thread of Python's can do anything meanwhile.

    MPICH's launcher takes no notice of a rank that ends before it has come to MPI's start, and on a busy host
    it may not have. So the late one comes in the end, and ends likewise.
    """
    script = LATE + "import mpiframe; mpiframe.Client()"
    before = segments()
    ended = launcher.run(script, 2, seconds=SECONDS, plain=True, env={"MPIFRAME_INIT_TIMEOUT": "2"})
    for left in segments() - before:  # there is no `mpiframe run` here to do it
        left.unlink()
    assert ended.status != 0
    assert f"mpiframe: MPI did not start on {socket.gethostname()} (process " in ended.stderr
    assert "within 2 s (MPIFRAME_INIT_TIMEOUT)" in ended.stderr


def test_the_launcher_ends_a_start_that_a_rank_does_not_come_to(launcher: Any, tmp_path: Path) -> None:
    """And leaves nothing: MPICH's ranks have made their shared memory by then, and given it a name."""
    (tmp_path / "sitecustomize.py").write_text(LATE)
    env = {"MPIFRAME_INIT_TIMEOUT": "2", "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    before = segments()
    ended = launcher.run("", 2, seconds=SECONDS, env=env).expect(1)
    assert "mpiframe run: MPI has not started within 2 s (MPIFRAME_INIT_TIMEOUT)" in ended.stderr
    assert segments() <= before
