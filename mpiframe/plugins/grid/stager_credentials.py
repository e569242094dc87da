"""Who asks the archive's stagers, found when it is needed and shown nowhere.

    ~/.awe/Environment.cfg       ~/.stagingrc                  environment
        database_user : me           user=me                       LOFAR_LTA_USER, LOFAR_LTA_PWD
        database_password : pw       password=pw
                                     api_token=...                 STAGEIT_API_TOKEN
                                     hostname=... (optional)       STAGEIT_HOSTNAME

The first that names what is needed is taken: the files for a user, in this order, then the environment.
A password or token may hold the separator, and blanks.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from mpiframe.plugins.grid.credentials import Secret
from mpiframe.plugins.grid.storage_errors import ConfigError, CredentialsMissing

STAGEIT_HOST = "sdc.astron.nl"
_CATALOGUE = "~/.awe/Environment.cfg"
_STAGINGRC = "~/.stagingrc"
_HOST = re.compile(r"[A-Za-z0-9.-]+(:[0-9]+)?")


@dataclass(frozen=True)
class Login:
    """Of the XML-RPC stager."""

    user: str
    password: Secret

    @classmethod
    def find(cls) -> Login:
        """The login of this user. Raises CredentialsMissing, ConfigError."""
        catalogue, rc = _read(_CATALOGUE, ":"), _read(_STAGINGRC, "=")
        for values, names in (
            (catalogue, ("database_user", "database_password")),
            (rc, ("user", "password")),
            (dict(os.environ), ("LOFAR_LTA_USER", "LOFAR_LTA_PWD")),
        ):
            user, password = (values.get(name, "") for name in names)
            if user and password:
                return cls(user, Secret(password))
        raise CredentialsMissing(
            f"no user and password for the stager in {_CATALOGUE}, in {_STAGINGRC} (user=, password=), nor "
            "in the variables LOFAR_LTA_USER and LOFAR_LTA_PWD"
        )


@dataclass(frozen=True)
class ApiToken:
    """Of StageIT."""

    token: Secret
    hostname: str = STAGEIT_HOST

    def __post_init__(self) -> None:
        if not _HOST.fullmatch(self.hostname):
            raise ConfigError(f"{self.hostname!r} is no name of a host")

    @classmethod
    def find(cls) -> ApiToken:
        """The token of this user. Raises CredentialsMissing, ConfigError."""
        rc = _read(_STAGINGRC, "=")
        host = rc.get("hostname") or os.environ.get("STAGEIT_HOSTNAME") or STAGEIT_HOST
        token = rc.get("api_token") or os.environ.get("STAGEIT_API_TOKEN")
        if token:
            return cls(Secret(token), host)
        text = f"no token for StageIT: neither a line api_token=... in {_STAGINGRC}, nor STAGEIT_API_TOKEN"
        if "user" in rc or "password" in rc:
            text += (
                f". The user and password in {_STAGINGRC} are of the old stager; "
                f"StageIT gives a token at https://{host}/stageit"
            )
        raise CredentialsMissing(text)


def _read(path: str, separator: str) -> dict[str, str]:
    """The lines `name separator value` of a file; empty if it is not there. Never part of an error."""
    full = os.path.expanduser(path)
    try:
        with open(full, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigError(f"{full} cannot be read: {reason}") from None
    found = {}
    for line in lines:
        name, there, value = line.partition(separator)
        if there and not line.lstrip().startswith("#"):
            found[name.strip()] = value.strip()
    return found
