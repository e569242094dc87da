"""Files of lines `KEY:   value` in a fixed order: `.input`, `.calc`, `.im`, `.threads`.

A class of such a file names its lines in order, in `LINES`; from that its text is read and written:

    class Flag(Record):             Line    one line, one value
        name: str                   Count   one line with how many of something follow
        days: tuple[float, ...]     Each    lines with one value each
        LINES = (                   Table   groups of lines, each a Record
            Line("name", "FLAG {0} NAME", TEXT),
            Count("days", "NUM DAYS {0}"),
            Each("days", "DAY {0}/{1}", REAL),
        )

`{0}`, `{1}` stand for the indices of the tables and lists that a line is in, from the outermost. What
was read remembers its lines, so that what was not changed is written as it was, whoever wrote it.
Comments, blank lines and keys that nobody here knows stay where they were, as `notes`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, NamedTuple, TypeVar

from mpiframe.plugins.difx.formats.errors import FormatError
from mpiframe.plugins.difx.formats.text import TextFile, flag, integer, lines_of, number, single_line

VALUE_COLUMN = 20  # from 0; a longer key is followed at once by its value


class Kind(NamedTuple):
    """How a value is read from text, and written."""

    parse: Callable[[str], Any]
    format: Callable[[Any], str]


def real(form: str) -> Kind:
    """A number; one that was not read is written in this way, or with more digits where it has them."""
    return Kind(number, lambda value: _digits(value, form))


def reals(form: str, between: str) -> Kind:
    """Several numbers on a line."""
    return Kind(
        lambda text: tuple(number(word) for word in text.split()),
        lambda values: between.join(_digits(value, form) for value in values),
    )


def _digits(value: float, form: str) -> str:
    text = format(value, form)
    return text if float(text) == value else repr(float(value))


TEXT = Kind(str, single_line)
INTEGER = Kind(integer, lambda value: str(int(value)))
FLAG = Kind(flag, lambda value: "TRUE" if value else "FALSE")


class Note(NamedTuple):
    """A line that means nothing here: a comment, a blank line, a key of another version."""

    before: str
    text: str


@dataclass(frozen=True)
class Line:
    """One line, for the field `name`. Where it may be missing, the field is None then."""

    name: str
    keys: tuple[str, ...]
    kind: Kind
    optional: bool = False

    def __init__(self, name: str, key: str, kind: Kind, *others: str, optional: bool = False) -> None:
        # The first key is the one that is written; the others are of other versions of DiFX.
        for slot, value in (("name", name), ("keys", (key, *others)), ("kind", kind)):
            object.__setattr__(self, slot, value)
        object.__setattr__(self, "optional", optional)


@dataclass(frozen=True)
class Count:
    """One line that says how many items the field `of` has, less `offset`. May be missing if none."""

    of: str
    keys: tuple[str, ...]
    offset: int = 0

    def __init__(self, of: str, key: str, *others: str, offset: int = 0) -> None:
        object.__setattr__(self, "of", of)
        object.__setattr__(self, "keys", (key, *others))
        object.__setattr__(self, "offset", offset)

    @property
    def name(self) -> str:
        return f"#{self.of}"


HowMany = Callable[[Mapping[str, Any], Mapping[str, Any]], int]
"""From the fields of the record so far, and those of the file so far."""


@dataclass(frozen=True)
class Each:
    """One line for each value of the field `name`, a tuple."""

    name: str
    key: str
    kind: Kind
    count: HowMany | None = None  # where no Count says so

    @property
    def keys(self) -> tuple[str, ...]:
        return (self.key,)


@dataclass(frozen=True)
class Table:
    """A record for each item of the field `name`, a tuple.

    Without a count there are as many as there are: the first line of a record must not be optional.
    """

    name: str
    record: type[Record]
    count: HowMany | None = None


@dataclass(frozen=True)
class Section:
    """A heading with lines below it. An optional one without any content is left out."""

    title: str
    lines: tuple[Item, ...]
    optional: bool = False

    @property
    def name(self) -> str:
        return self.title


@dataclass(frozen=True)
class Remark:
    """A comment that the original writer puts here."""

    text: str


Item = Line | Count | Each | Table | Section | Remark


@dataclass(frozen=True)
class Record:
    """A group of lines, as values.

    written: the lines as they were read, by what they are for. notes: lines that mean nothing here.
    """

    LINES: ClassVar[tuple[Item, ...]] = ()

    written: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False, kw_only=True)
    notes: tuple[Note, ...] = field(default=(), compare=False, repr=False, kw_only=True)


_R = TypeVar("_R", bound=Record)
_F = TypeVar("_F", bound="KeyedFile")


@dataclass(frozen=True)
class KeyedFile(Record, TextFile):
    """A file of such lines."""

    BLANK_AT_END: ClassVar[bool] = False

    @classmethod
    def parse(cls: type[_F], text: str, path: str = "") -> _F:
        """The values in `text`; `path` is for errors only. Raises FormatError."""
        made: _F = _Reader(text, path, cls).file()
        return made

    def text(self) -> str:
        """The content of the file. Raises FormatError where the values contradict each other."""
        writer = _Writer(self)
        writer.record(self, ())
        if not self.written and self.BLANK_AT_END:
            writer.lines.append("")
        return "\n".join(writer.lines) + self.written.get("end", "\n")


# -- reading --------------------------------------------------------------------------------------


class _Reader:
    """Goes through the lines of one file."""

    def __init__(self, text: str, path: str, kind: type[KeyedFile]) -> None:
        self.lines = lines_of(text)
        self.ended = text.endswith("\n") or not text
        self.path = path
        self.kind = kind
        self.known = {_skeleton(key) for key in _keys(kind.LINES)}
        self.at = 0
        self.root: Mapping[str, Any] = {}
        self.strange = 0  # the line of the last key that nobody knows, counted from 1

    def file(self) -> Any:
        values: dict[str, Any] = {}
        self.root = values
        made = self.record(self.kind, (), values)
        if self.at < len(self.lines):
            raise self.error("the end of the file")
        return made

    def record(self, kind: type[_R], path: tuple[int, ...], values: dict[str, Any]) -> _R:
        values |= {"written": {}, "notes": []}
        self.items(kind.LINES, path, values)
        if kind is self.kind:
            self.skip(values, "end")
            values["written"] |= {"end": "\n" if self.ended else ""}
        values["notes"] = tuple(values["notes"])
        counted = [name for name in values if name.startswith("#")]
        return kind(**{name: values[name] for name in values if name not in counted})

    def items(self, items: Iterable[Item], path: tuple[int, ...], values: dict[str, Any]) -> None:
        for item in items:
            if isinstance(item, Remark):
                continue
            if isinstance(item, Section):
                self.skip(values, item.name)
                if self.at >= len(self.lines) or _key(self.lines[self.at]) != _key(item.title):
                    if item.optional:
                        continue
                    raise self.error(repr(item.title))
                values["written"][item.name] = self.take()
                self.items(item.lines, path, values)
            elif isinstance(item, Table):
                values[item.name] = tuple(self.records(item, path, values))
            elif isinstance(item, Each):
                values[item.name] = tuple(
                    self.value(item, (*path, index), values, f"{item.name}[{index}]")
                    for index in range(self.how_many(item, values))
                )
            else:
                self.line(item, path, values)

    def line(self, item: Line | Count, path: tuple[int, ...], values: dict[str, Any]) -> None:
        self.skip(values, item.name)
        if isinstance(item, Line):
            if item.optional and not self.matches(item.keys, path):
                values[item.name] = None  # not the default: it was not there
                return
            values[item.name] = self.value(item, path, values, item.name)
        elif self.matches(item.keys, path):
            said = self.value(Line(item.name, item.keys[0], INTEGER, *item.keys[1:]), path, values, item.name)
            values[item.name] = said + item.offset
            # Each item takes a line at least; this keeps a wild number from filling the memory.
            if not 0 <= values[item.name] <= len(self.lines) - self.at:
                self.at -= 1
                raise self.error(f"a number of items that can follow in the {len(self.lines)} lines")
        else:
            values[item.name] = 0

    def records(self, item: Table, path: tuple[int, ...], values: dict[str, Any]) -> Iterator[Record]:
        if item.count is not None or f"#{item.name}" in values:
            for index in range(self.how_many(item, values)):
                before = self.at
                yield self.record(item.record, (*path, index), {})
                if self.at == before:  # all its lines may be missing, but not at once
                    raise self.error(f"item {index + 1} of {self.how_many(item, values)} {item.name}")
            return
        for index in itertools.count():
            before, notes = self.at, len(values["notes"])
            self.skip(values, f"{item.name}[{index}]")
            if not self.begins(item.record, (*path, index)):
                self.at = before  # the notes belong to what follows
                del values["notes"][notes:]
                return
            yield self.record(item.record, (*path, index), {})

    def how_many(self, item: Each | Table, values: Mapping[str, Any]) -> int:
        if item.count is None:
            return int(values.get(f"#{item.name}", 0))
        return item.count(values, self.root)

    def value(self, item: Line | Each, path: tuple[int, ...], values: dict[str, Any], name: str) -> Any:
        self.skip(values, name)
        if not self.matches(item.keys, path):
            raise self.error(repr(item.keys[0].format(*path) + ":"))
        try:
            found = item.kind.parse(_value(self.lines[self.at]))
        except ValueError as error:
            raise self.error(f"{error} as the value of {item.keys[0].format(*path)!r}") from None
        values["written"][name] = self.take()
        return found

    def skip(self, values: dict[str, Any], before: str) -> None:
        """Keep what means nothing here."""
        while self.at < len(self.lines):
            line = self.lines[self.at]
            if line.strip() and not line.startswith("@"):
                if _skeleton(_key(line)) in self.known:
                    return
                if ":" not in line and not line.startswith("#"):
                    raise self.error("a line with a key, a colon and a value")
                self.strange = self.at + 1
            values["notes"].append(Note(before, self.take()))

    def begins(self, record: type[Record], path: tuple[int, ...]) -> bool:
        """Whether the next line is the first one of this record."""
        first = record.LINES[0]
        if isinstance(first, Table):
            return self.begins(first.record, (*path, 0))
        return isinstance(first, (Line, Count)) and self.matches(first.keys, path)

    def matches(self, keys: tuple[str, ...], path: tuple[int, ...]) -> bool:
        if self.at >= len(self.lines):
            return False
        found = _key(self.lines[self.at]).upper()
        return any(found == key.format(*path).upper() for key in keys)

    def take(self) -> str:
        self.at += 1
        return self.lines[self.at - 1]

    def error(self, expected: str) -> FormatError:
        if self.at >= len(self.lines):
            return FormatError(f"expected {expected}, but the file ends here", self.path, len(self.lines))
        found = self.lines[self.at]
        hint = f" (line {self.strange} has a key that is not known)" if self.strange else ""
        return FormatError(f"expected {expected}, found {found[:80]!r}{hint}", self.path, self.at + 1)


# -- writing --------------------------------------------------------------------------------------


class _Writer:
    """Collects the lines of one file."""

    def __init__(self, file: KeyedFile) -> None:
        self.file = file
        self.lines: list[str] = []

    def record(self, record: Record, path: tuple[int, ...]) -> None:
        notes: dict[str, list[str]] = {}
        for note in record.notes:
            notes.setdefault(note.before, []).append(note.text)
        self.items(record.LINES, record, path, notes)
        for left in notes.values():  # before what is no longer there, and at the end
            self.lines += left

    def items(
        self, items: Iterable[Item], record: Record, path: tuple[int, ...], notes: dict[str, list[str]]
    ) -> None:
        for item in items:
            if isinstance(item, (Line, Count)):  # at its place even where the line itself is missing
                self.lines += notes.pop(item.name, ())
            if isinstance(item, Remark):
                if not record.written:
                    self.lines.append(item.text)
            elif isinstance(item, Section):
                self.section(item, record, path, notes)
            elif isinstance(item, Table):
                for index, inner in enumerate(self.counted(item, record)):
                    self.lines += notes.pop(f"{item.name}[{index}]", ())
                    self.record(inner, (*path, index))
            elif isinstance(item, Each):
                for index, value in enumerate(self.counted(item, record)):
                    name = f"{item.name}[{index}]"
                    self.line(name, item, (*path, index), value, record, notes)
            elif isinstance(item, Count):
                number_of = len(getattr(record, item.of))
                # Where it was read without this line, it needs none for nothing.
                if item.name in record.written or number_of or not record.written:
                    line = Line(item.name, item.keys[0], INTEGER, *item.keys[1:])
                    self.line(item.name, line, path, number_of - item.offset, record, notes)
            else:
                value = getattr(record, item.name)
                if value is not None:
                    self.line(item.name, item, path, value, record, notes)
                elif not item.optional:
                    raise FormatError(f"{type(record).__name__}.{item.name} has no value")

    def section(
        self, item: Section, record: Record, path: tuple[int, ...], notes: dict[str, list[str]]
    ) -> None:
        names = [name for name in _names(item.lines) if not name.startswith("#")]
        content = any(getattr(record, name) not in (None, ()) for name in names)
        self.lines += notes.pop(item.name, ())
        if item.optional and not content and item.name not in record.written:
            return
        if self.lines and not record.written:
            self.lines.append("")
        self.lines.append(record.written.get(item.name, item.title))
        self.items(item.lines, record, path, notes)

    def counted(self, item: Each | Table, record: Record) -> tuple[Any, ...]:
        items: tuple[Any, ...] = getattr(record, item.name)
        if item.count is not None:
            wanted = item.count(_values(record), _values(self.file))
            if len(items) != wanted:
                kind = type(record).__name__
                raise FormatError(f"{kind}.{item.name} has {len(items)} items, but there have to be {wanted}")
        return items

    def line(
        self,
        name: str,
        item: Line | Each,
        path: tuple[int, ...],
        value: Any,
        record: Record,
        notes: dict[str, list[str]],
    ) -> None:
        self.lines += notes.pop(name, ())
        keys = [key.format(*path) for key in item.keys]
        before = record.written.get(name)
        if before is not None and _key(before).upper() in [key.upper() for key in keys]:
            if _same(item.kind.parse(_value(before)), value):
                self.lines.append(before)
                return
        try:
            content = item.kind.format(value)
        except (TypeError, ValueError) as error:
            kind = type(record).__name__
            raise FormatError(f"{kind}.{item.name} cannot be written: {error} ({value!r})") from None
        self.lines.append(f"{keys[0]}:".ljust(VALUE_COLUMN) + content)


def _same(one: Any, other: Any) -> bool:
    return bool(one == other) or repr(one) == repr(other)  # the latter for what is not a number


def _values(record: Record) -> dict[str, Any]:
    return {one.name: getattr(record, one.name) for one in fields(record)}


# -- lines and keys -------------------------------------------------------------------------------


def _key(line: str) -> str:
    """The key of a line, or the words of a title, which may be padded in any way."""
    return f"# {line.strip(' #!')}" if line.startswith("#") else line.partition(":")[0].strip()


def _value(line: str) -> str:
    return line.partition(":")[2].strip()


def _skeleton(key: str) -> str:
    """A key without its indices."""
    return " ".join("*" if word.replace("/", "").isdigit() else word for word in key.upper().split())


def _keys(items: Iterable[Item]) -> Iterator[str]:
    """The keys of all lines, and the titles, below these."""
    for item in items:
        if isinstance(item, Section):
            yield _key(item.title)
            yield from _keys(item.lines)
        elif isinstance(item, Table):
            yield from _keys(item.record.LINES)
        elif not isinstance(item, Remark):
            yield from (key.format(0, 0, 0, 0) for key in item.keys)


def _names(items: Iterable[Item]) -> Iterator[str]:
    for item in items:
        if isinstance(item, Section):
            yield from _names(item.lines)
        elif not isinstance(item, Remark):
            yield item.name
