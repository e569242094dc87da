"""PBS: OpenPBS (PBS Pro) and Torque, whose qsub and qstat differ under the same names.

OpenPBS answers in JSON (`qstat -f -F json`), Torque in XML (`qstat -x`); both in text (`qstat -f`).
Seen: OpenPBS 23.06, Torque 6. The negative exit codes are those of OpenPBS's pbs_job.h.
"""

from __future__ import annotations

import json
import re
import shlex
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mpiframe.plugins.scheduler import units
from mpiframe.plugins.scheduler.drivers import (
    Dependency,
    Driver,
    Submission,
    depend_groups,
    plain_name,
    plain_path,
    single_id,
)
from mpiframe.plugins.scheduler.options import Options, simple_flags
from mpiframe.plugins.scheduler.states import JobStatus, State

_STATES = {
    "Q": State.PENDING, "T": State.PENDING, "M": State.PENDING, "H": State.HELD, "W": State.HELD,
    "R": State.RUNNING, "B": State.RUNNING, "E": State.RUNNING, "S": State.RUNNING, "U": State.RUNNING,
}  # fmt: skip
_FINISHED = ("C", "F", "X")

# OpenPBS: the job was killed for what it used
_KILLED = {-24: State.FAILED, -25: State.FAILED, -26: State.OUT_OF_MEMORY, -27: State.OUT_OF_MEMORY,
           -28: State.TIMEOUT, -29: State.TIMEOUT}  # fmt: skip
_SIGNALLED = 256  # both write 256 + signal
_DELETED = 91  # OpenPBS's substate of a job that qdel ended; its exit status may say 0
_SIGTERM = 15

_ID = re.compile(r"(\d+(?:\[\])?(?:\.[\w.-]+)?)")
_TASK = re.compile(r"(\d+)\[(\d+)\](.*)")


