"""Supervises a world that outlives its ranks.

Its launchers do not say how it ended: the client does, by the pipes of `orders`. This process starts and ends
further servers when the client asks for it (MPICH: each has a launcher of its own), and ends all that is left
when the client has.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

from mpiframe.launcher.environment import JOIN
from mpiframe.launcher.foreground import Foreground
from mpiframe.launcher.orders import Desk
from mpiframe.launcher.planning import LaunchPlan
from mpiframe.launcher.processes import send
from mpiframe.launcher.supervise import TERM_SECONDS, World

_LEAVE_SECONDS = 2.0  # for servers and launchers to leave when the client has


class ResilientWorld(World):
    """A world whose client says what is to be started and when it has ended."""

    def __init__(
        self,
        plan: LaunchPlan,
        directory: Path,
        inbox: socket.socket,
        output: IO[bytes] | None,
        foreground: Foreground | None = None,
    ) -> None:
        self._desk = Desk(directory)
        self._servers: dict[subprocess.Popen[bytes], dict[str, Any]] = {}  # launchers and their tickets
        self._told_over = False
        super().__init__(plan, directory, inbox, output, foreground)

    def _over(self) -> bool:
        return self._told_over or self._desk.client_is_gone

    def _status(self) -> int:
        if self._status_file.exists():
            return self._own_status()
        return self._mpiexec.returncode or 1 if self._mpiexec.poll() is not None else 1

    def clear(self) -> None:
        if not self._told_over and not self._forced:
            self._wait_until_gone(_LEAVE_SECONDS)
        # Open MPI's launcher would say that its ranks ended improperly: it is ended before it can see it.
        self._end_launchers(signal.SIGTERM)
        self._wait_until_gone(TERM_SECONDS)
        super().clear()
        self._desk.close()

    def _end_by_force(self) -> None:
        self._end_launchers(signal.SIGTERM)
        super()._end_by_force()

    def _end_launchers(self, number: int) -> None:
        launchers = [self._mpiexec, *self._servers]
        send([launcher.pid for launcher in launchers if launcher.poll() is None], number)

    def _watched(self) -> list[int]:
        return [] if self._over() else [self._desk.fd]

    def _kept(self) -> set[int]:
        return {launcher.pid for launcher in self._servers}

    def _heed(self) -> None:
        for order in self._desk.orders():
            for ticket in order.get("start", ()):
                self._start(ticket)
            if "end" in order:
                named = [p.pid for p, ticket in self._servers.items() if ticket["rank"] == order["end"]]
                send(named, signal.SIGTERM)
            self._told_over |= "over" in order

    def _start(self, ticket: dict[str, Any]) -> None:
        env = self._env | {JOIN: json.dumps(ticket)}
        argv = self._plan.server_argv(int(ticket["rank"]))
        # What MPICH's launcher says of a rank that died would else stand amidst what the script prints.
        stdout = 2 if self._output is None and sys.stderr is not None else None
        self._servers[self._launch(argv, env, subprocess.DEVNULL, stdout)] = ticket

    def _reap(self) -> None:
        super()._reap()
        for launcher in list(self._servers):
            status = launcher.poll()
            if status is not None:
                ticket = self._servers.pop(launcher)
                self._desk.tell({"ended": ticket["rank"], "serial": ticket["serial"], "status": status})
