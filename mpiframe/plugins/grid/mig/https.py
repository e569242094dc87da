"""A MiG server over https, with the user's certificate, as its own clients speak to it.

POST <server>/cgi-bin/X.py with `output_format=txt&...`, GET <server>/cert_redirect/PATH for a file, and
CERTPUT <server>/PATH to bring one, with a Content-Type that says what is to be done with it.
"""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import ssl
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

import httpx
from cryptography import x509

from mpiframe.plugins.grid.mig import replies, states
from mpiframe.plugins.grid.mig.errors import (
    CLIENT_ERROR,
    FILE_NOT_FOUND,
    NO_SUCH_JOB,
    MigLocalError,
    MigServerError,
    MigUnknownJobIdError,
)
from mpiframe.plugins.grid.mig.server import Upload
from mpiframe.plugins.grid.mig.settings import Settings

_PIECE = 1 << 20
_FIRST_POLL_SECONDS = 1.0
_LONGEST_POLL_SECONDS = 60.0
_NO_CERTPUT = (
    "the server does not take uploads by CERTPUT ({}). Servers that run on Python 3 cannot: "
    "bring the files and the job there by its web pages, or ask its administrators"
)


class HttpsServer:
    """Jobs and files of a user at a MiG server.

    settings: None reads ~/.mig/miguser.conf. Raises MigLocalError for settings, certificates and passwords
    that cannot be used; nothing is asked yet.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings.read()
        self._client = httpx.Client(
            base_url=self.settings.server,
            verify=_context(self.settings),
            timeout=httpx.Timeout(self.settings.max_time, connect=self.settings.connect_timeout),
            trust_env=False,
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def test(self) -> None:
        """Raise unless the server answers and knows the certificate."""
        self._ask("ls", path=["."])

    # -- jobs ------------------------------------------------------------------------------------

    def submit(self, text: str, uploads: Sequence[Upload], name: str) -> str:
        """Send a job with its files in one package; its id. What is left of the package is deleted."""
        stem = f"{name or 'gridjob'}_{secrets.token_hex(8)}"
        with self._package(text, uploads, stem) as package:
            found = self._put(package, f"{stem}.tar.gz", "submitandextract")
        for left in (f"{stem}.tar.gz", f"{stem}.mRSL"):
            with contextlib.suppress(MigServerError):  # the job is there in any case
                self.remove(left)
        jobs = [one for one in found if one.get("object_type") == "submitstatus" and one.get("job_id")]
        refused = [str(one.get("message", one)) for one in found if one.get("status") is False]
        if refused or not jobs:
            raise MigServerError(f"the server did not take the job: {'; '.join(refused) or found}")
        return str(jobs[-1]["job_id"])

    @contextlib.contextmanager
    def _package(self, text: str, uploads: Sequence[Upload], stem: str) -> Iterator[str]:
        with tempfile.TemporaryDirectory(prefix="gridjob_") as folder:
            path = os.path.join(folder, f"{stem}.tar.gz")
            try:
                with tarfile.open(path, "w:gz") as archive:
                    content = text.encode()
                    entry = tarfile.TarInfo(f"{stem}.mRSL")
                    entry.size, entry.mtime, entry.mode = len(content), int(time.time()), 0o600
                    archive.addfile(entry, io.BytesIO(content))
                    for one in uploads:
                        archive.add(os.path.realpath(one.path), one.name, recursive=False)
            except OSError as error:
                raise MigLocalError(f"the job's files cannot be packed: {error}") from error
            yield path

    def info(self, job_id: str) -> dict[str, str]:
        """What the server tells of a job."""
        found = replies.job_fields(self._ask_job("jobstatus", job_id))
        if "STATUS" not in found:
            raise MigUnknownJobIdError(f"the server tells nothing of a job {job_id!r}", NO_SUCH_JOB)
        return {"ID": job_id, **found}

    def cancel(self, job_id: str) -> None:
        """End a job."""
        self._ask_job("jobaction", job_id, action=["cancel"])

    def wait(self, job_id: str, seconds: float | None) -> bool:
        """Until a job has ended; whether it has. The server is asked at growing intervals: it cannot tell."""
        limit = None if seconds is None else time.monotonic() + seconds
        pause, quiet = _FIRST_POLL_SECONDS, threading.Event()
        while self.info(job_id)["STATUS"] not in states.ENDED:
            left = pause if limit is None else limit - time.monotonic()
            if left <= 0:
                return False
            quiet.wait(min(pause, left))
            pause = min(1.5 * pause, _LONGEST_POLL_SECONDS)
        return True

    def _ask_job(self, script: str, job_id: str, **values: list[str]) -> bytes:
        if not job_id or any(letter in job_id for letter in "*?[]/\0"):
            raise MigUnknownJobIdError(f"{job_id!r} is no job's id", CLIENT_ERROR)
        try:
            return self._ask(script, job_id=[job_id], **values)
        except MigServerError as error:
            if error.error_code == NO_SUCH_JOB or "matching job" in error.msg:
                raise MigUnknownJobIdError(error.msg, error.error_code) from error
            if error.error_code == CLIENT_ERROR and script == "jobstatus":
                raise MigUnknownJobIdError(error.msg, error.error_code) from error
            raise

    # -- files -----------------------------------------------------------------------------------

    def upload(self, path: str, destination: str) -> None:
        """Send a file."""
        self._put(path, destination, "")

    def download(self, path: str, destination: str) -> None:
        """Fetch a file."""
        target = os.path.abspath(destination)
        part = f"{target}.{secrets.token_hex(4)}.part"
        try:
            with self._stream("GET", f"/cert_redirect/{quote(path.lstrip('/'))}") as response:
                if response.status_code == 404:
                    raise MigServerError(f"{path}: No such file or directory", FILE_NOT_FOUND)
                _check(response, f"{path} cannot be fetched")
                os.makedirs(os.path.dirname(target), exist_ok=True)
                with open(part, "wb") as file:
                    for piece in response.iter_bytes(_PIECE):
                        file.write(piece)
            os.replace(part, target)
        except OSError as error:
            raise MigLocalError(f"{path} cannot be written to {destination}: {error}") from error
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(part)

    def cat(self, path: str) -> bytes:
        """What is in a file."""
        return self._ask("cat", path=[path])

    def ls(self, path: str) -> list[str]:
        """The names in a folder."""
        lines = self._ask("ls", path=[path]).decode("utf-8", "replace").splitlines()
        return [line.strip() for line in lines if line.strip()]

    def exists(self, path: str) -> bool:
        """Whether there is such a file or folder."""
        try:
            self._ask("ls", path=[path])
        except MigServerError as error:
            if error.error_code == FILE_NOT_FOUND:
                return False
            raise
        return True

    def mkdir(self, path: str) -> None:
        """Make a folder."""
        self._ask("mkdir", path=[path])

    def remove(self, path: str) -> None:
        """Delete a file."""
        self._ask("rm", path=[path])

    def rmdir(self, path: str) -> None:
        """Delete an empty folder."""
        self._ask("rmdir", path=[path])

    # -- the protocol ----------------------------------------------------------------------------

    def _ask(self, script: str, **values: list[str]) -> bytes:
        """Run one of the server's scripts; its answer without the code and the titles."""
        form: dict[str, Any] = {"output_format": "txt", **values}
        with self._stream("POST", f"/cgi-bin/{script}.py", data=form) as response:
            _check(response, f"{script} did not succeed")
            code, description, rest = replies.parse(_read(response))
        if code:
            said = replies.message(rest) or description or replies.MEANINGS.get(code, "")
            raise MigServerError(f"{script}: {said}", code)
        return replies.without_titles(rest)

    def _put(self, path: str, destination: str, kind: str) -> list[dict[str, Any]]:
        try:
            with open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                headers = {"Content-Length": str(size), **({"Content-Type": kind} if kind else {})}
                url = f"/{quote(destination.lstrip('/'))}"
                with self._stream("CERTPUT", url, content=_pieces(file), headers=headers) as response:
                    if response.status_code in (405, 500, 501):
                        raise MigServerError(_NO_CERTPUT.format(f"HTTP status {response.status_code}"))
                    _check(response, f"{path} cannot be sent")
                    return replies.submitted(_read(response))
        except OSError as error:
            raise MigLocalError(f"{path} cannot be read: {error}") from error

    @contextlib.contextmanager
    def _stream(self, method: str, url: str, **options: Any) -> Iterator[httpx.Response]:
        try:
            with self._client.stream(method, url, **options) as response:
                yield response
        except httpx.HTTPError as error:
            raise self._explained(error) from error

    def _explained(self, error: httpx.HTTPError) -> MigServerError:
        """What went wrong on the way, by what it means for the user."""
        text, server = str(error) or type(error).__name__, self.settings.server
        if "CERTIFICATE_VERIFY_FAILED" in text:
            why = text.partition("CERTIFICATE_VERIFY_FAILED]")[2].partition(" (_ssl")[0]
            why = why.replace("certificate verify failed", "").strip(" :.")
            return MigServerError(
                f"the certificate of {server} cannot be trusted: {why}. If its authority is not one of the "
                "system's, name a file with it as cacertfile in miguser.conf"
            )
        mine = self.settings.certificate
        if "certificate expired" in text or "CERTIFICATE_EXPIRED" in text:
            return MigServerError(f"{server} says that your certificate {mine} has expired", 104)
        if "ALERT" in text.upper():
            return MigServerError(f"{server} does not accept your certificate {mine}: {text}", 104)
        if isinstance(error, httpx.TimeoutException):
            return MigServerError(f"{server} does not answer ({type(error).__name__})")
        if not isinstance(error, httpx.ConnectError):
            return MigServerError(f"{server} broke off ({text}); it may not accept your certificate {mine}")
        return MigServerError(f"{server} cannot be reached: {text}")


