"""The client's engine room: carries out what the dispatcher says, and hears what servers say."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from time import time as clock
from typing import Any, Protocol

from mpiframe import doorbell
from mpiframe.ahead import Ahead
from mpiframe.answers import CommandFuture, decode, keep, lost_error, place
from mpiframe.codec import pack, unpack
from mpiframe.commands import Encoded
from mpiframe.driver import Driver
from mpiframe.errors import WorldError
from mpiframe.instructions import Cancel, End, Instruction, Interrupt, Overdue, Send
from mpiframe.lines import Lines
from mpiframe.messages import Down, Outcome, Owner, Request, Status, Up
from mpiframe.observers import Observed
from mpiframe.output import Printer
from mpiframe.pressed import Pressed
from mpiframe.pulse import Pulse
from mpiframe.queues import Dispatcher
from mpiframe.recovery import Losses
from mpiframe.transport import AWAY, Peer
from mpiframe.wording import shorten
from mpiframe.world import World

log = logging.getLogger("mpiframe")

_SLACK = 0.5
"""Seconds by which a server ends itself later than it is said here that it will."""
_RUN, _ANSWERS = int(Down.RUN), int(Up.ANSWERS)
_DONE, _VALUE, _PICKLED = (
    Status.DONE,
    int(Outcome.VALUE),
    int(Outcome.PICKLED),
)  # on the path of every answer, where a look-up counts


Subscribe = Callable[[str, Callable[[int, Any], None]], Callable[[], None]]
"""Takes a plugin's name and whom to call with (server, event); gives what ends it."""


def _cannot_subscribe(_source: str, _callback: Callable[[int, Any], None]) -> Callable[[], None]:
    """Where nobody hears of events."""
    raise WorldError("nothing is heard of the events of plugins here")


def _never(_rank: int) -> bool:
    """Where nothing replaces a server that is gone."""
    return False


class Gate(Protocol):
    """Who is told that the command of a collective waits for the others, or has failed."""

    def arrived(self, id: int, rank: int) -> None:
        """With the loop's lock."""

    def ports(self, ports: list[str]) -> None:
        """Where members are to connect that were not there from the start; likewise."""

    def spoil(self) -> None:
        """A member has failed, and the next collective must not find what is left of this one; likewise."""


