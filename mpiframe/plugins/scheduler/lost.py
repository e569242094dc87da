"""Jobs that the batch system no longer lists: what they wrote themselves, the accounting, or nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from mpiframe.plugins.scheduler import records
from mpiframe.plugins.scheduler.backends import Backend
from mpiframe.plugins.scheduler.records import Record
from mpiframe.plugins.scheduler.states import JobStatus, State
from mpiframe.plugins.scheduler.tracking import Tracked, settled


def look_for(
    jobs: Mapping[str, Tracked],
    lost: Mapping[str, set[int | None]],
    kept: Mapping[str, Record | None],
    backend: Backend,
    lock: AbstractContextManager[Any],
    now: float,
) -> list[JobStatus]:
    """Bring these jobs up to date, of which these tasks are in no list; what is new. Raises SchedulerDown.

    kept: their records. lock: held while a job's books are changed, not while a command runs.
    """
    changed: list[JobStatus] = []
    own: dict[str, dict[int | None, JobStatus]] = {}
    for number, tasks in lost.items():
        record = kept[number]
        own[number] = records.own_statuses(record, tasks) if record is not None else {}
        with lock:
            changed += jobs[number].update(settled(own[number]))
    ids = [number for number, tasks in lost.items() if tasks & set(jobs[number].open())]
    accounts = backend.accounting(ids) if ids else []
    with lock:
        for number in ids:
            tracked, record = jobs[number], kept[number]
            changed += tracked.update(_as_cancelled(one, record) for one in accounts if one.job == number)
            changed += tracked.update(one for one in own[number].values() if one.ended)
            changed += tracked.update(_never_began(record, lost[number], own[number]))
            changed += tracked.missing(lost[number] & set(tracked.open()), now)
    return changed


def _never_began(
    record: Record | None, tasks: set[int | None], own: Mapping[int | None, JobStatus]
) -> list[JobStatus]:
    """Tasks that were cancelled before they began: no batch system but Slurm keeps a trace of those."""
    if record is None or not record.cancelled:
        return []
    return [JobStatus(record.id, State.CANCELLED, t, name=record.name) for t in tasks if t not in own]


def _as_cancelled(status: JobStatus, record: Record | None) -> JobStatus:
    """Grid Engine tells nobody whose signal ended a job; if we asked for it, it was ours."""
    if record is None or not record.cancelled or status.state is not State.FAILED or not status.signal:
        return status
    return dataclasses.replace(status, state=State.CANCELLED)
