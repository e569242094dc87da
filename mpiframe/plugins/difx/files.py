"""The files of a correlator's head node, as `Files`: inside configured roots only, without a shell."""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType

from mpiframe.plugins.difx.listing import Entry, Options, entry_of
from mpiframe.plugins.difx.replacing import replacing
from mpiframe.plugins.difx.roots import PathRefused, Place, Roots, is_folder
from mpiframe.plugins.difx.uploads import Upload

CHUNK_BYTES = 1 << 20
"""How much of a file is moved at once."""

Progress = Callable[[int, int | None], object]
"""Called with the bytes moved so far, and with how many there are (None where nobody knows)."""

_DEPTH = 200  # each folder takes an open file while those in it are removed
_READ = os.O_RDONLY | os.O_NONBLOCK  # a pipe by this name must not hold us up


class Files:
    """Operations on files below the roots. Paths are absolute; of any thread, at any time.

    All raise PathRefused for a path outside of the roots, or through a link that leads out, and
    the OSErrors that the operating system has for the rest, with the path in them. `*`, `?` and `[]`
    are wildcards in `ls` and `rm` only.
    """

    def __init__(self, roots: Iterable[str | os.PathLike[str]]) -> None:
        """Files below these folders, which have to be there."""
        self._roots = Roots(roots)

    @property
    def roots(self) -> list[str]:
        """The folders that may be used."""
        return list(self._roots.paths)

    def close(self) -> None:
        """End the use of the roots."""
        self._roots.close()

    def __enter__(self) -> Files:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- looking --

    def ls(self, path: str, *, hidden: bool = False, folder_itself: bool = False) -> list[Entry]:
        """What is in a folder, or the file itself; the entries that match where there are wildcards.

        hidden: also names that begin with a dot. Sorted by path. [] for an empty folder and for
        wildcards that nothing matches.
        """
        if _is_pattern(path):
            return [self.stat(one) for one in self.glob(path)]
        with self._roots.place(path) as place:
            status = place.status()
            if folder_itself or not is_folder(status):
                return [entry_of(place, path, status)]
            found = []
            with _opened_folder(place) as handle:
                for name in sorted(os.listdir(handle)):
                    if hidden or not name.startswith("."):
                        inner = f"{path.rstrip('/')}/{name}"
                        with contextlib.suppress(FileNotFoundError):  # gone since
                            one = Place(handle, name, inner)
                            found.append(entry_of(one, inner, one.status()))
            return found

    def ls_lines(self, path: str, options: str = "") -> list[str]:
        """What the command `ls` prints, a line for each entry: options -1 -a -A -d -l -r -S -t.

        Raises ValueError for an option that there is not.
        """
        chosen = Options.parse(options)
        itself = "d" in chosen.letters
        if not _is_pattern(path):
            entries = self.ls(path, hidden=chosen.hidden, folder_itself=itself)
            single = itself or [one.path for one in entries] == [path]
            return chosen.lines(entries, paths=single, total=not single)
        found = self.ls(path)
        folders = [] if itself else [one for one in found if one.kind == "folder"]
        lines = chosen.lines([one for one in found if one not in folders], paths=True, total=False)
        for folder in chosen.sort(folders):
            lines += ["", f"{folder.path}:"] if lines or len(found) > 1 else []
            lines += chosen.lines(self.ls(folder.path, hidden=chosen.hidden), paths=False, total=True)
        return lines[1:] if lines[:1] == [""] else lines

    def stat(self, path: str) -> Entry:
        """What is at a path; a link is not followed."""
        with self._roots.place(path, follow=False) as place:
            return entry_of(place, path, place.status())

    def glob(self, pattern: str) -> list[str]:
        """The paths that match, sorted; a leading dot has to be written out."""
        # The components that are no patterns are walked with their successors: those of a root itself are
        # above what may be listed.
        found, fixed = ["/"], True
        before: list[str] = []
        for part in [one for one in pattern.split("/") if one]:
            if not _is_pattern(part):
                before.append(part)
                continue
            folders = [_joined(folder, *before) for folder in found]
            before = []
            found = [_joined(folder, name) for folder in folders for name in self._names(folder, part, fixed)]
            fixed = False
        return [path for one in found if self._is_there(path := _joined(one, *before), fixed)]

    def _names(self, folder: str, pattern: str, fixed: bool) -> list[str]:
        try:
            with self._roots.place(folder) as place, _opened_folder(place) as handle:
                names = os.listdir(handle)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except PathRefused:
            if fixed:  # and not one of many, which happens to be a link that leads out
                raise
            return []
        shown = [name for name in names if not name.startswith(".") or pattern.startswith(".")]
        return sorted(one for one in shown if fnmatch.fnmatchcase(one, pattern))

    def _is_there(self, path: str, fixed: bool) -> bool:
        try:
            self.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except PathRefused:
            if fixed:
                raise
            return False
        return True

    # -- changing --

    def mkdir(self, path: str) -> None:
        """Make a folder, and those above it that are missing; one that is there is none to make."""
        with self._roots.place(path, parents=True) as place:
            if not place.name:
                return
            try:
                with place.errors():
                    os.mkdir(place.name, dir_fd=place.folder)
            except FileExistsError:
                if not is_folder(place.status()):
                    raise

    def rmdir(self, path: str) -> None:
        """Remove an empty folder."""
        with self._changing(path) as place, place.errors():
            os.rmdir(place.name, dir_fd=place.folder)

    def rm(self, path: str, *, recursive: bool = False, missing_ok: bool = False) -> list[str]:
        """Remove a file or link, or with `recursive` a folder with all in it; the paths that are gone.

        A link is removed, never what it leads to. Raises FileNotFoundError where there is nothing to
        remove, unless `missing_ok`.
        """
        paths = self.glob(path) if _is_pattern(path) else [path]
        gone = []
        for one in paths:
            try:
                with self._changing(one) as place:
                    _remove(place, recursive, _DEPTH)
            except FileNotFoundError:
                if not missing_ok:
                    raise
            else:
                gone.append(one)
        if not paths and not missing_ok:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return gone

    def mv(self, path: str, to: str) -> str:
        """Rename, or move into the folder `to`; a file there is replaced. Returns the new path."""
        to = self._into(path, to)
        with self._changing(path) as source, self._changing(to) as target, source.errors():
            try:
                os.rename(source.name, target.name, src_dir_fd=source.folder, dst_dir_fd=target.folder)
                return to
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
        # On another file system: all of it has to be there before anything is removed.
        if (entry := self.stat(path)).kind == "link":
            self._link(to, entry.target)
        else:
            self.cp(path, to, recursive=True)
        self.rm(path, recursive=True)
        return to

    def cp(self, path: str, to: str, *, recursive: bool = False, progress: Progress | None = None) -> str:
        """Copy a file, or with `recursive` a folder, to `to` or into that folder. Returns the new path.

        Links in a folder are copied as links. Raises IsADirectoryError without `recursive`.
        """
        to = self._into(path, to)
        with self._roots.place(path) as source:
            status = source.status()
            if not is_folder(status):
                self._copy_file(source, to, progress)
                return to
            if not recursive:
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        self.mkdir(to)
        with self._roots.place(to) as made:
            status = made.status()
        self._copy_tree(path, to, (status.st_dev, status.st_ino), progress, _DEPTH)
        return to

    def _copy_tree(
        self, path: str, to: str, barred: tuple[int, int], progress: Progress | None, depth: int
    ) -> None:
        """Copy what is in a folder; `barred` is the copy itself, which may lie in what is copied."""
        if not depth:
            raise OSError(errno.ENAMETOOLONG, f"folders lie in each other more than {_DEPTH} deep", path)
        for entry in self.ls(path, hidden=True):
            target = f"{to.rstrip('/')}/{entry.name}"
            if entry.kind == "link":
                self._link(target, entry.target)
            elif entry.kind == "folder":
                with self._roots.place(entry.path, follow=False) as place:
                    status = place.status()
                if (status.st_dev, status.st_ino) != barred:
                    self.mkdir(target)
                    self._copy_tree(entry.path, target, barred, progress, depth - 1)
            else:
                with self._roots.place(entry.path, follow=False) as place:
                    self._copy_file(place, target, progress)

    def _link(self, path: str, target: str) -> None:
        with self._changing(path) as place, place.errors():
            os.symlink(target, place.name, dir_fd=place.folder)

    def touch(self, path: str) -> None:
        """Make an empty file, or set the time of the one that is there to now."""
        with self._roots.place(path) as place:
            if place.name:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NONBLOCK
                with contextlib.suppress(FileExistsError):
                    os.close(place.opened(flags))
                    return
            with place.errors():
                os.utime(place.name or ".", dir_fd=place.folder, follow_symlinks=False)

    # -- content --

    def read(self, path: str, offset: int = 0, size: int = -1) -> bytes:
        """Bytes of a file, all from `offset` on by default; fewer than `size` at its end."""
        with self._reading(path) as (handle, total):
            end = total if size < 0 else min(total, offset + size)
            pieces = []
            while offset < end and (piece := os.pread(handle, min(CHUNK_BYTES, end - offset), offset)):
                pieces.append(piece)
                offset += len(piece)
            return b"".join(pieces)

    def size(self, path: str) -> int:
        """Bytes of a file that can be read."""
        with self._reading(path) as (_, total):
            return total

    def chunks(
        self, path: str, *, size: int = CHUNK_BYTES, progress: Progress | None = None
    ) -> Iterator[bytes]:
        """The content of a file in pieces, up to the size that it had at the begin.

        Raises OSError (EIO) where the file was cut short meanwhile.
        """
        with self._reading(path) as (handle, total):
            yield from _pieces(handle, total, size, path, progress)

    def get(self, path: str, to: str | os.PathLike[str], *, progress: Progress | None = None) -> int:
        """Copy a file of the roots to the path `to` of the caller's own, anywhere; returns its size."""
        with replacing(to) as out:
            return sum(out.write(piece) for piece in self.chunks(path, progress=progress))

    def send(self, path: str, content: bytes | Iterable[bytes], *, progress: Progress | None = None) -> int:
        """Write a file, whose content comes in pieces of any size; returns how many bytes it has.

        The file appears when all of it is there; until then, and where this fails, what was there stays.
        """
        total: int | None = None
        pieces: Iterable[bytes | memoryview]
        if isinstance(content, (bytes, bytearray, memoryview)):
            view = memoryview(content).cast("B")
            total = len(view)
            pieces = (view[at : at + CHUNK_BYTES] for at in range(0, len(view), CHUNK_BYTES))
        else:
            pieces = content
        with self.upload(path) as upload:
            for piece in pieces:
                upload.write(piece)
                if progress is not None:
                    progress(upload.size, total)
            upload.commit()
            return upload.size

    def upload(self, path: str) -> Upload:
        """Begin to write a file in steps, as they arrive."""
        return Upload(self._roots, path)

    # -- within --

    @contextlib.contextmanager
    def _changing(self, path: str) -> Iterator[Place]:
        """A place that is an entry of a folder, and no root."""
        with self._roots.place(path, follow=False) as place:
            if not place.name:
                raise PathRefused(f"{path} is a folder that may be used, which has to stay, or ends in ..")
            yield place

    def _into(self, path: str, to: str) -> str:
        """Where something goes: into the folder `to`, if that is one."""
        with self._roots.place(to) as place:
            try:
                inside = is_folder(place.status())
            except FileNotFoundError:
                inside = False
        name = path.rstrip("/").rsplit("/", 1)[-1]
        return f"{to.rstrip('/')}/{name}" if inside else to

    @contextlib.contextmanager
    def _reading(self, path: str) -> Iterator[tuple[int, int]]:
        with self._roots.place(path) as place, _opened_file(place) as (handle, status):
            yield handle, status.st_size

    def _copy_file(self, source: Place, to: str, progress: Progress | None) -> None:
        with _opened_file(source) as (handle, status), self.upload(to) as upload:
            for piece in _pieces(handle, status.st_size, CHUNK_BYTES, source.path, progress):
                upload.write(piece)
            upload.commit(mode=stat.S_IMODE(status.st_mode) & 0o777)


