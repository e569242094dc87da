"""The suite that every batch system has to pass: the local queue, and a real Slurm where it is named."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mpiframe.plugins.scheduler import (
    Job,
    JobFailed,
    JobNotFound,
    JobStatus,
    JobTraceback,
    OptionError,
    Queue,
    State,
    SubmitError,
    afterany,
    afternotok,
)
from mpiframe.plugins.scheduler.local_memory import MemoryGroups

SECONDS = 60.0
ROOT = Path(__file__).resolve().parents[3]


# -- commands -------------------------------------------------------------------------------------


def test_a_command(queue: Queue, room: Path) -> None:
    job = Job("echo out; echo err >&2; pwd", queue=queue).submit()
    assert job.id
    assert job.get(SECONDS) == (0, f"out\n{room}\n", "err\n")
    assert job.state is State.COMPLETED
    assert job.done
    assert job.exit_code == 0


def test_a_failed_job(queue: Queue) -> None:
    job = Job("exit 3", queue=queue).submit()
    assert job.get(SECONDS)[0] == 3
    assert job.state is State.FAILED


def test_a_killed_child(queue: Queue) -> None:
    job = Job("kill -9 $$", queue=queue).submit()
    assert job.get(SECONDS)[0] == 128 + signal.SIGKILL
    assert job.state is State.FAILED


def test_a_list_of_words_is_quoted(queue: Queue, room: Path) -> None:
    words = ["printf", "%s\n", "a b", "$HOME", "it's; rm -rf x", "`id`"]
    assert Job(words, queue=queue).submit().get(SECONDS) == (0, "\n".join(words[2:]) + "\n", "")
    job = Job("printf '%s\\n'", ["$(id)", 5], queue=queue).submit()
    assert job.get(SECONDS)[1] == "$(id)\n5\n"


def test_odd_names_of_jobs_and_folders(queue: Queue, room: Path) -> None:
    folder = room / "a b's %j $x"
    folder.mkdir()
    job = Job("pwd", queue=queue, name="it's a|job; $(id)", dir=str(folder)).submit()
    assert job.get(SECONDS) == (0, f"{folder}\n", "")
    assert all(os.path.dirname(path) == str(folder) for path in job.scripts)
    listed = [one for one in queue.jobs() if one.job == job.id]
    if queue.qtype in ("local", "slurm"):  # the others take plain letters only, or forget what has ended
        assert [one.name for one in listed] == ["it's a|job; $(id)"]


def test_a_command_with_a_syntax_error_is_a_failed_job(queue: Queue) -> None:
    job = Job("if then (", queue=queue).submit()
    code, _, err = job.get(SECONDS)
    assert code == 2
    assert "syntax error" in err


def test_output_files_where_they_are_wanted(queue: Queue, room: Path) -> None:
    job = Job("echo x", queue=queue, outfile="my.out", stderr=str(room / "my.err")).submit()
    assert job.get(SECONDS)[1] == "x\n"
    assert (room / "my.out").read_text() == "x\n"
    assert (room / "my.err").read_text() == ""


# -- dependencies ---------------------------------------------------------------------------------


def test_a_chain(queue: Queue, room: Path) -> None:
    first = Job("sleep 0.3; echo 1 >>order", queue=queue).submit()
    second = Job("echo 2 >>order", queue=queue, depends=first).submit()
    third = Job("echo 3 >>order", queue=queue, depends=[first.id, second]).submit()
    assert queue.wait(third, SECONDS)
    assert (room / "order").read_text() == "1\n2\n3\n"
    assert {job.state for job in (first, second, third)} == {State.COMPLETED}


def test_what_waits_for_a_failed_job(queue: Queue, room: Path) -> None:
    first = Job("sleep 0.5; exit 1", queue=queue).submit()
    never = Job("touch never", queue=queue, depends=first).submit()
    later = Job("touch later", queue=queue, depends=never).submit()
    anyway = Job("echo anyway", queue=queue, depends=afterany(first)).submit()
    instead = Job("echo instead", queue=queue, depends=afternotok(first)).submit()
    assert queue.wait([never, later, anyway, instead], SECONDS)
    assert first.state is State.FAILED
    assert never.state is later.state is State.CANCELLED
    assert never.exit_code is None
    assert [job.state for job in (anyway, instead)] == [State.COMPLETED] * 2
    assert not (room / "never").exists()
    assert not (room / "later").exists()


def test_jobs_that_have_ended_are_waited_for_no_more(queue: Queue) -> None:
    good, bad = Job("true", queue=queue).submit(), Job("false", queue=queue).submit()
    queue.wait([good, bad], SECONDS)
    job = Job("true", queue=queue, depends=[good, afterany(bad), afternotok(bad)]).submit()
    assert job.get(SECONDS)[0] == 0
    never = Job("true", queue=queue, depends=bad).submit()
    assert queue.wait(never, SECONDS)
    assert never.state is State.CANCELLED


def test_a_dependency_that_does_not_exist(queue: Queue, room: Path) -> None:
    with pytest.raises(OptionError, match="99999"):
        Job("true", queue=queue, depends=99999).submit()
    with pytest.raises(OptionError, match="not submitted"):
        Job("true", queue=queue, depends=Job("true", queue=queue)).submit()
    assert list(room.iterdir()) == []


# -- arrays ---------------------------------------------------------------------------------------


def test_an_array_of_20(queue: Queue, room: Path) -> None:
    job = Job(
        "echo $MPIFRAME_ARRAY_INDEX; exit $((MPIFRAME_ARRAY_INDEX % 3))", queue=queue, array="20%5"
    ).submit()
    code, out, err = job.get(SECONDS)
    assert job.exit_codes == [index % 3 for index in range(20)]
    assert (code, out, err) == (1, "".join(f"{index}\n" for index in range(20)), "")
    assert job.state is State.FAILED
    assert len({one.task for one in job.statuses}) == 20


def test_an_array_of_one(queue: Queue) -> None:
    job = Job("echo $MPIFRAME_ARRAY_INDEX", queue=queue, array=1).submit()
    assert job.get(SECONDS) == (0, "0\n", "")


def test_what_waits_for_an_array_waits_for_all_of_it(queue: Queue, room: Path) -> None:
    array = Job("sleep 0.2; touch done.$MPIFRAME_ARRAY_INDEX", queue=queue, array=6).submit()
    after = Job("ls done.* | wc -l", queue=queue, depends=array).submit()
    assert after.get(SECONDS)[1].strip() == "6"


# -- ends that are not its own --------------------------------------------------------------------


def test_a_cancelled_job(queue: Queue, room: Path) -> None:
    running = Job("touch up; sleep 1000; touch never", queue=queue).submit()
    held = Job("true", queue=queue, depends=running).submit()
    await_file(room / "up")
    assert running.state is State.RUNNING
    assert held.state is State.HELD
    begun = time.monotonic()
    held.cancel()
    running.cancel()
    assert queue.wait([running, held], SECONDS)
    assert running.state is held.state is State.CANCELLED
    assert time.monotonic() - begun < SECONDS
    assert not (room / "never").exists()
    running.cancel()  # nothing to do


@pytest.mark.timeout(240)
def test_a_time_out(queue: Queue) -> None:
    job = Job("sleep 1000", queue=queue, time=1).submit()
    assert queue.wait(job, 200)  # Slurm counts whole minutes
    assert job.state is State.TIMEOUT


def test_memory_that_runs_out(queue: Queue, request: pytest.FixtureRequest, room: Path) -> None:
    def hog() -> int:
        return len([b"x" * (10 << 20) for _ in range(70)])

    job = Job(hog, queue=queue, mem="350M").submit()
    if queue.qtype == "sge":  # h_vmem is a limit on addresses: the program is told, and may go on
        with pytest.raises(MemoryError):
            job.result(SECONDS)
        return
    if queue.qtype == "local" and not MemoryGroups(str(room)).usable:  # then it is only counted
        assert job.result(SECONDS) == 70
        return
    with pytest.raises(JobFailed, match="left no result"):
        job.result(SECONDS)
    if queue.qtype == "slurm" and not request.getfixturevalue("slurm").bounds_memory:
        assert (job.state, job.exit_code) == (State.FAILED, -9)  # Slurm says no more than that
        return
    assert job.state is State.OUT_OF_MEMORY
    assert job.exit_code in (-9, 128 + 9)
    good = Job("true", queue=queue, mem="350M").submit()
    assert good.get(SECONDS)[0] == 0
    assert good.state is State.COMPLETED


# -- functions ------------------------------------------------------------------------------------


def test_a_function_with_a_result_of_10_mb(queue: Queue) -> None:
    size = 10 * 1024 * 1024

    def make(count: int, letter: str = "x") -> bytes:
        print("making")
        return letter.encode() * count

    job = Job(make, [size], {"letter": "y"}, queue=queue).submit()
    result = job.result(SECONDS)
    assert len(result) == size
    assert result[:1] == b"y"
    assert (job.stdout, job.exit_code) == ("making\n", 0)


def test_a_function_that_raises(queue: Queue) -> None:
    class Special(Exception):
        pass

    def fail() -> None:
        raise Special("no such luck")

    job = Job(fail, queue=queue).submit()
    with pytest.raises(Exception, match="no such luck") as caught:
        job.result(SECONDS)
    assert type(caught.value).__name__ == "Special"
    assert isinstance(caught.value.__cause__, JobTraceback)
    assert "in fail" in str(caught.value.__cause__)
    assert (job.state, job.exit_code) == (State.FAILED, 1)
    assert "no such luck" in job.stderr


def test_functions_that_end_otherwise(queue: Queue) -> None:
    def leave() -> None:
        sys.exit(7)

    def die() -> None:
        os._exit(9)

    def unpicklable() -> object:
        return threading.Lock()

    left, died, bad = (Job(function, queue=queue).submit() for function in (leave, die, unpicklable))
    with pytest.raises(SystemExit):
        left.result(SECONDS)
    assert left.exit_code == 7
    with pytest.raises(JobFailed, match="exit code 9") as caught:
        died.result(SECONDS)
    assert caught.value.exit_code == 9
    with pytest.raises(RuntimeError, match="pickle"):
        bad.result(SECONDS)


def test_a_function_for_each_item(queue: Queue) -> None:
    def add(x: int, y: int) -> int:
        return x + y

    job = Job(add, [100], queue=queue, each=range(5)).submit()
    assert job.result(SECONDS) == [100, 101, 102, 103, 104]
    assert job.name == "add"


# -- watching -------------------------------------------------------------------------------------


def test_events_and_completion_in_order(queue: Queue, room: Path) -> None:
    seen: list[JobStatus] = []
    end = queue.subscribe(seen.append)
    slow = Job("while [ ! -e go ]; do sleep 0.05; done", queue=queue).submit()
    quick = Job("true", queue=queue).submit()
    ended = queue.as_completed([slow, quick], SECONDS)
    assert next(ended) == quick.id
    deadline = time.monotonic() + SECONDS
    while slow.state is not State.RUNNING:
        assert time.monotonic() < deadline, slow.state
        slow.wait(0.1)
    (room / "go").touch()
    assert list(ended) == [slow.id]
    states = [one.state for one in seen if one.job == slow.id]
    assert states[-1] is State.COMPLETED
    assert State.RUNNING in states
    end()
    Job("true", queue=queue).submit().wait(SECONDS)
    assert {one.job for one in seen} == {slow.id, quick.id}


def test_waiting_that_takes_too_long(queue: Queue) -> None:
    job = Job("sleep 1000", queue=queue).submit()
    begun = time.monotonic()
    assert not job.wait(0.5)
    with pytest.raises(TimeoutError, match=job.id):
        job.get(0.1)
    with pytest.raises(TimeoutError):
        list(queue.as_completed(job, 0.1))
    assert time.monotonic() - begun < 30
    job.cancel()
    assert job.wait(SECONDS)


def test_unknown_jobs(queue: Queue) -> None:
    with pytest.raises(JobNotFound, match="99999"):
        queue.wait("99999", 5)
    with pytest.raises(JobNotFound):
        Job.find("99999", queue=queue)
    with pytest.raises(SubmitError, match="before"):
        Job("true", queue=queue).submit().submit()


def test_a_progress_bar(queue: Queue, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = [Job("true", queue=queue).submit() for _ in range(3)]
    assert queue.wait(jobs, SECONDS, progress=True)
    assert capsys.readouterr().err.rstrip().endswith("3/3")


# -- restarts -------------------------------------------------------------------------------------

CLIENT = """
import os, signal, sys
from mpiframe.plugins.scheduler import Job, Queue

