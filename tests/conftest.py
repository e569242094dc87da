"""Starts worlds of real ranks, bounds them in time, and checks that nothing of them is left.

`MPIFRAME_TEST_PYTHONS` names the interpreters, each with its MPI: name=python[,VARIABLE=value]*;...
Without it, the interpreter that runs pytest is the only one, under the name "this".

The tests marked `long` run under `launch/test --faults` and `launch/test --long` only, and those of
tests/interactive under `launch/test --interactive`, too. Where they run, hypothesis looks for examples of its
own; else it tries the same ones each time, so that a run says something of the change and nothing of luck.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parent.parent
MARK = "MPIFRAME_TEST_MARK"
SECONDS = 60.0  # for one world of a script; a second or two as a rule
_MUCH = (  # time is given
    "MPIFRAME_TEST_LONG",
    "MPIFRAME_TEST_GRID",
    "MPIFRAME_TEST_SCHEDULERS",
    "MPIFRAME_TEST_INTERACTIVE",
)
# Folders and files that meet one MPI only where time is not given; under --faults, --long and so on all.
_ONE_MPI = {"plugins", "compat", "interactive", "test_promises.py", "test_journals.py"}
_LEAVE_SECONDS = 30.0  # for processes and folders to go, once the launcher has ended
_WORDS_SECONDS = 3.0  # for what ranks that hang say of it to come through their launcher

if "MPIFRAME_TEST_LONG" not in os.environ:
    # To start numpy's threads takes as long as to import numpy, and every rank of every test does.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

hypothesis.settings.register_profile(
    "mpiframe",
    deadline=None,  # how long an example takes is the machine's affair
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
    derandomize="MPIFRAME_TEST_LONG" not in os.environ,
)
hypothesis.settings.load_profile("mpiframe")


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell has what it starts in the background ignore Ctrl-C, and all that this starts inherits it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "long: only with MPIFRAME_TEST_LONG, which `launch/test --long` sets")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if os.environ.get("MPIFRAME_TEST_LONG") or "long" in config.option.markexpr:
        return
    long = [item for item in items if item.get_closest_marker("long") and not _has_time(item)]
    if long:
        items[:] = [item for item in items if item not in long]
        config.hook.pytest_deselected(items=long)


def _has_time(item: pytest.Item) -> bool:
    return bool(os.environ.get("MPIFRAME_TEST_INTERACTIVE")) and "interactive" in item.path.parts


@dataclass(frozen=True)
class Python:
    """An interpreter with an MPI."""

    name: str
    executable: str
    variables: tuple[tuple[str, str], ...] = ()

    @property
    def is_site(self) -> bool:
        """Whether its MPI is the distribution's own, of which a short test is enough."""
        return self.name.startswith("site")


def pythons() -> list[Python]:
    """The interpreters to test with."""
    found = []
    for item in filter(None, os.environ.get("MPIFRAME_TEST_PYTHONS", "").split(";")):
        name, _, rest = item.partition("=")
        executable, *variables = rest.split(",")
        pairs = tuple(tuple(variable.split("=", 1)) for variable in variables)
        found.append(Python(name, executable, pairs))  # type: ignore[arg-type]
    return found or [Python("this", sys.executable)]


@dataclass(frozen=True)
class Ended:
    """How a world ended, and what it said."""

    status: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def said(self) -> str:
        return self.stdout + self.stderr

    def expect(self, status: int) -> Ended:
        """Fail, with all that was said, if the exit status is another one."""
        assert self.status == status, f"exit status {self.status}, not {status}:\n{self.said}"
        return self


class WorldTimeout(AssertionError):
    """A world did not end in time; it was killed."""


