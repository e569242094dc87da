"""Lists of data files as the gateway's clients ask for them."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mpiframe.errors import MpiframeError
from mpiframe.plugins.difx.filelists import FileList, command_for
from mpiframe.plugins.difx.gateway_channels import Channel, ChannelClosed, receive_exactly, send_framed
from mpiframe.plugins.difx.gateway_runs import encoded, run_tool
from mpiframe.plugins.difx.protocol import ProtocolError, read_counted, read_int, write_int

if TYPE_CHECKING:
    from mpiframe.plugins.difx.gateway_session import Session

_MOST_NAMES = 10_000


@dataclass(frozen=True)
class Wanted:
    """A request for a list of data files with their times."""

    names: tuple[str, ...]
    destination: str
    format: str
    mjd: int
    port: int

    @classmethod
    def read(cls, data: bytes) -> Wanted:
        """From a packet's data. Raises ProtocolError."""
        count, place, names = read_int(data), 4, []
        if not 0 <= count <= _MOST_NAMES:
            raise ProtocolError(f"a list of {count} files")
        for _ in range(count):
            name, place = read_counted(data, place)
            names.append(name.decode("utf-8", "surrogateescape"))
        destination, place = read_counted(data, place)
        form, place = read_counted(data, place)
        mjd, place = read_int(data, place), place + 4
        _, place = read_counted(data, place)
        return cls(
            tuple(names),
            destination.decode("utf-8", "surrogateescape"),
            form.decode("latin-1"),
            mjd,
            read_int(data, place),
        )


async def file_list(session: Session, channel: Channel, wanted: Wanted) -> None:
    """Ask the program of the format for the times of each file, and write the list, sorted by them."""
    files = session.gateway.files
    await send_framed(channel, 102)
    destination = wanted.destination
    try:
        await asyncio.to_thread(files.stat, destination)
    except FileNotFoundError:
        pass
    except OSError as error:
        await send_framed(channel, 105, encoded(str(error)))
        await send_framed(channel, 100)
        return
    else:
        await send_framed(channel, 103, encoded(destination))
        if read_int(await receive_exactly(channel, 4, bytearray())) != 106:
            await send_framed(channel, 100)
            return
    await send_framed(channel, 104, encoded(destination))
    if command_for(wanted.format, wanted.mjd, "") is None:
        await send_framed(channel, 109, encoded(wanted.format))
        await send_framed(channel, 100)
        return
    made = FileList()
    failed = False
    for number, name in enumerate(wanted.names):
        lines: list[str] = []
        with contextlib.suppress(OSError, MpiframeError):
            await asyncio.to_thread(files.stat, name)  # raises for what is outside of the roots
            argv = command_for(wanted.format, wanted.mjd, name) or []
            failed = await run_tool(session, argv, lines.append) != 0 or failed
        if row := made.add(name, lines):
            await send_framed(channel, 111, encoded(row))
        await send_framed(channel, 110, write_int(number + 1))
    try:
        await asyncio.to_thread(files.send, destination, encoded(made.text()))
    except OSError as error:
        await send_framed(channel, 108, encoded(str(error)))
        failed = True
    if failed or made.missing:
        await send_framed(channel, 112)
    with contextlib.suppress(ChannelClosed):
        await send_framed(channel, 101)
