"""What a job and the making of its files say while they go on: steps, events, results.

The numbers of the steps are guiServer's, so that what speaks its protocol can pass them on.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from mpiframe.errors import MpiframeError
from mpiframe.plugins.difx.hosts import HostState
from mpiframe.plugins.difx.messages_bodies import Status


class JobError(MpiframeError):
    """A job cannot be started, found or stopped; the text says why and what to do."""


class JobStep(enum.IntEnum):
    """A step of a job. STATUS, which guiServer does not have, comes with a `Status`."""

    STATUS = 0
    TERMINATED = 100
    ENDED = 101
    STARTED = 102
    CHECKING = 103
    CHECKED = 104
    NO_MANAGER = 105
    NO_DATASTREAMS = 106
    NO_CORES = 107
    NO_INPUT = 108
    INPUT_NOT_FOUND = 109
    OUTPUT_EXISTS = 111
    DELETING_OUTPUT = 112
    RUNNING = 113
    MESSAGE = 114
    WARNING = 115
    ERROR = 116
    COMPLETE = 117
    FAILED = 119
    ENDED_WITH_ERRORS = 120
    BAD_CONFIGURATION = 124
    CONFIGURATION_PASSED = 125
    NO_CHECKER = 126
    CHECKING_CONFIGURATION = 127
    STOPPED_AFTER_CHECK = 128


class MachinesStep(enum.IntEnum):
    """A step of the definition of machines."""

    TERMINATED = 100
    ENDED = 101
    STARTED = 102
    CHECKING = 103
    CHECKED = 104
    NO_MANAGER = 105
    NO_DATASTREAMS = 106
    NO_CORES = 107
    NO_MACHINES_FILE = 108
    NO_THREADS_FILE = 109
    THREADS_FILE = 110
    MACHINES_FILE = 111
    MACHINES_NOT_WRITTEN = 113
    THREADS_NOT_WRITTEN = 114
    MACHINES_WRITTEN = 115
    THREADS_WRITTEN = 116
    NODE_FAILED = 119
    NODE_WORKS = 120
    FEW_THREADS = 121
    TESTING_NODES = 122


@dataclass(frozen=True)
class JobEvent:
    """News of a run. input: of the job; text: for people; status: with STATUS, as the job sent it."""

    run: int
    input: str
    step: JobStep
    text: str = ""
    status: Status | None = None

    @property
    def progress(self) -> float | None:
        """How much is done, 0 to 1; None where this news does not tell."""
        return self.status.progress if self.status is not None else None


class Outcome(str, enum.Enum):
    """How a run ended. CHECKED: its configuration was good, and no more was asked for."""

    DONE = "done"
    FAILED = "failed"
    TERMINATED = "terminated"
    REFUSED = "refused"
    CHECKED = "checked"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class JobResult:
    """The end of a run. text: why, for people; code: mpirun's exit status, None if it was not run.

    state: the last one that the job told ("" for none); progress: 0 to 1, None if it told nothing;
    errors: how many alerts of severity ERROR or worse there were; log: the last lines on stderr.
    """

    run: int
    input: str
    outcome: Outcome
    text: str
    code: int | None = None
    state: str = ""
    progress: float | None = None
    errors: int = 0
    seconds: float = 0.0
    log: tuple[str, ...] = ()


@dataclass(frozen=True)
class StopReport:
    """What stopping a job took. gone: nothing of it is left, which was seen on all hosts.

    how: "message", "signal" or "kill", the last means that was needed, or "nothing" where nothing ran.
    """

    input: str
    gone: bool
    how: str
    seconds: float
    hosts: tuple[HostState, ...] = field(default=())

    def __str__(self) -> str:
        what = "gone" if self.gone else "NOT gone"
        return f"{self.input}: {what} after {self.seconds:.1f} s ({self.how}); " + ", ".join(
            map(str, self.hosts)
        )
