"""The archive's stager: the functions of the XML-RPC client, and those of StageIT's, under the same names.

Where an API token is found (`~/.stagingrc`, `STAGEIT_API_TOKEN`), StageIT is asked, else the XML-RPC stager.
Credentials are looked for when the first function is called. `use` names another stager.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mpiframe.plugins.grid.lta_stager import LtaStager
from mpiframe.plugins.grid.stageit import StageIt
from mpiframe.plugins.grid.stager_credentials import ApiToken
from mpiframe.plugins.grid.storage_errors import CredentialsMissing, StorageError

_stager: LtaStager | StageIt | None = None


def use(stager: LtaStager | StageIt | None) -> None:
    """Ask this stager from now on; None: the one that there are credentials for."""
    global _stager
    _stager = stager


def stage(surls: str | Iterable[str], send_notifications: bool | None = None) -> int:
    """Ask for one file or several to be staged; the request's id. None: StageIT writes mail."""
    stager = _any()
    if isinstance(stager, LtaStager):
        return stager.stage(surls, send_notifications)
    return stager.stage(surls, send_notifications is not False)


def get_status(stageid: int) -> str:
    """new, scheduled, in progress, success, on hold, aborted, ..."""
    return _any().get_status(stageid)


def abort(stageid: int) -> bool:
    """Take a request back."""
    _any().abort(stageid)
    return True


def get_surls_online(stageid: int) -> list[str]:
    """The files of a request that are on disk."""
    return _any().get_surls_online(stageid)


def get_srm_token(stageid: int) -> str:
    """The token of the storage itself."""
    return _any().get_srm_token(stageid)


def reschedule(stageid: int) -> str:
    """Have another try, for example after maintenance."""
    _any().reschedule(stageid)
    return "scheduled"


def get_progress(
    status: str | None = None, exclude: bool = False, only_last24h: bool = False
) -> dict[str, dict[str, Any]]:
    """The user's requests by id. The arguments are StageIT's."""
    stager = _any()
    if isinstance(stager, LtaStager):
        return stager.get_progress()
    return stager.get_progress(status, exclude, only_last24h)


def get_storage_info() -> Any:
    """How full the sites' storage is; only the XML-RPC stager tells. Raises StorageError."""
    stager = _any()
    if isinstance(stager, LtaStager):
        return stager.get_storage_info()
    raise StorageError("StageIT does not tell how full the storage is")


def get_surls_requested(stageid: int) -> list[str]:
    """All files of a request."""
    return _stageit().get_surls_requested(stageid)


def get_surls_pending(stageid: int) -> list[str]:
    """The files of a request that are still to come."""
    return _stageit().get_surls_pending(stageid)


def get_surls_failed(stageid: int) -> list[str]:
    """The files of a request that will not come."""
    return list(_stageit().get_surls_failed(stageid))


def get_macaroons(stageid: int) -> list[dict[str, str]]:
    """What lets one download the files of a request, by site. These are secrets."""
    return [{one.site: one.content.reveal()} for one in _stageit().get_macaroons(stageid)]


def get_webdav_urls_requested(stageid: int) -> list[str]:
    """The files of a request as WebDAV urls."""
    return _stageit().get_webdav_urls_requested(stageid)


def get_gridftp_urls_requested(stageid: int) -> list[str]:
    """The files of a request as gsiftp urls."""
    return _stageit().get_gridftp_urls_requested(stageid)


def _any() -> LtaStager | StageIt:
    global _stager
    if _stager is None:
        try:
            _stager = StageIt(ApiToken.find())
        except CredentialsMissing:
            _stager = LtaStager()
    return _stager


def _stageit() -> StageIt:
    stager = _any()
    if isinstance(stager, LtaStager):
        raise StorageError(
            "the XML-RPC stager does not tell that. StageIT does; it takes api_token=... in ~/.stagingrc"
        )
    return stager
