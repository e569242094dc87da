"""`mpiframe key`: what a user copies to the machine from which to attach."""

from __future__ import annotations

import argparse
import os
import sys

from mpiframe.worlds import places

_EPILOG = """\
Who has the file may run code in the world: keep it to yourself (umask 077), and copy it by scp.

example, to attach from another machine:
  there:   mpiframe key survey > survey.key                   (and copy it here, mode 0600)
  here:    ssh -N -L /tmp/survey.sock:SOCKET user@there &     (the SOCKET that `mpiframe list --long` shows)
           mpiframe attach /tmp/survey.sock --key survey.key
  or, to a world started with --listen 127.0.0.1:7643:
           ssh -N -L 7643:127.0.0.1:7643 user@there &
           mpiframe attach 127.0.0.1:7643 --key survey.key
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `mpiframe key` takes."""
    parser.usage = "mpiframe key [NAME] > FILE"
    parser.description = "Print the key file of a world, which is what another machine needs to attach to it."
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("name", nargs="?", help="of the world (default: the only one that runs)")


def run(options: argparse.Namespace) -> int:
    """Print it."""
    place, card = places.running(options.name)
    if os.isatty(1):
        print("this is a secret; `mpiframe key ... > FILE` writes it into a file", file=sys.stderr)
    print(place.key(card).text(), end="")
    return 0
