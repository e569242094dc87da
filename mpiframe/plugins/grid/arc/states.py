"""States of jobs as the REST interface names them, and what an element says of one job. No I/O."""

from __future__ import annotations

import datetime
import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mpiframe.plugins.grid.arc.errors import JobFailed

_PREFIX = "arcrest:"


class ArcState(str, enum.Enum):
    """One of the states of the REST interface, 1.0 and 1.1; what those do not name is OTHER."""

    ACCEPTING = "ACCEPTING"
    ACCEPTED = "ACCEPTED"
    PREPARING = "PREPARING"
    PREPARED = "PREPARED"
    SUBMITTING = "SUBMITTING"
    QUEUING = "QUEUING"
    RUNNING = "RUNNING"
    HELD = "HELD"
    EXITINGLRMS = "EXITINGLRMS"
    OTHER = "OTHER"
    EXECUTED = "EXECUTED"
    FINISHING = "FINISHING"
    KILLING = "KILLING"
    FINISHED = "FINISHED"
    FAILED = "FAILED"
    KILLED = "KILLED"
    WIPED = "WIPED"

    def __str__(self) -> str:
        return self.value

    @classmethod
    def _missing_(cls, value: object) -> ArcState:  # noqa: ARG003 - how enum calls it
        return cls.OTHER

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to the job."""
        return self in (ArcState.FINISHED, ArcState.FAILED, ArcState.KILLED, ArcState.WIPED)


@dataclass(frozen=True)
class JobInfo:
    """What the element says of a job; None or empty where it does not say.

    Times are in UTC; `wall_seconds` and `cpu_seconds` are what was used, `memory_kib` the most memory;
    `erased_at` is when the element deletes its files; `raw` is the whole document.
    """

    id: str
    state: ArcState
    name: str = ""
    exit_code: int | None = None
    errors: tuple[str, ...] = ()
    queue: str = ""
    owner: str = ""
    hosts: tuple[str, ...] = ()
    slots: int | None = None
    requested_wall_seconds: int | None = None
    wall_seconds: int | None = None
    cpu_seconds: int | None = None
    memory_kib: int | None = None
    submitted_at: datetime.datetime | None = None
    started_at: datetime.datetime | None = None
    ended_at: datetime.datetime | None = None
    erased_at: datetime.datetime | None = None
    raw: Mapping[str, Any] | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to the job."""
        return self.state.ended

    def check(self) -> JobInfo:
        """Itself, if the job ended well. Raises JobFailed with the element's reasons if not, or not yet."""
        if self.state is ArcState.FINISHED and not self.exit_code:
            return self
        said = f"job {self.id} ({self.name or 'no name'}) is {self.state}"
        if self.exit_code is not None:
            said += f", exit code {self.exit_code}"
        if self.errors:
            said += f": {'; '.join(self.errors)}"
        raise JobFailed(said, self.state.value, self.exit_code, self.errors)


def listed(value: Any) -> list[Any]:
    """As a list: version 1.0 writes a list of one as that one, and an empty one not at all."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def read_info(job: str, document: Mapping[str, Any]) -> JobInfo:
    """From the element's `info_document` (GLUE2's ComputingActivity)."""
    found = document.get("ComputingActivity")
    activity: Mapping[str, Any] = found if isinstance(found, Mapping) else {}

    def number(name: str) -> int | None:
        text = str(activity.get(name, ""))
        return int(text) if text.lstrip("-").isdecimal() else None

    def moment(name: str) -> datetime.datetime | None:
        try:
            naive = datetime.datetime.strptime(str(activity.get(name)), "%Y-%m-%dT%H:%M:%SZ")
        except ValueError:
            return None
        return naive.replace(tzinfo=datetime.timezone.utc)

    states = [str(text) for text in listed(activity.get("State"))]
    own = next((text[len(_PREFIX) :] for text in states if text.startswith(_PREFIX)), "OTHER")
    return JobInfo(
        id=job,
        state=ArcState(own),
        name=str(activity.get("Name", "")),
        exit_code=number("ExitCode"),
        errors=tuple(map(str, listed(activity.get("Error")))),
        queue=str(activity.get("Queue", "")),
        owner=str(activity.get("Owner", "")),
        hosts=tuple(map(str, listed(activity.get("ExecutionNode")))),
        slots=number("RequestedSlots"),
        requested_wall_seconds=number("RequestedTotalWallTime"),
        wall_seconds=number("UsedTotalWallTime"),
        cpu_seconds=number("UsedTotalCPUTime"),
        memory_kib=number("UsedMainMemory"),
        submitted_at=moment("SubmissionTime"),
        started_at=moment("StartTime"),
        ended_at=moment("EndTime"),
        erased_at=moment("WorkingAreaEraseTime"),
        raw=activity,
    )
