"""What goes wrong with commands, servers and clients ends in a clear error, and never in a hang.

The first part is what goes wrong in mpi4casa, case by case. Each world is bounded in time, and the launcher
checks that no process, socket or folder of it is left.
"""

from __future__ import annotations

import functools
import os
import signal
import time
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(120)

SELDOM = functools.partial(pytest.param, marks=pytest.mark.long)  # variants for `launch/test --faults`

PROMPT = 5.0  # seconds in which each error has to come; as many as the world took to open if those are more
BOUND = 90.0  # seconds for a world to start, do what it does, and end

HEAD = """
import contextlib, ctypes, os, pathlib, signal, sys, threading, time
STARTED = time.monotonic()
import mpiframe

BUSY = "import pathlib, time; pathlib.Path('busy').touch(); time.sleep(600)"
STUBBORN = '''
import pathlib, time
pathlib.Path('busy').touch()
while True:
    try: time.sleep(600)
    except BaseException: pass
'''
HOLDS_THE_LOCK = '''
import ctypes, pathlib
pathlib.Path('busy').touch()
ctypes.PyDLL(None).usleep(600000000)
'''
def until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "it does not become so"
        time.sleep(0.01)
def busy(): return os.path.exists("busy")
def when_waited_for(action):  # for a command that runs, by the main thread, so that Ctrl-C meets both
    def look():
        until(lambda: client._loop._foreground and busy())
        action()
    threading.Thread(target=look).start()
@contextlib.contextmanager
def prompt(kind, *words):
    begun = time.monotonic()
    try:
        yield
    except kind as error:
        assert all(word in str(error) for word in words), str(error)
    else:
        raise AssertionError(f"no {kind.__name__}")
    assert time.monotonic() - begun < soon
def serves_on(target="all"):
    for answer in client.push("6 * 7", target=target, block=True, timeout=20):
        assert answer.ret == 42, answer
"""


def world(body: str) -> str:
    """A script whose client is open while `body` runs."""
    body = f"soon = max({PROMPT}, time.monotonic() - STARTED)\n" + body.strip("\n")
    lines = [f"    {line}" for line in body.split("\n")]
    return "\n".join([HEAD, "with mpiframe.Client() as client:", *lines, ""])


def end_after(launcher: Any, body: str, within: float = PROMPT, **options: Any) -> Any:
    """Run a script that makes the file `now`; how it ended, which has to be soon after that."""
    begun = time.time()
    started = launcher.start(world(body), **options)
    ended = started.wait(BOUND)
    now = (started.folder / "now").stat().st_mtime
    assert time.time() - now < max(within, now - begun), ended.said
    return ended


# -- what goes wrong in mpi4casa ---------------------------------------------------------------------


ANSWERED = {
    "a result that cannot be pickled": """
with prompt(mpiframe.SerializationError, "cannot be pickled", "server 1"):
    client.push("(n for n in [])", target=1, block=True)[0].result()
""",
    "sys.exit": """
with prompt(mpiframe.CommandError, "SystemExit: 3", "server 2"):
    client.push("import sys; sys.exit(3)", target=2, block=True)[0].result()
""",
    "parameters with the names of modules": """
names = dict.fromkeys(["time", "os", "sys", "threading", "traceback", "MPI", "parameters"], 3)
assert client.push("time + os + MPI", "all", True, names)[0].ret == 9
assert client.push("import time; time.sleep(0)", 1, True, {"os": 3})[0].successful
""",
    "a result of 200 MiB": """
(big,) = client.push("bytes([7]) * (200 << 20)", target=1, block=True)
assert len(big.ret) == 200 << 20 and big.ret.count(7) == 200 << 20
""",
    "90 MiB to two servers": """
answers = client.push("part.count(9)", [1, 2], True, {"part": bytes([9]) * (90 << 20)})
assert [answer.ret for answer in answers] == [90 << 20] * 2
""",
}


@pytest.mark.parametrize("case", ANSWERED)
def test_it_has_an_answer(launcher: Any, case: str) -> None:
    launcher.run(world(ANSWERED[case] + "serves_on()\n"), seconds=BOUND).expect(0)


