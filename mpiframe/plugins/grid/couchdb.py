"""One CouchDB database over HTTP: the ten end points that tokens need.

On httpx, because it is the best kept of what there is: `couchdb` and `cloudant` are no longer maintained,
`aiocouch` brings an event loop, IBM's SDK 22,000 lines and Python 3.11. httpx checks certificates, keeps
connections, streams both ways, and hides the Authorization header in its representations.

Production is CouchDB 3; the tests also run on pouchdb-server, so only what both do is used: revisions in the
document or `?rev=`, never `If-Match`.
"""

from __future__ import annotations

import email.utils
import json
import os
import ssl
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from mpiframe.plugins.grid.credentials import Credentials, split_url, with_url
from mpiframe.plugins.grid.errors import (
    AttachmentError,
    Conflict,
    CredentialsError,
    DatabaseDown,
    DatabaseError,
    GridError,
    NotAllowed,
    NotFound,
)

if TYPE_CHECKING:
    import httpx

_RETRIES = 3
_FIRST_WAIT_SECONDS = 0.2  # doubled each time
_IDLE_SECONDS = 4.0  # less than what servers keep an idle connection for
_LONG_SECONDS = 600.0  # until a server that got gigabytes has put them away
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Row:
    """One row of a view. doc is None unless asked for, or if the document is gone."""

    id: str
    key: Any
    value: Any
    doc: dict[str, Any] | None = None


@dataclass(frozen=True)
class Saved:
    """What became of one document of many: its new revision, or why it has none."""

    id: str
    rev: str = ""
    error: str = ""
    reason: str = ""


