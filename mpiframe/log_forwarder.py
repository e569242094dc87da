"""The logging handler of a server: its records go to the client."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from mpiframe.messages import Up

if TYPE_CHECKING:
    from mpiframe.server import Server


class LogForwarder(logging.Handler):
    """Sends log records to the client."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self._server = server

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
            if record.exc_info and not record.exc_text:
                record.exc_text = logging.Formatter().formatException(record.exc_info)
            fields = (
                record.name,
                record.levelno,
                record.levelname,
                record.pathname,
                record.lineno,
                record.funcName,
                record.created,
                record.threadName,
                text,
                record.exc_text,
            )
            self._server.post((int(Up.LOG), self._server.running, fields))
        except Exception:
            self.handleError(record)
