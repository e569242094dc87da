"""What `mpiframe top` and `mpiframe dashboard` share: where snapshots come from, and words for figures."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

from mpiframe.errors import MpiframeError, WorldError

Source = Callable[[int], dict[str, Any]]
"""Returns a snapshot with what happened since a number; see `watch.Watch.snapshot`."""

GONE = (MpiframeError, OSError, EOFError)
"""What a source raises when its world has ended or cannot be reached."""


@contextlib.contextmanager
def open_source(
    name: str | None, what: str, key: str | os.PathLike[str] | None = None
) -> Iterator[tuple[Source, str]]:
    """The source of a running world and its name. `name`, `key`: as for `attaching.attach`.

    what: who looks, for the table of sessions. Raises WorldError.
    """
    from mpiframe.attached.attaching import attach  # late, as is all that one subcommand alone needs

    client = attach(name, f"{what}-{os.getpid()}", key=key, output="quiet", watch=True)
    client.session = ""  # nobody is to come back to it, so errors need not say how
    try:
        yield client.snapshot, client.world
    finally:
        client.close(drop=True)


def add_world(parser: argparse.ArgumentParser) -> None:
    """The arguments by which a world is named."""
    parser.add_argument(
        "name",
        nargs="?",
        metavar="NAME",
        help="which world: its name, HOST:PORT or a forwarded socket; the only one that runs, if left out",
    )
    parser.add_argument("--key", metavar="FILE", help="the key file of a world on another host")


def missing(error: ImportError) -> WorldError:
    """What to say where an extra is not installed."""
    return WorldError(f"this needs {error.name}, which is not installed: pip install 'mpiframe[interactive]'")


def size(count: float | None) -> str:
    """Bytes in words: `612 MiB`."""
    if count is None:
        return "-"
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.3g} GiB" if count < 1000 else f"{count / 1024:.3g} TiB"


def span(seconds: float | None) -> str:
    """Seconds in words: `12 ms`, `3.4 s`, `2:05`, `1:02:03`, `3 d 4 h`."""
    if seconds is None:
        return "-"
    if seconds < 1:
        return f"{max(seconds, 0) * 1e3:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02}"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours}:{minutes:02}:{rest:02}"
    return f"{hours // 24} d {hours % 24} h"


def rate(per_second: float | None) -> str:
    """A rate in words: `0`, `0.3`, `12`, `3.4k`."""
    if per_second is None:
        return "-"
    if per_second < 10:
        return f"{per_second:.1f}" if per_second >= 0.05 else "0"
    return f"{per_second:.0f}" if per_second < 1000 else f"{per_second / 1000:.1f}k"
