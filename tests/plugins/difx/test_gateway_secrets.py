"""The gateway where others can reach it: it listens with a token or clients' certificates only, and warns."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from mpiframe import cli
from mpiframe.compat import DiFXControl
from mpiframe.plugins.difx.protocol import Id, Reader, write_packet
from tests.plugins.difx.serving import await_text, served

SECONDS = 60.0
TOKEN = "a token for this test alone"


@pytest.fixture
def ca(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """Whose certificates there are: in folder/server.pem, and, for what trusts it, folder/ca.pem."""
    made = trustme.CA()
    made.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    made.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "server.pem"))
    for name in ("CA", "CERT", "KEY", "TOKEN_FILE"):
        monkeypatch.delenv(f"MPIFRAME_DIFX_{name}", raising=False)
    return made


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    path.chmod(0o600)
    return path


@contextlib.contextmanager
def everywhere(tmp_path: Path, *words: object) -> Iterator[tuple[int, Path]]:
    """On all addresses of this machine."""
    root = tmp_path / "root"
    root.mkdir(exist_ok=True)
    given = ("--host", "0.0.0.0", "--port", "0", *map(str, words))
    with served(tmp_path, root, {}, *given) as found:
        yield found


def can_write(port: int, path: Path) -> bool:
    """Whether a client that is set up as the environment says has its file written."""
    difx = DiFXControl.Client()
    difx.waitTime(SECONDS)
    difx.connect("127.0.0.1", port)
    difx.monitor()
    path.unlink(missing_ok=True)
    answer = difx.sendFile(str(path), "x")
    if difx.sock is not None:
        difx.close()
    assert (answer == 1) == path.exists()
    return answer == 1


def answers(port: int, sent: bytes, context: ssl.SSLContext | None = None) -> list[int]:
    """The ids of what comes back, until the end; [] for what is no packet, too."""
    with contextlib.ExitStack() as stack:
        one = stack.enter_context(socket.create_connection(("127.0.0.1", port), SECONDS))
        if context is not None:
            one = stack.enter_context(context.wrap_socket(one, server_hostname="127.0.0.1"))
        data = b""
        with contextlib.suppress(ConnectionError, BrokenPipeError, ssl.SSLError):
            one.sendall(sent)
            while more := one.recv(1 << 16):
                data += more
        return [packet.id for packet in Reader(whole=True).feed(data)] if data[:1] == b"\0" else []


ASKED = write_packet(Id.VERSION)
WRONG = write_packet(Id.TOKEN, b"another token than the right one") + ASKED


def test_a_token_and_no_tls(
    tmp_path: Path, ca: trustme.CA, token: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with everywhere(tmp_path, "--token-file", token) as (port, log):
        await_text(log, "WARNING: 0.0.0.0 can be reached by others")
        assert "a token that everybody on the way can read, and no TLS" in log.read_text()
        for sent in (ASKED, WRONG, b"\x16\x03\x01" + bytes(300)):
            assert Id.VERSION not in answers(port, sent)
        assert not can_write(port, tmp_path / "root" / "a")
        monkeypatch.setenv("MPIFRAME_DIFX_TOKEN_FILE", str(token))
        assert can_write(port, tmp_path / "root" / "a")
        assert TOKEN not in log.read_text()


def test_a_token_by_tls(tmp_path: Path, ca: trustme.CA, token: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = (
        "--token-file",
        token,
        "--tls-cert",
        tmp_path / "server.pem",
        "--tls-key",
        tmp_path / "server.pem",
    )
    with everywhere(tmp_path, *words) as (port, log):
        await_text(log, "what keeps them out is a token, by TLS")
        context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
        for sent in (ASKED, WRONG):
            assert Id.VERSION not in answers(port, sent, context)
            assert answers(port, sent) == []  # unencrypted
        monkeypatch.setenv("MPIFRAME_DIFX_TOKEN_FILE", str(token))
        assert not can_write(port, tmp_path / "root" / "a")  # the client does not encrypt
        monkeypatch.setenv("MPIFRAME_DIFX_CA", str(tmp_path / "ca.pem"))
        assert can_write(port, tmp_path / "root" / "a")
        other = tmp_path / "other.pem"
        trustme.CA().cert_pem.write_to_path(str(other))
        monkeypatch.setenv("MPIFRAME_DIFX_CA", str(other))
        assert not can_write(port, tmp_path / "root" / "a")  # the client does not trust this server
        monkeypatch.setenv("MPIFRAME_DIFX_CA", str(tmp_path / "ca.pem"))
        monkeypatch.delenv("MPIFRAME_DIFX_TOKEN_FILE")
        assert not can_write(port, tmp_path / "root" / "a")


def test_certificates_of_clients(tmp_path: Path, ca: trustme.CA, monkeypatch: pytest.MonkeyPatch) -> None:
    pem = tmp_path / "server.pem"
    words = ("--tls-cert", pem, "--tls-key", pem, "--client-ca", tmp_path / "ca.pem")
    monkeypatch.setenv("MPIFRAME_DIFX_CA", str(tmp_path / "ca.pem"))
    with everywhere(tmp_path, *words) as (port, log):
        await_text(log, "what keeps them out is certificates of clients, by TLS")
        assert not can_write(port, tmp_path / "root" / "a")  # it has none
        for authority, welcome in ((trustme.CA(), False), (ca, True)):
            own = tmp_path / f"client-{welcome}.pem"
            client = authority.issue_cert("client@example.org")
            client.private_key_and_cert_chain_pem.write_to_path(str(own))
            monkeypatch.setenv("MPIFRAME_DIFX_CERT", str(own))
            assert can_write(port, tmp_path / "root" / "a") == welcome


def test_it_does_not_listen_where_nothing_keeps_others_out(
    tmp_path: Path, ca: trustme.CA, capsys: pytest.CaptureFixture[str]
) -> None:
    pem, everybody = str(tmp_path / "server.pem"), ["difx", "serve", "--host", "0.0.0.0", "--port", "0"]
    for words, text in (
        ([], "0.0.0.0 can be reached by others: give a token, or a certificate with a CA"),
        (["--tls-cert", pem, "--tls-key", pem], "0.0.0.0 can be reached by others"),
        (["--any-user"], "0.0.0.0 can be reached by others"),
        (["--client-ca", str(tmp_path / "ca.pem")], "--client-ca needs --tls-cert"),
        (["--token-file", str(tmp_path / "none")], "No such file"),
    ):
        assert cli.main([*everybody, "--root", str(tmp_path), *words]) == 1
        assert text in capsys.readouterr().err


def test_tls_on_the_loopback_without_certificates_of_clients(
    tmp_path: Path, ca: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It encrypts; who the client is, this machine says."""
    root, pem = tmp_path / "root", str(tmp_path / "server.pem")
    root.mkdir()
    words = ("--port", "0", "--tls-cert", pem, "--tls-key", pem)
    with served(tmp_path, root, {}, *words) as (port, log):
        assert answers(port, ASKED) == []
        assert not can_write(port, root / "a")
        monkeypatch.setenv("MPIFRAME_DIFX_CA", str(tmp_path / "ca.pem"))
        assert can_write(port, root / "a")
        assert "WARNING" not in log.read_text()
