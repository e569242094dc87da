"""Several hosts: what is promised for one holds for three, and for the links between them."""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import each_python
from tests.faults import hosts as cluster

PORTS = (27100, 27109)  # none that the system gives to who asks for any: MPI's own would be dropped with them
SECONDS = 100.0


@dataclass
class Site:
    """Three hosts, and a launcher on the first of them."""

    hosts: cluster.Hosts
    launcher: Any
    vendor: str

    def start(self, script: str, *slots: int, resilient: bool = False, **settings: Any) -> Any:
        """Start a world with so many ranks on the first, second, third host."""
        options = ("--hostfile", self.hosts.hostfile(self.vendor, *slots))
        if resilient:
            options += ("--resilient",)
        variables = {f"MPIFRAME_{name.upper()}": str(value) for name, value in settings.items()}
        env = self.hosts.environment | variables
        return self.launcher.start(script, sum(slots), options=options, env=env)


@contextlib.contextmanager
def site_of(launching_with: Any, python: Any, **options: Any) -> Iterator[Site]:
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="mf-hosts-", dir="/tmp"))
        try:
            hosts = stack.enter_context(cluster.make_hosts(Path(folder), **options))
        except cluster.HostsError as error:  # in CI a skip is a failure
            pytest.skip(f"no hosts can be made here, which takes root and iproute2: {error}")
        there = type(python)(python.name, hosts.interpreter(python.executable), python.variables)
        launcher = stack.enter_context(launching_with(there))
        yield Site(hosts, launcher, vendor_of(python.executable))
        for host in hosts.hosts:
            if host.init.poll() is None:
                # MPI's own may stay where a rank was killed: it is for their launchers to clear up.
                ours = [name for name in host.shared_memory() if name.startswith("mpiframe")]
                assert ours == [], f"left in the memory of {host.name}"


@functools.cache
def vendor_of(executable: str) -> str:
    code = "from mpiframe import launcher; print(launcher.find_library().vendor)"
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    words = [executable, "-c", code]
    return subprocess.run(
        words, env=env, capture_output=True, text=True, check=True, timeout=60
    ).stdout.strip()


pytest_generate_tests = each_python


@pytest.fixture
def site(launching_with: Callable[[Any], AbstractContextManager[Any]], python: Any) -> Iterator[Site]:
    with site_of(launching_with, python) as made:
        yield made


# What each script begins with: the client, and marks for the test to act upon.
HEAD = """
import os, pathlib, socket, sys, time
import numpy as np
import mpiframe

client = mpiframe.Client()

def reach(name):
    pathlib.Path(name).touch()

def await_file(name):
    while not os.path.exists(name):
        time.sleep(0.005)

def hosts():
    return client.push("__import__('socket').gethostname()", target="all", block=True)

"""


def test_a_world_of_three_hosts_works(site: Site) -> None:
    script = (
        HEAD
        + """
from mpiframe.opening import opened
facts = opened().facts()
assert facts.hosts == 3, facts
assert facts.doorbell == {1: "tcp", 2: "tcp", 3: "tcp", 4: "tcp"}, facts
assert [r.ret for r in hosts()] == ["mf-host1", "mf-host1", "mf-host2", "mf-host2"]
assert [s.host for s in client.servers] == ["mf-host1", "mf-host1", "mf-host2", "mf-host2"]

# Large both ways, by each of the two ways in.
big = np.arange(12 * 2**20, dtype=np.float64)  # 96 MiB
for rank in (1, 3):
    assert client.submit(lambda a: float(a[-1]), big, target=rank).result() == big[-1]
    back = client.submit(lambda n: np.arange(n, dtype=np.float64), big.size, target=rank).result()
    assert back.flags.writeable and np.array_equal(back, big)
both = client.submit(lambda a: a * 2, big, target=4).result()
assert np.array_equal(both, big * 2)

# Many small ones, collectives, an interrupt, output.
assert list(client.map(lambda x: x * x, range(500))) == [x * x for x in range(500)]
assert client.reduce(lambda a, b: a + b, lambda x: x, range(100)) == 4950
assert client.spmd(lambda comm: comm.allreduce(1)) == [4, 4, 4, 4]
long = client.submit(time.sleep, 600, target=3)
while client.servers[2].state != "busy":
    pass
client.interrupt(3)
try:
    long.result(timeout=40)
except mpiframe.CommandError as error:
    assert isinstance(error.__cause__, KeyboardInterrupt), error
else:
    raise AssertionError("it was not interrupted")
client.push("print('hello from', __import__('socket').gethostname())", target=4, block=True)
"""
    )
    ended = site.start(script, 1, 2, 2).wait(SECONDS).expect(0)
    assert "hello from mf-host2" in ended.stdout
    assert "no doorbell" not in ended.said


