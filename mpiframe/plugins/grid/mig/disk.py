"""Files of jobs: written whole or not at all, and never outside the folder they belong to."""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import os
import pickle
import secrets
import shutil
import tempfile
from collections.abc import Iterator

from mpiframe.plugins.grid.mig.errors import FILE_NOT_FOUND, MigLocalError, MigServerError

HOME = "MPIFRAME_MIG_HOME"
"""The variable that names another home than <tmp>/<user>_mig_home."""
JOBS = ".mig_jobs"
OUTPUT = "job_output"


def user() -> str:
    """The user's name, or number where it has none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def open_home(path: str | None) -> str:
    """The home of local jobs, made if need be. Raises MigLocalError if it is not the user's own."""
    path = path or os.environ.get(HOME) or os.path.join(tempfile.gettempdir(), f"{user()}_mig_home")
    home = os.path.abspath(path)
    try:
        os.makedirs(home, mode=0o700, exist_ok=True)
        found = os.lstat(home)
        if found.st_uid != os.getuid() or os.path.islink(home):
            raise MigLocalError(
                f"{home} is another user's, or a link, so no jobs are kept in it; "
                f"set {HOME} to a folder of yours"
            )
        for name in (JOBS, OUTPUT):
            os.makedirs(os.path.join(home, name), mode=0o700, exist_ok=True)
    except OSError as error:
        raise MigLocalError(f"the home of local jobs, {home}, cannot be made: {error}") from error
    return home


def inside(home: str, path: str) -> str:
    """A path below the home. A leading slash means the home; raises MigServerError for what leaves it."""
    joined = os.path.normpath(os.path.join(home, path.lstrip("/")))
    real = os.path.realpath(joined)
    root = os.path.realpath(home)
    if "\0" in path or (real != root and not real.startswith(root + os.sep)):
        raise MigServerError(f"{path!r} leaves the home folder", FILE_NOT_FOUND)
    if JOBS in os.path.relpath(joined, home).split(os.sep)[:1]:
        raise MigServerError(f"{path!r} is not the user's", FILE_NOT_FOUND)
    return joined


def replace(path: str, content: bytes | pickle.PickleBuffer) -> None:
    """Write a file so that a reader sees the old or the new one. Raises OSError, and leaves no part."""
    part = f"{path}.{secrets.token_hex(4)}.part"
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(content)
        os.replace(part, path)
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)
        raise


def copy(source: str, destination: str, program: bool = False) -> None:
    """Copy a file with its mode, whole or not at all, and make its folder. Raises OSError."""
    os.makedirs(os.path.dirname(destination), exist_ok=True)
    part = f"{destination}.{secrets.token_hex(4)}.part"
    try:
        shutil.copyfile(source, part)
        shutil.copymode(source, part)
        if program:
            make_program(part)
        os.replace(part, destination)
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)
        raise


def make_program(path: str) -> None:
    """As `chmod +x`."""
    mode = os.stat(path).st_mode & 0o777
    os.chmod(path, mode | ((mode & 0o444) >> 2))


def move(source: str, destination: str) -> None:
    """Move a file, from another disk too. Raises OSError."""
    os.makedirs(os.path.dirname(destination), exist_ok=True)
    try:
        os.replace(source, destination)
    except OSError:
        copy(source, destination)
        os.unlink(source)


@contextlib.contextmanager
def locked(path: str) -> Iterator[None]:
    """Hold a lock that its holder's end lets go of, whatever ends it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def hold_new(path: str) -> int:
    """Make a file whose lock is held when it is first seen; its descriptor, to be closed. Raises OSError.

    A file that is locked after it was made could be taken for that of somebody who is gone.
    """
    part = os.path.join(os.path.dirname(path), f".{secrets.token_hex(8)}.part")
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.rename(part, path)
    except OSError:
        os.close(descriptor)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)
        raise
    return descriptor


def is_held(path: str) -> bool:
    """Whether somebody holds this lock."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
