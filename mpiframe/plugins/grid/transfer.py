"""Single files to and from storage: file, https and WebDAV, gsiftp and srm, XRootD.

upload("prefactor.tar", "https://webdav.example.org/sandbox/prefactor.tar", token=Secret(macaroon))
download("https://webdav.example.org/sandbox/prefactor.tar", "prefactor.tar")

https is spoken here; gsiftp by `globus-url-copy`, XRootD by `xrdcp`, and whatever else, or where these
programs are missing, by gfal2. Programs get no token on their command line: they find proxies themselves.
A file is written beside its place and moved there when it is whole.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit, urlunsplit

from mpiframe.launcher.environment import scrub_environment
from mpiframe.plugins.grid.credentials import Secret
from mpiframe.plugins.grid.error_codes import ErrorCode
from mpiframe.plugins.grid.gfal import BearerToken, Gfal
from mpiframe.plugins.grid.storage_errors import (
    AccessDenied,
    AlreadyThere,
    ConfigError,
    DiskFull,
    MissingTool,
    NoParent,
    NoSuchFile,
    NotWhole,
    SandboxEmpty,
    StorageDown,
    StorageError,
    StorageTimeout,
    coded,
    of_disk,
    shown,
)
from mpiframe.plugins.grid.web import Web, check_secret

SECONDS = 3600.0
MAX_BYTES = 20 << 30
_CHUNK = 1 << 20
_WEB = {"http": "http", "https": "https", "dav": "http", "davs": "https"}
_PROGRAMS = {"gsiftp": "globus-url-copy", "root": "xrdcp", "roots": "xrdcp", "xroot": "xrdcp"}
_PACKAGES = {"globus-url-copy": "globus-gass-copy-progs", "xrdcp": "xrootd-client"}
_OTHERS = ("srm",)
SCHEMES = ("file", *_WEB, *_PROGRAMS, *_OTHERS)
_IN_QUERY = ("authz", "access_token")
_TOLD = 500
_SAID: dict[str, type[StorageError]] = {
    "file exists": AlreadyThere,
    "no such file": NoSuchFile,
    "no space left": DiskFull,
    "quota": DiskFull,
    "permission denied": AccessDenied,
    "not authorized": AccessDenied,
    "login incorrect": AccessDenied,
    "credential": AccessDenied,
    "authentication": AccessDenied,
    "connection refused": StorageDown,
    "unable to connect": StorageDown,
}
"""What programs say, and what that is here."""
_UPLOADS: dict[type[StorageError], ErrorCode] = {
    AlreadyThere: ErrorCode.FILE_EXISTS,
    DiskFull: ErrorCode.POOLS_FULL,
    NoParent: ErrorCode.PARENT_MISSING,
}


@coded(ErrorCode.UPLOAD_FAILED, _UPLOADS)
def upload(
    path: str | os.PathLike[str],
    url: str,
    *,
    token: Secret | None = None,
    overwrite: bool = False,
    seconds: float = SECONDS,
    certificate: str | None = None,
    ca: str | None = None,
) -> int:
    """Copy a file of this host to storage; its size in bytes. Folders on the way are made.

    token: a bearer token or macaroon, sent to the url's host only, and encrypted. certificate, ca: as for
    `web.ssl_context`. Raises AlreadyThere unless `overwrite`, AccessDenied, DiskFull, MissingTool, ...
    """
    name = os.fspath(path)
    url, token = _without_secret(url, token)
    scheme = _scheme(url)
    try:
        size = os.path.getsize(name)
    except OSError as error:
        with coded(ErrorCode.NOTHING_TO_UPLOAD, {}):
            raise of_disk(error, name) from None
    if scheme == "file":
        target = _local(url)
        if not overwrite and os.path.lexists(target):
            raise AlreadyThere(f"{target} is there already")
        try:
            os.makedirs(os.path.dirname(target) or ".", exist_ok=True)
            with open(name, "rb") as source:
                _write(iter(lambda: source.read(_CHUNK), b""), target, None, name)
        except OSError as error:
            raise of_disk(error, error.filename or target) from None
    elif scheme in _WEB:
        with _Dav(url, token, seconds, certificate, ca) as dav:
            dav.put(name, size, overwrite)
    else:
        _by_program(scheme, name, url, token, overwrite, seconds, sends=True)
    return size


@coded(ErrorCode.DOWNLOAD_FAILED, {})
def download(
    url: str,
    path: str | os.PathLike[str],
    *,
    token: Secret | None = None,
    size: int | None = None,
    max_bytes: int = MAX_BYTES,
    seconds: float = SECONDS,
    certificate: str | None = None,
    ca: str | None = None,
) -> int:
    """Copy a file from storage; its size in bytes. What is at `path` is replaced when the new file is whole.

    size: what it has to be. Raises SandboxEmpty for a file of no bytes, NotWhole for one of another size
    than was told, or of more than `max_bytes`; NoSuchFile, AccessDenied, DiskFull, MissingTool, ...
    """
    target = os.fspath(path)
    url, token = _without_secret(url, token)
    scheme = _scheme(url)
    if scheme == "file":
        source = _local(url)
        try:
            with open(source, "rb") as file:
                expected = os.fstat(file.fileno()).st_size if size is None else size
                parts = iter(lambda: file.read(_CHUNK), b"")
                return _write(parts, target, max_bytes, shown(url), expected)
        except OSError as error:
            raise of_disk(error, error.filename or target) from None
    if scheme in _WEB:
        with _Dav(url, token, seconds, certificate, ca) as dav:
            return dav.get(target, size, max_bytes)
    part = f"{target}.part"
    try:
        _by_program(scheme, part, url, token, True, seconds, sends=False)
        got = os.path.getsize(part)
        _check(got, size, shown(url))
        if got > max_bytes:
            raise NotWhole(f"{shown(url)} has {got} bytes, more than the {max_bytes} that are allowed")
        os.replace(part, target)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise of_disk(error, target) from None
    finally:
        if os.path.exists(part):
            os.unlink(part)
    return got


class _Dav:
    """One file on a WebDAV server, or any that takes GET."""

    def __init__(
        self, url: str, token: Secret | None, seconds: float, certificate: str | None, ca: str | None
    ) -> None:
        parts = urlsplit(url)
        self._url = urlunsplit(parts._replace(scheme=_WEB[parts.scheme], path=quote(unquote(parts.path))))
        header = None if token is None else (lambda: f"Bearer {token.reveal()}")
        self._web = Web(self._url, header, call_seconds=seconds, certificate=certificate, ca=ca)

    def __enter__(self) -> _Dav:
        return self

    def __exit__(self, *_: object) -> None:
        self._web.close()

    def put(self, path: str, size: int, overwrite: bool) -> None:
        if not overwrite and self._is_there():
            raise AlreadyThere(f"{shown(self._url)} is there already")

        def body() -> Iterator[bytes]:
            with open(path, "rb") as file:
                yield from iter(lambda: file.read(_CHUNK), b"")

        headers = {"Content-Length": str(size)}
        if not overwrite:
            headers["If-None-Match"] = "*"
        self._make_folders()
        try:
            with self._web.open("PUT", self._url, body=body, headers=headers):
                pass
        except OSError as error:
            if isinstance(error, StorageError):
                raise
            raise of_disk(error, path) from None

    def get(self, target: str, size: int | None, max_bytes: int) -> int:
        # Compressed for the way, its size would not be that which the server tells.
        headers = {"Accept-Encoding": "identity"}
        try:
            with self._web.open("GET", self._url, headers=headers) as response:
                told = response.headers.get("content-length", "")
                expected = size if size is not None else int(told) if told.isdigit() else None
                parts = response.iter_raw(_CHUNK)
                return _write(parts, target, max_bytes, shown(self._url), expected)
        except OSError as error:
            if isinstance(error, StorageError):
                raise
            raise of_disk(error, target) from None

    def _is_there(self) -> bool:
        try:
            with self._web.open("HEAD", self._url):
                return True
        except NoSuchFile:
            return False

    def _make_folders(self) -> None:
        """Make the folders on the way, from the first that is missing on."""
        parts = urlsplit(self._url)
        names = parts.path.split("/")[1:-1]
        missing = []
        while names:
            folder = urlunsplit(parts._replace(path="/" + "/".join(names) + "/", query=""))
            try:
                with self._web.open("HEAD", folder):
                    break
            except NoSuchFile:
                missing.append(folder)
                names.pop()
            except StorageError:
                return  # servers that refuse to talk about folders say at PUT what is wrong
        for folder in reversed(missing):
            try:
                with self._web.open("MKCOL", folder):
                    pass
            except StorageError as error:
                if "HTTP 405" not in str(error):  # somebody else has made it meanwhile
                    raise


def _by_program(
    scheme: str, path: str, url: str, token: Secret | None, overwrite: bool, seconds: float, sends: bool
) -> None:
    """Copy with the scheme's own program, or gfal2."""
    local = f"file://{quote(os.path.abspath(path))}"
    program = _PROGRAMS.get(scheme)
    found = shutil.which(program) if program else None
    if found and token is None and (overwrite or program != "globus-url-copy"):
        if program == "xrdcp":
            words = ["--nopbar", "--silent", *(["--force"] if overwrite else []), "--path"]
            pair = [os.path.abspath(path), url]
        else:
            words = ["-create-dest"]
            pair = [local, url]
        run([found, *words, *(pair if sends else reversed(pair))], seconds, shown(url))
        return
    tokens = [BearerToken(token, url)] if token is not None else []
    with Gfal(call_seconds=seconds, tokens=tokens) as gfal:
        try:
            gfal.copy(local if sends else url, url if sends else local, overwrite=overwrite)
        except MissingTool as error:
            hint = f", or {program} ({_PACKAGES[program]})" if program else ""
            raise MissingTool(f"a copy by {scheme} takes gfal2{hint}: {error}") from None


