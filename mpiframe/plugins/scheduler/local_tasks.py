"""The jobs of the local queue as processes: started, timed, ended, and found again after a restart.

Each task is a session of its own. Its end is an event on a pidfd; nothing is asked twice.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import signal
import subprocess
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

from mpiframe.plugins.scheduler import files
from mpiframe.plugins.scheduler.local_journal import KEPT_JOBS, Journal, process_start
from mpiframe.plugins.scheduler.local_memory import MemoryGroups
from mpiframe.plugins.scheduler.local_rules import Dropped, Job, Key, Ledger
from mpiframe.plugins.scheduler.states import State

KILL_SECONDS = 5.0
"""How long a job that is to end has from SIGTERM to SIGKILL."""
_UNSEEN = "it ended unseen, while no queue ran"
_INDEX = "MPIFRAME_ARRAY_INDEX"
_GATE = 'read -r go && exec /bin/bash "$0" </dev/null'
"""For scripts that are not ours; those have `Local.gate`, which costs no program."""


class Running:
    """A process of a task. It is ours, or one of a queue before this one (`process` is None)."""

    def __init__(self, key: Key, pid: int, process: subprocess.Popen[bytes] | None) -> None:
        self.key, self.pid, self.process = key, pid, process
        self.pidfd = os.pidfd_open(pid)
        self.fate: State | None = None

    def signal(self, number: int) -> None:
        """To all processes of its group. The leader is not reaped yet, so its number is its own."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)


