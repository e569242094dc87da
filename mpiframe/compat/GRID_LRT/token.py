"""GRID_LRT's tokens, by their original names. What was broken in them on Python 3 works."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Mapping
from typing import Any

from mpiframe.compat.GRID_LRT.auth.get_picas_credentials import PICAS_URL, credentials_of
from mpiframe.plugins.grid import token_list as _lists
from mpiframe.plugins.grid import tokens as _tokens
from mpiframe.plugins.grid.builders import TokenBuilder, TokenDictBuilder, TokenJsonBuilder
from mpiframe.plugins.grid.couchdb import Database
from mpiframe.plugins.grid.credentials import Credentials, Secret
from mpiframe.plugins.grid.errors import TokenError
from mpiframe.plugins.grid.token_set import TokenSet as _TokenSet
from mpiframe.plugins.grid.views import STANDARD, Overview, TokenView

__all__ = [
    "Token",
    "TokenBuilder",
    "TokenDictBuilder",
    "TokenHandler",
    "TokenJsonBUilder",
    "TokenJsonBuilder",
    "TokenList",
    "TokenReduceView",
    "TokenSet",
    "TokenView",
    "caToken",
    "get_all_design_docs",
    "purge_tokens",
    "reset_all_tokens",
]

TokenJsonBUilder = TokenJsonBuilder
"""As the documentation writes it."""


class Token(_tokens.Token):
    """A token that is not in a database yet."""

    def __init__(self, token_type: str, token_id: str | None = None, **_: Any) -> None:
        super().__init__(token_type, token_id)

    def add_attachment(self, filename: str, attachment_name: str) -> None:
        """Only a token with a database has attachments: caToken."""
        raise NotImplementedError(f"token {self.id!r} has no database; caToken(database, ...) has")

    def get_all_attachments(self) -> list[str]:
        """Fetch all attachments into this folder, as ID-NAME; the paths."""
        stem = self.id.replace("/", "_")
        return [self.download(name, f"{stem}-{name.replace('/', '_')}") for name in self.attachments]


class caToken(Token):
    """A token in a database."""

    def __init__(self, database: Database, token_type: str, token_id: str | None = None) -> None:
        super().__init__(token_type, token_id)
        self.database = database

    @classmethod
    def of(cls, doc: Mapping[str, Any], database: Database | None = None) -> caToken:
        """The token that a document is."""
        assert database is not None
        made = cls(database, doc.get("type") or "token", doc["_id"])
        made._take(dict(doc))
        return made

    def add_attachment(self, filename: str, attachment_name: str | None = None) -> None:
        """Store a file with the token."""
        self.attach(filename, attachment_name)


class TokenReduceView(Overview):
    """How many tokens are in each category: todo, waiting, downloading, running, done, error; each in one."""

    def __init__(self, name: str) -> None:
        super().__init__(name, detailed=True)


class TokenList(_lists.TokenList):
    """Tokens of one type and their design document, which is made if it is not there."""

    def __init__(self, token_type: str | None = None, database: Database | None = None) -> None:
        if token_type is None or database is None:
            raise TokenError("a TokenList needs a token_type and a database")
        super().__init__(token_type, database)
        self.add_views(())

    def upload_all(self) -> None:
        """Save all."""
        self.save()

    def delete_all(self) -> None:
        """Delete all tokens of this list from the database."""
        self.delete()

    def add_attachment(self, filename: str, attachment_name: str | None = None) -> None:
        """Attach a file to all."""
        self.attach(filename, attachment_name)

    def get_views(self) -> dict[str, Any]:
        """The views of this type, by name."""
        return self.views()

    def list_view_tokens(self, view: str) -> TokenList:
        """The tokens of a view."""
        found = TokenList(self.token_type, self.database)
        found.extend(caToken.of(one, self.database) for one in self.list_view(view).tokens())
        return found

    def get_all_remote_tokens(self) -> TokenList:
        """All tokens of this type in the database."""
        found = TokenList(self.token_type, self.database)
        found.extend(caToken.of(one, self.database) for one in self.list_all().tokens())
        return found

    def add_token_views(self) -> None:
        """Add the views todo, locked, done, error and overview_view; each token is in one of the four."""
        self.add_views((*STANDARD, TokenReduceView("overview_view")))

    def delete_ddoc(self) -> None:
        """Delete the design document."""
        self.delete_views()

    def archive(  # type: ignore[override]
        self, compress: bool = True, delete: bool = True, folder: str = "."
    ) -> str:
        """Pack all tokens into TYPE.tar.gz, or a folder TYPE; then delete them and their views."""
        path = super().archive(folder)
        if not compress:
            with tarfile.open(path) as tar:
                tar.extractall(folder, **_FILTER)
            os.unlink(path)
            path = path.removesuffix(".tar.gz")
        if delete:
            self.delete()
            self.delete_views()
        return path


_FILTER: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}


class TokenHandler:
    """Tokens of one type, as GRID_LRT 0.5 handles them: by id, without objects."""

    def __init__(
        self,
        t_type: str = "token",
        srv: str = PICAS_URL,
        uname: str = "",
        pwd: str = "",
        dbn: str = "",
    ) -> None:
        credentials = Credentials(uname, Secret("".join(pwd)), dbn) if uname else None
        self.t_type = t_type
        self.database = Database(dbn or None, srv, credentials)
        self._list = _lists.TokenList(t_type, self.database)

    def create_token(self, keys: Mapping[str, Any] | None = None, append: str = "", attach: Any = ()) -> str:
        """Make a token t_TYPE_APPEND with these fields; attach: (file, name). Its id."""
        token = _tokens.Token(self.t_type, f"t_{self.t_type}_{append}", self.database)
        token.update(hostname="", scrub_count=0, output="")
        token.update(keys or {})
        token.save()
        if attach:
            source, name = attach
            token.attach(getattr(source, "name", source), name)
        return token.id

    def add_view(
        self, view_name: str, cond: str, emit_value: str = "doc._id", emit_value2: str = "doc._id"
    ) -> None:
        """Add a view of the tokens for which a condition in JavaScript holds."""
        self._list.add_view(TokenView(view_name, cond, (emit_value, emit_value2)))

    def add_status_views(self) -> None:
        """Add the views todo, locked, done and error."""
        self._list.add_views()

    def add_overview_view(self) -> None:
        """Add overview_total."""
        self._list.add_view(TokenReduceView("overview_total"))

    def load_views(self) -> dict[str, Any]:
        """The views, by name."""
        return self._list.views()

    def list_tokens_from_view(self, view_name: str) -> list[dict[str, Any]]:
        """The rows of a view: id, key, value."""
        rows = self.database.view(self.t_type, view_name)
        return [{"id": row.id, "key": row.key, "value": row.value} for row in rows]

    def add_attachment(self, token: str, filehandle: Any, filename: str) -> None:
        """Attach an open file to a token."""
        source = getattr(filehandle, "name", filehandle)
        self._token(token).attach(source, filename)

    def list_attachments(self, token: str) -> list[str]:
        """The names of a token's attachments."""
        return self._token(token).attachments

    def get_attachment(self, token: str, filename: str, savename: str | None = None) -> str:
        """Fetch an attachment into a file; its path."""
        return self._token(token).download(filename, savename)

    def reset_tokens(self, view_name: str = "error", key: Any = (), del_attach: bool = False) -> list[str]:
        """Make the tokens of a view tokens to be done; key: (field, value) that they must have. Their ids."""
        return self._change(view_name, key, _tokens.Token.reset, del_attach)

    def delete_tokens(self, view_name: str = "test_view", key: Any = ()) -> list[str]:
        """Delete the tokens of a view; key as for `reset_tokens`. Their ids."""
        chosen = self._chosen(view_name, key)
        ids = [one.id for one in chosen]
        _lists.TokenList(self.t_type, self.database, chosen).delete()
        return ids

    def set_view_to_status(self, view_name: str, status: str) -> list[str]:
        """Give the tokens of a view a status, and lock them. Their ids."""
        return self._change(view_name, (), lambda one: one.update(status=status, lock=1))

    def archive_tokens(self, delete_on_save: bool = False, compress: bool = True) -> str:
        """Pack all tokens; the archive's path."""
        found = TokenList(self.t_type, self.database).get_all_remote_tokens()
        return found.archive(compress, delete_on_save)

    def clear_all_views(self) -> None:
        """Delete all views of this type."""
        self._list.delete_views()

    def purge_tokens(self) -> None:
        """Delete all tokens of this type and their views."""
        _lists.purge(self.database, self.t_type)

    def _token(self, id: str) -> _tokens.Token:
        return _tokens.Token.of(self.database.get(id), self.database)

    def _chosen(self, view: str, key: Any) -> list[_tokens.Token]:
        found = list(self._list.list_view(view).tokens())
        return [one for one in found if one.get(key[0]) == key[1]] if key else found

    def _change(
        self, view: str, key: Any, change: Callable[[_tokens.Token], Any], del_attach: bool = False
    ) -> list[str]:
        chosen = self._chosen(view, key)
        for one in chosen:
            change(one)
            if del_attach:
                one["_attachments"] = {}
        _lists.TokenList(self.t_type, self.database, chosen).save()
        return [one.id for one in chosen]


class TokenSet(_TokenSet):
    """Tokens made from a mapping, with a TokenHandler or a TokenList, and a YAML file."""

    def __init__(self, th: Any = None, tok_config: str | None = None) -> None:
        if th is None:
            raise AttributeError("a TokenSet needs a TokenHandler or a TokenList")
        super().__init__(getattr(th, "t_type", None) or th.token_type, th.database, tok_config)


def get_all_design_docs(pcreds: Any, srv: str = PICAS_URL) -> list[str]:
    """The types of tokens in the database."""
    return _lists.token_types(Database(None, srv, credentials_of(pcreds)))


def reset_all_tokens(token_type: str, picas_creds: Any, server: str = PICAS_URL) -> None:
    """Make all tokens of a type tokens to be done."""
    database = Database(None, server, credentials_of(picas_creds))
    _lists.TokenList(token_type, database).list_all().reset()


def purge_tokens(token_type: str, picas_creds: Any, server: str = PICAS_URL) -> None:
    """Delete all tokens of a type and their views."""
    _lists.purge(Database(None, server, credentials_of(picas_creds)), token_type)
