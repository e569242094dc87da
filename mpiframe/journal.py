"""What was computed, on disk: an SQLite file that outlives the run, and lets the next one go on from there.

A file has parts, one for each call that records; a part has items, numbered from 0. Of an item there is the
digest of its input, the function that made it, and its value as pickle data, in one row:

    parts       which call: "map of fit #1"
    functions   digests of what a function is made of, so that it can be said what has changed
    items       key = part * 2**40 + number of the item; large values lie beside it, in
    pieces      of at most 64 MiB each, because SQLite takes no more than 1 GB in one

A thread writes what was recorded, in groups, each a transaction and synced to the disk. `kill -9` at any
moment leaves each item in the file whole, or not at all. While a run uses a file, SQLite's own lock keeps
others out.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mpiframe import codec, fingerprint
from mpiframe.database import explained, identity, open_database
from mpiframe.errors import CommandArgumentError, JournalError

GROUP_ITEMS = 1000
GROUP_SECONDS = 0.2
_GROUP_BYTES = 32 << 20
_LARGE = 1 << 20  # arrays from this size on are written from where they are
_PIECE = 64 << 20
_ITEMS_A_PART = 1 << 40
_ROWS = 128  # in one statement: each one gives the interpreter away, and it may take 5 ms to have it back
_CHANGED = ("refuse", "recompute", "keep")


@dataclass(frozen=True, slots=True)
class Journal:
    """Where `Client.map` and `Client.submit` record what is finished, and how they go on from it.

    Parameters
    ----------
    path: an SQLite file, made if it is not there. It holds pickle data, which can run any code when it is
        read, so it is made for its owner alone, and refused if it is another user's or others may write it.
    name: which part of the file this call records in. None: calls are told apart by the name of their
        function and how many there were before with it in this run, so a script that makes the same calls
        in the same order finds each one's part again. A name finds it in any order, in a notebook too.
    changed: what to do with an item whose input is not what was recorded, or whose function is not.
        "refuse": raise JournalError. "recompute": compute such items anew, and keep the others. "keep":
        take what was recorded, without looking.

    What is compared: inputs by their content; the function by its code, defaults, closure and the globals it
    uses, and so on for the functions and classes of the user's own modules that it reaches. What is installed
    (the standard library, site-packages) counts by its name alone, and what earlier commands left on the
    servers is not looked at.
    """

    path: str | os.PathLike[str]
    name: str | None = None
    changed: str = "refuse"

    def __post_init__(self) -> None:
        if not isinstance(self.path, (str, os.PathLike)) or not os.fspath(self.path):
            raise CommandArgumentError(f"a journal is the path of a file or a Journal, not {self.path!r}")
        if self.name is not None and (not isinstance(self.name, str) or not self.name):
            raise CommandArgumentError(f"the name of a journal's part must be a string, not {self.name!r}")
        if self.changed not in _CHANGED:
            choices = ", ".join(map(repr, _CHANGED))
            raise CommandArgumentError(f"changed={self.changed!r} is no choice; choose one of {choices}")


@dataclass(frozen=True, slots=True)
class Row:
    """A recorded item: its number, function (by id), the digest of its input, the bytes of its value."""

    index: int
    function: int
    input: bytes
    size: int


_Item = tuple[int, int, bytes, int, "str | None", "bytes | None"]
_Entry = tuple[_Item, "list[Any] | None"]
"""A row of `items`, and the sections of its value if they do not lie in it."""


class JournalFile:
    """An open journal. Any thread may use it. JournalError says what is wrong; then it takes no more."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.path.abspath(path)
        self._sql = threading.Lock()
        self._state = threading.Condition()  # around what follows
        self._pending: list[_Entry] = []
        self._bytes = 0
        self._first_at = 0.0  # when the first of them came
        self._urgent = False  # somebody waits for them
        self._added = self._written = 0
        self._failure: JournalError | None = None
        self._closing = False
        self._writer: threading.Thread | None = None
        self._parts: dict[str, int] = {}
        self._functions: dict[bytes, int] = {}
        self._connection = open_database(self.path)
        self._identity = identity(self.path)

    # -- what is there -----------------------------------------------------------------------------

    def part(self, label: str) -> int:
        """The number of a part; it is made if there is none of this label."""
        known = self._parts.get(label)
        if known is None:
            with self._using() as sql:
                sql.execute("INSERT OR IGNORE INTO parts (label) VALUES (?)", (label,))
                found = sql.execute("SELECT id FROM parts WHERE label = ?", (label,)).fetchone()
            known = self._parts[label] = int(found[0])
        return known

    def function(self, parts: dict[str, str]) -> int:
        """The number of a function, by what it is made of."""
        digest = fingerprint.summary(parts)
        known = self._functions.get(digest)
        if known is None:
            with self._using() as sql:
                values = (digest, json.dumps(parts))
                sql.execute("INSERT OR IGNORE INTO functions (digest, parts) VALUES (?, ?)", values)
                found = sql.execute("SELECT id FROM functions WHERE digest = ?", (digest,)).fetchone()
            known = self._functions[digest] = int(found[0])
        return known

    def changes(self, before: int, now: int) -> list[str]:
        """What differs between two functions, in words."""
        with self._using() as sql:
            found = dict(sql.execute("SELECT id, parts FROM functions WHERE id IN (?, ?)", (before, now)))
        return fingerprint.changes(json.loads(found.get(before, "{}")), json.loads(found[now]))

    def rows(self, part: int, first: int, count: int) -> list[Row]:
        """The next `count` items that are in the file, from number `first` on."""
        start, end = part * _ITEMS_A_PART, (part + 1) * _ITEMS_A_PART
        with self._using() as sql:
            found = sql.execute(
                "SELECT key, function, input, size FROM items WHERE key >= ? AND key < ? "
                "ORDER BY key LIMIT ?",
                (start + first, end, count),
            ).fetchall()
        return [Row(key - start, function, digest, size) for key, function, digest, size in found]

    def values(self, part: int, first: int, count: int) -> list[Any]:
        """The values of items that are in the file."""
        start = part * _ITEMS_A_PART + first
        with self._using() as sql:
            found = sql.execute(
                "SELECT key, sections, value FROM items WHERE key >= ? AND key < ? ORDER BY key",
                (start, start + count),
            ).fetchall()
            large = {key: self._sections(key, json.loads(sizes)) for key, sizes, _ in found if sizes}
        assert len(found) == count, "items have gone from the file"
        values = []
        for key, sizes, value in found:
            data, buffers = (value, []) if not sizes else (large[key][0], large.pop(key)[1:])
            try:
                values.append(codec.loads(data, buffers))
            except Exception as error:
                index = key - part * _ITEMS_A_PART
                raise JournalError(
                    f"{self.path}: the value recorded of item {index} cannot be read: {error!r}"
                ) from error
        return values

    def _sections(self, key: int, sizes: list[int]) -> list[bytearray]:
        pieces = self._connection.execute("SELECT data FROM pieces WHERE key = ? ORDER BY number", (key,))
        sections = []
        for size in sizes:
            section, start = bytearray(size), 0
            while start < size:
                data = next(pieces)[0]
                section[start : start + len(data)] = data
                start += len(data)
            sections.append(section)
        return sections

    # -- recording ---------------------------------------------------------------------------------

    def add(self, part: int, first: int, function: int, inputs: bytes, values: Sequence[Any]) -> None:
        """Record consecutive items: the digests of their inputs, one after the other, and their values.

        They are in the file within `GROUP_SECONDS` and the time it takes to write them, or as soon as
        `GROUP_ITEMS` have come; more than that is not let in before the group before it is written. Large
        arrays are written at once, for they are not copied. Raises JournalError if this or what was recorded
        before cannot be written.
        """
        entries: list[_Entry] = []
        size, large = 0, False
        start, width = part * _ITEMS_A_PART + first, fingerprint.SIZE
        for index, value in enumerate(values):
            try:
                data, buffers = _dump(value)
            except Exception as error:
                what = f"{self.path}: the value of item {first + index} cannot be recorded: {error}"
                raise JournalError(what) from error
            digest = inputs[index * width : (index + 1) * width]
            if not buffers and len(data) <= _PIECE:
                entries.append(((start + index, function, digest, len(data), None, data), None))
                size += len(data)
                continue
            sections = [memoryview(data), *buffers]
            sizes = [section.nbytes for section in sections]
            entries.append(((start + index, function, digest, sum(sizes), json.dumps(sizes), None), sections))
            large = True
        with self._state:
            self._check()
            while self._pending and (len(self._pending) >= GROUP_ITEMS or self._bytes >= _GROUP_BYTES):
                self._state.wait()
                self._check()
            if not self._pending:
                self._first_at = time.monotonic()
            self._pending += entries
            self._bytes += size
            self._added += len(entries)
            if self._writer is None:
                self._writer = threading.Thread(target=self._write, name="mpiframe-journal", daemon=True)
                self._writer.start()
            if len(self._pending) == len(entries) or len(self._pending) >= GROUP_ITEMS or large:
                self._state.notify_all()
        if large:
            self.flush()

    def flush(self) -> None:
        """Wait until all that was recorded is in the file."""
        with self._state:
            wanted = self._added
            while self._written < wanted and self._failure is None:
                self._urgent = True
                self._state.notify_all()
                self._state.wait()
            if self._failure is not None:
                raise self._failure

    def close(self) -> None:
        """Flush, and let others use the file. Raises JournalError if something could not be written."""
        with self._state:
            self._closing = True
            self._state.notify_all()
        if self._writer is not None:
            self._writer.join()
        with self._sql:
            self._connection.close()
        if self._failure is not None:
            raise self._failure

    def check_there(self) -> None:
        """Raise JournalError if the file at this path is not the one that was opened."""
        if identity(self.path) != self._identity:
            raise JournalError(f"{self.path} was moved or deleted while this run used it")

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._closing:
            raise JournalError(f"{self.path} is closed")

    # -- the thread that writes --------------------------------------------------------------------

    def _write(self) -> None:
        while group := self._next_group():
            failure = None
            try:
                with self._using() as sql:
                    _insert(sql, group)
            except JournalError as error:
                failure = error
            except Exception as error:
                failure = JournalError(f"{self.path} could not be written: {error!r}")
            with self._state:
                self._failure = failure
                self._written += len(group)
                self._state.notify_all()
            del group
            if failure is not None:
                return

    def _next_group(self) -> list[_Entry]:
        """Wait for a group that is to be written now; an empty one at the end."""
        with self._state:
            while not self._pending and not self._closing:
                self._state.wait()
            until = self._first_at + GROUP_SECONDS
            while len(self._pending) < GROUP_ITEMS and self._bytes < _GROUP_BYTES:
                left = until - time.monotonic()
                if self._urgent or self._closing or left <= 0:
                    break
                self._state.wait(left)
            group, self._pending = self._pending, []
            self._bytes, self._urgent = 0, False
            self._state.notify_all()  # there is room again
            return group

    # -- SQLite ------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _using(self) -> Iterator[sqlite3.Connection]:
        """The connection, for one thread at a time; what it does is one transaction."""
        with self._sql:
            sql = self._connection
            try:
                sql.execute("BEGIN")
                yield sql
                sql.execute("COMMIT")
            except BaseException as error:
                with contextlib.suppress(sqlite3.Error):  # what went wrong first is what is told
                    if sql.in_transaction:
                        sql.execute("ROLLBACK")
                if isinstance(error, sqlite3.Error):
                    raise explained(self.path, error) from error
                raise


