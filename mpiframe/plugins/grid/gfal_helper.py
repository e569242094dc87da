"""A program for a Python that has gfal2: takes requests as lines of JSON, and answers them.

Run by `gfal.Gfal`, by its path, under the system's Python: so it imports nothing but the standard library and
gfal2, and runs on whatever Python 3 the distribution has. Its own file descriptors carry the lines: what
gfal2 and its plugins print goes to standard error. It ends when its standard input does.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

AT_ONCE = 8
"""Questions about single files that are under way at a time; storage answers each in tenths of seconds."""
_EIO = 5


class Storage:
    """What can be asked for. Errors of single files are answers: [code, text]."""

    def __init__(self, gfal2: Any) -> None:
        self._gfal2 = gfal2
        self._local = threading.local()
        self._options: list[list[Any]] = []
        self._credentials: list[list[str]] = []
        self._pool = ThreadPoolExecutor(AT_ONCE)

    def version(self) -> str:
        """gfal2's version."""
        return str(self._gfal2.get_version())

    def configure(self, options: list[list[Any]], credentials: list[list[str]]) -> None:
        """Options of plugins (group, name, value) and credentials (kind, value, start of the urls)."""
        self._options, self._credentials = options, credentials

    def status(self, urls: list[str]) -> list[Any]:
        """Where each file is, as the storage says it, or an error."""
        return list(self._pool.map(self._status, urls))

    def size(self, url: str) -> int:
        """A file's size in bytes."""
        return int(self._context().stat(url).st_size)

    def listdir(self, url: str) -> list[str]:
        """The names in a folder."""
        return [name for name in self._context().listdir(url) if name not in (".", "..")]

    def stage(self, urls: list[str], pin_seconds: int, request_seconds: int) -> list[Any]:
        """Ask for files to be brought to disk: [token, an error or None for each]."""
        errors, token = self._context().bring_online(urls, pin_seconds, request_seconds, True)
        return [token, [_error(error) for error in errors]]

    def poll(self, urls: list[str], token: str) -> list[Any]:
        """None for each file that is there, else an error; EAGAIN for those that are not yet."""
        return [_error(error) for error in self._context().bring_online_poll(urls, token)]

    def release(self, urls: list[str], token: str) -> list[Any]:
        """Let go of what was staged: None or an error for each."""
        return [_error(error) for error in self._context().release(urls, token)]

    def abort(self, urls: list[str], token: str) -> list[Any]:
        """Take a request back: None or an error for each."""
        return [_error(error) for error in self._context().abort_bring_online(urls, token)]

    def copy(self, source: str, target: str, overwrite: bool, limit: int) -> None:
        """Copy one file; folders on the way are made."""
        context = self._context()
        how = context.transfer_parameters()
        how.overwrite = overwrite
        how.create_parent = True
        how.timeout = limit
        context.filecopy(how, source, target)

    def remove(self, url: str) -> None:
        """Delete one file."""
        self._context().unlink(url)

    def _status(self, url: str) -> Any:
        try:
            return str(self._context().getxattr(url, "user.status")).strip("\0 ")
        except UnicodeDecodeError:
            return [_EIO, "its status cannot be read: it is no text"]
        except self._gfal2.GError as error:
            return _error(error)

    def _context(self) -> Any:
        """gfal2's context of this thread."""
        if not hasattr(self._local, "context"):
            context = self._gfal2.creat_context()
            for group, name, value in self._options:
                if isinstance(value, bool):
                    context.set_opt_boolean(group, name, value)
                elif isinstance(value, int):
                    context.set_opt_integer(group, name, value)
                else:
                    context.set_opt_string(group, name, value)
            for kind, value, prefix in self._credentials:
                self._gfal2.cred_set(context, prefix, self._gfal2.cred_new(kind, value))
            self._local.context = context
        return self._local.context


def _error(error: Any) -> list[Any] | None:
    return None if error is None else [int(error.code), str(error.message)]


def main() -> int:
    """Answer until nobody asks any more."""
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(**answer: Any) -> None:
        lines.write(json.dumps(answer) + "\n")
        lines.flush()

    try:
        import gfal2
    except ImportError as error:
        say(missing=str(error))
        return 0
    storage = Storage(gfal2)
    say(ready=storage.version())
    for line in sys.stdin:
        request = json.loads(line)
        try:
            say(value=getattr(storage, request["call"])(**request["arguments"]))
        except gfal2.GError as error:
            say(error=_error(error))
        except Exception as error:
            say(error=[_EIO, f"{type(error).__name__}: {error}"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