@pytest.mark.long
def test_a_world_is_idle_across_hosts_too(site: Site) -> None:
    # A sleeper is woken by TCP: polling with back-off would show as CPU time.
    script = (
        HEAD
        + """
def used():
    return [s.cpu for s in client.servers]
client.push("1", target="all", block=True)
before, mine = used(), time.process_time()
time.sleep(2)
after, mine = used(), time.process_time() - mine
print("CPU:", [b - a for a, b in zip(before, after)], mine)
assert all(b - a < 0.1 for a, b in zip(before, after)), (before, after)
assert mine < 0.2, mine
"""
    )
    site.start(script, 1, 1, 1).wait(SECONDS).expect(0)


def test_a_host_name_that_means_nothing_is_no_obstacle(
    launching_with: Callable[[Any], AbstractContextManager[Any]], python: Any
) -> None:
    script = (
        HEAD
        + """
from mpiframe.opening import opened
print(opened().members)
assert opened().facts().doorbell == {1: "tcp", 2: "tcp"}, (opened().facts(), opened().why_polling)
assert socket.gethostbyname(socket.gethostname()) == "127.0.1.1"
"""
    )
    with site_of(launching_with, python, resolved=False) as site:
        site.start(script, 1, 1, 1).wait(SECONDS).expect(0)


@pytest.mark.long
def test_a_firewall_before_the_doorbell_costs_the_doorbell_only(site: Site) -> None:
    script = (
        HEAD
        + """
from mpiframe.opening import opened
facts = opened().facts()
assert facts.doorbell == {1: "polling", 2: "polling", 3: "polling"}, facts
assert [r.ret for r in hosts()] == ["mf-host1", "mf-host2", "mf-host2"]
big = np.arange(9 * 2**20, dtype=np.float64)  # 72 MiB
assert np.array_equal(client.submit(lambda a: a + 1, big, target=3).result(), big + 1)
assert list(client.map(lambda x: x + 1, range(300))) == list(range(1, 301))
assert client.spmd(lambda comm: comm.allreduce(1)) == [3, 3, 3]
assert [s.state for s in client.servers] == ["idle"] * 3
long = client.submit(time.sleep, 1, target=1)
try:
    client.interrupt(1)
except mpiframe.WorldError as error:
    assert "has no doorbell" in str(error) and "10.231.77.1" in str(error), error
else:
    raise AssertionError("without a doorbell nobody can be interrupted")
long.result()
"""
    )
    site.hosts.drop(0, *PORTS)
    world = site.start(script, 1, 1, 2, doorbell_ports="{}-{}".format(*PORTS), connect_timeout=1)
    ended = world.wait(SECONDS).expect(0)
    assert ended.said.count("have no doorbell") == 1, ended.said
    assert "3 of 3 servers" in ended.said


@pytest.mark.long
def test_the_doorbell_listens_on_one_address_and_only_while_the_world_opens(site: Site) -> None:
    # The firewall keeps the servers from arriving, so that there is time to look.
    site.hosts.drop(0, *PORTS)
    world = site.start(
        HEAD + "reach('open'); await_file('go')",
        1, 1, 1,
        doorbell_ports="{}-{}".format(*PORTS), connect_timeout=2,
    )  # fmt: skip
    seen: set[tuple[str, int]] = set()
    deadline = time.monotonic() + SECONDS
    while not (world.folder / "open").exists():
        assert time.monotonic() < deadline
        seen |= set(ours(site, 0))
        time.sleep(0.01)
    assert seen == {(site.hosts[0].address, PORTS[0])}
    for n in range(3):
        assert ours(site, n) == []
    (world.folder / "go").touch()
    world.wait(SECONDS).expect(0)


@pytest.mark.long
def test_a_start_of_hosts_that_cannot_hear_each_other_ends_in_time(site: Site) -> None:
    """MPI's own: its launcher waits for its daemons, or its ranks for each other, without a limit."""
    site.hosts.drop(0, 1024, 65534)
    world = site.start("import mpiframe; mpiframe.Client()", 1, 1, 1, init_timeout=3)
    assert world.process.wait(SECONDS) == 1, world.said()
    assert "mpiframe run: MPI has not started within 3 s (MPIFRAME_INIT_TIMEOUT)" in world.said()
    # MPI's daemons on the others, which cannot hear of it either, stay until their own time-outs.
    assert [line for line in site.hosts[0].processes() if "hosts.py init" not in line] == []


