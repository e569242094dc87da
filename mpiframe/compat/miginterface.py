"""The functions of MiG's `miginterface`: a script runs by changing one import.

import mpiframe.compat.miginterface as mig
job_id = mig.create_job("echo hello grid > output.txt", output_files="output.txt")

Jobs go to the server that ~/.mig/miguser.conf names; after `local_mode_on()` they run on this machine, after
`mpi_mode_on(client)` on the servers of a world. Written from its documentation. What differs: a local job
that fails is FAILED, and `job_finished` is true of it, as of every job that has ended; an id that is not
known is an error; certificates are verified.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mpiframe.plugins.grid.mig import (
    MigInterfaceError,
    MigLocalError,
    MigServerError,
    MigUnknownJobIdError,
    MrslError,
)
from mpiframe.plugins.grid.mig.call_log import CallLog, default_path
from mpiframe.plugins.grid.mig.interface import Mig

__all__ = [
    "MigInterfaceError",
    "MigLocalError",
    "MigServerError",
    "MigUnknownJobIdError",
    "MrslError",
    "cancel_job",
    "cancel_jobs",
    "cat_file",
    "create_job",
    "debug_mode_off",
    "debug_mode_on",
    "get_file",
    "job_finished",
    "job_info",
    "job_output",
    "job_status",
    "jobs_info",
    "jobs_status",
    "local_mode_off",
    "local_mode_on",
    "ls",
    "mk_dir",
    "mpi_mode_off",
    "mpi_mode_on",
    "path_exists",
    "remove",
    "remove_dir",
    "set_debug_mode",
    "set_log_file",
    "submit_job",
    "test_connection",
    "upload_file",
]

_log = CallLog(default_path())
_modes: list[Mig] = []  # those that were switched on, the last of which is used
_remote: Mig | None = None


def _mig() -> Mig:
    """What runs the jobs now."""
    global _remote
    if _modes:
        return _modes[-1]
    if _remote is None:
        from mpiframe.plugins.grid.mig.https import HttpsServer  # late: it needs httpx

        _remote = Mig(HttpsServer(), _log)
    return _remote


# -- modes -----------------------------------------------------------------------------------------


def local_mode_on() -> None:
    """Run jobs on this machine from now on."""
    from mpiframe.plugins.grid.mig.home import LocalServer

    local_mode_off()
    _modes.append(Mig(LocalServer(), _log))
    _log.say("local mode on")


def local_mode_off() -> None:
    """Back to what it was before. Jobs that run here go on, and are found again by their ids."""
    from mpiframe.plugins.grid.mig.home import LocalServer

    _modes[:] = [mig for mig in _modes if type(mig.server) is not LocalServer]


def mpi_mode_on(client: Any, target: Any = None) -> None:
    """Run jobs on the servers of an `mpiframe.Client` from now on.

    target: None, the first server that is free; a rank; or a list of ranks, which take turns.
    """
    from mpiframe.plugins.grid.mig.world import WorldServer

    mpi_mode_off()
    _modes.append(Mig(WorldServer(client, target), _log))
    _log.say("MPI mode on")


def mpi_mode_off() -> None:
    """Back to what it was before, once the jobs on the servers have ended."""
    from mpiframe.plugins.grid.mig.world import WorldServer

    for mig in list(_modes):
        if isinstance(mig.server, WorldServer):
            mig.server.close()
            _modes.remove(mig)


def debug_mode_on() -> None:
    """Print every log message to the screen."""
    _log.debug = True


def debug_mode_off() -> None:
    """Print no log messages."""
    _log.debug = False


def set_debug_mode(on: bool = True) -> None:
    """The older name of both."""
    _log.debug = bool(on)


def set_log_file(path: str) -> None:
    """Where calls are logged; by default <tmp>/miginterface_log_<user>.txt."""
    _log.set_path(path)


def test_connection() -> bool:
    """True if jobs could be submitted; raises otherwise."""
    return _mig().test_connection()


test_connection.__test__ = False  # type: ignore[attr-defined]  # no test of pytest's


# -- jobs ------------------------------------------------------------------------------------------


def create_job(
    exec_commands: str | Sequence[str],
    input_files: str | Sequence[str] = (),
    output_files: str | Sequence[str] = (),
    executables: str | Sequence[str] = (),
    cached_files: str | Sequence[str] = (),
    resource_specifications: Mapping[str, Any] | None = None,
    name: str = "",
) -> str:
    """Submit a job with its files; its id. See `Mig.create_job`."""
    return _mig().create_job(
        exec_commands, input_files, output_files, executables, cached_files, resource_specifications, name
    )


def submit_job(mrsl_file: str, dest: str = "") -> str:
    """Submit a description that is in a file; its id."""
    return _mig().submit_job(mrsl_file, dest)


def job_info(job_id: str) -> dict[str, str]:
    """What is known of a job: ID, STATUS, RECEIVED, QUEUED, EXECUTING, FINISHED ..."""
    return _mig().job_info(job_id)


def jobs_info(job_ids: Iterable[str]) -> list[dict[str, str]]:
    """The same of several jobs."""
    return _mig().jobs_info(job_ids)


def job_status(job_id: str) -> str:
    """QUEUED, EXECUTING, FINISHED, FAILED, CANCELED; a server has a few more."""
    return _mig().job_status(job_id)


def jobs_status(job_ids: Iterable[str]) -> list[str]:
    """The same of several jobs."""
    return _mig().jobs_status(job_ids)


def job_finished(job_id: str) -> bool:
    """Whether a job has ended; `job_status` says how."""
    return _mig().job_finished(job_id)


def job_output(job_id: str) -> str:
    """What a job wrote to standard error, then to standard output."""
    return _mig().job_output(job_id)


def cancel_job(job_id: str) -> None:
    """End a job."""
    _mig().cancel_job(job_id)


def cancel_jobs(job_ids: Iterable[str]) -> None:
    """End several jobs."""
    _mig().cancel_jobs(job_ids)


# -- files -----------------------------------------------------------------------------------------


def upload_file(path: str, mig_path: str = "") -> None:
    """Put a file into the home on the server."""
    _mig().upload_file(path, mig_path)


def get_file(filename: str, destination: str = "") -> str:
    """Get a file from the home, into this folder or to `destination`; where it is now."""
    return _mig().get_file(filename, destination)


def cat_file(path: str | Sequence[str]) -> str:
    """The text of a file of the home, or of several."""
    return _mig().cat_file(path)


def ls(path: str = ".") -> list[str]:
    """The names in a folder of the home."""
    return _mig().ls(path)


def path_exists(path: str) -> bool:
    """Whether there is such a file or folder in the home."""
    return _mig().path_exists(path)


def mk_dir(path: str) -> None:
    """Make a folder in the home."""
    _mig().mk_dir(path)


def remove(path: str | Sequence[str]) -> None:
    """Delete a file of the home, or several."""
    _mig().remove(path)


def remove_dir(path: str | Sequence[str]) -> None:
    """Delete an empty folder of the home, or several."""
    _mig().remove_dir(path)
