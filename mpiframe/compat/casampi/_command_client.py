"""See `MPICommandClient.py`, by whose name scripts know this."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from mpiframe.compat.casampi import _logs
from mpiframe.compat.casampi._books import QUEUED, Record, Response
from mpiframe.compat.casampi._session import RefusedError, require_client

log = logging.getLogger("mpiframe.casampi")

_P = ParamSpec("_P")
_R = TypeVar("_R")

_LOG_LEVELS = (
    "DEBUG",
    "DEBUG1",
    "DEBUG2",
    "NORMAL",
    *[f"NORMAL{i}" for i in range(1, 6)],
    "INFO",
    *[f"INFO{i}" for i in range(1, 6)],
)


def refusals_are_none(method: Callable[_P, _R]) -> Callable[_P, _R | None]:
    """Scripts here know bad use by None; the reason goes to the log, as an error."""

    @functools.wraps(method)
    def told(*args: _P.args, **kwargs: _P.kwargs) -> _R | None:
        try:
            return method(*args, **kwargs)
        except RefusedError as error:
            log.error("%s: %s", method.__name__, error)
            return None

    return told


class MPICommandClient:
    """A handle on the one session of this process; all of them are alike.

    Raises RuntimeError where MPI is not enabled, and on a server.
    """

    def __init__(self, start_services: bool = False) -> None:
        self._session = require_client("MPICommandClient")
        if start_services:
            self.start_services()

    # -- life --------------------------------------------------------------------------------------

    def get_lifecyle_state(self) -> int:
        """0 not started, 1 started, 2 stopped."""
        return self._session.state

    def start_services(self) -> None:
        """Wait for all servers; a second call does nothing."""
        self._session.start()

    def stop_services(self, force_command_request_interruption: bool = False) -> None:
        """End the servers. What still waits in a queue never runs; what runs may end, unless forced."""
        self._session.stop(force_command_request_interruption)

    # -- requests ----------------------------------------------------------------------------------

    @refusals_are_none
    def push_command_request(
        self,
        command: str,
        block: bool = False,
        target_server: int | list[int] | None = None,
        parameters: dict[str, Any] | None = None,
    ) -> list[Any] | None:
        """Queue a command for the first free server, for one, or for each of several.

        An expression is evaluated, anything else executed; `parameters` are variables it finds for this
        once, and `f()` gets them as its keywords. The command "push" sets them for good.

        Returns the list of request ids, one for each target, or with `block` the list of responses. Bad
        use (no services, a target that is none, what does not compile) is logged as an error and returns
        None.
        """
        records = self._session.push(command, target_server, parameters)
        return self._session.collect(list(records)) if block else [record.id for record in records]

    def get_command_response(
        self, command_request_id_list: Any, block: bool = False, verbose: bool = True
    ) -> list[Response]:
        """Responses by id, in the order asked; without `block`, those of requests that have ended.

        Ids may be an int, a list, or a list of the lists that `push_command_request` returned. Each
        response is a dict: command, parameters (as the command left them), mode, id, server, status,
        command_start_time, command_stop_time (seconds since the epoch, by the server's clock), ret,
        successful, traceback. `verbose` is accepted and changes nothing.

        Raises KeyError for an id that there is not, or whose response was fetched long ago.
        """
        del verbose
        found = self._session.find(command_request_id_list)
        return self._session.collect(found) if block else self._session.ended(found)

    def get_command_response_event(self, command_request_id_list: Any) -> threading.Event:
        """An Event that is set when all these requests have ended, at once if they have."""
        return self._session.event(self._session.find(command_request_id_list))

    def wait_for_command_request_sent(self, command_request_id_list: Any) -> None:
        """Wait until a server has these requests."""
        records = [r for r in self._session.find(command_request_id_list) if isinstance(r, Record)]
        self._session.wait(records, lambda record: record.request.told or record.status != QUEUED)

    def get_command_request_list(self) -> dict[int, dict[str, Any]]:
        """All requests by id: command, parameters, mode, id, server, status."""
        return {record.id: record.as_request() for record in self._session.books.records()}

    def get_command_response_list(self) -> dict[int, Response]:
        """All responses by id."""
        return self._session.books.responses()

    # -- servers -----------------------------------------------------------------------------------

    @refusals_are_none
    def get_server_status(self, server: int | None = None) -> dict[Any, Any] | None:
        """One row by rank, or that of one server (None for an unknown rank).

        A row: rank, processor (host), pid, busy, command, command_start_time, pong_pending, ping_time,
        pong_time, pong_checks (pings in a row that were not answered), timeout (hung, or lost).
        """
        rows = self._session.server_rows()
        if server is None:
            return rows
        if server not in rows:
            raise RefusedError(f"there is no server {server!r}, choose from {list(rows)}")
        return rows[server]

    @refusals_are_none
    def set_log_mode(self, logmode: str) -> None:
        """Where logs go: "unified" (one file), "separated" (one a server) or "redirect" (the terminal)."""
        if logmode not in _logs.MODES:
            raise RefusedError(f"{logmode!r} is no log mode, choose from {', '.join(_logs.MODES)}")
        self._session.set_log_mode(logmode)

    @refusals_are_none
    def set_log_level(self, log_level: str) -> None:
        """At which level the handling of commands is logged; a line for each command from INFO on."""
        if log_level not in _LOG_LEVELS:
            raise RefusedError(f"{log_level!r} is no log level, choose from {', '.join(_LOG_LEVELS)}")
        self._session.set_command_level(log_level)

    def set_omp_num_threads(self, omp_max_threads: int, target_server: int | list[int] | None) -> None:
        """How many threads OpenMP may use on these servers."""
        self._casalog("ompSetNumThreads", omp_max_threads, target_server)

    def setMemoryTotal(self, memory: float, target_server: int | list[int] | None) -> None:
        """How much memory CASA may take on these servers, in MiB; -1 for the machine's."""
        self._casalog("setMemoryTotal", memory, target_server)

    def setMemoryFraction(self, memfrac: float, target_server: int | list[int] | None) -> None:
        """How much memory CASA may take on these servers, in per cent of the machine's; -1 for all."""
        self._casalog("setMemoryFraction", memfrac, target_server)

    def setNumCPUs(self, numCPUs: int, target_server: int | list[int] | None) -> None:
        """How many cores CASA may take on these servers; -1 for the machine's."""
        self._casalog("setNumCPUs", numCPUs, target_server)

    def getMemoryTotal(self, use_aipsrc: bool, target_server: int | list[int] | None) -> Any:
        """Memory in KiB, the machine's or (`use_aipsrc`) what was set; a list for several servers."""
        return self._casalog("getMemoryTotal", bool(use_aipsrc), target_server)

    def getNumCPUs(self, use_aipsrc: bool, target_server: int | list[int] | None) -> Any:
        """Cores, the machine's or (`use_aipsrc`) what was set; a list for several servers."""
        return self._casalog("getNumCPUs", bool(use_aipsrc), target_server)

    @refusals_are_none
    def _casalog(self, what: str, value: Any, target: int | list[int] | None) -> Any:
        values = self._session.casalog(what, value, target)
        if not what.startswith("get"):
            return None
        return values if len(values) > 1 else values[0]
