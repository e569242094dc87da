"""Files as the gateway's clients ask for them: operations, transfers, states of jobs."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING

from mpiframe.plugins.difx.formats.difxlog import DifxLog
from mpiframe.plugins.difx.formats.errors import FormatError
from mpiframe.plugins.difx.gateway_channels import (
    Channel,
    kept,
    receive_exactly,
    send_counted,
    send_framed,
)
from mpiframe.plugins.difx.messages_bodies import FileOperation, FileTransfer
from mpiframe.plugins.difx.protocol import (
    FILE_BLOCK,
    Id,
    read_int,
    write_int,
)
from mpiframe.plugins.difx.uploads import Upload

if TYPE_CHECKING:
    from mpiframe.plugins.difx.gateway_session import Session

_READ_BYTES = 64 * FILE_BLOCK
_LARGEST_FILE = 0xFFFFFF00
"""Bytes. A size has 32 bits, which clients take without a sign; the highest numbers are errors."""
_NOT_ABSOLUTE, _NOT_THERE, _NOT_ALLOWED, _NO_FOLDER = -1, -2, -3, -5
_MOST_NAMES = 10_000


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


# -- operations -----------------------------------------------------------------------------------


def operate(session: Session, body: FileOperation) -> None:
    """Carry a DifxFileOperation out: those that change anything one after the other, as they came."""
    if body.operation == "ls":
        session.reply(body.port, _list, body)
        return
    files, argument = session.gateway.files, body.arguments or ""
    path = body.path
    operations: dict[str, Callable[[], object]] = {
        "mkdir": lambda: files.mkdir(path),
        "rmdir": lambda: files.rmdir(path),
        "touch": lambda: files.touch(path),
        "rm": lambda: _remove(session, path, argument),
        "mv": lambda: files.mv(path, argument),
        "cp": lambda: files.cp(path, argument),
    }
    operation = operations.get(body.operation)
    if operation is None:
        session.say(
            Id.ERROR, f"{body.operation[:40]!r} is no file operation; there are ls, {', '.join(operations)}"
        )
        return
    change = _change(session, session.changes, body.operation, operation)
    session.changes = session.begin(change, kept=True) or session.changes


async def _change(
    session: Session, before: asyncio.Task[None] | None, name: str, operation: Callable[[], object]
) -> None:
    if before is not None:
        await asyncio.wait([before])
    try:
        await asyncio.to_thread(operation)
    except (OSError, ValueError) as error:  # PathRefused among them
        session.say(Id.ERROR, f"{name}: {error}")


def _remove(session: Session, path: str, argument: str) -> None:
    letters = set()
    for word in argument.split():
        if not word.startswith("-") or set(word[1:]) - set("rRfv"):
            raise ValueError(f"rm has no option {word!r} here, only -r -R -f -v")
        letters |= set(word[1:])
    session.gateway.files.rm(path, recursive=bool(letters & {"r", "R"}), missing_ok="f" in letters)


async def _list(session: Session, channel: Channel, body: FileOperation) -> None:
    """Each line with its end; nothing for what is not there."""
    lines: list[str] = []
    try:
        lines = await asyncio.to_thread(session.gateway.files.ls_lines, body.path, body.arguments or "")
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:
        session.say(Id.ERROR, f"ls: {error}")
    for line in lines:
        await send_counted(channel, _encoded(line + "\n"))
    await channel.items(write_int(0))


# -- transfers ------------------------------------------------------------------------------------


async def transfer(session: Session, channel: Channel, body: FileTransfer) -> None:
    """Send a file's size and content, or take them; a negative number instead says what is wrong."""
    if body.direction.strip() == "from DiFX":
        await _send_file(session, channel, body.origin or "")
    elif body.direction.strip() == "to DiFX":
        await channel.items(write_int(await _take_file(session, channel, body.destination or "")))
    else:
        session.warn(f"a file goes 'from DiFX' or 'to DiFX', not {body.direction[:40]!r}")
        await channel.items(write_int(_NOT_ABSOLUTE))


