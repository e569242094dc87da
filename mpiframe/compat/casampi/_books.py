"""The books of one client: its requests by id, and the responses to them."""

from __future__ import annotations

import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mpiframe.messages import Request, Status

_KEPT = 10_000
_KEPT_BYTES = 64 << 20
_LOOK_INTO = 1000  # elements of a container whose sizes are added up

QUEUED, SENT, RECEIVED, TIMEOUT = "holding queue", "request sent", "response received", "timeout"
"""The states of a request."""


class Response(dict[str, Any]):
    """One response; a dict, which unlike a plain one can be referred to weakly."""

    __slots__ = ("__weakref__",)


class Echo(tuple[bool, Any, Any]):
    """What a command with parameters gives: (successful, its value or traceback, the parameters after it)."""

    __slots__ = ()


@dataclass(slots=True, eq=False)
class Record:
    """One request. It is told of its end by `settle`, as the holder of the request behind it."""

    id: int
    command: str
    parameters: Any
    mode: str
    request: Request
    ended: Callable[[Record], None]
    place: Callable[[int], str]  # the words for where a server is
    hung: bool = False  # its server does not answer; if it ever does, so will this
    listeners: list[Callable[[], None]] = field(default_factory=list)
    response: Response | None = None  # made when it is asked for, once the request has ended
    fetched: bool = False

    def settle(self, request: Request) -> None:
        """The request has ended."""
        assert request is self.request
        self.ended(self)
        self.tell()

    def tell(self) -> None:
        """Call who asked to be told of the end, or of a time-out; once."""
        while self.listeners:
            self.listeners.pop()()

    @property
    def server(self) -> int | None:
        """The rank that has it or is to have it, None while it waits for the first free one."""
        return self.request.target if self.request.server is None else self.request.server

    @property
    def status(self) -> str:
        """Where it is."""
        if self.request.told:
            return _ENDS.get(self.request.status, RECEIVED)
        if self.hung:
            return TIMEOUT
        return QUEUED if self.request.status is Status.QUEUED else SENT

    def as_request(self) -> dict[str, Any]:
        """The dict that describes the request."""
        return {
            "command": self.command,
            "parameters": self.parameters,
            "mode": self.mode,
            "id": self.id,
            "server": self.server,
            "status": self.status,
        }

    def failure(self) -> str | None:
        """The traceback of a request that has ended, None if it was successful."""
        error, value = self.request.error, self.request.value
        if error is not None:
            return getattr(error, "remote_traceback", None) or str(error)
        return value[1] if isinstance(value, Echo) and not value[0] else None

    def respond(self) -> Response:
        """The response; only of a request that has ended or whose server hangs."""
        if self.response is not None:
            return self.response
        response = Response(self.as_request())
        request = self.request
        if not request.told:
            return _failed(response, f"Timeout of assigned {self.place(self.server or 0)}")
        failure, value = self.failure(), request.value
        if isinstance(value, Echo):
            _, value, response["parameters"] = value
        if request.status is Status.CANCELLED:
            failure = "The services were stopped before this request was sent; it never ran."
        elif request.status is Status.LOST:
            where = "server" if request.server is None else self.place(request.server)
            failure = f"Timeout of assigned {where}. {failure}"
        else:
            response["command_start_time"] = request.started_at
            response["command_stop_time"] = request.finished_at
        if failure is not None:
            _failed(response, failure)
        else:
            response["successful"], response["traceback"], response["ret"] = True, None, value
        self.response = response
        request.value = None  # the response holds it
        return response


_ENDS = {Status.CANCELLED: QUEUED, Status.LOST: TIMEOUT}


def _failed(response: Response, traceback: str) -> Response:
    response.update(successful=False, ret=None, traceback=traceback)
    return response


class Books:
    """All requests. A response that was fetched can be fetched again for as long as somebody holds it, and
    while it is among the last ones; then it is let go, or a long run would fill the memory.
    """

    def __init__(self) -> None:
        self._records: dict[int, Record] = {}
        self._last = 0
        self._fetched: deque[tuple[int, int]] = deque()  # (id, about how many bytes), oldest first
        self._bytes = 0
        self._lock = threading.Lock()  # several threads may fetch
        self._held: weakref.WeakValueDictionary[int, Response] = weakref.WeakValueDictionary()

    def next_id(self) -> int:
        """Ids are consecutive and start at 1."""
        self._last += 1
        return self._last

    def add(self, record: Record) -> None:
        """Take a request in."""
        self._records[record.id] = record

    def find(self, ids: Iterable[int]) -> list[Record | Response]:
        """Records by id, or just the responses of those let go of. Raises KeyError for an unknown id."""
        found: list[Record | Response] = []
        for id in ids:
            entry = self._records.get(id) or self._held.get(id)
            if entry is None:
                known = isinstance(id, int) and 0 < id <= self._last
                raise KeyError(
                    f"the response of command request {id} was fetched long ago and has been let go of"
                    if known
                    else f"there is no command request {id!r}; the last one is {self._last}"
                )
            found.append(entry)
        return found

    def fetch(self, record: Record) -> Response:
        """The response of a request that has ended."""
        with self._lock:
            response = record.respond()
            if not record.fetched and record.response is not None:
                record.fetched = True
                self._keep(record.id, response)
            return response

    def responses(self) -> dict[int, Response]:
        """Those of all requests that have ended, by id; they are not fetched by that."""
        with self._lock:
            return {record.id: record.respond() for record in self.records() if record.request.told}

    def _keep(self, id: int, response: Response) -> None:
        """Hold a response that was fetched, and let go of the oldest where these become too many."""
        size = _size(response["ret"]) + _size(response["parameters"])
        self._fetched.append((id, size))
        self._bytes += size
        while len(self._fetched) > _KEPT or (self._bytes > _KEPT_BYTES and len(self._fetched) > 1):
            old, size = self._fetched.popleft()
            self._bytes -= size
            let_go = self._records.pop(old)
            assert let_go.response is not None
            self._held[old] = let_go.response

    def records(self) -> list[Record]:
        """All that are kept, by id."""
        return list(self._records.values())


def _size(value: Any) -> int:
    """About how many bytes a value takes; containers are looked into one level deep."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple, set)):
        some = list(value)[:_LOOK_INTO]
        known = sum(getattr(item, "nbytes", None) or sys.getsizeof(item) for item in some)
        return known * len(value) // max(len(some), 1)
    return getattr(value, "nbytes", None) or sys.getsizeof(value)
