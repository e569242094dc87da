"""`mpiframe shell`: a prompt that is the client, on rank 0 itself, with servers behind it.

    launcher (in the foreground)  lends its terminal   launcher/foreground.py
      mpiexec                     in a session of its own
        rank 0                    takes the terminal, makes a Client, and comes to `interact`     rank0.py
          IPython, or             prompt, history, completion; what servers print meanwhile       ipython.py
          a plain prompt                                                                plain.py, live.py
        servers
    magics                        in both prompts, and in notebooks                               magics.py

The terminal has to be on the host of rank 0. So under Slurm: in the shell of `salloc` where that runs on the
job's first node (elsewhere rank 0 says that it cannot reach the terminal, and ends), or in a step of its own,
`srun -n 1 --overlap --pty mpiframe shell -n 4` within the allocation, where Open MPI wants besides
`--launcher-arg=--map-by --launcher-arg=:OVERSUBSCRIBE`, because it takes the step's one task for a limit.

Nothing here imports MPI until rank 0 does.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import signal
from typing import Any

from mpiframe import launcher
from mpiframe.cli import add_launching, start
from mpiframe.launcher.foreground import is_terminal

_EPILOG = """\
Ctrl-C interrupts the command that is waited for, or gives a new line; Ctrl-D or exit leaves; Ctrl-\\
ends everything by force; Ctrl-Z does nothing. From a pipe, commands are read as a script.

example: mpiframe shell -n 4
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `mpiframe shell`."""
    parser.usage = "mpiframe shell -n N [options]"
    parser.description = "A prompt on rank 0, with N-1 servers behind it."
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add_launching(parser)
    parser.add_argument("--dry-run", action="store_true", help="print the command, do not run it")
    parser.add_argument(
        "--name",
        metavar="NAME",
        help="so that `mpiframe top NAME`, `dashboard` and `attach` find it while it runs",
    )
    parser.add_argument("--plain", action="store_true", help="Python's own prompt, though IPython is there")


def run(options: argparse.Namespace) -> int:
    """Start the world and lend it this terminal; the exit status. Raises WorldError."""
    foreground = None
    words = ["-m", "mpiframe", "-m", "mpiframe.shell"]
    if not is_terminal(0):
        words.append("--read")
    elif not options.dry_run:
        foreground = launcher.Foreground()
    if options.plain:
        words.append("--plain")
    return start(options, words, foreground=foreground)


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
            from mpiframe.shell import plain as prompt

            heed_ctrl_c()
            return prompt.read(client)
        # What loads now is not to be interrupted; the prompt is shown in a moment.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        if plain or importlib.util.find_spec("IPython") is None:
            from mpiframe.shell import plain as prompt

            return prompt.interact(client, banner(client, name), heed_ctrl_c)
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
