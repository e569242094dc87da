"""What goes wrong with links, storage and sandboxes, named by what the user sees."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from mpiframe.plugins.grid.error_codes import ErrorCode
from mpiframe.plugins.grid.errors import CredentialsError, GridError


class StorageError(GridError):
    """Base of the errors of grid storage, stagers and sandboxes.

    Attributes
    ----------
    exit_code: what a token's `output` says if this ends its processing; None where GRID_LRT has no code.
    """

    exit_code: ErrorCode | None = None


class LinkError(StorageError, AttributeError, ValueError):
    """A link does not belong into this list. (GRID_LRT raised AttributeError.)"""


class NoLinksError(LinkError, IndexError):
    """There is nothing where links are needed. (GRID_LRT raised IndexError.)"""


class MissingTool(StorageError):
    """A program or library that is needed is not installed. The text names the package."""


class CredentialsMissing(StorageError, CredentialsError):
    """No credentials were found. The text says where they were looked for."""


class AccessDenied(StorageError, PermissionError):
    """The other side refused the credentials."""


class StorageDown(StorageError, ConnectionError):
    """The other side cannot be reached, cannot be trusted, or does not answer."""


class StorageTimeout(StorageError, TimeoutError):
    """It took longer than was allowed."""


class NoSuchFile(StorageError, FileNotFoundError):
    """The file, or the request, is not there."""


class NoParent(StorageError):
    """The folder of the file is missing, and cannot be made."""


class AlreadyThere(StorageError, FileExistsError):
    """There is such a file already, and it was not to be overwritten."""


class DiskFull(StorageError, OSError):
    """No more room for the file, here or there. What was half written has been removed."""


class StagingFailed(StorageError):
    """Some files cannot be staged.

    Attributes
    ----------
    failed: the reason of each link that failed.
    """

    exit_code = ErrorCode.NOT_STAGED

    def __init__(self, message: str, failed: Mapping[str, str] | None = None) -> None:
        super().__init__(message, dict(failed or {}))  # both in args, so that it can be pickled
        self.failed: dict[str, str] = self.args[1]

    def __str__(self) -> str:
        return str(self.args[0])


class ConfigError(StorageError, ValueError):
    """A configuration cannot be read, or says something that cannot be. The text names file and line."""


class ArchiveError(StorageError, ValueError):
    """A file is no archive, is damaged, or holds what must not be unpacked."""


class SandboxEmpty(ArchiveError):
    """What was downloaded has no bytes: GRID_LRT's error code -2."""

    exit_code = ErrorCode.SANDBOX_EMPTY


class NotWhole(ArchiveError):
    """What was downloaded has another size than was announced or allowed."""

    exit_code = ErrorCode.NOT_FULLY_DOWNLOADED


_SECRET_IN_URL = re.compile(r"(?<=://)[^/\s@]*@")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def shown(url: str) -> str:
    """A URL as errors show it: without user, password, and what follows a question mark (tokens may)."""
    bare = _SECRET_IN_URL.sub("", url)
    query = bare.partition("?")[2]
    if not query or query.startswith(("SFN=", "surl=")):
        return bare
    return bare.partition("?")[0] + "?..."


def of_disk(error: OSError, path: str) -> StorageError:
    """What the system said of a file here, as an error of ours."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in _NO_ROOM:
        return DiskFull(f"no room for {path}: {reason}; what was written of it has been removed")
    if isinstance(error, FileNotFoundError):
        return NoSuchFile(f"{path}: {reason}")
    return StorageError(f"{path}: {reason}")


@contextmanager
def coded(otherwise: ErrorCode, codes: Mapping[type[StorageError], ErrorCode]) -> Iterator[None]:
    """Gives the errors of what is done inside their exit code, where they have none of their own."""
    try:
        yield
    except StorageError as error:
        if error.exit_code is None:
            found = [code for kind, code in codes.items() if isinstance(error, kind)]
            error.exit_code = found[0] if found else otherwise
        raise
