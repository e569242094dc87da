"""How `Client.map` and `Client.submit` use a journal: what is recorded is not computed again.

`mapping.MapRun` does the work of a map as ever, with three parts exchanged: its Items tell what is in the
journal (Recorded) from what is not (Missing), its Start reads the one and sends the other to servers, and its
futures record what was computed before anybody sees it.
"""

from __future__ import annotations

import concurrent.futures
import functools
import itertools
import logging
import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mpiframe import fingerprint
from mpiframe.answers import CommandFuture, Loop
from mpiframe.errors import JournalError
from mpiframe.journal import Journal, JournalFile, Row
from mpiframe.mapping import Items, MapRun
from mpiframe.messages import Request, Status

log = logging.getLogger("mpiframe")

_WINDOW = 1024  # items whose rows are looked up at once
_CHUNK_BYTES = 16 << 20  # of recorded values that are read at once

Keep = Callable[[Any], None]
"""Records what a command returned; raises JournalError."""
Make = Callable[[Loop, Request, int | None], CommandFuture]
"""Makes the future of a request; the number is that of its first item."""
Submit = Callable[[Sequence[Any], int, Make], CommandFuture]
"""Sends a chunk to a server: (items, number of the first one, what makes its future)."""


class RecordingFuture(CommandFuture):
    """A future whose value is recorded before it is told to anybody, who could change it."""

    __slots__ = ("_keep",)

    def __init__(self, loop: Loop, request: Request, first_item: int | None, keep: Keep) -> None:
        super().__init__(loop, request, first_item)
        self._keep = keep

    def settle(self, request: Request) -> None:
        """As the original; what cannot be recorded is a failure, because it would be missed later."""
        if request.status is Status.DONE and request.error is None:
            try:
                self._keep(request.value)
            except Exception as error:
                request.status = Status.FAILED
                request.error = error if isinstance(error, JournalError) else JournalError(repr(error))
        super().settle(request)


class Part:
    """One call's part of a file, and its function."""

    def __init__(self, file: JournalFile, journal: Journal, label: str, function: Any) -> None:
        self.file = file
        self.label = label
        self.prints = fingerprint.Fingerprinter()
        self.number = file.part(label)
        self._changed = journal.changed
        self.function = self._function(function)

    @property
    def compares(self) -> bool:
        """Whether what is recorded has to be what would be computed now."""
        return self._changed != "keep"

    def is_current(self, row: Row, digest: bytes) -> bool:
        """Whether this item can be taken from the journal. Raises JournalError if it is to be refused."""
        if not self.compares or (row.function == self.function and row.input == digest):
            return True
        if self._changed == "refuse":
            self.refuse(row)
        return False

    def refuse(self, row: Row) -> None:
        """Raise JournalError, saying what is not as it was recorded."""
        if row.function != self.function:
            parts = self.file.changes(row.function, self.function)
            what = f"by another function than this one: {', '.join(parts)} changed since"
        else:
            what = "for another input than the one it has now"
        raise JournalError(
            f"{self.file.path}: item {row.index} ({self.label}) was recorded {what}. "
            'Journal(path, changed="recompute") computes anew what has changed, changed="keep" takes what '
            "was recorded; or use another file"
        )

    def digest(self, index: int, item: Any) -> bytes:
        """The digest of an item's input."""
        try:
            return self.prints.value(item)
        except JournalError as error:
            if not self.compares:
                return bytes(fingerprint.SIZE)
            raise JournalError(f"{self.file.path}: item {index} ({self.label}): {error}") from error

    def _function(self, function: Any) -> int:
        try:
            return self.file.function(self.prints.function(function))
        except JournalError as error:
            if not self.compares:
                return self.file.function({"the callable itself": "not compared"})
            raise JournalError(f"{self.file.path}: the function ({self.label}): {error}") from error


# -- map -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Recorded:
    """Consecutive items that are in the journal."""

    first: int
    count: int

    def __len__(self) -> int:
        return self.count


