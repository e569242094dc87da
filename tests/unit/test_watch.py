"""What is seen of a world: spans, counters, output, panels; with a double of the client."""

from __future__ import annotations

import functools
import json
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from mpiframe.messages import Request, ServerInfo, Status, world_wide
from mpiframe.output import STDERR, STDOUT
from mpiframe.watch.snapshots import BOUNDS, Watch, text_of

T = 1_800_000_000.0


class FakeClient:
    """A double: the little that a Watch asks of a client and of its loop."""

    def __init__(self) -> None:
        self._closed = False
        self._hearing = SimpleNamespace(panels={})
        self.pings = 0
        self.rows: list[ServerInfo] = []
        self.observers: list[Any] = []
        self._loop = SimpleNamespace(
            lock=threading.RLock(),
            requests={},
            dispatcher=SimpleNamespace(shared=lambda: 3),
            pulse=SimpleNamespace(ping=self._ping),
            observe=self.observers.append,
            unobserve=self.observers.remove,
        )

    def _ping(self) -> None:
        self.pings += 1

    def _rows(self) -> list[ServerInfo]:
        return self.rows

    def facts(self) -> Any:
        return SimpleNamespace(mpi="Open MPI v5.0.8, package: somebody's", ranks=3, hosts=1)


def request(
    id: int, server: int | None = 1, at: float = T, seconds: float | None = 1.0, **more: Any
) -> Request:
    """One that has ended; never started if `seconds` is None."""
    one = Request(id, server, 7, more.pop("command", f"f({id})"), (), queued_at=at - 0.5, sent_at=at - 0.1)
    one.server, one.status = server, more.pop("status", Status.DONE)
    if seconds is not None:
        one.started_at, one.finished_at = at, at + seconds
    return one


@pytest.fixture
def client() -> FakeClient:
    return FakeClient()


@pytest.fixture
def watch(client: FakeClient) -> Watch:
    return Watch(client, "survey", "mpiframe start -n 3")  # type: ignore[arg-type]


def test_a_snapshot_of_an_idle_world_says_what_it_is(watch: Watch, client: FakeClient) -> None:
    now = watch.snapshot()
    assert now["world"]["name"] == "survey"
    assert now["world"]["mpi"] == "Open MPI v5.0.8"
    assert now["world"]["command"] == "mpiframe start -n 3"
    assert (now["world"]["ranks"], now["world"]["hosts"], now["world"]["closed"]) == (3, 1, False)
    assert (now["seq"], now["spans"], now["output"], now["shared_queue"]) == (0, [], [], 3)
    assert client.pings == 1
    assert abs(now["now"] - time.time()) < 60


def test_each_command_is_a_span_with_all_its_times(watch: Watch) -> None:
    watch.ended(request(4, 2, T, 2.0, command="x =\n   1"))
    (span,) = watch.snapshot()["spans"]
    assert span == {
        "id": 4, "server": 2, "command": "x = 1", "status": "done", "queued": T - 0.5, "sent": T - 0.1,
        "started": T, "finished": T + 2.0, "seq": 1, "session": None,
    }  # fmt: skip


def test_what_was_told_is_not_told_again(watch: Watch) -> None:
    watch.ended(request(1))
    watch.printed(1, 1, [(STDOUT, "a\n")])
    first = watch.snapshot()
    assert ([s["id"] for s in first["spans"]], [o["text"] for o in first["output"]]) == ([1], ["a\n"])
    watch.ended(request(2, at=T + 5))
    watch.printed(2, 2, [(STDERR, "b")])
    second = watch.snapshot(first["seq"])
    assert [s["id"] for s in second["spans"]] == [2]
    assert [(o["server"], o["request"], o["stream"], o["text"]) for o in second["output"]] == [
        (2, 2, "stderr", "b")
    ]
    third = watch.snapshot(second["seq"])
    assert (third["spans"], third["output"], third["seq"]) == ([], [], second["seq"])


