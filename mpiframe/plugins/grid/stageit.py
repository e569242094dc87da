"""StageIT, which replaced the archive's XML-RPC stager: REST and GraphQL, with an API token and macaroons."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mpiframe.plugins.grid.credentials import Secret
from mpiframe.plugins.grid.lta_stager import progress_of
from mpiframe.plugins.grid.stager_credentials import ApiToken
from mpiframe.plugins.grid.staging import StagingProgress
from mpiframe.plugins.grid.storage_errors import NoLinksError, NoSuchFile, StorageError, shown
from mpiframe.plugins.grid.web import CALL_SECONDS, Web

_PATH = "stageit/api/staging"
_RESCHEDULED = "S"
_FIELDS = "id requestToken requestType when response currentStatusCode currentStatus surls { surl }"


@dataclass(frozen=True)
class Macaroon:
    """What lets its bearer download the files of a request from one site, until `valid_until`."""

    site: str
    content: Secret
    valid_until: str


class StageIt:
    """StageIT's functions. Nothing is asked before the first of them is called.

    token: None finds it (`stager_credentials`). url: of the service, None makes it of the token's host.
    All raise StorageError: AccessDenied for a wrong token, NoSuchFile for a request there is not.
    """

    def __init__(
        self,
        token: ApiToken | None = None,
        *,
        url: str | None = None,
        call_seconds: float = CALL_SECONDS,
        ca: str | None = None,
    ) -> None:
        self._token = token or ApiToken.find()
        base = (url or f"https://{self._token.hostname}").rstrip("/")
        self._base = f"{base}/{_PATH}"
        self._web = Web(base, self._authorization, call_seconds=call_seconds, ca=ca)

    def __enter__(self) -> StageIt:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._web.close()

    def stage(self, surls: str | Iterable[str], notify: bool = True) -> int:
        """Ask for files to be staged; the request's id. notify: by mail. Raises NoLinksError."""
        links = [surls] if isinstance(surls, str) else list(surls)
        if not links:
            raise NoLinksError("there are no links to stage")
        answer = self._rest("POST", "", {"surls": links, "notify": notify, "request_type": "stage"})
        try:
            return int(answer["id"])
        except (TypeError, KeyError, ValueError):
            raise StorageError(f"{shown(self._base)} took the request, but told no id") from None

    def request(self, stage_id: int, surls: Iterable[str] | None = None) -> StageItRequest:
        """A request, to be waited for with `wait_staged`. surls: None asks for them."""
        return StageItRequest(self, stage_id, list(surls or self.get_surls_requested(stage_id)))

    def get_status(self, stage_id: int) -> str:
        """new, scheduled, in progress, success, partial success, failed, aborted."""
        return str(self._request(stage_id, "currentStatus")["currentStatus"])

    def abort(self, stage_id: int) -> None:
        """Take a request back."""
        self._rest("PUT", f"{int(stage_id)}/abort/", {})

    def reschedule(self, stage_id: int) -> None:
        """Have another try, for example after maintenance."""
        self._rest("PATCH", f"{int(stage_id)}/", {"current_status_code": _RESCHEDULED})

    def get_surls_requested(self, stage_id: int) -> list[str]:
        """All files of a request."""
        return [one["surl"] for one in self._request(stage_id, "surls { surl }")["surls"] or []]

    def get_surls_online(self, stage_id: int) -> list[str]:
        """The files of a request that are on disk."""
        return list(self._response(stage_id).get("online", []))

    def get_surls_pending(self, stage_id: int) -> list[str]:
        """The files of a request that are still to come."""
        return list(self._response(stage_id).get("progressing", []))

    def get_surls_failed(self, stage_id: int) -> dict[str, str]:
        """The files of a request that will not come, and why."""
        return {surl: str(why) for surl, why in dict(self._response(stage_id).get("errors") or {}).items()}

    def get_srm_token(self, stage_id: int) -> str:
        """The token of the storage itself."""
        return str(self._request(stage_id, "requestToken")["requestToken"])

    def get_macaroons(self, stage_id: int) -> list[Macaroon]:
        """What lets one download the files of a request."""
        found = self._request(stage_id, "macaroons { content validUntil ltaSite { name } }")["macaroons"]
        return [
            Macaroon(str(one["ltaSite"]["name"]), Secret(one["content"]), str(one["validUntil"]))
            for one in found or []
        ]

    def get_webdav_urls_requested(self, stage_id: int) -> list[str]:
        """The files of a request as WebDAV urls, for downloads with a macaroon."""
        return list(self._rest("GET", f"{int(stage_id)}/convert2webdav/") or [])

    def get_gridftp_urls_requested(self, stage_id: int) -> list[str]:
        """The files of a request as gsiftp urls."""
        return list(self._rest("GET", f"{int(stage_id)}/convert2gridftp/") or [])

    def get_progress(
        self, status: str | None = None, exclude: bool = False, only_last24h: bool = False
    ) -> dict[str, dict[str, Any]]:
        """The user's requests by id; with the status code `status` (S, ...), or with all others."""
        since = datetime.datetime.min
        if only_last24h:
            since = datetime.datetime.now() - datetime.timedelta(hours=24)
        which = f'when_Gte: "{since.isoformat()}"'
        if status is not None:
            if not re.fullmatch("[A-Za-z_]{1,20}", status):
                raise ValueError(f"{status!r} is no status code")
            which += f", currentStatusCode{'_Ne' if exclude else ''}: {status}"
        found = self._query(f"{{ requests({which}) {{ edges {{ node {{ {_FIELDS} }} }} }} }}", "requests")
        return {str(edge["node"]["id"]): edge["node"] for edge in found["edges"]}

    def progress(self, stage_id: int, surls: list[str]) -> StagingProgress:
        """How far a request is."""
        found = self._request(stage_id, "currentStatus response")
        response = _json(found.get("response"))
        errors = {surl: str(why) for surl, why in dict(response.get("errors") or {}).items()}
        return progress_of(surls, str(found["currentStatus"]), response.get("online", []), errors)

    def _response(self, stage_id: int) -> dict[str, Any]:
        return _json(self._request(stage_id, "response")["response"])

    def _request(self, stage_id: int, fields: str) -> dict[str, Any]:
        number = int(stage_id)
        found = self._query(f"{{ request(id: {number}) {{ {fields} }} }}", "request")
        if found is None:
            raise NoSuchFile(f"{shown(self._base)} knows no request {number}")
        return dict(found)

    def _query(self, query: str, name: str) -> Any:
        answer = self._json("POST", f"{self._base}/graphql/", {"query": query})
        errors = answer.get("errors") if isinstance(answer, dict) else None
        if errors:
            texts = [str(one.get("message", one)) if isinstance(one, dict) else str(one) for one in errors]
            raise StorageError(f"StageIT at {shown(self._base)} says: {'; '.join(texts)}")
        try:
            return answer["data"][name]
        except (TypeError, KeyError):
            raise StorageError(f"{shown(self._base)} did not answer the question about {name}") from None

    def _rest(self, method: str, path: str, data: Any = None) -> Any:
        return self._json(method, f"{self._base}/requests/{path}", data)

    def _json(self, method: str, url: str, data: Any) -> Any:
        content = None if data is None else json.dumps(data).encode()
        answer = self._web.read(method, url, content=content, headers={"Content-Type": "application/json"})
        try:
            return json.loads(answer) if answer else None
        except ValueError as error:
            raise StorageError(f"{shown(url)} answered with what is no JSON: {error}") from None

    def _authorization(self) -> str:
        return f"Token {self._token.token.reveal()}"


class StageItRequest:
    """A request to StageIT."""

    def __init__(self, stager: StageIt, stage_id: int, surls: list[str]) -> None:
        self.stage_id = stage_id
        self.surls = surls
        self._stager = stager

    def poll(self) -> StagingProgress:
        """Ask StageIT how far it is."""
        return self._stager.progress(self.stage_id, self.surls)


def _json(text: str | None) -> dict[str, Any]:
    """StageIT puts JSON into a text of its JSON; nothing before the request has begun."""
    try:
        found = json.loads(text) if text else {}
    except ValueError:
        found = {}
    return found if isinstance(found, dict) else {}
