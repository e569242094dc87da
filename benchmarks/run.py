"""Runs benchmarks of this folder and prints their figures.

    python benchmarks/run.py [--quick] [name ...]

Each figure is a ratio, against raw mpi4py in the same processes or against the original casampi in the same
run, or a share of a core; the machine's load is printed with them. Nothing here passes or fails.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
WORLDS = {
    "speed": 0,
    "runtime": 2,
    "casampi": 0,
    "scale": 0,
    "journal": 3,
    "scheduler": 0,
}  # -> ranks; 0: it starts its worlds itself
DEFAULT = ("speed",)
LIMIT = 900  # seconds for one benchmark
END = 10  # seconds for it to end after Ctrl-C or the limit


def main() -> int:
    """Run what was asked for; the number of benchmarks that could not be run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help=f"{', '.join(WORLDS)}; default: {', '.join(DEFAULT)}")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    options = parser.parse_args()
    load = ", ".join(f"{x:.2f}" for x in os.getloadavg())
    print(f"{os.cpu_count()} cores, load {load} (1, 5, 15 minutes)", flush=True)
    failed = 0
    for name in options.names or DEFAULT:
        script = [str(HERE / f"{name}.py"), *(["--quick"] if options.quick else [])]
        world = ["-m", "mpiframe", "run", "-n", str(WORLDS[name])] if WORLDS[name] else []
        command = [sys.executable, *world, *script]
        failed += run(command) != 0
    return failed


def run(command: list[str]) -> int:
    """Run a command to its end; its exit status."""
    process = subprocess.Popen(command)
    try:
        return process.wait(LIMIT)
    except subprocess.TimeoutExpired:
        print(f"not ended after {LIMIT} s: {' '.join(command)}", file=sys.stderr)
        process.terminate()
        return 1
    finally:
        # It gets a terminal's Ctrl-C as we do, and then has ranks to end and a folder to remove.
        try:
            process.wait(END)
        except subprocess.TimeoutExpired:
            process.kill()


if __name__ == "__main__":
    sys.exit(main())
