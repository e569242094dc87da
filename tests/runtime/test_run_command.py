"""`mpiframe run` and `mpiframe doctor` with real ranks, on every MPI there is."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

VENDORS = {
    "openmpi": "Open MPI 5",
    "mpich": "MPICH 5",
    "site-openmpi": "the site's own",
    "site-mpich": "the site's own",
}
SECONDS = 60.0  # for one run; a second or two as a rule


def _pythons() -> dict[str, tuple[str, dict[str, str]]]:
    """Name -> (interpreter, variables).

    From `MPIFRAME_TEST_PYTHONS`, which `launch/test` sets: name=python[,VARIABLE=value]*;...
    """
    found = {}
    for item in filter(None, os.environ.get("MPIFRAME_TEST_PYTHONS", "").split(";")):
        name, _, rest = item.partition("=")
        python, *variables = rest.split(",")
        found[name] = (python, dict(variable.split("=", 1) for variable in variables))
    return found or {"this": (sys.executable, {})}


@dataclass
class Mpi:
    """One MPI to test with. Starts `mpiframe` commands in it."""

    name: str
    python: str
    variables: dict[str, str]
    folder: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, *words: str) -> subprocess.Popen[str]:
        # Every process of the run has this in its environment, by which `left` finds it.
        env = os.environ | self.variables | {"MPIFRAME_TEST_MARK": str(self.folder)}
        process = subprocess.Popen(
            [self.python, "-m", "mpiframe", *words],
            cwd=self.folder,
            env=env | {"TMPDIR": str(self.folder / "tmp")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def run(self, *words: str, feed: str = "") -> subprocess.CompletedProcess[str]:
        process = self.start(*words)
        out, err = process.communicate(feed, timeout=SECONDS)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def script(self, text: str) -> str:
        (self.folder / "script.py").write_text(text)
        return "script.py"

    def left(self) -> list[str]:
        """Command lines of processes that are still there, and run directories."""
        mark = f"MPIFRAME_TEST_MARK={self.folder}".encode()
        found = [path.name for path in (self.folder / "tmp").glob("mpiframe-*")]
        for directory in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (directory / "environ").read_bytes():
                    found.append((directory / "cmdline").read_text().replace("\0", " "))
            except OSError:
                continue  # ended meanwhile, or not ours
        return found


@pytest.fixture(params=_pythons().items(), ids=lambda item: item[0])
def mpi(request: pytest.FixtureRequest) -> Iterator[Mpi]:
    name, (python, variables) = request.param
    # Open MPI makes Unix sockets below TMPDIR, whose paths may have about a hundred letters:
    # pytest's own folders are too deep.
    with tempfile.TemporaryDirectory(prefix="mf-", dir="/tmp") as text:
        folder = Path(text).resolve()
        (folder / "tmp").mkdir()
        found = Mpi(name, python, variables, folder)
        yield found
        for process in found.started:
            if process.poll() is None:
                process.terminate()  # it ends its ranks; killed, it could not
            process.communicate(timeout=SECONDS)
        assert found.left() == []


GOOD = """
import sys
import mpiframe
with mpiframe.Client() as client:
    values = [r.ret for r in client.push("6 * 7", target="all", block=True)]
print(values, sys.argv[1:])
"""

RAISING = """
import mpiframe
with mpiframe.Client() as client:
    client.push("1 / 0", target=2, block=True)[0].result()
"""

# The file `ready` tells that the servers are at work.
LONG = """
import pathlib, time
import mpiframe
with mpiframe.Client() as client:
    client.push("import pathlib, time; pathlib.Path(f'busy{rank}').touch(); time.sleep(600)",
                target=1, parameters={"rank": 1})
    client.push("import pathlib, time; pathlib.Path(f'busy{rank}').touch(); time.sleep(600)",
                target=2, parameters={"rank": 2})
    print("waiting", flush=True)
    WAIT
