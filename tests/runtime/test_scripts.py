"""Whole worlds: how they start and how they end. Each test starts its own, on every MPI there is."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(120)

QUICK = 45.0  # seconds for worlds that must not wait for what they drop, which would take far longer

HEAD = """
import logging, operator, os, pathlib, signal, sys, threading, time
import mpiframe
"""


def world(body: str) -> str:
    """A script whose client is open while `body` runs."""
    lines = [f"    {line}" for line in body.strip("\n").split("\n")]
    return "\n".join([HEAD, "with mpiframe.Client() as client:", *lines, ""])


# -- the exit status tells the truth ---------------------------------------------------------------


FAILURES = {
    "response": "client.push('def f(v): return 1 / v\\nf(0)', target=2, block=True)[0].result()",
    "future": "client.submit(operator.truediv, 1, 0, target=2).result()",
    "unfetched": "client.push('def f(v): return 1 / v\\nf(0)', target=2)",
    "plugin": """
class Own(mpiframe.Plugin):
    name = "own"
    @mpiframe.command
    def divide(self): return 1 / 0
client.plugin(Own, target=2).divide()
""",
}


@pytest.mark.parametrize("how", FAILURES)
def test_a_failure_is_told(launcher: Any, how: str) -> None:
    ended = launcher.run(world(FAILURES[how])).expect(1)
    assert "ZeroDivisionError" in ended.stderr
    assert "server 2" in ended.stderr
    if how in ("response", "unfetched"):
        assert "return 1 / v" in ended.stderr
    if how == "future":
        assert "truediv" in ended.stderr


def test_good_endings(launcher: Any) -> None:
    """Functions and classes of the script, output, and all that was pushed is done at the end."""
    script = (
        HEAD
        + """
LIMIT = 3
class Point:
    def __init__(self, x): self.x = x
    def __eq__(self, other): return type(other) is Point and self.x == other.x
def move(point, by=1):
    if point.x > LIMIT: raise ValueError(point.x)
    return Point(point.x + by)
def main():
    with mpiframe.Client() as client:
        assert client.submit(move, Point(2), by=5).result() == Point(7)
        assert [r.ret for r in client.push(lambda: LIMIT, target="all", block=True)] == [3, 3]
        try:
            client.submit(move, Point(9)).result()
        except mpiframe.CommandError as error:
            assert isinstance(error.__cause__, ValueError)
            assert "raise ValueError(point.x)" in str(error), str(error)
        for n in range(50):
            client.push(f"print('word {n}')", target=1 + n % 2)
if __name__ == "__main__":
    main()
    print("the end", sys.argv)
"""
    )
    ended = launcher.run(script).expect(0)
    assert "the end ['script.py']" in ended.stdout
    heard = re.findall(r"^\[server ([12]) #\d+\] word (\d+)$", ended.stdout, re.MULTILINE)
    assert sorted(int(word) for _, word in heard) == list(range(50))
    assert all((int(word) % 2) + 1 == int(server) for server, word in heard)
    assert ended.stderr == ""


@pytest.mark.parametrize(
    ("leave", "status"),
    [("sys.exit(3)", 3), ("sys.exit('sorry')", 1), ("raise KeyError('k')", 1), ("sys.exit()", 0)],
)
def test_the_scripts_own_status(launcher: Any, leave: str, status: int) -> None:
    ended = launcher.run(world(leave)).expect(status)
    if "sorry" in leave:
        assert ended.stderr.startswith("sorry\n")
    if "KeyError" in leave:
        assert "script.py" in ended.stderr
        assert "mpiframe/runner.py" not in ended.stderr


@pytest.mark.parametrize("leave", ["sys.exit()", pytest.param("client.abandon()", marks=pytest.mark.long)])
def test_a_server_that_takes_its_time_to_end_is_no_failure(launcher: Any, leave: str) -> None:
    """Nor is a busy machine; a second and a half is what it has where the script has failed."""
    slow = """
