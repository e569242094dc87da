"""The parts of running jobs, without an mpirun: command lines, queue, log, programs and their ends."""

from __future__ import annotations

import datetime
import os
import random
import re
import signal
import subprocess
import sys
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from mpiframe.plugins.difx import stopping
from mpiframe.plugins.difx.files import Files
from mpiframe.plugins.difx.formats import DifxLog, FormatError
from mpiframe.plugins.difx.hosts import HostState, pattern
from mpiframe.plugins.difx.job_events import JobError, JobResult, MachinesStep, Outcome
from mpiframe.plugins.difx.job_log import LogWriter, lines
from mpiframe.plugins.difx.job_queue import JobQueue, QueueState, Waiting
from mpiframe.plugins.difx.jobs import JobOptions, job_name
from mpiframe.plugins.difx.machines import define_machines, read_machines
from mpiframe.plugins.difx.mark5 import Mark5, Mark5Error
from mpiframe.plugins.difx.messages import Message
from mpiframe.plugins.difx.messages_bodies import Alert, Load, Status, Transient, Weight
from mpiframe.plugins.difx.messages_states import DifxState
from mpiframe.plugins.difx.mpirun import MPICH, OPEN_MPI, Mpirun, checked_options
from mpiframe.plugins.difx.programs import Program, ProgramError, members, run
from mpiframe.plugins.difx.versions import Versions

SECONDS = 60.0
JOB = "/data/exp 1/a+b_(1).input"


# -- mpirun ---------------------------------------------------------------------------------------


def test_the_command_lines_of_each_mpi() -> None:
    open_mpi = Mpirun("/bin/mpirun", OPEN_MPI, ("--map-by", "seq"), ("DIFX_MESSAGE_PORT", "GONE"))
    machines, command = ["h", "a", "a"], ["mpifxcorr", JOB]
    env = {"DIFX_MESSAGE_PORT": "1"}
    assert open_mpi.job(machines, "/m", command, env) == [
        "/bin/mpirun", "-np", "3", "--hostfile", "/m", "--map-by", "seq", "-x", "DIFX_MESSAGE_PORT", *command
    ]  # fmt: skip
    mpich = Mpirun("/bin/mpirun", MPICH, ("-iface", "eth1"))
    assert mpich.job(machines, "/m", command, env) == [
        "/bin/mpirun", "-np", "3", "-hosts", "h,a,a", "-iface", "eth1", *command
    ]  # fmt: skip
    assert mpich.on("a", ["true"]) == ["/bin/mpirun", "-np", "1", "-host", "a", "true"]


def test_options_of_mpirun_are_checked() -> None:
    assert checked_options("--mca btl 'tcp,self' --bind-to none") == [
        "--mca", "btl", "tcp,self", "--bind-to", "none"
    ]  # fmt: skip
    assert checked_options("") == []
    for bad in (
        "-np 4",
        "--hostfile=/etc/passwd",
        "--mca a b : -n 1 true",
        "sh -c",
        ["--x", "a\nb"],
        ["-x", 1],
    ):
        with pytest.raises(ValueError):
            checked_options(bad)  # type: ignore[arg-type]
    for options in (
        {"mpi_options": "-host evil"}, {"check": "perhaps"}, {"restart_seconds": -1.0}, {"program": "a b"},
        {"program": "-x"}, {"restart_seconds": float("nan")}, {"environment": {"": "1"}},
    ):  # fmt: skip
        with pytest.raises(ValueError):
            JobOptions(**options)  # type: ignore[arg-type]


def test_what_says_that_it_is_an_mpirun(tmp_path: Path) -> None:
    def program(name: str, text: str) -> str:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return str(path)

    env = {"PATH": f"{tmp_path}:/bin:/usr/bin", "DIFX_MPIRUNOPTIONS": "--mca a b"}
    program("mpirun", "echo 'mpirun (Open MPI) 5.0.1'")
    assert Mpirun.find(environment=env).options == ("--mca", "a", "b")
    assert Mpirun.find(environment=env, options=()).options == ()
    assert Mpirun.find(environment={"PATH": env["PATH"]}).options == ("--map-by", "seq")
    hydra = program("hydra", "echo HYDRA build details:")
    assert Mpirun.find(hydra, environment={"PATH": "/bin"}).vendor == MPICH
    for text in ("exit 0", "echo 'mpirun (Open MPI) 5.0.1'; exit 1", "echo something else"):
        with pytest.raises(ProgramError, match="neither Open MPI's nor MPICH's"):
            Mpirun.find(program("other", text), environment=env)


