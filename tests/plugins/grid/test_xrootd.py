"""A real XRootD server, as storage and with a tape behind it. Under `launch/test --grid` only.

It listens on all addresses, which cannot be changed, but lets in this host alone (`xrd.allow`).
"""

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
from pathlib import Path

import pytest

from mpiframe.plugins.grid.gfal import Gfal
from mpiframe.plugins.grid.sandbox import fetch
from mpiframe.plugins.grid.staging import StagingProgress, stage, state, wait_staged
from mpiframe.plugins.grid.storage_errors import AlreadyThere, NoSuchFile, StorageError
from mpiframe.plugins.grid.transfer import download, upload

GRID = bool(os.environ.get("MPIFRAME_TEST_GRID"))
CONTENT = os.urandom(2_000_000)

TAPE = """#!/usr/bin/python3
import json, os, shutil, sys

# The program of a site's tape that XRootD runs: [options] -- request stage|query|... path...
# It "reads the tape" by moving files from one folder to another, at the second question about them.
number, action, *paths = sys.argv[sys.argv.index("--") + 1:]
with open("FOLDER/calls", "a") as calls:
    print(action, *paths, file=calls)
if action == "query":
    asked = open("FOLDER/calls").read().count("query")
    answers = []
    for path in paths:
        disk, tape = "FOLDER/root" + path, "FOLDER/tape" + path
        if asked >= 2 and os.path.exists(tape):
            shutil.move(tape, disk)
        online = os.path.exists(disk)
        there = online or os.path.exists(tape)
        answers.append({"path": path, "path_exists": there, "on_tape": there, "online": online,
                        "requested": there, "has_reqid": there, "req_time": "1", "error_text": ""})
    print(json.dumps({"request_id": number, "responses": answers}))
"""


@contextlib.contextmanager
def xrootd(*directives: str) -> Iterator[tuple[str, Path]]:
    """A server on a free port: its url, and the folder whose `root` it serves."""
    program = shutil.which("xrootd")
    assert program, "there is no xrootd; launch/test --grid installs it"
    with tempfile.TemporaryDirectory(prefix="mf-xrd-", dir="/tmp") as text:
        folder = Path(text)
        folder.chmod(0o755)
        for name in ("root/data", "tape/data", "admin"):
            (folder / name).mkdir(parents=True)
        with socket.create_server(("127.0.0.1", 0)) as found:
            port = found.getsockname()[1]
        settings = [
            f"xrd.port {port}", "xrd.allow host localhost", f"all.adminpath {folder}/admin",
            f"all.pidpath {folder}/admin", f"oss.localroot {folder}/root", *directives,
        ]  # fmt: skip
        settings = [one.replace("FOLDER", text) for one in settings]
        if not any(one.startswith("all.export") for one in settings):
            settings.append("all.export /data")
        (folder / "tape.py").write_text(TAPE.replace("FOLDER", text))
        (folder / "tape.py").chmod(0o755)
        (folder / "xrootd.cfg").write_text("\n".join(settings) + "\n")
        words = [
            program,
            "-c",
            str(folder / "xrootd.cfg"),
            "-l",
            str(folder / "log"),
            "-n",
            "test",
            "-I",
            "v4",
        ]
        if os.geteuid() == 0:  # it refuses to run as root
            words += ["-R", "nobody"]
            subprocess.run(["chown", "-R", "nobody", text], check=True)
        server = subprocess.Popen(words, start_new_session=True, stdin=subprocess.DEVNULL, cwd=folder)
        try:
            deadline = time.monotonic() + 30
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                logs = "\n".join(one.read_text() for one in folder.rglob("log") if one.is_file())
                assert server.poll() is None, logs
                assert time.monotonic() < deadline, logs
                time.sleep(0.02)
            yield f"root://127.0.0.1:{port}/", folder
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
            server.wait(30)


if GRID:

    @pytest.mark.parametrize("way", ["xrdcp", "gfal2"])
    def test_copies(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """By XRootD's own program, and by gfal2, which does it where that is missing."""
        source = tmp_path / "source.tar"
        source.write_bytes(CONTENT)
        with xrootd() as (url, folder):
            if way == "gfal2":
                monkeypatch.setenv("PATH", str(tmp_path))
            place = f"{url}/data/new/folder/a.tar"
            assert upload(source, place) == len(CONTENT)
            assert (folder / "root/data/new/folder/a.tar").read_bytes() == CONTENT
            with pytest.raises(AlreadyThere):
                upload(source, place)
            source.write_bytes(b"other")
            upload(source, place, overwrite=True)
            assert download(place, tmp_path / "got") == 5
            assert (tmp_path / "got").read_bytes() == b"other"
            with pytest.raises(NoSuchFile):
                download(f"{url}/data/none", tmp_path / "none")
            with pytest.raises(StorageError, match="is no tar"):
                fetch(place, tmp_path / "node")
            assert not (tmp_path / "none").exists()
            assert not (tmp_path / "node").exists()
        with pytest.raises(StorageError):
            download(place, tmp_path / "none", seconds=2)
        assert not list(tmp_path.glob("none*"))

    def test_states() -> None:
        with xrootd() as (url, folder), Gfal(call_seconds=60) as gfal:
            (folder / "root/data/a").write_bytes(b"x")
            found = state([f"{url}/data/a", f"{url}/data/none"], gfal=gfal)
            assert [str(one.locality) for one in found] == ["ONLINE", "UNKNOWN"]
            assert found[1].error
            assert gfal.size(f"{url}/data/a") == 1

    def test_a_tape() -> None:
        """XRootD's own prepare requests; the tape behind it is a script that moves files."""
        tape = ("all.export /data stage", "ofs.preplib libXrdOfsPrepGPI.so -admit all -run FOLDER/tape.py")
        with xrootd(*tape) as (url, folder), Gfal(call_seconds=60) as gfal:
            for name in ("a", "b"):
                (folder / "tape/data" / name).write_bytes(b"x")
            links = [f"{url}/data/a", f"{url}/data/b"]
            assert [str(one.locality) for one in state(links, gfal=gfal)] == ["UNKNOWN"] * 2
            seen: list[StagingProgress] = []
            request = stage(links, gfal=gfal)
            wait_staged(request, 60, seen.append, poll_seconds=0.05, longest_poll_seconds=0.5)
            assert [progress.staged for progress in seen] == [0, 2]
            assert [str(one.locality) for one in state(links, gfal=gfal)] == ["ONLINE"] * 2
            request.release()
            said = (folder / "calls").read_text().splitlines()
            assert said.count("query /data/a /data/b") == 2
            deadline = time.monotonic() + 30
            # These it runs beside the questions, in processes that its end does not end.
            while not {"stage /data/a /data/b", "evict /data/a /data/b"} <= set(said):
                assert time.monotonic() < deadline, said
                time.sleep(0.02)
                said = (folder / "calls").read_text().splitlines()