class RunningWorld:
    """A world in a session of its own, whose processes all carry the same mark."""

    def __init__(self, argv: list[str], folder: Path, env: dict[str, str]) -> None:
        self.folder = folder
        self._mark = f"{MARK}={folder}".encode()
        self._rooms = _rooms()
        self._suspects: set[str] = set()
        self._start = time.monotonic()
        (folder / "tmp").mkdir(exist_ok=True)
        # Files, not pipes: a process that is left behind must not keep us reading.
        with open(folder / "stdout", "wb") as out, open(folder / "stderr", "wb") as err:
            self.process = subprocess.Popen(
                argv,
                cwd=folder,
                env=env | {MARK: str(folder), "TMPDIR": str(folder / "tmp"), "PYTHONFAULTHANDLER": "1"},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    def wait(self, seconds: float = SECONDS) -> Ended:
        """The end of the world; WorldTimeout if it does not come. Nothing may be left then."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            there = "\n".join(map(_describe, self.pids()))
            self._have_ranks_say_where_they_are()
            self.kill()
            raise WorldTimeout(f"not ended after {seconds} s:\n{there}\n{self.said()}") from None
        took = time.monotonic() - self._start
        # Those made from here on are other worlds', of tests that run beside this one.
        self._suspects = _rooms() - self._rooms
        try:
            left: list[str] = []

            def gone() -> bool:
                left[:] = self.left()
                return not left

            _await(gone, _LEAVE_SECONDS)
            assert not left, f"left behind: {left} by:\n{self.said()}"
        finally:
            self.kill()
        return Ended(self.process.returncode, self._text("stdout"), self._text("stderr"), took)

    def await_file(self, name: str, seconds: float = SECONDS) -> Path:
        """Wait for a file that the script makes in its folder."""
        path = self.folder / name
        _await(lambda: path.exists() or self.process.poll() is not None, seconds)
        if not path.exists():
            self.kill()
            raise WorldTimeout(f"{name} was not made:\n{self.said()}")
        return path

    def pids(self) -> list[int]:
        """The processes that carry the mark."""
        found = []
        for directory in Path("/proc").glob("[0-9]*"):
            try:
                if self._mark in (directory / "environ").read_bytes().split(b"\0"):
                    found.append(int(directory.name))
            except OSError:
                continue  # ended meanwhile, or not ours
        return found

    def left(self) -> list[str]:
        """Command lines of processes that are still there, and folders."""
        found = [path.name for path in (self.folder / "tmp").glob("mpiframe-*")]
        found += sorted(
            name for name in (_rooms() & self._suspects) - self._of_others() if self._may_own(name)
        )
        for pid in self.pids():
            with contextlib.suppress(OSError):
                found.append(Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " "))
        return found

    def _may_own(self, name: str) -> bool:
        """Not one that another `mpiframe run` has made, of which nothing but this folder may be left."""
        return name.startswith(("mpiframe-bell-", f"mpiframe-{self.process.pid}-"))

    def _of_others(self) -> set[str]:
        """The folders of worlds that run beside this one."""
        found = set()
        for directory in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                variables = (directory / "environ").read_bytes().split(b"\0")
                if self._mark not in variables:
                    named = [v for v in variables if v.startswith(b"MPIFRAME_RUN_DIR=")]
                    found.update(os.path.basename(v.decode()) for v in named)
        return found

    def _have_ranks_say_where_they_are(self) -> None:
        """Python's fault handler prints the stacks of all threads, whoever holds the GIL; the launcher passes
        them on, if it still does anything."""
        for pid in self.pids():
            with contextlib.suppress(OSError):
                variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                if any(v.startswith((b"PMIX_RANK=", b"PMI_RANK=")) for v in variables):
                    os.kill(pid, signal.SIGABRT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_WORDS_SECONDS)

    def kill(self) -> None:
        """End every process that carries the mark."""
        while found := self.pids():
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if self.process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(0.1)

    def crash(self) -> None:
        """`kill -9` of all, as a power cut: nobody is left to tidy up, and shared memory is gone."""
        shared, folders = set(), set()
        for pid in self.pids():
            with contextlib.suppress(OSError):
                variables = Path(f"/proc/{pid}/environ").read_text().split("\0")
                folders.update(v.partition("=")[2] for v in variables if v.startswith("MPIFRAME_RUN_DIR="))
                lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
                shared.update(line.split(None, 5)[5] for line in lines if " /dev/shm/" in line)
        self.kill()
        self.process.wait(SECONDS)
        for path in shared:
            Path(path).unlink(missing_ok=True)
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)

    def said(self) -> str:
        """What was printed so far."""
        return f"{self._text('stdout')}\n{self._text('stderr')}"

    def _text(self, name: str) -> str:
        return (self.folder / name).read_text(errors="replace")


def _describe(pid: int) -> str:
    """A process: its id, its parent's, its state and command, and where in the kernel its threads sleep."""
    with contextlib.suppress(OSError):
        process = Path(f"/proc/{pid}")
        state, parent = (process / "stat").read_text().rpartition(")")[2].split()[:2]
        command = (process / "cmdline").read_text().replace("\0", " ")
        sleeping = [(thread / "wchan").read_text() for thread in (process / "task").iterdir()]
        return f"{pid} of {parent} {state} {sleeping} {command[:300]}"
    return f"{pid} has ended"


def _rooms() -> set[str]:
    """The folders in which worlds keep their sockets while they open."""
    return {path.name for path in Path("/dev/shm").glob("mpiframe-*")}


def _await(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)


class Launcher:
    """Starts worlds of one Python, each in a folder of its own."""

    def __init__(self, python: Python, base: Path) -> None:
        self.python = python
        self._base = base
        self._worlds: list[RunningWorld] = []

    def start(
        self,
        script: str | list[str],
        ranks: int = 3,
        *,
        plain: bool = False,
        options: tuple[str, ...] = (),
        env: dict[str, str] | None = None,
    ) -> RunningWorld:
        """Start a world.

        script: the text of one, or the words of a command line (a script's path, or -m module ...).
        plain: by the MPI's own launcher, each rank running the script itself, as users do who know
        nothing of `mpiframe run`. One rank is started without a launcher.
        options: of `mpiframe run`.
        """
        folder = self._base / str(len(self._worlds))
        folder.mkdir()
        if isinstance(script, str):
            (folder / "script.py").write_text(textwrap.dedent(script))
            words = ["script.py"]
        else:
            words = script
        full = self._environment() | (env or {})
        if ranks == 1:
            argv = [self.python.executable, *([] if plain else ["-m", "mpiframe"]), *words]
        elif plain:
            argv = ["/bin/sh", "-c", "exec env " + self._command(ranks, words, full)]
        else:
            argv = [self.python.executable, "-m", "mpiframe", "run", "-n", str(ranks), *options, *words]
        world = RunningWorld(argv, folder, full)
        self._worlds.append(world)
        return world

    def run(
        self,
        script: str | list[str],
        ranks: int = 3,
        *,
        seconds: float = SECONDS,
        plain: bool = False,
        options: tuple[str, ...] = (),
        env: dict[str, str] | None = None,
    ) -> Ended:
        """`start`, and wait for the end."""
        return self.start(script, ranks, plain=plain, options=options, env=env).wait(seconds)

    def kill(self) -> None:
        """End what a test that failed has left running."""
        for world in self._worlds:
            world.kill()

    def _command(self, ranks: int, words: list[str], env: dict[str, str]) -> str:
        code = f"from mpiframe import launcher; print(launcher.plan({ranks}, {words!r}))"
        made = subprocess.run(
            [self.python.executable, "-c", code],
            env=env,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=True,
        )
        shlex.split(made.stdout)
        return made.stdout.strip()

    def _environment(self) -> dict[str, str]:
        env = {
            name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "MPIFRAME_"))
        }
        path = [str(ROOT), *filter(None, [env.get("PYTHONPATH")])]
        return env | {"PYTHONPATH": os.pathsep.join(path)} | dict(self.python.variables)


