"""`mpiframe stop`: end a world, in order if that can be."""

from __future__ import annotations

import argparse
import contextlib

from mpiframe.attached.attaching import CONNECT_SECONDS
from mpiframe.attached.client import connect
from mpiframe.cli import seconds
from mpiframe.errors import MpiframeError
from mpiframe.worlds import ending, places
from mpiframe.worlds.places import Place


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `mpiframe stop` takes."""
    parser.usage = "mpiframe stop [NAME] [--timeout SECONDS]"
    parser.description = (
        "End a world: commands that run are interrupted, queued ones dropped, sessions told. What has "
        "not ended in time is ended by force."
    )
    parser.add_argument("name", nargs="?", help="of the world (default: the only one that runs)")
    parser.add_argument(
        "--timeout",
        type=seconds,
        default=ending.STOP_SECONDS,
        metavar="SECONDS",
        help="to end in order, before force is used (default: %(default)s)",
    )


def run(options: argparse.Namespace) -> int:
    """End it; 0 when nothing of it is left."""
    place, card = places.running(options.name)
    done = ending.stop(
        place, card, ask=lambda: _ask(place, min(options.timeout, CONNECT_SECONDS)), timeout=options.timeout
    )
    print(f"{place.name}: {'; '.join(done)}")
    return 0


def _ask(place: Place, seconds: float) -> None:
    client = connect(("unix", str(place.socket)), place.secret(), timeout=seconds, name=place.name)
    with contextlib.suppress(MpiframeError):  # it may be gone before it has answered
        client.stop_world()
    client.close(drop=True)
