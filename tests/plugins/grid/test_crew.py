"""How the client hands out tokens, with doubles in the place of hundreds of servers, and faults on order."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from mpiframe.errors import CommandError, ServerLost
from mpiframe.plugins.grid import DatabaseDown, PilotError, TokenRun
from mpiframe.plugins.grid.crew import Crew, Hears, PilotSettings


class World:
    """A double of servers and database: tokens in a dict, servers as threads, and faults on order."""

    def __init__(self, servers: int, tokens: int, seconds: float = 0.0) -> None:
        self.ranks = list(range(1, servers + 1))
        self.dead: set[int] = set()
        self.recovered_ranks: set[int] = set()
        self.state = {f"t_{i:04}": "todo" for i in range(tokens)}
        self.claims: dict[str, str] = {}
        self.runs: list[str] = []
        self.calls = dict.fromkeys(("claim", "release", "recover", "look", "run", "prepare", "end"), 0)
        self.claiming = self.most_claiming = 0
        self.seconds = seconds
        self.lock = threading.Lock()
        self.pool = ThreadPoolExecutor(servers)
        self.faults: dict[str, Any] = {}
        self.may_fail: Callable[[], bool] = lambda: True  # what is to be prepared
        self.answering: Callable[[str], object] = str  # the token is done, and nobody has heard of it

    def on(self, rank: int) -> Server:
        return Server(self, rank)

    def reload(self, rank: int) -> Any:
        return self.on(rank)._send("reload", lambda: None)

    def recovered(self, rank: int) -> None:
        self.recovered_ranks.add(rank)


class Server:
    """One of its servers; its commands are those of the plugin."""

    def __init__(self, world: World, rank: int) -> None:
        self._world, self._rank = world, rank

    def __getattr__(self, name: str) -> Any:
        what = name.removeprefix("pilot_")
        method = getattr(self, f"_{what}")

        class Command:
            def __call__(inner, *args: Any) -> Any:
                return inner.submit(*args).result(30)

            def submit(inner, *args: Any) -> Future[Any]:
                return self._send(what, lambda: method(*args[1:]))

        return Command()

    def interrupt(self) -> None:
        self._world.faults["interrupted"] = True

    def _send(self, what: str, call: Any) -> Future[Any]:
        world, rank = self._world, self._rank

        def serve() -> Any:
            if rank in world.dead:
                raise ServerLost(f"server {rank} is lost")
            with world.lock:
                world.calls[what] = world.calls.get(what, 0) + 1
            try:
                value = call()
            except (DatabaseDown, PilotError, KeyboardInterrupt) as error:
                raise CommandError("remote") from error
            if rank in world.dead:
                raise ServerLost(f"server {rank} is lost")
            return value

        return world.pool.submit(serve)

    def _prepare(self, settings: Any, work: Any) -> None:
        faults = self._world.faults.get("prepare")
        if faults and (fault := faults.pop(0)):
            await_(self._world.may_fail)
            raise fault

    def _claim(self, count: int) -> Any:
        world = self._world
        with world.lock:
            world.claiming += 1
            world.most_claiming = max(world.most_claiming, world.claiming)
        time.sleep(0.002)
        fault = world.faults.pop("claim", None)
        with world.lock:
            world.claiming -= 1
            if isinstance(fault, Exception):
                raise fault
            ids = [id for id, state in world.state.items() if state == "todo"][:count]
            for id in ids:
                world.state[id] = "locked"
                world.claims[id] = f"{id}:{random.random()}"
            if fault == "die":
                world.dead.add(self._rank)
            return [{"_id": id, "claim": world.claims[id]} for id in ids]

    def _release(self, claims: dict[str, str], counted: bool, reason: str) -> list[str]:
        with self._world.lock:
            ours = [
                id for id, claim in claims.items()
                if self._world.claims.get(id) == claim and self._world.state[id] == "locked"
            ]  # fmt: skip
            self._world.state.update(dict.fromkeys(ours, "todo"))
            return ours

    def _recover(self, known: list[str]) -> list[str]:
        world = self._world
        return self._release({id: c for id, c in world.claims.items() if c not in known}, False, "")

    def _look(self) -> Any:
        states = list(self._world.state.values())
        return [], {name: states.count(name) for name in ("todo", "locked", "done", "error")}

    def _run(self, doc: dict[str, Any], seconds: float | None) -> TokenRun:
        world, id = self._world, doc["_id"]
        time.sleep(world.seconds)
        if fault := world.faults.pop(id, None):
            if fault == "die":
                world.dead.add(self._rank)
                return TokenRun(id, "done", 0, 0.0)
            if isinstance(fault, KeyboardInterrupt):  # as `Runner` does
                self._release({id: doc["claim"]}, True, "")
            raise fault
        with world.lock:
            assert world.claims[id] == doc["claim"]
            assert world.state[id] == "locked"
            world.state[id] = "done"
            world.runs.append(id)
        world.answering(id)
        return TokenRun(id, "done", 0, world.seconds)

    def _end(self) -> None:
        pass


def await_(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it does not become so"
        time.sleep(0.001)


def crew(world: World, **options: Any) -> Crew:
    settings = PilotSettings("todo", "s", 600.0, 10, None, False, (), None, 1.0)
    hears = Hears(None, options.pop("on_token", None), options.pop("on_progress", None))
    limits = {"max_seconds": None, "max_tokens": None, "linger": False} | options
    return Crew(world, settings, abs, hears=hears, **limits)


def test_hundreds_of_servers_claim_one_at_a_time_and_many_at_once() -> None:
    world = World(200, 3000, seconds=0.01)
    report = crew(world).run()
    assert report.done == 3000
    assert sorted(world.runs) == sorted(world.state)
    assert world.most_claiming == 1
    assert world.calls["claim"] < 100, world.calls  # 1,500 where each server asks for itself, two at a time
    assert world.calls["look"] < 10
    assert world.calls["end"] == 200


def test_dead_servers_cost_nothing_but_time() -> None:
    world = World(6, 200, seconds=0.002)
    world.faults = {"t_0020": "die", "t_0050": "die", "t_0051": "die", "claim": "die"}
    report = crew(world).run()
    assert sorted(world.runs) == sorted(world.state)  # each once
    assert len(report.lost) == 4
    assert world.recovered_ranks == world.dead
    assert report.done == 200


def test_when_none_is_left_it_says_so() -> None:
    world = World(1, 5)
    world.faults = {"t_0002": "die"}
    with pytest.raises(PilotError, match="no server is left; what they had comes back after 600 s"):
        crew(world).run()


def test_a_database_that_is_down_is_asked_again_and_one_that_stays_so_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mpiframe.plugins.grid.crew._FIRST_WAIT_SECONDS", 0.01)
    world = World(3, 50)
    world.faults = {"claim": DatabaseDown("away")}
    assert crew(world).run().done == 50
    monkeypatch.setattr("mpiframe.plugins.grid.crew._PATIENCE_SECONDS", -1.0)
    world = World(3, 50)
    world.faults = {"claim": DatabaseDown("away for good")}
    with pytest.raises(DatabaseDown, match="away for good"):
        crew(world).run()


def test_a_server_that_comes_while_the_database_is_away_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mpiframe.plugins.grid.crew._FIRST_WAIT_SECONDS", 0.01)
    world = World(2, 50, seconds=0.005)
    world.faults = {"prepare": [None, DatabaseDown("away")]}
    made = crew(world)
    world.may_fail = lambda: made._prepared  # by the other server
    report = made.run()
    assert report.done == 50
    assert world.calls["prepare"] == 3
    world = World(2, 5)
    world.faults = {"prepare": [DatabaseDown("away"), DatabaseDown("away")]}
    with pytest.raises(DatabaseDown, match="away"):
        crew(world).run()


def test_somebody_elses_interrupt_gives_a_token_back() -> None:
    world = World(2, 20, seconds=0.002)
    world.faults = {"t_0004": KeyboardInterrupt()}
    report = crew(world).run()
    assert (report.done, report.count("returned")) == (20, 1)


def test_a_result_that_was_not_saved_is_told_and_the_token_stays_locked() -> None:
    world = World(2, 10)
    world.faults = {"t_0003": PilotError("it is kept in a file")}
    report = crew(world).run()
    assert (report.done, report.count("unsaved")) == (9, 1)
    assert [one.message for one in report.runs if one.state == "unsaved"] == ["it is kept in a file"]
    assert world.state["t_0003"] == "locked"


@pytest.mark.parametrize("limit", [1, 7, 49, 50])
def test_no_more_than_so_many(limit: int) -> None:
    world = World(4, 50, seconds=0.001)
    report = crew(world, max_tokens=limit).run()
    assert len(world.runs) == limit
    assert report.stopped == f"{limit} tokens were run"
    states = list(world.state.values())
    assert (states.count("done"), states.count("locked")) == (limit, 0)


def test_no_longer_than_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(4, 10_000, seconds=0.001)
    real = time.monotonic
    clock = SimpleNamespace(monotonic=lambda: real() + (600 if len(world.runs) > 50 else 0))
    monkeypatch.setattr("mpiframe.plugins.grid.crew.time", clock)
    report = crew(world, max_seconds=600).run()
    assert report.stopped == "600 s are over"
    assert 50 < len(world.runs) < 10_000
    assert "locked" not in world.state.values()


def test_an_error_in_a_callback_gives_back_what_was_claimed() -> None:
    world = World(4, 100, seconds=0.001)

    def broken(rank: int, run: TokenRun) -> None:
        raise LookupError("the user's own")

    with pytest.raises(LookupError):
        crew(world, on_token=broken).run()
    assert world.faults["interrupted"]
    assert "locked" not in world.state.values()


def test_counts_add_up_at_every_moment() -> None:
    world = World(5, 300, seconds=0.002)
    told: list[Any] = []
    crew(world, on_progress=told.append).run()
    assert {one.total for one in told} == {300}
    assert all([one.running <= 5 for one in told])
    done = [one.done for one in told]
    assert done == sorted(done)
    assert (told[-1].todo, told[-1].running, told[-1].done) == (0, 0, 300)


def test_a_token_that_is_counted_before_its_server_has_said_that_it_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mpiframe.plugins.grid.crew._LOOK_SECONDS", 0.01)
    world = World(2, 20)
    told: list[Any] = []

    def answering(id: str) -> None:
        if id == "t_0019":  # the other server finds nothing more to do, and counts
            await_(lambda: told and told[-1].done == 20)

    world.answering = answering
    crew(world, on_progress=told.append).run()
    assert {one.total for one in told} == {20}
    assert max(one.done for one in told) == 20
