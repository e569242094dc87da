"""Waking up when files grow: the kernel's inotify, where it can tell."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterable

_MODIFY, _CREATE, _MOVED_TO = 0x2, 0x100, 0x80


class FileEvents:
    """`fd` is readable when one of these files may have grown, or come into being; -1 without inotify.

    Of a file on another host's disk, or of one that another host writes, the kernel hears nothing: who
    waits has to look now and then all the same.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self._paths = list(paths)
        self._libc = ctypes.CDLL(None, use_errno=True)
        try:
            self.fd = int(self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        except AttributeError:  # not Linux
            self.fd = -1
        for folder in {os.path.dirname(path) for path in self._paths}:
            self._add(folder, _CREATE | _MOVED_TO)
        self.renew()

    def renew(self) -> None:
        """Watch those files that have come into being; forget what has been told."""
        if self.fd < 0:
            return
        # Watched first: what happens in between is told, and looked at once too often.
        for path in self._paths:
            self._add(path, _MODIFY)
        with contextlib.suppress(BlockingIOError):
            while os.read(self.fd, 65536):
                pass

    def close(self) -> None:
        """Watch no longer."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _add(self, path: str, mask: int) -> None:
        # It fails for a file that is not there yet, and where the user has too many watches: then a look
        # now and then has to do.
        if self.fd >= 0:
            self._libc.inotify_add_watch(self.fd, os.fsencode(path), ctypes.c_uint32(mask))
