"""The `.vex` file, VEX 1.5: the schedule of an experiment.

Blocks `$NAME;` hold definitions `def NAME; ... enddef;` and scans `scan NAME; ... endscan;`, and these
hold statements `name = value : value;`. `*` begins a comment. Comments and layout are kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from mpiframe.plugins.difx.formats.errors import FormatError
from mpiframe.plugins.difx.formats.text import TextFile

_T = TypeVar("_T")

_SPACE = re.compile(r"(?:\s|\*[^\n]*)+")
_COMMENT = re.compile(r"\*[^\n]*")
_ENDS = {"def": "enddef", "scan": "endscan"}


@dataclass(frozen=True)
class Statement:
    """`name = value : value;`, or `ref $BLOCK = value;`, of which the name is then "ref $BLOCK".

    A value is text as it is written, with its unit or quotes; one that is left out is "".
    """

    name: str
    values: tuple[str, ...] = ()
    lead: str = field(default="\n     ", compare=False, repr=False)  # what stands before it
    read_as: str = field(default="", compare=False, repr=False)

    def text(self) -> str:
        """As it is written, with what stands before it. Raises FormatError."""
        if self.read_as and _statement(self.read_as) == (self.name, self.values):
            return self.lead + self.read_as
        text = f"{self.name} = {' : '.join(self.values)};" if self.values else f"{self.name};"
        if _end_of(text, 0) != len(text) or _statement(text) != (self.name, self.values):
            raise FormatError(f"{self.name!r} with {self.values!r} cannot be written as a statement")
        return self.lead + text


class _Statements:
    """What all that holds statements has in common."""

    def _held(self) -> Iterator[Statement]:
        raise NotImplementedError

    def all(self, name: str) -> list[Statement]:
        """The statements of this name."""
        return [one for one in self._held() if one.name == name]

    def get(self, name: str) -> Statement:
        """The first statement of this name. Raises FormatError."""
        for one in self.all(name):
            return one
        raise FormatError(f"there is no {name!r} in {getattr(self, 'name', 'the vex file')}")


@dataclass(frozen=True)
class Definition(_Statements):
    """`def NAME; ... enddef;`, or a scan (kind "scan")."""

    name: str
    statements: tuple[Statement, ...] = ()
    kind: str = "def"
    lead: str = field(default="\n", compare=False, repr=False)
    tail: str = field(default="\n", compare=False, repr=False)  # before the end

    def _held(self) -> Iterator[Statement]:
        return iter(self.statements)

    def text(self) -> str:
        """As it is written, with what stands before it. Raises FormatError."""
        if self.kind not in _ENDS:
            raise FormatError(f"there is no {self.kind!r}, only {' and '.join(_ENDS)}")
        head = Statement(f"{self.kind} {self.name}", (), self.lead).text()
        return head + "".join(one.text() for one in self.statements) + self.tail + _ENDS[self.kind] + ";"


@dataclass(frozen=True)
class Block(_Statements):
    """`$NAME;` with what follows it; the name is without the dollar."""

    name: str
    items: tuple[Statement | Definition, ...] = ()
    lead: str = field(default="\n", compare=False, repr=False)

    def _held(self) -> Iterator[Statement]:
        return (one for one in self.items if isinstance(one, Statement))

    @property
    def definitions(self) -> list[Definition]:
        """The definitions, or scans, in their order."""
        return [one for one in self.items if isinstance(one, Definition)]

    def definition(self, name: str) -> Definition:
        """A definition by its name. Raises FormatError."""
        for one in self.definitions:
            if one.name == name:
                return one
        raise FormatError(f"there is no {name!r} in ${self.name}")

    def text(self) -> str:
        """As it is written, with what stands before it. Raises FormatError."""
        head = Statement(f"${self.name}", (), self.lead).text()
        return head + "".join(one.text() for one in self.items)


@dataclass(frozen=True)
class Vex(TextFile):
    """A `.vex` file. revision: as "1.5"."""

    revision: Statement
    blocks: tuple[Block, ...] = ()
    tail: str = field(default="\n", compare=False, repr=False)

    @classmethod
    def parse(cls, text: str, path: str = "") -> Vex:
        """The blocks in `text`. Raises FormatError."""
        return _Parser(text, path).file()

    def text(self) -> str:
        """The content of the file. Raises FormatError for what cannot be written."""
        return self.revision.text() + "".join(one.text() for one in self.blocks) + self.tail

    def block(self, name: str) -> Block:
        """The block of this name, with or without its dollar. Raises FormatError."""
        for one in self.blocks:
            if one.name == name.removeprefix("$"):
                return one
        raise FormatError(f"the vex file has no block ${name.removeprefix('$')}")


# -- reading --------------------------------------------------------------------------------------


def _end_of(text: str, start: int) -> int:
    """Where the statement that begins here ends, after its semicolon; -1 if nowhere."""
    at = start
    value_begins = False  # a quote is one of text only where a value begins: 77d52'43.2" has one too
    while at < len(text):
        sign = text[at]
        if sign == ";":
            return at + 1
        if sign == "*":
            found = _COMMENT.match(text, at)
            assert found is not None
            at = found.end()
            continue
        if sign == '"' and value_begins:
            at = text.find('"', at + 1)
            if at < 0:
                return -1
        if not sign.isspace():
            value_begins = sign in "=:"
        at += 1
    return -1


def _statement(text: str) -> tuple[str, tuple[str, ...]]:
    """The name and the values of a statement with its semicolon."""
    body, quoted = _without_comments(text)
    name, equals, rest = body.partition("=")
    values = tuple(_unhide(value.strip(), quoted) for value in rest.split(":")) if equals else ()
    return " ".join(_unhide(name, quoted).split()), values


def _without_comments(text: str) -> tuple[str, list[str]]:
    """The statement without comments, semicolon and quoted text, for which there are zero bytes."""
    found: list[str] = []
    quoted: list[str] = []
    at = 0
    value_begins = False
    while at < len(text) and text[at] != ";":
        sign = text[at]
        if sign == "*":
            match = _COMMENT.match(text, at)
            assert match is not None
            at = match.end()
            continue
        if sign == '"' and value_begins:
            end = text.find('"', at + 1) + 1
            quoted.append(text[at:end])
            found.append("\0")
            at = end
            value_begins = False
            continue
        if not sign.isspace():
            value_begins = sign in "=:"
        found.append(sign)
        at += 1
    return "".join(found), quoted


def _unhide(text: str, quoted: list[str]) -> str:
    return re.sub("\0", lambda _: quoted.pop(0), text) if "\0" in text else text


class _Parser:
    def __init__(self, text: str, path: str) -> None:
        if "\0" in text:
            raise FormatError(
                "expected text, found a zero byte", path, text.count("\n", 0, text.index("\0")) + 1
            )
        self.text = text
        self.path = path
        self.at = 0

    def file(self) -> Vex:
        first = self.next()
        if first is None or first.name != "VEX_rev" or len(first.values) != 1:
            raise self.error("VEX_rev = 1.5; at the begin", 0)
        blocks: list[Block] = []
        while True:
            at = self.at
            found = self.next()
            if found is None:
                return Vex(first, tuple(blocks), self.text[self.at :])
            if not found.name.startswith("$") or found.values:
                raise self.error("a block, as $SCHED;", at)
            blocks.append(self.block(found))

    def block(self, head: Statement) -> Block:
        items: list[Statement | Definition] = []
        while True:
            at = self.at
            found = self.next()
            if found is None or (found.name.startswith("$") and not found.values):
                self.at = at
                return Block(head.name[1:], tuple(items), head.lead)
            kind, _, name = found.name.partition(" ")
            if kind in _ENDS.values():
                raise self.error(f"a definition, before {kind}", at)
            items.append(self.definition(found, kind, name, at) if kind in _ENDS else found)

    def definition(self, head: Statement, kind: str, name: str, start: int) -> Definition:
        if not name or head.values:
            raise self.error(f"{kind} and a name", start)
        statements: list[Statement] = []
        while True:
            at = self.at
            found = self.next()
            if (
                found is None
                or found.name.split(" ")[0] in (*_ENDS, *_ENDS.values())
                or found.name[:1] == "$"
            ):
                if found is None or found.name != _ENDS[kind] or found.values:
                    raise self.error(f"{_ENDS[kind]} at the end of {kind} {name}", at)
                return Definition(name, tuple(statements), kind, head.lead, found.lead)
            statements.append(found)

    def next(self) -> Statement | None:
        """The next statement; None at the end, which is then still to be read."""
        space = _SPACE.match(self.text, self.at)
        start = space.end() if space else self.at
        if start == len(self.text):
            return None
        end = _end_of(self.text, start)
        if end < 0:
            raise self.error("a semicolon after this", self.at)
        lead, raw = self.text[self.at : start], self.text[start:end]
        self.at = end
        return Statement(*_statement(raw), lead, raw)

    def error(self, expected: str, at: int) -> FormatError:
        space = _SPACE.match(self.text, at)
        at = space.end() if space else at
        line = self.text.count("\n", 0, at) + 1
        found = repr(self.text[at : at + 60].partition("\n")[0]) if at < len(self.text) else "the end"
        return FormatError(f"expected {expected}, found {found}", self.path, line)
