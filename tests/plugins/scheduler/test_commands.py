"""Batch systems as commands on PATH: missing, down, silent, forgetful.

The stand-ins here are scripts that print what was recorded from real ones; they are no batch system, and
what they prove is how the queue takes such answers.
"""

from __future__ import annotations

import dataclasses
import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpiframe.plugins.scheduler import (
    Job,
    OptionError,
    Queue,
    SchedulerDown,
    State,
    SubmitError,
    backends,
    check_queue,
    get_cluster_environment,
    tracking,
)
from mpiframe.plugins.scheduler import queue as queue_module

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def programs(room: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder at the head of PATH, for stand-ins."""
    folder = room.parent / "bin"
    folder.mkdir()
    for name in ("bash", "cat", "sh", "tail", "touch"):
        (folder / name).symlink_to(f"/bin/{name}")
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("SGE_ROOT", raising=False)  # of a real one that runs beside this
    get_cluster_environment.cache_clear()
    yield folder
    get_cluster_environment.cache_clear()


def put(programs: Path, name: str, script: str) -> None:
    path = programs / name
    path.write_text(f"#!/bin/bash\necho \"$0 $*\" >>'{programs}/calls'\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def calls(programs: Path, name: str) -> list[str]:
    path = programs / "calls"
    lines = path.read_text().splitlines() if path.exists() else []
    return [line for line in lines if line.split()[0].endswith(f"/{name}")]


def quick(qtype: str, **options: object) -> Queue:
    return Queue(qtype, poll_seconds=0.01, longest_poll_seconds=0.02, **options)  # type: ignore[arg-type]


# -- which one ------------------------------------------------------------------------------------


def test_the_batch_system_is_found_out(programs: Path) -> None:
    def found() -> str:
        get_cluster_environment.cache_clear()
        return get_cluster_environment()

    assert found() == "local"
    put(programs, "qsub", "")
    put(programs, "qstat", "echo 'pbs_version = 23.06.06'")
    assert found() == "pbs"
    put(programs, "qstat", "echo 'Version: 6.1.3' >&2")
    assert found() == "torque"
    put(programs, "qconf", "")
    assert found() == "sge"
    put(programs, "sbatch", "")
    assert found() == "slurm"
    assert check_queue() == "slurm"
    assert check_queue("normal") == "local"
    with pytest.raises(OptionError, match="lsf"):
        check_queue("lsf")


# -- errors ---------------------------------------------------------------------------------------


def test_sbatch_is_missing(programs: Path, room: Path) -> None:
    with pytest.raises(SchedulerDown, match="no program 'sbatch'"):
        Job("true", queue=quick("slurm")).submit()
    assert list(room.iterdir()) == []


def test_the_queue_is_down(programs: Path, room: Path) -> None:
    message = "error: Unable to contact slurm controller (connect failure)"
    put(programs, "sbatch", f"echo 'sbatch: {message}' >&2; exit 1")
    put(programs, "squeue", f"echo 'squeue: {message}' >&2; exit 1")
    with pytest.raises(SchedulerDown, match="Unable to contact"):
        Job("true", queue=quick("slurm")).submit()
    with pytest.raises(SchedulerDown, match="Unable to contact"):
        quick("slurm").jobs()
    assert list(room.iterdir()) == []


def test_a_job_that_is_refused(programs: Path, room: Path) -> None:
    put(programs, "sbatch", "echo 'sbatch: error: invalid partition specified: nope' >&2; exit 1")
    with pytest.raises(SubmitError, match="invalid partition"):
        Job("true", queue=quick("slurm"), partition="nope").submit()
    put(programs, "sbatch", "echo 'not an id'")
    with pytest.raises(SubmitError, match="no job id"):
        Job("true", queue=quick("slurm")).submit()
    assert list(room.iterdir()) == []


def test_a_command_that_does_not_answer(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(programs, "sbatch", "read -t 60 <> <(:)")
    monkeypatch.setattr(backends, "COMMAND_SECONDS", 0.3)
    with pytest.raises(SchedulerDown, match="did not answer"):
        Job("true", queue=quick("slurm")).submit()


def test_a_wait_outlasts_a_queue_that_is_down_for_a_while(programs: Path) -> None:
    put(programs, "sbatch", "echo 7")
    put(
        programs,
        "squeue",
        f"[ $(wc -l <'{programs}/calls') -gt 5 ] || {{ echo 'Socket timed out' >&2; exit 1; }}\n"
        "echo '7|COMPLETED|0|None|n1|u|p|1|x|'",
    )
    (programs / "wc").symlink_to("/usr/bin/wc")
    job = Job("true", queue=quick("slurm")).submit()
    assert job.wait(30)
    assert job.exit_code == 0
    impatient = quick("slurm", patience_seconds=0.0)
    put(programs, "squeue", "echo 'Socket timed out' >&2; exit 1")
    other = Job("true", queue=impatient).submit()
    with pytest.raises(SchedulerDown, match="Socket timed out"):
        other.wait(30)


def test_a_wait_lasts_as_long_as_it_was_told_to(programs: Path) -> None:
    """Though it is time for the next query before the pause begins, as on a busy machine."""
    put(programs, "sbatch", "echo 7")
    once = f"[ -e '{programs}/once' ] && s=COMPLETED || s=RUNNING; touch '{programs}/once'"
    put(programs, "squeue", f'{once}\necho "7|$s|0|None|n1|u|p|1|x|"')
    queue = quick("slurm")
    queue.subscribe(lambda status: time.sleep(0.1))  # five times as long as from one query to the next
    job = Job("true", queue=queue).submit()
    assert job.wait(30)
    assert job.state is State.COMPLETED


def test_output_that_cannot_be_read_is_an_error(programs: Path) -> None:
    put(programs, "sbatch", "echo 7")
    put(programs, "squeue", "echo garbage")
    job = Job("true", queue=quick("slurm", patience_seconds=0.0)).submit()
    with pytest.raises(SchedulerDown, match="garbage"):
        job.wait(30)


def test_a_full_disk_leaves_nothing(programs: Path, room: Path) -> None:
    """By a limit on the size of files, which the kernel enforces as it does the size of a disk."""
    put(programs, "sbatch", "echo 7")
    program = """
import resource, signal
from mpiframe.plugins.scheduler import Job, Queue, SubmitError
job = Job("true", queue=Queue("slurm"))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50, 50))
try:
    job.submit()
