"""What a trace costs: the same work with one and without, in turn, in one run.

    mpiframe run -n 3 benchmarks/trace.py [--rounds 15] [--commands 10000] [--trace FILE]

    back to back     one command after the other is waited for, each as long as makes 10,000 a second
    through futures  as many for two servers, 10,000 a second in all, none waited for until all are pushed
    map              chunks of a size that makes 10,000 a second
    flat out         no-ops by `submit`, as fast as they go: many times as many as a trace is meant for

A round is one of each pair, in an order that changes; the cost is the median of the rounds' quotients. With
it stand the quotients' quartiles, the client's own CPU time a command, and the machine's load. Wanted: under
5 % at 10,000 commands a second. Nothing here passes or fails.

`--alone` measures with a real-time priority (as root; with `-n 2` where there are two cores, and few commands
a run, because nothing else of the machine gets on meanwhile): for machines that others use. The process that
writes the trace has no such priority, so that its share of a core is not in the figures: 6 % at that rate.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mpiframe
from mpiframe import trace

RATE = 10_000
Work = Callable[[mpiframe.Client, int, float], None]


def busy(seconds: float) -> None:
    """Work for so long."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def back_to_back(client: mpiframe.Client, count: int, seconds: float) -> None:
    for _ in range(count):
        client.submit(busy, seconds, target=1).result()


def futures(client: mpiframe.Client, count: int, seconds: float) -> None:
    for future in [client.submit(busy, seconds) for _ in range(count)]:
        future.result()


def chunks(client: mpiframe.Client, count: int, seconds: float) -> None:
    for _ in client.map(busy, [seconds / 2] * (2 * count), chunksize=2, ordered=False, buffersize=1000):
        pass


def flat_out(client: mpiframe.Client, count: int, seconds: float) -> None:  # noqa: ARG001
    for future in [client.submit(abs, -1) for _ in range(count)]:
        future.result()


WORKS: dict[str, Work] = {
    "back to back": back_to_back,
    "through futures": futures,
    "map": chunks,
    "flat out": flat_out,
}


def tune(client: mpiframe.Client, work: Work, servers: int) -> float:
    """How long each command has to be for 10,000 to end in a second."""
    seconds = 0.8 / RATE * servers
    for _ in range(4):
        start = time.perf_counter()
        work(client, 1000, seconds)
        took = (time.perf_counter() - start) / 1000
        seconds = max(seconds + (1 / RATE - took) * servers, 1e-6)
    return seconds


def priority(on: bool) -> None:
    """Let all threads of this process go before everything else, or not."""
    import os

    for thread in os.listdir("/proc/self/task"):
        policy = os.SCHED_RR if on else os.SCHED_OTHER
        os.sched_setscheduler(int(thread), policy, os.sched_param(int(on)))


def give_priority(client: mpiframe.Client, on: bool) -> None:
    for response in client.push(priority, target="all", parameters={"on": on}, block=True):
        response.result()
    priority(on)


def once(
    client: mpiframe.Client, work: Work, count: int, seconds: float, path: str, alone: bool
) -> tuple[float, float]:
    """(seconds, the client's CPU seconds) of one run, with a trace if there is a path for it."""
    tracer = trace.start(client._loop, client._world, path) if path else None
    if tracer is not None:
        work(client, 200, seconds)  # its process has come up
    if alone:
        give_priority(client, True)
    cpu, start = time.process_time(), time.perf_counter()
    work(client, count, seconds)
    took, used = time.perf_counter() - start, time.process_time() - cpu
    if alone:
        give_priority(client, False)
    if tracer is not None:
        tracer.close(60.0)
    return took, used


def measure(client: mpiframe.Client, name: str, options: argparse.Namespace, path: str) -> None:
    """Print a row of the table."""
    work = WORKS[name]
    servers = 1 if name == "back to back" else len(client.servers)
    if options.alone:
        give_priority(client, True)
    seconds = 0.0 if name == "flat out" else tune(client, work, servers)
    if options.alone:
        give_priority(client, False)
    count = options.commands * (5 if name == "flat out" else 1)
    pairs: list[tuple[Any, Any]] = []
    for number in range(options.rounds):
        order = ("", path) if number % 2 else (path, "")
        found = {use: once(client, work, count, seconds, use, options.alone) for use in order}
        pairs.append((found[""], found[path]))
    costs = sorted((traced[0] / plain[0] - 1) * 100 for plain, traced in pairs)
    low, middle, high = statistics.quantiles(costs, n=4)
    rate = statistics.median(count / plain[0] for plain, _ in pairs)
    cpu = [statistics.median(pair[use][1] / count * 1e6 for pair in pairs) for use in (0, 1)]
    quartiles = f"{low:+.1f} to {high:+.1f} %"
    row = name, f"{rate:,.0f}", f"{middle:+.1f} %", quartiles, f"{cpu[0]:.1f}", f"{cpu[1]:.1f}"
    print(f"| {' | '.join(row)} |", flush=True)


def main() -> None:
    """Measure each kind of work."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15, help="pairs (default: %(default)s)")
    parser.add_argument("--commands", type=int, default=RATE, help="commands a run (default: %(default)s)")
    parser.add_argument("--trace", help="the file to write (default: one in a temporary folder)")
    parser.add_argument("--alone", action="store_true", help="before everything else on the machine (root)")
    parser.add_argument("--only", choices=WORKS, help="one kind of work")
    options = parser.parse_args()
    with mpiframe.Client() as client, tempfile.TemporaryDirectory(prefix="mpiframe-bench-") as folder:
        path = options.trace or str(Path(folder) / "run.json")
        facts = client._world.facts()
        load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
        print(f"{facts.mpi.split(',')[0]}, {facts.ranks} ranks, {facts.cores} cores, load {load}")
        print("\n| | commands a second | cost of a trace | quartiles | client's CPU us | with a trace |")
        print("|---|---|---|---|---|---|")
        for name in [options.only] if options.only else WORKS:
            measure(client, name, options, path)
        size = Path(path).stat().st_size
        print(f"\nThe last trace has {size / 2**20:.0f} MiB; load {os.getloadavg()[0]:.1f}", flush=True)


if __name__ == "__main__":
    main()