def _reason(path: str, error: OSError) -> int:
    if not path.startswith("/"):
        return _NOT_ABSOLUTE
    return _NOT_THERE if isinstance(error, FileNotFoundError) else _NOT_ALLOWED


async def _send_file(session: Session, channel: Channel, path: str) -> None:
    files = session.gateway.files
    pieces = _Pieces(files.chunks(path, size=_READ_BYTES))
    try:
        try:
            size = await asyncio.to_thread(files.size, path)
            piece = await asyncio.to_thread(pieces.next)
            if size > _LARGEST_FILE:
                raise OSError(f"{path} has {size} bytes, more than the protocol can say")
        except OSError as error:
            if not isinstance(error, FileNotFoundError):  # of which the number says all
                session.say(Id.ERROR, f"the file was not sent: {error}")
            await channel.items(write_int(_reason(path, error)))
            return
        await channel.items(write_int(size))
        left = size
        while piece := piece[:left]:
            await channel.items(*(piece[at : at + FILE_BLOCK] for at in range(0, len(piece), FILE_BLOCK)))
            left -= len(piece)
            piece = await asyncio.to_thread(pieces.next)
    finally:
        # Where we are cancelled it may be at work in its thread.
        asyncio.get_running_loop().run_in_executor(None, pieces.close)


class _Pieces:
    """The pieces of a file, of several threads one after the other."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._lock = threading.Lock()

    def next(self) -> bytes:
        """b"" at the end."""
        with self._lock:
            return next(self._pieces, b"")

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            if isinstance(self._pieces, Generator):
                self._pieces.close()


async def _take_file(session: Session, channel: Channel, path: str) -> int:
    """How many bytes were stored, or what is wrong."""
    if not path.startswith("/"):
        return _NOT_ABSOLUTE
    held = bytearray()
    try:
        opening = asyncio.to_thread(session.gateway.files.upload, path)
        upload = await kept(opening, Upload.abort)
    except NotADirectoryError:
        return _NO_FOLDER
    except OSError as error:
        session.say(Id.ERROR, f"the file was not taken: {error}")
        return _reason(path, error)
    with upload:
        left = read_int(await receive_exactly(channel, 4, held)) & 0xFFFFFFFF
        try:
            while left:
                piece = bytes(held[:left]) or (await channel.receive())[:left]
                held.clear()
                await asyncio.to_thread(upload.write, piece)
                left -= len(piece)
            await asyncio.to_thread(upload.commit)
        except OSError as error:
            session.say(Id.ERROR, f"the file was not taken: {error}")
            return _reason(path, error)
        return upload.size


# -- states of jobs -------------------------------------------------------------------------------


async def job_status(session: Session, channel: Channel, pattern: str) -> None:
    """The last state of each job whose .input file the pattern finds."""
    await send_framed(channel, 102)
    await send_framed(channel, 110, time.ctime().encode())
    files = session.gateway.files
    try:
        paths = [one for one in await asyncio.to_thread(_found, session, pattern) if one.endswith(".input")]
    except (OSError, ValueError) as error:
        session.say(Id.ERROR, f"no job's state can be told: {error}")
        paths = []
    for path in paths:
        await send_framed(channel, 104, _encoded(path))
        log = f"{path.removesuffix('.input')}.difxlog"
        try:
            text = (await asyncio.to_thread(files.read, log)).decode("utf-8", "replace")
            state = await asyncio.to_thread(last_state, text)
        except FileNotFoundError:
            await send_framed(channel, 105)
        except (OSError, FormatError):
            await send_framed(channel, 107)
        else:
            await (send_framed(channel, 106, _encoded(state)) if state else send_framed(channel, 108))
    await send_framed(channel, 101)


def _found(session: Session, pattern: str) -> list[str]:
    return [one.path for one in session.gateway.files.ls(pattern)]


def last_state(text: str) -> str:
    """Of a `.difxlog`: the time, the state that counts of the last run, and its message; "" for none."""
    for run in reversed(DifxLog.parse(text).runs()):
        for status in reversed(run.states):
            if status.state == run.state:
                return f"{time.ctime(status.time.timestamp())}{status.state}  {status.message}"
    return ""