def _context(settings: Settings) -> ssl.SSLContext:
    """TLS with the user's certificate. Raises MigLocalError."""
    authority = settings.authority
    if authority is not None and not os.path.isfile(authority):
        raise MigLocalError(f"there is no file {authority} with the server's authority (cacertfile)")
    try:
        context = ssl.create_default_context(cafile=authority)
    except ssl.SSLError as error:
        raise MigLocalError(f"{authority} holds no certificate of an authority: {error}") from error
    if settings.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    for path in (settings.certificate, settings.key):
        if not os.path.isfile(path):
            raise MigLocalError(f"there is no file {path} (certfile and keyfile in miguser.conf)")
    _refuse_expired(settings.certificate)
    asked = []

    def password() -> str:
        # Always given: without it, OpenSSL would ask on the terminal, and wait there.
        asked.append(True)
        return settings.password or ""

    try:
        context.load_cert_chain(settings.certificate, settings.key, password)
    except (ssl.SSLError, OSError, ValueError) as error:
        if asked:
            what = "is wrong" if settings.password else "is missing (`password` in miguser.conf)"
            raise MigLocalError(f"the password of the key {settings.key} {what}") from None
        raise MigLocalError(
            f"the certificate {settings.certificate} and the key {settings.key} cannot be used: {error}"
        ) from error
    return context


def _refuse_expired(path: str) -> None:
    """A server that is shown an expired certificate as a rule just breaks off: it is told here, and why."""
    try:
        with open(path, "rb") as file:
            end = x509.load_pem_x509_certificate(file.read()).not_valid_after_utc
    except (OSError, ValueError) as error:
        raise MigLocalError(f"{path} holds no certificate that can be read: {error}") from error
    if end.timestamp() < time.time():
        raise MigLocalError(f"your certificate {path} expired on {end:%Y-%m-%d %H:%M} UTC: get a new one")


def _check(response: httpx.Response, what: str) -> None:
    status = response.status_code
    if status == 200:
        return
    if status in (401, 403):
        raise MigServerError(f"{what}: the server does not allow it (HTTP status {status})", status)
    if 300 <= status < 400:  # not followed: the certificate is for this server alone
        where = response.headers.get("location", "elsewhere")
        raise MigServerError(f"{what}: the server sends us to {where}; name that as migserver")
    raise MigServerError(f"{what}: HTTP status {status} {response.reason_phrase}", status)


def _read(response: httpx.Response) -> bytes:
    return b"".join(response.iter_bytes())


def _pieces(file: Any) -> Iterator[bytes]:
    while piece := file.read(_PIECE):
        yield piece
