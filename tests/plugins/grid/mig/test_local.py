"""Jobs on this machine: true states, one shell a job, and a job that outlives its client."""

from __future__ import annotations

import contextlib
import errno
import http.server
import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import mpiframe
import mpiframe.compat.miginterface as compat
from mpiframe.plugins.grid.mig import (
    LocalServer,
    Mig,
    MigInterfaceError,
    MigLocalError,
    MigServerError,
    MigUnknownJobIdError,
    MrslError,
    disk,
    records,
)
from mpiframe.plugins.grid.mig.call_log import CallLog
from mpiframe.plugins.grid.mig.commands import MigCommands
from mpiframe.plugins.grid.mig.records import Record
from mpiframe.plugins.grid.plugin import Grid

SECONDS = 30.0


def run(mig: Mig, *lines: str, **options: Any) -> tuple[str, str]:
    """(state, output) of a job that has ended."""
    job = mig.create_job(list(lines), **options)
    state = mig.wait(job, SECONDS)[0]
    return state, mig.job_output(job)


def await_file(path: Path) -> Path:
    deadline = time.monotonic() + SECONDS
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} was not made"
        time.sleep(0.005)
    return path


def keeper_of(mig: Mig, job: str) -> int:
    assert isinstance(mig.server, LocalServer)
    return int(Path(Record(mig.server.home, job).path("keeper")).read_text().split()[0])


# -- one shell ---------------------------------------------------------------------------------------


def test_lines_share_one_shell(mig: Mig) -> None:
    state, said = run(
        mig, "cd /", "x='a b'; export y=2", 'f() { echo "$x$y $1"; }', "pwd", "f 3", "(exit 0)", "echo $?"
    )
    assert state == "FINISHED"
    assert said == "/\na b2 3\n0\n"


def test_the_last_status_is_there_in_the_next_line(mig: Mig) -> None:
    state, said = run(mig, "(exit 7)", "echo $?")
    assert (state, said) == ("FAILED", "7\n")


@pytest.mark.parametrize(
    "line",
    ["echo 'it", 'echo "it', "if true; then", "break", "return", "echo $(", "cat <<X", "}", ") ; echo"],
)
def test_a_line_cannot_break_out_of_its_place(mig: Mig, line: str) -> None:
    job = mig.create_job([line, "echo next"])
    mig.wait(job, SECONDS)
    assert mig.cat_file(f"job_output/{job}/{job}.stdout").endswith("next\n")
    assert mig.cat_file(f"job_output/{job}/{job}.status").splitlines()[-1] == "echo next 0"


def test_standard_input_is_empty_and_no_file_of_ours_is_open(mig: Mig) -> None:
    state, said = run(mig, "cat", "ls /proc/self/fd | tr '\\n' ' '")
    assert (state, said) == ("FINISHED", "0 1 2 3 ")  # 3 is that of ls itself


def test_exit_ends_it(mig: Mig) -> None:
    assert run(mig, "echo a", "exit 0", "echo b") == ("FINISHED", "a\n")
    job = mig.create_job(["echo a", "exit 4", "echo b"])
    assert mig.wait(job, SECONDS) == ["FAILED"]
    assert "exit status 4 in line 2 (exit 4)" in mig.job_info(job)["REASON"]


def test_environment_names_and_variables(mig: Mig) -> None:
    job = mig.create_job(
        ["echo $A +JOBNAME+ +JOBID+", "$PYTHON -c 'print(6 * 7)'"],
        resource_specifications={"ENVIRONMENT": {"A": "$x y"}, "RUNTIMEENVIRONMENT": "PYTHON-3"},
        name="sweep",
    )
    assert mig.wait(job, SECONDS) == ["FINISHED"]
    assert mig.job_output(job) == f"$x y sweep {job}\n42\n"


