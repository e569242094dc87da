"""How a job is made to end: it is asked, then signalled, then killed; and looked for on every host.

1. A DifxStop for rank 0 goes to the group. mpifxcorr ends by itself then, and keeps the data so far. A job
   that answers gets the time for that; one that is stuck says nothing.
2. SIGTERM, to mpirun and to the job's processes on all hosts.
3. SIGKILL, to the same, and a look at what is left, again and again until nothing is or the time is over.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from mpiframe.plugins.difx.hosts import HostState, JobHosts
from mpiframe.plugins.difx.job_events import StopReport

_LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class Patience:
    """How long each means is given, in seconds: a stuck job is gone after about three.

    answer: for the job to say that it ends, once it was asked; graceful: for one that said so to end;
    signalled: from SIGTERM to SIGKILL; killed: for all that follows.
    """

    answer: float = 1.0
    graceful: float = 30.0
    signalled: float = 0.7
    killed: float = 2.5

    def __post_init__(self) -> None:
        if not all(
            0 <= one < float("inf") for one in (self.answer, self.graceful, self.signalled, self.killed)
        ):
            raise ValueError(f"seconds of patience have to be 0 or more: {self}")


@dataclass(frozen=True)
class Stoppable:
    """A job as `stop` sees it. Each wait returns whether it has ended.

    ask: sends the message; answered: waits until the job says that it ends; ended: waits for mpirun's end;
    signal: sends a signal to mpirun and to what it started on this host. hosts: where the job may be.
    watched: whether `ended` sees the end of mpirun itself, and not only what the job says of it.
    """

    input: str
    ask: Callable[[], object]
    answered: Callable[[float], bool]
    ended: Callable[[float], bool]
    signal: Callable[[int], int]
    hosts: JobHosts
    watched: bool = True


def stop(job: Stoppable, patience: Patience) -> StopReport:
    """End a job; takes no longer than the patience allows for."""
    begun = time.monotonic()
    how = "message"
    job.ask()
    done = False
    if job.answered(patience.answer):
        done = job.ended(patience.graceful)
    if not (done or job.ended(0)):
        how = "signal"
        there = threading.Thread(
            target=job.hosts.signal, args=(signal.SIGTERM, patience.signalled), daemon=True
        )
        there.start()
        job.signal(signal.SIGTERM)
        done = job.ended(patience.signalled)
        there.join()
    deadline = time.monotonic() + patience.killed
    states: list[HostState] = []
    if done or not job.watched or job.ended(0):
        states = job.hosts.look(patience.killed)
    while not (gone := _is_gone(job, states)) and (left := deadline - time.monotonic()) > 0:
        how = "kill"
        job.signal(signal.SIGKILL)
        job.hosts.signal(signal.SIGKILL, left)
        if job.watched:
            job.ended(max(0.0, deadline - time.monotonic()))
        states = job.hosts.look(max(_LOOK_SECONDS, deadline - time.monotonic()))
    return StopReport(job.input, gone, how, time.monotonic() - begun, tuple(states))


def _is_gone(job: Stoppable, states: list[HostState]) -> bool:
    return bool(states) and all(one.gone for one in states) and (job.ended(0) or not job.watched)
