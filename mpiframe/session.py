"""The session of a client: how it begins, how requests are made in it, and how it ends, well or badly."""

from __future__ import annotations

import atexit
import itertools
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mpiframe import doorbell, recovery
from mpiframe.client_loop import ClientLoop
from mpiframe.commands import CommandEncoder, Encoded
from mpiframe.config import unknown_settings
from mpiframe.errors import JournalError, MpiframeError, WorldError
from mpiframe.hearing import Hearing
from mpiframe.launcher.environment import PLACE
from mpiframe.messages import Down, Status
from mpiframe.opening import open_world
from mpiframe.output import Printer
from mpiframe.process import finalize_and_exit, leave, serve_and_leave
from mpiframe.recovery import POLICIES, Recovery
from mpiframe.together import Together, check_threads
from mpiframe.verbs import Verbs, raise_unseen
from mpiframe.world import CLIENT

if TYPE_CHECKING:
    from mpiframe.hub.server import Hub
    from mpiframe.trace import Tracer

log = logging.getLogger("mpiframe")

_session: Session | None = None


def current_session() -> Session | None:
    """The one of this process, open or ended, if there was one."""
    return _session


class Session(Verbs):
    """One run of the client: see `Client`, which adds what is to be said in it."""

    def __init__(
        self,
        *,
        output: str = "redirect",
        output_dir: str | os.PathLike[str] | None = None,
        log_level: int | str = logging.WARNING,
        restart: str = "never",
    ) -> None:
        global _session
        if restart not in POLICIES:
            raise WorldError(
                f"restart={restart!r} is no choice; choose one of {', '.join(map(repr, POLICIES))}"
            )
        printer, level = _check_options(output, output_dir, log_level)
        world = open_world()
        if world.rank != CLIENT:
            serve_and_leave(world)
        if _session is not None:
            state = "closed; its servers are gone" if _session._closed else "open"
            raise WorldError(f"this process has a client already, and it is {state}. One run has one client")
        if restart != "never":
            recovery.check(world.resilient)
        self._closed: bool = False
        self.must_abort = False  # a server will not end: the process's end has to take it along
        self._world = world
        self._printer = printer
        self._hearing = Hearing(world, printer)
        self._loop: ClientLoop = ClientLoop(world, printer, self._hearing.hear)
        self._loop.subscribe = self._hearing.subscribe
        self._loop.pressed.end_session = lambda: self.abandon(failed=True)
        self._encoder = CommandEncoder(world.config.large, self._loop.forget_functions)
        self._ids = itertools.count(1)
        self._service_ids = itertools.count(-1, -1)
        self._reductions = itertools.count(1)
        self._tracer = self._trace(world.config.trace)
        _session = self
        first = (int(Down.SESSION), list(sys.path), level)
        self._recovery = Recovery(self, restart, first)
        self._loop.is_replaced = self._recovery.is_replaced
        self._recorder = None
        self._before_end: list[Callable[[], None]] = []
        self._at_end: list[Callable[[], None]] = []
        self._loop.start()
        for name in unknown_settings():
            log.warning("the environment variable %s sets nothing: there is no such setting", name)
        self._tell_polling()
        for rank in world.servers:
            self._loop.say(rank, first)
        # MPI's Finalize comes after all exit handlers.
        atexit.register(self._at_exit)
        self._hub = self._open_hub()

    def _open_hub(self) -> Hub | None:
        """Where the world has a name, others may attach to it."""
        if not os.environ.get(PLACE):
            return None
        from mpiframe.worlds import hosting  # late: it is not for everybody

        return hosting.open_hub(self)

    def _trace(self, path: str) -> Tracer | None:
        if not path:
            return None
        from mpiframe import trace  # late: it is not for everybody

        return trace.start(self._loop, self._world, path)

    def _tell_polling(self) -> None:
        why = self._world.why_polling
        if why:
            rank, reason = next(iter(why.items()))
            log.warning(
                "%d of %d servers have no doorbell and are reached by polling, which costs some CPU time and "
                "about a millisecond a command after a pause (server %d: %s)",
                len(why),
                self._world.size - 1,
                rank,
                reason,
            )

    # -- what the verbs need ------------------------------------------------------------------------

    def _refuse(self) -> None:
        raise WorldError("the client is closed; its servers are gone")

    def _together(self, label: str, parts: Sequence[tuple[int, Encoded]], timeout: float | None) -> list[Any]:
        check_threads()
        return Together(self, [self._request(label, encoded, rank) for rank, encoded in parts]).run(timeout)

    def _is_near(self, rank: int) -> bool:
        members = self._world.members
        return members[rank].host_key == members[CLIENT].host_key

    def _new_number(self) -> int:
        return next(self._reductions)

    @property
    def at_prompt(self) -> bool:
        """Whether commands are typed: then Ctrl-C interrupts them, however often, and the session goes on."""
        return self._loop.pressed.at_prompt

    @at_prompt.setter
    def at_prompt(self, value: bool) -> None:
        self._loop.pressed.at_prompt = value

    # -- the end -----------------------------------------------------------------------------------

    def close(self) -> None:
        """Wait for all that was pushed, then end the servers. What attached processes have is called off.

        Raises CommandError (or another error of a command) if a pushed command failed and nobody ever
        fetched its response: a failure that nobody saw must not look like success. JournalError if the last
        of what was to be recorded could not be.
        """
        if self._closed:
            return
        try:
            self._loop.wait(lambda: self._loop.open == 0)
            for action in self._before_end:
                action()
            self._loop.wait(lambda: not self._held(), self._world.config.stop_timeout)
        except KeyboardInterrupt:
            self.abandon(failed=True)
            raise
        unwritten = self._end(self._world.config.stop_timeout)
        self._raise_unseen()
        if unwritten is not None:
            raise unwritten

    def abandon(self, *, failed: bool = False) -> None:
        """Drop what is queued, interrupt what runs, end the servers; raises nothing.

        failed: the run has, whatever the servers do; then those that do not end soon are ended by force.
        Otherwise each that runs nothing has the time that `close` gives it, or a run that went well would end
        badly on a busy machine.
        """
        if self._closed:
            return
        for action in self._before_end:
            action()
        self._cancel_queued()
        loop, grace = self._loop, self._world.config.grace
        until = time.monotonic() + 1.5 * grace
        for rank in loop.dispatcher.ranks():
            loop.lines.send(rank, doorbell.ABANDON)
        try:
            loop.wait(lambda: loop.open == loop.others_open == 0, grace)
        except KeyboardInterrupt:
            self._end(0.0)
            raise
        # Where no command takes it, the time is for plugins to stop, and for servers that others crowd out.
        self._end(max(grace / 2, until - time.monotonic()) if failed else self._world.config.stop_timeout)

    def _end(self, limit: float) -> JournalError | None:
        """Have every server end its session, within `limit` seconds unless a command holds it.

        Returns what keeps a journal from being complete.
        """
        loop, transport = self._loop, self._world.transport
        self._closed = True
        with loop.lock:
            loop.closing = True
        for rank in list(transport.peers):
            loop.say(rank, (int(Down.STOP),))
        held = self._held()
        pressed = False
        try:
            if held:  # a command that was called off may need a moment to end
                loop.wait(lambda: not self._held(), min(limit, self._world.config.grace))
                held = self._held()
            others = set(self._world.servers) - held
            ended = loop.wait(lambda: loop.stopped >= others and not transport.sending(), limit)
        except KeyboardInterrupt:
            ended, pressed = False, True
            others = set(self._world.servers) - held
        for action in self._at_end:
            action()
        for rank in held:
            loop.give_up(rank, "The client was closed while its command went on")
        loop.stop()
        if self._tracer is not None:
            self._tracer.close(self._world.config.stop_timeout)
        self._printer.close()
        late = sorted(held | (set() if ended else others - loop.stopped))
        if late:
            # Not here and now: an exception may be on its way to the user, and must be printed first.
            self.must_abort = True
            words = "do not end their commands" if held else f"did not end within {round(limit, 2):g} s"
            print(f"mpiframe: the servers {late} {words}; the run will end by force", file=sys.stderr)
        unwritten = None if self._recorder is None else self._recorder.close()
        if pressed:
            raise KeyboardInterrupt
        return unwritten

    def before_end(self, action: Callable[[], None]) -> None:
        """Call this when what the client has pushed has ended, or is abandoned; then the servers end."""
        self._before_end.append(action)

    def at_end(self, action: Callable[[], None]) -> None:
        """Call this when the servers have ended their session, or were told to and do not."""
        self._at_end.append(action)

    def _held(self) -> set[int]:
        """The servers that are on a command."""
        return {rank for rank in self._world.servers if self._loop.dispatcher.running(rank) is not None}

    def _raise_unseen(self) -> None:
        excused = self._loop.pressed.excused
        raise_unseen([r for r in self._loop.requests.values() if r.id not in excused])

    def _cancel_queued(self) -> None:
        with self._loop.lock:
            waiting = [r for r in self._loop.requests.values() if r.status is Status.QUEUED]
        for request in waiting:
            self._loop.cancel(request)

    def _at_exit(self) -> None:
        """The interpreter ends: so does the world, well or badly as the script did."""
        failed = getattr(sys, "last_value", None) is not None
        unseen: BaseException | None = None
        if not self._closed:
            if failed:
                self.abandon(failed=True)
            else:
                try:
                    self.close()
                except MpiframeError as error:
                    unseen = error
        if self.must_abort:
            self._world.abort(1)
        lost = self.lost_a_server
        leave(self._world, finalize=not (lost and self._world.resilient))
        if unseen is not None or (lost and not failed):
            # Exit handlers cannot change the exit status, so this one ends the process itself.
            if unseen is not None:
                print(f"mpiframe: {type(unseen).__name__}: {unseen}", file=sys.stderr)
            bad = unseen is not None or self.tell_losses()
            finalize_and_exit(int(bad), finalize=not lost)

    @property
    def lost_a_server(self) -> bool:
        """Whether a server ended before the run did, so that MPI cannot be finalized."""
        return self._loop.losses.any

    @property
    def unhandled_losses(self) -> list[int]:
        """The servers that died and were not replaced, though the script has not seen what was lost."""
        with self._loop.lock:
            return [r for r in self._loop.losses.unhandled() if r not in self._loop.recovering]

    def tell_losses(self) -> bool:
        """Say which servers were lost for good and unseen, if there are any, and whether there are."""
        ranks = self.unhandled_losses
        if ranks:
            which = ", ".join(f"{rank} on {self._world.members[rank].host}" for rank in ranks)
            hint = "" if self._world.resilient else ". With `mpiframe run --resilient` the others would go on"
            print(
                f"mpiframe: a server was lost during the run, so it did not end well (server {which}){hint}",
                file=sys.stderr,
            )
        return bool(ranks)


def _check_options(output: str, output_dir: Any, log_level: int | str) -> tuple[Printer, int]:
    if output not in Printer.MODES:
        raise WorldError(
            f"output={output!r} is no choice; choose one of {', '.join(map(repr, Printer.MODES))}"
        )
    level = logging.getLevelName(log_level) if isinstance(log_level, str) else log_level
    if not isinstance(level, int):
        raise WorldError(f"log_level={log_level!r} is no level of the logging module")
    folder = None if output_dir is None else os.fspath(output_dir)
    if folder is not None:
        os.makedirs(folder, exist_ok=True)
    return Printer(output, folder), level
