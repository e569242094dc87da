"""See `MPIInterface.py`, by whose name scripts know this."""

from __future__ import annotations

import logging
from typing import Any

from mpiframe.compat.casampi._command_client import MPICommandClient
from mpiframe.compat.casampi._session import SESSION, STARTED
from mpiframe.compat.casampi.MPIEnvironment import MPIEnvironment

log = logging.getLogger("mpiframe.casampi")

_HEAD = (
    "JOB ID",
    "SERVER",
    "HOSTNAME",
    "QUEUE STATUS",
    "COMMAND",
    "ELAPSED TIME (s)",
    "EXECUTION STATUS",
)


class MPIInterface:
    """The servers as one cluster. Raises RuntimeError where `MPICommandClient` does."""

    _log_mode = "unified"
    _instance: MPIInterface | None = None

    def __init__(self) -> None:
        self._cluster = Cluster()
        if self._cluster.get_lifecyle_state() != STARTED:
            self._cluster.set_log_mode(MPIInterface._log_mode)
        self._cluster.start_services()

    @staticmethod
    def getCluster() -> MPIInterface:
        """The one instance, made and started at the first call."""
        if MPIInterface._instance is None:
            MPIInterface._instance = MPIInterface()
        return MPIInterface._instance

    @staticmethod
    def set_log_mode(logmode: str) -> None:
        """As `MPICommandClient.set_log_mode`; before the cluster is made, for when it is."""
        MPIInterface._log_mode = logmode
        if SESSION.state == STARTED:
            MPICommandClient().set_log_mode(logmode)

    def isClusterRunning(self) -> bool:
        """Whether the services are started."""
        return self._cluster.get_lifecyle_state() == STARTED

    def init_cluster(self, clusterfile: str | None = None, project: str | None = None) -> None:
        """Start the services. The servers are those that MPI started, so a `clusterfile` says nothing."""
        if clusterfile is not None or project is not None:
            log.warning("clusterfile and project are not used: the cluster is what mpiexec started")
        self._cluster.start_services()

    def start_cluster(self) -> None:
        """Start the services."""
        self._cluster.start_services()

    def stop_cluster(self) -> None:
        """Stop the services."""
        self._cluster.stop_services()

    def do_and_record(
        self, cmd: str, id: int | list[int] | None = None, group: str = "", subMS: str = ""
    ) -> list[int] | None:
        """Push a command and do not wait: the list of request ids. `group` and `subMS` were for reports."""
        del group, subMS
        return self._cluster.push_command_request(cmd, False, id)

    def get_engine_store(self, id: int) -> str | None:
        """The working directory of a server; None, and an error in the log, for an unknown one."""
        responses = self._cluster.execute("__import__('os').getcwd()", id)
        return None if responses is None else responses[0]["ret"]

    def get_status(self) -> list[list[str]]:
        """Print all requests as a table, and return it: its head, and a row for each request."""
        table = [list(_HEAD)]
        client = self._cluster
        responses = client.get_command_response_list()
        for id, request in client.get_command_request_list().items():
            response: dict[str, Any] = responses.get(id, {})
            start, stop = response.get("command_start_time"), response.get("command_stop_time")
            if not response:
                execution = "holding execution" if request["server"] is None else "not finished"
            else:
                execution = "completed" if response["successful"] else "exception raised"
            table.append(
                [
                    str(id),
                    str(request["server"] or ""),
                    SESSION.host_of(request["server"]),
                    request["status"],
                    request["command"],
                    f"{stop - start:.2f}" if start is not None and stop is not None else "",
                    execution,
                ]
            )
        self.print_table(table)
        return table

    @staticmethod
    def print_table(table: list[list[str]]) -> None:
        """Print rows in columns; a command of several lines by its first one."""
        cells = [[cell.partition("\n")[0] for cell in row] for row in table]
        widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
        for row in cells:
            print("| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |")

    def set_log_level(self, log_level: str) -> None:
        """As `MPICommandClient.set_log_level`."""
        self._cluster.set_log_level(log_level)


class Cluster(MPICommandClient):
    """What parallel imaging calls `_cluster`: a client that runs commands on nodes and moves variables."""

    def get_engines(self) -> list[int]:
        """The ranks of the servers that answer."""
        status = self.get_server_status()
        if status is None:
            return MPIEnvironment.mpi_server_rank_list()
        return [rank for rank, row in status.items() if not row["timeout"]]

    def get_nodes(self) -> list[str]:
        """The hosts of the servers, each once."""
        status = self.get_server_status() or {}
        return list(dict.fromkeys(row["processor"] for row in status.values()))

    def pgc(self, *job: str | dict[int, str], block: bool = True, **commands: Any) -> list[Any] | None:
        """Run a command on every server, or by a dict different ones on some.

        Returns responses, without `block` request ids, in the order of the servers (of the dict).
        """
        if commands:
            raise TypeError(f"pgc takes a command or a dict, and block; not {', '.join(commands)}")
        ids: list[int] = []
        for item in job:
            if isinstance(item, bool):
                block = item  # as the second positional argument
                continue
            parts: list[tuple[Any, str]] = (
                list(item.items()) if isinstance(item, dict) else [(self.get_engines(), item)]
            )
            for target, command in parts:
                made = self.push_command_request(command, False, target)
                if made is None:
                    return None
                ids += made
        return self.get_command_response(ids, True) if block else ids

    def odo(self, job: str, nodes: int | list[int]) -> list[int] | None:
        """Run a command on these servers and do not wait: the request ids."""
        return self.push_command_request(job, False, nodes)

    def execute(self, job: str, nodes: int | list[int]) -> list[Any] | None:
        """Run a command on these servers: the responses."""
        return self.push_command_request(job, True, nodes)

    def push(self, vars: dict[str, Any], targets: Any = None, **more: Any) -> list[Any] | None:
        """Set variables on all servers (None or "all"), on one, or on those of a list; the responses."""
        return self.push_command_request("push", True, self._targets(targets), {**vars, **more})

    def pull(self, name: str, targets: Any = None) -> dict[int, Any]:
        """The value of a variable by server; None where it cannot be had, with an error in the log."""
        servers = self._targets(targets)
        responses = self.push_command_request(name, True, servers)
        return {} if responses is None else {r["server"]: r["ret"] for r in responses}

    def check_job(self, ids: Any, verbose: bool = True) -> bool:
        """Whether all these requests have ended. Raises Exception with all the tracebacks if one failed."""
        found = SESSION.find(ids)
        responses = self.get_command_response(ids, False, verbose)
        failed = [r for r in responses if not r["successful"]]
        if failed:
            raise Exception(
                "\n".join(
                    f"Exception executing command in server {r['server']}: {r['traceback']}" for r in failed
                )
            )
        return len(responses) == len(found)

    def _targets(self, targets: Any) -> list[int]:
        if targets is None or targets == "all":
            return self.get_engines()
        return targets if isinstance(targets, list) else [targets]
