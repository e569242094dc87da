"""Lists of links to files of the LOFAR archive: checked, converted, sliced.

links = srmlist().from_file("srm.txt")
tokens = slice_dicts(dict(links.sbn_dict()), 10)

Written from GRID_LRT's documentation and what its functions give. What differs: every way into the list is
checked, not only `append`; a link without an observation, keys that are no numbers and empty dictionaries
are errors that say so; links come out in the order they were put in.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, SupportsIndex, overload

from mpiframe.plugins.grid.storage_errors import LinkError, NoLinksError


@dataclass(frozen=True)
class Site:
    """A site of the archive. srm, gsi: how links begin there; http: what downloads begin with."""

    name: str
    domain: str
    srm: str
    gsi: str
    http: str


SITES = (
    Site(
        "sara",
        "grid.sara.nl",
        "srm://srm.grid.sara.nl:8443",
        "gsiftp://gridftp.grid.sara.nl:2811",
        "https://lofar-download.grid.sara.nl/lofigrid/SRMFifoGet.py?surl=",
    ),
    Site(
        "juelich",
        "fz-juelich.de",
        "srm://lofar-srm.fz-juelich.de:8443",
        "gsiftp://lofar-gridftp.fz-juelich.de:2811",
        "https://lofar-download.fz-juelich.de/webserver-lofar/SRMFifoGet.py?surl=",
    ),
    Site(
        "poznan",
        "lofar.psnc.pl",
        "srm://lta-head.lofar.psnc.pl:8443",
        "gsiftp://gridftp.lofar.psnc.pl:2811",
        "https://lta-download.lofar.psnc.pl/lofigrid/SRMFifoGet.py?surl=",
    ),
)

_MANAGER = "/srm/managerv2?SFN="
_OBSID = re.compile(r"L[0-9]+")


def site_of(link: str) -> Site | None:
    """The site that a link names, None if it is none of the archive's."""
    return next((site for site in SITES if site.domain in link), None)


def obsid_of(link: str) -> str | None:
    """The first observation, `L` and digits, that a link names."""
    found = _OBSID.search(link)
    return found.group() if found else None


