"""Attachments larger than memory should ever hold: 5 GB with `launch/test --grid`, 200 MB without."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mpiframe.plugins.grid import AttachmentError, Database, Token

ROOT = Path(__file__).resolve().parents[3]
LONG = bool(os.environ.get("MPIFRAME_TEST_GRID"))
SIZE = (5 << 30) if LONG else (200 << 20)
MEMORY = 150 << 20  # what the whole process may take, Python and httpx with it
PIECE = bytes(1 << 20)


class Double(http.server.BaseHTTPRequestHandler):
    """A double of CouchDB, which knows one document with one attachment, of zeros, and keeps none of it.

    A real server is no help here: pouchdb-server holds an attachment in memory.
    """

    got = 0
    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        left = int(self.headers["Content-Length"])
        while left and (piece := self.rfile.read(min(left, 1 << 20))):
            left -= len(piece)
            Double.got += len(piece)
        self._answer({"ok": True, "id": "big", "rev": "2-b"}, 201)

    def do_GET(self) -> None:
        if not self.path.endswith("/zeros"):
            digest = self.server.digest  # type: ignore[attr-defined]
            stub = {"length": SIZE, "digest": digest, "content_type": "x/y", "stub": True}
            self._answer({"_id": "big", "_rev": "1-a", "type": "t", "_attachments": {"zeros": stub}})
            return
        self.send_response(200)
        self.send_header("Content-Length", str(SIZE))
        self.end_headers()
        for _ in range(SIZE // len(PIECE)):
            self.wfile.write(PIECE)

    def _answer(self, content: dict[str, Any], status: int = 200) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def double() -> Iterator[int]:
    """The port of the double."""
    digest = hashlib.md5(usedforsecurity=False)
    for _ in range(SIZE // len(PIECE)):
        digest.update(PIECE)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Double) as server:
        server.digest = "md5-" + base64.b64encode(digest.digest()).decode()  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        Double.got = 0
        yield server.server_address[1]
        server.shutdown()
        thread.join()


SCRIPT = """
import re, sys
from mpiframe.plugins.grid import Database, Token
token = Token.of({"_id": "big", "_rev": "1-a", "type": "t"}, Database("x", f"http://u:p@127.0.0.1:{sys.argv[1]}"))
if sys.argv[2] == "up":
    token.attach(sys.argv[3], "zeros")
else:
    token.download("zeros", sys.argv[3])
# Not ru_maxrss: that counts what the process was before it became this program, a large pytest.
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024)
"""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("way", ["up", "down"])
def test_it_goes_through_in_little_memory(double: int, tmp_path: Path, way: str) -> None:
    path = tmp_path / "zeros"
    if way == "up":
        with open(path, "wb") as file:
            file.truncate(SIZE)
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), str(double), way, str(path)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) < MEMORY
    assert path.stat().st_size == SIZE
    if way == "up":
        assert Double.got == SIZE
    path.unlink()


def test_one_that_breaks_off_leaves_no_part(double: int, tmp_path: Path) -> None:
    token = Token.of({"_id": "big", "type": "t"}, Database("x", f"http://u:p@127.0.0.1:{double}"))
    (tmp_path / "zeros.part").symlink_to("/dev/full")
    with pytest.raises(AttachmentError, match="No space left on device"):
        token.download("zeros", tmp_path / "zeros")
    assert list(tmp_path.glob("zeros*")) == []


def test_a_large_one_on_the_real_server(database: Database, tmp_path: Path) -> None:
    content = os.urandom(1 << 20) * (40 if LONG else 8)
    (tmp_path / "large").write_bytes(content)
    token = Token("t", "large", database)
    token.attach(tmp_path / "large")
    token.download("large", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content