def ours(site: Site, index: int) -> list[tuple[str, int]]:
    """What listens on the doorbell's ports; MPI has listeners of its own, on any others."""
    return [(a, p) for a, p in site.hosts.listening(index) if PORTS[0] <= p <= PORTS[1]]


WAITS = """
long = client.submit(lambda: time.sleep(2) or "done", target=2)
other = client.submit(lambda: "as ever", target=1)
reach("ready")
await_file("go")
"""


def test_a_link_that_comes_back_has_cost_nothing_but_time(site: Site) -> None:
    script = (
        HEAD
        + WAITS
        + """
assert long.result(timeout=40) == "done"
assert other.result() == "as ever"
big = np.arange(9 * 2**20, dtype=np.float64)  # 72 MiB
assert np.array_equal(client.submit(lambda a: a + 1, big, target=2).result(timeout=40), big + 1)
assert [s.state for s in client.servers] == ["idle", "idle"]
"""
    )
    world = site.start(script, 1, 1, 1, link_timeout=30)
    world.await_file("ready")
    site.hosts.cut(2)
    (world.folder / "go").touch()
    time.sleep(3)  # the command ends meanwhile, and nobody can hear of it
    site.hosts.mend(2)
    world.wait(SECONDS).expect(0)


@pytest.mark.long
def test_a_transfer_goes_on_where_the_link_left_it(site: Site) -> None:
    script = (
        HEAD
        + """
big = np.ones(2**26, dtype=np.float64)  # 512 MiB
sums = client.submit(lambda a: float(a.sum()), big, target=2)
reach("ready")
assert sums.result(timeout=50) == 2.0**26
back = client.submit(lambda: np.ones(2**24), target=2).result(timeout=30)
assert back.sum() == 2.0**24
"""
    )
    world = site.start(script, 1, 1, 1, link_timeout=30)
    world.await_file("ready")
    site.hosts.cut(2)
    time.sleep(2)
    site.hosts.mend(2)
    world.wait(SECONDS).expect(0)


LOST = (
    WAITS
    + """
began = time.monotonic()
assert other.result() == "as ever"
try:
    print(long.result(timeout=30))
except mpiframe.ServerLost as error:
    assert "server 2 on mf-host2" in str(error), error
else:
    raise AssertionError("the host is gone, and the command answered")
assert time.monotonic() - began < 15, "this took too long to notice"
for _ in range(20):  # the others serve on
    assert client.submit(lambda: socket.gethostname()).result(timeout=30) == "mf-host1"
try:
    client.push("1", target=2)
except (mpiframe.ServerLost, mpiframe.TargetError):
    pass
else:
    raise AssertionError("a command for a server that is gone was taken")
assert [s.state for s in client.servers] == ["idle", "lost"]
print("the script ended well")
"""
)


@pytest.mark.parametrize(
    "how", ["the power fails", pytest.param("the link is cut for good", marks=pytest.mark.long)]
)
def test_a_host_that_is_gone_fails_its_own_requests_only(site: Site, how: str) -> None:
    # Where nothing is asserted of it the servers that are left may take their time to end in order, which on
    # Open MPI is all of it.
    stop_timeout = 5 if how == "the power fails" else 2
    world = site.start(HEAD + LOST, 1, 1, 1, link_timeout=3, stop_timeout=stop_timeout, grace=0.5)
    world.await_file("ready")
    if how == "the power fails":
        site.hosts.die(2)
    else:
        site.hosts.cut(2)
    (world.folder / "go").touch()
    if how == "the power fails":
        ended = world.wait(SECONDS)
    else:
        # Its server hears nothing of the client either, and ends in a bounded time.
        until(lambda: not serving(site, 2), 3 + 2 + 0.5 + 10, "the server that was cut off lives on")
        # What MPI's launcher left over there cannot be told that all is over until the link is back.
        until(lambda: world.process.poll() is not None, SECONDS, "the run does not end")
        site.hosts.mend(2)
        ended = world.wait(SECONDS)
    ended.expect(0)  # for the script has seen what became of all that was lost
    assert "the script ended well" in ended.stdout


def serving(site: Site, index: int) -> list[str]:
    """The ranks on a host: its Python processes but the first."""
    found = []
    for line in site.hosts[index].processes():
        if "-m mpiframe" in line:
            found.append(line)
    return found


