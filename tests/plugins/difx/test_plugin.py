"""The DiFX plugin in a world of ranks: what a session does, from the files to the visibilities."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from mpiframe.plugins.difx.multicast import Group
from mpiframe.plugins.difx.plugin import Difx, DifxOptions
from tests.plugins.difx.conftest import mpiruns
from tests.plugins.difx.programs.install import install
from tests.plugins.scheduler.test_plugin import declared

ROOT = Path(__file__).resolve().parents[3]
DATA = Path(__file__).parent / "data" / "real_run_tiny"

SCRIPT = """
import os, queue, shutil, sys
from pathlib import Path

import mpiframe
from mpiframe.plugins.difx.job_events import JobStep, Outcome
from mpiframe.plugins.difx.files import CHUNK_BYTES
from mpiframe.plugins.difx.messages_bodies import Info
from mpiframe.plugins.difx.stopping import Patience

root, mpirun, data = sys.argv[1:4]
thorough = "thorough" in sys.argv
SECONDS = 40
with mpiframe.Client() as client:
    difx = client.plugin(
        "difx", target=1, roots=[root], mpirun=mpirun, shown=["STAND_IN_SHOWN"]
    )
    events = {}
    def sort(server, event):
        events.setdefault(event[0], queue.Queue()).put(event[1:])
    for kind in ("message", "spectrum", "file", "pass", "machines", "job", "queue"):
        events[kind] = queue.Queue()
    difx.subscribe(sort)

    versions = difx.versions()
    assert (versions.available, versions.chosen) == (["STAND-IN"], "STAND-IN"), versions
    assert versions.environment["STAND_IN_SHOWN"] == "yes"
    assert "PATH" not in versions.environment

    # Files.
    exp = f"{root}/a/exp"
    difx.mkdir(exp)
    for name in ("tiny.v2d", "tiny.vex"):
        difx.send(f"{exp}/{name}", from_file=f"{data}/{name}")
    big, seen = os.urandom(5 * CHUNK_BYTES + 1), []
    assert difx.send(f"{exp}/big", big, progress=lambda done, total: seen.append((done, total))) == len(big)
    assert seen == [(min(n * CHUNK_BYTES, len(big)), len(big)) for n in range(1, 7)], seen
    seen.clear()
    assert difx.get(f"{exp}/big", progress=lambda done, total: seen.append(done)) == big
    assert len(seen) == 6
    assert difx.get(f"{exp}/big", f"{root}/copy") == len(big)
    assert Path(f"{root}/copy").read_bytes() == big
    assert difx.send(f"{exp}/parts", (b"12", b"", b"345")) == 5
    def half():
        yield b"half"
        raise InterruptedError
    try:
        difx.send(f"{exp}/parts", half())
    except InterruptedError:
        pass
    assert difx.get(f"{exp}/parts") == b"12345"
    assert difx.mv(f"{exp}/parts", f"{exp}/moved") == f"{exp}/moved"
    assert difx.rm(f"{exp}/moved") == [f"{exp}/moved"]
    assert difx.rm(f"{exp}/big") == [f"{exp}/big"]
    assert difx.ls(exp) == ["tiny.v2d", "tiny.vex"]
    try:
        difx.get("/etc/passwd")
    except mpiframe.CommandError as error:
        assert isinstance(error.__cause__, PermissionError), error
    else:
        raise AssertionError("/etc/passwd")

    # A list of data files.
    for name, times in (("d2", b"60022.2 60022.3"), ("d1", b"60022.1 60022.2")):
        difx.send(f"{root}/{name}", times)
    made = difx.filelist([f"{root}/d2", f"{root}/d1"], f"{root}/d.filelist", "VDIF_8000", 60022)
    rows = [f"{root}/d1 60022.1000000 60022.2000000", f"{root}/d2 60022.2000000 60022.3000000"]
    assert (made.missing, difx.get(f"{root}/d.filelist").decode().splitlines()) == ([], rows)
    for form, to, text in (("VDIF", "d.filelist", "is there already"), ("K5", "e", "no format whose times")):
        try:
            difx.filelist([f"{root}/d1"], f"{root}/{to}", form, 60022)
        except mpiframe.CommandError as error:
            assert text in str(error), error
        else:
            raise AssertionError(text)

    # A pass, machines, a job.
    report = difx.vex2difx(exp, "tiny.v2d")
    assert report.successful, report
    job = report.files[0]
    assert [events["file"].get(timeout=SECONDS)[0] for _ in range(2)] == list(report.files)
    defined = difx.define_machines(job, "localhost", ["localhost"] * 2, [("localhost", 2)])
    assert difx.machines(job) == ("localhost", ["localhost"] * 2, [("localhost", 1)])
    difx.messages_hear(["DifxStatusMessage"])
    number = difx.start_job(job)
    monitor = difx.monitor_start(job, [0])
    result = difx.wait_job(number)
    assert result.outcome is Outcome.DONE, result
    steps = []
    while not steps or steps[-1] is not JobStep.ENDED:
        (event,) = events["job"].get(timeout=SECONDS)
        steps.append(event.step)
    assert steps.count(JobStep.STATUS) == 7, steps
    assert events["message"].get(timeout=SECONDS)[0].body.state == "Starting"
    spectra = [events["spectrum"].get(timeout=SECONDS) for _ in range(4)]
    assert [which for which, _ in spectra] == [monitor] * 4
    assert len({update.seconds for _, update in spectra}) == 4
    difx.monitor_stop(monitor)
    assert [run.state for run in difx.history(job)] == ["Done"]
    assert len(difx.history(job)[0].weights) == 4
    assert [(run.number, run.result.outcome) for run in difx.runs()] == [(1, Outcome.DONE)]

    # The rest of this is the same whatever the MPI.
    if thorough:
        # The queue: one waits for a slow one, one is taken out; the slow one is stopped, and that was all.
        slow = difx.enqueue(job, force=True, check="no", environment={"STAND_IN": "slow"})
        later = difx.enqueue(job, after=[slow])
        extra = difx.enqueue(job, priority=-1)
        difx.dequeue(extra)
        while not any(run.progress and run.number == 2 for run in difx.runs()):
            events["job"].get(timeout=SECONDS)
        report = difx.stop_job(job)
        assert report.gone and report.how == "message", report
        assert difx.wait_queued(slow).state == "failed"
        assert difx.wait_queued(later).text == f"job {slow}, for which it waits, is failed"
        assert [one.state for one in difx.queue()] == ["failed", "dropped", "dropped"]

        # By a batch system, the second after the first.
        sched = client.plugin("scheduler", target=1, qtype="local")
        first = difx.schedule(sched, job, force=True, batch={"dir": root})
        second = difx.schedule(sched, job, force=True, check="no", after=[first], batch={"dir": root})
        for number in (first, second):
            code, out, err = sched.get(number)
            assert code == 0, (out, err)
            assert "done: done" in out, (out, err)
            assert "Done 100.0%" in err
        assert len(difx.history(job)) == 3 + 1
        sched.unload()
        from mpiframe.plugins.scheduler.local import LocalBackend
        LocalBackend().stop()

    # What is wrong is said.
    for call, text in (
        (lambda: difx.start_job(job, forse=True), "no option 'forse'"),
        (lambda: difx.wait_job(99), "there is no run 99"),
        (lambda: difx.monitor_stop(99), "there is no monitor 99"),
        (lambda: difx.upload_write(99, b""), "there is no upload 99"),
        (lambda: difx.start_job(job, mpi_options="-np 9"), "-np"),
        (lambda: difx.mark5_control("localhost", "getvsn"), "there is no mk5control"),
    ):
        try:
            call()
        except mpiframe.CommandError as error:
            assert text in str(error), error
        else:
            raise AssertionError(text)

    # What runs is ended with the plugin.
    last = difx.start_job(job, force=True, check="no", environment={"STAND_IN": "slow"})
    while not any(run.progress and run.number == last for run in difx.runs()):
        events["job"].get(timeout=SECONDS)
    difx.unload()
