"""The scheduler as a plugin of a server, in real worlds."""

from __future__ import annotations

import ast
import os
from pathlib import Path
from typing import Any

import pytest

NAMED = [name for name in os.environ.get("MPIFRAME_TEST_SCHEDULERS", "").split(",") if name]
ROOT = Path(__file__).resolve().parents[3]

SCRIPT = """
import os, sys, threading, time
import mpiframe
from mpiframe.plugins.scheduler import JobNotFound, JobStatus, LocalBackend, OptionError, State

QTYPE = sys.argv[1]

def work(x):
    return [x] * 3

def fail():
    raise LookupError("not here")

if QTYPE == "local":  # two jobs run at once, however few cores the machine has
    local = LocalBackend(cores=4)
    assert local.listing(None) == []

with mpiframe.Client() as client:
    try:
        client.plugin("scheduler", target=1, qtype="lsf")
    except mpiframe.PluginError as error:
        assert "lsf" in str(error), error
    sched = client.plugin("scheduler", target=1, qtype=QTYPE, poll_seconds=0.2, longest_poll_seconds=1.0)
    assert sched.qtype() == QTYPE
    events, ended = [], threading.Event()
    slow = None

    def heard(server, event):
        events.append((server, event))
        if event.ended and event.job == slow:
            ended.set()

    sched.subscribe(heard)
    slow = sched.submit("while [ ! -e go ]; do sleep 0.05; done; exit 3")
    waiting = sched.get.submit(slow)
    # Its queue of commands goes on while that is waited for.
    assert client.submit(os.getpid, target=1).result(30) > 0
    assert not waiting.done()
    number = sched.submit(work, [7])
    assert sched.result(number) == [7, 7, 7]
    open("go", "w").close()
    assert waiting.result(60) == (3, "", "")
    assert ended.wait(60)
    assert {server for server, _ in events} == {1}
    assert all([isinstance(event, JobStatus) for _, event in events])
    (status,) = sched.status(slow)
    assert (status.state, status.exit_code) == (State.FAILED, 3)
    assert sched.wait(slow)[0].exit_code == 3
    for call, kind, text in (
        (lambda: sched.result(sched.submit(fail)), LookupError, "not here"),
        (lambda: sched.submit("true", walltme=5), OptionError, "walltime"),
        (lambda: sched.get("99999"), JobNotFound, "99999"),
    ):
        try:
            call()
        except mpiframe.CommandError as error:
            assert isinstance(error.__cause__, kind), repr(error.__cause__)
            assert text in str(error.__cause__)
        else:
            raise AssertionError("nothing was raised")
    long = sched.submit("sleep 1000")
    assert long in [one.job for one in sched.jobs()]
    waiting = sched.wait.submit(long)
    sched.cancel(long)
    assert waiting.result(60)[0].state is State.CANCELLED
    assert sched.clean(number)
    assert "walltime" in sched.option_help()
    # An MPI rank's variables do not reach a job.
    number = sched.submit("env")
    text = sched.get(number)[1]
    assert "PATH=" in text
    assert not [line for line in text.splitlines() if line.startswith(("PMI", "OMPI_COMM", "PMIX"))], text
    sched.unload()
    if QTYPE == "local":
        local.stop()
    print("all well")
"""


def declared() -> str:
    """The entry points of setup.py, as an installed package has them."""
    for node in ast.walk(ast.parse((ROOT / "setup.py").read_text())):
        if isinstance(node, ast.keyword) and node.arg == "entry_points":
            groups = ast.literal_eval(node.value)
            return "\n".join(line for group, entries in groups.items() for line in [f"[{group}]", *entries])
    raise AssertionError("setup.py declares none")


@pytest.mark.parametrize("qtype", ["local", *NAMED])
def test_the_plugin(launcher: Any, request: pytest.FixtureRequest, qtype: str, tmp_path: Path) -> None:
    if qtype != "local":
        request.getfixturevalue(qtype)
    made = tmp_path / "mpiframe-0.dist-info"  # so that it is found by name in a checkout, too
    made.mkdir()
    (made / "METADATA").write_text("Metadata-Version: 2.1\nName: mpiframe\nVersion: 0\n")
    (made / "entry_points.txt").write_text(declared())
    (tmp_path / "script.py").write_text(SCRIPT)
    env = {
        "MPIFRAME_SCHEDULER_STATE": str(tmp_path / "state"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)]),
    }
    ended = launcher.run([str(tmp_path / "script.py"), qtype], 2, env=env, seconds=100).expect(0)
    assert ended.stdout == "all well\n", ended.said
