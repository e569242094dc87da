"""What every peer can be asked; each module here answers it for one package."""

# ruff: noqa: ARG002, B027 - what a peer does not say for itself does nothing, or is not there

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

SERVERS = "BENCH_SERVERS"  # variables of the session's environment
WORLD = "BENCH_WORLD"
BEGAN = "BENCH_BEGAN"


class NotThere(Exception):
    """The peer has no such thing; the text is shown in place of a figure."""


class Peer(ABC):
    """A package with servers that do what `tasks` has. Every call returns when its work is done."""

    chunks: tuple[int | None, ...] = (100, 1000, 10_000)
    """The chunk sizes to try for `map_many`; None where the user names none."""
    idle_seconds = 2.0
    """How long its idle CPU time is measured."""

    def __init__(self) -> None:
        self.servers = int(os.environ.get(SERVERS, "2"))

    # -- life --------------------------------------------------------------------------------------

    def run(self, measure: Callable[[Peer], None]) -> None:
        """Start, measure on the client, stop. On a server: serve until the client stops."""
        if self.start():
            try:
                measure(self)
            finally:
                self.stop()

    @abstractmethod
    def start(self) -> bool:
        """Start what there is to start; whether this process is the client."""

    def stop(self) -> None:
        """End the servers."""

    def begin(self, what: str) -> None:
        """The figures of this kind follow (raw ranks wait in a different loop for each)."""

    def end(self) -> None:
        """They are done."""

    @abstractmethod
    def server_pids(self) -> set[int]:
        """Process ids of the servers."""

    # -- the workload ------------------------------------------------------------------------------

    @abstractmethod
    def noop(self) -> None:
        """One no-op on a server, waited for."""

    def noop_after_pause(self, seconds: float) -> float:
        """Pause, then one no-op, waited for; the seconds that this took."""
        time.sleep(seconds)  # the pause is part of the workload
        start = time.perf_counter()
        self.noop()
        return time.perf_counter() - start

    def submit_many(self, n: int) -> None:
        """So many no-ops, one each, and all their results."""
        raise NotThere("no single tasks")

    def map_many(self, n: int, chunk: int | None) -> Any:
        """`double` of each of range(n); the results, in order."""
        raise NotThere("no map")

    def argument(self, array: Any) -> None:
        """Send an array to a server."""
        raise NotThere("no arguments")

    def result(self, size: int) -> Any:
        """Have a server return an array of so many bytes."""
        raise NotThere("no results")

    def broadcast(self, array: Any) -> None:
        """Send an array to all servers; return when they have it."""
        raise NotThere("no call to all servers")

    def reduce(self, n: int) -> Any:
        """The sum of part(0) ... part(n - 1), on the client."""
        raise NotThere("no reduction")


def gather_pids(pids: Callable[[int], Any], servers: int) -> set[int]:
    """Process ids of servers that cannot be chosen: asked until that many different ones have answered."""
    found: set[int] = set()
    deadline = time.monotonic() + 10
    while len(found) < servers and time.monotonic() < deadline:
        found |= set(pids(20 * servers))
    return found
