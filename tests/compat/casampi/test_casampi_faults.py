"""What harms a world: servers that end, servers that hang. Each must be told, and soon."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from .conftest import HEAD, START

pytestmark = pytest.mark.timeout(60)

Casampi = Callable[..., Any]
SECONDS = 30.0
QUICK = 25.0  # 5 s for the error; and the start and the end of the world, which take long on a busy machine


# -- servers that end -----------------------------------------------------------------------------

DEATHS = {
    "exits": ("os._exit(3)", ""),
    "exits with 0": ("os._exit(0)", ""),
    "leaves C": ("__import__('ctypes').CDLL(None).exit(0)", ""),
    "segfaults": ("__import__('ctypes').string_at(0)", "Segmentation fault"),
    "is killed": ("os.kill(os.getpid(), 9)", ""),
}


@pytest.mark.parametrize(
    # Not C's exit(0) under MPICH's own mpiexec: that may call it a success, and nothing here can tell it.
    ("how", "plain"),
    [*[(how, False) for how in DEATHS], ("exits with 0", True)],
)
def test_a_server_that_ends(casampi: Casampi, how: str, plain: bool) -> None:
    """The whole world may end with it; what it must not do is hang, or look like success."""
    command, said = DEATHS[how]
    script = (
        HEAD
        + START
        + f"""
pid, host = client.get_server_status(1)["pid"], MPIEnvironment.hostname
(response,) = client.push_command_request({command!r}, True, 1)
assert response["successful"] is False and response["ret"] is None
assert response["status"] == "timeout"
assert f"Timeout of assigned server n# 1 deployed at {{host}} with PID {{pid}}" in response["traceback"]
print("told")
"""
    )
    ended = casampi(script, plain=plain).wait(SECONDS)
    assert ended.status != 0
    assert ended.seconds < QUICK
    # Where the launcher was quicker, the script could not be told; MPICH's writes its own words to stdout.
    assert "told\n" in ended.stdout or "script.py" not in ended.stderr, ended.said
    assert "AssertionError" not in ended.stderr
    assert said in ended.stderr
    assert ended.said.strip(), "nobody said why"


def test_a_server_that_ends_while_nobody_waits(casampi: Casampi) -> None:
    script = (
        HEAD
        + START
        + """
client.push_command_request("os.kill(os.getpid(), 9)", False, 1)
until(lambda: client.get_server_status(1)["timeout"], 20)
sys.exit(5)
"""
    )
    ended = casampi(script).wait(SECONDS)
    assert ended.status != 0
    assert ended.seconds < QUICK


# -- servers that hang ----------------------------------------------------------------------------

WATCH = """
from casampi.private.MPIMonitorClient import MPIMonitorClient
MPIEnvironment.mpi_monitor_status_service_heartbeat = 0.1
MPIEnvironment.mpi_monitor_status_service_timeout = 2  # on a busy machine a server that works may need one
client = MPICommandClient()
client.start_services()
monitor = MPIMonitorClient()
pid = client.get_server_status(1)["pid"]

def timed_out(response):
    host = MPIEnvironment.hostname
    assert response["status"] == "timeout", response
    assert response["successful"] is False and response["ret"] is None
    assert f"Timeout of assigned server n# 1 deployed at {host} with PID {pid}" in response["traceback"]
    assert not {"command_start_time", "command_stop_time"} & set(response)

def received(response, ret=None):
    assert response["status"] == "response received", response
    assert response["successful"] is True, response
    assert response["ret"] == ret
    assert response["command_stop_time"] >= response["command_start_time"]
"""
STOPPED_SERVER = """
(running,) = client.push_command_request(gate("long"), False, 1)
(queued,) = client.push_command_request("a + 1", False, 1, {"a": 41})
until(lambda: has_begun("long"))
open_gate("long") if OPENED else None
os.kill(pid, signal.SIGSTOP)
"""


def test_a_server_that_hangs_and_comes_back(casampi: Casampi) -> None:
    script = (
        HEAD
        + WATCH
        + STOPPED_SERVER.replace("OPENED", "False")
        + """
assert monitor.get_server_timeout() == []
both = client.get_command_response_event([running, queued])
start = time.monotonic()
first, second = within(10, client.get_command_response, [running, queued], True)
assert 0.8 < time.monotonic() - start < 10
timed_out(first)
timed_out(second)
assert (first["mode"], second["mode"], second["parameters"]) == ("exec", "eval", {"a": 41})
assert monitor.get_server_timeout() == [1]
assert monitor.get_server_rank_online() == monitor.get_server_rank_available() == [2]
row = client.get_server_status(1)
assert row["timeout"] and row["busy"] and row["pong_pending"] and row["pong_checks"] > 1, row
assert client.get_server_status(2)["timeout"] is False
interface = MPIInterface.getCluster()
assert interface._cluster.get_engines() == [2]
assert client.get_command_request_list()[running]["status"] == "timeout"

# Nothing can be pushed to it; untargeted commands go to others.
known = len(client.get_command_request_list())
assert client.push_command_request("1", True, 1) is None
assert client.push_command_request("1", True, [1, 2]) is None
assert len(client.get_command_request_list()) == known
assert [client.push_command_request("1", True)[0]["server"] for _ in range(5)] == [2] * 5
client.wait_for_command_request_sent([running, queued])
try:
    interface._cluster.check_job([running])
except Exception as error:
    assert "Timeout of assigned server n# 1" in str(error), error
else:
    raise AssertionError("a job that timed out is no success")

