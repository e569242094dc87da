"""Who looks on: each request's end is told of once, however it ends, and nobody's mistake harms the run."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import mpi4py
import pytest

mpi4py.rc(initialize=False, finalize=False)  # nothing here calls MPI

from mpiframe.answers import CommandFuture  # noqa: E402 - MPI is started when it is imported first
from mpiframe.client_loop import ClientLoop  # noqa: E402
from mpiframe.codec import pack  # noqa: E402
from mpiframe.commands import CommandEncoder  # noqa: E402
from mpiframe.config import Config  # noqa: E402
from mpiframe.messages import Outcome, Request, Status, Up  # noqa: E402
from mpiframe.transport import Peer  # noqa: E402


class Watcher:
    """An observer, and one that traces, that remembers."""

    def __init__(self) -> None:
        self.sent_: list[tuple[int, list[int], float]] = []
        self.ended_: list[tuple[int, Status, int | None]] = []
        self.printed_: list[tuple[int, int, list[tuple[int, str]]]] = []
        self.left_: list[tuple[int, int]] = []
        self.received_: list[tuple[int, int]] = []
        self.late_: list[tuple[int, int]] = []
        self.futures: list[Any] = []

    def sent(self, rank: int, requests: Sequence[Request], now: float) -> None:
        assert all(r.sent_at == now for r in requests)
        self.sent_.append((rank, [r.id for r in requests], now))

    def leaving(self, request: Request) -> None:
        self.left_.append((request.id, len(request.buffers)))

    def received(self, id: int, buffers: Sequence[Any], now: float) -> None:
        assert abs(now - time.time()) < 60
        self.received_.append((id, len(buffers)))

    def late(self, rank: int, answer: Any, now: float) -> None:
        assert abs(now - time.time()) < 60
        self.late_.append((rank, answer[0]))

    def ended(self, request: Request) -> None:
        if request.status in (Status.DONE, Status.FAILED):
            assert request.started_at == 5.0
            assert request.finished_at == 6.0
        self.ended_.append((request.id, request.status, request.server))
        self.futures.append(request.future)

    def printed(self, rank: int, id: int, pieces: list[tuple[int, str]]) -> None:
        self.printed_.append((rank, id, pieces))


class House:
    """A client's loop and two servers that are made up: they say what the test says."""

    def __init__(self) -> None:
        nothing: Callable[..., None] = lambda *_: None  # noqa: E731
        self.wire: list[tuple[int, Any]] = []
        transport = SimpleNamespace(
            peers={1: Peer(1), 2: Peer(2)},
            begun=None,
            watch=nothing,
            unwatch=nothing,
            show=nothing,
            poll=nothing,
            drop=lambda rank: transport.peers.pop(rank),
            send=lambda rank, frame, buffers=(): self.wire.append((rank, buffers)),
            in_motion=lambda: False,
        )
        members = {rank: SimpleNamespace(host="here") for rank in (0, 1, 2)}
        world: Any = SimpleNamespace(
            transport=transport, servers=[1, 2], members=members, config=Config(), resilient=""
        )
        printer: Any = SimpleNamespace(partial=False, feed=nothing)
        self.loop = ClientLoop(world, printer, nothing)
        for rank in (1, 2):
            self.loop.dispatcher.joined(rank)
        self.encoder = CommandEncoder(1 << 16)
        self.ids = itertools.count(1)
        self.seen = Watcher()
        self.loop.observe(self.seen)

    def request(self, target: int | None = None, id: int = 0, command: str = "x") -> Request:
        id = id or next(self.ids)
        encoded = self.encoder.encode(command, None)
        return Request(id, target, encoded.pace_key, command, encoded.frame(id), (), False, time.time())

    def future(self, target: int | None = None) -> CommandFuture:
        request = self.request(target)
        request.future = future = CommandFuture(self.loop, request)
        self.loop.push_one(request)
        return future

    def push(self, target: int | None = None, id: int = 0) -> Request:
        request = self.request(target, id)
        self.loop.push_one(request)
        return request

    def answer(self, rank: int, *ids: int, outcome: int = Outcome.VALUE, payload: Any = 7) -> None:
        answers = [(id, int(outcome), payload, 5.0, 6.0, [(1, "hi\n")], 0) for id in ids]
        self.loop._handle((rank, pack((int(Up.ANSWERS), answers)), ()))
        self.loop._deliver()


@pytest.fixture
def house() -> House:
    return House()


def test_a_request_that_is_fetched_is_told_of_when_its_answer_comes(house: House) -> None:
    request = house.push(1)
    assert house.seen.sent_ == [(1, [1], request.sent_at)]
    house.answer(1, 1)
    assert house.seen.ended_ == [(1, Status.DONE, 1)]
    assert house.seen.received_ == []  # for `ended` came at once
    assert house.seen.printed_ == [(1, 1, [(1, "hi\n")])]


def test_the_short_way_to_an_idle_server_is_seen(house: House) -> None:
    encoded = house.encoder.encode("x", None)
    request = house.loop.push_to_idle(2, "x", encoded, house.ids, True)
    assert request is not None
    assert house.seen.sent_ == [(2, [1], request.queued_at)]
    house.answer(2, 1)
    assert house.seen.ended_ == [(1, Status.DONE, 2)]


