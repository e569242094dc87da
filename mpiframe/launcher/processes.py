"""The processes below this one, as the kernel lists them.

A launcher puts its ranks into process groups of their own, Hydra even into sessions of their own,
and a launcher that dies leaves them without a parent. So this process declares itself the one that
inherits orphans (Linux: "child subreaper"): all that was started remains below it, and can be
found. Where there is no /proc the lists are empty, and only the launcher's own process group is
reached.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Collection, Iterable, Iterator

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

if sys.platform == "linux":
    _libc = ctypes.CDLL(None, use_errno=True)

    def _prctl(option: int, value: int) -> None:
        _libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0))

else:

    def _prctl(option: int, value: int) -> None:
        """There is no such thing here."""


@contextlib.contextmanager
def adopting_orphans() -> Iterator[None]:
    """Within, descendants that lose their parent become children of this process."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    try:
        yield
    finally:
        _prctl(_PR_SET_CHILD_SUBREAPER, 0)


def end_with_parent() -> None:
    """Called in a new child: have the kernel send SIGTERM when the parent dies, even by SIGKILL."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def descendants(root: int, without: Collection[int] = (), *, dead: bool = False) -> set[int]:
    """Process ids of all that live below `root`, itself not included.

    Left out are zombies (but where the `dead` are asked for), the processes in `without`, and what is below
    those.
    """
    children: dict[int, list[int]] = {}
    zombies = set()
    for pid, parent, state in _table():
        children.setdefault(parent, []).append(pid)
        if state in "ZX":
            zombies.add(pid)
    found: set[int] = set()
    ahead = [root]
    while ahead:
        below = [pid for pid in children.get(ahead.pop(), ()) if pid not in without]
        found.update(below)
        ahead.extend(below)
    return found if dead else found - zombies


def children(parent: int) -> set[int]:
    """Process ids of the children of a process, but for zombies."""
    return {pid for pid, above, state in _table() if above == parent and state not in "ZX"}


def open_mpi_launcher() -> int:
    """The process id of Open MPI's launcher, or of its daemon on this host, for one of its ranks.

    0 if it is another MPI's, or something stands between it and us.
    """
    parent = os.getppid()
    with contextlib.suppress(OSError), open(f"/proc/{parent}/comm", encoding="utf-8") as comm:
        if comm.read().startswith("prte"):
            return parent
    return 0


def group_below(root: int) -> set[int]:
    """The descendants of a process that are in its own process group."""
    found = set()
    with contextlib.suppress(ProcessLookupError):
        group = os.getpgid(root)
        for pid in descendants(root):
            with contextlib.suppress(ProcessLookupError):
                if os.getpgid(pid) == group:
                    found.add(pid)
    return found


def was_given(pid: int, name: str, value: str) -> bool:
    """Whether a process of this user's was started with this variable in its environment."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as variables:
            return os.fsencode(f"{name}={value}") in variables.read().split(b"\0")
    except OSError:
        return False


def send(pids: Iterable[int], number: int) -> None:
    """Send a signal to each process that is still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def reap(keep: Collection[int]) -> None:
    """Collect what adopted children left when they ended, except for the children in `keep`."""
    me = os.getpid()
    for pid, parent, state in _table():
        if parent == me and state == "Z" and pid not in keep:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def _table() -> Iterator[tuple[int, int, str]]:
    """(process id, parent's id, state letter) of every process that can be seen."""
    try:
        names = os.listdir("/proc")
    except OSError:
        return
    for name in names:
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as stat:
                # The program's name is in brackets and may itself hold brackets and spaces.
                state, parent = stat.read().rpartition(")")[2].split()[:2]
        except (OSError, ValueError):
            continue  # it ended meanwhile
        yield int(name), int(parent), state
