"""Pilots on MPI servers, seen from the client: what `client.plugin("grid", ...)` returns."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import Any

from mpiframe.plugins.grid.children import KILL_SECONDS
from mpiframe.plugins.grid.claims import LEASE_SECONDS, MAX_RETURNS
from mpiframe.plugins.grid.crew import Crew, Hears, PilotSettings
from mpiframe.plugins.grid.pilot import PilotReport, check_limits
from mpiframe.plugins.grid.progress import Bar, Progress
from mpiframe.plugins.grid.runner import TokenRun, Work
from mpiframe.plugins.grid.views import TODO


class GridFace:
    """The grid plugin on one or several servers. Its attributes are the plugin's commands, and `pilot`."""

    def __init__(self, proxy: Any) -> None:
        self._proxy = proxy

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._proxy, name)

    def on(self, rank: int) -> GridFace:
        """The same on one of its servers."""
        return GridFace(self._proxy.on(rank))

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *dir(self._proxy)})

    def __repr__(self) -> str:
        return repr(self._proxy)

    def pilot(
        self,
        view: str = TODO,
        run: Work | None = None,
        *,
        max_token_seconds: float | None = None,
        max_seconds: float | None = None,
        max_tokens: int | None = None,
        isolate: bool = False,
        attach: Sequence[str] = (),
        work_dir: str | None = None,
        lease_seconds: float = LEASE_SECONDS,
        max_returns: int = MAX_RETURNS,
        kill_seconds: float = KILL_SECONDS,
        linger: bool = False,
        progress: bool = False,
        on_token: Callable[[int, TokenRun], None] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> PilotReport:
        """Work off the tokens of a view on all servers of this plugin; returns when there are no more.

        A server that is lost costs nothing but the time its token had taken: others take it up at once.
        Ctrl-C gives back what runs, and is raised.

        Parameters
        ----------
        run: a function of the token, or a program and its arguments; see `Runner`, also for isolate, attach,
            work_dir and max_token_seconds.
        max_seconds, max_tokens, linger, lease_seconds, max_returns: see `Pilot`; they count for all servers
            together.
        progress: show a bar. on_token: called with server and `TokenRun`; on_progress: with a `Progress`.

        Raises CommandError if the servers cannot get at the view, DatabaseDown if the database is down for
        long, PilotError if no server is left.
        """
        if run is None:
            raise ValueError("pilot needs to know what to run: run=function, or a program and its arguments")
        check_limits(max_seconds, max_tokens)
        if isinstance(attach, str):
            raise ValueError(f"attach is a list of patterns, not the text {attach!r}")
        settings = PilotSettings(
            view, uuid.uuid4().hex, lease_seconds, max_returns, max_token_seconds, isolate, tuple(attach),
            work_dir, kill_seconds,
        )  # fmt: skip
        hears = Hears(Bar() if progress else None, on_token, on_progress)
        return Crew(self._proxy, settings, run, max_seconds, max_tokens, linger, hears).run()
