"""The session of DiFX's documentation, on stand-ins for its programs, over TCP and over MPI."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mpiframe.plugins.difx.gateway import Gateway, GatewayOptions
from mpiframe.plugins.difx.multicast import Group
from tests.plugins.difx import seed_session
from tests.plugins.difx.programs.install import install
from tests.plugins.scheduler.test_plugin import declared

ROOT = Path(__file__).resolve().parents[3]
DATA = Path(__file__).parent / "data" / "real_run_tiny"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Of DiFX, that is of the stand-ins, and of a group of messages of this test's own."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    return {
        "DIFX_BASE": str(install(tmp_path / "difx")),
        "DIFX_VERSION": "STAND-IN",
        "DIFX_MESSAGE_GROUP": f"239.{random.randrange(1, 255)}.8.{random.randrange(1, 255)}",
        "DIFX_MESSAGE_PORT": str(port),
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    }


def test_the_documentation_over_tcp(
    tmp_path: Path, environment: dict[str, str], mpirun: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DIFX_MPIRUNOPTIONS", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    root = tmp_path / "root"
    root.mkdir()
    options = GatewayOptions([str(root)], group=Group.find(), launchers=(mpirun,))
    with Gateway(options) as gateway:
        port = gateway.listen(port=0)
        seed_session.run_all(str(root), ("127.0.0.1", port), DATA)


def test_the_documentation_over_mpi(launcher: Any, tmp_path: Path, environment: dict[str, str]) -> None:
    root = tmp_path / "root"
    root.mkdir()
    made = tmp_path / "mpiframe-0.dist-info"  # so that the plugin is found by name in a checkout, too
    made.mkdir()
    (made / "METADATA").write_text("Metadata-Version: 2.1\nName: mpiframe\nVersion: 0\n")
    (made / "entry_points.txt").write_text(declared())
    mpirun = Path(launcher.python.executable).parent / "mpirun"
    words = [str(ROOT / "tests/plugins/difx/seed_session.py"), str(root), str(DATA), str(mpirun)]
    env = environment | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}
    ended = launcher.run(words, 2, env=env, seconds=90).expect(0)
    assert "all of it, over MPI" in ended.stdout


def test_the_example_shows_a_whole_session(
    tmp_path: Path, environment: dict[str, str], mpirun: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DIFX_MPIRUNOPTIONS", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with Gateway(GatewayOptions([str(tmp_path)], group=Group.find(), launchers=(mpirun,))) as gateway:
        words = [str(DATA / "tiny.v2d"), str(DATA / "tiny.vex"), str(tmp_path / "exp")]
        command = [sys.executable, str(ROOT / "examples/difx_session.py"), *words]
        command.append(f"127.0.0.1:{gateway.listen(port=0)}")
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        ended = subprocess.run(command, capture_output=True, text=True, timeout=90, env=env, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "made: tiny_1.input tiny_1.im" in ended.stdout
    assert f"tiny_1 [{'#' * 40}] 100 % Done" in ended.stdout
    assert "tiny_1.input: Done (" in ended.stdout
