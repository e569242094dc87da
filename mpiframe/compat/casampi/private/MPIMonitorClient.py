"""`MPIMonitorClient`: which servers answer, which are free, which are hung."""

from __future__ import annotations

import logging
from typing import Any

from mpiframe.compat.casampi._command_client import MPICommandClient, refusals_are_none

log = logging.getLogger("mpiframe.casampi")


class MPIMonitorClient:
    """A handle on the watch over the servers, which the services start. Raises as `MPICommandClient` does."""

    def __init__(self, start_services: bool = True) -> None:
        self._client = MPICommandClient()
        if start_services:
            self.start_services()

    def start_services(self) -> None:
        """Start the services of the client, the watch among them."""
        self._client.start_services()

    @refusals_are_none
    def stop_services(self) -> None:
        """End the watch: nobody is pinged and nobody counts as hung any more."""
        self._client._session.monitor.stop()

    def get_server_status(self, server: int | None = None) -> dict[Any, Any] | None:
        """As `MPICommandClient.get_server_status`."""
        return self._client.get_server_status(server)

    def get_server_status_keyword(self, server: int, keyword: str) -> Any:
        """One entry of a server's row; None, and an error in the log, if there is none such."""
        row = self._client.get_server_status(server)
        if row is not None and keyword not in row:
            log.error("a server's status has no %r, choose from %s", keyword, ", ".join(row))
            return None
        return None if row is None else row[keyword]

    def get_server_rank_available(self, verbose: bool = False) -> list[int]:
        """The servers that answer and run nothing."""
        del verbose
        return [rank for rank, row in self._rows().items() if not row["timeout"] and not row["busy"]]

    def get_server_rank_online(self, verbose: bool = False) -> list[int]:
        """The servers that answer."""
        del verbose
        return [rank for rank, row in self._rows().items() if not row["timeout"]]

    def get_server_timeout(self) -> list[int]:
        """The servers that are hung or lost."""
        return [rank for rank, row in self._rows().items() if row["timeout"]]

    @refusals_are_none
    def start_debugging_mode(self) -> None:
        """Suspend the time-outs: a server may stand in a debugger for as long as it takes."""
        self._client._session.monitor.debug(True)

    @refusals_are_none
    def stop_debugging_mode(self) -> None:
        """Take the time-outs up again, from now on."""
        self._client._session.monitor.debug(False)

    def _rows(self) -> dict[int, dict[str, Any]]:
        return self._client.get_server_status() or {}
