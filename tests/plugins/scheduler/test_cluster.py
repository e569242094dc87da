"""Every name of python-cluster's manual, through `mpiframe.compat.cluster`: local, and on real Slurm.

That it is every name, and in every mode, is checked at the end.
"""

from __future__ import annotations

import bz2
import functools
import gzip
import inspect
import io
import logging
import os
import queue as queue_module
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

from mpiframe.compat import cluster
from mpiframe.plugins.scheduler import Queue, State, default_queue
from mpiframe.plugins.scheduler.queue import _defaults
from tests.plugins.scheduler.conftest import BACKENDS


@pytest.fixture
def mode(make_queue: Callable[..., Queue], monkeypatch: pytest.MonkeyPatch) -> str:
    """The batch system, as MODE; its shared queue asks often."""
    queue = make_queue()
    _defaults[queue.qtype] = queue
    monkeypatch.setattr(cluster.queue, "MODE", queue.qtype)
    cluster.config_file.set("queue", "queue_update", 0)
    cluster.config_file.set("queue", "sleep_len", 0.1)
    return queue.qtype


# What the manual documents: first what depends on the batch system, then what does not.
_IN_EACH_MODE = """
    Queue Queue.QueueJob Queue.can_submit Queue.update Queue.wait Queue.wait_to_submit
    queue.get_cluster_environment queue.wait queue.check_queue
    Job Job.clean Job.get Job.get_exitcode Job.get_stderr Job.get_stdout Job.submit Job.update
    Job.update_queue_info Job.wait Job.write
    submit job.submit_file job.make_job job.make_job_file job.clean job.clean_dir
    options.option_help options.check_arguments options.options_to_string options.option_to_string
    config_file.Profile config_file.Profile.write config_file.get config_file.set config_file.set_profile
    config_file.get_profile config_file.delete config_file.get_config
"""
_ANYWHERE = """
    jobqueue.JobQueue jobqueue.JobQueue.add jobqueue.JobQueue.get jobqueue.JobQueue.restart
    jobqueue.JobQueue.update jobqueue.JobQueue.wait jobqueue.Job jobqueue.job_runner
    logme.log run.cmd run.which run.open_zipped run.split_file
"""
IN_EACH_MODE, ANYWHERE = _IN_EACH_MODE.split(), _ANYWHERE.split()


def code_of(name: str) -> CodeType:
    found: Any = functools.reduce(getattr, name.split("."), cluster)
    return (found.__init__ if inspect.isclass(found) else inspect.unwrap(found)).__code__  # type: ignore[no-any-return]


@pytest.fixture(scope="module", autouse=True)
def called(request: pytest.FixtureRequest) -> Iterator[set[tuple[str, str]]]:
    """(name, mode) of what the tests here called; at the end nothing may be missing, if all were run."""
    found: set[tuple[str, str]] = set()
    yield found
    here = {item.originalname for item in request.session.items if item.path == Path(__file__)}  # type: ignore[attr-defined]
    if here == {name for name in globals() if name.startswith("test_")}:
        wanted = {(name, mode) for name in IN_EACH_MODE for mode in BACKENDS} | {(n, "") for n in ANYWHERE}
        missing = wanted - found - {(name, "") for name, _ in found}
        assert not missing, f"called by no test: {sorted(missing)}"


@pytest.fixture(autouse=True)
def listening(request: pytest.FixtureRequest, called: set[tuple[str, str]]) -> Iterator[None]:
    mode = request.getfixturevalue("mode") if "mode" in request.fixturenames else ""
    codes = {code_of(name): name for name in [*IN_EACH_MODE, *ANYWHERE]}

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code in codes:
            called.add((codes[frame.f_code], mode))

    sys.setprofile(note)
    yield
    sys.setprofile(None)


def double(x: int) -> int:
    return 2 * x


# -- jobs -----------------------------------------------------------------------------------------


