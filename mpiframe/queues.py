"""The dispatcher: which request goes to which server, and when. A state machine without I/O.

Events go in (`joined`, `pushed`, `answered`, `deferred`, `recalled`, `lost`, `paused`, `resumed`,
`cancelled`, `called_off`, `time_passed`, `held`, `released`), and `instructions` come out, which the client
carries out. There is no clock, no thread and no MPI here, so every rule of scheduling is tested by plain
calls.

The rules:

1. A request for one server waits in that server's own queue; the others wait in the shared queue. A
   server takes from its own queue first, then from the shared one, each in the order of pushing. Where
   several owners have requests in a queue (the client and sessions), they take turns, one request each.
2. A server that works gets more sent ahead only while all it holds, and what would follow, is known
   to be short (`Pace`). What it will have done before an idle server were awake waits for it even though
   there are idle ones: so many servers with next to nothing to do are not woken in turn. What was
   expected to be short can be long this time: then the client has those behind it back that any server
   may run (`awaited` and `spread`, `recallable` and `recalled`).
3. A request ends once. What is heard of it later is dropped.
4. The requests of an owner who is held stay queued until he is released.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from mpiframe.instructions import Cancel, End, Instruction, Interrupt, Overdue, Send
from mpiframe.messages import Owner, Request, Status
from mpiframe.pace import Pace
from mpiframe.turns import Queue, count_live

SHORT = 1e-3
"""Commands expected to take no longer than this (seconds) may be sent ahead."""
BUDGET = 2e-3
"""Seconds of expected work that a server may hold."""
WINDOW = 256
"""Commands that a server may hold at most."""
SINGLY = 16
"""Commands that a server may hold and still be sent one by one; more go together, when it has answered."""
WAKING = 100e-6
"""Seconds that it takes to wake an idle server, about: what a working one does sooner goes to that one."""
_FEW = 10_000
"""Waiting commands that are counted one by one when somebody asks how many there are."""
_SENT = Status.SENT  # looking a member up in its class takes as long as the rest of the line


@dataclass(slots=True)
class _Server:
    rank: int
    own: Queue = field(default_factory=Queue)
    sent: dict[int, Request] = field(default_factory=dict)  # in the order they were sent
    waiting: dict[int, Request] = field(default_factory=dict)  # answered by a Future, later
    load: float = 0.0  # expected seconds of all that is sent
    barrier: bool = False  # something long, unknown or large is among it: send nothing ahead
    queued: int = 0  # live requests in `own` that are not held (cancelled ones stay until they are reached)
    paused: bool = False  # gets nothing new
    absent: bool = False  # gone, and its replacement has not come yet; it is paused, too
    alone: bool = False  # what it was sent cannot be had back, so nothing is sent ahead
    serial: int = 0  # commands it was ever sent


class Dispatcher:
    """Feed it events; do what the instructions say. See the module's text for the rules."""

    def __init__(self, kill_grace: float = 30.0) -> None:
        self.pace = Pace()
        self.highest_first = False  # of the idle servers the highest rank, instead of the warmest
        self._servers: dict[int, _Server] = {}
        self._lost: set[int] = set()
        self._idle: dict[int, None] = {}  # an ordered set; the last to become idle is still warm
        self._warm: _Server | None = None  # the last one that was chosen from among the idle
        self._shared = Queue()
        self._held: set[Owner | None] = set()
        self._deadlines: list[tuple[float, int]] = []
        self._timed: dict[int, Request] = {}
        self.retried = 0  # how often a request was started again, because its server was lost
        self._kill_grace = kill_grace
        self._overdue: deque[tuple[float, Request]] = deque()  # timed out while they ran; when to say so
        self._story: deque[tuple[int, str, int | None]] = deque(maxlen=4096)

    # -- events ---------------------------------------------------------------------------------

    def joined(self, rank: int, alone: bool = False, serial: int = 0) -> list[Instruction]:
        """A server is ready for commands; `alone`: what it was sent cannot be recalled.

        `serial`: of the last command that it was sent past its queue.
        """
        before = self._servers.get(rank)
        server = self._servers[rank] = _Server(rank, alone=alone, serial=serial)
        if before is not None:  # it replaces this one
            server.own, server.queued = before.own, before.queued
        self._lost.discard(rank)
        self._idle[rank] = None
        return self._refill(server)

    def pushed(self, request: Request) -> list[Instruction]:
        """A request was made. Its target, if it has one, must be a live server."""
        if request.deadline is not None:
            if len(self._deadlines) > 2 * len(self._timed) + 64:  # most have ended long before their time
                self._deadlines = [(r.deadline or 0.0, r.id) for r in self._timed.values()]
                heapq.heapify(self._deadlines)
            heapq.heappush(self._deadlines, (request.deadline, request.id))
            self._timed[request.id] = request
        if self._held and request.owner in self._held:
            return self._pushed_held(request)
        if request.target is None:
            if not self._servers:
                return [self._end(request, Status.LOST, None)]
            if self._idle:
                if self.is_soon(request.key) and self._fits(self._warm, request):  # type: ignore[arg-type]
                    self._shared.add(request)  # and goes with others when it has answered
                    return []
                if self._shared.line:  # those that waited so far come first
                    self._shared.add(request)
                    return self.spread()
                if self.highest_first:
                    rank = max(self._idle)
                    del self._idle[rank]
                else:
                    # To look for the last one, and then delete it, is not flat.
                    rank = self._idle.popitem()[0]
                self._warm = self._servers[rank]
                return [self._send_one(self._warm, request)]
            if request.owner is self._shared.owner:
                self._shared.line.append(request)  # as `add`
            else:
                self._shared.add(request)
            return []
        server = self._servers.get(request.target)
        if server is None:
            return [self._end(request, Status.LOST, request.target)]
        if not server.sent and not server.paused:
            self._idle.pop(server.rank, None)
            return [self._send_one(server, request)]
        if not server.queued and len(server.sent) < SINGLY and self._fits(server, request):
            return [self._send_one(server, request)]
        if request.owner is server.own.owner:
            server.own.line.append(request)  # as `add`
        else:
            server.own.add(request)
        server.queued += 1
        return []

    def _pushed_held(self, request: Request) -> list[Instruction]:
        """As `pushed`, where its owner is held."""
        if request.target is None:
            queue = self._shared if self._servers else None
        else:
            server = self._servers.get(request.target)
            queue = server.own if server is not None else None
        if queue is None:
            return [self._end(request, Status.LOST, request.target)]
        queue.held.setdefault(request.owner, deque()).append(request)
        return []

    def taken(self, rank: int, request: Request) -> None:
        """The client has sent this request to a server that `idle` named."""
        del self._idle[rank]
        server = self._servers[rank]
        if request.target is None:
            self._warm = server
        self._book(server, request)

    def answered(self, rank: int, answers: Iterable[tuple[int, float]]) -> list[Instruction]:
        """A server answered requests: pairs of id and seconds that the command took."""
        server = self._servers.get(rank)
        if server is None:
            return []
        sent, timed = server.sent, self._timed
        for id, seconds in answers:
            request = sent.pop(id, None)
            if request is None:
                server.waiting.pop(id, None)
            else:
                self.pace.learn(request.key, seconds)
            if timed:
                timed.pop(id, None)
            self._story.append((id, "answered", rank))
        return self._settle(server)

    def deferred(self, rank: int, id: int, seconds: float) -> list[Instruction]:
        """A command returned a Future: it is answered later, and the server's FIFO goes on."""
        server = self._servers.get(rank)
        if server is None or id not in server.sent:
            return []
        request = server.sent.pop(id)
        server.waiting[id] = request
        self.pace.learn(request.key, seconds)
        self._story.append((id, "deferred", rank))
        return self._settle(server)

    def lost(self, rank: int, replaced: bool = False, begun: int | None = None) -> list[Instruction]:
        """A server is gone: what it had been sent is lost or retried, the rest moves on or fails.

        `replaced`: another one will join in its place, and its queue waits for that. `begun`: the serial of
        the last command that it began, if that is known; those after it are as if they were still queued.
        """
        server = self._servers.pop(rank, None)
        if server is None:
            return []
        self._idle.pop(rank, None)
        if replaced:
            absent = _Server(rank, server.own, queued=server.queued, paused=True, absent=True)
            self._servers[rank] = absent
        else:
            self._lost.add(rank)
        if self._warm is server:
            self._warm = None
        instructions: list[Instruction] = []
        again: list[Request] = []
        for request in [*server.waiting.values(), *server.sent.values()]:
            if request.ended:
                continue
            waits = begun is not None and request.serial > begun and bool(request.frame)
            somewhere = bool(self._servers) if request.target is None else replaced
            if somewhere and (waits or request.retries > 0):
                if not waits:
                    request.retries -= 1
                    self.retried += 1
                request.status, request.server = Status.QUEUED, None
                again.append(request)
                self._story.append((request.id, "queued again" if waits else "retried", rank))
            else:
                instructions.append(self._end(request, Status.LOST, rank))
        if replaced:
            for request in reversed([r for r in again if r.target is not None]):
                self._put_back(absent.own, request)
                absent.queued += request.owner not in self._held
        else:
            instructions += [self._end(r, Status.LOST, rank) for r in server.own if not r.ended]
        for request in reversed(again):
            if request.target is None:
                self._put_back(self._shared, request)
        if not self._servers:
            instructions += [self._end(r, Status.LOST, None) for r in self._shared if not r.ended]
            self._shared.clear()
        return instructions + self.spread()

    def recallable(self, rank: int) -> list[Request]:
        """What was sent ahead to a server, and any other might run."""
        server = self._servers.get(rank)
        if server is None or len(server.sent) < 2:
            return []
        waiting = iter(server.sent.values())
        next(waiting)  # it runs
        return [r for r in waiting if r.target is None and not r.ended]

    def recalled(self, rank: int, id: int, serial: int) -> list[Instruction]:
        """A server has not begun this request and never will: it is the next one of the shared queue.

        It may be heard of twice, and may have been sent there again meanwhile, under another serial.
        """
        server = self._servers.get(rank)
        request = server.sent.get(id) if server is not None else None
        if server is None or request is None or request.serial != serial:
            return []
        del server.sent[id]
        instructions: list[Instruction] = []
        if not request.ended:
            request.status, request.server = Status.QUEUED, None
            self._put_back(self._shared, request)
            self._story.append((id, "recalled", rank))
        if not server.sent:
            instructions += self._settle(server)
        return instructions + self.spread()

    def spread(self) -> list[Instruction]:
        """Nothing is to wait any longer for a server that works, while others are idle."""
        instructions: list[Instruction] = []
        while self._shared.line and (idle := self.idle(None)) is not None:
            instructions += self._refill(self._servers[idle])
        return instructions

    def paused(self, rank: int) -> list[Instruction]:
        """A server is to get nothing new until it is `resumed`; what it was sent stays with it."""
        server = self._servers.get(rank)
        if server is None:
            return []
        server.paused = True
        self._idle.pop(rank, None)
        return self.spread()

    def resumed(self, rank: int) -> list[Instruction]:
        """A server that was paused may get commands again."""
        server = self._servers.get(rank)
        if server is None or not server.paused or server.absent:
            return []
        server.paused = False
        return self._settle(server)

    def held(self, owner: Owner | None) -> list[Instruction]:
        """What this owner has queued, and what he pushes, is to stay queued until he is `released`."""
        if owner in self._held:
            return []
        self._held.add(owner)
        self._shared.hold(owner)
        for server in self._servers.values():
            server.queued -= server.own.hold(owner)
        return self.spread()  # those that others were behind

    def released(self, owner: Owner | None) -> list[Instruction]:
        """The requests of this owner are to have turns again."""
        if owner not in self._held:
            return []
        self._held.discard(owner)
        self._shared.release(owner)
        instructions: list[Instruction] = []
        for server in list(self._servers.values()):
            server.queued += server.own.release(owner)
            if server.queued and not server.sent:
                instructions += self._refill(server)
        return instructions + self.spread()

    def cancelled(self, request: Request) -> list[Instruction]:
        """The user cancels a request; only one that is still queued here can be."""
        if request.ended or request.status is not Status.QUEUED:
            return []
        self._forget_queued(request)
        return [self._end(request, Status.CANCELLED, None)]

    def called_off(self, request: Request) -> list[Instruction]:
        """The user cancels a request, whether a server has it already or not."""
        if request.ended or request.server is None or request.status is Status.QUEUED:
            return self.cancelled(request)
        cancel = Cancel(request.server, request.id, request.serial)
        return [cancel, self._end(request, Status.CANCELLED, request.server)]

    def time_passed(self, now: float) -> list[Instruction]:
        """End the requests whose deadline has passed; `now` is the clock of `Request.deadline`."""
        instructions: list[Instruction] = []
        while self._deadlines and self._deadlines[0][0] <= now:
            id = heapq.heappop(self._deadlines)[1]
            request = self._timed.pop(id, None)
            if request is None or request.ended:
                continue
            if request.status is Status.QUEUED:
                self._forget_queued(request)
            elif request.server is not None:
                instructions.append(Interrupt(request.server, id))
                self._overdue.append((now + self._kill_grace, request))
            instructions.append(self._end(request, Status.TIMEOUT, request.server))
        while (when := self._next_overdue()) is not None and when <= now:
            request = self._overdue.popleft()[1]
            assert request.server is not None
            instructions.append(Overdue(request.server, request))
        return instructions

    # -- questions ------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When `time_passed` has something to do, or None."""
        while self._deadlines and self._deadlines[0][1] not in self._timed:
            heapq.heappop(self._deadlines)
        overdue = self._next_overdue() if self._overdue else None
        if not self._deadlines:
            return overdue
        return self._deadlines[0][0] if overdue is None else min(self._deadlines[0][0], overdue)

    def _next_overdue(self) -> float | None:
        """When the first of those falls due whose commands go on."""
        while self._overdue:
            when, request = self._overdue[0]
            server = self._servers.get(request.server) if request.server is not None else None
            if server is not None and server.sent.get(request.id) is request:
                return when
            self._overdue.popleft()
        return None

    def idle(self, target: int | None) -> int | None:
        """The server that would get a request for this target at once, or None."""
        if target is None:
            return max(self._idle, default=None) if self.highest_first else next(reversed(self._idle), None)
        return target if target in self._idle else None

    def awaited(self) -> int | None:
        """The working server for which requests wait though others are idle; see `spread`."""
        warm = self._warm
        return warm.rank if self._shared.line and self._idle and warm is not None and warm.sent else None

    def is_soon(self, key: int) -> bool:
        """Whether a working server would have done a command with this key before an idle one were awake."""
        warm = self._warm
        if warm is None or not warm.sent or warm.queued or self.highest_first:
            return False
        expected = self.pace.expected(key)
        return expected is not None and warm.load + (len(self._shared) + 1) * expected <= WAKING

    def waiting(self) -> int:
        """How many requests wait for the first server that is free (cancelled ones may be among them)."""
        return len(self._shared)

    def ranks(self) -> list[int]:
        """The servers that live or are being replaced, ascending."""
        return sorted(self._servers)

    def is_live(self, rank: int) -> bool:
        """Whether this server has joined and is not lost, or is being replaced."""
        return rank in self._servers

    def is_absent(self, rank: int) -> bool:
        """Whether this server is gone, and its replacement has not come yet."""
        server = self._servers.get(rank)
        return server is not None and server.absent

    def is_lost(self, rank: int) -> bool:
        """Whether this server was one and is gone."""
        return rank in self._lost

    def row(self, rank: int) -> tuple[int, int | None]:
        """(commands that wait for this server alone, the id it works on or None)."""
        server = self._servers[rank]
        waiting = server.queued + max(len(server.sent) - 1, 0)
        if server.own.held:
            waiting += sum(map(count_live, server.own.held.values()))
        return waiting, next(iter(server.sent), None)

    def shared(self) -> int:
        """How many commands wait for the first server that is free; of very many about how many."""
        if len(self._shared) > _FEW:
            return len(self._shared)
        return sum([r.status is Status.QUEUED for r in self._shared])

    def running(self, rank: int) -> int | None:
        """The id of the request that this server works on."""
        server = self._servers.get(rank)
        return next(iter(server.sent), None) if server else None

    def state(self, request: Request) -> Status:
        """The status of a request; `running` for the first one that its server was sent."""
        if request.status is Status.SENT and request.server is not None:
            return Status.RUNNING if self.running(request.server) == request.id else Status.SENT
        return request.status

    def story(self, id: int) -> list[str]:
        """What happened to one request, as far back as the (bounded) record goes."""
        return [
            event if rank is None else f"{event} (server {rank})"
            for number, event, rank in self._story
            if number == id
        ]

    def validate(self) -> None:
        """Raise AssertionError if the state contradicts itself; for tests."""
        for rank, server in self._servers.items():
            self._validate_queue(server.own)
            live = [r for r in server.own if r.status is Status.QUEUED and r.owner not in self._held]
            assert server.queued == len(live), (rank, server.queued, len(live))
            free = not server.sent and not server.paused
            assert (rank in self._idle) == free, rank
            assert not (live and free), f"server {rank} is idle while its queue is not empty"
            assert len(server.sent) <= WINDOW, rank
            assert all(r.target in (None, rank) for r in server.sent.values()), rank
            assert not server.absent or (server.paused and not server.sent), rank
        self._validate_queue(self._shared)
        waits = any(r.status is Status.QUEUED and r.owner not in self._held for r in self._shared)
        works = self._warm is not None and self._warm.sent
        assert works or not (waits and self._idle), "a server is idle while the shared queue is not empty"
        assert set(self._idle) <= set(self._servers)
        assert not self._lost & set(self._servers)

    def _validate_queue(self, queue: Queue) -> None:
        assert queue.line or not queue.others
        assert queue.owner not in queue.others
        assert all(queue.others.values())
        lines = {**queue.others, **queue.held, queue.owner: queue.line}
        assert all(r.owner is owner for owner, line in lines.items() for r in line)
        assert set(queue.held) <= self._held
        assert not queue.line or queue.owner not in self._held
        assert not self._held & set(queue.others)

    # -- inside ---------------------------------------------------------------------------------

    def _fits(self, server: _Server, request: Request) -> bool:
        if server.barrier or server.paused or server.alone or request.large or len(server.sent) >= WINDOW:
            return False
        if request.deadline is not None:
            return False  # once sent it can be interrupted only while it runs
        expected = self.pace.expected(request.key)
        return expected is not None and expected <= SHORT and server.load + expected <= BUDGET

    def _book(self, server: _Server, request: Request) -> None:
        server.sent[request.id] = request
        server.serial += 1
        request.serial = server.serial
        request.server = server.rank
        request.status = _SENT
        expected = self.pace.expected(request.key)
        if expected is None or expected > SHORT or request.large:
            server.barrier = True
        else:
            server.load += expected
        self._story.append((request.id, "sent", server.rank))

    def _send_one(self, server: _Server, request: Request) -> Send:
        self._book(server, request)
        return Send(server.rank, [request])

    def _settle(self, server: _Server) -> list[Instruction]:
        """After answers: the load is what is still out, and there may be room for more."""
        if not server.sent:
            server.load = 0.0
            server.barrier = False
            if not server.queued and not self._shared.line:
                if not server.paused:
                    self._idle[server.rank] = None
                return []
        elif not server.barrier:
            # Estimates move while commands are out, so the sum is made anew; the window bounds it.
            expected = self.pace.expected
            server.load = sum([expected(r.key) or 0.0 for r in server.sent.values()])
        instructions = self._refill(server)
        if self._shared.line and self._idle:
            # They were to be done soon. They are not: what was expected to be short was not, or does not fit.
            instructions += self.spread()
        return instructions

    def _refill(self, server: _Server) -> list[Instruction]:
        if server.paused:
            return []
        batch: list[Request] = []
        for queue in (server.own, self._shared):
            own = queue is server.own
            for request in self._heads(queue):
                if server.sent and not self._fits(server, request):
                    break
                queue.take()
                if own:
                    server.queued -= 1
                self._book(server, request)
                batch.append(request)
            if own and server.queued:
                break  # its own queue comes first: nothing overtakes it
        if server.sent:
            self._idle.pop(server.rank, None)
        else:
            self._idle[server.rank] = None
        return [Send(server.rank, batch)] if batch else []

    @staticmethod
    def _heads(queue: Queue) -> Iterator[Request]:
        """The next one of the queue again and again, without the ended ones."""
        while queue.line:
            request = queue.line[0]
            if request.status is not Status.QUEUED:
                queue.skip()
                continue
            yield request

    def _put_back(self, queue: Queue, request: Request) -> None:
        if request.owner in self._held:
            queue.held.setdefault(request.owner, deque()).appendleft(request)
        else:
            queue.put_back(request)

    def _forget_queued(self, request: Request) -> None:
        """Book a queued request out; it stays in its deque until it is reached there."""
        if request.target is not None:
            server = self._servers.get(request.target)
            if server is not None and request.owner not in self._held:
                server.queued -= 1

    def _end(self, request: Request, status: Status, server: int | None) -> End:
        request.status = status
        request.ended = True
        self._timed.pop(request.id, None)
        self._story.append((request.id, status.value, server))
        return End(request, status, server)
