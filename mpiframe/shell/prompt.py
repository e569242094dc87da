"""The prompt of a client, whichever kind of both: until the user leaves, or as a script from a pipe."""

from __future__ import annotations

import contextlib
import importlib.util
import signal
from typing import Any

from mpiframe.launcher.foreground import is_terminal


def interact(client: Any, name: str | None = None, plain: bool = False) -> int:
    """Read commands for this client from the terminal until the user leaves; the exit status.

    For a Client or an attached one; neither is closed. `name` is what the banner calls the world. The prompt
    is IPython's if that is installed, and `plain` is not set. Ctrl-C interrupts the command that is waited
    for, never the session. Where standard input is no terminal, it is read to its end, as a script.
    """
    if _in_ipython(client):
        return 0
    at_prompt = getattr(client, "at_prompt", None)
    if at_prompt is not None:
        client.at_prompt = True
    try:
        if not is_terminal(0):
            from mpiframe.shell import plain as python

            heed_ctrl_c()
            return python.read(client)
        # What loads now is not to be interrupted; the prompt is shown in a moment.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        if plain or importlib.util.find_spec("IPython") is None:
            from mpiframe.shell import plain as python

            return python.interact(client, banner(client, name), heed_ctrl_c)
        from mpiframe.shell import ipython

        return ipython.interact(client, banner(client, name), heed_ctrl_c)
    finally:
        heed_ctrl_c()
        if at_prompt is not None:
            client.at_prompt = at_prompt


def heed_ctrl_c() -> None:
    """Have SIGINT again; a press that had to wait has nothing to interrupt."""
    with contextlib.suppress(KeyboardInterrupt):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])


def _in_ipython(client: Any) -> bool:
    """Whether this is IPython already, whose magics are this client's from now on."""
    from mpiframe.shell import magics

    if magics.load(client) is None:
        return False
    print("this is a prompt already; %on, %servers, %interrupt and %results are for this client now")
    return True


def banner(client: Any, name: str | None) -> str:
    """Three lines: who is there, and what to type."""
    hosts: dict[str, int] = {}
    for row in client.servers:
        if row.state not in ("lost", "closed"):
            hosts[row.host] = hosts.get(row.host, 0) + 1
    count = sum(hosts.values())
    where = next(iter(hosts), "no host")
    if len(hosts) > 1:
        where = f"{len(hosts)} hosts: " + ", ".join(f"{host} ({n})" for host, n in list(hosts.items())[:4])
        where += ", ..." if len(hosts) > 4 else ""
    return (
        f"mpiframe{f' {name}' if name else ''}: {count} server{'s' * (count != 1)} on {where}\n"
        "%on 1,2 CODE   %%on all   %servers\n"
        "%interrupt   %results   and `client`\n"
    )
