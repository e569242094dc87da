"""The states of a job, the same for every batch system."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass


class State(str, enum.Enum):
    """Where a job is. `held` waits for something other than room: a dependency, a user's hold, a time."""

    PENDING = "pending"
    HELD = "held"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out_of_memory"
    NODE_FAILURE = "node_failure"
    UNKNOWN = "unknown"

    def __str__(self) -> str:
        return self.value

    @property
    def ended(self) -> bool:
        """Whether the job will not change any more. An unknown state is not an end."""
        return self in _ENDED


_ENDED = frozenset({
    State.COMPLETED, State.FAILED, State.CANCELLED, State.TIMEOUT, State.OUT_OF_MEMORY, State.NODE_FAILURE,
})  # fmt: skip

# Of the tasks of an array, the first of these that any task has is the state of the whole.
_WHOLE = (
    State.RUNNING,
    State.PENDING,
    State.HELD,
    State.UNKNOWN,
    State.NODE_FAILURE,
    State.OUT_OF_MEMORY,
    State.TIMEOUT,
    State.FAILED,
    State.CANCELLED,
    State.COMPLETED,
)


@dataclass(frozen=True, slots=True)
class JobStatus:
    """What is known of one job, or of one task of an array.

    job: the id that the submission gave. task: index in the array, from 0; None for a job without.
    exit_code: 0 to 255, None where it is not known or a signal ended the job. signal: that signal.
    reason: the batch system's words, "" where it has none.
    """

    job: str
    state: State
    task: int | None = None
    exit_code: int | None = None
    signal: int | None = None
    reason: str = ""
    host: str = ""
    name: str = ""
    user: str = ""
    queue: str = ""
    cores: int | None = None

    @property
    def ended(self) -> bool:
        """Whether the job will not change any more."""
        return self.state.ended

    @property
    def words(self) -> str:
        """How it is, in words: `failed, exit code 3`."""
        signal = f", by signal {self.signal}" if self.signal else ""
        code = f", exit code {self.exit_code}" if self.exit_code is not None else ""
        reason = f" ({self.reason})" if self.reason else ""
        return f"{self.state}{code}{signal}{reason}"


def whole(states: Iterable[State]) -> State:
    """The state of an array with tasks in these states; UNKNOWN without any."""
    there = set(states)
    return next((state for state in _WHOLE if state in there), State.UNKNOWN)


def from_wait_status(raw: int) -> tuple[int | None, int | None]:
    """(exit code, signal) of a status as `wait` gives it: Slurm shows exit 3 as 768."""
    return (None, raw & 0x7F) if raw & 0x7F else (raw >> 8 & 0xFF, None)
