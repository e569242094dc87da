"""Worlds that outlive their servers: `mpiframe run --resilient`, over every MPI."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

QUICK = 100.0  # seconds for a whole world, a few of which are usual

HEAD = """
import os, pathlib, signal, sys, threading, time
import mpiframe

def until(condition, seconds=40):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it does not become so"
        time.sleep(0.001)

def pid_of(rank):
    return next(s.pid for s in client.servers if s.rank == rank)

def state_of(rank):
    return next(s.state for s in client.servers if s.rank == rank)

def begin(rank, then="time.sleep(600)"):
    # A command that runs when this returns.
    path = pathlib.Path(f"begun-{rank}-{time.monotonic_ns()}").resolve()
    id = client.push(f"import os, time\\nopen({str(path)!r}, 'w').close()\\n{then}", rank)
    until(path.exists)
    return id

def kill(rank):
    pid = pid_of(rank)
    os.kill(pid, signal.SIGKILL)
    return pid
"""


def resilient(launcher: Any, body: str, status: int = 0, ranks: int = 3, **options: Any) -> Any:
    """Run a script in a resilient world, which ends in time with this status, and leaves nothing."""
    script = HEAD + "client = mpiframe.Client(" + options.pop("client", "") + ")\n" + textwrap.dedent(body)
    ended = launcher.run(script, ranks, seconds=QUICK, options=("--resilient",), **options)
    return ended.expect(status)


# -- what a dead server takes along ---------------------------------------------------------------


def test_a_dead_server_fails_only_its_own_requests(launcher: Any) -> None:
    """One command runs, one is queued for it, fifty are for anyone."""
    body = """
    running = begin(1)
    queued = client.push("'never'", 1)
    def square(i):
        time.sleep(0.01)
        return i * i
    fifty = [client.submit(square, i) for i in range(50)]
    pid = pid_of(1)
    at = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    first, second = client.get([running, queued])
    assert time.monotonic() - at < 10, time.monotonic() - at  # the shortest of our time-outs
    assert (first.status, first.server, first.successful) == ("lost", 1, False), first
    assert isinstance(first.error, mpiframe.ServerLost), first.error
    assert (second.status, second.started_at) == ("lost", None), second
    assert [future.result(30) for future in fifty] == [i * i for i in range(50)]
    assert [s.state for s in client.servers] == ["lost", "idle", "idle"], client.servers
    try:
        client.push("1", 1)
    except mpiframe.ServerLost as error:
        print(str(error).split(";")[0])
    print(sorted(r.ret for r in client.push("__import__('os').getpid() > 0", "all", block=True)))
    client.close()
    """
    ended = resilient(launcher, body, ranks=4)
    assert "server 1 is lost\n[True, True]\n" in ended.stdout


DEATHS = {
    "kill -9": "os.kill(os.getpid(), 9)",
    "kill -15": "import signal; signal.signal(15, signal.SIG_DFL); os.kill(os.getpid(), 15)",
    "segfault": "import ctypes; ctypes.string_at(0)",
    "abort": "os.abort()",
    "os._exit(0)": "os._exit(0)",
    "os._exit(3)": "os._exit(3)",
    "exit in C": "import ctypes; ctypes.CDLL(None)._exit(0)",
}


@pytest.mark.parametrize("how", DEATHS)
def test_every_way_to_die(launcher: Any, how: str) -> None:
    body = f"""
    at = time.monotonic()
    (lost,) = client.push({DEATHS[how]!r}.join(["import os\\n", ""]), 2, block=True)
    assert lost.status == "lost", lost
    assert time.monotonic() - at < 10  # a core file may be written
    assert state_of(2) == "lost"
    assert client.push("6 * 7", block=True)[0].ret == 42
    assert client.push("6 * 7", 1, block=True)[0].ret == 42
    client.close()
    print("survived")
    """
    assert "survived" in resilient(launcher, body).stdout


@pytest.mark.long
def test_short_commands_that_were_sent_ahead_and_not_begun(launcher: Any) -> None:
    """A burst is under way to a server that dies: only what it was on is lost."""
    body = """
    mark = str(pathlib.Path("mark").resolve())
    def work(i):
        if i == 150:
            os.kill(os.getpid(), signal.SIGKILL)
        return i
    for _ in range(3):
        futures = [client.submit(work, i, target=1) for i in range(100)]
        assert [f.result() for f in futures] == list(range(100))
    futures = [client.submit(work, i, target=1) for i in range(100, 400)]
    lost = [i for i, f in enumerate(futures, 100) if f.exception(30) is not None]
    assert 150 in lost and max(lost) == 150, lost  # what it had done, and not said yet, is lost, too
    futures = [client.submit(work, i) for i in range(100, 400)]
    lost = [i for i, f in enumerate(futures, 100) if f.exception(30) is not None]
    assert 150 in lost and max(lost) == 150, lost
    client.close()
    """
    resilient(launcher, body, client='restart="always"')


@pytest.mark.long
def test_a_setup_does_not_confuse_which_commands_are_had_back(launcher: Any) -> None:
    """Commands that were sent ahead behind one that takes long this time, on a server that ran a setup."""
    body = """
    for number in range(5):
        client.setup(f"v{number} = {number}")
    client.restart("all")
    def work(seconds):
        time.sleep(seconds)
        return seconds
    for _ in range(3):
        [f.result() for f in [client.submit(work, 0.0) for _ in range(300)]]
        futures = [client.submit(work, 0.3 if i in (3, 40) else 0.0) for i in range(100)]
        assert sum(f.result(30) for f in futures) == 0.6
    client.close()
    """
    resilient(launcher, body)


@pytest.mark.long
def test_several_deaths_in_a_row(launcher: Any) -> None:
    body = """
    for rank in (3, 1, 4):
        running = begin(rank)
        kill(rank)
        assert client.get(running)[0].status == "lost"
        assert sum(client.map(abs, range(100))) == 4950
    assert [s.state for s in client.servers] == ["lost", "idle", "lost", "lost"]
    running = begin(2)
    waiting = client.submit(abs, 1)
    kill(2)
    assert client.get(running)[0].status == "lost"
    print(waiting.exception())
    print("last")
    """
    ended = resilient(launcher, body, ranks=5)
    assert "cannot run: no server is left\nlast\n" in ended.stdout


def test_a_request_with_retries_is_started_elsewhere(launcher: Any) -> None:
    body = """
    begun = str(pathlib.Path("begun").resolve())
    def once(path):
        import os, signal
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return "the second time"
        os.kill(os.getpid(), signal.SIGKILL)
    future = client.submit(once, begun, retries=1)
    print(future.result(40))
    assert sorted(s.state for s in client.servers) == ["idle", "lost"]
    client.close()
    """
    assert "the second time" in resilient(launcher, body).stdout


@pytest.mark.long
def test_large_messages_under_way_when_it_dies(launcher: Any) -> None:
    """Towards it, from it, and to and from the others meanwhile."""
    body = """
    import numpy
    big = numpy.ones(1 << 25)
    def take(x, seconds=0):
        time.sleep(seconds)
        return x
    for kind in ("to", "from"):
        rank = 1 if kind == "to" else 3
        if kind == "to":
            held = begin(rank)  # so that it does not ask for it
            futures = [client.submit(take, big, target=rank)]
        else:
            held = None
            futures = [client.submit(numpy.ones, 1 << 26, target=rank) for _ in range(8)]
            futures[0].result(20)
        other = client.submit(take, big, target=2)
        kill(rank)
        for future in futures:
            error = future.exception(20)
            assert error is None or isinstance(error, mpiframe.ServerLost), error
        if held is not None:
            assert client.get(held)[0].status == "lost"
        assert other.result(20).sum() == big.size
    assert client.submit(take, big, target=2).result(20).sum() == big.size
    client.close()
    print("through")
    """
    assert "through" in resilient(launcher, body, ranks=4).stdout


# Of what size: more than MPI sends at once, on its own, and before a large array.
ANSWERS = {"arrays": "x * 2", "words": "'w' * 30000", "words and arrays": "('w' * 30000, x * 2)"}


@pytest.mark.long
@pytest.mark.parametrize("kind", ANSWERS)
def test_large_messages_of_a_server_that_dies_again_and_again(launcher: Any, kind: str) -> None:
    """In the midst of them: an MPI that reads from the memory of another process meets one that is gone."""
    body = f"""
    import numpy, random
    chance = random.Random(5)
    def take(x):
        return {ANSWERS[kind]}
    client.setup("import numpy")
    for n in range(12):
        futures = [client.submit(take, numpy.ones(1 << 17), target=1) for _ in range(40)]
        futures[n % 7].result(30)
        time.sleep(chance.random() * 3e-3)
        kill(1)
        for future in futures:
            error = future.exception(30)
            assert error is None or isinstance(error, mpiframe.ServerLost), error
    client.close()
    print("through")
    """
    assert "through" in resilient(launcher, body, ranks=2, client='restart="always"').stdout


@pytest.mark.long
def test_servers_reached_by_tcp_that_die_while_they_are_written_to(launcher: Any) -> None:
    """As those of other hosts are, one after the other."""
    body = """
    import random
    chance = random.Random(5)
    much = bytes(1 << 26)
    for rank in range(1, 7):
        futures = [client.submit(len, much, target=rank) for _ in range(4)]
        time.sleep(chance.random() * 0.05)
        kill(rank)
        for future in futures:
            error = future.exception(30)
            assert error is None or isinstance(error, mpiframe.ServerLost), error
    client.close()
    print("through")
    """
    over_tcp = {"OMPI_MCA_btl": "self,tcp"}  # MPICH's resilient worlds use nothing else
    assert "through" in resilient(launcher, body, ranks=7, env=over_tcp).stdout


# -- the exit status ------------------------------------------------------------------------------


ENDS = {
    "unseen": (
        "client.push('import time; time.sleep(600)', 1); kill(1); until(lambda: state_of(1) == 'lost')",
        1,
    ),
    "idle": ("kill(1); until(lambda: state_of(1) == 'lost')", 1),
    "seen by get": ("id = begin(1); kill(1); client.get(id)", 0),
    "seen by result": (
        "f = client.submit(time.sleep, 600, target=1); until(f.running); kill(1)\n"
        "try: f.result()\nexcept mpiframe.ServerLost: pass",
        0,
    ),
    "one of two unseen": ("id = begin(1); client.push('1', 1); kill(1); client.get(id)", 1),
    "not caught": ("id = begin(1); kill(1); client.get(id)[0].result()", 1),
    "replaced": ("id = begin(1); kill(1); client.get(id); client.restart(1)", 0),
    "idle and replaced": ("kill(1); until(lambda: state_of(1) == 'lost'); client.restart(1)", 0),
    "the script's own": ("id = begin(1); kill(1); client.get(id); sys.exit(7)", 7),
}


@pytest.mark.parametrize("end", ENDS)
def test_the_exit_status_tells_the_truth(launcher: Any, end: str) -> None:
    body, status = ENDS[end]
    ended = resilient(launcher, body, status)
    if end in ("idle",):
        assert "a server was lost during the run" in ended.stderr
    assert "improperly" not in ended.said  # what Open MPI's launcher says of ranks that just exit


@pytest.mark.long
def test_what_was_printed_last_is_not_lost(launcher: Any) -> None:
    body = """
    id = begin(1); kill(1); client.get(id)
    for number in range(20000): print("line", number)
    """
    lines = [line for line in resilient(launcher, body).stdout.splitlines() if line.startswith("line")]
    assert lines == [f"line {number}" for number in range(20000)]


def test_without_resilient_the_status_is_true_and_the_way_out_is_named(launcher: Any) -> None:
    script = HEAD + "client = mpiframe.Client()\nkill(1)\nuntil(lambda: state_of(1) == 'lost')\n"
    ended = launcher.run(script, 3, seconds=QUICK)
    assert ended.status != 0
    assert "--resilient" in ended.stderr


@pytest.mark.long
def test_a_script_that_is_killed_leaves_nothing(launcher: Any) -> None:
    """Checked by the launcher fixture."""
    ended = launcher.run(
        HEAD + "client = mpiframe.Client()\nbegin(1)\nclient.restart(2)\nos.kill(os.getpid(), 9)",
        3,
        seconds=QUICK,
        options=("--resilient",),
    )
    assert ended.status != 0


@pytest.mark.long
def test_ctrl_c(launcher: Any) -> None:
    script = HEAD + "client = mpiframe.Client()\nbegin(1)\nopen('ready', 'w').close()\ntime.sleep(600)"
    world = launcher.start(script, 3, options=("--resilient",))
    world.await_file("ready", QUICK)
    world.process.send_signal(2)
    assert world.wait(QUICK).status == 130


# -- replacement ----------------------------------------------------------------------------------


def test_restart_always(launcher: Any) -> None:
    """The replacement runs the setup first, then the queue; what ran is lost, or retried there."""
    body = """
    client.setup("import math; base = 40")
    before = pid_of(1)
    running = begin(1)
    queued = client.push("base + 2", 1)
    more = client.push("math.floor(2.5)", 1)
    kill(1)
    assert client.get(running)[0].status == "lost"
    later = client.push("base", 1)  # while there is none, or already the new one
    assert [r.ret for r in client.get([queued, more, later], timeout=30)] == [42, 2, 40]
    assert pid_of(1) != before
    assert [s.state for s in client.servers] == ["idle", "idle"]
    assert [r.ret for r in client.push("base", "all", block=True)] == [40, 40]
    again = client.submit("__import__('time').sleep(0.2) or 'done'", target=1, retries=1)
    until(again.running)
    kill(1)
    assert again.result(30) == "done"
    client.close()
    print("closed")
    """
    assert "closed" in resilient(launcher, body, client='restart="always"').stdout


@pytest.mark.long
def test_all_servers_die_and_come_back(launcher: Any) -> None:
    body = """
    for round in range(3):
        pids = [s.pid for s in client.servers]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        until(lambda: not any(s.pid in pids or s.state != "idle" for s in client.servers))
        assert sum(client.map(abs, range(100))) == 4950
    futures = [client.submit(os.getpid, target=rank) for rank in (1, 2)]
    assert sorted(f.result(30) for f in futures) == sorted(s.pid for s in client.servers)
    client.close()
    """
    resilient(launcher, body, client='restart="always"')


@pytest.mark.long
def test_open_mpis_launcher_hears_of_an_end_in_the_order_that_it_can_bear(launcher: Any) -> None:
    """See `ends`: the client has open what a server prints to, and nothing of one that is gone."""
    # Standard error; the output has a terminal to itself.
    held = 1 if launcher.python.name == "openmpi" else 0
    body = f"""
    def pipes(pid):
        paths = (f"/proc/{{pid}}/fd/{{name}}" for name in os.listdir(f"/proc/{{pid}}/fd"))
        return {{os.readlink(path) for path in paths if pathlib.Path(path).is_fifo()}}
    for _ in range(3):
        theirs = pipes(pid_of(1))
        assert len(theirs & pipes("self")) == {held}, (theirs, pipes("self"))
        kill(1)
        assert client.push("6 * 7", 1, block=True)[0].ret == 42
        assert not theirs & pipes("self")
    client.close()
    """
    resilient(launcher, body, client='restart="always"', ranks=2)


@pytest.mark.long
def test_a_command_that_kills_each_server_it_meets(launcher: Any) -> None:
    """It ends after its retries; the queue behind it is worked off by the replacements."""
    body = """
    deadly = client.submit("__import__('os').kill(__import__('os').getpid(), 9)", target=1, retries=2)
    behind = client.submit(abs, -1, target=1)
    assert isinstance(deadly.exception(60), mpiframe.ServerLost)
    assert behind.result(30) == 1
    client.close()
    """
    resilient(launcher, body, client='restart="always"')


def test_restart_of_dead_and_of_live_servers(launcher: Any) -> None:
    body = """
    client.setup("x = 1")
    kill(1)
    until(lambda: state_of(1) == "lost")
    client.restart(1)
    assert client.push("x", 1, block=True)[0].ret == 1
    before = pid_of(2)
    client.push("x = 2", 2, block=True)
    running, queued = begin(2), client.push("x", 2)
    client.restart(2)
    lost, found = client.get([running, queued])
    assert (lost.status, found.ret) == ("lost", 1), (lost, found)
    assert pid_of(2) != before
    client.restart("all")
    client.restart([2, 1])
    assert [r.ret for r in client.push("x", "all", block=True)] == [1, 1]
    for wrong in (0, 3, "none", True, [1, 9]):
        try:
            client.restart(wrong)
        except mpiframe.TargetError as error:
            assert "to restart" in str(error)
        else:
            assert False, wrong
    client.close()
    """
    resilient(launcher, body)


STUCK = {
    "stopped": "os.kill(pid, signal.SIGSTOP)",
    "holds the GIL": 'begin(1, \'import re; re.match("(a+)+$", "a" * 60 + "b")\')',
    "will not be interrupted": (
        "begin(1, 'while True:\\n    try: time.sleep(600)\\n    except BaseException: pass')"
    ),
}


@pytest.mark.long
@pytest.mark.parametrize("how", STUCK)
def test_restart_of_a_server_that_is_stuck(launcher: Any, how: str) -> None:
    body = f"""
    pid = pid_of(1)
    {STUCK[how]}
    held = client.servers[0].running
    queued = client.push("7", 1)
    client.restart(1)
    if held is not None:
        assert client.get(held)[0].status == "lost"
    (answer,) = client.get(queued)
    # A stopped server may have been sent it: then it is not known whether it ran.
    assert answer.ret == 7 or answer.status == "lost" and {how == "stopped"}, answer
    assert client.push("8", 1, block=True)[0].ret == 8
    assert pid_of(1) != pid
    client.close()
    """
    resilient(launcher, body)


@pytest.mark.long
def test_a_plugin_stops_before_its_server_is_restarted(launcher: Any) -> None:
    body = """
    class Mark(mpiframe.Plugin):
        name = "mark"
        def stop(self):
            open(PATH, "w").close()
    Mark.stop.__globals__["PATH"] = str(pathlib.Path("stopped").resolve())
    client.plugin(Mark, target=1)
    client.restart(1)
    assert os.path.exists("stopped")
    """
    resilient(launcher, body)


def test_setup_runs_at_once_and_tells_of_failures(launcher: Any) -> None:
    body = """
    client.setup("y = 5")
    assert [r.ret for r in client.push("y", "all", block=True)] == [5, 5]
    try:
        client.setup("y = 1 / 0")
    except mpiframe.CommandError as error:
        assert isinstance(error.__cause__, ZeroDivisionError)
    else:
        assert False
    try:
        client.setup("y = (")
    except mpiframe.CommandSyntaxError:
        pass
    def prepare():
        os.environ["PREPARED"] = "so"
    client.setup(prepare)
    client.restart(1)  # without the one that failed
    assert client.push("y, __import__('os').environ['PREPARED']", 1, block=True)[0].ret == (5, "so")
    client.close()
    """
    resilient(launcher, body)


@pytest.mark.long
def test_a_server_that_dies_each_time_as_it_starts_is_given_up(launcher: Any) -> None:
    body = """
    import atexit
    mark = str(pathlib.Path("deadly").resolve())
    client.setup(f"import os\\nif os.path.exists({mark!r}):\\n    os._exit(3)")
    running, queued = begin(1), client.push("1", 1)
    open(mark, "w").close()
    kill(1)
    lost, never = client.get([running, queued], timeout=60)
    assert (lost.status, never.status) == ("lost", "lost")
    until(lambda: state_of(1) == "lost")
    assert client.push("2", block=True)[0].ret == 2
    os.remove(mark)
    client.restart(1)
    assert client.push("3", 1, block=True)[0].ret == 3
    client.close()
    """
    ended = resilient(launcher, body, client='restart="always"')
    assert "server 1 is given up" in ended.stderr


FALSE_STARTS = {
    "ends": "os._exit(3)",
    # As one that waits for ever for its launcher, which has lost it: Open MPI's does so once in a while. That
    # cannot be brought about at will (on a busy host `test_all_servers_die_and_come_back` may meet it); what
    # can be seen of it from outside is the same.
    "sleeps": "mpi4py.rc.initialize = False; from mpi4py import MPI; threading.Event().wait()",
}


@pytest.mark.long
@pytest.mark.parametrize("how", FALSE_STARTS)
def test_a_replacement_that_does_not_come_is_given_up_and_another_is_started(
    launcher: Any, tmp_path: Path, how: str
) -> None:
    hook = f"""
    import mpi4py, os, threading
    try:
        os.rename({str(tmp_path / "next")!r}, f"{tmp_path / "false"}-{{os.getpid()}}")
    except OSError:
        pass
    else:
        {FALSE_STARTS[how]}
    """
    (tmp_path / "sitecustomize.py").write_text(textwrap.dedent(hook))
    is_left = how == "sleeps" and launcher.python.name == "openmpi"  # to the end of the run, see `newcomer`
    body = f"""
    folder = pathlib.Path({str(tmp_path)!r})
    (folder / "next").touch()
    kill(1)
    assert client.push("6 * 7", 1, block=True)[0].ret == 42
    (false,) = [int(path.name.partition("-")[2]) for path in folder.glob("false-*")]
    assert pid_of(1) != false
    until(lambda: os.path.exists(f"/proc/{{false}}") == {is_left})
    kill(1)  # what was left of that start is in nobody's way
    assert client.push("6 * 7", 1, block=True)[0].ret == 42
    client.close()
    print("closed")
    """
    # Where nothing can be seen of it, as on MPICH of one that sleeps, the time-out ends it.
    env = {"PYTHONPATH": f"{tmp_path}:{ROOT}", "MPIFRAME_RESTART_TIMEOUT": "10"}
    ended = resilient(launcher, body, ranks=2, client='restart="always"', env=env)
    assert "closed" in ended.stdout
    assert ended.stderr.count("server 1 was not replaced") == 1
    if launcher.python.name == "openmpi":
        assert ("has lost it" if how == "sleeps" else "ended at once") in ended.stderr, ended.stderr


@pytest.mark.long
def test_a_setup_that_fails_on_the_replacement(launcher: Any) -> None:
    body = """
    mark = str(pathlib.Path("fails").resolve())
    client.setup(f"import os\\nassert not os.path.exists({mark!r})")
    open(mark, "w").close()
    try:
        client.restart(1)
    except mpiframe.WorldError as error:
        assert "setup command" in str(error) and "AssertionError" in str(error), error
    else:
        assert False
    assert [s.state for s in client.servers] == ["lost", "idle"]
    try:
        client.push("1", 1)
    except mpiframe.ServerLost:
        print("told")
    """
    assert "told" in resilient(launcher, body, env={"MPIFRAME_RESTART_ATTEMPTS": "1"}).stdout


@pytest.mark.long
def test_a_server_that_dies_as_the_client_closes_is_no_loss_where_it_would_be_replaced(launcher: Any) -> None:
    body = """
    os.kill(pid_of(1), signal.SIGKILL)
    client.close()  # it goes on for some milliseconds yet
    print("closed")
    """
    assert "closed" in resilient(launcher, body, client='restart="always"').stdout
    ended = resilient(launcher, body, status=1)
    assert "a server was lost during the run" in ended.stderr, ended.stderr


@pytest.mark.long
def test_the_end_does_not_wait_for_nothing(launcher: Any) -> None:
    """To close while a replacement is under way waits for its queue; to abandon does not."""
    body = """
    running, queued = begin(1), client.push("open('ran', 'w').close()", 1)
    kill(1)
    assert client.get(running)[0].status == "lost"
    client.close()
    assert os.path.exists("ran")
    """
    resilient(launcher, body, client='restart="always"')
    body = """
    running, queued = begin(1), client.push("1", 1)
    kill(1)
    assert client.get(running)[0].status == "lost"
    client.shutdown(wait=False)
    print("left")
    """
    assert "left" in resilient(launcher, body, client='restart="always"').stdout


@pytest.mark.long
def test_a_server_that_dies_at_the_end_and_would_be_replaced(launcher: Any) -> None:
    resilient(launcher, "kill(1)\nuntil(lambda: state_of(1) == 'starting')", client='restart="always"')


def test_where_servers_cannot_be_replaced(launcher: Any) -> None:
    script = """
