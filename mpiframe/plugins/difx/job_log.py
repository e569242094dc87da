"""The `.difxlog` file of a job, written from the messages that it sends."""

from __future__ import annotations

import datetime
import os
import threading

from mpiframe.plugins.difx.formats import difxlog
from mpiframe.plugins.difx.messages import Message
from mpiframe.plugins.difx.messages_bodies import Alert, Status, Transient
from mpiframe.plugins.difx.messages_states import Severity

LOGGED = ("DifxAlertMessage", "DifxStatusMessage", "DifxTransientMessage")
"""The types of messages that a log is made of."""


def lines(message: Message, now: datetime.datetime) -> list[difxlog.LogLine]:
    """The lines that a message makes; none for what is of no interest later."""
    where = (now.replace(microsecond=0), message.process, message.sender.replace(" ", "_") or "unknown")
    body = message.body
    if isinstance(body, Alert):
        if not 0 <= body.severity <= Severity.INFO:
            return []
        return [difxlog.Alert(*where, difxlog.SEVERITIES[body.severity], _one_line(body.message))]
    if isinstance(body, Status):
        state = str(body.state).replace(" ", "_") or "unknown"
        made: list[difxlog.LogLine] = [difxlog.Status(*where, state, _one_line(body.message))]
        if body.weights:
            made.append(difxlog.Weights(*where, tuple(one.weight for one in body.weights)))
        return made
    if isinstance(body, Transient):
        return [difxlog.Alert(*where, "", f"Transient event received: {_one_line(body.comment)}")]
    return []


class LogWriter:
    """Appends to a `.difxlog` file, whole lines at a time; of any thread."""

    def __init__(self, path: str) -> None:
        """Open it. Raises OSError, also for a link."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._handle = os.open(path, flags, 0o666)
        self._lock = threading.Lock()

    def write(self, message: Message) -> None:
        """Add what a message says. Raises OSError, as where the disk is full."""
        text = "".join(f"{line.text()}\n" for line in lines(message, datetime.datetime.now()))
        with self._lock:
            if text and self._handle >= 0:
                os.write(self._handle, text.encode())

    def close(self) -> None:
        """Add no more."""
        with self._lock:
            handle, self._handle = self._handle, -1
            if handle >= 0:
                os.close(handle)


def _one_line(text: str) -> str:
    return " ".join(text.splitlines())
