"""Single files to and from storage: a real WebDAV server (wsgidav), and servers that do harm."""

from __future__ import annotations

import contextlib
import http.client
import os
import pickle
import resource
import socket
import ssl
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpiframe.plugins.grid.credentials import Secret
from mpiframe.plugins.grid.error_codes import ErrorCode, code_of
from mpiframe.plugins.grid.storage_errors import (
    AccessDenied,
    AlreadyThere,
    ConfigError,
    DiskFull,
    MissingTool,
    NoSuchFile,
    NotWhole,
    SandboxEmpty,
    StagingFailed,
    StorageDown,
    StorageError,
    StorageTimeout,
)
from mpiframe.plugins.grid.transfer import download, run, upload
from tests.plugins.grid import doubles

CONTENT = os.urandom(3_000_000)


@pytest.fixture(scope="module")
def dav(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A real WebDAV server: its url and its folder."""
    root = tmp_path_factory.mktemp("dav")
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    program = [sys.executable, "-W", "ignore", "-m", "wsgidav.server.server_cli", "--host", "127.0.0.1"]
    program += ["--port", str(port), "--root", str(root), "--auth", "anonymous", "-q"]
    with open(root.parent / "dav.log", "wb") as log:
        server = subprocess.Popen(program, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 30
        while True:
            assert server.poll() is None, (root.parent / "dav.log").read_text()
            assert time.monotonic() < deadline, "it does not answer"
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
                connection.request("OPTIONS", "/")
                connection.getresponse().read()
                connection.close()
                break
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port}", root
    finally:
        server.kill()
        server.wait(30)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.tar"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def room(tmp_path: Path) -> Path:
    path = tmp_path / "room"
    path.mkdir()
    return path


def test_webdav(dav: tuple[str, Path], source: Path, room: Path) -> None:
    url, root = dav
    place = f"{url}/SKSP/pre factor/cal%231.tar"
    assert upload(source, place) == len(CONTENT)  # folders on the way are made
    assert (root / "SKSP" / "pre factor" / "cal#1.tar").read_bytes() == CONTENT
    with pytest.raises(AlreadyThere):
        upload(source, place)
    source.write_bytes(b"other")
    assert upload(source, place.replace("http", "dav", 1), overwrite=True) == 5
    assert download(place, room / "got") == 5
    assert (room / "got").read_bytes() == b"other"
    with pytest.raises(NoSuchFile):
        download(f"{url}/SKSP/none", room / "none")
    assert os.listdir(room) == ["got"]


def test_files(source: Path, room: Path, tmp_path: Path) -> None:
    place = f"file://{room}/new%20folder/a.tar"
    assert upload(source, place) == len(CONTENT)
    assert (room / "new folder" / "a.tar").read_bytes() == CONTENT
    with pytest.raises(AlreadyThere):
        upload(source, str(room / "new folder" / "a.tar"))
    assert download(place, tmp_path / "got", size=len(CONTENT)) == len(CONTENT)
    for url in (f"file://{room}/none", str(room / "none")):
        with pytest.raises(NoSuchFile):
            download(url, tmp_path / "none")
    with pytest.raises(NoSuchFile):
        upload(tmp_path / "none", place)
    with pytest.raises(StorageError):
        download(f"file://{room}", tmp_path / "none")
    with pytest.raises(ConfigError, match="another host"):
        download("file://elsewhere/x", tmp_path / "none")


def test_downloads_are_checked(room: Path) -> None:
    answers: dict[str, doubles.Answer] = {
        "/empty": (200, {}, b""),
        "/short": (200, {"Content-Length": "1000"}, b"x" * 10),
        "/ten": (200, {}, b"x" * 10),
        "/full": (507, {}, b""),
        "/slow": (200, {"Content-Length": "10", "Connection": "close"}, b"x"),
    }

    def answer(request: doubles.Request) -> doubles.Answer:
        return answers.get(request.path, (404, {}, b""))

    with doubles.serving(answer) as server:
        target = room / "got"
        target.write_bytes(b"what was there")
        for path, kind, options in (
            ("/empty", SandboxEmpty, {}),
            ("/ten", NotWhole, {"size": 11}),
            ("/ten", NotWhole, {"max_bytes": 9}),
            ("/short", StorageError, {"seconds": 0.3}),
            ("/slow", StorageError, {"seconds": 0.3}),
            ("/full", DiskFull, {}),
            ("/none", NoSuchFile, {}),
        ):
            with pytest.raises(kind) as caught:
                download(f"{server.url}{path}", target, **options)  # type: ignore[arg-type]
            expected = {SandboxEmpty: -2, NotWhole: 96}.get(kind, ErrorCode.DOWNLOAD_FAILED)
            assert caught.value.exit_code == expected
            assert code_of(pickle.loads(pickle.dumps(caught.value))) == expected
            assert target.read_bytes() == b"what was there"
            assert os.listdir(room) == ["got"]
        assert download(f"{server.url}/ten", target, size=10) == 10
    with pytest.raises(StorageDown):
        download(f"{server.url}/ten", target)


def test_a_full_disk_here(dav: tuple[str, Path], room: Path) -> None:
    url, root = dav
    (root / "large").write_bytes(bytes(300_000))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # no file may be larger
    try:
        for source in (f"{url}/large", f"file://{root}/large"):
            with pytest.raises(DiskFull, match=r"no room for .*got"):
                download(source, room / "got")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(room) == []


@pytest.mark.skipif("os.geteuid() != 0", reason="a full disk takes a mount, and that root")
def test_a_disk_that_is_really_full(room: Path, source: Path) -> None:
    """In a mount namespace of its own, so that nothing stays mounted."""
    code = (
        "import os, sys\n"
        "from mpiframe.plugins.grid.storage_errors import DiskFull\n"
        "from mpiframe.plugins.grid.transfer import download\n"
        "try: download(sys.argv[1], sys.argv[2] + '/got')\n"
        "except DiskFull as error: print(error)\n"
        "print(os.listdir(sys.argv[2]))\n"
    )
    script = 'mount -t tmpfs -o size=1m tmpfs "$1" && exec "$2" -c "$3" "$4" "$1"'
    words = ["unshare", "--mount", "sh", "-c", script, "sh", str(room), sys.executable, code, str(source)]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    ended = subprocess.run(words, capture_output=True, text=True, timeout=60, env=env)
    if ended.returncode and "unshare" in ended.stderr:
        pytest.skip("this container does not let root make a mount")
    assert ended.returncode == 0, ended.stderr
    assert "No space left on device" in ended.stdout
    assert ended.stdout.endswith("[]\n")


def guarded(request: doubles.Request) -> doubles.Answer:
    """Lets the right token in, to folders and one file."""
    if request.headers.get("authorization") != "Bearer sesame":
        return 401, {}, b"who are you with " + request.headers.get("authorization", "").encode()
    if request.method == "HEAD":
        return (200 if request.path.endswith("/") else 404), {}, b""
    return (201, {}, b"") if request.method == "PUT" else (200, {}, b"content")


def test_tokens(source: Path, room: Path) -> None:
    with doubles.serving(guarded) as server:
        place = f"{server.url}/a/b.tar"
        upload(source, place, token=Secret("sesame"))
        assert server.requests[-1].body == CONTENT
        assert download(place, room / "got", token=Secret("sesame")) == 7
        # One in the url goes into the header, and is in no request.
        assert download(f"{place}?authz=sesame", room / "got") == 7
        assert server.requests[-1].query == {}
        wrong = Secret("open" + "-wrong")  # the lines of this file are in tracebacks
        for call in (
            lambda: upload(source, place, token=wrong),
            lambda: download(f"{place}?authz=Bearer%20{wrong.reveal()}", room / "other"),
        ):
            with pytest.raises(AccessDenied) as caught:
                call()
            assert wrong.reveal() not in "".join(traceback.format_exception(caught.value))
        assert os.listdir(room) == ["got"]
    with pytest.raises(ConfigError, match="use https"):
        upload(source, "http://storage.example.org/x", token=Secret("sesame"))
    with pytest.raises(ConfigError, match="use https"):
        download("http://storage.example.org/x?authz=sesame", room / "other")


def test_an_upload_is_redirected_whole_and_without_the_token(source: Path) -> None:
    """As dCache does: its door sends uploads to the host that has the disk."""
    with doubles.serving(lambda request: (201, {}, b"")) as pool:

        def door(request: doubles.Request) -> doubles.Answer:
            if request.method == "PUT":
                return 307, {"Location": f"{pool.url}/pool{request.path}?uuid=1"}, b""
            return guarded(request)

        with doubles.serving(door) as server:
            upload(source, f"{server.url}/b.tar", token=Secret("sesame"))
        assert [one.path for one in pool.requests] == ["/pool/b.tar"]
        assert pool.requests[0].body == CONTENT
        assert "authorization" not in pool.requests[0].headers
        assert pool.requests[0].headers["content-length"] == str(len(CONTENT))


def test_https_with_a_client_certificate(source: Path, tmp_path: Path) -> None:
    trustme = pytest.importorskip("trustme")
    ca = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    ca.issue_cert("127.0.0.1").configure_cert(context)
    ca.configure_trust(context)
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    ca.issue_cert("me@example.org").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "me.pem"))
    trust = {"ca": str(tmp_path / "ca.pem")}
    with doubles.serving(lambda request: (201, {}, b""), context) as server:
        place = server.url.replace("https", "davs") + "/b.tar"
        upload(source, place, overwrite=True, certificate=str(tmp_path / "me.pem"), **trust)
        assert server.requests[-1].body == CONTENT
        with pytest.raises(StorageDown):
            upload(source, place, overwrite=True, **trust)
    with pytest.raises(ConfigError, match=r"none\.pem cannot be used"):
        upload(source, place, certificate=str(tmp_path / "none.pem"))


def test_errors_carry_the_codes_of_tokens(source: Path, tmp_path: Path) -> None:
    """GRID_LRT's, which a pilot writes into its token's `output`."""
    for status, code in ((507, 32), (412, 33), (409, 34), (403, 31), (500, 31)):
        answer = lambda request, status=status: (status, {}, b"")  # noqa: E731
        with doubles.serving(answer) as server, pytest.raises(StorageError) as caught:
            upload(source, f"{server.url}/x", overwrite=True)
        assert code_of(caught.value) == code
    with pytest.raises(NoSuchFile) as missing:
        upload(tmp_path / "none", str(tmp_path / "there"))
    assert code_of(missing.value) is ErrorCode.NOTHING_TO_UPLOAD
    outer = ValueError("outer")
    outer.__cause__ = missing.value
    assert code_of(outer) is ErrorCode.NOTHING_TO_UPLOAD
    assert code_of(StagingFailed("x")) is ErrorCode.NOT_STAGED
    assert code_of(StorageError("x")) is code_of(ValueError()) is code_of(None) is None


def test_urls_that_are_none(source: Path) -> None:
    for url, text in (
        ("ftp://h/x", "no copies by 'ftp'; there are file, http"),
        ("https://me:sesame@h/x", "a user or password does not belong into a url"),
        ("-o", "no url"),
    ):
        with pytest.raises(ConfigError, match=text) as caught:
            upload(source, url)
        assert "sesame" not in str(caught.value)


def test_schemes_whose_programs_are_missing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("MPIFRAME_GFAL_PYTHON", str(tmp_path / "none"))
    for scheme, package in (
        ("gsiftp", "globus-gass-copy-progs"),
        ("root", "xrootd-client"),
        ("srm", "gfal2"),
    ):
        with pytest.raises(MissingTool, match=package):
            upload(source, f"{scheme}://h/x")
        with pytest.raises(MissingTool, match="python3-gfal2"):
            download(f"{scheme}://h/x", tmp_path / "x")


def test_programs_that_fail_or_hang(tmp_path: Path) -> None:
    with pytest.raises(StorageTimeout, match=r"sleep did not end within 0\.2 s"):
        run(["sleep", "1000"], 0.2, "there")
    with pytest.raises(AlreadyThere, match="ended with 3: File exists"):
        run(["sh", "-c", "echo File exists >&2; exit 3"], 10, "there")
    with pytest.raises(StorageError, match="it said nothing"):
        run(["false"], 10, "there")
    # What it has started ends with it, even if it holds the pipes open.
    begun = time.monotonic()
    with pytest.raises(StorageTimeout):
        run(["sh", "-c", "sleep 1000 & sleep 1000"], 0.2, "there")
    assert time.monotonic() - begun < 100
