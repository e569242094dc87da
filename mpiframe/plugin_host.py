"""The server's side of plugins: these functions are sent as ordinary commands by `proxy`."""

from __future__ import annotations

import logging
from typing import Any

from mpiframe import server
from mpiframe.errors import PluginError
from mpiframe.messages import Outcome, Up
from mpiframe.plugins import registry
from mpiframe.plugins.base import Context, Plugin
from mpiframe.plugins.panels import PANEL, PanelSender

_EVENT, _VALUE = int(Up.EVENT), int(Outcome.VALUE)

_loaded: dict[str, tuple[Plugin, dict[str, Any]]] = {}
_panels: dict[str, PanelSender] = {}


def load(wanted: str | type[Plugin], options: dict[str, Any]) -> tuple[str, dict[str, str], type | None]:
    """Start a plugin on this server, once; its name, its commands and its face."""
    here = server.current()
    if here is None:
        raise PluginError("plugins run on servers; this process is none")
    found = (
        registry.find(wanted) if isinstance(wanted, str) else registry.check_class(wanted, wanted.__name__)
    )
    name = found.name
    if name in _loaded:
        if _loaded[name][1] != options:
            raise PluginError(
                f"plugin {name!r} runs on server {here.rank} with other options; unload it first"
            )
        return name, found.commands(), found.face
    config = registry.make_options(found, options)
    plugin = found()
    log = logging.getLogger(f"mpiframe.plugins.{name}")
    panel = PanelSender(plugin.panel, lambda text: here.post((_EVENT, PANEL + name, _VALUE, text)), log)
    plugin.context = Context(
        config=config,
        log=log,
        emit=lambda event: here.emit(name, event),
        rank=here.rank,
        host=here.host,
        ranks=here.world.size,
        call=here.namespace.call,
        changed=panel.changed,
    )
    plugin.start(plugin.context)
    if not _loaded:
        here.at_stop(unload_all)
    _loaded[name] = (plugin, options)
    _panels[name] = panel
    if found.panel is not Plugin.panel:
        panel.changed()
    return name, found.commands(), found.face


def call(name: str, command: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run one command of a loaded plugin."""
    entry = _loaded.get(name)
    if entry is None:
        raise PluginError(f"plugin {name!r} is not loaded on this server (it was unloaded)")
    return getattr(entry[0], command)(*args, **kwargs)


def unload(name: str) -> None:
    """Stop a plugin on this server."""
    entry = _loaded.pop(name, None)
    if entry is not None:
        _panels.pop(name).stop()
        entry[0].stop()


def unload_all() -> None:
    """Stop all plugins; one that fails does not keep the others from stopping."""
    log = logging.getLogger("mpiframe")
    for name in reversed(list(_loaded)):
        try:
            unload(name)
        except Exception:
            log.exception("plugin %s raised when it was stopped", name)
