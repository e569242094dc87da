"""Batch systems behind one face: Slurm, PBS, Torque, Grid Engine, and a queue on this machine.

from mpiframe.plugins.scheduler import Job, Queue

job = Job(simulate, [seed], cores=4, mem="8GB", time="2:00:00").submit()
later = Job("tar cf all.tar out", depends=job).submit()
print(job.result(), later.get())
"""

from mpiframe.plugins.scheduler.backends import check_queue, get_cluster_environment
from mpiframe.plugins.scheduler.calls import JobTraceback
from mpiframe.plugins.scheduler.depends import afterany, afternotok, afterok
from mpiframe.plugins.scheduler.errors import (
    JobFailed,
    JobNotFound,
    OptionError,
    SchedulerDown,
    SchedulerError,
    SubmitError,
)
from mpiframe.plugins.scheduler.given_scripts import submit_file
from mpiframe.plugins.scheduler.job import Job, submit
from mpiframe.plugins.scheduler.local import LocalBackend
from mpiframe.plugins.scheduler.options import option_help
from mpiframe.plugins.scheduler.queue import Queue, default_queue
from mpiframe.plugins.scheduler.records import made_in
from mpiframe.plugins.scheduler.states import JobStatus, State

__all__ = [
    "Job",
    "JobFailed",
    "JobNotFound",
    "JobStatus",
    "JobTraceback",
    "LocalBackend",
    "OptionError",
    "Queue",
    "SchedulerDown",
    "SchedulerError",
    "State",
    "SubmitError",
    "afterany",
    "afternotok",
    "afterok",
    "check_queue",
    "default_queue",
    "get_cluster_environment",
    "made_in",
    "option_help",
    "submit",
    "submit_file",
]
