"""Scripts written for casampi, from start to end. Each test starts its own worlds, on every MPI there is."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from .conftest import HEAD, START

pytestmark = pytest.mark.timeout(60)

Casampi = Callable[..., Any]
SECONDS = 30.0  # for any of these worlds; about one as a rule
QUICK = 25.0  # for worlds that must not wait for what they drop, on a busy machine: that would never end
PATIENT = {"MPIFRAME_GRACE": "10"}  # what is interrupted has time to end, on a busy machine, too

PLAIN = pytest.mark.parametrize("plain", [False, True], ids=["run", "plain"])


# -- life -----------------------------------------------------------------------------------------


def test_the_life_cycle(casampi: Casampi) -> None:
    script = (
        HEAD
        + """
client = MPICommandClient()
assert client.get_lifecyle_state() == 0
assert MPIEnvironment.command_handling_log_level == "NORMAL"
assert client.push_command_request("1") is None
assert client.push_command_request("1", True, 1) is None
assert client.get_server_status() is None
assert client.get_server_status(1) is None
assert client.get_command_request_list() == client.get_command_response_list() == {}
client.start_services()
assert client.get_lifecyle_state() == 1
client.start_services()
assert client.get_lifecyle_state() == 1
assert client.push_command_request("1 +") is None
ids = client.push_command_request("20 + 1", False, [1, 2])
assert ids == [1, 2], ids
assert client.push_command_request("40 + 2", True)[0]["id"] == 3
client.stop_services()
assert client.get_lifecyle_state() == 2
client.stop_services()
assert client.get_lifecyle_state() == MPICommandClient().get_lifecyle_state() == 2
assert client.push_command_request("1") is None
assert client.push_command_request("1", True, [1, 2]) is None
client.start_services()
assert client.get_lifecyle_state() == 2
assert client.push_command_request("1", True) is None
assert [r["ret"] for r in within(5, client.get_command_response, [ids, 3], True)] == [21, 21, 42]
assert client.get_command_response_event(ids).is_set()
assert list(client.get_command_request_list()) == list(client.get_command_response_list()) == [1, 2, 3]
try:
    client.get_command_response([4], True)
except KeyError:
    print("the end")
"""
    )
    ended = casampi(script).wait(SECONDS).expect(0)
    assert ended.stdout == "the end\n"
    assert ended.stderr.count("push_command_request: the services are not started") == 2
    assert ended.stderr.count("push_command_request: the services were stopped") == 3
    assert "cannot start again" in ended.stderr


def test_starting_with_the_first_client(casampi_once: Casampi) -> None:
    """And stopping by the last handle on the services."""
    script = (
        HEAD
        + """
client = MPICommandClient(start_services=True)
assert client.get_lifecyle_state() == 1
interface = MPIInterface.getCluster()
assert interface.isClusterRunning()
assert interface._cluster.pgc("6 * 7")[0]["ret"] == 42
interface.stop_cluster()
assert not interface.isClusterRunning()
assert client.get_lifecyle_state() == 2
assert interface._cluster.pgc("1") is None
assert len(interface.get_status()) == 3
print("the end")
"""
    )
    assert casampi_once(script).wait(SECONDS).expect(0).stdout.endswith("the end\n")


def test_the_monitor_before_the_start(casampi_once: Casampi) -> None:
    """What it cannot say yet it tells as everything here tells bad use: no exception of ours."""
    script = (
        HEAD
        + """
from casampi.private.MPIMonitorClient import MPIMonitorClient
monitor = MPIMonitorClient(start_services=False)
assert MPICommandClient().get_lifecyle_state() == 0
for ask in ("get_server_rank_available", "get_server_rank_online", "get_server_timeout",
            "start_debugging_mode", "stop_debugging_mode", "stop_services", "get_server_status"):
    assert not getattr(monitor, ask)(), ask
