"""Notebooks and IPython's prompt: the magics for the client at hand, and servers' lines where they belong.

`attach` and `launch` call `welcome` when they run in IPython, so the magics are there with the client;
`%load_ext mpiframe` does the same for a client that was made otherwise. What a server prints appears below
the cell that pushed the command, also when that cell has ended and others have run since.
"""

from __future__ import annotations

import bisect
import contextlib
import sys
from contextvars import ContextVar
from typing import Any

from mpiframe.displays import running_ipython
from mpiframe.errors import WorldError
from mpiframe.output import STDOUT

_KEPT = 10_000  # cells whose requests can still be told apart


def load_ipython_extension(shell: Any) -> None:
    """What `%load_ext mpiframe` does: the magics, for the client that there is or for the next one."""
    client = shell.user_ns.get("client")
    if client is None or not hasattr(client, "push"):
        module = sys.modules.get("mpiframe.client")
        client = None if module is None else module.current_client()
    if client is None:
        from mpiframe.shell import magics

        magics.load(_NoClient(), shell)
    else:
        welcome(client, shell)


def welcome(client: Any, shell: Any = None) -> None:
    """Make this client the one of the magics, if this process runs IPython; nothing otherwise."""
    shell = shell or running_ipython()
    if shell is None:
        return
    from mpiframe.shell import magics

    magics.load(client, shell)
    if hasattr(client, "at_prompt"):
        client.at_prompt = True
    printer = getattr(client, "_printer", None)
    if _header_of(sys.stdout) is not None and printer is not None:
        if not isinstance(getattr(printer.find_stream, "__self__", None), _Cells):
            printer.find_stream = _Cells(client, shell).find_stream


class _NoClient:
    """Stands behind the magics until there is a client."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise WorldError(
            "there is no client yet: make one by `client = mpiframe.launch(4)`, which starts servers, or by "
            "`client = mpiframe.attach(name)`; `mpiframe list` names the worlds that run"
        )


class _Cells:
    """Which cell has pushed which requests: their numbers grow, so it is enough to know each cell's first."""

    def __init__(self, client: Any, shell: Any) -> None:
        self._client = client
        self._events = shell.events
        self._firsts: list[int] = []
        self._headers: list[Any] = []  # of the messages that asked for the cells to be run
        self._begin()
        self._events.register("pre_run_cell", self._begin)

    def _begin(self, *_: Any) -> None:
        """A cell is about to run."""
        if self._client._closed:
            self._events.unregister("pre_run_cell", self._begin)
            return
        first = self._client._loop.last_id + 1
        if self._firsts and self._firsts[-1] == first:  # the last one has pushed nothing
            self._headers[-1] = _header_of(sys.stdout)
            return
        self._firsts.append(first)
        self._headers.append(_header_of(sys.stdout))
        del self._firsts[:-_KEPT], self._headers[:-_KEPT]

    def find_stream(self, request: int, stream: int) -> Any:
        """As of `output.Printer`: a stream whose text appears below the cell of this request."""
        out = sys.stdout if stream == STDOUT else sys.stderr
        if _header_of(out) is None:
            return out
        # What no request of the user's has caused has a number below 1.
        place = bisect.bisect(self._firsts, request) - 1 if request > 0 else -1
        return _CellStream(out, self._headers[place])


class _CellStream:
    """A stream of ipykernel's, for text that belongs to one cell, whichever thread prints it."""

    def __init__(self, stream: Any, header: Any) -> None:
        self._stream = stream
        self._header = header

    def write(self, text: str) -> None:
        """Print below the cell."""
        current: ContextVar[Any] = self._stream._parent_header
        token = current.set(self._header)
        try:
            self._stream.write(text)
        finally:
            current.reset(token)

    def flush(self) -> None:
        """The kernel does so in a moment by itself; to wait for it would hold up the servers' answers."""


def _header_of(stream: Any) -> Any:
    """The header of the message whose cell this stream prints for now; None if it is no stream of a kernel's
    that can be told to print for another one.
    """
    if not isinstance(getattr(stream, "_parent_header", None), ContextVar):
        return None
    with contextlib.suppress(AttributeError, LookupError):
        return stream.parent_header
    return None
