"""Files of the correlator's host as commands of the DiFX plugin, and at the client files that come and go.

difx = client.plugin("difx", target=1, roots=["/data"])
difx.mkdir("/data/exp")
difx.send("/data/exp/exp.vex", from_file="exp.vex", progress=lambda done, total: ...)
text = difx.get("/data/exp/exp_1.input")
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from mpiframe.errors import MpiframeError
from mpiframe.plugins.base import Context, command
from mpiframe.plugins.difx.files import CHUNK_BYTES, Files, Progress
from mpiframe.plugins.difx.listing import Entry
from mpiframe.plugins.difx.replacing import replacing
from mpiframe.plugins.difx.uploads import Upload

_AT_ONCE = 8
_AHEAD = 4  # pieces under way at once: enough to hide the way there and back


class UploadError(MpiframeError, LookupError):
    """There is no such upload: it has ended, or the plugin was loaded anew."""


class FileCommands:
    """The plugin's `files_roots` says where files may lie; its `stop` has to call `files_close`."""

    context: Context
    _files: Files | None = None
    _pool: ThreadPoolExecutor | None = None
    _uploads: dict[int, Upload] | None = None

    def files_roots(self) -> list[str]:
        """The folders in which files may lie: the working directory."""
        return [os.getcwd()]

    @property
    def files(self) -> Files:
        """The files of this host that may be used. Raises PathRefused, OSError for a root."""
        if self._files is None:
            self._files = Files(self.files_roots())
            self._uploads, self._numbers = {}, itertools.count(1)
            self._uploads_lock = threading.Lock()
        return self._files

    @property
    def pool(self) -> ThreadPoolExecutor:
        """Threads for what takes long."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="difx")
        return self._pool

    @command
    def roots(self) -> list[str]:
        """The folders in which files may lie."""
        return self.files.roots

    @command
    def ls(self, path: str, options: str = "") -> list[str]:
        """What the command `ls` prints, a line for each entry: options -1 -a -A -d -l -r -S -t."""
        return self.files.ls_lines(path, options)

    @command
    def entries(self, path: str, hidden: bool = False) -> list[Entry]:
        """What is in a folder, or what matches, with sizes and times."""
        return self.files.ls(path, hidden=hidden)

    @command
    def mkdir(self, path: str) -> None:
        """Make a folder, and those above it that are missing."""
        self.files.mkdir(path)

    @command
    def rmdir(self, path: str) -> None:
        """Remove an empty folder."""
        self.files.rmdir(path)

    @command
    def rm(self, path: str, recursive: bool = False, missing_ok: bool = False) -> Future[list[str]]:
        """Remove files, or with `recursive` a folder with all in it; the paths that are gone."""
        return self.pool.submit(self.files.rm, path, recursive=recursive, missing_ok=missing_ok)

    @command
    def mv(self, path: str, to: str) -> Future[str]:
        """Rename, or move into a folder; the new path."""
        return self.pool.submit(self.files.mv, path, to)

    @command
    def cp(self, path: str, to: str, recursive: bool = False) -> Future[str]:
        """Copy a file, or with `recursive` a folder; the new path."""
        return self.pool.submit(self.files.cp, path, to, recursive=recursive)

    @command
    def touch(self, path: str) -> None:
        """Make an empty file, or set the time of the one that is there to now."""
        self.files.touch(path)

    @command
    def size(self, path: str) -> int:
        """Bytes of a file."""
        return self.files.size(path)

    @command
    def read(self, path: str, offset: int = 0, size: int = -1) -> bytes:
        """Bytes of a file, all from `offset` on by default; fewer than `size` at its end."""
        return self.files.read(path, offset, size)

    # -- written in steps; `DifxFiles.send` calls these -------------------------------------------

    @command
    def upload_begin(self, path: str) -> int:
        """Begin to write a file, which appears when it is committed; a number for the other steps."""
        made = self.files.upload(path)
        assert self._uploads is not None
        with self._uploads_lock:
            number = next(self._numbers)
            self._uploads[number] = made
        return number

    @command
    def upload_write(self, number: int, piece: bytes) -> int:
        """Append to it; how many bytes there are now."""
        upload = self._upload(number)
        upload.write(piece)
        return upload.size

    @command
    def upload_commit(self, number: int) -> int:
        """Put the file in its place; its size in bytes."""
        upload = self._upload(number)
        upload.commit()
        assert self._uploads is not None
        self._uploads.pop(number, None)
        return upload.size

    @command
    def upload_abort(self, number: int) -> None:
        """Drop what was written, if it is not committed."""
        upload = (self._uploads or {}).pop(number, None)
        if upload is not None:
            upload.abort()

    def files_close(self) -> None:
        """Drop what was not written to its end, and let go of the roots."""
        for number in list(self._uploads or ()):
            self.upload_abort(number)
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
        if self._files is not None:
            self._files.close()
        self._files = self._pool = None

    def _upload(self, number: int) -> Upload:
        found = (self._uploads or {}).get(number)
        if found is None:
            raise UploadError(f"there is no upload {number}: it has ended, or the plugin was loaded anew")
        return found


class DifxFiles:
    """What the client's side adds: whole files of any size, with progress. A mixin of the plugin's face."""

    _proxy: Any

    def get(
        self, path: str, to: str | os.PathLike[str] | None = None, *, progress: Progress | None = None
    ) -> bytes | int:
        """A file's content, or with `to` (a path here) its size in bytes, once it is there.

        progress: called with the bytes that have come and how many there are. Raises CommandError with the
        server's OSError as cause; EIO where the file was cut short meanwhile.
        """
        total = self._proxy.size(path)
        if to is None:
            return b"".join(self._pieces(path, total, progress))
        with replacing(to) as out:
            return sum(out.write(piece) for piece in self._pieces(path, total, progress))

    def send(
        self,
        path: str,
        content: bytes | Iterable[bytes] = b"",
        *,
        from_file: str | os.PathLike[str] | None = None,
        progress: Progress | None = None,
    ) -> int:
        """Write a file at the correlator; its size in bytes. It appears when all of it is there.

        content: bytes, or pieces of them; or from_file: a path here. progress: as for `get`.
        """
        if from_file is not None:
            with open(from_file, "rb") as file:
                pieces = iter(lambda: file.read(CHUNK_BYTES), b"")
                return self._send(path, pieces, os.fstat(file.fileno()).st_size, progress)
        if isinstance(content, str):
            raise TypeError("content is bytes; a text has to be encoded first")
        if isinstance(content, (bytes, bytearray, memoryview)):
            view = memoryview(content).cast("B")
            cut = (bytes(view[at : at + CHUNK_BYTES]) for at in range(0, len(view), CHUNK_BYTES))
            return self._send(path, cut, len(view), progress)
        return self._send(path, content, None, progress)

    def _send(self, path: str, pieces: Iterable[bytes], total: int | None, progress: Progress | None) -> int:
        number = self._proxy.upload_begin(path)
        under_way: list[Any] = []
        try:
            for piece in pieces:
                # A server takes them in the order in which they were sent.
                under_way.append(self._proxy.upload_write.submit(number, piece))
                if len(under_way) == _AHEAD:
                    _tell(progress, under_way.pop(0).result(), total)
            for one in under_way:
                _tell(progress, one.result(), total)
            return int(self._proxy.upload_commit(number))
        except BaseException:
            self._proxy.upload_abort.submit(number)
            raise

    def _pieces(self, path: str, total: int, progress: Progress | None) -> Iterable[bytes]:
        done = asked = 0
        under_way: list[Any] = []
        while done < total:
            while asked < total and len(under_way) < _AHEAD:
                size = min(CHUNK_BYTES, total - asked)
                under_way.append((size, self._proxy.read.submit(path, asked, size)))
                asked += size
            size, future = under_way.pop(0)
            piece = future.result()
            if len(piece) != size:
                raise OSError(5, f"the file was cut short at {done + len(piece)} of {total} bytes", path)
            done += size
            _tell(progress, done, total)
            yield piece


def _tell(progress: Progress | None, done: int, total: int | None) -> None:
    if progress is not None:
        progress(done, total)
