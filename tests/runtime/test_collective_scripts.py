"""Collectives in worlds of their own: very large data, and members that end or do not let go."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.timeout(120)

QUICK = 45.0  # seconds for worlds in which something has to be given up

HEAD = """
import os, signal, sys, threading, time
import numpy as np
import mpiframe
"""


def world(body: str) -> str:
    """A script whose client is open while `body` runs."""
    lines = [f"    {line}" for line in body.strip("\n").split("\n")]
    return "\n".join([HEAD, "with mpiframe.Client() as client:", *lines, ""])


# -- more than two gibibytes -----------------------------------------------------------------------


LARGE = """
size = 3 << 30
sent = np.empty(size, np.uint8)
sent[:] = 5
sent[:: 1 << 20] = np.arange(size >> 20, dtype=np.uint64).astype(np.uint8)
sent[-1] = 77
total = int(sent.view(np.uint64).sum())
def check(array):
    assert (array.dtype, array.shape) == (np.uint8, (size,))
    assert [int(array[n]) for n in (0, 1, 5 << 20, 2500 << 20, -1)] == [0, 5, 5, 2500 % 256, 77]
    assert int(array.view(np.uint64).sum()) == total
    array[0] = 1
    assert int(array[0]) == 1
    array[0] = 0
WORK
print("all there")
"""

WAYS = {
    "push": "check(client.push('table', 1, True, {'table': sent})[0].result())",
    "submit": "check(client.submit(lambda array: array, sent, target=1).result())",
    "collectives": """
client.broadcast(table=sent)
assert client.gather("int(table.view('u8').sum())") == [total]
client.push("del table", 1, True)
client.scatter(table=sent)
del sent
check(client.gather("table"))
""",
}


@pytest.mark.parametrize(
    "way", [pytest.param(way, marks=() if way == "collectives" else pytest.mark.long) for way in WAYS]
)
@pytest.mark.timeout(330)
def test_three_gibibytes_both_ways(launcher: Any, way: str) -> None:
    ended = launcher.run(world(LARGE.replace("WORK", WAYS[way])), 2, seconds=300).expect(0)
    assert ended.stdout == "all there\n"


# -- members that end ------------------------------------------------------------------------------


DEATHS = {
    "kill": "os.kill(os.getpid(), signal.SIGKILL)",
    "exit": "os._exit(0)",
    "crash": "import ctypes; ctypes.string_at(0)",
}


@pytest.mark.parametrize("how", DEATHS)
def test_a_member_that_dies_inside(launcher: Any, how: str) -> None:
    """The world may end with it; what it must not do is hang, or look like success."""
    body = f"""
def work(comm):
    comm.Barrier()
    if comm.rank == 1:
        {DEATHS[how]}
    comm.Barrier()
client.spmd(work)
"""
    ended = launcher.run(world(body), seconds=QUICK)
    assert ended.status != 0
    assert ended.said.strip(), "it does not say why"


def test_a_member_that_dies_while_others_wait_for_it(launcher: Any) -> None:
    body = """
pid = client.servers[0].pid
client.submit(time.sleep, 600, target=1)
def end():
    while not client._loop.gates or not any(gate._arrived for gate in list(client._loop.gates.values())):
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
threading.Thread(target=end).start()
client.spmd(lambda comm: comm.allreduce(1))
"""
    ended = launcher.run(world(body), seconds=QUICK)
    assert ended.status != 0
    assert ended.said.strip(), "it does not say why"


def test_a_client_that_is_killed_in_a_collective(launcher: Any) -> None:
    """Checked by the launcher fixture: no process may be left."""
    body = """
pid, inside = os.getpid(), os.path.abspath("inside")
def work(comm):
    if comm.rank == 0:
        open(inside, "w").close()
    while comm.rank == 0:
        time.sleep(0.01)
    comm.Barrier()
def end():
    while not os.path.exists(inside):
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
threading.Thread(target=end).start()
client.spmd(work)
"""
    started = launcher.start(world(body))
    assert started.wait(QUICK).status != 0
    assert (started.folder / "inside").exists()


def test_an_exception_in_the_script_while_a_collective_runs(launcher: Any) -> None:
    body = """
