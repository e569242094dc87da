"""The log of calls that MiG's interface keeps: one line each, in a file, and on the screen in debug mode."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from typing import Any

from mpiframe.plugins.grid.mig import disk

log = logging.getLogger("mpiframe.plugins.grid.mig")
_LONGEST = 300


class CallLog:
    """Writes calls to `path` (None: nowhere) and, while `debug` is set, to standard output.

    What cannot be written is told once, and no call fails for it.
    """

    def __init__(self, path: str | None = None, debug: bool = False) -> None:
        self.debug = debug
        self._told = False
        self.path = path

    def set_path(self, path: str | None) -> None:
        """Write to another file from now on."""
        self.path = path
        self._told = False

    def call(self, name: str, *arguments: Any, result: Any = None) -> None:
        """Note a call."""
        words = ", ".join(repr(a) for a in arguments)
        if len(words) > _LONGEST:
            words = f"{words[: _LONGEST - 3]}..."
        self.say(f"{name}({words})" + ("" if result is None else f" -> {result}"))

    def say(self, text: str) -> None:
        """Note something."""
        log.debug("%s", text)
        if self.debug:
            print(f"mig: {text}", flush=True)
        if self.path is not None:
            self._write(self.path, text)

    def _write(self, path: str, text: str) -> None:
        record = logging.LogRecord("mig", logging.INFO, "", 0, "%s", (text,), None)
        line = logging.Formatter("%(asctime)s %(process)d %(message)s").format(record).replace("\n", " ")
        try:
            # In a folder that all may write to, nobody else's link is followed.
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(path, flags, 0o600)
            try:
                os.write(descriptor, f"{line}\n".encode(errors="replace"))
            finally:
                os.close(descriptor)
        except OSError as error:
            if not self._told:
                self._told = True
                print(f"mpiframe: the log of MiG calls, {path}, cannot be written: {error}", file=sys.stderr)


def default_path() -> str:
    """<tmp>/miginterface_log_<user>.txt."""
    return os.path.join(tempfile.gettempdir(), f"miginterface_log_{disk.user()}.txt")