def work(x):
    return [x, "done"]

queue = Queue(sys.argv[1])
first = Job("sleep 2; exit 5", queue=queue).submit()
second = Job(work, [7], queue=queue, depends="afterany:" + first.id).submit()
array = Job("exit $MPIFRAME_ARRAY_INDEX", queue=queue, array=3).submit()
print(first.id, second.id, array.id, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_client_is_killed_and_started_again(make_queue: Callable[..., Queue], room: Path) -> None:
    (room / "client.py").write_text(CLIENT)
    qtype = make_queue().qtype
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "client.py", qtype],
        env=env,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert run.returncode == -signal.SIGKILL, run.stderr
    queue = make_queue()
    first, second, array = (Job.find(number, queue=queue) for number in run.stdout.split())
    assert queue.wait([first, second, array], SECONDS)
    assert (first.exit_code, first.state) == (5, State.FAILED)
    assert second.result(SECONDS) == [7, "done"]
    assert array.exit_codes == [0, 1, 2]
    # A third client learns it from the records alone.
    again = Job.find(first.id, queue=make_queue())
    assert (again.exit_code, again.name) == (5, "sleep")


# -- files ----------------------------------------------------------------------------------------


def test_clean_deletes_what_the_job_made_and_nothing_else(queue: Queue, room: Path) -> None:
    (room / "mine.cluster.out").write_text("keep")

    def work() -> int:
        return 1

    job = Job(work, queue=queue).submit()
    assert job.result(SECONDS) == 1
    names = {path.name for path in room.iterdir()}
    assert len(names) > 6
    gone = job.clean()
    assert {path.name for path in room.iterdir()} == names - {os.path.basename(path) for path in gone}
    outputs = {path for path in (job.files.out, job.files.err) if os.path.exists(path)}
    assert len(outputs) == 2
    assert set(job.clean(delete_outputs=True)) == outputs
    assert [path.name for path in room.iterdir()] == ["mine.cluster.out"]
    with pytest.raises(JobNotFound):
        Job.find(job.id, queue=queue)


