"""How the fields of a message's body are read and written: each is declared once, beside its dataclass.

A body is a frozen dataclass whose fields are made by the functions here, in the order in which DiFX sends
them. What reads is lenient as DiFX is (a missing element is the default, blanks do not matter); numbers that
are none are a MessageError that names the element.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from mpiframe.plugins.difx.messages_xml import Element, MessageError, escaped

LONGEST_TEXT = 1023
"""Bytes of one element's text that DiFX's own reader keeps; it cuts off the rest without a word."""
MJD = "%9.7f"
"""How DiFX writes a modified Julian day."""
_KEY = "difx"
_INT = re.compile(r"[+-]?[0-9]{1,20}")
_REAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,5})?")


@dataclass(frozen=True)
class Codec:
    """How one field is found among elements, and which elements it becomes."""

    tags: tuple[str, ...]
    read: Callable[[list[Element]], Any]
    write: Callable[[Any], Iterable[str]]


@dataclass(frozen=True)
class Body:
    """Base of all bodies. type: as in the header; wrapper: the element around the fields, "" for none."""

    type: ClassVar[str] = ""
    wrapper: ClassVar[str] = ""


def _field(codec: Codec, default: Any) -> Any:
    return dataclasses.field(default=default, metadata={_KEY: codec})


def codecs(body: type[Body] | Body) -> list[tuple[str, Codec]]:
    """The names of a body's fields with their codecs, in the order in which they are sent."""
    return [(one.name, one.metadata[_KEY]) for one in dataclasses.fields(body) if _KEY in one.metadata]


# -- single elements ------------------------------------------------------------------------------


def _single(tag: str, decode: Callable[[str], Any], encode: Callable[[Any], str], optional: bool) -> Codec:
    def read(found: list[Element]) -> Any:
        try:
            return decode(found[0].text)
        except ValueError as error:
            raise MessageError(f"<{tag}>: {error}") from None

    def write(value: Any) -> list[str]:
        if value is None and optional:
            return []
        return [element(tag, encode(value))]

    return Codec((tag,), read, write)


def element(tag: str, text: str) -> str:
    """An element with this text, escaped. Raises MessageError if DiFX would cut it."""
    content = escaped(text)
    if len(content.encode()) > LONGEST_TEXT:
        raise MessageError(f"<{tag}>: {len(content.encode())} bytes, DiFX reads no more than {LONGEST_TEXT}")
    return f"<{tag}>{content}</{tag}>"


def attribute(name: str, value: str) -> str:
    """name="value", with a blank before it."""
    return f' {name}="{escaped(value)}"'


def text(tag: str) -> Any:
    """A text, "" where there is none."""
    return _field(_single(tag, str, str, False), "")


def optional_text(tag: str) -> Any:
    """A text; None leaves the element out."""
    return _field(_single(tag, str, str, True), None)


def integer(tag: str, default: int = 0) -> Any:
    """A whole number."""
    return _field(_single(tag, to_int, str, False), default)


def optional_integer(tag: str) -> Any:
    """A whole number; None leaves the element out."""
    return _field(_single(tag, to_int, str, True), None)


def hexadecimal(tag: str) -> Any:
    """A status word: 0x and eight digits."""
    return _field(_single(tag, _to_word, lambda v: f"0x{v:08x}", False), 0)


def real(tag: str, form: str, default: float = 0.0) -> Any:
    """A number, written in this form of C's."""
    return _field(_single(tag, to_float, lambda value: _formatted(tag, form, value), False), default)


def optional_real(tag: str, form: str) -> Any:
    """A number; None leaves the element out."""
    return _field(_single(tag, to_float, lambda value: _formatted(tag, form, value), True), None)


def flag(tag: str, yes: str = "true", no: str = "false") -> Any:
    """Yes or no. DiFX takes 0, n, f and nothing for no, all else for yes."""
    return _field(
        _single(
            tag,
            lambda found: found.strip()[:1].lower() not in ("", "0", "n", "f"),
            lambda v: yes if v else no,
            False,
        ),
        False,
    )


