"""The world of one run: who is in it, and how its members came to know each other.

Opening it is collective and bounded in time:

    server                                   client
    HELLO (host, pid, cores, addresses)  ->
                                         <-  WELCOME (secret, where to connect, who is on your host, config)
    opens its two doorbell connections   ->  accepts them while their secrets are proved
    READY (how it can be woken)          ->

A member is addressed as (communicator, rank); everything above this module uses the Transport only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import mmap
import os
import resource
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mpi4py import MPI

from mpiframe import doorbell, machine
from mpiframe.codec import pack, unpack
from mpiframe.config import Config
from mpiframe.errors import WorldError
from mpiframe.messages import WorldFacts
from mpiframe.transport import Peer, Transport

_HELLO, _WELCOME, _READY = 1, 2, 3
CLIENT = 0
_PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
_LEVELS = {
    MPI.THREAD_SINGLE: "SINGLE",
    MPI.THREAD_FUNNELED: "FUNNELED",
    MPI.THREAD_SERIALIZED: "SERIALIZED",
    MPI.THREAD_MULTIPLE: "MULTIPLE",
}
_HOW_TO = (
    "Start it with `mpiframe run -n 4 script.py`, or `mpiexec -n 4 python -m mpiframe script.py` "
    "(one client and three servers). `mpiframe doctor` says what this machine offers."
)


@dataclass(frozen=True, slots=True)
class Member:
    """One rank, as it introduced itself."""

    rank: int
    host: str
    host_key: str
    pid: int
    cores: tuple[int, ...]  # the cores it may run on
    quota: int  # cores its container leaves to all, 0 without a limit
    addresses: tuple[str, ...]
    python: str


@dataclass(slots=True)
class World:
    """An opened world, on either side."""

    comm: MPI.Intracomm
    rank: int
    size: int
    config: Config
    transport: Transport
    members: dict[int, Member]  # on a server: the client and itself only
    wakes: dict[int, str]  # server rank -> "unix", "tcp" or "polling"
    why_polling: dict[int, str]
    cores: int
    dismissed: bool = False  # its servers were told to end, though no client was ever made

    @property
    def servers(self) -> list[int]:
        """The ranks of all servers."""
        return [rank for rank in range(self.size) if rank != CLIENT]

    def facts(self) -> WorldFacts:
        """What this world stands on."""
        return WorldFacts(
            mpi=MPI.Get_library_version().split("\n")[0].strip("\0 "),
            thread_level=_LEVELS.get(MPI.Query_thread(), "?"),
            ranks=self.size,
            hosts=len({m.host_key for m in self.members.values()}),
            doorbell=dict(self.wakes),
            spin=self.transport.spin > 0,
            cores=self.cores,
        )

    def abort(self, code: int) -> None:
        """End every process of the world now. The last resort: nothing is cleaned up."""
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # closed, or gone
                stream.flush()
        self.comm.Abort(code)


_opened: World | None = None


def opened() -> World | None:
    """The world of this process, if it is open."""
    return _opened


def open_world(config: Config | None = None) -> World:
    """Join the world; every rank of the run has to. Later calls return the same world.

    Raises WorldError where there is one rank only, or where some do not come within
    `Config.start_timeout` seconds.
    """
    global _opened
    if _opened is not None:
        return _opened
    config = config or Config.from_environment()
    base = MPI.COMM_WORLD
    _check_size(base.Get_size())
    if MPI.Query_thread() < MPI.THREAD_SERIALIZED:
        raise WorldError(
            f"MPI was started with thread level {_LEVELS.get(MPI.Query_thread(), '?')}; mpiframe needs "
            f"SERIALIZED or MULTIPLE. Leave mpi4py.rc.thread_level at its default, 'multiple'."
        )
    deadline = time.monotonic() + config.start_timeout
    comm, request = base.Idup()
    _until(request.Test, deadline, "not every rank of this run came to open its mpiframe world")
    me = Member(
        base.Get_rank(),
        socket.gethostname(),
        machine.host_key(),
        os.getpid(),
        tuple(machine.affinity()),
        machine.quota() or 0,
        tuple(machine.addresses()),
        _PYTHON,
    )
    try:
        if me.rank == CLIENT:
            _opened = _open_client(comm, me, config, deadline)
        else:
            _opened = _open_server(comm, me, deadline)
    except OSError as error:  # too many open files, a full /dev/shm
        raise WorldError(f"the world cannot be opened on {me.host} (rank {me.rank}): {error}") from error
    _forget_segments()
    return _opened


def _forget_segments() -> None:
    """Take away the name of MPICH's shared memory, which all who need it have mapped by now.

    MPICH does so at its end, which a rank that is killed never comes to: the file would stay for good.
    """
    for path in machine.mapped_segments("mpich_shm_"):
        with contextlib.suppress(OSError):  # another rank of this host was quicker
            os.unlink(path)


def give_up(code: int) -> None:
    """End every process of the run, because its world cannot be opened; nothing where there is one rank."""
    if MPI.COMM_WORLD.Get_size() > 1:
        MPI.COMM_WORLD.Abort(code)


def _check_size(size: int) -> None:
    if size > 1:
        return
    for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"):
        started = os.environ.get(name, "")
        if started.isdigit() and int(started) > 1:
            library = MPI.Get_library_version().split("\n")[0].strip("\0 ")
            raise WorldError(
                f"the launcher started {started} ranks ({name}), but MPI sees one: the launcher and the MPI "
                f"library do not belong together. The library in use is {library}. "
                f"Start with this library's own mpiexec, or under Slurm with the --mpi option that it "
                f"understands (pmix for Open MPI, pmi2 for MPICH). `mpiframe doctor` finds the launcher."
            )
    raise WorldError(
        f"mpiframe needs at least two ranks, a client and a server, and this run has one. {_HOW_TO}"
    )


def _until(test: Callable[[], Any], deadline: float, problem: str | Callable[[], str]) -> Any:
    """Call `test` until it gives something true; the doorbell does not exist yet, so back off."""
    step = 20e-6
    while True:
        result = test()
        if result:
            return result
        if time.monotonic() > deadline:
            what = problem if isinstance(problem, str) else problem()
            raise WorldError(f"{what} within the start time-out (MPIFRAME_START_TIMEOUT, seconds). {_HOW_TO}")
        time.sleep(step)
        step = min(step * 1.5, 2e-3)


class _Courier:
    """Small messages of the start, without ever blocking in MPI."""

    def __init__(self, comm: MPI.Intracomm) -> None:
        self._comm = comm
        self._unsent: list[tuple[Any, bytes]] = []

    def send(self, rank: int, tag: int, message: tuple[Any, ...]) -> None:
        data = pack(message)
        self._unsent.append((self._comm.Isend([data, MPI.BYTE], rank, tag), data))

    def receive(self, rank: int, tag: int) -> tuple[int, tuple[Any, ...]] | None:
        self._unsent = [pair for pair in self._unsent if not pair[0].Test()]
        status = MPI.Status()
        message = self._comm.Improbe(rank, tag, status)
        if message is None:
            return None
        data = bytearray(status.Get_count(MPI.BYTE))
        message.Recv([data, MPI.BYTE])
        return status.Get_source(), unpack(data)

    def flush(self, deadline: float) -> None:
        _until(lambda: all([pair[0].Test() for pair in self._unsent]), deadline, "a rank took no message")


# -- the client's side ---------------------------------------------------------------------------------


def _open_client(comm: MPI.Intracomm, me: Member, config: Config, deadline: float) -> World:
    courier = _Courier(comm)
    members = {me.rank: me}
    while len(members) < comm.Get_size():

        def problem() -> str:
            missing = sorted(set(range(comm.Get_size())) - set(members))
            return f"the servers {missing[:8]} did not introduce themselves"

        rank, hello = _until(lambda: courier.receive(MPI.ANY_SOURCE, _HELLO), deadline, problem)
        members[rank] = Member(*hello)
    members = dict(sorted(members.items()))
    _check_pythons(me, members)
    _raise_descriptor_limit()
    cores = _cores_of(me, [m for m in members.values() if m.host_key == me.host_key])
    transport = Transport(comm, config.large, config.spin, cores, beds=2, reuse=config.reuse)
    with doorbell.private_folder() as folder:
        page = _make_page(folder, comm.Get_size())
        world = World(comm, me.rank, comm.Get_size(), config, transport, members, {}, {}, cores)
        local = [m.rank for m in members.values() if m.host_key == me.host_key]
        transport.share(page, len(local))
        _ring_in(world, courier, folder, set(local), deadline)
    return world


def _check_pythons(me: Member, members: dict[int, Member]) -> None:
    for member in members.values():
        if member.python != me.python:
            raise WorldError(
                f"server {member.rank} on {member.host} runs Python {member.python}, the client on {me.host} "
                f"runs {me.python}: functions cannot travel between them. Use one environment for all ranks."
            )


def _raise_descriptor_limit() -> None:
    """The client has up to five descriptors for each server; many systems give a process 1,024 at first."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _cores_of(member: Member, here: list[Member]) -> int:
    """Cores that the ranks on this member's host (`here`) have together, each bound to its own or not."""
    together = len({core for m in here for core in m.cores})
    return min(together, member.quota) if member.quota else together


