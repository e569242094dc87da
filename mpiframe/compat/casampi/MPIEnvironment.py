"""What a script may want to know of the MPI run it is in."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable
from typing import Any, ClassVar

from mpiframe import starting

_CLIENT = 0
_START_LIMIT = 60.0  # seconds that a duplicate of the world may take to be made

try:
    starting.start_mpi()
    from mpi4py import MPI

    _problem = ""
except (ImportError, RuntimeError) as _error:  # RuntimeError: mpi4py finds no MPI library
    MPI = None  # type: ignore[assignment]
    _problem = f"MPI cannot be started: {_error}"


_before_the_end: list[Callable[[], None]] = []


def before_the_end(action: Callable[[], None]) -> None:
    """Call `action` before MPI is finalized; the last one added first."""
    _before_the_end.append(action)


def _levels() -> dict[int, str]:
    words = ("SINGLE", "FUNNELED", "SERIALIZED", "MULTIPLE")
    return {getattr(MPI, f"THREAD_{word}"): f"MPI THREAD {word}" for word in words}


class MPIEnvironment:
    """Facts of this process, as class attributes; there is nothing to instantiate.

    `is_mpi_enabled`: whether there are two ranks or more, and an MPI that threads may use. If not,
    `mpi_error_msg` says why. Rank 0 is the client, all others are servers.

    Two attributes may be set by a script before it starts services:
    `mpi_monitor_status_service_timeout`, seconds after which a server that answers no ping counts as hung;
    `mpi_monitor_status_service_heartbeat`, seconds between pings.
    """

    hostname: ClassVar[str] = socket.gethostname()
    hostname_wo_domain: ClassVar[str] = hostname.split(".")[0]
    mpi_pid: ClassVar[int] = os.getpid()
    mpi_client_rank: ClassVar[int] = _CLIENT

    mpi_initialized: ClassVar[bool] = not _problem
    mpi_world_size: ClassVar[int] = 1 if _problem else MPI.COMM_WORLD.Get_size()
    mpi_processor_rank: ClassVar[int] = 0 if _problem else MPI.COMM_WORLD.Get_rank()
    mpi_version_info: ClassVar[tuple[int, ...]] = () if _problem else MPI.Get_version()
    mpi_version_str: ClassVar[str] = ".".join(map(str, mpi_version_info))
    mpi_vendor_info: ClassVar[tuple[str, tuple[int, ...]]] = ("", ()) if _problem else MPI.get_vendor()
    mpi_vendor_version: ClassVar[tuple[int, ...]] = mpi_vendor_info[1]
    mpi_vendor_version_str: ClassVar[str] = ".".join(map(str, mpi_vendor_version))
    mpi_vendor_str: ClassVar[str] = f"{mpi_vendor_info[0]} v{mpi_vendor_version_str}"
    mpi_thread_safe_level: ClassVar[int] = 0 if _problem else MPI.Query_thread()
    mpi_thread_safe_level_str: ClassVar[str] = "" if _problem else _levels()[mpi_thread_safe_level]
    is_mpi_thread_safe: ClassVar[bool] = not _problem and mpi_thread_safe_level >= MPI.THREAD_SERIALIZED
    mpi_any_tag: ClassVar[int] = -1 if _problem else MPI.ANY_TAG
    mpi_any_source: ClassVar[int] = -1 if _problem else MPI.ANY_SOURCE

    is_mpi_enabled: ClassVar[bool] = is_mpi_thread_safe and mpi_world_size > 1
    mpi_buffer_allocated: ClassVar[bool] = is_mpi_enabled  # asked by scripts; none is needed here
    mpi_error_msg: ClassVar[str] = (
        ""
        if is_mpi_enabled
        else _problem
        or (
            f"MPI is not enabled: the thread level is {mpi_thread_safe_level_str}"
            if not is_mpi_thread_safe
            else "MPI is not enabled: this run has one process only"
        )
    )

    is_mpi_client: ClassVar[bool] = is_mpi_enabled and mpi_processor_rank == _CLIENT
    mpi_execution_role: ClassVar[str] = (
        "" if not is_mpi_enabled else "MPIClient" if is_mpi_client else "MPIServer"
    )
    mpi_info_msg: ClassVar[str] = (
        f"MPI Enabled at host {hostname} with rank {mpi_processor_rank} as {mpi_execution_role} "
        f"using MPI version {mpi_version_str} from {mpi_vendor_str} implementation"
        if is_mpi_enabled
        else "MPI Disabled"
    )
    processor_origin: ClassVar[str] = (
        ""
        if not is_mpi_enabled
        else f"@{hostname_wo_domain}:MPIClient"
        if is_mpi_client
        else f"MPIServer-{mpi_processor_rank}"
    )
    log_to_console: ClassVar[bool] = True
    command_handling_log_level: ClassVar[str] = "NORMAL"

    mpi_monitor_status_service_heartbeat: ClassVar[float] = 5
    mpi_monitor_status_service_timeout: ClassVar[float] = (1 + 3 + (mpi_world_size - 1) + 3 + 5) * 3
    mpi_monitor_status_service_timeout_enabled: ClassVar[bool] = True

    @classmethod
    def is_mpi_disabled_or_client(cls) -> bool:
        """Whether this process is one that a script may give its orders in."""
        return not cls.is_mpi_enabled or cls.is_mpi_client

    @staticmethod
    def mpi_server_rank_list() -> list[int]:
        """The ranks of all servers; a new list at each call."""
        return list(range(1, MPIEnvironment.mpi_world_size)) if MPIEnvironment.is_mpi_enabled else []

    @staticmethod
    def mpi_comm_world_factory() -> Any:
        """A duplicate of MPI_COMM_WORLD. Every rank has to call this at the same time.

        Raises RuntimeError if not all come within a minute.
        """
        comm, request = MPI.COMM_WORLD.Idup()
        deadline = time.monotonic() + _START_LIMIT
        while not request.Test():
            if time.monotonic() > deadline:
                raise RuntimeError(
                    f"not every rank called mpi_comm_world_factory within {_START_LIMIT:.0f} s; "
                    "MPI makes a communicator only when all its ranks take part"
                )
            os.sched_yield()
        return comm

    @staticmethod
    def finalize_mpi_environment() -> None:
        """End the servers and MPI in this process; the script may go on without them."""
        while _before_the_end:
            _before_the_end.pop()()
        if MPIEnvironment.mpi_initialized and not MPI.Is_finalized():
            MPI.Finalize()

    @staticmethod
    def abort_mpi_environment() -> None:
        """End every process of the run now, with exit status 1."""
        sys.stdout.flush()
        sys.stderr.flush()
        MPI.COMM_WORLD.Abort(1)
        os._exit(1)  # MPICH's returns, and leaves the killing to its launcher
