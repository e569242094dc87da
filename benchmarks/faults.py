"""How long it takes until a dead server is noticed, and until another one answers in its place.

    python benchmarks/faults.py [--rounds 20] [--ranks 4] [--python /other/bin/python ...]

In each round a server of a resilient world is killed (-9) while it runs a command, with another one queued
for it. Measured from the kill: until the future of the first raises ServerLost, and until that of the second
has its result, from the replacement. Medians and worst of the rounds; wanted are medians below 0.2 s and 3 s.

MPI: that of the Python that runs this, and those of other Pythons, by default that of the environment
.venv-mpich in the checkout if there is one. Nothing here passes or fails.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 300.0  # for one world; a minute or so as a rule


def main() -> int:
    """Measure with each Python and print a table; the number of those that could not."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20, help="servers killed (default: %(default)s)")
    parser.add_argument("--ranks", type=int, default=4, help="ranks of the world (default: %(default)s)")
    parser.add_argument("--python", action="append", help="another Python with an MPI; may be repeated")
    parser.add_argument("--inside", metavar="FILE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        Path(options.inside).write_text(json.dumps(measure(options.rounds)), encoding="utf-8")
        return 0
    beside = ROOT / ".venv-mpich" / "bin" / "python"
    pythons = [sys.executable, *(options.python or ([str(beside)] if beside.exists() else []))]
    print(f"{options.ranks} ranks, {options.rounds} kills, {len(os.sched_getaffinity(0))} cores, ", end="")
    print("load " + ", ".join(f"{value:.1f}" for value in os.getloadavg()))
    print(f"{'MPI':<28} {'kill to ServerLost':>24} {'kill to the next answer':>26}")
    print(f"{'':<28} {'median':>13} {'worst':>10} {'median':>15} {'worst':>10}")
    return sum(not _row(python, options) for python in pythons)


def _row(python: str, options: argparse.Namespace) -> bool:
    with tempfile.TemporaryDirectory(prefix="mpiframe-faults-") as folder:
        answer = Path(folder) / "answer"
        words = ["run", "--resilient", "-n", str(options.ranks), __file__]
        words += ["--rounds", str(options.rounds), "--inside", str(answer)]
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        with open(Path(folder) / "output", "w+", encoding="utf-8", errors="replace") as output:
            process = subprocess.Popen(
                [python, "-m", "mpiframe", *words],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | {"PYTHONPATH": path},
            )
            try:
                status = process.wait(SECONDS)
            except subprocess.TimeoutExpired:
                process.terminate()
                status = process.wait()
            if status or not answer.exists():
                output.seek(0)
                print(f"{python}: status {status}\n" + "".join(output.readlines()[-15:]))
                return False
        found = json.loads(answer.read_text(encoding="utf-8"))
    cells = []
    for name in ("lost", "answered"):
        cells += [statistics.median(found[name]), max(found[name])]
    lost, lost_worst, answered, answered_worst = (f"{1e3 * value:.1f} ms" for value in cells)
    print(f"{found['mpi'][:27]:<28} {lost:>13} {lost_worst:>10} {answered:>15} {answered_worst:>10}")
    return True


def measure(rounds: int) -> dict[str, Any]:
    """Inside the world: the seconds of each round, and the MPI."""
    import mpiframe

    found: dict[str, Any] = {"lost": [], "answered": []}
    with tempfile.TemporaryDirectory() as folder, mpiframe.Client(restart="always") as client:
        found["mpi"] = " ".join(client.facts().mpi.split(",")[0].split())
        ranks = [server.rank for server in client.servers]
        for number in range(rounds):
            rank = ranks[number % len(ranks)]
            pid = client.submit(os.getpid, target=rank).result()
            sign = Path(folder, str(number))
            running = client.submit(_hold, str(sign), target=rank)
            queued = client.submit(os.getpid, target=rank)
            while not sign.exists():  # "busy" would not do: what has not begun is not lost with its server
                pass
            begun = time.perf_counter()
            os.kill(pid, signal.SIGKILL)
            error = running.exception()
            found["lost"].append(time.perf_counter() - begun)
            assert isinstance(error, mpiframe.ServerLost), error
            assert queued.result() != pid
            found["answered"].append(time.perf_counter() - begun)
    return found


def _hold(sign: str) -> None:
    Path(sign).touch()
    time.sleep(600)


if __name__ == "__main__":
    sys.exit(main())
