"""Certificates, proxies and tokens: which are found, and what is said of those that will not do."""

from __future__ import annotations

import base64
import json
import os
import pickle
import subprocess
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from mpiframe.plugins.grid.arc import ArcError, ArcRefused, CredentialError, Credentials, JobFailed
from mpiframe.plugins.grid.arc.delegation import PROXY_INFO, sign_request
from tests.plugins.grid.arc.authority import Authority


def jwt(**claims: object) -> str:
    parts = [json.dumps({"alg": "none"}), json.dumps(claims)]
    return ".".join([*(base64.urlsafe_b64encode(p.encode()).decode().rstrip("=") for p in parts), "c2ln"])


def request(version_3: bool = False) -> bytes:
    """What an element sends to be signed; ARC 6 gives it a version that does not exist."""
    key = rsa.generate_private_key(65537, 2048)
    made = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    if not version_3:
        return made.public_bytes(serialization.Encoding.PEM)
    der = made.public_bytes(serialization.Encoding.DER)
    inner = made.tbs_certrequest_bytes
    place = inner.index(b"\x02\x01\x00")
    inner = inner[: place + 2] + b"\x02" + inner[place + 3 :]
    signature = key.sign(inner, padding.PKCS1v15(), hashes.SHA256())
    der = (
        der[: der.index(made.tbs_certrequest_bytes)]
        + inner
        + der[der.index(made.tbs_certrequest_bytes) + len(inner) :]
    )
    der = der[: -len(signature)] + signature
    return pem(der)


def pem(der: bytes) -> bytes:
    body = base64.encodebytes(der)
    return b"-----BEGIN CERTIFICATE REQUEST-----\n" + body + b"-----END CERTIFICATE REQUEST-----\n"


# -- finding --------------------------------------------------------------------------------------


def test_they_are_found_where_grid_programs_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 987654321)  # nobody's, so that /tmp holds nothing of theirs
    env = {"HOME": str(tmp_path)}
    with pytest.raises(CredentialError, match="neither a certificate nor a token"):
        Credentials.find(env)
    (tmp_path / ".globus").mkdir()
    (tmp_path / ".globus" / "usercert.pem").touch()
    found = Credentials.find(env)
    assert found.certificate == str(tmp_path / ".globus" / "usercert.pem")
    assert found.key == str(tmp_path / ".globus" / "userkey.pem")
    env |= {"X509_USER_CERT": "c", "X509_USER_KEY": "k"}
    assert (Credentials.find(env).certificate, Credentials.find(env).key) == ("c", "k")
    env["X509_USER_PROXY"] = "p"
    assert (Credentials.find(env).certificate, Credentials.find(env).key) == ("p", "")
    env["XDG_RUNTIME_DIR"] = str(tmp_path)
    (tmp_path / "bt_u987654321").write_text("abc\n")
    assert Credentials.find(env).bearer() == "abc"
    env["BEARER_TOKEN_FILE"] = str(tmp_path / "own")
    with pytest.raises(CredentialError, match=r"own: No such file"):
        Credentials.find(env).bearer()
    env["BEARER_TOKEN"] = "xyz"
    assert Credentials.find(env | {"X509_CERT_DIR": "/trust"}) == Credentials(
        token="xyz", authorities="/trust"
    )


def test_a_token_shows_nowhere() -> None:
    made = Credentials(token="very-secret")
    assert "very-secret" not in repr(made)
    assert "very-secret" not in str(vars(CredentialError("x")))


# -- what will not do -----------------------------------------------------------------------------


def test_a_token_is_read_anew_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "token"
    made = Credentials(token_file=str(path))
    path.write_text(jwt(exp=time.time() + 1000))
    assert made.bearer() == path.read_text()
    path.write_text(jwt(exp=1000))
    with pytest.raises(CredentialError, match="expired at 1970-01-01 00:16 UTC"):
        made.bearer()
    path.write_text("two words")
    with pytest.raises(CredentialError, match="more than one word"):
        made.bearer()
    path.write_text(" \n")
    with pytest.raises(CredentialError, match="no token in it"):
        made.bearer()
    for odd in ("not-a-jwt", "a.b.c", jwt(), jwt(exp="soon"), jwt(exp=None)):  # the element is the judge
        path.write_text(odd)
        assert made.bearer() == odd


def test_an_expired_certificate_is_said_to_be_one(authority: Authority) -> None:
    certificate, key = authority.user("late", days=-1)
    with pytest.raises(CredentialError, match=r"late-cert.pem \(CN=late.*\) expired at 20.*renew"):
        Credentials(str(certificate), str(key), authorities=str(authority.file)).context()


def test_an_expired_proxy_is_said_to_be_one(authority: Authority) -> None:
    proxy = authority.proxy(hours=-1)
    with pytest.raises(CredentialError, match=r"expired at.*arcproxy"):
        Credentials(str(proxy), authorities=str(authority.file)).context()