def _make_page(folder: str, size: int) -> mmap.mmap:
    path = os.path.join(folder, "awake")
    with open(path, "w+b") as file:
        file.truncate(max(size, mmap.PAGESIZE))
        return mmap.mmap(file.fileno(), max(size, mmap.PAGESIZE))


def _ring_in(world: World, courier: _Courier, folder: str, local: set[int], deadline: float) -> None:
    """Tell every server where to connect, and take its connections."""
    me, secret = world.members[world.rank], os.urandom(32)
    servers = world.servers
    acceptor = doorbell.Acceptor(secret, servers, world.config.link_timeout)
    hosts: dict[str, list[Member]] = {}
    for member in world.members.values():
        hosts.setdefault(member.host_key, []).append(member)
    elsewhere = [there for key, there in hosts.items() if key != me.host_key]
    # An address that both hosts have is a bridge to containers or the like, and leads to ourselves.
    far = [a for there in elsewhere for m in there for a in m.addresses if a not in me.addresses]
    far = far if elsewhere else ["127.0.0.1"]
    cores = {key: _cores_of(there[0], there) for key, there in hosts.items()}
    try:
        listening: dict[str, doorbell.Address] = {}
        for rank in servers:
            member = world.members[rank]
            address = _address_for(world.config, acceptor, listening, folder, rank in local, far)
            page = os.path.join(folder, "awake") if address[0] == "unix" else ""
            courier.send(
                rank,
                _WELCOME,
                (
                    dataclasses.astuple(me),
                    dataclasses.astuple(world.config),
                    secret,
                    address,
                    page,
                    len(hosts[member.host_key]),
                    cores[member.host_key],
                ),
            )
        ready: dict[int, tuple[Any, ...]] = {}
        while len(ready) < len(servers):
            got = courier.receive(MPI.ANY_SOURCE, _READY)
            if got is not None:
                ready[got[0]] = got[1]
                continue
            if time.monotonic() > deadline:
                late = sorted(set(servers) - set(ready))
                raise WorldError(f"the servers {late[:8]} did not get ready within the start time-out")
            acceptor.step(1e-3)
        for rank in servers:
            _add_peer(world, acceptor, rank, ready[rank], deadline)
        courier.flush(deadline)
    finally:
        acceptor.close()