@dataclass(frozen=True, slots=True)
class Missing:
    """Consecutive items that are not, and the digests of each, one after the other."""

    items: Sequence[Any]
    digests: bytes

    def __len__(self) -> int:
        return len(self.items)


class RecordedItems(Items):
    """Hands out chunks that are Recorded or Missing. No more items are drawn than are handed out, but one."""

    def __init__(self, items: Items, part: Part) -> None:
        self.single = items.single
        self.index = 0
        self._items = items
        self._part = part
        self._rows: deque[Row] = deque()  # of the next items that are in the journal
        self._known: float = 0  # up to which item all rows are known
        self._drawn: Missing | None = None  # an item that is recorded otherwise

    def left(self) -> int | None:
        """As the original."""
        left = self._items.left()
        return left if left is None or self._drawn is None else left + 1

    def at_hand(self) -> int:
        """As the original."""
        try:
            rows = self._look()
        except JournalError:
            return 0  # to be heard of by `take`
        return _WINDOW if self._drawn is None and rows and rows[0].index == self.index else 0

    def take(self, count: int) -> Any:
        """The next chunk, empty at the end. Raises JournalError if its first item is to be refused."""
        chunk: Any = self._drawn
        if chunk is not None:
            self._drawn = None
        else:
            rows = self._look()
            if rows and rows[0].index == self.index:
                chunk = self._recorded(count)
            else:
                until = rows[0].index if rows else self._known
                chunk = self._missing(int(min(count, until - self.index)))
        self.index += len(chunk)
        return chunk

    def _look(self) -> deque[Row]:
        if not self._rows and self.index >= self._known:
            found = self._part.file.rows(self._part.number, self.index, _WINDOW)
            self._rows.extend(found)
            self._known = found[-1].index + 1 if len(found) == _WINDOW else float("inf")
        return self._rows

    def _missing(self, count: int) -> Missing:
        items = self._items.take(count)
        digests = [self._part.digest(index, item) for index, item in enumerate(items, self.index)]
        return Missing(items, b"".join(digests))

    def _recorded(self, most: int) -> Recorded | Missing:
        part, rows, first = self._part, self._rows, self.index
        count = size = 0
        while count < most and size < _CHUNK_BYTES and rows and rows[0].index == first + count:
            items = self._items.take(1)
            if not len(items):
                break
            row = rows.popleft()
            digest = part.digest(row.index, items[0]) if part.compares else b""
            try:
                current = part.is_current(row, digest)
            except JournalError:
                if not count:
                    raise
                rows.appendleft(row)
                self._items = _Again(items, self._items)  # to be refused in its turn, after these
                break
            if not current:
                if not count:
                    return Missing(items, digest)
                self._drawn = Missing(items, digest)
                break
            count += 1
            size += row.size
        return Recorded(first, count)


class _Again(Items):
    """One item, then others."""

    def __init__(self, first: Sequence[Any], others: Items) -> None:
        self._first = first
        self._others = others

    def take(self, count: int) -> Sequence[Any]:
        """The next items; the first one by itself."""
        first, self._first = self._first, ()
        return first if len(first) else self._others.take(count)

    def left(self) -> int | None:
        """How many are left, None if nobody knows."""
        left = self._others.left()
        return None if left is None else left + len(self._first)


class _ReadFuture(concurrent.futures.Future[Any]):
    """A chunk that is in the journal; it is read when it is asked for."""

    seconds = None  # it was not computed now

    def __init__(self, part: Part, chunk: Recorded) -> None:
        super().__init__()
        self._part = part
        self._chunk = chunk
        self.set_result(None)

    def result(self, timeout: float | None = None) -> list[Any]:  # noqa: ARG002 - it is there already
        """The values."""
        return self._part.file.values(self._part.number, self._chunk.first, self._chunk.count)


