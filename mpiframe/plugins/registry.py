"""Finds plugins by name and checks their options. Plugins register by the entry-point group."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable
from typing import Any

from mpiframe.errors import PluginError
from mpiframe.plugins.base import Plugin

GROUP = "mpiframe.plugins"


def _entries() -> Iterable[Any]:
    from importlib.metadata import entry_points  # late: a sixth of the time that importing mpiframe takes

    return entry_points(group=GROUP)


def available() -> list[str]:
    """The names of all installed plugins."""
    return sorted({entry.name for entry in _entries()})


def find(name: str) -> type[Plugin]:
    """The plugin class of this name. Raises PluginError, naming those there are."""
    for entry in _entries():
        if entry.name == name:
            try:
                found = entry.load()
            except Exception as error:
                raise PluginError(f"plugin {name!r} ({entry.value}) cannot be imported: {error!r}") from error
            return check_class(found, name)
    known = available()
    near = difflib.get_close_matches(name, known, 1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    there = ", ".join(known) or "none"
    raise PluginError(
        f"there is no plugin {name!r}{hint} Installed plugins: {there} (entry-point group {GROUP})"
    )


def check_class(found: Any, name: str) -> type[Plugin]:
    """`found`, if it is a usable plugin class; else PluginError."""
    if not (isinstance(found, type) and issubclass(found, Plugin)):
        raise PluginError(f"plugin {name!r} is {found!r}, which is no subclass of mpiframe.Plugin")
    if not found.name:
        raise PluginError(f"the plugin class {found.__qualname__} has no name")
    return found


def make_options(plugin: type[Plugin], given: dict[str, Any]) -> Any:
    """The plugin's Options made of what was given. Raises PluginError for what it does not take."""
    if plugin.Options is None:
        if given:
            raise PluginError(f"plugin {plugin.name!r} takes no options, so not {', '.join(given)}")
        return None
    known = [f.name for f in dataclasses.fields(plugin.Options) if f.init]
    for option in given:
        if option not in known:
            near = difflib.get_close_matches(option, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            raise PluginError(
                f"plugin {plugin.name!r} has no option {option!r}{hint} Its options: {', '.join(known)}"
            )
    try:
        return plugin.Options(**given)
    except (TypeError, ValueError) as error:
        raise PluginError(f"plugin {plugin.name!r} refuses its options: {error}") from error
