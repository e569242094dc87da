"""What the dispatcher (`queues`) says is to be done; the client's loop carries it out."""

from __future__ import annotations

from dataclasses import dataclass

from mpiframe.messages import Request, Status


@dataclass(slots=True)
class Send:
    """Send these requests to this server, in this order."""

    rank: int
    requests: list[Request]


@dataclass(frozen=True, slots=True)
class End:
    """This request ends here, without an answer from a server."""

    request: Request
    status: Status
    server: int | None = None


@dataclass(frozen=True, slots=True)
class Interrupt:
    """Raise KeyboardInterrupt in this request's command, if the server still runs it."""

    rank: int
    id: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """Do not begin this request's command, or raise KeyboardInterrupt in it if it runs."""

    rank: int
    id: int
    serial: int


@dataclass(frozen=True, slots=True)
class Overdue:
    """This request's command goes on, long after its time-out has interrupted it: its server is to end."""

    rank: int
    request: Request


Instruction = Send | End | Interrupt | Cancel | Overdue
