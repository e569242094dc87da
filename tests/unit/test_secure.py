"""Key files, certificates, and TLS connections to listeners that are what they should be or not. No MPI."""

from __future__ import annotations

import queue
import re
import secrets
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from mpiframe.errors import WorldError
from mpiframe.worlds import secure
from mpiframe.worlds.secure import Key

KEY = Key("survey", "127.0.0.1:7643", "sha256:" + "ab" * 32, secrets.token_bytes(32))
SECONDS = 20.0


# -- key files -------------------------------------------------------------------------------------------


def test_a_key_file_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "survey.key"
    KEY.write(path)
    assert Key.read(path) == KEY
    assert path.stat().st_mode & 0o777 == 0o600
    KEY.write(path)  # over an older one
    assert list(tmp_path.iterdir()) == [path]


def test_a_key_without_an_address_is_for_a_socket_that_is_forwarded(tmp_path: Path) -> None:
    key = Key("survey", "", "", KEY.secret)
    key.write(tmp_path / "survey.key")
    assert Key.read(tmp_path / "survey.key") == key


def test_a_file_that_is_no_key_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "thesis.tex"
    path.write_text("mpiframe\n")
    path.chmod(0o600)
    with pytest.raises(WorldError, match=r"thesis.tex is no key file.*mpiframe key NAME"):
        KEY.write(path)
    assert path.read_text() == "mpiframe\n"


def test_a_key_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "survey.key"
    KEY.write(path)
    path.chmod(0o644)
    with pytest.raises(WorldError, match=r"others may read the key file .* \(mode 0644\).*chmod 600"):
        Key.read(path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "mpiframe key 2\n",
        "mpiframe key 1\nname x\n",
        KEY.text().replace("secret ", "secret zz"),
        KEY.text()[:-9],
        KEY.text().replace("address", "adress"),
        "\0\xff" * 999,
    ],
)
def test_what_is_no_key_is_said_to_be_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.key"
    path.write_text(text, encoding="latin-1")
    path.chmod(0o600)
    with pytest.raises(WorldError, match=r"is no key file of mpiframe"):
        Key.read(path)


def test_a_key_file_that_is_not_there_or_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(WorldError, match=r"cannot read the key file .*/none.key: No such file"):
        Key.read(tmp_path / "none.key")
    with pytest.raises(WorldError, match=r"cannot write the key file .*/no/x.key: No such file"):
        KEY.write(tmp_path / "no/x.key")


def test_a_key_does_not_show_its_secret_to_logs() -> None:
    assert KEY.secret.hex() not in repr(KEY)
    assert repr(KEY.secret) not in repr(KEY)


# -- addresses -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("node1:7643", ("node1", 7643)),
        (":7643", ("127.0.0.1", 7643)),
        ("0", ("127.0.0.1", 0)),
        ("[::1]:22", ("::1", 22)),
        ("0.0.0.0:1", ("0.0.0.0", 1)),
    ],
)
def test_addresses_are_read(text: str, address: tuple[str, int]) -> None:
    assert secure.split_address(text) == address
    assert secure.split_address(secure.join_address(*address)) == address