DEATHS = {
    "exits": "os._exit(3)",
    "segfaults": "import ctypes; ctypes.string_at(0)",
    "is killed": "os.kill(os.getpid(), 9)",
}


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("how", DEATHS)
def test_a_server_that_dies(launcher: Any, how: str, plain: bool) -> None:
    """MPI ends the job with it; that is over at once, and no success."""
    body = f"""
pathlib.Path("now").touch()
client.push("import os; " + {DEATHS[how]!r}, target=1, block=True, timeout=20)[0].result()
"""
    ended = end_after(launcher, body, plain=plain)
    assert ended.status != 0
    if not plain:
        assert "ServerLost" in ended.stderr or "another rank had ended" in ended.stderr, ended.said


def test_honest_work_that_holds_the_interpreters_lock(launcher: Any) -> None:
    """It is seen, not punished: its answer counts, and the run has succeeded."""
    body = """
os.mkfifo("gate")
# To open it takes until another opens it, too.
holding = "import ctypes, pathlib\\npathlib.Path('busy').touch()\\nctypes.PyDLL(None).open(b'gate', 0)"
work = client.submit(holding, target=1)
until(busy)
begun = time.monotonic()
rows = client.servers
assert time.monotonic() - begun < soon
assert [row.state for row in rows] == ["unresponsive", "idle"], rows
assert rows[0].running == work.request.id
assert rows[0].cpu is None
serves_on(2)
open("gate", "w").close()
assert work.result(20) is None
until(lambda: [row.state for row in client.servers] == ["idle", "idle"])
serves_on()
"""
    launcher.run(world(body), seconds=BOUND).expect(0)


def test_an_id_that_never_ran_after_the_end(launcher: Any) -> None:
    script = (
        world("running = client.submit(time.sleep, 0.5, target=1)\nid = client.push('1', target=1)")
        + """
with prompt(mpiframe.WorldError, "closed"):
    client.get(id, block=True)
with prompt(mpiframe.WorldError, "closed"):
    client.push("1", block=True)
"""
    )
    launcher.run(script, seconds=BOUND).expect(0)


@pytest.mark.parametrize("plain", [False, SELDOM(True)])
@pytest.mark.parametrize("what", ["", "client.push(BUSY, target=1)\nuntil(busy)\n"])
def test_an_exception_at_the_clients_top_level(launcher: Any, what: str, plain: bool) -> None:
    body = what + "pathlib.Path('now').touch()\nraise OSError('at the top')"
    ended = end_after(launcher, body, plain=plain)
    assert ended.status == 1
    assert "OSError: at the top" in ended.stderr


# -- time-outs that an interrupt does not end --------------------------------------------------------


OVERDUE = """
late = client.submit(COMMAND, target=1, timeout=0.3)
with prompt(mpiframe.CommandTimeout, "server 1 on"):
    late.result()
queued = client.submit(abs, -1, target=1)
free = client.submit(abs, -2)
assert free.result(20) == 2
try:
    queued.result()
except mpiframe.ServerLost as error:
    assert "was ended because request 1" in str(error), error
    assert "MPIFRAME_KILL_GRACE" in str(error), error
else:
    raise AssertionError("the server was to be ended")
sys.exit("it was told")
"""


@pytest.mark.parametrize("doorbell", ["auto", SELDOM("tcp"), SELDOM("off")])
@pytest.mark.parametrize("how", ["HOLDS_THE_LOCK", "STUBBORN"])
def test_a_command_that_will_not_end_is_ended_with_its_server(launcher: Any, how: str, doorbell: str) -> None:
    """Wherever the server is, whatever reaches it: its own kernel ends it. It says where it was."""
    ended = launcher.run(
        world(OVERDUE.replace("COMMAND", how)),
        seconds=BOUND,
        env={"MPIFRAME_KILL_GRACE": "0.5", "MPIFRAME_DOORBELL": doorbell},
    )
    assert ended.status != 0
    assert "on server 1 on" in ended.stderr
    assert "after its time-out had interrupted it, so its server is ended now" in ended.stderr
    assert "--resilient" in ended.stderr
    assert 'File "<command 1>"' in ended.stderr  # its last words
    assert "AssertionError" not in ended.stderr


