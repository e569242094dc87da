"""What goes wrong with jobs of MiG, under the names that its Python interface has for them."""

from __future__ import annotations

from mpiframe.plugins.grid.errors import GridError

CLIENT_ERROR = 100
NO_SUCH_JOB = 101
FILE_NOT_FOUND = 105
SYSTEM_ERROR = 200


class MigInterfaceError(GridError):
    """Base of all errors of the interface.

    Attributes
    ----------
    msg: what happened. error_code: the server's number for it, -1 where there is none.
    """

    def __init__(self, msg: str, error_code: int = -1) -> None:
        super().__init__(msg, error_code)  # all in args, so that it can be pickled
        self.msg = msg
        self.error_code = error_code

    def __str__(self) -> str:
        return self.msg if self.error_code < 0 else f"{self.msg} (error code {self.error_code})"


class MigLocalError(MigInterfaceError):
    """Something is wrong on this side: a file, a setting, a job description. Nothing was submitted."""


class MrslError(MigLocalError, ValueError):
    """A job description cannot be read; its text names every keyword that is wrong."""


class MigServerError(MigInterfaceError):
    """The server refused, or could not be reached. `error_code` is what it answered."""


class MigUnknownJobIdError(MigServerError, LookupError):
    """The server knows no job with this id."""