def test_submit_wait_and_get(mode: str, room: Path) -> None:
    job = cluster.submit("echo", ("a b", 5), name="my job", cores=1, mem="200MB", walltime="00:10:00")
    assert isinstance(job, cluster.Job)
    assert job.submitted
    assert cluster.wait(job)
    assert job.get() == (0, "a b 5\n", "")
    assert (job.get_stdout(), job.get_stderr(), job.get_exitcode()) == ("a b 5\n", "", 0)
    assert (job.exitcode, job.done, job.qtype) == (0, True, mode)
    assert job.submission.exists
    assert job.exec_script.script.endswith("echo 'a b' 5\n")
    assert job.function is None
    assert job.update_queue_info() is not None
    assert job.clean(delete_outputs=True)
    assert job.stdout == "a b 5\n"
    assert list(room.iterdir()) == []


def test_functions_and_dependencies(mode: str) -> None:
    first = cluster.make_job(double, (21,))
    assert not first.submitted
    assert first.get_exitcode() is None
    first.submit(max_queue_len=0)
    second = cluster.submit("exit 4", depends=first, profile=None)
    assert cluster.Queue().wait([first, second.id])
    assert first.result() == 42
    assert first.function is not None
    assert first.function.exists
    assert second.exitcode == 4
    second.wait()
    second.update()
    assert "Job" in repr(first)


def test_files_are_made_without_being_submitted(mode: str, room: Path) -> None:
    path = cluster.make_job_file("echo hi", name="x", path=str(room), partition=None)
    assert os.path.exists(path)
    assert ".cluster." in os.path.basename(path)
    job = cluster.make_job("echo hi", suffix="mine")
    assert not job.written
    job.write()
    job.write(overwrite=False)
    assert job.written
    assert ".mine." in job.submission.file_name


def test_submit_file(mode: str, room: Path) -> None:
    (room / "first.sh").write_text(
        f"#!/bin/bash\n#$ -j y -o /dev/null\nsleep 0.2; touch {room}/one\nexit 3\n"
    )
    (room / "second.sh").write_text(f"#!/bin/bash\n#$ -j y -o /dev/null\ntouch {room}/two\n")
    first = cluster.submit_file("first.sh", threads=1)
    assert isinstance(first, int)
    second = cluster.submit_file("second.sh", dependencies=[f"afterany:{first}"])
    shared = default_queue(mode)
    if mode == "sge":  # it knows only that a job has ended, and this one writes no record
        with pytest.raises(cluster.ClusterError, match="afterok"):
            cluster.submit_file("second.sh", dependencies=first)
        never = cluster.submit("true", depends=cluster.submit("exit 1")).id
    else:
        never = cluster.submit_file("second.sh", dependencies=first)
    assert cluster.wait([first, second, never])
    assert (shared.status(str(first))[0].exit_code, shared.status(str(never))[0].state) == (
        3,
        State.CANCELLED,
    )
    assert (room / "one").exists()
    assert (room / "two").exists()
    with pytest.raises(cluster.ClusterError, match="no script"):
        cluster.submit_file("third.sh")