def run(words: Sequence[str], seconds: float, about: str) -> None:
    """Run a program to its end, or end it and what it has started after `seconds`. Raises StorageError."""
    process = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=scrub_environment(os.environ, purpose="child"),
        start_new_session=True,
    )
    name = os.path.basename(words[0])
    try:
        said, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        raise StorageTimeout(f"{about}: {name} did not end within {seconds:g} s; it has been ended") from None
    finally:
        end(process)
    if process.returncode != 0:
        text = " ".join(said.decode(errors="replace").split())[-_TOLD:]
        kind = next((kind for said_so, kind in _SAID.items() if said_so in text.lower()), StorageError)
        raise kind(f"{about}: {name} ended with {process.returncode}: {text or 'it said nothing'}")


def end(process: subprocess.Popen[Any]) -> None:
    """End a process that leads a session, if it has not, and what it has started; its pipes are closed."""
    if process.poll() is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.communicate()


def _write(
    parts: Iterator[bytes], target: str, most: int | None, source: str, expected: int | None = None
) -> int:
    """Write what comes beside its place, check it, move it there."""
    part = f"{target}.part"
    got = 0
    try:
        with open(part, "wb") as file:
            for data in parts:
                got += len(data)
                if most is not None and got > most:
                    raise NotWhole(f"{source} has more than the {most} bytes that are allowed")
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if most is not None:
            _check(got, expected, source)
        os.replace(part, target)
    finally:
        if os.path.exists(part):
            os.unlink(part)
    return got


