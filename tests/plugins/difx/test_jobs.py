"""Jobs from the schedule to the visibilities, over real mpiruns, by the stand-ins for DiFX's programs."""

from __future__ import annotations

import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mpiframe.plugins.difx.files import Files
from mpiframe.plugins.difx.formats import DifxLog, Input
from mpiframe.plugins.difx.formats.visibilities import Visibilities
from mpiframe.plugins.difx.hosts import JobHosts, pattern
from mpiframe.plugins.difx.job_events import JobError, JobEvent, JobStep, MachinesStep, Outcome
from mpiframe.plugins.difx.job_run import JobRun
from mpiframe.plugins.difx.jobs import JobOptions, Jobs
from mpiframe.plugins.difx.machines import define_machines, read_machines
from mpiframe.plugins.difx.multicast import Group
from mpiframe.plugins.difx.passes import Pass
from mpiframe.plugins.difx.programs import members
from mpiframe.plugins.difx.stopping import Patience
from mpiframe.plugins.difx.versions import VersionError, Versions

SECONDS = 60.0
PATIENT = Patience(answer=SECONDS, killed=SECONDS)  # of a job that hears, on a machine that is busy
GRIM = Patience(killed=SECONDS)  # of one that is stuck
DATA = Path(__file__).parent / "data" / "real_run_tiny"
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Files]:
    with Files([tmp_path]) as made:
        yield made


@pytest.fixture
def jobs(files: Files, group: Group, versions: Versions) -> Iterator[Jobs]:
    made = Jobs(files, group, versions)
    yield made
    made.close()


@pytest.fixture
def made(experiment: Path, files: Files) -> str:
    """The .input file of a job on this host that is ready to be started."""
    for suffix in (".input", ".calc", ".im", ".flag"):
        shutil.copy((DATA / "tiny_1").with_suffix(suffix), experiment)
    path = str(experiment / "tiny_1.input")
    define_machines(path, "localhost", ["localhost"] * 2, [("localhost", 2)], files)
    return path


class Seen:
    """The events of a run."""

    def __init__(self) -> None:
        self.events: list[JobEvent] = []
        self.running = threading.Event()

    def __call__(self, event: JobEvent) -> None:
        self.events.append(event)
        if event.progress:
            self.running.set()

    @property
    def steps(self) -> list[JobStep]:
        quiet = (JobStep.STATUS, JobStep.MESSAGE, JobStep.WARNING, JobStep.ERROR)
        return [one.step for one in self.events if one.step not in quiet]


def start(jobs: Jobs, path: str, mpirun: str, behaviour: str = "", **options: Any) -> tuple[JobRun, Seen]:
    seen = Seen()
    run = jobs.start(path, JobOptions(mpirun=mpirun, environment={"STAND_IN": behaviour}, **options), seen)
    return run, seen


def test_from_the_schedule_to_the_visibilities(
    experiment: Path, files: Files, versions: Versions, jobs: Jobs, each_mpirun: str
) -> None:
    found: list[str] = []
    report = Pass(str(experiment), "tiny.v2d", files, versions).run(found.append)
    path = str(experiment / "tiny_1.input")
    assert found == list(report.files) == [path, str(experiment / "tiny_1.im")]
    assert report.successful
    assert "start date" in report.log[0]  # on stderr, and nothing wrong with it

    steps: list[tuple[MachinesStep, str]] = []
    options = JobOptions(mpirun=each_mpirun)
    machines = define_machines(
        path, "localhost", ["localhost"] * 2, [("localhost", 3), ("mf-nowhere.invalid", 2)], files,
        test_with=jobs.mpirun(options), environment=jobs.environment(options),
        on_step=lambda step, text: steps.append((step, text)),
    )  # fmt: skip
    assert machines.threads == (2,)
    assert [host for host, _ in machines.dropped] == ["mf-nowhere.invalid"]
    assert [int(step) for step, _ in steps] == [102, 103, 111, 110, 104, 122, 120, 119, 115, 116, 101]
    assert read_machines(path, 2, files) == ("localhost", ["localhost"] * 2, [("localhost", 2)])

    run, seen = start(jobs, path, each_mpirun)
    result = run.wait(SECONDS)
    assert (result.outcome, result.code, result.state, result.progress) == (Outcome.DONE, 0, "Done", 1.0), (
        result
    )
    assert [int(step) for step in seen.steps] == [102, 103, 127, 125, 104, 113, 117, 101]
    progress = [one.progress for one in seen.events if one.progress is not None]
    assert progress == sorted(progress)
    assert len(set(progress)) > 3

    visibilities = Visibilities.of_job(path)
    assert len(visibilities) == 4 * len(Input.read(path).products())
    (told,) = jobs.log(path)
    assert told.state == "Done"
    assert len(told.weights) == 4
    assert len([one for one in told.lines if "is running on host" in getattr(one, "message", "")]) == 4
    log = Path(path).with_suffix(".difxlog").read_text()
    assert DifxLog.parse(log).text() == log

    # Again from 1 s on, which keeps what there is.
    again = start(jobs, path, each_mpirun, check="no", restart_seconds=1.0)[0].wait(SECONDS)
    assert again.outcome is Outcome.DONE
    assert len(Visibilities.of_job(path)) == 6 * len(Input.read(path).products())
    assert [one.state for one in jobs.log(path)] == ["Done", "Done"]


