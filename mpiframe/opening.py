"""How the members of a world come to know each other: collective, and bounded in time.

server                                   client
HELLO (host, pid, cores, addresses)  ->
                                     <-  WELCOME (secret, where to connect, who is on your host, config)
opens its two doorbell connections   ->  accepts them while their secrets are proved
READY (how it can be woken)          ->
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
from typing import Any

from mpi4py import MPI

from mpiframe import doorbell, joining, machine, stuck
from mpiframe.codec import pack, unpack
from mpiframe.config import Config
from mpiframe.errors import WorldError
from mpiframe.launcher.environment import MPICH_SEGMENTS
from mpiframe.transport import Peer, Transport
from mpiframe.world import CLIENT, LEVELS, Member, World

_HELLO, _WELCOME, _READY = 1, 2, 3
_PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
_HOW_TO = (
    "Start it with `mpiframe run -n 4 script.py`, or `mpiexec -n 4 python -m mpiframe script.py` "
    "(one client and three servers). `mpiframe doctor` says what this machine offers."
)


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
    if MPI.Query_thread() < MPI.THREAD_SERIALIZED:
        raise WorldError(
            f"MPI was started with thread level {LEVELS.get(MPI.Query_thread(), '?')}; mpiframe needs "
            f"SERIALIZED or MULTIPLE. Leave mpi4py.rc.thread_level at its default, 'multiple'."
        )
    deadline = time.monotonic() + config.start_timeout
    joined = joining.join(deadline)
    if joined is None:
        _check_size(MPI.COMM_WORLD.Get_size())
        comm, request = MPI.COMM_WORLD.Idup()
        _until(request.Test, deadline, "not every rank of this run came to open its mpiframe world")
        joined = joining.Joined(comm, MPI.COMM_WORLD, comm.Get_rank(), comm.Get_size())
    me = Member(
        joined.rank,
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
            _opened = _open_client(joined, me, config, deadline)
        else:
            _opened = _open_server(joined, me, deadline)
    except MPI.Exception as error:
        raise WorldError(f"a rank ended while the world was being opened: {error}") from error
    except OSError as error:  # too many open files, a full /dev/shm
        raise WorldError(f"the world cannot be opened on {me.host} (rank {me.rank}): {error}") from error
    stuck.watch(_opened)
    _forget_segments()
    os.environ.pop("MPIFRAME_TRACE", None)  # a run that is started from this one is not to write there, too
    return _opened


def _forget_segments() -> None:
    """Take away the name of MPICH's shared memory, which all who need it have mapped by now.

    MPICH does so at its end, which a rank that is killed never comes to: the file would stay for good.
    """
    for path in machine.mapped_segments(MPICH_SEGMENTS):
        with contextlib.suppress(OSError):  # another rank of this host was quicker
            os.unlink(path)


def give_up(code: int) -> None:
    """End every process of the run, because its world cannot be opened; nothing where there is one rank."""
    if MPI.COMM_WORLD.Get_size() > 1 or joining.resilient():
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
    """Small messages of the start, without ever blocking in MPI.

    `alone`: the one server at the other end of a communicator, in which its rank is 1.
    """

    def __init__(self, comm: MPI.Intracomm, alone: int | None = None) -> None:
        self._comm = comm
        self._alone = alone
        self._unsent: list[tuple[Any, bytes]] = []

    def send(self, rank: int, tag: int, message: tuple[Any, ...]) -> None:
        data = pack(message)
        self._unsent.append((self._comm.Isend([data, MPI.BYTE], 1 if self._alone else rank, tag), data))

    def receive(self, rank: int, tag: int) -> tuple[int, tuple[Any, ...]] | None:
        self._unsent = [pair for pair in self._unsent if not pair[0].Test()]
        status = MPI.Status()
        message = self._comm.Improbe(rank, tag, status)
        if message is None:
            return None
        data = bytearray(status.Get_count(MPI.BYTE))
        message.Recv([data, MPI.BYTE])
        return self._alone or status.Get_source(), unpack(data)

    def flush(self, deadline: float) -> None:
        _until(lambda: all([pair[0].Test() for pair in self._unsent]), deadline, "a rank took no message")


# -- the client's side ---------------------------------------------------------------------------------


def _open_client(joined: joining.Joined, me: Member, config: Config, deadline: float) -> World:
    comm = joined.comm
    courier = _Courier(comm)
    members = {me.rank: me}
    while len(members) < comm.Get_size():

        def problem() -> str:
            missing = sorted(set(range(comm.Get_size())) - set(members))
            return f"the servers {missing[:8]} did not introduce themselves"

        def hear() -> tuple[int, tuple[Any, ...]] | None:
            joining.check_launchers()
            return courier.receive(MPI.ANY_SOURCE, _HELLO)

        rank, hello = _until(hear, deadline, problem)
        members[rank] = Member(*hello)
    members = dict(sorted(members.items()))
    _check_pythons(me, members)
    _raise_descriptor_limit()
    cores = _cores_of(me, [m for m in members.values() if m.host_key == me.host_key])
    size = joined.size
    transport = Transport(comm, 0, size, config.large, config.spin, cores, beds=2, reuse=config.reuse)
    transport.resilient = bool(joining.resilient())
    transport.frail = joining.resilient() == "joined"
    with doorbell.private_folder() as folder:
        page = _make_page(folder, comm.Get_size())
        world = World(
            comm, 0, size, config, transport, members, {}, {}, cores, joined.base, joining.resilient(), page
        )
        local = [m for m in members.values() if m.host_key == me.host_key]
        transport.share(page[1], len(local))
        page_path = os.path.join(folder, "awake")
        for peer in _ring_in(world, world.servers, courier, folder, page_path, deadline):
            transport.add(peer)
    if not world.resilient:
        os.close(page[0])
        world.page = None
    return world


def admit(world: World, comm: MPI.Intracomm, rank: int, seconds: float) -> Peer:
    """Let a replacement in, which shares `comm` with this client alone; how it is reached from now on.

    Raises WorldError if it ends, or is not in within so many seconds.
    """
    deadline = time.monotonic() + seconds
    courier = _Courier(comm, rank)

    def hear() -> tuple[int, tuple[Any, ...]] | None:
        joining.check_launchers(rank)
        return courier.receive(1, _HELLO)

    try:
        _, hello = _until(hear, deadline, f"server {rank} did not introduce itself")
        member = Member(*hello)
        _check_pythons(world.members[CLIENT], {rank: member})
        world.members[rank] = member
        assert world.page is not None
        page_path = f"/proc/{os.getpid()}/fd/{world.page[0]}"
        with doorbell.private_folder() as folder:
            (peer,) = _ring_in(world, [rank], courier, folder, page_path, deadline)
    except (MPI.Exception, OSError) as error:
        raise WorldError(f"server {rank} ended before it was ready: {error}") from error
    peer.comm, peer.address = comm, 1
    return peer


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


def _make_page(folder: str, size: int) -> tuple[int, mmap.mmap]:
    path = os.path.join(folder, "awake")
    with open(path, "w+b") as file:
        length = max(-(-size // 8) * 8 + 8 * size, mmap.PAGESIZE)  # a byte and a number for each rank
        file.truncate(length)
        return os.dup(file.fileno()), mmap.mmap(file.fileno(), length)


def _ring_in(
    world: World, servers: list[int], courier: _Courier, folder: str, page_path: str, deadline: float
) -> list[Peer]:
    """Tell these servers where to connect, and take their connections."""
    me, secret = world.members[world.rank], os.urandom(32)
    acceptor = doorbell.Acceptor(secret, servers, world.config.link_timeout)
    hosts: dict[str, list[Member]] = {}
    for member in world.members.values():
        hosts.setdefault(member.host_key, []).append(member)
    asked = {world.members[rank].host_key for rank in servers} - {me.host_key}
    elsewhere = [hosts[key] for key in asked]
    # An address that both hosts have is a bridge to containers or the like, and leads to ourselves.
    far = [a for there in elsewhere for m in there for a in m.addresses if a not in me.addresses]
    far = far if elsewhere else ["127.0.0.1"]
    cores = {key: _cores_of(there[0], there) for key, there in hosts.items()}
    try:
        listening: dict[str, doorbell.Address] = {}
        for rank in servers:
            member = world.members[rank]
            local = member.host_key == me.host_key
            address = _address_for(world.config, acceptor, listening, folder, local, far)
            page = page_path if address[0] == "unix" else ""
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
            joining.check_launchers(servers[0] if len(servers) == 1 else None)
            acceptor.step(1e-3)
        peers = [_peer(world, acceptor, rank, ready[rank], deadline) for rank in servers]
        courier.flush(deadline)
        return peers
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


def _peer(
    world: World,
    acceptor: doorbell.Acceptor,
    rank: int,
    ready: tuple[Any, ...],
    deadline: float,
) -> Peer:
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
    return peer


def _events_for(config: Config, transport: Transport, peer: Peer) -> list[int]:
    """Our eventfds, if this peer can be given them."""
    return transport.own_events() if peer.local and config.doorbell == "auto" else []


# -- a server's side -----------------------------------------------------------------------------------


def _open_server(joined: joining.Joined, me: Member, deadline: float) -> World:
    comm = joined.comm
    courier = _Courier(comm)
    courier.send(CLIENT, _HELLO, dataclasses.astuple(me))
    problem = "the client (rank 0) did not answer"
    _, welcome = _until(lambda: courier.receive(CLIENT, _WELCOME), deadline, problem)
    client, config_values, secret, address, page_path, here, cores = welcome
    config = Config(*config_values)
    peer, how, reason = Peer(CLIENT), "polling", ""
    spin = config.spin if page_path or here <= cores else 0.0
    transport = Transport(comm, me.rank, joined.size, config.large, spin, cores, reuse=config.reuse)
    transport.resilient = bool(joining.resilient())
    transport.frail = joining.resilient() == "joined"
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
    return World(
        comm,
        me.rank,
        joined.size,
        config,
        transport,
        members,
        {me.rank: how},
        {},
        cores,
        joined.base,
        joining.resilient(),
    )
