"""`mpiframe submit`: a world as a job of each batch system, its output live, its exit status, Ctrl-C."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mpiframe import cli
from mpiframe.plugins.scheduler import Job, LocalBackend, Queue, State
from mpiframe.plugins.scheduler.file_events import FileEvents
from mpiframe.plugins.scheduler.following import _Growing, follow

SECONDS = 60.0
ROOT = Path(__file__).resolve().parents[3]

WORLD = """
import os, sys, time
import mpiframe
with mpiframe.Client() as client:
    print("sum", client.submit(sum, [1, 2]).result(), *sys.argv[1:], flush=True)
    while not os.path.exists("go"):
        time.sleep(0.02)
    print("late", end="")
    print("an error", file=sys.stderr)
sys.exit(7)
"""


@pytest.fixture
def submit(make_queue: Callable[..., Queue], room: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `mpiframe submit` on each batch system with these words."""
    queue = make_queue()
    queue.jobs()  # the local queue is started with its four cores, whatever the machine has
    (room / "world.py").write_text(WORLD)
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMPI_ALLOW_RUN_AS_ROOT": "1"}
    env["OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] = "1"
    started: list[subprocess.Popen[str]] = []

    def start(
        *words: str, stdin: int = subprocess.DEVNULL, stderr: int = subprocess.PIPE
    ) -> subprocess.Popen[str]:
        argv = [sys.executable, "-m", "mpiframe", "submit", "--qtype", queue.qtype, *words]
        process = subprocess.Popen(
            argv, env=env, stdin=stdin, stdout=subprocess.PIPE, stderr=stderr, text=True, bufsize=1
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait(SECONDS)
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
    for status in queue.jobs():  # what a test that failed has left
        if not status.ended:
            queue.backend.cancel([status.job])


def first_line(process: subprocess.Popen[str]) -> str:
    """Read in a thread, so that a test without output fails instead of hanging."""
    found: list[str] = []
    assert process.stdout is not None
    reader = threading.Thread(target=lambda: found.append(process.stdout.readline()), daemon=True)
    reader.start()
    reader.join(SECONDS)
    assert found, "no output came"
    return found[0]


# -- on each batch system -------------------------------------------------------------------------


def test_output_is_live_and_the_status_is_the_job_s(
    submit: Callable[..., subprocess.Popen[str]], room: Path
) -> None:
    process = submit("-n", "2", "--wait", "--walltime", "5:00", "world.py", "a b", "--wait")
    # The job waits until this line was seen.
    assert first_line(process) == "sum 3 a b --wait\n"
    (room / "go").touch()
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 7, err
    assert out == "late"
    assert "an error" in err
    assert "is submitted" in err
    assert "failed, exit code 7" in err


def test_the_id_is_printed_and_finds_the_job(
    submit: Callable[..., subprocess.Popen[str]], make_queue: Callable[..., Queue], room: Path
) -> None:
    (room / "go").touch()
    out, err = submit("-n", "2", "--name", "mine", "-m", "world").communicate(timeout=SECONDS)
    assert err == ""
    job = Job.find(out.strip(), queue=make_queue())
    assert job.name == "mine"
    assert job.get(SECONDS)[:2] == (7, "sum 3\nlate")


def test_ctrl_c_without_a_terminal_cancels(
    submit: Callable[..., subprocess.Popen[str]], make_queue: Callable[..., Queue], room: Path
) -> None:
    process = submit("-n", "2", "--wait", "world.py")
    first_line(process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 130, err
    number = err.split("job ")[1].split()[0]
    assert f"cancelling job {number}" in err
    assert Job.find(number, queue=make_queue()).state is State.CANCELLED


@pytest.mark.parametrize(("answer", "state"), [("l\n", State.RUNNING), ("c\n", State.CANCELLED)])
def test_ctrl_c_at_a_terminal_asks(
    submit: Callable[..., subprocess.Popen[str]],
    make_queue: Callable[..., Queue],
    room: Path,
    answer: str,
    state: State,
) -> None:
    master, slave = pty.openpty()
    try:
        process = submit("-n", "2", "--wait", "world.py", stdin=slave, stderr=slave)
        first_line(process)
        process.send_signal(signal.SIGINT)
        said = read_until(master, "wait on (w)?")
        os.write(master, b"w\n")  # then the next Ctrl-C asks anew
        read_until(master, "waiting on")
        process.send_signal(signal.SIGINT)
        read_until(master, "wait on (w)?")
        os.write(master, answer.encode())
        assert process.wait(SECONDS) == 130
    finally:
        os.close(slave)
        os.close(master)
    job = Job.find(said.split("job ")[1].split()[0], queue=make_queue())
    assert job.state is state
    (room / "go").touch()
    assert job.wait(SECONDS)


def read_until(master: int, text: str) -> str:
    said = ""
    deadline = time.monotonic() + SECONDS
    while text not in said:
        assert select.select([master], [], [], deadline - time.monotonic())[0], said
        said += os.read(master, 1000).decode()
    return said


# -- the command line, without a batch system -----------------------------------------------------


@pytest.fixture
def script(room: Path) -> str:
    (room / "script.py").touch()
    return "script.py"


def run(*words: str) -> int:
    return cli.main(["submit", *words])


def test_a_dry_run_prints_the_scripts_and_leaves_nothing(
    script: str, room: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--qtype", "slurm", "-n", "16", "--walltime", "2h", "--memory", "4GB", "--queue", "long"]
    words += ["--constraint", "a", "--constraint", "b"]
    assert run(*words, "--resilient", "--dry-run", script, "--x", "a b") == 0
    said = capsys.readouterr().out
    for text in (
        "#SBATCH --ntasks=16", "#SBATCH --time=02:00:00", "#SBATCH --mem=4096M", "#SBATCH --partition=long",
        "#SBATCH --constraint='a&b'", "-m mpiframe run -n 16 --resilient script.py --x 'a b'",
        "# sbatch --parsable ",
    ):  # fmt: skip
        assert text in said
    assert [path.name for path in room.iterdir()] == ["script.py"]
    assert run("--qtype", "local", "-n", "2", "--dir", "/", "--dry-run", "script.py") == 0
    said = capsys.readouterr().out
    assert f"-n 2 {room}/script.py\n" in said  # it is sought here, and run there
    assert "local queue" in said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--walltme", "1", "script.py"], "did you mean --walltime"),
        (["--walltime", "soon", "script.py"], "walltime 'soon' cannot be read"),
        (["--memory", "lots", "script.py"], "memory 'lots' cannot be read"),
        (["--qtype", "lsf", "script.py"], "there is no batch system 'lsf'"),
        (["--depends", "99999", "--qtype", "local", "script.py"], "there is no job '99999'"),
        (["--profile", "huge", "script.py"], "there is no profile 'huge'"),
        (["-n", "1", "script.py"], "2 or more ranks"),
        (["nothing.py"], "there is no script nothing.py"),
        (["-m", "no_such_module"], "there is no module 'no_such_module'"),
        ([], "nothing to run"),
        (["--cores", "900", "--qtype", "local", "script.py"], "refused the job"),
    ],
)
def test_what_cannot_be_submitted_says_why(
    script: str, room: Path, capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    try:
        status = run("-n", "2", *words)
    except SystemExit as leaves:
        status = int(str(leaves.code))
    assert status == 2
    assert says in capsys.readouterr().err
    assert [path.name for path in room.iterdir()] == ["script.py"]


# -- following ------------------------------------------------------------------------------------


def followed(job: Job) -> tuple[bytes, bytes]:
    out, err = io.BytesIO(), io.BytesIO()
    assert follow(job, out, err, lambda: False)
    return out.getvalue(), err.getvalue()


def test_all_output_is_passed_on_once(room: Path) -> None:
    queue = Queue("local", backend=LocalBackend(cores=2))
    many = Job("for i in {1..20000}; do echo $i; done; printf '\\377 end'; echo e >&2", queue=queue).submit()
    lines = b"".join(b"%d\n" % number for number in range(1, 20001))
    assert followed(many) == (lines + b"\xff end", b"e\n")
    both = Job("echo 1", queue=queue, outfile="both", errfile="both").submit()
    assert followed(both) == (b"1\n", b"")
    array = Job("echo a; printf b", queue=queue, array=2).submit()
    out, _ = followed(array)
    assert sorted(out.splitlines()) == [b"0: a", b"0: b", b"1: a", b"1: b"]
    assert followed(array)[0] == b"0: a\n1: a\n0: b\n1: b\n"  # of one that has ended, too


def test_a_file_that_begins_anew_is_passed_on_anew(tmp_path: Path) -> None:
    path, out = tmp_path / "out", io.BytesIO()
    growing = _Growing(str(path), out)
    assert not growing.copy()
    path.write_text("first try")
    assert growing.copy()
    path.write_text("second")
    assert growing.copy()
    assert not growing.copy()
    assert out.getvalue() == b"first trysecond"


def test_the_kernel_tells_of_files_that_grow(tmp_path: Path) -> None:
    def is_told() -> bool:
        return bool(select.select([events.fd], [], [], 5)[0])

    events = FileEvents([str(tmp_path / "a"), str(tmp_path / "b")])
    with contextlib.closing(events):
        assert not select.select([events.fd], [], [], 0)[0]
        (tmp_path / "a").touch()
        assert is_told()
        events.renew()
        with open(tmp_path / "a", "a") as file:
            file.write("x")
        assert is_told()
        events.renew()
        assert not select.select([events.fd], [], [], 0)[0]
