"""How the processes of a world serve, and how they end together."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import sys
import time

from mpi4py import MPI

from mpiframe import codec, doorbell, joining
from mpiframe.messages import Down, Up
from mpiframe.opening import opened
from mpiframe.server import Server
from mpiframe.transport import ASLEEP
from mpiframe.world import CLIENT, World


def serve_and_leave(world: World) -> None:
    """On a server rank: serve, then end the process without returning to the user's script."""
    server = Server(world)
    server.run()
    finalize_and_exit(0, finalize=server.may_finalize)


def dismiss(world: World) -> None:
    """End the servers of a world in which no client was ever made; a second call does nothing."""
    if world.dismissed:
        return
    world.dismissed = True
    for rank in list(world.transport.peers):
        world.transport.send(rank, codec.pack((int(Down.STOP),)))
    waiting = set(world.servers)
    limit = time.monotonic() + world.config.stop_timeout
    while waiting and time.monotonic() < limit:
        message = world.transport.poll()
        if message is None:
            world.transport.show(ASLEEP)
            waiting -= set(world.transport.block(0.1))
        elif codec.unpack(message[1])[0] == Up.STOPPED:
            waiting.discard(message[0])
    leave(world)
    if waiting:
        world.abort(1)


def leave(world: World | None = None, finalize: bool = True) -> None:
    """The client's process is about to end: let the servers' processes end too.

    `finalize`: by MPI's Finalize; not where a rank is dead, and the world outlives that.
    """
    world = world or opened()
    if world is None or world.rank != CLIENT:
        return
    for peer in world.transport.peers.values():
        if peer.control is not None:
            with contextlib.suppress(OSError):
                peer.control.send(doorbell.RECORD.pack(doorbell.FAREWELL, int(not finalize), 0.0, 0))


def finalize_and_exit(code: int, finalize: bool = True) -> None:
    """Flush, end MPI in order, and end the process now, past whatever else would run.

    `finalize=False` where a rank is dead: Finalize would wait for it.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    logging.shutdown()
    if not finalize:
        world = opened()
        if world is not None and world.resilient:
            if world.resilient == "ulfm":
                joining.await_end(code, world.rank == CLIENT)
            os._exit(code)
        if MPI.get_vendor()[0] == "MPICH":
            if world is not None and world.rank == CLIENT:
                joining.let_go_of_output()
            MPI.COMM_WORLD.Abort(code)  # its launcher may report 0 for a run in which a rank just ended
        os._exit(code)
    if not MPI.Is_finalized():
        MPI.Finalize()
    # C's exit and not _exit: MPICH says goodbye to its launcher there, and a launcher that does not hear it
    # reports 0 for the whole run, whatever the client's status was.
    ctypes.CDLL(None).exit(code)
