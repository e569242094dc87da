"""What Ctrl-C in a wait does to the commands that are waited for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from mpiframe import doorbell
from mpiframe.lines import Lines
from mpiframe.messages import Request
from mpiframe.queues import Dispatcher


class _Loop(Protocol):
    """Of the client's loop."""

    dispatcher: Dispatcher
    lines: Lines

    def call_off(self, request: Request) -> bool: ...

    def wait(self, done: Callable[[], bool], timeout: float | None = None) -> bool: ...


class Pressed:
    """The first one interrupts them; a second one, before they have ended, ends the session."""

    def __init__(self, loop: _Loop, moment: float) -> None:
        self._loop = loop
        self._moment = moment
        self._last: list[Request] = []  # what the last Ctrl-C was to end
        self.excused: set[int] = set()  # requests that Ctrl-C has ended: that they failed is no news
        self.at_prompt = False  # a user types the commands: no Ctrl-C ends the session
        self.end_session: Callable[[], None] = lambda: None

    def during(self, requests: Sequence[Request]) -> None:
        """Ctrl-C ended a wait for these: interrupt them; a second one meanwhile ends the session.

        At a prompt it does not: it ends the wait for those that do not heed the first.
        """
        loop = self._loop
        again = any(not r.told for r in self._last)
        self._last = waiting = [r for r in requests if not r.told]
        if again and not self.at_prompt:
            self.end_session()
            return
        self.excused.update(r.id for r in waiting)
        for request in waiting:
            if request.server is not None and loop.dispatcher.running(request.server) == request.id:
                loop.lines.send(request.server, doorbell.INTERRUPT, request.id)
            else:
                loop.call_off(request)
        try:
            # A moment, so that whoever catches the KeyboardInterrupt finds the servers free again.
            loop.wait(lambda: all(r.told for r in waiting), self._moment)
        except KeyboardInterrupt:
            if not self.at_prompt:
                self.end_session()
