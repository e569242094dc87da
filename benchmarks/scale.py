"""What the client costs as servers are added: measured here, fitted, and compared with simulated servers.

    python benchmarks/scale.py [--quick] [--only commands,queue,dispatcher,start]

commands    CPU of rank 0 for a command, messages and bytes, memory, descriptors, at 1 to 63 servers; the fit
queue       one blocked server with a million commands queued for it: time and memory
dispatcher  `queues.Dispatcher` alone with up to 10,000 servers and ten million commands
start       the client's side of the start with up to 9,000 servers that are sockets of one other process

The client is measured by its own CPU time, so more ranks than cores are no hindrance: only what shares a
message depends on who runs when, and that is counted. `scale.md` quotes these tables. Nothing passes or
fails.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import resource
import selectors
import socket
import statistics
import subprocess
import sys
import threading
import time
import tracemalloc
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

WORLDS = (1, 3, 7, 15, 31, 63)  # servers
LIMIT = 240.0  # seconds for one world
END = 10.0  # seconds for it to end when that is over
MARK = "SCALE "
SECTIONS = ("commands", "queue", "dispatcher", "start")
Row = dict[str, Any]


def main() -> int:
    """Measure and print; the number of worlds that did not run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, commands and servers")
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, with commas")
    parser.add_argument("--inside", help=argparse.SUPPRESS)  # what rank 0 of a world of ours is to measure
    options = parser.parse_args()
    if options.inside:
        inside = {"commands": commands, "queue": queue, "start": start}[options.inside]
        print(MARK + json.dumps(inside(options.quick)), flush=True)
        return 0
    if options.only == "herd":
        return herd(*json.loads(os.environ["SCALE_HERD"]))
    load = ", ".join(f"{x:.2f}" for x in os.getloadavg())
    print(
        f"{os.cpu_count()} cores, load {load}, Python {sys.version.split()[0]}, {time.strftime('%Y-%m-%d')}"
    )
    failed = 0
    for section in options.only.split(","):
        failed += {
            "commands": report_commands,
            "queue": report_queue,
            "dispatcher": report_dispatcher,
            "start": report_start,
        }[section](options.quick)
    load = ", ".join(f"{x:.2f}" for x in os.getloadavg())
    print(f"\nload at the end {load}")
    return failed