class LocalTasks:
    """All jobs of one queue. `watch` and `unwatch` are told which pidfds matter.

    `sequence` grows with every change of a status; `commit` has to be called before anybody is told.
    """

    def __init__(
        self,
        folder: str,
        cores: int,
        memory: int,
        watch: Callable[[int, Running], object],
        unwatch: Callable[[int], object],
    ) -> None:
        self.sequence = 0
        self._ledger = Ledger(cores, memory)
        self._specs: dict[str, dict[str, Any]] = {}
        self._by_key: dict[str, str] = {}
        self._envs: dict[str, dict[str, str]] = {}
        self._status: OrderedDict[Key, dict[str, Any]] = OrderedDict()  # in the order of the last change
        self._numbers = itertools.count(1)
        self._running: dict[Key, Running] = {}
        self._timers: dict[Key, tuple[float, int]] = {}
        self._journal = Journal(os.path.join(folder, "journal"))
        self._gates: list[int] = []  # of tasks that have been started, and wait to be on file
        self._memory = MemoryGroups(folder)
        self._watch, self._unwatch = watch, unwatch

    # -- what is asked ---------------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs, and nothing could."""
        return self._ledger.is_idle

    @property
    def due(self) -> float:
        """When `run_timers` has to be called, on the monotonic clock."""
        return min((when for when, _ in self._timers.values()), default=math.inf)

    def commit(self) -> None:
        """Have all that happened on file; then the tasks begin that were started."""
        self._journal.commit()
        while self._gates:
            gate = self._gates.pop()
            with contextlib.suppress(BrokenPipeError):  # it was ended meanwhile
                os.write(gate, b"\n")
            os.close(gate)

    def limits(self, cores: int, memory: int) -> dict[str, int]:
        """Change what all jobs may use together; 0 leaves it."""
        self._ledger.cores = cores or self._ledger.cores
        self._ledger.memory = memory or self._ledger.memory
        return {"cores": self._ledger.cores, "memory": self._ledger.memory}

    def everything(self) -> list[dict[str, Any]]:
        """The status of every task that is still remembered."""
        return list(self._status.values())

    def statuses(self, ids: list[str]) -> tuple[list[dict[str, Any]], list[str]]:
        """(the statuses of all tasks of these jobs, those of the ids that are unknown)."""
        jobs = self._ledger.jobs
        known = [
            self._status[number, task] for number in ids if number in jobs for task in jobs[number].states
        ]
        return known, [number for number in ids if number not in jobs]

    def changes(self, since: int) -> list[dict[str, Any]]:
        """The statuses that changed after this sequence number, in order."""
        late = itertools.takewhile(lambda one: one["seq"] > since, reversed(self._status.values()))
        return list(late)[::-1]

    def submit(self, spec: dict[str, Any], values: dict[str, str] | None) -> dict[str, Any]:
        """Take in a job; {"id"}, {"refused"}, or {"wants": "env"} for variables that were never sent."""
        if spec["key"] in self._by_key:  # asked again, after a connection that broke
            return {"id": self._by_key[spec["key"]]}
        if spec["env"] not in self._envs:
            if values is None:
                return {"wants": "env"}
            self._envs[spec["env"]] = values
            self._journal.add(env=spec["env"], values=values)
        number = str(next(self._numbers))
        job = self._add(number, spec)
        if refusal := self._ledger.refusal(job):
            del self._specs[number], self._by_key[spec["key"]]
            return {"refused": refusal}
        self._journal.add(submit=number, spec=spec)
        for task in job.states:
            self._change((number, task), job.states[task])
        self._drop(self._ledger.add(job))
        return {"id": number}

    def cancel(self, ids: list[str]) -> dict[str, Any]:
        """End jobs."""
        for number in ids:
            if number not in self._ledger.jobs:
                continue
            for key, runs in self._ledger.open_tasks(number):
                if runs and key in self._running:
                    self._stop_task(self._running[key], signal.SIGTERM, State.CANCELLED)
                elif not runs and not State(self._status[key]["state"]).ended:
                    self._end(key, State.CANCELLED, None, None, "")
        return {"seq": self.sequence}

    # -- jobs ------------------------------------------------------------------------------------

    def _add(self, number: str, spec: dict[str, Any]) -> Job:
        self._specs[number], self._by_key[spec["key"]] = spec, number
        return Job(
            number,
            spec["cores"],
            spec["memory"],
            spec["seconds"] or math.inf,
            spec["count"],
            spec["limit"],
            {one["job"]: one["kind"] for one in spec["depends"]},
        )

    def start_tasks(self) -> None:
        """Start what there is room for. Nothing of it runs before `commit`, and never if we are killed."""
        while started := self._ledger.startable(time.time()):
            for key in started:
                self._start(key)

    def _start(self, key: Key) -> None:
        number, task = key
        spec = self._specs[number]
        env = {**self._envs[spec["env"]], _INDEX: "" if task is None else str(task)}
        shell = ["/bin/bash"] if spec.get("gated") else ["/bin/sh", "-c", _GATE]
        gate = -1
        try:
            waits, gate = os.pipe()
            with (
                open(waits, "rb") as stdin,
                _output(files.of_task(spec["out"], task)) as out,
                _output(files.of_task(spec["err"], task)) as err,
            ):
                process = subprocess.Popen(
                    self._memory.argv(_label(key), spec["memory"], [*shell, spec["script"]]),
                    cwd=spec["folder"],
                    env=env,
                    stdin=stdin,
                    stdout=out,
                    stderr=err,
                    start_new_session=True,
                )
        except OSError as error:
            if gate >= 0:
                os.close(gate)
            self._end(key, State.FAILED, None, None, f"it could not be started: {error}")
            return
        self._gates.append(gate)
        self._take_up(Running(key, process.pid, process), time.time())
        self._journal.add(
            start=number, task=task, pid=process.pid, born=process_start(process.pid), at=time.time()
        )

    def _take_up(self, running: Running, since: float) -> None:
        key = running.key
        self._running[key] = running
        self._watch(running.pidfd, running)
        seconds = self._specs[key[0]]["seconds"]
        if seconds:
            self._timers[key] = (time.monotonic() + max(0.0, since + seconds - time.time()), signal.SIGTERM)
        self._change(key, State.RUNNING)

    def finished(self, running: Running) -> None:
        """A process has ended."""
        key = running.key
        self._unwatch(running.pidfd)
        os.close(running.pidfd)
        code: int | None = None
        if running.process is not None:
            running.signal(signal.SIGKILL)  # what it left behind ends with it, as on any batch system
            code = running.process.wait()
        else:
            words = files.read_text(self._end_file(key)).split("\n")[-2:-1]
            if words and words[0].startswith("exit "):
                code = int(words[0].split()[1])
        del self._running[key]
        self._timers.pop(key, None)
        fate = running.fate or self._out_of_memory(key, code)
        if code is None:
            self._end(key, fate or State.UNKNOWN, None, None, _UNSEEN)
        elif code < 0:
            self._end(key, fate or State.FAILED, None, -code, "")
        else:
            self._end(key, fate or (State.COMPLETED if code == 0 else State.FAILED), code, None, "")

    def _out_of_memory(self, key: Key, code: int | None) -> State | None:
        """Whether that is why a task did not end well. Its cgroup is taken away."""
        if not self._specs[key[0]]["memory"]:
            return None
        ran_out = code != 0 and self._memory.ran_out(_label(key))
        self._memory.remove(_label(key))
        return State.OUT_OF_MEMORY if ran_out else None

    def _end_file(self, key: Key) -> str:
        stem = self._specs[key[0]]["script"].removesuffix(".job")
        return files.of_task(f"{stem}.end", key[1])

    def _end(self, key: Key, state: State, code: int | None, sign: int | None, reason: str) -> None:
        if state is State.UNKNOWN:
            state = State.FAILED  # it is over, and nothing says that it went well
        self._change(key, state, code, sign, reason)
        self._journal.add(end=key[0], task=key[1], status=self._status[key])
        self._drop(self._ledger.ended(key, state))

    def _drop(self, dropped: list[Dropped]) -> None:
        for one in dropped:
            reason = f"job {one.waited_for}, for which it waited, did not end as it had to"
            for task in self._ledger.jobs[one.job].states:
                key = (one.job, task)
                if not State(self._status[key]["state"]).ended:
                    self._change(key, State.CANCELLED, reason=reason)
                    self._journal.add(end=one.job, task=task, status=self._status[key])

    def _change(
        self, key: Key, state: State, code: int | None = None, sign: int | None = None, reason: str = ""
    ) -> None:
        self.sequence += 1
        spec = self._specs[key[0]]
        self._status[key] = {
            "job": key[0], "task": key[1], "state": state.value, "exit_code": code, "signal": sign,
            "reason": reason, "name": spec["name"], "cores": spec["cores"], "seq": self.sequence,
        }  # fmt: skip
        self._status.move_to_end(key)

    def run_timers(self) -> None:
        """End what has run for too long, by force what did not end then."""
        now = time.monotonic()
        for key, (when, number) in list(self._timers.items()):
            if when <= now:
                self._stop_task(self._running[key], number, State.TIMEOUT)

    def _stop_task(self, running: Running, number: int, fate: State) -> None:
        running.fate = running.fate or fate
        running.signal(number)
        self._timers[running.key] = (
            (time.monotonic() + KILL_SECONDS if number == signal.SIGTERM else math.inf),
            signal.SIGKILL,
        )

    # -- after a restart -------------------------------------------------------------------------

    def recover(self) -> None:
        """Read the journal, take up what still runs. Raises OSError."""
        submitted: dict[str, dict[str, Any]] = {}
        started: dict[Key, dict[str, Any]] = {}
        ended: dict[Key, dict[str, Any]] = {}
        envs: dict[str, dict[str, str]] = {}
        for event in self._journal.read():
            if "env" in event:
                envs[event["env"]] = event["values"]
            elif "submit" in event:
                submitted[event["submit"]] = event["spec"]
            elif "start" in event:
                started[event["start"], event["task"]] = event
            elif "end" in event:
                ended[event["end"], event["task"]] = event["status"]
        last = max((int(number) for number in submitted), default=0)
        self._numbers = itertools.count(last + 1)
        self._forget_old(submitted, ended)
        self._envs = {
            name: values for name, values in envs.items() if name in {s["env"] for s in submitted.values()}
        }
        events: list[dict[str, Any]] = [
            {"env": name, "values": values} for name, values in self._envs.items()
        ]
        for number, spec in submitted.items():
            events.append({"submit": number, "spec": spec})
            job = self._add(number, spec)
            for task in job.states:
                key = (number, task)
                if key in ended:
                    job.states[task] = State(ended[key]["state"])
                    self.sequence += 1
                    self._status[key] = {**ended[key], "seq": self.sequence}
                    events.append({"end": number, "task": task, "status": ended[key]})
                elif key in started:
                    job.states[task] = State.RUNNING
                    events.append(started[key])
                else:
                    self._change(key, job.states[task])
            self._drop(self._ledger.add(job))
        self._journal.restart(events)
        for key, event in started.items():
            if key not in ended and key[0] in submitted:
                self._find_again(key, event)
        self._journal.commit()

    def _find_again(self, key: Key, event: dict[str, Any]) -> None:
        self._ledger.adopt(key, event["at"])
        if event["born"] and process_start(event["pid"]) == event["born"]:
            with contextlib.suppress(ProcessLookupError):
                self._take_up(Running(key, event["pid"], None), event["at"])
                return
        self._change(key, State.RUNNING)
        words = files.read_text(self._end_file(key)).split("\n")[-2:-1]
        code = int(words[0].split()[1]) if words and words[0].startswith("exit ") else None
        state = self._out_of_memory(key, code) or (State.COMPLETED if code == 0 else State.FAILED)
        self._end(key, state, code, None, "" if code is not None else _UNSEEN)

    @staticmethod
    def _forget_old(submitted: dict[str, dict[str, Any]], ended: dict[Key, dict[str, Any]]) -> None:
        needed = {one["job"] for spec in submitted.values() for one in spec["depends"]}
        over = [
            number
            for number, spec in submitted.items()
            if all(
                [
                    (number, task) in ended
                    for task in ([None] if spec["count"] is None else range(spec["count"]))
                ]
            )
        ]
        for number in over[: max(0, len(over) - KEPT_JOBS)]:
            if number not in needed:
                del submitted[number]


def _label(key: Key) -> str:
    """A task's name in the names of files."""
    return key[0] if key[1] is None else f"{key[0]}.{key[1]}"


@contextlib.contextmanager
def _output(path: str) -> Iterator[int]:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