@pytest.mark.parametrize(
    ("behaviour", "outcome", "text"),
    [
        ("noisy", Outcome.DONE, "done"),
        ("errors", Outcome.DONE, "done, with 2 alerts of errors"),
        ("crash", Outcome.FAILED, "mpirun ended with exit status 3"),
        ("lost", Outcome.FAILED, "the last that the job told was Running"),
    ],
)
def test_the_end_is_judged_by_exit_status_and_messages(
    jobs: Jobs, made: str, mpirun: str, behaviour: str, outcome: Outcome, text: str
) -> None:
    run, seen = start(jobs, made, mpirun, behaviour, check="no")
    result = run.wait(SECONDS)
    assert result.outcome is outcome, result
    assert text in result.text
    last = {"noisy": JobStep.ENDED, "errors": JobStep.ENDED_WITH_ERRORS}.get(behaviour, JobStep.FAILED)
    assert seen.steps[-1] is last
    if behaviour == "noisy":
        errors = [one for one in seen.events if one.step is JobStep.ERROR]
        assert [one.text[:3] for one in errors[:2]] == ["[0]", "[1]"]
        assert len(errors) == 2000


def test_who_takes_its_events_slowly_hears_its_end_too(jobs: Jobs, made: str, mpirun: str) -> None:
    heard: list[str] = []

    def hear(event: JobEvent) -> None:
        if event.step is JobStep.STATUS:
            time.sleep(0.3)  # longer than it takes a job that has ended to be called quiet
            assert event.status is not None
            heard.append(str(event.status.state))

    result = jobs.start(made, JobOptions(mpirun=mpirun, check="no"), hear).wait(SECONDS)
    assert (result.outcome, result.state, result.progress) == (Outcome.DONE, "Done", 1.0), result
    assert heard[-1] == "Done"
    assert jobs.log(made)[0].state == "Done"


def test_a_job_that_hears_its_stop_ends_by_itself(jobs: Jobs, made: str, mpirun: str) -> None:
    run, seen = start(jobs, made, mpirun, "slow", check="no")
    assert seen.running.wait(SECONDS)
    report = jobs.stop(made, PATIENT)
    assert (report.gone, report.how) == (True, "message"), report
    result = run.wait(SECONDS)
    assert (result.outcome, result.state) == (Outcome.TERMINATED, "Terminated")
    assert seen.steps[-1] is JobStep.TERMINATED
    # What was correlated so far is there.
    assert len(Visibilities.of_job(made)) == len(Input.read(made).products())
    assert jobs.log(made)[0].state == "Terminated"


