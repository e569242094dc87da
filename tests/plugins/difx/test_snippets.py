"""Each snippet of the manual of DiFX's Python interface, over TCP to `mpiframe difx serve` and over MPI.

The documentation is that of the interface, section by section; a real guiServer cannot be had here, so TCP is
to our gateway, in a process of its own. There and in the world one server serves all snippets.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.plugins.difx.programs.install import install
from tests.plugins.difx.serving import await_text, served
from tests.plugins.difx.snippets import clients, jobs
from tests.plugins.difx.snippets.here import SNIPPETS, Here, Snippet
from tests.plugins.scheduler.test_plugin import declared

ROOT = Path(__file__).resolve().parents[3]
SECONDS = 60.0
Run = Callable[[Snippet], None]

SECTIONS = (
    ("The DiFX Server to Your Python Client", 0),
    ("Running guiServer", 0),  # what is typed and said there: test_what_the_server_says
    ("Making a Client Connection", 1),
    ("Closing the Client Connection", 1),
    ("Monitoring Communications from the Server", 1),
    ("Why Doesn't the Client Monitor Automatically?", 1),
    ("Collecting Relayed DiFX Communication", 0),
    ("Viewing (and Changing) Your DiFX Run Environment", 2),
    ("Using Different DiFX Versions", 2),
    ("Performing Simple File Operations", 0),
    ("Simple Operations: mv, rm, mkdir, rmdir", 1),
    ("The ls Command", 1),
    ("Collecting Information Provided by Running Processes", 1),
    ("Transfering File Data Between Client and Server", 2),
    ("Monitoring DiFX Messages", 3),
    ("Creating New Jobs", 0),
    ("Running vex2difx", 3),
    ("Setting the Calc Process", 1),
    ("Running the Calc Process Alone", 1),
    ("Starting, Stopping and Monitoring DiFX Jobs", 1),
    ("Identifying a Job Using the .input File", 1),
    ("Defining Data Sources and Processors", 3),
    ("Running a Job and Monitoring Progress", 2),
    ("How Can I See What is Going On?", 3),
    ("Stopping a Running Job", 1),
    ("Monitoring the Data Output of a Running Job", 1),
    ("Obtaining the Run History of a Job", 1),
    ("Mark5-Specific Operations", 0),  # and its four parts are empty there; see test_mark5_gateway.py
)
"""The sections of the documentation in their order, with the number of snippets of each."""


def test_each_snippet_of_the_documentation_is_there() -> None:
    assert clients.snippet is jobs.snippet
    found = Counter(one.section for one in SNIPPETS)
    assert found == Counter(dict(SECTIONS))
    assert sum(found.values()) == 34
    order = [title for title, count in SECTIONS for _ in range(count)]
    assert [one.section for one in SNIPPETS] == order
    assert len({one.name for one in SNIPPETS}) == 34


def environment(folder: Path) -> dict[str, str]:
    """Of DiFX, that is of the stand-ins, and of a group of messages of our own."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    base = install(folder / "difx")
    calc = base / "programs" / "mycalcprocess"  # a calc program with another name, which says so
    calc.write_text('#!/bin/sh\necho "this is mycalcprocess"\nexec calcif2 "$@"\n')
    calc.chmod(0o755)
    return {
        "DIFX_BASE": str(base),
        "DIFX_VERSION": "STAND-IN",
        "DIFX_MESSAGE_GROUP": f"239.{random.randrange(1, 255)}.10.{random.randrange(1, 255)}",
        "DIFX_MESSAGE_PORT": str(port),
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    }


@contextlib.contextmanager
def over_tcp(tmp: Path, root: Path) -> Iterator[Run]:
    """Snippets run in this process."""
    env = environment(tmp)
    words = ("--port", "0", "--calc", "calcif2", "--calc", "mycalcprocess")
    with served(tmp, root, env, *words) as (port, log), pytest.MonkeyPatch.context() as patch:
        for name in ("DIFX_MESSAGE_GROUP", "DIFX_MESSAGE_PORT"):
            patch.setenv(name, env[name])
        patch.setenv("DIFX_CONTROL_HOST", "127.0.0.1")
        patch.setenv("DIFX_CONTROL_PORT", str(port))

        def run(one: Snippet) -> None:
            begun = len(log.read_text())
            try:
                one.run(Here(root / one.name, port))
            except BaseException as error:
                error.add_note(log.read_text()[begun:]) if hasattr(error, "add_note") else None
                raise

        yield run
        assert "Traceback" not in log.read_text()


