"""What the local queue writes down, so that it can be killed and started again.

One line of JSON for each event: `env`, `submit`, `start`, `end`. It is read once, when a queue starts,
which then writes a new one without what has long ended.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

from mpiframe.plugins.scheduler import files

KEPT_JOBS = 10_000
"""How many of the jobs that have ended are still known after a restart of the queue."""


class Journal:
    """An append-only file of events; `commit` before anybody is told of one."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._pending: list[str] = []
        self._descriptor = -1

    def read(self) -> Iterator[dict[str, Any]]:
        """The events so far; a last line that was cut off by a crash is left out."""
        for line in files.read_text(self._path).splitlines(keepends=True):
            if line.endswith("\n"):
                try:
                    event = json.loads(line)
                except ValueError:
                    continue  # a crash, and lines after it
                if isinstance(event, dict):
                    yield event

    def restart(self, events: list[dict[str, Any]]) -> None:
        """Begin a new file with these events. Raises OSError."""
        text = "".join(json.dumps(event) + "\n" for event in events)
        files.replace(self._path, text.encode())
        self.close()
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def add(self, **event: Any) -> None:
        """Note an event."""
        self._pending.append(json.dumps(event) + "\n")

    def commit(self) -> None:
        """Have all events on file. Raises OSError."""
        if not self._pending:
            return
        data = "".join(self._pending).encode()
        while data:
            data = data[os.write(self._descriptor, data) :]
        self._pending.clear()

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def process_start(pid: int) -> int:
    """When a process began, in ticks since boot, which tells it from a later one with its number; 0: none."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return int(file.read().rpartition(")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return 0


def total_memory_mb() -> int:
    """The machine's memory, or the container's limit where that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = files.read_text(path).strip() if os.path.exists(path) else ""
        if text.isdigit():
            total = min(total, int(text))
    return total >> 20