def test_keys_that_will_not_do(authority: Authority, tmp_path: Path) -> None:
    certificate, key = (authority.folder / f"user-{what}.pem" for what in ("cert", "key"))
    trust = str(authority.file)
    with pytest.raises(CredentialError, match=r"key .*gone: No such file"):
        Credentials(str(certificate), str(tmp_path / "gone"), authorities=trust).context()
    open_key = tmp_path / "open.pem"
    open_key.write_bytes(key.read_bytes())
    open_key.chmod(0o644)
    with pytest.raises(CredentialError, match=r"open to others \(mode 644\): chmod 600"):
        Credentials(str(certificate), str(open_key), authorities=trust).context()
    words = [
        "openssl",
        "rsa",
        "-aes128",
        "-in",
        str(key),
        "-out",
        str(tmp_path / "locked.pem"),
        "-passout",
        "pass:x",
    ]
    subprocess.run(words, check=True, capture_output=True, timeout=30)
    (tmp_path / "locked.pem").chmod(0o600)
    with pytest.raises(CredentialError, match="has a password: make a proxy"):
        Credentials(str(certificate), str(tmp_path / "locked.pem"), authorities=trust).context()
    _, other = authority.user("other")
    with pytest.raises(CredentialError, match="do not do"):
        Credentials(str(certificate), str(other), authorities=trust).context()


def test_certificates_and_authorities_that_will_not_do(authority: Authority, tmp_path: Path) -> None:
    certificate, key = (str(authority.folder / f"user-{what}.pem") for what in ("cert", "key"))
    with pytest.raises(CredentialError, match=r"authorities .*nowhere"):
        Credentials(certificate, key, authorities=str(tmp_path / "nowhere")).context()
    with pytest.raises(CredentialError, match="nothing: No such file"):
        Credentials(str(tmp_path / "nothing"), key).context()
    (tmp_path / "odd").write_text("hello")
    with pytest.raises(CredentialError, match="is not PEM"):
        Credentials(str(tmp_path / "odd"), key).context()


# -- delegation -----------------------------------------------------------------------------------


@pytest.mark.parametrize("version_3", [False, True], ids=["good", "of ARC 6"])
@pytest.mark.parametrize("by_proxy", [False, True], ids=["user", "proxy"])
def test_a_request_is_signed_as_openssl_wants_it(
    authority: Authority, credentials: Credentials, tmp_path: Path, version_3: bool, by_proxy: bool
) -> None:
    if by_proxy:
        credentials = Credentials(str(authority.proxy(hours=2)), authorities=str(authority.file))
    chain = x509.load_pem_x509_certificates(sign_request(request(version_3), credentials, 3600))
    assert len(chain) == (3 if by_proxy else 2)
    assert chain[0].issuer == chain[1].subject
    left = chain[0].not_valid_after_utc.timestamp() - time.time()
    assert 3500 < left <= 3600
    files = [tmp_path / f"{n}.pem" for n in range(len(chain))]
    for path, one in zip(files, chain, strict=True):
        path.write_bytes(one.public_bytes(serialization.Encoding.PEM))
    more = [word for path in files[1:] for word in ("-untrusted", str(path))]
    words = ["openssl", "verify", "-allow_proxy_certs", "-CAfile", str(authority.file), *more, str(files[0])]
    run = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    assert run.stdout.endswith(": OK\n"), run.stdout + run.stderr


def test_it_never_outlives_us_and_a_limited_proxy_begets_limited_ones(authority: Authority) -> None:
    proxy = Credentials(str(authority.proxy(hours=2)), authorities=str(authority.file))
    signed = x509.load_pem_x509_certificates(sign_request(request(), proxy, 1e6))
    assert signed[0].not_valid_after_utc == signed[1].not_valid_after_utc
    policies = [one.extensions.get_extension_for_oid(PROXY_INFO).value.public_bytes() for one in signed[:2]]
    assert policies[0] == policies[1]


def test_what_is_no_request_is_not_signed(credentials: Credentials) -> None:
    good = request()
    der = base64.b64decode(b"".join(good.split(b"\n")[1:-2]))
    forged = der[:-1] + bytes([der[-1] ^ 1])
    with pytest.raises(ArcError, match="not signed by its own key"):
        sign_request(pem(forged), credentials)
    odd = base64.b64decode(b"".join(request(version_3=True).split(b"\n")[1:-2]))
    with pytest.raises(ArcError, match="not signed by its own key"):
        sign_request(pem(odd[:-1] + bytes([odd[-1] ^ 1])), credentials)
    for nothing in (b"", b"<html>", pem(b"\x30\x03\x02\x01\x00"), good.replace(b"M", b"!")):
        with pytest.raises(ArcError, match="certificate request"):
            sign_request(nothing, credentials)
    with pytest.raises(CredentialError, match="token cannot sign"):
        sign_request(good, Credentials(token="x"))


def test_errors_travel() -> None:
    refused = pickle.loads(pickle.dumps(ArcRefused("no", 500, "why")))
    assert (str(refused), refused.status, refused.reason) == ("no", 500, "why")
    failed = pickle.loads(pickle.dumps(JobFailed("no", "FAILED", 3, ["a"])))
    assert (str(failed), failed.state, failed.exit_code, failed.errors) == ("no", "FAILED", 3, ("a",))