class Slow(mpiframe.Plugin):
    name = "slow"
    def stop(self): time.sleep(2.5)
client.plugin(Slow, target=2)
"""
    assert launcher.run(world(slow + leave)).expect(0).said == ""


def test_a_script_that_makes_no_client(launcher: Any) -> None:
    ended = launcher.run("print('no client')").expect(0)
    assert ended.stdout == "no client\n"


def test_a_script_that_does_not_compile(launcher: Any) -> None:
    assert "SyntaxError" in launcher.run("x = = 1").expect(1).stderr


# -- clients that are not closed -------------------------------------------------------------------


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_a_client_that_nobody_closes(launcher: Any, plain: bool, fails: bool) -> None:
    script = (
        HEAD
        + """
client = mpiframe.Client()
client.push("import time; time.sleep(0.1); print('still done')", target=2)
print(client.push("6 * 7", target=1, block=True)[0].ret)
"""
        + ("client.push('1 / 0', target=1)\n" if fails else "")
    )
    ended = launcher.run(script, plain=plain).expect(1 if fails else 0)
    assert "42\n" in ended.stdout
    assert "still done" in ended.stdout
    assert ("ZeroDivisionError" in ended.stderr) == fails


@pytest.mark.parametrize("fails", [False, True])
def test_a_plain_script_with_a_block(launcher: Any, fails: bool) -> None:
    """On a server rank `Client()` serves and does not come back."""
    script = world("print(sum(r.ret for r in client.push('21', target='all', block=True)))")
    script += "raise OSError('at the end')\n" if fails else "print('only once')\n"
    ended = launcher.run(script, plain=True).expect(1 if fails else 0)
    assert ended.stdout.splitlines() == ["42"] + ([] if fails else ["only once"])


def test_a_plain_script_that_raises_with_an_open_client(launcher: Any) -> None:
    script = HEAD + "client = mpiframe.Client()\nclient.push('1', target=1)\nraise OSError('mine')"
    ended = launcher.run(script, plain=True)
    assert ended.status != 0
    assert "OSError: mine" in ended.stderr


# -- ends that do not wait ------------------------------------------------------------------------


LEAVE = """
path = str(pathlib.Path("busy").resolve())
wait = "import pathlib, time\\npathlib.Path(path).touch()\\n" + LONG
client.push(wait, target=1, parameters={"path": path})
client.push("import time; time.sleep(600)", target=1)
while not os.path.exists(path):
    time.sleep(0.01)
raise OSError("enough")
"""


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize(
    "long",
    ["time.sleep(600)", "while True:\n    try: time.sleep(600)\n    except BaseException: pass"],
)
def test_an_exception_does_not_wait_for_a_long_command(launcher: Any, plain: bool, long: str) -> None:
    """Not even for one that will not be interrupted, nor as long as a server may take that runs nothing."""
    script = world(LEAVE.replace("LONG", repr(long)))
    patient = {"MPIFRAME_STOP_TIMEOUT": "300", "MPIFRAME_KILL_GRACE": "300"}
    ended = launcher.run(script, seconds=QUICK, plain=plain, env=patient)
    assert ended.status != 0
    assert "OSError: enough" in ended.stderr


DEATHS = {
    "os._exit(3)": "os._exit(3)",
    "os._exit(0)": "os._exit(0)",
    "kill -9": "os.kill(os.getpid(), 9)",
    "crash": "import ctypes; ctypes.string_at(0)",
}


def test_a_command_that_was_cancelled_may_end_in_order_before_the_run_does(launcher: Any) -> None:
    body = """
import pathlib, time
long = "open('begun', 'w').close()\\ntry:\\n    time.sleep(60)\\nfinally:\\n    time.sleep(0.3)"
id = client.push(f"import os, time\\nos.chdir({os.getcwd()!r})\\n" + long, target=1)
while not os.path.exists("begun"):
    time.sleep(0.01)
