"""Starts the world of one session with the MPI of this Python, and ends it in time with all that is below it.

python -m benchmarks.peers.world SECONDS SERVERS PEER GROUP[,GROUP ...] FILE [--quick]
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from benchmarks.peers import ENTRIES, casa
from benchmarks.peers.base import BEGAN, SERVERS, WORLD
from mpiframe import launcher
from mpiframe.launcher.processes import end_with_parent


def plan(servers: int, name: str, words: list[str]) -> launcher.LaunchPlan:
    """How to start the session of this peer."""
    entry = ENTRIES[name]
    if entry.module == "casa":
        casa.prepare(Path.cwd())
    session = ["-m", "benchmarks.peers.session", name, *words]
    below = {"mpi": [], "mpiframe": ["-m", "mpiframe"], "pool": ["-m", "mpi4py.futures"]}
    if entry.start in below:
        return launcher.plan(servers + entry.clients, [*below[entry.start], *session])
    if entry.start == "charm":  # whose launcher wants a script
        script = str(Path(__file__).with_name("session.py"))
        session = ["-m", "charmrun.start", f"+p{servers + 1}", "++quiet", script, name, *words]
    mpi = launcher.plan(2, session)  # for its settings: what starts there may start MPI itself
    return launcher.LaunchPlan((sys.executable, *session), mpi.env_added, mpi.library, sys.executable)


def main(seconds: str, servers: str, name: str, *words: str) -> int:
    """Start it and wait; the exit status, 124 if it did not end in time."""
    end_with_parent()  # and what is below it with this
    os.environ |= {SERVERS: servers, WORLD: str(os.getpid()), BEGAN: str(time.time())}
    return launcher.run(plan(int(servers), name, list(words)), timeout=float(seconds))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
