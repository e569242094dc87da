"""`mpiframe start`: a world that goes on when the terminal closes, and that sessions attach to."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from pathlib import Path

from mpiframe.cli import add_launching, add_trace, seconds, traced
from mpiframe.errors import WorldError
from mpiframe.worlds import background, places, secure
from mpiframe.worlds.places import Card, Place

NAME = "world"
_INTERRUPTED = 130
POLICIES = ("never", "always")

_EPILOG = """\
It returns when the world can be attached to. --listen lets sessions of other machines attach over TCP,
secured by TLS: what they need is written into the key file, whose holder may run code in the world. Through a
tunnel of SSH loopback is enough, and so is no --listen at all:

  ssh -L /tmp/survey.sock:SOCKET user@host      with the SOCKET that `mpiframe list --long` shows

examples: mpiframe start -n 8 --name survey
          mpiframe start -n 8 --name survey --listen 127.0.0.1:7643 --key survey.key
          mpiframe start -n 64 --name survey --foreground          (in a batch script)
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `mpiframe start` takes."""
    parser.usage = "mpiframe start -n N [--name NAME] [options]"
    parser.description = "Start a world in the background: a client with its hub, and N-1 servers."
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--name", default=NAME, help="by which it is found (default: %(default)s)")
    add_launching(parser)
    parser.add_argument(
        "--foreground", action="store_true", help="stay until it ends, as a batch script has to"
    )
    parser.add_argument(
        "--restart",
        choices=POLICIES,
        default="never",
        help="what becomes of the place of a server that died, in a resilient world (default: %(default)s)",
    )
    parser.add_argument(
        "--timeout",
        type=seconds,
        default=background.START_SECONDS,
        metavar="SECONDS",
        help="to wait until it can be attached to (default: %(default)s)",
    )
    parser.add_argument(
        "--listen",
        metavar="HOST:PORT",
        help="attach over TCP, too (no host: loopback; port 0: any that is free); wants --key",
    )
    parser.add_argument(
        "--key", metavar="FILE", type=Path, help="the key file to write for those who attach over TCP"
    )
    parser.add_argument(
        "--cert",
        metavar="FILE",
        type=Path,
        help="a PEM file with a certificate and its key (default: one is made)",
    )
    add_trace(parser)


def run(options: argparse.Namespace) -> int:
    """Start it; 0 when it can be attached to, or with --foreground what it ends with."""
    _check_key(options)
    _check_trace(options.trace)
    how = "foreground" if options.foreground else "background"
    orders = background.orders(options, how, background.hosted(options.restart), traced(options))

    def prepare(place: Place) -> background.Orders:
        return _secured(orders, place, options) if options.listen else orders

    if options.foreground:
        return background.run_named(options.name, orders, prepare)
    try:
        started = background.start(options.name, orders, prepare=prepare, timeout=options.timeout)
    except KeyboardInterrupt:
        print("mpiframe start: interrupted; nothing of the world is left", file=sys.stderr)
        return _INTERRUPTED
    print(_greeting(started.place, started.card))
    return 0


def _check_key(options: argparse.Namespace) -> None:
    if options.listen is None:
        for name in ("key", "cert"):
            if getattr(options, name) is not None:
                raise WorldError(f"--{name} is of use with --listen only")
        return
    secure.split_address(options.listen)
    if options.key is None:
        raise WorldError(
            "--listen wants --key FILE: the file to write for those who are to attach, whose holders may run "
            "code in this world"
        )
    if options.key.exists():
        secure.Key.read(options.key)  # what is no key is not written over
    elif not os.access(options.key.absolute().parent, os.W_OK):
        raise WorldError(f"cannot write the key file {options.key}: its folder is not there, or not writable")


def _check_trace(path: str | None) -> None:
    """Whether rank 0 can make the file: it runs on this host, but far from whoever could be told there."""
    if path is None:
        return
    found = os.path.lexists(path)
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o666))
    except OSError as error:
        raise WorldError(f"the trace {path} cannot be written: {error.strerror}") from None
    if not found:
        os.unlink(path)  # what does not start leaves no trace


def _secured(orders: background.Orders, place: Place, options: argparse.Namespace) -> background.Orders:
    """Put the certificate where the hub finds it, which writes the key file when it listens."""
    if options.cert is None:
        secure.make_certificate(place.certificate, place.name)
    else:
        secure.server_context(options.cert)
        place.write("certificate", options.cert.read_bytes())
        if options.key.exists():  # the same certificate and secret: copies of the key stay good
            place.write("secret", secure.Key.read(options.key).secret)
    return dataclasses.replace(
        orders,
        listen=options.listen,
        fingerprint=secure.fingerprint_of(place.certificate),
        key_file=str(options.key.absolute()),
    )


def _greeting(place: Place, card: Card) -> str:
    lines = [
        f"{place.name}: {places.describe(card)}",
        f"  attach   mpiframe attach {place.name}   (in Python: mpiframe.attach({place.name!r}))",
        f"  watch    mpiframe top {place.name}, mpiframe dashboard {place.name}",
        f"  stop     mpiframe stop {place.name}",
        f"  log      {place.log}",
    ]
    if card.listen:
        host, _ = secure.split_address(card.listen)
        far = "" if secure.is_loopback(host) else ", from every machine that can reach this one"
        lines[2:2] = [f"  over TCP mpiframe attach --key {card.key_file}   (at {card.listen}{far})"]
    return "\n".join(lines)