assert monitor.get_server_status_keyword(1, "busy") is None
MPIMonitorClient()
assert MPICommandClient().get_lifecyle_state() == 1
assert monitor.get_server_rank_online() == [1]
print("the end")
"""
    )
    assert casampi_once(script, 2).wait(SECONDS).expect(0).stdout == "the end\n"


STOP = """
running = client.push_command_request(gate("long") + "\\nkept = 42", False, 1)
queued = client.push_command_request(write("ran"), False, [1, 1])
until(lambda: has_begun("long"))
waiting = []
def wait():
    waiting.extend(client.get_command_response([running, queued], True))
thread = threading.Thread(target=wait)
thread.start()
event = client.get_command_response_event([running, queued])
def open_late():
    until(lambda: client.get_lifecyle_state() == 2)
    open_gate("long")
"""
STOPPED = """
assert client.get_lifecyle_state() == 2
assert not os.path.exists("ran")
thread.join(10)
responses = within(5, client.get_command_response, [running, queued], True)
assert waiting == responses, waiting
assert event.wait(5)
ended, *never = responses
for response in never:
    assert response["successful"] is False and response["ret"] is None
    assert "never ran" in response["traceback"], response
    assert "command_start_time" not in response
assert client.get_command_response_list()[queued[0]] == never[0]
"""


def test_an_unforced_stop_waits_for_what_runs(casampi: Casampi) -> None:
    """What is queued never runs, and whoever waits for it is told."""
    script = (
        HEAD
        + START
        + STOP
        + """
opener = threading.Thread(target=open_late)
opener.start()
client.stop_services()
assert os.path.exists("long-opened")
"""
        + STOPPED
        + """
assert ended["successful"] is True, ended
assert ended["status"] == "response received"
print("the end")
"""
    )
    ended = casampi(script).wait(SECONDS).expect(0)
    assert ended.stdout == "the end\n"
    assert "2 command requests never ran, because the services stop: 2, 3" in ended.stderr


def test_a_forced_stop_interrupts_what_runs(casampi: Casampi) -> None:
    script = (
        HEAD
        + START
        + STOP
        + """
start = time.monotonic()
client.stop_services(True)
assert time.monotonic() - start < 15  # it would never end
"""
        + STOPPED
        + """
assert ended["successful"] is False
assert "KeyboardInterrupt" in ended["traceback"], ended
print("the end")
"""
    )
    ended = casampi(script, env=PATIENT).wait(SECONDS).expect(0)
    assert ended.stdout == "the end\n"


def test_what_the_log_says_never_ran_does_not_run(casampi_once: Casampi) -> None:
    """Though its server becomes free while the services stop."""
    script = (
        HEAD
        + """
import logging

class Frees(logging.Handler):
    def emit(self, record):
        if "never ran" in record.getMessage():
            open_gate("long")
            until_then = time.monotonic() + 0.5
            while not os.path.exists("ran") and time.monotonic() < until_then:
                time.sleep(0.001)

logging.getLogger("mpiframe.casampi").addHandler(Frees())
"""
        + START
        + STOP
        + """
opener = threading.Thread(target=open_late)
opener.start()
client.stop_services()
"""
        + STOPPED
        + "print('the end')"
    )
    ended = casampi_once(script).wait(SECONDS).expect(0)
    assert ended.stdout == "the end\n"


def test_nothing_waits_to_be_sent_after_the_stop(casampi_once: Casampi) -> None:
    """Neither who asked before the stop, nor who asks after it."""
    script = (
        HEAD
        + START
        + """
