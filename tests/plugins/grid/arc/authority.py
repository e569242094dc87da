"""Certificates for tests: an authority of our own, hosts, users, proxies and tokens as on the grid."""

from __future__ import annotations

import base64
import datetime
import ipaddress
import json
import subprocess
import time
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID

_PROXY_INFO = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.14")
_INHERIT_ALL = bytes.fromhex("300c300a06082b06010505071501")
_ORGANISATION = "mpiframe tests"


def _name(common: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, _ORGANISATION),
            x509.NameAttribute(NameOID.COMMON_NAME, common),
        ]
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: rsa.RSAPrivateKey, days: float
) -> x509.CertificateBuilder:
    """A certificate from yesterday to so many days from now; a negative number makes an expired one."""
    now = datetime.datetime.now(datetime.timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=2))
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )


class Authority:
    """Signs what a test asks for; all files are in one folder, `certificates` below it is for OpenSSL."""

    def __init__(self, folder: Path, name: str = "CA") -> None:
        self.folder = folder
        self.subject = _name(name)
        self._hosts: dict[str, tuple[Path, Path]] = {}
        self._key = rsa.generate_private_key(65537, 2048)
        self._certificate = (
            _builder(self.subject, self.subject, self._key, 30)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(x509.KeyUsage(*[False] * 5, True, True, False, False), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "ca.pem"
        self.file.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def make_folder(self) -> Path:
        """The folder of trusted authorities as OpenSSL and grid programs want it; needs `openssl`."""
        certificates = self.folder / "certificates"
        certificates.mkdir()
        words = ["openssl", "x509", "-noout", "-hash", "-in", str(self.file)]
        number = subprocess.run(words, check=True, capture_output=True, text=True, timeout=30).stdout.strip()
        (certificates / f"{number}.0").write_bytes(self.file.read_bytes())
        (certificates / f"{number}.signing_policy").write_text(
            f" access_id_CA X509 '{slashes(self.subject)}'\n pos_rights globus CA:sign\n"
            f" cond_subjects globus '\"/O={_ORGANISATION}/*\"'\n"
        )
        return certificates

    def host(self, name: str = "localhost") -> tuple[Path, Path]:
        """A certificate and key for a server on the loopback; the same ones when asked again."""
        if name in self._hosts:
            return self._hosts[name]
        names = [x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        self._hosts[name] = self._issue(f"host-{name}", name, 20, x509.SubjectAlternativeName(names))
        return self._hosts[name]

    def user(self, name: str = "user", days: float = 20) -> tuple[Path, Path]:
        """A certificate and key of a person, valid for so many days; negative: expired."""
        return self._issue(name, name, days, None)

    def subject_of(self, name: str) -> str:
        """The name of a user as grid programs write it."""
        return slashes(_name(name))

    def proxy(self, name: str = "user", hours: float = 12) -> Path:
        """A proxy of that user in one file: its certificate, its key, the user's certificate."""
        user = x509.load_pem_x509_certificate((self.folder / f"{name}-cert.pem").read_bytes())
        signer = serialization.load_pem_private_key((self.folder / f"{name}-key.pem").read_bytes(), None)
        assert isinstance(signer, rsa.RSAPrivateKey)
        key = rsa.generate_private_key(65537, 2048)
        subject = x509.Name([*user.subject, x509.NameAttribute(NameOID.COMMON_NAME, "12345678")])
        proxy = (
            _builder(subject, user.subject, key, hours / 24)
            .add_extension(x509.UnrecognizedExtension(_PROXY_INFO, _INHERIT_ALL), critical=True)
            .add_extension(x509.KeyUsage(True, False, True, *[False] * 6), critical=True)
            .sign(signer, hashes.SHA256())
        )
        path = self.folder / f"{name}-proxy.pem"
        pem = proxy.public_bytes(serialization.Encoding.PEM) + _pem(key)
        _secret(path, pem + user.public_bytes(serialization.Encoding.PEM))
        return path

    def issuer(self, folder: Path, url: str) -> None:
        """What an issuer of tokens at `url` has to show: how it is called, and its key."""
        numbers = self._key.public_key().public_numbers()
        key = {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "k1"}
        for name, number in (("n", numbers.n), ("e", numbers.e)):
            key[name] = _base64(number.to_bytes((number.bit_length() + 7) // 8, "big"))
        known = {"issuer": url, "jwks_uri": f"{url}/jwks"}
        (folder / ".well-known").mkdir(parents=True)
        (folder / ".well-known" / "openid-configuration").write_text(json.dumps(known))
        (folder / "jwks").write_text(json.dumps({"keys": [key]}))

    def token(self, subject: str, issuer: str, seconds: float = 3600) -> str:
        """A token after WLCG's profile, signed by this authority as that issuer."""
        now = int(time.time())
        claims = {"sub": subject, "iss": issuer, "aud": "https://wlcg.cern.ch/jwt/v1/any", "wlcg.ver": "1.0"}
        times = {"iat": now - 60, "nbf": now - 60, "exp": int(now + seconds), "jti": str(time.time_ns())}
        scope = {"scope": "compute.create compute.read compute.modify compute.cancel"}
        header = {"alg": "RS256", "typ": "JWT", "kid": "k1"}
        parts = [_base64(json.dumps(one).encode()) for one in (header, {**claims, **times, **scope})]
        signed = ".".join(parts)
        signature = self._key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{_base64(signature)}"

    def _issue(self, stem: str, name: str, days: float, more: x509.ExtensionType | None) -> tuple[Path, Path]:
        key = rsa.generate_private_key(65537, 2048)
        builder = _builder(_name(name), self.subject, key, days)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        if more is not None:
            builder = builder.add_extension(more, critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        paths = self.folder / f"{stem}-cert.pem", self.folder / f"{stem}-key.pem"
        paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        _secret(paths[1], _pem(key))
        return paths


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def slashes(name: x509.Name) -> str:
    """/O=.../CN=..., the way of Globus."""
    return "".join(f"/{part.rfc4514_attribute_name}={part.value}" for part in name)


def _secret(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(content)
