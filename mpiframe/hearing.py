"""What servers say beside answers: log records and the events of plugins."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any, Protocol

from mpiframe import codec
from mpiframe.messages import Outcome, Up
from mpiframe.output import STDERR, Printer
from mpiframe.plugins.panels import PANEL, from_text

log = logging.getLogger("mpiframe")


class Places(Protocol):
    """Who knows where servers are."""

    @property
    def members(self) -> Any:
        """By rank: what has a host and a pid."""


class Hearing:
    """Passes log records on to this process's `logging`, and events to their subscribers."""

    def __init__(self, world: Places, printer: Printer) -> None:
        self._world = world
        self._printer = printer
        self.record_hook: Callable[[logging.LogRecord], None] | None = None  # gets every log record, too
        # Those who take a log record for themselves, and those who get events as they came, too.
        self.log_taps: list[Callable[[int, int, Any], bool]] = []
        self.event_taps: list[Callable[[int, str, bytes, Any], None]] = []
        self._subscribers: dict[str, list[Callable[[int, Any], None]]] = {}
        # (plugin, server) -> (when, what it shows)
        self.panels: dict[tuple[str, int], tuple[float, dict[str, Any]]] = {}

    def hear(self, rank: int, content: tuple[Any, ...], buffers: Any) -> None:
        """Take in what a server says."""
        if content[0] == Up.LOG:
            if not any(tap(rank, content[1], content[2]) for tap in self.log_taps):
                self._log(rank, content[1], content[2])
        elif content[0] == Up.EVENT:
            self._event(rank, content, buffers)

    def _log(self, rank: int, request: int, fields: Any) -> None:
        name, level, level_name, path, line, function, created, thread, text, trace = fields
        record = logging.LogRecord(name, level, path, line, text, None, None, function)
        record.levelname, record.created, record.threadName, record.exc_text = (
            level_name,
            created,
            thread,
            trace,
        )
        record.msecs = (created - int(created)) * 1000
        host = self._world.members[rank].host
        record.rank, record.host, record.request = rank, host, request or None
        record.processName = f"server {rank}@{host}"
        record.process = self._world.members[rank].pid
        if self.record_hook is not None:
            self.record_hook(record)
        logger = logging.getLogger(name)
        if logger.hasHandlers():
            logger.handle(record)
        elif self.record_hook is None and logger.isEnabledFor(level):
            words = f"{level_name} {name}: {text}" + (f"\n{trace}" if trace else "") + "\n"
            self._printer.feed(rank, request, [(STDERR, words)])

    def _event(self, rank: int, content: tuple[Any, ...], buffers: Any) -> None:
        _, source, outcome, payload = content
        if source.startswith(PANEL):
            self._panel(source[len(PANEL) :], rank, payload)
            return
        for tap in self.event_taps:
            tap(rank, source, codec.pack((outcome, payload)), buffers)
        if self.event_taps and source not in self._subscribers:
            return
        try:
            if outcome == Outcome.UNSENDABLE:
                raise ValueError(payload[1])
            value = codec.loads(payload, buffers) if outcome == Outcome.PICKLED else payload
        except Exception:
            log.exception("an event of plugin %s on server %d cannot be read", source, rank)
            return
        for callback in list(self._subscribers.get(source, ())):
            try:
                callback(rank, value)
            except Exception:
                log.exception("a subscriber of plugin %s raised", source)

    def _panel(self, plugin: str, rank: int, text: Any) -> None:
        try:
            content = from_text(text)
        except ValueError as error:
            content = {"note": f"The panel of plugin {plugin} cannot be read: {error}"}
        if content is None:
            self.panels.pop((plugin, rank), None)
        else:
            self.panels[plugin, rank] = time.time(), content

    def subscribe(self, source: str, callback: Callable[[int, Any], None]) -> Callable[[], None]:
        """Call `callback(server, event)` for each event of a plugin; gives what ends it."""
        listeners = self._subscribers.setdefault(source, [])
        listeners.append(callback)

        def unsubscribe() -> None:
            with contextlib.suppress(ValueError):
                listeners.remove(callback)

        return unsubscribe
