"""What becomes of a server's place when it is gone, and of the run when it ends without it.

    gone --(restart="always", or Client.restart)--> starting --> setup commands --> takes up its queue
      |                                                | died, or did not come: again, a few times
      |                                                v
      +--> its place stays empty  <---------------- given up

One thread starts replacements, one after the other, because MPI's calls for it block; the client works on.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from mpi4py import MPI

from mpiframe import doorbell, joining
from mpiframe.codec import pack
from mpiframe.commands import Encoded
from mpiframe.ends import Ends
from mpiframe.errors import MpiframeError, WorldError
from mpiframe.launcher import orders
from mpiframe.messages import Down, Request, Status
from mpiframe.opening import admit
from mpiframe.world import CLIENT

if TYPE_CHECKING:
    from mpiframe.session import Session

log = logging.getLogger("mpiframe")

POLICIES = ("never", "always")


class Recovery:
    """Replaces servers, for one client."""

    def __init__(self, client: Session, policy: str, first: tuple[Any, ...]) -> None:
        self._client = client
        self._world = client._world
        self._loop = client._loop
        self._first = first  # the first message that a server gets
        self._always = policy == "always"
        self._commands: list[tuple[Any, Encoded]] = []
        self._path: list[str] = []  # folders of modules that attached processes have told the servers of
        self._ending: set[int] = set()  # servers that are being ended for a restart
        self._under_way: set[int] = set()  # servers that are being started
        self._problems: dict[int, MpiframeError] = {}  # why the last attempt to start one failed
        self._ends = Ends()
        if self._world.resilient == "ulfm":
            self._hold_ends(self._world.servers)
        self._queue: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        launcher = orders.link() if self._world.resilient == "joined" else None
        if launcher is not None:
            self._loop._transport.watch(launcher.fd, self._heed_launcher)

    def _heed_launcher(self) -> None:
        """The launcher of some server has ended: it tells so even of those that have no doorbell."""
        with self._loop.lock:
            for rank in joining.ended_launchers():
                if rank in self._loop._transport.peers:
                    self._loop.server_gone(rank)
            launcher = orders.link()
            if launcher is not None and launcher.closed:
                self._loop._transport.unwatch(launcher.fd)  # it would be readable for ever
        self._loop.kick()

    # -- the loop tells (with its lock) ------------------------------------------------------------

    def is_replaced(self, rank: int) -> bool:
        """A server is gone; whether another one will come."""
        self._ends.gone(rank)
        if self._loop.closing:
            if self._always and not self._why_not(rank):
                self._loop.losses.replaced(rank)  # or would be, if there were still something to do
            return False
        if rank in self._ending or rank in self._under_way:
            return True
        if not self._always:
            return False
        if problem := self._why_not(rank):
            log.warning("%s", problem)
            return False
        self._begin(rank)
        return True

    def _why_not(self, rank: int) -> str:
        """Why this server cannot be replaced, or ""."""
        if self._world.resilient == "joined" or self._is_here(rank):
            return ""
        return (
            f"server {rank} on {self._world.members[rank].host} cannot be replaced: Open MPI cannot be "
            "relied on to start another one on a host that is not the client's (MPICH can); the others go on"
        )

    def _hold_ends(self, ranks: Iterable[int]) -> None:
        self._ends.hold({rank: self._world.members[rank].pid for rank in ranks if self._is_here(rank)})

    def _is_here(self, rank: int) -> bool:
        return self._world.members[rank].host_key == self._world.members[CLIENT].host_key

    def _begin(self, rank: int) -> None:
        self._under_way.add(rank)
        self._loop.recovering.add(rank)
        self._problems.pop(rank, None)
        self._queue.put(rank)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="mpiframe-recovery", daemon=True)
            self._thread.start()

    # -- the client asks ---------------------------------------------------------------------------

    def setup(self, command: Any, encoded: Encoded) -> None:
        """Run a command on all servers, now and when one is replaced. Raises the first error."""
        client, loop = self._client, self._loop
        entry = (command, encoded)
        with loop.lock:
            self._commands.append(entry)
            ranks = [rank for rank in loop.dispatcher.ranks() if not loop.dispatcher.is_absent(rank)]
        ids = client._service_ids
        futures = [client._submit(command, encoded, rank, None, 0, id=next(ids)) for rank in ranks]
        try:
            for future in futures:
                future.exception()
            for future in futures:
                future.result()
        except BaseException:
            with loop.lock:
                self._commands.remove(entry)
            raise

    def add_to_path(self, entries: Iterable[str]) -> None:
        """Have servers that come later find modules here, as those that are there do; for good, too."""
        with self._loop.lock:
            self._path += [entry for entry in entries if entry not in self._path]

    def restart(self, ranks: list[int]) -> None:
        """Replace these servers; returns when all of them serve. Raises WorldError where one does not."""
        check(self._world.resilient)
        for rank in ranks:
            if problem := self._why_not(rank):
                raise WorldError(problem)
        loop = self._loop
        with loop.lock:
            loop._check_open()
            alive = [r for r in ranks if r in loop._transport.peers and r not in self._under_way]
            self._ending.update(alive)
            loop.recovering.update(alive)
            for rank in alive:
                loop.release(rank, "It was restarted")
        loop._deliver()
        try:
            self._end(alive)
        finally:
            with loop.lock:
                self._ending.difference_update(alive)
                for rank in ranks:
                    if rank not in self._under_way and rank not in loop._transport.peers:
                        self._begin(rank)
        loop.wait(lambda: not self._under_way.intersection(ranks))
        for rank in ranks:
            if rank in self._problems:
                raise self._problems[rank]

    def give_up(self, rank: int, why: str) -> None:
        """A server is stuck for good: what it holds is lost; it is ended where the world outlives that."""
        loop = self._loop
        if not self._world.resilient:
            loop.give_up(rank, why)
            return
        with loop.lock:
            loop.losses.lost(rank)
            if self._always and not self._why_not(rank):
                loop.release(rank, why)
            else:
                loop.give_up(rank, why)
        loop._deliver()
        self._kill(rank)

    def _end(self, ranks: list[int]) -> None:
        """End servers: as at the end of a session, and by force what does not heed that."""
        loop, config = self._loop, self._world.config
        peers = loop._transport.peers
        for rank in ranks:
            loop.lines.send(rank, doorbell.ABANDON)
            loop.say(rank, (int(Down.STOP),))
        loop.wait(lambda: all(r in loop.stopped or r not in peers for r in ranks), config.grace)
        for rank in ranks:
            loop.lines.send(rank, doorbell.LEAVE)
        if not loop.wait(lambda: not any(r in peers for r in ranks), config.grace):
            for rank in ranks:
                if rank in peers:
                    self._kill(rank)
        if not loop.wait(lambda: not any(r in peers for r in ranks), config.stop_timeout):
            left = [rank for rank in ranks if rank in peers]
            with loop.lock:
                for rank in left:
                    loop.server_gone(rank)  # whatever it does, it is heard no more
            log.warning("the servers %s could not be ended; they are left to the end of the run", left)

    def _kill(self, rank: int) -> None:
        launcher = orders.link()
        if self._is_here(rank):
            with contextlib.suppress(OSError):
                os.kill(self._world.members[rank].pid, signal.SIGKILL)
        if launcher is not None:
            with contextlib.suppress(OSError):
                launcher.order(end=rank)

    # -- the thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            rank = self._queue.get()
            problem: MpiframeError | None = None
            for _ in range(max(self._world.config.restart_attempts, 1)):
                if self._loop.closing:
                    break
                begun = time.monotonic()
                try:
                    self._replace(rank)
                    problem = None
                    break
                except Exception as error:
                    problem = error if isinstance(error, MpiframeError) else WorldError(repr(error))
                    took = time.monotonic() - begun
                    log.warning("server %d was not replaced (%.1f s): %s", rank, took, problem)
            self._concluded(rank, problem)

    def _concluded(self, rank: int, problem: MpiframeError | None) -> None:
        loop = self._loop
        with loop.lock:
            self._under_way.discard(rank)
            loop.recovering.discard(rank)
            if loop.closing:
                loop.losses.replaced(rank)  # or would be, if there were still something to do
            served = rank in loop._transport.peers
            if problem is not None:
                self._problems[rank] = WorldError(f"server {rank} could not be replaced: {problem}")
            if not served and loop.dispatcher.is_absent(rank):
                if problem is None and not loop.closing:
                    self._begin(rank)  # it has died in this very moment
                else:
                    loop.give_up(rank, "It could not be replaced")
                    words = f"mpiframe: server {rank} is given up: it could not be replaced"
                    if problem is not None:
                        print(f"{words}, {problem}", file=sys.stderr, flush=True)
        loop._deliver()
        loop.kick()

    def _replace(self, rank: int) -> None:
        world, loop, config = self._world, self._loop, self._world.config
        host = world.members[rank].host if world.facts().hosts > 1 else None
        self._ends.settle()
        comm = joining.replacement(rank, world.size, host, self._is_here(rank), config.restart_timeout)
        peer = admit(world, comm, rank, config.restart_timeout)
        self._hold_ends([rank])
        with loop.lock:
            if loop.closing:
                for sock in (peer.bell, peer.control):
                    if sock is not None:
                        sock.close()  # which tells it to leave
                raise WorldError("the client has been closed meanwhile")
            loop.welcome(peer)
            loop._transport.send(rank, pack((*self._first, self._path)))
        ran = self._set_up(rank, config.start_timeout)  # it may import a lot
        with loop.lock:
            loop.serves(rank, ran)
        loop._deliver()
        loop.kick()

    def _set_up(self, rank: int, seconds: float) -> int:
        """Run the setup commands on a server that has just come, before it takes up its queue; how many."""
        loop, client = self._loop, self._client
        watch = _Setup()
        with loop.lock:
            for command, encoded in self._commands:
                request = client._request(command, encoded, rank, next(client._service_ids))
                request.server, request.future = rank, watch
                request.status = Status.SENT
                watch.requests.append(request)
                loop.send_past_queue(rank, request)
        peers = loop._transport.peers
        loop.wait(lambda: watch.ended >= len(watch.requests) or rank not in peers, seconds)
        with loop.lock:
            for request in watch.requests:
                if not request.ended:  # the server has died, or takes too long
                    request.ended = True
                    loop.open -= 1
                    loop.requests.pop(request.id, None)
        if rank not in peers:
            raise WorldError(f"server {rank} ended before it was ready for commands")
        late = watch.ended < len(watch.requests)
        failed = [r.error for r in watch.requests if r.error is not None]
        if late or failed:
            self._kill(rank)
            loop.wait(lambda: rank not in peers, self._world.config.stop_timeout)
            reason = f"did not end within {seconds} s" if late else f"failed: {failed[0]}"
            raise WorldError(f"a setup command on the replaced server {rank} {reason}")
        return len(watch.requests)


class _Setup:
    """The holder of the setup commands of one server."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.ended = 0

    def settle(self, request: Request) -> None:  # noqa: ARG002
        """One has ended."""
        self.ended += 1


