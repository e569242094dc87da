"""Rank 0 of `mpiframe shell`: takes the terminal, makes the client, and leaves in good order."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

from mpiframe.errors import MpiframeError, WorldError
from mpiframe.launcher.environment import RUN_DIR, TERMINAL
from mpiframe.launcher.foreground import is_terminal, take


def main(words: Sequence[str]) -> int:
    """`--plain` for Python's own prompt, `--read` for commands from standard input; the exit status."""
    import mpiframe
    from mpiframe.shell.prompt import heed_ctrl_c, interact

    # From here on the launcher sends us what is pressed: until there is a prompt, that is too early.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        if "--read" in words:
            _check_host()
        else:
            _take_terminal()
        client = mpiframe.Client()
    except WorldError as error:
        heed_ctrl_c()
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
    _check_host()
    take(name)


def _check_host() -> None:
    if not os.path.isdir(os.environ.get(RUN_DIR, "")):
        raise WorldError(
            f"rank 0 was started on {os.uname().nodename}, not on the host of this terminal: name that host "
            "first in the host file, or start the shell on the other"
        )


def _leave(client: object) -> None:
    """End the world. What was pushed is waited for, until Ctrl-C; failures that nobody saw are told."""
    from mpiframe.client import Client

    assert isinstance(client, Client)
    loop = client._loop
    client.at_prompt = False
    if loop.open:
        what = "a request that has" if loop.open == 1 else f"{loop.open} requests that have"
        print(f"waiting for {what} not ended; Ctrl-C drops what is left", flush=True)
    try:
        client.close()
    except KeyboardInterrupt:
        client.abandon()
    except MpiframeError as error:
        print(f"mpiframe: {error}", file=sys.stderr)