"""


def test_a_good_run(mpi: Mpi) -> None:
    # What is piped in has an end, of which Open MPI's launcher says nothing.
    script = mpi.script(GOOD + "print(sys.stdin.read())")
    done = mpi.run("run", "-n", "3", script, "--option", "two words", feed="what is\npiped in")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[42, 42] ['--option', 'two words']\nwhat is\npiped in\n"


def test_a_module(mpi: Mpi) -> None:
    mpi.script(GOOD)
    done = mpi.run("run", "-n", "2", "-m", "script", "-x")
    assert done.returncode == 0, done.stderr
    assert "[42] ['-x']" in done.stdout


def test_more_ranks_than_cores(mpi: Mpi) -> None:
    allowed = os.sched_getaffinity(0)
    # However many the machine has, a container of it may have time on a few only.
    os.sched_setaffinity(0, sorted(allowed)[:2])
    try:
        done = mpi.run("run", "-n", "5", mpi.script(GOOD))
    finally:
        os.sched_setaffinity(0, allowed)
    assert done.returncode == 0, done.stderr
    assert str([42] * 4) in done.stdout


def test_a_command_that_raises(mpi: Mpi) -> None:
    done = mpi.run("run", "-n", "3", mpi.script(RAISING))
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
    assert "1 / 0" in done.stderr
    assert "server 2" in done.stderr


@pytest.mark.parametrize("status", [0, 3])
def test_the_scripts_exit_status(mpi: Mpi, status: int) -> None:
    script = f"import mpiframe\nwith mpiframe.Client():\n    pass\nraise SystemExit({status})"
    assert mpi.run("run", "-n", "2", mpi.script(script)).returncode == status


def test_a_dry_run_prints_a_command_that_works(mpi: Mpi) -> None:
    script = mpi.script(GOOD)
    dry = mpi.run("run", "-n", "3", "--dry-run", script)
    assert dry.returncode == 0
    assert "[42" not in dry.stdout
    done = subprocess.run(
        ["/bin/sh", "-c", dry.stdout],
        cwd=mpi.folder,
        env=os.environ | mpi.variables,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "[42, 42]" in done.stdout


def test_the_doctor(mpi: Mpi) -> None:
    done = mpi.run("doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "round trip" in done.stdout
    assert VENDORS.get(mpi.name, "") in done.stdout


def _await(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    """Wait until the ranks show, by files, that they are where the test wants them."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "the ranks did not get ready"
        try:
            process.wait(timeout=0.02)
        except subprocess.TimeoutExpired:
            continue
        out, err = process.communicate()
        pytest.fail(f"ended early with {process.returncode}:\n{out}\n{err}")


def _interrupted(mpi: Mpi, wait: str, number: int = signal.SIGINT, times: int = 1) -> tuple[int, str]:
    """Run `LONG`, signal it once its servers are at work; exit status and what was printed."""
    begin = time.monotonic()
    process = mpi.start("run", "-n", "3", mpi.script(LONG.replace("WAIT", wait)))
    _await(process, lambda: all((mpi.folder / f"busy{rank}").exists() for rank in (1, 2)))
    start = time.monotonic()
    for _ in range(times):
        process.send_signal(number)
        if times > 1:
            _await_or_end(process)
    out, err = process.communicate(timeout=SECONDS)
    seconds = time.monotonic() - start
    assert mpi.left() == []
    # Of what is done besides the waiting, to start took more: on a crowded machine that takes its time, too.
    assert seconds < 3.0 + (start - begin)
    return process.returncode, out + err


def _await_or_end(process: subprocess.Popen[str]) -> None:
    try:
        process.wait(timeout=0.3)  # a second press that is one, and not the first arriving twice
    except subprocess.TimeoutExpired:
        return


def test_ctrl_c_ends_all_within_three_seconds(mpi: Mpi) -> None:
    status, said = _interrupted(mpi, "client.get(client.push('None', target=1), block=True)")
    assert status == 130
    assert said.count("KeyboardInterrupt") >= 1


def test_ctrl_c_ends_a_script_that_does_not_listen(mpi: Mpi) -> None:
    wait = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(600)"
    assert _interrupted(mpi, wait)[0] == 130


def test_a_second_ctrl_c_does_not_wait(mpi: Mpi) -> None:
    wait = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(600)"
    assert _interrupted(mpi, wait, times=2)[0] == 130


def test_termination_ends_all(mpi: Mpi) -> None:
    assert _interrupted(mpi, "time.sleep(600)", signal.SIGTERM)[0] == 143


def test_the_client_tells_the_launcher_who_it_is(mpi: Mpi) -> None:
    script = mpi.script(
        "import os, pathlib, mpiframe\n"
        "with mpiframe.Client():\n"
        "    print(pathlib.Path(os.environ['MPIFRAME_RUN_DIR'], 'client').read_text(), os.getpid())"
    )
    done = mpi.run("run", "-n", "2", script)
    host, told, pid = done.stdout.split()
    assert (host, told) == (socket.gethostname(), pid)