def world(
    inside: str, servers: int, quick: bool, environment: dict[str, str] | None = None, limit: float = LIMIT
) -> Row | None:
    """Run one of the measurements below on rank 0 of a world; what it found, None if it did not end well."""
    script = [os.path.abspath(__file__), "--inside", inside, *(["--quick"] if quick else [])]
    began = time.time()
    process = subprocess.Popen(
        [sys.executable, "-m", "mpiframe", "run", "-n", str(servers + 1), *script],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    try:
        output = process.communicate(timeout=limit)[0]
    except subprocess.TimeoutExpired:
        process.terminate()
        output = ""
    finally:
        try:
            process.wait(END)
        except subprocess.TimeoutExpired:
            process.kill()
    lines = [line for line in output.splitlines() if line.startswith(MARK)]
    if not lines or process.returncode:
        print(f"{inside} at {servers} servers: status {process.returncode}, no figures", file=sys.stderr)
        return None
    row: Row = json.loads(lines[-1].removeprefix(MARK))
    row |= {"servers": servers, "took": row.get("ready", began) - began}
    return row


def table(head: str, rows: Iterator[Any] | list[Any]) -> None:
    """Print a Markdown table."""
    cells = head.split("|")
    print("\n| " + " | ".join(cells) + " |\n|" + "---|" * len(cells), flush=True)
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |", flush=True)


def resident() -> int:
    """Bytes of this process in memory, without what it shares with others."""
    with open("/proc/self/status", encoding="utf-8") as file:
        fields = dict(line.split(":", 1) for line in file)
    return int(fields["RssAnon"].split()[0]) << 10


# -- commands: rank 0 of a world --------------------------------------------------------------------------


class Meter:
    """Counts what the client sends, hears and rings; two function calls a message."""

    def __init__(self, client: Any) -> None:
        loop, transport = client._loop, client._world.transport
        self.down = self.up = self.rings = self.bytes_down = self.bytes_up = 0
        isend, handle, ring = transport._isend, loop._handle, transport._ring

        def send(data: Any, rank: int, tag: int) -> Any:
            self.down += 1
            self.bytes_down += len(data[0])
            return isend(data, rank, tag)

        def heard(message: Any) -> None:
            self.up += 1
            self.bytes_up += len(message[1])
            handle(message)

        def rung(*peer: int) -> None:
            self.rings += 1
            ring(*peer)

        transport._isend, loop._handle, transport._ring = send, heard, rung

    def read(self) -> list[float]:
        """All counters, with CPU seconds, wall seconds and voluntary context switches."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return [
            time.process_time(),
            time.perf_counter(),
            self.down,
            self.up,
            self.rings,
            self.bytes_down,
            self.bytes_up,
            usage.ru_nvcsw,
        ]


BURSTS = ("push, any server", "push, in turn", "push, all", "submit, any server", "submit, in turn")
FIELDS = ("cpu", "wall", "down", "up", "rings", "bytes_down", "bytes_up", "sleeps")


def _bursts(client: Any, servers: int, n: int) -> dict[str, Callable[[], int]]:
    """Ways to give commands: what to do, which returns how many commands it was."""
    turn = itertools.cycle(range(1, servers + 1))

    def push(target: Callable[[], Any]) -> int:
        client.get([client.push("None", target()) for _ in range(n)])
        return n

    def push_all() -> int:
        client.get([client.push("None", "all") for _ in range(max(n // servers, 1))])
        return max(n // servers, 1) * servers

    def submit(target: Callable[[], Any]) -> int:
        for future in [client.submit(int, target=target()) for _ in range(n)]:
            future.result()
        return n

    def naps(seconds: float) -> int:
        many = max(min(n, int(servers / seconds)), 4 * servers)
        for future in [client.submit(time.sleep, seconds) for _ in range(many)]:
            future.result()
        return many

    def block() -> int:
        for _ in range(500):
            client.push("None", next(turn), block=True)
        return 500

    return {
        "push, any server": lambda: push(lambda: None),
        "push, in turn": lambda: push(lambda: next(turn)),
        "push, all": push_all,
        "submit, any server": lambda: submit(lambda: None),
        "submit, in turn": lambda: submit(lambda: next(turn)),
        "submit of 2 ms": lambda: naps(2e-3),
        "submit of 20 ms": lambda: naps(20e-3),
        "push and wait": block,
    }


def commands(quick: bool) -> Row:
    """CPU, messages and bytes of each way to give commands; memory and descriptors."""
    ready, cpu_at_start, rss_at_start = time.time(), time.process_time(), resident()
    import mpiframe

    with mpiframe.Client() as client:
        servers = len(client._world.servers)
        n = 4_000 if quick else 20_000
        links = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _open(fd)]
        descriptors = {
            "sockets": sum(link.startswith("socket:") for link in links),
            "eventfds": sum("eventfd" in link for link in links),
            "all": len(links),
        }
        for rank in range(1, servers + 1):
            client.push("None", rank)
        meter, samples = Meter(client), {}
        for name, burst in _bursts(client, servers, n).items():
            burst()
            kept = []
            for _ in range(3):
                before = meter.read()
                many = burst()
                kept.append([(b - a) / many for a, b in zip(before, meter.read(), strict=True)])
            samples[name] = kept
        return {
            "ready": ready,
            "cpu_at_start": cpu_at_start,
            "rss_at_start": rss_at_start,
            "rss_at_end": resident(),
            "descriptors": descriptors,
            "samples": samples,
            "others": os.getloadavg()[0],
        }


def _open(fd: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")


# -- commands: the tables ---------------------------------------------------------------------------------


def report_commands(quick: bool) -> int:
    """Worlds of 2 to 64 ranks, the fit over them, and what it says of larger ones."""
    kinds = {"": {}, " tcp": {"MPIFRAME_DOORBELL": "tcp"}}
    rows: list[Row] = []
    failed = 0
    for servers, (suffix, environment) in itertools.product(WORLDS, kinds.items()):
        if suffix and servers != 31:
            continue
        row = world("commands", servers, quick, environment)
        if row is None:
            failed += 1
        else:
            row["name"] = f"{servers}{suffix}"
            rows.append(row)
    table(
        "way|servers|CPU us|min, max|messages down, up|bells|bytes down, up|sleeps|wall us",
        [_line(name, row) for name in rows[0]["samples"] for row in rows],
    )
    here = [row for row in rows if not row["name"].endswith("tcp")]
    table(
        "servers|script begins after s|client CPU then, s|private MiB then, at the end|descriptors|load then",
        [
            (
                row["name"],
                f"{row['took']:.2f}",
                f"{row['cpu_at_start']:.2f}",
                f"{row['rss_at_start'] / 2**20:.1f}, {row['rss_at_end'] / 2**20:.1f}",
                f"{row['descriptors']['sockets']} sockets, {row['descriptors']['eventfds']} eventfds, "
                f"{row['descriptors']['all']} in all",
                f"{row['others']:.1f}",
            )
            for row in rows
        ],
    )
    x = [row["servers"] for row in here]
    for name, scale, unit in (
        ("took", 1e3, "ms"),
        ("cpu_at_start", 1e3, "ms"),
        ("rss_at_start", 2**-10, "KiB"),
    ):
        slope, base = statistics.linear_regression(x, [row[name] * scale for row in here])
        print(f"{name}: {base:.0f} + {slope:.1f} {unit} a server")
    _fit(rows)
    for name in ("submit, in turn", "push, in turn"):
        print(f"{name}: client CPU a command at 31 and 1 servers: {_ratio(here, name, 31, 1):.2f}")
        print(f"{name}: client CPU a command at 31 and 3 servers: {_ratio(here, name, 31, 3):.2f}")
    return failed


def _median(row: Row, name: str, field: str) -> float:
    return float(statistics.median(sample[FIELDS.index(field)] for sample in row["samples"][name]))


def _line(name: str, row: Row) -> tuple[Any, ...]:
    m = {field: _median(row, name, field) for field in FIELDS}
    cpu = [sample[0] * 1e6 for sample in row["samples"][name]]
    return (
        name,
        row["name"],
        f"{m['cpu'] * 1e6:.1f}",
        f"{min(cpu):.1f}, {max(cpu):.1f}",
        f"{m['down']:.3f}, {m['up']:.3f}",
        f"{m['rings']:.2f}",
        f"{m['bytes_down']:.0f}, {m['bytes_up']:.0f}",
        f"{m['sleeps']:.3f}",
        f"{m['wall'] * 1e6:.0f}",
    )


def _ratio(rows: list[Row], name: str, more: int, fewer: int) -> float:
    by = {row["servers"]: _median(row, name, "cpu") for row in rows}
    return by[more] / by[fewer] if more in by and fewer in by else float("nan")


def _fit(rows: list[Row]) -> None:
    """Least squares over the samples of bursts: CPU = a + b messages + bells + w sleeps + c servers."""
    import numpy

    left, right = [], []
    for row, name in itertools.product(rows, BURSTS):
        tcp = row["name"].endswith("tcp")
        for sample in row["samples"][name]:
            m = dict(zip(FIELDS, sample, strict=True))
            ways = [float(name.startswith("push")), float(name.startswith("submit"))]
            bells = [0.0, m["rings"]] if tcp else [m["rings"], 0.0]
            left.append([*ways, m["down"] + m["up"], *bells, m["sleeps"], row["servers"] / 1000])
            right.append(m["cpu"] * 1e6)
    a, y = numpy.array(left), numpy.array(right)
    aw, yw = a / y[:, None], numpy.ones(len(y))  # relative errors count, not those of the dearest way alone
    best = numpy.linalg.lstsq(aw, yw, rcond=None)[0]
    off = (a @ best - y) / y
    spread = numpy.sqrt(numpy.diag(numpy.linalg.inv(aw.T @ aw)) * (off @ off) / (len(y) - len(best)))
    labels = [
        "a, push and get",
        "a, submit and result",
        "b, a message",
        "r, a bell here",
        "t, a bell by TCP",
        "w, a sleep",
        "c, 1,000 servers",
    ]
    table(
        "coefficient|us|+- (standard error)",
        [(n, f"{v:.2f}", f"{s:.2f}") for n, v, s in zip(labels, best, spread, strict=True)],
    )
    print(f"{len(y)} samples; off by {numpy.std(off):.0%} (standard deviation), at most {abs(off).max():.0%}")


# -- queue ------------------------------------------------------------------------------------------------


def trim() -> None:
    """Give freed memory back, where the C library can, so that growth can be seen."""
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def queue(quick: bool) -> Row:
    """Commands queued for a server that is held up, then run: seconds and bytes."""
    import gc

    import mpiframe

    few, many = (10_000, 100_000) if quick else (100_000, 1_000_000)
    rows = []
    with mpiframe.Client() as client:
        ways: dict[str, Callable[[], Any]] = {
            "push": lambda: client.push("None", 1),
            "submit": lambda: client.submit(int, target=1),
        }
        for way, n in ((way, n) for way in ways for n in (many, few, many, few)):
            one, kept = ways[way], []
            gc.collect()
            trim()
            held = client.push("import time; time.sleep(3600)", 1)
            before = resident()
            clocks = [(time.process_time(), time.perf_counter())]
            kept = [one() for _ in range(n)]
            clocks.append((time.process_time(), time.perf_counter()))
            grown = resident() - before
            client.interrupt(1)
            client.get(held)
            if way == "push":
                client.get(kept)
            else:
                for future in kept:
                    future.result()
            clocks.append((time.process_time(), time.perf_counter()))
            rows.append([way, n, grown, clocks])
        tracemalloc.start()
        held = client.push("import time; time.sleep(3600)", 1)
        sizes = {}
        for way in ways:
            before = tracemalloc.get_traced_memory()[0]
            kept = [ways[way]() for _ in range(few)]
            sizes[way] = (tracemalloc.get_traced_memory()[0] - before - sys.getsizeof(kept)) / few
            for item in kept:
                client.cancel(item) if way == "push" else item.cancel()
        tracemalloc.stop()
        client.interrupt(1)
        client.get(held)
    return {"rows": rows, "sizes": sizes}


def report_queue(quick: bool) -> int:
    """Time for ten times as many commands, and memory for each."""
    row = world("queue", 1, quick)
    if row is None:
        return 1
    lines = []
    whole: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for way, n, grown, clocks in row["rows"]:
        (c0, w0), (c1, w1), (c2, w2) = clocks
        lines.append(
            (
                way,
                f"{n:,}",
                f"{(c1 - c0) / n * 1e6:.1f}, {(w1 - w0) / n * 1e6:.1f}",
                f"{(c2 - c1) / n * 1e6:.1f}, {(w2 - w1) / n * 1e6:.1f}",
                f"{grown / n:.0f}",
                f"{row['sizes'][way]:.0f}",
            )
        )
        whole.setdefault((way, n), []).append((c2 - c0, w2 - w0))
    table("way|queued|us to queue: CPU, wall|us to run: CPU, wall|bytes, resident|bytes, tracemalloc", lines)
    for way, (few, many) in {w: sorted(n for v, n in whole if v == w) for w, _ in whole}.items():
        best = {n: [min(pair[i] for pair in whole[way, n]) for i in (0, 1)] for n in (few, many)}
        cpu, wall = (best[many][i] / best[few][i] for i in (0, 1))
        print(f"{way}: {many:,} over {few:,} commands: {cpu:.2f} in CPU time, {wall:.2f} in wall time")
    return 0


# -- dispatcher -------------------------------------------------------------------------------------------


def drive(servers: int, n: int, target: str, seconds: float, wave: int, share: int) -> Row:
    """A Dispatcher with simulated servers and n commands; CPU seconds in all, and in making the requests.

    `wave` commands a server are pushed at a time, then the servers answer in turn, each at most `share` of
    what it holds at once, until half of them are done; and so on.
    """
    from mpiframe.instructions import Send
    from mpiframe.messages import Request
    from mpiframe.queues import Dispatcher

    dispatcher = Dispatcher()
    holds: list[deque[int]] = [deque() for _ in range(servers + 1)]
    busy: deque[int] = deque()
    messages = 0

    def carry_out(instructions: list[Any]) -> None:
        nonlocal messages
        for instruction in instructions:
            assert type(instruction) is Send
            messages += 1
            rank = instruction.rank
            if not holds[rank]:
                busy.append(rank)
            holds[rank].extend([request.id for request in instruction.requests])

    for rank in range(1, servers + 1):
        dispatcher.joined(rank)
    pushed = answered = 0
    making = 0.0
    began = time.process_time()
    while answered < n:
        more = min(max(wave * servers, 64) - (pushed - answered), n - pushed)
        if more > 0:
            before = time.process_time()
            if target == "any":
                requests = [Request(pushed + i + 1, None, 1, "None", ()) for i in range(more)]
            elif target == "in turn":
                requests = [
                    Request(i, i % servers + 1, 1, "None", ()) for i in range(pushed + 1, pushed + more + 1)
                ]
            else:
                requests = [
                    Request(i, i % servers + 1 if i % 2 else None, 1 + i % 64, "None", ())
                    for i in range(pushed + 1, pushed + more + 1)
                ]
            making += time.process_time() - before
            pushed += more
            for request in requests:
                instructions = dispatcher.pushed(request)
                if instructions:
                    carry_out(instructions)
            del requests
        until = pushed if pushed == n else answered + (pushed - answered + 1) // 2
        while answered < until:
            rank = busy.popleft()
            held = holds[rank]
            answers = [(held.popleft(), seconds) for _ in range(min(share, len(held)))]
            if held:
                busy.append(rank)
            answered += len(answers)
            carry_out(dispatcher.answered(rank, answers))
    total = time.process_time() - began
    dispatcher.validate()
    return {"total": total, "making": making, "messages": messages}


def report_dispatcher(quick: bool) -> int:
    """Time a command against servers and commands; memory; calls that grow with the servers."""
    steps = (2, 10, 100, 1_000, 10_000)
    n = 100_000 if quick else 300_000
    ways = {
        "any, 1 us": ("any", 1e-6, 16, 16),
        "in turn, 1 us": ("in turn", 1e-6, 16, 16),
        "mixed, 64 kinds, 1 us": ("mixed", 1e-6, 16, 16),
        "any, 100 us, answered one by one": ("any", 1e-4, 16, 1),
        "in turn, 100 ms": ("in turn", 0.1, 16, 1),
        "any, 100 ms, all idle before": ("any", 0.1, 1, 1),
    }
    table(
        "dispatcher alone, us a command|" + "|".join(f"{s:,} servers" for s in steps) + "|10,000 over 2",
        _dispatcher_lines(ways, steps, n),
    )
    many = 1_000_000 if quick else 10_000_000
    table(
        "10,000 servers|commands|us a command|messages a command|MiB grown by",
        _many_lines(list(ways.items())[:2], many),
    )
    _growing()
    return 0


def _many_lines(ways: list[tuple[str, Any]], many: int) -> Iterator[list[str]]:
    for name, arguments in ways:
        before = resident()
        row = drive(10_000, many, *arguments)
        per = (row["total"] - row["making"]) / many * 1e6
        grown = (resident() - before) / 2**20
        yield [name, f"{many:,}", f"{per:.2f}", f"{row['messages'] / many:.3f}", f"{grown:.1f}"]


def _dispatcher_lines(ways: dict[str, Any], steps: tuple[int, ...], n: int) -> Iterator[list[str]]:
    for name, arguments in ways.items():
        cells = []
        for servers in steps:
            rows = [drive(servers, n, *arguments) for _ in range(3)]
            cells.append(min((row["total"] - row["making"]) / n * 1e6 for row in rows))
        yield [name, *(f"{c:.2f}" for c in cells), f"{cells[-1] / cells[0]:.2f}"]


def _growing() -> None:
    """The questions whose cost depends on the number of servers, by themselves."""
    from mpiframe.messages import Request
    from mpiframe.queues import Dispatcher

    lines = []
    for servers in (10, 1_000, 10_000):
        before = resident()
        dispatcher = Dispatcher()
        for rank in range(1, servers + 1):
            dispatcher.joined(rank)
        grown = (resident() - before) / servers
        for round in range(4):  # leaves gaps in the table of idle servers
            for rank in range(1, servers + 1):
                dispatcher.pushed(Request(-rank - round * servers, rank, 1, "", ()))
                dispatcher.answered(rank, [(-rank - round * servers, 1.0)])
        fill = _each(servers, lambda i: dispatcher.pushed(Request(i, None, 1, "", ())))  # noqa: B023
        for rank in dispatcher.ranks():
            running = dispatcher.running(rank)
            dispatcher.answered(rank, [(running or 0, 1.0)])
        dispatcher.highest_first = True
        highest = _each(100, lambda _: dispatcher.idle(None))  # noqa: B023
        ranks = _each(100, lambda _: dispatcher.ranks())  # noqa: B023
        page = bytes(servers)
        spin = _each(1000, lambda _: page[:servers].count(1))  # noqa: B023
        lines.append(
            (f"{servers:,}", f"{fill:.2f}", f"{highest:.2f}", f"{ranks:.1f}", f"{spin:.2f}", f"{grown:.0f}")
        )
    table(
        "servers|us to push one, all idle before|us for `idle` with highest_first|us for `ranks`|"
        "us for `may_spin`'s count|dispatcher's bytes a server",
        lines,
    )


def _each(times: int, call: Callable[[int], Any]) -> float:
    """Microseconds of CPU a call."""
    began = time.process_time()
    for i in range(1, times + 1):
        call(i)
    return (time.process_time() - began) / times * 1e6


# -- start ------------------------------------------------------------------------------------------------


class SimulatedServers:
    """Stands in for a communicator: says HELLO for every server, has another process open its doorbells."""

    def __init__(self, servers: int, hello: tuple[Any, ...], at_once: int) -> None:
        self._servers, self._hello = servers, hello
        self._inbox: deque[tuple[int, int, tuple[Any, ...]]] = deque()
        self._inbox.extend((rank, 1, (rank, *hello[1:])) for rank in range(1, servers + 1))
        self._told, self._at_once = 0, at_once
        self._process: subprocess.Popen[str] | None = None
        self.cpu_at_welcome = self.wall_at_welcome = self.cpu_at_ready = 0.0
        self.how: list[str] = []

    def Get_rank(self) -> int:
        return 0

    def Get_size(self) -> int:
        return self._servers + 1

    def Isend(self, data: Any, rank: int, tag: int) -> Any:  # noqa: ARG002
        from mpiframe.codec import unpack

        self._told += 1
        if self._told == self._servers:
            _, _, secret, address, *_ = unpack(data[0])
            self.cpu_at_welcome, self.wall_at_welcome = time.process_time(), time.perf_counter()
            plan = json.dumps([self._servers, address, secret.hex(), self._at_once])
            self._process = subprocess.Popen(
                [sys.executable, os.path.abspath(__file__), "--only", "herd"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "SCALE_HERD": plan},
            )
            threading.Thread(target=self._listen, daemon=True).start()
        return self

    def Test(self) -> bool:
        return True

    def _listen(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            rank, how = line.split()
            self.how.append(how)
            self._inbox.append((int(rank), 3, (how, "")))

    def Improbe(self, rank: int, tag: int, status: Any) -> Any:  # noqa: ARG002
        from mpi4py import MPI

        from mpiframe.codec import pack

        if not self._inbox or self._inbox[0][1] != tag:
            return None
        source, _, message = self._inbox.popleft()
        data = pack(message)
        status.Set_source(source)
        status.Set_elements(MPI.BYTE, len(data))
        return _Message(data)

    def end(self) -> None:
        """Let the other process go."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._process.wait(END)


class _Message:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def Recv(self, buffer: Any) -> None:
        buffer[0][:] = self._data


def herd(servers: int, address: list[str], secret: str, at_once: int) -> int:
    """The other process: the doorbells of all servers, so many at a time. Leaves when its input ends."""
    from mpiframe import doorbell

    kept = []

    def connect(rank: int) -> None:
        try:
            kept.append(doorbell.connect(tuple(address), bytes.fromhex(secret), rank, 10.0))
            how = address[0]
        except OSError:
            how = "polling"
        sys.stdout.write(f"{rank} {how}\n")
        sys.stdout.flush()

    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(connect, range(1, servers + 1)))
    sys.stdin.read()
    return 0