def test_files_are_cleaned_as_asked(queue: Queue, room: Path) -> None:
    job = Job("echo x", queue=queue, clean_files=True, clean_outputs=True).submit()
    assert job.get(SECONDS) == (0, "x\n", "")
    assert list(room.iterdir()) == []


def test_nothing_is_left_of_what_could_not_be_submitted(queue: Queue, room: Path) -> None:
    with pytest.raises(SubmitError, match="no/such"):
        Job("true", queue=queue, filedir="no/such").submit()
    (room / "file").write_text("")
    with pytest.raises(SubmitError, match="file"):
        Job("true", queue=queue, filedir="file").submit()
    assert [path.name for path in room.iterdir()] == ["file"]


# -- inside an MPI rank ---------------------------------------------------------------------------


def test_a_rank_s_variables_do_not_reach_the_job(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_CPU_BIND", "SLURM_MEM_PER_NODE"):
        monkeypatch.setenv(name, "leaked")
    monkeypatch.setenv("MY_SETTING", "kept")
    code, out, _ = Job("env", queue=queue).submit().get(SECONDS)
    assert code == 0
    assert "leaked" not in out
    assert "MY_SETTING=kept" in out


def await_file(path: Path) -> None:
    deadline = time.monotonic() + SECONDS
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not come"
        time.sleep(0.01)


RANKS = textwrap.dedent("""
    import sys
    from mpi4py import MPI
    sys.stdout.write(f"rank {MPI.COMM_WORLD.rank} of {MPI.COMM_WORLD.size}\\n")  # in one piece
""")


def test_ranks(queue: Queue, room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"):
        monkeypatch.setenv(name, "1")
    (room / "ranks.py").write_text(RANKS)
    code, out, err = Job([sys.executable, "ranks.py"], queue=queue, mpi=2).submit().get(SECONDS)
    assert code == 0, err
    assert sorted(out.splitlines()) == ["rank 0 of 2", "rank 1 of 2"]


def test_a_world_of_mpiframe(queue: Queue, room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (room / "world.py").write_text(
        "import mpiframe\nwith mpiframe.Client() as client:\n    print(client.submit(sum, [1, 2]).result())\n"
    )
    code, out, err = Job("world.py", queue=queue, mpiframe=3).submit().get(SECONDS)
    assert (code, out) == (0, "3\n"), err


def test_the_example(queue: Queue, room: Path) -> None:
    count = 10 if queue.qtype == "local" else 50
    argv = [sys.executable, str(ROOT / "examples" / "sweep.py"), "--qtype", queue.qtype, "--jobs", str(count)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=100, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    lines = run.stdout.splitlines()
    assert lines[0].startswith(f"{count} fits on {queue.qtype}")
    assert len(lines) == count + 3
    assert f"of {count} fits found the star: 58" in lines[-1]
    assert run.stderr.rstrip().endswith(f"{count}/{count}")
    assert list(room.iterdir()) == []
