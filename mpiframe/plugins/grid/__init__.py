"""Grid computing: tokens in CouchDB (PiCaS), pilots that work them off, storage, and jobs."""

from mpiframe.plugins.grid.builders import TokenBuilder, TokenDictBuilder, TokenJsonBuilder
from mpiframe.plugins.grid.claims import Claims
from mpiframe.plugins.grid.couchdb import Database
from mpiframe.plugins.grid.credentials import Credentials, Secret
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
from mpiframe.plugins.grid.pilot import Pilot, PilotReport
from mpiframe.plugins.grid.progress import Progress
from mpiframe.plugins.grid.runner import Runner, TokenRun
from mpiframe.plugins.grid.token_list import TokenList
from mpiframe.plugins.grid.token_set import TokenSet
from mpiframe.plugins.grid.tokens import Token
from mpiframe.plugins.grid.views import CategoryView, Overview, TokenView, category

__all__ = [
    "AttachmentError",
    "CategoryView",
    "Claims",
    "Conflict",
    "Credentials",
    "CredentialsError",
    "Database",
    "DatabaseDown",
    "DatabaseError",
    "GridError",
    "NotAllowed",
    "NotFound",
    "Overview",
    "Pilot",
    "PilotError",
    "PilotReport",
    "Progress",
    "Runner",
    "Secret",
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
]
