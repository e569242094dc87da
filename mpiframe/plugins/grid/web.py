"""HTTP for stagers and storage: certificates are verified, secrets stay in headers, errors in our words."""

from __future__ import annotations

import ipaddress
import os
import ssl
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from mpiframe.plugins.grid.storage_errors import (
    AccessDenied,
    AlreadyThere,
    ConfigError,
    DiskFull,
    MissingTool,
    NoParent,
    NoSuchFile,
    StorageDown,
    StorageError,
    StorageTimeout,
    shown,
)

if TYPE_CHECKING:
    import httpx

CALL_SECONDS = 60.0
MAX_ANSWER = 64 << 20
"""Bytes of an answer that is no file; more is not read."""
MAX_REDIRECTS = 5
_MOST_OF_A_TEXT = 300

Body = Callable[[], Iterator[bytes]]
"""Makes a body anew for each time it has to be sent: storage redirects uploads to another host."""


def ssl_context(certificate: str | None = None, ca: str | None = None) -> ssl.SSLContext:
    """Verification by the system's authorities, and the grid's where they are installed.

    certificate: a file with a client certificate and its key, or a proxy. ca: a file or folder of
    authorities to trust besides. Raises ConfigError.
    """
    context = ssl.create_default_context()
    grid = os.environ.get("X509_CERT_DIR", "/etc/grid-security/certificates")
    try:
        if os.path.isdir(grid):
            context.load_verify_locations(capath=grid)
        if ca is not None:
            context.load_verify_locations(**{"capath" if os.path.isdir(ca) else "cafile": ca})
        if certificate is not None:
            context.load_cert_chain(certificate)
    except (OSError, ssl.SSLError) as error:
        reason = getattr(error, "reason", None) or error.strerror or error
        raise ConfigError(f"the certificate {certificate or ca} cannot be used: {reason}") from None
    return context


def check_secret(url: str) -> None:
    """A secret is sent by https only, or within this host. Raises ConfigError."""
    parts = urlsplit(url)
    if parts.scheme in ("http", "dav") and not _is_loopback(parts.hostname or ""):
        raise ConfigError(
            f"a token or password is not sent over {shown(url)}, which is not encrypted: use https"
        )


class Web:
    """A client of one or more servers. authorization: the header that goes to `home` and nowhere else.

    `close` closes its connections, as does forgetting it.
    """

    def __init__(
        self,
        home: str = "",
        authorization: Callable[[], str] | None = None,
        *,
        call_seconds: float = CALL_SECONDS,
        certificate: str | None = None,
        ca: str | None = None,
    ) -> None:
        if authorization is not None:
            check_secret(home)
        self._home = _origin(home)
        self._authorization = authorization
        self._httpx = _httpx()
        self._client: httpx.Client = self._httpx.Client(
            timeout=self._httpx.Timeout(call_seconds, pool=None), verify=ssl_context(certificate, ca)
        )

        self.close = weakref.finalize(self, self._client.close)

    def read(
        self,
        method: str,
        url: str,
        *,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        """A whole answer, not larger than MAX_ANSWER. Raises StorageError for all but 2xx."""
        body = None if content is None else (lambda: iter([content]))
        length = {} if content is None else {"Content-Length": str(len(content))}
        with self.open(method, url, body=body, headers={**(headers or {}), **length}) as response:
            return _read(response, url)

    @contextmanager
    def open(
        self,
        method: str,
        url: str,
        *,
        body: Body | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[httpx.Response]:
        """An answer to be read in parts. Redirects are followed, without the secret to another host."""
        first = url
        with self._errors(first):
            for _ in range(MAX_REDIRECTS + 1):
                sent = dict(headers or {})
                if self._authorization is not None and _origin(url) == self._home:
                    sent["Authorization"] = self._authorization()
                content = None if body is None else body()
                with self._client.stream(method, url, headers=sent, content=content) as response:
                    if not response.is_redirect:
                        _check(response, first)
                        yield response
                        return
                    target = urljoin(url, response.headers["location"])
                    if urlsplit(url).scheme == "https" and urlsplit(target).scheme != "https":
                        raise StorageDown(
                            f"{shown(first)} redirects to {shown(target)}, which is not encrypted"
                        )
                    url = target
                    if response.status_code == 303 or (
                        response.status_code in (301, 302) and method == "POST"
                    ):
                        method, body, headers = "GET", None, None
        raise StorageDown(f"{shown(first)} redirects more than {MAX_REDIRECTS} times")

    @contextmanager
    def _errors(self, url: str) -> Iterator[None]:
        httpx = self._httpx
        try:
            yield
        except httpx.TimeoutException as error:
            raise StorageTimeout(f"{shown(url)} does not answer: {type(error).__name__}") from None
        except httpx.TransportError as error:
            raise StorageDown(f"{shown(url)} cannot be reached: {_reason(error)}") from None
        except (httpx.InvalidURL, httpx.DecodingError) as error:
            raise StorageError(f"{shown(url)}: {error}") from None


def _reason(error: BaseException) -> str:
    """What is below an error of httpx: a certificate that is not trusted, say."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLCertVerificationError):
            return f"its certificate is not valid: {seen.verify_message}"
        seen = seen.__cause__ or seen.__context__
    return str(error) or type(error).__name__


def _check(response: httpx.Response, url: str) -> None:
    status = response.status_code
    if 200 <= status < 300:
        return
    known: dict[int, tuple[type[StorageError], str]] = {
        401: (AccessDenied, "the token or password is not accepted"),
        403: (AccessDenied, "this is not allowed with this token or password"),
        404: (NoSuchFile, "there is no such thing"),
        409: (NoParent, "a folder on the way to it is missing, or somebody else is changing it"),
        410: (NoSuchFile, "it is there no more"),
        412: (AlreadyThere, "there is such a file already"),
        413: (DiskFull, "it is too large for the server"),
        429: (StorageDown, "the server has been asked too often"),
        507: (DiskFull, "the storage is full"),
    }
    kind, text = known.get(status, (StorageDown if status >= 500 else StorageError, "the server refuses"))
    said = "" if status in (401, 403) else _excerpt(response)
    raise kind(f"{shown(url)}: {text} (HTTP {status}{said})")


def _excerpt(response: httpx.Response) -> str:
    """The first words of what the server says, if it is text that is not a page for people."""
    if not response.headers.get("content-type", "").startswith(("text/plain", "application/json")):
        return ""
    data = next(response.iter_bytes(_MOST_OF_A_TEXT), b"")
    text = " ".join(data.decode(errors="replace").split())
    return f": {text[:_MOST_OF_A_TEXT]}" if text else ""


def _read(response: httpx.Response, url: str) -> bytes:
    parts, held = [], 0
    for part in response.iter_bytes():
        held += len(part)
        if held > MAX_ANSWER:
            raise StorageError(f"{shown(url)}: the answer has more than {MAX_ANSWER} bytes")
        parts.append(part)
    return b"".join(parts)


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _httpx() -> Any:
    try:
        import httpx
    except ImportError:
        raise MissingTool("that takes the package httpx: pip install mpiframe[grid]") from None
    return httpx