import mpiframe
for wrong in ("always", "sometimes"):
    try:
        mpiframe.Client(restart=wrong)
    except mpiframe.WorldError as error:
        print(error)
client = mpiframe.Client()
try:
    client.restart(1)
except mpiframe.WorldError as error:
    print("no restart:", "--resilient" in str(error))
client.setup("z = 3")
print(client.push("z", 1, block=True)[0].ret)
"""
    ended = launcher.run(script, 2, seconds=QUICK).expect(0)
    assert "mpiframe run --resilient" in ended.stdout
    assert "restart='sometimes' is no choice" in ended.stdout
    assert "no restart: True\n3\n" in ended.stdout


# -- collectives ----------------------------------------------------------------------------------


def test_a_member_that_dies_in_a_collective(launcher: Any) -> None:
    """The others end with its error; the survivors, and its replacement, go on to work together."""
    body = """
    def work(comm):
        if comm.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        comm.barrier()
    at = time.monotonic()
    try:
        client.spmd(work)
    except mpiframe.ServerLost:
        assert time.monotonic() - at < 10
    else:
        assert False
    ranks = lambda comm: (comm.rank, comm.allreduce(1))
    assert client.spmd(ranks) == [(0, 2), (1, 2)]
    client.restart(2)
    assert client.spmd(ranks) == [(0, 3), (1, 3), (2, 3)]
    assert client.spmd(ranks, target=[2, 1]) == [(0, 2), (1, 2)]
    assert client.spmd(ranks) == [(0, 3), (1, 3), (2, 3)]
    client.restart("all")
    for _ in range(2):
        assert client.spmd(ranks) == [(0, 3), (1, 3), (2, 3)]
    import numpy, operator
    whole = client.reduce(operator.add, lambda i: numpy.full(100_000, i), range(30))
    assert (whole == sum(range(30))).all()
    client.close()
    print("together")
    """
    assert "together" in resilient(launcher, body, ranks=4).stdout


@pytest.mark.long
def test_a_collective_waits_for_a_replacement(launcher: Any) -> None:
    body = """
    running = begin(2)
    kill(2)
    assert client.get(running)[0].status == "lost"
    assert client.spmd(lambda comm: comm.allreduce(comm.rank)) == [3, 3, 3]
    client.close()
    """
    resilient(launcher, body, client='restart="always"', ranks=4)
