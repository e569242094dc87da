"""A world over TCP: TLS with a certificate that is known by its fingerprint, and the key file with it.

The key file says the world's name, where it listens, the fingerprint of its certificate, and its secret, each
in a line. It is what a user copies to another machine, and its holder may run code in the world. No
authority has to vouch for the certificate: who attaches takes exactly the one that the key file names, before
a byte of anything else is sent.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import hmac
import ipaddress
import os
import socket
import ssl
import stat
import time
from dataclasses import dataclass, field
from pathlib import Path

from mpiframe.errors import WorldError

SECRET_BYTES = 32
LOOPBACK = "127.0.0.1"
_FIRST_LINE = "mpiframe key 1"
_LONGEST_FILE = 4096
_DAYS = 825  # a certificate is good for; a world's own lasts as long as the world


@dataclass(frozen=True, slots=True)
class Key:
    """What it takes to attach to a world from another machine.

    `address` and `fingerprint` are empty where it does not listen on TCP: its socket can be forwarded.
    """

    name: str
    address: str
    fingerprint: str
    secret: bytes = field(repr=False)

    def text(self) -> str:
        """The file's text. Keep it to yourself."""
        tcp = f"address {self.address}\nfingerprint {self.fingerprint}\n" if self.address else ""
        return f"{_FIRST_LINE}\nname {self.name}\n{tcp}secret {self.secret.hex()}\n"

    def write(self, path: Path) -> None:
        """Write the file, mode 0600; raises WorldError rather than write over a file that is no key."""
        if path.exists() or path.is_symlink():
            Key.read(path)
        new = path.with_name(f"{path.name}.{os.getpid()}.new")
        try:
            with open(
                os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii"
            ) as file:
                file.write(self.text())
            os.replace(new, path)
        except OSError as error:
            new.unlink(missing_ok=True)
            raise WorldError(f"cannot write the key file {path}: {error.strerror}") from None

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Key:
        """Raises WorldError for a file that is not there, that others may read, or that is no key."""
        try:
            with open(path, "rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                data = file.read(_LONGEST_FILE)
        except OSError as error:
            raise WorldError(f"cannot read the key file {path}: {error.strerror}") from None
        first, *lines = data.decode("utf-8", errors="replace").splitlines() or [""]
        values = dict(line.partition(" ")[::2] for line in lines)
        try:
            if first != _FIRST_LINE:
                raise ValueError(first)
            secret = bytes.fromhex(values["secret"])
            if len(secret) != SECRET_BYTES or ("address" in values) != ("fingerprint" in values):
                raise ValueError(first)
            key = cls(values["name"], values.get("address", ""), values.get("fingerprint", ""), secret)
        except (KeyError, ValueError):
            raise WorldError(
                f"{path} is no key file of mpiframe. `mpiframe key NAME` prints one, on the host of the world"
            ) from None
        if stat.S_IMODE(mode) & 0o077:
            raise WorldError(
                f"others may read the key file {path} (mode {stat.S_IMODE(mode):04o}), and could run code in "
                f"the world: `chmod 600 {path}`; if somebody may have, start the world anew with another key"
            )
        return key


# -- addresses -------------------------------------------------------------------------------------


def split_address(text: str) -> tuple[str, int]:
    """(host, port) of "host:port", "[::1]:port", ":port" or "port"; loopback where no host is given.

    Raises WorldError for anything else.
    """
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not port.isascii() or not port.isdigit() or int(port) > 65535 or " " in host:
        raise WorldError(f"{text!r} is no address: give HOST:PORT, as in {LOOPBACK}:7643")
    return host or LOOPBACK, int(port)


def is_address(text: str) -> bool:
    """Whether it is meant as one, and not as the name of a world: names have no colon."""
    return ":" in text


def join_address(host: str, port: int) -> str:
    """The reverse of `split_address`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether only processes of the same host can reach it."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


# -- certificates ----------------------------------------------------------------------------------


def make_certificate(path: Path, name: str) -> None:
    """Write a certificate of our own with its key, as PEM, mode 0600.

    Raises WorldError where the package that makes one is missing.
    """
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError:
        raise WorldError(
            "to make a certificate takes the package cryptography (pip install 'mpiframe[interactive]'); or "
            "give one of your own with --cert: a PEM file that holds the certificate and its key"
        ) from None
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"mpiframe {name}")])
    now = datetime.datetime.fromtimestamp(time.time(), datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=_DAYS))
        .sign(key, hashes.SHA256())
    )
    data = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ) + certificate.public_bytes(serialization.Encoding.PEM)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(data)


def fingerprint_of(path: Path) -> str:
    """Of the first certificate in a PEM file: "sha256:" and 64 digits. WorldError if there is none."""
    try:
        text = path.read_text(encoding="ascii", errors="replace")
    except OSError as error:
        raise WorldError(f"cannot read the certificate {path}: {error.strerror}") from None
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    with contextlib.suppress(ValueError):
        first = text[text.index(begin) : text.index(end) + len(end)]
        return _digest(ssl.PEM_cert_to_DER_cert(first))
    raise WorldError(f"there is no certificate in {path}: a PEM file with it and its key is wanted")


def _digest(der: bytes) -> str:
    return f"sha256:{hashlib.sha256(der).hexdigest()}"


def server_context(path: Path) -> ssl.SSLContext:
    """For the listener of a world; `path` holds its certificate and key. WorldError if it does not."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2

    def no_password() -> str:
        raise WorldError(f"the key in {path} is locked by a password, which nobody is there to type")

    try:
        context.load_cert_chain(path, password=no_password)
    except (OSError, ssl.SSLError) as error:
        why = getattr(error, "reason", None) or error.strerror or error
        raise WorldError(
            f"cannot use the certificate {path} ({why}): a PEM file with a certificate and its key is wanted"
        ) from None
    return context


def connect(address: str, fingerprint: str, timeout: float) -> ssl.SSLSocket:
    """A TLS connection to a world's listener, whose certificate is the one of this fingerprint.

    Raises WorldError where nobody listens there, where it is no TLS, or another certificate.
    """
    host, port = split_address(address)
    deadline = time.monotonic() + timeout
    try:
        sock = socket.create_connection((host, port), timeout)
    except OSError as error:
        raise WorldError(
            f"nobody can be reached at {address} ({error.strerror or error}). Does the world still run "
            "(`mpiframe list` on its host), and does the tunnel to it?"
        ) from None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False  # it is not a name that is trusted, but one certificate: see below
    context.verify_mode = ssl.CERT_NONE
    try:
        sock.settimeout(max(0.1, deadline - time.monotonic()))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        secured = context.wrap_socket(sock)
    except (ssl.SSLError, OSError) as error:
        sock.close()
        why = getattr(error, "reason", None) or error.strerror or error
        raise WorldError(
            f"whoever listens at {address} does not speak TLS as a world does ({why}): is it the right port?"
        ) from None
    der = secured.getpeercert(binary_form=True)
    shown = _digest(der) if der else "none"
    if not hmac.compare_digest(shown, fingerprint):
        secured.close()
        raise WorldError(
            f"the certificate at {address} is not the one that the key file names (it is {shown}, and not "
            f"{fingerprint}): either the world was started anew, then fetch its key again (`mpiframe key "
            "NAME` on its host), or somebody is in between; nothing was sent"
        )
    return secured
