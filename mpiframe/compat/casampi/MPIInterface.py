"""`MPIInterface`: the servers as the cluster that casatasks' parallel imaging knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mpiframe.compat.casampi._interface import MPIInterface

__all__ = ["MPIInterface"]


def __getattr__(name: str) -> Any:
    # Late, for the reason given in MPICommandClient.
    if name == "MPIInterface":
        from mpiframe.compat.casampi import _roles

        _roles.join()
        from mpiframe.compat.casampi._interface import MPIInterface

        globals()[name] = MPIInterface
        return MPIInterface
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
