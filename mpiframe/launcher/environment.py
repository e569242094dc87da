"""What a process started by a rank must not inherit from it.

Launchers tell each rank who it is by environment variables. A process that inherits them and uses
MPI, or calls `srun`, `sbatch` or `mpirun`, takes itself for that rank: it hangs, aborts, or takes
the job down with it. Every place that starts a process asks `scrub_environment` for its
environment.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import Literal

Purpose = Literal["job", "step", "child"]

CALLER_ENV = "MPIFRAME_CALLER_ENV"
"""Holds, as JSON, the MPI settings of the caller of `mpiframe run`, apart from the launcher's."""

TERMINAL = "MPIFRAME_TERMINAL"
TERMINAL_STREAMS = "MPIFRAME_TERMINAL_STREAMS"
"""Which of rank 0's streams end on this terminal ("stdout stderr"), though they are pipes to the launcher."""
STDIN = "MPIFRAME_STDIN"
"""Where rank 0 opens the launcher's standard input, and from which byte on: `0@/proc/4711/fd/0`."""
RUN_DIR = "MPIFRAME_RUN_DIR"
"""The private directory of one run, in which rank 0 writes `host pid` to the file `client`."""
STARTED = "started"
"""A file in it: MPI has started in a rank of this host."""
NEWS = "news"
"""A pipe in it, on which the launcher hears that a file was written there."""

SEGMENTS = ("sm_segment.", "vader_segment.")
"""How Open MPI's shared memory is called in /dev/shm: HOST.USER.RUN-AND-JOB.RANK follows."""

MPICH_SEGMENTS = "mpich_shm_"
"""How MPICH's begins, which has a name only until MPI has started."""

JOIN = "MPIFRAME_JOIN"
"""How this process comes into a world whose ranks were launched one by one, as JSON; see `joining`."""
RESILIENT = "MPIFRAME_RESILIENT"
"""Set in every rank of a world that outlives a dead server: "ulfm" or "joined"."""

PLACE = "MPIFRAME_PLACE"
"""The folder of a world that has a name, for its rank 0, which is to have a hub there; see `places`."""

_MPI = (
    "PMI_",
    "PMI2_",
    "PMIX_",
    "OMPI_",
    "ORTE_",
    "OPAL_",
    "PRTE_",
    "HYDI_",
    "MPI_LOCAL",
    "MV2_COMM_WORLD_",
    "PALS_",
)
_MPI_NAMES = frozenset({
    "GFORTRAN_UNBUFFERED_PRECONNECTED",  # set by Hydra
    "MPICH_INTERFACE_HOSTNAME",
    "MPIR_CVAR_CH3_INTERFACE_HOSTNAME",
    CALLER_ENV,
    RUN_DIR,
    TERMINAL,
    TERMINAL_STREAMS,
    STDIN,
    JOIN,
    RESILIENT,
    PLACE,
})  # fmt: skip

# Settings that people make under the same prefixes as the variables of a rank.
_SETTINGS = re.compile(r"(OMPI|PRTE|PMIX)_MCA_|(OMPI|PRTE)_ALLOW_RUN_AS_ROOT")
# What mpiexec itself writes in the form of such a setting (seen in ranks of Open MPI 4.1 and 5.0).
_NOT_SETTINGS = re.compile(
    r"(OMPI|PRTE|PMIX)_MCA_(ess$|ess_|orte_|prte_ess_|initial_wdir$|num_procs$|cpu_type$"
    r"|PREFIXES$|pmix$|shmem_RUNTIME_QUERY_hint$|mpi_oversubscribe$|mca_base_component_show_load_errors$)"
)

# A step in the same allocation still has to find the allocation: only what is a rank's own goes.
_STEP = (
    "SLURM_STEP", "SLURM_SRUN_", "SLURM_CPU_BIND", "SLURM_MEM_BIND", "SLURM_PMI", "SLURMD_",
    "SRUN_",
)  # fmt: skip
_STEP_NAMES = frozenset({
    "SLURM_DISTRIBUTION", "SLURM_GTIDS", "SLURM_LAUNCH_NODE_IPADDR", "SLURM_LOCALID",
    "SLURM_MPI_TYPE", "SLURM_NODEID", "SLURM_PROCID", "SLURM_TASK_PID", "SLURM_UMASK",
})  # fmt: skip