@pytest.mark.parametrize(
    "text", ["", "node1", "node1:", "node1:http", "node1:70000", "a b:1", "node1:-1", "x:²"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(WorldError, match=r"is no address: give HOST:PORT"):
        secure.split_address(text)


def test_loopback_is_known() -> None:
    assert all(map(secure.is_loopback, ("127.0.0.1", "127.3.2.1", "::1", "localhost")))
    assert not any(map(secure.is_loopback, ("0.0.0.0", "::", "10.0.0.1", "node1")))


# -- certificates ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls") / "certificate"
    secure.make_certificate(path, "survey")
    return path


def test_our_own_certificate_is_for_our_eyes(certificate: Path) -> None:
    assert certificate.stat().st_mode & 0o777 == 0o600
    assert re.fullmatch("sha256:[0-9a-f]{64}", secure.fingerprint_of(certificate))
    secure.server_context(certificate)


def test_a_site_s_certificate_is_taken_and_its_first_one_counts(tmp_path: Path) -> None:
    authority = trustme.CA()
    made = authority.issue_cert("node1.example.org")
    path = tmp_path / "site.pem"
    made.private_key_and_cert_chain_pem.write_to_path(path)
    with open(path, "ab") as file:
        file.write(authority.cert_pem.bytes())
    secure.server_context(path)
    leaf = ssl.PEM_cert_to_DER_cert(made.cert_chain_pems[0].bytes().decode())
    assert secure.fingerprint_of(path) == secure._digest(leaf)


def test_what_is_no_certificate_is_said_to_be_none(tmp_path: Path, certificate: Path) -> None:
    path = tmp_path / "x.pem"
    with pytest.raises(WorldError, match=r"cannot read the certificate .*No such file"):
        secure.fingerprint_of(path)
    path.write_text("nothing")
    with pytest.raises(WorldError, match=r"there is no certificate in"):
        secure.fingerprint_of(path)
    with pytest.raises(WorldError, match=r"cannot use the certificate .*a PEM file with"):
        secure.server_context(path)
    path.write_text(certificate.read_text().partition("-----BEGIN CERTIFICATE")[0])  # the key alone
    with pytest.raises(WorldError, match=r"cannot use the certificate"):
        secure.server_context(path)


def test_a_key_with_a_password_asks_nobody(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"password"),
    )
    path = tmp_path / "x.pem"
    path.write_bytes(key + trustme.CA().cert_pem.bytes())
    with pytest.raises(WorldError, match=r"is locked by a password"):
        secure.server_context(path)


def test_without_the_package_that_makes_one_it_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cryptography", None)
    with pytest.raises(WorldError, match=r"pip install 'mpiframe\[interactive\]'.*--cert"):
        secure.make_certificate(tmp_path / "x", "survey")
    assert list(tmp_path.iterdir()) == []


# -- connections -----------------------------------------------------------------------------------------

Serve = Callable[[Callable[[socket.socket], None]], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Has a function answer one connection, and gives the address."""
    threads, listeners = [], []

    def start(answer: Callable[[socket.socket], None]) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listener.settimeout(SECONDS)
        listeners.append(listener)

        def work() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.settimeout(SECONDS)
                answer(sock)

        threads.append(threading.Thread(target=work))
        threads[-1].start()
        return f"127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for thread in threads:
        thread.join(SECONDS)
        assert not thread.is_alive()
    for listener in listeners:
        listener.close()


def over_tls(certificate: Path, answer: Callable[[ssl.SSLSocket], None]) -> Callable[[socket.socket], None]:
    def work(sock: socket.socket) -> None:
        with secure.server_context(certificate).wrap_socket(sock, server_side=True) as secured:
            answer(secured)

    return work


def test_the_right_certificate_opens_a_connection(serve: Serve, certificate: Path) -> None:
    address = serve(over_tls(certificate, lambda sock: sock.sendall(sock.recv(5)[::-1])))
    with secure.connect(address, secure.fingerprint_of(certificate), SECONDS) as sock:
        assert sock.version() in ("TLSv1.2", "TLSv1.3")
        sock.sendall(b"hello")
        assert sock.recv(5) == b"olleh"


def test_another_certificate_is_refused_before_anything_is_sent(serve: Serve, certificate: Path) -> None:
    got: queue.Queue[bytes] = queue.Queue()
    address = serve(over_tls(certificate, lambda sock: got.put(sock.recv(1))))
    with pytest.raises(WorldError, match=r"is not the one that the key file names .* nothing was sent"):
        secure.connect(address, KEY.fingerprint, SECONDS)
    assert got.get(timeout=SECONDS) == b""


@pytest.mark.parametrize(
    "answer",
    [
        lambda sock: sock.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n"),
        lambda sock: sock.sendall(b"SSH-2.0-OpenSSH_9.2\r\n"),
        lambda sock: None,
    ],
    ids=["http", "ssh", "closes"],
)
def test_who_does_not_speak_tls_is_said_not_to(serve: Serve, answer: Callable[[socket.socket], None]) -> None:
    with pytest.raises(WorldError, match=r"does not speak TLS as a world does .* is it the right port"):
        secure.connect(serve(answer), KEY.fingerprint, SECONDS)


def test_who_says_nothing_is_not_waited_for_for_ever(serve: Serve) -> None:
    done = threading.Event()
    address = serve(lambda sock: (done.wait(SECONDS), None)[1])
    with pytest.raises(WorldError, match=r"does not speak TLS.*timed out"):
        secure.connect(address, KEY.fingerprint, 0.2)
    done.set()


def test_where_nobody_listens_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # so that nobody else listens there meanwhile
        port = silent.getsockname()[1]
        with pytest.raises(WorldError, match=rf"nobody can be reached at 127.0.0.1:{port} .*the tunnel"):
            secure.connect(f"127.0.0.1:{port}", KEY.fingerprint, SECONDS)

    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)  # no name server is asked: it may not answer
    with pytest.raises(WorldError, match=r"nobody can be reached at no.such.host.invalid:1"):
        secure.connect("no.such.host.invalid:1", KEY.fingerprint, SECONDS)
