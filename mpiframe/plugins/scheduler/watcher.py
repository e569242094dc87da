"""Ends of jobs as futures: one thread waits for all of them, and is there only while there are any."""

from __future__ import annotations

import threading
from concurrent.futures import Future

from mpiframe.plugins.scheduler.queue import Queue
from mpiframe.plugins.scheduler.states import JobStatus

_ROUND_SECONDS = 1.0
"""How soon a job is noticed that was added while the batch system is being waited for."""


class Watcher:
    """Watches the jobs of one queue that somebody asked about."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._futures: dict[str, Future[list[JobStatus]]] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopped = False

    def future(self, number: str) -> Future[list[JobStatus]]:
        """Answered with the statuses of the job's tasks once it has ended. Raises JobNotFound."""
        self._queue.status(number)
        with self._lock:
            if number not in self._futures:
                self._futures[number] = Future()
                if self._thread is None and not self._stopped:
                    self._thread = threading.Thread(target=self._run, name="scheduler watcher", daemon=True)
                    self._thread.start()
            return self._futures[number]

    def stop(self) -> None:
        """Watch no longer; who waits for a future gets CancelledError."""
        with self._lock:
            self._stopped = True
            thread, waiting = self._thread, list(self._futures.values())
            self._futures.clear()
        for future in waiting:
            future.cancel()
        if thread is not None:
            thread.join(2 * _ROUND_SECONDS)

    def _run(self) -> None:
        while True:
            with self._lock:
                if self._stopped or not self._futures:
                    self._thread = None
                    return
                numbers = list(self._futures)
            try:
                self._queue.wait(numbers, _ROUND_SECONDS, any_of=True)
            except Exception as error:
                self._fail(error)
                continue
            for number in numbers:
                if self._queue.has_ended(number):
                    self._answer(number)

    def _answer(self, number: str) -> None:
        with self._lock:
            future = self._futures.pop(number, None)
        if future is not None and future.set_running_or_notify_cancel():
            future.set_result(self._queue.last_status(number))

    def _fail(self, error: Exception) -> None:
        with self._lock:
            waiting = list(self._futures.values())
            self._futures.clear()
        for future in waiting:
            if future.set_running_or_notify_cancel():
                future.set_exception(error)
