"""Who is asked how it is, who is waited for, and who counts as unresponsive."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from mpiframe import doorbell, pulse
from mpiframe.pulse import Pulse


class Clock:
    """The time that a Pulse sees: it passes only while a test waits."""

    now = 1000.0

    def time(self) -> float:
        return 1e9 + self.now

    def monotonic(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse, "time", Clock())


class Servers:
    """Three servers, of which some answer."""

    def __init__(self, answering: set[int], patience: float = 0.05) -> None:
        self.answering = answering
        self.reached = {1, 2, 3}
        self.asked: list[int] = []
        self.waits: list[float] = []
        self.pulse = Pulse(threading.RLock(), lambda: [1, 2, 3], self._control, self._wait, patience)

    def _control(self, rank: int, kind: bytes) -> bool:
        assert kind == doorbell.PING
        self.asked.append(rank)
        return rank in self.reached

    def _wait(self, done: Callable[[], bool], seconds: float) -> bool:
        self.waits.append(seconds)
        for rank in self.answering:
            self.pulse.answered(rank, 1.5, 1000)
        if not done():
            pulse.time.now += seconds + 1e-6  # type: ignore[attr-defined] # never too short
        return done()


def test_all_answer() -> None:
    servers = Servers({1, 2, 3})
    servers.pulse.ask()
    assert servers.asked == [1, 2, 3]
    assert servers.pulse.usage == dict.fromkeys([1, 2, 3], (1.5, 1000))
    assert len(servers.waits) == 1
    assert not any(servers.pulse.is_unresponsive(rank) for rank in (1, 2, 3))


def test_one_that_does_not_answer_is_waited_for_once_and_asked_once() -> None:
    servers = Servers({1, 3}, patience=0.3)
    servers.pulse.ask()
    assert len(servers.waits) == 2  # a moment, and the patience that is left
    assert [servers.pulse.is_unresponsive(rank) for rank in (1, 2, 3)] == [False, True, False]
    servers.waits.clear()
    servers.asked.clear()
    servers.pulse.ask()
    assert servers.asked == [1, 3]  # its first ping is still on its way
    assert len(servers.waits) == 1
    servers.answering.add(2)
    servers.pulse.ask()
    assert not servers.pulse.is_unresponsive(2)


def test_one_that_is_lost_or_cannot_be_asked_is_not_waited_for() -> None:
    servers = Servers({1})
    servers.reached = {1, 2}
    servers.pulse.ping()
    servers.pulse.gone(2)
    servers.pulse.answered(1, 0.0, 0)
    servers.reached = {1}
    servers.pulse.ask()
    assert len(servers.waits) == 1
    assert not servers.pulse.is_unresponsive(2)
    assert not servers.pulse.is_unresponsive(3)


def test_an_answer_before_the_patience_is_over() -> None:
    servers = Servers(set(), patience=60.0)
    servers.pulse.ping()
    assert not servers.pulse.is_unresponsive(1)
    servers.pulse.answered(1, 2.0, 3)
    assert servers.pulse.ponged[1] >= servers.pulse.pinged[1]