started = os.path.abspath("started")
def work(comm):
    open(started, "w").close()
    while comm.rank == 0:
        time.sleep(0.01)
    comm.Barrier()
threading.Thread(target=client.spmd, args=(work,), daemon=True).start()
while not os.path.exists(started):
    time.sleep(0.01)
raise OSError("enough")
"""
    ended = launcher.run(world(body), seconds=QUICK)
    assert ended.status != 0
    assert "OSError: enough" in ended.stderr


# -- members that do not let go --------------------------------------------------------------------


PROBES = {
    "probe": "comm.probe(source=1)",
    "mprobe": "comm.mprobe(source=1)",
    "Sendrecv_replace": "comm.Sendrecv_replace(np.zeros(3), 1, 1, 1, 1)",
}


@pytest.mark.parametrize("how", PROBES)
def test_no_wait_of_the_communicator_is_for_ever(launcher: Any, how: str) -> None:
    """When the other member has failed, and without the loss of a server."""
    body = f"""
def work(comm):
    if comm.rank == 1:
        raise ValueError("on purpose")
    {PROBES[how]}
try:
    client.spmd(work)
except mpiframe.CommandError as error:
    assert isinstance(error.__cause__, ValueError)
else:
    raise AssertionError("it did not fail")
assert client.spmd(lambda comm: comm.allreduce(1)) == [2, 2]
print("both are there")
"""
    ended = launcher.run(world(body), seconds=QUICK, env={"MPIFRAME_STOP_TIMEOUT": "2"}).expect(0)
    assert "both are there" in ended.stdout


@pytest.mark.long
def test_a_member_that_waits_in_a_c_library_is_given_up(launcher: Any) -> None:
    body = """
def work(comm):
    from mpi4py import MPI
    if comm.rank == 1:
        raise ValueError("on purpose")
    MPI.Intracomm(comm).Barrier()
begin = time.monotonic()
try:
    client.spmd(work)
except mpiframe.CommandError as error:
    assert isinstance(error.__cause__, ValueError)
    print("told after", time.monotonic() - begin, flush=True)
assert client.submit(abs, -1, target=2).result(10) == 1
print("the other one serves on", flush=True)
"""
    ended = launcher.run(world(body), seconds=60, env={"MPIFRAME_STOP_TIMEOUT": "2"})
    assert "told after" in ended.stdout
    assert "the other one serves on" in ended.stdout
    assert ended.status != 0  # a server was lost
    assert "by force" in ended.stderr


def test_a_reduction_of_a_script(launcher: Any) -> None:
    script = (
        HEAD
        + """
import functools, operator
class Stack:
    def __init__(self, items): self.items = items
    def __add__(self, other): return Stack(self.items + other.items)
def make(n): return Stack([n])
def main():
    with mpiframe.Client() as client:
        whole = client.reduce(operator.add, make, range(100))
        assert type(whole) is Stack
        assert whole.items == list(range(100))
        client.allreduce(operator.add, make, range(7), name="stack")
        assert client.gather("stack.items") == [*range(7), *range(7)]
        assert client.spmd(lambda comm: comm.allreduce(make(comm.rank)).items) == [[0, 1], [0, 1]]
        client.broadcast(kind=Stack)
        assert client.gather("(kind([1]) + kind([2])).items") == [1, 2, 1, 2]
if __name__ == "__main__":
    main()
    print("done")
"""
    )
    assert launcher.run(script).expect(0).stdout == "done\n"


@pytest.mark.long
def test_collectives_without_a_doorbell(launcher: Any) -> None:
    body = """
assert client.spmd(lambda comm: comm.allreduce(comm.rank)) == [1, 1]
assert client.reduce(np.add, np.ones, [3] * 10).tolist() == [10.0] * 3
client.scatter(part=list(range(5)))
assert client.gather("part") == [0, 1, 2, 3, 4]
try:
    client.spmd(lambda comm: [].index("on purpose") if comm.rank else comm.allreduce(1))
except mpiframe.CommandError as error:
    assert "on purpose" in str(error)
    print("told")
"""
    ended = launcher.run(
        world(body), seconds=60, env={"MPIFRAME_DOORBELL": "off", "MPIFRAME_STOP_TIMEOUT": "2"}
    )
    assert "told" in ended.stdout
