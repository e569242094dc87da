"""Bounds of memory for jobs of the local queue: a memory cgroup for each task that asks for some.

All processes of a task together may use what the job asked for; beyond it the kernel ends one of them, and
says so. Where this user may not make cgroups, memory is only counted: a limit on addresses (RLIMIT_AS,
RLIMIT_DATA) would also end jobs that reserve more than they use, as every program with threads does.
"""

from __future__ import annotations

import contextlib
import hashlib
import os

from mpiframe.plugins.scheduler import files

_TOP = "/sys/fs/cgroup"

# Makes itself a member, then becomes the job: nothing of the job runs unbounded.
_ENTER = 'echo $$ >"$1" && shift && exec "$@"'


class MemoryGroups:
    """The cgroups of one queue's tasks, by names that a queue after it finds again.

    parent: (the cgroup in which they are made, the version of cgroups); None looks for one. `usable` is False
    where there is none.
    """

    def __init__(self, folder: str, parent: tuple[str, int] | None = None) -> None:
        token = hashlib.sha256(os.path.abspath(folder).encode()).hexdigest()[:12]
        self._stem = f"mpiframe-{token}-"
        found = parent or _find(self._stem)
        self.usable = found is not None
        self._parent, self._version = found or ("", 0)
        self._left: set[str] = set()

    def argv(self, name: str, megabytes: int, argv: list[str]) -> list[str]:
        """The command that runs `argv` with no more memory than that; `argv` itself without a bound."""
        if not self.usable or not megabytes:
            return argv
        path = self._path(name)
        try:
            os.makedirs(path, exist_ok=True)
            limit = str(megabytes << 20)
            if self._version == 1:
                _write(path, "memory.limit_in_bytes", limit)
                with contextlib.suppress(OSError):  # there is no such file where swap is not counted
                    _write(path, "memory.memsw.limit_in_bytes", limit)
            else:
                _write(path, "memory.max", limit)
                with contextlib.suppress(OSError):
                    _write(path, "memory.swap.max", "0")
        except OSError:
            self.remove(name)
            return argv
        return ["/bin/bash", "-c", _ENTER, "job", os.path.join(path, "cgroup.procs"), *argv]

    def ran_out(self, name: str) -> bool:
        """Whether the kernel ended a process of this task for want of memory."""
        if not self.usable:
            return False
        file = "memory.oom_control" if self._version == 1 else "memory.events"
        with contextlib.suppress(OSError):
            lines = files.read_text(os.path.join(self._path(name), file)).splitlines()
            return any([line.startswith("oom_kill ") and line.split()[1] != "0" for line in lines])
        return False

    def remove(self, name: str) -> None:
        """Take a task's cgroup away; if something in it is still on its way out, at a later call."""
        self._left.add(name)
        for one in list(self._left):
            try:
                os.rmdir(self._path(one))
            except FileNotFoundError:
                pass
            except OSError:
                continue
            self._left.discard(one)

    def _path(self, name: str) -> str:
        return os.path.join(self._parent, self._stem + name)


def _find(stem: str) -> tuple[str, int] | None:
    """(a cgroup in which this user can bound memory, the version of cgroups); None if there is none."""
    for line in files.read_text("/proc/self/cgroup").splitlines():
        _, controllers, own = line.split(":", 2)
        if "memory" in controllers.split(","):
            candidates, version = [f"{_TOP}/memory{own}", f"{_TOP}/memory"], 1
        elif not controllers:
            # A cgroup with processes in it hands no controllers on, so ours are made beside it.
            candidates, version = [os.path.dirname(f"{_TOP}{own}")], 2
        else:
            continue
        for parent in candidates:
            trial = os.path.join(parent, f"{stem}trial")
            with contextlib.suppress(OSError):
                os.makedirs(trial, exist_ok=True)
                wanted = "memory.limit_in_bytes" if version == 1 else "memory.max"
                good = os.access(os.path.join(trial, wanted), os.W_OK)
                good = good and os.access(os.path.join(trial, "cgroup.procs"), os.W_OK)
                # For a process to be moved, its way there has to be this user's, too.
                good = good and (version == 1 or os.access(os.path.join(parent, "cgroup.procs"), os.W_OK))
                os.rmdir(trial)
                if good:
                    return parent, version
    return None


def _write(path: str, name: str, text: str) -> None:
    with open(os.path.join(path, name), "w", encoding="ascii") as file:
        file.write(text)
