"""What a token holds, from a configuration: a dict, or a JSON file.

The configuration has the sections Job (queue, variables), Token (what goes into the token as it is, and
`variables`: which of its keys and attachments the run gets to see), container and sandbox.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from typing import Any

from mpiframe.plugins.grid.errors import OldConfiguration, TokenError

_OLDEST_API = 0.5
CONFIG = "config.json"


class TokenBuilder:
    """Base of the builders: `data` is what `Token.build` puts into a token."""

    data: dict[str, Any]


class TokenDictBuilder(TokenBuilder):
    """From a dict. Raises TokenError if the configuration is older than 0.5, or a section is no mapping."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.data = _build(config)


class TokenJsonBuilder(TokenBuilder):
    """From a JSON file. Raises TokenError if it cannot be read."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        try:
            with open(path, encoding="utf-8") as file:
                config = json.load(file)
        except OSError as error:
            raise TokenError(f"{os.fspath(path)} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise TokenError(f"{os.fspath(path)} is no JSON: {error}") from error
        self.data = _build(config)


def _build(config: Any) -> dict[str, Any]:
    if not isinstance(config, Mapping):
        raise TokenError(f"a configuration has sections (Job, Token, ...); this is a {type(config).__name__}")
    version = config.get("PicasApiVersion", _OLDEST_API)
    try:
        too_old = float(version) < _OLDEST_API
    except (TypeError, ValueError):
        raise TokenError(f"PicasApiVersion is a number, not {version!r}") from None
    if too_old:
        raise OldConfiguration(f"PicasApiVersion is {version}; tokens are built from {_OLDEST_API} on")
    data = dict(_section(config, "Token"))
    variables = data.pop("variables", {})
    data.update(_section(_section(config, "Job"), "variables"))
    data[CONFIG] = {
        "variables": variables,
        "container": _section(config, "container"),
        "sandbox": _section(config, "sandbox"),
    }
    return copy.deepcopy(data)  # so that tokens built of the same configuration share nothing


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = config.get(name) or {}
    if not isinstance(found, Mapping):
        raise TokenError(
            f"the section {name!r} of a configuration has names and values, and is not {found!r}"
        )
    return found
