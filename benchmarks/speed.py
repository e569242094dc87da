"""mpiframe beside raw mpi4py and the packages that users would otherwise pick: one workload for all.

    python benchmarks/speed.py [--quick] [--peers ray,charm4py] [--groups commands,arrays] [--install]

Rounds over the peers, each session of a peer in a world of its own that no other one shares the machine with;
medians over the rounds. It takes about ten minutes, with --quick three. The tables go to standard
output, and with the plot and all figures as JSON into a folder. Nothing here passes or fails.

MPI: that of the Python that runs this, and those of other Pythons (--python), by default that of the
environment .venv-mpich in the checkout if there is one.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peers import ENTRIES, Entry, plot, running, tables
from peers.figures import MANY_SERVERS, Results
from peers.running import Python, Session, say

HERE = Path(__file__).resolve().parent
GROUPS = ("commands", "arrays", "gib", "idle", "growth", "many")
ROUNDS = 3
MINUTES = 10.0
SESSION_SECONDS, QUICK_SESSION_SECONDS = 90.0, 45.0  # for each group of figures of a session
PATIENCE, QUICK_PATIENCE = 120.0, 6.0  # seconds to wait for a quiet machine, in all


def main() -> int:
    """Measure, print, write; the number of sessions of ours that did not run."""
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # by way of all that cleans up
    if options.render:
        kept = json.loads(Path(options.render).read_text(encoding="utf-8"))
        _publish(kept["machine"], kept["sessions"], options.out)
        return 0
    began = time.time()
    machine: dict[str, Any] = {
        "cores": len(os.sched_getaffinity(0)),
        "date": time.strftime("%Y-%m-%d"),
        "load before": os.getloadavg(),
        "absent": {},
    }
    pythons = _pythons(options, machine)
    deadline = began + 60 * options.minutes
    sessions = _measure(_peers(options, pythons[0], machine["absent"]), pythons, options, deadline)
    machine |= {"load after": os.getloadavg(), "seconds": time.time() - began}
    _publish(machine, sessions, options.out)
    return sum(
        "why" in session and session["seconds"] > 0 for session in sessions if session["peer"] == "ours"
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="one round, fewer repetitions, less of slow peers"
    )
    parser.add_argument("--peers", help=f"some of {', '.join(ENTRIES)}, with commas; ours and raw are added")
    parser.add_argument("--groups", help=f"some of {', '.join(GROUPS)}")
    parser.add_argument("--python", action="append", metavar="PATH", help="a Python with another MPI")
    parser.add_argument("--rounds", type=int, help=f"over the peers, at most (default: {ROUNDS})")
    parser.add_argument(
        "--minutes", type=float, default=MINUTES, help="nothing new begins later than that (%(default)g)"
    )
    parser.add_argument(
        "--patience",
        type=float,
        metavar="SECONDS",
        help=f"to wait for a quiet machine, in all (default: {PATIENCE:g}, with --quick {QUICK_PATIENCE:g})",
    )
    parser.add_argument("--install", action="store_true", help="have pip install the peers that are missing")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="the folder for what is written")
    parser.add_argument("--render", metavar="JSON", help="only print what an earlier run has written")
    return parser.parse_args()


# -- what there is -------------------------------------------------------------------------------------


def _pythons(options: argparse.Namespace, machine: dict[str, Any]) -> list[Python]:
    """The interpreters, each with another MPI."""
    mpich = HERE.parent / ".venv-mpich" / "bin" / "python"
    others = options.python if options.python is not None else [str(mpich)] if mpich.exists() else []
    found: list[Python] = []
    for path in (sys.executable, *others):
        python = Python(path)
        try:
            python.look()
        except (OSError, subprocess.SubprocessError) as error:
            say(f"{path} is left out: {error}")
            continue
        if python.mpi not in [other.mpi for other in found]:
            found.append(python)
    if not found:
        sys.exit("no Python with mpi4py and an MPI: see mpiframe doctor")
    machine["versions"] = found[0].versions
    return found


def _peers(options: argparse.Namespace, python: Python, absent: dict[str, str]) -> dict[str, Entry]:
    """Those to be measured; the reasons for the others are put into `absent`."""
    named = options.peers.split(",") if options.peers else list(ENTRIES)
    if unknown := set(named) - set(ENTRIES):
        sys.exit(f"there is no peer {', '.join(sorted(unknown))}; there are {', '.join(ENTRIES)}")
    if options.install:
        for name in named:
            package = ENTRIES[name].package
            if package and (package != "casampi" or options.peers):  # it brings CASA along
                python.install(package)
        python.look()
    chosen: dict[str, Entry] = {}
    for name, entry in ENTRIES.items():
        if name not in (*named, "raw", "raw-fresh", "ours"):
            continue
        if options.quick and not entry.quick and not options.peers:
            continue
        if why := python.missing(name):
            absent[name] = why
        else:
            chosen[name] = entry
    return chosen


# -- measuring -----------------------------------------------------------------------------------------


def _round(
    number: int, peers: dict[str, Entry], pythons: list[Python], options: argparse.Namespace
) -> Iterator[tuple[Python, str, str, int]]:
    """(Python, peer, groups, servers) of each session of a round.

    Group by group, so that what is compared is measured within seconds of each other; but what is measured
    only once is one session for each peer, as some take long to start. Every other round goes over the peers
    backwards, so that a machine that gets slower does not do so at the cost of the same peer each time.
    """
    wanted = options.groups.split(",") if options.groups else GROUPS
    names = list(peers) if number % 2 == 0 else list(reversed(peers))
    worlds = [
        (python, {name: peers[name] for name in names if python is pythons[0] or peers[name].each_mpi})
        for python in pythons
    ]
    for python, here in worlds:
        for group in (group for group in GROUPS if group in wanted):
            if options.quick and group == "gib" and python is not pythons[0]:
                continue
            for name in (name for name, entry in here.items() if group in entry.every):
                yield python, name, group, 2
                if group == "many":
                    yield python, name, group, MANY_SERVERS
            # Raw's other way of receiving, right after what it is compared with.
            if group == "arrays" and "raw-fresh" in here:
                yield python, "raw-fresh", "transfers", 2
    for python, here in worlds if number == 0 else ():
        for name, entry in here.items():
            if groups := [group for group in _once(entry, options) if group in wanted]:
                yield python, name, ",".join(groups), 2


def _once(entry: Entry, options: argparse.Namespace) -> list[str]:
    """The groups of the first round only; where there is little time, 1 GiB is not for all."""
    return [group for group in entry.once if not (options.quick and group == "gib")]


def _measure(
    peers: dict[str, Entry], pythons: list[Python], options: argparse.Namespace, deadline: float
) -> list[Session]:
    """Run the rounds, as many as there are to be and as there is time for."""
    sessions: list[Session] = []
    took: dict[tuple[Any, ...], float] = {}
    limit, patience = (
        (QUICK_SESSION_SECONDS, QUICK_PATIENCE) if options.quick else (SESSION_SECONDS, PATIENCE)
    )
    patience = options.patience if options.patience is not None else patience
    longest = patience / 10  # for one session
    for number in range(options.rounds or (1 if options.quick else ROUNDS)):
        plan = list(_round(number, peers, pythons, options))
        expected = sum(took.get((python.path, *rest), 5.0) for python, *rest in plan)
        if number and time.time() + expected > deadline:
            say(f"round {number + 1} would take {expected:.0f} s more: left out")
            break
        for python, peer, groups, servers in plan:
            if time.time() > deadline:
                say(f"round {number + 1}, {python.mpi}, {ENTRIES[peer].title}, {groups}: no time left")
                sessions.append(running.left_out(python, peer, groups, servers, number, "no time was left"))
                continue
            patience -= running.await_quiet(min(patience, longest))
            # What has begun may end, if it takes no more than a minute too long.
            seconds = min(limit * len(groups.split(",")), deadline - time.time() + 60)
            session = running.run(python, peer, groups, servers, seconds, options.quick)
            session["round"] = number
            sessions.append(session)
            took[python.path, peer, groups, servers] = session["seconds"]
            say(
                f"round {number + 1}, {python.mpi}, {ENTRIES[peer].title}, {groups}, {servers} servers: "
                f"{session['seconds']:.1f} s, others {session['others']:.1f} cores"
                f"{' - ' + session['why'] if 'why' in session else ''}"
            )
    return sessions


# -- what comes of it ----------------------------------------------------------------------------------


def _publish(machine: dict[str, Any], sessions: list[Session], folder: Path) -> None:
    """Print the tables, and write them, the plot and the figures into the folder."""
    results = Results(sessions)
    folder.mkdir(parents=True, exist_ok=True)
    kept = {"machine": machine, "sessions": sessions}
    (folder / "speed.json").write_text(json.dumps(kept, indent=1), encoding="utf-8")
    text = tables.markdown(machine, results)
    (folder / "speed.md").write_text(text, encoding="utf-8")
    print(text, flush=True)
    try:
        plot.draw(results, folder / "speed.png")
    except ImportError:
        say("there is no matplotlib, so no plot")


if __name__ == "__main__":
    sys.exit(main())