def test_a_future_is_told_of_once_whether_anybody_waits_or_not(house: House) -> None:
    alone = house.future(1)
    house.answer(1, 1)
    watched = house.future(1)
    watched.add_done_callback(lambda _: None)
    house.answer(1, 2)
    assert alone.result() == watched.result() == 7
    assert [end[0] for end in house.seen.ended_] == [1, 2]
    assert house.seen.received_ == [(2, 0)]
    assert house.seen.futures == [alone, watched]  # which says what it is a chunk of


def test_large_buffers_are_told_of_both_ways(house: House) -> None:
    request = house.request(1)
    request.buffers = (b"one", b"two")
    house.loop.push_one(request)
    assert house.seen.left_ == [(1, 2)]
    answers = [(1, int(Outcome.PICKLED), b"?", 5.0, 6.0, [], 3)]
    house.loop._handle((1, pack((int(Up.ANSWERS), answers)), [b"a", b"b", b"c"]))
    house.loop._deliver()
    assert house.seen.received_ == [(1, 3)]


def test_a_failure_is_told_of_with_its_status(house: House) -> None:
    house.push(1)
    house.answer(1, 1, outcome=Outcome.RAISED, payload=(None, "Traceback\n", "ValueError: no", None))
    assert house.seen.ended_ == [(1, Status.FAILED, 1)]


def test_a_result_that_cannot_be_read_has_failed(house: House) -> None:
    house.push(1)
    house.answer(1, 1, outcome=Outcome.PICKLED, payload=b"no pickle")
    assert house.seen.received_ == [(1, 0)]
    assert house.seen.ended_ == [(1, Status.FAILED, 1)]


def test_what_is_cancelled_is_told_of_and_its_late_answer_is_not_its_end(house: House) -> None:
    running, queued = house.push(1), house.push(1)
    assert house.loop.cancel(queued)
    assert house.loop.call_off(running)
    assert house.seen.ended_ == [(2, Status.CANCELLED, None), (1, Status.CANCELLED, 1)]
    house.answer(1, 1)
    assert len(house.seen.ended_) == 2
    assert house.seen.late_ == [(1, 1)]


def test_a_time_out_is_told_of(house: House) -> None:
    request = house.request(1)
    request.deadline = time.monotonic() - 1
    house.loop.push_one(request)
    house.loop._time_passed()
    house.loop._deliver()
    assert house.seen.ended_ == [(1, Status.TIMEOUT, 1)]


def test_what_is_lost_with_its_server_is_told_of(house: House) -> None:
    house.push(1)
    house.push(1)
    with house.loop.lock:
        house.loop.server_gone(1)
    house.loop._deliver()
    assert house.seen.ended_ == [(1, Status.LOST, 1), (2, Status.LOST, None)]


def test_what_is_given_up_is_told_of(house: House) -> None:
    house.push(2)
    house.loop.give_up(2, "enough")
    assert house.seen.ended_ == [(1, Status.LOST, 2)]


def test_a_request_that_is_sent_elsewhere_again_ends_once(house: House) -> None:
    request = house.request()
    request.retries = 1
    house.loop.push_one(request)
    first = request.server
    assert first is not None
    with house.loop.lock:
        house.loop.server_gone(first)
    house.answer(3 - first, 1)
    assert [rank for rank, _, _ in house.seen.sent_] == [first, 3 - first]
    assert house.seen.ended_ == [(1, Status.DONE, 3 - first)]


def test_the_runtimes_own_requests_are_left_out(house: House) -> None:
    house.push(1, id=-1)
    house.answer(1, -1)
    setup = house.request(1, id=-2)
    setup.future = SimpleNamespace(settle=lambda _: None)
    house.loop.send_past_queue(1, setup)
    house.answer(1, -2)
    assert not house.seen.sent_
    assert not house.seen.ended_
    assert not house.seen.printed_


def test_one_that_raises_is_told_nothing_more_and_harms_nobody(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    class Clumsy(Watcher):
        def sent(self, rank: int, requests: Sequence[Request], now: float) -> None:
            super().sent(rank, requests, now)
            raise ValueError("oops")

    clumsy = Clumsy()
    house.loop.observe(clumsy)
    house.push(1)
    house.answer(1, 1)
    house.push(1)
    assert len(clumsy.sent_) == 1
    assert not clumsy.ended_
    assert [ids for _, ids, _ in house.seen.sent_] == [[1], [2]]
    assert "oops" in caplog.text


def test_one_that_traces_nothing_is_an_observer_all_the_same(house: House) -> None:
    class Plain:
        ends = 0

        def sent(self, rank: int, requests: Sequence[Request], now: float) -> None: ...

        def printed(self, rank: int, id: int, pieces: list[tuple[int, str]]) -> None: ...

        def ended(self, request: Request) -> None:
            self.ends += 1

    plain = Plain()
    house.loop.observe(plain)
    house.push(1)
    house.answer(1, 1)
    house.loop.unobserve(plain)
    house.push(1)
    house.answer(1, 2)
    assert plain.ends == 1
    assert len(house.seen.ended_) == 2
