"""Who takes which part: rank 0 goes on with the script, every other rank serves."""

from __future__ import annotations

import atexit

from mpiframe import client, opening, process, server
from mpiframe.compat.casampi.MPIEnvironment import MPIEnvironment, before_the_end
from mpiframe.world import CLIENT


def join() -> None:
    """Join the world of this run; on a server rank: serve, and end the process after that.

    On the servers of a run that serve already, and where MPI is not enabled, nothing happens.
    """
    if not MPIEnvironment.is_mpi_enabled or server.current() is not None or opening.opened() is not None:
        return
    opened = opening.open_world()
    if opened.rank != CLIENT:
        process.serve_and_leave(opened)
    atexit.register(_dismiss)


def _dismiss() -> None:
    """Everything ends: if the script never made a client, nobody else would tell the servers."""
    opened = opening.opened()
    if opened is not None and client.current_client() is None:
        process.dismiss(opened)
    process.leave()


before_the_end(_dismiss)


def check_client(what: str) -> None:
    """Raises RuntimeError where `what` cannot be instantiated: without MPI, and on a server."""
    if not MPIEnvironment.is_mpi_enabled:
        raise RuntimeError(
            f"MPI is not enabled. {what} needs a client and at least one server: start the script with "
            f"`mpiframe run -n 4 --casampi script.py`, or mpiexec. ({MPIEnvironment.mpi_error_msg})"
        )
    if not MPIEnvironment.is_mpi_client:
        raise RuntimeError(
            f"{what} can only be instantiated at master MPI process (rank 0); "
            f"this is server {MPIEnvironment.mpi_processor_rank}"
        )
