"""Jobs on the servers of a world instead of a MiG server: the same home on the client, the same records."""

from __future__ import annotations

import concurrent.futures
import contextlib
import glob
import logging
import os
import secrets
import shutil
import threading
from collections.abc import Sequence
from typing import Any, Protocol

from mpiframe.errors import CommandCancelled, MpiframeError
from mpiframe.plugins.grid.mig import disk, mrsl, on_server, shell, states
from mpiframe.plugins.grid.mig.errors import MigLocalError
from mpiframe.plugins.grid.mig.home import LocalServer, describe
from mpiframe.plugins.grid.mig.records import Record
from mpiframe.plugins.grid.mig.server import Upload

log = logging.getLogger("mpiframe.plugins.grid.mig")

_GONE = "the client whose servers ran it is gone"


class Client(Protocol):
    """What is needed of `mpiframe.Client`."""

    def submit(self, fn: Any, /, *args: Any, target: Any = None) -> concurrent.futures.Future[Any]:
        """Queue a call on a server."""

    def cancel(self, id: Any) -> bool:
        """End a request."""


class WorldServer(LocalServer):
    """Runs each job on a server of a world, in that server's FIFO.

    Files travel with the job, so the servers need not see the client's disk. target: which servers; None,
    the first that is free; several take turns.
    """

    def __init__(self, client: Client, target: Any = None, home: str | None = None) -> None:
        super().__init__(home)
        self._client, self._turn = client, 0
        self._targets = None if target == "all" else target
        self._futures: dict[str, Any] = {}
        self._noted: set[str] = set()
        self._lock = threading.Lock()
        self._ended: dict[str, threading.Event] = {}
        for old in glob.glob(os.path.join(glob.escape(self.home), disk.JOBS, ".client-*")):
            if not disk.is_held(old):
                os.unlink(old)
        # One lock for all jobs of this client: when it is gone, whoever asks for one of them sees that.
        self._alive = os.path.join(self.home, disk.JOBS, f".client-{secrets.token_hex(8)}")
        self._held = disk.hold_new(self._alive)

    def submit(self, text: str, uploads: Sequence[Upload], name: str) -> str:  # noqa: ARG002
        """Put the files into the home, and queue the job on a server; its id."""
        description = mrsl.parse(text)
        self._check(description)
        for one in uploads:
            self._copy_in(one)
        record, _ = self.prepare(description, own_keeper=False, if_gone=_GONE)
        try:
            parcel = self._parcel(record)
        except OSError as error:
            record.change(states.FAILED, reason=str(error))
            raise MigLocalError(f"the files of job {record.id} cannot be read: {error}") from error
        self._ended[record.id] = threading.Event()
        try:
            future = self._client.submit(on_server.run, parcel, target=self._next_target())
        except MpiframeError as error:
            record.change(states.FAILED, reason=f"it could not be queued: {error}")
            raise
        self._futures[record.id] = future
        future.add_done_callback(lambda ended: self._note(record, ended))
        return record.id

    def info(self, job_id: str) -> dict[str, str]:
        """What is known of a job."""
        record = self.record(job_id)
        found = record.resolve()
        future = self._futures.get(record.id)
        if future is not None and found["status"] == states.QUEUED and _runs(self._client, future):
            with self._lock:
                if record.id not in self._noted:
                    record.change(states.EXECUTING)
            found = record.resolve()
        return describe(found)

    def cancel(self, job_id: str) -> None:
        """End a job: a queued one never runs, the processes of a running one are ended."""
        record = self.record(job_id)
        future = self._futures.get(record.id)
        if future is None:
            if record.resolve().get("own_keeper", True):
                super().cancel(job_id)
                return
            self.refuse_ended(record)
            raise MigLocalError(
                f"job {job_id} runs on the servers of another client, which alone can cancel it"
            )
        self.refuse_ended(record)
        disk.replace(record.path("canceled"), b"")
        request = getattr(future, "request", None)
        place = (0, 0) if request is None else (request.server or 0, request.id)
        self._client.cancel(future)
        self.wait(record.id, shell.KILL_SECONDS)
        if place[0]:
            _await_server(self._client, *place)

    def wait(self, job_id: str, seconds: float | None) -> bool:
        """Until a job has ended; whether it has."""
        record = self.record(job_id)
        future = self._futures.get(record.id)
        if future is None:
            return record.wait(seconds)
        with contextlib.suppress(Exception):  # what became of it is in the record
            future.exception(seconds)
        if future.done():
            self._ended[record.id].wait(seconds)
        return record.resolve()["status"] in states.ENDED

    def close(self) -> None:
        """Wait for the jobs of this client, and let go of them."""
        for job_id in list(self._futures):
            self.wait(job_id, None)
        with contextlib.suppress(OSError):
            os.unlink(self._alive)
        os.close(self._held)

    def _claim(self, record: Record) -> int:
        os.symlink(os.path.join("..", os.path.basename(self._alive)), record.path("alive"))
        record.kept_by(os.getpid())
        return -1

    def _next_target(self) -> Any:
        if not isinstance(self._targets, (list, tuple)):
            return self._targets
        self._turn += 1
        return self._targets[(self._turn - 1) % len(self._targets)]

    def _parcel(self, record: Record) -> on_server.Parcel:
        root = record.path("exec")
        files = []
        for folder, _, names in os.walk(root):
            for name in names:
                path = os.path.join(folder, name)
                content = on_server.read(path)
                files.append((os.path.relpath(path, root), content, os.access(path, os.X_OK)))
        with open(record.path("spec"), encoding="utf-8") as file:
            parcel = on_server.Parcel(shell.Spec.from_json(file.read()), tuple(files))
        shutil.rmtree(root, ignore_errors=True)
        return parcel

    def _note(self, record: Record, future: concurrent.futures.Future[Any]) -> None:
        """A job has ended: its files, then its record. Called in whichever thread notices."""
        try:
            with self._lock:
                self._noted.add(record.id)
                self._close(record, future)
        except Exception as error:
            log.error("what became of job %s cannot be written down: %s", record.id, error)
        finally:
            self._ended[record.id].set()

    def _close(self, record: Record, future: concurrent.futures.Future[Any]) -> None:
        state, values = states.FINISHED, dict[str, Any]()
        error = CommandCancelled("") if future.cancelled() else future.exception()
        if isinstance(error, CommandCancelled):
            state = states.CANCELED
        elif error is not None:
            state, values = states.FAILED, {"reason": f"{type(error).__name__}: {error}"}
        else:
            outcome: on_server.Outcome = future.result()
            values = {"executing": outcome.started, "resource": outcome.host}
            unwritten = self._unpack(record, outcome)
            reason = outcome.reason or unwritten
            if reason:
                state, values["reason"] = states.FAILED, reason
        record.change(state, **values)

    def _unpack(self, record: Record, outcome: on_server.Outcome) -> str:
        """Write what a job made; what could not be written."""
        try:
            for ending, content in outcome.said.items():
                disk.replace(record.output(ending), content)
            for destination, content in outcome.outputs.items():
                path = disk.inside(self.home, destination)
                os.makedirs(os.path.dirname(path), exist_ok=True)
                disk.replace(path, content)
        except Exception as error:
            return f"what it made could not be moved home: {error}"
        return ""


def _runs(client: Any, future: Any) -> bool:
    """Whether a server has begun with it, as far as the client knows."""
    request = getattr(future, "request", None)
    if request is None:
        return bool(future.running())
    return str(client._loop.status_of(request)) == "running"


def _await_server(client: Any, rank: int, request: int) -> None:
    """Until a server has ended the processes of a job that was cancelled, and goes on with the next.

    An attached process is not told of that, and leaves it to the server.
    """
    loop = client._loop
    running = getattr(loop.dispatcher, "running", None)
    if running is not None:
        loop.wait(lambda: running(rank) != request, 2 * shell.KILL_SECONDS)
