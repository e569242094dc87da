"""Requests to a computing element over httpx, with what goes wrong said in our words.

httpx and not PyPI's pyarcrest 0.5 (January 2025, its last): that one does not verify the element's
certificate, writes requests with their bearer tokens to its log, sends a submission again when the connection
breaks (two jobs), fills default arguments that it goes on to share between calls, and needs the compiled
`arc` module to submit, which is on no package index.
"""

from __future__ import annotations

import contextlib
import json
import ssl
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx

from mpiframe.plugins.grid.arc.credentials import Credentials
from mpiframe.plugins.grid.arc.errors import ArcDown, ArcError, ArcRefused, CredentialError

VERSIONS = ("1.1", "1.0")
"""Those of the interface that we speak, the best one first."""
_CONNECT_TRIES = 2
_SHOWN = 300


class Connection:
    """To one element. `url` is such as https://ce.example.org/arex; `https` and `/arex` may be left out."""

    def __init__(self, url: str, credentials: Credentials | None, timeout_seconds: float) -> None:
        self.credentials = credentials if credentials is not None else Credentials.find()
        self.url = _complete(url)
        self.host = urlsplit(self.url).netloc
        transport = httpx.HTTPTransport(verify=self.credentials.context(), retries=_CONNECT_TRIES)
        self._http = httpx.Client(
            transport=transport, timeout=timeout_seconds, headers={"Accept": "application/json"}
        )
        self._version = ""

    def close(self) -> None:
        """End the connections."""
        self._http.close()

    @property
    def version(self) -> str:
        """The best version that the element and we speak."""
        if not self._version:
            answer = self._send("GET", f"{self.url}/rest", (200,))
            found = read_json(answer).get("version")
            offered = [str(one) for one in (found if isinstance(found, list) else [found])]
            for version in VERSIONS:
                if version in offered:
                    self._version = version
                    break
            else:
                raise ArcRefused(
                    f"{self.host} speaks {', '.join(offered)} of the interface, we {', '.join(VERSIONS)}"
                )
        return self._version

    def request(
        self,
        method: str,
        path: str,
        expected: Iterable[int],
        *,
        params: Mapping[str, str] | None = None,
        content: str | bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """The whole answer. Raises ArcError: of the kind that fits what happened."""
        return self._send(method, self._path(path), expected, params, content, headers)

    @contextlib.contextmanager
    def stream(self, path: str, start: int = 0) -> Iterator[httpx.Response]:
        """The answer to GET, to be read in pieces. Raises ArcError."""
        headers = {"Accept": "*/*", **self._authorization()}
        if start:
            headers["Range"] = f"bytes={start}-"
        address = self._path(path)
        with self._errors("GET", address), self._http.stream("GET", address, headers=headers) as answer:
            if answer.status_code not in (200, 206):
                answer.read()
                self._refuse("GET", answer)
            yield answer

    def _path(self, path: str) -> str:
        return f"{self.url}/rest/{self.version}{path}"

    def _authorization(self) -> dict[str, str]:
        token = self.credentials.bearer()
        return {"Authorization": f"Bearer {token}"} if token else {}

    def _send(
        self,
        method: str,
        address: str,
        expected: Iterable[int],
        params: Mapping[str, str] | None = None,
        content: str | bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        def ask() -> httpx.Response:
            shown = {**(headers or {}), **self._authorization()}
            return self._http.request(method, address, params=params, content=content, headers=shown)

        with self._errors(method, address):
            try:
                answer = ask()
            except httpx.RemoteProtocolError:
                # It hung up. That may be how a certificate is turned away, before the reason could be read;
                # to read something again does no harm.
                if method != "GET":
                    raise
                answer = ask()
        if answer.status_code not in expected:
            self._refuse(method, answer)
        return answer

    def _refuse(self, method: str, answer: httpx.Response) -> None:
        said = " ".join(filter(None, (answer.reason_phrase, answer.text[:_SHOWN].strip())))
        what = f"{self.host} answered {answer.status_code} ({said}) to {method} {answer.request.url.path}"
        if answer.status_code in (401, 403):
            raise CredentialError(f"{what}: it does not let {self._who()} do this")
        raise ArcRefused(what, answer.status_code, said)

    def _who(self) -> str:
        if not self.credentials.certificate:
            return "the owner of this token"
        return self.credentials.chain()[0].subject.rfc4514_string()

    @contextlib.contextmanager
    def _errors(self, method: str, address: str) -> Iterator[None]:
        try:
            yield
        except httpx.TimeoutException as error:
            raise ArcDown(f"{self.host} did not answer {method} {address} in time: {_text(error)}") from error
        except httpx.HTTPError as error:
            if (tls := _tls_error(error)) is None:
                raise ArcDown(f"{self.host} cannot be reached, or hung up: {_text(error)}") from error
            if isinstance(tls, ssl.SSLCertVerificationError):
                trusted = self.credentials.authorities or "the system's authorities"
                raise CredentialError(
                    f"{self.host} is not who it says, or its authority is not in {trusted}: "
                    f"{tls.verify_message}"
                ) from error
            if "ALERT" in (tls.reason or ""):
                raise CredentialError(
                    f"{self.host} does not accept certificate {self.credentials.certificate or '(none)'}: "
                    f"{tls.reason}; does it know the authority that signed it?"
                ) from error
            raise ArcDown(f"{self.host}: the secure connection broke: {tls}") from error


def read_json(answer: httpx.Response) -> dict[str, Any]:
    """The object in an answer; an empty answer, which 1.0 gives for an empty list, is an empty object."""
    if not answer.content.strip():
        return {}
    try:
        found = json.loads(answer.content)
    except (ValueError, RecursionError) as error:
        raise ArcError(f"{answer.request.url} gave no JSON: {answer.text[:_SHOWN]!r}") from error
    if not isinstance(found, dict):
        raise ArcError(f"{answer.request.url} gave no JSON object: {answer.text[:_SHOWN]!r}")
    return found


def _complete(url: str) -> str:
    text = url if "://" in url else f"https://{url}"
    parts = urlsplit(text)
    if parts.scheme != "https" or not parts.hostname or parts.username is not None:
        raise ArcError(f"{url!r} is no element: something like https://ce.example.org:443/arex")
    path = parts.path.rstrip("/").partition("/rest")[0]
    return f"https://{parts.netloc}{path or '/arex'}"


def _tls_error(error: BaseException) -> ssl.SSLError | None:
    """The TLS library's own error, which httpx has below one or two of its own."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLError):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


def _text(error: Exception) -> str:
    return str(error) or type(error).__name__
