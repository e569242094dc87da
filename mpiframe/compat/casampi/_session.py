"""The one session behind every `MPICommandClient` of a process: its life, its requests, its servers."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import keyword
import logging
import threading
from collections.abc import Callable, Iterable
from typing import Any

from mpiframe import Client
from mpiframe.client import current_client
from mpiframe.commands import UNCOMPILABLE
from mpiframe.compat.casampi import _on_server, _roles
from mpiframe.compat.casampi._books import QUEUED, Books, Record, Response
from mpiframe.compat.casampi._logs import Logs
from mpiframe.compat.casampi._monitor import Monitor
from mpiframe.compat.casampi.MPIEnvironment import MPIEnvironment, before_the_end
from mpiframe.errors import MpiframeError
from mpiframe.messages import Status
from mpiframe.verbs import flatten

log = logging.getLogger("mpiframe.casampi")
command_log = logging.getLogger("mpiframe.casampi.commands")

NOT_STARTED, STARTED, STOPPED = 0, 1, 2
"""The states of life."""

_COMPILED = 4096


class RefusedError(Exception):
    """A request that is not made; the text says why. It ends at this face, as a log message and None."""


class Session:
    """Services that were started, until they are stopped; the books outlast them."""

    def __init__(self) -> None:
        self.state = NOT_STARTED
        self.books = Books()
        self.logs = Logs()
        self._lock = threading.RLock()  # ids are given out, and requests sent, in one order
        self._over = False
        self._modes: dict[str, str] = {}
        self._client: Client | None = None
        self._monitor: Monitor | None = None

    # -- life --------------------------------------------------------------------------------------

    def start(self) -> None:
        """Wait for all servers and lay out on them what commands find; nothing if that was done before."""
        with self._lock:
            if self.state == STARTED:
                return
            if self._over and self.state == NOT_STARTED:
                log.error("MPI was finalized; the servers are gone")
                return
            if self.state == STOPPED:
                log.error("the services were stopped, and one run has one session: they cannot start again")
                return
            there = current_client()
            self._client = client = there if there is not None else Client()
            client._hearing.record_hook = self.logs.hear
            client._loop.dispatcher.highest_first = True
            self.state = STARTED
            # A script that ends without stopping leaves its queue, as it does there.
            atexit.register(self.stop, True)
            servers = MPIEnvironment.mpi_server_rank_list()
            prepare = (_on_server.prepare, self.logs.mode, self.logs.path)
            for future in client._service(servers, "prepare the server", *prepare):
                future.result()
            self._monitor = Monitor(client, self._hung_changed)
            self._monitor.start()

    def stop(self, force: bool = False) -> None:
        """End the session: what was not sent to a server never runs; what runs may end, unless forced."""
        with self._lock:
            if self.state != STARTED:
                return
            self.state = STOPPED
        client, monitor = self._client, self._monitor
        assert client is not None
        client._cancel_queued()  # before anything is said of it: a server may become free meanwhile
        waiting = [r for r in self.books.records() if r.request.status is Status.CANCELLED]
        if waiting:
            some = ", ".join(str(r.id) for r in waiting[:8]) + (", ..." if len(waiting) > 8 else "")
            log.error("%d command requests never ran, because the services stop: %s", len(waiting), some)
        if force:
            client.abandon()
        else:
            self._wait_for([r for r in self.books.records() if not r.request.told], _has_ended)
        if monitor is not None:
            monitor.stop()
            for rank in monitor.hung():
                client._loop.give_up(rank, "It did not answer when the services stopped")
        client.close()
        self.logs.switch(self.logs.mode)  # closes the files; a late record opens them again

    def retire(self) -> None:
        """MPI is about to end: stop, and never start again."""
        self.stop()
        self._over = True

    def started(self) -> Client:
        """The client. Raises RefusedError before the start and after the end."""
        if self.state == STARTED:
            assert self._client is not None
            return self._client
        raise RefusedError(
            "the services are not started; call start_services() first"
            if self.state == NOT_STARTED
            else "the services were stopped"
        )

    # -- requests ----------------------------------------------------------------------------------

    def push(self, command: Any, target: Any, parameters: Any) -> list[Record]:
        """Make one request for each target. Raises RefusedError."""
        client = self.started()
        mode = self._mode(command)
        targets = self._targets(target)
        monitor = self.monitor
        if parameters is not None and not isinstance(parameters, dict):
            log.error("the parameters of %r are ignored: they are no dict but %r", command, type(parameters))
            given: dict[str, Any] | None = None
        else:
            given = parameters
        for name in given or ():
            if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
                raise RefusedError(f"{name!r}, among the parameters of {command!r}, is no name of a variable")
        try:
            if mode == "push":
                encoded = client._encoder.call(_on_server.put, (given or {},), {})
            elif given:
                encoded = client._encoder.call(_on_server.run, (mode == "eval", command, given), {})
                encoded.pace_key = hash(command)  # not that of `run`, which all these have in common
            else:
                encoded = client._encoder.encode(command, None)
            with self._lock:
                self.started()
                records = []
                for rank in targets:
                    request = client._request(command, encoded, rank)
                    id = self.books.next_id()
                    record = Record(id, command, parameters, mode, request, self._ended, monitor.place)
                    client._queue(request, record)
                    self.books.add(record)
                    records.append(record)
        except MpiframeError as error:  # it cannot be pickled, or its server was just lost
            raise RefusedError(str(error)) from error
        if command_log.isEnabledFor(logging.INFO):
            for record in records:
                command_log.info("command request %d was made: %s", record.id, command)
        return records

    def _mode(self, command: Any) -> str:
        known = self._modes.get(command) if isinstance(command, str) else None
        if known is not None:
            return known
        if not isinstance(command, str):
            raise RefusedError(
                f"a command is a string here, not {command!r}; mpiframe.Client takes any callable"
            )
        if command == "push":
            return "push"
        mode = "eval"
        try:
            compile(command, "<command>", "eval", dont_inherit=True)
        except UNCOMPILABLE:
            try:
                compile(command, "<command>", "exec", dont_inherit=True)
            except UNCOMPILABLE as error:
                raise RefusedError(
                    f"the command is neither a statement nor an expression: {error!r}\n{command[:1000]}"
                ) from None
            mode = "exec"
        if len(self._modes) >= _COMPILED:
            self._modes.clear()
        self._modes[command] = mode
        return mode

    def _targets(self, target: Any) -> list[int | None]:
        if target is None:
            return [None]
        targets = target if type(target) is list else [target]
        known = MPIEnvironment.mpi_server_rank_list()
        if not targets or not all(type(rank) is int for rank in targets):
            raise RefusedError(
                f"target_server={target!r}: it must be None, the rank of a server, or a list of such ranks "
                f"({known})"
            )
        monitor = self._monitor
        for rank in targets:
            if rank not in known:
                raise RefusedError(
                    f"target_server={target!r}: there is no server {rank}, choose from {known}"
                )
            if monitor is not None and monitor.is_out(rank):
                raise RefusedError(f"{monitor.place(rank)} does not answer; it takes no command requests")
        return targets

    def find(self, ids: Any) -> list[Record | Response]:
        """The requests of these ids, in that order; an int, a list, or lists in a list."""
        return self.books.find(flatten(ids))

    def wait(self, records: Iterable[Record], done: Callable[[Record], bool]) -> None:
        """Wait until it is so of every one. When the services stop, all of them end."""
        self._wait_for([record for record in records if not done(record)], done)

    def _wait_for(self, waiting: list[Record], done: Callable[[Record], bool]) -> None:
        waiting.reverse()

        def all_done() -> bool:
            while waiting and done(waiting[-1]):
                waiting.pop()
            return not waiting

        if waiting:
            assert self._client is not None
            requests = [record.request for record in waiting]
            try:
                self._client._loop.wait(all_done)
            except KeyboardInterrupt:
                self._client._loop.was_interrupted(requests)
                raise

    def collect(self, found: list[Record | Response]) -> list[Response]:
        """Wait for the responses and fetch them."""
        self.wait([r for r in found if isinstance(r, Record)], _has_ended)
        return [self.books.fetch(r) if isinstance(r, Record) else r for r in found]

    def ended(self, found: list[Record | Response]) -> list[Response]:
        """The responses that are there."""
        if self._client is not None and self.state == STARTED:
            self._client._loop.look()
        there = [r for r in found if not isinstance(r, Record) or _has_ended(r)]
        return [self.books.fetch(r) if isinstance(r, Record) else r for r in there]

    def event(self, found: list[Record | Response]) -> threading.Event:
        """An Event that is set when all of these have ended."""
        event = threading.Event()
        left = [r for r in found if isinstance(r, Record)]
        count = itertools.count(len(left) - 1, -1)

        def one_ended() -> None:
            if next(count) <= 0:
                event.set()

        if not left:
            event.set()
        for record in left:
            record.listeners.append(one_ended)
            if _has_ended(record):  # it may have ended meanwhile, and told its listeners or not
                with contextlib.suppress(ValueError):
                    record.listeners.remove(one_ended)
                    one_ended()
        return event

    # -- servers -----------------------------------------------------------------------------------

    @property
    def monitor(self) -> Monitor:
        """Who watches the servers. Raises RefusedError before the start."""
        if self._monitor is None:
            raise RefusedError("the services are not started; call start_services() first")
        return self._monitor

    def casalog(self, what: str, value: Any, target: Any) -> list[Any]:
        """Call a method of the servers' `casalog`; the values, in target order. Raises RefusedError."""
        client, ranks = self.started(), self._targets(target)
        futures = client._service(ranks, f"casalog.{what}", _on_server.casalog, what, value)
        try:
            return [future.result() for future in futures]
        except MpiframeError as error:
            raise RefusedError(str(error)) from error

    def server_rows(self) -> dict[int, dict[str, Any]]:
        """The status of every server, by rank."""
        monitor = self.monitor
        last = {r.server: r.command for r in self.books.records() if r.status != QUEUED}
        return {rank: monitor.status(rank, last.get(rank)) for rank in MPIEnvironment.mpi_server_rank_list()}

    def host_of(self, rank: int | None) -> str:
        """The host of a server."""
        return "" if self._client is None else self._client._loop.host_of(rank) or ""

    def set_log_mode(self, mode: str) -> None:
        """Change where logs go, from now on or from the start on."""
        self.logs.switch(mode)
        if self.state == STARTED:
            self._call_all(_on_server.log_to, mode, self.logs.path)

    def set_command_level(self, level: str) -> None:
        """Log the handling of commands at this level; below INFO that is not at all."""
        MPIEnvironment.command_handling_log_level = level
        command_log.setLevel(logging.WARNING if level.startswith("DEBUG") else logging.INFO)
        if self.state == STARTED:
            self._call_all(_on_server.set_command_level, level)

    def _call_all(self, function: Callable[..., Any], *args: Any) -> None:
        """Call it on every server, in its FIFO; nobody waits."""
        client = self._client
        assert client is not None
        for future in client._service(client._loop.dispatcher.ranks(), function.__name__, function, *args):
            future.add_done_callback(_complain)

    def _hung_changed(self, rank: int, hung: bool) -> None:
        for record in self.books.records():
            if not record.request.told and record.server == rank:
                record.hung = hung
                if hung:
                    record.tell()
        client = self._client
        if client is not None:
            client._loop.kick()
            client._loop._notify()

    def _ended(self, record: Record) -> None:
        """Called once for each request."""
        if record.request.status is Status.CANCELLED:
            return
        failure = record.failure()
        if failure is not None:
            where = f"server n# {record.server} on {self.host_of(record.server)}"
            log.error("command request %d (%s) failed on %s:\n%s", record.id, record.command, where, failure)
        elif command_log.isEnabledFor(logging.INFO):
            command_log.info("command request %d has ended on server %s", record.id, record.server)


def _has_ended(record: Record) -> bool:
    return record.hung or record.request.told


def _complain(future: Any) -> None:
    if not future.cancelled() and future.exception() is not None:
        log.error("%s", future.exception())


SESSION = Session()
"""There is one, whatever number of clients a script makes."""

before_the_end(SESSION.retire)


def end_of_script() -> None:
    """The script has ended: stop as at exit, before the world does."""
    SESSION.stop(force=True)


def require_client(what: str) -> Session:
    """The session, if this process may have one. Raises RuntimeError."""
    _roles.check_client(what)
    logging.getLogger("mpiframe").addHandler(SESSION.logs)  # once, however often it is said
    return SESSION