@contextlib.contextmanager
def launching(python: Python) -> Iterator[Launcher]:
    """A Launcher whose folders last as long as the block."""
    # Open MPI makes Unix sockets below TMPDIR, whose paths may have about a hundred letters:
    # pytest's own folders are too deep.
    with tempfile.TemporaryDirectory(prefix="mf-", dir="/tmp") as text:
        launcher = Launcher(python, Path(text).resolve())
        try:
            yield launcher
        finally:
            launcher.kill()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give `launcher` every Python with a full MPI; a site's are for tests that ask for them.

    What stands on the runtime, plugins and other systems' names, meets the first of them alone, but where
    much time is given: the runtime's own tests are what tells one MPI from another.
    """
    if "launcher" in metafunc.fixturenames:
        full = [python for python in pythons() if not python.is_site]
        if _ONE_MPI & set(metafunc.definition.path.parts) and not any(map(os.environ.get, _MUCH)):
            full = full[:1]
        metafunc.parametrize("launcher", full, indirect=True, ids=lambda python: python.name)


def each_python(metafunc: pytest.Metafunc) -> None:
    """A module's `pytest_generate_tests` where its tests take a `python`: each that is not the site's."""
    if "python" in metafunc.fixturenames:
        full = [python for python in pythons() if not python.is_site]
        metafunc.parametrize("python", full, ids=lambda python: python.name)


@pytest.fixture
def launcher(request: pytest.FixtureRequest) -> Iterator[Launcher]:
    """Starts worlds with one of the MPIs."""
    with launching(request.param) as found:
        yield found


@pytest.fixture(scope="session")
def launching_with() -> Callable[[Python], contextlib.AbstractContextManager[Launcher]]:
    """`launching`, for tests that choose their Python themselves."""
    return launching