def test_the_pattern_finds_the_job_and_nothing_else() -> None:
    found = re.compile(pattern("mpifxcorr", JOB))  # pgrep's own syntax has all that is used here
    for line in (f"mpifxcorr {JOB}", f"/usr/bin/mpifxcorr -r 12 {JOB}", f"mpirun -np 4 mpifxcorr {JOB} -M"):
        assert found.search(line), line
    for line in (
        f"pgrep -f {found.pattern}", f"vi {JOB}", f"mpifxcorr {JOB}.old", "mpifxcorr /data/exp 1/aab_1.input",
        f"mpifxcorrect {JOB}", f"mpifxcorr /other{JOB}",
    ):  # fmt: skip
        assert not found.search(line), line


# -- programs -------------------------------------------------------------------------------------


def test_lines_come_as_they_are_said() -> None:
    said: list[tuple[str, str]] = []
    code = "import sys; print('a\\n\\xe4', flush=True); sys.stderr.write('b\\r\\nno end'); "
    code += "sys.stdout.buffer.write(b'\\xff' + b'x' * 20000)"
    program = Program(
        [sys.executable, "-c", code],
        folder="/",
        environment=dict(os.environ),
        on_line=lambda *line: said.append(line),
    )
    assert program.wait(SECONDS) == 0
    assert [line for stream, line in said if stream == "stderr"] == ["b", "no end"]
    out = [line for stream, line in said if stream == "stdout"]
    assert out[:2] == ["a", "ä"]
    assert "".join(out[2:]) == "\N{REPLACEMENT CHARACTER}" + "x" * 20000


def test_one_that_leaves_its_pipes_to_others_ends_all_the_same() -> None:
    program = Program(
        ["/bin/sh", "-c", "sleep 1000 & echo $!"], folder="/", environment={"PATH": "/bin:/usr/bin"}
    )
    assert program.wait(SECONDS) == 0
    assert len(members(program.session)) == 1
    assert program.end(0.0)
    assert members(program.session) == []


def test_one_that_makes_more_while_it_is_killed_is_gone_whole() -> None:
    many = "while :; do sleep 1000 & sleep 0.001; done"
    begun = threading.Event()
    program = Program(
        ["/bin/sh", "-c", f"trap '' TERM; echo begun; {many}"],
        folder="/",
        environment={"PATH": "/bin:/usr/bin"},
        on_line=lambda *_: begun.set(),
    )
    assert begun.wait(SECONDS)
    assert program.end(0.05)
    assert members(program.session) == []
    assert program.wait(SECONDS) == -signal.SIGKILL


def test_a_program_that_is_not_there_or_does_not_end() -> None:
    with pytest.raises(ProgramError, match="/no/such cannot be run: No such file"):
        Program(["/no/such"], folder="/", environment={})
    with pytest.raises(ProgramError, match=r"sleep has not ended after 0\.1 s"):
        run(["/bin/sleep", "1000"], folder="/", environment={}, seconds=0.1)


def test_a_program_gets_nothing_of_a_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    from mpiframe.plugins.difx.versions import run_environment

    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "1")
    monkeypatch.setenv("PMI_RANK", "1")
    code, out, _ = run(["/usr/bin/env"], folder="/", environment=run_environment({"A": "1"}), seconds=SECONDS)
    assert code == 0
    assert "A=1" in out
    assert not [line for line in out if line.startswith(("OMPI_COMM", "PMI_"))]


# -- stopping -------------------------------------------------------------------------------------


class FakeHosts:
    """A double of JobHosts, of which `left` says what each look finds."""

    def __init__(self, left: list[list[int | None]]) -> None:
        self.left, self.signals = left, []  # type: ignore[var-annotated]

    def signal(self, number: int, seconds: float) -> None:
        self.signals.append(number)

    def look(self, seconds: float) -> list[HostState]:
        found = self.left.pop(0) if len(self.left) > 1 else self.left[0]
        return [HostState(f"h{index}", count) for index, count in enumerate(found)]