@pytest.mark.parametrize("when", ["before", "while"])
def test_a_stopped_server_is_ended_by_a_time_out(launcher: Any, when: str) -> None:
    """It was asked for, by the time-out; and the stopped process could not do it itself."""
    if when == "while":
        body = OVERDUE.replace("COMMAND", "'import os, signal; os.kill(os.getpid(), signal.SIGSTOP)'")
    else:
        stop = "os.kill(client.servers[0].pid, signal.SIGSTOP)\n"
        body = stop + OVERDUE.replace("COMMAND", "BUSY")
    ended = launcher.run(world(body), seconds=BOUND, env={"MPIFRAME_KILL_GRACE": "0.5"})
    assert ended.status != 0
    assert "so its server is ended now" in ended.stderr
    assert "AssertionError" not in ended.stderr


def test_a_time_out_that_was_obeyed_or_not_reached_ends_no_server(launcher: Any) -> None:
    body = """
pids = [row.pid for row in client.servers]
for n in range(3):
    with prompt(mpiframe.CommandTimeout):
        client.submit(time.sleep, 600, target=1, timeout=0.2).result()
    assert client.submit(abs, -1, target=2, timeout=1.5).result() == 1
    with prompt(mpiframe.CommandError):
        client.submit("1 / 0", target=2, timeout=1.5).result()
with prompt(mpiframe.CommandTimeout):
    tidy = "import time\\ntry: time.sleep(600)\\nfinally: time.sleep(0.2)"
    client.submit(tidy, target=2, timeout=0.2).result()
end = time.monotonic() + 4
while time.monotonic() < end:  # longer than any fuse that could have been left burning
    serves_on()
    time.sleep(0.1)
assert [row.pid for row in client.servers] == pids
"""
    ended = launcher.run(world(body), seconds=BOUND, env={"MPIFRAME_KILL_GRACE": "2"}).expect(0)
    assert ended.stderr == ""


# -- a hung server -----------------------------------------------------------------------------------


@pytest.mark.parametrize("doorbell", ["auto", SELDOM("tcp")])
def test_a_stopped_server_is_unresponsive_until_it_goes_on(launcher: Any, doorbell: str) -> None:
    body = """
def states(): return [row.state for row in client.servers]
def is_stopped(pid):  # a thread on another core may have answered before it stopped
    tasks = [f"/proc/{pid}/task/{task}/stat" for task in os.listdir(f"/proc/{pid}/task")]
    return all(open(task).read().rpartition(")")[2].split()[0] == "T" for task in tasks)
pid = client.servers[0].pid
wait = "import os, time\\nopen('busy', 'w').close()\\nwhile not os.path.exists('over'): time.sleep(0.01)"
running = client.submit(wait, target=1)
until(busy)
os.kill(pid, signal.SIGSTOP)
until(lambda: is_stopped(pid))
begun = time.monotonic()
assert states() == ["unresponsive", "idle"], client.servers
assert time.monotonic() - begun < soon
assert states() == ["unresponsive", "idle"]
mine = client.submit(abs, -1, target=1)
assert [client.submit(abs, -n).result(20) for n in range(20)] == list(range(20))
assert not mine.done() and not running.done()
pathlib.Path("over").touch()
os.kill(pid, signal.SIGCONT)
assert running.result(20) is None
assert mine.result(20) == 1
until(lambda: states() == ["idle", "idle"])
assert client.servers[0].pid == pid
serves_on()
"""
    env = {"MPIFRAME_PATIENCE": "1", "MPIFRAME_DOORBELL": doorbell}
    launcher.run(world(body), seconds=BOUND, env=env).expect(0)


def test_long_honest_work_is_responsive(launcher: Any) -> None:
    """Pure Python, and C code that lets go of the interpreter's lock."""
    body = """
python = "import os\\nopen('busy', 'w').close()\\nn = 0\\nwhile not os.path.exists('over'): n += 1"
numeric = "import numpy\\na = numpy.ones((700, 700))\\nfor _ in range(60): a @ a"
work = [client.submit(python, target=1), client.submit(numeric, target=2)]
until(busy)
seen = set()
for _ in range(20):
    rows = client.servers
    seen |= {row.state for row in rows}
    assert rows[0].state == "busy" and rows[0].cpu is not None, rows
    time.sleep(0.02)
pathlib.Path("over").touch()
for future in work:
    future.result(60)
assert seen <= {"busy", "idle"}, seen
"""
    launcher.run(world(body), seconds=BOUND).expect(0)