def _pieces(handle: int, total: int, size: int, path: str, progress: Progress | None) -> Iterator[bytes]:
    done = 0
    while done < total:
        piece = os.pread(handle, min(size, total - done), done)
        if not piece:
            raise OSError(errno.EIO, f"the file was cut short at {done} of {total} bytes", path)
        done += len(piece)
        yield piece
        if progress is not None:
            progress(done, total)


@contextlib.contextmanager
def _opened_folder(place: Place) -> Iterator[int]:
    handle = place.opened(os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield handle
    finally:
        os.close(handle)


@contextlib.contextmanager
def _opened_file(place: Place) -> Iterator[tuple[int, os.stat_result]]:
    """A regular file, open for reading."""
    handle = place.opened(_READ)
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            kind = errno.EISDIR if is_folder(status) else errno.EINVAL
            raise OSError(kind, os.strerror(kind), place.path)
        yield handle, status
    finally:
        os.close(handle)


def _remove(place: Place, recursive: bool, depth: int) -> None:
    if not depth:
        raise OSError(errno.ENAMETOOLONG, f"folders lie in each other more than {_DEPTH} deep", place.path)
    with place.errors():
        if not recursive or not is_folder(place.status()):
            os.unlink(place.name, dir_fd=place.folder)
            return
        with _opened_folder(place) as handle:
            for name in os.listdir(handle):
                with contextlib.suppress(FileNotFoundError):  # another was quicker
                    _remove(Place(handle, name, f"{place.path}/{name}"), True, depth - 1)
        os.rmdir(place.name, dir_fd=place.folder)


def _is_pattern(path: str) -> bool:
    return any(sign in path for sign in "*?[")


def _joined(folder: str, *parts: str) -> str:
    return "/".join([folder.rstrip("/"), *parts]) or "/"
