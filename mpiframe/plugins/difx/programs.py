"""Programs of DiFX as they run: lines as they are said, an exit status, and an end with all they started."""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mpiframe.errors import MpiframeError

OnLine = Callable[[str, str], object]
"""Called with "stdout" or "stderr" and a line without its end."""

_LONGEST_LINE = 8192
_READ_BYTES = 1 << 16
_LEFT_OPEN_SECONDS = 1.0  # what others may still say through the pipes of a program that has ended
_KILLED_SECONDS = 2.0
_NOT_FOUND = 127


class ProgramError(MpiframeError):
    """A program cannot be run, or has failed; the text says which, and what it said."""


def _ignored(stream: str, line: str) -> None:
    pass


class Program:
    """A program in a session of its own. Its lines come in one thread, in the order in which they were read.

    code: its exit status, or minus the signal that ended it; None while it runs.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        folder: str | os.PathLike[str],
        environment: Mapping[str, str],
        on_line: OnLine = _ignored,
    ) -> None:
        """Start it. Raises ProgramError if that cannot be done."""
        self.arguments = list(arguments)
        self._on_line = on_line
        try:
            self._process = subprocess.Popen(
                self.arguments,
                cwd=folder,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise ProgramError(f"{self.arguments[0]} cannot be run: {error.strerror}") from error
        self.session = self._process.pid
        self._pidfd = os.pidfd_open(self._process.pid)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._listen, name=f"DiFX {self.name}", daemon=True)
        self._thread.start()

    @property
    def name(self) -> str:
        """The program's own name."""
        return os.path.basename(self.arguments[0])

    @property
    def code(self) -> int | None:
        """The exit status, once it has ended and all its lines were handed on."""
        return self._process.returncode if self._ended.is_set() else None

    def wait(self, seconds: float | None = None) -> int | None:
        """The exit status; None if it has not ended after so many seconds."""
        self._ended.wait(seconds)
        return self.code

    def signal(self, number: int) -> int:
        """Send a signal to what is left of it and of what it started on this host; to how many."""
        return signal_session(self.session, number)

    def end(self, seconds: float) -> bool:
        """SIGTERM, after so many seconds SIGKILL; whether all of it is gone then."""
        self.signal(signal.SIGTERM)
        self.wait(seconds)
        self.signal(signal.SIGKILL)
        self.wait(_KILLED_SECONDS)
        return not members(self.session)

    # -- in the thread --

    def _listen(self) -> None:
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        lines = {"stdout": _Lines("stdout", self._on_line), "stderr": _Lines("stderr", self._on_line)}
        try:
            with self._process.stdout, self._process.stderr, selectors.DefaultSelector() as selector:
                selector.register(self._process.stdout, selectors.EVENT_READ, lines["stdout"])
                selector.register(self._process.stderr, selectors.EVENT_READ, lines["stderr"])
                selector.register(self._pidfd, selectors.EVENT_READ)
                self._read(selector)
        finally:
            self._process.wait()
            os.close(self._pidfd)
            for one in lines.values():
                one.close()
            self._ended.set()

    def _read(self, selector: selectors.BaseSelector) -> None:
        deadline = None
        while selector.get_map():
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return
            for key, _ in selector.select(left):
                if key.data is None:  # it has ended
                    selector.unregister(key.fileobj)
                    deadline = time.monotonic() + _LEFT_OPEN_SECONDS
                elif data := os.read(key.fd, _READ_BYTES):
                    key.data.feed(data)
                else:
                    selector.unregister(key.fileobj)


class _Lines:
    """Cuts what was read into lines; one that is too long is several."""

    def __init__(self, stream: str, on_line: OnLine) -> None:
        self._stream, self._on_line = stream, on_line
        self._rest = b""

    def feed(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        while len(self._rest) > _LONGEST_LINE:
            lines.append(self._rest[:_LONGEST_LINE])
            self._rest = self._rest[_LONGEST_LINE:]
        for line in lines:
            self._on_line(self._stream, line.decode("utf-8", "replace").rstrip("\r"))

    def close(self) -> None:
        if self._rest:
            self.feed(b"\n")


def run(
    arguments: Sequence[str],
    *,
    folder: str | os.PathLike[str],
    environment: Mapping[str, str],
    seconds: float,
) -> tuple[int, list[str], list[str]]:
    """Run a program to its end: exit status, lines on stdout, lines on stderr.

    Raises ProgramError if it cannot be run, or has not ended after so many seconds.
    """
    said: dict[str, list[str]] = {"stdout": [], "stderr": []}
    program = Program(
        arguments,
        folder=folder,
        environment=environment,
        on_line=lambda stream, line: said[stream].append(line),
    )
    code = program.wait(seconds)
    if code is None:
        program.signal(signal.SIGKILL)
        program.wait(_KILLED_SECONDS)
        raise ProgramError(f"{program.name} has not ended after {seconds:g} s and was killed")
    return code, said["stdout"], said["stderr"]


def is_missing(code: int) -> bool:
    """Whether an exit status is the one by which a script says that it found no such program."""
    return code == _NOT_FOUND


# -- sessions -------------------------------------------------------------------------------------


def members(session: int) -> list[int]:
    """The processes of a session that still run; those that wait to be collected do not."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and _session(int(folder.name)) == session:
            found.append(int(folder.name))
    return found


def signal_session(session: int, number: int) -> int:
    """Send a signal to each process of a session; to how many. SIGKILL is sent until none is left."""
    count = 0
    deadline = time.monotonic() + _KILLED_SECONDS
    while found := members(session):
        with contextlib.ExitStack() as stack:
            poller = select.poll()
            for pid in found:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    handle = os.pidfd_open(pid)
                    stack.callback(os.close, handle)
                    if _session(pid) == session:  # and not another one with its number
                        signal.pidfd_send_signal(handle, number)
                        poller.register(handle, select.POLLIN)
                        count += 1
            left = deadline - time.monotonic()
            if number != signal.SIGKILL or left <= 0:
                break
            # Once more, when one of them is gone: what it started meanwhile was not among them.
            poller.poll(left * 1000)
    return count


def _session(pid: int) -> int | None:
    """The session of a process that runs."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="latin-1")
    except OSError:
        return None
    state, _, _, session = stat.rpartition(")")[2].split()[:4]
    return None if state in "ZX" else int(session)
