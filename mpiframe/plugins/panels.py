"""How what a plugin shows of itself gets to the client: after changes, seldom, and past the FIFO.

It travels as JSON, so that whoever takes it in need not undo a pickle.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from typing import Any

PANEL = "panel:"
"""Begins the source of the events that carry panels."""
_LONGEST = 1 << 16  # characters
_SECONDS = 0.5  # from one to the next
_LEAVE_SECONDS = 2.0


def to_text(content: Any) -> str | None:
    """A panel as JSON, None for none. Raises TypeError or ValueError for what is none."""
    if content is None:
        return None
    if not isinstance(content, dict):
        raise TypeError(f"a panel is a dict, not a {type(content).__name__}")
    text = json.dumps(content, allow_nan=False)
    if len(text) > _LONGEST:
        raise ValueError(f"a panel of {len(text)} characters is too long; the limit is {_LONGEST}")
    return text


def from_text(text: Any) -> dict[str, Any] | None:
    """What `to_text` was given. Raises ValueError for what is no panel."""
    if text is None:
        return None
    content = json.loads(text) if isinstance(text, str) and len(text) <= _LONGEST else None
    if not isinstance(content, dict):
        raise ValueError("it is no panel")
    return content


class PanelSender:
    """Sends what `make` returns, as text, soon after `changed`, if it differs from what was sent last."""

    def __init__(
        self,
        make: Callable[[], Any],
        send: Callable[[str | None], None],
        log: logging.Logger,
        seconds: float = _SECONDS,
    ) -> None:
        self._make, self._send, self._log, self._seconds = make, send, log, seconds
        self._lock = threading.Lock()
        self._dirty, self._over = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._last: str | None = None

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
                text = to_text(self._make())
            except Exception as error:
                self._log.exception("the panel of a plugin cannot be made")
                text = to_text({"note": f"The panel cannot be made: {str(error)[:200]}"})
            if text != self._last:
                self._send(text)
                self._last = text
            self._over.wait(self._seconds)
