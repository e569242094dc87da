"""A token: one document that stands for one piece of work."""

from __future__ import annotations

import base64
import contextlib
import copy
import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

from mpiframe.plugins.grid.attachments import Source, content_type_of, download, opened, pieces, stub
from mpiframe.plugins.grid.builders import TokenBuilder
from mpiframe.plugins.grid.couchdb import Database
from mpiframe.plugins.grid.errors import (
    AttachmentError,
    Conflict,
    NotFound,
    TokenError,
)
from mpiframe.plugins.grid.views import category

API_VERSION = "1.0.7"
"""Of the documents: what GRID_LRT's launchers read, to know how a token has to be run."""
_TRIES = 20
_ATTACHMENTS = "_attachments"


class Token(dict[str, Any]):
    """A token, its fields as in a dict. Nothing is sent but by the methods that say so.

    A change that somebody else makes to other fields meanwhile is kept when it is saved; one to the same
    fields is a Conflict, and what was to be saved is still here.
    """

    def __init__(
        self, token_type: str, token_id: str | None = None, database: Database | None = None
    ) -> None:
        if not isinstance(token_type, str) or not token_type:
            raise TokenError(f"a token has a type, a text that is not empty, and not {token_type!r}")
        super().__init__(
            type=token_type, _id=token_id or token_type, PICAS_API_VERSION=API_VERSION, lock=0, done=0
        )
        self.database = database
        self._base: dict[str, Any] = {}  # as it is in the database, as far as we know

    @classmethod
    def of(cls, doc: Mapping[str, Any], database: Database | None = None) -> Token:
        """The token that a document of the database is."""
        made = cls(doc.get("type") or "token", doc["_id"], database)
        made._take(dict(doc))
        return made

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id!r}: {self.category}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (type(self), dict(self), self._base, self.database)

    @property
    def id(self) -> str:
        """Its name in the database."""
        return str(self["_id"])

    @property
    def category(self) -> str:
        """todo, locked, done or error."""
        return category(self)

    # -- local -------------------------------------------------------------------------------------

    def build(self, builder: TokenBuilder) -> None:
        """Take over what a builder made; id and type stay, unless the configuration has others."""
        self.update(copy.deepcopy(builder.data))

    def reset(self) -> None:
        """Make it a token to be done, counting how often that was. To be saved."""
        count = self.get("scrub_count")
        self.update(
            lock=0,
            done=0,
            scrub_count=(count if isinstance(count, int) else 0) + 1,
            hostname="",
            output="",
            status="reset",
        )
        for name in ("exit_code", "claim", "heartbeat", "lease"):
            self.pop(name, None)

    # -- the database ------------------------------------------------------------------------------

    def exists(self) -> bool:
        """Whether it is in the database."""
        return self.id in self._database()

    def fetch(self) -> None:
        """Take what the database has. Changes that were not saved are gone. Raises NotFound."""
        self._take(self._database().get(self.id))

    def save(self) -> None:
        """Save it. Raises Conflict if somebody else has changed the same fields."""
        for _ in range(_TRIES):
            try:
                self._saved(self._database().put(self))
                return
            except Conflict:
                self._merge(self._database().get(self.id))
        raise Conflict(f"token {self.id!r} was changed {_TRIES} times while it was to be saved", 409)

    def delete(self) -> None:
        """Delete it from the database, in whatever state it is there. Raises NotFound."""
        for _ in range(_TRIES):
            rev = self._database().get(self.id)["_rev"]
            with contextlib.suppress(Conflict):
                self._database().delete(self.id, rev)
                self.pop("_rev", None)
                self._base = {}
                return
        raise Conflict(f"token {self.id!r} was changed {_TRIES} times while it was to be deleted", 409)

    def synchronize(self, database: Database, prefer_local: bool = False, upload: bool = False) -> None:
        """Take the database's fields; with `prefer_local` ours stay where both have one."""
        self.database = database
        remote = database.get(self.id)
        ours = {name: value for name, value in self.items() if name[0] != "_"}
        self._take(remote)
        self.update({name: value for name, value in ours.items() if prefer_local or name not in remote})
        if upload:
            self.save()

    # -- attachments -------------------------------------------------------------------------------

    @property
    def attachments(self) -> list[str]:
        """The names of its attachments, as of the last fetch."""
        return sorted(self.get(_ATTACHMENTS, {}))

    def attach(self, source: Source, name: str | None = None, content_type: str | None = None) -> None:
        """Store a file, or bytes, with the token, in pieces; a token that was never saved is saved first.

        Raises AttachmentError if it cannot be read, DatabaseError if the server takes no more.
        """
        if name is None:
            if not isinstance(source, (str, os.PathLike)):
                raise AttachmentError("what is no file has no name of its own: attach(content, name)")
            name = os.path.basename(source)
        kind = content_type or content_type_of(name)
        with opened(source) as (file, length):
            if "_rev" not in self:
                self.save()
            start = file.tell()
            for _ in range(_TRIES):
                file.seek(start)
                digest = hashlib.md5(usedforsecurity=False)
                try:
                    new = self._database().put_attachment(
                        self.id, self["_rev"], name, pieces(file, digest), length, kind
                    )
                except Conflict:
                    self._merge(self._database().get(self.id))
                else:
                    self._base["_rev"] = self["_rev"] = new
                    for fields in (self, self._base):
                        one = stub(kind, length, digest.digest(), new)
                        fields[_ATTACHMENTS] = {**fields.get(_ATTACHMENTS, {}), name: one}
                    return
        raise Conflict(f"token {self.id!r} was changed {_TRIES} times while {name!r} was to be attached", 409)

    def read(self, name: str) -> bytes:
        """A small attachment's content. Raises NotFound."""
        with self._database().attachment(self.id, name) as got:
            return b"".join(got)

    def download(self, name: str, path: str | os.PathLike[str] | None = None) -> str:
        """Fetch an attachment into a file, by default of its own name in this folder; the path.

        Raises NotFound, and AttachmentError if it cannot be kept or did not come whole.
        """
        found = self._database().get(self.id, att_encoding_info=True).get(_ATTACHMENTS, {})
        if name not in found:
            there = ", ".join(sorted(found)) or "none"
            raise NotFound(f"token {self.id!r} has no attachment {name!r}; it has {there}", 404)
        target = os.fspath(path) if path is not None else name.replace("/", "_")
        download(self._database(), self.id, name, target, found[name])
        return target

    def archive(self, folder: str | os.PathLike[str] = ".", delete: bool = False) -> list[str]:
        """Write the token as JSON, and its attachments, into a folder; the paths.

        Deletes it from the database only after all is written. Raises AttachmentError.
        """
        self.fetch()
        stem = os.path.join(folder, self.id.replace("/", "_"))
        paths = [f"{stem}-{name.replace('/', '_')}" for name in self.attachments]
        try:
            for name, path in zip(self.attachments, paths, strict=True):
                self.download(name, path)
            part = f"{stem}.json.part"
            with open(part, "w", encoding="utf-8") as file:
                json.dump(self, file, indent=1)
            os.replace(part, f"{stem}.json")
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(f"{stem}.json.part")
            raise AttachmentError(
                f"token {self.id!r} cannot be archived in {folder}: {error.strerror}; it was not deleted"
            ) from error
        if delete:
            self.delete()
        return [f"{stem}.json", *paths]

    # -- the same token elsewhere ------------------------------------------------------------------

    def _database(self) -> Database:
        if self.database is None:
            raise TokenError(f"token {self.id!r} belongs to no database; set its `database` first")
        return self.database

    def _take(self, doc: dict[str, Any]) -> None:
        self.clear()
        self.update(doc)
        self._base = copy.deepcopy(doc)

    def _saved(self, rev: str) -> None:
        self["_rev"] = rev
        for name, one in self.get(_ATTACHMENTS, {}).items():
            if "data" in one:  # what was sent with the document is there now
                content = base64.b64decode(one["data"])
                digest = hashlib.md5(content, usedforsecurity=False).digest()
                self[_ATTACHMENTS][name] = stub(one["content_type"], len(content), digest, rev)
        self._base = copy.deepcopy(dict(self))

    def changes(self) -> dict[str, Any]:
        """The fields that differ from what the database had, as far as we know; None for one that is gone."""
        return {name: None if value is _GONE else value for name, value in self._changes().items()}

    def _changes(self) -> dict[str, Any]:
        """Fields that differ from what the database had; those that are gone with the value `_GONE`."""
        names = {name for name in (*self, *self._base) if name not in ("_rev", "_id", _ATTACHMENTS)}
        return {
            name: self.get(name, _GONE)
            for name in names
            if self.get(name, _GONE) != self._base.get(name, _GONE)
        }

    def _merge(self, remote: dict[str, Any], ours_win: bool = False) -> None:
        """Put our changes onto what the database has now. Raises Conflict if both changed a field."""
        changes = self._changes()
        both = sorted(
            name
            for name, value in changes.items()
            if remote.get(name, _GONE) not in (value, self._base.get(name, _GONE))
        )
        if both and not ours_win:
            raise Conflict(
                f"token {self.id!r}: somebody else has changed {', '.join(both)} meanwhile. What was to be "
                "saved is still in the token; fetch() takes what the database has",
                409,
            )
        new = {name: one for name, one in self.get(_ATTACHMENTS, {}).items() if "data" in one}
        self._take(remote)
        for name, value in changes.items():
            if value is _GONE:
                self.pop(name, None)
            else:
                self[name] = value
        if new:
            self[_ATTACHMENTS] = {**self.get(_ATTACHMENTS, {}), **new}


class _Gone:
    """Stands for a field that is not there."""


_GONE = _Gone()


def _rebuilt(
    kind: type[Token], fields: dict[str, Any], base: dict[str, Any], database: Database | None
) -> Token:
    made = kind.__new__(kind)
    made.update(fields)
    made.database, made._base = database, base
    return made