@pytest.mark.parametrize("plain", [False, SELDOM(True)])
@pytest.mark.parametrize("what", ["idle", "busy"])
def test_the_end_of_a_script_with_a_stopped_server(launcher: Any, what: str, plain: bool) -> None:
    body = (
        ENDS[what]
        + """
os.kill(client.servers[0].pid, signal.SIGSTOP)
pathlib.Path("now").touch()
raise OSError("enough")
"""
    )
    ended = end_after(launcher, body, plain=plain)
    assert ended.status != 0
    assert "OSError: enough" in ended.stderr


# -- a dead client -----------------------------------------------------------------------------------


ORDERLY = """
class Orderly(mpiframe.Plugin):
    name = "orderly"
    def start(self, context): self.rank, self.folder = context.rank, os.getcwd()
    def stop(self):
        with open(os.path.join(self.folder, f"stopping-{self.rank}"), "w"): pass
        time.sleep(STOP_SECONDS)
        with open(os.path.join(self.folder, f"stopped-{self.rank}"), "w"): pass
client.plugin(Orderly, target="all")
"""

ENDS = {
    "idle": "",
    "busy": "client.push(BUSY, target=1)\nuntil(busy)\n",
    "stubborn": "client.push(STUBBORN, target=1)\nuntil(busy)\n",
    "holding the lock": "client.push(HOLDS_THE_LOCK, target=1)\nuntil(busy)\n",
    "with much queued": "client.push(BUSY, 1)\n[client.push('1', 1) for _ in range(500)]\nuntil(busy)\n",
}


@pytest.mark.parametrize("plain", [False, SELDOM(True)])
@pytest.mark.parametrize("what", ENDS)
def test_a_client_that_is_killed_leaves_nobody(launcher: Any, what: str, plain: bool) -> None:
    """Checked by the launcher: no process, no folder is left."""
    body = ENDS[what] + "pathlib.Path('now').touch()\nos.kill(os.getpid(), 9)"
    assert end_after(launcher, body, plain=plain).status != 0


@pytest.mark.parametrize("what", ["idle", "busy", "with much queued"])
def test_plugins_stop_when_the_client_is_gone(launcher: Any, what: str) -> None:
    """Each server notices within a second and has the time it needs, though others are done before it.

    The client lives on without its doorbells here. Of one that is killed the launchers hear, too: Open MPI's
    leaves the servers half a second then, MPICH's nothing.
    """
    body = (
        ORDERLY.replace("STOP_SECONDS", "0.2 * self.rank")
        + ENDS[what]
        + """
pathlib.Path("now").touch()
with client._loop.lock:
    for peer in client._world.transport.peers.values():
        peer.bell.shutdown(2)
        peer.control.shutdown(2)
while True: time.sleep(600)
"""
    )
    begun = time.time()
    # The first to leave waits for so long until MPI's launcher, which it tells of its end, ends the others.
    started = launcher.start(world(body), env={"MPIFRAME_GRACE": "2"})
    assert started.wait(BOUND).status != 0
    now = (started.folder / "now").stat().st_mtime
    stopping = {path.name: path.stat().st_mtime - now for path in started.folder.glob("stopping-*")}
    assert set(stopping) == {"stopping-1", "stopping-2"}
    assert max(stopping.values()) < max(1.0, now - begun)  # or as the world took to open
    assert {path.name for path in started.folder.glob("stopped-*")} == {"stopped-1", "stopped-2"}


@pytest.mark.parametrize("what", ["idle", "busy"])
def test_sigterm_lets_a_servers_plugins_stop(launcher: Any, what: str) -> None:
    """As a batch system ends a job. What the server was on is lost with it, and was no failure of its own."""
    body = (
        ORDERLY.replace("STOP_SECONDS", "0")
        + ENDS[what]
        + """
pathlib.Path("now").touch()
os.kill(client.servers[0].pid, signal.SIGTERM)
with prompt(mpiframe.ServerLost, "server 1"):
    client.get(list(client._loop.requests) or client.push("1", target=1))[-1].result()
sys.exit("the server is lost")
"""
    )
    started = launcher.start(world(body))
    ended = started.wait(BOUND)
    assert ended.status != 0
    assert (started.folder / "stopped-1").exists()
    assert "KeyboardInterrupt" not in ended.stderr


