"""The `.v2d` file: options for vex2difx.

`name = value[, value]`, of which several may stand on a line, alone or in `KIND NAME { ... }`; a value
has no blanks; `#` begins a comment. Comments and layout are kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from mpiframe.plugins.difx.formats import dates
from mpiframe.plugins.difx.formats.errors import FormatError
from mpiframe.plugins.difx.formats.text import TextFile, flag, integer, number

_T = TypeVar("_T")

_TOKEN = re.compile(r"(?P<space>(?:\s|#[^\n]*)+)|(?P<word>[^\s#={},]+)|(?P<sign>[={},])")
_WORD = re.compile(r"[^\s#={},]+")


@dataclass(frozen=True)
class V2dSetting:
    """A name with its values, as text; `number`, `integer`, `flag` and `mjd` read the first one."""

    name: str
    values: tuple[str, ...]
    lead: str = field(default="\n", compare=False, repr=False)  # what stands before it
    read_as: str = field(default="", compare=False, repr=False)

    @property
    def value(self) -> str:
        """The only value, or all of them as they are written."""
        return ",".join(self.values)

    @property
    def number(self) -> float:
        """The value as a number. Raises FormatError."""
        return self._as(number)

    @property
    def integer(self) -> int:
        """The value as an integer. Raises FormatError."""
        return self._as(integer)

    @property
    def flag(self) -> bool:
        """The value as True or False. Raises FormatError."""
        return self._as(lambda text: bool(integer(text)) if text in ("0", "1") else flag(text))

    @property
    def mjd(self) -> float:
        """The value, a date in any form that vex2difx takes, as an MJD. Raises FormatError."""
        return self._as(dates.mjd)

    def _as(self, read: Callable[[str], _T]) -> _T:
        try:
            return read(self.value)
        except ValueError as error:
            raise FormatError(f"{self.name} = {self.value}: {error} was expected") from None

    def text(self) -> str:
        """As it is written, with what stands before it."""
        if self.read_as and _setting_of(self.read_as) == (self.name, self.values):
            return self.lead + self.read_as
        if not _WORD.fullmatch(self.name) or not self.values or not all(map(_WORD.fullmatch, self.values)):
            raise FormatError(
                f"{self.name!r} = {self.values!r} cannot be written: one has blanks or is empty"
            )
        return f"{self.lead}{self.name} = {', '.join(self.values)}"


class _Settings:
    """What a file and a section have in common."""

    def _settings(self) -> Iterator[V2dSetting]:
        raise NotImplementedError

    def get(self, name: str) -> V2dSetting | None:
        """The last setting of this name, which is the one that counts."""
        found = self.all(name)
        return found[-1] if found else None

    def all(self, name: str) -> list[V2dSetting]:
        """All settings of this name, as the scans of a rule."""
        return [one for one in self._settings() if one.name.lower() == name.lower()]


@dataclass(frozen=True)
class V2dSection(_Settings):
    """`KIND NAME { ... }`; a section without a name has the name "" ."""

    kind: str
    name: str
    settings: tuple[V2dSetting, ...] = ()
    lead: str = field(default="\n\n", compare=False, repr=False)
    head: str = field(default="", compare=False, repr=False)  # up to the brace, as it was read
    tail: str = field(default="\n", compare=False, repr=False)  # before the closing brace

    def _settings(self) -> Iterator[V2dSetting]:
        return iter(self.settings)

    def text(self) -> str:
        """As it is written, with what stands before it."""
        head = self.head
        if not head or _TOKEN.sub(_words_only, head).split() != [self.kind, *filter(None, [self.name])]:
            if not _WORD.fullmatch(self.kind) or (self.name and not _WORD.fullmatch(self.name)):
                raise FormatError(
                    f"{self.kind!r} {self.name!r} cannot be written: one has blanks or is empty"
                )
            head = " ".join(filter(None, [self.kind, self.name])) + "\n{"
        return self.lead + head + "".join(one.text() for one in self.settings) + self.tail + "}"


@dataclass(frozen=True)
class V2d(_Settings, TextFile):
    """A `.v2d` file: settings and sections in their order."""

    items: tuple[V2dSetting | V2dSection, ...] = ()
    tail: str = field(default="\n", compare=False, repr=False)

    @classmethod
    def parse(cls, text: str, path: str = "") -> V2d:
        """The settings and sections in `text`. Raises FormatError."""
        return _Parser(text, path).file()

    def text(self) -> str:
        """The content of the file. Raises FormatError for what cannot be written."""
        return "".join(one.text() for one in self.items) + self.tail

    def _settings(self) -> Iterator[V2dSetting]:
        return (one for one in self.items if isinstance(one, V2dSetting))

    @property
    def vex(self) -> str:
        """The vex file, as it is named. Raises FormatError where there is none."""
        setting = self.get("vex")
        if setting is None:
            raise FormatError("the .v2d file names no vex file (vex = ...)")
        return setting.value

    @property
    def antennas(self) -> tuple[str, ...]:
        """The antennas to use; all those of the vex file where there are none."""
        setting = self.get("antennas")
        return setting.values if setting else ()

    def sections(self, kind: str) -> list[V2dSection]:
        """The sections of a kind, as ANTENNA or SETUP."""
        found = [one for one in self.items if isinstance(one, V2dSection)]
        return [one for one in found if one.kind.upper() == kind.upper()]


def _words_only(match: re.Match[str]) -> str:
    return match["word"] or " "


def _setting_of(text: str) -> tuple[str, tuple[str, ...]]:
    words = [match["word"] for match in _TOKEN.finditer(text) if match["word"]]
    return words[0], tuple(words[1:])


class _Parser:
    def __init__(self, text: str, path: str) -> None:
        self.whole = text
        self.path = path
        # Each character is part of a token: the three alternatives leave nothing out.
        self.tokens = list(_TOKEN.finditer(text))
        self.at = 0

    def file(self) -> V2d:
        items: list[V2dSetting | V2dSection] = []
        while True:
            lead = self.space()
            if self.at >= len(self.tokens):
                return V2d(tuple(items), tail=lead)
            items.append(self.item(lead))

    def item(self, lead: str) -> V2dSetting | V2dSection:
        begin = self.at
        name = self.word("the name of a setting or the kind of a section")
        self.space()
        if self.sign() == "=":
            return self.setting(name, lead, begin)
        title = ""
        if self.sign() != "{":
            title = self.word(f"= or {{ after {name!r}")
            self.space()
        if self.sign() != "{":
            raise self.error(f"{{ after {name} {title}")
        self.at += 1
        head = self.text(begin)
        settings: list[V2dSetting] = []
        while True:
            inner = self.space()
            if self.sign() == "}":
                self.at += 1
                return V2dSection(name, title, tuple(settings), lead, head, inner)
            start = self.at
            key = self.word(f"a setting, or }} at the end of {name} {title}")
            self.space()
            if self.sign() != "=":
                raise self.error(f"= after {key!r}")
            settings.append(self.setting(key, inner, start))

    def setting(self, name: str, lead: str, begin: int) -> V2dSetting:
        values = []
        while True:
            self.at += 1  # the sign before the value
            self.space()
            values.append(self.word(f"a value of {name}"))
            end = self.at
            self.space()
            if self.sign() != ",":
                self.at = end  # the blanks belong to what follows
                return V2dSetting(name, tuple(values), lead, self.text(begin))

    def text(self, begin: int) -> str:
        return "".join(token[0] for token in self.tokens[begin : self.at])

    def space(self) -> str:
        if self.at < len(self.tokens) and self.tokens[self.at]["space"]:
            self.at += 1
            return self.tokens[self.at - 1][0]
        return ""

    def sign(self) -> str | None:
        return self.tokens[self.at]["sign"] if self.at < len(self.tokens) else None

    def word(self, expected: str) -> str:
        word = self.tokens[self.at]["word"] if self.at < len(self.tokens) else None
        if word is None:
            raise self.error(expected)
        self.at += 1
        return word

    def error(self, expected: str) -> FormatError:
        if self.at >= len(self.tokens):
            return FormatError(
                f"expected {expected}, but the file ends", self.path, self.whole.count("\n") + 1
            )
        token = self.tokens[self.at]
        line = self.whole.count("\n", 0, token.start()) + 1
        return FormatError(f"expected {expected}, found {token[0][:80]!r}", self.path, line)


def setting(name: str, *values: str | float) -> V2dSetting:
    """A new setting, of text, numbers or flags."""
    return V2dSetting(name, tuple(str(value) for value in values))
