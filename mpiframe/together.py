"""How a collective goes: one command on each member, all queued at once, one end for all.

    client              member 1            member 2 (busy)
    queues both   --->  comes to its gate   ... its FIFO first ...
                  <---  ARRIVED, sleeps
                                            comes to its gate
                  <-----------------------  ARRIVED
    GATE          --->  both go on, with a communicator among them

If a member fails before that, the others get a GATE that says so; if one fails after it, the control
connection tells the others to break what they wait for, then interrupts them, and at last gives them up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mpi4py import MPI

from mpiframe import doorbell
from mpiframe.codec import pack
from mpiframe.errors import CommandTimeout, ServerLost, WorldError
from mpiframe.messages import Down, Request

if TYPE_CHECKING:
    from mpiframe.session import Session


class Together:
    """The requests of one collective; the holder of each."""

    def __init__(self, client: Session, requests: Sequence[Request]) -> None:
        self._client = client
        self._loop = client._loop
        self.requests = requests
        self._ranks = [request.target or 0 for request in requests]
        self._arrived: set[int] = set()
        self._open = False
        self._pieces: tuple[list[int], list[int]] | None = None  # members from the start, and newcomers
        self.cause: Request | None = None
        self._why: str | None = None  # it is broken, and why
        self._given_up: set[int] = set()  # the ids of members that did not end
        self._ended: set[int] = set()  # the ids of members of whose end we were told

    def run(self, timeout: float | None) -> list[Any]:
        """Their values, in the order of the members. Raises the error of the first one that failed."""
        loop = self._loop
        for request in self.requests:
            request.future = self
            loop.gates[request.id] = self
        # All under one lock, so that two collectives are in the same order everywhere.
        loop.push(self.requests, wait=True)
        try:
            ended = loop.wait(self._all_told, timeout)
        except BaseException:
            self._break("the client was interrupted")
            self._end_all()
            raise
        if not ended:
            self._break(f"it did not end within its time-out of {timeout} s")
        if self._why is not None:
            self._end_all()
        if not ended:
            raise CommandTimeout(f"the collective on servers {self._ranks} did not end within {timeout} s")
        if self.cause is not None:
            # That a member has died is what the others' errors come from, whichever was heard of first.
            dead = [r.error for r in self.requests if isinstance(r.error, ServerLost)]
            for error in dead:
                error.seen = True
            dead = [r.error for r in self.requests if r.error in dead and r.id not in self._given_up]
            assert self.cause.error is not None
            raise dead[0] if dead else self.cause.error
        return [request.value for request in self.requests]

    def _all_told(self) -> bool:
        return self._why is not None or len(self._ended) == len(self.requests)

    def arrived(self, id: int, rank: int) -> None:
        """A member has come to its gate; with the loop's lock."""
        self._arrived.add(id)
        if self._why is not None:
            self._let_in(rank, id)
        elif len(self._arrived) == len(self.requests):
            self._open = True
            natives = self._loop.natives(self._ranks)
            if len(natives) < len(self._ranks) > 1:
                # One opens ports for the others, who share no communicator with it.
                first = natives or self._ranks[:1]
                self._pieces = first, [rank for rank in self._ranks if rank not in first]
                self._let_in(first[0], self.requests[self._ranks.index(first[0])].id)
            else:
                self._let_all_in()

    def ports(self, ports: list[str]) -> None:
        """The first member has opened these for those who were not there from the start; with the lock."""
        if self._pieces is not None:
            self._let_all_in(ports, but=self._pieces[0][0])

    def _let_all_in(self, ports: list[str] | None = None, but: int | None = None) -> None:
        for request in self.requests:
            assert request.server is not None
            if request.server != but:
                self._let_in(request.server, request.id, ports)

    def _let_in(self, rank: int, id: int, ports: list[str] | None = None) -> None:
        if rank in self._loop._transport.peers:
            number = self._loop.communicators.setdefault(tuple(self._ranks), 0)
            gate = (int(Down.GATE), id, self._why, (number, self._pieces, ports))
            self._loop._transport.send(rank, pack(gate))

    def spoil(self) -> None:
        """What is left of this one must not reach the next; with the loop's lock."""
        key = tuple(self._ranks)
        self._loop.communicators[key] = self._loop.communicators.get(key, 0) + 1

    def settle(self, request: Request) -> None:
        """A member has ended."""
        self._loop.gates.pop(request.id, None)
        if request.error is not None and self.cause is None and self._why is None:
            self.cause = request
            self._break(f"server {request.server} has failed in it (request {request.id})")
        self._ended.add(request.id)

    @property
    def broken(self) -> str | None:
        """Why it was given up, if it was."""
        return self._why

    def give_up(self, why: str) -> None:
        """End it; from another thread than the one that runs it."""
        self._break(why)

    def _break(self, why: str) -> None:
        with self._loop.lock:
            if self._why is not None:
                return
            self._why = why
            self.spoil()
            for request in self.requests:
                if request.told or request.server is None:
                    continue
                if self._open:
                    self._loop.lines.send(request.server, doorbell.BREAK, request.id)
                elif request.id in self._arrived:
                    self._let_in(request.server, request.id)
        for request in self.requests:
            self._loop.cancel(request)
        self._loop.kick()

    def _end_all(self) -> None:
        """See to it that every member ends: by itself, interrupted, or given up."""
        loop, config = self._loop, self._client._world.config
        if loop.wait(lambda: len(self._ended) == len(self.requests), config.grace):
            return
        for request in self.requests:
            running = request.server is not None and loop.dispatcher.running(request.server)
            if not request.told and running == request.id:
                loop.lines.send(request.server or 0, doorbell.INTERRUPT, request.id)
        # What is queued behind other commands comes to its gate in its own time, and finds it broken.
        stuck = [r for r in self.requests if self._open or r.id in self._arrived]
        if not loop.wait(lambda: all(r.id in self._ended for r in stuck), config.stop_timeout):
            for request in stuck:
                if not request.told and request.server is not None:
                    why = f"It was given up because its part in request {request.id} could not be ended"
                    self._given_up.add(request.id)
                    self._client._recovery.give_up(request.server, why)


def check_threads() -> None:
    if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
        raise WorldError(
            "collectives need MPI's thread level MULTIPLE, because servers speak to the client meanwhile; "
            "leave mpi4py.rc.thread_level at its default, 'multiple'"
        )