def _check(got: int, expected: int | None, source: str) -> None:
    if expected is not None and got != expected:
        raise NotWhole(f"{source}: {got} bytes came, {expected} were announced")
    if got == 0:
        raise SandboxEmpty(f"{source} is empty (0 bytes)")


def _scheme(url: str) -> str:
    scheme = urlsplit(url).scheme if "://" in url else "file"
    if scheme not in SCHEMES:
        raise ConfigError(f"{shown(url)}: no copies by {scheme!r}; there are {', '.join(SCHEMES)}")
    if url.startswith("-"):
        raise ConfigError(f"{url!r} is no url")
    if urlsplit(url).username is not None:
        raise ConfigError(
            f"{shown(url)}: a user or password does not belong into a url; use a token or proxy"
        )
    return scheme


def _local(url: str) -> str:
    if "://" not in url:
        return url
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise ConfigError(f"{url}: a file of another host")
    return unquote(parts.path)


def _without_secret(url: str, token: Secret | None) -> tuple[str, Secret | None]:
    """The url and the token that it may carry in its query, apart: urls are shown, logged, and redirected."""
    parts = urlsplit(url)
    if "://" not in url or not parts.query:
        return url, token
    query = parse_qs(parts.query, keep_blank_values=True)
    for name in _IN_QUERY:
        if name in query:
            token = token or Secret(query.pop(name)[0].removeprefix("Bearer "))
            url = urlunsplit(parts._replace(query=urlencode(query, doseq=True)))
    if token is not None:
        check_secret(url)
    return url, token
