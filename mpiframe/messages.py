"""What travels and what is queued: the words that client and servers share.

On the wire a message is one `marshal` frame of plain tuples (see `codec`), because dataclasses cost
ten times as much to pickle as a small command takes to run. The classes here are what the two ends
hold before and after.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from mpiframe.wording import duration, represent, shorten, without_middle

if TYPE_CHECKING:
    from mpiframe.errors import MpiframeError


class Status(str, enum.Enum):
    """The states of a request; the last five are ends."""

    QUEUED = "queued"
    SENT = "sent"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"
    TIMEOUT = "timeout"

    def __str__(self) -> str:
        return self.value


class Mode(enum.IntEnum):
    """How a server runs a command."""

    EVAL = 0  # a string that is an expression
    EXEC = 1  # any other string
    CALL = 2  # a callable with its arguments
    MAP = 3  # a callable and a list of argument tuples: one chunk of a map


class Down(enum.IntEnum):
    """Kinds of message from the client to a server."""

    RUN = 0  # a batch of commands
    SESSION = 1  # the client's options, once, before the first command
    FORGET = 2  # drop every cached function
    GATE = 4  # the members of a collective command have all come, or one never will
    LIMIT = 5  # how many seconds a command may run that is about to come; then its process ends
    STOP = 3  # end the session: stop plugins, then wait for the client's process to end


class Up(enum.IntEnum):
    """Kinds of message from a server to the client."""

    ANSWERS = 0  # a batch of answers
    OUTPUT = 1  # a piece of what a command printed
    LOG = 2  # a log record
    DEFERRED = 3  # a command returned a Future: its answer comes later, the FIFO goes on
    EVENT = 4  # something a plugin emitted
    STOPPED = 5  # the last message of a session
    ARRIVED = 6  # a collective command waits at its gate
    SKIPPED = 7  # a command that was recalled has not been run
    PORTS = 8  # where the members of a collective are to connect that share no communicator with the others


class Outcome(enum.IntEnum):
    """How a command ended on the server, and so how its payload is to be read."""

    VALUE = 0  # the payload is the plain value itself
    PICKLED = 1  # the payload is pickle data, its large buffers travel beside it
    RAISED = 2  # (exception payload, traceback text, one-line summary)
    UNSENDABLE = 3  # the result cannot be pickled: (traceback text, summary)


class PluginCall(str):
    """The command of a request that a plugin's proxy made, as text: "plugin.command"."""

    __slots__ = ()


Buffers = Sequence[Any]
"""Contiguous buffers (PEP 3118) that travel beside a message, uncopied."""


class Owner(Protocol):
    """Whose request it is, if it is not the client's own."""

    name: str
    held: bool  # its requests are to stay queued; see `ClientLoop.hold`

    def printed(self, rank: int, request: Request, pieces: list[tuple[int, str]]) -> None:
        """The request has printed pieces; with the loop's lock."""


_OWN_BITS = 32


def world_wide(session: int, id: int) -> int:
    """The number in the world of what is number `id` in a session: a request or a function, and its sign."""
    number = session << _OWN_BITS | abs(id)
    return number if id >= 0 else -number


def within_session(number: int) -> int:
    """The number in its session of what has this one in the world; the client's own are the same in both."""
    id = abs(number) & ((1 << _OWN_BITS) - 1)
    return id if number >= 0 else -id


@dataclass(slots=True, eq=False)
class Request:
    """One command on one server (or on the first that is free), from push to response.

    The dispatcher reads `id, target, key, deadline, retries, large` and writes `server, serial, status,
    ended`; the last fields are written when the answer has been read.
    """

    id: int
    target: int | None
    key: int  # commands with the same key are expected to take about as long
    command: Any  # what the user passed: a string or a callable
    frame: tuple[Any, ...]  # what is sent: (id, mode, body, parameters, function key)
    buffers: Buffers = ()
    large: bool = False  # has buffers: not sent ahead to a busy server
    queued_at: float = 0.0  # seconds since the epoch
    sent_at: float | None = None
    deadline: float | None = None  # monotonic seconds
    retries: int = 0
    status: Status = Status.QUEUED
    server: int | None = None
    serial: int = 0  # it is the server's so-and-so-manieth command
    future: Any = None
    owner: Owner | None = None  # the session of an attached process; None for the client's own
    output: list[tuple[int, str]] | None = None  # (1 stdout or 2 stderr, text), as it arrived
    ended: bool = False  # nothing more will become of it
    told: bool = False  # the four below are valid, and `status` is final
    value: Any = None
    error: MpiframeError | None = None
    started_at: float | None = None
    finished_at: float | None = None


