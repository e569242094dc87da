"""`mpiframe difx serve`: what it takes, and what is done."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from typing import TYPE_CHECKING

from mpiframe.errors import MpiframeError

if TYPE_CHECKING:
    from mpiframe.plugins.difx.gateway import GatewayOptions

_DEFAULT_PORT = 50200
_EPILOG = """\
Existing clients of the guiServer, and the Java GUI, connect to it. The protocol says nothing of who a client
is, so only this user of this machine is served, on the loopback; reach it from elsewhere through ssh
(ssh -L 50200:localhost:50200 headnode). Other addresses need --token-file or --client-ca.

example: mpiframe difx serve --root /data/correlator --interface eth1
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `mpiframe difx serve`."""
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--port", type=int, default=_DEFAULT_PORT, metavar="N", help="0 takes any (default: %(default)s)")
    add("--host", default="127.0.0.1", metavar="ADDRESS", help="where to listen (default: %(default)s)")
    add(
        "--root", action="append", metavar="FOLDER", help="a folder that clients may use; repeat for more "
        "(default: $JOB_ROOT, or the working directory)",
    )  # fmt: skip
    add("--base", metavar="FOLDER", help="of DiFX's versions (default: $DIFX_BASE)")
    add("--interface", default="lo", metavar="NAME", help="of DiFX's messages (default: %(default)s)")
    add("--token-file", metavar="FILE", help="holds what clients have to send first")
    add("--tls-cert", metavar="FILE", help="a certificate, for TLS")
    add("--tls-key", metavar="FILE", help="its key")
    add("--client-ca", metavar="FILE", help="the CA of clients' certificates, which they have to have then")
    add("--any-user", action="store_true", help="serve other users of this machine too")
    add("--show", action="append", default=[], metavar="NAME", help="a variable that clients may see and set")
    add("--correlator", action="append", metavar="PROGRAM", help="that may be run (default: mpifxcorr)")
    add("--calc", action="append", metavar="PROGRAM", help="that may be run (default: calcif2, difxcalc)")
    add("--mpi-options", metavar="OPTIONS", help="for mpirun (default: $DIFX_MPIRUNOPTIONS)")
    add(
        "--judge-by-stderr",
        action="store_true",
        help="call a run bad that wrote to stderr, as guiServer does",
    )


def options_of(options: argparse.Namespace) -> GatewayOptions:
    """As the gateway takes them. Raises MpiframeError and OSError."""
    import os
    import ssl

    from mpiframe.plugins.difx.gateway import GatewayError, GatewayOptions
    from mpiframe.plugins.difx.multicast import Group

    token = None
    if options.token_file:
        if os.stat(options.token_file).st_mode & 0o077:
            raise GatewayError(f"{options.token_file} can be read by others: chmod 600 it")
        with open(options.token_file, encoding="utf-8") as file:
            token = file.read().strip()
    tls = None
    if options.client_ca and not options.tls_cert:
        raise GatewayError("--client-ca needs --tls-cert and --tls-key")
    if options.tls_cert:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(options.tls_cert, options.tls_key)
        if options.client_ca:
            tls.load_verify_locations(options.client_ca)
            tls.verify_mode = ssl.CERT_REQUIRED
    named = {"correlators": options.correlator, "calc_programs": options.calc}
    return GatewayOptions(
        roots=options.root or [os.environ.get("JOB_ROOT") or os.getcwd()],
        base=options.base,
        group=Group.find(options.interface),
        token=token,
        tls=tls,
        any_user=options.any_user,
        shown=options.show,
        mpi_options=options.mpi_options,
        judge_by_stderr=options.judge_by_stderr,
        **{name: value for name, value in named.items() if value},
    )


def run(options: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM; 1 with a message if that cannot be done."""
    from mpiframe.plugins.difx.gateway import Gateway, is_loopback

    logging.basicConfig(format="difx serve: %(message)s", level=logging.INFO)
    ended = threading.Event()
    try:
        with Gateway(options_of(options)) as gateway:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: ended.set())
            port = gateway.listen(options.host, options.port)
            if not is_loopback(options.host):
                if options.client_ca:
                    secret = "certificates of clients, by TLS"
                elif options.tls_cert:
                    secret = "a token, by TLS"
                else:
                    secret = "a token that everybody on the way can read, and no TLS"
                print(
                    f"WARNING: {options.host} can be reached by others; what keeps them out is {secret}",
                    file=sys.stderr,
                )
            print(f"server at port {port}", flush=True)
            ended.wait()
    except (MpiframeError, OSError) as error:
        print(f"mpiframe difx serve: {error}", file=sys.stderr)
        return 1
    return 0
