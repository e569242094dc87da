"""Paths inside configured folders, the roots, and never outside of them.

A path is walked from an open root, one component after the other, each opened relative to the folder
before it and never through a symbolic link; links are read and walked in the same way, so that one that
leads out of the roots is refused, and nothing that is renamed or replaced meanwhile can lead out either.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from mpiframe.errors import MpiframeError

_LINKS = 40  # what Linux follows at most
_FOLDER = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | getattr(os, "O_PATH", os.O_RDONLY)


class PathRefused(MpiframeError, PermissionError):
    """A path leads out of the folders that may be used, or is none. Nothing was done."""


class Place(NamedTuple):
    """An entry of a folder: the open folder, and the name in it, or "" for the folder itself.

    The latter is what a path to a root gives, and one that ends in `..`.
    """

    folder: int
    name: str
    path: str  # for messages

    def status(self) -> os.stat_result:
        """What the entry is, not followed if it is a link. Raises OSError with the whole path."""
        with self.errors():
            if not self.name:
                return os.fstat(self.folder)
            return os.stat(self.name, dir_fd=self.folder, follow_symlinks=False)

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """OSErrors in this block name the whole path."""
        try:
            yield
        except OSError as error:
            error.filename = self.path
            error.filename2 = None
            raise

    def opened(self, flags: int, mode: int = 0o666) -> int:
        """The entry, opened. Raises OSError with the whole path."""
        with self.errors():
            flags |= os.O_NOFOLLOW | os.O_CLOEXEC
            return os.open(self.name or ".", flags, mode, dir_fd=self.folder)


class Roots:
    """Folders below which paths may lie."""

    def __init__(self, roots: Iterable[str | os.PathLike[str]]) -> None:
        """Open the roots. Raises PathRefused for one that is not absolute, and OSError."""
        self._open: dict[str, int] = {}
        self.paths: list[str] = []
        try:
            for root in roots:
                given = _absolute(os.fspath(root))
                real = os.path.realpath(given)
                handle = os.open(real, _FOLDER)
                self.paths.append(real)
                # By either name: what users know may be a link to where it lies.
                for name in {real, os.path.normpath(given)}:
                    self._open.setdefault(name, os.dup(handle))
                os.close(handle)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the roots; no path can be walked any more."""
        while self._open:
            os.close(self._open.popitem()[1])

    @contextlib.contextmanager
    def place(
        self, path: str | os.PathLike[str], *, follow: bool = True, parents: bool = False
    ) -> Iterator[Place]:
        """Where a path is, while the block runs; its last component may not be there.

        follow: whether a link at the end counts as what it leads to. parents: make folders on the way
        that are missing. Raises PathRefused, and OSError for a folder on the way.
        """
        walk = _Walk(self, _absolute(os.fspath(path)), follow, parents)
        try:
            yield walk.place()
        finally:
            walk.close()

    def start(self, path: str) -> tuple[int, list[str]]:
        """The root that a path is below, and the components from there. Raises PathRefused."""
        parts = [part for part in path.split("/") if part not in ("", ".")]
        for number in range(len(parts), -1, -1):
            handle = self._open.get("/" + "/".join(parts[:number]))
            if handle is not None:
                return os.dup(handle), parts[number:]
        raise PathRefused(
            f"{path} is outside of the folders that may be used: {', '.join(self.paths) or 'none are'}"
        )


class _Walk:
    """The way from a root to one path; holds the folders on it open, for `..`."""

    def __init__(self, roots: Roots, path: str, follow: bool, parents: bool) -> None:
        self.roots = roots
        self.path = path
        self.follow = follow
        self.parents = parents
        self.links = 0
        self.folders: list[int] = []
        handle, parts = roots.start(path)
        self.folders.append(handle)
        self.left = parts[::-1]

    def close(self) -> None:
        while self.folders:
            os.close(self.folders.pop())

    def place(self) -> Place:
        try:
            while self.left:
                part = self.left.pop()
                if part == "..":
                    if len(self.folders) == 1:
                        raise PathRefused(f"{self.path} leads out of the folders that may be used")
                    os.close(self.folders.pop())
                elif self.left:
                    self._enter(part)
                elif not self.follow or not self._linked(part):
                    return Place(self.folders[-1], part, self.path)
        except BaseException:
            self.close()
            raise
        return Place(self.folders[-1], "", self.path)

    def _enter(self, part: str) -> None:
        if self._linked(part):
            return
        if self.parents:
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, dir_fd=self.folders[-1])
        try:
            self.folders.append(os.open(part, _FOLDER, dir_fd=self.folders[-1]))
        except OSError as error:
            # A link that came to be just now is not followed either: it is not a folder.
            error.filename = self.path
            raise

    def _linked(self, part: str) -> bool:
        """Go where a link leads; False if this is none."""
        try:
            target = os.readlink(part, dir_fd=self.folders[-1])
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT):
                return False
            error.filename = self.path
            raise
        self.links += 1
        if self.links > _LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), self.path)
        if target.startswith("/"):
            try:
                handle, parts = self.roots.start(target)
            except PathRefused:
                raise PathRefused(f"{self.path} leads out of the folders that may be used") from None
            self.close()
            self.folders.append(handle)
        else:
            parts = [one for one in target.split("/") if one not in ("", ".")]
        self.left += parts[::-1]
        return True


def _absolute(path: str) -> str:
    if not path.startswith("/"):
        raise PathRefused(f"{path!r} has to be an absolute path")
    if "\0" in path:
        raise PathRefused(f"{path!r} is no path: it has a zero byte in it")
    return path


def is_folder(status: os.stat_result) -> bool:
    """Whether this is a folder, and no link to one."""
    return stat.S_ISDIR(status.st_mode)
