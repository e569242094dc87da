"""How a world is started: which MPI, which launcher, which settings; and how it is ended.

    find_library()  ->  MpiLibrary     which MPI will mpi4py load?          library.py
    find_mpiexec()  ->  path           which launcher belongs to it?        library.py
    plan()          ->  LaunchPlan     the command and its settings         planning.py
    run(plan)       ->  exit status    start, forward signals, clean up     running.py, supervise.py

    Foreground()                       a terminal that is lent to rank 0    foreground.py
    scrub_environment()                what a child must not inherit        environment.py

Nothing here imports mpi4py: importing it would start MPI in the launcher itself. A name's module is imported
when it is used, because ranks and attached processes want little of all this.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_MODULES = {
    "GRACE_SECONDS": "supervise",
    "TIMED_OUT": "supervise",
    "Foreground": "foreground",
    "LaunchPlan": "planning",
    "MpiLibrary": "library",
    "Purpose": "environment",
    "find_library": "library",
    "find_mpiexec": "library",
    "plan": "planning",
    "prepare_process": "planning",
    "resilience": "planning",
    "run": "running",
    "scrub_environment": "environment",
    "tidy_after": "running",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        import importlib

        value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
