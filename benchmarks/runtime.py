"""The runtime's four figures: round trip, idle CPU, 64 MiB each way, import time. Two ranks.

Raw mpi4py is measured by the same two processes, in turn with mpiframe, so that a machine whose speed
drifts does the same to both.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import mpiframe

SIZE = 64 << 20  # bytes
RAW_TAG = 77


def echo(rounds: int) -> None:
    """The server's part of a raw pickled exchange: receive a string, answer an int."""
    from mpi4py import MPI

    for _ in range(rounds):
        MPI.COMM_WORLD.recv(source=0, tag=77)
        MPI.COMM_WORLD.send(2, dest=0, tag=77)


def raw_round_trips(client: mpiframe.Client, rounds: int, pause: float = 0.0) -> list[float]:
    """Seconds of each raw exchange; both sides spin inside MPI, the server in the pauses too."""
    from mpi4py import MPI

    comm, seconds = MPI.COMM_WORLD, []
    done = client.submit(echo, rounds, target=1)
    for _ in range(rounds):
        if pause:
            time.sleep(pause)
        start = time.perf_counter()
        comm.send("1+1", dest=1, tag=RAW_TAG)
        comm.recv(source=1, tag=RAW_TAG)
        seconds.append(time.perf_counter() - start)
    done.result()
    return seconds[1:]  # the first one waits for the server to begin


def round_trips(client: mpiframe.Client, rounds: int, pause: float = 0.0) -> list[float]:
    """Seconds of each blocking no-op command."""
    seconds = []
    for _ in range(rounds):
        if pause:
            time.sleep(pause)
        start = time.perf_counter()
        client.push("None", target=1, block=True)
        seconds.append(time.perf_counter() - start)
    return seconds


def receive(size: int, times: int, fresh: bool) -> None:
    """The server's part of a raw transfer to it."""
    import numpy
    from mpi4py import MPI

    buffer = numpy.ones(size, numpy.uint8)
    for _ in range(times):
        if fresh:
            buffer = numpy.empty(size, numpy.uint8)
        MPI.COMM_WORLD.Recv([buffer, MPI.BYTE], source=0, tag=77)
        MPI.COMM_WORLD.send(None, dest=0, tag=77)


def raw_rates(client: mpiframe.Client, times: int, fresh: bool) -> list[float]:
    """Bytes a second of Send/Recv of one buffer, into a reused buffer or into fresh memory."""
    import numpy
    from mpi4py import MPI

    comm, rates = MPI.COMM_WORLD, []
    data = numpy.ones(SIZE, numpy.uint8)
    done = client.submit(receive, SIZE, times, fresh, target=1)
    for _ in range(times):
        start = time.perf_counter()
        comm.Send([data, MPI.BYTE], dest=1, tag=RAW_TAG)
        comm.recv(source=1, tag=RAW_TAG)
        rates.append(SIZE / (time.perf_counter() - start))
    done.result()
    return rates


def argument_rates(client: mpiframe.Client, times: int) -> list[float]:
    """Bytes a second of a 64 MiB array as an argument."""
    import numpy

    data, rates = numpy.ones(SIZE, numpy.uint8), []
    for _ in range(times):
        start = time.perf_counter()
        client.submit(len, data, target=1).result()
        rates.append(SIZE / (time.perf_counter() - start))
    return rates


def result_rates(client: mpiframe.Client, times: int) -> list[float]:
    """Bytes a second of a 64 MiB array as a result."""
    client.push(f"import numpy; data = numpy.ones({SIZE}, numpy.uint8)", target=1, block=True)
    rates = []
    for _ in range(times):
        start = time.perf_counter()
        client.push("data", target=1, block=True)
        rates.append(SIZE / (time.perf_counter() - start))
    return rates


