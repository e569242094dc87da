"""A log of one line a message, with a time and a level."""

from __future__ import annotations

import datetime
import sys
from typing import Any

MIN_LEVEL = "info"
LOGFILE: Any = None
"""Where messages go if nothing else is said; None: standard error."""

_LEVELS = {"debug": 0, "info": 1, "normal": 1, "warn": 2, "error": 3, "critical": 4}
_SHORT = {
    "d": "debug",
    "i": "info",
    "n": "normal",
    "w": "warn",
    "warning": "warn",
    "e": "error",
    "c": "critical",
}
_SHOWN = {"warn": "WARNING"}
_COLOURS = {"debug": "\033[36m", "warn": "\033[33m", "error": "\033[31m", "critical": "\033[1;31m"}


def log(
    message: str,
    level: str = "info",
    logfile: Any = None,
    also_write: str | None = None,
    min_level: str | None = None,
    kind: str | None = None,
) -> None:
    """Write a line `20160618 00:11:24.969 | INFO --> message`, if its level is MIN_LEVEL or above.

    logfile: a path, a file, or a logger of `logging`; None is LOGFILE. also_write: "stdout" or "stderr", too.
    kind: another name for level. Raises ValueError for a level that there is not.
    """
    wanted = _level(kind or level)
    if _LEVELS[wanted] < _LEVELS[_level(min_level or MIN_LEVEL)]:
        return
    target = logfile if logfile is not None else LOGFILE if LOGFILE is not None else sys.stderr
    if hasattr(target, "log") and hasattr(target, "handlers"):
        target.log({0: 10, 1: 20, 2: 30, 3: 40, 4: 50}[_LEVELS[wanted]], message)
    else:
        _write(target, message, wanted)
    extra = {"stdout": sys.stdout, "stderr": sys.stderr}.get(also_write or "")
    if also_write is not None and extra is None:
        raise ValueError(f"also_write {also_write!r} has to be 'stdout' or 'stderr'")
    if extra is not None and extra is not target:
        _write(extra, message, wanted)


def _level(name: str) -> str:
    found = _SHORT.get(str(name).lower(), str(name).lower())
    if found not in _LEVELS:
        raise ValueError(f"there is no level {name!r}; there are {', '.join(_LEVELS)}")
    return found


def _write(target: Any, message: str, level: str) -> None:
    now = datetime.datetime.now()
    word = _SHOWN.get(level, level.upper())
    stamp = f"{now:%Y%m%d %H:%M:%S}.{now.microsecond // 1000:03}"
    if isinstance(target, str):
        with open(target, "a", encoding="utf-8") as file:
            file.write(f"{stamp} | {word} --> {message}\n")
        return
    if level in _COLOURS and getattr(target, "isatty", lambda: False)():
        word = f"{_COLOURS[level]}{word}\033[0m"
    target.write(f"{stamp} | {word} --> {message}\n")
    target.flush()
