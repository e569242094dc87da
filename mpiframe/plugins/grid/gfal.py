"""gfal2 for a Python that has no bindings: they come with the distribution, for its own Python only.

So gfal2 always runs in a process of its own, also where it could be imported: a call that hangs can be ended,
and the threads of Globus and XRootD stay out of an MPI rank. Requests go over pipes (`gfal_helper`), so
neither urls nor credentials are on a command line.
"""

from __future__ import annotations

import errno
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpiframe.launcher.environment import scrub_environment
from mpiframe.plugins.grid.credentials import Secret
from mpiframe.plugins.grid.storage_errors import (
    AccessDenied,
    AlreadyThere,
    DiskFull,
    MissingTool,
    NoSuchFile,
    StorageDown,
    StorageError,
    StorageTimeout,
    shown,
)

PACKAGES = (
    "gfal2 python3-gfal2 gfal2-plugin-file gfal2-plugin-srm gfal2-plugin-gridftp gfal2-plugin-http "
    "gfal2-plugin-xrootd"
)
"""Debian's; those of the last five are needed that carry the urls in question."""
SYSTEM_PYTHON = "/usr/bin/python3"
CALL_SECONDS = 600.0
START_SECONDS = 30.0
_EXIT_SECONDS = 1.0
_GRACE_SECONDS = 5.0
_LONGEST_LINE = 64 << 20


@dataclass(frozen=True)
class BearerToken:
    """A bearer token or macaroon for the urls that begin with `prefix`."""

    value: Secret
    prefix: str
    kind: str = "BEARER"


