"""Which task the local queue starts next, without a process or a clock."""

from __future__ import annotations

import math

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpiframe.plugins.scheduler.local_rules import PASSES, Job, Ledger
from mpiframe.plugins.scheduler.states import State


def ledger(*jobs: Job, cores: int = 4, memory: int = 1000) -> Ledger:
    made = Ledger(cores, memory)
    for job in jobs:
        assert made.refusal(job) == ""
        assert made.add(job) == []
    return made


def names(found: Ledger, now: float = 0.0) -> list[str]:
    started = [number for number, _ in found.startable(now)]
    found.validate()
    return started


def test_cores_and_memory_are_counted() -> None:
    books = ledger(Job("1", cores=2), Job("2", memory=600), Job("3", memory=600), Job("4"), Job("5"))
    assert names(books) == ["1", "2", "4"]  # 3 lacks memory
    books.ended(("2", None), State.COMPLETED)
    assert names(books) == ["3"]
    books.ended(("1", None), State.FAILED)
    assert names(books) == ["5"]


def test_what_ends_in_time_passes_a_job_that_does_not_fit() -> None:
    books = ledger(Job("1", cores=3, seconds=100), Job("big", cores=4), Job("long", seconds=200))
    books.add(Job("short", seconds=50))
    assert names(books) == ["1", "short"]
    books.ended(("short", None), State.COMPLETED)
    assert names(books, 60) == []
    books.ended(("1", None), State.COMPLETED)
    assert names(books, 100) == ["big"]


def test_what_leaves_room_beside_the_one_that_waits_passes_it() -> None:
    books = ledger(Job("1", cores=3, seconds=100), Job("big", cores=3), Job("long", seconds=10**6))
    assert names(books) == ["1", "long"]


def test_a_big_job_is_not_passed_for_ever() -> None:
    """Without walltimes nobody knows when there will be room; small jobs pass, but not without end."""
    books = ledger(Job("0"), Job("big", cores=4), cores=4)
    books.add(Job("1", seconds=1, count=PASSES * 3))
    running, started = [], 0
    assert books.startable(0.0)[0] == ("0", None)
    running = [key for key in books.open_tasks("1") if key[1]]
    while running:
        for key, _ in running:
            books.ended(key, State.COMPLETED)
            started += 1
        books.startable(0.0)
        books.validate()
        running = [key for key in books.open_tasks("1") if key[1]]
    assert PASSES <= started <= PASSES + 4
    books.ended(("0", None), State.COMPLETED)
    assert names(books) == ["big"]


def test_arrays_and_their_limit() -> None:
    books = ledger(Job("1", count=5, limit=2), Job("2"))
    assert books.startable(0.0) == [("1", 0), ("1", 1), ("2", None)]
    books.ended(("1", 0), State.FAILED)
    assert books.startable(0.0) == [("1", 2)]
    books.validate()


def test_dependencies() -> None:
    books = ledger(Job("1"), Job("2"))
    assert names(books) == ["1", "2"]
    for number, waits in {
        "ok": {"1": "afterok", "2": "afterok"},
        "any": {"1": "afterany", "2": "afterany"},
        "not": {"1": "afternotok"},
        "late": {"ok": "afterok"},
        "anyway": {"late": "afterany"},
    }.items():
        assert books.add(Job(number, waits=waits)) == []
    assert names(books) == []
    assert [one.job for one in books.ended(("1", None), State.FAILED)] == ["ok", "late"]
    assert books.jobs["ok"].state is books.jobs["late"].state is State.CANCELLED
    assert sorted(names(books)) == ["anyway", "not"]
    books.ended(("2", None), State.COMPLETED)
    assert names(books) == ["any"]
    assert [one.job for one in books.add(Job("never", waits={"1": "afterok"}))] == ["never"]
    assert books.add(Job("now", waits={"2": "afterok", "1": "afternotok"})) == []
    assert names(books) == ["now"]


def test_what_can_never_run_is_refused() -> None:
    books = ledger()
    assert "5 cores of 4" in books.refusal(Job("1", cores=5))
    assert "2000 MB" in books.refusal(Job("1", memory=2000))
    assert "not: 7" in books.refusal(Job("1", waits={"7": "afterok"})).replace("there is not", "not")


JOBS = st.lists(
    st.tuples(
        st.integers(1, 4),  # cores
        st.integers(0, 1000),  # memory
        st.sampled_from([5.0, 50.0, math.inf]),
        st.one_of(st.none(), st.integers(1, 4)),  # tasks
        st.one_of(
            st.none(), st.tuples(st.integers(0, 20), st.sampled_from(["afterok", "afterany", "afternotok"]))
        ),
    ),
    max_size=12,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(JOBS, st.lists(st.booleans(), min_size=1))
def test_every_job_ends_and_no_book_is_wrong(jobs: list[tuple], ends: list[bool]) -> None:  # type: ignore[type-arg]
    books, now, turn = Ledger(4, 1000), 0.0, 0
    for number, (cores, memory, seconds, count, wait) in enumerate(jobs):
        waits = {str(wait[0] % number): wait[1]} if wait and number else {}
        books.add(Job(str(number), cores, memory, seconds, count, None, waits))
    running = books.startable(now)
    books.validate()
    while running:
        now += 1.0
        key = running.pop(turn % len(running))
        books.ended(key, State.COMPLETED if ends[turn % len(ends)] else State.FAILED)
        turn += 1
        running += books.startable(now)
        books.validate()
    assert books.is_idle
    assert all([job.ended for job in books.jobs.values()])