def _insert(sql: sqlite3.Connection, group: list[_Entry]) -> None:
    for start in range(0, len(group), _ROWS):
        rows = [item for item, _ in group[start : start + _ROWS]]
        marks = ", ".join(["(?, ?, ?, ?, ?, ?)"] * len(rows))
        sql.execute(f"INSERT OR REPLACE INTO items VALUES {marks}", [x for row in rows for x in row])
    large = [(item[0], sections) for item, sections in group if sections is not None]
    for key, sections in large:
        sql.execute("DELETE FROM pieces WHERE key = ?", (key,))
        for number, piece in enumerate(_pieces(sections)):
            sql.execute("INSERT INTO pieces VALUES (?, ?, ?)", (key, number, piece))


def _pieces(sections: list[Any]) -> Iterator[memoryview]:
    for section in sections:
        for start in range(0, section.nbytes, _PIECE):
            yield section[start : start + _PIECE]


def _dump(value: Any) -> tuple[bytes, list[Any]]:
    """Pickle data, and the large buffers beside it.

    Classes of the script are stored by their names: what is read back must be of the script's own class. What
    has no name there, made on a server or inside a function, is stored by value.
    """
    buffers: list[Any] = []

    def keep_inside(buffer: pickle.PickleBuffer) -> bool:
        try:
            raw = buffer.raw()
        except BufferError:  # not contiguous: pickle copies it into the stream
            return True
        if raw.nbytes < _LARGE:
            return True
        buffers.append(raw)
        return False

    try:
        return pickle.dumps(value, 5, buffer_callback=keep_inside), buffers
    except Exception:
        data, others = codec.dumps(value, _LARGE)
        return data, list(others)
