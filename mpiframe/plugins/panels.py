"""How what a plugin shows of itself gets to the client: after changes, seldom, and past the FIFO."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

PANEL = "panel:"
"""Begins the source of the events that carry panels."""
_SECONDS = 0.5  # from one to the next
_LEAVE_SECONDS = 2.0


class PanelSender:
    """Sends what `make` returns, soon after `changed`, if it differs from what was sent last."""

    def __init__(
        self,
        make: Callable[[], Any],
        send: Callable[[Any], None],
        log: logging.Logger,
        seconds: float = _SECONDS,
    ) -> None:
        self._make, self._send, self._log, self._seconds = make, send, log, seconds
        self._lock = threading.Lock()
        self._dirty, self._over = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._last: Any = None

    def changed(self) -> None:
        """What there is to be shown has changed; returns at once."""
        if not self._dirty.is_set():
            self._dirty.set()
            with self._lock:
                if self._thread is None and not self._over.is_set():
                    self._thread = threading.Thread(target=self._run, name="mpiframe-panel", daemon=True)
                    self._thread.start()

    def stop(self) -> None:
        """Send no more, and say that there is nothing to be shown any longer."""
        with self._lock:
            self._over.set()
            self._dirty.set()
            thread = self._thread
        if thread is not None:
            thread.join(_LEAVE_SECONDS)
        if self._last is not None:
            self._send(None)

    def _run(self) -> None:
        while self._dirty.wait() and not self._over.is_set():
            self._dirty.clear()
            try:
                content = self._make()
                if content != self._last:
                    self._send(content)
                    self._last = content
            except Exception:
                self._log.exception("the panel of a plugin cannot be made")
            self._over.wait(self._seconds)
