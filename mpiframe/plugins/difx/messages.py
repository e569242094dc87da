"""DiFX's XML messages: `read` makes a Message of what came, `Message.write` makes what DiFX would send.

message = read(datagram)
if isinstance(message.body, Status):
    print(message.identifier, message.body.state, message.body.progress)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

from mpiframe.plugins.difx.messages_bodies import BODIES
from mpiframe.plugins.difx.messages_fields import Body, element, read_fields, to_int, write_fields
from mpiframe.plugins.difx.messages_recorders import Mark5Version
from mpiframe.plugins.difx.messages_xml import Element, MessageError, read_xml

LONGEST_MESSAGE = 8000
"""Bytes of a message that DiFX's own receiver keeps."""
_HEADER = b'<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
_LONGEST_NAME = 31
_MOST_RECEIVERS = 128

NO_PROCESS = -1
"""The `process` of a message that is not from mpifxcorr."""


@dataclass(frozen=True)
class Unknown(Body):
    """A body of a type that is not known here; `texts` are its elements, by tag."""

    texts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Message:
    """A message: who sent it, what about, and a body such as `Status`.

    sender: a host's name; receivers: hosts, or all, mark5, swc; none is everybody. process: mpifxcorr's rank
    (0 the manager, then datastreams, then cores), NO_PROCESS for other programs. identifier: the job's name.
    sequence: counts a process's messages from 0. other: elements of the body that its type does not have.
    header_type: the type in the header, where that is not the body's own (a mistake of DiFX's).
    """

    body: Body
    sender: str = ""
    receivers: tuple[str, ...] = ()
    process: int = NO_PROCESS
    identifier: str = ""
    sequence: int = 0
    other: Mapping[str, str] = field(default_factory=dict)
    header_type: str = ""

    @property
    def type(self) -> str:
        """As in the header."""
        return self.header_type or self.body.type

    def write(self) -> bytes:
        """What DiFX would send. Raises MessageError for what its receivers would cut off or not read."""
        if len(self.receivers) > _MOST_RECEIVERS:
            raise MessageError(f"{len(self.receivers)} receivers, DiFX reads no more than {_MOST_RECEIVERS}")
        for what, name in (("sender", self.sender), ("identifier", self.identifier)):
            if len(name.encode()) > _LONGEST_NAME:
                raise MessageError(f"{what} {name!r}: DiFX reads no more than {_LONGEST_NAME} bytes of it")
        if not self.type:
            raise MessageError("a message without a type")
        header = [
            element("from", self.sender),
            *(element("to", one) for one in self.receivers),
            element("mpiProcessId", str(self.process)),
            element("identifier", self.identifier),
            element("type", self.type),
        ]
        if isinstance(self.body, Unknown):
            fields = [element(tag, found) for tag, found in self.body.texts.items()]
        else:
            fields = write_fields(self.body)
        fields += [element(tag, found) for tag, found in self.other.items()]
        inner = "".join(fields)
        wrapper = self.body.wrapper
        if wrapper:
            inner = f"<{wrapper}>{inner}</{wrapper}>"
        body = element("seqNumber", str(self.sequence)) + inner
        whole = f"<difxMessage><header>{''.join(header)}</header><body>{body}</body></difxMessage>"
        data = _HEADER + whole.encode()
        if len(data) > LONGEST_MESSAGE:
            raise MessageError(f"{len(data)} bytes; DiFX reads no more than {LONGEST_MESSAGE}")
        return data


def read(data: bytes | str) -> Message:
    """Read a message. Raises MessageError, and nothing else, for whatever is none.

    A message of an unknown type is one with an `Unknown` body. The element around the fields may be missing,
    and all of the header but the type, as in what clients send to the guiServer.
    """
    root = read_xml(data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data)
    if root.tag != "difxMessage":
        raise MessageError(f"<{root.tag[:40]}> is no <difxMessage>")
    header, body = root.child("header"), root.child("body")
    if header is None or body is None:
        raise MessageError(f"a message without <{'header' if header is None else 'body'}>")
    kind = (header.text_of("type") or "").strip()
    if not kind:
        raise MessageError("a message without a type")
    found, header_type = BODIES.get(kind), ""
    if found is not None and found.type != kind:
        header_type = kind
    if kind == "Mark5StatusMessage" and body.child(Mark5Version.wrapper) is not None:
        found, header_type = Mark5Version, kind
    fields = [one for one in _fields(body, found.wrapper if found else "") if one.tag != "seqNumber"]
    other: Mapping[str, str] = {}
    made: Body
    if found is None:
        made, header_type = Unknown({one.tag: one.text for one in fields}), kind
    else:
        values, other = read_fields(found, fields)
        made = found(**values)
    return Message(
        body=made,
        sender=(header.text_of("from") or "").strip(),
        receivers=tuple(one.text.strip() for one in header.children if one.tag == "to"),
        process=_number(header, "mpiProcessId", NO_PROCESS),
        identifier=(header.text_of("identifier") or "").strip(),
        sequence=_number(body, "seqNumber", 0),
        other=other,
        header_type=header_type,
    )


def _fields(body: Element, wrapper: str) -> list[Element]:
    """The fields: those in the wrapper, and those that stand in the body itself.

    Of an unknown type nobody knows the wrapper: there it is whatever holds other elements.
    """
    fields = []
    for one in body.children:
        is_wrapper = one.tag == wrapper if wrapper else bool(one.children)
        fields += one.children if is_wrapper else [one]
    return fields


def _number(parent: Element, tag: str, default: int) -> int:
    found = parent.text_of(tag)
    if found is None:
        return default
    try:
        return to_int(found)
    except ValueError as error:
        raise MessageError(f"<{tag}>: {error}") from None


def with_body(message: Message, body: Body) -> Message:
    """The same message with another body of the same or another type."""
    return dataclasses.replace(message, body=body, other={}, header_type="")
