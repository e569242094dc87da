"""Which record an id leads to: lists in the user's state folder, a line for each job.

A line costs nothing, where a file for each job would cost as much as all the rest of a submission on a busy
disk. Each host has a list of its own: two that append to one over a network would write over each other's
lines.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator

from mpiframe.plugins.scheduler import files

MOST_BYTES = 8 << 20
"""How long a list may be, some 50,000 jobs; then it is put aside, and the one put aside before is gone."""

_LIST, _OLD = ".list", ".list.old"


class Entry:
    """A line that will be added. Raises OSError where it could not be."""

    def __init__(self, folder: str) -> None:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        path = os.path.join(folder, f"{socket.gethostname()}{_LIST}")
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._file = os.open(path, flags, 0o600)
        if os.fstat(self._file).st_size > MOST_BYTES:
            os.close(self._file)
            _put_aside(path)
            self._file = os.open(path, flags, 0o600)

    def add(self, number: str, record: str) -> None:
        """Have the id lead to this record. Raises OSError."""
        # The line break comes first: it also ends what a full disk has cut off.
        line = f"\n{json.dumps([number, record])}".encode()
        if os.write(self._file, line) != len(line):
            raise OSError("the disk is full")

    def close(self) -> None:
        """Add no more."""
        os.close(self._file)


def _put_aside(path: str) -> None:
    lock = os.open(f"{path}.lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):  # another process was here first,
            if os.path.getsize(path) > MOST_BYTES:  # and this one, or a third, has begun the next list
                os.replace(path, path.removesuffix(_LIST) + _OLD)
    finally:
        os.close(lock)


def records_of(folder: str, number: str) -> Iterator[str]:
    """The paths of records to which an id leads, of each host's list the last; they may be gone."""
    with contextlib.suppress(FileNotFoundError):
        names = [name for name in os.listdir(folder) if name.endswith((_LIST, _OLD))]
        for host in sorted({name.removesuffix(_OLD).removesuffix(_LIST) for name in names}):
            for ending in (_LIST, _OLD):  # in this order: the first may be put aside at this moment
                yield from _last(files.read_text(os.path.join(folder, host + ending)), number)


def _last(text: str, number: str) -> Iterator[str]:
    start = text.rfind(f"\n[{json.dumps(number)}, ")
    if start >= 0:
        line = text[start + 1 :].partition("\n")[0]
        with contextlib.suppress(ValueError):
            yield str(json.loads(line)[1])