class ClientLoop(Driver, Observed):
    """The books of one client; see `driver.Driver` for which thread does the work."""

    def __init__(
        self, world: World, printer: Printer, deliver: Callable[[int, tuple[Any, ...], Any], None]
    ) -> None:
        super().__init__(world.transport)
        Observed.__init__(self)
        self.world = world
        self.dispatcher = Dispatcher(world.config.kill_grace)
        self.lines = Lines(world.transport, self.lock, self.heard, self.server_gone)
        self._ahead = Ahead(self.dispatcher, self.lines, self._carry_out)
        self.pressed = Pressed(self, world.config.grace / 2)
        self.requests: dict[int, Request] = {}  # until fetched
        self.last_id = 0
        self.closing = False  # from here on nothing can be pushed: nobody would answer
        self.open = 0  # requests of the client's own that have not ended
        self.others_open = 0  # those of sessions
        self.communicators: dict[tuple[int, ...], int] = {}  # by members: how often theirs was spoilt
        self.recovering: set[int] = set()  # servers that are being ended for a restart, or started
        self.newcomers: set[int] = set()  # servers that were not there from the start
        self.gates: dict[int, Gate] = {}  # by the ids of requests that are members of a collective
        self.on_roster: Callable[[], None] = lambda: None  # servers have gone or come; with the lock
        self.stopped: set[int] = set()  # servers that ended their session in order
        self.losses = Losses(lambda rank: self.dispatcher.running(rank) is not None)
        self.is_replaced: Callable[[int], bool] = _never
        self._printer = printer
        self._deliver_other = deliver
        self.subscribe: Subscribe = _cannot_subscribe
        self._known: dict[int, set[int]] = {rank: set() for rank in world.servers}
        self.pulse = Pulse(
            self.lock, self.dispatcher.ranks, self.lines.send, self.wait, world.config.patience
        )
        self._why_ended: dict[int, str] = {}  # rank -> why its process was ended

    # -- life --------------------------------------------------------------------------------------

    def start(self) -> None:
        """Make the servers known to the dispatcher and begin to listen."""
        with self.lock:
            for rank in self.world.servers:
                peer = self._transport.peers[rank]
                self.lines.listen(peer)
                self._carry_out(self.dispatcher.joined(rank, alone=peer.control is None))
            self._transport.show(AWAY)
        self._thread.start()
        self.ctrl_c.install()

    # -- servers that are replaced (with the lock) ---------------------------------------------------

    def release(self, rank: int, why: str) -> None:
        """This server is about to be ended and replaced: it gets nothing more, and what it runs is lost."""
        self._why_ended.setdefault(rank, why)
        begun = self._transport.begun[rank] if self._transport.begun is not None else None
        local = rank in self._transport.peers and self._transport.peers[rank].local
        self._carry_out(self.dispatcher.lost(rank, True, begun if local else None))

    def welcome(self, peer: Peer) -> None:
        """A replacement has come; it gets nothing of its queue yet."""
        self._transport.add(peer)
        self.lines.listen(peer)
        self.stopped.discard(peer.rank)
        if peer.local and self._transport.begun is not None:
            self._transport.begun[peer.rank] = 0

    def send_past_queue(self, rank: int, request: Request) -> None:
        """Send a command to a replacement before it takes up its queue."""
        self.requests[request.id] = request
        self.open += 1
        self._transport.send(rank, pack((_RUN, [request.frame])), request.buffers)

    def serves(self, rank: int, serial: int) -> None:
        """A replacement is ready: it takes up its queue; `serial`: as many commands it has run already."""
        peer = self._transport.peers.get(rank)
        if peer is not None:
            self.losses.replaced(rank)
            self._why_ended.pop(rank, None)
            self.newcomers.add(rank)
            for members in self.communicators:
                if rank in members:
                    self.communicators[members] += 1  # the others have one with its predecessor
            self._carry_out(self.dispatcher.joined(rank, peer.control is None, serial))
            self.on_roster()

    def recovered(self, rank: int) -> None:
        """Nothing is missing though this server was lost."""
        with self.lock:
            self.losses.replaced(rank)

    def natives(self, ranks: list[int]) -> list[int]:
        """Those of these servers that share a communicator, of which they can make others."""
        if self.world.resilient == "ulfm" and self.losses.any:
            return []  # of one in which a rank is known to be dead Open MPI makes no other
        return [rank for rank in ranks if rank not in self.newcomers]

    # -- what the client asks for ------------------------------------------------------------------

    def push(self, requests: Iterable[Request], wait: bool = False) -> None:
        """Queue requests, all before any that another thread pushes, and send what can be sent now.

        `wait`: this thread is about to wait for them, and will drive MPI then.
        """
        with self.lock:
            for request in requests:
                self._push(request)
            if not wait:
                self._stay()
        if self._deliveries:
            self._deliver()

    def push_one(self, request: Request, wait: bool = False) -> None:
        """Queue a request, and send what can be sent now; `wait` as in `push`."""
        with self.lock:
            self._push(request)
            if not wait:
                self._stay()
        if self._deliveries:
            self._deliver()

    def _push(self, request: Request) -> None:
        self._check_open()
        self.requests[request.id] = request
        if request.owner is not None:
            self.others_open += 1
        else:
            self.open += 1
            if request.id > self.last_id:
                self.last_id = request.id
        instructions = self.dispatcher.pushed(request)
        if instructions:
            self._carry_out(instructions)
        elif request.target is None and (rank := self.dispatcher.awaited()) is not None:
            self._expect_progress(rank)

    def _expect_progress(self, rank: int) -> None:
        """Look in time whether this server is on another command: others wait for this one to end."""
        if self._ahead.expect(rank):
            self.kick()  # whoever sleeps is to look in time

    def push_to_idle(
        self, rank: int | None, command: Any, encoded: Encoded, ids: Iterator[int], wait: bool
    ) -> Request | None:
        """Send a command to a server that is idle, and do the books while it works.

        None if no server is idle, or this one is not. Only for commands without buffers; `wait` as in `push`.
        """
        with self.lock:
            self._check_open()
            idle = self.dispatcher.idle(rank)
            if idle is None:
                return None
            if rank is None and not wait and self.dispatcher.is_soon(encoded.pace_key):
                return None
            if rank is None and self.dispatcher.awaited() is not None:
                return None  # others come first
            id = next(ids)
            queued_at = clock()
            frame = encoded.frame(id)
            key = encoded.function_key
            if key:
                frame = self._once(idle, frame, key)
            self._transport.send(idle, pack((_RUN, [frame])))
            request = Request(id, rank, encoded.pace_key, command, frame, (), False, queued_at, queued_at)
            self.requests[id] = request
            self.last_id = id
            self.open += 1
            self.dispatcher.taken(idle, request)
            if self._lookers:
                self._tell_sent(idle, (request,), queued_at)
            if not wait:
                self._stay()
            return request

    def _check_open(self) -> None:
        if self.closing:
            raise WorldError("the client is closed; its servers are gone")

    def fetched(self, requests: Iterable[Request]) -> None:
        """Take these out of the books."""
        for request in requests:
            self.requests.pop(request.id, None)

    def give_up(self, rank: int, why: str) -> None:
        """End what this server still holds: nobody will hear its answers any more."""
        self._why_ended.setdefault(rank, why)
        with self.lock:
            self._carry_out(self.dispatcher.lost(rank))
        self._deliver()
        self.kick()

    def cancel(self, request: Request) -> bool:
        """Take a queued request back; whether it was still queued."""
        with self.lock:
            instructions = self.dispatcher.cancelled(request)
            self._carry_out(instructions)
        self._deliver()
        return bool(instructions)

    def status_of(self, request: Request) -> Status:
        """Where a request is; `running` for the first one that its server was sent."""
        with self.lock:
            return self.dispatcher.state(request)

    def call_off(self, request: Request) -> bool:
        """Cancel a request, and interrupt it if it runs; whether it had not ended."""
        with self.lock:
            instructions = self.dispatcher.called_off(request)
            self._carry_out(instructions)
        self._deliver()
        return bool(instructions)

    def was_interrupted(self, requests: Sequence[Request]) -> None:
        """Ctrl-C ended a wait for these."""
        self.pressed.during(requests)

    def say(self, rank: int, message: tuple[Any, ...]) -> None:
        """Send a message that is no command."""
        with self.lock:
            if rank in self._transport.peers:
                self._transport.send(rank, pack(message))

    # -- what servers say (with the lock) -----------------------------------------------------------

    def _handle(self, message: tuple[int, Any, Any]) -> None:
        rank, frame, buffers = message
        content = unpack(frame)
        kind = content[0]
        if kind == _ANSWERS:
            self._answered(rank, content[1], buffers)
        elif kind == Up.OUTPUT:
            self._printed(rank, content[1], content[2])
        elif kind == Up.DEFERRED:
            _, id, seconds, pieces = content
            self._printed(rank, id, pieces)
            self._carry_out(self.dispatcher.deferred(rank, id, seconds))
        elif kind == Up.SKIPPED:
            self._carry_out(self.dispatcher.recalled(rank, content[1], content[2]))
        elif kind == Up.ARRIVED:
            if content[1] in self.gates:
                self.gates[content[1]].arrived(content[1], rank)
        elif kind == Up.PORTS:
            if content[1] in self.gates:
                self.gates[content[1]].ports(content[2])
        elif kind == Up.STOPPED:
            self.stopped.add(rank)
            self._deliveries.append((None,))
        else:
            self._deliveries.append((rank, content, buffers))

    def _answered(self, rank: int, answers: Any, buffers: Any) -> None:
        start = 0
        ended = []
        for answer in answers:
            id, outcome, payload, started, finished, pieces, count = answer
            if pieces:
                self._printed(rank, id, pieces)
            seconds = finished - started
            ended.append((id, seconds))
            request = self.requests.get(id)
            if request is None or request.ended:
                if self._tracing:
                    self._tell_received(rank, answer, (), True)
            else:
                request.ended = True
                request.frame = ()  # kept until now in case it had to be sent elsewhere
                if request.owner is None:
                    self.open -= 1
                else:
                    self.others_open -= 1
                future = request.future
                if outcome == _VALUE and (future is None or type(future) is CommandFuture):
                    # Nothing here runs code of the user's.
                    request.value = payload
                    request.started_at = started
                    request.finished_at = finished
                    request.status = _DONE
                    request.told = True
                    if future is None:
                        if self.observers:
                            self._tell_ended(request)
                    elif future.settle_alone(payload, seconds):
                        if self.observers:
                            self._tell_ended(request)
                        request.future = None
                        del self.requests[id]
                    else:
                        if self._tracing:
                            self._tell_received(rank, answer, (), False)
                        self._deliveries.append((request, answer, ()))
                else:
                    if outcome > _PICKLED and id in self.gates:
                        self.gates[id].spoil()
                    own = buffers[start : start + count] if count else ()
                    if self._tracing:
                        self._tell_received(rank, answer, own, False)
                    self._deliveries.append((request, answer, own))
            start += count
            if self._printer.partial:
                self._printer.finish(rank, id)
        if self._followers:
            self._notify()
        instructions = self.dispatcher.answered(rank, ended)
        if instructions:
            self._carry_out(instructions)
            if self._followers:  # one may wait for a request to be sent
                self._notify()

    def _printed(self, rank: int, id: int, pieces: Any) -> None:
        request = self.requests.get(id)
        if request is not None:
            if request.output is None:
                request.output = []
            request.output.extend(pieces)
        if self._lookers:
            self._tell_printed(rank, id, pieces)
        if request is not None and request.owner is not None:
            request.owner.printed(rank, request, pieces)
        else:
            self._printer.feed(rank, id, pieces)

    def server_gone(self, rank: int) -> None:
        """A server's end of the doorbell is closed."""
        if rank not in self._transport.peers:
            return
        for message in iter(self._transport.poll, None):
            self._handle(message)  # its last words among them
        local = self._transport.peers[rank].local and self._transport.begun is not None
        begun = self._transport.begun[rank] if local else None
        self._transport.drop(rank)
        self._ahead.gone(rank)
        self._known[rank].clear()
        self.losses.any = True
        self.pulse.gone(rank)
        if rank not in self.stopped:
            self.stopped.add(rank)
            if rank not in self.recovering:
                self.losses.lost(rank)
        self._carry_out(self.dispatcher.lost(rank, self.is_replaced(rank), begun))
        self._deliveries.append((None,))
        self.on_roster()

    def _due(self) -> float | None:
        due, look = self.dispatcher.next_deadline(), self._ahead.due()
        return min(due, look) if due is not None and look is not None else due or look

    def _time_passed(self) -> None:
        now = time.monotonic()
        self._carry_out(self.dispatcher.time_passed(now))
        self._ahead.look(now)

    # -- what the dispatcher says (with the lock) ----------------------------------------------------

    def _carry_out(self, instructions: list[Instruction]) -> None:
        for instruction in instructions:
            if type(instruction) is Send:
                self._send(instruction.rank, instruction.requests)
            elif type(instruction) is End:
                if instruction.request.owner is None:
                    self.open -= 1
                else:
                    self.others_open -= 1
                if instruction.status is Status.LOST and instruction.server is not None:
                    self.losses.ended(instruction.server, instruction.request)
                self._deliveries.append((instruction.request, instruction, ()))
            elif type(instruction) is Interrupt:
                self.lines.send(instruction.rank, doorbell.INTERRUPT, instruction.id)
            elif type(instruction) is Cancel:
                self.lines.send(instruction.rank, doorbell.CANCEL, instruction.id, instruction.serial)
            elif type(instruction) is Overdue:
                self._deliveries.append((instruction.request, instruction, ()))

    def _end_overdue(self, rank: int, request: Request) -> None:
        """Say that a server is ended whose command does not end, and see that it is; without the lock."""
        where, grace = place(request, self.host_of(rank)), self.world.config.kill_grace
        self._why_ended[rank] = (
            f"It was ended because request {request.id} ({shorten(request.command)}) went on for {grace:g} s "
            "(MPIFRAME_KILL_GRACE) after its time-out had interrupted it"
        )
        log.error(
            "%s went on for %g s (MPIFRAME_KILL_GRACE) after its time-out had interrupted it, so its "
            "server is ended now. Without `mpiframe run --resilient` the whole run ends with it",
            where,
            grace,
        )
        # It ends itself in a moment, unless it was stopped before the command came.
        self.lines.abort(rank)

    def _send(self, rank: int, requests: list[Request]) -> None:
        commands: list[Any] = []
        buffers: list[Any] = []
        now = clock()
        if len(requests) > 1 or self.dispatcher.running(rank) != requests[0].id:
            self._expect_progress(rank)
        if self._lookers:
            self._tell_sent(rank, requests, now)
        for request in requests:
            request.sent_at = now
            frame = request.frame
            key = frame[3]
            if key:
                frame = self._once(rank, frame, key)
            if request.deadline is not None:
                self._limit(rank, request.id, request.deadline)
            commands.append(frame)
            if request.buffers:
                buffers.extend(request.buffers)
                if self._tracing:
                    self._tell_leaving(request)
            kept = request.target is None or self.world.resilient
            if not request.retries and (request.buffers or not kept):
                request.frame, request.buffers = (), ()  # the message holds them until it is through
        self._transport.send(rank, pack((_RUN, commands)), buffers)

    def _limit(self, rank: int, id: int, deadline: float) -> None:
        """Tell a server how long a command may run that is about to come, until its process ends."""
        seconds = deadline - time.monotonic() + self.world.config.kill_grace + _SLACK
        self._transport.send(rank, pack((int(Down.LIMIT), id, seconds)))

    def _once(self, rank: int, frame: tuple[Any, ...], key: int) -> tuple[Any, ...]:
        """The frame without the function's pickle data, if the server has it already."""
        known = self._known[rank]
        if key in known:
            return (*frame[:2], None, *frame[3:])
        known.add(key)
        return frame

    def forget_functions(self) -> None:
        """Tell every server to drop the functions it has cached."""
        with self.lock:
            for rank, known in self._known.items():
                known.clear()
                if rank in self._transport.peers:
                    self._transport.send(rank, pack((int(Down.FORGET),)))

    # -- deliveries (without the lock) ---------------------------------------------------------------

    def _deliver(self) -> None:
        """Hand over what arrived to those who wait for it."""
        deliveries = self._deliveries
        while deliveries:
            try:
                first, content, buffers = deliveries.popleft()
            except (IndexError, ValueError):
                continue  # another thread took it; or a mere sign that something changed
            if type(first) is int:
                self._deliver_other(first, content, buffers)
                continue
            request: Request = first
            if type(content) is End:
                why = self._why_ended.get(content.server) if content.server is not None else None
                request.error = lost_error(request, content, self.host_of(content.server), why)
                if request.owner is not None:
                    request.value = why
            elif type(content) is Overdue:
                self._end_overdue(content.rank, request)
                continue
            else:
                read = decode if request.owner is None else keep
                read(request, content, buffers, self.host_of(request.server))
            if self.observers:
                with self.lock:
                    self._tell_ended(request)
            request.told = True
            future = request.future
            if future is not None:
                request.future = None
                self.requests.pop(request.id, None)
                future.settle(request)
        self._notify()

    def host_of(self, rank: int | None) -> str | None:
        """The host name of a server."""
        return None if rank is None else self.world.members[rank].host

    def heard(self, rank: int, record: bytes) -> None:
        """A record came on a control connection."""
        kind, id, cpu, number = doorbell.RECORD.unpack(record)
        if kind == doorbell.PONG:
            self.pulse.answered(rank, cpu, number)
        elif kind == doorbell.RECALLED:
            self._carry_out(self.dispatcher.recalled(rank, id, number))

    # -- owners (see `messages.Owner`) ---------------------------------------------------------------

    def hold(self, owner: Owner) -> None:
        """Keep back what this owner has queued, and what he pushes, or no longer, as his `held` says now."""
        with self.lock:
            dispatcher = self.dispatcher
            self._carry_out(dispatcher.held(owner) if owner.held else dispatcher.released(owner))
        self.kick()

    # -- servers that do not answer ------------------------------------------------------------------

    def pause(self, rank: int) -> None:
        """Send this server nothing new until it is resumed."""
        with self.lock:
            self._carry_out(self.dispatcher.paused(rank))
        self.kick()

    def resume(self, rank: int) -> None:
        """Use a server again that was paused."""
        with self.lock:
            self._carry_out(self.dispatcher.resumed(rank))
        self.kick()
