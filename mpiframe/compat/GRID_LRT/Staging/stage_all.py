"""Stages the files of a list with gfal2."""

from __future__ import annotations

import sys

from mpiframe.compat.GRID_LRT.Staging._storage import storage
from mpiframe.plugins.grid import staging
from mpiframe.plugins.grid.srmlist import srmlist as Srmlist


class LTA_Stager:
    """Stages the links of a file or of a list, and can wait for them."""

    def __init__(self, filename: str | None = None, srmlist: Srmlist | None = None) -> None:
        self.srmlist = Srmlist() if srmlist is None else srmlist
        self.request: staging.GfalRequest | None = None
        if filename is not None:
            self.load_from_filename(filename)

    def load_from_filename(self, filename: str) -> None:
        """Add the links of a file."""
        self.srmlist.from_file(filename)

    load_from_filemane = load_from_filename

    def stage(self) -> str:
        """Ask for them; the storage's token."""
        self.request = staging.stage(self.srmlist, gfal=storage())
        return self.request.token

    def wait(self, timeout_seconds: float | None = None) -> None:
        """Wait until all are on disk. Raises StagingFailed, StorageTimeout."""
        if self.request is None:
            self.stage()
        assert self.request is not None
        staging.wait_staged(self.request, timeout_seconds)


def main(filename: str) -> tuple[dict[str, str], str]:
    """Ask for the files of a list, for five days: (what was refused at once and why, the storage's token)."""
    request = staging.stage(Srmlist().from_file(filename), gfal=storage())
    return dict(request.refused), request.token


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "files")