# Everything a batch system tells a job about itself, and what must stay to reach the batch system.
_BATCH = ("SLURM_", "SLURMD_", "SRUN_", "SBATCH_", "PBS_", "SGE_", "LSB_", "HYDRA_", "MPIEXEC_")
_BATCH_KEPT = frozenset({
    "SLURM_CONF", "SLURM_JWT", "SLURM_CLUSTERS",
    "PBS_CONF_FILE", "PBS_DEFAULT", "PBS_SERVER", "PBS_EXEC",
    "SGE_ROOT", "SGE_CELL", "SGE_CLUSTER_NAME", "SGE_QMASTER_PORT", "SGE_EXECD_PORT",
})  # fmt: skip
_SCRATCH = frozenset({"SLURM_TMPDIR", "PBS_JOBFS"})  # on this host, so of use to a child on this host only
# Grid Engine uses plain words, so they are taken for its own only inside one of its jobs.
_GRID_ENGINE = frozenset({
    "ARC", "JOB_ID", "JOB_NAME", "JOB_SCRIPT", "NHOSTS", "NQUEUES", "NSLOTS", "PE", "PE_HOSTFILE",
    "QUEUE", "REQUEST", "RESTARTED",
})  # fmt: skip


def scrub_environment(env: Mapping[str, str], *, purpose: Purpose = "child") -> dict[str, str]:
    """A copy of `env` for a process that is started from a rank, without what is the rank's own.

    Parameters
    ----------
    purpose:
        - ``"child"``: a program on this host, which may use MPI itself (a nested `mpirun` stays on
          this host). Nothing of the MPI or of the batch job is left.
        - ``"job"``: a command that submits a new batch job (`sbatch`, `qsub`). As for a child,
          without the scratch directories of this job; what is needed to reach the batch system
          stays.
        - ``"step"``: a launcher that starts more processes in this same allocation (`srun`,
          `mpiexec`): the allocation's variables stay, and `SLURM_OVERLAP` is set inside a step,
          because `srun` would wait for ever for cores that the running step holds.

    A user's own MPI settings (`OMPI_MCA_*`, `MPIR_CVAR_*`, permission to run as root) stay, and
    `LD_LIBRARY_PATH` is what it was before `mpiexec` changed it. Under `mpiframe run` both are
    known exactly; under a plain `mpiexec` they are told apart by their names.
    """
    env = dict(env)  # os.environ decodes each of its words each time
    clean = {name: value for name, value in env.items() if not _is_dropped(name, env, purpose)}
    recorded = _recorded(env)
    if recorded is None:
        clean |= {name: value for name, value in env.items() if _is_setting(name)}
        _restore_library_path(clean, env)
    else:
        clean.pop("LD_LIBRARY_PATH", None)
        clean |= recorded
    if purpose == "step" and "SLURM_STEP_ID" in env:
        clean.setdefault("SLURM_OVERLAP", "1")
    return clean


def record_caller(env: Mapping[str, str]) -> str:
    """The value for `CALLER_ENV`: the MPI settings that `scrub_environment` will bring back."""
    kept = {name: value for name, value in env.items() if name.startswith(_MPI) or name == "LD_LIBRARY_PATH"}
    return json.dumps(kept, separators=(",", ":"))


def _is_dropped(name: str, env: Mapping[str, str], purpose: Purpose) -> bool:
    if name in _MPI_NAMES or name.startswith(_MPI):
        return True
    if purpose == "step":
        return name in _STEP_NAMES or name.startswith(_STEP)
    if name in _BATCH_KEPT or (purpose == "child" and name in _SCRATCH):
        return False
    if name in _SCRATCH or name.startswith(_BATCH):
        return True
    return name in _GRID_ENGINE and "SGE_JOB_SPOOL_DIR" in env


def _is_setting(name: str) -> bool:
    return _SETTINGS.match(name) is not None and _NOT_SETTINGS.match(name) is None


def _recorded(env: Mapping[str, str]) -> dict[str, str] | None:
    """What `record_caller` wrote, or None where it is missing or no longer what it wrote."""
    try:
        values = json.loads(env[CALLER_ENV])
    except (KeyError, ValueError):
        return None
    if not isinstance(values, dict):
        return None
    return {str(name): str(value) for name, value in values.items()}


def _restore_library_path(clean: dict[str, str], env: Mapping[str, str]) -> None:
    """Take out the directory that Open MPI's mpiexec puts in front, as often as its stages did."""
    ours = env.get("OMPI_LIBDIR_LOC") or (
        os.path.join(env["OPAL_PREFIX"], "lib") if "OPAL_PREFIX" in env else None
    )
    if ours is None or "LD_LIBRARY_PATH" not in clean:
        return
    kept = [entry for entry in clean["LD_LIBRARY_PATH"].split(os.pathsep) if entry and entry != ours]
    if kept:
        clean["LD_LIBRARY_PATH"] = os.pathsep.join(kept)
    else:
        del clean["LD_LIBRARY_PATH"]
