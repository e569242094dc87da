"""What the interface needs of whatever runs its jobs: a MiG server, this machine, or servers of a world."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Upload:
    """A file of a job on its way to the home: where it is, what it is called there."""

    path: str
    name: str
    program: bool = False


class JobServer(Protocol):
    """A home folder, and jobs that take their files from it. Paths are relative to the home.

    Every method raises MigServerError (105 for a file that there is not), MigUnknownJobIdError for an id
    that is not known, and MigLocalError for what is wrong on this side.
    """

    def test(self) -> None:
        """Raise unless jobs could be submitted."""

    def submit(self, text: str, uploads: Sequence[Upload], name: str) -> str:
        """Bring a job's files and submit its description; its id."""

    def upload(self, path: str, destination: str) -> None:
        """Put a file into the home."""

    def download(self, path: str, destination: str) -> None:
        """Get a file of the home; `destination` is written whole or not at all."""

    def cat(self, path: str) -> bytes:
        """What is in a file of the home."""

    def ls(self, path: str) -> list[str]:
        """The names in a folder of the home; the name of a file."""

    def exists(self, path: str) -> bool:
        """Whether there is such a file or folder."""

    def mkdir(self, path: str) -> None:
        """Make a folder."""

    def remove(self, path: str) -> None:
        """Delete a file."""

    def rmdir(self, path: str) -> None:
        """Delete an empty folder."""

    def info(self, job_id: str) -> dict[str, str]:
        """What is known of a job: ID, STATUS, and the times of its states."""

    def cancel(self, job_id: str) -> None:
        """End a job."""

    def wait(self, job_id: str, seconds: float | None) -> bool:
        """Until a job has ended; whether it has."""
