"""Jobs on servers of a world, and the example programs of MiG's documentation, here and there."""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from mpiframe.plugins.grid.mig import LocalServer, Mig, WorldServer, disk, on_server, shell
from mpiframe.plugins.grid.mig.records import Record
from tests.conftest import Python
from tests.interactive.attached import hub_world, until

DATA = Path(__file__).parent / "data"

# Ten seconds between two looks are for a grid: here they are a twentieth of one.
FASTER = "import os, time; pause = time.sleep; time.sleep = lambda seconds: pause(seconds / 200)\n"
EXAMPLES = ("print_out", "parameter_sweep")


def example(name: str, mode: str) -> str:
    """An example as it stands in MiG's documentation, for Python 3, with its import changed."""
    text = (DATA / f"{name}.py.txt").read_text()
    text, prints = re.subn(r"^( *)print (.*?)( *#.*)?$", r"\1print(\2)", text, flags=re.MULTILINE)
    assert prints >= 3
    text = text.replace("import miginterface as mig", "import mpiframe.compat.miginterface as mig")
    return text.replace("# mig.local_mode_on()", f"{mode} # mig.local_mode_on()")


def check_examples(launcher: Any, ranks: int, mode: str, tmp_path: Path, before: str = "") -> None:
    shutil.copy(DATA / "parameter_sweep_script.sh", tmp_path)
    script = f"{FASTER}os.chdir({str(tmp_path)!r})\n{before}"
    script += "print('-----')\n".join(example(name, mode) for name in EXAMPLES)
    env = {"MPIFRAME_MIG_HOME": str(tmp_path / "home"), "HOME": str(tmp_path)}
    ended = launcher.run(script, ranks, env=env, plain=ranks == 1).expect(0)
    first, _, second = ended.stdout.partition("-----\n")
    assert re.search(r"Job \(ID : \S+\) submitted", first)
    assert first.endswith("HELLO GRID\n\n")
    assert second.endswith("All jobs finished.\n")
    assert second.count("FINISHED") >= 5
    for number in range(5):
        text = (tmp_path / f"output{number}.txt").read_text()
        assert text == f"input {number} squared: {number * number}\n"
        assert not (tmp_path / "home" / f"output{number}.txt").exists()


def test_the_examples_here(launching_with: Any, tmp_path: Path) -> None:
    with launching_with(Python("this", sys.executable)) as launcher:
        check_examples(launcher, 1, "mig.local_mode_on()", tmp_path)


def test_the_examples_on_servers(launcher: Any, tmp_path: Path) -> None:
    make = "import mpiframe; client = mpiframe.Client()\n"
    check_examples(launcher, 3, "mig.mpi_mode_on(client)", tmp_path, make)


LIVES = """
import os, time
import mpiframe
import mpiframe.compat.miginterface as mig
from mpiframe.plugins.grid.plugin import Grid

def until(condition, what):
    limit = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < limit, what() if callable(what) else what
        time.sleep(0.005)

def wait(jobs):
    until(lambda: all(mig.job_finished(job) for job in jobs), lambda: [mig.job_info(job) for job in jobs])
    return mig.jobs_status(jobs)

here = os.getcwd()
with mpiframe.Client() as client:
    mig.mpi_mode_on(client)
    open("tool.sh", "w").write("#!/bin/sh\\ncat data > $1; echo said; echo sorry >&2; exit $2\\n")
    open("data", "w").write("in\\n")

    # Each server works through its own FIFO, and they run side by side: two meet in a pipe.
    os.mkfifo("meet")
    writer = mig.create_job(f"echo met > {here}/meet")
    reader = mig.create_job(f"cat {here}/meet")
    third = mig.create_job("cat", name="third")
    assert set(wait([writer, reader, third])) == {"FINISHED"}
    assert mig.job_output(reader) == "met\\n"

    # Files, states, and what was said.
    well, badly, missing = (
        mig.create_job(f"./run out {code}", input_files="data", executables="tool.sh run", output_files=made)
        for code, made in ((0, "out a/+JOBID+"), (3, "out b"), (0, "other"))
    )
    assert wait([well, badly, missing]) == ["FINISHED", "FAILED", "FAILED"]
    assert mig.cat_file(f"a/{well}") == mig.cat_file("b") == "in\\n"
    assert mig.job_output(badly) == "sorry\\nsaid\\n"
    assert "line 1 (./run out 3) ended with exit status 3" in mig.job_info(badly)["REASON"]
    assert "it made no other" in mig.job_info(missing)["REASON"]
    assert mig.cat_file(f"job_output/{badly}/{badly}.status") == "./run out 3 3\\n"

    # Cancel: one that runs, with all its processes, and one that waits behind it.
    line = f"sleep 60 & touch {here}/up.$$; wait; sleep 60"
    running = [mig.create_job(line) for _ in range(2)]
    queued = mig.create_job("echo never")
    until(lambda: len([n for n in os.listdir(".") if n.startswith("up.")]) == 2, "not up")
    shells = [int(n[3:]) for n in os.listdir(".") if n.startswith("up.")]
    assert mig.jobs_status([*running, queued]) == ["EXECUTING", "EXECUTING", "QUEUED"]
    mig.cancel_jobs([queued, *running])
    assert mig.jobs_status([*running, queued]) == ["CANCELED"] * 3
    for pid in shells:
        until(lambda: not os.path.exists(f"/proc/{pid}"), "its shell runs on")
    assert mig.job_output(queued) == ""
    assert wait([mig.create_job("echo next")]) == ["FINISHED"]

    try:
        mig.job_status("nobody")
    except mig.MigUnknownJobIdError as error:
        assert error.error_code == 100
    else:
        raise AssertionError

    mig.mpi_mode_off()
    mig.local_mode_on()
    grid = client.plugin(Grid, target=1)
    there = grid.mig_create_job("echo there", where="local")
    assert grid.mig_wait(there, where="local") == ["FINISHED"]
    assert mig.job_output(there) == "there\\n"
    assert mig.jobs_status([well, badly, queued]) == ["FINISHED", "FAILED", "CANCELED"]
print("all of it")
"""


