"""The figures by name, what they are compared with, and the comparison."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

from . import ENTRIES
from .running import QUIET, Session

MANY_SERVERS = 32


@dataclass(frozen=True)
class Figure:
    """A figure: its title, the unit of its value, and whether less of it is better."""

    title: str
    unit: str
    less_is_better: bool = True
    size: int = 0  # bytes; then a rate is shown


FIGURES: dict[str, Figure] = {
    "noop": Figure("1. no-op, back to back", "s"),
    "pause": Figure("2. no-op after a 5 ms pause", "s"),
    "submit_many": Figure("3. 100,000 no-ops by `submit`", "/s", False),
    "map_many": Figure("4. `map` of 1,000,000 items", "/s", False),
    "argument": Figure("5. argument of 64 MiB", "s", size=64 << 20),
    "result": Figure("5. result of 64 MiB", "s", size=64 << 20),
    "argument_gib": Figure("5. argument of 1 GiB", "s", size=1 << 30),
    "result_gib": Figure("5. result of 1 GiB", "s", size=1 << 30),
    "broadcast": Figure("6. 64 MiB to all servers", "s"),
    "reduce": Figure("7. sum of 64 results of 8 MiB", "s"),
    "idle": Figure("8. idle CPU, the busier of client and server", "%"),
    "growth": Figure("9. 1,000,000 commands over 100,000", "x"),
    "many": Figure("10. client's CPU time for a command", "s"),
}
COMPARED = [name for name in FIGURES if name not in ("growth", "many")]
"""Those that all peers are asked for."""

FUTURES = ("futures", "futures-pkl5", "pool", "pool-pkl5")
PKL5 = ("futures-pkl5", "pool-pkl5")


@dataclass(frozen=True)
class Target:
    """What ours is to reach: so many times as good as the best of `against`, or below a limit."""

    figure: str
    wanted: float
    against: tuple[str, ...] = ()
    words: str = ""  # for what it is compared with, where the peer's title would not do


def _transfer(figure: str) -> list[Target]:
    return [
        Target(figure, 0.9, ("raw",), "raw, memory used before"),
        Target(figure, 0.9, ("raw-fresh",)),
        Target(figure, 1.5, PKL5, "mpi4py.futures, pkl5"),
    ]


TARGETS: tuple[Target, ...] = (
    Target("noop", 0.4, ("raw",)),
    Target("noop", 1.0, ("charm4py",)),
    Target("noop", 20, FUTURES, "mpi4py.futures"),
    Target("pause", 10, FUTURES, "mpi4py.futures"),
    Target("submit_many", 0.6, ("raw",)),
    Target("submit_many", 20, FUTURES, "mpi4py.futures"),
    Target("map_many", 1.5, FUTURES, "mpi4py.futures, best chunk"),
    *_transfer("argument"),
    *_transfer("result"),
    *_transfer("argument_gib"),
    *_transfer("result_gib"),
    Target("broadcast", 0.9, ("raw",), "`Bcast`"),
    Target("broadcast", 1.0, ("ray",), "ray's object store"),
    Target("reduce", 0.8, ("raw",), "partial sums and `Reduce`"),
    Target("idle", 0.005),
    Target("growth", 10.5),
    Target("many", 1.3, words=f"{MANY_SERVERS} servers over 2"),
)


class Results:
    """All sessions, and what can be asked of them."""

    def __init__(self, sessions: list[Session]) -> None:
        self.sessions = sessions
        self.mpis = list(dict.fromkeys(s["mpi"] for s in sessions if s["peer"] == "ours"))

    def rounds(self, mpi: str, peer: str, figure: str, servers: int = 2) -> dict[int, dict[str, Any]]:
        """What each round found, as far as it found something.

        Rounds in which other processes used much of the machine are set aside if there is a quieter one.
        Peers that were measured with one MPI only are the same for all.
        """
        home = mpi if ENTRIES[peer].each_mpi else self.mpis[0]
        found: dict[int, dict[str, Any]] = {}
        quiet: dict[int, dict[str, Any]] = {}
        for session in self.sessions:
            if (session["mpi"], session["peer"], session["servers"]) == (home, peer, servers):
                values = session["figures"].get(figure, {})
                if "value" in values:
                    found[session["round"]] = values
                    if session["others"] < QUIET:
                        quiet[session["round"]] = values
        return quiet or found

    def value(self, mpi: str, peer: str, figure: str, key: str = "value", servers: int = 2) -> float | None:
        """The median over the rounds."""
        found = [values[key] for values in self.rounds(mpi, peer, figure, servers).values() if key in values]
        return statistics.median(found) if found else None

    def missing(self, mpi: str, peer: str, figure: str) -> str | None:
        """Why there is no such figure."""
        home = mpi if ENTRIES[peer].each_mpi else self.mpis[0]
        for session in self.sessions:
            if (session["mpi"], session["peer"]) == (home, peer):
                why = session["figures"].get(figure, {}).get("missing")
                if why:
                    return str(why)
        return None

    def belongs(self, mpi: str, peer: str) -> bool:
        """Whether what was measured of a peer holds for this MPI.

        What does not move its data by MPI was measured with the first one, for all.
        """
        return mpi == self.mpis[0] or ENTRIES[peer].each_mpi or not ENTRIES[peer].by_mpi

    def best(self, mpi: str, peers: tuple[str, ...], figure: str) -> str | None:
        """That one of these peers which is best by its median."""
        known = {peer: self.value(mpi, peer, figure) for peer in peers if self.belongs(mpi, peer)}
        values = {peer: value for peer, value in known.items() if value is not None}
        if not values:
            return None
        choose = min if FIGURES[figure].less_is_better else max
        return choose(values, key=lambda peer: values[peer])

    def ratio(self, mpi: str, figure: str, other: str) -> float | None:
        """How many times as good as the other ours is.

        The median of the rounds' ratios: the two were measured within seconds of each other there. Where they
        share no round, the ratio of the medians.
        """
        ours, theirs = self.rounds(mpi, "ours", figure), self.rounds(mpi, other, figure)
        shared = sorted(ours.keys() & theirs.keys())
        pairs = [(ours[r]["value"], theirs[r]["value"]) for r in shared]
        if not pairs:
            a, b = self.value(mpi, "ours", figure), self.value(mpi, other, figure)
            if a is None or b is None:
                return None
            pairs = [(a, b)]
        less = FIGURES[figure].less_is_better
        return statistics.median([b / a if less else a / b for a, b in pairs])

    def growth_of_cpu(self, mpi: str) -> float | None:
        """Figure 10: the client's CPU time for a command with many servers over that with two."""
        two, more = (self.rounds(mpi, "ours", "many", n) for n in (2, MANY_SERVERS))
        ratios = [more[r]["value"] / two[r]["value"] for r in two.keys() & more.keys()]
        return statistics.median(ratios) if ratios else None
