"""These tests run on rank 0 of one world, which serves them all: see `test_casampi_worlds.py`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from casampi.MPICommandClient import MPICommandClient
from casampi.MPIInterface import MPIInterface
from casampi.private.MPIMonitorClient import MPIMonitorClient

_SERVERS = int(os.environ.get("MPIFRAME_TEST_RANKS", "2")) - 1
_GATE = """
import os as _os, time as _time
open({begun!r}, "w").close()
_until = _time.monotonic() + 30
while not _os.path.exists({opened!r}):
    if _time.monotonic() > _until:
        raise RuntimeError("nobody opened the gate")
    _time.sleep(0.001)
"""


def pytest_configure(config: pytest.Config) -> None:
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
def client() -> Iterator[MPICommandClient]:
    client = MPICommandClient()
    client.start_services()
    yield client
    client.stop_services()


@pytest.fixture(autouse=True)
def _serves_on(client: MPICommandClient) -> Iterator[None]:
    """After every test every server works, whatever was done to it."""
    yield
    everywhere = list(range(1, _SERVERS + 1))
    responses = client.push_command_request("sum(map(len, ['mpi', 'casa']))", True, everywhere)
    assert [response["ret"] for response in responses] == [7] * _SERVERS, responses


@pytest.fixture
def servers(client: MPICommandClient) -> list[int]:
    """The ranks of all servers."""
    return list(range(1, _SERVERS + 1))


@pytest.fixture
def interface(client: MPICommandClient) -> MPIInterface:
    """The cluster."""
    return MPIInterface.getCluster()


@pytest.fixture
def monitor(client: MPICommandClient) -> MPIMonitorClient:
    """The watch."""
    return MPIMonitorClient()


@pytest.fixture
def value(client: MPICommandClient) -> Callable[[str, int], Any]:
    """The value of an expression on one server."""

    def evaluate(expression: str, server: int = 1) -> Any:
        (response,) = client.push_command_request(expression, True, server)
        assert response["successful"], response["traceback"]
        return response["ret"]

    return evaluate


class Gate:
    """A command that runs until the test lets it end."""

    def __init__(self, folder: Path, name: str) -> None:
        self._begun, self._opened = folder / f"{name}-begun", folder / f"{name}-opened"
        self.command = _GATE.format(begun=str(self._begun), opened=str(self._opened))

    def open(self) -> None:
        """Let the command end."""
        self._opened.touch()

    def begun(self) -> bool:
        """Whether the command runs, or has run."""
        return self._begun.exists()


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
def gates(tmp_path: Path) -> Iterator[Callable[[], Gate]]:
    """Makes gates; they are open at the end of the test at the latest."""
    made: list[Gate] = []

    def make() -> Gate:
        made.append(Gate(tmp_path, f"gate{len(made)}"))
        return made[-1]

    yield make
    for gate in made:
        gate.open()


@pytest.fixture
def gate(gates: Callable[[], Gate]) -> Gate:
    """A command that keeps a server busy."""
    return gates()


@pytest.fixture
def busy(client: MPICommandClient, gate: Gate) -> int:
    """The id of a command that keeps server 1 busy until `gate.open()`."""
    (id,) = client.push_command_request(gate.command, False, 1)
    until(gate.begun)
    return id
