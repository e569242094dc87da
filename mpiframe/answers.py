"""From what a server answered to what the user sees: values, errors, responses, futures."""

from __future__ import annotations

import concurrent.futures
import linecache
import logging
import re
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from mpiframe import codec
from mpiframe.displays import running_ipython
from mpiframe.errors import (
    CommandCancelled,
    CommandError,
    CommandTimeout,
    MpiframeError,
    PluginError,
    RemoteException,
    SerializationError,
    ServerLost,
)
from mpiframe.instructions import End
from mpiframe.messages import Outcome, PluginCall, Request, Response, Status
from mpiframe.output import STDERR, STDOUT
from mpiframe.wording import shorten

log = logging.getLogger("mpiframe")

_E = TypeVar("_E", bound=BaseException)

_DONE = Status.DONE


def decode(request: Request, answer: tuple[Any, ...], buffers: Any, host: str | None) -> None:
    """Read what a server answered; never raises, a result that cannot be read is an error of the request."""
    _, outcome, payload, request.started_at, request.finished_at, _, _ = answer
    request.status = Status.DONE
    if outcome == Outcome.VALUE:
        request.value = payload
        return
    error: MpiframeError
    if outcome == Outcome.PICKLED:
        try:
            request.value = codec.loads(payload, buffers)
            return
        except BaseException as problem:
            what = f"the result of {place(request, host)} cannot be unpickled here: {problem!r}"
            error = SerializationError(what)
            error.__cause__ = problem
    elif outcome == Outcome.UNSENDABLE:
        text, what = payload
        error = SerializationError(f"{place(request, host)}: {what}\n\nOn the server:\n{text.rstrip()}")
    else:
        error = _command_error(request, payload, host)
    request.status = Status.FAILED
    request.error = error


def keep(request: Request, answer: tuple[Any, ...], buffers: Any, _host: str | None) -> None:
    """Note what a server answered, to be passed on as it is: `value` is (outcome and payload, buffers)."""
    _, outcome, payload, request.started_at, request.finished_at, _, _ = answer
    request.value = codec.pack((outcome, payload)), buffers
    request.status = Status.DONE
    if outcome > Outcome.PICKLED:
        request.status = Status.FAILED
        request.error = CommandError(f"{place(request, _host)} failed", server=request.server)


def unpacked(content: Any) -> tuple[int, Any]:
    """(outcome, payload) of what `keep` kept."""
    outcome, payload = codec.unpack(content)
    return outcome, payload


def _command_error(request: Request, payload: Any, host: str | None) -> CommandError:
    data, text, summary, item = payload
    text = with_source_lines(text)
    which = "" if item is None else f", item {_first_item(request) + item} of the map"
    message = f"{place(request, host)}{which} raised {summary}\n\nOn the server:\n{text.rstrip()}"
    cause: BaseException
    try:
        cause = codec.loads(data) if data is not None else RemoteException(summary)
    except BaseException:
        cause = RemoteException(summary)
    kind = PluginError if isinstance(request.command, PluginCall) else CommandError
    error = kind(message, request=request.id, server=request.server, host=host, remote_traceback=text)
    if isinstance(cause, BaseException):
        error.__cause__ = cause
    return error


def _first_item(request: Request) -> int:
    return getattr(request.future, "first_item", 0) or 0


_ELSEWHERE = (
    "A command that may run twice can be submitted with retries=1, and `mpiframe run --resilient` keeps the "
    "other servers going"
)


def lost_error(request: Request, end: End, host: str | None, why: str | None = None) -> MpiframeError:
    """The error of a request that ended without an answer; `why` its server ended, if that is known."""
    what = f"request {request.id} ({shorten(request.command)})"
    where = f"server {end.server}" + (f" on {host}" if host else "")
    if end.status is Status.CANCELLED:
        if end.server is None:
            return CommandCancelled(f"{what} was cancelled before it was sent")
        return CommandCancelled(f"{what} was cancelled; if it had begun on {where}, it was interrupted")
    if end.status is Status.TIMEOUT:
        if end.server is None:
            return CommandTimeout(f"{what} was still queued when its time-out passed")
        return CommandTimeout(f"{what} did not end on {where} within its time-out; it was interrupted")
    if end.server is None:
        return ServerLost(f"{what} cannot run: no server is left")
    why = why or f"Its last words, if it had any, stand above. {_ELSEWHERE}"
    if request.sent_at is None:
        return ServerLost(f"{what} cannot run: it was queued for {where}, which has ended. {why}")
    return ServerLost(f"{what} is lost: {where} ended before it answered. {why}")


def place(request: Request, host: str | None) -> str:
    """The words for where a command ran."""
    where = f" on {host}" if host else ""
    return f"request {request.id} ({shorten(request.command)}) on server {request.server}{where}"


_FRAME = re.compile(r'^(\s*)File "(.+)", line (\d+), in .*$')


