"""Runs every benchmark of this folder in worlds of their own and prints their figures.

    python benchmarks/run.py [--quick] [name ...]

Each figure is a ratio against raw mpi4py measured in the same processes in the same run, or a share of a
core; the machine's load is printed with them. Nothing here passes or fails.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
WORLDS = {"runtime": 2}  # benchmark -> ranks
LIMIT = 600  # seconds for one benchmark


def main() -> int:
    """Run what was asked for; the number of benchmarks that could not be run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="default: all")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    options = parser.parse_args()
    load = ", ".join(f"{x:.2f}" for x in os.getloadavg())
    print(f"{os.cpu_count()} cores, load {load} (1, 5, 15 minutes)", flush=True)
    failed = 0
    for name in options.names or WORLDS:
        script = [str(HERE / f"{name}.py"), *(["--quick"] if options.quick else [])]
        command = [sys.executable, "-m", "mpiframe", "run", "-n", str(WORLDS[name]), *script]
        failed += subprocess.run(command, timeout=LIMIT, check=False).returncode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main())