running = client.push_command_request(gate("long"), False, 1)
queued = client.push_command_request("1", False, 1)
until(lambda: has_begun("long"))
before = threading.Thread(target=client.wait_for_command_request_sent, args=(queued,), daemon=True)
before.start()
client.stop_services(True)
before.join(5)
assert not before.is_alive(), "the wait that began before the stop does not end"
after = threading.Thread(target=client.wait_for_command_request_sent, args=(queued,), daemon=True)
after.start()
after.join(5)
assert not after.is_alive(), "the wait that began after the stop does not end"
print("the end")
"""
    )
    assert casampi_once(script, 2, env=PATIENT).wait(SECONDS).expect(0).stdout == "the end\n"


# -- ends -----------------------------------------------------------------------------------------

LEFT = """
client.push_command_request(gate("long"), False, 1)
client.push_command_request(write("ran"), False, 1)
client.push_command_request("1 / 0", False, 2)
until(lambda: has_begun("long"))
"""


@PLAIN
def test_a_script_that_does_not_stop_the_services(casampi: Casampi, plain: bool) -> None:
    """Its end is a forced stop; what it has not asked for was not a failure of its own."""
    world = casampi(HEAD + START + LEFT + "print('the end')", plain=plain, env=PATIENT)
    ended = world.wait(SECONDS).expect(0)
    assert ended.stdout == "the end\n"
    assert "1 command requests never ran" in ended.stderr
    assert not (world.folder / "ran").exists()
    assert ended.seconds < QUICK


@pytest.mark.parametrize("started", [True, False], ids=["started", "not-started"])
@PLAIN
def test_an_exception_of_the_script(casampi: Casampi, plain: bool, started: bool) -> None:
    begin = START + LEFT if started else "client = MPICommandClient()\n"
    world = casampi(HEAD + begin + "raise OSError('enough')", plain=plain)
    ended = world.wait(SECONDS)
    assert ended.status == 1 or (plain and ended.status > 0)
    assert ended.stderr.count("OSError: enough") == 1
    assert "script.py" in ended.stderr
    assert not (world.folder / "ran").exists()
    assert ended.seconds < QUICK


@PLAIN
def test_the_scripts_own_status(casampi: Casampi, plain: bool) -> None:
    casampi(HEAD + START + LEFT + "sys.exit(3)", plain=plain).wait(QUICK).expect(3)


def test_ctrl_c_while_the_script_waits(casampi: Casampi) -> None:
    """The script has its KeyboardInterrupt, and the world ends as a shell expects it."""
    script = (
        HEAD
        + START
        + """
ids = client.push_command_request(gate("long"), False, 1)
def press():
    until(lambda: has_begun("long"))
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=press).start()
client.get_command_response(ids, True)
print("went on")
"""
    )
    ended = casampi(script).wait(QUICK).expect(130)
    assert "KeyboardInterrupt" in ended.stderr
    assert ended.stdout == ""


def test_a_script_that_is_killed_leaves_no_server(casampi_once: Casampi) -> None:
    """Looked for by the launcher of these tests: no process may be left."""
    world = casampi_once(HEAD + START + LEFT + "os.kill(os.getpid(), 9)")
    assert world.wait(QUICK).status != 0
    assert not (world.folder / "ran").exists()


def test_stopped_by_the_script_and_then_an_exception(casampi: Casampi) -> None:
    script = HEAD + START + "client.stop_services()\nraise OSError('late')"
    ended = casampi(script, 2, plain=True).wait(QUICK)
    assert ended.status != 0
    assert "OSError: late" in ended.stderr


@pytest.mark.parametrize(
    ("plain", "begin"), [(False, "started"), (True, "started"), (False, "client"), (True, "nothing")]
)
def test_finalizing_mpi(casampi: Casampi, plain: bool, begin: str) -> None:
    """The services stop with it, and the script goes on without them."""
    lines = {
        "started": START + "assert client.push_command_request('42', True, 1)[0]['ret'] == 42\n",
        "client": "client = MPICommandClient()\n",
        "nothing": "client = None\n",
    }
    script = (
        HEAD
        + lines[begin]
        + """
