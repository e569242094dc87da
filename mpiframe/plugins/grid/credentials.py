"""User, password and database: from the environment, `~/.picasrc`, or PiCaS' own `~/.config/picas/conf.yml`.

    PICAS_USR, PICAS_USR_PWD, PICAS_DB, PICAS_URL

    ~/.picasrc                         ~/.config/picas/conf.yml
        user=somebody                      host_url: https://picas.example.org:6984
        password=secret                    username: somebody
        database=mydb                      database: mydb
        url=https://...  (ours)            encrypted_password: ... (or password: ...)

The first of the three that names a user is taken. A password is a `Secret`: it shows in no repr, no log and
no traceback, only `reveal()` tells it.
"""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from mpiframe.plugins.grid.errors import CredentialsError

USER, PASSWORD, DATABASE, URL = "PICAS_USR", "PICAS_USR_PWD", "PICAS_DB", "PICAS_URL"
VARIABLES = (USER, PASSWORD, DATABASE, URL)


class Secret:
    """A text that shows nowhere by accident."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself."""
        return self._text

    def __repr__(self) -> str:
        return "Secret('***')" if self._text else "Secret('')"

    def __str__(self) -> str:
        return "***" if self._text else ""

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


@dataclass(frozen=True)
class Credentials:
    """Who asks, and where. url and database may be empty: then whoever connects has to name them."""

    user: str
    password: Secret
    database: str = ""
    url: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.password, str):
            object.__setattr__(self, "password", Secret(self.password))

    @classmethod
    def find(cls, path: str | None = None) -> Credentials:
        """The credentials of this user; `path` names the only file to look into. Raises CredentialsError."""
        if path is not None:
            return _of_yaml(path) if path.endswith((".yml", ".yaml")) else _of_picasrc(path)
        if os.environ.get(USER):
            return cls(*_values(os.environ, USER, PASSWORD, DATABASE, URL))
        rc, conf = (os.path.expanduser(one) for one in ("~/.picasrc", "~/.config/picas/conf.yml"))
        if os.path.exists(rc):
            return _of_picasrc(rc)
        if os.path.exists(conf):
            return _of_yaml(conf)
        raise CredentialsError(
            f"no credentials for the token database: there is no variable {USER}, no {rc} and no {conf}"
        )

    def save(self, path: str | None = None) -> str:
        """Write them as a `.picasrc` that only its owner can read; the path."""
        path = path or os.path.expanduser("~/.picasrc")
        lines = [f"user={self.user}", f"password={self.password.reveal()}", f"database={self.database}"]
        lines += [f"url={self.url}"] if self.url else []
        part = f"{path}.part"
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            os.fchmod(file.fileno(), 0o600)  # a part that was left by somebody may have had another mode
            file.write("\n".join(lines) + "\n")
        os.replace(part, path)
        return path


def split_url(url: str) -> tuple[str, str | None, Secret | None]:
    """(the url without user and password, user, password): so that no url in a message holds them."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    clean = urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))
    user = None if parts.username is None else unquote(parts.username)
    return clean, user, None if parts.password is None else Secret(unquote(parts.password))


def with_url(found: Credentials, url: str) -> Credentials:
    """The same for another server; what the url says of user and password counts."""
    clean, user, password = split_url(url)
    return replace(found, url=clean, user=user or found.user, password=password or found.password)


def _values(source: Mapping[str, Any], *names: str) -> tuple[str, Secret, str, str]:
    user, password, database, url = (str(source.get(name) or "") for name in names)
    return user, Secret(password), database, url


def _of_picasrc(path: str) -> Credentials:
    found: dict[str, str] = {}
    for line in _text(path).splitlines():
        name, equals, value = line.strip().partition("=")  # a password may hold further ones
        if equals and not name.startswith("#"):
            found[name.strip().lower()] = value.strip()
    if not found.get("user"):
        raise CredentialsError(f"{path} has no line user=...")
    return Credentials(*_values(found, "user", "password", "database", "url"))


def _of_yaml(path: str) -> Credentials:
    import yaml  # late: only where there is such a file

    try:
        found = yaml.safe_load(_text(path))
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where is not None else ""
        raise CredentialsError(f"{path} is no YAML{line}") from None  # its text could hold the password
    if not isinstance(found, dict) or not found.get("username"):
        raise CredentialsError(f"{path} has no username")
    if found.get("encrypted_password"):
        found["password"] = _decrypt(found["encrypted_password"], os.path.dirname(path))
    return Credentials(*_values(found, "username", "password", "database", "host_url"))


def _decrypt(encrypted: Any, folder: str) -> str:
    try:
        from cryptography.fernet import Fernet, InvalidToken
    except ImportError:
        raise CredentialsError(
            "the password is encrypted, which takes the package cryptography: pip install mpiframe[grid]"
        ) from None
    key = os.path.join(folder, "key.dat")
    data = encrypted if isinstance(encrypted, bytes) else str(encrypted).encode()
    try:
        return Fernet(_text(key).strip().encode()).decrypt(data).decode()
    except (InvalidToken, ValueError):
        raise CredentialsError(f"the key in {key} does not open the encrypted password") from None


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read()
    except OSError as error:
        raise CredentialsError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise CredentialsError(f"{path} is no text") from None
    if mode & (stat.S_IRGRP | stat.S_IROTH):
        warnings.warn(f"others can read {path}; chmod 600 {path}", stacklevel=4)
    return text
