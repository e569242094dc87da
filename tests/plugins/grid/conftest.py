"""A token database for the tests of the grid: a real server, started here, with an admin's password.

pouchdb-server speaks CouchDB's protocol. `MPIFRAME_COUCHDB_URL` (with user and password) names a real CouchDB
to be used in its place; `POUCHDB_SERVER` the program, where it is not on PATH. `MPIFRAME_TEST_GRID=1`,
which `launch/test --grid` sets, adds what takes long.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from mpiframe.plugins.grid.couchdb import Database

LONG = bool(os.environ.get("MPIFRAME_TEST_GRID"))
START_SECONDS = 30.0

collect_ignore = [] if LONG else ["test_pilots_long.py"]


class CouchServer:
    """One server on a free port of this host, with its files in a folder of its own."""

    def __init__(self, folder: Path, in_memory: bool = False) -> None:
        self.folder = folder
        self._where = ["--in-memory"] if in_memory else ["--dir", "data"]
        self.user, self.password = "admin", secrets.token_hex(8)
        with socket.create_server(("127.0.0.1", 0)) as found:
            self.port = found.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def host_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.user}:{self.password}@127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        program = os.environ.get("POUCHDB_SERVER") or shutil.which("pouchdb-server")
        if program is None:
            pytest.skip("no token database: pouchdb-server is not there (launch/test installs it), "
                        "nor does MPIFRAME_COUCHDB_URL name one")  # fmt: skip
        (self.folder / "data").mkdir(parents=True, exist_ok=True)
        (self.folder / "config.json").write_text(json.dumps({"admins": {self.user: self.password}}))
        words = ["--host", "127.0.0.1", "--port", str(self.port), *self._where, "--config", "config.json"]
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                [program, *words],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise AssertionError(f"it does not answer: {(self.folder / 'log').read_text()}")
            time.sleep(0.02)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.host_url, timeout=1):
                return True
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False

    def stop(self) -> None:
        """End it; what it holds stays for the next start."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(START_SECONDS)
            self._process = None


class RealCouch:
    """A server that somebody named; it is neither started nor stopped here."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.url = url.rstrip("/")
        self.user, self.password = parts.username or "", parts.password or ""
        self.host_url = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


@pytest.fixture(scope="session")
def couch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CouchServer | RealCouch]:
    """A token database server for all tests."""
    named = os.environ.get("MPIFRAME_COUCHDB_URL")
    if named:
        yield RealCouch(named)
        return
    server = CouchServer(tmp_path_factory.mktemp("couch"), in_memory=True)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def own_couch(tmp_path: Path) -> Iterator[CouchServer]:
    """A server of a test's own, which it may stop and start."""
    server = CouchServer(tmp_path / "own-couch")
    server.folder.mkdir()
    with contextlib.closing(contextlib.ExitStack()) as stack:
        stack.callback(server.stop)
        server.start()
        yield server


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder of the test's own, and no credentials in the environment."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    for name in ("PICAS_USR", "PICAS_USR_PWD", "PICAS_DB", "PICAS_URL", "XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def database(couch: CouchServer | RealCouch) -> Iterator[Database]:
    """An empty database of a test's own."""
    made = Database(f"mf-{secrets.token_hex(6)}", couch.url)
    made.create()
    yield made
    made.drop()
    made.close()


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port of this host on which nobody listens, and nobody can."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]
