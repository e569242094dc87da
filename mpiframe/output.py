"""What commands print: caught on the server, marked and printed whole lines at a time at the client.

On a server both ways of printing are caught: Python's `sys.stdout` and `sys.stderr`, and the file
descriptors 1 and 2, which C libraries and subprocesses write to. The descriptors lead to anonymous files,
not to pipes: a library that prints more than a pipe holds, while it holds the interpreter lock, would wait
for a reader that cannot run.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from os import SEEK_END, lseek
from typing import IO, Any

STDOUT, STDERR = 1, 2
_TAIL = 64 * 1024  # characters kept of the end of a stream that went over its limit
_TRIM = 64 * 1024 * 1024  # bytes after which a descriptor's file is emptied

Piece = tuple[int, str]  # (STDOUT or STDERR, text)


class Capture:
    """Catches what this process prints, command by command.

    `on_text` is called after each write, with the capture's lock free, so that text can be sent live.
    """

    def __init__(self, limit: int, on_text: Callable[[], None]) -> None:
        # Reentrant: a destructor that prints may run in the middle of a write.
        self.lock = threading.RLock()
        self.request = 0  # set it to the id whose command begins; `end` puts it back
        self._on_text = on_text
        self._limit = limit
        self._pieces: list[tuple[int, int, str]] = []  # (request, stream, text)
        self._written: dict[int, int] = {}  # characters so far, by stream; empty if nothing was printed
        self._tail: dict[int, _Tail] = {}
        self._files: list[_DescriptorFile] = []
        self.stdout: _Stream | None = None  # what `sys.stdout` is while it is ours
        self.stderr: _Stream | None = None

    # -- life -------------------------------------------------------------------------------------

    def install(self) -> None:
        """Take over `sys.stdout`, `sys.stderr` and the descriptors 1 and 2."""
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        self._files = [_DescriptorFile(STDOUT), _DescriptorFile(STDERR)]
        self.stdout, self.stderr = _Stream(self, STDOUT), _Stream(self, STDERR)
        self.reclaim()

    def remove(self) -> None:
        """Give the descriptors back; what is printed from here on goes where it went before."""
        for file in self._files:
            file.restore()
        self._files = []
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__

    def reclaim(self) -> None:
        """Put our streams back; a command may have rebound `sys.stdout`, for itself alone."""
        if self.stdout is not None:
            sys.stdout, sys.stderr = self.stdout, self.stderr

    # -- one command ------------------------------------------------------------------------------

    def end(self) -> list[Piece]:
        """The text of this request that was not taken yet; from here on, text belongs to none."""
        for file in self._files:  # a look costs one system call
            if lseek(file.fd, 0, SEEK_END) > file.offset:
                self.drain()
                break
        if not self._written:
            self.request = 0
            return []
        with self.lock:
            mine, self.request = self.request, 0
            for stream, tail in self._tail.items():
                left_out = self._written[stream] - self._limit - tail.size
                note = f"\n[mpiframe: {left_out:,} characters left out here]\n" if left_out else ""
                self._pieces.append((mine, stream, note + "".join(tail.texts)))
            self._tail.clear()
            self._written.clear()
            others = [piece for piece in self._pieces if piece[0] != mine]
            pieces = _merged([piece for piece in self._pieces if piece[0] == mine])
            self._pieces = others
            return pieces

    def take(self, at_most: int = 1 << 20) -> tuple[int, list[Piece]]:
        """(request, text of this request to send now), for live output; about `at_most` characters."""
        with self.lock:
            size = used = 0
            for request, _, text in self._pieces:
                if used and (size + len(text) > at_most or request != self._pieces[0][0]):
                    break
                used += 1
                size += len(text)
            if not used:
                return 0, []
            taken = self._pieces[:used]
            del self._pieces[:used]
            return taken[0][0], _merged(taken)

    def pending(self) -> bool:
        """Whether there is text to take."""
        return bool(self._pieces)

    def drain(self) -> bool:
        """Fetch what was written to the descriptors; whether there was anything."""
        with self.lock:
            return self._drain()

    def write(self, stream: int, text: str) -> None:
        """Keep one piece of text."""
        with self.lock:
            self._drain()
            self._keep(stream, text)
        self._on_text()

    # -- inside, with the lock held ---------------------------------------------------------------

    def _drain(self) -> bool:
        found = False
        for file in self._files:
            if file.waiting():
                self._keep(file.stream, file.read())
                found = True
        return found

    def _keep(self, stream: int, text: str) -> None:
        if not self.request:  # a thread of its own, which no response will hold
            self._pieces.append((0, stream, text))
            return
        before = self._written.get(stream, 0)
        room = self._limit - before
        self._written[stream] = before + len(text)
        if room >= len(text):
            self._pieces.append((self.request, stream, text))
            return
        if room > 0:
            self._pieces.append((self.request, stream, text[:room]))
            text = text[room:]
        self._tail.setdefault(stream, _Tail()).add(text)


def _merged(pieces: list[tuple[int, int, str]]) -> list[Piece]:
    """The texts of one request, neighbours of one stream joined."""
    merged: list[tuple[int, list[str]]] = []
    for _, stream, text in pieces:
        if merged and merged[-1][0] == stream:
            merged[-1][1].append(text)
        else:
            merged.append((stream, [text]))
    return [(stream, "".join(texts)) for stream, texts in merged]


class _Tail:
    """The end of a stream that went over its limit."""

    def __init__(self) -> None:
        self.texts: deque[str] = deque()
        self.size = 0

    def add(self, text: str) -> None:
        text = text[-_TAIL:]
        self.texts.append(text)
        self.size += len(text)
        while self.size - len(self.texts[0]) >= _TAIL:
            self.size -= len(self.texts.popleft())


class _DescriptorFile:
    """An anonymous file in place of descriptor 1 or 2, and how far it was read."""

    def __init__(self, stream: int) -> None:
        self.stream = stream
        self._saved = os.dup(stream)
        if hasattr(os, "memfd_create"):
            fd = os.memfd_create(f"mpiframe-{stream}")
        else:
            import tempfile

            with tempfile.TemporaryFile() as file:
                fd = os.dup(file.fileno())
        import fcntl

        # Appending keeps writers of several processes apart, and lets the file be emptied under them.
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_APPEND)
        os.dup2(fd, stream)
        self.fd = fd
        self.offset = 0  # how far it was read
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")

    def waiting(self) -> bool:
        return lseek(self.fd, 0, SEEK_END) > self.offset

    def read(self) -> str:
        parts = []
        while part := os.pread(self.fd, 1 << 20, self.offset):
            parts.append(part)
            self.offset += len(part)
        if self.offset > _TRIM and not self.waiting():
            # What another process writes between the look and the cut is lost; only after 64 MiB.
            os.ftruncate(self.fd, 0)
            self.offset = 0
        return self._decoder.decode(b"".join(parts))

    def restore(self) -> None:
        os.dup2(self._saved, self.stream)
        os.close(self._saved)
        os.close(self.fd)


class _Stream(io.TextIOBase):
    """What `sys.stdout` and `sys.stderr` are on a server."""

    def __init__(self, capture: Capture, stream: int) -> None:
        self._capture = capture
        self._number = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        return "backslashreplace"

    @property
    def buffer(self) -> IO[bytes]:
        return io.FileIO(self._number, "wb", closefd=False)

    def fileno(self) -> int:
        return self._number

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if text:
            self._capture.write(self._number, text)
        return len(text)

    def close(self) -> None:
        """Closing the standard streams would leave the server without a voice; nothing happens."""


_writing = threading.RLock()  # reentrant: a stream of the user's may print, too
_prompt: Any = None


@contextlib.contextmanager
def beside_prompt(stream: Any) -> Iterator[None]:
    """Within, what servers print goes to `stream`, which keeps it out of the line that somebody types.

    Its `write` and `flush` are called with a lock held, so they must not wait for the thread that leaves this
    block; when it is left, nothing is on its way to the stream any more.
    """
    global _prompt
    with _writing:
        before, _prompt = _prompt, stream
    try:
        yield
    finally:
        with _writing:
            _prompt = before


def standard_stream(_request: int, stream: int) -> Any:
    """This process's own, as it is now."""
    return sys.stdout if stream == STDOUT else sys.stderr


