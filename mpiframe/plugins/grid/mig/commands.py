"""Jobs of MiG from a server of a world: commands of the grid plugin, whose files are those of that server.

grid = client.plugin("grid", target=1)
job = grid.mig_create_job("./fit.sh 3 > fit.txt", executables="fit.sh", output_files="fit.txt", where="local")
grid.mig_wait(job, where="local")
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Literal

from mpiframe.plugins.base import command
from mpiframe.plugins.grid.mig.errors import MigLocalError

if TYPE_CHECKING:
    from mpiframe.plugins.grid.mig.interface import Mig

Where = Literal["server", "local"]


class MigCommands:
    """Mixed into the plugin. where: "server", the one that ~/.mig/miguser.conf names there, or "local"."""

    @command
    def mig_create_job(
        self, exec_commands: str | Sequence[str], *, where: Where = "server", **options: Any
    ) -> str:
        """Submit a job with its files; its id. Options as for `Mig.create_job`."""
        return self._mig(where).create_job(exec_commands, **options)

    @command
    def mig_job_info(self, job_id: str, where: Where = "server") -> dict[str, str]:
        """What is known of a job: ID, STATUS, and times."""
        return self._mig(where).job_info(job_id)

    @command
    def mig_job_output(self, job_id: str, where: Where = "server") -> str:
        """What a job wrote to standard error, then to standard output."""
        return self._mig(where).job_output(job_id)

    @command
    def mig_cancel_jobs(self, job_ids: str | Iterable[str], where: Where = "server") -> None:
        """End jobs."""
        self._mig(where).cancel_jobs(job_ids)

    @command
    def mig_get_file(self, filename: str, destination: str = "", where: Where = "server") -> str:
        """Get a file from the home to this server's disk; where it is now."""
        return self._mig(where).get_file(filename, destination)

    @command
    def mig_wait(self, job_ids: str | Iterable[str], where: Where = "server") -> Future[list[str]]:
        """The states of jobs once they have ended; the server goes on with other commands meanwhile."""
        mig = self._mig(where)
        mig.jobs_status(job_ids)  # an id that is unknown is told now
        answer: Future[list[str]] = Future()

        def wait() -> None:
            try:
                answer.set_result(mig.wait(job_ids))
            except BaseException as error:
                answer.set_exception(error)

        threading.Thread(target=wait, name="mig wait", daemon=True).start()
        return answer

    def _mig(self, where: str) -> Mig:
        from mpiframe.plugins.grid.mig.interface import Mig  # late: https needs httpx

        made: dict[str, Mig] = self.__dict__.setdefault("_migs", {})
        if where not in made:
            if where == "local":
                made[where] = Mig()
            elif where == "server":
                from mpiframe.plugins.grid.mig.https import HttpsServer

                made[where] = Mig(HttpsServer())
            else:
                raise MigLocalError(f'where={where!r} is no choice; choose "server" or "local"')
        return made[where]