def cpu_seconds(pid: int) -> float:
    """User and system seconds that a process on this host has used."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def idle_shares(client: mpiframe.Client, seconds: float) -> list[float]:
    """Share of a core that the client and the server use while nothing happens."""
    pids = [os.getpid(), *(s.pid for s in client.servers)]
    before = [cpu_seconds(pid) for pid in pids]
    time.sleep(seconds)  # this is the thing measured: a time in which nothing is done
    return [(cpu_seconds(pid) - b) / seconds for pid, b in zip(pids, before, strict=True)]


def import_seconds(times: int) -> tuple[float, float]:
    """Medians of what `import mpiframe`, and all that a Client needs, add to mpi4py.MPI."""
    code = (
        "import time; from mpi4py import MPI; a = time.perf_counter(); import mpiframe;"
        "b = time.perf_counter(); mpiframe.Client; print(b - a, time.perf_counter() - a)"
    )
    from mpiframe.launcher import scrub_environment

    rows = []
    for _ in range(times):
        run = subprocess.run(
            [sys.executable, "-c", code],
            env=scrub_environment(os.environ),
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        rows.append([float(x) for x in run.stdout.split()])
    return statistics.median(r[0] for r in rows), statistics.median(r[1] for r in rows)


def in_turn(rounds: int, *measures: Callable[[], list[float]]) -> list[list[float]]:
    """Each measure's samples, taken in turn so that drift hits all of them."""
    samples: list[list[float]] = [[] for _ in measures]
    for _ in range(rounds):
        for kept, measure in zip(samples, measures, strict=True):
            kept.extend(measure())
    return samples


def say(name: str, figure: str, wanted: str) -> None:
    """One line of the table."""
    print(f"| {name} | {figure} | {wanted} |", flush=True)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    with mpiframe.Client() as client:
        facts = client.facts()
        print(f"\n{facts.mpi.split(',')[0]}, {facts.cores} cores, spinning {'on' if facts.spin else 'off'}")
        print("| figure | measured | wanted |\n|---|---|---|")
        n = 300 if quick else 2000
        raw, ours = in_turn(5, lambda: raw_round_trips(client, n), lambda: round_trips(client, n))
        n = 50 if quick else 200
        raw_paused, paused = in_turn(
            2, lambda: raw_round_trips(client, n, 5e-3), lambda: round_trips(client, n, 5e-3)
        )
        r, o, rp, p = (statistics.median(x) * 1e6 for x in (raw, ours, raw_paused, paused))
        p99 = statistics.quantiles(ours, n=100)[98] * 1e6
        say("no-op, back to back", f"{o:.1f} us (p99 {p99:.0f}), {o / r:.1f} x raw ({r:.1f} us)", "5 x raw")
        text = f"{p:.0f} us at 0 % CPU in between; raw, spinning all the while, {rp:.0f} us"
        say("no-op after a 5 ms pause", text, "under 100 us")
        times = 3 if quick else 8
        reused, fresh, there, back = in_turn(
            3,
            lambda: raw_rates(client, times, fresh=False),
            lambda: raw_rates(client, times, fresh=True),
            lambda: argument_rates(client, times),
            lambda: result_rates(client, times),
        )
        u, f, t, b = (statistics.median(x) / 1e9 for x in (reused, fresh, there, back))
        for name, rate in (("64 MiB argument", t), ("64 MiB result", b)):
            text = f"{rate:.1f} GB/s, {rate / u:.2f} x raw reused ({u:.1f}), {rate / f:.2f} x fresh ({f:.1f})"
            say(name, text, "0.8 x raw")
        shares = idle_shares(client, 2.0 if quick else 10.0)
        text = " and ".join(f"{s:.2%}" for s in shares) + " of a core"
        say("idle CPU, client and server", text, "under 1 %")
    bare, whole = import_seconds(3 if quick else 9)
    say("import over mpi4py.MPI", f"{bare * 1e3:.0f} ms, with Client {whole * 1e3:.0f} ms", "under 60 ms")


if __name__ == "__main__":
    main()