def test_a_stuck_job_is_ended_with_all_that_it_started(jobs: Jobs, made: str, each_mpirun: str) -> None:
    run, seen = start(jobs, made, each_mpirun, "stuck", check="no")
    assert seen.running.wait(SECONDS)
    assert run._program is not None
    session = run._program.session
    assert session in members(session)
    assert run._hosts is not None
    assert [one.left >= 4 for one in run._hosts.look(SECONDS)] == [True]
    report = jobs.stop(run.number, GRIM)
    assert report.gone, report
    assert report.how in ("signal", "kill")
    assert report.seconds < GRIM.graceful  # which is for those that answer
    assert members(session) == []
    assert run.wait(SECONDS).outcome is Outcome.TERMINATED


def test_a_job_that_has_hardly_begun_is_stopped(jobs: Jobs, made: str, mpirun: str) -> None:
    for step in (JobStep.STARTED, JobStep.RUNNING, None):
        reached = threading.Event()
        run = jobs.start(
            made,
            JobOptions(mpirun=mpirun, environment={"STAND_IN": "stuck"}, check="no", force=True),
            lambda event, step=step, reached=reached: event.step is step and reached.set(),
        )
        assert step is None or reached.wait(SECONDS)
        report = jobs.stop(run.number, GRIM)
        assert report.gone, report
        assert run.wait(SECONDS).outcome is Outcome.TERMINATED
        options = JobOptions(mpirun=mpirun)
        assert jobs.hosts(made, ["localhost"], options, jobs.mpirun(options)).look(SECONDS)[0].gone


def test_two_jobs_at_once(jobs: Jobs, made: str, experiment: Path, files: Files, mpirun: str) -> None:
    other = str(experiment / "other_1.input")
    for suffix in (".input", ".machines", ".threads"):
        files.cp(made.replace(".input", suffix), other.replace(".input", suffix))
    Path(other).write_text(Path(other).read_text().replace("tiny_1.", "other_1."))
    slow, slow_seen = start(jobs, made, mpirun, "slow", check="no")
    assert slow_seen.running.wait(SECONDS)
    with pytest.raises(JobError, match="runs already, as run 1"):
        jobs.start(made)
    quick, _ = start(jobs, other, mpirun, check="no")
    assert quick.wait(SECONDS).outcome is Outcome.DONE
    assert not slow.result.done()
    assert [one.number for one in jobs.runs()] == [1, 2]
    assert jobs.stop(slow.number, PATIENT).gone
    assert [one.state for one in jobs.log(other)] == ["Done"]  # and nothing of the other one's


def test_what_is_wrong_is_seen_before_anything_runs(
    jobs: Jobs, made: str, experiment: Path, mpirun: str
) -> None:
    def refused(path: str = made, **options: Any) -> tuple[Outcome, str, list[int]]:
        run, seen = start(jobs, path, mpirun, **options)
        result = run.wait(SECONDS)
        assert result.code is None
        return result.outcome, result.text, [int(step) for step in seen.steps]

    outcome, text, steps = refused(str(experiment / "none.input"))
    assert (outcome, steps) == (Outcome.REFUSED, [102, 103, 109, 100])
    assert "No such file" in text

    assert refused(check="only")[::2] == (Outcome.CHECKED, [102, 103, 127, 125, 128])

    output = experiment / "tiny_1.difx"
    output.mkdir()
    outcome, text, steps = refused()
    assert (outcome, steps) == (Outcome.REFUSED, [102, 103, 127, 125, 104, 111, 100])
    assert "force=True" in text
    output.rmdir()

    good = Path(made).read_text()
    Path(made).write_text(good.replace("ACTIVE BASELINES:   1", "ACTIVE BASELINES:   7"))
    outcome, text, steps = refused()
    assert outcome is Outcome.REFUSED
    Path(made).write_text(good)

    machines = Path(made).with_suffix(".machines")
    machines.write_text("localhost\nlocalhost\nlocalhost\n")
    outcome, text, steps = refused(check="no")
    assert steps == [102, 103, 107]
    assert "3 machines are too few" in text
    machines.unlink()
    assert "define the job's machines first" in refused(check="no")[1]

    with pytest.raises(VersionError, match="did you mean 'STAND-IN'"):
        jobs.start(made, version="STANDIN")


