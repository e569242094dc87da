"""Grid computing: tokens in CouchDB (PiCaS), pilots that work them off, storage, and jobs."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mpiframe.plugins.grid.builders import TokenBuilder, TokenDictBuilder, TokenJsonBuilder
    from mpiframe.plugins.grid.claims import Claims
    from mpiframe.plugins.grid.couchdb import Database
    from mpiframe.plugins.grid.credentials import Credentials, Secret
    from mpiframe.plugins.grid.error_codes import ErrorCode, code_of, describe
    from mpiframe.plugins.grid.errors import (
        AttachmentError,
        Conflict,
        CredentialsError,
        DatabaseDown,
        DatabaseError,
        GridError,
        NotAllowed,
        NotFound,
        PilotError,
        TokenError,
    )
    from mpiframe.plugins.grid.gfal import BearerToken, Gfal
    from mpiframe.plugins.grid.lta_stager import LtaStager
    from mpiframe.plugins.grid.pilot import Pilot, PilotReport
    from mpiframe.plugins.grid.progress import Progress
    from mpiframe.plugins.grid.runner import Runner, TokenRun
    from mpiframe.plugins.grid.sandbox import Sandbox, fetch
    from mpiframe.plugins.grid.sandbox_config import GitSource, SandboxConfig, read_config
    from mpiframe.plugins.grid.srmlist import slice_dicts
    from mpiframe.plugins.grid.stageit import StageIt
    from mpiframe.plugins.grid.staging import (
        FileState,
        GfalRequest,
        Locality,
        StagingProgress,
        percent_staged,
        stage,
        state,
        wait_staged,
    )
    from mpiframe.plugins.grid.storage_commands import StagingEvent
    from mpiframe.plugins.grid.storage_errors import StagingFailed, StorageError
    from mpiframe.plugins.grid.token_list import TokenList
    from mpiframe.plugins.grid.token_set import TokenSet
    from mpiframe.plugins.grid.tokens import Token
    from mpiframe.plugins.grid.transfer import download, upload
    from mpiframe.plugins.grid.views import CategoryView, Overview, TokenView, category

__all__ = [
    "AttachmentError",
    "BearerToken",
    "CategoryView",
    "Claims",
    "Conflict",
    "Credentials",
    "CredentialsError",
    "Database",
    "DatabaseDown",
    "DatabaseError",
    "ErrorCode",
    "FileState",
    "Gfal",
    "GfalRequest",
    "GitSource",
    "GridError",
    "Locality",
    "LtaStager",
    "NotAllowed",
    "NotFound",
    "Overview",
    "Pilot",
    "PilotError",
    "PilotReport",
    "Progress",
    "Runner",
    "Sandbox",
    "SandboxConfig",
    "Secret",
    "StageIt",
    "StagingEvent",
    "StagingFailed",
    "StagingProgress",
    "StorageError",
    "Token",
    "TokenBuilder",
    "TokenDictBuilder",
    "TokenError",
    "TokenJsonBuilder",
    "TokenList",
    "TokenRun",
    "TokenSet",
    "TokenView",
    "category",
    "code_of",
    "describe",
    "download",
    "fetch",
    "percent_staged",
    "read_config",
    "slice_dicts",
    "stage",
    "state",
    "upload",
    "wait_staged",
]

# Late: what only runs jobs, a process for each, need not wait for httpx and YAML.
_LATE = {
    "AttachmentError": "errors",
    "BearerToken": "gfal",
    "CategoryView": "views",
    "Claims": "claims",
    "Conflict": "errors",
    "Credentials": "credentials",
    "CredentialsError": "errors",
    "Database": "couchdb",
    "DatabaseDown": "errors",
    "DatabaseError": "errors",
    "ErrorCode": "error_codes",
    "FileState": "staging",
    "Gfal": "gfal",
    "GfalRequest": "staging",
    "GitSource": "sandbox_config",
    "GridError": "errors",
    "Locality": "staging",
    "LtaStager": "lta_stager",
    "NotAllowed": "errors",
    "NotFound": "errors",
    "Overview": "views",
    "Pilot": "pilot",
    "PilotError": "errors",
    "PilotReport": "pilot",
    "Progress": "progress",
    "Runner": "runner",
    "Sandbox": "sandbox",
    "SandboxConfig": "sandbox_config",
    "Secret": "credentials",
    "StageIt": "stageit",
    "StagingEvent": "storage_commands",
    "StagingFailed": "storage_errors",
    "StagingProgress": "staging",
    "StorageError": "storage_errors",
    "Token": "tokens",
    "TokenBuilder": "builders",
    "TokenDictBuilder": "builders",
    "TokenError": "errors",
    "TokenJsonBuilder": "builders",
    "TokenList": "token_list",
    "TokenRun": "runner",
    "TokenSet": "token_set",
    "TokenView": "views",
    "category": "views",
    "code_of": "error_codes",
    "describe": "error_codes",
    "download": "transfer",
    "fetch": "sandbox",
    "percent_staged": "staging",
    "read_config": "sandbox_config",
    "slice_dicts": "srmlist",
    "stage": "staging",
    "state": "staging",
    "upload": "transfer",
    "wait_staged": "staging",
}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(f"{__name__}.{_LATE[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
