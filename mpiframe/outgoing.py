"""What a server sends: answers, which may share a message, what commands print, and all other messages.

The main thread sends as it goes along. What it cannot, because it is busy with a command, the pump does: a
thread that sleeps until it is armed, and then waits a moment for more to come.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from time import time as clock
from typing import Any

from mpiframe.codec import pack
from mpiframe.messages import Buffers, Up
from mpiframe.output import Capture
from mpiframe.transport import Transport
from mpiframe.world import CLIENT

_HOLD = 200e-6  # seconds that answers may wait for the next ones, to share a message
_ANSWERS = int(Up.ANSWERS)  # looking a member up costs as much as a small command


class Outgoing:
    """The server's side of the transport that leads to the client, and the lock around all of it.

    `limit`: characters of output of one command that are kept; `delay`: seconds between two pieces of live
    output; `busy`: whether a command runs.
    """

    def __init__(self, transport: Transport, limit: int, delay: float, busy: Callable[[], bool]) -> None:
        self.lock = threading.Lock()  # around every use of the transport
        self.capture = Capture(limit, self._on_text)
        self.answers: list[tuple[Any, ...]] = []  # that are held back; by the main thread alone
        self._transport = transport
        self._delay = delay
        self._busy = busy
        self._buffers: list[Any] = []  # large ones of `answers`
        self._oldest = 0.0  # when the first of `answers` was made
        self._outbox: deque[tuple[tuple[Any, ...], Buffers]] = deque()
        self._armed = threading.Lock()
        self._armed.acquire()
        self._is_armed = False
        self._last_text = 0.0

    def start(self) -> None:
        """Begin to send by itself what the main thread cannot."""
        threading.Thread(target=self._pump, name="mpiframe-pump", daemon=True).start()

    # -- messages ------------------------------------------------------------------------------------

    def post(self, message: tuple[Any, ...], buffers: Buffers = ()) -> None:
        """Send a message, from any thread, at once or as soon as the lock is free."""
        self._outbox.append((message, buffers))
        # Never wait here: a destructor may log or print while this very thread holds the lock.
        if self.lock.acquire(blocking=False):
            try:
                self._flush_outbox()
            finally:
                self.lock.release()
        else:
            self._arm()

    def answer(self, answer: tuple[Any, ...], buffers: Buffers, now: float, more: bool) -> None:
        """Answer for a command that has ended; `more`: the next one begins at once."""
        answers = self.answers
        answers.append(answer)
        if buffers:
            self._buffers.extend(buffers)
            self.flush()
        elif len(answers) == 1:
            self._oldest = now
            if more:
                self._arm()  # the next command may take long, and must not keep this answer
        elif now - self._oldest > _HOLD:
            self.flush()

    def after_answers(self, message: tuple[Any, ...]) -> None:
        """Send a message behind the answers that are held back; waits for the lock."""
        with self.lock:
            self._flush()
            self._transport.send(CLIENT, pack(message))

    def last_words(self, message: tuple[Any, ...]) -> None:
        """Send what was printed last, and then this message."""
        request, pieces = self.capture.take(1 << 62)
        with self.lock:
            if pieces:
                self._outbox.append(((int(Up.OUTPUT), request, pieces), ()))
            self._outbox.append((message, ()))
            self._flush_outbox()

    def flush(self) -> None:
        """Send all answers and messages that wait."""
        with self.lock:
            self._flush()

    def _flush(self) -> None:
        if self._outbox:
            self._flush_outbox()
        answers = self.answers
        if answers:
            buffers = self._buffers
            self.answers, self._buffers = [], []
            self._transport.send(CLIENT, pack((_ANSWERS, answers)), buffers)

    def _flush_outbox(self) -> None:
        while self._outbox:
            message, buffers = self._outbox.popleft()
            self._transport.send(CLIENT, pack(message), buffers)

    # -- what is printed -----------------------------------------------------------------------------

    def look_for_text(self) -> None:
        """Fetch what was written past Python, and send it; called now and then while a command runs."""
        if self.capture.drain():
            self._on_text()

    def _on_text(self) -> None:
        """Something was printed: send it live, but not each word by itself."""
        now = time.monotonic()
        if now - self._last_text < self._delay:
            self._arm()
        elif self.lock.acquire(blocking=False):
            try:
                self._send_text(now)
            finally:
                self.lock.release()
        else:
            self._arm()

    def _send_text(self, now: float) -> None:
        if self._transport.sending():
            self._arm()  # the client has not taken the last piece yet: let it set the pace
            return
        request, pieces = self.capture.take()
        if pieces:
            self._last_text = now
            self._transport.send(CLIENT, pack((int(Up.OUTPUT), request, pieces)))
        if self.capture.pending():
            self._arm()

    # -- the pump ------------------------------------------------------------------------------------

    def _arm(self) -> None:
        if not self._is_armed:
            self._is_armed = True
            self._armed.release()

    def _pump(self) -> None:
        pause = threading.Event()  # never set: an interruptible, exact wait
        while True:
            self._armed.acquire()
            pause.wait(self._delay)
            self._is_armed = False
            with self.lock:
                self._flush_outbox()
                self._send_text(time.monotonic())
                if self.answers and clock() - self._oldest > self._delay:
                    self._flush()
                elif self.answers:
                    self._arm()
                if self._transport.sending() and self._busy():
                    self._transport.push_on()
                    self._arm()