def test_who_comes_from_another_world_is_told_all(watch: Watch) -> None:
    watch.ended(request(1))
    watch.printed(1, 1, [(STDOUT, "a\n")])
    now = watch.snapshot(10_000)
    assert len(now["spans"]) == len(now["output"]) == 1


def test_short_commands_that_follow_close_upon_each_other_share_a_span(watch: Watch) -> None:
    for i in range(1000):
        watch.ended(request(i + 1, 1 + i % 2, T + i * 20e-6, 15e-6))
    watch.ended(request(2001, 1, T + 1.0, 15e-6))  # after a pause: one of its own
    now = watch.snapshot()
    seen = [(s["server"], s["id"], s.get("count", 1)) for s in now["spans"]]
    assert sorted(seen) == [(1, 1, 500), (1, 2001, 1), (2, 2, 500)]
    assert now["statuses"] == {"done": 1001}
    shared = next(s for s in now["spans"] if s["server"] == 1 and s["id"] == 1)
    assert (shared["started"], round(shared["finished"] - T, 6)) == (T, round(998 * 20e-6 + 15e-6, 6))


def test_a_shared_span_is_not_endless(watch: Watch) -> None:
    for i in range(1000):
        watch.ended(request(i + 1, 1, T + i * 1e-3, 0.9e-3))
    spans = watch.snapshot()["spans"]
    assert 4 <= len(spans) <= 6
    assert sum(s["count"] for s in spans) == 1000
    assert all(s["finished"] - s["started"] <= 0.25 for s in spans)


def test_a_failure_among_short_commands_can_be_seen(watch: Watch) -> None:
    for i in range(21):
        status = Status.FAILED if i == 10 else Status.DONE
        watch.ended(request(i + 1, 1, T + i * 1e-3, 0.5e-3, status=status))
    now = watch.snapshot()
    assert [(s["status"], s.get("count", 1)) for s in now["spans"]] == [
        ("done", 10),
        ("failed", 1),
        ("done", 10),
    ]
    assert now["statuses"] == {"done": 20, "failed": 1}


def test_long_commands_never_share(watch: Watch) -> None:
    for i in range(10):
        watch.ended(request(i + 1, 1, T + i * 6e-3, 5.9e-3))
    assert [s["id"] for s in watch.snapshot()["spans"]] == list(range(1, 11))


def test_servers_have_their_counts_and_busy_seconds(watch: Watch, client: FakeClient) -> None:
    client.rows = [
        ServerInfo(1, "here", 10, "idle", 0, None, 1.5, 4096),
        ServerInfo(2, "here", 11, "lost", 0, None, None, None),
    ]
    watch.ended(request(1, 1, T, 2.0))
    watch.ended(request(2, 1, T + 2, 1.0, status=Status.FAILED))
    watch.ended(request(3, 2, T, None, status=Status.LOST))
    watch.ended(request(4, 2, T, 4.0, status=Status.TIMEOUT))
    watch.ended(request(5, None, T, None, status=Status.CANCELLED))
    one, two = (now := watch.snapshot())["servers"]
    assert (one["done"], one["failed"], one["busy"], one["cpu"], one["rss"]) == (1, 1, 3.0, 1.5, 4096)
    assert (two["done"], two["failed"], two["busy"], two["cpu"]) == (0, 2, 4.0, None)
    assert now["statuses"] == {"done": 1, "failed": 1, "lost": 1, "timeout": 1, "cancelled": 1}
    lost = next(s for s in now["spans"] if s["id"] == 3)
    assert lost["started"] is None
    assert abs(lost["finished"] - time.time()) < 60


