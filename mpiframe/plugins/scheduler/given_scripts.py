"""Scripts that are submitted as they are: with their own directives, and without a record of ours."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from mpiframe.plugins.scheduler import depends
from mpiframe.plugins.scheduler.config_file import options_of
from mpiframe.plugins.scheduler.drivers import Submission
from mpiframe.plugins.scheduler.errors import OptionError, SubmitError
from mpiframe.plugins.scheduler.files import JobFiles
from mpiframe.plugins.scheduler.queue import Queue, default_queue


def submit_file(
    path: str,
    depends_on: Iterable[Any] = (),
    queue: Queue | None = None,
    qtype: str | None = None,
    **options: Any,
) -> str:
    """Submit a script as it is; its id. Its output goes where its own directives, or the batch system, say.

    On the local queue it goes beside the script. There is no record of the job beyond the batch system's.
    Raises OptionError, SubmitError, SchedulerDown.
    """
    queue = queue if queue is not None else default_queue(qtype)
    full = os.path.abspath(path)
    if not os.path.isfile(full):
        raise SubmitError(f"there is no script {full}")
    name = os.path.basename(full)
    named = JobFiles.named(name, os.path.dirname(full), "file", queue.backend.dialect.suffix)
    chosen = options_of(options, None, defaults=False)
    waits = depends.resolve(depends_on, queue)
    if queue.backend.dialect.checks_dependencies and any([one.kind != "afterany" for one in waits]):
        raise OptionError(
            f"{queue.qtype} knows only that a job has ended, and a script that is submitted as it is does "
            "not look how: afterok and afternotok need a Job; afterany works"
        )
    job = Submission(name, chosen, os.getcwd(), full, named.out, named.err, named.log, waits)
    number = queue.backend.submit(job)
    queue.follow(number)
    return number
