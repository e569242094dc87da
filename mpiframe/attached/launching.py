"""`mpiframe.launch`: a world of one's own from any Python, as a notebook is, which ends with that process."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from mpiframe.attached.client import AttachedClient, connect
from mpiframe.errors import MpiframeError
from mpiframe.shell import jupyter
from mpiframe.verbs import raise_unseen
from mpiframe.worlds import background
from mpiframe.worlds.background import Orders, Started

_END_SECONDS = 10.0  # for a world to end in order, beside its own grace time


class LaunchedClient(AttachedClient):
    """The client of a world of this process's own: closing it ends the world."""

    _started: Started

    def close(self, *, drop: bool = False) -> None:
        """Wait for all that was pushed, then end the world; `drop`: interrupt what runs instead.

        Raises CommandError (or another error of a command) if one failed and nobody fetched its response.
        """
        if self._closed:
            return
        drop = drop or getattr(sys, "last_value", None) is not None
        try:
            if not drop:
                self._loop.wait(lambda: not self._loop._waiting)
            if self._loop.gone is None:
                with contextlib.suppress(MpiframeError):  # it ends, or has ended, without being asked
                    self.stop_world()
                    self._started.process.wait(self._loop.grace + _END_SECONDS)
        except subprocess.TimeoutExpired:
            pass  # the next line is not that patient
        finally:
            background.let_go(self._started)
            super().close(drop=True)
        if not drop:
            raise_unseen(self._loop.requests.values())

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        self.close(drop=error is not None)


def launch(
    n: int,
    *,
    name: str | None = None,
    resilient: bool = False,
    restart: str = "never",
    hostfile: str | None = None,
    mpiexec: str | None = None,
    launcher_args: Sequence[str] = (),
    timeout: float = background.START_SECONDS,
    output: str = "redirect",
    output_dir: str | None = None,
) -> AttachedClient:
    """Start a world of `n` ranks (the client's and n-1 servers) for this process alone, and attach to it.

        with mpiframe.launch(4) as client:
            print(sum(client.map(abs, range(-9, 9))))

    No MPI is loaded here. The world ends with `close`, the end of the `with` block, or this process, however
    that ends. As a context manager it waits for all that was pushed; where an exception leaves the block, it
    drops what is queued and interrupts what runs.

    Parameters
    ----------
    name: by which `mpiframe list`, `top` and `dashboard` show it (None: one with this process's number).
    resilient, hostfile, mpiexec, launcher_args: as the options of `mpiframe start`.
    restart: "always" to have servers that died replaced, in a resilient world.
    timeout: seconds for it to start.
    output, output_dir: what becomes of what commands print, as for `Client`.

    Raises WorldError where it cannot be started, with what it printed.
    """
    name = f"private-{os.getpid()}-{secrets.token_hex(2)}" if name is None else name
    orders = Orders(
        n,
        "private",
        background.hosted(restart),
        mpiexec=mpiexec,
        hostfile=hostfile,
        extra=tuple(launcher_args),
        resilient=resilient,
    )
    started = background.start(name, orders, timeout=timeout, owned=True)
    place = started.place
    try:
        client = connect(
            ("unix", str(place.socket)),
            place.secret(),
            name=name,
            output=output,
            output_dir=output_dir,
            kind=LaunchedClient,
        )
    except BaseException:
        background.let_go(started)
        raise
    assert isinstance(client, LaunchedClient)
    client._started = started
    jupyter.welcome(client)
    return client
