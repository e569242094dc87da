"""The rules of the local queue: which task starts next, and what an end means for those that wait.

No process, no clock, no file: events in, instructions out. Tasks start in the order of submission where
there is room. One that does not fit is passed by those that neither delay it (by their walltime, or
because they leave it room), nor, where walltimes are not known, pass it for ever.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from mpiframe.plugins.scheduler.states import State, whole

PASSES = 100
"""How many tasks may pass one that does not fit, where nobody knows when there will be room."""

Key = tuple[str, int | None]


def _is_met(kind: str, state: State) -> bool:
    """Whether an end is the one that was waited for."""
    return kind == "afterany" or (kind == "afterok") == (state is State.COMPLETED)


@dataclass(slots=True)
class Job:
    """One job: what each of its tasks needs, and what it still waits for (id to kind)."""

    id: str
    cores: int = 1
    memory: int = 0
    seconds: float = math.inf
    count: int | None = None
    limit: int | None = None
    waits: dict[str, str] = field(default_factory=dict)
    states: dict[int | None, State] = field(default_factory=dict)
    running: int = 0
    passed: int = 0

    def __post_init__(self) -> None:
        tasks: list[int | None] = [None] if self.count is None else list(range(self.count))
        first = State.HELD if self.waits else State.PENDING
        self.states = self.states or dict.fromkeys(tasks, first)

    @property
    def state(self) -> State:
        """Of the whole."""
        return whole(self.states.values())

    @property
    def ended(self) -> bool:
        """Whether all tasks have ended."""
        return all([state.ended for state in self.states.values()])


@dataclass(frozen=True, slots=True)
class Dropped:
    """Tasks that will not run, because the job they waited for did not end as it had to."""

    job: str
    waited_for: str


class Ledger:
    """Jobs, and the cores and megabytes that they hold."""

    def __init__(self, cores: int, memory: int) -> None:
        self.cores, self.memory = cores, memory
        self.jobs: dict[str, Job] = {}
        self._ready: dict[Key, Job] = {}
        self._running: dict[Key, float] = {}
        self._waiters: dict[str, list[str]] = {}
        self._used_cores = 0
        self._used_memory = 0

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs, and nothing could."""
        return not self._running and not self._ready

    def refusal(self, job: Job) -> str:
        """Why a job can never run here; "" if it can."""
        if job.cores > self.cores:
            return f"it asks for {job.cores} cores of {self.cores}"
        if job.memory > self.memory:
            return f"it asks for {job.memory} MB of memory of {self.memory}"
        unknown = [number for number in job.waits if number not in self.jobs]
        return f"it waits for a job that there is not: {unknown[0]}" if unknown else ""

    def add(self, job: Job) -> list[Dropped]:
        """Take in a job, whose refusal is "" ."""
        self.jobs[job.id] = job
        dropped = []
        for number, kind in list(job.waits.items()):
            other = self.jobs.get(number)
            if other is not None and not other.ended:
                self._waiters.setdefault(number, []).append(job.id)
            elif other is not None and _is_met(kind, other.state):
                del job.waits[number]
            elif not job.ended:
                dropped.append(Dropped(job.id, number))
        if dropped:
            return [*dropped[:1], *self._drop(job)]
        self._release(job)
        return []

    def startable(self, now: float) -> list[Key]:
        """The tasks to start, in order; each is counted as started."""
        chosen: list[Key] = []
        blocked: Job | None = None
        until, spare_cores, spare_memory = 0.0, 0, 0
        for key, job in self._ready.items():
            cores, memory = self.cores - self._used_cores, self.memory - self._used_memory
            if cores <= 0:
                break
            if job.limit is not None and job.running >= job.limit:
                continue
            fits = job.cores <= cores and job.memory <= memory
            if blocked is None:
                if not fits:
                    blocked = job
                    until, spare_cores, spare_memory = self._reserve(job, now)
                    continue
            else:
                aside = job.cores <= spare_cores and job.memory <= spare_memory
                if not fits or not (now + job.seconds <= until or aside):
                    continue
                if until == math.inf:
                    if blocked.passed >= PASSES:
                        break
                    blocked.passed += 1
                elif now + job.seconds > until:
                    spare_cores -= job.cores
                    spare_memory -= job.memory
            self._count_in(key, job, now)
            chosen.append(key)
        for key in chosen:
            del self._ready[key]
        return chosen

    def adopt(self, key: Key, now: float) -> None:
        """A task that runs already, found again after a restart."""
        self._ready.pop(key, None)
        self._count_in(key, self.jobs[key[0]], now)

    def ended(self, key: Key, state: State) -> list[Dropped]:
        """A task has ended; the jobs that are dropped for it."""
        job = self.jobs[key[0]]
        if key in self._running:
            del self._running[key]
            job.running -= 1
            self._used_cores -= job.cores
            self._used_memory -= job.memory
        self._ready.pop(key, None)
        job.states[key[1]] = state
        return self._propagate(job) if job.ended else []

    def open_tasks(self, number: str) -> Iterator[tuple[Key, bool]]:
        """The tasks of a job that have not ended, and whether each runs."""
        for task, state in list(self.jobs[number].states.items()):
            if not state.ended:
                yield (number, task), (number, task) in self._running

    def validate(self) -> None:
        """Raise AssertionError where the books do not agree."""
        assert self._used_cores == sum(self.jobs[number].cores for number, _ in self._running)
        assert self._used_memory == sum(self.jobs[number].memory for number, _ in self._running)
        assert 0 <= self._used_cores <= self.cores or not self._running
        for (number, task), job in self._ready.items():
            assert job.states[task] is State.PENDING, (number, task)
            assert not job.waits
        for job in self.jobs.values():
            count = sum(1 for number, _ in self._running if number == job.id)
            assert job.running == count
            assert job.limit is None or count <= job.limit

    def _count_in(self, key: Key, job: Job, now: float) -> None:
        self._running[key] = now + job.seconds
        job.running += 1
        job.states[key[1]] = State.RUNNING
        self._used_cores += job.cores
        self._used_memory += job.memory

    def _reserve(self, job: Job, now: float) -> tuple[float, int, int]:
        """When there will be room for a job at the latest, and what will then be left beside it."""
        cores, memory = self.cores - self._used_cores, self.memory - self._used_memory
        for (number, _), end in sorted(self._running.items(), key=lambda item: item[1]):
            cores += self.jobs[number].cores
            memory += self.jobs[number].memory
            if job.cores <= cores and job.memory <= memory:
                return max(end, now), cores - job.cores, memory - job.memory
        return math.inf, 0, 0

    def _release(self, job: Job) -> None:
        if job.waits:
            return
        for task, state in job.states.items():
            if state in (State.HELD, State.PENDING):
                job.states[task] = State.PENDING
                self._ready[job.id, task] = job

    def _propagate(self, job: Job) -> list[Dropped]:
        dropped: list[Dropped] = []
        for number in self._waiters.pop(job.id, ()):
            waiter = self.jobs.get(number)
            if waiter is None or waiter.ended or job.id not in waiter.waits:
                continue
            if _is_met(waiter.waits[job.id], job.state):
                del waiter.waits[job.id]
                self._release(waiter)
            else:
                dropped += [Dropped(number, job.id), *self._drop(waiter)]
        return dropped

    def _drop(self, job: Job) -> list[Dropped]:
        for task, state in job.states.items():
            if not state.ended:
                job.states[task] = State.CANCELLED
        return self._propagate(job)
