"""Signing what an element asks for when it is to act for us: a proxy certificate (RFC 3820)."""

from __future__ import annotations

import base64
import binascii
import datetime
import secrets

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from mpiframe.plugins.grid.arc.credentials import Credentials
from mpiframe.plugins.grid.arc.errors import ArcError, CredentialError

PROXY_INFO = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.14")
_INHERIT_ALL = bytes.fromhex("300c300a06082b06010505071501")
"""ProxyCertInfo in DER: no limit on the length of the path, policy id-ppl-inheritAll (1.3.6.1.5.5.7.21.1)."""
_VERSION_1, _VERSION_3 = b"\x02\x01\0", b"\x02\x01\x02"
_HEADERS = 16
"""Within so many bytes of its start a request says its version: after the headers of one or two sequences."""
_CLOCKS = datetime.timedelta(minutes=5)
"""How far the element's clock may be behind ours."""


def sign_request(request: bytes, credentials: Credentials, seconds: float = 12 * 3600) -> bytes:
    """The element's request (PEM) signed by us, with our own certificates after it (PEM).

    It ends after so many seconds, or with our own certificate. Raises CredentialError, ArcError.
    """
    if not credentials.certificate:
        raise CredentialError("a token cannot sign a proxy: delegate the token itself")
    chain = credentials.chain()
    issuer = chain[0]
    try:
        key = serialization.load_pem_private_key(credentials.key_pem(), None)
    except (ValueError, TypeError) as error:
        raise CredentialError(f"key {credentials.key or credentials.certificate}: {error}") from error
    if not isinstance(key, (rsa.RSAPrivateKey, ec.EllipticCurvePrivateKey)):
        raise CredentialError(f"key {credentials.key or credentials.certificate}: neither RSA nor EC")
    public = _wanted_key(request)
    now = datetime.datetime.now(datetime.timezone.utc)
    serial = secrets.randbits(63) | 1
    # A proxy's name is its issuer's with one more part, which is to differ from its siblings'.
    subject = x509.Name([*issuer.subject, x509.NameAttribute(x509.NameOID.COMMON_NAME, str(serial))])
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=True,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    signed = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject)
        .public_key(public)
        .serial_number(serial)
        .not_valid_before(max(now - _CLOCKS, issuer.not_valid_before_utc))
        .not_valid_after(min(now + datetime.timedelta(seconds=seconds), issuer.not_valid_after_utc))
        .add_extension(x509.UnrecognizedExtension(PROXY_INFO, _policy(issuer)), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )
    return b"".join(one.public_bytes(serialization.Encoding.PEM) for one in [signed, *chain])


def _wanted_key(request: bytes) -> rsa.RSAPublicKey | ec.EllipticCurvePublicKey:
    """The key in a certificate request, whose holder signed it. Raises ArcError.

    ARC 6 writes version 3 into its requests, and there is only version 1: what it signed is compared with
    that in it, all else is read as if it were version 1.
    """
    der = _pem_body(request)
    place = der.find(_VERSION_3, 0, _HEADERS)
    patched = der if place < 0 else der[: place + 2] + b"\0" + der[place + 3 :]
    try:
        wanted = x509.load_der_x509_csr(patched)
        public, algorithm = wanted.public_key(), wanted.signature_hash_algorithm
        signed = wanted.tbs_certrequest_bytes
        if place >= 0:
            inner = signed.find(_VERSION_1, 0, _HEADERS)
            signed = signed[: inner + 2] + der[place + 2 : place + 3] + signed[inner + 3 :]
        if isinstance(public, rsa.RSAPublicKey) and algorithm is not None:
            public.verify(wanted.signature, signed, padding.PKCS1v15(), algorithm)
            return public
        if isinstance(public, ec.EllipticCurvePublicKey) and algorithm is not None:
            public.verify(wanted.signature, signed, ec.ECDSA(algorithm))
            return public
    except (ValueError, TypeError, x509.InvalidVersion, UnsupportedAlgorithm) as error:
        raise ArcError(f"what the element wants to have signed is no certificate request: {error}") from error
    except InvalidSignature:
        raise ArcError("what the element wants to have signed is not signed by its own key") from None
    raise ArcError("what the element wants to have signed has neither an RSA nor an EC key")


def _pem_body(request: bytes) -> bytes:
    lines = request.replace(b"NEW CERTIFICATE", b"CERTIFICATE").split(b"-----")
    if len(lines) < 5 or b"BEGIN CERTIFICATE REQUEST" not in lines[1]:
        raise ArcError(f"what the element wants to have signed is no certificate request: {request[:60]!r}")
    try:
        return base64.b64decode(b"".join(lines[2].split()), validate=True)
    except binascii.Error as error:
        raise ArcError(f"the element's certificate request is no base 64: {error}") from error


def _policy(issuer: x509.Certificate) -> bytes:
    """What a proxy of ours may do: what its issuer may, so a limited proxy begets limited ones."""
    try:
        extension = issuer.extensions.get_extension_for_oid(PROXY_INFO).value
    except x509.ExtensionNotFound:
        return _INHERIT_ALL
    return extension.value if isinstance(extension, x509.UnrecognizedExtension) else _INHERIT_ALL
