"""A real GridFTP server with certificates of its own authority. Under `launch/test --grid` only."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mpiframe.plugins.grid.gfal import Gfal
from mpiframe.plugins.grid.sandbox import Sandbox, fetch
from mpiframe.plugins.grid.sandbox_config import GitSource, SandboxConfig
from mpiframe.plugins.grid.storage_errors import AccessDenied, AlreadyThere, NoSuchFile, StorageError
from mpiframe.plugins.grid.transfer import download, upload

GRID = bool(os.environ.get("MPIFRAME_TEST_GRID"))
CONTENT = os.urandom(2_000_000)


@dataclass(frozen=True)
class GridFtp:
    """url: where `folder` is reached. proxies: of somebody whom the server knows, and of a stranger."""

    url: str
    folder: Path
    known: Path
    stranger: Path


def openssl(folder: Path, *words: str) -> str:
    done = subprocess.run(["openssl", *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def certificate(folder: Path, name: str, subject: str) -> Path:
    """A certificate with its key of the authority in the folder."""
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n"
    (folder / "ext").write_text(names + "keyUsage=digitalSignature,keyEncipherment\n")
    request = ["-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.csr"]
    openssl(folder, "req", *request, "-subj", f"/O=mpiframe tests/CN={subject}")
    signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "1", "-extfile", "ext"]
    openssl(folder, "x509", "-req", "-in", f"{name}.csr", *signed, "-out", f"{name}.pem")
    both = folder / f"{name}.proxy"
    both.write_text((folder / f"{name}.pem").read_text() + (folder / f"{name}.key").read_text())
    for path in (both, folder / f"{name}.key"):
        path.chmod(0o600)
    return both


@contextlib.contextmanager
def gridftp() -> Iterator[GridFtp]:
    """A server on a free loopback port."""
    program = shutil.which("globus-gridftp-server", path=f"{os.environ['PATH']}:/usr/sbin")
    assert program, "there is no globus-gridftp-server; launch/test --grid installs it"
    with tempfile.TemporaryDirectory(prefix="mf-ftp-", dir="/tmp") as text:
        folder = Path(text)
        (folder / "data").mkdir()
        (folder / "certificates").mkdir()
        request = ["-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.pem", "-days", "2"]
        openssl(folder, "req", "-x509", *request, "-subj", "/O=mpiframe tests/CN=CA")
        number = openssl(folder, "x509", "-hash", "-noout", "-in", "ca.pem")
        shutil.copy(folder / "ca.pem", folder / "certificates" / f"{number}.0")
        (folder / "certificates" / f"{number}.signing_policy").write_text(
            "access_id_CA X509 '/O=mpiframe tests/CN=CA'\n"
            "pos_rights globus CA:sign\n"
            "cond_subjects globus '\"/O=mpiframe tests/*\"'\n"
        )
        certificate(folder, "host", "localhost")
        known, stranger = certificate(folder, "known", "known"), certificate(folder, "stranger", "stranger")
        user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
        (folder / "map").write_text(f'"/O=mpiframe tests/CN=known" {user}\n')
        with socket.create_server(("127.0.0.1", 0)) as found:
            port = found.getsockname()[1]
        words = [program, "-S", "-no-detach", "-p", str(port), "-c", "/dev/null", "-allow-root"]
        words += ["-control-interface", "127.0.0.1", "-data-interface", "127.0.0.1"]
        env = {
            "X509_CERT_DIR": str(folder / "certificates"),
            "X509_USER_CERT": str(folder / "host.pem"),
            "X509_USER_KEY": str(folder / "host.key"),
            "GRIDMAP": str(folder / "map"),
            "PATH": os.environ["PATH"],
        }
        with open(folder / "log", "wb") as log:
            server = subprocess.Popen(
                words, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        try:
            deadline = time.monotonic() + 30
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                assert server.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, "it does not answer"
                time.sleep(0.02)
            yield GridFtp(f"gsiftp://localhost:{port}{text}/data", folder / "data", known, stranger)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
            server.wait(30)


if GRID:

    @pytest.fixture(scope="module")
    def server() -> Iterator[GridFtp]:
        with gridftp() as made:
            yield made

    @pytest.fixture
    def proxy(server: GridFtp, monkeypatch: pytest.MonkeyPatch) -> None:
        """This user's credentials, where the tools look for them."""
        monkeypatch.setenv("X509_CERT_DIR", str(server.known.parent / "certificates"))
        monkeypatch.setenv("X509_USER_PROXY", str(server.known))

    @pytest.mark.parametrize("way", ["globus-url-copy", "gfal2"])
    def test_copies(
        server: GridFtp, proxy: None, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By Globus' own program, and by gfal2, which does it where that is missing."""
        if way == "gfal2":
            monkeypatch.setenv("PATH", str(tmp_path))
        source = tmp_path / "source.tar"
        source.write_bytes(CONTENT)
        place = f"{server.url}/{way}/new/a.tar"
        assert upload(source, place, overwrite=True) == len(CONTENT)
        assert (server.folder / way / "new/a.tar").read_bytes() == CONTENT
        with pytest.raises(AlreadyThere):
            upload(source, place)
        source.write_bytes(b"other")
        upload(source, place, overwrite=True)
        assert download(place, tmp_path / "got") == 5
        with pytest.raises(NoSuchFile):
            download(f"{server.url}/none", tmp_path / "none")
        monkeypatch.setenv("X509_USER_PROXY", str(server.stranger))
        with pytest.raises(AccessDenied):
            download(place, tmp_path / "none")
        monkeypatch.setenv("X509_USER_PROXY", str(tmp_path / "no-proxy"))
        with pytest.raises(StorageError):
            download(place, tmp_path / "none")
        assert not list(tmp_path.glob("none*"))

    def test_a_sandbox(server: GridFtp, proxy: None, tmp_path: Path) -> None:
        made = tmp_path / "scripts"
        subprocess.run(["git", "init", "-q", str(made)], check=True)
        (made / "master.sh").write_text("#!/bin/sh\n")
        name = ["-c", "user.name=me", "-c", "user.email=me@x"]
        subprocess.run(["git", "-C", str(made), "add", "-A"], check=True)
        subprocess.run(["git", *name, "-C", str(made), "commit", "-q", "-m", "x"], check=True)
        config = SandboxConfig("pref", GitSource(str(made)), location="SKSP/prefactor")
        for _ in range(2):  # the second takes the place of the first
            with Sandbox(config) as sandbox:
                where = sandbox.upload(server.url)
        assert where == f"{server.url}/SKSP/prefactor/pref.tar"
        assert fetch(where, tmp_path / "node") == ["master.sh"]
        with Gfal(call_seconds=60) as gfal:
            assert gfal.listdir(f"{server.url}/SKSP/prefactor") == ["pref.tar"]