except SubmitError as error:
    print(error)
"""
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    argv = [sys.executable, "-c", program]
    run = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert "cannot write" in run.stdout, run.stdout + run.stderr
    assert list(room.iterdir()) == []
    assert calls(programs, "sbatch") == []


def test_a_job_whose_record_cannot_be_kept_is_taken_back(
    programs: Path, room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(programs, "sbatch", "echo 7")
    put(programs, "scancel", "")
    monkeypatch.setenv("MPIFRAME_SCHEDULER_STATE", "/proc/1/here")
    with pytest.raises(SubmitError, match="job 7 was cancelled again"):
        Job("true", queue=quick("slurm")).submit()
    assert list(room.iterdir()) == []
    assert len(calls(programs, "scancel")) == 1


def test_a_folder_that_cannot_be_written(room: Path) -> None:
    """/proc is read-only to everybody, root included."""
    with pytest.raises(SubmitError, match="/proc"):
        Job("true", queue=quick("local"), filedir="/proc/1").submit()


# -- how often ------------------------------------------------------------------------------------


def test_a_thousand_jobs_cost_one_query_an_interval(programs: Path) -> None:
    put(
        programs,
        "sbatch",
        f"n=$(cat '{programs}/n' 2>/dev/null || echo 0); echo $((n + 1)) | tee '{programs}/n'",
    )
    (programs / "tee").symlink_to("/usr/bin/tee")
    put(
        programs,
        "squeue",
        f"s=RUNNING; [ -e '{programs}/done' ] && s=COMPLETED\n"
        'for ((i = 1; i <= 1000; i++)); do echo "$i|$s|0|None|n1|u|p|1|x|"; done',
    )
    queue = quick("slurm")
    for number in range(1, 1001):
        job = Job("true", queue=queue)
        _, record = job._write(with_record=False)
        queue.track(dataclasses.replace(record, id=str(number)))
    assert not queue.wait([str(number) for number in range(1, 1001)], 0.3)
    before = len(calls(programs, "squeue"))
    assert 1 <= before <= 31  # intervals of 0.01 s and more in 0.3 s
    (programs / "done").touch()
    assert queue.wait([str(number) for number in range(1, 1001)], 30)
    after = len(calls(programs, "squeue"))
    assert after - before <= 2
    assert queue.wait([str(number) for number in range(1, 1001)], 30)
    assert len(calls(programs, "squeue")) == after  # what has ended is never asked about again


# -- jobs that leave the queue ---------------------------------------------------------------------


def test_many_short_waits_cost_no_more_than_a_long_one(programs: Path) -> None:
    put(programs, "sbatch", "echo 7")
    put(programs, "squeue", "echo '7|RUNNING|0|None|n1|u|p|1|x|'")
    queue = Queue("slurm", poll_seconds=0.05, longest_poll_seconds=100)
    job = Job("true", queue=queue).submit()
    assert not any([job.wait(0.05) for _ in range(30)])
    assert 2 <= len(calls(programs, "squeue")) <= 15


def test_short_waits_lose_patience_too(programs: Path) -> None:
    put(programs, "sbatch", "echo 7")
    put(programs, "squeue", "echo 'Socket timed out' >&2; exit 1")
    queue = Queue("slurm", poll_seconds=0.02, longest_poll_seconds=0.05, patience_seconds=0.5)
    job = Job("true", queue=queue).submit()
    assert not job.wait(0)  # one query, which fails
    with pytest.raises(SchedulerDown, match="Socket timed out"):
        any([job.wait(0.05) for _ in range(1000)])


def test_a_job_that_the_queue_forgot_is_read_from_its_own_record(programs: Path) -> None:
    put(programs, "sbatch", 'bash "${!#}" >/dev/null 2>&1; echo 7')
    put(programs, "squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    put(programs, "sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
    job = Job("exit 5", queue=quick("slurm")).submit()
    assert job.wait(30)
    assert (job.state, job.exit_code) == (State.FAILED, 5)
    assert calls(programs, "sacct") == []  # its own word was enough


def test_the_accounting_is_asked_about_what_wrote_nothing(programs: Path) -> None:
    put(programs, "sbatch", "echo 7")
    put(programs, "squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    put(programs, "sacct", "echo '7|TIMEOUT|0:0|None|n1|u|p|1|x'")
    job = Job("true", queue=quick("slurm")).submit()
    assert job.wait(30)
    assert (job.state, job.exit_code) == (State.TIMEOUT, None)


def test_an_end_that_nobody_knows_is_called_unknown_and_never_a_success(
    programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "VANISHED_SECONDS", 0.2)
    put(programs, "sbatch", "echo 7")
    put(programs, "squeue", "")
    put(programs, "sacct", "")
    job = Job("true", queue=quick("slurm")).submit()
    assert job.wait(30)
    assert (job.state, job.exit_code) == (State.UNKNOWN, None)
    assert "neither the accounting" in job.statuses[0].reason
    assert job.done


# -- the other systems, as stand-ins ----------------------------------------------------------------


@pytest.mark.parametrize("qtype", ["pbs", "torque"])
def test_pbs_on_a_stand_in(programs: Path, room: Path, qtype: str) -> None:
    put(programs, "qsub", 'bash "${!#}"; echo 7.host')
    if qtype == "pbs":
        job = {"job_state": "F", "Exit_status": 4, "Job_Name": "x", "substate": 93}
        put(programs, "qstat", f"cat <<'X'\n{json.dumps({'Jobs': {'7.host': job}})}\nX")
    else:
        text = "<job_state>C</job_state><exit_status>4</exit_status>"
        put(programs, "qstat", f"echo '<Data><Job><Job_Id>7.host</Job_Id>{text}</Job></Data>'")
    job = Job("echo out; exit 4", queue=quick(qtype)).submit()
    assert job.get(30) == (4, "out\n", "")
    assert job.state is State.FAILED
    assert job.id == "7.host"
    assert [one.job for one in quick(qtype).jobs()] == ["7.host"]


def test_grid_engine_s_script_looks_how_the_other_job_ended(programs: Path, room: Path) -> None:
    count = f"n=$(cat '{programs}/n' 2>/dev/null || echo 0); n=$((n + 1)); echo $n >'{programs}/n'"
    put(programs, "qsub", f'{count}\nbash "${{!#}}" >/dev/null 2>&1; echo $n')
    put(programs, "qstat", "echo '<job_info></job_info>'")
    put(programs, "qacct", "echo 'error: job id 1 not found' >&2; exit 1")
    queue = quick("sge")
    good, bad = Job("true", queue=queue).submit(), Job("exit 3", queue=queue).submit()
    # Submitted at once, so that the queue does not know yet how they ended: the script has to find out.
    never = Job("touch never", queue=queue, depends=bad).submit()
    fine = Job("touch fine", queue=queue, depends=good).submit()
    assert queue.wait([good, bad, never, fine], 30)
    assert (good.exit_code, bad.exit_code, fine.exit_code) == (0, 3, 0)
    assert never.state is State.CANCELLED
    assert (room / "fine").exists()
    assert not (room / "never").exists()
    assert "-hold_jid 2" in calls(programs, "qsub")[2]
    with pytest.raises(OptionError, match="99"):
        Job("true", queue=queue, depends="99").submit()


def test_a_cancelled_job_of_grid_engine_is_told_from_a_killed_one(programs: Path) -> None:
    killed = "echo '==========\njobnumber 1\nfailed 100 : assumedly after job\nexit_status 137'"
    put(programs, "qsub", "echo 1")
    put(programs, "qdel", "")
    put(programs, "qstat", "echo '<job_info></job_info>'")
    put(programs, "qacct", killed)
    queue = quick("sge")
    job = Job("true", queue=queue).submit()
    job.cancel()
    assert job.wait(30)
    assert job.state is State.CANCELLED
    other = Job("true", queue=quick("sge")).submit()
    assert other.wait(30)
    assert (other.state, other.exit_code) == (State.FAILED, -9)


def test_the_defaults_are_kind_to_the_batch_system() -> None:
    assert queue_module.POLL_SECONDS >= 1
    assert queue_module.LONGEST_POLL_SECONDS >= 10
