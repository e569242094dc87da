"""Worlds in the background, for tests: `mpiframe ...` as from a shell, bounded, with nothing left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import MARK, Launcher

SECONDS = 60.0
_LEAVE_SECONDS = 30.0


@dataclass(frozen=True)
class Said:
    """What a command said, and how it ended."""

    status: int
    out: str
    err: str

    def expect(self, status: int) -> Said:
        assert self.status == status, f"status {self.status}, not {status}:\n{self.out}\n{self.err}"
        return self


class Desk:
    """A user's shell: worlds that are started here are found here, and nowhere else."""

    def __init__(self, launcher: Launcher, folder: Path) -> None:
        self.python = launcher.python.executable
        self.folder = folder
        self.worlds = folder / "worlds"
        (folder / "tmp").mkdir()
        self.env = launcher._environment() | {
            "MPIFRAME_WORLDS": str(self.worlds), "TMPDIR": str(folder / "tmp"), "HOME": str(folder),
            MARK: str(folder), "PYTHONFAULTHANDLER": "1",
        }  # fmt: skip

    @contextlib.contextmanager
    def running(self, *words: str) -> Iterator[subprocess.Popen[str]]:
        """`python ...`, which is killed where the test does not end it."""
        process = subprocess.Popen(
            [self.python, *words],
            cwd=self.folder, env=self.env, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    def run(self, *words: str, columns: int = 80, feed: str = "", seconds: float = SECONDS) -> Said:
        """`python ...`, to its end."""
        done = subprocess.run(
            [self.python, *words],
            cwd=self.folder, env=self.env | {"COLUMNS": str(columns)}, text=True, capture_output=True,
            input=feed, timeout=seconds, check=False,
        )  # fmt: skip
        return Said(done.returncode, done.stdout, done.stderr)

    def mpiframe(self, *words: str, columns: int = 80, feed: str = "") -> Said:
        return self.run("-m", "mpiframe", *words, columns=columns, feed=feed)

    def script(self, text: str, *words: str) -> Said:
        """A Python script that imports mpiframe: it does not need to say so."""
        return self.run("-c", f"import os, signal, time, mpiframe\n{text}", *words)

    def pids(self, word: str = "") -> list[int]:
        """The processes that come from here, those with this word in their command line."""
        mark, found = f"{MARK}={self.folder}".encode(), []
        for directory in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (directory / "environ").read_bytes().split(b"\0"):
                    if word.encode() in (directory / "cmdline").read_bytes():
                        found.append(int(directory.name))
        return found

    def kill(self, word: str = "") -> None:
        """`kill -9` of those."""
        while pids := self.pids(word):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)

    def left(self) -> list[str]:
        """Whatever a world has left: processes, folders, sockets, shared memory."""
        found = [str(path) for path in (self.folder / "tmp").glob("mpiframe-*")]
        found += [str(path) for path in self.worlds.glob("*") if path.name != ".lock"]
        for pid in self.pids():
            with contextlib.suppress(OSError):
                found.append(Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " "))
        return found

    def expect_nothing_left(self) -> None:
        await_that(lambda: not self.left(), _LEAVE_SECONDS)
        assert self.left() == []


def await_that(condition: Callable[[], bool], seconds: float = SECONDS) -> None:
    """Wait until it is so, or the time is over."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)


@contextlib.contextmanager
def desk_of(launcher: Launcher) -> Iterator[Desk]:
    """A desk whose processes are gone at the end, whatever the test did."""
    folder = launcher._base / "desk"
    folder.mkdir()
    shared = set(Path("/dev/shm").iterdir())
    desk = Desk(launcher, folder)

    def left() -> set[Path]:
        return {path for name in ("mpiframe-*", "sm_segment.*") for path in Path("/dev/shm").glob(name)}

    try:
        yield desk
        await_that(lambda: left() <= shared, _LEAVE_SECONDS)
        assert left() <= shared, f"left in shared memory: {left() - shared}"
    finally:
        desk.kill()