assert client.cancel(id)
client.close()
"""
    assert launcher.run(world(body)).expect(0).stderr == ""


@pytest.mark.parametrize("how", DEATHS)
def test_a_server_that_dies_is_an_error(launcher: Any, how: str) -> None:
    """The whole job may end with it; what it must not do is hang, or look like success."""
    script = world(f"client.push('import os; ' + {DEATHS[how]!r}, target=1, block=True)[0].result()")
    ended = launcher.run(script, seconds=QUICK)
    assert ended.status != 0


BREAKING = {
    "del sys.stdout": "client.push('import sys; del sys.stdout', 1, True)",
    "a string": "client.push(\"setattr(__import__('built' + 'ins'), 'len', None)\", 1, True)",
    "a function of a module": "client.submit(setattr, __import__('builtins'), 'len', None).result()",
}


@pytest.mark.parametrize("how", BREAKING)
def test_a_command_that_breaks_the_builtins_of_its_server(launcher: Any, how: str) -> None:
    """It has an answer, and the server serves on."""
    script = world(f"{BREAKING[how]}\nprint(client.push('len([1, 2])', 1, True, timeout=10)[0].ret)")
    ended = launcher.run(script, 2, seconds=QUICK).expect(0)
    assert ended.stdout == "2\n"


# -- worlds that are none --------------------------------------------------------------------------


@pytest.mark.parametrize("plain", [False, True])
def test_one_rank_only(launcher: Any, plain: bool) -> None:
    ended = launcher.run(HEAD + "mpiframe.Client()", 1, plain=plain)
    assert ended.status != 0
    assert "mpiframe run -n 4 script.py" in ended.stderr
    assert "mpiexec -n 4 python -m mpiframe script.py" in ended.stderr


def test_use_after_close(launcher: Any) -> None:
    script = (
        HEAD
        + """
def refused(call, *args, **options):
    try:
        call(*args, **options)
    except mpiframe.WorldError as error:
        assert "closed" in str(error), error
    else:
        raise AssertionError(call)

with mpiframe.Client() as client:
    view, id, done = client.on(1), client.push("1", target=1), client.submit(abs, -1)
    try:
        mpiframe.Client()
    except mpiframe.WorldError as error:
        assert "a client already" in str(error)
    else:
        raise AssertionError("two clients")
assert done.result() == 1
client.close()
refused(client.push, "1")
refused(client.push, "x = = 1", target=77, block=True)
refused(client.get, id)
refused(client.get, id, block=False)
refused(client.submit, abs, -1)
refused(client.map, abs, [1])
refused(client.cancel, id)
refused(client.interrupt, "all")
refused(client.plugin, "any")
refused(view.push, "1")
refused(view.submit, abs, -1)
refused(mpiframe.Client)
assert {row.state for row in client.servers} == {"closed"}
with client:
    pass
print("all refused")
"""
    )
    assert launcher.run(script).expect(0).stdout == "all refused\n"


def test_shutdown_as_of_an_executor(launcher: Any) -> None:
    script = (
        HEAD
        + """
client = mpiframe.Client()
wait = "import os, time\\nwhile not os.path.exists(path): time.sleep(0.01)"
running = client.submit(wait, target=1, path=os.path.abspath("cancelled"))
waiting = [client.submit(abs, -n, target=1) for n in range(5)]
waiting[-1].add_done_callback(lambda _: pathlib.Path("cancelled").touch())
client.shutdown(cancel_futures=True)
assert running.result() is None
assert all(f.cancelled() for f in waiting), waiting
"""
    )
    launcher.run(script).expect(0)


def test_shutdown_that_does_not_wait(launcher: Any) -> None:
    script = (
        HEAD
        + """
client = mpiframe.Client()
running = client.submit(time.sleep, 600, target=1)
waiting = client.submit(abs, -1, target=1)
client.shutdown(wait=False)
assert running.exception(0) is not None
assert waiting.cancelled()
"""
    )
    launcher.run(script, seconds=QUICK).expect(0)


@pytest.mark.parametrize("plain", [False, True])
def test_a_thread_that_waits_is_told_of_the_end(launcher: Any, plain: bool) -> None:
    """Even if its command will not be interrupted; and nothing can be pushed any more."""
    script = (
        HEAD
        + """
