"""Which jobs a job waits for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mpiframe.plugins.scheduler.drivers import KINDS, Dependency, Kind
from mpiframe.plugins.scheduler.errors import OptionError
from mpiframe.plugins.scheduler.queue import Queue, ids_of


@dataclass(frozen=True, slots=True)
class Wait:
    """Jobs with what is wanted of their ends."""

    kind: Kind
    jobs: tuple[Any, ...]


def afterok(*jobs: Any) -> Wait:
    """Wait until these jobs completed; the same as giving them as they are."""
    return Wait("afterok", jobs)


def afterany(*jobs: Any) -> Wait:
    """Wait until these jobs ended, however."""
    return Wait("afterany", jobs)


def afternotok(*jobs: Any) -> Wait:
    """Wait until these jobs ended otherwise than well."""
    return Wait("afternotok", jobs)


def resolve(wanted: Iterable[Any], queue: Queue) -> tuple[Dependency, ...]:
    """What to tell the batch system. Raises OptionError for a job that there is not."""
    found = []
    for one in wanted:
        wait = one if isinstance(one, Wait) else _read(one)
        for number in ids_of(wait.jobs):
            dependency = queue.dependency(number, wait.kind)
            if dependency is not None:
                found.append(dependency)
    return tuple(found)


def _read(one: Any) -> Wait:
    """A job, an id, or text as `afterany:12`."""
    if isinstance(one, str):
        kind, _, rest = one.partition(":")
        for known in KINDS:
            if kind == known and rest:
                return Wait(known, tuple(rest.split(":")))
        if not one or ":" in one:
            raise OptionError(f"dependency {one!r} has to be a job, its id, or {', '.join(KINDS)} with ids")
    return Wait("afterok", (one,))
