"""One session of a hub: its requests, and the results that wait for it.

A session outlives its connections. Its requests go on when the process that pushed them has left or was
killed, and their results wait here until a process that came back to the session has fetched them.

So that they cannot fill the memory (`Config.session_memory`), the requests of a session are held in their
queues while too much waits for it: while nobody is attached, of all its results; else, of what its process
does not take. Of what its process has taken the oldest is let go here, as it is there.
"""

from __future__ import annotations

import select
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mpiframe.errors import ServerLost, WorldError
from mpiframe.hub.wire import Stream
from mpiframe.messages import Request, Status, within_session

if TYPE_CHECKING:
    from mpiframe.together import Together

_LIVE = 1 << 20  # bytes that may wait for a process until what commands print is sent with their answers
_OVERHEAD = 512  # bytes that a result takes beside its own


class Refused(WorldError):
    """What an attached process asks for cannot be had."""


@dataclass(slots=True, eq=False)
class Attached:
    """One connection that has proved itself."""

    stream: Stream
    number: int  # of no other connection; functions are told apart by it
    session: Session | None = None
    who: str = ""
    watched: int = 0  # the events that the hub's selector waits for
    bodies: dict[int, bytes] = field(default_factory=dict)  # pickle data of its functions, by its own keys
    sources: set[str] = field(default_factory=set)  # the plugins whose events it is to have
    calls: int = 0  # that threads are busy with

    def has_left(self) -> bool:
        """Whether its process has closed its end, though not all that it sent may have been read."""
        poller = select.poll()
        gone = select.POLLHUP | select.POLLERR | getattr(select, "POLLRDHUP", 0)
        poller.register(self.stream.sock, gone)
        return bool(poller.poll(0))


class Record:
    """One request of a session until its result was fetched; it is told when the request ends."""

    __slots__ = (
        "answer",
        "buffers",
        "id",
        "label",
        "mark",
        "output",
        "request",
        "session",
        "size",
        "wanted",
        "whole",
    )

    def __init__(self, session: Session, id: int, label: str, wanted: Attached | None) -> None:
        self.session = session
        self.id = id
        self.label = label
        self.request: Request | None = None  # until it has ended
        self.wanted = wanted  # who is to have the answer when there is one
        self.whole = False  # the answer brings along all that was printed
        self.answer: dict[str, Any] | None = None
        self.buffers: Sequence[Any] = ()
        self.output: Sequence[tuple[int, str]] = ()
        self.size = 0
        self.mark = 0  # where in its stream the answer ends, once it was sent

    def settle(self, request: Request) -> None:
        """As `answers.Holder`."""
        self.session.settled(self, request)


