"""Stages the files of a list with the archive's stager."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping

from mpiframe.compat.GRID_LRT.Staging import stager_access
from mpiframe.plugins.grid.srmlist import SITES, site_of, srmlist

_LETTERS = {"sara": "s", "juelich": "j", "poznan": "p"}
_MANAGER = "/srm/managerv2?SFN="


def main(filename: str, test: bool = False) -> int | None:
    """Ask for the files of a list; the request's id. test: ask for nothing, and return None."""
    return process(return_srmlist(filename), test)


def state_dict(srm_dict: Mapping[str, str | Iterable[str]], test: bool = False) -> int | None:
    """Ask for the files that are the values of a dictionary; the request's id."""
    links = srmlist()
    for value in srm_dict.values():
        links.extend([value] if isinstance(value, str) else value)
    return process([_as_surl(link) for link in links], test)


def location(filename: str) -> str:
    """s, j or p: the site of the first link of a file. Raises LinkError, OSError."""
    links = srmlist().from_file(filename)
    return _LETTERS[links.lta_location or "poznan"]


def replace(file_loc: str) -> tuple[str, re.Pattern[str]]:
    """What takes the place of what, to make a path of a site an SURL."""
    site = next((site for site in SITES if _LETTERS[site.name] == file_loc), None)
    if site is None:
        raise ValueError(f"{file_loc!r} is none of {', '.join(_LETTERS.values())}")
    start = "/lofar" if site.name == "poznan" else "/pnfs"
    return f"{site.srm}{_MANAGER}{start}", re.compile(start)


def return_srmlist(filename: str) -> list[str]:
    """The links of a file as SURLs with the manager's path. Raises LinkError, OSError."""
    return [_as_surl(link) for link in srmlist().from_file(filename)]


def process(urls: list[str], test: bool = False) -> int | None:
    """Ask for files; the request's id."""
    print(f"Setting up {len(urls)} srms to stage")
    if test:
        return None
    number = stager_access.stage(urls)
    print("staged with stageID ", number)
    return number


def get_stage_status(stageID: int | str) -> str:
    """The status of a request."""
    return stager_access.get_status(int(stageID))


def _as_surl(link: str) -> str:
    """A path, or a link of any form, as an SURL with the manager's path, if its site is known."""
    if link.startswith("/"):
        site = site_of(link) or (SITES[2] if link.startswith("/lofar") else None)
        if site is not None:
            return f"{site.srm}{_MANAGER}{link}"
    links = srmlist()
    return links.gfal_replace(links.srm_replace(link) or link) or link


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "files")
