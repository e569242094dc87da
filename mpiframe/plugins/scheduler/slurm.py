"""Slurm: sbatch, squeue, sacct, scancel. Formats as of Slurm 22.05; the fields are those of 17 and later."""

from __future__ import annotations

import re
from collections.abc import Sequence
from signal import SIGKILL

from mpiframe.plugins.scheduler import units
from mpiframe.plugins.scheduler.drivers import (
    Dependency,
    Driver,
    Submission,
    depend_groups,
    option_line,
    single_id,
)
from mpiframe.plugins.scheduler.options import simple_flags
from mpiframe.plugins.scheduler.states import JobStatus, State, from_wait_status

_STATES = {
    "PENDING": State.PENDING, "CONFIGURING": State.PENDING, "REQUEUED": State.PENDING,
    "REQUEUE_FED": State.PENDING, "REQUEUE_HOLD": State.HELD, "RESV_DEL_HOLD": State.HELD,
    "SPECIAL_EXIT": State.HELD,
    "RUNNING": State.RUNNING, "COMPLETING": State.RUNNING, "SUSPENDED": State.RUNNING,
    "STOPPED": State.RUNNING, "SIGNALING": State.RUNNING, "STAGE_OUT": State.RUNNING,
    "RESIZING": State.RUNNING,
    "COMPLETED": State.COMPLETED, "FAILED": State.FAILED, "CANCELLED": State.CANCELLED,
    "PREEMPTED": State.CANCELLED, "REVOKED": State.CANCELLED, "TIMEOUT": State.TIMEOUT,
    "DEADLINE": State.TIMEOUT, "OUT_OF_MEMORY": State.OUT_OF_MEMORY,
    "NODE_FAIL": State.NODE_FAILURE, "BOOT_FAIL": State.NODE_FAILURE,
}  # fmt: skip

_HOLDS = ("Dependency", "JobHeld", "BeginTime")

# A separator of our own after each field: their own columns cut what is long, and split names at blanks.
_COLUMNS = "JobArrayID,State,exit_code,Reason,NodeList,UserName,Partition,NumCPUs,Name"
_FIELDS = _COLUMNS.split(",")
_SEPARATOR = "|"
_ACCOUNT_FIELDS = "JobID,State,ExitCode,Reason,NodeList,User,Partition,NCPUS,JobName"

_OUT_OF_MEMORY_SIGNAL = 125  # which is none: the kernel's killer sends SIGKILL

_ID = re.compile(r"(\d+)(?:;[\w.-]+)?")
_TASK = re.compile(r"(\d+)_(\d+)")
_TASKS = re.compile(r"(\d+)_\[([\d,:-]+)(?:%\d+)?\]")