def with_source_lines(text: str) -> str:
    """Add the source lines that the server did not have, such as those of a notebook's cells."""
    lines = text.splitlines()
    result: list[str] = []
    for index, line in enumerate(lines):
        result.append(line)
        match = _FRAME.match(line)
        if match is None:
            continue
        cell = _cell(match[2])
        if cell:
            result[-1] = line.replace(f'File "{match[2]}"', cell, 1)
        following = lines[index + 1] if index + 1 < len(lines) else ""
        if following.startswith(match[1] + "  "):
            continue  # it has its line
        source = linecache.getline(match[2], int(match[3])).strip()
        if source:
            result.append(f"{match[1]}  {source}")
    return "\n".join(result) + "\n"


def _cell(file: str) -> str | None:
    """What IPython calls the cell whose code has this file name, if it is one's: Cell In[3]."""
    shell = running_ipython()
    name = getattr(getattr(shell, "compile", None), "format_code_name", None)
    words = name(file) if name is not None else None
    return None if not words else " ".join(words)


def response(request: Request, host: str | None) -> Response:
    """The Response of a request that has ended."""
    out = err = ""
    if request.output:
        out = "".join([text for stream, text in request.output if stream == STDOUT])
        err = "".join([text for stream, text in request.output if stream == STDERR])
    error, status = request.error and _seen(request.error), request.status
    told: str | None = None
    if error is not None:
        told = getattr(error, "remote_traceback", None) or str(error)
    return Response(
        request.id,
        request.server,
        request.command,
        status,
        status is _DONE,
        request.value,
        told,
        out,
        err,
        request.queued_at,
        request.started_at,
        request.finished_at,
        host,
        error,
    )


def _seen(error: _E) -> _E:
    """The script gets this error: it knows now that a server is lost."""
    if isinstance(error, ServerLost):
        error.seen = True
    return error


class Loop(Protocol):
    """What a future needs of the client's loop."""

    def wait(self, done: Callable[[], bool], timeout: float | None = None) -> bool:
        """Drive MPI until `done()`; False if `timeout` seconds pass before that."""

    def cancel(self, request: Request) -> bool:
        """Take a queued request back; whether it was still queued."""

    def call_off(self, request: Request) -> bool:
        """Cancel a request, and interrupt it if it runs; whether it had not ended."""

    def status_of(self, request: Request) -> Status:
        """Where a request is; `running` for the first one that its server was sent."""

    def was_interrupted(self, requests: Sequence[Request]) -> None:
        """Ctrl-C ended a wait for these."""


class Holder(Protocol):
    """Who is told of the end of a request."""

    def settle(self, request: Request) -> None:
        """Called once, when the request has ended."""


_ENDED = ("FINISHED", "CANCELLED", "CANCELLED_AND_NOTIFIED")
_FINISHED = "FINISHED"
_Asked = tuple[threading.Condition, list[Any], list[Callable[[concurrent.futures.Future[Any]], object]]]
_making = threading.RLock()  # held by who makes what is asked for; again, by what a signal may call