# It comes to itself: so do its answers.
os.kill(pid, signal.SIGCONT)
until(lambda: monitor.get_server_timeout() == [])
assert client.get_command_response([running], False) == []
open_gate("long")
first, second = within(10, client.get_command_response, [running, queued], True)
received(first)
received(second, 42)
assert both.wait(5)
assert client.push_command_request("'back'", True, 1)[0]["ret"] == "back"
assert client.push_command_request("'back'", True, [2, 1])[1]["ret"] == "back"
assert monitor.get_server_rank_online() == [1, 2]
client.stop_services()
print("the end")
"""
    )
    ended = casampi(script).wait(SECONDS).expect(0)
    assert ended.stdout == "the end\n"
    assert "has not answered for" in ended.stderr
    assert "answers again" in ended.stderr


def test_an_event_of_a_server_that_hangs(casampi_once: Casampi) -> None:
    """It is set by the time-out, as the response is there then; or who waits for it waits for ever."""
    script = (
        HEAD
        + WATCH
        + STOPPED_SERVER.replace("OPENED", "True")
        + """
event = client.get_command_response_event([running, queued])
until(lambda: monitor.get_server_timeout() == [1])
late = client.get_command_response_event(running)
try:
    assert event.wait(10), "made before the time-out"
    assert late.wait(10), "made after the time-out"
finally:
    os.kill(pid, signal.SIGCONT)
print("the end")
"""
    )
    assert casampi_once(script, 2).wait(SECONDS).expect(0).stdout == "the end\n"


def test_no_time_out_in_debugging_mode(casampi_once: Casampi) -> None:
    script = (
        HEAD
        + WATCH
        + """
monitor.start_debugging_mode()
"""
        + STOPPED_SERVER.replace("OPENED", "True")
        + """
start = time.monotonic()
until(lambda: time.monotonic() - start > 2.6 or monitor.get_server_timeout())
assert monitor.get_server_timeout() == []
assert client.get_server_status(1)["pong_checks"] > 5
assert client.get_command_response([running, queued], False) == []
monitor.stop_debugging_mode()
stopped = time.monotonic()
timed_out(within(10, client.get_command_response, [running], True)[0])
assert time.monotonic() - stopped > 0.8, "the time-out counts from the end of the debugging mode on"
assert monitor.get_server_timeout() == [1]
os.kill(pid, signal.SIGCONT)
until(lambda: monitor.get_server_timeout() == [])
received(within(10, client.get_command_response, [queued], True)[0], 42)
print("the end")
"""
    )
    assert casampi_once(script, 2).wait(SECONDS).expect(0).stdout == "the end\n"


def test_a_command_that_holds_the_interpreters_lock(casampi_once: Casampi) -> None:
    """C code that does not let go of it: honest work that looks as if it hung, until it ends."""
    script = (
        HEAD
        + WATCH
        + """
ids = client.push_command_request("__import__('ctypes').PyDLL(None).usleep(4000000)", False, 1)
timed_out(within(10, client.get_command_response, ids, True)[0])
assert client.push_command_request("1", True, 1) is None
assert client.push_command_request("'free'", True)[0]["server"] == 2
until(lambda: monitor.get_server_timeout() == [])
received(within(10, client.get_command_response, ids, True)[0], 0)
assert client.push_command_request("'back'", True, 1)[0]["ret"] == "back"
client.stop_services()
print("the end")
"""
    )
    assert casampi_once(script).wait(SECONDS).expect(0).stdout == "the end\n"


@pytest.mark.parametrize("force", [True, False])
def test_stopping_while_a_server_hangs(casampi_once: Casampi, force: bool) -> None:
    """The stop does not wait for it, nor does anybody who asked for its responses; the world ends badly."""
    script = (
        HEAD
        + WATCH
        + STOPPED_SERVER.replace("OPENED", "False")
        + f"""
until(lambda: monitor.get_server_timeout() == [1])
within(15, lambda: client.stop_services({force}) or True)
for response in within(5, client.get_command_response, [running, queued], True):
    assert response["successful"] is False, response
print("stopped")
"""
    )
    ended = casampi_once(script, env={"MPIFRAME_STOP_TIMEOUT": "1"}).wait(SECONDS)
    assert ended.status != 0
    assert ended.stdout.startswith("stopped\n"), ended.said  # the launcher may add its own words
    assert "will end by force" in ended.stderr


def test_a_server_that_is_killed_while_it_hangs(casampi_once: Casampi) -> None:
    script = (
        HEAD
        + WATCH
        + STOPPED_SERVER.replace("OPENED", "False")
        + """
until(lambda: monitor.get_server_timeout() == [1])
os.kill(pid, signal.SIGKILL)
timed_out(within(10, client.get_command_response, [running], True)[0])
until(lambda: False, 10)
"""
    )
    ended = casampi_once(script).wait(SECONDS)
    assert ended.status != 0


def test_a_ping_that_is_under_way_at_the_end(casampi: Casampi) -> None:
    """A server that is slow to hear it answers nobody; it must not wait for a farewell for ever then."""
    script = (
        HEAD
        + START
        + """
import subprocess
pid, me = client.get_server_status(1)["pid"], os.getpid()
client.stop_services()
os.kill(pid, signal.SIGSTOP)  # slow indeed
client._session._client._loop.pulse.ping()
# Until this process is gone or, where it waits for all ranks to finalize MPI, for a while.
wait = f"for i in $(seq 20); do kill -0 {me} 2>/dev/null || break; sleep 0.05; done; kill -CONT {pid}"
subprocess.Popen(["/bin/sh", "-c", wait], start_new_session=True)
print("the end")
"""
    )
    ended = casampi(script, 2).wait(QUICK).expect(0)
    assert ended.stdout == "the end\n"
    assert ended.stderr == ""
