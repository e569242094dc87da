"""The dispatcher's rules, one by one, and under random histories. No process, no clock, no MPI."""

from __future__ import annotations

import itertools
import os
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mpiframe.instructions import Cancel, End, Interrupt, Overdue, Send
from mpiframe.messages import Request, Status
from mpiframe.pace import Pace
from mpiframe.queues import BUDGET, SHORT, SINGLY, WAKING, WINDOW, Dispatcher
from mpiframe.turns import Queue

GRACE = 30.0  # from a time-out's interrupt to the end of the server


class Whose:
    """An owner of requests."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.held = False

    def printed(self, rank: int, request: Request, pieces: list[tuple[int, str]]) -> None:
        """Nothing is printed here."""

    def __repr__(self) -> str:
        return self.name


ANN, BOB = Whose("ann"), Whose("bob")
FAST, SLOW, NEW = 1, 2, 3  # keys of commands: known to be short, known to be long, unknown


class Desk:
    """A dispatcher whose state is checked after each event; its answers as short tuples."""

    def __init__(self, servers: int = 0) -> None:
        self.dispatcher = Dispatcher(GRACE)
        self.dispatcher.pace.learn(FAST, SHORT / 100)
        self.dispatcher.pace.learn(SLOW, 10.0)
        self.requests: dict[int, Request] = {}
        self._ids = itertools.count(1)
        for rank in range(1, servers + 1):
            assert self.join(rank) == []

    def told(self, instructions: list[Any]) -> list[tuple[Any, ...]]:
        self.dispatcher.validate()
        words: list[tuple[Any, ...]] = []
        for said in instructions:
            if isinstance(said, Send):
                words.append(("send", said.rank, *[r.id for r in said.requests]))
            elif isinstance(said, End):
                assert said.request.status is said.status
                assert said.request.ended
                words.append((said.status.value, said.request.id, said.server))
            elif isinstance(said, Overdue):
                words.append(("overdue", said.rank, said.request.id))
            else:
                assert isinstance(said, (Interrupt, Cancel))
                words.append((type(said).__name__.lower(), said.rank, said.id))
        return words

    def join(self, rank: int) -> list[tuple[Any, ...]]:
        return self.told(self.dispatcher.joined(rank))

    def push(self, target: int | None, key: int = NEW, **options: Any) -> list[tuple[Any, ...]]:
        id = next(self._ids)
        request = Request(id=id, target=target, key=key, command="", frame=("",), **options)
        self.requests[id] = request
        return self.told(self.dispatcher.pushed(request))

    def answer(self, rank: int, *ids: int, seconds: float = 10.0) -> list[tuple[Any, ...]]:
        for id in ids:
            if not self.requests[id].ended:
                self.requests[id].status, self.requests[id].ended = Status.DONE, True
        return self.told(self.dispatcher.answered(rank, [(id, seconds) for id in ids]))

    def defer(self, rank: int, id: int, seconds: float = 10.0) -> list[tuple[Any, ...]]:
        return self.told(self.dispatcher.deferred(rank, id, seconds))

    def lose(self, rank: int, replaced: bool = False, begun: int | None = None) -> list[tuple[Any, ...]]:
        return self.told(self.dispatcher.lost(rank, replaced, begun))

    def pause(self, rank: int) -> list[tuple[Any, ...]]:
        return self.told(self.dispatcher.paused(rank))

    def resume(self, rank: int) -> list[tuple[Any, ...]]:
        return self.told(self.dispatcher.resumed(rank))

    def cancel(self, id: int) -> list[tuple[Any, ...]]:
        return self.told(self.dispatcher.cancelled(self.requests[id]))

    def call_off(self, id: int) -> list[tuple[Any, ...]]:
        return self.told(self.dispatcher.called_off(self.requests[id]))

    def recalled(self, rank: int, id: int) -> list[tuple[Any, ...]]:
        return self.told(self.dispatcher.recalled(rank, id, self.requests[id].serial))

    def hold(self, owner: Whose) -> list[tuple[Any, ...]]:
        return self.told(self.dispatcher.held(owner))

    def release(self, owner: Whose) -> list[tuple[Any, ...]]:
        return self.told(self.dispatcher.released(owner))

    def time(self, now: float) -> list[tuple[Any, ...]]:
        return self.told(self.dispatcher.time_passed(now))

    def status(self, id: int) -> Status:
        return self.dispatcher.state(self.requests[id])


# -- owners ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [None, 1])
def test_owners_take_turns_and_each_keeps_his_order(target: int | None) -> None:
    desk = Desk(1)
    desk.push(1)
    for owner in (ANN, ANN, ANN, None, BOB, BOB, ANN):
        desk.push(target, owner=owner)
    order = []
    running = 1
    while sent := desk.answer(1, running):
        ((_, _, running),) = sent
        order.append(running)
    # ann's first, the client's, bob's first, ann's second, bob's second, ann's others
    assert order == [2, 5, 6, 3, 7, 4, 8]


def test_a_long_line_of_one_owner_does_not_hold_up_anothers_first() -> None:
    desk = Desk(2)
    for _ in range(1000):
        desk.push(None, owner=ANN)
    desk.push(None, owner=BOB)
    assert desk.answer(1, 2) == [("send", 1, 3)]
    assert desk.answer(2, 1) == [("send", 2, 1001)]
    assert desk.answer(1, 3) == [("send", 1, 4)]


def test_what_is_cancelled_is_nobodys_turn() -> None:
    desk = Desk(1)
    desk.push(1)
    for owner in (ANN, ANN, BOB, BOB):
        desk.push(1, owner=owner)
    desk.cancel(2)
    desk.cancel(4)
    assert desk.answer(1, 1) == [("send", 1, 3)]
    assert desk.answer(1, 3) == [("send", 1, 5)]


def test_what_was_lost_with_its_server_comes_first_again_whosever_it_is() -> None:
    desk = Desk(2)
    desk.push(1, SLOW)
    desk.push(None, SLOW, owner=ANN, retries=1)
    for owner in (BOB, ANN):
        desk.push(None, SLOW, owner=owner)
    assert desk.lose(2) == []
    assert desk.answer(1, 1) == [("send", 1, 2)]
    assert desk.answer(1, 2) == [("send", 1, 3)]


@pytest.mark.parametrize("target", [None, 1])
def test_an_owner_who_is_held_gets_nothing_and_holds_up_nobody(target: int | None) -> None:
    desk = Desk(1)
    desk.push(1)
    desk.push(target, owner=ANN)
    desk.push(target, owner=BOB)
    desk.push(target, owner=ANN)
    assert desk.hold(ANN) == []
    assert desk.hold(ANN) == []
    assert desk.answer(1, 1) == [("send", 1, 3)]
    assert desk.push(target, owner=ANN) == []
    assert desk.answer(1, 3) == []
    assert desk.dispatcher.row(1)[0] == (3 if target else 0)
    assert desk.push(target, owner=ANN) == []
    assert desk.cancel(4) == [("cancelled", 4, None)]
    assert desk.push(target, owner=BOB) == [("send", 1, 7)]
    assert desk.answer(1, 7) == []
    assert desk.release(ANN) == [("send", 1, 2)]
    assert desk.release(ANN) == []
    assert desk.answer(1, 2) == [("send", 1, 5)]
    assert desk.answer(1, 5) == [("send", 1, 6)]


def test_a_servers_end_ends_what_is_held_for_it_too() -> None:
    desk = Desk(2)
    desk.hold(ANN)
    desk.push(1, owner=ANN)
    desk.push(None, owner=ANN)
    assert desk.lose(1) == [("lost", 1, 1)]
    assert desk.lose(2) == [("lost", 2, None)]
    assert desk.push(None, owner=ANN) == [("lost", 3, None)]
    assert desk.push(1, owner=ANN) == [("lost", 4, 1)]


# -- order ----------------------------------------------------------------------------------------


def test_one_server_starts_its_commands_in_the_order_of_pushing() -> None:
    desk = Desk(1)
    assert desk.push(1) == [("send", 1, 1)]
    assert [desk.push(1) for _ in range(3)] == [[], [], []]
    assert desk.answer(1, 1) == [("send", 1, 2)]
    assert desk.answer(1, 2) == [("send", 1, 3)]
    assert desk.answer(1, 3) == [("send", 1, 4)]
    assert desk.answer(1, 4) == []


def test_a_busy_server_does_not_hold_up_the_others() -> None:
    desk = Desk(2)
    desk.push(1)
    assert desk.push(1) == []
    assert desk.push(2) == [("send", 2, 3)]
    assert desk.answer(2, 3) == []
    assert desk.push(2) == [("send", 2, 4)]


def test_first_available_goes_to_an_idle_server_else_to_the_first_that_becomes_free() -> None:
    desk = Desk(2)
    first, second = desk.push(None), desk.push(None)
    assert {first[0][1], second[0][1]} == {1, 2}
    assert desk.push(None) == []
    assert desk.push(None) == []
    assert desk.answer(2, 1 if first[0][1] == 2 else 2) == [("send", 2, 3)]
    assert desk.answer(1, 2 if first[0][1] == 2 else 1) == [("send", 1, 4)]


def test_the_server_that_worked_last_is_still_warm() -> None:
    desk = Desk(3)
    desk.push(2)
    desk.answer(2, 1)
    assert desk.push(None) == [("send", 2, 2)]


def test_a_server_takes_its_own_queue_before_the_shared_one() -> None:
    desk = Desk(1)
    desk.push(1)
    desk.push(None)
    desk.push(1)
    assert desk.answer(1, 1) == [("send", 1, 3)]
    assert desk.answer(1, 3) == [("send", 1, 2)]


def test_a_batch_may_hold_both_and_nothing_overtakes_the_own_queue() -> None:
    desk = Desk(1)
    desk.push(1, SLOW)
    desk.push(None, FAST)
    desk.push(1, FAST)
    desk.push(1, FAST)
    assert desk.answer(1, 1) == [("send", 1, 3, 4, 2)]

    desk = Desk(1)
    desk.push(1, SLOW)
    desk.push(None, FAST)
    desk.push(1, FAST)
    desk.push(1, SLOW)  # cannot follow a running one, so the shared one must not either
    assert desk.answer(1, 1) == [("send", 1, 3)]
    assert desk.answer(1, 3, seconds=0) == [("send", 1, 4)]
    assert desk.answer(1, 4) == [("send", 1, 2)]


# -- sending ahead --------------------------------------------------------------------------------


def test_short_commands_are_sent_ahead() -> None:
    desk = Desk(1)
    assert [desk.push(1, FAST) for _ in range(3)] == [[("send", 1, id)] for id in (1, 2, 3)]
    assert desk.status(1) is Status.RUNNING
    assert desk.status(2) is Status.SENT


@pytest.mark.parametrize(
    ("running", "following"),
    [
        ({"key": NEW}, {"key": FAST}),
        ({"key": SLOW}, {"key": FAST}),
        ({"key": FAST, "large": True}, {"key": FAST}),
        ({"key": FAST}, {"key": NEW}),
        ({"key": FAST}, {"key": SLOW}),
        ({"key": FAST}, {"key": FAST, "large": True}),
    ],
)
@pytest.mark.parametrize("target", [1, None])
def test_long_unknown_and_large_ones_are_barriers(
    running: dict[str, Any], following: dict[str, Any], target: int | None
) -> None:
    desk = Desk(1)
    assert desk.push(1, **running) == [("send", 1, 1)]
    assert desk.push(target, **following) == []
    assert desk.status(2) is Status.QUEUED
    assert desk.answer(1, 1, seconds=0) == [("send", 1, 2)]


def test_what_follows_a_barrier_waits_behind_it() -> None:
    desk = Desk(1)
    desk.push(1, FAST)
    assert desk.push(1, SLOW) == []
    assert desk.push(1, FAST) == []
    assert desk.answer(1, 1, seconds=0) == [("send", 1, 2)]
    assert desk.answer(1, 2) == [("send", 1, 3)]


def test_a_server_that_holds_many_gets_more_of_them_together() -> None:
    desk = Desk(1)
    desk.dispatcher.pace.learn(7, 0.0)
    sent = [desk.push(1, 7) for _ in range(WINDOW + 5)]
    assert all(sent[:SINGLY])
    assert not any(sent[SINGLY:])
    (batch,) = desk.answer(1, 1, 2, seconds=0)
    assert batch == ("send", 1, *range(SINGLY + 1, WINDOW + 3))  # so many that it holds a window of them


def test_a_server_holds_at_most_a_budget_of_work() -> None:
    desk = Desk(1)
    desk.dispatcher.pace.learn(7, SHORT)
    fit = int(BUDGET / SHORT)
    sent = [desk.push(1, 7) for _ in range(fit + 2)]
    assert all(sent[:fit])
    assert not any(sent[fit:])
    assert desk.answer(1, 1, seconds=SHORT) == [("send", 1, fit + 1)]


def test_what_is_learnt_while_commands_are_out_narrows_the_window() -> None:
    desk = Desk(1)
    for _ in range(3):
        desk.push(1, FAST)
    desk.push(None, FAST)  # waits in the shared queue
    assert desk.answer(1, 1, seconds=5.0) == []  # those that are out are now known to be long
    assert desk.answer(1, 2, seconds=5.0) == []
    assert desk.answer(1, 3, seconds=5.0) == [("send", 1, 4)]


def test_pace_remembers_the_slowest_for_a_while() -> None:
    pace = Pace(size=2)
    assert pace.expected(1) is None
    pace.learn(1, 1.0)
    pace.learn(1, 0.0)
    assert 0.5 < pace.expected(1) < 1.0  # type: ignore[operator]
    pace.learn(1, 2.0)
    assert pace.expected(1) == 2.0
    for _ in range(200):
        pace.learn(1, 0.0)
    assert pace.expected(1) < SHORT  # type: ignore[operator]
    pace.learn(2, 1.0)
    pace.learn(3, 1.0)
    assert pace.expected(1) is None  # bounded


# -- cancelling -----------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [1, None])
def test_only_a_queued_request_can_be_cancelled(target: int | None) -> None:
    desk = Desk(1)
    desk.push(1)
    desk.push(target)
    desk.push(1)
    assert desk.cancel(1) == []
    assert desk.status(1) is Status.RUNNING
    assert desk.cancel(2) == [("cancelled", 2, None)]
    assert desk.cancel(2) == []
    assert desk.answer(1, 1) == [("send", 1, 3)]
    assert desk.answer(1, 3) == []
    assert desk.cancel(3) == []
    assert desk.push(None) == [("send", 1, 4)]


def test_one_sent_ahead_can_only_be_called_off() -> None:
    desk = Desk(1)
    desk.push(1, FAST)
    desk.push(1, FAST)
    desk.push(1, FAST)
    assert desk.cancel(2) == []
    assert desk.status(2) is Status.SENT
    assert desk.call_off(2) == [("cancel", 1, 2), ("cancelled", 2, 1)]
    assert desk.call_off(2) == []
    assert desk.recalled(1, 2) == []
    assert desk.push(None) == []
    assert desk.answer(1, 1, 3) == [("send", 1, 4)]


def test_calling_off_a_queued_and_a_running_request() -> None:
    desk = Desk(1)
    desk.push(1)
    desk.push(1)
    assert desk.call_off(2) == [("cancelled", 2, None)]
    assert desk.call_off(1) == [("cancel", 1, 1), ("cancelled", 1, 1)]
    assert desk.push(1) == []  # the server is on it until it says that it is not
    assert desk.answer(1, 1) == [("send", 1, 3)]
    assert desk.answer(1, 3) == []
    assert desk.call_off(3) == []


# -- time -----------------------------------------------------------------------------------------


def test_deadlines_of_queued_and_running_requests() -> None:
    desk = Desk(1)
    desk.push(1, deadline=10.0)
    desk.push(1, deadline=20.0)
    desk.push(None, deadline=15.0)
    desk.push(1)
    assert desk.dispatcher.next_deadline() == 10.0
    assert desk.time(9.9) == []
    assert desk.time(10.0) == [("interrupt", 1, 1), ("timeout", 1, 1)]
    assert desk.dispatcher.next_deadline() == 15.0
    assert desk.time(30.0) == [("timeout", 3, None), ("timeout", 2, None)]
    # The server still has the interrupted one, and answers it some day: nobody hears of that twice.
    assert desk.dispatcher.next_deadline() == 10.0 + GRACE
    assert desk.answer(1, 1) == [("send", 1, 4)]
    assert desk.dispatcher.next_deadline() is None
    assert desk.time(99.0) == []


def test_a_server_that_does_not_end_a_command_after_its_time_out() -> None:
    desk = Desk(1)
    desk.push(1, deadline=10.0)
    desk.push(1, deadline=20.0)
    desk.time(11.0)
    assert desk.dispatcher.next_deadline() == 20.0
    desk.time(20.0)
    assert desk.dispatcher.next_deadline() == 11.0 + GRACE
    assert desk.time(10.9 + GRACE) == []
    assert desk.time(11.0 + GRACE) == [("overdue", 1, 1)]
    assert desk.time(999.0) == []
    assert desk.dispatcher.next_deadline() is None
    assert desk.lose(1) == []


@pytest.mark.parametrize("event", ["lost", "deferred", "recalled"])
def test_a_command_that_is_not_with_its_server_any_more_is_not_overdue(event: str) -> None:
    desk = Desk(1)
    desk.push(1, deadline=10.0)
    desk.time(10.0)
    if event == "lost":
        desk.lose(1)
        desk.join(1)
    elif event == "deferred":
        desk.defer(1, 1)
    else:
        desk.recalled(1, 1)
    assert desk.dispatcher.next_deadline() is None
    assert desk.time(999.0) == []


def test_an_answered_or_cancelled_request_has_no_deadline_any_more() -> None:
    desk = Desk(1)
    desk.push(1, deadline=10.0)
    desk.push(1, deadline=11.0)
    desk.cancel(2)
    desk.answer(1, 1)
    assert desk.dispatcher.next_deadline() is None
    assert desk.time(99.0) == []


def test_a_deferred_request_keeps_its_deadline() -> None:
    desk = Desk(1)
    desk.push(1, deadline=10.0)
    desk.defer(1, 1)
    assert ("timeout", 1, 1) in desk.time(10.0)
    assert desk.answer(1, 1) == []


# -- servers that are lost ------------------------------------------------------------------------


def test_a_dead_server_fails_only_what_it_had_started() -> None:
    desk = Desk(2)
    desk.push(1, FAST)
    desk.push(1, FAST)
    desk.push(2)
    assert desk.lose(1) == [("lost", 1, 1), ("lost", 2, 1)]
    assert desk.status(3) is Status.RUNNING
    assert desk.dispatcher.ranks() == [2]
    assert desk.dispatcher.is_lost(1)
    assert not desk.dispatcher.is_live(1)
    assert desk.answer(1, 1) == []  # too late
    assert desk.lose(1) == []


def test_its_own_queue_fails_and_the_shared_queue_moves_on() -> None:
    desk = Desk(2)
    desk.push(1)
    desk.push(2)
    desk.push(1)
    desk.push(None)
    assert desk.lose(1) == [("lost", 1, 1), ("lost", 3, 1)]
    assert desk.status(4) is Status.QUEUED
    assert desk.answer(2, 2) == [("send", 2, 4)]


def test_a_request_with_retries_starts_again_elsewhere_ahead_of_the_others() -> None:
    desk = Desk(2)
    desk.push(None, retries=1)
    first = desk.requests[1].server
    assert first is not None
    other = 3 - first
    desk.push(other)
    desk.push(None)
    assert desk.lose(first) == []
    assert desk.requests[1].retries == 0
    assert desk.status(1) is Status.QUEUED
    assert desk.requests[1].server is None
    assert desk.answer(other, 2) == [("send", other, 1)]
    desk.join(first)
    assert desk.requests[3].server == first
    assert desk.lose(other) == [("lost", 1, other)]  # its one retry is used up


def test_a_retry_goes_to_an_idle_server_at_once() -> None:
    desk = Desk(2)
    desk.push(None, retries=3)
    first = desk.requests[1].server
    assert first is not None
    assert desk.lose(first) == [("send", 3 - first, 1)]
    assert desk.requests[1].retries == 2


def test_several_retries_keep_their_order() -> None:
    desk = Desk(1)
    desk.push(1, SLOW)
    for _ in range(3):
        desk.push(None, FAST, retries=1)
    assert desk.answer(1, 1) == [("send", 1, 2, 3, 4)]
    desk.join(2)
    desk.push(2, SLOW)
    assert desk.lose(1) == []
    assert desk.answer(2, 5) == [("send", 2, 2, 3, 4)]


def test_a_request_for_one_server_is_not_retried_on_another() -> None:
    desk = Desk(2)
    desk.push(1, retries=3)
    assert desk.lose(1) == [("lost", 1, 1)]


def test_the_queue_of_a_server_that_is_replaced_waits_for_the_new_one() -> None:
    desk = Desk(2)
    desk.push(1, SLOW)
    desk.push(1)
    desk.push(1)
    assert desk.lose(1, replaced=True) == [("lost", 1, 1)]
    assert desk.dispatcher.is_live(1)
    assert desk.dispatcher.is_absent(1)
    assert not desk.dispatcher.is_lost(1)
    assert desk.dispatcher.ranks() == [1, 2]
    assert desk.push(1) == []
    assert desk.resume(1) == []  # it is not there
    desk.cancel(3)
    assert desk.push(None) == [("send", 2, 5)]
    assert desk.join(1) == [("send", 1, 2)]
    assert not desk.dispatcher.is_absent(1)
    assert desk.answer(1, 2) == [("send", 1, 4)]


def test_a_replacement_that_never_comes_fails_the_queue() -> None:
    desk = Desk(1)
    desk.push(1)
    desk.push(1)
    desk.push(None)
    assert desk.lose(1, replaced=True) == [("lost", 1, 1)]
    assert desk.push(None) == []  # somebody will come
    assert desk.lose(1, replaced=True) == []  # the next attempt
    assert desk.lose(1) == [("lost", 2, 1), ("lost", 3, None), ("lost", 4, None)]
    assert desk.dispatcher.is_lost(1)


def test_a_request_for_one_server_is_retried_on_its_replacement_before_the_others() -> None:
    desk = Desk(1)
    desk.push(1, retries=1)
    desk.push(1)
    assert desk.lose(1, replaced=True) == []
    assert desk.join(1) == [("send", 1, 1)]
    assert desk.lose(1, replaced=True) == [("lost", 1, 1)]
    assert desk.join(1) == [("send", 1, 2)]


def test_what_a_dead_server_had_not_begun_goes_elsewhere() -> None:
    desk = Desk(1)
    desk.push(1, SLOW)
    desk.push(None, FAST)
    desk.push(None, FAST)
    desk.push(1, FAST)
    desk.push(1, FAST)
    assert desk.answer(1, 1) == [("send", 1, 4, 5, 2, 3)]
    desk.join(2)
    assert desk.lose(1, begun=2) == [("lost", 4, 1), ("lost", 5, 1), ("send", 2, 2, 3)]
    desk = Desk(1)
    for _ in range(4):
        desk.push(1, FAST)
    assert desk.lose(1, replaced=True, begun=2) == [("lost", 1, 1), ("lost", 2, 1)]
    assert desk.push(1, FAST) == []
    assert desk.told(desk.dispatcher.joined(1, serial=7)) == [("send", 1, 3, 4, 5)]
    assert desk.requests[3].serial == 8
    assert desk.lose(1, begun=8) == [("lost", 3, 1), ("lost", 4, 1), ("lost", 5, 1)]  # nobody else may


def test_when_no_server_is_left_all_that_waits_is_lost() -> None:
    desk = Desk(1)
    desk.push(None, retries=3)
    desk.push(None)
    desk.push(None)
    desk.cancel(3)
    assert desk.lose(1) == [("lost", 1, 1), ("lost", 2, None)]
    assert desk.push(None) == [("lost", 4, None)]
    assert desk.push(1) == [("lost", 5, 1)]
    assert desk.join(1) == []
    assert desk.push(None) == [("send", 1, 6)]


def test_a_request_that_timed_out_is_not_lost_too() -> None:
    desk = Desk(1)
    desk.push(1, deadline=1.0)
    desk.time(1.0)
    assert desk.lose(1) == []


def test_a_new_server_takes_from_the_shared_queue() -> None:
    desk = Desk(1)
    desk.push(1)
    desk.push(None)
    assert desk.join(2) == [("send", 2, 2)]


# -- deferred answers -----------------------------------------------------------------------------


def test_the_fifo_goes_on_while_a_deferred_answer_is_awaited() -> None:
    desk = Desk(1)
    desk.push(1)
    desk.push(1)
    assert desk.defer(1, 1) == [("send", 1, 2)]
    assert desk.answer(1, 2) == []
    assert desk.push(None) == [("send", 1, 3)]
    assert desk.answer(1, 1) == []
    assert desk.status(3) is Status.RUNNING


def test_a_deferred_answer_that_is_awaited_is_lost_with_its_server() -> None:
    desk = Desk(2)
    desk.push(1)
    desk.defer(1, 1)
    assert desk.lose(1) == [("lost", 1, 1)]


def test_deferred_for_what_is_not_there_changes_nothing() -> None:
    desk = Desk(1)
    assert desk.defer(1, 77) == []
    assert desk.defer(9, 77) == []
    assert desk.answer(9, *[]) == []


# -- questions ------------------------------------------------------------------------------------


def test_a_row_counts_what_waits_for_this_server() -> None:
    desk = Desk(1)
    assert desk.dispatcher.row(1) == (0, None)
    desk.push(1, FAST)
    desk.push(1, FAST)
    desk.push(1, SLOW)
    desk.push(1, SLOW)
    assert desk.dispatcher.row(1) == (3, 1)
    desk.cancel(4)
    assert desk.dispatcher.row(1) == (2, 1)
    assert desk.dispatcher.running(1) == 1
    assert desk.dispatcher.running(9) is None


def test_the_story_of_a_request() -> None:
    desk = Desk(2)
    desk.push(1)
    desk.push(1)
    desk.push(1)
    desk.answer(1, 1)
    desk.cancel(3)
    desk.lose(1)
    assert desk.dispatcher.story(1) == ["sent (server 1)", "answered (server 1)"]
    assert desk.dispatcher.story(2) == ["sent (server 1)", "lost (server 1)"]
    assert desk.dispatcher.story(3) == ["cancelled"]
    assert desk.dispatcher.story(99) == []


def test_the_story_is_bounded() -> None:
    desk = Desk(1)
    for id in range(1, 5001):
        desk.push(1)
        desk.answer(1, id)
    assert desk.dispatcher.story(1) == []
    assert desk.dispatcher.story(5000) == ["sent (server 1)", "answered (server 1)"]


# -- having back what was sent ahead --------------------------------------------------------------


def test_what_was_sent_ahead_behind_a_long_command_can_be_had_back() -> None:
    desk = Desk(1)
    desk.push(1)
    assert desk.push(None, FAST) == []
    assert desk.push(None, FAST) == []
    assert desk.answer(1, 1) == [("send", 1, 2, 3)]
    (ahead,) = desk.dispatcher.recallable(1)
    assert ahead.id == 3
    assert desk.join(2) == []
    assert desk.told(desk.dispatcher.recalled(1, 3, ahead.serial)) == [("send", 2, 3)]
    assert desk.dispatcher.recallable(1) == []


def test_what_is_for_one_server_alone_is_not_had_back() -> None:
    desk = Desk(1)
    desk.push(1, FAST)
    assert desk.push(1, FAST) == [("send", 1, 2)]
    assert desk.dispatcher.recallable(1) == []


def test_a_recall_that_is_heard_of_late_takes_nothing_away() -> None:
    desk = Desk(1)
    desk.push(1)
    desk.push(None, FAST)
    desk.push(None, FAST)
    desk.answer(1, 1)
    (ahead,) = desk.dispatcher.recallable(1)
    serial = ahead.serial
    assert desk.told(desk.dispatcher.recalled(1, ahead.id, serial)) == []
    assert desk.answer(1, 2) == [("send", 1, 3)]  # the same server has it again
    assert desk.told(desk.dispatcher.recalled(1, ahead.id, serial)) == []
    assert desk.status(3) is Status.RUNNING


def test_nothing_is_sent_ahead_that_could_not_be_had_back() -> None:
    desk = Desk()
    desk.told(desk.dispatcher.joined(1, alone=True))
    desk.push(1, FAST)
    assert desk.push(1, FAST) == []
    assert desk.push(None, FAST) == []


# -- what a working server will have done before an idle one were awake -----------------------------


def test_what_is_done_soon_waits_for_a_working_server_and_travels_together() -> None:
    desk = Desk(3)
    desk.dispatcher.pace.learn(FAST, WAKING / 10)
    assert desk.push(None, FAST) == [("send", 3, 1)]
    assert desk.push(None, FAST) == []
    assert desk.push(None, FAST) == []
    assert desk.dispatcher.awaited() == 3
    assert desk.answer(3, 1, seconds=1e-6) == [("send", 3, 2, 3)]
    assert desk.dispatcher.awaited() is None


def test_what_waits_for_a_working_server_is_not_overtaken() -> None:
    desk = Desk(3)
    for _ in range(3):
        desk.push(None, FAST)
    assert desk.push(None, NEW) == [("send", 2, 2, 3), ("send", 1, 4)]  # nobody knows how long this takes


def test_no_more_waits_for_a_working_server_than_is_done_soon() -> None:
    desk = Desk(2)
    desk.dispatcher.pace.learn(FAST, WAKING / 2)
    assert desk.push(None, FAST) == [("send", 2, 1)]
    assert desk.push(None, FAST) == []
    assert desk.push(None, FAST) == [("send", 1, 2, 3)]


def test_what_turns_out_to_take_long_holds_up_nothing_while_servers_are_idle() -> None:
    desk = Desk(3)
    for _ in range(3):
        desk.push(None, FAST)
    assert desk.told(desk.dispatcher.spread()) == [("send", 2, 2, 3)]
    desk = Desk(3)
    for _ in range(3):
        desk.push(None, FAST)
    assert desk.answer(3, 1, seconds=10.0) == [("send", 3, 2), ("send", 2, 3)]


def test_what_waits_for_a_server_that_is_paused_or_lost_goes_elsewhere() -> None:
    for event in (Desk.pause, Desk.lose):
        desk = Desk(2)
        desk.push(None, FAST)
        assert desk.push(None, FAST) == []
        assert ("send", 1, 2) in event(desk, 2)


# -- pausing, and the choice among idle servers ---------------------------------------------------


def test_a_paused_server_gets_nothing_new_and_keeps_what_it_has() -> None:
    desk = Desk(2)
    assert desk.push(1) == [("send", 1, 1)]
    desk.pause(1)
    assert desk.push(1) == []
    assert desk.push(None) == [("send", 2, 3)]
    assert desk.push(None) == []
    assert desk.answer(1, 1) == []
    assert desk.resume(1) == [("send", 1, 2)]
    assert desk.answer(1, 2) == [("send", 1, 4)]


def test_an_idle_server_that_is_paused_is_nobodys_choice() -> None:
    desk = Desk(1)
    desk.pause(1)
    assert desk.dispatcher.idle(None) is None
    assert desk.dispatcher.idle(1) is None
    assert desk.push(None) == []
    assert desk.resume(1) == [("send", 1, 1)]
    assert desk.resume(1) == []
    desk.pause(9)  # one that is not there
    assert desk.resume(9) == []


@pytest.mark.parametrize(("highest_first", "expected"), [(True, 3), (False, 1)])
def test_the_warmest_or_the_highest_of_the_idle_servers(highest_first: bool, expected: int) -> None:
    desk = Desk(3)
    desk.dispatcher.highest_first = highest_first
    for rank in (1, 2, 3):
        desk.push(rank)
    for rank in (3, 2, 1):
        desk.answer(rank, rank)
    assert desk.push(None) == [("send", expected, 4)]


# -- random histories -----------------------------------------------------------------------------

RANKS = (1, 2, 3)


LINES = st.lists(st.tuples(st.sampled_from([None, ANN, BOB]), st.booleans()), max_size=30)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(steps=LINES, ended=st.sets(st.integers(0, 29)))
def test_nobody_has_a_second_turn_while_another_waits_for_his_first(
    steps: list[tuple[Whose | None, bool]], ended: set[int]
) -> None:
    queue, waiting = Queue(), []
    since: dict[Whose | None, int] = {}  # turns of others since an owner's line was begun or had its own
    for id, (owner, take) in enumerate(steps):
        request = Request(id=id, target=None, key=NEW, command="", frame=(), owner=owner)
        if owner not in [r.owner for r in waiting]:
            since[owner] = 0
        waiting.append(request)
        queue.add(request)
        if not take:
            continue
        head = queue.line[0]
        waiting.remove(head)
        if id in ended:
            queue.skip()
            continue
        queue.take()
        assert head.id == min([head.id, *(r.id for r in waiting if r.owner is head.owner)])
        for other in {r.owner for r in waiting} - {head.owner}:
            since[other] += 1
            assert since[other] <= 3, "the two others have had more than their turns"
        since[head.owner] = 0
    assert sorted(r.id for r in queue) == [r.id for r in waiting]
    assert len(queue) == len(waiting)
    assert bool(queue.line) == bool(waiting)


class Histories(RuleBasedStateMachine):
    """Servers that behave as real ones do: first in, first out; what they hold dies with them."""

    def __init__(self) -> None:
        super().__init__()
        self.dispatcher = Dispatcher(4.0)
        self.ids = itertools.count(1)
        self.now = 0.0
        self.requests: dict[int, Request] = {}
        self.holds: dict[int, list[int]] = {}  # rank -> ids, in the order they arrived
        self.waits: dict[int, list[int]] = {}  # rank -> deferred ids
        self.ends: dict[int, list[str]] = {}
        self.starts: dict[int, list[int]] = {rank: [] for rank in RANKS}  # targeted ones
        self.retries: dict[int, int] = {}
        self.sends: dict[int, int] = {}
        self.paused: set[int] = set()
        self.absent: set[int] = set()
        self.alone: set[int] = set()
        self.skipped: dict[int, list[tuple[int, int]]] = {}  # rank -> (id, serial) it will not run, unheard
        self.begun: set[int] = set()  # was sent at least once
        self.held: set[Whose] = set()
        self.awaiting: set[int] = set()  # waited at some time for a working server, though others were idle

    def carry_out(self, instructions: list[Any]) -> None:
        for said in instructions:
            if isinstance(said, Send):
                assert said.requests
                assert said.rank not in self.paused
                for request in said.requests:
                    assert not self.ends[request.id], "an ended request is sent"
                    assert request.owner not in self.held
                    assert request.target in (None, said.rank)
                    assert request.server == said.rank
                    self.sends[request.id] += 1
                    assert self.sends[request.id] <= 1 + self.retries[request.id]
                    if request.target is None and request.id not in self.begun:
                        waits = [
                            id
                            for id, other in self.requests.items()
                            if self.is_queued(id)
                            and other.owner is request.owner
                            and (id < request.id or id in self.begun)
                        ]
                        assert set(waits) <= self.awaiting, f"{request.id} overtakes {waits}"
                    self.begun.add(request.id)
                    if self.holds[said.rank]:  # sent ahead
                        assert said.rank not in self.alone
                        expected = self.dispatcher.pace.expected(request.key)
                        assert expected is not None
                        assert expected <= SHORT
                        assert not request.large
                    self.holds[said.rank].append(request.id)
                    if request.target is not None:
                        self.starts[said.rank].append(request.id)
            elif isinstance(said, End):
                assert said.request.ended
                assert said.status in (Status.CANCELLED, Status.LOST, Status.TIMEOUT)
                self.ends[said.request.id].append(said.status.value)
            elif isinstance(said, Overdue):
                assert self.ends[said.request.id] == ["timeout"]
                assert said.request.id in self.holds[said.rank]
            else:
                request = self.requests[said.id]
                assert request.server == said.rank
                assert said.id in self.holds[said.rank] + self.waits[said.rank]

    def live(self) -> list[int]:
        return sorted(self.holds)

    def reply(self, rank: int, ids: list[int], seconds: float) -> None:
        for id in ids:
            request = self.requests[id]
            if not request.ended:
                request.status, request.ended = Status.DONE, True
                self.ends[id].append("done")
        self.carry_out(self.dispatcher.answered(rank, [(id, seconds) for id in ids]))

    def is_queued(self, id: int) -> bool:
        request = self.requests[id]
        return request.target is None and request.status is Status.QUEUED

    def see_who_waits(self) -> None:
        if self.dispatcher.awaited() is not None:
            self.awaiting |= {id for id in self.requests if self.is_queued(id)}

    def runs(self, rank: int) -> list[int]:
        """What this server has run, or will, and has not answered."""
        skipped = {id for id, _ in self.skipped[rank]}
        return [id for id in self.holds[rank] if id not in skipped]

    def joins(self, rank: int, alone: bool) -> None:
        self.holds[rank], self.waits[rank], self.skipped[rank] = [], [], []
        self.absent.discard(rank)
        self.alone.discard(rank)
        if alone:
            self.alone.add(rank)
        self.carry_out(self.dispatcher.joined(rank, alone=alone))

    @initialize(alone=st.lists(st.booleans(), min_size=1, max_size=len(RANKS)), highest_first=st.booleans())
    def start(self, alone: list[bool], highest_first: bool) -> None:
        self.dispatcher.highest_first = highest_first
        self.dispatcher.pace.learn(FAST, SHORT / 100)
        self.dispatcher.pace.learn(SLOW, 10.0)
        for rank, lonely in zip(RANKS, alone, strict=False):
            self.joins(rank, lonely)

    @rule(
        rank=st.none() | st.sampled_from(RANKS),
        key=st.integers(1, 4),
        large=st.sampled_from([False, False, False, True]),
        patience=st.none() | st.floats(0, 5),
        retries=st.integers(0, 2),
        count=st.integers(1, 4),
        by_hand=st.booleans(),
        owner=st.sampled_from([None, None, ANN, BOB]),
    )
    def push(
        self,
        rank: int | None,
        key: int,
        large: bool,
        patience: float | None,
        retries: int,
        count: int,
        by_hand: bool = True,
        owner: Whose | None = None,
    ) -> None:
        target = rank if rank in self.holds or rank in self.absent else None
        for _ in range(count):
            id = next(self.ids)
            request = Request(
                id=id,
                target=target,
                key=key,
                command="",
                frame=(),
                large=large,
                deadline=None if patience is None else self.now + patience,
                retries=retries,
                owner=owner,
            )
            self.requests[id], self.ends[id] = request, []
            self.retries[id], self.sends[id] = retries, 0
            idle = self.dispatcher.idle(target)
            soon = self.dispatcher.is_soon(key) or self.dispatcher.awaited() is not None
            if idle is None or (target is None and soon) or owner in self.held:
                self.carry_out(self.dispatcher.pushed(request))
            elif patience is None and by_hand:  # the client sends it there itself, and says so
                self.dispatcher.taken(idle, request)
                self.carry_out([Send(idle, [request])])
            else:
                said = self.dispatcher.pushed(request)
                assert [(s.rank, s.requests) for s in said if isinstance(s, Send)] == [(idle, [request])]
                self.carry_out(said)
            self.see_who_waits()

    @rule(
        rank=st.none() | st.sampled_from(RANKS),
        count=st.integers(3, 12),
        retries=st.integers(0, 1),
        owner=st.sampled_from([None, None, ANN, BOB]),
    )
    def push_many_short(self, rank: int | None, count: int, retries: int, owner: Whose | None) -> None:
        self.push(rank, FAST, False, None, retries, count, owner=owner)

    @precondition(lambda self: any(self.runs(r) for r in self.live()))
    @rule(data=st.data(), seconds=st.sampled_from([0.0, 1e-5, 5e-4, 1.5e-3, 3.0]))
    def answer(self, data: st.DataObject, seconds: float) -> None:
        rank = data.draw(st.sampled_from([r for r in self.live() if self.runs(r)]))
        count = data.draw(st.integers(1, len(self.runs(rank))))
        ids = self.runs(rank)[:count]
        self.holds[rank] = [id for id in self.holds[rank] if id not in ids]
        self.reply(rank, ids, seconds)

    @precondition(lambda self: any(self.runs(r) for r in self.live()))
    @rule(data=st.data())
    def defer(self, data: st.DataObject) -> None:
        rank = data.draw(st.sampled_from([r for r in self.live() if self.runs(r)]))
        id = self.runs(rank)[0]
        self.holds[rank].remove(id)
        self.waits[rank].append(id)
        self.carry_out(self.dispatcher.deferred(rank, id, 1e-5))

    @precondition(lambda self: any(self.waits.values()))
    @rule(data=st.data())
    def answer_deferred(self, data: st.DataObject) -> None:
        rank = data.draw(st.sampled_from([r for r in self.live() if self.waits[r]]))
        id = data.draw(st.sampled_from(self.waits[rank]))
        self.waits[rank].remove(id)
        self.reply(rank, [id], 1e-5)

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from(sorted(self.requests)[-30:]))
        queued = not self.ends[id] and self.requests[id].server is None
        before = len(self.ends[id])
        self.carry_out(self.dispatcher.cancelled(self.requests[id]))
        assert (len(self.ends[id]) > before) == queued

    @precondition(lambda self: self.requests)
    @rule(data=st.data(), in_time=st.booleans())
    def call_off(self, data: st.DataObject, in_time: bool) -> None:
        id = data.draw(st.sampled_from(sorted(self.requests)[-30:]))
        request, open_before = self.requests[id], not self.ends[id]
        instructions = self.dispatcher.called_off(request)
        self.carry_out(instructions)
        assert self.ends[id]
        assert self.ends[id] == ["cancelled"] or not open_before
        for said in instructions:
            if isinstance(said, Cancel) and in_time and id in self.runs(said.rank)[1:]:
                self.skipped[said.rank].append((id, said.serial))  # it never will run

    @precondition(lambda self: self.holds)
    @rule(data=st.data(), replaced=st.booleans())
    def lose(self, data: st.DataObject, replaced: bool) -> None:
        rank = data.draw(st.sampled_from(self.live()))
        del self.holds[rank], self.waits[rank], self.skipped[rank]
        self.paused.discard(rank)
        if replaced:
            self.absent.add(rank)
            self.starts[rank] = []  # some may start again on the next one
        self.carry_out(self.dispatcher.lost(rank, replaced))

    @precondition(lambda self: self.absent)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        rank = data.draw(st.sampled_from(sorted(self.absent)))
        self.absent.remove(rank)
        self.carry_out(self.dispatcher.lost(rank))
        assert self.dispatcher.is_lost(rank)

    @precondition(lambda self: len(self.holds) < len(RANKS))
    @rule(data=st.data(), alone=st.booleans())
    def join(self, data: st.DataObject, alone: bool) -> None:
        self.joins(data.draw(st.sampled_from([r for r in RANKS if r not in self.holds])), alone)

    @precondition(lambda self: any(self.holds.values()))
    @rule(data=st.data())
    def recall(self, data: st.DataObject) -> None:
        """The client asks for what waits behind a long command; the server says of what it has not begun
        that it never will, and nobody has heard that yet."""
        rank = data.draw(st.sampled_from([r for r in self.live() if self.holds[r]]))
        waiting = self.dispatcher.recallable(rank)
        assert [r.id for r in waiting] == [
            id
            for id in self.holds[rank][1:]
            if self.requests[id].target is None and not self.requests[id].ended
        ]
        for request in waiting:
            if request.id in self.runs(rank)[1:]:
                self.skipped[rank].append((request.id, request.serial))

    @precondition(lambda self: any(self.skipped.values()))
    @rule(data=st.data())
    def hear_of_recall(self, data: st.DataObject) -> None:
        rank = data.draw(st.sampled_from([r for r in self.live() if self.skipped[r]]))
        self.hear(rank, data.draw(st.sampled_from(self.skipped[rank])))

    def hear(self, rank: int, skipped: tuple[int, int]) -> None:
        id, serial = skipped
        self.skipped[rank].remove(skipped)
        self.holds[rank].remove(id)
        self.sends[id] -= 1  # it was not begun there
        self.carry_out(self.dispatcher.recalled(rank, id, serial))
        again = self.dispatcher.recalled(rank, id, serial)
        assert again == [], "it is recalled once, though heard of twice"

    @precondition(lambda self: any(self.holds.values()))
    @rule(data=st.data(), serial=st.integers(-1, 12))
    def hear_of_an_older_recall(self, data: st.DataObject, serial: int) -> None:
        """Of the same request, when it was sent to this server before."""
        rank = data.draw(st.sampled_from([r for r in self.live() if self.holds[r]]))
        id = data.draw(st.sampled_from(self.holds[rank]))
        if serial != self.requests[id].serial:
            assert self.dispatcher.recalled(rank, id, serial) == []

    @rule(rank=st.integers(0, 4), serial=st.integers(0, 9), data=st.data())
    def hear_of_what_is_not(self, rank: int, serial: int, data: st.DataObject) -> None:
        """Servers that were never there, requests that they do not hold: too late, or nonsense."""
        id = data.draw(st.sampled_from(sorted(self.requests)[-20:] or [77]))
        held = set(self.holds.get(rank, ())) | set(self.waits.get(rank, ()))
        if id not in held:
            assert self.dispatcher.recalled(rank, id, serial) == []
            assert self.dispatcher.deferred(rank, id, 1.0) == []
        if rank not in self.holds and rank not in self.absent:
            assert self.dispatcher.answered(rank, [(id, 1.0)]) == []
            assert self.dispatcher.lost(rank) == []
            assert self.dispatcher.resumed(rank) == []
            assert self.dispatcher.recallable(rank) == []
            self.dispatcher.paused(rank)
            assert not self.dispatcher.is_live(rank)

    @precondition(lambda self: self.dispatcher.awaited() is not None)
    @rule()
    def spread(self) -> None:
        """The working server takes longer than was expected."""
        self.carry_out(self.dispatcher.spread())

    @precondition(lambda self: self.holds)
    @rule(data=st.data())
    def pause(self, data: st.DataObject) -> None:
        rank = data.draw(st.sampled_from(self.live()))
        self.paused.add(rank)
        self.carry_out(self.dispatcher.paused(rank))

    @rule(owner=st.sampled_from([ANN, BOB]))
    def hold(self, owner: Whose) -> None:
        self.held.add(owner)
        self.carry_out(self.dispatcher.held(owner))

    @rule(owner=st.sampled_from([ANN, BOB]))
    def release(self, owner: Whose) -> None:
        self.held.discard(owner)
        self.carry_out(self.dispatcher.released(owner))

    @precondition(lambda self: self.paused)
    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        rank = data.draw(st.sampled_from(sorted(self.paused)))
        self.paused.remove(rank)
        self.carry_out(self.dispatcher.resumed(rank))

    @rule(seconds=st.floats(0.1, 3))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.carry_out(self.dispatcher.time_passed(self.now))
        due = self.dispatcher.next_deadline()
        assert due is None or due > self.now
        for request in self.requests.values():
            late = request.deadline is not None and request.deadline <= self.now
            assert not late or self.ends[request.id], f"request {request.id} is overdue"

    @invariant()
    def the_state_is_sound(self) -> None:
        self.see_who_waits()
        self.dispatcher.validate()
        assert self.dispatcher.ranks() == sorted({*self.holds, *self.absent})
        for id, ends in self.ends.items():
            assert len(ends) <= 1, (id, ends)
            assert self.requests[id].ended == bool(ends)
        for rank, held in self.holds.items():
            assert self.dispatcher.running(rank) == (held[0] if held else None)
            assert len(held) <= WINDOW
            assert self.dispatcher.row(rank)[0] == max(len(held) - 1, 0) + sum(
                r.target == rank and r.server is None and not r.ended for r in self.requests.values()
            )

    @invariant()
    def targeted_commands_start_in_the_order_of_pushing(self) -> None:
        for started in self.starts.values():
            for owner in (None, ANN, BOB):
                own = [id for id in started if self.requests[id].owner is owner]
                assert own == sorted(own)

    @invariant()
    def nothing_waits_that_could_run(self) -> None:
        idle = [rank for rank, held in self.holds.items() if not held and rank not in self.paused]
        for request in self.requests.values():
            if not request.ended and request.server is None and request.owner not in self.held:
                assert self.holds or self.absent, f"request {request.id} waits though no server is left"
                free = idle if request.target is None else [r for r in idle if r == request.target]
                awaited = self.dispatcher.awaited() if request.target is None else None
                soon = awaited is not None and self.holds[awaited]
                assert soon or not free, f"request {request.id} waits though {free} are idle"

    def teardown(self) -> None:
        """When the servers have answered all they hold, every request has ended, once."""
        for rank in sorted(self.absent):
            self.carry_out(self.dispatcher.lost(rank))
        self.absent.clear()
        for owner in list(self.held):
            self.held.discard(owner)
            self.carry_out(self.dispatcher.released(owner))
        for rank in sorted(self.paused):
            self.paused.remove(rank)
            self.carry_out(self.dispatcher.resumed(rank))
        steps = 0
        for rank in self.live():
            while self.skipped[rank]:
                self.hear(rank, self.skipped[rank][0])
        while any(self.holds.values()) or any(self.waits.values()):
            for rank in self.live():
                held, self.holds[rank] = self.holds[rank], []
                waiting, self.waits[rank] = self.waits[rank], []
                self.reply(rank, waiting + held, 1e-5)
            self.the_state_is_sound()
            steps += 1
            assert steps <= len(self.requests) + 1
        for id, ends in self.ends.items():
            assert len(ends) == 1, f"request {id} ended {len(ends)} times: {ends}"
        self.targeted_commands_start_in_the_order_of_pushing()


TestHistories = Histories.TestCase
LONG = bool(os.environ.get("MPIFRAME_TEST_LONG"))  # `launch/test --faults`: further, at random
TestHistories.settings = settings(
    max_examples=1_500 if LONG else 250,
    stateful_step_count=80 if LONG else 40,
    deadline=None,
    derandomize=not LONG,
    database=None,
)