if __name__ == "__main__":
    client = mpiframe.Client()
    path = pathlib.Path("begun").resolve()
    client.push("begun = " + repr(str(path)), target=1, block=True)
    loop = "while True:\\n    try: time.sleep(600)\\n    except BaseException: pass"
    stubborn = "import time\\nopen(begun, 'w').close()\\n" + loop
    id = client.push(stubborn, target=1)
    got = []
    waiting = threading.Thread(target=lambda: got.extend(client.get(id)))
    waiting.start()
    while not (path.exists() and client._loop._foreground):
        time.sleep(0.01)
    client.shutdown(wait=False)
    waiting.join(QUICK)
    assert got[0].status == "lost", got
    try:
        client.push("1", target=1)
    except mpiframe.WorldError:
        print("told")
""".replace("QUICK", str(QUICK))
    )
    ended = launcher.run(script, 2, seconds=QUICK, plain=plain)
    assert ended.status != 0
    assert ended.stdout == "told\n"


def test_a_plugin_is_stopped_at_the_end(launcher: Any) -> None:
    script = """
class Clock(mpiframe.Plugin):
    name = "clock"
    def start(self, context): self.context = context
    def stop(self): pathlib.Path(f"stopped-{self.context.rank}").touch()
client.plugin(Clock, target="all")
"""
    started = launcher.start(world(script))
    started.wait().expect(0)
    assert {p.name for p in started.folder.glob("stopped-*")} == {"stopped-1", "stopped-2"}


def test_a_plugin_has_time_to_stop_when_the_script_fails(launcher: Any) -> None:
    """All that a command would have had, too, if there were one."""
    script = """
class Slow(mpiframe.Plugin):
    name = "slow"
    def stop(self):
        time.sleep(1.8)
        pathlib.Path("stopped").touch()
client.plugin(Slow, target=1)
sys.exit(3)
"""
    started = launcher.start(world(script), env={"MPIFRAME_GRACE": "3"})
    assert "mpiframe" not in started.wait().expect(3).stderr  # mpiexec may have its own words of the status
    assert (started.folder / "stopped").exists()


# -- output ---------------------------------------------------------------------------------------


OUTPUT = """
client.push("print('to out'); import sys; print('to err', file=sys.stderr)", "all", block=True)
(response,) = client.push("print('word')", target=1, block=True)
assert response.stdout == "word\\n"
"""


@pytest.mark.parametrize("mode", ["redirect", "files", "quiet"])
def test_output(launcher: Any, mode: str) -> None:
    options = f"output={mode!r}, output_dir='logs'" if mode == "files" else f"output={mode!r}"
    started = launcher.start(world(OUTPUT).replace("Client()", f"Client({options})"))
    ended = started.wait().expect(0)
    if mode == "redirect":
        assert re.search(r"^\[server 2 #\d+\] to out$", ended.stdout, re.MULTILINE)
        assert re.search(r"^\[server 2 #\d+\] to err$", ended.stderr, re.MULTILINE)
        return
    assert ended.said == ""
    files = {p.name: p.read_text() for p in started.folder.glob("logs/*")}
    if mode == "quiet":
        assert files == {}
        return
    assert sorted(files) == ["mpiframe-server-1.log", "mpiframe-server-2.log"]
    lines = files["mpiframe-server-1.log"].splitlines()
    assert [line.partition("] ")[2] for line in lines] == ["to out", "to err", "word"]


def test_log_records_without_any_set_up_are_shown(launcher: Any) -> None:
    command = "import logging; logging.getLogger('x').warning('careful'); logging.info('unasked')"
    ended = launcher.run(world(f"client.push({command!r}, target=1)")).expect(0)
    assert "careful" in ended.stderr
    assert "unasked" not in ended.said


# -- how ranks wait --------------------------------------------------------------------------------


WORK = """
for n in range(30):
    assert client.push(f"{n}", target="all", block=True)[0].ret == n
