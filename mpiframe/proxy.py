"""The client's side of plugins: a proxy whose calls are requests like any other."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mpiframe.answers import CommandFuture
from mpiframe.codec import ByName
from mpiframe.errors import PluginError
from mpiframe.messages import PluginCall
from mpiframe.targets import Target, each, resolve

if TYPE_CHECKING:
    from mpiframe.verbs import Verbs

_LOAD, _CALL, _UNLOAD = (ByName("mpiframe.plugin_host", name) for name in ("load", "call", "unload"))


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

    def __init__(
        self,
        client: Verbs,
        name: str,
        ranks: int | list[int],
        commands: dict[str, str],
        load: Callable[[int], CommandFuture],
    ) -> None:
        self._client = client
        self._name = name
        self._ranks = ranks
        self._commands = commands
        self._load = load

    @property
    def ranks(self) -> list[int]:
        """Its servers, also those that were lost since."""
        return list(each(self._ranks))

    def on(self, rank: int) -> Proxy:
        """The same plugin on one of its servers."""
        return Proxy(self._client, self._name, rank, self._commands, self._load)

    def reload(self, rank: int) -> CommandFuture:
        """Load the plugin on a server again, which another one may have replaced. Raises ServerLost."""
        return self._load(rank)

    def recovered(self, rank: int) -> None:
        """Say that nothing is missing though this server was lost: others have taken up what it had."""
        self._client._loop.recovered(rank)

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in the commands that run on its servers, as `Client.interrupt`."""
        self._client.interrupt(self._ranks)

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
        end: Callable[[], None] = self._client._loop.subscribe(self._name, callback)
        return end

    def unload(self) -> None:
        """Stop the plugin on its servers."""
        label = PluginCall(f"{self._name}.stop")
        for future in self._client._call(self._ranks, label, _UNLOAD, self._name):
            future.result()

    def _send(self, command: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        label = PluginCall(f"{self._name}.{command}")
        futures = self._client._call(self._ranks, label, _CALL, self._name, command, args, kwargs)
        return futures if isinstance(self._ranks, list) else futures[0]


def load_plugin(client: Verbs, wanted: Any, target: Target, options: dict[str, Any]) -> Any:
    """Load a plugin on the servers of `target`, None means all of them; its face, or a Proxy."""
    ranks = resolve("all" if target is None else target, client._loop.dispatcher)
    assert ranks is not None
    label = f"load plugin {wanted if isinstance(wanted, str) else getattr(wanted, '__name__', wanted)}"

    def load(where: int | list[int]) -> list[CommandFuture]:
        return client._call(where, PluginCall(label), _LOAD, wanted, options)

    loaded = [future.result() for future in load(ranks)]
    name, commands, face = loaded[0]
    proxy = Proxy(client, name, ranks, commands, lambda rank: load(rank)[0])
    return proxy if face is None else face(proxy)
