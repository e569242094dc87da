"""The local queue as a process: killed, restarted, asked by strangers, full."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from mpiframe.plugins.scheduler import Job, LocalBackend, Queue, State, SubmitError, submit_file
from mpiframe.plugins.scheduler.local_journal import Journal
from mpiframe.plugins.scheduler.local_server import LocalServer, in_folder
from mpiframe.plugins.scheduler.local_tasks import LocalTasks, Running

SECONDS = 60.0


@pytest.fixture
def local(room: Path) -> LocalBackend:
    return LocalBackend(cores=4, memory_mb=1000)


@pytest.fixture
def queue(local: LocalBackend) -> Queue:
    return Queue("local", backend=local)


def await_file(path: Path) -> None:
    deadline = time.monotonic() + SECONDS
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not come"
        time.sleep(0.01)


def pid_of(local: LocalBackend) -> int:
    return int(Path(local.folder, "lock").read_text())


def kill_queue(local: LocalBackend) -> None:
    pid = pid_of(local)
    pidfd = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    assert select.select([pidfd], [], [], SECONDS)[0]
    os.close(pidfd)


def test_the_queue_is_killed_while_jobs_run(queue: Queue, local: LocalBackend, room: Path) -> None:
    runs = Job("touch up; while [ ! -e go ]; do sleep 0.05; done; exit 4", queue=queue).submit()
    ends = Job("touch up2; while [ ! -e gone ]; do sleep 0.01; done; exit 6", queue=queue).submit()
    waits = Job("echo waited", queue=queue, depends=f"afterany:{runs.id}").submit()
    done = Job("exit 2", queue=queue).submit()
    assert done.get(SECONDS)[0] == 2
    await_file(room / "up")
    await_file(room / "up2")
    kill_queue(local)
    (room / "gone").touch()  # one ends while there is no queue
    deadline = time.monotonic() + SECONDS
    end = Path(ends.files.end)
    while not end.exists() or "exit 6" not in end.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert queue.status(runs.id)[0].state is State.RUNNING  # which starts another queue
    assert ends.wait(SECONDS)
    assert (ends.exit_code, ends.state) == (6, State.FAILED)
    (room / "go").touch()
    assert queue.wait([runs, waits], SECONDS)
    assert (runs.exit_code, waits.exit_code, done.exit_code) == (4, 0, 2)
    again = Job("true", queue=queue).submit()
    assert int(again.id) == int(done.id) + 1


KILLED = """
import json, os, sys
from mpiframe.plugins.scheduler.local_tasks import LocalTasks
tasks = LocalTasks(sys.argv[1], 4, 1000, lambda fd, running: print(running.pid, flush=True), lambda fd: None)
tasks.recover()
tasks.submit(json.loads(sys.argv[2]), dict(os.environ))
tasks.commit()
tasks.start_tasks()
os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("kind", ["job", "file"])
def test_the_queue_is_killed_before_it_has_noted_that_a_job_was_started(
    kind: str, queue: Queue, local: LocalBackend, room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one starts it, so what was started must not have run."""
    requests: list[dict[str, Any]] = []
    with monkeypatch.context() as context:
        context.setattr(local, "_ask", lambda request: requests.append(request) or {"id": "1"})
        if kind == "job":
            Job("echo ran >>log; cat >>log", queue=queue).submit()
        else:
            (room / "given").write_text(f"cd {room}\necho ran >>log; cat >>log\n")
            submit_file("given", queue=queue)
    (room / "books").mkdir()
    argv = [sys.executable, "-c", KILLED, str(room / "books"), json.dumps(requests[0]["spec"])]
    started = int(subprocess.run(argv, stdout=subprocess.PIPE, timeout=SECONDS, check=False).stdout)
    await_end(started)
    assert not (room / "log").exists()
    begun: list[Running] = []
    tasks = LocalTasks(str(room / "books"), 4, 1000, lambda _, running: begun.append(running), lambda _: None)
    tasks.recover()
    tasks.start_tasks()
    tasks.commit()
    (running,) = begun
    assert select.select([running.pidfd], [], [], SECONDS)[0]
    tasks.finished(running)
    assert [status["state"] for status in tasks.everything()] == ["completed"]
    assert (room / "log").read_text() == "ran\n"  # once, and nothing on its standard input


def test_a_waiting_client_does_not_notice(queue: Queue, local: LocalBackend, room: Path) -> None:
    job = Job("touch up; sleep 1; exit 5", queue=queue).submit()
    await_file(room / "up")
    found: list[bool] = []
    waiter = threading.Thread(target=lambda: found.append(job.wait(SECONDS)))
    waiter.start()
    kill_queue(local)
    waiter.join(SECONDS)
    assert found == [True]
    assert job.exit_code == 5


def test_what_a_job_leaves_behind_ends_with_it(queue: Queue, room: Path) -> None:
    job = Job("sleep 1000 & echo $! >pid", queue=queue).submit()
    assert job.get(SECONDS)[0] == 0
    await_end(int((room / "pid").read_text()))


def await_end(pid: int) -> None:
    deadline = time.monotonic() + SECONDS
    while is_there(pid):
        assert time.monotonic() < deadline, f"process {pid} did not end"
        time.sleep(0.01)


def is_there(pid: int) -> bool:
    """Whether a process has not ended; it may go between any two looks."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_job_that_ignores_the_signal_is_killed(queue: Queue, room: Path) -> None:
    script = "trap '' TERM; touch up; while true; do sleep 0.1; done"
    job = Job(script, queue=queue).submit()
    await_file(room / "up")
    job.cancel()
    assert job.wait(SECONDS)
    assert (job.state, job.exit_code) == (State.CANCELLED, -signal.SIGKILL)


def test_a_time_out_counts_from_the_start_whoever_watches(
    queue: Queue, local: LocalBackend, room: Path
) -> None:
    job = Job("touch up; sleep 1000", queue=queue, time=2).submit()
    await_file(room / "up")
    kill_queue(local)
    assert job.wait(SECONDS)
    assert job.state is State.TIMEOUT


def test_cores_are_counted(queue: Queue, room: Path) -> None:
    script = "echo + >>log; while [ ! -e go ]; do sleep 0.02; done; sleep 0.2; echo - >>log"
    jobs = [Job(script, queue=queue, cores=2).submit() for _ in range(5)]
    deadline = time.monotonic() + SECONDS
    await_file(room / "log")
    while (room / "log").read_text().count("+") < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (room / "go").touch()
    assert queue.wait(jobs, SECONDS)
    running, most = 0, 0
    for line in (room / "log").read_text().split():
        running += 1 if line == "+" else -1
        most = max(most, running)
    assert most == 2
    with pytest.raises(SubmitError, match="5 cores of 4"):
        Job("true", queue=queue, cores=5).submit()
    with pytest.raises(SubmitError, match="memory"):
        Job("true", queue=queue, mem="2GB").submit()


def test_each_client_s_environment_is_its_jobs(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLOUR", "red")
    first = Job("echo $COLOUR", queue=queue).submit()
    monkeypatch.setenv("COLOUR", "blue")
    second = Job("echo $COLOUR", queue=queue).submit()
    assert (first.get(SECONDS)[1], second.get(SECONDS)[1]) == ("red\n", "blue\n")


def test_many_jobs_and_many_threads(queue: Queue) -> None:
    jobs = [Job("true", queue=queue).submit() for _ in range(60)]
    found: list[bool] = []
    threads = [threading.Thread(target=lambda j=job: found.append(j.wait(SECONDS))) for job in jobs[::6]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert found == [True] * 10
    assert queue.wait(jobs, SECONDS)
    assert {job.exit_code for job in jobs} == {0}


def test_the_queue_ends_when_it_is_idle_and_is_started_again(room: Path) -> None:
    local = LocalBackend(cores=2, linger_seconds=0.1)
    assert Job("true", queue=Queue("local", backend=local)).submit().get(SECONDS)[0] == 0
    pidfd = os.pidfd_open(pid_of(local))
    local._drop_link()
    assert select.select([pidfd], [], [], SECONDS)[0], "it did not end"
    os.close(pidfd)
    assert Job("exit 3", queue=Queue("local", backend=local)).submit().get(SECONDS)[0] == 3


def test_whoever_stands_at_the_door_when_the_time_is_up_is_served(tmp_path: Path) -> None:
    server = LocalServer(str(tmp_path), cores=1, memory=100, linger=0.0)
    server.open()
    with socket.socket(socket.AF_UNIX) as client, in_folder(str(tmp_path)) as short:
        client.settimeout(SECONDS)
        client.connect(f"{short}/socket")
        client.sendall(json.dumps({"secret": (tmp_path / "secret").read_text()}).encode() + b"\n")
        client.shutdown(socket.SHUT_WR)  # then it is left alone again, and ends
        server.run()
        assert "epoch" in json.loads(client.recv(1000))
    server._selector.close()
    server._listener.close()
    assert not (tmp_path / "socket").exists()


def test_strangers_are_not_served(queue: Queue, local: LocalBackend) -> None:
    Job("true", queue=queue).submit().wait(SECONDS)
    request = json.dumps({"op": "list"}).encode() + b"\n"
    for first in (b'{"secret": "wrong"}\n', b"\n", b"[]\n", b"x" * 5000, request):
        with socket.socket(socket.AF_UNIX) as stranger, in_folder(local.folder) as short:
            stranger.settimeout(SECONDS)
            stranger.connect(f"{short}/socket")
            try:
                stranger.sendall(first + request)
                assert stranger.recv(100) == b""
            except (BrokenPipeError, ConnectionResetError):
                pass
    for name in ("secret", "socket", "journal"):
        assert os.stat(os.path.join(local.folder, name)).st_mode & 0o077 == 0
    assert os.stat(local.folder).st_mode & 0o077 == 0
    assert Job("true", queue=queue).submit().get(SECONDS)[0] == 0


def test_two_clients_start_one_queue(room: Path) -> None:
    program = "from mpiframe.plugins.scheduler import Job\nprint(Job('true', qtype='local').submit().id)"
    root = str(Path(__file__).resolve().parents[3])
    env = os.environ | {"PYTHONPATH": root}
    clients = [
        subprocess.Popen([sys.executable, "-c", program], env=env, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    ids = {client.communicate(timeout=SECONDS)[0].strip() for client in clients}
    assert ids == {"1", "2", "3", "4"}


def test_a_journal_that_was_cut_off(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "journal"))
    journal.restart([{"submit": "1"}])
    journal.add(start="1")
    journal.commit()
    journal.close()
    with open(tmp_path / "journal", "ab") as file:
        file.write(b'{"end": "1", "tas')
    assert list(journal.read()) == [{"submit": "1"}, {"start": "1"}]


def test_an_idle_queue_and_a_waiting_client_sleep(queue: Queue, local: LocalBackend, room: Path) -> None:
    """No polling: a second of waiting costs neither of them anything to speak of."""
    job = Job("touch up; sleep 1.5", queue=queue).submit()
    await_file(room / "up")
    pid = pid_of(local)
    before, own = _ticks(pid), time.process_time()
    assert job.wait(SECONDS)
    assert _ticks(pid) - before <= 10  # hundredths of a second
    assert time.process_time() - own < 0.3


def _ticks(pid: int) -> int:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(words[11]) + int(words[12])


def test_output_that_cannot_be_opened_is_a_failed_job(queue: Queue, room: Path) -> None:
    blocker = Job("touch up; while [ ! -e go ]; do sleep 0.02; done", queue=queue, cores=4).submit()
    await_file(room / "up")
    job = Job("true", queue=queue, outfile="sub/out").submit()
    (room / "go").touch()
    assert queue.wait([blocker, job], SECONDS)
    assert job.state is State.FAILED
    assert "could not be started" in job.statuses[0].reason


def test_modules_are_loaded_first(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a command and for a function, and one that cannot be loaded fails the job."""
    # A shell function in the environment, as a site's own `module` is.
    monkeypatch.setenv("BASH_FUNC_module%%", '() { [ "$2" != nope ] && export LOADED="${LOADED-}$2"; }')
    command = Job('echo "$LOADED"', queue=queue, modules=["gcc", "fftw"]).submit()
    function = Job(os.getenv, ["LOADED"], queue=queue, modules=["gcc"]).submit()
    failed = Job(os.getenv, ["LOADED"], queue=queue, modules=["nope"]).submit()
    assert command.get(SECONDS) == (0, "gccfftw\n", "")
    assert function.result(SECONDS) == "gcc"
    assert failed.get(SECONDS)[0] == 1
    without = Job(os.getenv, ["LOADED"], queue=queue)
    assert list(without.texts()) == [without.files.submission]
