"""The client's side of plugins: a proxy whose calls are requests like any other."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mpiframe import plugin_host
from mpiframe.errors import PluginError
from mpiframe.messages import PluginCall
from mpiframe.targets import Target, resolve

if TYPE_CHECKING:
    from mpiframe.client import Client


class _NoSuchCommand(PluginError, AttributeError):
    """So that `hasattr` and tab completion work on a proxy."""


class PluginCommand:
    """One command of a plugin: call it and wait, or `submit` it."""

    def __init__(self, proxy: Proxy, name: str, doc: str) -> None:
        self._proxy = proxy
        self._name = name
        self.__name__ = name
        self.__doc__ = doc

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it and return its value; a list of values, in target order, for several servers."""
        futures = self.submit(*args, **kwargs)
        if isinstance(futures, list):
            return [future.result() for future in futures]
        return futures.result()

    def submit(self, *args: Any, **kwargs: Any) -> Any:
        """Queue it and return a Future; a list of them for several servers."""
        return self._proxy._send(self._name, args, kwargs)


class Proxy:
    """A plugin on one server or several. Its attributes are the plugin's commands."""

    def __init__(self, client: Client, name: str, ranks: int | list[int], commands: dict[str, str]) -> None:
        self._client = client
        self._name = name
        self._ranks = ranks
        self._commands = commands

    def __getattr__(self, name: str) -> PluginCommand:
        if name.startswith("_") or name not in self._commands:
            known = ", ".join(sorted(self._commands)) or "none"
            raise _NoSuchCommand(f"plugin {self._name!r} has no command {name!r}; its commands: {known}")
        return PluginCommand(self, name, self._commands[name])

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._commands})

    def __repr__(self) -> str:
        return f"<plugin {self._name!r} on {self._ranks}: {', '.join(sorted(self._commands))}>"

    def subscribe(self, callback: Callable[[int, Any], None]) -> Callable[[], None]:
        """Call `callback(server, event)` for each event the plugin emits, in a thread of the client.

        Returns a function that ends the subscription.
        """
        return self._client._hearing.subscribe(self._name, callback)

    def unload(self) -> None:
        """Stop the plugin on its servers."""
        label = PluginCall(f"{self._name}.stop")
        for future in self._client._call(self._ranks, label, plugin_host.unload, self._name):
            future.result()

    def _send(self, command: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        label = PluginCall(f"{self._name}.{command}")
        call = plugin_host.call
        futures = self._client._call(self._ranks, label, call, self._name, command, args, kwargs)
        return futures if isinstance(self._ranks, list) else futures[0]


def load_plugin(client: Client, wanted: Any, target: Target, options: dict[str, Any]) -> Proxy:
    """Load a plugin on the servers of `target`; None means all of them."""
    ranks = resolve("all" if target is None else target, client._loop.dispatcher)
    assert ranks is not None
    label = f"load plugin {wanted if isinstance(wanted, str) else getattr(wanted, '__name__', wanted)}"
    futures = client._call(ranks, PluginCall(label), plugin_host.load, wanted, options)
    loaded = [future.result() for future in futures]
    name, commands = loaded[0]
    return Proxy(client, name, ranks, commands)
