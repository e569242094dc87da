"""Starts scripts that were written for casampi; what runs inside a world is left out, unless this is one."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

collect_ignore = [] if "MPIFRAME_TEST_RANKS" in os.environ else ["world"]

HEAD = """
import os, pathlib, signal, sys, threading, time
from casampi.MPICommandClient import MPICommandClient
from casampi.MPIEnvironment import MPIEnvironment
from casampi.MPIInterface import MPIInterface

def until(condition, seconds=15):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it does not become so"
        time.sleep(0.001)

def within(seconds, call, *args, **options):
    # Whatever hangs must not hang the script.
    got = []
    thread = threading.Thread(target=lambda: got.append(call(*args, **options)), daemon=True)
    thread.start()
    thread.join(seconds)
    assert got, f"{call.__name__}{args} has not returned within {seconds} s"
    return got[0]

def gate(name):
    # A command that makes the file `name`-begun, and then runs until there is the file `name`-opened.
    begun, opened = (str(pathlib.Path(f"{name}-{word}").resolve()) for word in ("begun", "opened"))
    return (
        f"open({begun!r}, 'w').close()\\n"
        f"while not os.path.exists({opened!r}): time.sleep(0.001)"
    )

def has_begun(name):
    return os.path.exists(f"{name}-begun")

def open_gate(name):
    pathlib.Path(f"{name}-opened").touch()

def write(name):
    # A command that makes a file.
    return f"open({str(pathlib.Path(name).resolve())!r}, 'w').close()"
"""
"""What the scripts of these tests begin with; the imports are those of an unchanged script."""

START = """
client = MPICommandClient()
client.start_services()
"""


def starts(launcher: Any, folder: Path) -> Callable[..., Any]:
    """Starts the text of a script: by `mpiframe run --casampi`, or (plain) by mpiexec with other imports."""

    def start(script: str, ranks: int = 3, *, plain: bool = False, env: dict[str, str] | None = None) -> Any:
        if plain:
            script = script.replace("from casampi", "from mpiframe.compat.casampi")
            return launcher.start(script, ranks, plain=True, env=env)
        path = folder / "script.py"
        path.write_text(textwrap.dedent(script))
        return launcher.start(["--casampi", str(path)], ranks, env=env)

    return start


@pytest.fixture
def casampi(launcher: Any, tmp_path: Path) -> Callable[..., Any]:
    """`starts`, with every MPI."""
    return starts(launcher, tmp_path)


@pytest.fixture
def one_launcher(
    request: pytest.FixtureRequest, launching_with: Callable[[Any], AbstractContextManager[Any]]
) -> Iterator[Any]:
    """Starts worlds with one MPI only, for what is the same with all of them."""
    found: Any = request.config.pluginmanager.get_plugin(str(Path(__file__).parents[2] / "conftest.py"))
    with launching_with(next(python for python in found.pythons() if not python.is_site)) as launcher:
        yield launcher


@pytest.fixture
def casampi_once(one_launcher: Any, tmp_path: Path) -> Callable[..., Any]:
    """`starts`, with one MPI."""
    return starts(one_launcher, tmp_path)
