"""`spmd`: one function on several servers at once, with a communicator among them."""

from __future__ import annotations

import concurrent.futures
import os
import sys
import threading
import time

import numpy as np
import pytest
from mpi4py import MPI

import mpiframe

pytestmark = pytest.mark.timeout(60)

QUICK = 20.0  # seconds within which all members have ended when one has failed


def rank_of(comm):
    return comm.rank, comm.size


def pid_of(comm):
    return os.getpid()


@pytest.fixture
def pool(gate):
    """Threads for calls that wait."""
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        yield pool
        gate.open()  # one may wait for it


@pytest.fixture
def flag(tmp_path):
    """Files by which the test and a member of a collective tell each other something."""
    return lambda name: str(tmp_path / f"{name} of the members")


def await_file(path, seconds=30):
    until = time.monotonic() + seconds
    while not os.path.exists(path):
        if time.monotonic() > until:
            raise RuntimeError(f"nobody made {path}")
        time.sleep(0.001)


def touch(path):
    open(path, "w").close()


def arrived(client):
    """How many members wait at their gates."""
    return sum(len(gate._arrived) for gate in set(client._loop.gates.values()))


# -- who is in it ----------------------------------------------------------------------------------


@pytest.mark.smoke
def test_ranks_follow_the_order_of_the_targets(client, servers):
    assert client.spmd(rank_of) == [(n, len(servers)) for n in range(len(servers))]
    pids = {s.rank: s.pid for s in client.servers}
    for target in (servers, servers[::-1], servers[:1], servers[-1:] + servers[:-1]):
        assert client.spmd(pid_of, target=target) == [pids[rank] for rank in target]
        assert client.spmd(rank_of, target=target) == [(n, len(target)) for n in range(len(target))]


@pytest.mark.servers(3)
def test_some_servers_in_an_order_of_their_own(client):
    pids = {s.rank: s.pid for s in client.servers}
    for _ in range(2):
        assert client.spmd(pid_of, target=[3, 1]) == [pids[3], pids[1]]
        assert client.spmd(pid_of, target=[1, 3]) == [pids[1], pids[3]]
    assert client.on([3, 1]).spmd(rank_of) == [(0, 2), (1, 2)]


def test_one_server_alone(client):
    def alone(comm):
        return comm.allreduce(3), comm.bcast("x"), comm.gather(1), comm.scatter([4]), comm.alltoall([5])

    assert client.spmd(alone, target=1) == [(3, "x", [1], 4, [5])]


def test_arguments(client, servers):
    def call(comm, first, *rest, by=1, **more):
        return first, rest, by, more

    assert client.spmd(call, 1, 2, by=3, fn=4, target=servers[:1]) == [(1, (2,), 3, {"fn": 4})]
    table = np.arange(100_000.0)
    assert client.spmd(lambda comm, t: float(t.sum()) + comm.rank, table) == [
        table.sum() + n for n in range(len(servers))
    ]


def test_large_values_of_every_member(client, servers):
    def make(comm):
        import numpy

        return numpy.full(1 << 20, comm.rank, numpy.float64)

    for rank, array in enumerate(client.spmd(make)):
        assert array.shape == (1 << 20,)
        assert (array == rank).all()
        array += 1


def test_names_of_the_namespace_are_there(client, servers):
    client.broadcast(base=40)
    names = vars(sys.modules["__main__"])
    exec("def add_base(comm): return base + comm.allreduce(1)", names)
    assert client.spmd(names["add_base"]) == [40 + len(servers)] * len(servers)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda c: c.spmd(rank_of, target=None), mpiframe.CommandArgumentError),
        (lambda c: c.spmd(rank_of, target=[1, 1]), mpiframe.CommandArgumentError),
        (lambda c: c.spmd(rank_of, target=[]), mpiframe.TargetError),
        (lambda c: c.spmd(rank_of, target=0), mpiframe.TargetError),
        (lambda c: c.spmd(rank_of, target=[1, 99]), mpiframe.TargetError),
        (lambda c: c.spmd(rank_of, threading.Lock()), mpiframe.SerializationError),
        (lambda c: c.spmd("1 + 1"), mpiframe.CommandArgumentError),
        (lambda c: c.spmd(3), mpiframe.CommandArgumentError),
        (lambda c: c.spmd(rank_of, timeout="soon"), mpiframe.CommandArgumentError),
        (lambda c: c.spmd(rank_of, timeout=-1), mpiframe.CommandArgumentError),
    ],
)
def test_refusals_name_the_reason_before_anything_is_sent(client, call, error):
    last = client._loop.last_id
    with pytest.raises(error):
        call(client)
    assert client._loop.last_id == last


