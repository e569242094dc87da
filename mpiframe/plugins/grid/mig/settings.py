"""~/.mig/miguser.conf: where the MiG server is, and the certificate that the user shows it.

migserver https://mig.example.org
certfile ~/.mig/cert.pem
keyfile ~/.mig/key.pem
cacertfile ~/.mig/cacert.pem     optional, AUTO: the system's authorities, which is what is used without it
password ...                     optional, of the key; the file must be the user's alone then
connect_timeout 10               optional, seconds
max_time 600                     optional, seconds without a byte
insecure yes                     optional: do not verify the server's certificate
"""

from __future__ import annotations

import difflib
import os
import stat
from dataclasses import dataclass, field

from mpiframe.plugins.grid.mig.errors import MigLocalError

PATH = "~/.mig/miguser.conf"
_KNOWN = (
    "migserver", "certfile", "keyfile", "cacertfile", "password", "connect_timeout", "max_time", "insecure",
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """How to reach a MiG server.

    server: https address. certificate, key: files. authority: a file of authorities, None for the system's.
    password: of the key; it is shown nowhere. Times are seconds.
    """

    server: str
    certificate: str
    key: str
    authority: str | None = None
    password: str | None = field(default=None, repr=False)
    connect_timeout: float = 10.0
    max_time: float = 600.0
    insecure: bool = False

    def __post_init__(self) -> None:
        if not self.server.startswith("https://"):
            raise MigLocalError(f"the MiG server {self.server!r} has to be an https:// address")

    def __reduce__(self) -> str:
        raise TypeError(
            "settings hold a password, and are not sent anywhere: read them where they are needed"
        )

    @classmethod
    def read(cls, path: str = PATH) -> Settings:
        """Those of a file. Raises MigLocalError, naming file and line."""
        full = os.path.expanduser(path)
        try:
            with open(full, encoding="utf-8") as file:
                mode = os.fstat(file.fileno()).st_mode
                lines = file.read().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise MigLocalError(
                f"the settings of the MiG server, {full}, cannot be read: {error}. Write lines such as "
                "`migserver https://...`, `certfile ...` and `keyfile ...`, into it, or use local_mode_on()"
            ) from error
        values = _values(full, lines)
        if "password" in values and stat.S_IMODE(mode) & 0o077:
            raise MigLocalError(f"{full} holds a password and others can read it: chmod 600 {full}")
        for name in ("migserver", "certfile", "keyfile"):
            if not values.get(name):
                raise MigLocalError(f"{full} has no line `{name} ...`")
        authority = values.get("cacertfile", "AUTO")
        return cls(
            values["migserver"].rstrip("/"),
            os.path.expanduser(values["certfile"]),
            os.path.expanduser(values["keyfile"]),
            None if authority == "AUTO" else os.path.expanduser(authority),
            values.get("password"),
            _seconds(full, values, "connect_timeout", 10.0),
            _seconds(full, values, "max_time", 600.0),
            values.get("insecure", "no").lower() in ("yes", "true", "1"),
        )


def _values(path: str, lines: list[str]) -> dict[str, str]:
    values: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        name, _, value = line.strip().partition(" ")
        if not name or name.startswith("#"):
            continue
        if name not in _KNOWN:
            near = difflib.get_close_matches(name, _KNOWN, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(_KNOWN)}"
            raise MigLocalError(f"{path}, line {number}: there is no setting {name!r}{hint}")
        values[name] = value.strip()
    return values


def _seconds(path: str, values: dict[str, str], name: str, default: float) -> float:
    try:
        seconds = float(values.get(name) or default)
        if not 0 < seconds < float("inf"):
            raise ValueError(seconds)
    except ValueError:
        raise MigLocalError(f"{path}: {name} has to be seconds, more than 0, not {values[name]!r}") from None
    return seconds