class CommandFuture(concurrent.futures.Future[Any]):
    """The future of a submitted command; a thread that waits for it drives the client meanwhile.

    What the base class makes for each future (a lock, a condition, two lists) is made here when somebody
    asks for it, because it costs more than all the rest of a small command. Its state is written before it
    is looked whether anybody waits, and they look at it after they have said that they do.

    All is in slots, not for the memory alone: where two threads have CPython (3.11.7) make the `__dict__` of
    one object at once, it can get two, of which one is freed while the other is in use.
    """

    __slots__ = (
        "_asked",
        "_exception",
        "_how_cancelled",
        "_loop",
        "_result",
        "_state",
        "first_item",
        "request",
        "seconds",
    )

    first_item: int | None
    """Of a chunk of a map: the index of its first item."""
    seconds: float | None
    """Of a chunk of a map that has ended: how long it ran on its server."""

    def __init__(self, loop: Loop, request: Request, first_item: int | None = None) -> None:
        self._loop = loop
        # Let go of when it has ended, and nothing else is kept that need not be: when a million futures are
        # held, the garbage collector looks at each and at all it refers to, again and again.
        self.request: Request | None = request
        self.first_item = first_item
        self.seconds = None
        self._state = "PENDING"
        self._result = self._exception = None
        self._how_cancelled: MpiframeError | None = None
        self._asked: _Asked | None = None  # once somebody has asked for any of it

    def _made(self) -> _Asked:
        if self._asked is None:
            made: _Asked = (threading.Condition(), [], [])
            with _making:
                if self._asked is None:
                    self._asked = made
        return self._asked

    # The base class writes these where it begins, which it does not here.

    @property
    def _condition(self) -> threading.Condition:  # type: ignore[override]
        return self._made()[0]

    @property
    def _waiters(self) -> list[Any]:  # type: ignore[override]
        return self._made()[1]

    @property
    def _done_callbacks(self) -> list[Callable[[concurrent.futures.Future[Any]], object]]:
        return self._made()[2]

    def __repr__(self) -> str:
        request = self.request
        what = "" if request is None else f" of request {request.id} ({shorten(request.command, 40)})"
        if self._state is _FINISHED:
            error = self._exception
            ended = f"returned {type(self._result).__name__}" if error is None else type(error).__name__
            return f"<{type(self).__name__}{what}: {ended}>"
        state = "cancelled" if self.done() else "pending"  # an attached process would have to ask
        if request is not None and request.server is not None and not self.done():
            state = f"sent to server {request.server}"
        return f"<{type(self).__name__}{what}: {state}>"

    def done(self) -> bool:
        """Whether the command has ended or was cancelled."""
        return self._state in _ENDED

    def result(self, timeout: float | None = None) -> Any:
        """The value; raises CommandError, ServerLost, CommandTimeout, CommandCancelled."""
        if self._state is not _FINISHED:
            self._await(timeout)
            if self.cancelled():
                raise self._cancelled()
        if self._exception is not None:
            try:
                raise _seen(self._exception)
            finally:
                self = None  # type: ignore[assignment]  # no cycle of exception, frame and future
        return self._result

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The error, or None if the command ended well."""
        self._await(timeout)
        if self.cancelled():
            raise self._cancelled()
        return None if self._exception is None else _seen(self._exception)

    def _cancelled(self) -> MpiframeError:
        return self._how_cancelled or CommandCancelled(f"{self._words()} was cancelled")

    def add_done_callback(self, fn: Callable[[concurrent.futures.Future[Any]], object]) -> None:
        """Call `fn(future)` when it is done, in the thread that notices; at once if it is."""
        self._done_callbacks.append(fn)
        if self._state in _ENDED:
            self._invoke_callbacks()

    def _invoke_callbacks(self) -> None:
        callbacks = self._done_callbacks
        while callbacks:
            try:
                callback = callbacks.pop(0)
            except IndexError:
                return  # another thread took the last one
            try:
                callback(self)
            except Exception:
                log.exception("the callback %r of a future raised", callback)

    def cancel(self) -> bool:
        """Cancel the command if it is still queued; whether it is cancelled now."""
        request = self.request
        if request is not None and not self.done():
            self._loop.cancel(request)
        return self.cancelled()

    def call_off(self) -> bool:
        """As `cancel`, and KeyboardInterrupt in the command if it runs; whether it had not ended."""
        request = self.request
        return request is not None and not self.done() and self._loop.call_off(request)

    def running(self) -> bool:
        """Whether the command was sent to a server and has not ended; an attached process asks the world."""
        request = self.request
        return request is not None and self._loop.status_of(request) in (Status.SENT, Status.RUNNING)

    def settle(self, request: Request) -> None:
        """Called once, by the client, when the command has ended."""
        if request.error is None:
            self.request = None
        if request.started_at is not None and request.finished_at is not None:  # it has run
            self.seconds = request.finished_at - request.started_at
        if request.status is Status.CANCELLED:
            self._how_cancelled = request.error
            super().cancel()
            self.set_running_or_notify_cancel()
        elif request.error is not None:
            self.set_exception(request.error)
        else:
            self.set_result(request.value)

    def settle_alone(self, value: Any, seconds: float) -> bool:
        """Take the value; False if somebody is to be told of it, by `settle`."""
        if self._asked is not None:
            return False
        self._result = value
        if self.first_item is not None:
            self.seconds = seconds
        self._state = _FINISHED
        if self._asked is not None:  # in this very moment
            return False
        self.request = None
        return True

    def set_result(self, result: Any) -> None:
        """The command ended well; for the client."""
        self._result = result
        self._state = _FINISHED
        self._tell()

    def set_exception(self, exception: BaseException | None) -> None:
        """The command failed; for the client."""
        self._exception = exception
        self._state = _FINISHED
        self._tell()

    def _tell(self) -> None:
        if self._asked is None:
            return
        condition, waiters, _ = self._asked
        with condition:
            for waiter in waiters:
                if self._exception is None:
                    waiter.add_result(self)
                else:
                    waiter.add_exception(self)
            condition.notify_all()
        self._invoke_callbacks()

    def _await(self, timeout: float | None) -> None:
        try:
            ended = self.done() or self._loop.wait(self.done, timeout)
        except KeyboardInterrupt:
            request = self.request
            if request is not None:
                self._loop.was_interrupted([request])
            raise
        if not ended:
            raise CommandTimeout(
                f"{self._words()} has not ended within the {timeout} s that were waited for; it goes on"
            )

    def _words(self) -> str:
        request = self.request
        return "the request" if request is None else f"request {request.id}"