# -- what mpi4py gives -----------------------------------------------------------------------------


def counts(comm):
    return [n + 1 for n in range(comm.size)]


def starts(comm):
    return [sum(counts(comm)[:n]) for n in range(comm.size)]


def last(comm):
    return comm.size - 1


def ring(comm):
    return (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size


def every(comm):
    return [2] * comm.size, [2 * n for n in range(comm.size)]


BUFFERS = {
    "Barrier": lambda c, a, b: c.Barrier(),
    "barrier": lambda c, a, b: c.barrier(),
    "Bcast": lambda c, a, b: c.Bcast(a, root=last(c)),
    "Gather": lambda c, a, b: c.Gather(a, b if c.rank == last(c) else None, root=last(c)),
    "Gatherv": lambda c, a, b: c.Gatherv(a[: c.rank + 1], [b, counts(c), starts(c), MPI.DOUBLE], root=0),
    "Scatter": lambda c, a, b: c.Scatter(a if c.rank == 0 else None, b[:2]),
    "Scatterv": lambda c, a, b: c.Scatterv([a, every(c), MPI.DOUBLE], b[:2]),
    "Allgather": lambda c, a, b: c.Allgather(a, b),
    "Allgatherv": lambda c, a, b: c.Allgatherv(a[: c.rank + 1], [b, counts(c), starts(c), MPI.DOUBLE]),
    "Alltoall": lambda c, a, b: c.Alltoall(a, b[: a.size]),
    "Alltoallv": lambda c, a, b: c.Alltoallv([a, every(c), MPI.DOUBLE], [b, every(c), MPI.DOUBLE]),
    "Alltoallw": lambda c, a, b: c.Alltoallw(
        [a, ([2] * c.size, [16 * n for n in range(c.size)]), [MPI.DOUBLE] * c.size],
        [b, ([2] * c.size, [16 * n for n in range(c.size)]), [MPI.DOUBLE] * c.size],
    ),
    "Reduce": lambda c, a, b: c.Reduce(a, b[: a.size] if c.rank == last(c) else None, MPI.MAX, root=last(c)),
    "Reduce in place": lambda c, a, b: c.Reduce(MPI.IN_PLACE if c.rank == 0 else a, a if c.rank == 0 else b),
    "Allreduce": lambda c, a, b: c.Allreduce(a, b[: a.size]),
    "Allreduce in place": lambda c, a, b: c.Allreduce(MPI.IN_PLACE, a, op=MPI.PROD),
    "Reduce_scatter": lambda c, a, b: c.Reduce_scatter(a, b[:2], [2] * c.size),
    "Reduce_scatter_block": lambda c, a, b: c.Reduce_scatter_block(a, b[:2]),
    "Scan": lambda c, a, b: c.Scan(a, b[: a.size]),
    "Exscan": lambda c, a, b: c.Exscan(a, b[: a.size]) if c.rank else c.Exscan(a, np.zeros(a.size)),
    "Sendrecv": lambda c, a, b: c.Sendrecv(a, ring(c)[0], 5, b[: a.size], ring(c)[1], 5),
    "Isend and Recv": lambda c, a, b: [
        going := c.Isend(a, ring(c)[0], 6),
        c.Recv(b[: a.size], ring(c)[1], 6),
        going.Wait(),
    ],
    "Send and Recv": lambda c, a, b: c.Send(a, 0) if c.rank else [c.Recv(b, n) for n in range(1, c.size)],
    "Ssend and Irecv": lambda c, a, b: (
        c.Ssend(a, 0) if c.rank else [c.Irecv(b, n).Wait() for n in range(1, c.size)]
    ),
    "Split": lambda c, a, b: c.Split(c.rank % 2, -c.rank).Allreduce(a, b[: a.size]),
    "Dup": lambda c, a, b: c.Dup().Allreduce(a, b[: a.size]),
}


def both_ways(comm, name):
    """What the communicator does to two arrays, and what mpi4py's own methods do."""
    found = []
    for made in (comm, MPI.Intracomm(comm)):
        a, b = np.arange(2.0 * comm.size) + 10 * comm.rank, np.zeros(2 * comm.size**2)
        BUFFERS[name](made, a, b)
        found.append([a.tolist(), b.tolist()])
    return found


@pytest.mark.parametrize("name", BUFFERS)
def test_methods_on_buffers_as_in_mpi4py(client, name):
    for ours, theirs in client.spmd(both_ways, name):
        assert ours == theirs


def joined(x, y):
    return x + y


def told(status):
    return status.Get_source(), status.Get_tag()


def from_all(comm, tags):
    """Rank 0 hears one message from each other rank, from whom and in what order it may be."""
    if comm.rank:
        comm.send({"from": comm.rank}, 0, tags * comm.rank)
        return None
    status, heard = MPI.Status(), []
    for _ in range(comm.size - 1):
        value = comm.recv(source=MPI.ANY_SOURCE, tag=MPI.ANY_TAG, status=status)
        heard.append((value["from"], *told(status)))
    return sorted(heard)


def by_tag(comm):
    """Messages are taken by their tags, not as they came."""
    right, left = ring(comm)
    going = [comm.isend(f"{tag} from {comm.rank}", right, tag) for tag in (1, 2, 3)]
    got = [comm.recv(source=left, tag=tag) for tag in (3, 1, 2)]
    MPI.Request.Waitall(going)
    return got


OBJECTS = {
    "bcast": lambda c: c.bcast([c.rank, "x" * 100_000] if c.rank == last(c) else None, root=last(c)),
    "gather": lambda c: c.gather({"rank": c.rank, "long": "y" * 1000 * c.rank}, root=last(c)),
    "scatter": lambda c: c.scatter([(n, "z" * n) for n in range(c.size)] if c.rank == 0 else None),
    "allgather": lambda c: c.allgather([c.rank] * c.rank),
    "alltoall": lambda c: c.alltoall([(c.rank, n) for n in range(c.size)]),
    "reduce": lambda c: c.reduce(c.rank + 1.5, root=last(c)),
    "reduce of lists": lambda c: c.reduce([c.rank]),
    "reduce by a function": lambda c: c.reduce(f"<{c.rank}>", op=joined, root=last(c)),
    "reduce by MAXLOC": lambda c: c.reduce((c.rank % 2, c.rank), op=MPI.MAXLOC),
    "allreduce": lambda c: c.allreduce(c.rank),
    "allreduce by MAX": lambda c: c.allreduce(-c.rank, op=MPI.MAX),
    "allreduce in order": lambda c: c.allreduce(f"<{c.rank}>", op=joined),
    "scan": lambda c: c.scan(f"<{c.rank}>"),
    "exscan": lambda c: c.exscan(f"<{c.rank}>"),
    "sendrecv": lambda c: c.sendrecv(("from", c.rank), ring(c)[0], 3, None, ring(c)[1], 3),
    "sendrecv, large": lambda c: len(c.sendrecv(b"x" * 3_000_000, ring(c)[0], source=ring(c)[1])),
    "send, recv from anybody": lambda c: from_all(c, tags=0),
    "send, recv with tags": lambda c: from_all(c, tags=7),
    "isend, recv by tag": by_tag,
    "isend, irecv": lambda c: [c.isend(c.rank, ring(c)[0]), c.irecv(source=ring(c)[1]).wait()][1],
    "ssend": lambda c: c.ssend("s", 0) if c.rank else [c.recv(source=n) for n in range(1, c.size)],
    "nobody": lambda c: [c.send(1, MPI.PROC_NULL), c.recv(source=MPI.PROC_NULL)],
    "mprobe": lambda c: c.send("m", 0) if c.rank else [c.mprobe(n).recv() for n in range(1, c.size)],
    "probe": lambda c: (
        c.send("p", 0) if c.rank else [(c.probe(n), c.recv(source=n)) for n in range(1, c.size)]
    ),
    "iprobe": lambda c: c.iprobe(),
    "Split": lambda c: [(p := c.Split(c.rank % 2, -c.rank)).rank, p.allgather(c.rank), p.Free()],
    "Dup": lambda c: [(d := c.Dup()).rank, d.allreduce(1), d.Free()],
}


def both_ways_with_objects(comm, name):
    found = []
    for made in (comm, MPI.Intracomm(comm)):
        found.append(OBJECTS[name](made))
        comm.Barrier()  # so that no message of the second time is taken for one of the first
    return found


@pytest.mark.parametrize("name", OBJECTS)
def test_methods_on_objects_as_in_mpi4py(client, name):
    for ours, theirs in client.spmd(both_ways_with_objects, name):
        assert ours == theirs


def test_probing_tells_the_size(client):
    def probed(comm):
        right, left = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
        found, array = MPI.Status(), np.zeros(comm.rank + 5)
        going = [comm.Isend(array, right, tag) for tag in (8, 9)]
        assert comm.Probe(left, 9, found) is True
        sizes = [found.Get_count(MPI.DOUBLE)]
        message = comm.Mprobe(left, 8, found)
        sizes.append(found.Get_count(MPI.DOUBLE))
        message.Recv(np.empty(sizes[1]))
        comm.Recv(np.empty(sizes[0]), left, 9)
        MPI.Request.Waitall(going)
        return sizes == [left + 5] * 2

    assert all(client.spmd(probed))


def test_large_buffers(client, servers):
    def work(comm):
        a = np.full(4 << 20, comm.rank + 1.0)
        b = np.empty_like(a)
        comm.Allreduce(a, b)
        comm.Bcast(a, 0)
        return float(b.min()), float(b.max()), float(a.max())

    total = sum(range(1, len(servers) + 1))
    assert client.spmd(work) == [(total, total, 1.0)] * len(servers)


def test_the_scripts_own_classes_travel(client, servers):
    names = vars(sys.modules["__main__"])
    source = """
class Pair:
    def __init__(self, a): self.a = a
    def __add__(self, other): return Pair(self.a + other.a)
def add_pairs(comm):
    got = comm.allreduce(Pair(str(comm.rank)))
    assert type(got) is Pair
    shared = comm.bcast(lambda: got.a)
    return got.a, shared(), [pair.a for pair in comm.allgather(Pair(comm.rank))]
"""
    exec(source, names)
    text = "".join(map(str, range(len(servers))))
    assert client.spmd(names["add_pairs"]) == [(text, text, list(range(len(servers))))] * len(servers)


def test_lists_of_the_wrong_length(client, servers):
    for method in ("scatter", "alltoall"):
        with pytest.raises(mpiframe.CommandError, match=f"a list of {len(servers)} objects") as caught:
            client.spmd(lambda comm, name: getattr(comm, name)([1] * (comm.size + 1)), method)
        assert isinstance(caught.value.__cause__, ValueError)


# -- failures --------------------------------------------------------------------------------------


WAITS = {
    "Barrier": lambda c: c.Barrier(),
    "Recv": lambda c: c.Recv(np.empty(3), source=last(c)),
    "Recv, large": lambda c: c.Recv(np.empty(1 << 20), source=last(c)),
    "recv": lambda c: c.recv(source=last(c)),
    "Allreduce": lambda c: c.Allreduce(np.ones(3), np.ones(3)),
    "allgather": lambda c: c.allgather(1),
    "bcast": lambda c: c.bcast(None, root=last(c)),
    "Probe": lambda c: c.Probe(source=last(c)),
    "Mprobe": lambda c: c.Mprobe(source=last(c)),
    "ssend": lambda c: c.ssend(1, last(c), tag=99),
    "Sendrecv": lambda c: c.Sendrecv(np.ones(1 << 20), last(c), 1, np.ones(1 << 20), last(c), 1),
    "a pause": lambda c: time.sleep(60),
}


def one_fails(comm, how, when):
    if when == "inside":
        comm.Barrier()
    if comm.rank == last(comm):
        if when == "after":
            comm.Barrier()
        raise ValueError("on purpose", comm.rank)
    if when == "after":
        comm.Barrier()
    return WAITS[how](comm)


@pytest.mark.servers(2)
@pytest.mark.parametrize(
    ("how", "when"),
    [
        *((how, "inside") for how in WAITS),
        *((h, w) for h in ("Barrier", "recv") for w in ("before", "after")),
    ],
)
def test_a_member_that_fails_ends_the_waiting_of_the_others(client, servers, how, when):
    begin = time.monotonic()
    with pytest.raises(mpiframe.CommandError, match="on purpose") as caught:
        client.spmd(one_fails, how, when)
    assert time.monotonic() - begin < QUICK
    assert isinstance(caught.value.__cause__, ValueError)
    assert caught.value.__cause__.args == ("on purpose", len(servers) - 1)
    assert caught.value.server == servers[-1]
    assert client.spmd(rank_of) == [(n, len(servers)) for n in range(len(servers))]
    assert client.spmd(lambda comm: comm.allreduce(1)) == [len(servers)] * len(servers)


def test_all_fail(client):
    for _ in range(5):
        with pytest.raises(mpiframe.CommandError, match="each"):
            client.spmd(lambda comm: [].index("each of them"))


@pytest.mark.parametrize("leave", ["sys.exit(3)", "sys.exit()", "raise KeyboardInterrupt"])
def test_a_member_that_leaves(client, servers, leave):
    names = vars(sys.modules["__main__"])
    kind = KeyboardInterrupt if "Key" in leave else SystemExit
    text = f"def leaving(comm):\n if comm.rank == comm.size - 1:\n  {leave}\n comm.Barrier()"
    exec("import sys\n" + text, names)
    begin = time.monotonic()
    with pytest.raises(mpiframe.CommandError) as caught:
        client.spmd(names["leaving"])
    assert time.monotonic() - begin < QUICK
    assert isinstance(caught.value.__cause__, kind)
    assert client.spmd(rank_of) == [(n, len(servers)) for n in range(len(servers))]


def raise_here(*args):
    raise ImportError("not on a server")


class Unreadable:
    def __reduce__(self):
        return raise_here, ()


def test_an_argument_that_no_server_can_read(client, servers):
    with pytest.raises(mpiframe.CommandError, match="not on a server"):
        client.spmd(rank_of, Unreadable())
    assert client.spmd(rank_of) == [(n, len(servers)) for n in range(len(servers))]


def test_a_value_that_cannot_come_back(client, servers):
    def lock(comm):
        return threading.Lock() if comm.rank == comm.size - 1 else comm.rank

    with pytest.raises(mpiframe.SerializationError, match="cannot be pickled"):
        client.spmd(lock)
    assert client.spmd(rank_of) == [(n, len(servers)) for n in range(len(servers))]


@pytest.mark.servers(2)
def test_nothing_is_left_over_from_a_failure(client):
    def leave_something(comm):
        comm.isend("stale", 1 - comm.rank) if comm.rank < 2 else None
        raise ValueError("with messages under way")

    def swap(comm, text):
        going = comm.isend(text, 1 - comm.rank)
        got = comm.recv(source=1 - comm.rank)
        going.wait()
        return got

    for n in range(3):
        with pytest.raises(mpiframe.CommandError):
            client.spmd(leave_something, target=[1, 2])
        assert client.spmd(swap, f"fresh {n}", target=[1, 2]) == [f"fresh {n}"] * 2


@pytest.mark.servers(2)
def test_nothing_is_left_over_for_one_that_was_queued_meanwhile(client, pool, flag, until):
    def first(comm, path):
        if comm.rank == 0:
            comm.send("stale", 1)
        await_file(path)
        if comm.rank == 1:
            raise ValueError("the first one fails")
        comm.Barrier()

    def second(comm):
        return comm.send("fresh", 1) if comm.rank == 0 else comm.recv(source=0)

    failing = pool.submit(client.spmd, first, flag("go"), target=[1, 2])
    until(lambda: all(s.state == "busy" for s in client.servers[:2]))
    queued = pool.submit(client.spmd, second, target=[1, 2])
    until(lambda: all(s.queued for s in client.servers[:2]))
    touch(flag("go"))
    assert isinstance(failing.exception(20), mpiframe.CommandError)
    assert queued.result(20) == [None, "fresh"]


@pytest.mark.servers(2)
def test_an_error_is_not_overlooked_while_another_thread_reads_it(
    client, gate, busy, pool, monkeypatch, until
):
    """The thread that waits may wake between "it has ended" and "it has failed"."""
    from mpiframe import together

    settle = together.Together.settle

    def slowly(self, request):
        time.sleep(0.02)  # makes the moment longer
        settle(self, request)

    monkeypatch.setattr(together.Together, "settle", slowly)
    driving = pool.submit(client.get, busy)
    until(lambda: client._loop._driving.locked())
    for _ in range(5):
        with pytest.raises(mpiframe.CommandError, match="overlooked"):
            client.spmd(lambda comm: [].index("overlooked"), target=2)
    gate.open()
    assert driving.result(20)[0].successful


# -- waiting for members ---------------------------------------------------------------------------


@pytest.mark.servers(2)
def test_a_busy_member_joins_later_and_the_others_sleep(client, servers, gate, busy, pool, until):
    waiting = pool.submit(client.spmd, rank_of)
    until(lambda: arrived(client) == len(servers) - 1)
    before = {s.rank: s.cpu for s in client.servers}
    begin = time.monotonic()
    time.sleep(1)  # not to wait for something: this is what is measured
    used = {s.rank: s.cpu - before[s.rank] for s in client.servers if s.rank > 1}
    assert max(used.values()) < 0.1 * (time.monotonic() - begin), used
    assert not waiting.done()
    gate.open()
    assert waiting.result(20) == [(n, len(servers)) for n in range(len(servers))]
    client.get(busy)


@pytest.mark.servers(2)
def test_a_time_out_while_a_member_is_busy(client, servers, gate, busy):
    begin = time.monotonic()
    with pytest.raises(mpiframe.CommandTimeout, match="did not end within"):
        client.spmd(rank_of, timeout=0.2)
    assert time.monotonic() - begin < QUICK
    gate.open()
    assert client.get(busy)[0].successful
    assert client.spmd(rank_of, timeout=20) == [(n, len(servers)) for n in range(len(servers))]


def test_a_time_out_inside(client, servers):
    def forever(comm):
        if comm.rank == 0:
            time.sleep(60)
        comm.Barrier()

    begin = time.monotonic()
    with pytest.raises(TimeoutError):
        client.spmd(forever, timeout=0.2)
    assert time.monotonic() - begin < QUICK
    assert client.spmd(rank_of, timeout=20) == [(n, len(servers)) for n in range(len(servers))]


@pytest.mark.servers(2)
def test_interrupting_a_member_that_waits_for_others(client, servers, gate, busy, pool, until):
    waiting = pool.submit(client.spmd, rank_of)
    until(lambda: arrived(client) == len(servers) - 1)
    client.interrupt(2)
    error = waiting.exception(QUICK)
    assert isinstance(error, mpiframe.CommandError)
    assert isinstance(error.__cause__, KeyboardInterrupt)
    assert error.server == 2
    gate.open()
    assert client.get(busy)[0].successful
    assert client.spmd(rank_of) == [(n, len(servers)) for n in range(len(servers))]


@pytest.mark.servers(2)
def test_interrupting_a_member_inside(client, servers, pool, flag):
    def work(comm, started, go):
        if comm.rank == 1:
            touch(started)
        else:
            await_file(go)
        comm.Barrier()

    waiting = pool.submit(client.spmd, work, flag("started"), flag("go"))
    await_file(flag("started"))
    client.interrupt(2)
    error = waiting.exception(QUICK)
    assert isinstance(error, mpiframe.CommandError)
    assert isinstance(error.__cause__, KeyboardInterrupt)
    assert error.server == 2
    assert client.spmd(rank_of) == [(n, len(servers)) for n in range(len(servers))]


@pytest.mark.servers(2)
def test_to_cancel_one_member_ends_the_collective(client, servers, gate, busy, pool, until):
    waiting = pool.submit(client.spmd, rank_of)
    until(lambda: arrived(client) == len(servers) - 1)
    assert client.cancel(busy + 1)  # the part of server 1, which is still queued
    with pytest.raises(mpiframe.CommandCancelled):
        waiting.result(QUICK)
    gate.open()
    assert client.get(busy)[0].successful
    assert client.spmd(rank_of) == [(n, len(servers)) for n in range(len(servers))]


# -- together with other commands ------------------------------------------------------------------


@pytest.mark.servers(2)
def test_commands_in_front_and_behind_keep_their_order(client, gate, busy, pool, until):
    """What was pushed while a member waits at its gate is run after the collective, in order."""
    names = vars(sys.modules["__main__"])
    exec("def mark(comm): seen.append('collective')", names)
    client.push("seen = ['start']", target=2, block=True)
    client.push("seen = []", target=1)
    waiting = pool.submit(client.spmd, names["mark"], target=[2, 1])
    until(lambda: arrived(client) == 1)
    client.push("seen.extend([])", target=2)
    behind = [client.push("seen.append(n)", target=2, parameters={"n": n}) for n in range(20)]
    assert not any(r.status == "done" for r in client.get(behind[:1], block=False))
    gate.open()
    waiting.result(20)
    client.get([busy, *behind])
    assert client.push("seen", 2, True)[0].ret == ["start", "collective", *range(20)]


@pytest.mark.servers(2)
def test_the_order_is_kept_behind_a_collective_with_a_large_value(
    client, gate, busy, pool, flag, until, monkeypatch
):
    """A command that was sent ahead to a waiting member is not overtaken while its value is on its way."""

    def work(comm, started, go, leaving):
        if comm.rank == 0:
            touch(started)
            await_file(go)
            touch(leaving)
            return np.ones(8 << 20)
        return None

    monkeypatch.setattr(client._loop.dispatcher.pace, "expected", lambda key: 1e-6)  # all is sent ahead
    client.push("seen = []", target=2)
    paths = [flag(name) for name in ("started", "go", "leaving")]
    waiting = pool.submit(client.spmd, work, *paths, target=[2, 1])
    until(lambda: arrived(client) == 1)
    ids = [client.push("seen.append(n)", target=2, parameters={"n": n}) for n in range(3)]
    assert all(client.story(id)[-1] == "sent (server 2)" for id in ids)
    gate.open()
    await_file(paths[0])
    with client._loop.lock:  # so that the client does not take the value before the next ones are sent
        touch(paths[1])
        await_file(paths[2])
        ids += [client.push("seen.append(n)", target=2, parameters={"n": n}) for n in range(3, 6)]
        assert all(client.story(id)[-1] == "sent (server 2)" for id in ids)
    assert waiting.result(20)[0].size == 8 << 20
    client.get([busy, *ids])
    assert client.push("seen", 2, True)[0].ret == list(range(6))


def test_pushes_while_a_collective_runs_are_answered_afterwards(client, servers, pool, flag):
    def work(comm, started, go):
        if comm.rank == 0:
            touch(started)
        await_file(go)
        return comm.allreduce(1)

    running = pool.submit(client.spmd, work, flag("started"), flag("go"))
    await_file(flag("started"))
    ids = client.push("6 * 7", target="all")
    future = client.submit(abs, -3, target=1)
    assert client.get(ids, block=False) == []
    assert not future.done()
    touch(flag("go"))
    assert running.result(20) == [len(servers)] * len(servers)
    assert [r.ret for r in client.get(ids)] == [42] * len(servers)
    assert future.result(20) == 3


def summed(comm, number):
    return comm.allreduce(number), comm.bcast(number)


def test_threads_with_overlapping_servers(client, servers):
    """Collectives that are started at the same time are in the same order on every server."""
    targets = ["all", servers[::-1], servers[:2], servers[-2:]]
    start = threading.Barrier(len(targets))

    def run(number):
        target = targets[number]
        size = len(servers) if target == "all" else len(target)
        start.wait(20)
        for _ in range(25):
            assert client.spmd(summed, number, target=target) == [(size * number, number)] * size
        return True

    with concurrent.futures.ThreadPoolExecutor(len(targets)) as pool:
        assert all(pool.map(run, range(len(targets)), timeout=50))


def test_maps_commands_and_collectives_from_threads(client, servers):
    def mapping():
        for _ in range(10):
            assert list(client.map(abs, range(-200, 0))) == list(range(200, 0, -1))

    def collecting():
        for n in range(20):
            assert client.spmd(summed, n) == [(n * len(servers), n)] * len(servers)

    def reducing():
        for _ in range(20):
            assert client.reduce(joined, str, range(10)) == "0123456789"

    def pushing():
        for n in range(100):
            assert client.push("n + 1", None, True, {"n": n})[0].ret == n + 1

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(work) for work in (mapping, collecting, reducing, pushing)]:
            future.result(50)


def test_output_belongs_to_the_member(client, servers, capfd, until):
    def speak(comm):
        comm.Barrier()
        print(f"spoken by {comm.rank}")

    client.spmd(speak)
    heard = []

    def all_heard():
        heard.append(capfd.readouterr().out)
        return all(f"spoken by {n}" in "".join(heard) for n in range(len(servers)))

    until(all_heard)
