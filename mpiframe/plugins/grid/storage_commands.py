"""Staging and sandboxes as commands of the grid's plugin: what takes long leaves the server free meanwhile.

grid = client.plugin("grid", target=1)
number = grid.stage(links)                       # or via="lta", via="stageit"
grid.subscribe(lambda server, event: print(event))
grid.wait_staged(number)                         # each news is a StagingEvent
url = grid.upload_sandbox("pref_cal1.cfg", "https://webdav.example.org/sandbox", token=Secret(macaroon))
"""

from __future__ import annotations

import difflib
import threading
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from mpiframe.plugins.base import Plugin, command
from mpiframe.plugins.grid import staging
from mpiframe.plugins.grid.credentials import Secret
from mpiframe.plugins.grid.gfal import Gfal
from mpiframe.plugins.grid.lta_stager import ENDPOINT, LtaStager
from mpiframe.plugins.grid.sandbox import Sandbox, fetch
from mpiframe.plugins.grid.stageit import StageIt
from mpiframe.plugins.grid.staging import FileState, Staging, StagingProgress
from mpiframe.plugins.grid.storage_errors import NoSuchFile

STAGERS = ("gfal", "lta", "stageit")
_AT_ONCE = 32


@dataclass(frozen=True)
class StagingEvent:
    """News of a request that is waited for."""

    request: str
    progress: StagingProgress


class StorageCommands(Plugin):
    """Commands for storage; whoever has them calls `stop_storage` at its end."""

    _storage: _Storage | None = None

    @command
    def state(self, links: list[str]) -> Future[list[FileState]]:
        """Where each file is."""
        return self._here.submit(staging.state, links, gfal=self._here.gfal)

    @command
    def percent_staged(self, links: list[str]) -> Future[float]:
        """The part of the files that is on disk, from 0 to 1."""
        here = self._here
        return here.submit(lambda: staging.percent_staged(staging.state(links, gfal=here.gfal)))

    @command
    def stage(self, links: list[str], via: str = "gfal", url: str | None = None, **options: Any) -> str:
        """Ask for files to be brought to disk, by gfal, lta or stageit; the request's id for `wait_staged`.

        url: of the stager, None for the archive's. options: of `staging.stage`; notify, of the stagers.
        """
        if via not in STAGERS:
            near = difflib.get_close_matches(via, STAGERS, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"there is no way of staging {via!r}{hint} There are {', '.join(STAGERS)}")
        return self._here.stage(list(links), via, url, options)

    @command
    def staging_progress(self, number: str) -> StagingProgress:
        """How far a request is, now."""
        return self._here.request(number).poll()

    @command
    def wait_staged(
        self, number: str, timeout_seconds: float | None = None, **options: float
    ) -> Future[StagingProgress]:
        """The last progress of a request, once all files are on disk. Each news is a StagingEvent.

        options: as for `staging.wait_staged`.
        """
        here = self._here
        request = here.request(number)

        def wait() -> StagingProgress:
            last = staging.wait_staged(
                request,
                timeout_seconds,
                lambda progress: self.context.emit(StagingEvent(number, progress)),
                stop=here.stopped,
                **options,
            )
            if not last.ended:
                raise CancelledError("the plugin has been unloaded")
            return last

        return here.submit(wait)

    @command
    def upload_sandbox(
        self, path: str, to: str, token: Secret | None = None, overwrite: bool = True, **options: Any
    ) -> Future[tuple[str, str]]:
        """Build the sandbox of a configuration on this host and upload it: (its url, the token's SBXloc)."""

        def work() -> tuple[str, str]:
            with Sandbox.from_file(path) as sandbox:
                return sandbox.upload(to, token=token, overwrite=overwrite, **options), sandbox.sbxloc

        return self._here.submit(work)

    @command
    def fetch_sandbox(
        self, url: str, folder: str, token: Secret | None = None, **options: Any
    ) -> Future[list[str]]:
        """Download a sandbox and unpack it into a folder of this host; the names of its files."""
        return self._here.submit(fetch, url, folder, token=token, **options)

    def stop_storage(self) -> None:
        """End what is being waited for, and gfal2."""
        if self._storage is not None:
            self._storage.stop()
            self._storage = None

    @property
    def _here(self) -> _Storage:
        if self._storage is None:
            self._storage = _Storage()
        return self._storage


class _Storage:
    """What the commands share: threads, gfal2, requests."""

    def __init__(self) -> None:
        self.gfal = Gfal()
        self.stopped = threading.Event()
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="grid storage")
        self._requests: dict[str, Staging] = {}
        self._stagers: dict[tuple[str, str | None], LtaStager | StageIt] = {}

    def submit(self, function: Any, *arguments: Any, **options: Any) -> Future[Any]:
        return self._pool.submit(function, *arguments, **options)

    def stage(self, links: list[str], via: str, url: str | None, options: dict[str, Any]) -> str:
        request: Staging
        if via == "gfal":
            request = staging.stage(links, gfal=self.gfal, **options)
            number = f"gfal-{len(self._requests) + 1}"
        else:
            stager = self._stager(via, url)
            stage_id = stager.stage(links, **options)
            request = stager.request(stage_id, links)
            number = f"{via}-{stage_id}"
        self._requests[number] = request
        return number

    def request(self, number: str) -> Staging:
        """A request of this session. Raises NoSuchFile."""
        if number not in self._requests:
            known = ", ".join(self._requests) or "none"
            raise NoSuchFile(f"there is no request {number!r} here; there are {known}")
        return self._requests[number]

    def stop(self) -> None:
        self.stopped.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self.gfal.close()
        for stager in self._stagers.values():
            stager.close()

    def _stager(self, via: str, url: str | None) -> LtaStager | StageIt:
        if (via, url) not in self._stagers:
            made = LtaStager(url=url or ENDPOINT) if via == "lta" else StageIt(url=url)
            self._stagers[via, url] = made
        return self._stagers[via, url]