from mpi4py import MPI
MPIEnvironment.finalize_mpi_environment()
assert MPI.Is_finalized()
MPIEnvironment.finalize_mpi_environment()
if client is not None:
    assert client.get_lifecyle_state() == (2 if "BEGIN" == "started" else 0)
    assert client.push_command_request("1") is None
print("the end")
""".replace("BEGIN", begin)
    )
    ended = casampi(script, plain=plain).wait(QUICK).expect(0)
    assert ended.stdout == "the end\n"


def test_starting_after_mpi_was_finalized(casampi_once: Casampi) -> None:
    """There is nobody left to start: an error, and the script can go on."""
    script = (
        HEAD
        + """
client = MPICommandClient()
MPIEnvironment.finalize_mpi_environment()
try:
    client.start_services()
except RuntimeError:
    pass
print(client.get_lifecyle_state() != 1, client.push_command_request("1"))
"""
    )
    ended = casampi_once(script, 2).wait(QUICK)
    assert ended.stdout == "True None\n", ended.said


@PLAIN
def test_aborting(casampi: Casampi, plain: bool) -> None:
    script = HEAD + START + LEFT + "MPIEnvironment.abort_mpi_environment()\nprint('went on')"
    ended = casampi(script, plain=plain).wait(QUICK)
    assert ended.status != 0
    assert "went on" not in ended.stdout


# -- starts ---------------------------------------------------------------------------------------


ALONE = """
import sys
from casampi.MPIEnvironment import MPIEnvironment
from casampi.MPICommandClient import MPICommandClient
from casampi.MPIInterface import MPIInterface
import casampi.private.start_mpi, casampi.private.server_run
assert MPIEnvironment.is_mpi_enabled is False
assert MPIEnvironment.is_mpi_client is False
assert MPIEnvironment.is_mpi_disabled_or_client() is True
assert MPIEnvironment.mpi_world_size == 1
assert MPIEnvironment.mpi_processor_rank == 0
assert MPIEnvironment.mpi_buffer_allocated is False
assert MPIEnvironment.mpi_info_msg == "MPI Disabled"
assert MPIEnvironment.mpi_execution_role == MPIEnvironment.processor_origin == ""
assert MPIEnvironment.mpi_server_rank_list() == []
print(MPIEnvironment.mpi_error_msg)
for make in (MPICommandClient, MPIInterface, MPIInterface.getCluster):
    try:
        make()
    except RuntimeError as error:
        print(error)
MPIEnvironment.finalize_mpi_environment()
print(__name__, *sys.argv)
sys.exit(4)
"""


@pytest.mark.parametrize("how", ["our module", "python"])
def test_without_mpiexec(one_launcher: Any, tmp_path: Any, how: str) -> None:
    """MPI is not enabled, and such scripts do their work by themselves."""
    path = tmp_path / "script.py"
    text = ALONE if how == "our module" else ALONE.replace("casampi.", "mpiframe.compat.casampi.")
    path.write_text(text)
    words = ["-m", "mpiframe.compat.casampi"] if how == "our module" else []
    ended = one_launcher.run([*words, str(path), "word"], 1, plain=True, seconds=SECONDS).expect(4)
    lines = ended.stdout.splitlines()
    assert lines[0] == "MPI is not enabled: this run has one process only"
    assert [line.startswith("MPI is not enabled. ") for line in lines[1:4]] == [True] * 3
    assert "mpiframe run -n 4 --casampi script.py" in lines[1]
    assert lines[4:] == [f"__main__ {path} word"]


def test_our_module_without_a_script(one_launcher: Any) -> None:
    for words in ([], ["-m"]):
        ended = one_launcher.run(["-m", "mpiframe.compat.casampi", *words], 1, plain=True).expect(2)
        assert "usage:" in ended.stderr


def test_a_module_instead_of_a_script(one_launcher: Any) -> None:
    """It finds the client under the original's name, and the rest of its command line."""
    words = ["--casampi", "-m", "timeit", "-n1", "-r1", "-s"]
    words += ["from casampi.MPICommandClient import MPICommandClient as C; c = C(True)"]
    words += ["assert c.push_command_request('6*7', True)[0]['ret'] == 42; print('asserted')"]
    assert "asserted\n" in one_launcher.run(words, 2, seconds=SECONDS).expect(0).stdout


