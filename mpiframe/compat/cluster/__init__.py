"""The names of python-cluster (later fyrd), on `mpiframe.plugins.scheduler`.

Scripts written for it run by changing one import: `from mpiframe.compat import cluster`. Written from its
documentation. What differs: jobs of the local mode are real processes of a queue that outlives the client;
`clean_dir` deletes only what jobs made; nothing is installed, and no shell reads what is not a command.
"""

from mpiframe.compat.cluster import config_file, job, jobqueue, logme, options, queue, run
from mpiframe.compat.cluster.config_file import get_profile, set_profile
from mpiframe.compat.cluster.job import (
    Job,
    clean,
    clean_dir,
    make_job,
    make_job_file,
    submit,
    submit_file,
)
from mpiframe.compat.cluster.options import option_help
from mpiframe.compat.cluster.queue import (
    ALLOWED_MODES,
    ClusterError,
    Queue,
    check_queue,
    get_cluster_environment,
    wait,
)

__all__ = [
    "ALLOWED_MODES",
    "ClusterError",
    "Job",
    "Queue",
    "check_queue",
    "clean",
    "clean_dir",
    "config_file",
    "get_cluster_environment",
    "get_profile",
    "job",
    "jobqueue",
    "logme",
    "make_job",
    "make_job_file",
    "option_help",
    "options",
    "queue",
    "run",
    "set_profile",
    "submit",
    "submit_file",
    "wait",
]
