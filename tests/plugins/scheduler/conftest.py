"""Queues of each batch system for the suite that all have to pass.

The local queue always; the others where `MPIFRAME_TEST_SCHEDULERS` names them (slurm,sge), which
`launch/test --schedulers` does. One that is named and cannot be started is a failure, not a skip.
With MPIFRAME_PBS=1 the site's own PBS or Torque is among them: for a login node, with a folder that the nodes
see, too, in MPIFRAME_TEST_FOLDER. (Torque takes no jobs of root's.)
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mpiframe.plugins.scheduler import LocalBackend, Queue
from mpiframe.plugins.scheduler.backends import whose_qsub
from mpiframe.plugins.scheduler.queue import _defaults
from tests.plugins.scheduler.daemons import Daemons
from tests.plugins.scheduler.grid_engine_cluster import PrivateGridEngine
from tests.plugins.scheduler.slurm_cluster import PrivateSlurm

NAMED = [name for name in os.environ.get("MPIFRAME_TEST_SCHEDULERS", "").split(",") if name]
FOLDER = os.environ.get("MPIFRAME_TEST_FOLDER", "/tmp")
if os.environ.get("MPIFRAME_PBS") == "1":
    assert shutil.which("qsub"), "MPIFRAME_PBS=1, and there is no qsub on PATH"
    NAMED.append(whose_qsub())
    assert NAMED[-1] != "sge", "MPIFRAME_PBS=1, and qsub is Grid Engine's"
BACKENDS = ["local", *NAMED]

collect_ignore = [] if "slurm" in NAMED else ["test_slurm.py", "test_torque_wrappers.py"]
collect_ignore += [] if {"slurm", "sge"} <= set(NAMED) else ["test_templates.py"]


@contextlib.contextmanager
def running(cluster: Any) -> Iterator[Daemons]:
    """A batch system of our own, with its variables in the environment."""
    before = dict(os.environ)
    try:
        cluster.start()
        os.environ.update(cluster.variables)
        yield cluster
    finally:
        for name in cluster.variables:
            os.environ.pop(name, None)
            if name in before:
                os.environ[name] = before[name]
        cluster.stop()


@pytest.fixture(scope="session")
def slurm() -> Iterator[Any]:
    """A Slurm, running."""
    with running(PrivateSlurm()) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def sge() -> Iterator[Any]:
    """A Grid Engine, running."""
    with running(PrivateGridEngine()) as cluster:
        yield cluster


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for a job's files, which is the current one; books and settings of its own."""
    with tempfile.TemporaryDirectory(prefix="mf-sch-", dir=FOLDER) as text:
        folder = Path(text).resolve()
        monkeypatch.setenv("MPIFRAME_SCHEDULER_STATE", str(folder / "state"))
        monkeypatch.setenv("MPIFRAME_SCHEDULER_CONFIG", str(folder / "scheduler.ini"))
        (folder / "work").mkdir()
        monkeypatch.chdir(folder / "work")
        _defaults.clear()
        yield folder / "work"
        _defaults.clear()
        leave_no_process(folder)


def leave_no_process(folder: Path) -> None:
    """End the local queue of a test, and fail if one of its jobs runs on."""
    for books in (folder / "state" / "local").glob("*"):
        LocalBackend(str(books)).stop()
    deadline = time.monotonic() + 10
    while left := processes_of(folder):
        if time.monotonic() > deadline:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, 9)
            raise AssertionError(f"left behind: {left}")
        time.sleep(0.02)


def processes_of(folder: Path) -> dict[int, str]:
    """Processes that name the folder on their command lines."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_text(errors="replace").replace("\0", " ")
            if str(folder) in words and int(entry.name) != os.getpid():
                found[int(entry.name)] = words
    return found


@pytest.fixture(params=BACKENDS)
def make_queue(request: pytest.FixtureRequest, room: Path) -> Callable[..., Queue]:
    """Makes queues of each batch system, as a new client would."""
    if request.param in ("slurm", "sge"):
        request.getfixturevalue(request.param)

    def make(**options: Any) -> Queue:
        if request.param == "local":  # as many as Slurm's nodes have, whatever the machine has
            options.setdefault("backend", LocalBackend(cores=4))
        options.setdefault("poll_seconds", 0.2)
        options.setdefault("longest_poll_seconds", 1.0)
        return Queue(request.param, **options)

    return make


@pytest.fixture
def queue(make_queue: Callable[..., Queue]) -> Queue:
    """A queue of each batch system."""
    return make_queue()
