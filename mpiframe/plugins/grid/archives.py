"""Archives: made of a folder, and unpacked so that nothing lands elsewhere, nor more than was allowed.

Unpacked are files, folders and links that stay inside. Whatever else there is, or a path that leaves the
folder, refuses the whole archive: nothing of it is left. Written here rather than with `tarfile`'s filters,
which older Pythons do not have, and which bound no size.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import posixpath
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass
from typing import IO, Any

from mpiframe.plugins.grid.storage_errors import AlreadyThere, ArchiveError, SandboxEmpty, of_disk

MAX_BYTES = 20 << 30
MAX_FILES = 200_000
_CHUNK = 1 << 20
_LARGEST_HEADER = 1 << 20
"""No part of an archive but the content of files is larger: names, say."""
_DAMAGED = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, UnicodeDecodeError,
    NotImplementedError, RuntimeError, ValueError, OverflowError,
)  # fmt: skip
_OPENERS: dict[str, Callable[[IO[bytes]], Any]] = {
    "tar": lambda file: file,
    "tar.gz": lambda file: gzip.GzipFile(fileobj=file),
    "tar.bz2": bz2.BZ2File,
    "tar.xz": lzma.LZMAFile,
}


def kind_of(path: str | os.PathLike[str]) -> str:
    """tar, tar.gz, tar.bz2, tar.xz or zip, as the content says, whatever the name.

    Raises SandboxEmpty for no bytes, ArchiveError for what is none of these, NoSuchFile.
    """
    name = os.fspath(path)
    try:
        with open(name, "rb") as file:
            head = file.read(512)
    except OSError as error:
        raise of_disk(error, name) from None
    if not head:
        raise SandboxEmpty(f"{name} is empty (0 bytes)")
    for magic, kind in (
        (b"\x1f\x8b", "tar.gz"),
        (b"BZh", "tar.bz2"),
        (b"\xfd7zXZ\0", "tar.xz"),
        (b"PK\x03\x04", "zip"),
        (b"PK\x05\x06", "zip"),
    ):
        if head.startswith(magic):
            return kind
    if head[257:262] == b"ustar" or _is_old_tar(head):
        return "tar"
    start = head[:40].decode("ascii", errors="replace").split("\n")[0]
    raise ArchiveError(f"{name} is no tar, tar.gz, tar.bz2, tar.xz or zip: it begins with {start!r}")


def extract(
    path: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    max_bytes: int = MAX_BYTES,
    max_files: int = MAX_FILES,
) -> list[str]:
    """Unpack an archive into a folder that is new or empty; the names of its files.

    max_bytes: of all it holds, unpacked. Files keep their contents and whether they can be executed; they
    belong to who unpacks them. Raises ArchiveError (SandboxEmpty) for an archive that is damaged, too
    large, or would leave the folder; AlreadyThere; DiskFull. Then nothing has been unpacked.
    """
    name, target = os.fspath(path), os.path.abspath(os.fspath(folder))
    kind = kind_of(name)
    if os.path.lexists(target) and (not os.path.isdir(target) or os.listdir(target)):
        raise AlreadyThere(f"{target} is there already, and not empty")
    parent = os.path.dirname(target)
    made = ""
    try:
        os.makedirs(parent, exist_ok=True)
        made = tempfile.mkdtemp(prefix=".unpack-", dir=parent)
        os.chmod(made, 0o755)
        unpacking = _Unpacking(name, made, max_bytes, max_files)
        members = _zip_members(name) if kind == "zip" else _tar_members(name, kind, max_bytes, max_files)
        with closing(members):
            for member in members:
                unpacking.take(member)
        unpacking.link()
        if os.path.isdir(target):
            os.rmdir(target)
        os.rename(made, target)
    except ArchiveError:
        raise
    except OSError as error:
        if isinstance(error, (gzip.BadGzipFile, zipfile.BadZipFile)) or error.errno is None:
            raise ArchiveError(f"{name} is damaged: {error}") from None
        raise of_disk(error, error.filename or target) from None
    except _DAMAGED as error:
        raise ArchiveError(f"{name} is damaged: {error or type(error).__name__}") from None
    finally:
        if made:
            shutil.rmtree(made, ignore_errors=True)
    return sorted(unpacking.files)


def pack(folder: str, path: str, *, modified: int = 0, leave_out: Iterable[str] = (".git",)) -> list[str]:
    """Make a tar, not compressed, of what is in a folder; its names, in order.

    The same content makes the same bytes: owners are left out, all times are `modified`. Raises
    ArchiveError for a link that leaves the folder, or what is neither file nor folder; DiskFull.
    """
    out = set(leave_out)
    names = []
    for base, folders, files in os.walk(folder):
        folders[:] = sorted(one for one in folders if one not in out)
        names += [
            os.path.relpath(os.path.join(base, one), folder) for one in [*folders, *files] if one not in out
        ]
    part = f"{path}.part"
    try:
        with tarfile.open(part, "w", format=tarfile.PAX_FORMAT) as tar:
            for name in sorted(names):
                info = tar.gettarinfo(os.path.join(folder, name), name)
                if info.issym():
                    _check_link(name, info.linkname, folder)
                elif info.islnk():  # a second name of a file that is in it already
                    info.type, info.linkname = tarfile.REGTYPE, ""
                    info.size = os.path.getsize(os.path.join(folder, name))
                if not (info.isfile() or info.isdir() or info.issym()):
                    raise ArchiveError(f"{name} in {folder} is neither a file nor a folder")
                info.uid = info.gid = 0
                info.uname = info.gname = ""
                info.mtime = modified
                info.mode = 0o755 if info.isdir() or info.mode & 0o100 else 0o644
                if info.isfile():
                    with open(os.path.join(folder, name), "rb") as file:
                        tar.addfile(info, file)
                else:
                    tar.addfile(info)
        os.replace(part, path)
    except OSError as error:
        raise of_disk(error, path) from None
    finally:
        if os.path.exists(part):
            os.unlink(part)
    return sorted(names)


@dataclass(frozen=True)
class _Member:
    """One entry. kind: file, folder, link (symbolic), same (another name of a file before it), else odd."""

    name: str
    kind: str
    mode: int = 0o644
    link: str = ""
    open: Callable[[], IO[bytes] | None] = lambda: None


class _Unpacking:
    """Takes members of an archive into a folder. Links are made last: no file is written through one."""

    def __init__(self, archive: str, folder: str, max_bytes: int, max_files: int) -> None:
        self.files: set[str] = set()
        self._archive = archive
        self._folder = folder
        self._left = max_bytes
        self._max_bytes = max_bytes
        self._max_files = max_files
        self._count = 0
        self._folders: set[str] = set()
        self._links: dict[str, str] = {}

    def take(self, member: _Member) -> None:
        self._count += 1
        if self._count > self._max_files:
            raise ArchiveError(f"{self._archive} holds more than {self._max_files} files")
        name = self._clean(member.name)
        if member.kind == "folder":
            self._make_folder(name)
            return
        if not name:
            raise ArchiveError(f"{self._archive} holds a file without a name")
        self._make_folder(posixpath.dirname(name))
        if name in self._folders:
            raise ArchiveError(f"{self._archive} holds {name!r} as a folder and as a file")
        if member.kind not in ("file", "link", "same"):
            raise ArchiveError(
                f"{self._archive} holds {name!r}, which is neither a file nor a folder: {member.kind}"
            )
        self._forget(name)  # the last of the same name counts
        if member.kind == "link":
            _check_link(name, member.link, self._archive)
            self._links[name] = member.link
            return
        if member.kind == "same":
            source = self._clean(member.link)
            if source not in self.files:
                raise ArchiveError(
                    f"{self._archive}: {name!r} is a link to {member.link!r}, no file before it"
                )
            os.link(os.path.join(self._folder, source), os.path.join(self._folder, name))
        else:
            self._write(name, member)
        self.files.add(name)

    def link(self) -> None:
        """Make the symbolic links."""
        for name, link in self._links.items():
            path = os.path.join(self._folder, name)
            if os.path.lexists(path):
                raise ArchiveError(f"{self._archive} holds {name!r} twice, once as a link")
            os.symlink(link, path)
            self.files.add(name)

    def _write(self, name: str, member: _Member) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        mode = 0o755 if member.mode & 0o100 else 0o644
        source = member.open()
        if source is None:
            raise ArchiveError(f"{self._archive}: {name!r} has no content")
        with source, os.fdopen(os.open(os.path.join(self._folder, name), flags, mode), "wb") as file:
            while data := source.read(_CHUNK):
                self._left -= len(data)
                if self._left < 0:
                    raise ArchiveError(f"{self._archive} holds more than {self._max_bytes} bytes")
                file.write(data)

    def _forget(self, name: str) -> None:
        self._links.pop(name, None)
        if name in self.files:
            self.files.discard(name)
            os.unlink(os.path.join(self._folder, name))

    def _make_folder(self, name: str) -> None:
        path = ""
        for part in name.split("/") if name else []:
            path = posixpath.join(path, part)
            if path in self._links or path in self.files:
                raise ArchiveError(f"{self._archive} holds {path!r} as a folder and as something else")
            if path not in self._folders:
                os.mkdir(os.path.join(self._folder, path))
                self._folders.add(path)

    def _clean(self, name: str) -> str:
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if name.startswith("/") or ".." in parts or "\0" in name:
            raise ArchiveError(f"{self._archive} holds {name!r}, which leads out of the folder")
        return "/".join(parts)


def _check_link(name: str, link: str, where: str) -> None:
    """A symbolic link may go up only at its beginning, and not above the folder.

    So each leads to a place inside by itself, whatever the others do.
    """
    parts = [part for part in link.split("/") if part not in ("", ".")]
    up = len(parts)
    for index, part in enumerate(parts):
        if part != "..":
            up = index
            break
    depth = len([part for part in posixpath.dirname(name).split("/") if part not in ("", ".")])
    if link.startswith("/") or up > depth or ".." in parts[up:]:
        raise ArchiveError(
            f"{where}: the link {name!r} leads to {link!r}, which may be outside of the folder"
        )


class _Bounded:
    """A file that is unpacked as it is read: no further than a bound, and not in one gulp."""

    def __init__(self, file: Any, archive: str, most: int) -> None:
        self._file = file
        self._archive = archive
        self._most = most

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > _LARGEST_HEADER:
            raise ArchiveError(f"{self._archive} is damaged: a header of {size} bytes")
        data: bytes = self._file.read(size)
        self._check()
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        if offset > self._most:
            raise ArchiveError(f"{self._archive} holds more than was allowed")
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def _check(self) -> None:
        if self._file.tell() > self._most:
            raise ArchiveError(f"{self._archive} holds more than was allowed")


def _tar_members(path: str, kind: str, max_bytes: int, max_files: int) -> Generator[_Member, None, None]:
    most = max_bytes + (max_files + 1) * 4096  # headers and padding
    with open(path, "rb") as raw:
        bounded: Any = _Bounded(_OPENERS[kind](raw), path, most)
        with tarfile.open(fileobj=bounded, mode="r:", bufsize=_CHUNK) as tar:
            for info in tar:
                yield _Member(info.name, _tar_kind(info), info.mode, info.linkname, _opener(tar, info))
        while kind != "tar" and bounded.read(_CHUNK):
            pass  # to its very end, where the checksum is


def _opener(tar: tarfile.TarFile, info: tarfile.TarInfo) -> Callable[[], IO[bytes] | None]:
    return lambda: tar.extractfile(info)


def _tar_kind(info: tarfile.TarInfo) -> str:
    if info.isreg():
        return "file"
    if info.isdir():
        return "folder"
    if info.issym():
        return "link"
    if info.islnk():
        return "same"
    return "a device" if info.ischr() or info.isblk() else "a pipe" if info.isfifo() else "of an unknown type"


def _zip_members(path: str) -> Generator[_Member, None, None]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            mode = info.external_attr >> 16
            if info.flag_bits & 1:
                raise ArchiveError(f"{path} is encrypted")
            if info.is_dir():
                yield _Member(info.filename, "folder")
            elif stat.S_ISLNK(mode):
                with archive.open(info) as file:
                    yield _Member(info.filename, "link", link=os.fsdecode(file.read(4096)))
            else:
                odd = stat.S_IFMT(mode) not in (0, stat.S_IFREG)
                kind = "of an unknown type" if odd else "file"
                yield _Member(info.filename, kind, mode, open=_zip_opener(archive, info))


def _zip_opener(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Callable[[], IO[bytes] | None]:
    return lambda: archive.open(info)


def _is_old_tar(head: bytes) -> bool:
    """Whether this is a header of the time before there was a mark for it: its checksum is right."""
    try:
        given = int(head[148:156].strip(b"\0 "), 8)
    except ValueError:
        return False
    return len(head) == 512 and given == sum(head[:148]) + 8 * ord(" ") + sum(head[156:])
