"""Every time-out, limit and switch, in one place; each can be set by an environment variable.

`MPIFRAME_START_TIMEOUT=30` sets `start_timeout`, and so on. Times are seconds, sizes bytes.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass

from mpiframe.errors import WorldError


@dataclass(frozen=True, slots=True)
class Config:
    """Settings of one world. The client's are sent to the servers when the world opens."""

    init_timeout: float = 600.0
    """How long MPI's own start may take, which waits for every rank; 0 for ever."""
    start_timeout: float = 120.0
    """How long a rank waits for the others when the world opens."""
    stop_timeout: float = 10.0
    """How long `close` waits for servers that run nothing; then they are ended by force."""
    grace: float = 1.0
    """How long a command that was interrupted by a forced close may take to end."""
    kill_grace: float = 30.0
    """How long a command may go on after its time-out has interrupted it; then its server is ended."""
    patience: float = 2.0
    """How long a server may leave a ping unanswered until `Client.servers` calls it unresponsive."""
    doorbell: str = "auto"
    """How ranks are woken. "auto": the best there is (eventfd on the client's host, TCP elsewhere);
    "unix": Unix sockets without eventfds; "tcp": TCP even on one host; "off": not at all, they poll MPI
    with back-off."""
    doorbell_ports: str = ""
    """Where a firewall lets only some TCP ports through: the port or the range ("20000-20099") on one of
    which the client waits for the doorbells of other hosts while the world opens. Empty: any free one."""
    connect_timeout: float = 5.0
    """How long a server tries to reach the client's doorbell before it polls MPI instead."""
    link_timeout: float = 30.0
    """How long another host may be out of reach until its servers count as lost (there: until the client
    does); 0 for ever. A server that is busy, stopped or swapped out still answers, for its kernel does."""
    stuck_timeout: float = 30.0
    """How long MPI may sleep in a call that never waits, as it does when it is caught in a lock of its own,
    until the process is ended, with a word; 0 for ever."""
    spin: float = 200e-6
    """How long to look for messages before sleeping, where there is a core for every rank."""
    large: int = 64 * 1024
    """Buffers from this size on travel beside the message, uncopied."""
    reuse: int = 256 * 1024 * 1024
    """The most memory for received arrays that is kept for the next ones; 0 keeps none."""
    capture_limit: int = 256 * 1024 * 1024
    """The most of one stream of one command that is kept; the middle of what is longer is left out."""
    session_memory: int = 1024 * 1024 * 1024
    """The most that the results of one session of attached processes may take while they wait to be fetched.
    A process that is attached has what was sent to it, so the oldest of that are let go here first."""
    restart_timeout: float = 30.0
    """How long one attempt may take to have another server join in the place of one that is gone."""
    restart_attempts: int = 3
    """How often in a row a replacement may end before it is ready for commands, until its place is given
    up."""
    output_delay: float = 0.02
    """How long printed text may be held back to be sent with what follows."""
    trace: str = ""
    """The file into which the client writes what becomes of each command, for Perfetto and `mpiframe
    report`; compressed if its name ends in ".gz". Empty: none. `mpiframe run --trace` sets it."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Config:
        """Defaults, overridden by `MPIFRAME_*` variables.

        Raises WorldError for a value that cannot be read, naming variable and value.
        """
        values: dict[str, object] = {}
        for field in dataclasses.fields(cls):
            name = f"MPIFRAME_{field.name.upper()}"
            text = environ.get(name)
            if text is None:
                continue
            if field.name == "doorbell_ports":
                values[field.name] = _parse_ports(name, text)
                continue
            if field.name == "trace":
                values[field.name] = text.strip()
                continue
            values[field.name] = _parse(name, text, type(field.default), _CHOICES.get(field.name, ()))
        return cls(**values)  # type: ignore[arg-type]

    def ports(self) -> range:
        """What `doorbell_ports` says; port 0, which stands for any free one, if it says nothing."""
        first, _, last = self.doorbell_ports.partition("-")
        return range(int(first or 0), int(last or first or 0) + 1)


_NOT_OURS = tuple(
    f"MPIFRAME_{word}"
    for word in (
        "RUN_DIR", "CALLER_ENV", "TERMINAL", "STDIN", "PYTHON", "TEST", "JOIN", "RESILIENT",
        "SCHEDULER", "ARRAY_INDEX", "MIG_HOME", "MIG_SLOTS",
        "PLACE", "WORLDS",
    )
)  # fmt: skip


def unknown_settings(environ: Mapping[str, str] = os.environ) -> list[str]:
    """The `MPIFRAME_*` variables that set nothing: misspelt, most likely."""
    known = {f"MPIFRAME_{field.name.upper()}" for field in dataclasses.fields(Config)}
    ours = [name for name in environ if name.startswith("MPIFRAME_") and not name.startswith(_NOT_OURS)]
    return sorted(set(ours) - known)


_CHOICES = {"doorbell": ("auto", "unix", "tcp", "off")}


def _parse(name: str, text: str, kind: type, choices: tuple[str, ...]) -> object:
    try:
        value = kind(text.strip())
        if (choices and value not in choices) or (not choices and not 0 <= value < float("inf")):
            raise ValueError(text)
    except ValueError:
        wanted = f"one of {', '.join(choices)}" if choices else f"a non-negative {kind.__name__}"
        raise WorldError(f"the environment variable {name} must be {wanted}, not {text!r}") from None
    return value


def _parse_ports(name: str, text: str) -> str:
    first, dash, last = text.strip().partition("-")
    if text.strip():
        try:
            if not 0 < int(first) <= int(last if dash else first) < 1 << 16:
                raise ValueError(text)
        except ValueError:
            raise WorldError(
                f"the environment variable {name} must be a port or a range such as 20000-20099, not {text!r}"
            ) from None
    return text.strip()
