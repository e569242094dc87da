"""`MPICommandClient`: push command requests to the servers, get their responses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mpiframe.compat.casampi._command_client import MPICommandClient

__all__ = ["MPICommandClient"]


def __getattr__(name: str) -> Any:
    # Late, because on a server rank this does not return: nothing may be half imported then, or a command
    # that imports the same would wait for it for ever.
    if name == "MPICommandClient":
        from mpiframe.compat.casampi import _roles

        _roles.join()
        from mpiframe.compat.casampi._command_client import MPICommandClient

        globals()[name] = MPICommandClient
        return MPICommandClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
