"""Who looks on at the client's loop: traces, `top`, the web page."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from threading import RLock
from time import time as clock
from typing import Any, Protocol

from mpiframe.messages import Request

log = logging.getLogger("mpiframe")


class Observer(Protocol):
    """Who looks on: told of the user's requests, not of those the runtime makes for itself.

    Each is called with the loop's lock, so it is to be quick and to push nothing. One that raises is told
    nothing more. The times are seconds since the epoch.
    """

    def sent(self, rank: int, requests: Sequence[Request], now: float) -> None:
        """These go to this server now, in one message; a request may come again, if it goes elsewhere."""

    def ended(self, request: Request) -> None:
        """This request has ended, and is told of once; all but its value and its error is final.

        `started_at` and `finished_at` are by the server's clock, None if it never answered.
        """

    def printed(self, rank: int, id: int, pieces: list[tuple[int, str]]) -> None:
        """This request (0: none) has printed pieces: (1 stdout or 2 stderr, text)."""


class Tracing(Protocol):
    """Another kind, told of what a trace needs and no more, because each call costs a tenth of its price."""

    def leaving(self, request: Request) -> None:
        """This one leaves now, with large buffers."""

    def received(self, id: int, buffers: Sequence[Any], now: float) -> None:
        """The answer of this one has come, with these large buffers; `ended` follows a moment later.

        Not called where `ended` follows at once.
        """

    def late(self, rank: int, answer: Any, now: float) -> None:
        """An answer has come (as in `Up.ANSWERS`) of a request that ended before, by a time-out say."""

    def ended(self, request: Request) -> None:
        """As an observer's."""


class Observed:
    """The part of the client's loop that tells them. All but `observe` is called with the lock."""

    lock: RLock

    def __init__(self) -> None:
        self.observers: tuple[Observer | Tracing, ...] = ()  # all of them; see `observe`
        self._lookers: tuple[Observer, ...] = ()
        self._tracing: tuple[Tracing, ...] = ()

    def observe(self, observer: Observer | Tracing) -> None:
        """Tell this one of what happens from now on."""
        with self.lock:
            self._set_observers((*self.observers, observer))

    def unobserve(self, observer: Observer | Tracing) -> None:
        """Tell this one nothing more."""
        with self.lock:
            self._set_observers(tuple(o for o in self.observers if o is not observer))

    def _set_observers(self, observers: tuple[Any, ...]) -> None:
        self.observers = observers
        self._lookers = tuple(o for o in observers if hasattr(o, "sent"))
        self._tracing = tuple(o for o in observers if hasattr(o, "received"))

    def _dismiss(self, observer: Observer | Tracing) -> None:
        """An observer has raised, which is not to harm the run."""
        log.exception("%r raised, and is told nothing more", observer)
        self.unobserve(observer)

    def _tell_sent(self, rank: int, requests: Sequence[Request], now: float) -> None:
        """Call it before the requests let go of their frames."""
        users = [r for r in requests if r.id > 0]  # the others are the runtime's own
        for request in users:
            request.sent_at = now
        for observer in self._lookers if users else ():
            try:
                observer.sent(rank, users, now)
            except Exception:
                self._dismiss(observer)

    def _tell_leaving(self, request: Request) -> None:
        if request.id > 0:
            for observer in self._tracing:
                try:
                    observer.leaving(request)
                except Exception:
                    self._dismiss(observer)

    def _tell_received(self, rank: int, answer: Any, buffers: Sequence[Any], late: bool) -> None:
        if answer[0] > 0:
            now = clock()
            for observer in self._tracing:
                try:
                    if late:
                        observer.late(rank, answer, now)
                    else:
                        observer.received(answer[0], buffers, now)
                except Exception:
                    self._dismiss(observer)

    def _tell_ended(self, request: Request) -> None:
        """Call it while the request still has its future."""
        if request.id > 0:
            for observer in self.observers:
                try:
                    observer.ended(request)
                except Exception:
                    self._dismiss(observer)

    def _tell_printed(self, rank: int, id: int, pieces: Any) -> None:
        if id >= 0:
            for observer in self._lookers:
                try:
                    observer.printed(rank, id, pieces)
                except Exception:
                    self._dismiss(observer)