def _address_for(
    config: Config,
    acceptor: doorbell.Acceptor,
    listening: dict[str, doorbell.Address],
    folder: str,
    local: bool,
    far: list[str],
) -> doorbell.Address:
    """Where a server is to connect; `far` are addresses that it must be possible to reach from there."""
    if config.doorbell == "off":
        return ("none", "switched off")
    if local and config.doorbell != "tcp":
        if "unix" not in listening:
            listening["unix"] = acceptor.listen_unix(os.path.join(folder, "bell"))
        return listening["unix"]
    # Listen on the one interface that leads to the servers, not on all of them.
    for peer in far:
        host = machine.address_towards(peer)
        if host is None or host.startswith("127.") != peer.startswith("127."):
            continue
        if host not in listening:
            try:
                listening[host] = acceptor.listen_tcp(host, config.ports())
            except OSError as error:
                listening[host] = ("none", f"the client cannot listen on {host}: {error}")
        return listening[host]
    return ("none", "no address is known by which it could reach the client's host")


def _add_peer(
    world: World,
    acceptor: doorbell.Acceptor,
    rank: int,
    ready: tuple[Any, ...],
    deadline: float,
) -> None:
    how, reason = ready
    peer = Peer(rank, local=how == "unix")
    if how != "polling":
        while not acceptor.complete(rank):  # its last proof may still be in the socket
            if time.monotonic() > deadline:
                raise WorldError(f"the doorbell of server {rank} was not heard within the start time-out")
            acceptor.step(1e-2)
        peer.bell, peer.control = acceptor.take(rank)
        events = _events_for(world.config, world.transport, peer)
        if events:
            peer.events = doorbell.swap_events(peer.bell, events, 5.0)
    else:
        world.why_polling[rank] = reason
    world.wakes[rank] = how
    world.transport.add(peer)


def _events_for(config: Config, transport: Transport, peer: Peer) -> list[int]:
    """Our eventfds, if this peer can be given them."""
    return transport.own_events() if peer.local and config.doorbell == "auto" else []


# -- a server's side -----------------------------------------------------------------------------------


def _open_server(comm: MPI.Intracomm, me: Member, deadline: float) -> World:
    courier = _Courier(comm)
    courier.send(CLIENT, _HELLO, dataclasses.astuple(me))
    problem = "the client (rank 0) did not answer"
    _, welcome = _until(lambda: courier.receive(CLIENT, _WELCOME), deadline, problem)
    client, config_values, secret, address, page_path, here, cores = welcome
    config = Config(*config_values)
    peer, how, reason = Peer(CLIENT), "polling", ""
    spin = config.spin if page_path or here <= cores else 0.0
    transport = Transport(comm, config.large, spin, cores, reuse=config.reuse)
    try:
        if address[0] == "none":
            reason = address[1]
            raise ConnectionError(reason)
        left = min(max(deadline - time.monotonic(), 1.0), config.connect_timeout)
        peer.bell, peer.control = doorbell.connect(tuple(address), secret, me.rank, left, config.link_timeout)
        how = address[0]
        if page_path:
            with open(page_path, "r+b") as file:
                transport.share(mmap.mmap(file.fileno(), 0), here)
            peer.local = True
    except OSError as error:
        reason = reason or f"{address[1:]} cannot be reached from {me.host}: {error}"
    courier.send(CLIENT, _READY, (how, reason))
    courier.flush(deadline)
    events = _events_for(config, transport, peer)
    if events and peer.bell is not None:
        peer.events = doorbell.swap_events(peer.bell, events, max(deadline - time.monotonic(), 1.0))
    transport.add(peer)
    members = {CLIENT: Member(*client), me.rank: me}
    return World(comm, me.rank, comm.Get_size(), config, transport, members, {me.rank: how}, {}, cores)
