"""The archive's stager over XML-RPC: `LtaStager`. Its successor is `stageit`.

The parser of answers refuses entities and document types (defusedxml), and no answer is read without end.
"""

from __future__ import annotations

import base64
import xmlrpc.client
from collections.abc import Iterable
from typing import Any

from mpiframe.plugins.grid.stager_credentials import Login
from mpiframe.plugins.grid.staging import StagingProgress
from mpiframe.plugins.grid.storage_errors import MissingTool, NoLinksError, StorageError, shown
from mpiframe.plugins.grid.web import CALL_SECONDS, Web

ENDPOINT = "https://webportal.astron.nl/service-public/xmlrpc"


class LtaStager:
    """The stager's functions. Nothing is asked before the first of them is called.

    login: None finds it (`stager_credentials`) at the first call. ca: authorities to trust besides.
    All raise StorageError: AccessDenied for a wrong login, StorageDown, StorageTimeout.
    """

    def __init__(
        self,
        login: Login | None = None,
        *,
        url: str = ENDPOINT,
        call_seconds: float = CALL_SECONDS,
        ca: str | None = None,
    ) -> None:
        self._login = login
        self._url = url
        self._web = Web(url, self._authorization, call_seconds=call_seconds, ca=ca)

    def __enter__(self) -> LtaStager:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._web.close()

    def stage(self, surls: str | Iterable[str], notify: bool | None = None) -> int:
        """Ask for one file or several to be staged; the request's id.

        notify: whether the stager writes mail; None leaves it to the stager. Raises NoLinksError.
        """
        links = [surls] if isinstance(surls, str) else list(surls)
        if not links:
            raise NoLinksError("there are no links to stage")
        return int(self._call("add_getid", links, *([] if notify is None else [notify])))

    def request(self, stage_id: int, surls: Iterable[str]) -> LtaRequest:
        """A request, to be waited for with `wait_staged`."""
        return LtaRequest(self, stage_id, list(surls))

    def get_status(self, stage_id: int) -> str:
        """new, scheduled, in progress, success, on hold, aborted, ..."""
        return str(self._call("getstatus", int(stage_id)))

    def abort(self, stage_id: int) -> Any:
        """Take a request back."""
        return self._call("abort", int(stage_id))

    def get_surls_online(self, stage_id: int) -> list[str]:
        """The files of a request that are on disk."""
        return [str(surl) for surl in self._call("getstagedurls", int(stage_id)) or []]

    def get_srm_token(self, stage_id: int) -> str:
        """The token of the storage itself."""
        return str(self._call("gettoken", int(stage_id)))

    def reschedule(self, stage_id: int) -> Any:
        """Have another try, for example after maintenance."""
        return self._call("reschedule", int(stage_id))

    def get_progress(self) -> dict[str, dict[str, Any]]:
        """All requests of the user that have not ended, by id."""
        return dict(self._call("getprogress") or {})

    def get_storage_info(self) -> Any:
        """How full the sites' storage is."""
        return self._call("getsrmstorageinfo")

    def _authorization(self) -> str:
        if self._login is None:
            self._login = Login.find()
        pair = f"{self._login.user}:{self._login.password.reveal()}"
        return "Basic " + base64.b64encode(pair.encode()).decode()

    def _call(self, name: str, *arguments: Any) -> Any:
        method = f"LtaStager.{name}"
        content = xmlrpc.client.dumps(arguments, method, allow_none=True).encode()
        try:
            return _value(
                self._web.read("POST", self._url, content=content, headers={"Content-Type": "text/xml"})
            )
        except xmlrpc.client.Fault as fault:
            text = str(fault.faultString)
            if self._login is not None and self._login.password:
                text = text.replace(self._login.password.reveal(), "***")
            raise StorageError(f"the stager at {shown(self._url)} says to {method}: {text}") from None
        except ValueError as error:
            if isinstance(error, StorageError):
                raise
            raise StorageError(
                f"{shown(self._url)} answered {method} with what is no XML-RPC: {error}"
            ) from None


class LtaRequest:
    """A request to the stager."""

    def __init__(self, stager: LtaStager, stage_id: int, surls: list[str]) -> None:
        self.stage_id = stage_id
        self.surls = surls
        self._stager = stager

    def poll(self) -> StagingProgress:
        """Ask the stager how far it is."""
        status = self._stager.get_status(self.stage_id)
        return progress_of(self.surls, status, self._stager.get_surls_online(self.stage_id), {})


def progress_of(
    surls: list[str], status: str, online: Iterable[str], errors: dict[str, str]
) -> StagingProgress:
    """What a stager says, as progress: at the end of a request, what is not online has failed."""
    there = set(online) & set(surls)
    if status == "success":
        there = set(surls) - set(errors)
    failed = {surl: reason for surl, reason in errors.items() if surl not in there}
    if status in ("partial success", "failed", "aborted"):
        failed |= {
            surl: f"the request's status is {status}" for surl in surls if surl not in there | failed.keys()
        }
    return StagingProgress(len(surls), len(there), failed, status)


def _value(data: bytes) -> Any:
    """The value in an answer. Raises Fault, ValueError."""
    try:
        from defusedxml.xmlrpc import DefusedExpatParser
    except ImportError:
        raise MissingTool("that takes the package defusedxml: pip install mpiframe[grid]") from None
    target = xmlrpc.client.Unmarshaller(use_builtin_types=True)
    parser = DefusedExpatParser(target, forbid_dtd=True)
    try:
        parser.feed(data)
        parser.close()
        (value,) = target.close()
    except xmlrpc.client.Fault:
        raise
    except Exception as error:  # whatever the standard library's parser makes of what it does not expect
        raise ValueError(f"{type(error).__name__}: {error}") from None
    return value
