"""`MPICommandServer`: the server's side, as an object."""

from __future__ import annotations

from mpiframe.compat.casampi import _on_server, _roles
from mpiframe.compat.casampi.MPIEnvironment import MPIEnvironment


class MPICommandServer:
    """A handle on this server. Raises RuntimeError on the client and where MPI is not enabled.

    Its services live as long as the run: they start when a rank joins, and the client stops them.
    """

    def __init__(self, start_services: bool = False) -> None:
        if not MPIEnvironment.is_mpi_enabled or MPIEnvironment.is_mpi_client:
            raise RuntimeError("MPICommandServer can only be instantiated at a server of a run with MPI")
        if start_services:
            self.serve()

    def start_services(self) -> None:
        """As `serve`."""
        self.serve()

    def serve(self) -> None:
        """Serve until the client ends the session, and end the process; returns at once if this serves."""
        _roles.join()

    def omp_set_num_threads(self, omp_num_threads: int) -> None:
        """How many threads OpenMP may use in this process."""
        _on_server.set_omp_num_threads(omp_num_threads)