def test_a_configuration_that_the_checker_refuses(
    jobs: Jobs, made: str, versions: Versions, mpirun: str
) -> None:
    checker = Path(versions.base) / "programs" / "checkmpifxcorr"
    checker.write_text("#!/bin/sh\necho 'FATAL no sense in it' >&2\nexit 0\n")
    run, seen = start(jobs, made, mpirun)
    result = run.wait(SECONDS)
    assert (result.outcome, result.text) == (
        Outcome.REFUSED,
        "the configuration is bad: FATAL no sense in it",
    )
    assert [int(step) for step in seen.steps] == [102, 103, 127, 124, 128]
    # A text that only sounds bad is none.
    checker.write_text("#!/bin/sh\necho 'errors may follow' >&2\n")
    assert start(jobs, made, mpirun, check="only")[0].wait(SECONDS).outcome is Outcome.CHECKED
    checker.unlink()
    run, seen = start(jobs, made, mpirun, check="only")
    assert "no checkmpifxcorr" in run.wait(SECONDS).text
    assert JobStep.NO_CHECKER in seen.steps
    # Stopped while it is checked.
    checker.write_text("#!/bin/sh\necho begun\nexec sleep 1000\n")
    checker.chmod(0o755)
    begun = threading.Event()
    run = jobs.start(made, JobOptions(mpirun=mpirun), lambda event: event.text == "begun" and begun.set())
    assert begun.wait(SECONDS)
    assert jobs.stop(made, GRIM).gone
    assert run.wait(SECONDS).outcome is Outcome.TERMINATED


def test_without_an_mpirun(jobs: Jobs, made: str) -> None:
    run, _ = start(jobs, made, "mpirun-of-nobody", check="no")
    result = run.wait(SECONDS)
    assert result.outcome is Outcome.FAILED
    assert "there is no 'mpirun-of-nobody'" in result.text
    run, _ = start(jobs, made, "/bin/echo", check="no")
    assert "neither Open MPI's nor MPICH's" in run.wait(SECONDS).text


def test_a_job_that_others_started_is_stopped(
    jobs: Jobs, made: str, group: Group, versions: Versions, mpirun: str
) -> None:
    """Ranks without their mpirun, as one leaves them that was killed."""
    command = [*versions.command(["mpifxcorr"]), made]
    env = {**os.environ, "STAND_IN": "stuck", "PMI_SIZE": "4"}
    ranks = [
        subprocess.Popen(command, env=env | {"PMI_RANK": str(rank)}, start_new_session=True)
        for rank in range(4)
    ]
    try:
        options = JobOptions(mpirun=mpirun)
        hosts = jobs.hosts(made, ["localhost"], options, jobs.mpirun(options))
        deadline = time.monotonic() + SECONDS
        while [one.left for one in hosts.look(SECONDS)] != [4] or not Path(made).with_suffix(
            ".difx"
        ).exists():
            assert time.monotonic() < deadline
        bystander = subprocess.Popen([sys.executable, "-c", "input()", made], stdin=subprocess.PIPE)
        report = jobs.stop(made, Patience(answer=0.2, signalled=0.2, killed=SECONDS), options=options)
        assert (report.gone, report.how) == (True, "kill"), report
        assert [one.wait(SECONDS) for one in ranks] == [-signal.SIGKILL] * 4
        assert bystander.poll() is None  # it only works on the same file
        bystander.communicate(b"\n", timeout=SECONDS)
    finally:
        for one in ranks:
            one.kill()
            one.wait(SECONDS)


def test_a_host_that_cannot_be_asked_is_not_called_gone(jobs: Jobs, made: str, mpirun: str) -> None:
    options = JobOptions(mpirun=mpirun)
    hosts = JobHosts(
        ["mf-nowhere.invalid"], pattern("mpifxcorr", made), jobs.mpirun(options), jobs.environment(options)
    )
    (state,) = hosts.look(SECONDS)
    assert state.left is None
    assert not state.gone
    assert state.error


# -- without a session ----------------------------------------------------------------------------


