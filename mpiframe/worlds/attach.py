"""`mpiframe attach`: a prompt whose client is a session of a world that runs."""

from __future__ import annotations

import argparse

from mpiframe.attached.client import AttachedClient
from mpiframe.cli import seconds

_EPILOG = """\
Leaving the prompt detaches: what was pushed goes on. --session NAME comes back to its requests and results.
`mpiframe key --help` says how to attach from another machine.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `mpiframe attach` takes."""
    parser.usage = "mpiframe attach [NAME|HOST:PORT|SOCKET] [--session NAME] [--key FILE]"
    parser.description = "Open a prompt with `client`, a session of a world that runs."
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "world",
        nargs="?",
        help="its name (default: the only one that runs here), or with --key where it listens",
    )
    parser.add_argument("--session", metavar="NAME", help="come back to this one, or begin it")
    parser.add_argument(
        "--take-over", action="store_true", help="also if another process is attached to the session"
    )
    parser.add_argument("--key", metavar="FILE", help="the key file of a world on another machine")
    parser.add_argument(
        "--timeout", type=seconds, default=10.0, metavar="SECONDS", help="to be attached in (default: 10)"
    )


def run(options: argparse.Namespace) -> int:
    """Attach, and stay until the prompt is left."""
    from mpiframe.attached.attaching import attach

    client = attach(
        options.world,
        options.session,
        key=options.key,
        take_over=options.take_over,
        timeout=options.timeout,
    )
    try:
        return _interact(client, client.world or options.world or "world")
    finally:
        client.close()


def _interact(client: AttachedClient, name: str) -> int:
    from mpiframe.shell.prompt import interact  # late: it may load IPython

    return interact(client, name=name)
