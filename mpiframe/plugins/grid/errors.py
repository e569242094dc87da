"""What goes wrong on the grid, named by what the user sees."""

from __future__ import annotations

from mpiframe.errors import MpiframeError


class GridError(MpiframeError):
    """Base of the errors of the grid plugin."""


class CredentialsError(GridError):
    """No user and password were found, or the file that holds them cannot be read."""


class TokenError(GridError, ValueError):
    """A token, a list of tokens or a configuration is not what it has to be. Nothing was sent."""


class OldConfiguration(TokenError, RuntimeError):
    """A configuration of tokens is of a version that is read no longer."""


class KnownToken(TokenError, RuntimeError):
    """There is a token of this id in the list already."""


class DatabaseError(GridError):
    """The database refused, or answered what it should not.

    Attributes
    ----------
    status: the HTTP status, 0 where there was no answer.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message, status)  # all in args, so that it can be pickled
        self.status = status

    def __str__(self) -> str:
        return str(self.args[0])


class DatabaseDown(DatabaseError):
    """The database cannot be reached, or broke off. A change under way may have been made, or not."""


class NotAllowed(DatabaseError):
    """The user or the password is wrong, or the user may not do this."""


class NotFound(DatabaseError, LookupError):
    """There is no such database, document, view or attachment."""


class Conflict(DatabaseError):
    """Somebody else has changed the document meanwhile. What was to be saved is still in the token."""


class AttachmentError(GridError):
    """An attachment could not be read, written or kept whole; no part of it is left behind."""


class PilotError(GridError):
    """Pilots cannot go on."""
