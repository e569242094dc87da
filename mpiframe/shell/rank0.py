"""Rank 0 of `mpiframe shell`: takes the terminal, makes the client, and leaves in good order."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from mpiframe.errors import MpiframeError, WorldError
from mpiframe.launcher.environment import RUN_DIR, TERMINAL
from mpiframe.launcher.foreground import is_terminal, take


def main(words: Sequence[str]) -> int:
    """`--plain` for Python's own prompt, `--read` for commands from standard input; the exit status."""
    import mpiframe
    from mpiframe.shell import interact

    try:
        if "--read" not in words:
            _take_terminal()
        client = mpiframe.Client()
    except WorldError as error:
        print(f"mpiframe shell: {error}", file=sys.stderr)
        return 2
    status = interact(client, plain="--plain" in words)
    if "--read" not in words:  # else the world ends as that of any script
        _leave(client)
    return status


def _take_terminal() -> None:
    name = os.environ.get(TERMINAL)
    if RUN_DIR not in os.environ or name is None:  # started by mpiexec itself
        if not is_terminal(0):
            raise WorldError("there is no terminal here; start with `mpiframe shell -n 4`")
        return
    if not os.path.isdir(os.environ[RUN_DIR]):
        raise WorldError(
            f"rank 0 was started on {os.uname().nodename}, not on the host of this terminal: name that host "
            "first in the host file, or start the shell on the other"
        )
    take(name)


def _leave(client: object) -> None:
    """End the world. What was pushed is waited for, until Ctrl-C; failures that nobody saw are told."""
    from mpiframe.client import Client

    assert isinstance(client, Client)
    loop = client._loop
    client.at_prompt = False
    if loop.open:
        print(f"waiting for {loop.open} requests that have not ended; Ctrl-C drops them", flush=True)
    try:
        client.close()
    except KeyboardInterrupt:
        client.abandon()
    except MpiframeError as error:
        print(f"mpiframe: {error}", file=sys.stderr)
