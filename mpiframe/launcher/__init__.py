"""How a world is started: which MPI, which launcher, which settings; and how it is ended.

    find_library()  ->  MpiLibrary     which MPI will mpi4py load?          library.py
    find_mpiexec()  ->  path           which launcher belongs to it?        library.py
    plan()          ->  LaunchPlan     the command and its settings         planning.py
    run(plan)       ->  exit status    start, forward signals, clean up     running.py, supervise.py

    Foreground()                       a terminal that is lent to rank 0    foreground.py
    scrub_environment()                what a child must not inherit        environment.py

Nothing here imports mpi4py: importing it would start MPI in the launcher itself.
"""

from mpiframe.launcher.environment import Purpose, scrub_environment
from mpiframe.launcher.foreground import Foreground
from mpiframe.launcher.library import MpiLibrary, find_library, find_mpiexec
from mpiframe.launcher.planning import LaunchPlan, plan, prepare_process, resilience
from mpiframe.launcher.running import run, tidy_after
from mpiframe.launcher.supervise import GRACE_SECONDS, TIMED_OUT

__all__ = [
    "GRACE_SECONDS",
    "TIMED_OUT",
    "Foreground",
    "LaunchPlan",
    "MpiLibrary",
    "Purpose",
    "find_library",
    "find_mpiexec",
    "plan",
    "prepare_process",
    "resilience",
    "run",
    "scrub_environment",
    "tidy_after",
]
