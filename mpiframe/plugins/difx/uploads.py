"""Files that are written in steps, as their content arrives."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import threading
from types import TracebackType

from mpiframe.plugins.difx.roots import Roots, is_folder


class Upload:
    """A file that is being written. In a `with` block what was not committed is dropped at its end."""

    def __init__(self, roots: Roots, path: str) -> None:
        self.path = path
        self.size = 0
        self._lock = threading.Lock()
        self._stack = contextlib.ExitStack()
        with contextlib.ExitStack() as stack:
            self._place = stack.enter_context(roots.place(path))
            with contextlib.suppress(FileNotFoundError):
                status = self._place.status()
                if not stat.S_ISREG(status.st_mode):
                    kind = errno.EISDIR if is_folder(status) else errno.EINVAL
                    raise OSError(kind, os.strerror(kind), path)
            # A short name of our own: what is added to a long one could be too long.
            self._scratch = f".mpiframe-{secrets.token_hex(8)}~"
            scratch = self._place._replace(name=self._scratch)
            self._handle = scratch.opened(os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            self._stack = stack.pop_all()

    def write(self, piece: bytes | memoryview) -> None:
        """Append. Raises OSError, as where the disk is full; ValueError after the end."""
        view = memoryview(piece)
        with self._lock, self._place.errors():
            self._check()
            while view:
                written = os.write(self._handle, view)
                self.size += written
                view = view[written:]

    def commit(self, *, mode: int | None = None) -> None:
        """Put the file in its place, with these permissions, or those of the file that it replaces."""
        with self._lock, self._place.errors():
            self._check()
            if mode is None:
                with contextlib.suppress(FileNotFoundError):
                    mode = stat.S_IMODE(self._place.status().st_mode) & 0o777
            if mode is not None:
                os.fchmod(self._handle, mode)
            folder = self._place.folder
            handle, self._handle = self._handle, -1
            try:
                os.close(handle)  # which on a network can be where a full disk is told
                os.rename(self._scratch, self._place.name, src_dir_fd=folder, dst_dir_fd=folder)
            except OSError:
                self._drop()
                raise
            self._stack.close()

    def abort(self) -> None:
        """Drop what was written. Does nothing after `commit`."""
        with self._lock:
            if self._handle >= 0:
                handle, self._handle = self._handle, -1
                with contextlib.suppress(OSError):
                    os.close(handle)
                self._drop()

    def _drop(self) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self._scratch, dir_fd=self._place.folder)
        self._stack.close()

    def _check(self) -> None:
        if self._handle < 0:
            raise ValueError(f"the writing of {self.path} has ended")

    def __enter__(self) -> Upload:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()
