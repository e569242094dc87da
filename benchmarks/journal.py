"""What a journal costs: microseconds an item, recorded and read back, beside the same call without one.

Three ranks. Beside them stands what SQLite itself takes for as many rows, with as many syncs. The servers
have next to nothing to do, so what is measured is the client; an item that takes 10 ms does not notice.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import mpiframe
from mpiframe.journal import GROUP_ITEMS


def item(n: int) -> int:
    return 2 * n + 1


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def sqlite_alone(path: Path, count: int) -> None:
    sql = sqlite3.connect(path, isolation_level=None)
    sql.execute("PRAGMA journal_mode = WAL").fetchall()
    sql.execute("PRAGMA synchronous = FULL")
    sql.execute("CREATE TABLE items (key INTEGER PRIMARY KEY, input BLOB, value BLOB)")
    for start in range(0, count, GROUP_ITEMS):
        sql.execute("BEGIN")
        rows = ((n, bytes(16), b"12345") for n in range(start, start + GROUP_ITEMS))
        sql.executemany("INSERT INTO items VALUES (?, ?, ?)", rows)
        sql.execute("COMMIT")
    sql.close()


def resident() -> float:
    """MiB of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    """Measure; the medians of three."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer items")
    count = 50_000 if parser.parse_args().quick else 300_000
    few = count // 100
    found: dict[str, list[float]] = {}
    with mpiframe.Client() as client, tempfile.TemporaryDirectory(prefix="mpiframe-bench-") as text:

        def go(times: int, **options: object) -> Callable[[], object]:
            return lambda: sum(client.map(item, iter(range(times)), buffersize=100_000, **options))

        def submits(**options: object) -> Callable[[], object]:
            return lambda: [f.result() for f in [client.submit(item, n, **options) for n in range(few)]]

        go(few)()
        for number in range(3):
            folder = Path(text)
            journal = folder / f"{number}.db"
            figures = {
                "map without a journal": seconds(go(count)) / count,
                "map, recorded": seconds(go(count, journal=mpiframe.Journal(journal, name="map"))) / count,
                "map, from the journal": seconds(go(count, journal=mpiframe.Journal(journal, name="map")))
                / count,
                "submit without a journal": seconds(submits()) / few,
                "submit, recorded": seconds(submits(journal=mpiframe.Journal(journal, name="x"))) / few,
                "SQLite alone": seconds(lambda path=folder / f"{number}.sqlite": sqlite_alone(path, count))
                / count,
            }
            for name, value in figures.items():
                found.setdefault(name, []).append(value)
        print(f"\n| {count} items | us an item |\n|---|---|")
        for name, values in found.items():
            print(f"| {name} | {statistics.median(values) * 1e6:.1f} |")
        print(f"The client's memory at the end: {resident():.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