class Database:
    """A database on a server. May be used by several threads; connects when it is first asked something.

    Parameters
    ----------
    name: the database. url: of the server; user and password in it are taken out.
    credentials: None finds those of this user.
    verify: whether to check the server's certificate, or the path of the authorities to check it by.
    timeout_seconds: for an answer to begin, and between two pieces of it.
    """

    def __init__(
        self,
        name: str | None = None,
        url: str | None = None,
        credentials: Credentials | None = None,
        *,
        verify: bool | str = True,
        timeout_seconds: float = 30.0,
    ) -> None:
        _, user, password = split_url(url or "")
        if credentials is None and user is not None and password is not None:
            credentials = Credentials(user, password)
        self._credentials = credentials if credentials is not None else Credentials.find()
        if url or self._credentials.url:
            self._credentials = with_url(self._credentials, url or self._credentials.url)
        self.name = name or self._credentials.database
        self.url = self._credentials.url
        for what, value, variable in (("database", self.name, "DB"), ("url", self.url, "URL")):
            if not value:
                raise CredentialsError(f"no {what} is given, and neither file nor PICAS_{variable} names one")
        if urlsplit(self.url).scheme not in ("http", "https"):
            raise CredentialsError(f"{self.url!r} is no http or https URL")
        self._verify = verify
        self._timeout = timeout_seconds
        self._client: httpx.Client | None = None
        self._lock = threading.Lock()
        self._offset: float | None = None

    def __repr__(self) -> str:
        return f"<Database {self.name!r} at {self.url} as {self._credentials.user!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (self.name, self._credentials, self._verify, self._timeout)

    @property
    def credentials(self) -> Credentials:
        """Who asks, and where."""
        return self._credentials

    def close(self) -> None:
        """Close the connections; the next question opens them again."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    # -- the database ------------------------------------------------------------------------------

    def exists(self) -> bool:
        """Whether it is there. Raises DatabaseDown, NotAllowed."""
        try:
            self._ask("GET", "")
        except NotFound:
            return False
        return True

    def create(self) -> None:
        """Make it, unless it is there already."""
        try:
            self._ask("PUT", "", safe=True)
        except DatabaseError as error:
            if error.status != 412:
                raise

    def drop(self) -> None:
        """Delete it with all it holds."""
        self._ask("DELETE", "")

    def now(self) -> float:
        """The server's time, in seconds since 1970, so that hosts need not agree on theirs; within a second.

        As of the last answer, carried on by this host's monotonic clock.
        """
        if self._offset is None:
            self._ask("GET", "")
        return time.monotonic() + (self._offset or 0.0)

    # -- documents ---------------------------------------------------------------------------------

    def get(self, id: str, **params: Any) -> dict[str, Any]:
        """A document; params as CouchDB has them. Raises NotFound."""
        given = {name: _param(name, value) for name, value in params.items()}
        found: dict[str, Any] = self._ask("GET", _path(id), params=given)
        return found

    def __contains__(self, id: str) -> bool:
        try:
            self._ask("GET", _path(id))
        except NotFound:
            return False
        return True

    def get_many(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Those of these documents that are there."""
        if not ids:
            return {}
        body = {"keys": list(ids)}
        answer = self._ask("POST", "_all_docs", body, params={"include_docs": "true"}, safe=True)
        docs = [row.get("doc") for row in answer["rows"] if "error" not in row]
        return {doc["_id"]: doc for doc in docs if doc}

    def put(self, doc: Mapping[str, Any]) -> str:
        """Save a document; its new revision. Raises Conflict."""
        rev: str = self._ask("PUT", _path(doc["_id"]), doc)["rev"]
        return rev

    def put_many(self, docs: Sequence[Mapping[str, Any]]) -> list[Saved]:
        """Save many; what became of each, in their order. A conflict raises nothing."""
        if not docs:
            return []
        answers = self._ask("POST", "_bulk_docs", {"docs": list(docs)})
        by_id = {one.get("id"): one for one in answers}  # a server may leave the order
        return [
            Saved(doc["_id"], one.get("rev", ""), one.get("error", ""), one.get("reason", ""))
            for doc in docs
            for one in (by_id.get(doc["_id"]) or {"error": "unanswered"},)
        ]

    def delete(self, id: str, rev: str) -> None:
        """Delete a document. Raises Conflict, NotFound."""
        self._ask("DELETE", _path(id), params={"rev": rev})

    def view(self, design: str, view: str, keys: Sequence[Any] | None = None, **params: Any) -> list[Row]:
        """The rows of a view; params as CouchDB has them, as Python values. Raises NotFound."""
        path = f"_design/{quote(design, safe='')}/_view/{quote(view, safe='')}"
        given = {name: _param(name, value) for name, value in params.items()}
        try:
            if keys is None:
                answer = self._ask("GET", path, params=given)
            else:
                answer = self._ask("POST", path, {"keys": list(keys)}, params=given, safe=True)
        except NotFound:
            raise NotFound(self._no_view(design, view), 404) from None
        return [
            Row(row.get("id", ""), row.get("key"), row.get("value"), row.get("doc")) for row in answer["rows"]
        ]

    def _no_view(self, design: str, view: str) -> str:
        try:
            there = self.get(f"_design/{design}").get("views", {})
        except NotFound as error:
            what = f"there is no design document {design!r}" if self.exists() else str(error)
            return f"{what}, so no view {view!r}"
        return f"{design!r} has no view {view!r}; it has {', '.join(sorted(there)) or 'none'}"

    # -- attachments -------------------------------------------------------------------------------

    def put_attachment(
        self, id: str, rev: str, name: str, content: Iterable[bytes], length: int, content_type: str
    ) -> str:
        """Store an attachment piece by piece; the document's new revision. Raises Conflict."""
        headers = {"Content-Type": content_type, "Content-Length": str(length)}
        path = f"{_path(id)}/{quote(name)}"
        checked = _of_length(content, length, name)
        answer = self._ask("PUT", path, params={"rev": rev} if rev else {}, content=checked, headers=headers)
        new: str = answer["rev"]
        return new

    def delete_attachment(self, id: str, rev: str, name: str) -> str:
        """Delete an attachment; the document's new revision. Raises Conflict, NotFound."""
        new: str = self._ask("DELETE", f"{_path(id)}/{quote(name)}", params={"rev": rev})["rev"]
        return new

    @contextmanager
    def attachment(self, id: str, name: str) -> Iterator[Iterator[bytes]]:
        """The pieces of an attachment, as they come. Raises NotFound; DatabaseDown if it breaks off."""
        client, errors = self._open(), _httpx()
        path = f"{_path(id)}/{quote(name)}"
        try:
            with client.stream("GET", self._url(path), timeout=self._long()) as answer:
                if answer.status_code != 200:
                    answer.read()
                    raise self._refusal(answer, "GET", path)
                yield answer.iter_bytes(_CHUNK)
        except errors.TransportError as error:
            raise self._down("GET", path, error) from None

    # -- how it is asked ---------------------------------------------------------------------------

    def _ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        params: Mapping[str, str] | None = None,
        content: Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        safe: bool = False,
    ) -> Any:
        """The answer. safe: asked twice is as good as asked once, so it is asked again if it breaks off."""
        errors = _httpx()
        safe = safe or method == "GET"
        timeout: Any = self._timeout
        data: Any = content
        given = dict(headers or {})
        if body is not None:
            data = json.dumps(body, default=plain, allow_nan=False).encode()
            given["Content-Type"] = "application/json"
        elif content is not None:
            timeout = self._long()
        for attempt in range(_RETRIES + 1):
            last = attempt == _RETRIES
            try:
                answer = self._open().request(
                    method, self._url(path), params=params, content=data, headers=given, timeout=timeout
                )
            except (errors.ConnectError, errors.ConnectTimeout) as error:  # nothing was sent
                if last or content is not None or "CERTIFICATE" in str(error):
                    raise self._down(method, path, error) from None
            except errors.TransportError as error:
                if last or not safe:
                    raise self._down(method, path, error) from None
            else:
                self._note_time(answer.headers.get("Date"))
                if answer.status_code < 300:
                    return answer.json()
                if answer.status_code not in (502, 503, 504) or last or not safe:
                    raise self._refusal(answer, method, path)
            threading.Event().wait(_FIRST_WAIT_SECONDS * 2**attempt)
        raise AssertionError("the last attempt returns or raises")

    def _open(self) -> httpx.Client:
        with self._lock:
            if self._client is None:
                library = _httpx()
                who = self._credentials
                loopback = urlsplit(self.url).hostname in ("localhost", "127.0.0.1", "::1")
                self._client = library.Client(
                    auth=library.BasicAuth(who.user, who.password.reveal()) if who.user else None,
                    verify=_authorities(self._verify),
                    timeout=self._timeout,
                    limits=library.Limits(keepalive_expiry=_IDLE_SECONDS),
                    trust_env=not loopback,  # a site's proxy is not to be asked for this host
                )
                weakref.finalize(self, self._client.close)
            return self._client

    def _long(self) -> Any:
        return _httpx().Timeout(self._timeout, read=max(self._timeout, _LONG_SECONDS))

    def _url(self, path: str) -> str:
        return f"{self.url}/{quote(self.name, safe='')}" + (f"/{path}" if path else "")

    def _note_time(self, date: str | None) -> None:
        try:
            there = email.utils.parsedate_to_datetime(date or "").timestamp() + 0.5  # it has whole seconds
        except (TypeError, ValueError):
            there = time.time()
        self._offset = there - time.monotonic()

    def _down(self, method: str, path: str, error: Exception) -> DatabaseDown:
        why = str(error) or type(error).__name__
        return DatabaseDown(
            f"the database {self.name!r} at {self.url} cannot be reached ({method} {path}): {why}"
        )

    def _refusal(self, answer: httpx.Response, method: str, path: str) -> DatabaseError:
        status = answer.status_code
        try:
            said = answer.json()
            reason = f"{said.get('error')}: {said.get('reason')}"
        except (ValueError, AttributeError):
            reason = answer.text[:200].strip() or answer.reason_phrase
        where = f"{method} {path or '/'} of the database {self.name!r} at {self.url}: {status}, {reason}"
        if status in (401, 403):
            who = self._credentials.user or "nobody"
            return NotAllowed(f"user {who!r}: the password is wrong, or this is not allowed. {where}", status)
        if status == 404:
            return NotFound(f"not there: {where}", status)
        if status == 409:
            return Conflict(f"changed by somebody else meanwhile: {where}", status)
        if status == 413:
            return DatabaseError(f"larger than this server takes: {where}", status)
        if status in (502, 503, 504, 507):
            return DatabaseDown(f"the database is not in order: {where}", status)
        return DatabaseError(f"refused: {where}", status)


