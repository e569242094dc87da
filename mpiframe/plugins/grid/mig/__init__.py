"""Jobs of the Minimum intrusion Grid (MiG): on its server, on this machine, or on servers of a world.

from mpiframe.plugins.grid.mig import Mig, HttpsServer, LocalServer, WorldServer

mig = Mig(LocalServer())
job = mig.create_job("./fit.sh 3 > fit.txt", executables="fit.sh", output_files="fit.txt")
mig.wait(job), mig.get_file("fit.txt")
"""

from typing import TYPE_CHECKING, Any

from mpiframe.plugins.grid.mig.errors import (
    MigInterfaceError,
    MigLocalError,
    MigServerError,
    MigUnknownJobIdError,
    MrslError,
)

if TYPE_CHECKING:
    from mpiframe.plugins.grid.mig.home import LocalServer
    from mpiframe.plugins.grid.mig.https import HttpsServer
    from mpiframe.plugins.grid.mig.interface import Mig
    from mpiframe.plugins.grid.mig.world import WorldServer

__all__ = [
    "HttpsServer",
    "LocalServer",
    "Mig",
    "MigInterfaceError",
    "MigLocalError",
    "MigServerError",
    "MigUnknownJobIdError",
    "MrslError",
    "WorldServer",
]

# Late: the process of each job imports this package, and needs none of them.
_LATE = {"HttpsServer": "https", "LocalServer": "home", "Mig": "interface", "WorldServer": "world"}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_LATE[name]}"), name)
