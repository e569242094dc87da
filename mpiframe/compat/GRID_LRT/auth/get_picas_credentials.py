"""`picas_cred`: user, password and database of the tokens."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from mpiframe.plugins.grid.credentials import DATABASE, PASSWORD, USER, Credentials, Secret
from mpiframe.plugins.grid.errors import CredentialsError

PICAS_URL = "https://picas-lofar.grid.surfsara.nl:6984"


class _Hidden(str):
    """A password that other code may use as a text, and that no print, log or traceback shows."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"

    def __str__(self) -> str:
        return "***"

    def __format__(self, _: str) -> str:
        return "***"


class picas_credentials(NamedTuple):
    """What `picas_cred.get_picas_cred` returns."""

    user: str
    password: str
    database: str


class picas_cred:
    """Credentials that were given, or from the file named, `~/.picasrc`, or the environment.

    Raises CredentialsError where there are none.
    """

    def __init__(
        self,
        source_file: str | None = None,
        usr: str | None = None,
        pwd: str | None = None,
        dbn: str | None = None,
    ) -> None:
        if usr is not None:
            found = Credentials(usr, Secret(pwd or ""), dbn or "")
        else:
            found = Credentials.find(source_file)
        self.user, self.database = found.user, dbn or found.database
        self.password: str = _Hidden(found.password.reveal())

    def __repr__(self) -> str:
        return f"<picas_cred of {self.user!r} for {self.database!r}>"

    def get_picas_creds_from_file(self, source_file: str | None = None) -> None:
        """Take those of a file."""
        self.__init__(source_file or os.path.expanduser("~/.picasrc"))  # type: ignore[misc]

    def get_picas_creds_from_env(self) -> None:
        """Take those of the environment. Raises CredentialsError."""
        if not os.environ.get(USER):
            raise CredentialsError(f"there is no variable {USER}")
        self.user, self.database = os.environ[USER], os.environ.get(DATABASE, "")
        self.password = _Hidden(os.environ.get(PASSWORD, ""))

    def put_picas_creds_in_env(self) -> None:
        """Put them into the environment of this process, and of those it starts."""
        os.environ.update({USER: self.user, PASSWORD: _plain(self.password), DATABASE: self.database})

    def put_creds_in_file(self, filename: str | None = None) -> None:
        """Write them to a file that only its owner can read."""
        self._credentials().save(filename)

    def return_credentials(self) -> tuple[str, str, str]:
        """(user, password, database)."""
        return self.user, self.password, self.database

    def get_picas_cred(self) -> picas_credentials:
        """The same, by name."""
        return picas_credentials(self.user, self.password, self.database)

    def _credentials(self) -> Credentials:
        return Credentials(self.user, Secret(_plain(self.password)), self.database)


def credentials_of(creds: Any) -> Credentials:
    """Ours, of anything that has user, password and database."""
    return Credentials(creds.user, Secret(_plain(creds.password)), creds.database)


def _plain(password: str) -> str:
    return "".join(password)


get_picas_cred = picas_cred