class srmlist(list[str]):
    """A list of links of one observation at one site; links that are in it already are not added again.

    check_OBSID, check_location: whether all have to name the same observation, and the same site.
    link: a first link. Raises LinkError, at which nothing has been added.
    """

    def __init__(
        self, check_OBSID: bool = True, check_location: bool = True, link: str | None = None
    ) -> None:
        super().__init__()
        if not isinstance(check_OBSID, bool) or not isinstance(check_location, bool):
            raise TypeError("srmlist takes two truth values and a link; to fill it from a list, use extend")
        self.check_OBSID = check_OBSID
        self.check_location = check_location
        if link is not None:
            self.append(link)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.check_OBSID, self.check_location, list(self))

    # -- what it holds ---------------------------------------------------------------------------

    @property
    def obsid(self) -> str | None:
        """The observation of the links; None if there are no links, or the first names none."""
        return obsid_of(self[0]) if self else None

    @property
    def lta_location(self) -> str | None:
        """The site, "sara", "juelich" or "poznan", that a link names first; None if none does."""
        return next((site.name for site in map(site_of, self) if site), None)

    @property
    def LTA_location(self) -> str | None:
        """The same as `lta_location`."""
        return self.lta_location

    # -- ways in ---------------------------------------------------------------------------------

    def append(self, item: str | bytes | None) -> None:
        """Add a link; None and empty ones are ignored. Raises LinkError."""
        super().extend(self._checked([item], self))

    def extend(self, items: Iterable[str | bytes | None]) -> None:
        """Add links, all or none. Raises LinkError."""
        super().extend(self._checked(_several(items), self))

    def insert(self, index: SupportsIndex, item: str | bytes | None) -> None:
        """Add a link before `index`. Raises LinkError."""
        for link in self._checked([item], self):
            super().insert(index, link)

    def from_file(self, filename: str | os.PathLike[str]) -> srmlist:
        """Add the links of a file, one a line; the list itself. Raises LinkError naming the line, OSError."""
        with open(filename, encoding="utf-8") as lines:
            texts = list(lines)
        added: list[str] = []
        held = set(self)
        for number, text in enumerate(texts, 1):
            try:
                new = self._checked([text], self or added, held)
            except LinkError as error:
                raise LinkError(f"{os.fspath(filename)}, line {number}: {error}") from None
            held.update(new)
            added += new
        super().extend(added)
        return self

    def __iadd__(self, items: Iterable[str]) -> srmlist:  # type: ignore[override]
        self.extend(items)
        return self

    def __add__(self, items: Iterable[str]) -> srmlist:  # type: ignore[override]
        new = self.copy()
        new.extend(items)
        return new

    def __imul__(self, times: SupportsIndex) -> srmlist:
        if times.__index__() < 1:
            self.clear()
        return self  # the same links again are not added

    def __mul__(self, times: SupportsIndex) -> srmlist:
        new = self.copy()
        new *= times
        return new

    __rmul__ = __mul__

    @overload
    def __setitem__(self, index: SupportsIndex, value: str) -> None: ...
    @overload
    def __setitem__(self, index: slice, value: Iterable[str]) -> None: ...
    def __setitem__(self, index: Any, value: Any) -> None:
        """Replace links, checked against those that stay. Raises LinkError."""
        stay = list(self)
        del stay[index]
        if not isinstance(index, slice):
            links = self._checked([value], stay)
            if not links and value in stay:
                raise LinkError(f"{value!r} is in the list already")
            if not links:
                raise LinkError("a link cannot be replaced by nothing; use del")
            super().__setitem__(index, links[0])
            return
        super().__setitem__(index, self._checked(_several(value), stay))

    @overload
    def __getitem__(self, index: SupportsIndex) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> srmlist: ...
    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        return (
            _rebuild(type(self), self.check_OBSID, self.check_location, found)
            if isinstance(index, slice)
            else found
        )

    def copy(self) -> srmlist:
        """Another list of the same links, with the same checks."""
        return _rebuild(type(self), self.check_OBSID, self.check_location, list(self))

    def _checked(self, items: Iterable[object], beside: list[str], held: set[str] | None = None) -> list[str]:
        """The links of these that are new beside those, in the form they are kept in."""
        known = set(beside) if held is None else set()
        first = beside[0] if beside else None
        new: list[str] = []
        for item in items:
            link = _clean(item)
            if link is None:
                continue
            self._check(link, first)
            first = first or link
            if link not in known and (held is None or link not in held):
                known.add(link)
                new.append(link)
        return new

    def _check(self, link: str, first: str | None) -> None:
        if self.check_OBSID:
            obsid = obsid_of(link)
            if obsid is None:
                raise LinkError(
                    f"no observation (L and digits) in the link {link!r}; check_OBSID=False allows it"
                )
            if first is not None and obsid != obsid_of(first):
                raise LinkError(
                    f"Different OBSID than previous items: {obsid} in {link!r}, {obsid_of(first)} before"
                )
        if self.check_location and first is not None:
            site, before = site_of(link), site_of(first)
            if site is not before:
                raise LinkError(
                    "Appended srm link not the same location as previous links! "
                    f"{site.name if site else 'an unknown one'} in {link!r}, "
                    f"{before.name if before else 'an unknown one'} before"
                )

    # -- conversions -----------------------------------------------------------------------------

    def gfal_replace(self, link: str) -> str | None:
        """The link as gfal takes it; None if its site is unknown, here and below."""
        site = site_of(link)
        if site is None:
            return None
        if link.startswith(site.gsi):
            return site.srm + link[len(site.gsi) :]
        if link.startswith(site.srm + "/") and _MANAGER not in link:
            return site.srm + _MANAGER + link[len(site.srm) :]
        return link

    def gsi_replace(self, link: str) -> str | None:
        """The link for `globus-url-copy`."""
        site = site_of(link)
        return link.replace(_MANAGER, "").replace(site.srm, site.gsi) if site else None

    def srm_replace(self, link: str) -> str | None:
        """The link as an SURL without the manager's path: the inverse of both above."""
        site = site_of(link)
        return link.replace(_MANAGER, "").replace(site.gsi, site.srm) if site else None

    def http_replace(self, link: str) -> str | None:
        """The link for downloads by http; one that is no SURL stays as it is."""
        site = site_of(link)
        if site is None:
            return None
        return site.http + link if link.startswith("srm://") else link

    def gfal_links(self) -> Iterator[str | None]:
        """All links as gfal takes them, in order."""
        return map(self.gfal_replace, list(self))

    def gsi_links(self) -> Iterator[str | None]:
        """All links for `globus-url-copy`, in order."""
        return map(self.gsi_replace, list(self))

    def srm_links(self) -> Iterator[str | None]:
        """All links as SURLs, in order."""
        return map(self.srm_replace, list(self))

    def http_links(self) -> Iterator[str | None]:
        """All links for downloads by http, in order; gsiftp links too."""
        for link in list(self):
            surl = self.srm_replace(link)
            yield None if surl is None else self.http_replace(surl)

    def sbn_dict(self, pref: str = "SB", suff: str = "_") -> Iterator[tuple[str, srmlist]]:
        """Pairs of a link's number, between `pref` and `suff` (regular expressions), and a list of it alone.

        Raises LinkError for a link that has none.
        """
        try:
            pattern = re.compile(f"{pref}(.+?){suff}")
        except re.error as error:
            raise LinkError(f"{pref!r} and {suff!r} make no regular expression: {error}") from error
        for link in list(self):
            found = pattern.search(link)
            if found is None:
                raise LinkError(
                    f"nothing between {pref!r} and {suff!r} in {link!r}; name what stands before and after "
                    'the number of its subband, for example pref="ABN_", suff="[.]"'
                )
            yield found.group(1), _rebuild(type(self), self.check_OBSID, self.check_location, [link])