@pytest.mark.long
def test_a_job_from_the_command_line(made: str, group: Group, versions: Versions, mpirun: str) -> None:
    def difx(*words: str, **variables: str) -> subprocess.Popen[str]:
        env = os.environ | {"DIFX_BASE": versions.base, "PYTHONPATH": str(ROOT)} | variables
        command = [sys.executable, "-m", "mpiframe", "difx", *words, made, "--mpirun", mpirun]
        return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    run = difx("run", "--force")
    out, err = run.communicate(timeout=SECONDS)
    assert run.returncode == 0, err
    assert f"{made}: done: done (" in out
    assert "Running 75.3%" in err
    # It is there already, which is an error; and one that is ended is ended on all its hosts.
    assert "force=True" in difx("run", "--check=no").communicate(timeout=SECONDS)[0]
    run = difx("run", "--check=no", "--force", STAND_IN="slow")
    assert run.stderr is not None
    while "Running" not in run.stderr.readline():
        assert run.poll() is None
    run.terminate()
    out, err = run.communicate(timeout=SECONDS)
    assert run.returncode == 130
    assert "gone after" in err
    assert "terminated" in out
    # Nothing runs: there is nothing to be done, and nothing is left.
    stop = difx("stop")
    out, err = stop.communicate(timeout=SECONDS)
    assert stop.returncode == 0, err
    assert "localhost: gone" in out
    wrong = difx("stop", "--program", "a b")
    assert "no name of a program" in wrong.communicate(timeout=SECONDS)[1]
    assert wrong.returncode == 1


# -- passes ---------------------------------------------------------------------------------------


def test_calc_alone_and_again(experiment: Path, files: Files, versions: Versions) -> None:
    Pass(str(experiment), "tiny.v2d", files, versions).run()
    report = Pass(str(experiment), "tiny_*", files, versions, calc_only=True).run()
    assert report.files == (str(experiment / "tiny_1.im"),)
    # Once more: what is made anew counts as new.
    assert len(Pass(str(experiment), "tiny.v2d", files, versions).run().files) == 2
    with pytest.raises(JobError, match="there is no job"):
        Pass(str(experiment), "other", files, versions, calc_only=True).run()


def test_programs_that_fail_say_so(experiment: Path, files: Files, versions: Versions) -> None:
    (experiment / "tiny.vex").unlink()
    report = Pass(str(experiment), "tiny.v2d", files, versions).run()
    assert report.failed == (("vex2difx", 1),)
    assert "cannot open vex file" in report.log[-1]
    assert report.files == ()


def test_a_pass_can_be_stopped(experiment: Path, files: Files, versions: Versions) -> None:
    program = Path(versions.base) / "programs" / "vex2difx"
    program.write_text("#!/bin/sh\ntrap '' TERM\necho begun\nwhile :; do sleep 1000; done\n")
    one = Pass(str(experiment), "tiny.v2d", files, versions)
    lines: queue.Queue[str] = queue.Queue()
    ends: queue.Queue[Any] = queue.Queue()

    def work() -> None:
        try:
            ends.put(one.run(on_line=lambda _, line: lines.put(line)))
        except JobError as error:
            ends.put(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert lines.get(timeout=SECONDS) == "begun"
    assert one.stop(0.2)
    assert "was stopped" in str(ends.get(timeout=SECONDS))
    thread.join(SECONDS)


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: {"file": "../tiny.v2d"},
        lambda folder: {"file": "-f"},
        lambda folder: {"file": ""},
        lambda folder: {"folder": "exp"},
        lambda folder: {"folder": "/etc", "file": "passwd"},
        lambda folder: {"file": "none.v2d"},
        lambda folder: {"calc_command": ""},
        lambda folder: {"calc_command": "--help"},
        lambda folder: {"version": "none"},
    ],
)
def test_what_no_pass_is_made_of(
    experiment: Path, files: Files, versions: Versions, change: Callable[[Path], dict[str, str]]
) -> None:
    arguments: dict[str, Any] = {"folder": str(experiment), "file": "tiny.v2d", **change(experiment)}
    with pytest.raises((ValueError, OSError, VersionError)):
        Pass(arguments.pop("folder"), arguments.pop("file"), files, versions, **arguments)
