"""What a plugin is made of: `Plugin`, `command`, `Context`.

class Echo(Plugin):
    name = "echo"

    @command
    def say(self, text: str) -> str:
        return text
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

_F = TypeVar("_F", bound=Callable[..., Any])
_MARK = "__mpiframe_command__"


def command(method: _F) -> _F:
    """Mark a method of a Plugin as one that the client may call.

    It runs in the server's FIFO. If it returns a `concurrent.futures.Future`, the call is answered when
    that completes, and the FIFO goes on meanwhile.
    """
    setattr(method, _MARK, True)
    return method


def _call_here(function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Without a server there is no namespace to find anything in."""
    return function(*args, **kwargs)


def _tell_nobody() -> None:
    """Without a server nobody looks."""


@dataclass(frozen=True)
class Context:
    """What a plugin gets to know at its start.

    config: an instance of the plugin's `Options`; log: a logger whose records reach the client;
    emit: sends an event (anything that can be pickled) to the client's subscribers, from any thread;
    rank, host: the server it runs on; ranks: how many ranks the world has, the client among them.
    changed: says that what the plugin's `panel` shows has changed; from any thread, as often as you like.
    call: `call(function, args, kwargs)` calls a function of the user's, which finds what commands left here.
    """

    config: Any
    log: logging.Logger
    emit: Callable[[Any], None]
    rank: int
    host: str
    ranks: int
    call: Callable[[Callable[..., Any], Sequence[Any], dict[str, Any]], Any] = _call_here
    changed: Callable[[], None] = _tell_nobody


class Plugin:
    """Base class of plugins. One instance lives on each server that the client names.

    name: how the client asks for it. Options: a dataclass with the options it takes; its `__post_init__`
    may refuse values by raising ValueError. face: a class that is made at the client with the proxy, and
    returned by `client.plugin` in its place; it may use the proxy's `ranks`, `on`, `interrupt`, `reload` and
    `recovered`.
    """

    name: ClassVar[str] = ""
    Options: ClassVar[type | None] = None
    face: ClassVar[type | None] = None
    context: Context

    def start(self, context: Context) -> None:
        """Called once, before the first command. What it raises is a PluginError at the client."""

    def stop(self) -> None:
        """Called once, when the plugin is unloaded or the session ends: end threads and processes here."""

    def panel(self) -> dict[str, Any] | None:
        """What `mpiframe dashboard` shows of this plugin, as plain JSON; None for nothing.

        Keys, of which any may be left out: `title`; `facts`, a dict of names and values; `columns`, a list of
        names, and `rows`, a list of lists of cells (text, numbers, None, or `{"progress": 0.5}` for a bar);
        those in a column named "state" get a coloured dot; `note`, a line of text; `shared`, true where all
        servers show the same, so that one is enough.

        It is called after `context.changed()`, now and then, in a thread of its own, also while a command
        runs. It must not wait for anything.
        """
        return None

    @classmethod
    def commands(cls) -> dict[str, str]:
        """The names of the commands, with the first line of their docstrings."""
        found = {}
        for name in dir(cls):
            method = getattr(cls, name, None)
            if getattr(method, _MARK, False):
                found[name] = (method.__doc__ or "").strip().partition("\n")[0]
        return found