def until(condition: Callable[[], Any], seconds: float, problem: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, problem
        time.sleep(0.02)


@pytest.mark.long
def test_a_client_whose_host_is_gone_leaves_no_server_behind(site: Site) -> None:
    script = HEAD + WAITS
    world = site.start(script, 1, 1, 1, link_timeout=3, stop_timeout=2, grace=0.5)
    world.await_file("ready")
    assert serving(site, 1)
    assert serving(site, 2)
    site.hosts.die(0)
    until(lambda: not (serving(site, 1) or serving(site, 2)), 20, "servers live on without a client")
    world.kill()


@pytest.mark.long
def test_a_stopped_server_on_another_host_is_not_a_lost_one(site: Site) -> None:
    script = (
        HEAD
        + """
import signal
from mpiframe.client import current_client
pid = client.push("__import__('os').getpid()", target=2, block=True)[0].ret
long = client.submit(lambda: "answered", target=2)
assert long.result() == "answered"
reach("ready")
await_file("stopped")
ahead = [client.submit(lambda n=n: n, target=2) for n in range(50)]
began = time.monotonic()
while time.monotonic() - began < 4:  # longer than the link's time-out
    states = [s.state for s in client.servers]  # each asks every server how it is
    assert states[1] != "lost", states
reach("go on")
assert [f.result(timeout=20) for f in ahead] == list(range(50))
assert [s.state for s in client.servers] == ["idle", "idle"]
"""
    )
    world = site.start(script, 1, 1, 1, link_timeout=2)
    world.await_file("ready")
    site.hosts[2].signal("STOP", "-m mpiframe")
    (world.folder / "stopped").touch()
    world.await_file("go on")
    site.hosts[2].signal("CONT", "-m mpiframe")
    world.wait(SECONDS).expect(0)


DIES = """
import signal
client.setup("ready = 42")

def where():
    return [r.ret for r in client.push("__import__('socket').gethostname()", target="all", block=True)]

def die(rank):
    killed = client.submit("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", target=rank)
    large = client.submit(np.ones, 1 << 22, target=4)
    try:
        killed.result(timeout=30)
    except mpiframe.ServerLost as error:
        assert f"server {rank} on {before[rank - 1]}" in str(error), error
    else:
        raise AssertionError("it answered")
    assert large.result(timeout=30).sum() == 1 << 22

before = where()
assert before == ["mf-host0", "mf-host1", "mf-host2", "mf-host2"], before
for rank in RANKS * 3:
    die(rank)
    assert client.push("ready", target=rank, block=True)[0].ret == 42
assert where() == before, where()
assert client.submit(np.ones, 1 << 22, target=RANKS[-1]).result(timeout=30).sum() == 1 << 22
assert [s.state for s in client.servers] == ["idle"] * 4, client.servers
"""

DIES_FOR_GOOD = """
die(2)
try:
    client.push("1", target=2)
except (mpiframe.ServerLost, mpiframe.TargetError):
    pass
else:
    raise AssertionError("a command for a server that is gone was taken")
for rank in (2, 3):
    try:
        client.restart(rank)
    except mpiframe.WorldError as error:
        assert "cannot be replaced" in str(error) and "MPICH" in str(error), error
    else:
        raise AssertionError("it was restarted")
assert [s.state for s in client.servers] == ["idle", "lost", "idle", "idle"], client.servers
"""


@pytest.mark.long
def test_servers_of_several_hosts_die_and_are_replaced_where_that_can_be(site: Site) -> None:
    script = HEAD.replace("Client()", 'Client(restart="always")')
    if site.vendor == "Open MPI":
        script += DIES.replace("RANKS", "(1,)") + DIES_FOR_GOOD
    else:
        script += DIES.replace("RANKS", "(1, 2, 3)")
    script += "print('the script ended well')"
    ended = site.start(script, 2, 1, 2, resilient=True).wait(SECONDS).expect(0)
    assert "the script ended well" in ended.stdout


def test_nothing_of_the_hosts_is_left(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="mf-hosts-", dir="/tmp") as folder:
        spaces: set[str] = set()
        with contextlib.suppress(ZeroDivisionError), cluster.make_hosts(Path(folder)) as made:
            for host in made.hosts:
                spaces.add(os.readlink(f"/proc/{host.pid}/ns/net"))
            pids = [host.pid for host in made.hosts]
            assert len(spaces) == 3
            assert made.listening(0) == []
            _ = 1 / 0  # a test that fails
        for pid in pids:
            assert not Path(f"/proc/{pid}").exists()
    left = set()
    for directory in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            left.add(os.readlink(directory / "ns" / "net"))
    assert not left & spaces