def test_clean_and_clean_dir(mode: str, room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (room / "precious.cluster.out").write_text("x")
    jobs = [cluster.submit("echo hi") for _ in range(2)]
    running = cluster.submit("while [ ! -e go ]; do sleep 0.05; done")
    assert cluster.wait(jobs)
    assert cluster.clean(jobs[0])
    assert not jobs[0].written
    monkeypatch.setattr("builtins.input", lambda prompt: "n")
    assert cluster.clean_dir(confirm=True) == set()
    monkeypatch.setattr("builtins.input", lambda prompt: "y")
    gone = cluster.clean_dir(str(room), confirm=True)
    assert jobs[1].submission.file_name in gone
    assert not any(os.path.exists(path) for path in gone)
    assert running.written  # it has not ended
    assert (room / "precious.cluster.out").exists()
    (room / "go").touch()
    assert running.get()[0] == 0
    with pytest.raises(cluster.ClusterError):
        cluster.clean("x")


# -- the queue ------------------------------------------------------------------------------------


def test_the_queue(mode: str, room: Path) -> None:
    assert cluster.check_queue() == mode
    with pytest.raises(cluster.ClusterError, match="lsf"):
        cluster.check_queue("lsf")
    assert cluster.get_cluster_environment() == cluster.queue.MODE
    cluster.queue.MODE = mode
    job = cluster.submit("while [ ! -e go ]; do sleep 0.05; done")
    queue = cluster.Queue(user="self")
    queue.update()
    assert job.id in queue.jobs
    assert queue[job.id].name == job.name
    assert job.id in {one.id for one in queue}
    assert len(queue) == len(queue.queue) >= 1
    assert {**queue.running, **queue.queued}.keys() >= {job.id}
    assert queue.can_submit(100)
    assert not queue.can_submit(1)
    assert queue.can_submit(0)
    (room / "go").touch()
    queue.wait_to_submit(1)
    assert queue.wait(job)
    queue.update()
    assert job.id in queue.complete
    assert "completed" in repr(queue)
    with pytest.raises(cluster.Queue.QueueError):
        queue.wait("99999")


# -- options and profiles -------------------------------------------------------------------------


def test_options(mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "walltime" in cluster.option_help()
    assert cluster.options.option_help(mode, "table")[0][0] == "option"
    cluster.option_help(mode="print")
    assert "walltime" in capsys.readouterr().out
    assert cluster.options.check_arguments({"memory": "2GB", "cpus": "4"}) == {"mem": 2048, "cores": 4}
    with pytest.raises(cluster.ClusterError, match="walltime"):
        cluster.options.check_arguments({"walltme": 1})
    written = cluster.options.options_to_string(
        {"cores": 2, "time": "1:00:00", "features": ["a", "b"]}, "slurm"
    )
    assert written.splitlines() == [
        "#SBATCH --cpus-per-task=2", "#SBATCH --time=01:00:00", "#SBATCH --constraint='a&b'",
    ]  # fmt: skip
    assert cluster.options.option_to_string("walltime", "90", "torque") == "#PBS -l walltime=00:01:30"
    assert cluster.options.option_to_string("queue", "long", "slurm") == "#SBATCH --partition=long"
    assert cluster.options.option_to_string("partition", "long", "local") == ""
    assert cluster.options.option_to_string("partition", None, "slurm") == ""


def test_profiles_and_settings(mode: str) -> None:
    file = cluster.config_file
    cluster.set_profile("large", {"cores": 2, "mem": 100})
    assert cluster.get_profile("large").cores == 2
    assert set(cluster.get_profile()) == {"large"}
    assert cluster.get_profile("huge") is None
    job = cluster.make_job("true", profile="large")
    assert (job.options.cores, job.options.mem) == (2, 100)
    profile = file.Profile("small", {"cores": 1})
    profile.mem = 50
    profile.write()
    assert dict(cluster.get_profile("small")) == {"cores": 1, "mem": 50}
    assert file.get("queue", "max_jobs", 7) == 7
    assert file.get("queue", "max_jobs") == 7
    assert file.get("no", "such") is None
    file.set("queue", "max_jobs", 8)
    assert file.get("queue")["max_jobs"] == "8"
    assert file.get_config().get("queue", "max_jobs") == "8"
    file.delete("queue", "max_jobs")
    assert file.get("queue", "max_jobs") is None
    file.delete("queue")
    with pytest.raises(cluster.ClusterError):
        file.delete("queue")


# -- functions on this machine --------------------------------------------------------------------


def test_the_local_queue_of_functions(room: Path) -> None:
    jobs = cluster.jobqueue.JobQueue(cores=2)
    first = jobs.add(double, (1,))
    second = jobs.add(double, (2,), dependencies=[first], cores=2)
    third = jobs.add(int, ("not a number",))
    assert jobs.wait([first, second])
    assert jobs.wait()
    assert (jobs.get(first), jobs.get(second)) == (2, 4)
    with pytest.raises(ValueError, match="not a number"):
        jobs.get(third)
    assert set(jobs.done) == {first, second, third}
    assert jobs[second].out == 4
    assert jobs[third].exitcode == 1
    assert len(jobs) == 3
    assert not jobs.running
    assert not jobs.queued
    assert not jobs.waiting
    slow = jobs.add(cluster.run.cmd, ("sleep 1000",))
    jobs.update()
    with pytest.raises(cluster.ClusterError):
        jobs.restart()
    assert slow in {job.jobno for job in jobs}
    jobs.restart(force=True)
    assert len(jobs) == 0
    jobs.close()


def test_the_runner_of_the_local_queue(room: Path) -> None:
    waiting: queue_module.Queue[cluster.jobqueue.Job | None] = queue_module.Queue()
    outputs: queue_module.Queue[dict[int, cluster.jobqueue.Job]] = queue_module.Queue()
    for job in (
        cluster.jobqueue.Job(double, (3,)),
        cluster.jobqueue.Job(double, (4,), depends=[5], cores=2),
        None,
    ):
        waiting.put(job)
    cluster.jobqueue.job_runner(waiting, outputs, cores=2, jobno=5)
    found = {**outputs.get_nowait(), **outputs.get_nowait()}
    assert {number: job.out for number, job in found.items()} == {5: 6, 6: 8}
    assert cluster.jobqueue.JQUEUE is cluster.jobqueue.JQUEUE


# -- helpers --------------------------------------------------------------------------------------


def test_programs(room: Path) -> None:
    assert cluster.run.cmd("echo 'a b'") == (0, "a b\n", "")
    assert cluster.run.cmd("echo", ("$HOME; id", 5), stdout="out") == (0, "$HOME; id 5\n", "")
    assert (room / "out").read_text() == "$HOME; id 5\n"
    errors = io.StringIO()
    script = "import os, sys; open('n', 'a').write('x'); sys.exit('failed')"
    assert cluster.run.cmd([sys.executable, "-c", script], stderr=errors, tries=3)[0] == 1
    assert (errors.getvalue(), (room / "n").read_text()) == ("failed\n", "xxx")
    assert cluster.run.which("sh") is not None
    assert cluster.run.which("no-such-program") is None
    with pytest.raises(FileNotFoundError):
        cluster.run.cmd("no-such-program")


def test_files(room: Path) -> None:
    text = "head\n" + "".join(f"{number}\n" for number in range(10))
    (room / "a.txt").write_text(text)
    with gzip.open(room / "a.txt.gz", "wt") as file:
        file.write(text)
    with bz2.open(room / "b.bz2", "wt") as file:
        file.write(text)
    for name in ("a.txt", "a.txt.gz", "b.bz2"):
        with cluster.run.open_zipped(name) as file:
            assert file.read() == text
            assert cluster.run.open_zipped(file) is file
    parts = cluster.run.split_file("a.txt", 3)
    assert [os.path.basename(part) for part in parts] == [f"a.split_000{n}.txt" for n in (1, 2, 3)]
    read = [Path(part).read_text().splitlines() for part in parts]
    assert all(lines[0] == "head" for lines in read)
    assert [line for lines in read for line in lines[1:]] == [str(n) for n in range(10)]
    (room / "out").mkdir()
    (part,) = cluster.run.split_file("a.txt.gz", 1, outpath="out", keep_header=False)
    assert Path(part).read_text() == text
    assert part == "out/a.split_0001.txt"


def test_the_log(room: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    log = cluster.logme.log
    log("hello")
    log("quiet", "debug")
    log("both", "error", also_write="stdout")
    said = capsys.readouterr()
    assert said.err.splitlines()[0].endswith("| INFO --> hello")
    assert "quiet" not in said.err
    assert said.out.endswith("| ERROR --> both\n")
    log("to a file", kind="warn", logfile="log")
    assert (room / "log").read_text().endswith("| WARNING --> to a file\n")
    with caplog.at_level(logging.INFO):
        log("to a logger", logfile=logging.getLogger("here"))
    assert "to a logger" in caplog.text
    cluster.logme.MIN_LEVEL = "critical"
    log("less", "error")
    cluster.logme.MIN_LEVEL = "info"
    assert capsys.readouterr().err == ""
    with pytest.raises(ValueError, match="loud"):
        log("x", "loud")


def test_fyrd_is_the_same_under_its_later_name() -> None:
    from mpiframe.compat import fyrd
    from mpiframe.compat.fyrd.job import Job

    assert fyrd.submit is cluster.submit
    assert fyrd.queue is cluster.queue
    assert Job is cluster.Job
