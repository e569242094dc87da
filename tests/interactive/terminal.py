"""A person at a terminal: a pseudo-terminal with a screen that can be read, and keys that can be pressed."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pexpect
import pyte

MARK = "MPIFRAME_TEST_MARK"
SECONDS = 40.0
UP, DOWN, RIGHT, LEFT, HOME, END = "\x1b[A", "\x1b[B", "\x1b[C", "\x1b[D", "\x01", "\x05"
CTRL_C, CTRL_D, CTRL_Z, CTRL_BACKSLASH, TAB, ENTER = "\x03", "\x04", "\x1a", "\x1c", "\t", "\r"
_ENDED = re.compile(r"ended with (\d+)\s*\Z")


class _Screen(pyte.HistoryScreen):
    """Answers where the cursor is, as a terminal does."""

    send: Callable[[str], Any] = staticmethod(lambda _: None)

    def write_process_input(self, data: str) -> None:
        self.send(data)


class Terminal:
    """Runs one command under a shell that notes the terminal's settings before and after it."""

    def __init__(
        self, words: list[str], folder: Path, env: dict[str, str], columns: int = 100, lines: int = 30
    ):
        self.folder = folder
        self._mark = f"{MARK}={folder}".encode()
        self.screen = _Screen(columns, lines, history=5000)
        self._stream = pyte.ByteStream(self.screen)
        script = (
            f"trap : INT QUIT; stty -a >before; stty -g >>before; {shlex.join(words)}; status=$?; "
            "stty -a >after; stty -g >>after; echo ended with $status; read rest"
        )
        (folder / "tmp").mkdir()
        env = env | {MARK: str(folder), "TERM": "xterm-256color", "HOME": str(folder)}
        self.child = pexpect.spawn(
            "/bin/sh",
            ["-c", script],
            cwd=str(folder),
            env=env | {"TMPDIR": str(folder / "tmp")},
            dimensions=(lines, columns),
            echo=True,
        )
        self.screen.send = self.child.send
        self.raw = b""

    # -- looking -----------------------------------------------------------------------------------

    @property
    def text(self) -> str:
        """All that was shown, that above the screen too, without the spaces at the ends."""
        above = ["".join(row[x].data for x in range(self.screen.columns)) for row in self.screen.history.top]
        return "\n".join(line.rstrip() for line in [*above, *self.screen.display]).rstrip()

    @property
    def line(self) -> str:
        """The line of the cursor."""
        return self.screen.display[self.screen.cursor.y].rstrip()

    def pump(self, seconds: float = 0.05) -> bool:
        """Take in what was written; whether there was anything, or may be."""
        try:
            data = self.child.read_nonblocking(1 << 16, seconds)
        except pexpect.TIMEOUT:
            return True
        except pexpect.EOF:
            return False
        self.raw += data
        self._stream.feed(data)
        return True

    def until(self, done: Callable[[], object], what: str = "", seconds: float = SECONDS) -> None:
        """Wait until this is so; fail, with the screen, if it does not come."""
        limit = time.monotonic() + seconds
        while not done():
            alive = self.pump()
            if not done() and (not alive or time.monotonic() > limit):
                raise AssertionError(f"never came: {what or done}\n{self.picture()}")

    def shows(self, words: str, times: int = 1, seconds: float = SECONDS) -> None:
        """Wait until these words were shown so often."""
        self.until(lambda: self.text.count(words) >= times, f"{words!r} x {times}", seconds)

    def picture(self) -> str:
        """The screen, framed, for a failure's report."""
        bar = "+" + "-" * self.screen.columns + "+"
        return "\n".join([bar, *(f"|{row}|" for row in self.text.split("\n")), bar])

    # -- typing ------------------------------------------------------------------------------------

    def type(self, keys: str) -> None:
        """Press keys."""
        self.child.send(keys)

    def enter(self, line: str) -> None:
        """Type a line, see it there, and press Enter."""
        for part in [line[i : i + 20] for i in range(0, len(line), 20)]:
            self.type(part)
        # A prompt that is being drawn takes no keys amiss: they wait in the terminal.
        end = line.rstrip()[-12:]
        self.until(lambda: end in self.line, f"{line!r} in the line")
        self.type(ENTER)

    def prompt(self, number: int, seconds: float = SECONDS) -> None:
        """Wait for the prompt with this number, with nothing typed."""
        self.until(lambda: self.line == f"In [{number}]:", f"prompt {number}", seconds)

    def resize(self, columns: int, lines: int) -> None:
        """Another size of the window."""
        self.screen.resize(lines, columns)
        self.child.setwinsize(lines, columns)

    # -- the end -----------------------------------------------------------------------------------

    def ended(self, seconds: float = SECONDS) -> int:
        """Wait for the command to end; its status. The terminal must be as it was, and nothing left."""
        self.until(lambda: _ENDED.search(self.text), "the end", seconds)
        status = int(_ENDED.findall(self.text)[0])
        before, after = ((self.folder / name).read_text() for name in ("before", "after"))
        # The size may have changed by intention.
        assert _settings(before) == _settings(after), (before, after)
        self.type("\r")
        self.until(lambda: not self.child.isalive(), "the end of the terminal", seconds)
        self.nothing_left()
        return status

    def hang_up(self) -> None:
        """Close the window."""
        self.child.ptyproc.fileobj.close()
        self.child.child_fd = self.child.ptyproc.fd = -1
        self.child.closed = self.child.ptyproc.closed = True

    def nothing_left(self, seconds: float = 15.0) -> None:
        """No process that was started here may be left, after a moment."""
        limit = time.monotonic() + seconds
        while (left := self.left()) and time.monotonic() < limit:
            time.sleep(0.01)
        assert not left, left

    def pids(self) -> dict[int, str]:
        """Processes that were started here, with their command lines."""
        found = {}
        for directory in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if self._mark in (directory / "environ").read_bytes().split(b"\0"):
                    found[int(directory.name)] = (directory / "cmdline").read_text().replace("\0", " ")
        return found

    def left(self) -> list[str]:
        """The command lines of those."""
        return [line for line in self.pids().values() if line]

    def client_pid(self) -> int:
        """The process of rank 0, which is the one that has the terminal."""
        found = []
        for pid, line in self.pids().items():
            with contextlib.suppress(OSError):
                if "-m mpiframe.shell" in line and os.readlink(f"/proc/{pid}/fd/0").startswith("/dev/pts"):
                    found.append(pid)
        assert len(found) == 1, (found, self.pids())
        return found[0]

    def kill(self) -> None:
        """End all that is left."""
        while found := self.pids():
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
        if not self.child.closed:
            self.child.close(force=True)


def _settings(text: str) -> str:
    lines = text.splitlines()
    return "\n".join([lines[0].partition("rows")[0], *lines[1:]])