def stopped(left: list[list[int | None]], *, ends: str, killed: float) -> tuple[Any, list[int]]:
    hosts = FakeHosts(left)
    done = threading.Event()

    def sent(number: int) -> int:
        if ends == "signal" or (ends == "kill" and number == signal.SIGKILL):
            done.set()
        return 1

    if ends == "message":
        done.set()
    answers = ends == "message"
    job = stopping.Stoppable("j", lambda: None, lambda _: answers, done.wait, sent, hosts)  # type: ignore[arg-type]
    report = stopping.stop(job, stopping.Patience(0.01, 0.02, 0.02, killed))
    return report, hosts.signals


@pytest.mark.parametrize(
    ("left", "ends", "gone", "how"),
    [
        ([[0, 0]], "message", True, "message"),
        ([[0, 0]], "signal", True, "signal"),
        ([[0, 0]], "kill", True, "kill"),
        ([[0, 2], [0, 1], [0, 0]], "message", True, "kill"),  # mpirun ended well, and left something there
        ([[0, 2]], "kill", False, "kill"),
        ([[0, None]], "message", False, "kill"),  # a host that cannot be reached is not gone
        ([[0, 0]], "", False, "kill"),  # mpirun itself does not go
    ],
)
def test_the_ways_to_an_end(left: list[list[int | None]], ends: str, gone: bool, how: str) -> None:
    # All of that time is taken only where something is left.
    report, signals = stopped(left, ends=ends, killed=SECONDS if gone else 0.2)
    assert (report.gone, report.how) == (gone, how), report
    assert (signal.SIGTERM in signals) == (ends != "message")
    assert (signal.SIGKILL in signals) == (how == "kill")
    assert report.seconds < SECONDS


# -- the queue ------------------------------------------------------------------------------------


