"""Many tokens of one type, and the design document with their views. What is done to all is done in bulk."""

from __future__ import annotations

import contextlib
import copy
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

from mpiframe.plugins.grid.attachments import Source
from mpiframe.plugins.grid.couchdb import Database
from mpiframe.plugins.grid.errors import (
    AttachmentError,
    Conflict,
    DatabaseError,
    KnownToken,
    NotFound,
    TokenError,
)
from mpiframe.plugins.grid.tokens import API_VERSION, Token
from mpiframe.plugins.grid.views import CATEGORIES, OVERVIEW, STANDARD, AnyView

_BULK = 500
_TRIES = 20


class TokenList(list[Any]):
    """Tokens of one type, each id once. A TokenList may hold others, which then count as their tokens."""

    def __init__(self, token_type: str, database: Database, tokens: Iterable[Any] = ()) -> None:
        super().__init__()
        if not isinstance(token_type, str) or not token_type:
            raise TokenError(f"tokens have a type, a text that is not empty, and not {token_type!r}")
        self.token_type = token_type
        self.database = database
        self.extend(tokens)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {sum(1 for _ in self.tokens())} tokens {self.token_type!r}>"

    # -- as a list ---------------------------------------------------------------------------------

    def tokens(self) -> Iterator[Token]:
        """All tokens, those of inner lists too."""
        for one in self:
            if isinstance(one, TokenList):
                yield from one.tokens()
            else:
                yield one

    def append(self, token: Any) -> None:
        """Add a token, or a list of them. Raises TypeError for something else, TokenError for a known id."""
        self.insert(len(self), token)

    def insert(self, index: Any, token: Any) -> None:
        """Add one at a place, checked as by `append`."""
        self._check(token, {one.id for one in self.tokens()})
        super().insert(index, token)

    def extend(self, tokens: Iterable[Any]) -> None:
        """Add each, checked as by `append`."""
        known = {one.id for one in self.tokens()}
        for one in tokens:
            self._check(one, known)
            super().append(one)

    def _check(self, token: Any, known: set[str]) -> None:
        if not isinstance(token, (Token, TokenList)):
            raise TypeError(f"a TokenList holds tokens, not a {type(token).__name__}")
        kind = token.token_type if isinstance(token, TokenList) else token.get("type")
        if kind != self.token_type:
            raise TypeError(f"this list holds tokens of type {self.token_type!r}, not {kind!r}")
        new = list(token.tokens()) if isinstance(token, TokenList) else [token]
        for one in new:
            if one.id in known:
                raise KnownToken(f"there is a token {one.id!r} in this list already")
        for one in new:
            known.add(one.id)
            if one.database is None:
                one.database = self.database

    def __iadd__(self, tokens: Iterable[Any]) -> Any:  # type: ignore[misc]
        self.extend(tokens)
        return self

    def __setitem__(self, key: Any, value: Any) -> None:
        """`tokens["field"] = value` sets a field of all and saves them; with an index, as in any list."""
        if isinstance(key, str):
            self.set(key, value)
        elif isinstance(key, int):
            old = self.pop(key)
            try:
                self.insert(key, value)
            except (TypeError, TokenError):
                super().insert(key, old)
                raise
        else:
            raise TypeError("tokens are put in one by one")

    # -- all at once -------------------------------------------------------------------------------

    def save(self) -> None:
        """Save all in a few requests; conflicts as by `Token.save`, told together after all the others."""
        conflicts: list[str] = []
        wanted = [one for one in self.tokens() if "_rev" not in one or one._changes()]
        for start in range(0, len(wanted), _BULK):
            part = wanted[start : start + _BULK]
            for token, saved in zip(part, self.database.put_many(part), strict=True):
                if saved.rev:
                    token._saved(saved.rev)
                    continue
                try:
                    if saved.error != "conflict":
                        raise DatabaseError(f"{saved.error}: {saved.reason}")
                    token.save()
                except DatabaseError as error:
                    conflicts.append(str(error))
        if conflicts:
            raise Conflict(
                f"{len(conflicts)} of {len(wanted)} tokens were not saved: " + "; ".join(conflicts[:5])
            )

    def set(self, field: str, value: Any) -> None:
        """Set a field of all tokens, and save them."""
        for one in self.tokens():
            one[field] = copy.deepcopy(value)
        self.save()

    def reset(self) -> None:
        """Make all of them tokens to be done, as the database has them now, and save them."""
        self.fetch()
        for one in self.tokens():
            one.reset()
        self.save()

    def fetch(self) -> None:
        """Take what the database has of all. Raises NotFound, after all others were taken."""
        wanted = list(self.tokens())
        missing: list[str] = []
        for start in range(0, len(wanted), _BULK):
            part = wanted[start : start + _BULK]
            docs = self.database.get_many([one.id for one in part])
            for one in part:
                if one.id in docs:
                    one._take(docs[one.id])
                else:
                    missing.append(one.id)
        if missing:
            raise NotFound(
                f"{len(missing)} of {len(wanted)} tokens are not in the database: {missing[:5]}", 404
            )

    def delete(self) -> None:
        """Delete all from the database, in whatever state they are there, and empty this list."""
        left = {one.id for one in self.tokens()}
        for _ in range(_TRIES):
            docs = self.database.get_many(sorted(left))
            gone = [{"_id": id, "_rev": doc["_rev"], "_deleted": True} for id, doc in docs.items()]
            if not gone:
                self.clear()
                return
            left = {one.id for one in self.database.put_many(gone) if not one.rev}
        raise Conflict(f"{len(left)} tokens were changed again and again while they were to be deleted", 409)

    def attach(self, source: Source, name: str | None = None) -> None:
        """Attach the same file to all; those that were never saved are saved first."""
        for one in self.tokens():
            one.attach(source, name)

    def archive(self, folder: str | os.PathLike[str] = ".", delete: bool = False) -> str:
        """Pack all tokens with their attachments into FOLDER/TYPE.tar.gz; its path.

        The tokens are deleted only after the archive is whole. Raises AttachmentError, NotFound; then no part
        of an archive is left, and nothing was deleted.
        """
        name = self.token_type.replace("/", "_")
        target = os.path.join(folder, f"{name}.tar.gz")
        try:
            with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=folder) as room:
                part = os.path.join(room, "part.tar.gz")
                with tarfile.open(part, "w:gz") as tar:
                    for one in self.tokens():
                        for path in one.archive(room):
                            tar.add(path, f"{name}/{os.path.basename(path)}")
                            os.unlink(path)
                shutil.move(part, target)
        except OSError as error:
            raise AttachmentError(
                f"the tokens {self.token_type!r} cannot be archived in {folder}: {error.strerror or error}; "
                "none was deleted"
            ) from error
        if delete:
            self.delete()
        return target

    # -- views -------------------------------------------------------------------------------------

    def add_view(self, view: AnyView) -> None:
        """Add a view to the design document of this type, or replace the one of its name."""
        self.add_views((view,))

    def add_views(self, views: Iterable[AnyView] = STANDARD, replace: bool = True) -> None:
        """Add several; by default todo, locked, done, error and overview."""
        wanted = {one.name: one.code(self.token_type) for one in views}
        for _ in range(_TRIES):
            doc = self._design()
            known = doc.setdefault("views", {})
            new = {**known, **wanted} if replace else {**wanted, **known}
            if new == known and "_rev" in doc:
                return
            with contextlib.suppress(Conflict):
                self.database.put({**doc, "views": new})
                return
        raise Conflict(f"_design/{self.token_type} was changed again and again", 409)

    def views(self) -> dict[str, Any]:
        """The views of this type, by name."""
        found: dict[str, Any] = self._design().get("views", {})
        return found

    def delete_views(self) -> None:
        """Delete the design document, and with it all views of this type."""
        with contextlib.suppress(NotFound):
            doc = self.database.get(f"_design/{self.token_type}")
            self.database.delete(doc["_id"], doc["_rev"])

    def _design(self) -> dict[str, Any]:
        try:
            return self.database.get(f"_design/{self.token_type}")
        except NotFound:
            return {
                "_id": f"_design/{self.token_type}",
                "language": "javascript",
                "PICAS_API_VERSION": API_VERSION,
                "views": {},
            }

    def list_view(self, view: str) -> TokenList:
        """The tokens of a view, with all their fields. Raises NotFound if there is no such view."""
        rows = self.database.view(self.token_type, view, include_docs=True, reduce=False)
        return TokenList(
            self.token_type, self.database, [Token.of(row.doc, self.database) for row in rows if row.doc]
        )

    def list_all(self) -> TokenList:
        """All tokens of this type in the database; adds the standard views if there are none."""
        self.add_views(replace=False)
        found = TokenList(self.token_type, self.database)
        for name in CATEGORIES:
            known = {one.id for one in found}  # one may change its category meanwhile
            found.extend(one for one in self.list_view(name) if one.id not in known)
        return found

    def overview(self) -> dict[str, int]:
        """How many tokens of this type are in each category."""
        self.add_views(replace=False)
        rows = self.database.view(self.token_type, OVERVIEW, group=True)
        return dict.fromkeys(CATEGORIES, 0) | {row.key: row.value for row in rows}


def token_types(database: Database) -> list[str]:
    """The types that have a design document in this database."""
    answer = database._ask("GET", "_all_docs", params={"startkey": '"_design/"', "endkey": '"_design0"'})
    return [row["id"][len("_design/") :] for row in answer["rows"]]


def purge(database: Database, token_type: str) -> None:
    """Delete all tokens of a type, and its views."""
    tokens = TokenList(token_type, database)
    tokens.list_all().delete()
    tokens.delete_views()