print("all well")
"""


def test_a_session(launcher: Any, tmp_path: Path, group: Group) -> None:
    made = tmp_path / "mpiframe-0.dist-info"  # so that it is found by name in a checkout, too
    made.mkdir()
    (made / "METADATA").write_text("Metadata-Version: 2.1\nName: mpiframe\nVersion: 0\n")
    (made / "entry_points.txt").write_text(declared())
    (tmp_path / "script.py").write_text(SCRIPT)
    root = tmp_path / "root"
    root.mkdir()
    # The ranks' MPI is not the job's: on the world's own the second would see the first's variables.
    mpirun = Path(launcher.python.executable).parent / "mpirun"
    base = install(tmp_path / "difx")
    (base / "programs" / "mk5control").unlink()  # as where there are no Mark 5 units
    env = {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)]),
        "DIFX_BASE": str(base),
        "DIFX_MESSAGE_GROUP": group.address,
        "DIFX_MESSAGE_PORT": str(group.port),
        "STAND_IN_SHOWN": "yes",
        "MPIFRAME_SCHEDULER_STATE": str(tmp_path / "state"),
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    }
    words = [str(tmp_path / "script.py"), str(root), str(mpirun), str(DATA)]
    words += ["thorough"] if str(mpirun) == mpiruns()[-1] else []
    ended = launcher.run(words, 2, env=env, seconds=100).expect(0)
    assert ended.stdout == "all well\n", ended.said


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"roots": "/data"}, "roots is a list"),
        ({"interface": "lo", "port": 70000}, "no port"),
        ({"mpi_options": ["--hostfile", "x"]}, "--hostfile"),
        ({"program": "a b"}, "no name of a program"),
        ({"version": "2.9"}, "no version '2.9'"),
        ({"environment": {"A=B": "1"}}, "cannot be a variable"),
    ],
)
def test_options_that_are_wrong(options: dict[str, Any], text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DIFX_BASE", raising=False)
    with pytest.raises((ValueError, LookupError, Exception), match=text):
        DifxOptions(**options)


def test_all_commands_say_what_they_do() -> None:
    assert [name for name, doc in Difx.commands().items() if not doc.endswith(".") and ":" not in doc] == []
