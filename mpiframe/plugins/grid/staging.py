"""Files on tape: where they are, and how they come to disk.

for one in state(links):
    print(one.name, one.locality)
request = stage(links)
wait_staged(request, on_progress=lambda progress: print(f"{progress.fraction:.0%}"))

`wait_staged` waits for whatever has a `poll` that tells its progress: requests of gfal2 (`stage`), and those
of the archive's own stagers (`lta_stager`, `stageit`).
"""

from __future__ import annotations

import posixpath
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol
from urllib.parse import urlsplit

from mpiframe.plugins.grid.gfal import Gfal
from mpiframe.plugins.grid.srmlist import srmlist
from mpiframe.plugins.grid.storage_errors import (
    NoLinksError,
    StagingFailed,
    StorageDown,
    StorageError,
    StorageTimeout,
)

PIN_SECONDS = 5 * 24 * 3600
REQUEST_SECONDS = 3600
POLL_SECONDS = 1.0
LONGEST_POLL_SECONDS = 300.0
_GROWTH = 1.5
_LOST_POLLS = 5
"""So often in a row a storage may not be reached before that is the answer."""


class Locality(str, Enum):
    """Where a file is."""

    ONLINE = "ONLINE"
    NEARLINE = "NEARLINE"
    ONLINE_AND_NEARLINE = "ONLINE_AND_NEARLINE"
    LOST = "LOST"
    NONE = "NONE"
    UNAVAILABLE = "UNAVAILABLE"
    UNKNOWN = "UNKNOWN"

    @property
    def staged(self) -> bool:
        """Whether it is on disk."""
        return self in (Locality.ONLINE, Locality.ONLINE_AND_NEARLINE)

    def __str__(self) -> str:
        return str(self.value)


@dataclass(frozen=True)
class FileState:
    """One file. error: why its locality is UNKNOWN, where that is known."""

    link: str
    locality: Locality
    error: str | None = None

    @property
    def name(self) -> str:
        """The last part of its path."""
        return posixpath.basename(urlsplit(self.link.rpartition("?SFN=")[2]).path) or self.link


@dataclass(frozen=True)
class StagingProgress:
    """How far a request has come. failed: why, of each link that will not come."""

    total: int
    staged: int
    failed: Mapping[str, str] = field(default_factory=dict)
    status: str = ""

    @property
    def waiting(self) -> int:
        """How many files are still to come."""
        return max(0, self.total - self.staged - len(self.failed))

    @property
    def fraction(self) -> float:
        """From 0 to 1, how much has been staged."""
        return self.staged / self.total if self.total else 1.0

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.waiting == 0


class Staging(Protocol):
    """What can be waited for."""

    def poll(self) -> StagingProgress:
        """Ask the storage how far it is."""


def state(links: Iterable[str], *, gfal: Gfal | None = None) -> list[FileState]:
    """Where each file is, in order. A file that cannot be asked about is UNKNOWN, and says why.

    Raises MissingTool where gfal2 is not there.
    """
    links = _several(links)
    with _given(gfal) as storage:
        found = storage.status(map(_as_gfal, links))
    return [_state(link, one) for link, one in zip(links, found, strict=True)]


def percent_staged(states: Iterable[FileState | tuple[str, str]]) -> float:
    """The part of the files that is on disk, from 0 to 1; takes pairs of name and status, too.

    Raises NoLinksError for no files.
    """
    found = [one.locality if isinstance(one, FileState) else _locality(one[1]) for one in states]
    if not found:
        raise NoLinksError("there are no files, so no part of them is staged")
    return sum([locality.staged for locality in found]) / len(found)