def choice(tag: str, kind: Callable[[str], Any], default: Any) -> Any:
    """One of an enumeration of texts, or a text that is none of them."""
    return _field(_single(tag, kind, str, False), default)


def optional_choice(tag: str, kind: Callable[[str], Any]) -> Any:
    """The same; None leaves the element out."""
    return _field(_single(tag, kind, str, True), None)


def _formatted(tag: str, form: str, value: float) -> str:
    if not math.isfinite(value):
        raise MessageError(f"<{tag}>: {value} is no number that DiFX can read")
    return form % value


def to_int(found: str) -> int:
    """A whole number. Raises ValueError."""
    found = found.strip()
    if not _INT.fullmatch(found):
        raise ValueError(f"{found[:40]!r} is no whole number")
    return int(found)


def to_float(found: str) -> float:
    """A finite number. Raises ValueError."""
    found = found.strip()
    if not _REAL.fullmatch(found) or not math.isfinite(value := float(found)):
        raise ValueError(f"{found[:40]!r} is no number")
    return value


def _to_word(found: str) -> int:
    found = found.strip()
    if not re.fullmatch(r"0[xX][0-9a-fA-F]{1,8}|[0-9]{1,10}", found):
        raise ValueError(f"{found[:40]!r} is no status word")
    return int(found, 16 if found[:2] in ("0x", "0X") else 10) & 0xFFFFFFFF


# -- several elements -----------------------------------------------------------------------------


def texts(tag: str) -> Any:
    """An element that may be repeated; a tuple of texts."""
    return _field(
        Codec(
            (tag,),
            lambda found: tuple(e.text for e in found),
            lambda value: [element(tag, one) for one in value],
        ),
        (),
    )


def numbered(prefix: str, count: int) -> Any:
    """prefix0, prefix1 ...: a tuple of whole numbers, as many as there are."""
    tags = tuple(f"{prefix}{n}" for n in range(count))

    def read(found: list[Element]) -> tuple[int, ...]:
        values = {one.tag: one.text for one in found}
        try:
            last = max(tags.index(tag) for tag in values)
            return tuple(to_int(values.get(tag, "0")) for tag in tags[: last + 1])
        except ValueError as error:
            raise MessageError(f"<{prefix}0> ...: {error}") from None

    def write(value: tuple[int, ...]) -> list[str]:
        if len(value) > count:
            raise MessageError(f"<{prefix}0> ...: {len(value)} numbers, there is room for {count}")
        return [element(tag, str(one)) for tag, one in zip(tags, value, strict=False)]

    return _field(Codec(tags, read, write), ())


def indices() -> Any:
    """index1, index2 ...: which one of several a parameter is for."""
    tags = tuple(f"index{n}" for n in range(1, 9))

    def read(found: list[Element]) -> tuple[int, ...]:
        try:
            return tuple(to_int(one.text) for one in sorted(found, key=lambda e: tags.index(e.tag)))
        except ValueError as error:
            raise MessageError(f"<index1> ...: {error}") from None

    def write(value: tuple[int, ...]) -> list[str]:
        if len(value) > len(tags):
            raise MessageError(f"<index1> ...: {len(value)} of them, there is room for {len(tags)}")
        return [element(tag, str(one)) for tag, one in zip(tags, value, strict=False)]

    return _field(Codec(tags, read, write), ())


def empty_elements(tag: str, kind: Any, names: tuple[str, ...], forms: tuple[str, ...], most: int) -> Any:
    """<tag a="" b=""/>, repeated: a tuple of `kind`; forms: of its attributes (%d, %s, %5.3f)."""

    def read(found: list[Element]) -> tuple[Any, ...]:
        return tuple(
            kind(*(_attribute(one, name, form) for name, form in zip(names, forms, strict=True)))
            for one in found
        )

    def write(value: tuple[Any, ...]) -> list[str]:
        if len(value) > most:
            raise MessageError(f"<{tag}>: {len(value)} of them, DiFX reads no more than {most}")
        result = []
        for one in value:
            values = (getattr(one, f.name) for f in dataclasses.fields(one))
            shown = (attribute(n, f % v) for n, f, v in zip(names, forms, values, strict=True))
            result.append(f"<{tag}{''.join(shown)}/>")
        return result

    return _field(Codec((tag,), read, write), ())


