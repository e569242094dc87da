"""The client's log: what servers and the handling of commands have to say, where the log mode puts it.

    unified     one file for all: CASA's log file if CASA is loaded, else casa-DATE.log in this folder
    separated   a file for each server, the same name and -server-N
    redirect    the terminal

Warnings and errors go to the terminal in every mode. What commands print is no log: it appears at the client
as it does for every mpiframe client.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from typing import IO, Any

MODES = ("unified", "separated", "redirect")


def server_file(path: str, rank: int) -> str:
    """The log file of one server in the mode "separated"."""
    return f"{path}-server-{rank}"


class Logs(logging.Handler):
    """A handler for this process's own records; `hear` takes those of servers."""

    def __init__(self) -> None:
        super().__init__()
        self.mode = "unified"
        self._path: str | None = None
        self._files: dict[int | None, IO[str]] = {}
        self._writing = threading.RLock()

    @property
    def path(self) -> str:
        """The log file of the mode "unified"."""
        if self._path is None:
            self._path = _casa_file() or os.path.abspath(
                time.strftime("casa-%Y%m%d-%H%M%S.log", time.gmtime())
            )
        return self._path

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record of this process."""
        if not hasattr(record, "rank"):  # or it came by `hear` already
            self._write(record, None)

    def hear(self, record: logging.LogRecord) -> None:
        """Write a record of a server."""
        self._write(record, record.rank)  # type: ignore[attr-defined]

    def _write(self, record: logging.LogRecord, rank: int | None) -> None:
        try:
            line = _line(record, rank)
            with self._writing:
                if self.mode != "redirect":
                    self._file(rank).write(line)
                if self.mode == "redirect" or record.levelno >= logging.WARNING:
                    sys.stderr.write(line)
                    sys.stderr.flush()
        except Exception:
            # A full disk, a closed terminal or a wrong format must not stop the work that this tells of.
            self.handleError(record)

    def switch(self, mode: str) -> None:
        """Put what follows elsewhere."""
        with self._writing:
            self.mode = mode
            self._close_files()

    def close(self) -> None:
        """Close the files."""
        with self._writing:
            self._close_files()
        super().close()

    def _close_files(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _file(self, rank: int | None) -> IO[str]:
        which = rank if self.mode == "separated" else None
        file = self._files.get(which)
        if file is None:
            path = self.path if which is None else server_file(self.path, which)
            # Line by line, because CASA may append to the same file.
            file = self._files[which] = open(path, "a", buffering=1, encoding="utf-8")  # noqa: SIM115
        return file


def _line(record: logging.LogRecord, rank: int | None) -> str:
    """One line, or several, as CASA writes them; what came through `casalog` says itself whose it is."""
    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(record.created))
    level = (
        "SEVERE" if record.levelno >= logging.ERROR else "WARN" if record.levelno >= logging.WARNING else ""
    )
    level = level or ("INFO" if record.levelno > logging.DEBUG else "DEBUG")
    trace = record.exc_text
    if not trace and record.exc_info:
        trace = logging.Formatter().formatException(record.exc_info)
    text = record.getMessage() + (f"\n{trace}" if trace else "")
    if record.name != "casa":
        text = f"{record.name}{'' if rank is None else f'::server-{rank}'}\t{text}"
    return f"{stamp}\t{level}\t{text}\n"


def _casa_file() -> str | None:
    """The log file of CASA in this process, if CASA is loaded."""
    casatools: Any = sys.modules.get("casatools")
    if casatools is None or not hasattr(casatools, "logsink"):
        return None
    return str(casatools.logsink().logfile()) or None
