"""What only a real Slurm can show. Run by `launch/test --schedulers`."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mpiframe.plugins.scheduler import (
    Job,
    JobNotFound,
    Queue,
    SchedulerDown,
    State,
    SubmitError,
    check_queue,
    tracking,
)

SECONDS = 60.0


@pytest.fixture
def queue(slurm: Any, room: Path) -> Queue:
    return Queue("slurm", poll_seconds=0.2, longest_poll_seconds=1.0)


def test_it_is_found_out(queue: Queue) -> None:
    assert check_queue() == "slurm"


def test_slurm_s_own_books_have_the_exit_code(queue: Queue) -> None:
    """The job's script ends with the command's status, so that other people's `afterok` works too."""
    job = Job("exit 5", queue=queue).submit()
    assert job.wait(SECONDS)
    shown = subprocess.check_output(["scontrol", "show", "job", "-o", job.id], text=True)
    assert " ExitCode=5:0 " in shown


def test_options_reach_slurm(queue: Queue) -> None:
    job = Job(
        "sleep 1000", queue=queue, cores=2, mem="300M", time="1:00:00", partition="debug",
        name="it's \"x\" \\ y", extra=["--comment='a b'"],
    ).submit()  # fmt: skip
    shown = subprocess.check_output(["scontrol", "show", "job", "-o", job.id], text=True)
    job.cancel()
    for text in (
        "CPUs/Task=2",
        "MinMemoryNode=300M",
        "TimeLimit=01:00:00",
        "Comment=a b",
        'JobName=it\'s "x" \\ y',
    ):
        assert text in shown
    assert job.wait(SECONDS)


def test_a_job_of_somebody_else(queue: Queue) -> None:
    number = subprocess.check_output(
        ["sbatch", "--parsable", "-o", "/dev/null", "--wrap", "exit 3"], text=True
    ).strip()
    assert queue.wait(number, SECONDS)
    (status,) = queue.status(number)
    assert (status.state, status.exit_code, status.name) == (State.FAILED, 3, "wrap")
    with pytest.raises(JobNotFound):
        Job.find(number, queue=queue)
    job = Job("true", queue=queue, depends=f"afternotok:{number}").submit()
    assert job.get(SECONDS)[0] == 0


def test_what_slurm_refuses(queue: Queue, room: Path) -> None:
    with pytest.raises(SubmitError, match="partition"):
        Job("true", queue=queue, partition="nope").submit()
    with pytest.raises(SubmitError, match=r"[Mm]emory|not available"):
        Job("true", queue=queue, mem="900GB").submit()
    assert list(room.iterdir()) == []


def test_a_controller_that_is_restarted(queue: Queue, slurm: Any) -> None:
    job = Job("sleep 2; exit 4", queue=queue).submit()
    slurm.stop_controller()
    try:
        with pytest.raises(SchedulerDown, match="contact"):
            Queue("slurm").jobs()
    finally:
        slurm.start_controller()
    assert job.wait(SECONDS)
    assert job.exit_code == 4


def test_a_job_that_slurm_forgot(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no database here: once MinJobAge is over, only the job's own record knows."""
    monkeypatch.setattr(tracking, "VANISHED_SECONDS", 0.5)
    job = Job("exit 6", queue=queue).submit()
    assert job.wait(SECONDS)
    assert job._record is not None
    forgotten = dataclasses.replace(queue._records[job.id], id="999999", ended=())
    other = Queue("slurm", poll_seconds=0.2)
    other.track(forgotten)
    assert other.wait("999999", SECONDS)
    assert [one.exit_code for one in other.status("999999")] == [6]


NESTED = """
import sys
from mpi4py import MPI
from mpiframe.plugins.scheduler import Job
if MPI.COMM_WORLD.rank == 0:
    words = [sys.executable, "-c", "from mpi4py import MPI; print(MPI.COMM_WORLD.size)"]
    code, out, err = Job(words, mpi=2, qtype="slurm").submit().get(60)
    print("parent of", MPI.COMM_WORLD.size, "child", code, sorted(out.replace("\\n", "")), err)
MPI.COMM_WORLD.Barrier()
"""


@pytest.mark.parametrize("how", ["mpiexec", "srun"])
def test_a_rank_submits_a_job_that_uses_mpi(
    queue: Queue, room: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    for name in ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"):
        monkeypatch.setenv(name, "1")
    (room / "parent.py").write_text(NESTED)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[3]))
    library = subprocess.check_output(
        [sys.executable, "-c", "from mpi4py import MPI; print(MPI.Get_library_version())"], text=True
    )
    kind = "pmix" if "Open MPI" in library else "pmi2"
    launcher = ["mpiexec", "-n", "2"] if how == "mpiexec" else ["srun", f"--mpi={kind}", "-n", "2"]
    if how == "mpiexec":
        launcher[0] = os.path.join(sys.prefix, "bin", "mpiexec")
        if "Open MPI" in library:
            launcher.insert(1, "--oversubscribe")
    done = subprocess.run(
        [*launcher, sys.executable, "parent.py"], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "parent of 2 child 0 ['2', '2']" in done.stdout, done.stdout + done.stderr
