"""Grid Engine: qsub, qstat, qacct, qdel. Formats as of Son of Grid Engine 8.1.9.

It knows only that a job has ended (`-hold_jid`), not how: the job's script looks at the records of those
it waited for. Exit codes are in `qacct` alone. Tasks of arrays begin at 1 there, at 0 here.
"""

from __future__ import annotations

import re
import shlex
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence

from mpiframe.plugins.scheduler import units
from mpiframe.plugins.scheduler.drivers import (
    Dependency,
    Driver,
    Submission,
    plain_name,
    plain_path,
    single_id,
)
from mpiframe.plugins.scheduler.errors import OptionError
from mpiframe.plugins.scheduler.options import Options, simple_flags
from mpiframe.plugins.scheduler.slurm import expand
from mpiframe.plugins.scheduler.states import JobStatus, State

_ID = re.compile(r"(\d+)(?:\.\d+-\d+:\d+)?")
_TIME_LIMIT = 37  # "qmaster enforced h_rt limit"
_AFTER_JOB = 100  # "assumedly after job": a signal ended it
_SHELL_SIGNAL = 128


class GridEngine(Driver):
    """Grid Engine's commands and their outputs."""

    name = "sge"
    prefix = "#$"
    suffix = "sge"
    index = '$([ "${SGE_TASK_ID:-undefined}" = undefined ] || echo $((SGE_TASK_ID - 1)))'
    checks_dependencies = True
    unknown_id = re.compile(r"do not exist|does not exist|job id \d+ not found|job number .* not found")
    account_batch = 1

    def header(self, job: Submission) -> list[str]:
        """The #$ lines."""
        options = job.options
        if options.nodes > 1 and options.pe == Options().pe:
            raise OptionError(
                "Grid Engine spreads jobs over nodes by a parallel environment; name one with pe=..."
            )
        lines = [
            f"-N {plain_name(job.name, 200)}",
            "-S /bin/bash",
            # Which folder to run in is the script's affair: with a $ in it -wd makes a job that never starts.
            "-cwd",
            "-j y",
            f"-o {plain_path(job.log)}",
        ]
        if options.total_cores > 1:
            lines.append(f"-pe {shlex.quote(options.pe)} {options.total_cores}")
        if options.mem is not None:  # counted for each slot
            lines.append(f"-l h_vmem={-(-options.mem * options.nodes // options.total_cores)}M")
        if options.time is not None:
            lines.append(f"-l h_rt={units.clock(options.time)}")
        lines += [f"-l {shlex.quote(feature)}" for feature in options.features]
        if job.count is not None:
            lines.append(f"-t 1-{job.count}")
            lines += [f"-tc {job.limit}"] if job.limit else []
        lines += [] if options.export else ["-V"]  # the submitter's environment, as with Slurm
        return lines + simple_flags(options, self.name) + list(options.extra)

    def submit_argv(self, script: str, depends: Sequence[Dependency]) -> list[str]:
        """`qsub`."""
        ids = ",".join(dict.fromkeys(one.job for one in depends))
        return ["qsub", "-terse", *(["-hold_jid", ids] if ids else []), script]

    def parse_submit(self, text: str) -> str:
        """`6`, or `8.1-4:1`."""
        return single_id(text, _ID)

    def status_argv(self, ids: Sequence[str] | None, user: str) -> list[str]:  # noqa: ARG002
        """`qstat` cannot be asked for some jobs only; `-g d` shows the tasks one by one."""
        return ["qstat", "-xml", "-g", "d", "-u", user]

    def parse_status(self, text: str) -> list[JobStatus]:
        """The XML of `qstat`, which knows only jobs that have not ended."""
        if not text.strip():
            return []
        try:
            root = ElementTree.fromstring(text)
        except ElementTree.ParseError as error:
            raise ValueError(f"cannot read what qstat -xml printed: {error}") from error
        found = []
        for job in root.iter("job_list"):
            letters = job.findtext("state", "")
            state, reason = _state(letters)
            tasks: list[int | None] = [None]
            if ranges := job.findtext("tasks", ""):
                tasks = [number - 1 for number in expand(ranges)]
            slots = job.findtext("slots", "")
            for task in tasks:
                found.append(
                    JobStatus(
                        job.findtext("JB_job_number", ""),
                        state,
                        task,
                        reason=reason,
                        host=job.findtext("queue_name", "").partition("@")[2],
                        name=job.findtext("JB_name", ""),
                        user=job.findtext("JB_owner", ""),
                        queue=job.findtext("queue_name", "").partition("@")[0],
                        cores=int(slots) if slots.isdigit() else None,
                    )
                )
        return found

    def accounting_argv(self, ids: Sequence[str]) -> list[str]:
        """`qacct` takes one job at a time."""
        return ["qacct", "-j", ids[0]]

    def parse_accounting(self, text: str) -> list[JobStatus]:
        """Blocks of `name value` below lines of `=`."""
        found = []
        for block in re.split(r"^=+$", text, flags=re.MULTILINE):
            values = dict(line.split(None, 1) for line in block.splitlines() if len(line.split(None, 1)) == 2)
            if "jobnumber" not in values:
                continue
            values = {name: value.strip() for name, value in values.items()}
            state, code, signal, reason = _end(values)
            task = values.get("taskid", "undefined")
            found.append(
                JobStatus(
                    values["jobnumber"],
                    state,
                    int(task) - 1 if task.isdigit() else None,
                    code,
                    signal,
                    reason,
                    host=values.get("hostname", ""),
                    name=values.get("jobname", ""),
                    user=values.get("owner", ""),
                    queue=values.get("qname", ""),
                )
            )
        return found

    def cancel_argv(self, ids: Sequence[str]) -> list[str]:
        """`qdel`."""
        return ["qdel", *ids]


def _state(letters: str) -> tuple[State, str]:
    if "E" in letters:
        # It would stay so until somebody clears it: for whoever waits, that is the end.
        return State.FAILED, f"Grid Engine could not start it (state {letters}); qstat -j tells why"
    if "h" in letters:
        return State.HELD, "held, or waiting for another job"
    if "q" in letters:
        return State.PENDING, ""
    return (State.RUNNING, "") if set(letters) & set("rtRsSTd") else (State.UNKNOWN, f"state {letters}")


def _end(values: dict[str, str]) -> tuple[State, int | None, int | None, str]:
    number, _, words = values.get("failed", "0").partition(":")
    failed, status, reason = int(number), int(values.get("exit_status", "0").split()[0]), words.strip()
    signal = status - _SHELL_SIGNAL if status > _SHELL_SIGNAL else None
    if failed == _TIME_LIMIT or (failed == _AFTER_JOB and _time_was_up(values)):
        return State.TIMEOUT, None, signal, reason
    if failed == 0:
        return (State.COMPLETED if status == 0 else State.FAILED), status, None, reason
    return State.FAILED, None, signal, reason


def _time_was_up(values: dict[str, str]) -> bool:
    limit = re.search(r"h_rt=([\d:]+)", values.get("category", ""))
    used = re.match(r"(\d+)", values.get("ru_wallclock", ""))
    return limit is not None and used is not None and int(used[1]) >= units.seconds(limit[1])
