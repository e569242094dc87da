"""What stands for the client's loop in an attached process: it speaks to the world's hub.

A thread reads what the hub sends, and tells those who wait. Whoever pushes writes to the socket himself; what
does not go at once is sent by that thread, and is waited for.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from mpiframe import errors
from mpiframe.answers import decode, lost_error, unpacked
from mpiframe.attached.roster import Roster
from mpiframe.commands import Encoded
from mpiframe.ctrl_c import CtrlC
from mpiframe.errors import CommandError, MpiframeError, RequestError, WorldError
from mpiframe.hearing import Hearing
from mpiframe.hub.wire import Frame, Stream
from mpiframe.instructions import End
from mpiframe.messages import Mode, PluginCall, Request, Status, Up
from mpiframe.output import Printer
from mpiframe.wording import shorten

log = logging.getLogger("mpiframe")

_STRINGS = (Mode.EVAL, Mode.EXEC)
_ACKS = 64  # results that were taken, until the hub is told
_FOREVER = float("inf")


class AttachedLoop:
    """The books of one attached process."""

    def __init__(
        self, sock: socket.socket, printer: Printer, broken: Callable[[str], str], reuse: int
    ) -> None:
        self.lock = threading.RLock()  # reentrant: a destructor may push while it is held
        self.dispatcher = Roster()
        self.requests: dict[int, Request] = {}  # until fetched
        self.last_id = 0
        self.grace = 1.0
        self.gone: str | None = None  # why nothing more will come
        self._waiting: dict[int, Request] = {}  # requests that have not ended
        self._printer = printer
        self._broken = broken  # what a user reads when the connection breaks for this reason
        self._wake_in, self._wake_out = os.pipe()
        os.set_blocking(self._wake_in, False)
        os.set_blocking(self._wake_out, False)
        self.stream = Stream(sock, self._wake, reuse)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake_in, selectors.EVENT_READ)
        self._selector.register(sock, selectors.EVENT_READ)
        self._watched = selectors.EVENT_READ
        self._changed = threading.Condition()
        self._frames: deque[Frame] = deque()
        self._calls: dict[int, tuple[dict[str, Any], list[Any]] | None] = {}
        self._last_call = 0
        self._told: set[int] = set()  # keys of functions that the hub has
        self._acks: list[int] = []
        self._hearing = Hearing(self.dispatcher, printer)
        self._farewell = ""
        self._over = False
        self.ctrl_c = CtrlC(lambda: None, self._notify)
        self._thread = threading.Thread(target=self._run, name="mpiframe-attached", daemon=True)

    # -- life ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def close(self, why: str) -> None:
        """Break off; what is waited for ends with an error of these words."""
        self._farewell = self._farewell or why
        self._over = True
        self._wake()
        if threading.current_thread() is not self._thread:
            self._thread.join(5.0)
        self.ctrl_c.remove()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            os.write(self._wake_out, b"!")

    kick = _wake

    # -- the thread ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._over:
                self._step(None)
            with contextlib.suppress(ConnectionError, OSError):
                self._say_rest()
            self._end(self._farewell)
        except ConnectionError as error:
            self._end(self._farewell or self._broken(str(error)))
        except OSError as error:
            self._end(self._farewell or self._broken(str(error)))
        except BaseException as error:
            log.exception("the connection to the world has failed")
            self._end(self._broken(repr(error)))
        finally:
            self.stream.close()
            self._selector.close()
            wake, self._wake_out = self._wake_out, -1
            os.close(self._wake_in)
            os.close(wake)

    def _say_rest(self) -> None:
        deadline = time.monotonic() + 2.0
        while self.stream.unsent and (left := deadline - time.monotonic()) > 0:
            self._selector.modify(self.stream.sock, selectors.EVENT_WRITE)
            self._selector.select(left)
            self.stream.flush()

    def _step(self, timeout: float | None) -> None:
        """Take in what comes, and tell whom it concerns."""
        if not self._frames:
            for key, mask in self._selector.select(0 if self.stream.more else timeout):
                if key.fileobj == self._wake_in:
                    with contextlib.suppress(OSError):
                        os.read(self._wake_in, 4096)
                elif mask & selectors.EVENT_WRITE:
                    self.stream.flush()
            self._frames.extend(self.stream.receive())
        while self._frames:
            header, buffers = self._frames.popleft()
            self._handle(header, buffers)
        if self._acks:
            self._tell_fetched()
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self.stream.unsent else 0)
        if wanted != self._watched:
            self._watched = wanted
            self._selector.modify(self.stream.sock, wanted)
        self._notify()

    def _handle(self, header: dict[str, Any], buffers: list[Any]) -> None:
        op = header["op"]
        if op == "answer":
            self._answered(header, buffers)
        elif op == "output":
            self._printed(header["id"], header["server"], [(s, t) for s, t in header["pieces"]])
        elif op == "reply":
            if header["n"] in self._calls:
                self._calls[header["n"]] = header, buffers
        elif op == "roster":
            header.pop("op")
            self.dispatcher.update(**header)
        elif op == "event":
            outcome, payload = unpacked(buffers[0])
            event = (Up.EVENT, header["source"], outcome, payload)
            self._hearing.hear(header["server"], event, buffers[1:])
        elif op == "log":
            self._hearing.hear(header["server"], (Up.LOG, header["id"], header["fields"]), ())
        elif op == "gone":
            self._farewell = header["why"] if header["ended"] else self._broken(header["why"])

    def _answered(self, header: dict[str, Any], buffers: list[Any]) -> None:
        request = self._waiting.pop(header["id"], None)
        if request is None:
            return
        request.server = header["server"]
        request.queued_at, request.sent_at, started, finished = header["times"]
        if "pieces" in header:
            request.output = [(stream, text) for stream, text in header["pieces"]]
        elif request.server is not None:
            self._printer.finish(request.server, request.id)
        host = self.host_of(request.server)
        if "dropped" in header:
            request.status, request.error = Status.LOST, RequestError(header["dropped"])
        elif "refused" in header:
            request.status, request.error = Status.LOST, WorldError(header["refused"])
        elif buffers:
            self._read(request, request.server, buffers, [started, finished])
        else:
            request.status = Status(header["status"])
            end = End(request, request.status, request.server)
            request.error = lost_error(request, end, host, header.get("why"))
        self._tell(request)
        if request.id not in self.requests:
            self._acks.append(request.id)
            if len(self._acks) > _ACKS:
                self._tell_fetched()

    def _tell(self, request: Request) -> None:
        request.ended = request.told = True
        future, request.future = request.future, None
        if future is not None:
            self.requests.pop(request.id, None)
            future.settle(request)

    def _printed(self, id: int, rank: int, pieces: list[tuple[int, str]]) -> None:
        request = self._waiting.get(id)
        if request is not None:
            if request.output is None:
                request.output = []
            request.output.extend(pieces)
        self._printer.feed(rank, id, pieces)

    def _end(self, why: str) -> None:
        """Nothing more will come: everybody who waits is told."""
        with self.lock:
            self.gone = why
            waiting, self._waiting = list(self._waiting.values()), {}
        for request in waiting:
            request.status, request.error = Status.LOST, WorldError(f"request {request.id}: {why}")
            self._tell(request)
        self._notify()

    # -- what the verbs need ------------------------------------------------------------------------------

    def push(self, requests: Sequence[Request], _wait: bool = False) -> None:
        """Queue requests of one command, in one frame."""
        first = requests[0]
        command, buffers = self._command(first.frame, first.buffers, first.command)
        with self.lock:
            self._check_open()
            for request in requests:
                self.requests[request.id] = self._waiting[request.id] = request
                self.last_id = max(self.last_id, request.id)
            header: dict[str, Any] = {
                "op": "push",
                "ids": [request.id for request in requests],
                "to": [request.target for request in requests],
                "command": command,
            }
            if first.deadline is not None:
                header["timeout"] = max(first.deadline - time.monotonic(), 0.0)
            if first.retries:
                header["retries"] = first.retries
            if isinstance(first.command, PluginCall):
                header["plugin"] = True
            mark = self.stream.send(header, buffers)
        if self.stream.sent < mark and threading.current_thread() is not self._thread:
            # What was pushed is to be carried out even if this process is killed now; and its arrays may be
            # changed from here on.
            self.wait(lambda: self.stream.sent >= mark)
        for request in requests:
            request.frame = request.buffers = ()

    def push_one(self, request: Request, _wait: bool = False) -> None:
        """Queue a request."""
        self.push([request])

    def push_to_idle(
        self, _rank: Any, _command: Any, _encoded: Encoded, _ids: Iterator[int], _wait: bool
    ) -> None:
        """Only the hub knows who is idle."""

    def _command(
        self, frame: tuple[Any, ...], beside: Sequence[Any], words: Any
    ) -> tuple[dict[str, Any], list[Any]]:
        """(what the header says of a command, its buffers)."""
        _, mode, body, key, pickled, payload, _ = frame
        command = {"mode": mode, "key": key, "pickled": pickled, "label": None, "source": None, "body": False}
        buffers: list[Any] = []
        if mode in _STRINGS:
            command["source"] = body
        else:
            command["label"] = shorten(words, 200)
        if words is not body and isinstance(words, str):
            command["label"] = words
        if key and key not in self._told:
            self._told.add(key)
            command["body"] = True
            buffers.append(body)
        if pickled:
            buffers.append(payload)
        return command, [*buffers, *beside]

    def describe(self, encoded: Encoded, words: Any) -> tuple[dict[str, Any], list[Any]]:
        """(what a header says of a command, its buffers)."""
        return self._command(encoded.frame(0), encoded.buffers, words)

    def forget_functions(self) -> None:
        """The encoder has forgotten its functions."""
        with self.lock:
            self._told.clear()
            self._send({"op": "forget"})

    def _check_open(self) -> None:
        if self.gone is not None:
            raise WorldError(self.gone)
        if self._over:
            raise WorldError(self._farewell)

    def _send(self, header: dict[str, Any], buffers: Sequence[Any] = ()) -> None:
        self.stream.send(header, buffers)

    def ask(self, op: str, timeout: float | None = None, **words: Any) -> tuple[dict[str, Any], list[Any]]:
        """Ask the hub something; (what it replies, its buffers). Raises what the hub says is wrong."""
        buffers = words.pop("buffers", ())
        with self.lock:
            self._check_open()
            self._last_call += 1
            number = self._last_call
            self._calls[number] = None
            self._send({"op": op, "n": number, **words}, buffers)
        try:
            self.wait(lambda: self._calls[number] is not None, timeout)
        finally:
            found = self._calls.pop(number)
        if found is None:
            raise errors.CommandTimeout(f"the hub did not answer within {timeout} s")
        if "error" in found[0]:
            raise _error(found[0]["error"], found[0]["text"])
        return found

    def tell(self, op: str, **words: Any) -> None:
        """Tell the hub something that it does not reply to."""
        with self.lock:
            self._check_open()
            self._send({"op": op, **words})

    def together(
        self, label: str, parts: Sequence[tuple[int, Encoded]], ids: Iterator[int], timeout: float | None
    ) -> list[Any]:
        """Have the hub run a collective. Raises the error of the first member that failed."""
        ranks = [rank for rank, _ in parts]
        members = [Request(next(ids), rank, 0, label, ()) for rank in ranks]
        different = list({id(encoded): encoded for _, encoded in parts}.values())
        commands, buffers = [], []
        with self.lock:
            self._check_open()
            for encoded in different:
                words, own = self.describe(encoded, label)
                commands.append({**words, "buffers": len(own)})
                buffers += own
            for request in members:
                self._waiting[request.id] = request  # for what they print
        try:
            reply, content = self.ask(
                "together",
                ids=[request.id for request in members],
                ranks=ranks,
                which=[different.index(encoded) for _, encoded in parts],
                commands=commands,
                label=label,
                seconds=timeout,
                buffers=buffers,
            )
        except KeyboardInterrupt:
            with contextlib.suppress(MpiframeError):
                self.ask("break", self.grace, id=members[0].id)
            raise
        finally:
            for request in members:
                self._waiting.pop(request.id, None)
        if "failed" in reply:
            request = members[reply["failed"]]
            self._read(request, request.target, content, reply["times"])
            assert request.error is not None
            raise request.error
        for request, count in zip(members, reply["counts"], strict=True):
            self._read(request, request.target, content[:count], [None, None])
            del content[:count]
            if request.error is not None:
                raise request.error
        return [request.value for request in members]

    def _read(self, request: Request, server: int | None, content: list[Any], times: list[Any]) -> None:
        request.server = server
        answer = (request.id, *unpacked(content[0]), *times, (), 0)
        decode(request, answer, content[1:], self.host_of(server))

    def wait(self, done: Callable[[], bool], timeout: float | None = None) -> bool:
        """Wait until `done()`; False if `timeout` seconds pass before that. Raises KeyboardInterrupt."""
        if done():
            return True
        deadline = _FOREVER if timeout is None else time.monotonic() + timeout
        mine = threading.current_thread() is self._thread
        while not done():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            if self.gone is not None:
                if done():
                    return True
                raise WorldError(self.gone)
            if mine:  # a callback of a future waits for another
                self._step(None if left == _FOREVER else left)
                continue
            self.ctrl_c.install()
            self._follow(done, None if left == _FOREVER else left)
            self.ctrl_c.check()
        return True

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _follow(self, done: Callable[[], bool], left: float | None) -> None:
        with self._changed:
            if not done() and self.gone is None:
                self._changed.wait(left)

    def look(self) -> None:
        """What has arrived is taken in by the thread."""

    def fetched(self, requests: Iterable[Request]) -> None:
        """The user has the responses of these."""
        with self.lock:
            for request in requests:
                self.requests.pop(request.id, None)
                self._acks.append(request.id)
        self._tell_fetched()

    def _tell_fetched(self) -> None:
        with self.lock:
            acks, self._acks = self._acks, []
            if acks:
                self._send({"op": "done", "ids": acks})

    def adopt(self, ids: Sequence[int]) -> None:
        """Have the answers of requests that an earlier process of the session has pushed."""
        with self.lock:
            wanted = [id for id in ids if id not in self.requests]
            for id in wanted:
                request = Request(id, None, 0, "", ())
                self.requests[id] = self._waiting[id] = request
        if not wanted:
            return
        try:
            reply, _ = self.ask("adopt", ids=wanted)
        except BaseException:
            self._disown(wanted)
            raise
        for id, label in reply["known"]:
            self.requests[id].command = label
        self._disown(reply["unknown"])

    def _disown(self, ids: Iterable[int]) -> None:
        with self.lock:
            for id in ids:
                self.requests.pop(id, None)
                self._waiting.pop(id, None)

    def cancel(self, request: Request) -> bool:
        """Take a queued request back; whether it was still queued."""
        return not request.ended and self._cancel(request, False)

    def status_of(self, request: Request) -> Status:
        """Where a request is: the hub knows, unless it has ended."""
        if not request.ended:
            with contextlib.suppress(MpiframeError):  # then it has ended, or does in a moment
                return Status(self.ask("status", id=request.id)[0]["value"])
        return request.status

    def call_off(self, request: Request) -> bool:
        """Cancel a request, and interrupt it if it runs; whether it had not ended."""
        return not request.ended and self._cancel(request, True)

    def _cancel(self, request: Request, running: bool) -> bool:
        reply, _ = self.ask("cancel", id=request.id, running=running)
        return bool(reply["value"])

    def was_interrupted(self, requests: Sequence[Request]) -> None:
        """Ctrl-C ended a wait for these: interrupt them, and give them a moment to end."""
        waiting = [request for request in requests if not request.told]
        if waiting and self.gone is None:
            with contextlib.suppress(MpiframeError):
                self.ask("interrupt requests", self.grace, ids=[request.id for request in waiting])
                self.wait(lambda: all(request.told for request in waiting), self.grace / 2)

    def host_of(self, rank: int | None) -> str | None:
        """The host name of a server."""
        member = self.dispatcher.members.get(rank) if rank is not None else None
        return member.host if member is not None else None

    def recovered(self, rank: int) -> None:
        """Nothing is missing though this server was lost."""
        self.ask("recovered", rank=rank)

    def subscribe(self, source: str, callback: Callable[[int, Any], None]) -> Callable[[], None]:
        """Call `callback(server, event)` for each event of a plugin; gives what ends it."""
        end = self._hearing.subscribe(source, callback)
        self.ask("subscribe", source=source, on=True)
        return end


def _error(kind: str, text: str) -> MpiframeError:
    found = getattr(errors, kind, None)
    if isinstance(found, type) and issubclass(found, MpiframeError) and found is not CommandError:
        return found(text)
    return CommandError(text) if kind == "CommandError" else WorldError(text)
