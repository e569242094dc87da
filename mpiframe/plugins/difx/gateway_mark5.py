"""Mark 5 units as the gateway's clients ask for them: commands, directories of modules, copies of scans.

The programs and their arguments are those of `mark5`. They run on the unit, by an mpirun of the options.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING

from mpiframe.errors import MpiframeError
from mpiframe.plugins.difx.gateway_channels import Channel, send_framed
from mpiframe.plugins.difx.gateway_runs import encoded, one_of, run_program, version_of
from mpiframe.plugins.difx.mark5 import Mark5, directory_path
from mpiframe.plugins.difx.messages_bodies import GetDirectory, Mark5Control, Mark5Copy
from mpiframe.plugins.difx.mpirun import Mpirun
from mpiframe.plugins.difx.programs import ProgramError
from mpiframe.plugins.difx.protocol import framed_items
from mpiframe.plugins.difx.versions import run_environment

if TYPE_CHECKING:
    from mpiframe.plugins.difx.gateway_session import Session

CONTROL_ENDED, CONTROL_STARTED, CONTROL_INFORMATION, CONTROL_ERROR = 101, 102, 108, 110


class UnitStep(IntEnum):
    """What a client is told of a directory and a copy; the guiServer's numbers."""

    STARTED = 301
    COMPLETED = 302
    FULL_PATH = 303
    FAILED = 304
    MPIRUN_ERROR = 305
    NO_VARIABLE = 306
    DATE = 307
    NOT_FOUND = 308
    FILE_START = 309
    FILE_LINE = 310
    GENERATE_STARTED = 311
    INFORMATION = 312
    GENERATED = 313
    ERROR = 314


async def control(session: Session, channel: Channel, body: Mark5Control) -> None:
    """Send a command to a unit by mk5control."""
    await send_framed(channel, CONTROL_STARTED)
    try:
        units = Mark5(session.gateway.versions, None, version_of(session, None))
        words = units.control_words(body.node, body.command)
        status = await _told(channel, words, CONTROL_INFORMATION, CONTROL_ERROR)
        if status:
            raise OSError(f"mk5control ended with status {status}")
    except (OSError, ValueError, MpiframeError) as error:
        await send_framed(channel, CONTROL_ERROR, encoded(str(error)))
    await send_framed(channel, CONTROL_ENDED)


async def directory(session: Session, channel: Channel, body: GetDirectory) -> None:
    """The directory of a module, made anew if that is wanted."""
    await send_framed(channel, UnitStep.STARTED)
    await _or_failed(channel, _directory(session, channel, body))


async def copy(session: Session, channel: Channel, body: Mark5Copy) -> None:
    """Copy scans of a module to files, inside the roots."""
    await send_framed(channel, UnitStep.STARTED)
    await _or_failed(channel, _copy(session, channel, body))


async def _or_failed(channel: Channel, work: Coroutine[None, None, UnitStep]) -> None:
    """Tell how it ended, and why it did not."""
    try:
        step = await work
    except (OSError, ValueError, MpiframeError) as error:
        await send_framed(channel, UnitStep.ERROR, encoded(str(error)))
        step = UnitStep.FAILED
    await send_framed(channel, step)


async def _directory(session: Session, channel: Channel, body: GetDirectory) -> UnitStep:
    try:
        units = await _units(session, body.mpi_wrapper, body.version)
        where: list[str] = []
        await run_program(units.where_words(body.mark5), where.append)
    except ProgramError as error:
        await send_framed(channel, UnitStep.MPIRUN_ERROR, encoded(str(error)))
        return UnitStep.FAILED
    path = directory_path(where, body.vsn)
    if path is None:
        await send_framed(channel, UnitStep.NO_VARIABLE)
        return UnitStep.FAILED
    if body.generate_new:
        await send_framed(channel, UnitStep.GENERATE_STARTED)
        words = units.generate_words(body.mark5, body.vsn)
        if status := await _told(channel, words, UnitStep.INFORMATION, UnitStep.ERROR):
            raise OSError(f"mk5dir ended with status {status}")
        await send_framed(channel, UnitStep.GENERATED)
    await send_framed(channel, UnitStep.FULL_PATH, encoded(path))
    date: list[str] = []
    lines: list[str] = []
    # Its time as `date` would say it, whatever the columns of `ls` are there.
    stat = ["date", "-r", path, "+%a %b %e %H:%M:%S %Y"]
    for words, heard in ((stat, date), (["cat", "--", path], lines)):
        if await run_program(units.plain_words(body.mark5, words), heard.append):
            await send_framed(channel, UnitStep.NOT_FOUND)
            return UnitStep.FAILED
    await send_framed(channel, UnitStep.DATE, encoded(date[-1]))
    await send_framed(channel, UnitStep.FILE_START)
    for line in lines:
        await send_framed(channel, UnitStep.FILE_LINE, encoded(line))
    return UnitStep.COMPLETED


async def _copy(session: Session, channel: Channel, body: Mark5Copy) -> UnitStep:
    await asyncio.to_thread(session.gateway.files.stat, body.destination)  # raises outside of the roots
    units = await _units(session, body.mpi_wrapper, body.version)
    words = units.copy_words(body.mark5, body.vsn, body.scans, body.destination)
    status = await _told(channel, words, UnitStep.INFORMATION, UnitStep.ERROR)
    return UnitStep.FAILED if status else UnitStep.COMPLETED


async def _units(session: Session, launcher: str | None, version: str | None) -> Mark5:
    """Raises ProgramError where there is no mpirun, and Refused for one that may not be run."""
    options = session.gateway.options
    chosen = one_of("launcher", launcher, options.launchers)
    mpirun = await asyncio.to_thread(
        lambda: Mpirun.find(chosen, environment=run_environment(), options=options.mpi_options)
    )
    return Mark5(session.gateway.versions, mpirun, version_of(session, version))


async def _told(channel: Channel, argv: Sequence[str], said: int, complained: int) -> int:
    """Run a program whose lines become packets on the channel; its status. Raises ProgramError."""

    def tell(number: int) -> Callable[[str], object]:
        return lambda line: channel.offer(*framed_items(number, encoded(line)))

    return await run_program(argv, tell(said), tell(complained))
