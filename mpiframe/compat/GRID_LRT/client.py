"""What GRID_LRT's scripts use of `cloudant.client`: `CouchDB(user, password, url=...)[name]`."""

from __future__ import annotations

from typing import Any

from mpiframe.plugins.grid.couchdb import Database
from mpiframe.plugins.grid.credentials import Credentials, Secret
from mpiframe.plugins.grid.errors import NotFound
from mpiframe.plugins.grid.tokens import Token


class CouchDatabase(Database):
    """A database whose documents are had by their ids, as in a dict."""

    def __getitem__(self, id: str) -> Token:
        try:
            return Token.of(self.get(id), self)
        except NotFound:
            raise KeyError(id) from None


class CouchDB:
    """A server, on which databases are had by their names. connect: see now whether the password is right."""

    def __init__(
        self, user: str, auth_token: str, url: str | None = None, connect: bool = False, **_: Any
    ) -> None:
        self._credentials = Credentials(user, Secret("".join(auth_token)), "", url or "")
        if connect:
            self.connect()

    def connect(self) -> None:
        """Ask the server who we are. Raises DatabaseDown, NotAllowed."""
        self._database("_session")._ask("GET", "")

    def disconnect(self) -> None:
        """Nothing is kept open here."""

    def __getitem__(self, name: str) -> CouchDatabase:
        found = self._database(name)
        if not found.exists():
            raise KeyError(name)
        return found

    def __contains__(self, name: str) -> bool:
        return self._database(name).exists()

    def all_dbs(self) -> list[str]:
        """The names of all databases."""
        names: list[str] = self._database("_all_dbs")._ask("GET", "")
        return names

    def create_database(self, name: str, **_: Any) -> CouchDatabase:
        """Make a database, unless it is there."""
        made = self._database(name)
        made.create()
        return made

    def delete_database(self, name: str) -> None:
        """Delete a database."""
        self._database(name).drop()

    def _database(self, name: str) -> CouchDatabase:
        return CouchDatabase(name, credentials=self._credentials)
