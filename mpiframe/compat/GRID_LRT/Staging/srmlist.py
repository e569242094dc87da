"""`mpiframe.plugins.grid.srmlist` under its old name."""

from __future__ import annotations

from mpiframe.compat.GRID_LRT.Staging._storage import storage
from mpiframe.plugins.grid.srmlist import SITES, slice_dicts, srmlist

GSI_FQDNs = {site.domain: site.name for site in SITES}


def count_files_uberftp(directory: str) -> int:
    """How many names a folder of the storage has. Raises StorageError."""
    return len(storage().listdir(directory))


def make_srmlist_from_gsiftpdir(gsiftpdir: str) -> srmlist:
    """The links of all files of a folder of the storage. Raises StorageError, LinkError."""
    found = srmlist()
    base = gsiftpdir.rstrip("/")
    found.extend(f"{base}/{name}" for name in sorted(storage().listdir(gsiftpdir)))
    return found


__all__ = ["GSI_FQDNs", "count_files_uberftp", "make_srmlist_from_gsiftpdir", "slice_dicts", "srmlist"]