def _attribute(found: Element, name: str, form: str) -> Any:
    value = found.attributes.get(name, "").strip()
    if form == "%s":
        return value
    try:
        return to_int(value) if form == "%d" else to_float(value)
    except ValueError as error:
        raise MessageError(f"<{found.tag} {name}>: {error}") from None


def node(tag: str) -> Any:
    """<tag node="host"/>; "" leaves it out."""
    return _field(
        Codec(
            (tag,),
            lambda found: found[0].attributes.get("node", "").strip(),
            lambda value: [f"<{tag}{attribute('node', value)}/>"] if value else [],
        ),
        "",
    )


def nodes(tag: str, most: int) -> Any:
    """<tag nodes="a b c"/>: a tuple of hosts; they may be repeated, and the element too."""

    def write(value: tuple[str, ...]) -> list[str]:
        if len(value) > most:
            raise MessageError(f"<{tag}>: {len(value)} hosts, DiFX reads no more than {most}")
        return [f"<{tag}{attribute('nodes', ' '.join(map(checked_node, value)))}/>"] if value else []

    return _field(Codec((tag,), lambda found: tuple(h for one in found for h in hosts(one)), write), ())


def hosts(found: Element) -> tuple[str, ...]:
    """The hosts an element names, between blanks, commas or brackets."""
    return tuple(filter(None, re.split(r"[\s,()\[\]{}]+", found.attributes.get("nodes", ""))))


def checked_node(name: str) -> str:
    """A host's name, if it can stand in a list of them. Raises MessageError."""
    if not name or re.search(r"[\s,()\[\]{}]", name):
        raise MessageError(f"{name!r} is no name of a host")
    return name


def processes(tag: str, kind: Any, most: int) -> Any:
    """<tag nodes="a b" threads="n"/>, repeated: a tuple of `kind(nodes, threads)`."""

    def read(found: list[Element]) -> tuple[Any, ...]:
        made = []
        for one in found:
            threads = one.attributes.get("threads", "").strip()
            try:
                made.append(kind(hosts(one), to_int(threads) if threads else 1))
            except ValueError as error:
                raise MessageError(f"<{tag} threads>: {error}") from None
        return tuple(made)

    def write(value: tuple[Any, ...]) -> list[str]:
        if sum(len(one.nodes) for one in value) > most:
            raise MessageError(f"<{tag}>: more hosts than the {most} that DiFX reads")
        return [
            f"<{tag}{attribute('nodes', ' '.join(map(checked_node, one.nodes)))}"
            f"{attribute('threads', str(one.threads))}/>"
            for one in value
        ]

    return _field(Codec((tag,), read, write), ())


def nested(tag: str, kind: Any) -> Any:
    """An element with fields of its own; None leaves it out."""

    def read(found: list[Element]) -> Any:
        return kind(**read_fields(kind, found[0].children)[0])

    def write(value: Any) -> list[str]:
        return [] if value is None else [f"<{tag}>{''.join(write_fields(value))}</{tag}>"]

    return _field(Codec((tag,), read, write), None)


# -- all fields of a body -------------------------------------------------------------------------


def read_fields(kind: type[Body], found: Iterable[Element]) -> tuple[dict[str, Any], dict[str, str]]:
    """(the fields that are there, the texts of elements that are none of them). Raises MessageError."""
    by_tag: dict[str, list[Element]] = {}
    for one in found:
        by_tag.setdefault(one.tag, []).append(one)
    values = {}
    for name, codec in codecs(kind):
        mine = [one for tag in codec.tags for one in by_tag.pop(tag, [])]
        if mine:
            values[name] = codec.read(mine)
    return values, {tag: some[0].text for tag, some in by_tag.items()}


def write_fields(body: Body) -> list[str]:
    """The elements of a body. Raises MessageError."""
    return [part for name, codec in codecs(body) for part in codec.write(getattr(body, name))]
