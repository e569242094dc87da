"""The command line: what it refuses, what it passes on; and the doctor's report. Starts no MPI."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import mpiframe
from mpiframe import cli, doctor, launcher
from mpiframe.errors import WorldError
from mpiframe.worlds import background

MPI = launcher.MpiLibrary("Open MPI", "5.0.11", True, "Open MPI v5.0.11", ("/env",))


class Recorder:
    """Stands in for `launcher.plan` and `launcher.run`, and remembers what they were asked."""

    def __init__(self) -> None:
        self.n = 0
        self.python_args: list[str] = []
        self.options: dict[str, Any] = {}
        self.grace: float | None = None

    def plan(self, n: int, python_args: Sequence[str], **options: Any) -> launcher.LaunchPlan:
        self.n, self.python_args, self.options = n, list(python_args), options
        argv = ("/env/bin/mpiexec", "-n", str(n), "python", *python_args)
        return launcher.LaunchPlan(argv, {"OMPI_MCA_btl": "^ofi"}, MPI, argv[0])

    def run(self, plan: launcher.LaunchPlan, *, grace: float, foreground: None) -> int:
        self.grace = grace
        return 7


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Recorder:
    """No world is started; the working directory has `script.py` and the module `tool`."""
    found = Recorder()
    monkeypatch.setattr(launcher, "plan", found.plan)
    monkeypatch.setattr(launcher, "run", found.run)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "script.py").touch()
    (tmp_path / "tool").mkdir()
    (tmp_path / "tool/__init__.py").write_text("raise AssertionError('imported by the launcher')")
    return found


@pytest.mark.parametrize(
    ("words", "python_args"),
    [
        (["script.py"], ["script.py"]),
        (["script.py", "-n", "9", "--dry-run", "-m"], ["script.py", "-n", "9", "--dry-run", "-m"]),
        (["script.py", "--", "x"], ["script.py", "--", "x"]),
        (["-m", "tool"], ["-m", "tool"]),
        (
            ["-m", "tool.part", "--grace", "x", "-n", "1"],
            ["-m", "tool.part", "--grace", "x", "-n", "1"],
        ),
        (["-m", "json.tool"], ["-m", "json.tool"]),
    ],
)
def test_the_scripts_own_options_are_its_own(
    recorder: Recorder, words: list[str], python_args: list[str]
) -> None:
    assert cli.main(["run", "-n", "3", *words]) == 7
    assert recorder.n == 3
    assert recorder.python_args == ["-m", "mpiframe", *python_args]


def test_options_reach_the_launcher(recorder: Recorder) -> None:
    words = "run --mpiexec /x/mpiexec --hostfile h --grace 0.5 --launcher-arg=--map-by"
    assert cli.main([*words.split(), "--launcher-arg", "node", "-n", "2", "script.py"]) == 7
    assert recorder.grace == 0.5
    assert recorder.options == {
        "mpiexec": "/x/mpiexec",
        "hostfile": "h",
        "extra": ["--map-by", "node"],
        "resilient": False,
        "variables": {},
    }


def test_a_trace_is_asked_for_by_its_whole_path(recorder: Recorder) -> None:
    assert cli.main(["run", "-n", "2", "--trace", "run.json", "script.py"]) == 7
    assert recorder.options["variables"] == {"MPIFRAME_TRACE": os.path.abspath("run.json")}


def test_a_world_in_the_background_is_traced_by_the_whole_path_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given: list[background.Orders] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(background, "run_named", lambda _name, orders, _prepare: given.append(orders) or 0)
    assert cli.main(["start", "-n", "2", "--foreground", "--trace", "run.json"]) == 0
    assert given[0].variables == {"MPIFRAME_TRACE": str(tmp_path / "run.json")}
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_prints_the_command_and_runs_nothing(
    recorder: Recorder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", "-n", "2", "--dry-run", "script.py", "two words"]) == 0
    assert recorder.grace is None
    assert capsys.readouterr().out == (
        "OMPI_MCA_btl='^ofi' /env/bin/mpiexec -n 2 python -m mpiframe script.py 'two words'\n"
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["-n", "2", "missing.py"], "there is no script missing.py"),
        (["-n", "2", "-m", "nothing_of_that_name.x"], "no module 'nothing_of_that_name'"),
        (["-n", "2", "-m"], "-m needs the name of a module"),
        (["-n", "2"], "nothing to run: give a script"),
    ],
)
def test_nothing_to_run(
    recorder: Recorder, capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    assert cli.main(["run", *words]) == 2
    assert says in capsys.readouterr().err


def test_one_rank_is_refused_with_the_remedy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "script.py"
    script.touch()
    assert cli.main(["run", "-n", "1", str(script)]) == 2
    assert "mpiframe run: a world needs at least 2 ranks" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run", "script.py"], "-n"),
        (["run", "-n", "two", "script.py"], "'two'"),
        (["run", "-n", "2", "--grace", "-1", "script.py"], "not a number of seconds"),
        (["run", "-n", "2", "--grace", "soon", "script.py"], "not a number of seconds"),
        (["run", "-n", "2", "--unknown", "script.py"], "--unknown"),
        (["walk"], "walk"),
        ([], "run|submit|doctor|"),
    ],
)
def test_a_wrong_command_line_says_what_is_wrong(
    recorder: Recorder, capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == 2
    assert says in capsys.readouterr().err


def test_the_command_line_does_not_start_mpi() -> None:
    # Loading mpi4py.MPI would start a world of one in the launcher.
    program = "import sys, mpiframe.cli; sys.exit('mpi4py.MPI' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# -- the doctor ---------------------------------------------------------------------------------

FACTS = {
    "hot": 4e-6,
    "paused": 80e-6,
    "mpi": "Open MPI v5.0.11",
    "thread_level": "MULTIPLE",
    "ranks": 2,
    "hosts": 1,
    "doorbell": {"1": "unix"},
    "spin": True,
    "cores": 4,
}


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A machine with a wheel, whose world answers what is put here."""
    survival = {"worked": True, "noticed": 4e-3, "replaced": 0.52}
    answer: dict[str, Any] = {"status": 0, "facts": dict(FACTS), "says": b"", "survival": survival}

    def run(plan: launcher.LaunchPlan, *, timeout: float, output: Any) -> int:
        output.write(answer["says"])
        if "mpiframe._survival" in plan.argv:
            if answer["survival"] is not None:
                Path(plan.argv[-1]).write_text(json.dumps(answer["survival"]))
            return 0 if answer["survival"] else 1
        if answer["facts"] is not None:
            Path(plan.argv[-1]).write_text(json.dumps(answer["facts"]))
        return int(answer["status"])

    monkeypatch.setattr(launcher, "find_library", lambda: MPI)
    monkeypatch.setattr(launcher, "plan", Recorder().plan)
    monkeypatch.setattr(launcher, "run", run)
    monkeypatch.setattr("mpiframe.machine.usable_cores", lambda: 4)
    monkeypatch.setattr("mpiframe.machine.affinity", lambda: [0, 1, 2, 3])
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    return answer