RANKS = """
import os, pathlib
pathlib.Path(f"before-{os.getpid()}").touch()
IMPORT
pathlib.Path(f"after-{os.getpid()}").touch()
"""
IMPORTS = {
    "client": "from casampi.MPICommandClient import MPICommandClient",
    "interface": "from casampi.MPIInterface import MPIInterface",
    "start_mpi": "import casampi.private.start_mpi",
    "mpi4casa": "from mpiframe.compat.mpi4casa.MPICommandClient import MPICommandClient",
}


@pytest.mark.parametrize("which", IMPORTS)
def test_a_server_runs_nothing_after_the_import(casampi_once: Casampi, which: str) -> None:
    """Every rank writes files; those written after the import are the client's. And no client is made."""
    script = RANKS.replace("IMPORT", IMPORTS[which]).replace(
        "import casampi", "import mpiframe.compat.casampi"
    )
    world = casampi_once(script + "print('the end')", plain=True)
    assert world.wait(QUICK).expect(0).stdout == "the end\n"
    files = sorted(path.name.partition("-") for path in world.folder.glob("*-*"))
    before = [pid for word, _, pid in files if word == "before"]
    after = [pid for word, _, pid in files if word == "after"]
    assert len(before) == 3
    assert len(after) == 1
    assert after[0] in before


def test_a_plain_script_that_changed_one_import(casampi: Casampi) -> None:
    """Here under mpi4casa's name; commands that import it as before find ours, on the servers too."""
    script = (
        RANKS.replace("IMPORT", IMPORTS["mpi4casa"])
        + """
client = MPICommandClient()
client.set_log_mode("redirect")
client.start_services()
pids = [r["ret"] for r in client.push_command_request("os.getpid()", True, [1, 2])]
roles = client.push_command_request(
    "import mpi4casa.MPIEnvironment, casampi.MPIEnvironment\\n"
    "role = casampi.MPIEnvironment.MPIEnvironment.mpi_execution_role", True, [1, 2])
assert [r["traceback"] for r in roles] == [None, None]
assert [r["ret"] for r in client.push_command_request("role", True, [1, 2])] == ["MPIServer"] * 2
client.stop_services()
print(*pids)
"""
    )
    world = casampi(script, plain=True)
    pids = world.wait(QUICK).expect(0).stdout.split()
    assert len(pids) == 2
    assert all((world.folder / f"before-{pid}").exists() for pid in pids)
    assert len(list(world.folder.glob("after-*"))) == 1
    assert not any((world.folder / f"after-{pid}").exists() for pid in pids)


def test_the_script_is_run_once(casampi_once: Casampi) -> None:
    """By `mpiframe run`, too; even what stands before the import."""
    world = casampi_once(RANKS.replace("IMPORT", IMPORTS["client"]) + "print('the end')")
    assert world.wait(QUICK).expect(0).stdout == "the end\n"
    assert len(list(world.folder.glob("before-*"))) == len(list(world.folder.glob("after-*"))) == 1


def test_the_original_that_was_there_first(casampi_once: Casampi) -> None:
    """A casampi that is at work already has taken the servers: that is said, and what to do."""
    script = """
import sys, types
for name in ("casampi", "casampi.private", "casampi.private.start_mpi"):
    sys.modules[name] = types.ModuleType(name)
try:
    import mpiframe.compat.casampi.MPICommandClient
except ImportError as error:
    print(error)
"""
    ended = casampi_once(script, 1, plain=True).wait(SECONDS).expect(0)
    assert re.search("the original casampi was imported before .*`mpiframe run -n N --casampi", ended.stdout)
