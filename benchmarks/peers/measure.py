"""The workload: what is asked of every peer, how often, and what is kept of it.

Everything is bounded in time as well as in number: a slow peer does fewer of a thing, and what is compared is
seconds of one or items a second. Arrays that would take a peer too long are left out, and that is said.
"""

from __future__ import annotations

import functools
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy

from mpiframe.launcher.processes import descendants

from . import tasks
from .base import WORLD, NotThere, Peer

PAUSE = 5e-3
MANY = 100_000  # items of `submit`, and a tenth of those of figure 9
ITEMS = 1_000_000  # items of `map`
PARTS = 64
MIB = 1 << 20
TOO_LONG = 4.0  # seconds that the sending of an array may take

Figure = dict[str, Any]
Record = Callable[[str, Figure], None]


def bounded(call: Callable[[], Any], count: int, seconds: float) -> list[float]:
    """Seconds of each call: so many, or as many as begin within `seconds`; one at least."""
    taken: list[float] = []
    clock = time.perf_counter
    end = clock() + seconds
    while len(taken) < count:
        start = clock()
        if taken and start > end:
            break
        call()
        taken.append(clock() - start)
    return taken


def summary(taken: list[float]) -> Figure:
    """What is kept of samples in seconds."""
    ordered = sorted(taken)
    return {
        "value": statistics.median(ordered),
        "p99": ordered[min(len(ordered) * 99 // 100, len(ordered) - 1)],
        "n": len(ordered),
    }


@contextmanager
def loop(peer: Peer, what: str) -> Iterator[None]:
    """The servers of a peer that needs it are in the loop for `what`."""
    peer.begin(what)
    try:
        yield
    finally:
        peer.end()


# -- CPU time ------------------------------------------------------------------------------------------


def cpu_seconds(pid: int) -> float:
    """CPU time of a process of this user, to the nanosecond; 0 for one that has ended."""
    try:
        return time.clock_gettime((~pid << 3) | 2)  # the kernel's name for that clock
    except OSError:
        return 0.0


class Usage:
    """CPU time of client, servers and helpers (schedulers, hubs, launchers), from here to `shares`."""

    def __init__(self, servers: set[int]) -> None:
        world = int(os.environ[WORLD])
        self._servers = servers
        self._helpers = descendants(world) - servers - {os.getpid()}
        self._before = {pid: cpu_seconds(pid) for pid in (*self._servers, *self._helpers, os.getpid())}
        self._start = time.perf_counter()

    def shares(self) -> Figure:
        """Shares of a core: the client's, the busiest server's, all helpers' together."""
        seconds = time.perf_counter() - self._start
        used = {pid: max(cpu_seconds(pid) - before, 0.0) for pid, before in self._before.items()}
        return {
            "client": used[os.getpid()] / seconds,
            "server": max((used[pid] for pid in self._servers), default=0.0) / seconds,
            "helpers": sum(used[pid] for pid in self._helpers) / seconds,
        }


# -- commands ------------------------------------------------------------------------------------------


def noop(peer: Peer, record: Record, quick: bool) -> None:
    """1: round trips back to back."""
    with loop(peer, "noop"):
        bounded(peer.noop, 300, 0.3)
        record("noop", summary(bounded(peer.noop, 1000 if quick else 4000, 0.3 if quick else 1.0)))


def pause(peer: Peer, record: Record, quick: bool) -> None:
    """2: round trips after a pause, and the CPU time of all that, the exchanges included."""
    pids = peer.server_pids()
    with loop(peer, "pause"):
        usage = Usage(pids)
        taken: list[float] = []
        bounded(
            lambda: taken.append(peer.noop_after_pause(PAUSE)), 40 if quick else 150, 0.6 if quick else 1.5
        )
        record("pause", {**summary(taken), "cpu": usage.shares()})


def rate(call: Callable[[int], Any], most: int, seconds: float) -> Figure:
    """Items a second of call(n), with n as large as fits; smaller calls first tell what fits."""
    n = 20
    while True:
        taken = bounded(functools.partial(call, n), 1, 0)
        if n >= most or taken[0] > seconds / 3:
            break
        n = min(int(min(n * seconds / taken[0], n * 20)), most)
    taken += bounded(functools.partial(call, n), 4, seconds / 2) if taken[0] < seconds / 2 else []
    return {"value": n / statistics.median(taken), "n": n}


def submit_many(peer: Peer, record: Record, quick: bool) -> None:
    """3: single no-ops, all queued and then collected."""
    with loop(peer, "submit"):
        record("submit_many", rate(peer.submit_many, MANY, 1.0 if quick else 2.0))


def map_many(peer: Peer, record: Record, quick: bool) -> None:
    """4: a map; of the chunk sizes that there are to choose from, the best."""
    with loop(peer, "map"):
        assert list(peer.map_many(100, peer.chunks[0])) == [2 * x for x in range(100)]
        best = peer.chunks[0]
        if len(peer.chunks) > 1:
            tried = {
                chunk: rate(lambda n, c=chunk: peer.map_many(n, c), ITEMS // 10, 0.5)["value"]
                for chunk in peer.chunks
            }
            best = max(tried, key=lambda chunk: tried[chunk])
        figure = rate(lambda n: peer.map_many(n, best), ITEMS, 1.5 if quick else 3.0)
        record("map_many", {**figure, "chunk": best})


def idle(peer: Peer, record: Record, quick: bool) -> None:
    """8: CPU time while nothing is done."""
    pids = peer.server_pids()
    with loop(peer, "idle"):
        time.sleep(0.2)  # for what is still going on after the last figure
        usage = Usage(pids)
        time.sleep(2.0 if quick else peer.idle_seconds)  # a time in which nothing is done is what is measured
        cpu = usage.shares()
        record("idle", {"value": max(cpu["client"], cpu["server"]), "cpu": cpu})


# -- arrays --------------------------------------------------------------------------------------------


def argument(peer: Peer, record: Record, quick: bool) -> None:
    """5: 64 MiB to a server."""
    _move("argument", peer, 64 * MIB, record, quick)


def result(peer: Peer, record: Record, quick: bool) -> None:
    """5: 64 MiB from a server."""
    _move("result", peer, 64 * MIB, record, quick)


def argument_gib(peer: Peer, record: Record, quick: bool) -> None:
    """5: 1 GiB to a server."""
    _move("argument", peer, 1024 * MIB, record, quick)


def result_gib(peer: Peer, record: Record, quick: bool) -> None:
    """5: 1 GiB from a server."""
    _move("result", peer, 1024 * MIB, record, quick)


def broadcast(peer: Peer, record: Record, quick: bool) -> None:
    """6: 64 MiB to all servers."""
    array = numpy.ones(64 * MIB, numpy.uint8)
    with loop(peer, "broadcast"):
        record("broadcast", _few(lambda: peer.broadcast(array), quick))


def reduce(peer: Peer, record: Record, quick: bool) -> None:
    """7: the sum of what many tasks return."""
    if type(peer).reduce is not Peer.reduce:
        _refuse_if_slow("result", peer, PARTS * tasks.PART)
    with loop(peer, "reduce"):
        assert tasks.is_sum(peer.reduce(PARTS), PARTS)
        record("reduce", _few(lambda: peer.reduce(PARTS), quick))


def _move(what: str, peer: Peer, size: int, record: Record, quick: bool) -> None:
    if quick or size > 64 * MIB:
        _refuse_if_slow(what, peer, size)
    call = _mover(what, peer, size)
    with loop(peer, what):
        record(what if size == 64 * MIB else f"{what}_gib", _few(call, quick))


def _mover(what: str, peer: Peer, size: int) -> Callable[[], Any]:
    """A call that moves so many bytes."""
    if what == "argument":
        return functools.partial(peer.argument, numpy.ones(size, numpy.uint8))
    return functools.partial(peer.result, size)


def _refuse_if_slow(what: str, peer: Peer, size: int) -> None:
    """Raise NotThere if so many bytes would take too long, by what a smaller array takes."""
    with loop(peer, what):
        tried = bounded(_mover(what, peer, 8 * MIB), 3, 0.5)
    # Of a slow one there is one sample, of a quick one the first is out of turn.
    if (expected := max(tried[1:] or tried) * size / (8 * MIB)) > TOO_LONG:
        raise NotThere(f"would take about {expected:.0f} s")


def _few(call: Callable[[], Any], quick: bool) -> Figure:
    """A summary of a few calls, after one that makes what is made once.

    A very slow peer is not asked for another: what is made once is little beside what that takes.
    """
    first = bounded(call, 1, 0)
    again = first[0] < 2 * TOO_LONG
    return summary(bounded(call, 5 if quick else 15, 0.4 if quick else 1.0) if again else first)


# -- growth --------------------------------------------------------------------------------------------


def growth(peer: Peer, record: Record, quick: bool) -> None:
    """9: ten times as many commands. The smaller number before and after, so that drift shows less."""
    small = MANY // 5 if quick else MANY

    def seconds(n: int) -> float:
        start = time.perf_counter()
        peer.submit_many(n)
        return time.perf_counter() - start

    with loop(peer, "growth"):
        seconds(1000)
        before, large, after = seconds(small), seconds(10 * small), seconds(small)
        figure = {"small": [before, after], "large": large, "n": 10 * small}
        record("growth", {"value": large / statistics.mean((before, after)), **figure})


def many(peer: Peer, record: Record, quick: bool) -> None:
    """10: the client's CPU time for each command, for as many servers as there are."""
    n = 10_000 if quick else 30_000
    with loop(peer, "many"):
        peer.submit_many(2000)
        before = time.process_time()
        start = time.perf_counter()
        peer.submit_many(n)
        used = time.process_time() - before
        record("many", {"value": used / n, "wall": (time.perf_counter() - start) / n, "n": n})


GROUPS: dict[str, tuple[Callable[[Peer, Record, bool], None], ...]] = {
    "commands": (noop, pause, submit_many, map_many),
    "idle": (idle,),
    "arrays": (argument, result, broadcast, reduce),
    "transfers": (argument, result),
    "gib": (argument_gib, result_gib),
    "growth": (growth,),
    "many": (many,),
}
"""Figures that are measured in one session, by the names under which they are recorded."""