def slice_dicts(srmdict: Mapping[str | int, Iterable[str]], slice_size: int = 10) -> dict[str, srmlist]:
    """Joins the links of subbands, `slice_size` numbers at a time, from the lowest number on.

    Keys are numbers of subbands, as text or int; those of the result are the first number of each slice,
    in three digits. Missing subbands leave their place empty; slices without any are left out.
    Raises LinkError (a ValueError too) for a key that is no number, NoLinksError if there is none.
    """
    if isinstance(slice_size, bool) or not isinstance(slice_size, int) or slice_size < 1:
        raise LinkError(f"slice_size has to be a whole number of at least 1, not {slice_size!r}")
    if not srmdict:
        raise NoLinksError("there are no subbands to slice: the dictionary is empty")
    numbers: dict[int, str | int] = {}
    for key in srmdict:
        number = _number(key)
        if number in numbers:
            raise LinkError(f"the keys {numbers[number]!r} and {key!r} are the same subband")
        numbers[number] = key
    first = min(numbers)
    slices: dict[str, srmlist] = {}
    for number in sorted(numbers):
        links = srmdict[numbers[number]]
        name = format(first + (number - first) // slice_size * slice_size, "03")
        if name not in slices:
            checks = (links.check_OBSID, links.check_location) if isinstance(links, srmlist) else ()
            slices[name] = srmlist(*checks)
        slices[name].extend([links] if isinstance(links, str) else links)
    return slices


def _number(key: str | int) -> int:
    if isinstance(key, str) and re.fullmatch("[0-9]+", key):
        return int(key)
    if isinstance(key, int) and not isinstance(key, bool) and key >= 0:
        return key
    raise LinkError(f"invalid literal for int() with base 10: {key!r} is no number of a subband")


def _rebuild(kind: type[srmlist], check_OBSID: bool, check_location: bool, links: list[str]) -> srmlist:
    """A list of links that were checked before."""
    made = kind(check_OBSID, check_location)
    list.extend(made, links)
    return made


def _several(items: Iterable[Any]) -> list[Any]:
    """As a list: a list may be extended by itself, and a string is no list of links."""
    if isinstance(items, (str, bytes)):
        raise TypeError("that takes several links; use append for one")
    return list(items)


def _clean(item: object) -> str | None:
    """The form in which a link is kept; None for nothing."""
    if item is None:
        return None
    if isinstance(item, bytes):
        item = item.decode()
    if not isinstance(item, str):
        raise LinkError(f"a link is text, not {type(item).__name__}")
    words = item.split()
    if len(words) > 1:  # as in lists for wget, or with a size beside it
        words = [word for word in words if "srm://" in word or "gsiftp://" in word]
        if not words:
            raise LinkError(f"no word of {item.strip()!r} is a link")
    if not words:
        return None
    link = words[0].replace("//pnfs", "/pnfs")
    site = site_of(link)
    return link.replace("//lofar/", "/lofar/") if site and site.name == "poznan" else link
