"""Round trips of a no-op, and of raw mpi4py beside them, in turn: not only how long, but how often slow.

    mpiframe run -n 2 benchmarks/latency.py [--rounds 5] [--trips 4000] [--alone]

A quantile alone compares badly. What disturbs a machine comes so often a second, and in a second raw mpi4py
makes five times as many trips: what is beyond its 99.9 % is within our 99 %. So beside the quantiles (in
microseconds) stand the trips a second that took longer than 100 us, how often the client slept, and what the
garbage collector did. One who waits in vain for `MPIFRAME_SPIN` (200 us) sleeps, and waking takes about as
long again, so a disturbance of more than that costs a trip of ours 400 to 500 us.

`--alone` measures with a real-time priority (as root), for bursts of less than a tenth of a second: what is
left then is ours. `--disturb 250` has another process take the first core for so many microseconds every
3 ms meanwhile, with a still higher one.
"""

from __future__ import annotations

import argparse
import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable

from mpi4py import MPI

import mpiframe

TAG = 77
SLOW = 100e-6

DISTURBER = """
import os, sys, time
core, busy, pause, end = int(sys.argv[1]), float(sys.argv[2]), 3e-3, time.monotonic() + float(sys.argv[3])
os.sched_setaffinity(0, {core})
os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(2))
while time.monotonic() < end:
    time.sleep(pause)
    until = time.perf_counter() + busy
    while time.perf_counter() < until:
        pass
"""


def echo() -> None:
    """On the server: send back what comes, until None does."""
    from mpi4py import MPI

    while MPI.COMM_WORLD.recv(source=0, tag=TAG) is not None:
        MPI.COMM_WORLD.send(1, 0, TAG)


def priority(on: bool) -> None:
    """Let all threads of this process go before everything else, or not."""
    import os

    for thread in os.listdir("/proc/self/task"):
        policy = os.SCHED_RR if on else os.SCHED_OTHER
        os.sched_setscheduler(int(thread), policy, os.sched_param(int(on)))


def ours(client: mpiframe.Client, count: int) -> list[float]:
    taken, clock = [], time.perf_counter
    for _ in range(count):
        start = clock()
        client.push("None", target=1, block=True)
        taken.append(clock() - start)
    return taken


def raw(client: mpiframe.Client, count: int) -> list[float]:
    future, comm = client.submit(echo, target=1), MPI.COMM_WORLD
    comm.send(1, 1, TAG)
    comm.recv(source=1, tag=TAG)  # it is there
    taken, clock = [], time.perf_counter
    for _ in range(count):
        start = clock()
        comm.send(1, 1, TAG)
        comm.recv(source=1, tag=TAG)
        taken.append(clock() - start)
    comm.send(None, 1, TAG)
    future.result()
    return taken


def quantiles(taken: list[float]) -> str:
    ordered = sorted(taken)
    places = (0.5, 0.9, 0.99, 0.999, 1.0)
    marks = [ordered[min(int(len(ordered) * place), len(ordered) - 1)] * 1e6 for place in places]
    return " ".join(f"{mark:9.1f}" for mark in marks)


def measure(
    client: mpiframe.Client, trips: Callable[[mpiframe.Client, int], list[float]], options: argparse.Namespace
) -> str:
    """A row of the table."""
    transport, slept, collected = client._loop._transport, [0], [0.0]
    block = transport.block

    def counted(*args: object, **kwargs: object) -> object:
        slept[0] += 1
        return block(*args, **kwargs)  # type: ignore[arg-type]

    def collector(phase: str, info: dict[str, int]) -> None:  # noqa: ARG001
        collected[0] += time.perf_counter() * (1 if phase == "stop" else -1)

    if options.alone:
        client.push(priority, target=1, parameters={"on": True}, block=True)
        priority(True)
    other = None
    if options.disturb:
        core = min(os.sched_getaffinity(0))
        words = [str(core), str(options.disturb * 1e-6), str(0.5 + 20e-6 * options.trips)]
        other = subprocess.Popen([sys.executable, "-c", DISTURBER, *words])
        client.submit(time.sleep, 0.2, target=1).result()  # it has come up
    transport.block = counted  # type: ignore[method-assign]
    gc.callbacks.append(collector)
    taken = trips(client, options.trips)
    gc.callbacks.remove(collector)
    transport.block = block  # type: ignore[method-assign]
    if options.alone:
        priority(False)
        client.push(priority, target=1, parameters={"on": False}, block=True)
    if other is not None:
        other.wait()
    slow = sum(t > SLOW for t in taken)
    return f"{quantiles(taken)} {slow / sum(taken):9.0f} {slept[0]:7} {collected[0] * 1e6:8.0f}"


def main() -> None:
    """Measure in turn."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument(
        "--trips", type=int, default=4000, help="round trips each time (default: %(default)s)"
    )
    parser.add_argument("--alone", action="store_true", help="before everything else on the machine (root)")
    parser.add_argument("--disturb", type=float, default=0.0, metavar="US", help="see above (root)")
    options = parser.parse_args()
    with mpiframe.Client(output="quiet") as client:
        facts = client._world.facts()
        print(f"{facts.mpi.split(',')[0]}, {facts.cores} cores, load {os.getloadavg()[0]:.1f}")
        print(
            f"{'':9} {'median':>9} {'90 %':>9} {'99 %':>9} {'99.9 %':>9} {'most':>9} {'slow a s':>9} "
            f"{'slept':>7} {'gc us':>8}"
        )
        ours(client, 300)
        for _ in range(options.rounds):
            print(f"mpiframe  {measure(client, ours, options)}", flush=True)
            print(f"raw       {measure(client, raw, options)}", flush=True)


if __name__ == "__main__":
    main()