class GfalRequest:
    """A request to a storage to bring files to disk. `poll`, `release` and `abort` go to the storage.

    refused: what the storage refused at once, and why.
    """

    def __init__(self, links: list[str], token: str, failed: Mapping[str, str], gfal: Gfal) -> None:
        self.links = links
        self.token = token
        self.refused = dict(failed)
        self._failed = dict(failed)
        self._staged: set[str] = set()
        self._gfal = gfal

    def poll(self) -> StagingProgress:
        """Ask for what has not come yet."""
        left = [link for link in self.links if link not in self._failed and link not in self._staged]
        if left:
            for link, answer in zip(left, self._gfal.poll(map(_as_gfal, left), self.token), strict=True):
                if isinstance(answer, StorageError):
                    self._failed[link] = str(answer)
                elif answer:
                    self._staged.add(link)
        return StagingProgress(len(self.links), len(self._staged), dict(self._failed))

    def release(self) -> None:
        """Let go of the files: the storage may take them off its disks. Raises StagingFailed."""
        self._each(self._gfal.release(map(_as_gfal, self.links), self.token), "released")

    def abort(self) -> None:
        """Take the request back. Raises StagingFailed."""
        self._each(self._gfal.abort(map(_as_gfal, self.links), self.token), "taken back")

    def _each(self, answers: list[StorageError | None], what: str) -> None:
        failed = {link: str(error) for link, error in zip(self.links, answers, strict=True) if error}
        if failed:
            raise StagingFailed(f"{len(failed)} of {len(self.links)} files were not {what}", failed)


def stage(
    links: Iterable[str],
    *,
    pin_seconds: int = PIN_SECONDS,
    request_seconds: int = REQUEST_SECONDS,
    gfal: Gfal | None = None,
) -> GfalRequest:
    """Ask a storage to bring files to disk, and to keep them there for `pin_seconds`.

    request_seconds: how long the storage may try. What it refuses at once is in the request's progress.
    Raises NoLinksError, MissingTool, StorageError.
    """
    links = _several(links)
    if not links:
        raise NoLinksError("there are no links to stage")
    storage = gfal or Gfal()
    token, errors = storage.stage(map(_as_gfal, links), pin_seconds, request_seconds)
    refused = {link: str(error) for link, error in zip(links, errors, strict=True) if error}
    return GfalRequest(links, token, refused, storage)


def wait_staged(
    request: Staging,
    timeout_seconds: float | None = None,
    on_progress: Callable[[StagingProgress], object] | None = None,
    *,
    poll_seconds: float = POLL_SECONDS,
    longest_poll_seconds: float = LONGEST_POLL_SECONDS,
    stop: threading.Event | None = None,
) -> StagingProgress:
    """Wait until all files are on disk; the last progress.

    No storage tells when it is done, so it is asked: after `poll_seconds`, then less and less often, up to
    every `longest_poll_seconds`; after news, a little sooner again. on_progress: called at first and when
    anything has changed. stop: ends the wait early when set. A storage that cannot be reached for some
    polls is asked again.
    Raises StagingFailed, once nothing more will come, if some files failed; StorageTimeout.
    """
    if not 0 < poll_seconds <= longest_poll_seconds:
        raise ValueError("poll_seconds has to be more than 0, and not more than longest_poll_seconds")
    deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    stop = stop or threading.Event()
    interval, last, lost = poll_seconds, None, 0
    while True:
        try:
            progress = request.poll()
            lost = 0
        except (StorageDown, StorageTimeout):
            lost += 1
            if lost >= _LOST_POLLS:
                raise
            progress = last or StagingProgress(1, 0)
        if progress != last and not lost:
            if last is not None:
                interval = max(poll_seconds, interval / _GROWTH)
            last = progress
            if on_progress is not None:
                on_progress(progress)
        if not lost and progress.ended:
            if progress.failed:
                link, reason = next(iter(progress.failed.items()))
                raise StagingFailed(
                    f"{len(progress.failed)} of {progress.total} files cannot be staged; {link}: {reason}",
                    progress.failed,
                )
            return progress
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            raise StorageTimeout(
                f"{progress.staged} of {progress.total} files are staged after {timeout_seconds:g} s"
            )
        if stop.wait(interval if left is None else min(interval, left)):
            return progress
        interval = min(longest_poll_seconds, interval * _GROWTH)


def _state(link: str, found: str | StorageError) -> FileState:
    if isinstance(found, StorageError):
        return FileState(link, Locality.UNKNOWN, str(found))
    return FileState(link, _locality(found))


def _locality(text: str) -> Locality:
    try:
        return Locality(str(text).strip().upper())
    except ValueError:
        return Locality.UNKNOWN


def _several(links: Iterable[str]) -> list[str]:
    return [links] if isinstance(links, str) else list(links)


def _as_gfal(link: str) -> str:
    """As gfal2 takes a link: one of the archive by way of its site, another as it is."""
    return srmlist().gfal_replace(link) or link


@contextmanager
def _given(gfal: Gfal | None) -> Iterator[Gfal]:
    if gfal is not None:
        yield gfal
        return
    with Gfal() as own:
        yield own