class Recording:
    """A call of map with a journal."""

    def __init__(self, part: Part, items: Items, submit: Submit) -> None:
        self._part = part
        self._submit = submit
        self.items: Items = RecordedItems(items, part)
        if part.compares:
            for row in part.file.rows(part.number, 0, 1):
                if row.function != part.function:
                    part.is_current(row, row.input)  # refused at the call, if it is to be

    def start(self, chunk: Any, first: int) -> Any:
        """As `mapping.Start`."""
        if type(chunk) is Recorded:
            return _ReadFuture(self._part, chunk)
        part = self._part

        def keep(values: Sequence[Any]) -> None:
            part.file.add(part.number, first, part.function, chunk.digests, values)

        return self._submit(chunk.items, first, functools.partial(RecordingFuture, keep=keep))

    def results(self, run: MapRun) -> Iterator[Any]:
        """The results of the run; what it recorded is on the disk when it has ended."""
        try:
            yield from run.results()
        finally:
            self._part.file.flush()


# -- the client's journals -------------------------------------------------------------------------


class Recorder:
    """The journals that a client has open, and which calls it has seen."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: dict[str, JournalFile] = {}  # by their real paths
        self._names: dict[str, JournalFile] = {}  # by the paths that were given
        self._calls: Counter[tuple[str, str]] = Counter()
        self._submits: dict[tuple[str, str], Iterator[int]] = {}

    def map(
        self,
        journal: Any,
        function: Any,
        items: Items,
        submit: Submit,
    ) -> Recording:
        """Begin a call of map. Raises JournalError, CommandArgumentError."""
        journal = _journal(journal)
        file = self._file(journal)
        label = f"map {journal.name!r}"
        if journal.name is None:
            label = f"map of {fingerprint.name_of(function)}"
            with self._lock:
                self._calls[file.path, label] += 1
                label = f"{label} #{self._calls[file.path, label]}"
        file.flush()  # an earlier call by the same name may have recorded something a moment ago
        return Recording(Part(file, journal, label, function), items, submit)

    def submit(
        self, journal: Any, function: Any, arguments: Any, loop: Loop, submit: Callable[[Make], CommandFuture]
    ) -> CommandFuture:
        """The future of a call, done if it was recorded. Raises JournalError, CommandArgumentError."""
        journal = _journal(journal)
        file = self._file(journal)
        name = fingerprint.name_of(function) if journal.name is None else repr(journal.name)
        part = Part(file, journal, f"submit of {name}", function)
        with self._lock:
            index = next(self._submits.setdefault((file.path, part.label), itertools.count()))
        digest = part.digest(index, arguments)
        row = next(iter(file.rows(part.number, index, 1)), None)
        if row is not None and row.index == index and part.is_current(row, digest):
            request = Request(0, None, 0, function, (), status=Status.DONE, ended=True, told=True)
            (request.value,) = file.values(part.number, index, 1)
            future = CommandFuture(loop, request)
            future.settle(request)
            return future

        def keep(value: Any) -> None:
            file.add(part.number, index, part.function, digest, [value])

        return submit(functools.partial(RecordingFuture, keep=keep))

    def close(self) -> JournalError | None:
        """Close all files; what went wrong with the first that could not be written."""
        with self._lock:
            files, self._files, self._names = list(self._files.values()), {}, {}
        failure: JournalError | None = None
        for file in files:
            try:
                file.close()
            except JournalError as error:
                log.error("%s", error)
                failure = failure or error
        return failure

    def _file(self, journal: Journal) -> JournalFile:
        name = os.path.abspath(journal.path)
        with self._lock:
            file = self._names.get(name)
            if file is None:
                path = os.path.realpath(name)
                file = self._files.get(path)
                if file is None:
                    file = self._files[path] = JournalFile(path)
                self._names[name] = file
        file.check_there()
        return file


def _journal(journal: Any) -> Journal:
    return journal if isinstance(journal, Journal) else Journal(journal)
