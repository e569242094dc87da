"""`mpiframe attach`: a prompt whose client is a session of a world that runs."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `mpiframe attach` takes."""
    parser.usage = "mpiframe attach [NAME|HOST:PORT|SOCKET] [--session NAME] [--key FILE]"


def run(options: argparse.Namespace) -> int:
    """Not yet."""
    raise NotImplementedError
