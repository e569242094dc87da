"""All sessions of a hub: who comes back to which, and what is pushed in their names."""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mpiframe.errors import MpiframeError, WorldError
from mpiframe.hub.session import Attached, Refused, Session
from mpiframe.messages import Request, Status, world_wide

if TYPE_CHECKING:
    from mpiframe.client import Client

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")
_FUNCTIONS = 4096  # functions of attached processes that servers keep at most


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