class OpenPbs(Driver):
    """OpenPBS's commands and their outputs."""

    name = "pbs"
    prefix = "#PBS"
    suffix = "qsub"
    index = "${PBS_ARRAY_INDEX-}"
    unknown_id = re.compile(r"Unknown Job Id|nonexistent job id|Job has finished")

    def header(self, job: Submission) -> list[str]:
        """The #PBS lines."""
        lines = [f"-N {plain_name(job.name, 230)}", "-S /bin/bash", "-j oe", f"-o {plain_path(job.log)}"]
        lines += self.resources(job.options)
        if job.options.time is not None:
            lines.append(f"-l walltime={units.clock(job.options.time)}")
        lines += [] if job.options.export else ["-V"]  # the submitter's environment, as with Slurm
        return lines + self.array(job) + simple_flags(job.options, self.name) + list(job.options.extra)

    def resources(self, options: Options) -> list[str]:
        """Chunks of cores and memory, one a node."""
        each = -(-options.processes // options.nodes)
        chunk = [f"{options.nodes}:ncpus={each * options.cores}"]
        if options.tasks or options.mpi or options.mpiframe:
            chunk.append(f"mpiprocs={each}")
        if options.mem is not None:
            chunk.append(f"mem={options.mem}mb")
        chunk += [f"{feature}=True" for feature in options.features]
        return [f"-l {shlex.quote('select=' + ':'.join(chunk))}"]

    def array(self, job: Submission) -> list[str]:
        """OpenPBS refuses an array of one; that is a single job."""
        if job.count is None or job.count == 1:
            return []
        return [f"-J 0-{job.count - 1}" + (f"%{job.limit}" if job.limit else "")]

    def submit_argv(self, script: str, depends: Sequence[Dependency]) -> list[str]:
        """`qsub`."""
        groups = [":".join([kind, *ids]) for kind, ids in depend_groups(depends)]
        return ["qsub", *(["-W", f"depend={','.join(groups)}"] if groups else []), script]

    def parse_submit(self, text: str) -> str:
        """`12.host`, or `14[].host`."""
        return single_id(text, _ID)

    def status_argv(self, ids: Sequence[str] | None, user: str) -> list[str]:  # noqa: ARG002
        """`-x` includes the jobs that have ended, where the server keeps a history; `-t` the tasks."""
        return ["qstat", "-x", "-t", "-f", "-F", "json", *(ids or ())]

    def parse_status(self, text: str) -> list[JobStatus]:
        """The JSON of OpenPBS; its text, where the JSON is broken by what a user's variables hold."""
        try:
            jobs = json.loads(text, strict=False).get("Jobs", {}) if text.strip() else {}
        except ValueError:
            if not text.lstrip().startswith("Job Id:"):
                raise
            return _statuses(parse_text(text))
        return _statuses(jobs.items())

    def accounting_argv(self, ids: Sequence[str]) -> list[str] | None:  # noqa: ARG002
        """None: the history is in `qstat -x`."""
        return None

    def parse_accounting(self, text: str) -> list[JobStatus]:
        """As the status."""
        return self.parse_status(text)

    def cancel_argv(self, ids: Sequence[str]) -> list[str]:
        """`qdel`."""
        return ["qdel", *ids]


class Torque(OpenPbs):
    """Torque's dialect of PBS."""

    name = "torque"
    index = "${PBS_ARRAYID-}"

    def resources(self, options: Options) -> list[str]:
        """Nodes with so many processors each."""
        each = -(-options.processes // options.nodes)
        words = [f"nodes={options.nodes}", f"ppn={each * options.cores}", *options.features]
        lines = [f"-l {shlex.quote(':'.join(words))}"]
        return [*lines, f"-l mem={options.mem * options.nodes}mb"] if options.mem is not None else lines

    def array(self, job: Submission) -> list[str]:
        """Torque's arrays are asked for by another letter."""
        if job.count is None or job.count == 1:
            return []
        return [f"-t 0-{job.count - 1}" + (f"%{job.limit}" if job.limit else "")]

    def submit_argv(self, script: str, depends: Sequence[Dependency]) -> list[str]:
        """Waiting for an array has words of its own."""
        named = [(f"{one.kind}array" if "[" in one.job else one.kind, one.job) for one in depends]
        groups: dict[str, list[str]] = {}
        for kind, job in named:
            groups.setdefault(kind, []).append(job)
        text = ",".join(":".join([kind, *ids]) for kind, ids in groups.items())
        return ["qsub", *(["-W", f"depend={text}"] if text else []), script]

    def status_argv(self, ids: Sequence[str] | None, user: str) -> list[str]:  # noqa: ARG002
        """`-x` means XML here."""
        return ["qstat", "-x", "-t", *(ids or ())]

    def parse_status(self, text: str) -> list[JobStatus]:
        """Torque's XML, or its text."""
        if text.lstrip().startswith("Job Id:"):
            return _statuses(parse_text(text))
        if not text.strip():
            return []
        try:
            root = ElementTree.fromstring(text)
        except ElementTree.ParseError as error:
            raise ValueError(f"cannot read what qstat -x printed: {error}") from error
        return _statuses((job.findtext("Job_Id", ""), _element(job)) for job in root.iter("Job"))


def parse_text(text: str) -> list[tuple[str, dict[str, Any]]]:
    """The jobs of `qstat -f` as text: (id, attributes), lines that were broken joined again.

    Attributes are indented by blanks, and what goes on by a tab; Slurm's imitation indents all by a tab.
    """
    jobs: list[tuple[str, dict[str, Any]]] = []
    last, is_slurm_s = "", False
    for line in text.splitlines():
        if line.startswith("Job Id:"):
            jobs.append((line.partition(":")[2].strip(), {}))
            last, is_slurm_s = "", False
        elif line.startswith("\t") and last and not is_slurm_s:
            jobs[-1][1][last] += line[1:]
        elif " = " in line and jobs:
            is_slurm_s = line.startswith("\t")
            last, _, value = line.strip().partition(" = ")
            jobs[-1][1][last] = value
    return jobs


def _element(job: ElementTree.Element) -> dict[str, Any]:
    return {
        child.tag: {inner.tag: inner.text or "" for inner in child} if len(child) else child.text or ""
        for child in job
    }


def _statuses(jobs: Iterable[tuple[str, Mapping[str, Any]]]) -> list[JobStatus]:
    return [_status(number, attributes) for number, attributes in jobs]


def _status(number: str, job: Mapping[str, Any]) -> JobStatus:
    letter = str(job.get("job_state", ""))
    name, task = number, None
    if match := _TASK.fullmatch(number):
        name, task = f"{match[1]}[]{match[3]}", int(match[2])
    state, code, signal, reason = State.UNKNOWN, None, None, str(job.get("comment", ""))
    if letter in _FINISHED:
        state, code, signal = _end(job)
    else:
        state = _STATES.get(letter, State.UNKNOWN)
    cores = _sub(job, "Resource_List", "ncpus")
    return JobStatus(
        name,
        state,
        task,
        code,
        signal,
        reason,
        host=str(job.get("exec_host", "")),
        name=str(job.get("Job_Name", "")),
        user=str(job.get("Job_Owner", "")).partition("@")[0],
        queue=str(job.get("queue", "")),
        cores=int(cores) if cores.isdigit() else None,
    )


def _end(job: Mapping[str, Any]) -> tuple[State, int | None, int | None]:
    text = str(job.get("Exit_status", job.get("exit_status", "")))
    if "deleted as result of dependency" in str(job.get("comment", "")):
        return State.CANCELLED, None, None
    if str(job.get("substate", "")) == str(_DELETED):
        return State.CANCELLED, None, None
    if not re.fullmatch(r"-?\d+", text):
        # An array's own line has no status in Torque; for a job of OpenPBS it means that it never ran.
        torque_array = "array" not in job and str(job.get("job_state")) == "C"
        return (State.UNKNOWN if torque_array else State.CANCELLED), None, None
    status = int(text)
    if status < 0:
        return _KILLED.get(status, State.FAILED), None, None
    if status >= _SIGNALLED:
        signal = status - _SIGNALLED
        if signal == _SIGTERM:
            # What qdel and what a walltime that is over send; the time tells which.
            return (State.TIMEOUT if _time_was_up(job) else State.CANCELLED), None, signal
        return State.FAILED, None, signal
    return (State.COMPLETED if status == 0 else State.FAILED), status, None


def _time_was_up(job: Mapping[str, Any]) -> bool:
    used, allowed = _sub(job, "resources_used", "walltime"), _sub(job, "Resource_List", "walltime")
    return bool(used and allowed) and units.seconds(f"0-{used}") >= units.seconds(f"0-{allowed}")


def _sub(job: Mapping[str, Any], group: str, name: str) -> str:
    """An inner attribute: a dictionary in JSON and XML, a dotted name in text."""
    inner = job.get(group)
    return str(inner.get(name, "") if isinstance(inner, dict) else job.get(f"{group}.{name}", ""))