def _of_length(content: Iterable[bytes], length: int, name: str) -> Iterator[bytes]:
    """The same pieces; AttachmentError if they are not so many bytes, so that the server gets no whole."""
    sent = 0
    for piece in content:
        sent += len(piece)
        if sent > length:
            break
        yield piece
    if sent != length:
        raise AttachmentError(
            f"attachment {name!r}: {length:,} bytes were announced, and {sent:,} came; "
            "did the file change meanwhile? Nothing was stored"
        )


def _rebuilt(name: str, credentials: Credentials, verify: bool | str, timeout_seconds: float) -> Database:
    return Database(name, None, credentials, verify=verify, timeout_seconds=timeout_seconds)


def _authorities(verify: bool | str) -> bool | ssl.SSLContext:
    if isinstance(verify, bool):
        return verify
    try:
        found = os.path.isdir(verify)
        return ssl.create_default_context(cafile=None if found else verify, capath=verify if found else None)
    except OSError as error:
        raise CredentialsError(f"the authorities {verify} cannot be read: {error}") from None


def _path(id: str) -> str:
    design = id.startswith("_design/")
    return f"_design/{quote(id[8:], safe='')}" if design else quote(id, safe="")


def _param(name: str, value: Any) -> str:
    # What CouchDB reads as JSON; the rest are words of its own.
    return value if name in ("stale", "update") and isinstance(value, str) else json.dumps(value)


def plain(value: Any) -> Any:
    """What numpy makes, as JSON has it."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} cannot be kept in a token (JSON has no such thing): {value!r}")


def _httpx() -> Any:
    try:
        import httpx  # late: the rest of the grid does without
    except ImportError:
        raise GridError("tokens take the package httpx: pip install mpiframe[grid]") from None
    return httpx
