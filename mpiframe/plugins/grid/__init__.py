"""Grid computing: tokens in CouchDB (PiCaS), pilots that work them off, storage, and jobs."""

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

__all__ = [
    "AttachmentError",
    "Conflict",
    "Credentials",
    "CredentialsError",
    "DatabaseDown",
    "DatabaseError",
    "GridError",
    "NotAllowed",
    "NotFound",
    "PilotError",
    "Secret",
    "TokenError",
]
