"""Slurm's imitation of Torque: Debian's qsub, qstat and qdel of slurm-wlm-torque, on a real Slurm.

Not a Torque: it has no `qstat -x`, its ended jobs have no exit status, and arrays and dependencies are not
listed as Torque's. What is tested with it is that a second real program reads our #PBS lines as they are
meant, that its text can be read, and that its ids work. Run by `launch/test --schedulers`, which unpacks the
packages (they cannot be installed beside Grid Engine's) and names the folder in MPIFRAME_TEST_TORQUE.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mpiframe.plugins.scheduler import Job, Queue, State
from mpiframe.plugins.scheduler.backends import CommandBackend
from mpiframe.plugins.scheduler.pbs import Torque
from tests.plugins.scheduler.torque_wrappers import put_on_path

SECONDS = 60.0


class ImitatedTorque(Torque):
    """Lists jobs as text, since there is no XML."""

    def status_argv(self, ids: Sequence[str] | None, user: str) -> list[str]:
        return ["qstat", "-f", *(ids or ())]


@pytest.fixture
def queue(slurm: Any, room: Path, monkeypatch: pytest.MonkeyPatch) -> Queue:
    put_on_path(room.parent, monkeypatch)
    return Queue(
        "torque", backend=CommandBackend(ImitatedTorque()), poll_seconds=0.2, longest_poll_seconds=1.0
    )


def test_our_lines_are_read_as_they_are_meant(queue: Queue, room: Path) -> None:
    job = Job(
        "touch up; while [ ! -e go ]; do sleep 0.05; done; echo done; exit 3",
        queue=queue, cores=2, mem="200M", time="5:00", name="mine",
    ).submit()  # fmt: skip
    assert job.id.isdigit()
    assert job.wait(0.1) is False
    shown = subprocess.check_output(["scontrol", "show", "job", "-o", job.id], text=True)
    for text in ("JobName=mine", "TimeLimit=00:05:00", "NumCPUs=2", "mem=200M"):
        assert text in shown
    (room / "go").touch()
    end = Path(job.files.end)
    while not (end.exists() and "exit 3" in end.read_text()):
        (status,) = job.statuses
        assert status.state in (State.PENDING, State.RUNNING, State.UNKNOWN)
        assert status.name == "mine"
        job.wait(0.1)
    assert job.stdout == "done\n"


def test_qdel_ends_a_job(queue: Queue, room: Path) -> None:
    job = Job("touch up; sleep 1000", queue=queue).submit()
    while (state := job.state) is not State.RUNNING:
        assert state is State.PENDING
        job.wait(0.1)
    job.cancel()
    shown = ""
    while "JobState=CANCELLED" not in shown:
        shown = subprocess.check_output(["scontrol", "show", "job", "-o", job.id], text=True)
