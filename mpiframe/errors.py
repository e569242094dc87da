"""All errors of mpiframe, one tree, named by what the user sees."""

from __future__ import annotations

import concurrent.futures
import sys
import traceback
from types import TracebackType
from typing import Any


class MpiframeError(Exception):
    """Base of every error that mpiframe raises on purpose."""

    def _render_traceback_(self) -> list[str]:
        """What IPython and notebooks print: the user's own lines, then what happened, once.

        The frames of this package tell the user nothing, and a remote exception that is the cause is in the
        text already, with its traceback.
        """
        from IPython import get_ipython

        shell: Any = get_ipython()  # type: ignore[no-untyped-call,unused-ignore]
        trace, cause = _own_frames(self.__traceback__), self.__cause__
        try:
            if cause is not None:
                self.__cause__ = None  # its context stays suppressed
            if shell is None:
                return traceback.format_exception(type(self), self, trace)
            return list(shell.InteractiveTB.structured_traceback(type(self), self, trace, tb_offset=0))
        finally:
            if cause is not None:
                self.__cause__ = cause


def _own_frames(trace: TracebackType | None) -> TracebackType | None:
    """A traceback of the frames that are the user's: neither the package's nor IPython's."""
    kept = []
    while trace is not None:
        package = trace.tb_frame.f_globals.get("__name__", "").partition(".")[0]
        if package not in ("mpiframe", "IPython", "ipykernel"):
            kept.append(trace)
        trace = trace.tb_next
    result: TracebackType | None = None
    for entry in reversed(kept):
        result = TracebackType(result, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return result


class CommandError(MpiframeError):
    """A command raised on a server.

    The remote exception is ``__cause__`` (where it could be carried over), and the remote traceback,
    with source lines, is part of the text.

    Attributes
    ----------
    request, server, host: where it happened (``None`` where that is not known).
    remote_traceback: the text that the server's interpreter would have printed.
    """

    def __init__(
        self,
        message: str,
        *,
        request: int | None = None,
        server: int | None = None,
        host: str | None = None,
        remote_traceback: str | None = None,
    ) -> None:
        super().__init__(message)
        self.request = request
        self.server = server
        self.host = host
        self.remote_traceback = remote_traceback

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword attributes would be lost by the default, which calls the class with `args` only.
        return (type(self), self.args, self.__dict__)


class PluginError(CommandError):
    """A plugin is missing, refused its options, or one of its commands raised."""


class CommandSyntaxError(MpiframeError, SyntaxError):
    """A command string does not compile. Raised at the call; nothing was sent."""

    def __init__(self, message: str, details: tuple[object, ...] | None = None) -> None:
        if details is None:
            SyntaxError.__init__(self, message)
        else:
            SyntaxError.__init__(self, message, details)  # type: ignore[arg-type]

    def __str__(self) -> str:
        if self.text is None or self.lineno is None:
            return str(self.msg)
        line = self.text.rstrip("\n")
        stripped = line.lstrip()
        offset = (self.offset or 1) - 1 - (len(line) - len(stripped))
        return f"{self.msg} (line {self.lineno})\n    {stripped}\n    {' ' * max(offset, 0)}^"


class CommandArgumentError(MpiframeError, TypeError):
    """What was passed cannot be a command, or the callable does not take these arguments."""


class TargetError(MpiframeError, ValueError):
    """The target names no server. Raised at the call; nothing was sent."""


class RequestError(MpiframeError, LookupError):
    """The request id is unknown, or its response was fetched before."""


class ServerLost(MpiframeError):
    """The server ended before it answered."""

    seen = False  # the script has got this error, as a response's or a future's


if sys.version_info >= (3, 11):  # from here on the two are one class

    class CommandTimeout(MpiframeError, TimeoutError):
        """Waiting, or the command itself, took longer than the time-out that was given."""

else:

    class CommandTimeout(MpiframeError, concurrent.futures.TimeoutError, TimeoutError):
        """Waiting, or the command itself, took longer than the time-out that was given."""


class CommandCancelled(MpiframeError, concurrent.futures.CancelledError):
    """The request was cancelled before it could end."""


class SerializationError(MpiframeError, TypeError):
    """An argument or a result cannot be pickled, or cannot be unpickled where it arrived."""


class WorldError(MpiframeError, RuntimeError):
    """There is no MPI world to work in, or it is closed."""


class JournalError(MpiframeError):
    """A journal cannot be used or written, or what it holds was recorded for something else."""


class RemoteException(MpiframeError):
    """Stands in for a remote exception that could not be carried over; says its type and text."""


class GroupBroken(MpiframeError):
    """Another member of a collective has failed, so what this one waits for will never come."""
