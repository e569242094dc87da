"""Where the files of a list are: on tape, on disk, or both."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from mpiframe.compat.GRID_LRT.Staging._storage import storage
from mpiframe.plugins.grid import staging
from mpiframe.plugins.grid.srmlist import srmlist

_GREEN, _RED, _PLAIN = "\033[32m", "\033[31m", "\033[0m"


def main(filename: str, verbose: bool = True) -> list[tuple[str, str]]:
    """Pairs of the name and the status of each file of a list. Raises LinkError, MissingTool, OSError."""
    return _said(staging.state(load_file_into_srmlist(filename), gfal=storage()), verbose)


def load_file_into_srmlist(filename: str) -> srmlist:
    """The links of a file, one a line."""
    return srmlist().from_file(filename)


def check_status(surl_link: str, verbose: bool = True) -> tuple[str, str]:
    """The name and the status of one file."""
    return _said(staging.state([surl_link], gfal=storage()), verbose)[0]


def percent_staged(results: Iterable[tuple[str, str]]) -> float:
    """The part of the files that is on disk, from 0 to 1. Raises NoLinksError for none."""
    return staging.percent_staged(results)


def _said(states: list[staging.FileState], verbose: bool) -> list[tuple[str, str]]:
    for one in states if verbose else []:
        colour, plain = (_GREEN if one.locality.staged else _RED, _PLAIN) if sys.stdout.isatty() else ("", "")
        print(f"{one.name} {colour}{one.locality}{plain}{f' ({one.error})' if one.error else ''}")
    return [(one.name, str(one.locality)) for one in states]


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "files")
