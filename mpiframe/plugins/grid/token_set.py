"""A token for each entry of a mapping: how an observation becomes tokens."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Iterable, Mapping
from typing import Any

from mpiframe.plugins.grid.attachments import content_type_of, inline
from mpiframe.plugins.grid.couchdb import Database
from mpiframe.plugins.grid.errors import TokenError
from mpiframe.plugins.grid.token_list import TokenList
from mpiframe.plugins.grid.tokens import Token


class TokenSet:
    """Tokens made from a mapping and a configuration.

    Parameters
    ----------
    token_type, database: as for `TokenList`.
    config: a YAML file whose section Token has the fields that all tokens get, or the fields themselves.

    Raises TokenError if the configuration cannot be read.
    """

    def __init__(
        self,
        token_type: str,
        database: Database,
        config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    ) -> None:
        self.list = TokenList(token_type, database)
        self.token_keys = _keys(config)

    @property
    def tokens(self) -> list[str]:
        """The ids of the tokens."""
        return [one.id for one in self.list.tokens()]

    def create_dict_tokens(
        self,
        iterable: Mapping[Any, Any],
        id_prefix: str = "SB",
        id_append: str = "L000000",
        key_name: str = "STARTSB",
        file_upload: str | None = None,
    ) -> TokenList:
        """Make a token for each key, a number, and save them all; the new ones.

        The key becomes the field `key_name`, of three digits. With `file_upload` the values, one a line,
        become an attachment of that name. Ids are t_TYPE_APPEND[_STEP]_PREFIXnnn, STEP from PIPELINE_STEP.
        """
        made = TokenList(self.list.token_type, self.list.database)
        step = self.token_keys.get("PIPELINE_STEP")
        stem = "_".join(str(part) for part in ("t", made.token_type, id_append, step) if part)
        for key, value in iterable.items():
            try:
                number = f"{int(key):03}"
            except (TypeError, ValueError):
                raise TokenError(f"the keys of tokens are numbers, not {key!r}") from None
            token = Token(made.token_type, f"{stem}_{id_prefix}{number}", made.database)
            token.update(hostname="", scrub_count=0, output="", created=time.time())
            token.update(copy.deepcopy(self.token_keys))
            token[key_name] = number
            if file_upload:
                lines = [value] if isinstance(value, str) else list(value)
                text = "".join(f"{line}\n" for line in lines).encode()
                token["_attachments"] = {file_upload: inline(text, content_type_of(file_upload))}
            made.append(token)
        self.list.extend(made)
        made.save()
        return made

    def add_attach_to_list(
        self, attachment: str, tok_list: Iterable[str] | None = None, name: str | None = None
    ) -> None:
        """Attach a file to all tokens, or to those of these ids."""
        for one in self._chosen(tok_list):
            one.attach(attachment, name)

    def add_keys_to_list(self, key: str, value: Any, tok_list: Iterable[str] | None = None) -> None:
        """Set a field of all tokens, or of those of these ids, and save them."""
        TokenList(self.list.token_type, self.list.database, self._chosen(tok_list)).set(key, value)

    def update_local_tokens(self) -> None:
        """Take all tokens of this type from the database."""
        self.list = self.list.list_all()

    def _chosen(self, ids: Iterable[str] | None) -> list[Token]:
        by_id = {one.id: one for one in self.list.tokens()}
        if ids is None:
            return list(by_id.values())
        wanted = list(ids)
        unknown = [id for id in wanted if id not in by_id]
        if unknown:
            raise TokenError(f"there are no tokens {unknown} in this set")
        return [by_id[id] for id in wanted]


def _keys(config: str | os.PathLike[str] | Mapping[str, Any] | None) -> dict[str, Any]:
    if config is None:
        return {}
    if isinstance(config, Mapping):
        return dict(config)
    import yaml  # late: only where there is such a file

    path = os.fspath(config)
    try:
        with open(path, encoding="utf-8") as file:
            found = yaml.safe_load(file)
    except OSError as error:
        raise TokenError(f"{path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TokenError(f"{path} is no YAML: {error}") from error
    keys = found.get("Token") if isinstance(found, dict) else None
    if not isinstance(keys, dict):
        raise TokenError(f"{path} has no section Token with the fields of tokens")
    return {str(name): value for name, value in keys.items()}
