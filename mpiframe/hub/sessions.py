"""What the hub remembers of attached processes: sessions, their requests, and results that wait for them.

A session outlives its connections. Its requests go on when the process that pushed them has left or was
killed, and their results wait here until a process that came back to the session has fetched them.

So that they cannot fill the memory (`Config.session_memory`), the requests of a session are held in their
queues while too much waits for it: while nobody is attached, of all its results; else, of what its process
does not take. Of what its process has taken the oldest is let go here, as it is there.
"""

from __future__ import annotations

import itertools
import re
import select
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mpiframe.errors import MpiframeError, ServerLost, WorldError
from mpiframe.hub.wire import Stream
from mpiframe.messages import Request, Status, within_session, world_wide

if TYPE_CHECKING:
    from mpiframe.client import Client
    from mpiframe.together import Together

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")
_LIVE = 1 << 20  # bytes that may wait for a process until what commands print is sent with their answers
_OVERHEAD = 512  # bytes that a result takes beside its own
_FUNCTIONS = 4096  # functions of attached processes that servers keep at most


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


class Sessions:
    """All sessions of a hub."""

    def __init__(self, client: Client, wake: Callable[[], None]) -> None:
        self._client = client
        self._wake = wake
        self._lock = threading.RLock()
        self._sessions: dict[str, Session] = {}
        self._numbers = itertools.count(1)
        self._keys: set[int] = set()  # of functions that servers may have kept
        self.ending = ""  # why nothing more can be pushed
        self._draining = False

    def next_number(self) -> int:
        """One that neither a session nor a connection of this world has."""
        return next(self._numbers)

    def all(self) -> list[Session]:
        """Those that are attached, and those that something waits for."""
        with self._lock:
            return list(self._sessions.values())

    def attached(self) -> list[Attached]:
        """The connections."""
        return [found for s in self.all() if (found := s.attached) is not None]

    def count_attached(self) -> int:
        """How many sessions have a process, without those that only look on."""
        return sum(s.attached is not None and not s.watches for s in self.all())

    def find(self, name: str | None) -> Session | None:
        """The session of this name."""
        with self._lock:
            return self._sessions.get(name) if name is not None else None

    def enter(
        self,
        attached: Attached,
        session: str | None,
        take_over: bool,
        user: str,
        who: str,
        watch: bool = False,
    ) -> Attached | None:
        """Attach a connection to a session, new or known; the connection that has it no more.

        Raises Refused where another process has it, and it is not to be taken over.
        """
        if attached.session is not None:
            raise Refused("this connection has a session already")
        with self._lock:
            name = self._new_name(user) if session is None else session
            if _NAME.fullmatch(name) is None:
                raise Refused(
                    f"{name!r} is no name for a session: up to 64 letters, digits and . _ @ + -, "
                    "beginning with a letter or a digit"
                )
            found = self._sessions.get(name)
            before = found.attached if found is not None else None
            if before is not None and not take_over:
                raise Refused(
                    f"the session {name!r} is attached already ({before.who}). Take it over with "
                    "take_over=True, or attach with another name"
                )
            if found is None:
                memory = self._client._world.config.session_memory
                found = self._sessions[name] = Session(name, self.next_number(), memory, self._weighed)
            if before is not None:
                before.session = None
                found.leave()
            found.watches = watch
            attached.session, attached.who = found, who
            found.attached = attached
        found.weigh()
        return before

    def _new_name(self, user: str) -> str:
        stem = re.sub(r"[^A-Za-z0-9._-]+", "", user).strip("._-")[:50] or "session"
        return next(name for n in itertools.count(1) if (name := f"{stem}-{n}") not in self._sessions)

    def leave(self, attached: Attached, drop: bool) -> dict[str, Any]:
        """A process says goodbye; with `drop` it does not come back, and its requests are called off."""
        session = attached.session
        if session is not None and drop:
            self.call_off(session)
            with self._lock:
                session.drop()
                attached.session = None
                self._sessions.pop(session.name, None)
            session.weigh()
        return {}

    def call_off(self, session: Session) -> None:
        """Cancel all its requests that have not ended."""
        for request in session.requests():
            self._client._loop.call_off(request)

    def detach(self, attached: Attached) -> None:
        """A connection has ended. A session that nothing waits for ends with it."""
        attached.sources.clear()
        with self._lock:
            session, attached.session = attached.session, None
            if session is None or session.attached is not attached:
                return
            session.leave()
            if not session.records:
                self._sessions.pop(session.name, None)
        session.weigh()

    def push(self, requests: Sequence[Request]) -> None:
        """Queue requests of a session; where the world ends they are told so."""
        try:
            if self.ending:
                raise WorldError(self.ending)
            self._client._loop.push(requests)
        except MpiframeError as error:
            for request in requests:
                request.status, request.ended, request.value = Status.LOST, True, str(error)
                holder, request.future = request.future, None
                holder.settle(request)
        if any(request.deadline is not None for request in requests):
            self._client._loop.kick()  # whoever sleeps must know of the new deadline

    def keep_function(self, attached: Attached, key: int, body: bytes | None) -> tuple[int, bytes]:
        """The number in the world of a function, and its pickle data, which comes here once."""
        if body is not None:
            attached.bodies[key] = body
        number = world_wide(attached.number, key)
        self._keys.add(number)
        if len(self._keys) > _FUNCTIONS:
            self._keys = {number}
            self._client._loop.forget_functions()
        return number, attached.bodies[key]

    def rows(self) -> list[dict[str, Any]]:
        """Each session's name, whether it is connected or held, and how many requests are in which state."""
        state = self._client._loop.dispatcher.state
        rows: list[dict[str, Any]] = []
        for session in self.all():
            if session.watches:
                continue
            states = [state(request) for request in session.requests()]
            running = states.count(Status.RUNNING)
            rows.append(
                {
                    "name": session.name,
                    "connected": session.attached is not None,
                    "held": session.held,
                    "queued": len(states) - running,
                    "running": running,
                    "done": session.done,
                    "bytes": session.size,
                }
            )
        return rows

    def roster(self) -> dict[str, Any]:
        """Which servers there are."""
        world, loop = self._client._world, self._client._loop
        with loop.lock:
            live = loop.dispatcher.ranks()
            return {
                "live": live,
                "absent": [rank for rank in live if loop.dispatcher.is_absent(rank)],
                "lost": [rank for rank in world.servers if loop.dispatcher.is_lost(rank)],
                "places": [
                    [rank, world.members[rank].host, world.members[rank].pid] for rank in world.servers
                ],
            }

    def drain(self) -> None:
        """Wait for all that was pushed; of a session that is held nobody may ever come back for it."""
        self._draining = True
        loop = self._client._loop
        for session in self.all():
            if session.held:
                self.call_off(session)
        loop.wait(lambda: loop.open == loop.others_open == 0)

    def call_all_off(self) -> None:
        """The world is about to end: cancel all that sessions have pushed."""
        self.ending = self.ending or "the world is ending"
        for session in self.all():
            self.call_off(session)

    def _weighed(self, session: Session) -> None:
        if session.held and self._draining:
            self.call_off(session)
        self._client._loop.hold(session)

    def end(self, why: str) -> None:
        """The world ends."""
        for attached in self.attached():
            attached.stream.send({"op": "gone", "why": why, "ended": True})