def test_the_variables_of_a_rank_are_not_passed_on(mig: Mig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    monkeypatch.setenv("PMI_RANK", "0")
    assert run(mig, "echo ${OMPI_COMM_WORLD_RANK:-none}${PMI_RANK:-none}")[1] == "nonenone\n"


# -- states ------------------------------------------------------------------------------------------


def test_a_life(mig: Mig) -> None:
    job = mig.create_job("while ! [ -e ../go ]; do read -t 0.01 < <(:); done; echo done")
    seen = [mig.job_status(job)]
    while seen[-1] != "EXECUTING":
        seen.append(mig.job_status(job))
    assert set(seen) <= {"QUEUED", "EXECUTING"}
    assert not mig.job_finished(job)
    assert isinstance(mig.server, LocalServer)
    Path(Record(mig.server.home, job).path("go")).touch()
    assert mig.wait(job, SECONDS) == ["FINISHED"]
    info = mig.job_info(job)
    assert mig.job_finished(job)
    assert {"ID", "STATUS", "RECEIVED", "QUEUED", "EXECUTING", "FINISHED"} <= set(info)
    assert info["ID"] == job
    assert time.strptime(info["FINISHED"]) >= time.strptime(info["EXECUTING"])
    assert "FAILED" not in info


def test_a_failed_job_says_why(mig: Mig) -> None:
    job = mig.create_job(["echo before", "nosuchcommandonanysystemiknow", "echo after"])
    assert mig.wait(job, SECONDS) == ["FAILED"]
    info = mig.job_info(job)
    assert info["REASON"] == "line 2 (nosuchcommandonanysystemiknow) ended with exit status 127"
    assert "FINISHED" not in info
    assert mig.job_finished(job)  # or the loops of the examples would never end
    assert "nosuchcommandonanysystemiknow" in mig.job_output(job)
    assert mig.job_output(job).endswith("before\nafter\n")


def test_cancel_ends_all_processes(mig: Mig, room: Path) -> None:
    job = mig.create_job("trap '' TERM; (trap '' TERM; while :; do sleep 60; done) & touch ../up; wait")
    assert isinstance(mig.server, LocalServer)
    await_file(Path(Record(mig.server.home, job).path("up")))
    mig.cancel_job(job)
    assert mig.job_status(job) == "CANCELED"
    assert "CANCELED" in mig.job_info(job)
    with pytest.raises(MigServerError, match="is CANCELED"):
        mig.cancel_job(job)


def test_a_job_that_waits_for_its_turn_can_be_canceled(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPIFRAME_MIG_SLOTS", "1")
    mig = Mig(LocalServer())
    first = mig.create_job("touch ../up; sleep 60")
    assert isinstance(mig.server, LocalServer)
    await_file(Path(Record(mig.server.home, first).path("up")))
    second, third = mig.create_job("echo 2"), mig.create_job("echo 3")
    assert mig.jobs_status([first, second, third]) == ["EXECUTING", "QUEUED", "QUEUED"]
    mig.cancel_job(second)
    mig.cancel_job(first)
    assert mig.wait(third, SECONDS) == ["FINISHED"]
    assert mig.jobs_status([first, second]) == ["CANCELED", "CANCELED"]
    assert mig.job_output(second) == ""


def test_no_more_run_at_once_than_there_are_slots(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPIFRAME_MIG_SLOTS", "2")
    mig = Mig(LocalServer())
    # The shell counts by itself: `ls` would look again at each name, and another job's may be gone by then.
    count = f"mkdir {room}/n.$$; set -- {room}/n.*; echo $#; sleep 0.05; rmdir {room}/n.$$"
    jobs = [mig.create_job(count) for _ in range(8)]
    assert mig.wait(jobs, SECONDS) == ["FINISHED"] * 8
    assert max(int(mig.job_output(job)) for job in jobs) <= 2


def test_jobs_run_side_by_side(mig: Mig, room: Path) -> None:
    os.mkfifo(room / "meet")
    writer = mig.create_job(f"echo met > {room}/meet")
    reader = mig.create_job(f"cat {room}/meet")
    assert mig.wait([writer, reader], SECONDS) == ["FINISHED", "FINISHED"]
    assert mig.job_output(reader) == "met\n"


def test_a_job_whose_time_is_over(mig: Mig) -> None:
    job = mig.create_job("echo begun; sleep 60", resource_specifications={"CPUTIME": 1})
    assert mig.wait(job, SECONDS) == ["FAILED"]
    assert "longer than its CPUTIME of 1 s" in mig.job_info(job)["REASON"]
    assert mig.job_output(job) == "begun\n"


@pytest.mark.parametrize("name", ["123", "", "..", "../x", "local_1", "a/b", "*", "\0"])
def test_an_unknown_id_is_an_error(mig: Mig, name: str) -> None:
    for ask in (mig.job_status, mig.job_finished, mig.job_info, mig.cancel_job, mig.job_output, mig.wait):
        with pytest.raises(MigUnknownJobIdError) as caught:
            ask(name)
        assert caught.value.error_code == 100


def test_cancel_jobs_tries_all(mig: Mig) -> None:
    job = mig.create_job("sleep 60")
    with pytest.raises(MigUnknownJobIdError):
        mig.cancel_jobs(["nobody", job])
    assert mig.job_status(job) == "CANCELED"


def test_waiting_can_end_before_the_job(mig: Mig) -> None:
    job = mig.create_job("sleep 60")
    with pytest.raises(TimeoutError, match="it goes on"):
        mig.wait(job, 0.05)
    mig.cancel_job(job)


# -- who lives longer ----------------------------------------------------------------------------------


def test_a_job_outlives_its_client(mig: Mig, room: Path) -> None:
    program = (
        "import os, mpiframe.compat.miginterface as mig; mig.local_mode_on(); "
        f"print(mig.create_job('while ! [ -e {room}/go ]; do sleep 0.02; done; echo late > o', "
        "output_files='o'), flush=True); os.kill(os.getpid(), 9)"
    )
    env = os.environ | {"PYTHONPATH": str(Path(mpiframe.__file__).parent.parent)}
    client = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=SECONDS, env=env
    )
    assert client.returncode == -signal.SIGKILL, client.stderr
    job = client.stdout.strip()
    assert mig.job_status(job) in ("QUEUED", "EXECUTING")
    (room / "go").touch()
    assert mig.wait(job, SECONDS) == ["FINISHED"]
    assert mig.cat_file("o") == "late\n"


def test_a_keeper_that_is_killed(mig: Mig) -> None:
    job = mig.create_job("echo $$ > ../shell.new; mv ../shell.new ../shell; sleep 60")
    assert isinstance(mig.server, LocalServer)
    shell = int(await_file(Path(Record(mig.server.home, job).path("shell"))).read_text())
    pidfd = os.pidfd_open(shell)
    os.kill(keeper_of(mig, job), signal.SIGKILL)
    assert mig.wait(job, SECONDS) == ["FAILED"]
    assert "ended from outside" in mig.job_info(job)["REASON"]
    assert select.select([pidfd], [], [], SECONDS)[0], "its shell runs on"
    os.close(pidfd)


def test_a_keeper_that_is_killed_as_it_starts_the_shell(room: Path) -> None:
    """Nobody knows the shell yet, to end it: so it begins with nothing, and ends by itself."""
    program = (
        "import os, sys; from mpiframe.plugins.grid.mig import shell; os.mkdir('exec'); "
        "spec = shell.Spec('one', ('touch ../ran; sleep 60',), (), (), (), None); "
        "end = lambda pid: (print(pid, flush=True), os.kill(os.getpid(), 9)); "
        "shell.run(spec, os.getcwd(), 1, 2, (), end)"
    )
    env = os.environ | {"PYTHONPATH": str(Path(mpiframe.__file__).parent.parent)}
    keeper = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=SECONDS, env=env
    )  # until the shell has closed the pipes, too
    assert keeper.returncode == -signal.SIGKILL, keeper.stderr
    assert int(keeper.stdout) > 0
    assert not Path("ran").exists()


def test_a_keeper_that_is_killed_before_it_began(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPIFRAME_MIG_SLOTS", "1")
    mig = Mig(LocalServer())
    first, second, third = (mig.create_job(c) for c in ("sleep 60", "echo 2", "echo 3"))
    os.kill(keeper_of(mig, second), signal.SIGKILL)
    os.kill(keeper_of(mig, first), signal.SIGKILL)  # its slot is free again
    assert mig.wait([first, second, third], SECONDS) == ["FAILED", "FAILED", "FINISHED"]


def test_a_job_of_another_host(mig: Mig, room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a home that several hosts see. No other host is at hand: we take ourselves for one."""
    job = mig.create_job(f"while ! [ -e {room}/go ]; do sleep 0.02; done")
    with monkeypatch.context() as patch:
        patch.setattr(records, "here", lambda: "elsewhere")
        assert mig.job_status(job) in ("QUEUED", "EXECUTING")
        with pytest.raises(MigLocalError, match="cannot be canceled from here"):
            mig.cancel_job(job)
        with pytest.raises(MigLocalError, match="cannot be watched from here"):
            mig.wait(job, SECONDS)
    (room / "go").touch()
    assert mig.wait(job, SECONDS) == ["FINISHED"]


def test_a_job_is_found_by_every_client(mig: Mig) -> None:
    job = mig.create_job("echo x")
    other = Mig(LocalServer())
    assert other.wait(job, SECONDS) == ["FINISHED"]
    assert isinstance(other.server, LocalServer)
    assert job in other.server.ids()


# -- files -------------------------------------------------------------------------------------------


def test_files_go_and_come(mig: Mig, room: Path) -> None:
    Path("in.txt").write_text("1\n2\n")
    Path("sub").mkdir()
    Path("sub/tool.sh").write_text('#!/bin/sh\nwc -l < "$1" > "$2"\n')
    job = mig.create_job(
        "./run in_the_job.txt count.txt",
        input_files=["in.txt in_the_job.txt"],
        executables="sub/tool.sh run",
        output_files=["count.txt results/+JOBID+.txt", "count.txt"],
    )
    assert mig.wait(job, SECONDS) == ["FINISHED"], mig.job_info(job)
    assert mig.cat_file(f"results/{job}.txt") == "2\n"
    assert list((room / "tmp").iterdir()) == []
    assert isinstance(mig.server, LocalServer)
    assert not Path(Record(mig.server.home, job).path("exec")).exists()


def test_an_input_is_what_it_was_at_the_call(mig: Mig) -> None:
    jobs = []
    for number in range(3):
        Path("in.txt").write_text(f"{number}\n")
        jobs.append(mig.create_job("cat in.txt", input_files="in.txt"))
    mig.wait(jobs, SECONDS)
    assert [mig.job_output(job) for job in jobs] == ["0\n", "1\n", "2\n"]


def test_an_output_that_was_not_made(mig: Mig) -> None:
    job = mig.create_job("touch a", output_files=["a", "b"])
    assert mig.wait(job, SECONDS) == ["FAILED"]
    assert "it made no b" in mig.job_info(job)["REASON"]
    assert mig.path_exists("a")


def test_cached_files_are_sent_once(mig: Mig) -> None:
    Path("big").write_text("first")
    mig.wait(mig.create_job("true", cached_files=["big"]), SECONDS)
    Path("big").write_text("second")
    job = mig.create_job("cat big", cached_files=["big"])
    mig.wait(job, SECONDS)
    assert mig.job_output(job) == "first"


def test_a_file_from_the_web(mig: Mig) -> None:
    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/there" else 404)
            self.end_headers()
            self.wfile.write(b"fetched\n")

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        base = f"http://127.0.0.1:{server.server_port}"
        there = mig.create_job("cat there got", input_files=[f"{base}/there", f"{base}/there got"])
        missing = mig.create_job("cat gone", input_files=f"{base}/gone")
        assert mig.wait([there, missing], SECONDS) == ["FINISHED", "FAILED"]
        server.shutdown()
        thread.join()
    assert mig.job_output(there) == "fetched\nfetched\n"
    assert "404" in mig.job_info(missing)["REASON"]


@pytest.mark.parametrize(
    "options",
    [
        {"input_files": "nothing.txt"},
        {"input_files": "a b c"},
        {"executables": ["nothing.sh"]},
        {"output_files": ["a b c"]},
        {"output_files": "../../x"},
        {"output_files": "x ../../x"},
        {"output_files": "x https://example.org/x"},
        {"resource_specifications": {"CPUTIME": "soon"}},
        {"resource_specifications": {"CPUTIM": 3}},
        {"exec_commands": []},
        {"exec_commands": "   "},
        {"name": "two words"},
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_left(mig: Mig, options: dict[str, Any]) -> None:
    with pytest.raises(MigInterfaceError) as caught:
        mig.create_job(**{"exec_commands": "true", **options})
    assert isinstance(caught.value, (MigLocalError, MigServerError))
    assert isinstance(mig.server, LocalServer)
    assert mig.server.ids() == []
    assert mig.ls("job_output") == []


def test_two_files_of_one_name(mig: Mig) -> None:
    for name in ("a", "b"):
        Path(name).mkdir()
        Path(name, "x").write_text(name)
    with pytest.raises(MigLocalError, match="rename one"):
        mig.create_job("true", input_files=["a/x", "b/x"])


def test_files_of_the_home(mig: Mig, room: Path) -> None:
    Path("x.txt").write_text("x\n")
    mig.upload_file("x.txt")
    mig.mk_dir("d")
    mig.upload_file("x.txt", "d/")
    mig.upload_file("x.txt", "d/y.txt")
    assert mig.ls() == ["d", "job_output", "x.txt"]
    assert mig.ls("d") == ["x.txt", "y.txt"]
    assert mig.ls("d/*.txt") == ["x.txt", "y.txt"]
    assert mig.path_exists("d")
    assert not mig.path_exists("nothing")
    assert mig.cat_file(["x.txt", "d/y.txt"]) == "x\nx\n"
    assert mig.get_file("d/y.txt") == "y.txt"
    assert mig.get_file("d/y.txt", "here.txt") == "here.txt"
    assert Path("here.txt").read_text() == "x\n"
    for call in (mig.cat_file, mig.remove, mig.remove_dir, mig.get_file, mig.ls):
        with pytest.raises(MigServerError) as caught:
            call("nothing")
        assert caught.value.error_code == 105
    with pytest.raises(MigServerError, match="not empty"):
        mig.remove_dir("d")
    mig.remove(["d/x.txt", "d/y.txt"])
    mig.remove_dir("d")
    assert mig.ls() == ["job_output", "x.txt"]


@pytest.mark.parametrize("path", ["../secret", "d/../../secret", "link/secret", ".mig_jobs/turn"])
def test_the_home_is_not_left(mig: Mig, room: Path, path: str) -> None:
    (room / "secret").write_text("s")
    (room / "home" / "link").symlink_to(room)
    for call in (mig.cat_file, mig.remove, mig.get_file):
        with pytest.raises(MigServerError):
            call(path)
    assert not mig.path_exists(path)
    assert (room / "secret").exists()


def test_a_job_in_a_file(mig: Mig) -> None:
    Path("job.mRSL").write_text("::EXECUTE::\ncat in\n\n::INPUTFILES::\nin\n")
    with pytest.raises(MigServerError, match="input file in is not in"):
        mig.submit_job("job.mRSL")
    Path("in").write_text("there\n")
    mig.upload_file("in")
    job = mig.submit_job("job.mRSL", "kept/")
    assert mig.wait(job, SECONDS) == ["FINISHED"]
    assert mig.job_output(job) == "there\n"
    assert mig.ls("kept") == ["job.mRSL"]
    Path("bad.mRSL").write_text("::EXECUT::\ncat in\n")
    with pytest.raises(MrslError, match="did you mean"):
        mig.submit_job("bad.mRSL")
    with pytest.raises(MigLocalError, match="cannot be read"):
        mig.submit_job("nothing.mRSL")


# -- what goes wrong ---------------------------------------------------------------------------------


def test_a_disk_that_is_full_at_the_call(mig: Mig) -> None:
    Path("big").write_bytes(b"\0" * 200_000)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
    try:
        with pytest.raises(MigLocalError, match="big cannot be copied"):
            mig.create_job("true", input_files="big")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)
    assert mig.ls() == ["job_output"]
    assert isinstance(mig.server, LocalServer)
    assert mig.server.ids() == []


def test_the_end_of_a_job_fits_on_a_full_disk(mig: Mig, monkeypatch: pytest.MonkeyPatch) -> None:
    """No real full disk, which takes a mount: writing fails as on one for as long as the reserve is there."""
    assert isinstance(mig.server, LocalServer)
    job = mig.create_job("true")
    mig.wait(job, SECONDS)
    record = Record(mig.server.home, job)
    record.create({"status": "EXECUTING"})
    replace = disk.replace

    def full(path: str, content: bytes) -> None:
        if os.path.exists(record.path("reserve")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        replace(path, content)

    monkeypatch.setattr(disk, "replace", full)
    record.change("FAILED", reason="x")
    assert record.read()["status"] == "FAILED"


def test_commands_that_fill_the_disk_fail(mig: Mig) -> None:
    job = mig.create_job("echo x > /dev/full")
    assert mig.wait(job, SECONDS) == ["FAILED"]
    assert "No space left on device" in mig.job_output(job)


def test_a_home_that_is_not_ours(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (room / "other").mkdir()
    (room / "home").symlink_to(room / "other")
    with pytest.raises(MigLocalError, match="a link"):
        LocalServer()
    (room / "file").touch()
    with pytest.raises(MigLocalError, match="cannot be made"):
        LocalServer(str(room / "file"))
    monkeypatch.setenv("MPIFRAME_MIG_SLOTS", "many")
    with pytest.raises(MigLocalError, match="MPIFRAME_MIG_SLOTS"):
        LocalServer(str(room / "new"))


def test_the_home_is_the_users_alone(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MPIFRAME_MIG_HOME")
    home = Path(LocalServer().home)
    assert home == Path(tempfile.gettempdir()) / f"{disk.user()}_mig_home"
    assert home.stat().st_mode & 0o777 == 0o700


# -- the names of miginterface -----------------------------------------------------------------------


@pytest.fixture
def script(room: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module as a new script finds it."""
    monkeypatch.setattr(compat, "_modes", [])
    monkeypatch.setattr(compat, "_remote", None)
    monkeypatch.setattr(compat, "_log", CallLog(str(room / "log.txt")))
    return compat


def test_without_a_mode_there_must_be_a_server(script: Any) -> None:
    with pytest.raises(MigLocalError, match=r"miguser\.conf"):
        script.create_job("true")
    script.local_mode_on()
    assert script.test_connection()
    script.local_mode_off()
    with pytest.raises(MigLocalError, match="local_mode_on"):
        script.test_connection()


def test_all_functions_are_there(script: Any, room: Path) -> None:
    script.local_mode_on()
    Path("f").write_text("f\n")
    job = script.create_job(["cat f > o", "echo said"], ["f"], ["o"], [], [], {"VGRID": "ANY"}, "name")
    while not script.job_finished(job):
        time.sleep(0.01)
    assert script.job_status(job) == script.jobs_status([job])[0] == "FINISHED"
    assert script.job_info(job) == script.jobs_info([job])[0]
    assert script.job_output(job) == "said\n"
    assert script.cat_file("o") == "f\n"
    script.get_file("o", "there")
    assert Path("there").read_text() == "f\n"
    script.mk_dir("d")
    script.upload_file("f", "d/g")
    assert script.ls("d") == ["g"]
    script.remove("d/g")
    script.remove_dir("d")
    assert not script.path_exists("d")
    Path("j.mRSL").write_text("::EXECUTE::\nsleep 60\n")
    again = script.submit_job("j.mRSL")
    last = script.create_job("sleep 60")
    script.cancel_job(again)
    script.cancel_jobs([last])
    assert script.jobs_status([again, last]) == ["CANCELED", "CANCELED"]
    for name in script.__all__:
        assert getattr(script, name).__doc__


def test_calls_are_logged(script: Any, room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script.local_mode_on()
    script.path_exists("x")
    assert "path_exists('x')" in (room / "log.txt").read_text()
    assert capsys.readouterr().out == ""
    script.debug_mode_on()
    script.path_exists("y")
    script.debug_mode_off()
    script.path_exists("z")
    assert capsys.readouterr().out == "mig: path_exists('y')\n"
    script.set_debug_mode(True)
    script.set_log_file(str(room / "other.txt"))
    script.path_exists("\nw")
    assert len((room / "other.txt").read_text().splitlines()) == 1
    assert (room / "other.txt").stat().st_mode & 0o777 == 0o600


def test_a_log_that_cannot_be_written_harms_nothing(
    script: Any, room: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script.local_mode_on()
    (room / "trap").symlink_to(room / "victim")
    script.set_log_file(str(room / "trap"))
    for _ in range(3):
        assert not script.path_exists("x")
    assert not (room / "victim").exists()
    assert capsys.readouterr().err.count("cannot be written") == 1


def test_commands_of_the_plugin(room: Path) -> None:
    """The plugin's object itself, as a server has it; no world is started."""
    grid = Grid()
    job = grid.mig_create_job("echo $X", resource_specifications={"ENVIRONMENT": {"X": "x"}}, where="local")
    assert grid.mig_wait(job, where="local").result(SECONDS) == ["FINISHED"]
    assert grid.mig_job_info(job, "local")["STATUS"] == "FINISHED"
    assert grid.mig_job_output(job, "local") == "x\n"
    other = grid.mig_create_job("echo y > made; sleep 60", where="local")
    grid.mig_cancel_jobs([other], "local")
    with pytest.raises(MigServerError) as caught:
        grid.mig_get_file("made", where="local")
    assert caught.value.error_code == 105
    with pytest.raises(MigUnknownJobIdError):
        grid.mig_wait(["nobody"], "local")
    with pytest.raises(MigLocalError, match="is no choice"):
        grid.mig_create_job("true", where="here")  # type: ignore[arg-type]
    assert {name for name in Grid.commands() if name.startswith("mig_")} == {
        name for name in dir(MigCommands) if name.startswith("mig_")
    }


def test_the_records_are_readable(mig: Mig) -> None:
    job = mig.create_job("true")
    mig.wait(job, SECONDS)
    assert isinstance(mig.server, LocalServer)
    record = Record(mig.server.home, job)
    with contextlib.closing(open(record.path("record"))) as file:
        assert json.load(file)["status"] == "FINISHED"
    assert not os.path.exists(record.path("reserve"))
