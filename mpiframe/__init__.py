"""mpiframe: send commands from one client to many servers over MPI.

    import mpiframe

    with mpiframe.Client() as client:                      # started by: mpiframe run -n 4 script.py
        client.push("import numpy as np", target="all")
        client.push("x = np.arange(10.0)", target=2)
        print(client.push("x.mean()", target=2, block=True)[0].ret)

Importing the package starts nothing and loads no MPI; `Client()` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mpiframe.errors import (
    CommandArgumentError,
    CommandCancelled,
    CommandError,
    CommandSyntaxError,
    CommandTimeout,
    JournalError,
    MpiframeError,
    PluginError,
    RequestError,
    SerializationError,
    ServerLost,
    TargetError,
    WorldError,
)

if TYPE_CHECKING:
    from mpiframe.attached.attaching import attach
    from mpiframe.attached.launching import launch
    from mpiframe.client import Client
    from mpiframe.journal import Journal
    from mpiframe.messages import Response
    from mpiframe.plugins.base import Context, Plugin, command

__version__ = "0.1.0"

__all__ = [
    "Client",
    "CommandArgumentError",
    "CommandCancelled",
    "CommandError",
    "CommandSyntaxError",
    "CommandTimeout",
    "Context",
    "Journal",
    "JournalError",
    "MpiframeError",
    "Plugin",
    "PluginError",
    "RequestError",
    "Response",
    "SerializationError",
    "ServerLost",
    "TargetError",
    "WorldError",
    "attach",
    "command",
    "launch",
]

_LATE = {
    "Client": "mpiframe.client",
    "Journal": "mpiframe.journal",
    "Response": "mpiframe.messages",
    "Context": "mpiframe.plugins.base",
    "Plugin": "mpiframe.plugins.base",
    "command": "mpiframe.plugins.base",
    "attach": "mpiframe.attached.attaching",
    "launch": "mpiframe.attached.launching",
}


def __getattr__(name: str) -> Any:
    # Late, because mpiframe.client imports mpi4py.MPI, and that starts MPI.
    if name in _LATE:
        import importlib

        if name == "Client":
            from mpiframe import starting

            starting.start_mpi()
        value = getattr(importlib.import_module(_LATE[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'mpiframe' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def load_ipython_extension(shell: Any) -> None:
    """`%load_ext mpiframe` in IPython or a notebook: `%on`, `%%on`, `%servers`, `%interrupt`, `%results`."""
    from mpiframe.shell import jupyter

    jupyter.load_ipython_extension(shell)