def test_what_runs_has_begun_when_the_one_before_had_ended(watch: Watch, client: FakeClient) -> None:
    now = time.time()
    client.rows = [ServerInfo(1, "here", 10, "busy", 2, 9, None, None)]
    client._loop.requests[9] = Request(9, 1, 7, lambda: None, (), sent_at=now - 30)
    watch.ended(request(8, 1, now - 20, 10.0))
    (row,) = watch.snapshot()["servers"]
    assert row["since"] == pytest.approx(now - 10)
    assert row["busy"] == pytest.approx(10 + time.time() - row["since"], abs=5)
    assert (row["running"], row["queued"]) == (9, 2)
    assert row["command"].endswith("<lambda>")


def test_a_clock_that_is_ahead_makes_no_command_begin_in_the_future(watch: Watch, client: FakeClient) -> None:
    client.rows = [ServerInfo(1, "far", 10, "busy", 0, 9, None, None)]
    client._loop.requests[9] = Request(9, 1, 7, "f()", (), sent_at=time.time())
    watch.ended(request(8, 1, time.time() + 500, 10.0))
    (row,) = (now := watch.snapshot())["servers"]
    assert row["since"] <= now["now"]


def test_latencies_are_counted_by_class(watch: Watch) -> None:
    for seconds in (0.00005, 0.5, 0.5, 5.0, 10_000.0):
        watch.ended(request(1, 1, T, seconds))
    run = watch.snapshot()["run_seconds"]
    assert tuple(run["bounds"]) == BOUNDS
    assert [run["counts"][BOUNDS.index(b)] for b in (0.0001, 1.0, 10.0)] == [1, 2, 1]
    assert run["counts"][-1] == 1
    assert run["sum"] == pytest.approx(10_006.00005)
    assert sum(watch.snapshot()["wait_seconds"]["counts"]) == 5


def test_a_clock_that_is_behind_makes_no_negative_sum(watch: Watch) -> None:
    one = request(1, 1, T, 1.0)
    one.queued_at = T + 60
    watch.ended(one)
    wait = watch.snapshot()["wait_seconds"]
    assert (wait["sum"], wait["counts"][0]) == (0.0, 1)


def test_a_million_commands_and_a_flood_of_output_take_bounded_memory(watch: Watch) -> None:
    for i in range(60_000):
        watch.ended(request(i + 1, 1, T + i, 0.9, command="f" * 100_000 if i % 1000 == 0 else "f()"))
    for i in range(9_000):
        watch.printed(1, i, [(STDOUT, "x" * 1000 + f" {i}\n")])
    watch.printed(1, 9_000, [(STDOUT, "y" * 10_000_000)])
    now = watch.snapshot()
    assert now["statuses"] == {"done": 60_000}
    assert len(now["spans"]) == 5_000
    assert now["spans"][-1]["id"] == 60_000
    assert max(len(s["command"]) for s in now["spans"]) <= 200
    assert now["output"][-1]["text"] == "y" * (1 << 14)
    assert sum(len(o["text"]) for o in now["output"]) <= 1 << 17
    assert len(watch._spans) <= 20_000
    assert watch._characters <= 1 << 20


def test_a_command_is_named_without_a_look_at_what_may_be_large() -> None:
    class Loud:
        def __repr__(self) -> str:
            raise AssertionError("it was looked at")

        def __call__(self) -> None: ...

        def method(self) -> None: ...

    assert text_of("x" * 1000).endswith("...")
    assert text_of(functools.partial(len, Loud())) == "len"
    assert text_of(Loud()) == "Loud"
    assert text_of(Loud().method).endswith("Loud.method")


def test_an_ended_request_is_let_go_of(watch: Watch) -> None:
    import gc
    import weakref

    class Value:
        pass

    value = Value()
    one = request(1)
    one.value, one.command = value, functools.partial(print, value)
    gone = weakref.ref(value)
    watch.ended(one)
    del one, value
    gc.collect()
    assert gone() is None


