"""One job's commands in one shell, as a resource of MiG runs them: `cd` and variables last from line to line.

The lines are data: the shell reads them one by one from a file and evaluates them, so no line can break out
of its place, and each has an exit status of its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

KILL_SECONDS = 2.0
"""How long a job that is to end has from SIGTERM to SIGKILL."""

# Not a loop and not a function: `break` and `declare` in a line mean what they would in a script. It begins
# once it is told that it is known who has to be ended, and never if its keeper is killed before that.
_BEGIN = """IFS= read -r __mig_line || exit 125
exec </dev/null 8<"$1" 9>"$2" || exit 125
set --
__mig_status=0
"""
_STEP = """IFS= read -r __mig_line <&8
(exit $__mig_status)
eval "$__mig_line" 8<&- 9>&-
__mig_status=$?
printf '%s\\n' "$__mig_status" >&9
"""
_END = 'exit "$__mig_status"\n'


@dataclass(frozen=True, slots=True)
class Spec:
    """What a job needs to run, besides its folder.

    lines: commands. environment: variables besides the inherited ones. urls: (address, destination,
    whether it is a program) of files to fetch. outputs: (source in the folder, destination).
    seconds: how long it may take, None for ever.
    """

    id: str
    lines: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    urls: tuple[tuple[str, str, bool], ...]
    outputs: tuple[tuple[str, str], ...]
    seconds: float | None

    def to_json(self) -> str:
        """As text, for another process."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Spec:
        """What `to_json` made."""
        values: dict[str, Any] = json.loads(text)
        for name in ("lines", "environment", "urls", "outputs"):
            values[name] = tuple(tuple(v) if isinstance(v, list) else v for v in values[name])
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Ended:
    """How the shell ended: a reason where it did not end well, and each line's exit status."""

    reason: str
    statuses: tuple[int, ...]


class Stopped(Exception):
    """Somebody wants the job to end."""


def run(
    spec: Spec,
    folder: str,
    out: int,
    err: int,
    stop: Sequence[int],
    started: Callable[[int], None],
) -> Ended:
    """Run the commands in `folder/exec`; `out` and `err` are open files, `started` is told the shell's pid.

    Anything to read on one of `stop` ends the whole process group and raises Stopped. Raises OSError where
    there is no shell.
    """
    lines, statuses = os.path.join(folder, "lines"), os.path.join(folder, "statuses")
    with open(lines, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.writelines(f"{line}\n" for line in spec.lines)
    shell = shutil.which("bash") or "/bin/sh"
    process = subprocess.Popen(
        [shell, "-c", _BEGIN + _STEP * len(spec.lines) + _END, "mig-job", lines, statuses],
        cwd=os.path.join(folder, "exec"),
        env={**os.environ, **dict(spec.environment)},
        stdin=subprocess.PIPE,
        stdout=out,
        stderr=err,
        start_new_session=True,
    )
    assert process.stdin is not None
    try:
        started(process.pid)
        with contextlib.suppress(BrokenPipeError), process.stdin:  # it may have been ended already
            process.stdin.write(b"\n")
        late = _await(process.pid, spec.seconds, stop)
    finally:
        _signal(process.pid, signal.SIGKILL)  # what it left behind ends with it; its leader is not reaped yet
        code = process.wait()
    codes = _read_statuses(statuses)
    if late:
        return Ended(f"it ran for longer than its CPUTIME of {spec.seconds:g} s, and was ended", codes)
    return Ended(_reason(spec.lines, codes, code), codes)


def _await(pid: int, seconds: float | None, stop: Sequence[int]) -> bool:
    """Until the shell ends, by itself or by force; whether its time was over."""
    pidfd = os.pidfd_open(pid)
    try:
        ready, _, _ = select.select([pidfd, *stop], [], [], seconds)
        if pidfd in ready:
            return False
        _signal(pid, signal.SIGTERM)
        if not select.select([pidfd], [], [], KILL_SECONDS)[0]:
            _signal(pid, signal.SIGKILL)
            select.select([pidfd], [], [])
        if ready:
            raise Stopped
        return True
    finally:
        os.close(pidfd)


def _signal(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        pass


def _read_statuses(path: str) -> tuple[int, ...]:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return tuple(int(line) for line in file.read().split("\n")[:-1] if line.isdigit())
    except OSError:
        return ()  # the shell could not even open it


def _reason(lines: Sequence[str], codes: Sequence[int], code: int) -> str:
    """Why a job that has ended did not end well; "" if it did."""
    for number, (line, status) in enumerate(zip(lines, codes, strict=False), 1):
        if status:
            return f"line {number} ({_short(line)}) ended with exit status {status}"
    if code < 0:
        return f"its shell was ended by {signal.Signals(-code).name}"
    if code:
        where = f" in line {len(codes) + 1} ({_short(lines[len(codes)])})" if len(codes) < len(lines) else ""
        return f"its shell ended with exit status {code}{where}"
    return ""


def _short(line: str) -> str:
    return line if len(line) <= 60 else f"{line[:57]}..."


def status_text(lines: Sequence[str], codes: Sequence[int]) -> str:
    """The text of JOBID.status: each line that ran, with its exit status."""
    return "".join(f"{line} {code}\n" for line, code in zip(lines, codes, strict=False))


def now() -> float:
    """Seconds since the epoch; one place, so that records agree."""
    return time.time()
