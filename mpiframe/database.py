"""The SQLite file below a journal: made for its owner alone, looked at with care, locked while it is open."""

from __future__ import annotations

import os
import sqlite3
import stat

from mpiframe.errors import JournalError

_LOCK_SECONDS = 2.0  # a process that was killed may take a moment to let go of its locks; a run takes hours
_APPLICATION = 0x6D706966  # "mpif": how SQLite files say whose they are
_FORMAT = 1

_TABLES = """
CREATE TABLE parts (id INTEGER PRIMARY KEY, label TEXT NOT NULL UNIQUE);
CREATE TABLE functions (id INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, parts TEXT NOT NULL);
CREATE TABLE items (
    key INTEGER PRIMARY KEY, function INTEGER NOT NULL, input BLOB NOT NULL, size INTEGER NOT NULL,
    sections TEXT, value BLOB);
CREATE TABLE pieces (key INTEGER, number INTEGER, data BLOB NOT NULL, PRIMARY KEY (key, number));
"""


def open_database(path: str) -> sqlite3.Connection:
    """The file at this path, which is made if it is not there; nobody else can open it meanwhile.

    Any thread may use the connection, one at a time; it is in autocommit mode. Raises JournalError for a
    place where no file can be, a file that is something else, one that another run has open, and one that
    others may have written.
    """
    _make(path)
    _check_owner(path)
    connection = sqlite3.connect(path, timeout=_LOCK_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        # With this the lock is kept until the end, and no memory is shared through a file, which network file
        # systems cannot do.
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN EXCLUSIVE")
        _check_format(path, connection)
        connection.execute("COMMIT")
        _check_owner(path)  # once more, now that SQLite has its files open
    except BaseException as error:
        connection.close()
        if isinstance(error, sqlite3.Error):
            raise explained(path, error) from error
        raise
    return connection


def explained(path: str, error: sqlite3.Error) -> JournalError:
    """What SQLite says, in words that say what to do."""
    text = str(error)
    if "locked" in text or "locking protocol" in text:
        return JournalError(
            f"{path} is in use: another run, or another program, has it open ({text}). One run at a time can "
            "use a journal"
        )
    if "not a database" in text or "malformed" in text:
        return JournalError(f"{path} is no journal of mpiframe, or it is damaged: {text}")
    return JournalError(f"{path} cannot be read or written: {text}. What it holds stays as it was")


def identity(path: str) -> tuple[int, int] | None:
    """Which file there is at this path, None if there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _check_format(path: str, sql: sqlite3.Connection) -> None:
    application = sql.execute("PRAGMA application_id").fetchone()[0]
    format = sql.execute("PRAGMA user_version").fetchone()[0]
    if application == _APPLICATION and format == _FORMAT:
        return
    if application == _APPLICATION:
        raise JournalError(f"{path} was written by another version of mpiframe (format {format})")
    if sql.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise JournalError(f"{path} is no journal of mpiframe but another program's database")
    for statement in filter(str.strip, _TABLES.split(";")):
        sql.execute(statement)
    sql.execute(f"PRAGMA application_id = {_APPLICATION}")
    sql.execute(f"PRAGMA user_version = {_FORMAT}")


def _make(path: str) -> None:
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        pass
    except OSError as error:
        raise JournalError(f"the journal {path} cannot be made: {error.strerror}") from error


def _check_owner(path: str) -> None:
    """What is read from these files is unpickled, which runs whatever code they hold."""
    for name in (path, f"{path}-wal", f"{path}-journal"):
        try:
            found = os.stat(name)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise JournalError(f"the journal {name} cannot be used: {error.strerror}") from error
        if not stat.S_ISREG(found.st_mode):
            raise JournalError(f"the journal {name} is no file")
        if found.st_uid != os.geteuid():
            raise JournalError(
                f"{name} belongs to another user (number {found.st_uid}), who could make this process run "
                "any code; a journal must be your own"
            )
        if found.st_mode & 0o022:
            raise JournalError(
                f"{name} can be written by other users, who could make this process run any code. If you "
                f"trust what it holds: chmod go-w {name}"
            )
