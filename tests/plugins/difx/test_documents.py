"""What README and the example show of DiFX is run, on stand-ins for DiFX's programs."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mpiframe import cli
from mpiframe.plugins.difx.gateway import Gateway, GatewayOptions
from mpiframe.plugins.difx.multicast import Group
from tests.plugins.difx.programs.install import install
from tests.plugins.scheduler.test_plugin import declared

ROOT = Path(__file__).resolve().parents[3]
DATA = Path(__file__).parent / "data" / "real_run_tiny"
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLE = str(ROOT / "examples" / "difx_session.py")


@pytest.fixture
def environment(tmp_path: Path, group: Group) -> dict[str, str]:
    """Of DiFX, that is of the stand-ins; with a checkout in which the plugin is found by its name."""
    made = tmp_path / "mpiframe-0.dist-info"
    made.mkdir()
    (made / "METADATA").write_text("Metadata-Version: 2.1\nName: mpiframe\nVersion: 0\n")
    (made / "entry_points.txt").write_text(declared())
    return {
        "DIFX_BASE": str(install(tmp_path / "difx")),
        "DIFX_VERSION": "STAND-IN",
        "DIFX_MESSAGE_GROUP": group.address,
        "DIFX_MESSAGE_PORT": str(group.port),
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)]),
    }


def with_mpirun(launcher: Any, environment: dict[str, str]) -> dict[str, str]:
    """So that `mpirun` is that of the launcher's MPI."""
    programs = Path(launcher.python.executable).parent
    return environment | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}


# -- README ---------------------------------------------------------------------------------------


def shown(language: str, word: str) -> str:
    """The block of README in which this stands."""
    (found,) = [text for text in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL) if word in text]
    return found


def test_the_plugin_as_in_readme(
    launcher: Any, tmp_path: Path, experiment: Path, environment: dict[str, str]
) -> None:
    """With our folder, interface and host in the place of README's."""
    example = shown("python", 'client.plugin("difx"')
    (experiment / "tiny.v2d").rename(experiment / "exp.v2d")
    replaced = {'"/data': f'"{tmp_path}', '"eth1"': '"lo"'}
    replaced |= {f'"{host}"': '"localhost"' for host in ("head", "d1", "d2", "c1")}
    for one, other in replaced.items():
        assert one in example
        example = example.replace(one, other)
    before = f"import mpiframe\nclient = mpiframe.Client()\njob = {str(experiment / 'exp_1.input')!r}\n"
    ended = launcher.run(before + example, 2, env=with_mpirun(launcher, environment), seconds=100).expect(0)
    assert "outcome=<Outcome.DONE: 'done'>" in ended.stdout
    assert ended.stdout.count("Run(") == 1
    assert (experiment / "exp_1.machines").read_text().split() == ["localhost"] * 4
    assert (experiment / "exp_1.threads").read_text().split()[-1] == "7"


def test_the_plot_as_in_readme(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(job)
    line = shown("console", "mpiframe difx plot").splitlines()[0].removeprefix("$ ").partition("#")[0]
    words = shlex.split(line)
    assert words[:3] == ["mpiframe", "difx", "plot"]
    assert cli.main(words[1:]) == 0
    picture = (job / words[words.index("-o") + 1]).read_bytes()
    assert picture.startswith(b"\x89PNG")


# -- the example ----------------------------------------------------------------------------------


@pytest.fixture
def schedule(tmp_path: Path) -> list[str]:
    """The example's files, and its folder."""
    for name in ("tiny.v2d", "tiny.vex"):
        shutil.copy(DATA / name, tmp_path)
    return [str(tmp_path / "tiny.v2d"), str(tmp_path / "tiny.vex"), str(tmp_path / "exp")]


def is_a_session(said: str) -> None:
    """Versions, files, a pass, a job with its bar, history."""
    lines = said.splitlines()
    assert lines[0] == "mpiframe, versions of DiFX: STAND-IN"
    assert lines[1].split()[0] == "files:"
    assert sorted(lines[1].split()[1:]) == ["tiny.v2d", "tiny.vex"]
    assert "made: tiny_1.input tiny_1.im" in lines
    assert f"tiny_1 [{'#' * 10}{' ' * 30}]  25 % Running" in said
    assert f"tiny_1 [{'#' * 40}] 100 % Done" in said
    assert re.fullmatch(r"\w{3} \w{3} [ \d]\d .*: tiny_1\.input: Done \(.* 2\d{3}\)", lines[-1])


def test_the_example_over_tcp(
    tmp_path: Path,
    schedule: list[str],
    environment: dict[str, str],
    mpirun: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("DIFX_MPIRUNOPTIONS", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with Gateway(GatewayOptions([str(tmp_path)], group=Group.find(), launchers=(mpirun,))) as gateway:
        command = [sys.executable, EXAMPLE, *schedule, f"127.0.0.1:{gateway.listen(port=0)}"]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    is_a_session(ended.stdout)


def test_the_example_over_mpi(launcher: Any, schedule: list[str], environment: dict[str, str]) -> None:
    env = with_mpirun(launcher, environment)
    ended = launcher.run([EXAMPLE, *schedule, "mpi"], 2, env=env, seconds=100).expect(0)
    is_a_session(ended.stdout)


def test_the_example_says_what_it_takes(environment: dict[str, str]) -> None:
    ended = subprocess.run(
        [sys.executable, EXAMPLE],
        capture_output=True, text=True, timeout=60, check=False, env=os.environ | environment,
    )  # fmt: skip
    assert ended.returncode == 1
    assert "mpiframe run -n 2 examples/difx_session.py" in ended.stderr