def check(resilient: str) -> None:
    """Raise WorldError where servers cannot be replaced."""
    if not resilient:
        raise WorldError(
            "servers can be replaced only in a world that outlives them: start it with `mpiframe run "
            "--resilient -n 4 script.py`; `mpiframe doctor` says whether this MPI can"
        )
    if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
        raise WorldError(
            "to replace servers needs MPI's thread level MULTIPLE; leave mpi4py.rc.thread_level at its "
            "default, 'multiple'"
        )


class Losses:
    """Which servers were lost, and whether the script has dealt with it. With the loop's lock."""

    def __init__(self, had_work: Callable[[int], bool]) -> None:
        self._had_work = had_work
        self._lost: dict[int, bool] = {}  # by rank: whether it had anything to lose
        self._requests: dict[int, list[Request]] = {}  # that ended with their server
        self.any = False  # a rank has left before the end, so MPI's Finalize would wait for it

    def lost(self, rank: int) -> None:
        """A server ended that was not told to; before the dispatcher hears of it."""
        self._lost[rank] = self._had_work(rank)

    def ended(self, rank: int, request: Request) -> None:
        """A request was lost with its server."""
        self._requests.setdefault(rank, []).append(request)

    def replaced(self, rank: int) -> None:
        """Another one serves in its place."""
        self._lost.pop(rank, None)

    def unhandled(self) -> list[int]:
        """The servers that were lost for good, without the script having seen it.

        It has if it saw the error of every request that was lost with the server: fetched the response, or
        got the exception of the future; or if they all were started again elsewhere.
        """
        return [
            rank
            for rank, had_work in self._lost.items()
            if not had_work or not all(getattr(r.error, "seen", True) for r in self._requests.get(rank, ()))
        ]