def test_lives_of_jobs_on_servers(launcher: Any, tmp_path: Path) -> None:
    env = {"MPIFRAME_MIG_HOME": str(tmp_path / "home"), "HOME": str(tmp_path)}
    assert launcher.run(LIVES, 3, env=env).expect(0).stdout.endswith("all of it\n")


def test_lives_of_jobs_of_an_attached_process(launcher: Any, tmp_path: Path) -> None:
    with hub_world(launcher) as world, world.attach() as client:
        mig = Mig(WorldServer(client, target=[1, 1], home=str(tmp_path / "home")))
        line = f"echo $$ > {tmp_path}/new; mv {tmp_path}/new {tmp_path}/up; sleep 60 & wait"
        running, queued = mig.create_job(line), mig.create_job("echo never")
        until((tmp_path / "up").exists)
        until(lambda: mig.jobs_status([running, queued]) == ["EXECUTING", "QUEUED"])
        mig.cancel_jobs([queued, running])
        assert mig.jobs_status([running, queued]) == ["CANCELED", "CANCELED"]
        last = mig.create_job("echo next")
        until(lambda: mig.job_finished(last))
        assert mig.job_output(last) == "next\n"
        assert not Path("/proc", (tmp_path / "up").read_text().strip()).exists()


LOSSES = """
import os, signal, sys, time
import mpiframe
import mpiframe.compat.miginterface as mig

def until(condition, what):
    limit = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < limit, what
        time.sleep(0.005)

here = os.getcwd()
with mpiframe.Client() as client:
    mig.mpi_mode_on(client, target=[1, 2])
    first = mig.create_job(f"sleep 60 & echo $$ > {here}/new; mv {here}/new {here}/up; wait")
    second = mig.create_job("echo fine")
    until(lambda: os.path.exists("up"), "not up")
    os.kill(client.servers[0].pid, signal.SIGKILL)
    until(lambda: mig.job_finished(first) and mig.job_finished(second), "not ended")
    assert mig.jobs_status([first, second]) == ["FAILED", "FINISHED"]
    assert "ServerLost" in mig.job_info(first)["REASON"]
    shell = int(open("up").read())
    until(lambda: not os.path.exists(f"/proc/{shell}"), "the job outlives its server")
    print("told")
"""


def test_a_server_that_is_killed_takes_its_job_along(launcher: Any, tmp_path: Path) -> None:
    env = {"MPIFRAME_MIG_HOME": str(tmp_path / "home"), "HOME": str(tmp_path)}
    assert launcher.run(LOSSES, 3, env=env, options=("--resilient",)).expect(0).stdout == "told\n"


