"""A server: takes commands from the client, runs them one after another, answers.

Three threads, so that each waits for one thing only:

    main      sleeps on the bell; reads MPI, runs commands, answers
    control   sleeps on the control connection: interrupts, pings, the client's end. No MPI call (`control`)
    pump      sleeps until armed; then sends what main could not, because it is busy (`outgoing`)

Life: `run` -> [message -> commands -> answers]* -> STOP -> stop hooks -> wait for the client's process to
end (MPI's own way of waiting for it, in Finalize, would keep a core busy).
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from time import time as clock
from typing import Any, NoReturn, TypeVar

from mpiframe.codec import unpack
from mpiframe.control import Control
from mpiframe.errors import GroupBroken
from mpiframe.execution import Executor
from mpiframe.fuse import Fuse
from mpiframe.log_forwarder import LogForwarder
from mpiframe.messages import Buffers, Down, Up
from mpiframe.namespace import EXPECTED, LIVE, Namespace, add_to_path, restore_builtins
from mpiframe.outgoing import Outgoing
from mpiframe.transport import ASLEEP, AWAKE
from mpiframe.world import CLIENT, World

_RUN, _GATE = int(Down.RUN), int(Down.GATE)  # looking a member up costs as much as a small command
_PRESSES = 3  # times that an interrupt's signal is sent again until it is raised
_T = TypeVar("_T")
_current: Server | None = None


def current() -> Server | None:
    """The server that this process is, or None on the client and outside a world."""
    return _current


class Server:
    """See the module's text."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.rank = world.rank
        self.host = world.members[world.rank].host
        self._transport = world.transport
        self._executor = Executor(world.config.large)
        limit, delay = world.config.capture_limit, world.config.output_delay
        self._outgoing = Outgoing(world.transport, limit, delay, lambda: self._running != 0)
        self._capture = self._outgoing.capture
        self._lock = self._outgoing.lock
        self.post = self._outgoing.post  # a message for the client, from any thread
        self._queue: deque[tuple[tuple[Any, ...], Any]] = deque()
        self._hooks: list[Callable[[], None]] = []
        self._stopping = False
        self._orphaned = False
        self.may_finalize = True  # no rank is dead, so MPI's Finalize will not wait for ever
        self._running = 0
        self._serial = 0  # of the last command that was begun
        self._begun = world.transport.begun  # where the client finds it, should this process die
        self._limits: dict[int, float] = {}  # request -> seconds it may run
        self._fuse = Fuse()
        self._terminated = False  # by SIGTERM
        self._recalled: set[int] = set()  # the serials of commands that are not to be run
        self._interrupt = 0
        self._presses = 0  # how often its signal may still be sent again
        self._early = 0  # a request that was to be interrupted before it ran
        self._abandoned = False  # whatever runs from here on is interrupted
        self.broken = 0  # the request whose collective has failed elsewhere
        self._later: deque[Any] = deque()  # messages that came while a command waited at its gate
        self._meeting = 0  # the request whose command waits at its gate
        self._nudge = os.pipe()
        peer = world.transport.peers[CLIENT]
        self._control = Control(self, peer.control) if peer.control is not None else None

    # -- for plugins and other code that runs on the server ----------------------------------------

    def emit(self, source: str, payload: Any) -> None:
        """Send an event to the client's subscribers; from any thread."""
        outcome, data, buffers = self._executor.ended(payload)
        self.post((int(Up.EVENT), source, int(outcome), data), buffers)

    def at_stop(self, hook: Callable[[], None]) -> None:
        """Call `hook` when the session ends, the last one added first."""
        self._hooks.append(hook)

    def meet(self, then: Callable[[Any], _T]) -> _T:
        """Wait, asleep, until the commands of all members of a collective have come this far; call `then`.

        `then` gets what the client says of the communicator that is to be used. No interrupt comes between
        the gate and its end, or the other members would wait in MPI for a member that has left.
        Raises GroupBroken if a member never will come.
        """
        request = self._running
        self._outgoing.flush()
        self._meeting = request
        try:
            self.post((int(Up.ARRIVED), request))
            value = then(self._await_gate(request))
        finally:
            self._meeting = 0
        self._raise_interrupt(request)  # it may have come since the last look
        return value

    def _await_gate(self, request: int) -> Any:
        while True:
            message = self._wait()
            if message is None:
                if self._stopping:
                    raise GroupBroken("the client is gone")
                self._raise_interrupt(request)
                continue
            content = unpack(message[1])
            if content[0] != _GATE:
                self._later.append(message)  # its turn comes after this command
            elif content[1] == request:
                if content[2] is not None:
                    raise GroupBroken(content[2])
                return content[3]

    def _raise_interrupt(self, request: int) -> None:
        if self._interrupt == request:
            self._interrupt = 0
            raise KeyboardInterrupt("interrupted by the client")

    @property
    def namespace(self) -> Namespace:
        """Where commands run: the user's own."""
        return self._executor.namespace

    @property
    def running(self) -> int:
        """The id of the request whose command runs now, 0 for none."""
        return self._running

    # -- life --------------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until the client's session has ended, then until its process has."""
        global _current
        _current = self
        self._install()
        try:
            while not self._stopping:
                try:
                    self._serve()
                except KeyboardInterrupt as error:
                    self._answer_interrupted(error)
            self._stop()
        except BaseException:
            # Not a command's failure but ours. The client must not wait for a server that cannot answer.
            try:
                restore_builtins()
                self._capture.remove()
                traceback.print_exc(file=sys.__stderr__)
                last_words = f"mpiframe: server {self.rank} on {self.host} cannot go on"
                print(last_words, file=sys.__stderr__, flush=True)
            finally:
                os._exit(1)
        _current = None
        self._capture.remove()
        if self._orphaned or self._terminated:
            self._leave_an_orphan()
        if self._control is not None:
            self._control.wait_for_the_end()

    def _leave_an_orphan(self) -> NoReturn:
        """End this process without MPI's Finalize, which waits for all ranks, and one of them is gone."""
        if self._control is not None and self._control.client_gone:
            # A launcher that sees one rank end kills the others, whose plugins may not be done yet.
            threading.Event().wait(self.world.config.grace)
        if self._terminated:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
        os._exit(1)

    def _install(self) -> None:
        faulthandler.enable(file=os.fdopen(os.dup(2), "w"))
        signal.signal(signal.SIGINT, self._on_sigint)
        signal.signal(signal.SIGTERM, self._on_sigterm)
        self._pid = os.getpid()
        self._guard_exit()
        self._capture.install()
        self._executor.namespace.install()
        self._transport.watch(self._nudge[0], self._nudged)
        handler = LogForwarder(self)
        logging.getLogger().addHandler(handler)
        logging.captureWarnings(False)
        self._outgoing.start()
        if self._control is not None:
            self._control.start()

    def leave(self) -> NoReturn:
        """End this process at once; from any thread."""
        if self.world.resilient == "ulfm":
            # Open MPI's launcher says of a rank that exits before Finalize, not of one that is killed.
            os.kill(os.getpid(), signal.SIGKILL)
        self._leave(0)

    def _guard_exit(self) -> None:
        """A command that ends this process has failed; MPICH's launcher would take status 0 for success."""
        leave, me, terminal = os._exit, os.getpid(), os.dup(2)

        def leave_truly(status: int) -> NoReturn:
            if not self._running or os.getpid() != me:
                leave(status)
            words = f"mpiframe: request {self._running} ended server {self.rank} on {self.host} by os._exit\n"
            with contextlib.suppress(OSError):
                os.write(terminal, words.encode())
            leave(status or 1)

        self._leave: Callable[[int], NoReturn] = leave
        os._exit = leave_truly

    def _stop(self) -> None:
        for hook in reversed(self._hooks):
            try:
                hook()
            except BaseException:
                logging.getLogger("mpiframe").exception("a stop hook of server %d raised", self.rank)
        if self._orphaned or self._terminated:
            return
        self._outgoing.last_words((int(Up.STOPPED),))
        deadline = time.monotonic() + self.world.config.stop_timeout
        while self._transport.sending() and not self._orphaned and time.monotonic() < deadline:
            self._rest()
        if self._orphaned:
            # The client had our last message before MPI told us so, and has gone its way. Whether it said
            # farewell is for the control connection to tell.
            self._orphaned = self._control is None

    # -- the loop ----------------------------------------------------------------------------------

    def _serve(self) -> None:
        queue, transport, outgoing = self._queue, self._transport, self._outgoing
        while not self._stopping:
            while queue:
                self._execute(*queue.popleft())
            if outgoing.answers:
                outgoing.flush()
                if LIVE != EXPECTED:  # while the client reads the answer
                    restore_builtins()
            if self._later:
                message = self._later.popleft()
            else:
                with self._lock:
                    message = transport.poll()
            if message is None:
                message = self._wait()
                if message is None:
                    continue
            self._take(message[1], message[2])

    def _wait(self) -> Any:
        """Look for a message, for a short time where there is a core for that; then sleep."""
        transport = self._transport
        if transport.may_spin():
            until = time.perf_counter() + transport.spin
            while time.perf_counter() < until:
                with self._lock:
                    message = transport.poll() or transport.poll() or transport.poll() or transport.poll()
                if message is not None:
                    return message
        return self._rest()

    def _rest(self) -> Any:
        """Sleep until something happens; the message, if it is one."""
        transport = self._transport
        with self._lock:
            transport.show(ASLEEP)
            # Twice: a probe may say no on the very call that brings the message in.
            message = transport.poll() or transport.poll()
        if message is None:
            if transport.block(None):
                # The client's end of the bell is closed: nobody is left to serve.
                self._stopping = self._orphaned = True
                return None
        with self._lock:
            transport.show(AWAKE)
            if message is None:
                message = transport.poll() or transport.poll()
        if message is not None:
            transport.active()
        return message

    def _take(self, frame: Any, buffers: Any) -> None:
        message = unpack(frame)
        kind = message[0]
        if kind == _RUN:
            if not buffers:
                commands = message[1]
                if len(commands) == 1 and not self._queue:
                    self._execute(commands[0], ())
                else:
                    self._queue.extend([(command, ()) for command in commands])
                return
            start = 0
            for command in message[1]:
                end = start + command[6]
                self._queue.append((command, buffers[start:end]))
                start = end
        elif kind == Down.FORGET:
            # In its place in the FIFO: what is queued before it still needs the functions.
            while self._queue:
                self._execute(*self._queue.popleft())
            self._executor.forget()
        elif kind == Down.LIMIT:
            self._limits[message[1]] = message[2]
        elif kind == Down.SESSION:
            self._begin(*message[1:])
        elif kind == Down.STOP:
            self._stopping = True

    def _begin(self, path: list[str], log_level: int, more: Sequence[str] = ()) -> None:
        """Adopt what a command may expect to be as on the client."""
        sys.path[:0] = [entry for entry in path if entry not in sys.path]
        add_to_path(more)
        logging.getLogger().setLevel(log_level)

    # -- one command -------------------------------------------------------------------------------

    def _execute(self, command: tuple[Any, ...], buffers: Any) -> None:
        id, mode, body, key, pickled, payload, _ = command
        self._serial += 1
        if key and body is not None:
            self._executor.keep(key, body)
        if self._recalled and self._serial in self._recalled:
            self._recalled.discard(self._serial)
            self.post((int(Up.SKIPPED), id, self._serial))
            return
        if self._begun is not None:
            self._begun[self.rank] = self._serial
        executor, capture = self._executor, self._capture
        capture.request = id
        limit = self._limits.pop(id, 0.0) if self._limits else 0.0
        future = None
        started = clock()
        try:
            self._running = id
            if self._abandoned or id == self._early:
                raise KeyboardInterrupt("interrupted by the client")
            if limit:
                self._light_fuse(limit)
            value = executor.run(mode, body, key, pickled, payload, buffers)
            self._running = 0
            finished = clock()
            if isinstance(value, Future):
                future = value
            outcome, result, out = executor.ended(None if future else value)
        except BaseException as error:
            self._running = 0
            finished = clock()
            outcome, result, out = executor.raised(error)
            if self._terminated:
                return  # it was not the command that failed: to the client it is lost with its server
        if limit:
            self._fuse.put_out()
        try:
            self._conclude(id, future, outcome, result, out, started, finished)
        except Exception:
            restore_builtins()  # the command may have left us without `len`
            self._conclude(id, future, outcome, result, out, started, finished)

    def _conclude(
        self, id: int, future: Any, outcome: int, result: Any, out: Buffers, started: float, finished: float
    ) -> None:
        """Answer for a command that has ended."""
        capture = self._capture
        streams = sys.__dict__  # a command may have deleted `sys.stdout`
        if streams.get("stdout") is not capture.stdout or streams.get("stderr") is not capture.stderr:
            capture.reclaim()
        pieces = capture.end()
        if future is not None:
            self._defer(id, future, started, finished, pieces)
            return
        answer = id, outcome, result, started, finished, pieces, len(out)
        self._outgoing.answer(answer, out, finished, bool(self._queue))
        if out:
            self._see_off()

    def _answer_interrupted(self, error: KeyboardInterrupt) -> None:
        """An interrupt came as its command was ending, past the place where its exceptions are caught."""
        id, self._running = self._running, 0
        self._fuse.put_out()
        if id:
            self._conclude(id, None, *self._executor.raised(error), clock(), clock())

    def _light_fuse(self, seconds: float) -> None:
        try:
            self._fuse.light(seconds)
        except OSError as error:
            words = "server %d has no timer that would end it, should its command never end: %s"
            logging.getLogger("mpiframe").warning(words, self.rank, error)

    def _defer(self, id: int, future: Any, started: float, finished: float, pieces: Any) -> None:
        self._outgoing.after_answers((int(Up.DEFERRED), id, finished - started, pieces))

        def answer(done: Any) -> None:
            try:
                outcome, result, out = self._executor.ended(done.result())
            except BaseException as error:
                outcome, result, out = self._executor.raised(error)
            late: tuple[Any, ...] = (id, outcome, result, started, clock(), [], len(out))
            self.post((int(Up.ANSWERS), [late]), out)

        future.add_done_callback(answer)

    def _see_off(self) -> None:
        """Stay with MPI until a large result is through; the next command would keep us from helping."""
        while self._transport.announced():
            message = self._rest()
            if message is not None:
                self._later.append(message)  # behind those that came while the command ran

    # -- from the control thread -------------------------------------------------------------------

    def look_for_text(self) -> None:
        """Fetch what was written past Python, and send it; called now and then while a command runs."""
        self._outgoing.look_for_text()

    def recall(self, serial: int) -> bool:
        """Do not run this command, if it was not begun; whether that is certain. From any thread.

        If it is not, it may still be in time: then SKIPPED says so.
        """
        self._recalled.add(serial)
        if self._serial < serial:
            return True
        self._recalled.discard(serial)
        return False

    # -- interrupts --------------------------------------------------------------------------------

    def interrupt(self, id: int) -> None:
        """Raise KeyboardInterrupt in the command of this request, now or when it begins; from any thread."""
        self._early = id
        if id and id == self._running:
            self._interrupt, self._presses = id, _PRESSES
            if id == self._meeting:
                os.write(self._nudge[1], b"!")  # an exception could come between MPI and us
                return
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def press_again(self) -> None:
        """Send an interrupt's signal again if it was not raised; called now and then while a command runs.

        One that comes just before a system call that blocks does not end it: Python looks for signals before
        and after. Not where the command has a handler of its own, nor for ever: C code may wait anew each
        time.
        """
        if self._presses and self._is_pressed() and signal.getsignal(signal.SIGINT) == self._on_sigint:
            self._presses -= 1
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def _is_pressed(self) -> bool:
        """Whether an interrupt of what runs is to be raised."""
        return bool(self._interrupt) and self._interrupt == self._running != self._meeting

    def _nudged(self) -> None:
        os.read(self._nudge[0], 64)

    def orphan(self) -> None:
        """The client is out of reach: end the bell too, on which the main thread sleeps. From any thread."""
        peer = self._transport.peers.get(CLIENT)
        if peer is not None and peer.bell is not None:
            with contextlib.suppress(OSError):  # closed already
                peer.bell.shutdown(socket.SHUT_RDWR)

    def abandon(self) -> None:
        """Interrupt what runs, and what the client had sent and is yet to run."""
        self._abandoned = True
        self.interrupt(self._running)

    def _on_sigint(self, *_: Any) -> None:
        # A terminal's Ctrl-C reaches every rank; it is the client's to decide what becomes of it.
        if self._is_pressed():
            self._interrupt = 0
            raise KeyboardInterrupt("interrupted by the client")

    def _on_sigterm(self, *_: Any) -> None:
        """A launcher or a batch system ends this process: plugins are to put their affairs in order first."""
        if os.getpid() != self._pid:  # a child that a command has forked
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
            return
        self._terminated = self._stopping = True
        if self._control is not None:
            self._control.leave()
        else:
            self.abandon()
        os.write(self._nudge[1], b"!")