class Runs:
    """Starts for a queue, which end when the test says so."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ends: dict[str, Future[JobResult]] = {}

    def __call__(self, waiting: Waiting) -> Future[JobResult]:
        if waiting.job == "bad":
            raise JobError("no such job")
        self.begun.append(waiting.job)
        self.ends[waiting.job] = Future()
        return self.ends[waiting.job]

    def end(self, job: str, outcome: Outcome = Outcome.DONE) -> None:
        self.ends[job].set_result(JobResult(1, job, outcome, str(outcome)))


def test_low_priorities_first_and_none_before_what_it_waits_for() -> None:
    runs = Runs()
    queue = JobQueue(runs)
    first = queue.add("first", 5, (), {})
    queue.add("late", 9, (), {})
    early = queue.add("early", 1, (), {})
    after = queue.add("after", 0, (first, early), {})
    assert runs.begun == ["first"]
    runs.end("first")
    assert runs.begun == ["first", "early"]
    runs.end("early")
    assert runs.begun == ["first", "early", "after"]
    runs.end("after")
    assert queue.ended(after).result(0).state is QueueState.DONE
    assert runs.begun[-1] == "late"
    queue.at_once = 3
    queue.add("more", 9, (), {})
    assert runs.begun[-2:] == ["late", "more"]


def test_what_can_never_run_is_dropped() -> None:
    runs = Runs()
    queue = JobQueue(runs)
    changes: list[tuple[int, str]] = []
    queue.subscribe(lambda one: changes.append((one.number, str(one.state))))
    first = queue.add("first", 0, (), {})
    second = queue.add("second", 0, (first,), {})
    third = queue.add("third", 0, (second,), {})
    bad = queue.add("bad", 0, (), {})
    runs.end("first", Outcome.TERMINATED)
    assert [one.state for one in queue.jobs()] == ["failed", "dropped", "dropped", "failed"]
    assert queue.ended(third).result(0).text == f"job {second}, for which it waits, is dropped"
    assert queue.ended(bad).result(0).text == "it could not be started: no such job"
    assert changes[-1] == (bad, "failed")
    for wrong in (lambda: queue.add("x", 0, (99,), {}), lambda: queue.remove(first), lambda: queue.ended(99)):
        with pytest.raises(JobError):
            wrong()
    with pytest.raises(ValueError):
        queue.at_once = 0
    running = queue.add("running", 0, (), {})
    waiting = queue.add("waiting", 0, (), {})
    queue.close()
    assert queue.ended(waiting).result(0).state is QueueState.DROPPED
    assert not queue.ended(running).done()
    with pytest.raises(JobError, match="closed"):
        queue.add("x", 0, (), {})


def test_the_queue_keeps_its_rules_whatever_happens() -> None:
    random.seed(7)
    for _ in range(200):
        runs = Runs()
        queue = JobQueue(runs, at_once=random.randint(1, 3))
        for number in range(12):
            after = random.sample(range(1, number + 1), random.randint(0, min(2, number)))
            queue.add(str(number + 1), random.randint(0, 3), after, {})
            while random.random() < 0.5 and (
                open_ := [job for job, end in runs.ends.items() if not end.done()]
            ):
                runs.end(random.choice(open_), random.choice([Outcome.DONE, Outcome.DONE, Outcome.FAILED]))
            states = {one.number: one for one in queue.jobs()}
            running = [one for one in states.values() if one.state is QueueState.RUNNING]
            assert len(running) <= queue.at_once
            for one in states.values():
                if one.state in (QueueState.RUNNING, QueueState.DONE, QueueState.FAILED):
                    assert all(states[other].state is QueueState.DONE for other in one.after)
                elif one.state is QueueState.WAITING:
                    ready = all(states[other].state is QueueState.DONE for other in one.after)
                    assert not ready or len(running) == queue.at_once


# -- the log --------------------------------------------------------------------------------------


def test_the_log_is_what_guiserver_writes(tmp_path: Path) -> None:
    path = tmp_path / "job.difxlog"
    writer = LogWriter(str(path))
    for body in (
        Alert(message="MPI Process 0 is running on host vm", severity=4),
        Alert(message="too much to tell", severity=5),
        Status(None, DifxState.RUNNING, "", 60000.1, 60000.0, 60000.2, (Weight(0, 0.984), Weight(1, 1.0))),
        Alert(message="two\nlines", severity=2),
        Transient(comment="a burst"),
        Load(),
    ):
        writer.write(Message(body, sender="a host", process=0, identifier="job"))
    writer.close()
    writer.write(Message(Alert(message="late"), sender="vm"))
    log = DifxLog.read(path)
    assert [line.text()[25:] for line in log.lines] == [
        "  0 a_host INFO  MPI Process 0 is running on host vm",
        "  0 a_host  STATUS Running  ",
        "  0 a_host  WEIGHTS 0.98 1.00",
        "  0 a_host ERROR  two lines",
        "  0 a_host Transient event received: a burst",
    ]
    assert lines(Message(Alert(severity=9), sender="x"), datetime.datetime.now()) == []
    link = tmp_path / "link.difxlog"
    link.symlink_to("/etc/hostname")
    with pytest.raises(OSError):
        LogWriter(str(link))


def test_the_name_by_which_a_job_is_heard() -> None:
    assert job_name("/data/exp_1.input") == "exp_1"
    assert job_name(f"/data/{'x' * 40}.input") == "x" * 31
    assert job_name(f"/data/{'ä' * 20}.input") == "ä" * 15


# -- machines -------------------------------------------------------------------------------------


def test_machines_as_guiserver_writes_them(tmp_path: Path) -> None:
    job = str(tmp_path / "a_1.input")
    with Files([tmp_path]) as files:
        report = define_machines(
            job, "head", ["d1", "d2"], [("head", 1), ("c1", 4), ("head", 3), ("c2", 0)], files
        )
        assert Path(report.machines_file).read_text() == "head\nd1\nd2\nc1\nhead\n"
        assert Path(report.threads_file).read_text() == "NUMBER OF CORES:    2\n4\n2\n"
        assert len(report.warnings) == 2
        assert read_machines(job, 2, files) == ("head", ["d1", "d2"], [("c1", 4), ("head", 2)])
        with pytest.raises(FormatError):
            read_machines(job, 4, files)


@pytest.mark.parametrize(
    ("arguments", "step"),
    [
        (("", ["d"], [("c", 1)]), MachinesStep.NO_MANAGER),
        (("m", [], [("c", 1)]), MachinesStep.NO_DATASTREAMS),
        (("m", ["d"], []), MachinesStep.NO_CORES),
        (("m", ["d"], [("m", 1)]), MachinesStep.NO_CORES),
        (("m", ["-d"], [("c", 1)]), MachinesStep.MACHINES_NOT_WRITTEN),
        (("m;x", ["d"], [("c", 1)]), MachinesStep.MACHINES_NOT_WRITTEN),
    ],
)
def test_machines_that_make_no_sense(tmp_path: Path, arguments: tuple[Any, ...], step: MachinesStep) -> None:
    steps: list[MachinesStep] = []
    with Files([tmp_path]) as files:
        job = str(tmp_path / "a_1.input")
        with pytest.raises(JobError):
            define_machines(job, *arguments, files, on_step=lambda one, _: steps.append(one))
        assert steps[-2:] == [step, MachinesStep.TERMINATED]
        assert os.listdir(tmp_path) == []
        with pytest.raises(PermissionError):
            define_machines("/etc/a_1.input", "m", ["d"], [("c", 1)], files)


# -- Mark 5 ---------------------------------------------------------------------------------------


@pytest.fixture
def mark5(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mark5:
    """The programs for Mark 5 units, and an mpirun that runs what it is given here: doubles, all of them."""
    folder = tmp_path / "bin"
    folder.mkdir()
    directories = tmp_path / "directories"
    directories.mkdir()
    programs = {
        "rungeneric.M": f'PATH="{folder}:$PATH" exec "$@"',
        "mpirun": 'shift 4; exec "$@"',
        "mk5control": 'echo "$2 : $1 OK"',
        "mk5dir": f'printf "$3 2 A\\n1 scan_a\\n2 scan_b\\n" > {directories}/$3.dir',
        "mk5cp": 'echo "copying $3 of $2 to $4"; test "$3" != 9',
    }
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("MARK5_DIR_PATH", str(directories))
    return Mark5(Versions(tmp_path), Mpirun(str(folder / "mpirun"), OPEN_MPI), "M")


def test_mark5_units(mark5: Mark5, tmp_path: Path) -> None:
    assert mark5.control("mk5-3", "getvsn") == ["mk5-3 : getvsn OK"]
    with pytest.raises(Mark5Error, match="VLBA-004"):
        mark5.directory("mk5-3", "VLBA-004")
    module = mark5.directory("mk5-3", "VLBA-004", generate=True)
    assert module.scans == 2
    assert module.lines == ("VLBA-004 2 A", "1 scan_a", "2 scan_b")
    assert [line.split()[-1] for line in mark5.files("mk5-3", str(tmp_path / "directories"))[1:]] == [
        "VLBA-004.dir"
    ]
    said: list[str] = []
    mark5.copy("mk5-3", "VLBA-004", "1-2", "/tmp", lambda _, line: said.append(line))
    assert said == ["copying 1-2 of VLBA-004 to /tmp"]
    with pytest.raises(Mark5Error, match="mk5cp on mk5-3 ended with 1"):
        mark5.copy("mk5-3", "VLBA-004", "9", "/tmp")
    for wrong in (
        lambda: mark5.control("mk5; id", "getvsn"), lambda: mark5.control("-x", "getvsn"),
        lambda: mark5.control("mk5-3", "-x"), lambda: mark5.directory("mk5-3", "../../etc/passwd"),
        lambda: mark5.copy("mk5-3", "VLBA-004", "1 2", "/tmp"), lambda: mark5.files("mk5-3", "tmp"),
    ):  # fmt: skip
        with pytest.raises(ValueError):
            wrong()


def test_without_the_programs_of_mark5_units_it_says_so(mark5: Mark5, tmp_path: Path) -> None:
    for name in ("mk5control", "mk5dir", "mk5cp"):
        (tmp_path / "bin" / name).unlink()
    for call, name in (
        (lambda: mark5.control("m", "getvsn"), "mk5control"),
        (lambda: mark5.directory("m", "V", generate=True), "mk5dir on m"),
        (lambda: mark5.copy("m", "V", "1", "/tmp"), "mk5cp on m"),
    ):
        with pytest.raises(Mark5Error, match=f"there is no {name}: it comes with DiFX"):
            call()


def test_the_stand_ins_say_how_they_are_installed(tmp_path: Path) -> None:
    from tests.plugins.difx.programs import install

    done = subprocess.run(
        [sys.executable, install.__file__, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == f"DIFX_BASE={tmp_path}\nDIFX_VERSION=STAND-IN\n"
    assert Versions(tmp_path).names() == ["STAND-IN"]
