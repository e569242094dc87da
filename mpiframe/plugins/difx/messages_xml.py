"""XML of DiFX messages: read without ever following what a stranger put into it, written as DiFX does.

The standard library's expat does the reading. A document with a DOCTYPE is refused where that begins: there
are no entities of its own to be expanded or fetched; depth, length and number of elements are bounded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from xml.parsers import expat

from mpiframe.errors import MpiframeError

LONGEST_BYTES = 65536
"""No datagram is longer. DiFX itself sends at most 8000 bytes."""
_DEEPEST = 16
_MOST_ELEMENTS = 4096
_ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&apos;"}
_SPECIAL = re.compile("[&<>\"'\x00-\x1f]")
_NOT_XML = re.compile("[\ud800-\udfff\ufffe\uffff]")


class MessageError(MpiframeError, ValueError):
    """A message cannot be read, or cannot be written as DiFX would."""


@dataclass
class Element:
    """A tag with its attributes, its text, and what is in it."""

    tag: str
    attributes: dict[str, str] = field(default_factory=dict)
    text: str = ""
    children: list[Element] = field(default_factory=list)

    def child(self, tag: str) -> Element | None:
        """The first one of this name."""
        return next((one for one in self.children if one.tag == tag), None)

    def text_of(self, tag: str) -> str | None:
        """The text of the first child of this name, None if there is none."""
        found = self.child(tag)
        return None if found is None else found.text


class _Reader:
    def __init__(self) -> None:
        self.root: Element | None = None
        self._open: list[tuple[Element, list[str]]] = []
        self._count = 0
        # Attributes and text come decoded; there is no other encoding in DiFX's messages.
        self._parser = parser = expat.ParserCreate("utf-8")
        parser.StartDoctypeDeclHandler = self._refuse
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text

    def read(self, data: bytes) -> Element:
        try:
            self._parser.Parse(data, True)
        except expat.ExpatError as error:
            raise MessageError(f"no XML at line {error.lineno}, column {error.offset}: {error}") from None
        except ValueError as error:
            raise error if isinstance(error, MessageError) else MessageError(f"no XML: {error}") from None
        if self.root is None:
            raise MessageError("no XML: there is no element")
        return self.root

    def _refuse(self, *declared: object) -> None:
        raise MessageError(f"a DOCTYPE ({declared[0]}) has no place in a message")

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        self._count += 1
        if len(self._open) >= _DEEPEST or self._count > _MOST_ELEMENTS:
            raise MessageError(f"more than {_DEEPEST} elements in each other, or {_MOST_ELEMENTS} in all")
        element = Element(tag, dict(attributes))
        if self._open:
            self._open[-1][0].children.append(element)
        else:
            self.root = element
        self._open.append((element, []))

    def _end(self, _tag: str) -> None:
        element, parts = self._open.pop()
        element.text = "".join(parts)

    def _text(self, text: str) -> None:
        self._open[-1][1].append(text)


def read_xml(data: bytes) -> Element:
    """The root of a document. Raises MessageError for anything that is none, whatever it is."""
    if len(data) > LONGEST_BYTES:
        raise MessageError(f"{len(data)} bytes are no message; none has more than {LONGEST_BYTES}")
    # The library sends the zero that ends a text in C along with it now and then.
    return _Reader().read(data.rstrip(b"\0"))


def escaped(text: str) -> str:
    """A text for an element or an attribute; control characters become [[ 10]], as DiFX writes them."""
    if found := _NOT_XML.search(text):
        raise MessageError(f"XML cannot hold {found.group()!r}, in {text[:60]!r}")
    return _SPECIAL.sub(lambda one: _ESCAPES.get(one.group()) or f"[[{ord(one.group()):3d}]]", text)
