"""The trace of a run: what the client sees of each command, handed to a process that writes it down.

In the client it costs about a microsecond and a half a command: a tuple of numbers in a list, and now and
then the list's bytes into a pipe. Names, phases and the file are made by `trace_file`, on another core.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import marshal
import os
import queue
import select
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from time import time as clock
from typing import Any

from mpiframe import trace_file
from mpiframe.client_loop import ClientLoop
from mpiframe.errors import WorldError
from mpiframe.launcher.environment import scrub_environment
from mpiframe.messages import Request, Status
from mpiframe.trace_file import BEGIN, CLOSE, END, LATE, LENGTH, SAMPLE
from mpiframe.wording import shorten
from mpiframe.world import CLIENT, World

log = logging.getLogger("mpiframe")

_BATCH = 512  # records that are handed over together
_DELAY = 0.2  # seconds after which they are in any case
_BACKLOG = 64 * 2**20  # bytes that may wait to be written; what comes then is counted and left out
_PIPE = 2**20
_SAMPLED = 0.01  # seconds between two looks at the queues; longer where looking takes long
_LOOK = 2e-6  # seconds that it takes to look at one server's
_LATE = 10_000  # requests whose answers may still come after their end
_DONE = Status.DONE
_ENDS_LATE = (Status.CANCELLED, Status.TIMEOUT)


class Tracer:
    """Looks on, for the client's loop (an `observers.Tracing`); `start` makes one."""

    def __init__(self, loop: ClientLoop, process: subprocess.Popen[bytes], path: str) -> None:
        self._loop, self._process, self._path = loop, process, path
        assert process.stdin is not None
        self._pipe = process.stdin.fileno()
        os.set_blocking(self._pipe, False)
        self._records: list[tuple[Any, ...]] = []
        self._arrived: dict[int, tuple[float, int]] = {}  # answers by id: when, and bytes of large buffers
        self._out: dict[int, int] = {}  # bytes of large arguments, by id
        self._late: dict[int, tuple[Any, ...]] = {}  # requests that ended while their server was on them
        self._names: dict[str | int, str] = {}
        self._looked = 0.0
        self._pause = _SAMPLED
        self._missing = 0  # records that were left out
        self._backlog = 0  # bytes that the thread is to write
        self._asleep = True  # the thread waits for a first record
        self._batches: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._hand_over, name="mpiframe-trace", daemon=True)

    # -- the loop tells (with its lock) --------------------------------------------------------------

    def leaving(self, request: Request) -> None:
        """Large arguments are on their way."""
        self._out[request.id] = _bytes(request.buffers)

    def received(self, id: int, buffers: Sequence[Any], now: float) -> None:
        """An answer has come, of which a result is yet to be made."""
        self._arrived[id] = now, _bytes(buffers)

    def late(self, rank: int, answer: Any, now: float) -> None:
        """A server has answered a request that had ended."""
        known = self._late.pop(answer[0], None)
        if known is not None:
            status, name, queued, sent, out, *whose = known
            times = (queued, sent, answer[3], answer[4], now)
            self._records.append((LATE, answer[0], status, rank, name, *times, out, 0, *whose))

    def ended(self, request: Request) -> None:
        """A request has ended."""
        id, status = request.id, request.status
        command, future, owner = request.command, request.future, request.owner
        # A function by its key, because to hash or to ask it may run the user's code.
        key = command if type(command) is str else request.key
        name = self._names.get(key) or self._name(key, command)
        if future is not None and (first := getattr(future, "first_item", None)) is not None:
            name = f"{name} [{first}...]"
        come = self._arrived.pop(id, None) if self._arrived else None
        now, back = come or (clock(), 0)
        out = self._out.pop(id, 0) if self._out else 0
        records = self._records
        records.append((
            END,
            id,
            "done" if status is _DONE else status.value,
            request.server,
            name,
            request.queued_at,
            request.sent_at,
            request.started_at,
            request.finished_at,
            now,
            out,
            back,
            request.target is None,
            owner and owner.name,
        ))  # fmt: skip
        if (
            status is not _DONE
            and status in _ENDS_LATE
            and request.server is not None
            and len(self._late) < _LATE
        ):
            self._late[id] = (
                status.value,
                name,
                request.queued_at,
                request.sent_at,
                out,
                request.target is None,
                owner and owner.name,
            )
        if now - self._looked > self._pause:
            self._look(now)
        if len(records) >= _BATCH:
            self._flush()
        elif self._asleep:
            self._asleep = False
            self._batches.put(b"")

    # -- inside --------------------------------------------------------------------------------------

    def _name(self, key: str | int, command: Any) -> str:
        if len(self._names) >= 4096:
            self._names.clear()
        name = self._names[key] = name_of(command)
        return name

    def _look(self, now: float) -> None:
        """Note how long the queues are, and what the client uses of its processor."""
        dispatcher = self._loop.dispatcher
        ranks = dispatcher.ranks()
        self._looked = now
        self._pause = max(_SAMPLED, 50 * _LOOK * len(ranks))
        waiting = {rank: dispatcher.row(rank)[0] for rank in ranks}
        self._records.append((SAMPLE, now, dispatcher.waiting(), waiting, time.process_time()))

    def _flush(self, last: bool = False) -> None:
        """Hand over what there is; with the lock.

        By this thread, as long as the pipe takes it: to wake another costs more than all the rest.
        """
        records, self._records = self._records, []
        if not records:
            return
        if self._backlog > _BACKLOG and not last:
            self._missing += len(records)
            return
        data = marshal.dumps(records)
        data = LENGTH.pack(len(data)) + data
        if not self._backlog:
            try:
                data = data[os.write(self._pipe, data) :]
            except BlockingIOError:
                pass
            except OSError:
                self._loop.unobserve(self)  # the writer has said why it ended
                return
        if data:
            self._backlog += len(data)
            self._batches.put(data)

    def _hand_over(self) -> None:
        """The thread: waits until the pipe takes more, and sees that nothing lies about for long."""
        timeout: float | None = None
        while True:
            try:
                batch = self._batches.get(timeout=timeout)
            except queue.Empty:
                with self._loop.lock:
                    self._flush()
                    self._asleep = True
                timeout = None
                continue
            if batch is None:
                return
            if batch and not self._write(batch):
                self._loop.unobserve(self)
                return
            timeout = None if self._asleep else _DELAY

    def _write(self, batch: bytes) -> bool:
        """Write all of it, however long that takes; whether somebody reads."""
        left = memoryview(batch)
        while left:
            select.select([], [self._pipe], [])
            try:
                left = left[os.write(self._pipe, left) :]
            except BlockingIOError:
                continue
            except OSError:
                return False
        with self._loop.lock:
            self._backlog -= len(batch)
        return True

    # -- the end -------------------------------------------------------------------------------------

    def begin(self, facts: dict[str, Any]) -> None:
        """Write the first record, and look on from now on."""
        now = clock()
        with self._loop.lock:
            self._records.append((BEGIN, now, facts))
            self._look(now)
            self._flush()
        self._thread.start()
        self._loop.observe(self)

    def close(self, seconds: float) -> None:
        """Write what is left, and end the file; it says so if that takes more than so many seconds."""
        self._loop.unobserve(self)
        with self._loop.lock:
            self._look(clock())
            self._flush()
            self._records.append((CLOSE, clock(), self._missing))
            self._flush(last=True)
        self._batches.put(None)
        deadline = time.monotonic() + seconds
        self._thread.join(seconds)
        if not self._thread.is_alive():
            with contextlib.suppress(OSError):
                self._process.stdin.close()  # type: ignore[union-attr]
        try:
            self._process.wait(max(deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            log.warning("the trace %s is still being written; it may lack its end", self._path)
        if self._missing:
            log.warning("the trace %s lacks %d records: they came too fast", self._path, self._missing)


def _bytes(buffers: Sequence[Any]) -> int:
    return sum([memoryview(b).nbytes for b in buffers]) if buffers else 0


def name_of(command: Any) -> str:
    """A short name of what was pushed."""
    if isinstance(command, str):
        return shorten(command)
    function = getattr(command, "func", command)  # of a functools.partial; what it holds may be long
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    return shorten(str(name))


def start(loop: ClientLoop, world: World, path: str) -> Tracer:
    """Begin to write a trace of this client's commands; compressed if `path` ends in ".gz".

    Raises WorldError if the file cannot be made.
    """
    program = Path(trace_file.__file__)
    kind = "gzip" if path.endswith(".gz") else "plain"
    try:
        with open(path, "wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(program), kind, path],
                stdin=subprocess.PIPE,
                stdout=file,
                env=scrub_environment(os.environ, purpose="child"),
                start_new_session=True,
            )
    except OSError as error:
        raise WorldError(f"the trace {path} cannot be written: {error.strerror or error}") from error
    assert process.stdin is not None
    with contextlib.suppress(OSError, AttributeError):  # a larger pipe is a luxury
        fcntl.fcntl(process.stdin.fileno(), fcntl.F_SETPIPE_SZ, _PIPE)
    tracer = Tracer(loop, process, path)
    members, here = world.members, world.members[CLIENT]
    tracer.begin({
        "version": 1,
        "mpi": world.facts().mpi,
        "ranks": world.size,
        "host": here.host,
        "pid": here.pid,
        "command": sys.argv[:32],
        "servers": {
            rank: (members[rank].host, members[rank].pid, members[rank].host_key == here.host_key)
            for rank in world.servers
        },
    })  # fmt: skip
    return tracer
