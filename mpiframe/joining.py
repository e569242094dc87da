"""How ranks that were not launched together come to share a communicator.

    start      MPICH: every rank has a launcher of its own. The client opens a port for each server, asks the
               launcher to start them, and takes them in one after the other; all that are in take part in
               that, so in the end there is one communicator, in which everyone has the rank of the world.
    replace    MPICH: the same with one server, which shares a communicator with the client alone.
    spawn      Open MPI: MPI starts the replacement itself.

A port for each, because MPICH's library crashes when two connect to one at a time; and always merged,
because communicators between two groups are slow in every MPI. MPI's calls for this block for as long as the
other side takes, so the client makes them in a thread, and gives up when the launcher says that the other has
ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from mpi4py import MPI

from mpiframe import machine
from mpiframe.errors import WorldError
from mpiframe.launcher.environment import JOIN, RESILIENT, RUN_DIR
from mpiframe.launcher.orders import link, tell_client
from mpiframe.newcomer import Newcomer

_T = TypeVar("_T")
_tickets: dict[int, int] = {}  # how many were given out, by rank
_ended: dict[int, tuple[int, int]] = {}  # by rank: the last ticket whose launcher has ended, and its status
_ready: dict[int, int] = {}  # by rank: the last ticket whose holder is about to connect
_heard = threading.Condition(threading.RLock())  # around these; notified when one of them changes
_LOOK = 0.5  # seconds between two looks at the news, should nobody else read them
_END_SECONDS = 5.0  # for the launcher to read what was printed, and to end us
_CWD = os.getcwd()  # where the ranks of this run were started; a script may go elsewhere


@dataclass(frozen=True, slots=True)
class Joined:
    """A place in a world: the communicator that leads to the client, and what is known of the world."""

    comm: MPI.Intracomm
    base: MPI.Intracomm  # of which those who were there from the start make groups; not for messages
    rank: int  # in the world
    size: int  # of the world


def resilient() -> str:
    """How this world outlives a dead server: "ulfm", "joined", or "" if it does not."""
    return os.environ.get(RESILIENT, "")


def join(deadline: float) -> Joined | None:
    """Come into the world in the way this process was told to; None if it was launched with all others.

    Raises WorldError if the others do not come before `deadline` (monotonic seconds).
    """
    if MPI.COMM_WORLD.Get_size() > 1:
        return None
    if MPI.Comm.Get_parent() != MPI.COMM_NULL:
        os.environ[RESILIENT] = "ulfm"  # a host may not have got it from the launcher
        return _come_spawned()
    text = os.environ.pop(JOIN, "")
    if not text or not resilient():
        return None
    _unlink_own_memory()
    ticket = json.loads(text)
    if "rank" not in ticket:
        return _gather(int(ticket["size"]), deadline)
    rank, size, port = int(ticket["rank"]), int(ticket["size"]), str(ticket["port"])
    if ticket.get("tell"):
        tell_client({"ready": rank, "serial": ticket["serial"]})
    base = MPI.COMM_SELF.Connect(port).Merge(True)
    if ticket["alone"]:
        return Joined(base, base, rank, size)
    while base.Get_size() < size:
        base = base.Accept("").Merge(False)
    return Joined(base.Dup(), base, rank, size)


def _come_spawned() -> Joined:
    comm = MPI.Comm.Get_parent().Merge(True)
    rank, size = comm.bcast(None, 0)
    return Joined(comm, comm, rank, size)


def _gather(size: int, deadline: float) -> Joined:
    """The client of a world that starts: have the servers started, and take them in."""
    launcher = link()
    if launcher is None:
        raise WorldError(f"{JOIN} is set, but there is no launcher: use `mpiframe run --resilient`")
    try:
        ports = {rank: MPI.Open_port() for rank in range(1, size)}
    except MPI.Exception as error:
        raise WorldError(f"this MPICH cannot join ranks that were launched one by one: {error}") from error
    launcher.order(start=[_ticket(rank, size, port, alone=False) for rank, port in ports.items()])
    base: MPI.Intracomm = MPI.COMM_SELF
    for rank, port in ports.items():
        before = base
        base = bounded(lambda: before.Accept(port).Merge(False), rank, deadline)  # noqa: B023
        MPI.Close_port(port)
    return Joined(bounded(base.Dup, 0, deadline), base, 0, size)


def _ticket(rank: int, size: int, port: str, alone: bool) -> dict[str, Any]:
    _tickets[rank] = _tickets.get(rank, 0) + 1
    return {"rank": rank, "size": size, "port": port, "alone": alone, "serial": _tickets[rank]}


def replacement(rank: int, size: int, host: str | None, here: bool, seconds: float) -> MPI.Intracomm:
    """Start a server in the place of one that is gone; the communicator between it and this client.

    `host`: where, if the world has several; `here`: whether that is this one. Raises WorldError if it does
    not come within so many seconds.
    """
    deadline = time.monotonic() + seconds
    if resilient() == "ulfm":
        newcomer = Newcomer([sys.executable, *sys.orig_argv[1:]])
        try:
            return bounded(lambda: _spawn(newcomer, rank, size, host), rank, deadline, newcomer.trouble)
        except WorldError:
            newcomer.give_up()
            raise
    launcher = link()
    if launcher is None:
        raise WorldError("there is no launcher on this host to start a server with")
    port = MPI.Open_port()
    try:
        ticket = _ticket(rank, size, port, alone=True)
        if here:
            # Not before it is about to connect: MPICH lets no other thread get much of MPI meanwhile.
            ticket["tell"] = True
            launcher.order(start=[ticket])
            _await(lambda: _ready.get(rank) == ticket["serial"], rank, deadline)
        else:
            launcher.order(start=[ticket])
        return bounded(lambda: MPI.COMM_SELF.Accept(port).Merge(False), rank, deadline)
    except WorldError:
        with contextlib.suppress(OSError):
            launcher.order(end=rank)
        raise
    finally:
        with contextlib.suppress(MPI.Exception):
            MPI.Close_port(port)


def _spawn(newcomer: Newcomer, rank: int, size: int, host: str | None) -> MPI.Intracomm:
    info = MPI.Info.Create({"wdir": _CWD, "map_by": ":oversubscribe"})
    if host is not None:
        info.Set("host", host)
    program, *arguments = newcomer.argv
    between = MPI.COMM_SELF.Spawn(program, arguments, 1, info)
    if not newcomer.come_through():
        raise WorldError(f"server {rank} came too late")
    comm = between.Merge(False)
    comm.bcast((rank, size), 0)
    return comm


def bounded(
    call: Callable[[], _T], rank: int, deadline: float, trouble: Callable[[], str] = lambda: ""
) -> _T:
    """What a call gives that may block for ever; WorldError at the deadline, or if this server has ended.

    `trouble`: says why there is no use in waiting any longer, or "".
    """
    result: list[_T] = []
    problem: list[BaseException] = []

    def run() -> None:
        try:
            result.append(call())
        except BaseException as error:
            problem.append(error)
        with _heard:
            _heard.notify_all()

    threading.Thread(target=run, name=f"mpiframe-join-{rank}", daemon=True).start()
    _await(lambda: bool(result or problem), rank, deadline, trouble)
    if problem:
        raise WorldError(f"server {rank} could not join: {problem[0]}") from problem[0]
    return result[0]


def _await(
    done: Callable[[], bool], rank: int, deadline: float, trouble: Callable[[], str] = lambda: ""
) -> None:
    with _heard:
        while not done():
            check_launchers(rank or None)
            if why := trouble():
                raise WorldError(f"server {rank} {why}")
            left = deadline - time.monotonic()
            if left <= 0:
                raise WorldError(
                    f"server {rank} did not join in time (MPIFRAME_START_TIMEOUT, and for a replacement "
                    "MPIFRAME_RESTART_TIMEOUT, in seconds)"
                )
            _heard.wait(min(left, _LOOK))


def check_launchers(rank: int | None = None) -> None:
    """Raise WorldError if this server (None: any) has ended before it joined, as its launcher says."""
    for ended, status in ended_launchers().items():
        if rank in (None, ended):
            raise WorldError(f"server {ended} ended with status {status} before it joined")


def ended_launchers() -> dict[int, int]:
    """The servers of a joined world whose launcher has ended, and its status."""
    launcher = link() if resilient() == "joined" else None
    with _heard:
        for item in launcher.news() if launcher is not None else ():
            if "ended" in item:
                _ended[int(item["ended"])] = int(item["serial"]), int(item["status"])
            else:
                _ready[int(item["ready"])] = int(item["serial"])
            _heard.notify_all()
        # A server that is replaced has another ticket from then on.
        return {rank: status for rank, (serial, status) in _ended.items() if serial == _tickets.get(rank)}


def await_end(code: int, client: bool) -> None:
    """Wait for the launcher to end all ranks, this one among them; the client tells it to.

    A rank that just ended would have Open MPI's launcher say that it did so improperly. Returns where there
    is no such launcher, or if it takes too long.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if client:
        launcher = link()
        if launcher is None:
            return
        let_go_of_output()
        with contextlib.suppress(OSError):
            launcher.order(over=code)
    elif not os.path.isdir(os.environ.get(RUN_DIR, "")):
        return  # another host: its daemon ends it as soon as the others are ended
    threading.Event().wait(_END_SECONDS)


def let_go_of_output() -> None:
    """Close what is printed to, and return when the launcher has passed all of it on.

    It passes nothing on any more once it is told to end, or that a rank aborts. A closed pipe or terminal
    wakes whoever reads it, at once; and what it has read it has written when all its threads are asleep
    again.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for fd in (1, 2):
        os.dup2(nowhere, fd)
    machine.await_rest(os.getppid(), _END_SECONDS)


def _unlink_own_memory() -> None:
    """Take the name off MPICH's shared memory: nobody else opens that of a rank which was launched alone.

    It would stay behind when this process is killed.
    """
    with contextlib.suppress(OSError), open("/proc/self/maps") as maps:
        for path in {line.split(maxsplit=5)[-1].strip() for line in maps if "/dev/shm/mpich_shm_" in line}:
            with contextlib.suppress(OSError):
                os.unlink(path)