class Printer:
    """The client's side: prints whole lines, marked with server and request, or writes them to files.

    `mode` is "redirect" (to the client's own streams), "files" (one file a server in `folder`) or
    "quiet".
    """

    MODES = ("redirect", "files", "quiet")

    def __init__(self, mode: str, folder: str | None = None) -> None:
        self.mode = mode
        self._lock = threading.Lock()
        self.partial: dict[tuple[int, int, int], list[str]] = {}  # lines without their end, by place
        self.find_stream = standard_stream
        """(request, stream) -> where its lines go; called with a lock held."""
        self._folder = folder or os.curdir
        self._open: dict[int, IO[str]] = {}

    def feed(self, server: int, request: int, pieces: list[Piece]) -> None:
        """Take pieces of text; print the lines that are complete."""
        if self.mode == "quiet":
            return
        with self._lock:
            for stream, text in pieces:
                start, newline, rest = text.rpartition("\n")
                place = (server, request, stream)
                if newline:
                    whole = "".join(self.partial.pop(place, [])) + start
                    self._print(server, request, stream, whole)
                if rest:
                    self.partial.setdefault(place, []).append(rest)

    def finish(self, server: int, request: int) -> None:
        """The command ended: print what it left without an end of line."""
        if not self.partial:
            return
        with self._lock:
            for stream in (STDOUT, STDERR):
                rest = self.partial.pop((server, request, stream), None)
                if rest:
                    self._print(server, request, stream, "".join(rest))

    def close(self) -> None:
        """Print what is left and close the files."""
        for server, request, _ in list(self.partial):
            self.finish(server, request)
        with self._lock:
            for file in self._open.values():
                file.close()
            self._open.clear()

    def _print(self, server: int, request: int, stream: int, text: str) -> None:
        what = f"{server} #{request}" if request > 0 else f"{server}"
        if self.mode == "files":
            lines = "".join([f"[#{request}] {line}\n" for line in text.split("\n")])
            self._write(self._file(server), lines)
            return
        lines = "".join([f"[server {what}] {line}\n" for line in text.split("\n")])
        with _writing:
            out = _prompt or self.find_stream(request, stream)
            if out is not None:
                self._write(out, lines)

    @staticmethod
    def _write(out: Any, text: str) -> None:
        try:
            out.write(text)
            out.flush()
        except (OSError, ValueError):
            pass  # a closed pipe or stream at the client must not stop the answers behind the text

    def _file(self, server: int) -> IO[str]:
        file = self._open.get(server)
        if file is None:
            path = os.path.join(self._folder, f"mpiframe-server-{server}.log")
            file = self._open[server] = open(path, "a", encoding="utf-8")  # noqa: SIM115 - closed in close()
        return file