class Slurm(Driver):
    """Slurm's commands and their outputs."""

    name = "slurm"
    prefix = "#SBATCH"
    suffix = "sbatch"
    index = "${SLURM_ARRAY_TASK_ID-}"
    redirects = False
    unknown_id = re.compile(r"Invalid job id specified")

    def header(self, job: Submission) -> list[str]:
        """The #SBATCH lines."""
        options = job.options
        task = "" if job.count is None else ".%a"
        lines = [
            option_line("job-name", job.name),
            option_line("chdir", job.folder),
            option_line("output", job.out.replace("%", "%%") + task),
            option_line("error", job.err.replace("%", "%%") + task),
            option_line("ntasks", options.processes),
            option_line("cpus-per-task", options.cores),
        ]
        if options.nodes > 1:
            lines.append(option_line("nodes", options.nodes))
        if options.mem is not None:
            lines.append(option_line("mem", f"{options.mem}M"))
        if options.time is not None:
            lines.append(option_line("time", units.clock(options.time)))
        if job.count is not None:
            limit = f"%{job.limit}" if job.limit else ""
            lines.append(option_line("array", f"0-{job.count - 1}{limit}"))
        lines += simple_flags(options, self.name)
        # A shell's quotes protect a backslash; Slurm's do not.
        return [line.replace("\\", "\\\\") for line in lines] + list(options.extra)

    def submit_argv(self, script: str, depends: Sequence[Dependency]) -> list[str]:
        """`sbatch`, told to end the job where a dependency failed: by default it would wait for ever."""
        groups = [":".join([kind, *ids]) for kind, ids in depend_groups(depends)]
        waits = [f"--dependency={','.join(groups)}", "--kill-on-invalid-dep=yes"] if groups else []
        return ["sbatch", "--parsable", *waits, script]

    def parse_submit(self, text: str) -> str:
        """`123`, or `123;cluster`."""
        return single_id(text, _ID)

    def status_argv(self, ids: Sequence[str] | None, user: str) -> list[str]:
        """One `squeue`, with the jobs that ended in the last minutes (MinJobAge), too."""
        fields = ",".join(f"{field}:{_SEPARATOR}" for field in _FIELDS)
        which = ["-u", user] if ids is None else ["-j", ",".join(ids)]
        return ["squeue", "-h", "-r", "-t", "all", *which, "-O", fields]

    def parse_status(self, text: str) -> list[JobStatus]:
        """Lines of `_FIELDS`."""
        found = []
        for line in text.splitlines():
            parts = line.split(_SEPARATOR, len(_FIELDS) - 1)
            if len(parts) != len(_FIELDS) or not parts[2].strip().isdigit():
                raise ValueError(f"cannot read this line of squeue: {line!r}")
            number, state, raw, *rest = (part.strip() for part in parts)
            rest[-1] = rest[-1].removesuffix(_SEPARATOR)
            found += _statuses(number, state, *from_wait_status(int(raw)), rest)
        return found

    def accounting_argv(self, ids: Sequence[str]) -> list[str]:
        """`sacct`, which tells of jobs of any age where the site keeps a database."""
        return ["sacct", "-n", "-P", "-X", "-j", ",".join(ids), "-o", _ACCOUNT_FIELDS]

    def parse_accounting(self, text: str) -> list[JobStatus]:
        """Lines of `_ACCOUNT_FIELDS`; a name may hold the separator, so it is the last."""
        found = []
        for line in text.splitlines():
            parts = line.split("|", 8)
            if len(parts) != 9 or ":" not in parts[2]:
                raise ValueError(f"cannot read this line of sacct: {line!r}")
            number, state, ended, *rest = parts
            code, signal = (int(part) for part in ended.split(":"))
            found += _statuses(number, state, None if signal else code, signal or None, rest)
        return found

    def cancel_argv(self, ids: Sequence[str]) -> list[str]:
        """`scancel`."""
        return ["scancel", *ids]


def _statuses(
    number: str, word: str, code: int | None, signal: int | None, rest: Sequence[str]
) -> list[JobStatus]:
    reason, host, user, queue, cores, name = rest
    # `CANCELLED by 1000`, and `CANCELLED+` where a column was too narrow
    state = _STATES.get(word.split(" ")[0].rstrip("+"), State.UNKNOWN)
    why = "" if reason in ("None", "(null)", "") else reason
    if state is State.UNKNOWN:
        why = why or f"Slurm calls it {word}"
    elif state is State.PENDING and why.startswith(_HOLDS):
        state = State.HELD
    elif word.startswith(("PREEMPTED", "DEADLINE", "BOOT_FAIL")):
        why = why or word.lower()
    if not state.ended:
        code = signal = None
    elif signal == _OUT_OF_MEMORY_SIGNAL and state is State.OUT_OF_MEMORY:
        signal = int(SIGKILL)
    elif code == 0 and state is not State.COMPLETED:
        code = None  # what Slurm writes where there was no exit
    job, tasks = _tasks(number)
    number_of_cores = int(cores) if cores.isdigit() else None
    return [
        JobStatus(job, state, task, code, signal, why, host, name, user, queue, number_of_cores)
        for task in tasks
    ]


def _tasks(number: str) -> tuple[str, list[int | None]]:
    """`12`, `12_3`, `12_[3-5,9%2]`, as (job, tasks)."""
    if match := _TASK.fullmatch(number):
        return match[1], [int(match[2])]
    if match := _TASKS.fullmatch(number):
        return match[1], list(expand(match[2]))
    if not number.isdigit():
        raise ValueError(f"no id of a job: {number!r}")
    return number, [None]


def expand(ranges: str) -> list[int]:
    """The numbers of `0-3,7,10-20:5`. Raises ValueError."""
    found: list[int] = []
    for part in ranges.split(","):
        span, _, step = part.partition(":")
        first, _, last = span.partition("-")
        found += range(int(first), int(last or first) + 1, int(step or 1))
    return found
