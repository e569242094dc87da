"""A home of local jobs for each test, in which nothing may run on."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpiframe.plugins.grid.mig import LocalServer, Mig

DATA = Path(__file__).parent / "data"


def processes_in(folder: Path) -> list[int]:
    """Processes whose working folder, or command line, is below a folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().decode(errors="replace")
            where = os.readlink(entry / "cwd")
            if int(entry.name) != os.getpid() and (
                str(folder) in words or where.startswith(f"{folder}/home")
            ):
                found.append(int(entry.name))
    return found


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder: its `work` is the current one, its `home` that of local jobs, and of the user."""
    with tempfile.TemporaryDirectory(prefix="mf-mig-", dir="/tmp") as text:
        folder = Path(text).resolve()
        for name in ("work", "user", "tmp"):
            (folder / name).mkdir()
        monkeypatch.setenv("HOME", str(folder / "user"))
        monkeypatch.setenv("TMPDIR", str(folder / "tmp"))
        monkeypatch.setattr(tempfile, "tempdir", None)
        monkeypatch.setenv("MPIFRAME_MIG_HOME", str(folder / "home"))
        monkeypatch.setenv("MPIFRAME_MIG_SLOTS", "4")
        monkeypatch.chdir(folder / "work")
        yield folder
        deadline = time.monotonic() + 10
        while left := processes_in(folder):
            if time.monotonic() > deadline:
                for pid in left:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                raise AssertionError(f"left behind: {left}")
            time.sleep(0.01)


@pytest.fixture
def mig(room: Path) -> Mig:
    """The interface on this machine."""
    return Mig(LocalServer())
