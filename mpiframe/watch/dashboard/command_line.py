"""`mpiframe dashboard [NAME]`: a web page of a running world."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import secrets
import signal
import stat
import sys
import tempfile
import threading
import webbrowser
from collections.abc import Callable, Iterator
from pathlib import Path

from mpiframe.errors import WorldError
from mpiframe.watch.source import add_world, missing, open_source

_LONG_ENOUGH = 16  # characters of a token


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What it takes."""
    parser.description = (
        "Serve a web page of a running world to this host: servers, queues, timeline, output. "
        "Prometheus finds metrics under /metrics, with the token."
    )
    add_world(parser)
    parser.add_argument("--port", type=_port, default=0, help="on 127.0.0.1 (default: a free one)")
    parser.add_argument("--open", action="store_true", help="open it in a browser")
    parser.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="take the token from this file, which nobody else may read; it is made if it is not there",
    )


def run(options: argparse.Namespace) -> int:
    """Serve until Ctrl-C, or until the world is gone; the exit status. Raises WorldError."""
    try:
        from mpiframe.watch.dashboard.server import Dashboard
    except ImportError as error:
        raise missing(error) from error
    token = None if options.token_file is None else token_of(options.token_file)
    with (
        open_source(options.name, "dashboard", options.key) as (source, name),
        contextlib.ExitStack() as exits,
    ):
        dashboard = Dashboard(source, options.port, token)

        def ready(url: str) -> None:
            print(f"mpiframe dashboard of {name or 'the world'}, until Ctrl-C:\n  {url}", flush=True)
            if options.open:
                door = exits.enter_context(_door(url)).as_uri()
                # Beside what serves: a browser in the terminal wants its page before it ends.
                threading.Thread(target=_browse, args=(door,), name="mpiframe-browser", daemon=True).start()

        asyncio.run(_serve(dashboard.serve, ready, dashboard.stop))
        if dashboard.gone is not None:
            print(f"mpiframe dashboard: the world has gone: {dashboard.gone}", file=sys.stderr)
    return 0


async def _serve(
    serve: Callable[[Callable[[str], None]], object], ready: Callable[[str], None], stop: Callable[[], None]
) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    await serve(ready)  # type: ignore[misc]


def token_of(path: Path) -> str:
    """The token in a file that only its owner can read; a new one if there is no file. Raises WorldError."""
    try:
        with contextlib.suppress(FileExistsError):
            new = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(new, "w", encoding="ascii") as file:
                file.write(secrets.token_urlsafe(32) + "\n")
        with open(path, encoding="ascii") as file:
            about = os.fstat(file.fileno())
            if about.st_uid != os.getuid() or stat.S_IMODE(about.st_mode) & 0o077:
                raise WorldError(f"others can read or change {path}: chmod 600 it, or name another file")
            token = file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise WorldError(
            f"the token cannot be read from {path}: {getattr(error, 'strerror', None) or error}"
        ) from error
    if len(token) < _LONG_ENOUGH or not token.isprintable() or any(c in token for c in " &#%+"):
        raise WorldError(
            f"{path} holds no token of {_LONG_ENOUGH} letters or digits at least; delete it to get a new one"
        )
    return token


@contextlib.contextmanager
def _door(url: str) -> Iterator[Path]:
    """A file that leads a browser to the address; on a command line all users of the host would see it."""
    with tempfile.TemporaryDirectory(prefix="mpiframe-") as folder:
        path = Path(folder, "dashboard.html")
        path.write_text(
            f'<!doctype html><meta http-equiv="refresh" content="0; url={url}">', encoding="ascii"
        )
        yield path


def _browse(address: str) -> None:
    if not webbrowser.open(address):
        print("mpiframe dashboard: no browser could be started; open the address by hand", flush=True)


def _port(text: str) -> int:
    if text.isdecimal() and int(text) < 1 << 16:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no port: 1 to 65535, or 0 for a free one")