class Session:
    """The requests of one session, by their own numbers. `messages.Owner` of what it pushes."""

    def __init__(self, name: str, number: int, memory: int, tell_held: Callable[[Session], None]) -> None:
        self.name = name
        self.number = number
        self.records: dict[int, Record] = {}  # until fetched
        self.last_id = 0
        self.last_service = 0  # of the calls that the user does not see; they count down
        self.attached: Attached | None = None
        self.size = 0  # bytes of results that are here
        self.done = 0  # requests that have ended
        self.watches = False  # it only looks on
        self.held = False  # nothing more of it is sent to servers
        self._memory = memory
        self._tell_held = tell_held
        self._lock = threading.RLock()
        self._ended: deque[Record] = deque()  # those that have ended, the oldest first
        self.collectives: dict[int, Together] = {}  # those under way, by the first id of each

    # -- from the hub -------------------------------------------------------------------------------------

    def begin(self, id: int, label: str, attached: Attached) -> Record:
        """Make the record of a new request. Raises Refused for a number that is in use."""
        with self._lock:
            if id in self.records or type(id) is not int or not 0 < abs(id) < 1 << 31:
                raise Refused(f"session {self.name!r} cannot have another request {id}")
            self.last_id = max(self.last_id, id)
            self.last_service = min(self.last_service, id)
            record = self.records[id] = Record(self, id, label, attached)
            return record

    def adopt(self, ids: Iterable[int], attached: Attached) -> dict[str, list[Any]]:
        """Send these answers, now or when they come; which of the requests are known, and by what label."""
        known, unknown = [], []
        with self._lock:
            for id in ids:
                record = self.records.get(id)
                if record is None:
                    unknown.append(id)
                    continue
                known.append([id, record.label])
                record.wanted, record.whole = attached, True
                if record.answer is not None:
                    self._deliver(record, attached)
        self.weigh()
        return {"known": known, "unknown": unknown}

    def fetched(self, ids: Iterable[int]) -> None:
        """The user has these results: nothing of them is kept."""
        with self._lock:
            for id in ids:
                record = self.records.get(id)
                if record is not None and record.answer is not None:
                    self._forget(record)

    def settled_together(self, ids: Iterable[int]) -> None:
        """A collective has ended, and its members were told of by other means."""
        with self._lock:
            for id in ids:
                self.records.pop(id, None)

    def leave(self) -> None:
        """The connection has ended; the requests go on."""
        with self._lock:
            self.attached = None
            for record in list(self.records.values()):
                record.wanted = None
                if record.id < 0 and record.answer is not None:
                    self._forget(record)  # nobody can ask for it again

    def drop(self) -> None:
        """Nobody will come back."""
        with self._lock:
            self.attached = None
            for record in list(self.records.values()):
                record.wanted = None
                self._forget(record)

    def requests(self) -> list[Request]:
        """Those that have not ended."""
        with self._lock:
            return [r.request for r in self.records.values() if r.request is not None]

    # -- from the client's loop ---------------------------------------------------------------------------

    def settled(self, record: Record, request: Request) -> None:
        """A request has ended: its answer goes to the process, or waits for it."""
        answer: dict[str, Any] = {
            "op": "answer",
            "id": record.id,
            "status": request.status.value,
            "server": request.server,
            "times": [request.queued_at, request.sent_at, request.started_at, request.finished_at],
        }
        buffers: list[Any] = []
        if type(request.value) is tuple:
            content, others = request.value
            buffers = [content, *others]
        else:
            refused = request.status is Status.LOST and request.server is None and request.value
            answer["refused" if refused else "why"] = request.value
            if isinstance(request.error, ServerLost):
                request.error.seen = True  # the session is told
        with self._lock:
            record.request = None
            record.answer, record.buffers, record.output = answer, buffers, request.output or ()
            self.done += record.id > 0  # and no service call
            if record.id not in self.records:  # the session was dropped
                return
            record.size = _OVERHEAD + sum(memoryview(b).nbytes for b in buffers)
            record.size += sum(len(text) for _, text in record.output)
            self.size += record.size
            self._ended.append(record)
            attached = self.attached
            if attached is not None and record.wanted is attached:
                self._deliver(record, attached)
            elif record.id < 0:
                self._forget(record)
            if self.size > self._memory:
                self._make_room()
        self.weigh()

    def weigh(self) -> None:
        """Hold its requests, or release them, by what waits for it."""
        with self._lock:
            attached = self.attached
            waits = self.size if attached is None else attached.stream.unsent
            hold = waits > (self._memory * 3 // 4 if self.held else self._memory)
            if hold == self.held:
                return
            self.held = hold
        self._tell_held(self)

    def printed(self, rank: int, request: Request, pieces: list[tuple[int, str]]) -> None:
        """Send what a command printed, live, as long as the process takes it."""
        attached = self.attached
        record = self.records.get(within_session(request.id))
        if attached is None or record is None or record.wanted is not attached:
            return
        if attached.stream.unsent > _LIVE:
            record.whole = True
        else:
            attached.stream.send({"op": "output", "id": record.id, "server": rank, "pieces": pieces})

    # -- inside (with the lock) ---------------------------------------------------------------------------

    def _deliver(self, record: Record, attached: Attached) -> None:
        assert record.answer is not None
        answer = record.answer
        if record.whole:
            answer = {**answer, "pieces": list(record.output)}
        record.mark = attached.stream.send(answer, record.buffers)

    def _forget(self, record: Record) -> None:
        if self.records.pop(record.id, None) is not None:
            self.size -= record.size
        record.buffers = record.output = ()

    def _make_room(self) -> None:
        """Let go of the oldest results that the process has; of others where even holding was no help."""
        attached = self.attached
        if attached is None and self.size <= 2 * self._memory:
            return
        self._ended = deque(r for r in self._ended if r.id in self.records and r.buffers)
        has = attached.stream.sent if attached is not None else 0
        for record in list(self._ended):
            if self.size <= self._memory * 7 // 8:  # so that not each new one makes us look at all
                return
            if attached is not None and record.wanted is attached and 0 < record.mark <= has:
                self._let_go(record, True)
        for record in list(self._ended)[:-1]:
            if self.size > 2 * self._memory and record.buffers:
                self._let_go(record, False)

    def _let_go(self, record: Record, sent: bool) -> None:
        assert record.answer is not None
        why = "had been sent to the process that was attached, and was" if sent else "was"
        record.answer = {
            **record.answer,
            "dropped": f"the result of request {record.id} ({record.label}) {why} let go here, because the "
            f"results that waited for session {self.name!r} took more than {self._memory >> 20} MiB "
            "(MPIFRAME_SESSION_MEMORY)",
        }
        self.size -= record.size - _OVERHEAD
        record.size = _OVERHEAD
        record.buffers = record.output = ()
