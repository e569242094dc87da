"""The processes of a job on its hosts: found, signalled, and shown to be gone.

On another host this is done by pgrep and pkill (of procps), which mpirun starts there, so whatever reaches
the hosts for a job reaches them for this.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mpiframe.plugins.difx.mpirun import Mpirun
from mpiframe.plugins.difx.programs import ProgramError, run

HERE = "localhost"
_AT_ONCE = 32
_SPECIAL = re.compile(r"([][\\.^$*+?(){}|])")


def pattern(program: str, input_file: str) -> str:
    """What finds, in command lines, a program that works on an input file, and not the search itself."""
    name, path = _SPECIAL.sub(r"\\\1", program), _SPECIAL.sub(r"\\\1", input_file)
    # A bracket around one sign matches this sign, but not the text of this pattern.
    return f"{name}( .*)? [{path[0]}]{path[1:]}( |$)"


def is_here(host: str) -> bool:
    """Whether a name stands for this host."""
    own = socket.gethostname()
    return host in ("localhost", "127.0.0.1", own, own.partition(".")[0])


def matching_here(found_by: str) -> list[int]:
    """The processes of this user on this host whose command line a pattern finds, but for this one."""
    wanted = re.compile(found_by)
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal() or int(folder.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if folder.stat().st_uid == os.getuid():
                words = (folder / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
                if wanted.search(b" ".join(words).decode("utf-8", "surrogateescape")):
                    found.append(int(folder.name))
    return found


def signal_here(found_by: str, number: int) -> None:
    """Send a signal to these processes."""
    for pid in matching_here(found_by):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            handle = os.pidfd_open(pid)
            try:
                if pid in matching_here(found_by):  # and not another one with its number
                    signal.pidfd_send_signal(handle, number)
            finally:
                os.close(handle)


@dataclass(frozen=True)
class HostState:
    """What is left of a job on a host. left: how many processes, None if that could not be found out."""

    host: str
    left: int | None
    error: str = ""

    @property
    def gone(self) -> bool:
        """Whether it was seen that nothing is left."""
        return self.left == 0

    def __str__(self) -> str:
        if self.left is None:
            return f"{self.host}: not known ({self.error})"
        return f"{self.host}: {'gone' if self.gone else f'{self.left} processes left'}"


class JobHosts:
    """The hosts of a job, as far as processes of one user that match a pattern are concerned."""

    def __init__(
        self, hosts: Sequence[str], found_by: str, mpirun: Mpirun, environment: Mapping[str, str]
    ) -> None:
        self.hosts = list(dict.fromkeys(HERE if is_here(host) else host for host in hosts))
        self._pattern, self._mpirun, self._environment = found_by, mpirun, environment

    def signal(self, number: int, seconds: float) -> None:
        """Send a signal to them all. What cannot be reached is told by `look`."""
        name = signal.Signals(number).name.removeprefix("SIG")
        self._each(
            lambda host: (
                signal_here(self._pattern, number)
                if host == HERE
                else self._run(host, ["pkill", f"-{name}", *self._whose()], seconds)
            )
        )

    def look(self, seconds: float) -> list[HostState]:
        """What is left on each host."""
        return self._each(lambda host: self._look(host, seconds))

    def _look(self, host: str, seconds: float) -> HostState:
        if host == HERE:
            return HostState(host, len(matching_here(self._pattern)))
        code, out, err = self._run(host, ["pgrep", "-c", *self._whose()], seconds)
        # An exit status could be mpirun's own; that it counted says that it ran.
        counts = [line.strip() for line in out if line.strip().isdecimal()]
        if len(counts) == 1:
            return HostState(host, int(counts[0]))
        said = " ".join(line.strip() for line in err if line.strip("- \t"))
        return HostState(host, None, said[:300] or f"pgrep ended with {code}")

    def _whose(self) -> list[str]:
        return ["-u", str(os.getuid()), "-f", "--", self._pattern]

    def _run(self, host: str, words: list[str], seconds: float) -> tuple[int, list[str], list[str]]:
        try:
            return run(
                self._mpirun.on(host, words),
                folder="/",
                environment=self._environment,
                seconds=max(seconds, 0.1),
            )
        except ProgramError as error:
            return -1, [], [str(error)]

    def _each(self, function: Callable[[str], object]) -> list:  # type: ignore[type-arg]
        with ThreadPoolExecutor(min(_AT_ONCE, len(self.hosts)), thread_name_prefix="DiFX hosts") as pool:
            return list(pool.map(function, self.hosts))