class Gfal:
    """gfal2. Starts when it is first needed; may be used by several threads, one call at a time.

    python: the interpreter that has the bindings; None tries the system's, then this one (the environment
    variable `MPIFRAME_GFAL_PYTHON` names another). call_seconds: after that a call is ended, with
    StorageTimeout. options: of gfal2's plugins, {("HTTP PLUGIN", "INSECURE"): False}. tokens: credentials
    besides the proxy certificate, which gfal2 finds by itself.
    Raises MissingTool, at the first call, where the bindings are in no such Python.
    """

    def __init__(
        self,
        python: str | None = None,
        *,
        call_seconds: float = CALL_SECONDS,
        options: Mapping[tuple[str, str], bool | int | str] | None = None,
        tokens: Sequence[BearerToken] = (),
    ) -> None:
        if call_seconds <= 0:
            raise ValueError("call_seconds has to be more than 0")
        named = python or os.environ.get("MPIFRAME_GFAL_PYTHON")
        self._pythons = [named] if named else list(dict.fromkeys([SYSTEM_PYTHON, sys.executable]))
        self._seconds = call_seconds
        self._options = [[group, name, value] for (group, name), value in (options or {}).items()]
        self._tokens = list(tokens)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._rest = b""
        self._end: Callable[[], Any] = lambda: None

    def __enter__(self) -> Gfal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process, also in the midst of a call, which then fails. The next call starts another."""
        process = self._process
        if process is not None:
            _kill(process)
        with self._lock:
            self._stop()

    def version(self) -> str:
        """gfal2's version."""
        return str(self.call("version"))

    def status(self, urls: Iterable[str]) -> list[str | StorageError]:
        """`user.status` of each file: NEARLINE, ONLINE, ...; or why it cannot be had."""
        urls = list(urls)
        return [
            found if isinstance(found, str) else error_of(found, url)
            for url, found in zip(urls, self.call("status", urls=urls), strict=True)
        ]

    def stage(
        self, urls: Iterable[str], pin_seconds: int, request_seconds: int
    ) -> tuple[str, list[StorageError | None]]:
        """Ask for files to be brought to disk: the request's token, and what was refused at once."""
        urls = list(urls)
        token, errors = self.call(
            "stage", urls=urls, pin_seconds=pin_seconds, request_seconds=request_seconds
        )
        return token, self._each(urls, errors)

    def poll(self, urls: Iterable[str], token: str) -> list[StorageError | bool]:
        """True for each file that is there, False for each that is not yet, else why it will not be."""
        urls = list(urls)
        answers: list[StorageError | bool] = []
        for url, error in zip(urls, self.call("poll", urls=urls, token=token), strict=True):
            if error is None:
                answers.append(True)
            elif error[0] == errno.EAGAIN:
                answers.append(False)
            else:
                answers.append(error_of(error, url))
        return answers

    def release(self, urls: Iterable[str], token: str) -> list[StorageError | None]:
        """Let go of staged files: the storage may take them off its disks."""
        urls = list(urls)
        return self._each(urls, self.call("release", urls=urls, token=token))

    def abort(self, urls: Iterable[str], token: str) -> list[StorageError | None]:
        """Take a request back."""
        urls = list(urls)
        return self._each(urls, self.call("abort", urls=urls, token=token))

    def size(self, url: str) -> int:
        """A file's size in bytes."""
        return int(self.call("size", url, url=url))

    def listdir(self, url: str) -> list[str]:
        """The names in a folder."""
        return [str(name) for name in self.call("listdir", url, url=url)]

    def copy(
        self, source: str, target: str, *, overwrite: bool = False, seconds: float | None = None
    ) -> None:
        """Copy one file between any two of file, gsiftp, srm, root and http; folders are made."""
        limit = self._seconds if seconds is None else seconds
        arguments = {"source": source, "target": target, "overwrite": overwrite, "limit": int(limit)}
        self.call("copy", target, limit + _GRACE_SECONDS, **arguments)

    def remove(self, url: str) -> None:
        """Delete one file."""
        self.call("remove", url, url=url)

    def call(self, name: str, about: str = "", seconds: float | None = None, **arguments: Any) -> Any:
        """One question and its answer. about: the url that an error names."""
        with self._lock:
            self._start()
            answer = self._ask(name, arguments, self._seconds if seconds is None else seconds)
        if "error" in answer:
            raise error_of(answer["error"], about)
        return answer.get("value")

    def _each(self, urls: Sequence[str], errors: Sequence[Any]) -> list[StorageError | None]:
        pairs = zip(urls, errors, strict=True)
        return [None if error is None else error_of(error, url) for url, error in pairs]

    # -- the process -----------------------------------------------------------------------------

    def _start(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        self._stop()
        missing = []
        for python in self._pythons:
            program = [python, "-I", str(Path(__file__).with_name("gfal_helper.py"))]
            try:
                self._process = subprocess.Popen(
                    program,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    env=scrub_environment(os.environ, purpose="child"),
                    start_new_session=True,
                )
            except OSError as error:
                missing.append(f"{python}: {error.strerror}")
                continue
            self._rest = b""
            self._end = weakref.finalize(self, _end, self._process)
            answer = self._read(START_SECONDS)
            if "ready" in answer:
                credentials = [[token.kind, token.value.reveal(), token.prefix] for token in self._tokens]
                settings = {"options": self._options, "credentials": credentials}
                self._ask("configure", settings, START_SECONDS)
                return
            self._stop()
            missing.append(f"{python}: {answer.get('missing')}")
        raise MissingTool(
            f"gfal2's Python bindings are not there ({'; '.join(missing)}). "
            f"On Debian: apt-get install {PACKAGES}. Elsewhere name a Python that has them in "
            "MPIFRAME_GFAL_PYTHON"
        )

    def _ask(self, name: str, arguments: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            line = json.dumps({"call": name, "arguments": arguments})
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
            return self._read(seconds)
        except BrokenPipeError:
            raise self._died() from None
        except BaseException:
            self._stop()  # its answer, if it comes, must not be taken for that to the next question
            raise

    def _read(self, seconds: float) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        deadline = time.monotonic() + seconds
        parts = [self._rest]
        held = len(self._rest)
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while b"\n" not in parts[-1]:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise StorageTimeout(f"gfal2 did not answer within {seconds:g} s; it has been ended")
                part = os.read(pipe, 1 << 20)
                held += len(part)
                if not part or held > _LONGEST_LINE:
                    raise self._died()
                parts.append(part)
        line, _, self._rest = b"".join(parts).partition(b"\n")
        try:
            answer: dict[str, Any] = json.loads(line)
        except ValueError:
            raise StorageError("gfal2's process answered with what is no JSON; it has been ended") from None
        return answer

    def _died(self) -> StorageError:
        process = self._process
        assert process is not None
        try:
            process.wait(_EXIT_SECONDS)  # its pipes are closed a moment before it has ended
        except subprocess.TimeoutExpired:
            pass
        self._stop()
        code = process.returncode
        return StorageError(f"gfal2's process ended in the middle of a call (exit status {code})")

    def _stop(self) -> None:
        self._end()
        self._process = None


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and what it has started, and close its pipes."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except BrokenPipeError:
                pass
    _kill(process)
    process.wait()


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process that leads a session, and what it has started."""
    if process.poll() is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def error_of(error: Sequence[Any], url: str) -> StorageError:
    """gfal2's [code, text] as an error of ours."""
    code, text = int(error[0]), str(error[1])
    where = f"{shown(url)}: " if url else ""
    known: dict[int, type[StorageError]] = {
        errno.ENOENT: NoSuchFile,
        errno.EEXIST: AlreadyThere,
        errno.EACCES: AccessDenied,
        errno.EPERM: AccessDenied,
        errno.ENOSPC: DiskFull,
        errno.EDQUOT: DiskFull,
        errno.ETIMEDOUT: StorageTimeout,
        errno.ECOMM: StorageDown,
        errno.ECONNREFUSED: StorageDown,
        errno.EHOSTUNREACH: StorageDown,
        errno.EPROTONOSUPPORT: MissingTool,
    }
    if code == errno.EPROTONOSUPPORT:
        text += f". Is the plugin for it installed? On Debian: apt-get install {PACKAGES}"
    return known.get(code, StorageError)(f"{where}{text} ({os.strerror(code)})")
