"""Messages between ranks over MPI, and the ways to wait for them.

A message is a frame (bytes) and the buffers that travel beside it. Small ones go as one MPI message.
What is larger than `Config.large` is announced; the receiver allocates, posts its receives, answers "go",
and both sides keep MPI progressing until it is through:

    sender                          receiver
    LARGE (frame, sizes)   ------>  np.empty, Irecv ...
                           <------  GO
    Isend ... of the pieces ----->  (neither sleeps while these are under way)

So a sender never waits for a receiver that computes, memory is allocated only when it is about to be used,
and MPI never has to hold a large message that nobody asked for. Messages of one sender are delivered in
the order they were sent.

Waiting. A rank that sleeps shows it in a page of shared memory, one byte a rank, and blocks in `epoll` on
its doorbell; a sender that sees the byte rings. Awake ranks are not rung, so the busy path has no system
call beside MPI's own. Ranks on other hosts cannot see the page and always ring.

One thread at a time may use a Transport: its owner holds a lock around every call but `block`.
"""

from __future__ import annotations

import mmap
import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mpi4py import MPI

from mpiframe.codec import pack, unpack
from mpiframe.memory import ReceiveMemory

_SMALL, _LARGE, _GO, _BULK = 11, 12, 13, 14  # tags, on a communicator of our own
_PIECE = 1 << 30  # bytes a single MPI call may move: some MPIs fail from 2 GiB on
_INLINE = 2048  # a message up to this size is received at once, as every MPI sends it eagerly
BACKSTOP = 0.5  # seconds after which a sleeper looks at MPI though no bell rang
_STEP = 50e-6  # first step of the back-off where there is no doorbell
_LONGEST = 2e-3  # its last step

AWAKE, ASLEEP, AWAY = 0, 1, 2
"""States in the shared page. AWAY: computing outside the runtime; ring, but do not count its core as free."""

_NONE: list[int] = []
_HUNG_UP = getattr(select, "POLLRDHUP", select.POLLHUP)  # the first is Linux's

Message = tuple[int, Any, Sequence[Any]]
"""(rank, frame, buffers)"""


@dataclass(slots=True)
class Peer:
    """How to reach one other rank beside MPI."""

    rank: int
    bell: socket.socket | None = None
    control: socket.socket | None = None
    local: bool = False  # shares the page with us
    events: tuple[int, ...] = ()  # its eventfds, one a bed: on one host, quicker to ring than the socket
    comm: MPI.Intracomm | None = None  # None for the world's own, where every member has its own rank
    address: int = 0  # its rank in `comm`


@dataclass(slots=True)
class _Outgoing:
    """A large message, or what is left of one, on its way out."""

    rank: int
    buffers: list[memoryview]
    requests: list[Any] = field(default_factory=list)


@dataclass(slots=True)
class _Incoming:
    """A message that has begun to arrive; those behind it from the same rank wait for it."""

    frame: Any
    buffers: list[Any]
    requests: list[Any]
    frame_is_buffer: bool = False
    is_header: bool = False  # the announcement of a large one, which may itself come in two steps


