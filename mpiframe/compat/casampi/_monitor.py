"""Watches whether servers answer: pings them, and takes those that do not out of use until they do."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from mpiframe import Client
from mpiframe.compat.casampi.MPIEnvironment import MPIEnvironment

log = logging.getLogger("mpiframe.casampi")


class Monitor:
    """Pings every server at each heartbeat, in a thread of its own.

    A server that answers no ping for the time-out is hung: its process is stopped, its host frozen, or its
    command holds the interpreter's lock in C code. What cannot be told apart from here is treated alike:
    the server gets nothing new, what it has is reported as timed out, and if it comes to itself, so does
    all of this. A server whose connection is closed is lost for good.
    """

    def __init__(self, client: Client, hung_changed: Callable[[int, bool], None]) -> None:
        self._client = client
        self._loop = client._loop
        self._hung_changed = hung_changed
        self._hung: set[int] = set()
        self._unanswered: dict[int, int] = {}  # rank -> pings
        self._from = 0.0  # what was not answered before is forgiven
        self._debugging = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="mpiframe-casampi-monitor", daemon=True)

    # -- life --------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to ping."""
        self._thread.start()

    def stop(self) -> None:
        """End; whoever hangs stays out of use."""
        self._over.set()
        if threading.current_thread() is not self._thread and self._thread.is_alive():
            self._thread.join(1.0)

    def _watch(self) -> None:
        while not self._over.is_set():
            self._loop.pulse.ping()
            if self._over.wait(MPIEnvironment.mpi_monitor_status_service_heartbeat):
                return
            self._judge(time.time())

    # -- judgement ---------------------------------------------------------------------------------

    def _judge(self, now: float) -> None:
        for rank in self._loop.dispatcher.ranks():
            pinged, ponged = self._loop.pulse.pinged.get(rank), self._loop.pulse.ponged.get(rank, 0.0)
            if pinged is None or ponged >= pinged:
                self._unanswered.pop(rank, None)
                if rank in self._hung:
                    self._recovered(rank)
                continue
            self._unanswered[rank] = self._unanswered.get(rank, 0) + 1
            since = max(pinged, self._from)
            limit = MPIEnvironment.mpi_monitor_status_service_timeout
            watching = MPIEnvironment.mpi_monitor_status_service_timeout_enabled and not self._debugging
            if watching and now - since >= limit and rank not in self._hung:
                self._hangs(rank, now - since)

    def _hangs(self, rank: int, seconds: float) -> None:
        log.error(
            "%s has not answered for %.0f s (its process is stopped, its host is frozen, or its command "
            "holds the interpreter's lock). It gets no more commands, and what it has counts as timed out, "
            "until it answers. MPIEnvironment.mpi_monitor_status_service_timeout sets the time",
            self.place(rank),
            seconds,
        )
        self._hung.add(rank)
        self._loop.pause(rank)
        self._hung_changed(rank, True)

    def _recovered(self, rank: int) -> None:
        log.warning("%s answers again", self.place(rank))
        self._hung.discard(rank)
        self._hung_changed(rank, False)
        self._loop.resume(rank)

    def debug(self, on: bool) -> None:
        """Suspend the time-outs, as one does while a server stands in a debugger; or take them up again."""
        self._debugging = on
        self._from = time.time()

    # -- questions ---------------------------------------------------------------------------------

    def place(self, rank: int) -> str:
        """The words for where a server is."""
        member = self._client._world.members[rank]
        return f"server n# {rank} deployed at {member.host} with PID {member.pid}"

    def hung(self) -> list[int]:
        """The servers that do not answer, but are not known to be lost."""
        return sorted(self._hung)

    def is_out(self, rank: int) -> bool:
        """Whether a server is hung or lost."""
        return rank in self._hung or not self._loop.dispatcher.is_live(rank)

    def status(self, rank: int, last_command: str | None) -> dict[str, Any]:
        """The row of one server; `last_command` is what it was sent last."""
        member = self._client._world.members[rank]
        running = self._running(rank)
        pinged, ponged = self._loop.pulse.pinged.get(rank), self._loop.pulse.ponged.get(rank)
        return {
            "rank": rank,
            "processor": member.host,
            "pid": member.pid,
            "busy": running is not None,
            "command": last_command if running is None else running.command,
            "command_start_time": running.sent_at if running is not None else None,
            "pong_pending": pinged is not None and (ponged is None or ponged < pinged),
            "ping_time": pinged,
            "pong_time": ponged,
            "timeout": self.is_out(rank),
            "pong_checks": self._unanswered.get(rank, 0),
        }

    def _running(self, rank: int) -> Any:
        id = self._loop.dispatcher.running(rank)
        # A service call, with an id below 0, is no command of the user's.
        return None if id is None or id < 0 else self._loop.requests.get(id)
