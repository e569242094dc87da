"""A job's output while it runs: what its files grow by, until the job has ended.

Three things end a sleep: the kernel's word that a file has grown (`file_events`), the watcher's that the job
has ended, and the time for a look. That look is needed where the job runs on another host: of what is
written there, this kernel is told nothing. It comes soon after output, and less and less often without.
The job's own record of its end is seen in the same way, mostly before the batch system is asked next.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from mpiframe.plugins.scheduler.file_events import FileEvents
from mpiframe.plugins.scheduler.files import of_task, read_text
from mpiframe.plugins.scheduler.job import Job
from mpiframe.plugins.scheduler.watcher import Watcher

SHORTEST_LOOK_SECONDS = 0.1
LONGEST_LOOK_SECONDS = 5.0
_SLOWER = 1.5
_PART = 1 << 20


class _Growing:
    """One file, and how much of it was passed on. A prefix stands before each line."""

    def __init__(self, path: str, out: BinaryIO, prefix: bytes = b"") -> None:
        self._path, self._out, self._prefix = path, out, prefix
        self._passed = 0
        self._held = b""

    def copy(self) -> bool:
        """Pass on what is new; whether there was anything."""
        grown = False
        # Opened anew each time: that is when a network file system asks for the file as it is now.
        with contextlib.suppress(FileNotFoundError), open(self._path, "rb", buffering=0) as file:
            if file.seek(0, 2) < self._passed:
                self._passed = 0  # the job was started again
            file.seek(self._passed)
            while part := file.read(_PART):
                grown = True
                self._passed += len(part)
                if self._prefix:
                    *lines, self._held = (self._held + part).split(b"\n")
                    part = b"".join([self._prefix + line + b"\n" for line in lines])
                self._out.write(part)
                self._out.flush()
        return grown

    def finish(self) -> None:
        """Pass on a last line that was not ended."""
        if self._held:
            self._out.write(self._prefix + self._held + b"\n")
            self._out.flush()
            self._held = b""


class _Bell:
    """Rung from other threads and from signal handlers; `fd` is readable then."""

    def __init__(self) -> None:
        self.fd, button = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._button = open(button, "wb", buffering=0)  # noqa: SIM115 - which knows when it was closed

    def ring(self, *_: Any) -> None:
        """Wake who waits; nothing once it is closed."""
        with contextlib.suppress(OSError, ValueError):
            self._button.write(b"\0")

    @property
    def is_rung(self) -> bool:
        """Whether nobody has taken the last ring."""
        return bool(select.select([self.fd], [], [], 0)[0])

    def take(self) -> bool:
        """Whether it was rung since the last call."""
        with contextlib.suppress(BlockingIOError):
            return bool(os.read(self.fd, 100))
        return False

    def close(self) -> None:
        """Ring no more."""
        self._button.close()
        os.close(self.fd)


def follow(job: Job, out: BinaryIO, err: BinaryIO, interrupted: Callable[[], bool]) -> bool:
    """Pass a job's output on as it comes, until the job has ended: True. For a process's main thread.

    Lines of an array's tasks begin with the task's number. interrupted: called after Ctrl-C; if it returns
    False, that ends the following (and is returned). Raises SchedulerDown if the batch system cannot be
    reached for long, OSError where the output cannot be passed on.
    """
    ends = [of_task(job.files.end, task) for task in job.tasks]
    streams = {job.files.err: err, job.files.out: out}  # one, where both go to one file
    growing = [
        _Growing(of_task(path, task), stream, b"" if task is None else f"{task}: ".encode())
        for path, stream in streams.items()
        for task in job.tasks
    ]
    events = FileEvents([*ends, *(of_task(path, task) for path in streams for task in job.tasks)])
    watcher, bell, pressed = Watcher(job.queue), _Bell(), _Bell()
    over = watcher.future(job.id)
    over.add_done_callback(bell.ring)
    look, said_end = SHORTEST_LOOK_SECONDS, False
    try:
        with _ctrl_c(pressed):
            while True:
                is_over = over.done()  # asked first: what was written before the end is then all there
                grown = any([one.copy() for one in growing])
                if is_over:
                    over.result()
                    for one in growing:
                        one.finish()
                    return True
                if not said_end and all([_says_end(path) for path in ends]):
                    said_end = True
                    job.queue.hasten()
                look = SHORTEST_LOOK_SECONDS if grown else min(look * _SLOWER, LONGEST_LOOK_SECONDS)
                wakers = [bell.fd, pressed.fd, events.fd]
                select.select([fd for fd in wakers if fd >= 0], [], [], look)
                events.renew()
                if pressed.take():
                    if not interrupted():
                        return False
                    look = SHORTEST_LOOK_SECONDS
    finally:
        watcher.stop()
        events.close()
        bell.close()
        pressed.close()


@contextlib.contextmanager
def _ctrl_c(pressed: _Bell) -> Iterator[None]:
    """Ctrl-C rings instead of tearing up what is being passed on; the second in a row ends it after all."""

    def press(number: int, frame: Any) -> None:
        if pressed.is_rung:  # and nobody came: whoever reads the output does not
            signal.default_int_handler(number, frame)
        pressed.ring()

    with on_ctrl_c(press):
        yield


@contextlib.contextmanager
def on_ctrl_c(handler: Any) -> Iterator[None]:
    """Have SIGINT handled so for a while."""
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _says_end(path: str) -> bool:
    text = read_text(path)
    return "\nexit " in text or "\nskipped " in text
