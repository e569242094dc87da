"""What goes wrong with batch systems, named by what the user sees."""

from __future__ import annotations

from mpiframe.errors import MpiframeError


class SchedulerError(MpiframeError):
    """Base of the errors of the scheduler plugin."""


class OptionError(SchedulerError, ValueError):
    """An option is unknown, or its value cannot be read. Raised before anything is written."""


class SubmitError(SchedulerError):
    """The batch system refused the job, or its files could not be written. Nothing is left half written."""


class SchedulerDown(SchedulerError):
    """A command of the batch system is missing, does not answer, or cannot reach its server."""


class JobNotFound(SchedulerError, LookupError):
    """No job with this id is known: neither to the batch system nor by a record of its own."""


class JobFailed(SchedulerError):
    """The job did not complete, so it has no result.

    Attributes
    ----------
    state, exit_code: how it ended (exit_code is None where nobody knows it).
    """

    def __init__(self, message: str, state: str = "", exit_code: int | None = None) -> None:
        super().__init__(message, state, exit_code)  # all in args, so that it can be pickled
        self.state = state
        self.exit_code = exit_code

    def __str__(self) -> str:
        return str(self.args[0])