# -- Ctrl-C ------------------------------------------------------------------------------------------


CAUGHT = """
when_waited_for(pathlib.Path("waited for").touch)
def command():
    try:
        pathlib.Path("busy").touch()
        time.sleep(600)
    except KeyboardInterrupt:
        pathlib.Path("interrupted").touch()
        raise
try:
    client.submit(command, target=2).result()
except KeyboardInterrupt:
    pathlib.Path("raised").touch()
serves_on()
"""


def _press(started: Any) -> None:
    """Ctrl-C, as the terminal of `mpiframe run` has it, when the client waits for the command that runs."""
    started.await_file("waited for")
    os.kill(started.process.pid, signal.SIGINT)


def test_ctrl_c_interrupts_the_command_that_is_waited_for(launcher: Any) -> None:
    """Once in the command, once at the client; a script that goes on and ends well has succeeded."""
    started = launcher.start(world(CAUGHT))
    _press(started)
    started.wait(BOUND).expect(0)
    assert (started.folder / "interrupted").exists()
    assert (started.folder / "raised").exists()


def test_ctrl_c_ends_a_script_that_does_not_expect_it(launcher: Any) -> None:
    waits = 'when_waited_for(pathlib.Path("waited for").touch)\n'
    started = launcher.start(world(waits + "client.push(BUSY, target=1, block=True)"))
    _press(started)
    ended = started.wait(BOUND).expect(130)
    assert "KeyboardInterrupt" in ended.stderr


def test_ctrl_c_twice_ends_the_session(launcher: Any) -> None:
    """The second one finds the command still running, so it is not to be had otherwise."""
    body = """
def press():
    os.kill(os.getpid(), signal.SIGINT)
id = client.push(STUBBORN, target=1)
when_waited_for(press)
try:
    client.get(id)
except KeyboardInterrupt:
    serves_on(2)
when_waited_for(press)
try:
    client.get(id)
except KeyboardInterrupt:
    print("twice", flush=True)
with prompt(mpiframe.WorldError, "closed"):
    client.push("1")
print("over", flush=True)
"""
    ended = launcher.run(world(body), seconds=BOUND)
    assert ended.status != 0  # the stubborn command's server had to be ended by force
    assert ended.stdout.startswith("twice\nover\n"), ended.said


# -- ends with much open -----------------------------------------------------------------------------


WAITERS = """
told = []
def waits(name, wait):
    try:
        wait()
    except mpiframe.MpiframeError as error:
        told.append((name, type(error).__name__))
    except BaseException as error:
        told.append((name, repr(error)))
    else:
        told.append((name, "an end"))
client.push(COMMAND, target=1)
until(busy)
id = client.push("1", target=1)
ways = {
    "get": lambda: client.get(id)[0].result(),
    "get running": lambda: client.get(1)[0].result(),
    "push": lambda: client.push("2", target=1, block=True)[0].result(),
    "result": lambda: client.submit(abs, -1, target=1).result(),
    "map": lambda: list(client.map(abs, range(100), target=1)),
    "spmd": lambda: client.spmd(lambda comm: comm.rank),
    "exception": lambda: client.submit(abs, -1, target=1).exception() or 1 / 0,
}
threads = [threading.Thread(target=waits, args=way) for way in ways.items()]
for thread in threads: thread.start()
until(lambda: client._loop._foreground == len(ways))
pathlib.Path("now").touch()
END
for thread in threads:
    thread.join(20)
    assert not thread.is_alive()
print(len(told), flush=True)
assert len(told) == len(ways), told
"""


@pytest.mark.parametrize("command", ["BUSY", "STUBBORN"])
@pytest.mark.parametrize("end", ["client.abandon()", "client.shutdown(wait=False)"])
def test_threads_that_wait_in_every_way_are_told_of_the_end(launcher: Any, command: str, end: str) -> None:
    body = WAITERS.replace("COMMAND", command).replace("END", end)
    # One that heeds the interrupt has all the time it needs, and is no failure.
    env = {"MPIFRAME_GRACE": "20"} if command == "BUSY" else {}
    ended = end_after(launcher, body, 2 * PROMPT, env=env)
    assert ended.stdout.startswith("7\n"), ended.said
    assert (ended.status == 0) == (command == "BUSY"), ended.said