@contextlib.contextmanager
def over_mpi(tmp: Path, root: Path, python: Any, launching_with: Any) -> Iterator[Run]:
    """Snippets run in the client of a world."""
    made = tmp / "mpiframe-0.dist-info"  # so that the plugin is found by name in a checkout, too
    made.mkdir()
    (made / "METADATA").write_text("Metadata-Version: 2.1\nName: mpiframe\nVersion: 0\n")
    (made / "entry_points.txt").write_text(declared())
    mpirun = Path(python.executable).parent / "mpirun"
    path = tmp / "s"
    words = [str(ROOT / "tests/plugins/difx/snippets/in_world.py"), str(path), str(root), str(mpirun)]
    env = environment(tmp) | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp)])}
    with launching_with(python) as launcher:
        world = launcher.start(words, 2, env=env)
        world.await_file(str(path))
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(SECONDS)
            connection.connect(str(path))
            with connection.makefile("rw", encoding="utf-8") as lines:

                def run(one: Snippet) -> None:
                    print(json.dumps(one.name), file=lines, flush=True)
                    try:
                        answer = lines.readline()
                    except TimeoutError:
                        raise AssertionError(f"it did not end:\n{world.said()}") from None
                    assert answer, world.said()
                    wrong = json.loads(answer)
                    assert wrong is None, f"{wrong}\n{world.said()}"

                yield run
        world.wait(SECONDS).expect(0)


SLOW = {"running_a_job_in_the_background", "a_thread_that_watches", "what_a_job_says", "stopping", "history"}
"""Take seconds, and are run over TCP in a long run only."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Over TCP, and over MPI: with the first of the MPIs, in a long run with each."""
    if "transport" not in metafunc.fixturenames:
        return
    slow = metafunc.function.__name__ == "test_it_does_what_it_says_in_seconds"
    plugin = metafunc.config.pluginmanager.get_plugin(str(ROOT / "tests" / "conftest.py"))
    found = [one for one in plugin.pythons() if not one.is_site]  # type: ignore[union-attr]
    long = [pytest.mark.long]
    cases = [pytest.param(None, id="tcp", marks=long if slow else [])]
    for place, one in enumerate(found):
        cases.append(pytest.param(one, id=f"mpi-{one.name}", marks=long if place else []))
    metafunc.parametrize("transport", cases, indirect=True, scope="module")
    chosen = [one for one in SNIPPETS if (one.name in SLOW) == slow]
    metafunc.parametrize("one", chosen, ids=lambda one: one.name)


@pytest.fixture(scope="module")
def transport(request: pytest.FixtureRequest, launching_with: Any) -> Iterator[Run]:
    """Runs a snippet."""
    # Unix sockets' paths are short.
    with tempfile.TemporaryDirectory(prefix="mf-", dir="/tmp") as text:
        tmp = Path(text).resolve()
        root = tmp / "root"
        root.mkdir()
        python = request.param
        with over_tcp(tmp, root) if python is None else over_mpi(tmp, root, python, launching_with) as run:
            yield run


def test_it_does_what_it_says(transport: Run, one: Snippet) -> None:
    transport(one)


def test_it_does_what_it_says_in_seconds(transport: Run, one: Snippet) -> None:
    transport(one)


def test_what_the_server_says(tmp_path: Path) -> None:
    """As the documentation shows it of guiServer: its port, a client that comes, and one that goes."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as one, contextlib.ExitStack() as stack:
        # Kept meanwhile: nobody is given it by chance, and who asks for it by its number, as both do, has it.
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind(("127.0.0.1", 0))
        free = one.getsockname()[1]
        words = ("--port", str(free))
        port, log = stack.enter_context(served(tmp_path, tmp_path, environment(tmp_path), *words))
        assert port == free
        with socket.create_connection(("127.0.0.1", port), SECONDS):
            await_text(log, "client connection from address 127.0.0.1")
        await_text(log, " disconnected")
    help_text = subprocess.run(
        [sys.executable, "-m", "mpiframe", "difx", "serve", "--help"],
        capture_output=True,
        text=True,
        check=True,
        timeout=SECONDS,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ).stdout
    assert re.search(r"--port N\s.*\(default: 50200\)", help_text)