values = b"x" * (1 << 20)
assert client.submit(len, values, target=1).result() == 1 << 20
assert sum(client.map(abs, range(100))) == 4950
print("worked", client.facts().doorbell)
"""


def test_without_a_doorbell(launcher: Any) -> None:
    interrupt = """
client.submit(time.sleep, 0.3, target=1)
try:
    client.interrupt(1)
except mpiframe.WorldError as error:
    assert "no doorbell" in str(error)
else:
    raise AssertionError("nobody can interrupt without a doorbell")
"""
    ended = launcher.run(world(WORK + interrupt), env={"MPIFRAME_DOORBELL": "off"}).expect(0)
    assert "worked {1: 'polling', 2: 'polling'}" in ended.stdout
    assert ended.stderr.count("polling") == 1


@pytest.mark.parametrize("spin", ["0", "0.001"])
def test_with_little_and_much_spinning(launcher: Any, spin: str) -> None:
    ended = launcher.run(world(WORK), env={"MPIFRAME_SPIN": spin}).expect(0)
    assert "worked" in ended.stdout


@pytest.mark.parametrize("setting", ["MPIFRAME_SPIN=much", "MPIFRAME_DOORBELL=maybe"])
def test_a_setting_that_cannot_be_read(launcher: Any, setting: str) -> None:
    name, value = setting.split("=")
    ended = launcher.run(world(WORK), seconds=QUICK, env={name: value})
    assert ended.status != 0
    assert name in ended.stderr
    assert value in ended.stderr


IDLE = """
client.push("1", target="all", block=True)
list(client.map(abs, range(1000)))
pathlib.Path("pids").write_text(" ".join(map(str, [os.getpid(), *(s.pid for s in client.servers)])))
pathlib.Path("idle").touch()
WAIT
"""
WAITS = {
    "asleep": "\nwhile not os.path.exists('go'): time.sleep(0.2)",
    "waiting for an answer": """
client.submit("while not os.path.exists(path): time.sleep(0.2)", target=1, time=time, os=os,
              path=str(pathlib.Path("go").resolve())).result()""",
}


def _cpu_seconds(pid: str) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("how", ["asleep", pytest.param("waiting for an answer", marks=pytest.mark.long)])
def test_an_idle_world_costs_nothing(launcher: Any, how: str) -> None:
    """No rank uses 1 % of a core: a ratio of times, the same on a slow machine."""
    started = launcher.start(world(IDLE.replace("WAIT", WAITS[how])))
    started.await_file("idle")
    pids = (started.folder / "pids").read_text().split()
    before, start = [_cpu_seconds(pid) for pid in pids], time.monotonic()
    time.sleep(4)  # not to wait for something: this is what is measured
    used = [_cpu_seconds(pid) - b for pid, b in zip(pids, before, strict=True)]
    share = [seconds / (time.monotonic() - start) for seconds in used]
    (started.folder / "go").touch()
    started.wait().expect(0)
    assert max(share) < 0.01, share


def test_a_client_that_is_killed_leaves_no_server(launcher: Any) -> None:
    """Checked by the launcher fixture: no process may be left."""
    ended = launcher.run(
        world("client.push('import time; time.sleep(600)', 1)\nos.kill(os.getpid(), 9)"),
        seconds=QUICK,
    )
    assert ended.status != 0


def test_nothing_of_ours_is_in_the_namespaces(launcher: Any) -> None:
    script = """
print(sorted(n for n in globals() if not n.startswith("__")), __name__, __file__)
import mpiframe
with mpiframe.Client() as client:
    there = client.push("sorted(globals())", target=1, block=True)[0].ret
    print([name for name in there if not name.startswith("__")])
"""
    assert launcher.run(script, 2).expect(0).stdout == "[] __main__ script.py\n[]\n"
