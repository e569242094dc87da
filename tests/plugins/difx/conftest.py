"""Samples of DiFX's files, and copies of the real job to write to."""

from __future__ import annotations

import os
import random
import shutil
import socket
import sys
from pathlib import Path

import pytest

from mpiframe.plugins.difx.multicast import Group
from mpiframe.plugins.difx.versions import Versions
from tests.plugins.difx.programs.install import install

DATA = Path(__file__).parent / "data"


@pytest.fixture
def data() -> Path:
    """The folder of the samples."""
    return DATA


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """The folder of a copy of the real job, whose files are named tiny_1.*"""
    return Path(shutil.copytree(DATA / "real_run_tiny", tmp_path / "job"))


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> Group:
    """A multicast group on the loopback that nobody else uses, also in the environment."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    address = f"239.{random.randrange(1, 255)}.{random.randrange(255)}.{random.randrange(1, 255)}"
    monkeypatch.setenv("DIFX_MESSAGE_GROUP", address)
    monkeypatch.setenv("DIFX_MESSAGE_PORT", str(port))
    return Group(address, port)


@pytest.fixture
def versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Versions:
    """DiFX, that is the stand-ins for its programs."""
    for name in ("DIFX_BASE", "DIFX_VERSION", "DIFX_MPIRUNOPTIONS"):
        monkeypatch.delenv(name, raising=False)
    for name in ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"):
        monkeypatch.setenv(name, "1")
    return Versions(install(tmp_path / "difx"))


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    """A folder with a schedule and options, and nothing made of them yet."""
    folder = tmp_path / "exp"
    folder.mkdir()
    for name in ("tiny.v2d", "tiny.vex"):
        shutil.copy(DATA / "real_run_tiny" / name, folder)
    return folder


def mpiruns() -> list[str]:
    """An mpirun of each MPI that is tested with."""
    found = []
    for item in filter(None, os.environ.get("MPIFRAME_TEST_PYTHONS", "").split(";")):
        name, _, rest = item.partition("=")
        path = Path(rest.partition(",")[0]).parent / "mpirun"
        if not name.startswith("site") and path.is_file():
            found.append(str(path))
    return found or [str(Path(sys.executable).parent / "mpirun")]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`mpirun`: of the last MPI; `each_mpirun`: of each; `long_mpirun`: of each in a long run only."""
    last = mpiruns()[-1:]
    long = mpiruns() if os.environ.get("MPIFRAME_TEST_LONG") else last
    for name, found in (("mpirun", last), ("each_mpirun", mpiruns()), ("long_mpirun", long)):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, found, ids=lambda path: Path(path).parent.parent.name)
