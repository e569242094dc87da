"""What goes wrong with a computing element, named by what the user sees."""

from __future__ import annotations

from collections.abc import Sequence

from mpiframe.plugins.grid.errors import GridError


class ArcError(GridError):
    """Base of the errors of jobs on ARC computing elements."""


class ArcDown(ArcError):
    """The element cannot be reached, does not answer in time, or dropped the connection."""


class CredentialError(ArcError):
    """A certificate, key, token or authority is missing, expired, unreadable, or refused."""


class DescriptionError(ArcError, ValueError):
    """A job's description is not right. Raised before anything is sent, or in the element's own words."""


class JobNotFound(ArcError, LookupError):
    """The element knows no job with this id: it never did, or the job was cleaned."""


class NoSuchFile(ArcError, LookupError):
    """The job has no file of this name (yet); files that are no outputs are gone once the job has ended."""


class TransferError(ArcError):
    """A file did not arrive whole. Where it was written to, nothing or the former file is left."""


class ArcRefused(ArcError):
    """The element said no.

    Attributes
    ----------
    status, reason: what it said; status is that of HTTP.
    """

    def __init__(self, message: str, status: int = 0, reason: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        # Attributes with a default would be lost by the default, which calls the class with `args` only.
        return (type(self), self.args, self.__dict__)


class JobFailed(ArcError):
    """The job ended, but not well.

    Attributes
    ----------
    state: FAILED, KILLED or FINISHED (with an exit code); exit_code: None where the element knows none;
    errors: what the element says of it.
    """

    def __init__(
        self, message: str, state: str = "", exit_code: int | None = None, errors: Sequence[str] = ()
    ) -> None:
        super().__init__(message)
        self.state = state
        self.exit_code = exit_code
        self.errors = tuple(errors)

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), self.args, self.__dict__)