class Transport:
    """The two planes of one rank: MPI for data, doorbells for waking. See the module's text."""

    def __init__(
        self,
        comm: MPI.Intracomm,
        rank: int,
        size: int,
        large: int,
        spin: float,
        cores: int,
        beds: int = 1,
        reuse: int = 0,
    ) -> None:
        self.comm = comm
        self.rank = rank
        self.peers: dict[int, Peer] = {}
        self.spin = spin
        self._cores = cores
        self._large = large
        self._status = MPI.Status()
        self.unsent: list[tuple[Any, Any, int]] = []  # (MPI request, its bytes, receiver) of small messages
        self._announced: dict[int, deque[_Outgoing]] = {}  # by receiver, in order
        self._leaving: list[_Outgoing] = []
        self._arriving: dict[int, deque[_Incoming]] = {}
        self._ready: deque[Message] = deque()
        self._memory = ReceiveMemory(reuse)
        self._beds = [select.epoll() for _ in range(beds)]
        self._bells: dict[int, Peer] = {}
        self._watched: dict[int, Callable[[], None]] = {}
        self._page: mmap.mmap | None = None
        self.begun: Any = None  # by rank: which command each server of this host has begun last, its serial
        self._size = size
        self._elsewhere = 0
        self._roomy = False  # there is a core for every rank of this host
        self._events: list[int] = []
        self._rang = False
        self._blind = False  # some peer cannot ring us: poll with back-off
        self._step = _STEP
        self._improbe = comm.Improbe
        self._isend = comm.Isend
        self._apart: dict[int, Peer] = {}  # those that are reached by a communicator of their own
        self._left: set[int] = (
            set()
        )  # ranks of `comm` that are gone; another may have their place in the world
        self._failed: set[int] = set()  # peers that MPI says are gone, and `block` is to tell of
        self.resilient = False  # that a peer is gone, as MPI says it, is news and not an error
        self.frail = False  # MPI may crash when it is to send to one that is gone: look before
        self._looks: dict[int, select.poll] = {}
        self._abandoned: list[Any] = []  # requests that may never complete, with their buffers

    # -- set-up -----------------------------------------------------------------------------------

    def own_events(self) -> list[int]:
        """The eventfds by which ranks of this host ring us, one a bed (none where the system has none)."""
        if not self._events and hasattr(os, "eventfd"):
            for bed in self._beds:
                event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
                # Edge-triggered: a bell need not be read, and one system call less is on the way.
                bed.register(event, select.EPOLLIN | select.EPOLLET)
                self._events.append(event)
        return self._events

    def share(self, page: mmap.mmap | None, ranks_here: int) -> None:
        """Take the page of shared memory in which the ranks of this host show whether they sleep."""
        self._page = page
        if page is not None:
            start = -(-self._size // 8) * 8
            self.begun = memoryview(page)[start : start + 8 * self._size].cast("q")
        self._elsewhere = self._size - ranks_here  # their bytes in the page stay 0
        self._roomy = self.spin > 0 and ranks_here <= self._cores

    def add(self, peer: Peer) -> None:
        """Make a peer known."""
        self.peers[peer.rank] = peer
        if peer.comm is not None:
            self._apart[peer.rank] = peer
        if peer.bell is None:
            self._blind = True
            return
        peer.bell.setblocking(False)
        self._bells[peer.bell.fileno()] = peer
        if self.frail:
            self._looks[peer.rank] = look = select.poll()
            look.register(peer.bell, _HUNG_UP)
        for bed in self._beds:
            bed.register(peer.bell.fileno(), select.EPOLLIN)

    def watch(self, fd: int, heard: Callable[[], None]) -> None:
        """Let `block` also wake when this descriptor can be read, and call `heard`, which reads it."""
        self._watched[fd] = heard
        for bed in self._beds:
            bed.register(fd, select.EPOLLIN)

    def unwatch(self, fd: int) -> None:
        """Forget a descriptor, before it is closed."""
        if self._watched.pop(fd, None) is not None:
            for bed in self._beds:
                bed.unregister(fd)

    def drop(self, rank: int) -> None:
        """The peer is gone: nothing more is sent to it or awaited from it."""
        peer = self.peers.pop(rank, None)
        if peer is None:
            return
        self._looks.pop(rank, None)
        for event in peer.events:
            os.close(event)
        for sock in (peer.bell, peer.control):
            if sock is not None:
                self.unwatch(sock.fileno())
                if self._bells.pop(sock.fileno(), None) is not None:
                    for bed in self._beds:
                        bed.unregister(sock.fileno())
                sock.close()
        if peer.comm is None:
            self._left.add(rank)
        self._apart.pop(rank, None)
        self._failed.discard(rank)
        # MPI may still look at the memory of what was under way.
        self._abandoned += self._announced.pop(rank, ())
        self._abandoned += self._arriving.pop(rank, ())
        self._abandoned += [o for o in self._leaving if o.rank == rank]
        self._abandoned += [entry for entry in self.unsent if entry[2] == rank]
        self._leaving = [o for o in self._leaving if o.rank != rank]
        self.unsent = [entry for entry in self.unsent if entry[2] != rank]

    def _failure(self, error: MPI.Exception, rank: int | None = None) -> None:
        """MPI says that a peer is gone, which one (`rank`) or among all: `block` will tell. Else raise."""
        if not self.resilient:
            raise error
        found = {rank} if rank is not None else set()
        if error.Get_error_class() in (MPI.ERR_PROC_FAILED, MPI.ERR_PROC_FAILED_PENDING, MPI.ERR_REVOKED):
            # To acknowledge the failures is what lets us receive from anyone again.
            for comm in [self.comm, *[p.comm for p in self._apart.values() if p.comm is not None]]:
                found |= self._acknowledge(comm)
        self._failed |= found & self.peers.keys()

    def _is_gone(self, rank: int) -> bool:
        """Before something is sent, where that may not be done to a peer that is gone."""
        look = self._looks.get(rank)
        if look is None or not look.poll(0):
            return False
        self._failed.add(rank)
        return True

    def _acknowledge(self, comm: MPI.Intracomm) -> set[int]:
        comm.Ack_failed()
        failed, everyone = comm.Get_failed(), comm.Get_group()
        ranks = MPI.Group.Translate_ranks(failed, list(range(failed.Get_size())), everyone)
        failed.Free()
        everyone.Free()
        if comm is self.comm:
            return set(ranks) - self._left
        return {p.rank for p in self._apart.values() if p.comm is comm and p.address in ranks}

    # -- sending ----------------------------------------------------------------------------------

    def send(self, rank: int, frame: bytes, buffers: Sequence[Any] = ()) -> None:
        """Send a message; returns at once, the buffers must stay unchanged until it is through."""
        if self.frail and self._is_gone(rank):
            return
        try:
            if buffers or len(frame) >= self._large:
                self._announce(rank, frame, buffers)
            else:
                request = (
                    self._send_apart(rank, frame, _SMALL)
                    if rank in self._apart
                    else self._isend([frame, MPI.BYTE], rank, _SMALL)
                )
                if not request.Test():
                    self.unsent.append((request, frame, rank))
        except MPI.Exception as error:
            self._failure(error, rank)
        self._wake(rank)

    def _send_apart(self, rank: int, data: Any, tag: int) -> MPI.Request:
        """Isend, to wherever this peer is reached."""
        peer = self._apart.get(rank)
        if peer is None:
            return self._isend([data, MPI.BYTE], rank, tag)
        assert peer.comm is not None
        return peer.comm.Isend([data, MPI.BYTE], peer.address, tag)

    def _wake(self, rank: int) -> None:
        """Ring, if this peer sleeps or cannot show whether it does."""
        page = self._page
        if page is None or not self.peers[rank].local:
            self._ring(rank)
        elif page[rank]:
            state = page[rank]
            page[rank] = AWAKE  # claimed before it is rung: the next sender need not ring again
            self._ring(rank, state)

    def _announce(self, rank: int, frame: bytes, buffers: Sequence[Any]) -> None:
        views = [memoryview(b).cast("B") for b in buffers]
        inside: bytes | None = frame
        if len(frame) >= self._large:
            views.insert(0, memoryview(frame))
            inside = None
        header = pack((inside, [v.nbytes for v in views]))
        self._announced.setdefault(rank, deque()).append(_Outgoing(rank, views))
        self.unsent.append((self._send_apart(rank, header, _LARGE), header, rank))

    def _ring(self, rank: int, state: int = ASLEEP) -> None:
        peer = self.peers.get(rank)
        if peer is None:
            return  # gone; this was its last word
        self._rang = True
        try:
            if peer.events:
                os.eventfd_write(peer.events[0 if state == ASLEEP else -1], 1)
            elif peer.bell is not None:
                peer.bell.send(b"!")
        except BlockingIOError:
            pass  # full of bells already
        except OSError:
            pass  # closed at the other end: `block` will tell

    def sending(self) -> bool:
        """Whether something sent is not through yet."""
        return bool(self.unsent or self._leaving or any(self._announced.values()))

    def in_motion(self) -> bool:
        """Whether something is under way that needs `poll` to be called soon."""
        return bool(self.unsent or self._leaving or self._arriving or self._failed)

    def announced(self) -> bool:
        """Whether a receiver has yet to ask for something large that it was offered."""
        return bool(self._leaving) or any(self._announced.values())

    # -- receiving --------------------------------------------------------------------------------

    def poll(self) -> Message | None:
        """The next complete message, or None. Moves everything along that is under way."""
        if self._ready:
            return self._ready.popleft()
        status = self._status
        try:
            message = self._improbe(MPI.ANY_SOURCE, MPI.ANY_TAG, status)
            rank = status.Get_source() if message is not None else 0
            if message is None:
                if self._apart:
                    message, rank = self._probe_apart(status)
            elif self._left and rank in self._left:
                # It is gone, and of what came late there may be the first part only: never waited for.
                late = bytearray(status.Get_count(MPI.BYTE))
                self._abandoned.append((message.Irecv([late, MPI.BYTE]), late))
                return None
        except MPI.Exception as error:
            self._failure(error)
            return None
        if message is None:
            if self.unsent or self._leaving or self._arriving:
                self._progress()
                if self._ready:
                    return self._ready.popleft()
            return None
        tag, size = status.Get_tag(), status.Get_count(MPI.BYTE)
        if tag == _SMALL and size <= _INLINE and rank not in self._arriving:
            frame = bytearray(size)
            message.Recv([frame, MPI.BYTE])
            return rank, frame, ()
        try:
            self._receive(message, rank, tag, size)
        except MPI.Exception as error:
            self._failure(error, rank)
        return self._ready.popleft() if self._ready else None

    def _probe_apart(self, status: MPI.Status) -> tuple[MPI.Message | None, int]:
        for rank, peer in list(self._apart.items()):
            assert peer.comm is not None
            message = peer.comm.Improbe(peer.address, MPI.ANY_TAG, status)
            if message is not None:
                return message, rank
        return None, 0

    def _receive(self, message: MPI.Message, rank: int, tag: int, size: int) -> None:
        frame = bytearray(size)
        if tag == _GO:
            message.Recv([frame, MPI.BYTE])
            self._depart(rank)
            return
        queue = self._arriving.setdefault(rank, deque())
        request = message.Irecv([frame, MPI.BYTE])
        queue.append(_Incoming(frame, [], [request], is_header=tag == _LARGE))
        if not request.Test():
            self._ring(rank)  # its sender may have to help, and may be asleep
        self._progress()

    def _prepare(self, rank: int, header: bytearray) -> _Incoming | None:
        """Make room for a large message, and have it sent; None if its sender is gone."""
        frame, sizes = unpack(header)
        if self._is_gone(rank):
            return None
        peer = self._apart.get(rank)
        comm, source = (self.comm, rank) if peer is None else (peer.comm, peer.address)
        assert comm is not None
        buffers, requests = [], []
        for size in sizes:
            space = self._memory.take(size)
            buffers.append(space)
            for start in range(0, size, _PIECE):
                piece = space[start : start + _PIECE]
                requests.append(comm.Irecv([piece, MPI.BYTE], source, _BULK))
        self.unsent.append((self._send_apart(rank, b"", _GO), b"", rank))
        self._ring(rank)
        return _Incoming(frame, buffers, requests, frame_is_buffer=frame is None)

    def _depart(self, rank: int) -> None:
        waiting = self._announced.get(rank)
        if not waiting or self._is_gone(rank):
            return
        outgoing = waiting.popleft()
        for view in outgoing.buffers:
            for start in range(0, view.nbytes, _PIECE):
                piece = view[start : start + _PIECE]
                outgoing.requests.append(self._send_apart(rank, piece, _BULK))
        self._leaving.append(outgoing)

    def push_on(self) -> None:
        """Move along what is under way, without taking a message."""
        self._progress()

    def _progress(self) -> None:
        if self.unsent:
            self._send_on()
        if self._leaving:
            self._leaving = [o for o in self._leaving if not self._are_through(o.requests, o.rank)]
        if self._arriving:
            for rank in list(self._arriving):
                self._deliver(rank, self._arriving[rank])

    def _send_on(self) -> None:
        """Messages for which MPI had no room: the receiver may have gone to sleep before they got through."""
        left = [entry for entry in self.unsent if not self._are_through([entry[0]], entry[2])]
        if len(left) < len(self.unsent):
            waiting = {id(entry) for entry in left}
            ranks = {entry[2] for entry in self.unsent if id(entry) not in waiting}
            self.unsent = left
            self._step = _STEP
            for rank in ranks & self.peers.keys():
                self._wake(rank)

    def _are_through(self, requests: list[MPI.Request], rank: int) -> bool:
        if rank in self._failed:
            return False
        try:
            return MPI.Request.Testall(requests)
        except MPI.Exception as error:
            self._failure(error, rank)
            return False

    def _deliver(self, rank: int, queue: deque[_Incoming]) -> None:
        for at, one in enumerate(queue):
            if one.is_header:  # in their order, as the sender will send what they announce
                prepared = self._prepared(rank, one)
                if prepared is None:
                    break
                queue[at] = prepared
        while queue and not queue[0].is_header and self._are_through(queue[0].requests, rank):
            incoming = queue.popleft()
            frame, buffers = incoming.frame, incoming.buffers
            if incoming.frame_is_buffer:
                frame, buffers = buffers[0], buffers[1:]
            self._ready.append((rank, frame, buffers))
        if not queue:
            del self._arriving[rank]

    def _prepared(self, rank: int, header: _Incoming) -> _Incoming | None:
        if not self._are_through(header.requests, rank):
            return None
        try:
            return self._prepare(rank, header.frame)
        except MPI.Exception as error:
            self._failure(error, rank)
            return None

    # -- waiting ----------------------------------------------------------------------------------

    def show(self, state: int) -> None:
        """Show the others on this host whether we are awake."""
        if self._page is not None:
            self._page[self.rank] = state

    def may_spin(self) -> bool:
        """Whether a core is free to look for messages: those on this host who are up have one each."""
        if not self.spin or self._roomy:
            return self._roomy
        page = self._page
        if page is None:
            return True
        return self._size - page[: self._size].count(1) - self._elsewhere <= self._cores

    def just_rang(self) -> bool:
        """Whether a bell was rung since the last call: then an answer is not to be had by a short spin."""
        rang, self._rang = self._rang, False
        return rang

    def block(self, timeout: float | None, bed: int = 0) -> list[int]:
        """Sleep until a bell rings, a watched descriptor is readable, or `timeout` seconds passed.

        Call it without the lock, after `show(ASLEEP)` and another `poll`. Returns the ranks whose doorbell
        is closed: they are dead. A client has two beds, so that the bell wakes one thread only: the first
        for those who show ASLEEP, the last for the one that sleeps while they show AWAY.
        """
        limit = BACKSTOP if timeout is None else min(timeout, BACKSTOP)
        if self._failed:
            return list(self._failed)
        if self._leaving or self._arriving:
            os.sched_yield()
            limit = 0.0
        elif self._blind or self.unsent:
            limit = min(limit, self._step)
            self._step = min(self._step * 2, _LONGEST)
        if limit < 1e-3 and limit > 0:
            time.sleep(limit)  # epoll counts in milliseconds
            limit = 0.0
        heard = self._beds[bed].poll(limit)
        if len(heard) == 1 and heard[0][0] in self._events:
            return _NONE
        return self._hear(heard)

    def _hear(self, heard: list[tuple[int, int]]) -> list[int]:
        dead = []
        for fd, _ in heard:
            peer = self._bells.get(fd)
            if peer is not None:
                if self._drain(peer):
                    dead.append(peer.rank)
            elif (read := self._watched.get(fd)) is not None:
                read()
        return dead

    def active(self) -> None:
        """Something arrived: the back-off starts anew."""
        self._step = _STEP

    def _drain(self, peer: Peer) -> bool:
        """Take the bells that rang; whether the other end is closed."""
        try:
            while True:
                got = peer.bell.recv(4096)  # type: ignore[union-attr]
                if not got:
                    return True
                if len(got) < 4096:
                    return False
        except BlockingIOError:
            return False
        except OSError:
            return True