def crowd(servers: int) -> int:
    """How many of so many connections are turned away that say hello at once, and prove themselves after."""
    from mpiframe import doorbell

    secret = os.urandom(32)
    acceptor = doorbell.Acceptor(secret, range(1, servers + 1))
    address = acceptor.listen_tcp("127.0.0.1")
    turned_away = 0
    with selectors.DefaultSelector() as selector:
        for rank in range(1, servers + 1):
            sock = socket.create_connection((address[1], int(address[2])))
            sock.sendall(doorbell._HELLO.pack(doorbell._MAGIC, rank, doorbell.BELL, bytes(16)))
            selector.register(sock, selectors.EVENT_READ)
            acceptor.step(0)
        for _ in range(4 * servers):
            acceptor.step(0)
        for key, _ in selector.select(0):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.setblocking(False)
            try:
                while key.fileobj.recv(4096):
                    pass  # the challenge
                turned_away += 1
            except BlockingIOError:
                pass  # still open
            except OSError:
                turned_away += 1
        for key in list(selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
    acceptor.close()
    return turned_away


def start(quick: bool) -> Row:
    """The client's part of opening a world, with simulated servers; CPU seconds and bytes."""
    import gc

    from mpi4py import MPI  # noqa: F401  (for its Status)

    from mpiframe import joining, machine, opening
    from mpiframe.config import Config
    from mpiframe.world import Member

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    rows = []
    for servers in (100, 1_000) if quick else (100, 1_000, 3_000, 9_000):
        if 2 * servers + 200 > hard:
            continue
        me = Member(0, "host", machine.host_key(), 1, (0, 1, 2, 3), 0, (), opening._PYTHON)
        hello = (0, "host", me.host_key, 1, me.cores, 0, (), me.python)
        comm = SimulatedServers(servers, hello, 64)
        gc.collect()
        before, cpu, wall = resident(), time.process_time(), time.perf_counter()
        config = Config(doorbell="tcp", start_timeout=100.0)
        joined = joining.Joined(comm, comm, 0, servers + 1)  # type: ignore[arg-type]
        opened = opening._open_client(joined, me, config, time.monotonic() + 100.0)
        rows.append(
            {
                "servers": servers,
                "hello": comm.cpu_at_welcome - cpu,
                "bells": time.process_time() - comm.cpu_at_welcome,
                "wall": time.perf_counter() - wall,
                "bytes": (resident() - before) / servers,
                "polling": comm.how.count("polling"),
            }
        )
        for peer in list(opened.transport.peers):
            opened.transport.drop(peer)
        comm.end()
        del opened, comm
    return {"rows": rows, "crowd": [(many, crowd(many)) for many in (200, 1_000)], "limit": (soft, hard)}


def report_start(quick: bool) -> int:
    """What the start costs the client."""
    row = world("start", 1, quick)
    if row is None:
        return 1
    table(
        "simulated servers|client CPU until WELCOME is sent, s|from then on, s|wall s|bytes a server|polling",
        [
            (
                f"{r['servers']:,}",
                f"{r['hello']:.3f}",
                f"{r['bells']:.3f}",
                f"{r['wall']:.2f}",
                f"{r['bytes']:.0f}",
                r["polling"],
            )
            for r in row["rows"]
        ],
    )
    for many, away in row["crowd"]:
        print(f"{many} connections at once that are slow to prove themselves: {away} turned away")
    print("limit of descriptors here: {} soft, {} hard".format(*row["limit"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
