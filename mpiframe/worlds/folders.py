"""The folder in which the worlds of this user have theirs: private, and where it outlasts a log-out."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from mpiframe.errors import WorldError

FOLDER = "MPIFRAME_WORLDS"
"""The variable that names the folder of all worlds, where the one found by itself will not do."""

_GUARD = ".lock"


def base(*, create: bool = True) -> Path:
    """The folder in which a new world gets its own, private to this user.

    `$MPIFRAME_WORLDS`; else `$XDG_RUNTIME_DIR/mpiframe`, if that outlasts the log-out of the user; else
    `/tmp/mpiframe-UID`, and below `$TMPDIR` where /tmp is not to be had.

    Raises WorldError where it cannot be made, or others own it or may write there.
    """
    return _checked(_candidates()[0], create)


def bases() -> list[Path]:
    """The folders in which worlds are looked for: those where another shell's variables may have put one."""
    first, *others = _candidates()
    found = [_checked(first, create=False)] if first.exists() else []
    for path in others:
        with contextlib.suppress(WorldError, OSError):  # not where ours would be: whoever made it may keep it
            found.append(_checked(path, create=False))
    return found


def _candidates() -> list[Path]:
    if os.environ.get(FOLDER):
        return [Path(os.path.abspath(os.environ[FOLDER]))]
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    own = f"mpiframe-{os.geteuid()}"
    places = [Path(parent) / own for parent in ("/tmp", os.environ.get("TMPDIR", ""))
              if parent and os.access(parent, os.W_OK | os.X_OK)]  # fmt: skip
    if runtime and os.path.isdir(runtime):
        places.insert(0 if _outlasts_logout(runtime) else len(places), Path(runtime) / "mpiframe")
    if not places:
        raise WorldError(
            f"there is no folder for worlds: neither XDG_RUNTIME_DIR nor /tmp nor TMPDIR can be written to. "
            f"Name one by {FOLDER}"
        )
    return list(dict.fromkeys(places))


def _outlasts_logout(runtime: str) -> bool:
    """systemd removes /run/user/UID with the user's last session, and a world's socket would go with it."""
    if not runtime.startswith("/run/user/"):
        return True
    try:
        import pwd

        return os.path.exists(f"/var/lib/systemd/linger/{pwd.getpwuid(os.geteuid()).pw_name}")
    except (ImportError, KeyError):
        return False


def _checked(path: Path, create: bool) -> Path:
    try:
        if create:
            with contextlib.suppress(FileExistsError):
                path.mkdir(mode=0o700)
        found = path.lstat()
    except OSError as error:
        raise WorldError(
            f"the folder of worlds cannot be made: {error.strerror}: {path}. Name another by {FOLDER}"
        ) from None
    check_owner(path, found)
    above = path.parent.stat()
    if above.st_mode & 0o022 and not above.st_mode & stat.S_ISVTX:
        raise WorldError(
            f"the folder of worlds, {path}, could be replaced by others, who may write to {path.parent}: "
            f"name another by {FOLDER}"
        )
    if found.st_mode & 0o077:
        os.chmod(path, 0o700)
    return path


def check_owner(path: Path, found: os.stat_result) -> None:
    """What is not ours alone to write, and a secret that others may read, is not used."""
    if found.st_uid != os.geteuid():
        raise WorldError(
            f"{path} belongs to another user (uid {found.st_uid}), who could read what passes through it: "
            f"have it removed, or name another folder of worlds by {FOLDER}"
        )
    if stat.S_ISLNK(found.st_mode):
        raise WorldError(f"{path} is a link, and has to be a folder: remove it")
    forbidden = 0o022 if stat.S_ISDIR(found.st_mode) else 0o077
    if found.st_mode & forbidden:
        what = "write to" if stat.S_ISDIR(found.st_mode) else "read"
        raise WorldError(
            f"others may {what} {path} (mode {stat.S_IMODE(found.st_mode):04o}): if nobody has, "
            f"`chmod go= {path}`, else remove it"
        )


@contextlib.contextmanager
def guard(folder: Path) -> Iterator[None]:
    """Within, no other process starts, judges or clears away a world of this folder; for an instant."""
    lock = os.open(folder / _GUARD, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            raise WorldError(
                f"files cannot be locked in {folder} ({error.strerror}): name one on a local disk by {FOLDER}"
            ) from None
        yield
    finally:
        os.close(lock)