def test_a_healthy_machine(world: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor"]) == 0
    report = capsys.readouterr().out
    for text in (
        "Open MPI 5.0.11, a wheel in /env",
        "/env/bin/mpiexec",
        "OMPI_MCA_btl='^ofi'",
        "MULTIPLE",
        "4 usable of 4",
        "doorbell (unix socket)",
        "4.0 us back to back, 80.0 us after a pause of 5 ms",
        "a dead server is noticed after 4 ms, replaced in 0.5 s",
        "All is well.",
    ):
        assert text in report


@pytest.mark.parametrize("survival", [None, {"worked": False}])
def test_a_world_that_should_outlive_its_servers_and_does_not(world: dict[str, Any], survival: Any) -> None:
    world |= {"survival": survival, "says": b"improper\n"}
    report = doctor.examine()
    assert report.ok
    assert "not replaced as it should be" in str(report)
    assert "improper" in str(report)
    assert "Do not use `mpiframe run --resilient` here" in report.advice[0]


def test_an_mpi_that_outlives_nothing(world: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    old = launcher.MpiLibrary("Open MPI", "4.1.4", False, "", ("/usr",))
    plan = launcher.LaunchPlan(("/usr/bin/mpiexec", "a"), {}, old, "/usr/bin/mpiexec")
    monkeypatch.setattr(launcher, "plan", lambda n, args, **_: dataclasses.replace(plan, argv=tuple(args)))
    report = doctor.examine()
    assert "not with Open MPI 4.1.4" in str(report)
    assert report.advice == []


def test_polling_is_told_with_a_remedy(world: dict[str, Any]) -> None:
    world["facts"] |= {"doorbell": {"1": "polling"}, "paused": 3e-3}
    report = doctor.examine()
    assert report.ok
    assert "polling: no socket" in str(report)
    assert "MPIFRAME_DOORBELL" in report.advice[0]
    assert "3.0 ms" in report.advice[1]


def test_one_core_is_told_with_a_remedy(world: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mpiframe.machine.usable_cores", lambda: 1)
    monkeypatch.setattr("mpiframe.machine.affinity", lambda: [0, 1])
    report = str(doctor.examine())
    assert "1 usable of 4 (the affinity mask leaves 2; the container's CPU quota leaves 1)" in report
    assert "There is one core for all ranks" in report


@pytest.mark.parametrize("status", [1, launcher.TIMED_OUT])
def test_a_world_that_cannot_be_started_is_a_failure(
    world: dict[str, Any], status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    world |= {"status": status, "facts": None, "says": b"there is no such network\n"}
    assert cli.main(["doctor"]) == 1
    report = capsys.readouterr().out
    assert ("did not end within 60 s" if status == 124 else "ended with status 1") in report
    assert "there is no such network" in report
    assert "Run the command by hand" in report


def test_a_world_that_gives_no_answer_is_a_failure(world: dict[str, Any]) -> None:
    world["facts"] = None
    assert not doctor.examine().ok


def test_without_an_mpi_the_remedy_is_told(world: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def no_library() -> launcher.MpiLibrary:
        raise WorldError("mpi4py cannot load an MPI library: none\nInstall one")

    monkeypatch.setattr(launcher, "find_library", no_library)
    report = doctor.examine()
    assert not report.ok
    assert report.advice == ["Install one"]
    assert "cannot be started: mpi4py cannot load" in str(report)


def test_it_says_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        cli.main(["--version"])
    assert leaving.value.code == 0
    assert capsys.readouterr().out == f"mpiframe {mpiframe.__version__}\n"
