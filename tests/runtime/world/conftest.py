"""These tests run on rank 0 of one world, which serves them all: see `test_worlds.py`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import mpiframe

_SERVERS = int(os.environ.get("MPIFRAME_TEST_RANKS", "2")) - 1
_broken: list[mpiframe.Client] = []  # whose servers do not all answer any more
_WAIT = """
import os as _os, time as _time
open(started, "w").close()
_until = _time.monotonic() + 30
while not _os.path.exists(opened):
    if _time.monotonic() > _until:
        raise RuntimeError("nobody opened the gate")
    _time.sleep(0.001)
"""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "smoke: enough to see that an MPI works")
    config.addinivalue_line("markers", "servers(n): left out where there are fewer than n servers")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    few = []
    for item in items:
        mark = item.get_closest_marker("servers")
        if mark is not None and mark.args[0] > _SERVERS:
            few.append(item)
    if few:
        config.hook.pytest_deselected(items=few)
        items[:] = [item for item in items if item not in few]


@pytest.fixture(scope="session")
def client() -> Iterator[mpiframe.Client]:
    client = mpiframe.Client(log_level="INFO")
    yield client
    if client in _broken:
        client.abandon()
    else:
        client.close()


@pytest.fixture(autouse=True)
def _serves_on(client: mpiframe.Client) -> Iterator[None]:
    """After every test every server works, whatever was done to it."""
    yield
    command = "sum(map(len, ['mpi', 'frame']))"
    try:
        answers = client.push(command, target="all", block=True, timeout=20)
    except mpiframe.MpiframeError as error:
        _broken.append(client)
        pytest.exit(f"after this test not every server works, so the suite ends: {error}", 1)
    assert [answer.ret for answer in answers] == [8] * _SERVERS, answers


@pytest.fixture
def servers(client: mpiframe.Client) -> list[int]:
    """The ranks of all servers."""
    return list(range(1, _SERVERS + 1))


class Gate:
    """A command that runs until the test lets it end."""

    command = _WAIT

    def __init__(self, folder: Path) -> None:
        self._started, self._opened = folder / "started", folder / "opened"
        self.parameters = {"started": str(self._started), "opened": str(self._opened)}

    def open(self) -> None:
        """Let the command end."""
        self._opened.touch()

    def await_start(self) -> None:
        """Wait until the command runs."""
        until(self._started.exists)


def until(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it does not become so"
        time.sleep(0.001)


@pytest.fixture(name="until")
def _until() -> Callable[..., None]:
    return until


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """A command that keeps a server busy; it is let go at the end of the test at the latest."""
    gate = Gate(tmp_path)
    yield gate
    gate.open()


@pytest.fixture
def busy(client: mpiframe.Client, gate: Gate) -> int:
    """The id of a command that keeps server 1 busy until `gate.open()`."""
    id = client.push(gate.command, target=1, parameters=gate.parameters)
    gate.await_start()
    return id
