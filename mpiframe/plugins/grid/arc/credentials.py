"""Who we are to a computing element, and whom we trust: certificates, proxies, tokens, authorities.

Found where grid programs look: X509_USER_PROXY, /tmp/x509up_u<uid>, X509_USER_CERT and X509_USER_KEY,
~/.globus; BEARER_TOKEN, BEARER_TOKEN_FILE, bt_u<uid> (WLCG's bearer token discovery); X509_CERT_DIR.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import json
import os
import ssl
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from cryptography import x509

from mpiframe.plugins.grid.arc.errors import CredentialError

_AUTHORITIES = "/etc/grid-security/certificates"


@dataclass(frozen=True)
class Credentials:
    """A certificate with its key, or a token, and the authorities that vouch for elements.

    certificate, key: PEM files; a proxy is one file with both, then `key` is empty. token: the text, or
    empty; token_file: read anew for each request, since tokens are renewed under us. authorities: a file
    or a folder (hashed, as grids have it); empty for the system's own. The token is in no repr.
    """

    certificate: str = ""
    key: str = ""
    token: str = field(default="", repr=False)
    token_file: str = ""
    authorities: str = ""

    def __post_init__(self) -> None:
        if not (self.certificate or self.token or self.token_file):
            raise CredentialError(
                "neither a certificate nor a token: give one, make a proxy (arcproxy), or set "
                "X509_USER_PROXY or BEARER_TOKEN_FILE"
            )

    @classmethod
    def find(cls, environment: Mapping[str, str] | None = None) -> Credentials:
        """What there is on this machine; a token goes before certificates. Raises CredentialError."""
        env = os.environ if environment is None else environment
        home, user = Path(env.get("HOME", "~")).expanduser(), os.getuid()
        authorities = env.get("X509_CERT_DIR", "") or (_AUTHORITIES if os.path.isdir(_AUTHORITIES) else "")
        empty = cls(token="-", authorities=authorities)
        if text := env.get("BEARER_TOKEN", "").strip():
            return replace(empty, token=text)
        tokens = [env.get("BEARER_TOKEN_FILE", "")]
        if not tokens[0]:
            tokens = [f"{env[n]}/bt_u{user}" for n in ("XDG_RUNTIME_DIR",) if env.get(n)] + [
                f"/tmp/bt_u{user}"
            ]
        for path in tokens:
            if os.path.exists(path) or env.get("BEARER_TOKEN_FILE"):
                return replace(empty, token="", token_file=path)
        if proxy := env.get("X509_USER_PROXY", ""):
            return replace(empty, token="", certificate=proxy)
        if os.path.exists(usual := f"/tmp/x509up_u{user}"):
            return replace(empty, token="", certificate=usual)
        certificate = env.get("X509_USER_CERT", "") or str(home / ".globus" / "usercert.pem")
        key = env.get("X509_USER_KEY", "") or str(home / ".globus" / "userkey.pem")
        if os.path.exists(certificate) or env.get("X509_USER_CERT"):
            return replace(empty, token="", certificate=certificate, key=key)
        return cls(authorities=authorities)

    def context(self) -> ssl.SSLContext:
        """For TLS; the element is always verified. Raises CredentialError: what is wrong with which file."""
        try:
            if self.authorities and os.path.isdir(self.authorities):
                context = ssl.create_default_context(capath=self.authorities)
            else:
                context = ssl.create_default_context(cafile=self.authorities or None)
        except (OSError, ssl.SSLError) as error:
            raise CredentialError(f"authorities {self.authorities}: {error}") from error
        if self.certificate:
            self.chain()
            self._check_key()

            def refuse() -> str:
                # Without this OpenSSL asks for the password on the terminal.
                raise CredentialError(
                    f"key {self.key or self.certificate} has a password: make a proxy (arcproxy) and use that"
                )

            try:
                context.load_cert_chain(self.certificate, self.key or None, refuse)
            except (OSError, ssl.SSLError) as error:
                raise CredentialError(
                    f"certificate {self.certificate} and key {self.key or 'in it'} do not do: {error}"
                ) from error
        return context

    def chain(self) -> list[x509.Certificate]:
        """Our certificates, ours first. Raises CredentialError if the file will not do or one has expired."""
        try:
            found = x509.load_pem_x509_certificates(Path(self.certificate).read_bytes())
        except OSError as error:
            raise CredentialError(f"certificate {self.certificate}: {error.strerror}") from error
        except ValueError as error:
            raise CredentialError(f"certificate {self.certificate} is not PEM: {error}") from error
        now = datetime.datetime.now(datetime.timezone.utc)
        for one in found:
            whose = f"certificate {self.certificate} ({one.subject.rfc4514_string()})"
            if one.not_valid_after_utc <= now:
                raise CredentialError(
                    f"{whose} expired at {one.not_valid_after_utc:%Y-%m-%d %H:%M} UTC: renew it; "
                    "a proxy is made anew by arcproxy"
                )
            if one.not_valid_before_utc > now:
                raise CredentialError(
                    f"{whose} is valid only from {one.not_valid_before_utc:%Y-%m-%d %H:%M} UTC; "
                    "is this machine's clock right?"
                )
        return found

    def key_pem(self) -> bytes:
        """Our key, with whatever else is in its file. Raises CredentialError."""
        self._check_key()
        return Path(self.key or self.certificate).read_bytes()

    def bearer(self) -> str:
        """The token as it is now, "" if there is none. Raises CredentialError if it is missing or expired."""
        text = self.token
        if self.token_file:
            try:
                text = Path(self.token_file).read_text(encoding="ascii").strip()
            except OSError as error:
                raise CredentialError(f"token {self.token_file}: {error.strerror}") from error
            except UnicodeDecodeError:
                text = ""
            if not text:
                raise CredentialError(f"token {self.token_file}: there is no token in it")
        if text and any(not "!" <= letter <= "~" for letter in text):
            raise CredentialError(f"token {self.token_file or 'given'}: more than one word")
        if (end := _expiry(text)) is not None and end <= datetime.datetime.now(
            datetime.timezone.utc
        ).timestamp():
            moment = datetime.datetime.fromtimestamp(end, datetime.timezone.utc)
            raise CredentialError(
                f"token {self.token_file or 'given'} expired at {moment:%Y-%m-%d %H:%M} UTC: get a new one"
            )
        return text

    def _check_key(self) -> None:
        path = self.key or self.certificate
        try:
            mode = os.stat(path).st_mode
        except OSError as error:
            raise CredentialError(f"key {path}: {error.strerror}") from error
        if stat.S_IMODE(mode) & 0o077:
            raise CredentialError(
                f"key {path} is open to others (mode {stat.S_IMODE(mode):o}): chmod 600 {path}"
            )


def _expiry(token: str) -> float | None:
    """When a JSON web token ends, by its own word; None where it has none. The element does the checking."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        return float(claims["exp"])
    except (binascii.Error, ValueError, TypeError, KeyError, RecursionError):
        return None
