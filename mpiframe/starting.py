"""Starts MPI in this process, within a time-out: MPI's own start waits for every rank, without one."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import socket
import sys
from pathlib import Path

from mpiframe import launcher
from mpiframe.config import Config
from mpiframe.errors import WorldError
from mpiframe.launcher.environment import RUN_DIR, STARTED

_LAUNCHER_SECONDS = 5.0
"""For `mpiframe run`, which tidies up, to end us first; it hears nothing of ranks on other hosts alone."""


def start_mpi() -> None:
    """Import mpi4py.MPI, with the settings that `mpiframe run` would make; nothing if that has been done.

    Ends this process if it takes longer than `Config.init_timeout` seconds, as where a firewall drops what
    MPI sends to another host. Raises what mpi4py does where there is no MPI.
    """
    if "mpi4py.MPI" in sys.modules:
        return
    launcher.prepare_process()
    seconds = 0.0
    with contextlib.suppress(WorldError):  # a bad setting: it is said when the world is opened
        seconds = Config.from_environment().init_timeout
    # mpi4py keeps the interpreter while MPI starts, so no thread of Python's could do anything.
    # Faulthandler's needs no interpreter, but says only where the others are: what there is to say is the
    # name of a file.
    words = (
        f"mpiframe: MPI did not start on {socket.gethostname()} (process {os.getpid()}) within {seconds:g} s "
        "(MPIFRAME_INIT_TIMEOUT); this rank is ended. MPI waits for all ranks: one may not have come that "
        "far, or a firewall between hosts drops what they send. `mpiframe doctor` tries this host"
    )
    start = compile("import mpi4py.MPI", words, "exec")
    if seconds:
        later = _LAUNCHER_SECONDS if RUN_DIR in os.environ else 0.0
        with contextlib.suppress(AttributeError, OSError, ValueError):  # standard error is closed, or no file
            faulthandler.dump_traceback_later(seconds + later, exit=True)
    try:
        exec(start, {})
    finally:
        faulthandler.cancel_dump_traceback_later()
    folder = os.environ.get(RUN_DIR, "")
    if os.path.isdir(folder):  # else it is on another host, or there is none
        Path(folder, STARTED).touch()
