"""A job on a server of a world: what `mpi_mode_on` sends there, and what comes back."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import pickle
import select
import shutil
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass

from mpiframe.launcher.environment import scrub_environment
from mpiframe.plugins.grid.mig import disk, runner, shell

_PREFIX = "mpiframe-mig-"
Content = bytes | pickle.PickleBuffer
"""Of a file. A PickleBuffer is sent uncopied, and arrives as what can be written to a file."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """A job on its way. files: (destination, content, whether it is a program)."""

    spec: shell.Spec
    files: tuple[tuple[str, Content, bool], ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it ended. reason: "" if well; outputs and said: contents by destination, and by ending."""

    reason: str
    outputs: dict[str, Content]
    said: dict[str, Content]
    host: str
    started: float
    ended: float


def run(parcel: Parcel) -> Outcome:
    """Run a job in a folder of its own. Interrupted, it ends the job's processes first."""
    started = time.time()
    _remove_left()
    folder = tempfile.mkdtemp(prefix=_PREFIX)
    alive = disk.hold_new(os.path.join(folder, "alive"))  # another server may look for what was left just now
    try:
        root = os.path.join(folder, "exec")
        os.mkdir(root)
        for destination, content, program in parcel.files:
            path = disk.inside(root, destination)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            disk.replace(path, content)
            if program:
                disk.make_program(path)
        with open(os.path.join(folder, "spec"), "w", encoding="utf-8") as file:
            file.write(parcel.spec.to_json())
        _run_keeper(folder)
        return _outcome(folder, started)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(alive)


def _remove_left() -> None:
    """The folders of jobs whose server and keeper were killed in one moment, so that nobody could."""
    for folder in glob.glob(os.path.join(glob.escape(tempfile.gettempdir()), f"{_PREFIX}*")):
        alive = os.path.join(folder, "alive")
        with contextlib.suppress(OSError):  # another user's, or one that is being removed
            if os.path.exists(alive) and not disk.is_held(alive):
                shutil.rmtree(folder, ignore_errors=True)


def _run_keeper(folder: str) -> None:
    # Its end of the pipe is closed if this server dies, whatever kills it: the job ends with it.
    with open(os.path.join(folder, "log"), "wb") as log:
        keeper = subprocess.Popen(
            runner.command(folder),
            env=scrub_environment(os.environ),
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    assert keeper.stdin is not None
    try:
        # Not `wait`, which goes on for a quarter of a second after it was interrupted.
        pidfd = os.pidfd_open(keeper.pid)
        try:
            poll = select.poll()  # select knows no descriptor from 1024 on
            poll.register(pidfd, select.POLLIN)
            poll.poll()
        finally:
            os.close(pidfd)
    finally:
        keeper.stdin.close()
        keeper.wait()


def _outcome(folder: str, started: float) -> Outcome:
    try:
        with open(os.path.join(folder, "outcome"), encoding="utf-8") as file:
            reason, outputs = json.load(file)
    except FileNotFoundError:
        with open(os.path.join(folder, "log"), encoding="utf-8", errors="replace") as file:
            reason, outputs = f"its process was ended from outside: {file.read()[-1000:]}".rstrip(": "), []
    contents = {destination: read(path) for path, destination in outputs}
    said: dict[str, Content] = {}
    for ending in ("stdout", "stderr", "status"):
        with contextlib.suppress(FileNotFoundError):
            said[ending] = read(os.path.join(folder, ending))
    return Outcome(reason, contents, said, socket.gethostname(), started, time.time())


def read(path: str) -> Content:
    """A file, to be sent. Raises OSError."""
    with open(path, "rb") as file:
        return pickle.PickleBuffer(file.read())
