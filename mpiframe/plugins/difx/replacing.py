"""Files that are written whole, or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from typing import BinaryIO


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of `path` at the end; where that fails, nothing has happened.

    It has the permissions of what was there. Raises OSError.
    """
    path = os.path.realpath(path)
    folder, name = os.path.split(path)
    scratch = os.path.join(folder, f".{name}.{secrets.token_hex(4)}~")
    handle = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with open(handle, "wb") as file:
            yield file
            with contextlib.suppress(FileNotFoundError):
                os.fchmod(handle, os.stat(path).st_mode & 0o777)
        os.replace(scratch, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(scratch)
        raise
