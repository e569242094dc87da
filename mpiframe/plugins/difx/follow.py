"""Visibilities as they are written: `Follower` hands out new records as the `.difx` files grow.

It waits for word from the operating system that a file grew. A file that is written by another host of
a network file system gives no such word; for these it looks again after `recheck_seconds`.
"""

from __future__ import annotations

import contextlib
import os
import queue
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mpiframe.plugins.difx.formats.errors import FormatError
from mpiframe.plugins.difx.formats.input_file import Input, Product
from mpiframe.plugins.difx.formats.visibilities import (
    HEADER,
    Headers,
    Order,
    files_in,
    find,
    input_path,
    output_folder,
)

if TYPE_CHECKING:
    from watchdog.events import FileSystemEvent
    from watchdog.observers.api import ObservedWatch

RECHECK_SECONDS = 10.0
READ_BYTES = 1 << 26
"""How much of a file is read at once: what was written before is handed out in such pieces."""

_HEAD_BYTES = 4096


@dataclass(frozen=True)
class Batch:
    """Records that were found together, in the order of their file.

    headers: as of `Visibilities`; spectra: complex64, one array for each. restarted: the file was begun
    anew, as by a job that was started again: what it held before is void.
    """

    path: str
    headers: Headers
    spectra: tuple[npt.NDArray[np.complex64], ...]
    restarted: bool = False


@dataclass
class _Place:
    """How far a file has been read."""

    inode: int
    head: bytes = b""  # what it began with: an inode may be used again
    offset: int = 0
    byte_order: Order | None = None
    restarted: bool = False  # and that was not told yet


class Follower:
    """Follows the visibilities of a job, which may not have been started yet.

    for batch in follower: ... goes on until `stop`, or the end of a `with` block. products: what each
    integration will bring; their places in this list are their ids.
    """

    def __init__(self, job: str | os.PathLike[str], *, recheck_seconds: float = RECHECK_SECONDS) -> None:
        """Begin with what is there. Raises FormatError and OSError for the `.input` file.

        job: the `.input` file, or what the names of the job's files begin with.
        """
        try:
            from watchdog.observers import Observer
        except ImportError:
            raise FormatError("following a job needs watchdog: pip install 'mpiframe[difx]'") from None

        self.job = Input.read(input_path(job))
        self.products: list[Product] = self.job.products()
        self.folder = os.path.abspath(output_folder(job, self.job))
        self.recheck_seconds = recheck_seconds
        self._channels = self.job.channel_counts()
        self._places: dict[str, _Place] = {}
        # A condition would not do: Ctrl-C while one is waited for can leave its lock in disorder.
        self._news: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._stopped = False
        self._observer = Observer()
        self._watch: ObservedWatch | None = None
        self._watched: tuple[int, int] | None = None
        self._removed = False  # the folder, or one before it
        self._observer.start()
        try:
            # A folder that is not there yet, or is made anew, is seen from the one above it.
            self._schedule(os.path.dirname(self.folder))
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the following, from any thread: what was written before is still handed out."""
        if self._stopped:
            return
        self._stopped = True
        self._news.put(None)
        self._observer.stop()
        self._observer.join()

    def __enter__(self) -> Follower:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __iter__(self) -> Iterator[Batch]:
        while True:
            stopped = self._stopped
            yield from self.read()
            if stopped:
                return

    def read(self, timeout_seconds: float | None = None) -> list[Batch]:
        """What is new; waits until there is something, the time is over, or `stop` ([] for the latter two).

        Raises FormatError for a file that is none of visibilities. For one thread at a time.
        """
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while True:
            stopped = self._stopped
            # Before looking: what comes from here on is for the next time.
            with contextlib.suppress(queue.Empty):
                while True:
                    self._news.get_nowait()
            found = self._look(stopped)
            if found or stopped:
                return found
            left = self.recheck_seconds
            if deadline is not None:
                left = min(left, deadline - time.monotonic())
                if left <= 0:
                    return []
            if not self._stopped:
                with contextlib.suppress(queue.Empty):
                    self._news.get(timeout=left)

    # -- the files --

    def _look(self, stopped: bool) -> list[Batch]:
        if not stopped:
            self._watch_folder()
        try:
            paths = files_in(self.folder)
        except (FileNotFoundError, NotADirectoryError):
            return []
        found = []
        for path in paths:
            while (batch := self._grown(path)) is not None:
                found.append(batch)
        return found

    def _grown(self, path: str) -> Batch | None:
        """The next records of a file; None if there are no whole ones."""
        try:
            # Read and not mapped: a file that is cut short while it is mapped ends the process.
            with open(path, "rb", buffering=0) as file:
                status = os.fstat(file.fileno())
                place = self._places.get(path)
                head = os.pread(file.fileno(), _HEAD_BYTES, 0)
                if place is None:
                    place = self._places[path] = _Place(status.st_ino)
                elif (
                    status.st_ino != place.inode
                    or status.st_size < place.offset
                    or not head.startswith(place.head)
                ):
                    place = self._places[path] = _Place(status.st_ino, restarted=True)
                place.head = head
                data = os.pread(file.fileno(), READ_BYTES, place.offset)
        except FileNotFoundError:
            return None
        found = find(data, self._channels, path, place.offset, place.byte_order)
        if not len(found.offsets):
            return None
        place.offset += found.end
        place.byte_order = found.byte_order
        restarted, place.restarted = place.restarted, False
        dtype = np.dtype(np.complex64).newbyteorder(found.byte_order or "<")
        spectra = tuple(
            np.frombuffer(data, dtype, self._channels[int(freq)], int(offset) + HEADER.itemsize)
            for freq, offset in zip(found.headers["freq"], found.offsets, strict=True)
        )
        return Batch(path, found.headers, spectra, restarted)

    # -- the word from the operating system --

    def _watch_folder(self) -> None:
        """Watch the job's folder of visibilities once it is there, and the new one if it was replaced."""
        try:
            status = os.stat(self.folder)
        except FileNotFoundError:
            return
        if (status.st_dev, status.st_ino) == self._watched and not self._removed:
            return
        self._removed = False
        if self._watch is not None:
            self._observer.unschedule(self._watch)
            self._watch = None
        try:
            self._watch = self._schedule(self.folder)
        except FileNotFoundError:
            return  # gone again; the folder above tells when there is another
        self._watched = (status.st_dev, status.st_ino)

    def _schedule(self, folder: str) -> ObservedWatch:
        from watchdog import events

        handler = events.FileSystemEventHandler()
        handler.on_any_event = self._happened  # type: ignore[method-assign]
        # Not when a file is opened, as by ourselves.
        wanted = [events.FileModifiedEvent, events.FileCreatedEvent, events.DirCreatedEvent]
        wanted += [events.FileMovedEvent, events.DirMovedEvent, events.DirDeletedEvent]
        return self._observer.schedule(handler, folder, event_filter=wanted)

    def _happened(self, event: FileSystemEvent) -> None:
        paths = [os.fsdecode(path) for path in (event.src_path, event.dest_path) if path]
        if event.event_type == "deleted" and paths[0] == self.folder:
            self._removed = True  # and its watch with it; another folder may have its inode
        if any(path == self.folder or os.path.dirname(path) == self.folder for path in paths):
            if self._news.empty():  # one word is enough
                self._news.put(None)
