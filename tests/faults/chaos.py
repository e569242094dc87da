"""Everything at once, for as long as asked: commands of all kinds, while servers are killed, stopped
and interrupted. `test_chaos.py` runs it for a while; by hand:

    mpiframe run --resilient -n 5 tests/faults/chaos.py 600 7      (seconds, seed)

Every request has to end, with the right value or an error that its kind may have, and the counts have to add
up; else it ends with status 1 and says which request it was.
"""

from __future__ import annotations

import collections
import contextlib
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import mpiframe
from mpiframe.errors import CommandCancelled, CommandError, CommandTimeout, ServerLost

UNDER_WAY = 200  # requests that may be open at once
PATIENCE = 60.0  # seconds in which each request has to end


def square(n: int) -> int:
    """Short."""
    return n * n


def doubled(array: Any) -> Any:
    """Large both ways."""
    return array * 2


def slow(seconds: float) -> float:
    """Long; can be interrupted at any moment."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        sum(range(200))
    return seconds


def wrong(n: int) -> None:
    """Fails."""
    raise ValueError(n)


class Chaos:
    """Makes requests, and counts what becomes of them."""

    def __init__(self, client: mpiframe.Client, seed: int) -> None:
        self.client = client
        self.chance = random.Random(seed)
        self.ends: collections.Counter[str] = collections.Counter()
        self.kinds: collections.Counter[str] = collections.Counter()
        self.faults: collections.Counter[str] = collections.Counter()
        self.pushed = 0
        self.open: collections.deque[tuple[str, Any, Callable[[Any], bool]]] = collections.deque()
        self.complaints: list[str] = []
        self.over = threading.Event()
        self.ranks = [row.rank for row in client.servers]

    # -- requests ----------------------------------------------------------------------------------

    def push_one(self) -> None:
        kinds = (self.quick, self.targeted, self.words, self.large, self.sleepy, self.bounded, self.failing)
        kind = self.chance.choices((*kinds, self.called_off), (60, 12, 10, 4, 4, 3, 5, 2))[0]
        name = kind.__name__
        try:
            request, is_right = kind()
        except (ServerLost, mpiframe.TargetError):
            self.kinds["refused: its server is gone"] += 1
            return
        self.pushed += 1
        self.kinds[name] += 1
        self.open.append((name, request, is_right))

    def quick(self) -> tuple[Any, Callable[[Any], bool]]:
        n = self.chance.randrange(1000)
        future = self.client.submit(square, n, retries=self.chance.choice((0, 2)))
        return future, lambda value: bool(value == n * n)

    def targeted(self) -> tuple[Any, Callable[[Any], bool]]:
        n, rank = self.chance.randrange(1000), self.chance.choice(self.ranks)
        return self.client.submit(square, n, target=rank), lambda value: bool(value == n * n)

    def words(self) -> tuple[Any, Callable[[Any], bool]]:
        n = self.chance.randrange(1000)
        return self.client.push("n + 1", parameters={"n": n}), lambda value: bool(value == n + 1)

    def large(self) -> tuple[Any, Callable[[Any], bool]]:
        array = np.full(1 << 17, self.chance.random())
        future = self.client.submit(doubled, array, retries=1)
        return future, lambda value: bool((value == array * 2).all())

    def sleepy(self) -> tuple[Any, Callable[[Any], bool]]:
        return self.client.submit(slow, self.chance.uniform(0.01, 0.2), retries=1), lambda value: value > 0

    def bounded(self) -> tuple[Any, Callable[[Any], bool]]:
        return self.client.submit(slow, 0.3, timeout=self.chance.uniform(0.05, 0.2)), lambda value: True

    def failing(self) -> tuple[Any, Callable[[Any], bool]]:
        return self.client.submit(wrong, self.chance.randrange(1000)), lambda value: False

    def called_off(self) -> tuple[Any, Callable[[Any], bool]]:
        future = self.client.submit(slow, 0.1)
        future.cancel()
        return future, lambda value: value == 0.1

    # -- their ends --------------------------------------------------------------------------------

    def take_oldest(self) -> None:
        name, request, is_right = self.open.popleft()
        begin = time.monotonic()
        problem: object = "its value is wrong"
        try:
            if isinstance(request, int):
                value = self.client.get(request, timeout=PATIENCE)[0].result()
            else:
                value = request.result(PATIENCE)
        except CommandCancelled as error:
            problem = error
            end, allowed = "cancelled", name == "called_off"
        except CommandTimeout as error:
            problem = error
            end, allowed = "timeout", name == "bounded" and time.monotonic() - begin < PATIENCE
        except ServerLost:
            end, allowed = "lost", True
        except CommandError as error:
            problem = error
            interrupted = isinstance(error.__cause__, KeyboardInterrupt)
            end, allowed = "failed", interrupted or name == "failing"
        else:
            end, allowed = "done", is_right(value)
        self.ends[end] += 1
        if not allowed:
            self.complaints.append(f"a {name} request ended as {end}: {problem!r:.300}")

    # -- faults ------------------------------------------------------------------------------------

    def make_trouble(self) -> None:
        chance = random.Random(self.chance.random())
        while not self.over.wait(chance.uniform(0.05, 0.8)):
            alive = [row for row in self.client.servers if row.state in ("idle", "busy", "unresponsive")]
            if not alive:
                continue
            victim = chance.choice(alive)
            # A kill comes first, so that there is one in however short a run.
            fault = chance.choices(("kill", "stop", "interrupt"), (2, 3, 4))[0] if self.faults else "kill"
            try:
                if fault == "kill":
                    os.kill(victim.pid, signal.SIGKILL)
                elif fault == "stop":
                    os.kill(victim.pid, signal.SIGSTOP)
                    self.over.wait(chance.uniform(0.05, 0.5))
                    os.kill(victim.pid, signal.SIGCONT)
                else:
                    self.client.interrupt(victim.rank)
            except (ProcessLookupError, ServerLost, mpiframe.TargetError):
                continue  # it was gone already
            self.faults[fault] += 1


def main(seconds: float, seed: int) -> int:
    """Run it; the exit status."""
    with mpiframe.Client(restart="always", output="quiet") as client:
        client.setup("import numpy")  # a module whose first import was interrupted cannot be imported again
        chaos = Chaos(client, seed)
        trouble = threading.Thread(target=chaos.make_trouble)
        trouble.start()
        until = time.monotonic() + seconds
        try:
            while time.monotonic() < until:
                chaos.push_one()
                while len(chaos.open) > UNDER_WAY:
                    chaos.take_oldest()
        finally:
            chaos.over.set()
            trouble.join()
        while chaos.open:
            chaos.take_oldest()
        for rank in chaos.ranks * 2:  # who was killed last may not be known to be gone, nor be replaced
            with contextlib.suppress(ServerLost):
                client.submit(square, 1, target=rank).result(PATIENCE)
        retried = client._loop.dispatcher.retried
    ended = sum(chaos.ends.values())
    print("kinds:", dict(chaos.kinds))
    print("faults:", dict(chaos.faults))
    words = [f"{name} {chaos.ends[name]}" for name in ("done", "failed", "cancelled", "timeout", "lost")]
    print(f"pushed {chaos.pushed} = {' + '.join(words)}; retried {retried}")
    for complaint in chaos.complaints[:20]:
        print("WRONG:", complaint)
    holds = ended == chaos.pushed and not chaos.complaints
    print("the sum holds" if holds else "the sum does not hold")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), int(sys.argv[2])))
