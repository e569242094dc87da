"""Who drives MPI on the client, and how threads wait.

MPI is used under one lock, by whoever waits: a thread that blocks on an answer polls MPI itself, so an
answer passes through no other thread. Of several such threads one drives and the others follow. While
nobody waits, the progress thread sleeps on the doorbells and does the same work.

What may run the user's code (unpickling, callbacks of futures, logging handlers, event subscribers) is
delivered after the lock is free.
"""

from __future__ import annotations

import os
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any

from mpiframe.ctrl_c import CtrlC
from mpiframe.transport import ASLEEP, AWAKE, AWAY, Message, Transport

_FOREVER = float("inf")
_BURST = 200e-6
"""Seconds between two pushes of one burst."""
_LOOK = 50e-6
"""Seconds between two looks for answers in a burst; what comes meanwhile shares a message."""
_ABSENCE = 1e-3
"""Seconds after the last push of a burst until the progress thread takes over."""


class Driver(ABC):
    """Waiting and driving; what is done with messages is for the subclass to say."""

    def __init__(self, transport: Transport) -> None:
        self.lock = threading.RLock()  # reentrant: a destructor may push while it is held
        self._transport = transport
        self._deliveries: deque[tuple[Any, ...]] = deque()
        self._foreground = 0  # threads that wait
        self._followers = 0  # those of them that do not drive
        self._driving = threading.Lock()
        self._changed = threading.Condition()
        self._park = threading.Lock()
        self._park.acquire()
        self._parked = False  # the progress thread waits for `_park`
        self._over = False
        self._burst = False  # a thread pushes one command after the other, and looks for answers as it does
        self._last_push = self._last_in_burst = self._last_look = 0.0
        self._wake_in, self._wake_out = os.pipe()
        os.set_blocking(self._wake_in, False)
        os.set_blocking(self._wake_out, False)
        transport.watch(self._wake_in, self._clear_wake)
        self.ctrl_c = CtrlC(self.kick, self._notify)
        self._thread = threading.Thread(target=self._progress, name="mpiframe-progress", daemon=True)

    # -- for the subclass ----------------------------------------------------------------------------

    @abstractmethod
    def _handle(self, message: Message) -> None:
        """Take a message in; with the lock."""

    @abstractmethod
    def _deliver(self) -> None:
        """Hand over `_deliveries`; without the lock."""

    @abstractmethod
    def server_gone(self, rank: int) -> None:
        """A server's end of the doorbell is closed; with the lock."""

    @abstractmethod
    def _due(self) -> float | None:
        """When `_time_passed` has something to do, in monotonic seconds."""

    @abstractmethod
    def _time_passed(self) -> None:
        """Something was due; with the lock."""

    # -- life ----------------------------------------------------------------------------------------

    def stop(self) -> None:
        """End the progress thread; the transport stays as it is."""
        with self.lock:
            self._over = True
            self.kick()
            if self._parked:
                self._parked = False
                self._park.release()
        if threading.current_thread() is not self._thread:
            self._thread.join(5.0)
        self.ctrl_c.remove()
        with self.lock:
            self._transport.unwatch(self._wake_in)
            wake_in, wake_out = self._wake_in, self._wake_out
            self._wake_in = self._wake_out = -1  # a late kick must not reach whoever gets these numbers next
            os.close(wake_in)
            os.close(wake_out)

    def kick(self) -> None:
        """Wake whoever sleeps on the doorbells."""
        try:
            os.write(self._wake_out, b"!")
        except (BlockingIOError, OSError):
            pass  # woken already, or closing

    # -- pushing -----------------------------------------------------------------------------------

    def _stay(self) -> None:
        """After a push, with the lock: in a burst of them take in what has arrived, as part of the push.

        Else the progress thread would be woken by every answer, and the two would take the interpreter from
        each other at every command. It looks now and then whether the burst goes on.
        """
        now = time.perf_counter()
        again = now - self._last_push < _BURST
        self._last_push = now
        if self._foreground:
            return
        transport = self._transport
        if again:
            self._last_in_burst = now
            if not self._burst:
                self._burst = True
                transport.show(AWAKE)
                self.kick()
        elif self._burst:
            self._burst = False
            self.kick()  # the progress thread takes over
        if now - self._last_look > _LOOK:
            # Not in a burst, too: a thread that lets go of the interpreter now and then, but takes it back at
            # once, can keep the progress thread from getting it for most of a second.
            self._last_look = now
            while (message := transport.poll()) is not None:
                self._handle(message)
        if not again and transport.in_motion():
            self.kick()

    # -- waiting -----------------------------------------------------------------------------------

    def wait(self, done: Callable[[], bool], timeout: float | None = None) -> bool:
        """Drive MPI until `done()`; False if `timeout` seconds pass before that.

        Raises KeyboardInterrupt in the main thread, at moments when that does no harm.
        """
        if done():
            return True
        deadline = _FOREVER if timeout is None else time.monotonic() + timeout
        with self.lock:
            self._foreground += 1
            self._burst = False
            self._last_push = 0.0  # to push and wait in turn is no burst
        try:
            while not done():
                if timeout is not None and time.monotonic() >= deadline:
                    return False
                if self._driving.acquire(False):
                    try:
                        if self._drive(done, deadline):
                            return True
                    finally:
                        self._driving.release()
                        if self._followers:
                            self._notify()
                else:
                    self._follow(done, deadline)
                    self.ctrl_c.check()
            return True
        finally:
            self._leave()

    def look(self) -> None:
        """Take in what has arrived, without waiting."""
        with self.lock:
            while (message := self._transport.poll()) is not None:
                self._handle(message)
        self._deliver()

    def _drive(self, done: Callable[[], bool], deadline: float) -> bool:
        transport, lock, timer = self._transport, self.lock, time.perf_counter
        transport.show(AWAKE)
        if self._deliveries:  # another thread may be held up by a callback
            self._deliver()
            if done():
                return True
        spin = transport.spin
        until = timer() + spin if spin and not transport.just_rang() and transport.may_spin() else 0.0
        while True:
            with lock:
                message = transport.poll() or transport.poll() or transport.poll() or transport.poll()
                if message is not None:
                    self._handle(message)
            if message is not None:
                if self._deliveries:
                    self._deliver()
                if done():
                    return True
                if self.ctrl_c.pressed:
                    self.ctrl_c.check()
                until = timer() + spin if spin and transport.may_spin() else 0.0
            elif timer() >= until:
                if done():
                    return True
                if time.monotonic() >= deadline:
                    return False
                self._sleep(deadline)
                if done():
                    return True
                if self.ctrl_c.pressed:
                    self.ctrl_c.check()
                until = timer() + spin if spin and transport.may_spin() else 0.0

    def _sleep(self, deadline: float) -> None:
        """Sleep until something happens, as the thread that drives."""
        transport = self._transport
        self.ctrl_c.install()
        with self.lock:
            transport.show(ASLEEP)
            # Twice: a probe may say no on the very call that brings the message in.
            message = transport.poll() or transport.poll()
            if message is not None:
                transport.show(AWAKE)
                self._handle(message)
            timeout = self._time_left(deadline)
        if message is None:
            dead = transport.block(timeout)
            with self.lock:
                transport.show(AWAKE)
                message = transport.poll()
                if message is not None:
                    self._handle(message)
                if dead or timeout is not None:
                    self._attend(dead)
        if message is not None:
            transport.active()
        if self._deliveries:
            self._deliver()

    def _time_left(self, deadline: float) -> float | None:
        until = min(deadline, self._due() or _FOREVER)
        return None if until == _FOREVER else max(until - time.monotonic(), 0.0)

    def _attend(self, dead: list[int]) -> None:
        """After sleep, with the lock: servers that are gone, deadlines that have passed."""
        for rank in dead:
            self.server_gone(rank)
        due = self._due()
        if due is not None and due <= time.monotonic():
            self._time_passed()

    def _follow(self, done: Callable[[], bool], deadline: float) -> None:
        """Another thread drives: wait until it has news, or leaves."""
        with self._changed:
            self._followers += 1
            try:
                if not done() and self._driving.locked():
                    left = deadline - time.monotonic()
                    self._changed.wait(None if left == _FOREVER else max(left, 0.0))
            finally:
                self._followers -= 1

    def _notify(self) -> None:
        if self._followers:
            with self._changed:
                self._changed.notify_all()

    def _leave(self) -> None:
        """A thread stops waiting. If it was the last, servers must ring again: one more look, then."""
        with self.lock:
            self._foreground -= 1
            if self._foreground:
                return
            transport = self._transport
            transport.show(AWAY)
            while (message := transport.poll()) is not None:
                self._handle(message)
            if transport.in_motion():
                self.kick()
            if self._parked:
                self._parked = False
                self._park.release()
        if self._deliveries:
            self._deliver()

    def _progress(self) -> None:
        """The progress thread: drives while nobody waits."""
        transport = self._transport
        woken = False
        while not self._over:
            message, timeout = None, None
            with self.lock:
                parked = self._parked = self._foreground > 0
                if self._burst:
                    self._burst = not parked and time.perf_counter() - self._last_in_burst < _ABSENCE
                burst = self._burst
                if burst:
                    timeout = _ABSENCE
                elif not parked:
                    transport.show(AWAY)
                    message = transport.poll() or transport.poll()
                    if message is not None:
                        self._handle(message)
                    timeout = self._time_left(_FOREVER)
            if parked:
                if woken:  # by a bell that is another thread's now, and that this one may have silenced
                    self.kick()
                    woken = False
                self._park.acquire()
                continue
            if message is None:
                dead = transport.block(timeout, bed=1)
                woken = True
                with self.lock:
                    if not self._over:
                        self._attend(dead)
            else:
                transport.active()
            if self._deliveries:
                self._deliver()
                if self._foreground:
                    self.kick()  # what was just delivered may be what it sleeps for

    def _clear_wake(self) -> None:
        try:
            os.read(self._wake_in, 4096)
        except OSError:
            pass  # another thread has read it, or it is closed
