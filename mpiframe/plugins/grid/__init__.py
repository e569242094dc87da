"""Grid computing: tokens in CouchDB (PiCaS), pilots that work them off, storage, and jobs."""

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