@dataclass(slots=True, eq=False)
class Response:
    """What became of one command.

    Attributes
    ----------
    id: the request's number; server: the rank that ran it (None if none did); host: its host name.
    command: what was pushed. status: done, failed, cancelled, lost or timeout.
    successful: status is done. ret: the value (None for statements and for failures).
    traceback: the remote traceback with source lines, or what went wrong; None on success.
    stdout, stderr: what the command printed.
    queued_at, started_at, finished_at: seconds since the epoch; the first by the client's clock, the
    others by the server's (None if it never started).
    """

    id: int
    server: int | None
    command: Any
    status: Status
    successful: bool
    ret: Any
    traceback: str | None
    stdout: str
    stderr: str
    queued_at: float
    started_at: float | None
    finished_at: float | None
    host: str | None
    error: MpiframeError | None = field(default=None, repr=False)

    def result(self) -> Any:
        """Return `ret`, or raise the error that ended the command."""
        if self.error is not None:
            raise self.error
        return self.ret

    @property
    def seconds(self) -> float | None:
        """How long it ran on its server; None if it never started or never ended."""
        if self.started_at is None or self.finished_at is None:
            return None
        return self.finished_at - self.started_at

    def __repr__(self) -> str:
        words = [f"{name}={shorten(value)}" for name, value in self._what_came()]
        return f"<Response {self.id}: {self._headline()}{''.join(f', {word}' for word in words)}>"

    def _headline(self) -> str:
        words = str(self.status)
        if self.server is not None:
            words += f" on server {self.server}"
        if self.seconds is not None:
            words += f" in {duration(self.seconds)}"
        return words

    def _what_came(self) -> list[tuple[str, str]]:
        found = []
        if self.ret is not None:
            found.append(("ret", represent(self.ret)))
        found += [(n, repr(t)) for n, t in (("stdout", self.stdout), ("stderr", self.stderr)) if t]
        if self.traceback:
            found.append(("error", self.traceback.rstrip().rpartition("\n")[2]))
        return found

    def _repr_html_(self) -> str:
        """The response for a notebook: what was run, and all that came of it."""
        from html import escape

        colour = "#2a7" if self.successful else "#b00"
        where = f" ({escape(self.host)})" if self.host else ""
        text = (
            f'<div class="mpiframe-response"><span style="color:{colour}">&#9679;</span> '
            f"request {self.id}: {escape(self._headline())}{where} &nbsp; "
            f"<code>{escape(shorten(self.command, 100))}</code>"
        )
        parts = [("stdout", self.stdout), ("stderr", self.stderr), ("", self.traceback or "")]
        if self.ret is not None:
            parts.insert(0, ("", represent(self.ret)))
        for name, part in parts:
            if part:
                head = f"<small>{name}</small>" if name else ""
                text += f'{head}<pre style="margin:0 0 0 1.5em">{escape(without_middle(part))}</pre>'
        return text + "</div>"


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """One row of `Client.servers`.

    `state` is idle, busy, unresponsive, lost, starting or closed. Starting is one that replaces a server
    that is gone. Unresponsive is a server that has left a ping unanswered for `Config.patience` seconds:
    its process is stopped or swapped out, its host cannot be reached, or C code holds the interpreter's
    lock, which may be honest work. It is left alone, and its answers count when they come. `queued`
    counts commands that wait for this server alone; `running` is the id of the request it works on;
    `cpu` is CPU seconds used so far, `rss` resident bytes (both None where the server did not answer).
    """

    rank: int
    host: str
    pid: int
    state: str
    queued: int
    running: int | None
    cpu: float | None
    rss: int | None


@dataclass(frozen=True, slots=True)
class WorldFacts:
    """What the world of this run stands on; `mpiframe doctor` prints it."""

    mpi: str
    thread_level: str
    ranks: int
    hosts: int
    doorbell: dict[int, str]  # server rank -> "unix", "tcp" or "polling"
    spin: bool
    cores: int