def test_sessions_are_told_with_what_they_have_and_ids_are_their_own(
    watch: Watch, client: FakeClient
) -> None:
    ann = SimpleNamespace(name="ann-1")
    rows = [{"name": "ann-1", "connected": True, "queued": 2, "running": 1, "done": 7}]
    watch.sessions = lambda: rows
    client.rows = [ServerInfo(1, "here", 10, "busy", 0, world_wide(5, 2), None, None)]
    running = Request(world_wide(5, 2), 1, 7, "f()", (), sent_at=T, owner=ann)  # type: ignore[arg-type]
    client._loop.requests[running.id] = running
    first = request(world_wide(5, 1), 1)
    first.owner = ann  # type: ignore[assignment]
    watch.ended(first)
    watch.ended(request(1, 1, T + 5))
    watch.printed(1, running.id, [(STDOUT, "hello")])
    now = watch.snapshot()
    assert now["sessions"] == rows
    assert [(s["session"], s["id"]) for s in now["spans"]] == [("ann-1", 1), (None, 1)]
    assert [(o["session"], o["request"]) for o in now["output"]] == [("ann-1", 2)]
    assert (now["servers"][0]["session"], now["servers"][0]["running"]) == ("ann-1", 2)
    json.dumps(now)


def test_commands_of_two_sessions_share_no_span(watch: Watch) -> None:
    ann, bob = SimpleNamespace(name="ann-1"), SimpleNamespace(name="bob-1")
    for i in range(8):
        one = request(world_wide(1 + i // 4, i), 1, T + i * 1e-3, 0.5e-3)
        one.owner = ann if i < 4 else bob  # type: ignore[assignment]
        watch.ended(one)
    assert [(s["session"], s["count"]) for s in watch.snapshot()["spans"]] == [("ann-1", 4), ("bob-1", 4)]


def test_panels_are_by_plugin_and_server_and_one_where_all_are_the_same(
    watch: Watch, client: FakeClient
) -> None:
    client.rows = [
        ServerInfo(rank, "here", rank, "lost" if rank == 3 else "idle", 0, None, None, None)
        for rank in (1, 2, 3)
    ]
    client._hearing.panels.update(
        {
            ("scheduler", 2): (T, {"title": "Jobs", "rows": [["1", "done"]]}),
            ("scheduler", 1): (T, {"title": "Jobs", "rows": []}),
            ("grid", 1): (T, {"shared": True, "facts": {"todo": 3}}),
            ("grid", 2): (T + 1, {"shared": True, "facts": {"todo": 2}}),
            ("grid", 3): (T + 9, {"shared": True, "facts": {"todo": 9}}),  # of a server that is lost
        }
    )
    panels = watch.snapshot()["panels"]
    assert [(p["server"], p["title"]) for p in panels["scheduler"]] == [(1, "Jobs"), (2, "Jobs")]
    assert [(p["server"], p["facts"], p["title"]) for p in panels["grid"]] == [(2, {"todo": 2}, "grid")]
    json.dumps(panels)


def test_a_closed_client_is_asked_nothing_and_says_so(watch: Watch, client: FakeClient) -> None:
    client._closed = True
    assert watch.snapshot()["world"]["closed"] is True
    assert client.pings == 0


def test_what_is_closed_observes_no_longer(watch: Watch, client: FakeClient) -> None:
    assert client.observers == [watch]
    watch.close()
    assert client.observers == []


def test_threads_that_look_while_commands_end_miss_none(watch: Watch) -> None:
    """Four look while one works; each of them sees every command once."""
    seen: list[list[int]] = [[] for _ in range(4)]
    over = threading.Event()

    def look(mine: list[int]) -> None:
        since, last = 0, False
        while not last:
            last = over.is_set()
            now = watch.snapshot(since)
            since = now["seq"]
            mine.extend(s["id"] for s in now["spans"])

    threads = [threading.Thread(target=look, args=(mine,)) for mine in seen]
    for thread in threads:
        thread.start()
    for i in range(4_000):
        watch.ended(request(i + 1, 1 + i % 3, T + i, 0.5))
    over.set()
    for thread in threads:
        thread.join(30)
    for mine in seen:
        assert sorted(mine) == list(range(1, 4_001))