GONE = """
import os, signal, tempfile, time
import mpiframe
import mpiframe.compat.miginterface as mig

client = mpiframe.Client()
mig.mpi_mode_on(client)
left = os.path.join(tempfile.gettempdir(), "mpiframe-mig-left")
os.mkdir(left)
open(os.path.join(left, "alive"), "w").close()
here = os.getcwd()
jobs = [mig.create_job(f"touch {here}/up{n}; sleep 60") for n in range(2)]
open("jobs", "w").write(" ".join(jobs))
while not (os.path.exists("up0") and os.path.exists("up1")):  # the test's bound ends it
    time.sleep(0.005)
assert not os.path.exists(left)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_client_that_is_killed(launcher: Any, tmp_path: Path) -> None:
    home = tmp_path / "home"
    world = launcher.start(GONE, 3, env={"MPIFRAME_MIG_HOME": str(home), "HOME": str(tmp_path)})
    assert world.wait().status != 0
    mig = Mig(LocalServer(str(home)))
    for job in (world.folder / "jobs").read_text().split():
        assert mig.job_status(job) == "FAILED"
        assert "client whose servers ran it is gone" in mig.job_info(job)["REASON"]


OUTLIVED = """
import os
import mpiframe
import mpiframe.compat.miginterface as mig

with mpiframe.Client() as client:
    mig.local_mode_on()
    here = os.getcwd()
    del os.environ["MPIFRAME_TEST_MARK"]  # it marks what must not be left behind: this is to be
    print(mig.create_job(f"while ! [ -e {here}/go ]; do sleep 0.02; done; echo late"))
"""


def test_a_job_of_this_machine_outlives_a_world(launcher: Any, tmp_path: Path) -> None:
    home = tmp_path / "home"
    env = {"MPIFRAME_MIG_HOME": str(home), "HOME": str(tmp_path)}
    world = launcher.start(OUTLIVED, 2, env=env, plain=True)  # `mpiframe run` ends all that it has started
    job = world.wait().expect(0).stdout.strip()
    mig = Mig(LocalServer(str(home)))
    try:
        assert mig.job_status(job) in ("QUEUED", "EXECUTING"), mig.job_info(job).get("REASON")
    finally:
        (world.folder / "go").touch()
    assert mig.wait(job, 30) == ["FINISHED"]
    assert mig.job_output(job) == "late\n"


def test_a_job_that_begins_is_not_taken_for_one_that_was_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another server of this host looks for the folders of servers that were killed, at each step of ours."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    steps = 0

    def look(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal steps
        if frame.f_code in (on_server.run.__code__, disk.hold_new.__code__):
            steps += 1
            on_server._remove_left()  # this is not traced itself
            return look
        return None

    spec = shell.Spec("one", ("echo here",), (), (), (), None)
    before = sys.gettrace()
    sys.settrace(look)
    try:
        outcome = on_server.run(on_server.Parcel(spec, ()))
    finally:
        sys.settrace(before)
    assert steps > 10
    assert outcome.reason == ""
    assert bytes(outcome.said["stdout"]) == b"here\n"
    assert list(tmp_path.glob("mpiframe-mig-*")) == []


def test_a_job_that_is_being_submitted_is_not_taken_for_one_whose_keeper_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another client asks for all jobs of the home while one is being submitted."""
    mine, other = LocalServer(str(tmp_path / "home")), LocalServer(str(tmp_path / "home"))
    create, asked = Record.create, []

    def created(record: Record, values: dict[str, Any]) -> None:
        create(record, values)
        asked.extend(other.info(job)["STATUS"] for job in other.ids())

    monkeypatch.setattr(Record, "create", created)
    job = mine.submit("::EXECUTE::\necho here\n", (), "")
    assert asked == ["QUEUED"]
    assert mine.wait(job, 30)
    assert mine.info(job)["STATUS"] == "FINISHED"


def test_a_job_that_is_being_submitted_is_canceled_and_not_its_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another client finds it before it has a process of its own, and waits for that one's end."""
    mine, other = LocalServer(str(tmp_path / "home")), LocalServer(str(tmp_path / "home"))
    create = Record.create

    def created(record: Record, values: dict[str, Any]) -> None:
        create(record, values)
        canceling.append(pool.submit(other.cancel, record.id))
        deadline = time.monotonic() + 30
        while not record.wants_end():
            assert time.monotonic() < deadline, "it is not canceled"
            time.sleep(0.005)

    monkeypatch.setattr(Record, "create", created)
    canceling: list[Future[None]] = []
    with ThreadPoolExecutor(1) as pool:
        job = mine.submit("::EXECUTE::\nsleep 60\n", (), "")
        canceling[0].result(30)
    assert mine.info(job)["STATUS"] == "CANCELED"
