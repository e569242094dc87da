"""The base of DiFX's clients for one task: a connection of their own, or that of another client."""

from __future__ import annotations

from typing import Any

from mpiframe.compat.DiFXControl import Client as _Client

_SHARED = frozenset(
    {
        "socketOK", "sock", "monitorThread", "bytesReceived", "versionPreference", "serverVersion",
        "difxBase",
        "serverUser", "availableVersion", "serverEnvironment", "channelResponse", "channelPool",
        "channelCallbacks", "_waitTime", "_runFile", "_news", "_sending", "_allCallbacks", "_relayCallbacks",
        "_failCallbacks", "_finalCallback", "_intervalCallback", "_timeoutCallback", "_messageCallback",
        "_warningCallback", "_errorCallback",
    }
)  # fmt: skip


class AttachedClient(_Client):
    """A client; with another one given, what belongs to the connection is that one's."""

    def __init__(self, client: _Client | None = None) -> None:
        self.__dict__["_client"] = None
        super().__init__()
        if client is not None:
            for name in _SHARED:
                self.__dict__.pop(name, None)
            self.__dict__["_client"] = client

    def __getattr__(self, name: str) -> Any:
        client = self.__dict__.get("_client")
        if client is not None and name in _SHARED:
            return getattr(client, name)
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        client = self.__dict__.get("_client")
        if client is not None and name in _SHARED:
            setattr(client, name, value)
        else:
            super().__setattr__(name, value)
