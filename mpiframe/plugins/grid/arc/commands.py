"""Jobs on ARC computing elements as commands of the grid plugin; a mixin for it.

grid = client.plugin("grid", target=1)
job = grid.arc_submit("https://ce.example.org/arex", JobDescription("/bin/hostname"))
[info] = grid.arc_wait("https://ce.example.org/arex", [job])

Certificates and tokens are those of the server's host, found where grid programs look: none travels.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

from mpiframe.plugins.base import Context, command
from mpiframe.plugins.grid.arc.description import JobDescription
from mpiframe.plugins.grid.arc.states import ArcState, JobInfo

if TYPE_CHECKING:
    from mpiframe.plugins.grid.arc.element import ComputingElement

_END_SECONDS = 5.0


class ArcCommands:
    """Files are those of the server's host. The plugin's `stop` has to call `arc_close`."""

    context: Context
    _arc_elements: dict[str, ComputingElement] | None = None
    _arc_waits: list[tuple[threading.Thread, threading.Event]]

    @command
    def arc_submit(
        self,
        url: str,
        description: JobDescription | str,
        inputs: dict[str, str] | None = None,
        queue: str = "",
        delegate: bool | None = None,
    ) -> str:
        """Submit a job and send its files; its id."""
        return self._arc(url).submit(description, inputs, queue=queue, delegate=delegate)

    @command
    def arc_jobs(self, url: str) -> list[str]:
        """The ids of all our jobs there."""
        return self._arc(url).jobs()

    @command
    def arc_status(self, url: str, jobs: Sequence[str]) -> dict[str, ArcState]:
        """The states of jobs by id."""
        return self._arc(url).statuses(jobs)

    @command
    def arc_describe(self, url: str, jobs: Sequence[str]) -> list[JobInfo]:
        """All that the element says of jobs."""
        return self._arc(url).describe(*jobs)

    @command
    def arc_wait(
        self, url: str, jobs: Sequence[str], timeout_seconds: float | None = None
    ) -> Future[list[JobInfo]]:
        """Wait until jobs have ended, while the server goes on; events: ("arc", id, state)."""
        element = self._arc(url)
        stop, answer = threading.Event(), Future[list[JobInfo]]()
        answer.set_running_or_notify_cancel()

        def changed(job: str, state: ArcState) -> None:
            self.context.emit(("arc", job, state))

        def run() -> None:
            try:
                found = element.wait(*jobs, timeout_seconds=timeout_seconds, on_change=changed, stop=stop)
            except Exception as error:
                answer.set_exception(error)
            else:
                answer.set_result(found)

        thread = threading.Thread(target=run, name="arc wait", daemon=True)
        self._arc_waits = [(one, end) for one, end in self._arc_waits if one.is_alive()] + [(thread, stop)]
        thread.start()
        return answer

    @command
    def arc_files(self, url: str, job: str) -> list[str]:
        """The names of a job's files."""
        return self._arc(url).files(job)

    @command
    def arc_read(self, url: str, job: str, name: str) -> bytes:
        """The content of a small file of a job."""
        return self._arc(url).read(job, name)

    @command
    def arc_fetch(self, url: str, job: str, folder: str, wanted: Sequence[str] | None = None) -> list[str]:
        """Fetch a job's files into a folder of the server's host; their paths."""
        return [str(path) for path in self._arc(url).fetch(job, folder, wanted)]

    @command
    def arc_cancel(self, url: str, jobs: Sequence[str]) -> None:
        """End jobs."""
        self._arc(url).cancel(*jobs)

    @command
    def arc_clean(self, url: str, jobs: Sequence[str]) -> None:
        """Delete jobs with their files."""
        self._arc(url).clean(*jobs)

    def arc_close(self) -> None:
        """End the waits and the connections; jobs go on."""
        if self._arc_elements is None:
            return
        for _, stop in self._arc_waits:
            stop.set()
        for thread, _ in self._arc_waits:
            thread.join(_END_SECONDS)
        for element in self._arc_elements.values():
            element.close()
        self._arc_elements = None

    def _arc(self, url: str) -> ComputingElement:
        from mpiframe.plugins.grid.arc.element import ComputingElement  # late: it needs httpx

        if self._arc_elements is None:
            self._arc_elements, self._arc_waits = {}, []
        if url not in self._arc_elements:
            self._arc_elements[url] = ComputingElement(url)
        return self._arc_elements[url]
