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

    start_timeout: float = 120.0
    """How long a rank waits for the others when the world opens."""
    stop_timeout: float = 10.0
    """How long `close` waits for servers that run nothing; then they are ended by force."""
    grace: float = 1.0
    """How long a command that was interrupted by a forced close may take to end."""
    doorbell: str = "auto"
    """How ranks are woken. "auto": the best there is (eventfd on the client's host, TCP elsewhere);
    "unix": Unix sockets without eventfds; "tcp": TCP even on one host; "off": not at all, they poll MPI
    with back-off."""
    spin: float = 200e-6
    """How long to look for messages before sleeping, where there is a core for every rank."""
    large: int = 64 * 1024
    """Buffers from this size on travel beside the message, uncopied."""
    reuse: int = 256 * 1024 * 1024
    """The most memory for received arrays that is kept for the next ones; 0 keeps none."""
    capture_limit: int = 256 * 1024 * 1024
    """The most of one stream of one command that is kept; the middle of what is longer is left out."""
    restart_attempts: int = 3
    """How often in a row a replacement may end before it is ready for commands, until its place is given
    up."""
    output_delay: float = 0.02
    """How long printed text may be held back to be sent with what follows."""

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
            values[field.name] = _parse(name, text, type(field.default), _CHOICES.get(field.name, ()))
        return cls(**values)  # type: ignore[arg-type]


_NOT_OURS = tuple(
    f"MPIFRAME_{word}"
    for word in ("RUN_DIR", "CALLER_ENV", "TERMINAL", "PYTHON", "TEST", "JOIN", "RESILIENT")
)


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
