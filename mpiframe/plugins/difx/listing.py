"""What lies in a folder, and how `ls` shows it."""

from __future__ import annotations

import contextlib
import datetime
import grp
import os
import pwd
import stat
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from mpiframe.plugins.difx.roots import Place

_BLOCK_BYTES = 512  # what st_blocks counts, whatever the file system
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_HALF_A_YEAR = 182.6 * 86400.0
_KNOWN = "1AadlrSt"


@dataclass(frozen=True, slots=True)
class Entry:
    """What lies in a folder. kind: "file", "folder", "link" or "other"; modified: seconds since 1970."""

    path: str
    kind: str
    size_bytes: int
    modified: float
    mode: int
    owner: int
    group: int
    links: int
    allocated_bytes: int
    target: str = ""  # of a link, as it is written there

    @property
    def name(self) -> str:
        """The last component of the path."""
        return self.path.rsplit("/", 1)[-1]


def entry_of(place: Place, path: str, status: os.stat_result) -> Entry:
    """What stands at a place, under the path by which it was asked for."""
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "link"}
    kind = kinds.get(stat.S_IFMT(status.st_mode), "other")
    target = ""
    if kind == "link":
        with contextlib.suppress(OSError):
            target = os.readlink(place.name, dir_fd=place.folder)
    return Entry(
        path,
        kind,
        status.st_size,
        status.st_mtime,
        status.st_mode,
        status.st_uid,
        status.st_gid,
        status.st_nlink,
        status.st_blocks * _BLOCK_BYTES,
        target,
    )


@dataclass(frozen=True, slots=True)
class Options:
    """The options of `ls` that there are: -1 -a -A -d -l -r -S -t."""

    letters: frozenset[str]

    @classmethod
    def parse(cls, text: str) -> Options:
        """Read as on a command line, "-l -t" or "-lt". Raises ValueError for what is not known."""
        letters: set[str] = set()
        for word in text.split():
            if not word.startswith("-") or len(word) < 2 or any(sign not in _KNOWN for sign in word[1:]):
                raise ValueError(f"ls has no option {word!r} here, only -{' -'.join(_KNOWN)}")
            letters.update(word[1:])
        return cls(frozenset(letters))

    @property
    def hidden(self) -> bool:
        """Whether names that begin with a dot are shown."""
        return bool(self.letters & {"a", "A"})

    def sort(self, entries: Iterable[Entry]) -> list[Entry]:
        """The entries in the order that is asked for."""
        keys: dict[str, Callable[[Entry], tuple[float, str]]] = {
            "": lambda one: (0.0, one.path),
            "t": lambda one: (-one.modified, one.path),
            "S": lambda one: (-float(one.size_bytes), one.path),
        }
        chosen = "S" if "S" in self.letters else "t" if "t" in self.letters else ""
        return sorted(entries, key=keys[chosen], reverse="r" in self.letters)

    def lines(self, entries: Iterable[Entry], *, paths: bool, total: bool) -> list[str]:
        """One line for each; paths: with their paths; total: with the space that they take, before them."""
        shown = self.sort(entries)
        names = [one.path if paths else one.name for one in shown]
        if "l" not in self.letters:
            return names
        rows = [_columns(one) for one in shown]
        widths = [
            max((len(row[column]) for row in rows), default=0)
            for column in range(len(rows[0]) if rows else 0)
        ]
        lines = [f"total {sum(one.allocated_bytes for one in shown) // 1024}"] if total else []
        for one, row, name in zip(shown, rows, names, strict=True):
            cells = [
                cell.ljust(width) if column in (0, 2, 3) else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            arrow = f" -> {one.target}" if one.kind == "link" else ""
            lines.append(f"{' '.join(cells)} {_date(one.modified)} {name}{arrow}")
        return lines


def _columns(one: Entry) -> list[str]:
    """Permissions, links, owner, group, size."""
    owner, group = str(one.owner), str(one.group)
    with contextlib.suppress(KeyError):  # a number of which this machine knows no name
        owner = pwd.getpwuid(one.owner).pw_name
    with contextlib.suppress(KeyError):
        group = grp.getgrgid(one.group).gr_name
    return [stat.filemode(one.mode), str(one.links), owner, group, str(one.size_bytes)]


def _date(modified: float) -> str:
    moment = datetime.datetime.fromtimestamp(modified)
    recent = abs(time.time() - modified) < _HALF_A_YEAR
    last = f"{moment:%H:%M}" if recent else f" {moment.year}"
    return f"{_MONTHS[moment.month - 1]} {moment.day:2d} {last}"
