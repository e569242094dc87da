"""`mpiframe key`: what a user copies to the machine from which to attach over TCP."""

from __future__ import annotations

import argparse
import os
import sys

from mpiframe import places
from mpiframe.errors import WorldError
from mpiframe.secure import Key


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `mpiframe key` takes."""
    parser.usage = "mpiframe key [NAME] > FILE"
    parser.description = (
        "Print the key file of a world that listens on TCP. Who has it may run code in the world: keep it to "
        "yourself (umask 077), and copy it by scp."
    )
    parser.add_argument("name", nargs="?", help="of the world (default: the only one that runs)")


def run(options: argparse.Namespace) -> int:
    """Print it."""
    place, card = places.running(options.name)
    if not card.listen or not card.ready:
        raise WorldError(
            f"the world {place.name} does not listen on TCP: start it with --listen HOST:PORT --key FILE, or "
            f"forward its socket by SSH (ssh -L /tmp/{place.name}.sock:{place.socket} {card.host})"
        )
    if os.isatty(1):
        print("This is a secret; `mpiframe key ... > FILE` writes it into a file.", file=sys.stderr)
    print(Key(place.name, card.listen, card.fingerprint, place.secret()).text(), end="")
    return 0
