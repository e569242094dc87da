"""Programs of DiFX as the gateway's clients ask for them: vex2difx and calc, nodes, Mark 5 units.

Only programs that the gateway's options name are run, never through a shell; what a client writes into a
command becomes one argument each, of which none can be taken for an option.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mpiframe.errors import MpiframeError
from mpiframe.plugins.difx.gateway_channels import Channel, send_counted, send_framed
from mpiframe.plugins.difx.job_events import JobError, MachinesStep
from mpiframe.plugins.difx.machines import define_machines as write_machines
from mpiframe.plugins.difx.messages_bodies import (
    GetDirectory,
    MachinesDefinition,
    Mark5Control,
    Mark5Copy,
    Vex2DifxRun,
)
from mpiframe.plugins.difx.mpirun import Mpirun
from mpiframe.plugins.difx.programs import Program
from mpiframe.plugins.difx.protocol import Id, framed_items, write_int
from mpiframe.plugins.difx.versions import run_environment

if TYPE_CHECKING:
    from mpiframe.plugins.difx.gateway_session import Session

_NODE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,254}")
_NAME = re.compile(r"[^/\0\n-][^/\0\n]{0,254}")
_END_SECONDS = 2.0


class Refused(MpiframeError, OSError):
    """What the client wants run is not to be run here."""


def encoded(text: str) -> bytes:
    """A text for a packet."""
    return text.encode("utf-8", "surrogateescape")


def setup_of(session: Session, version: str | None) -> list[str]:
    """What comes before a program to run it in a version of DiFX. Raises VersionError."""
    return session.gateway.versions.command([], version_of(session, version))


def version_of(session: Session, version: str | None) -> str | None:
    """The version of DiFX that a command asks for, or else its client did; None is the usual one."""
    return version if version not in (None, "", "None") else session.setup


def checked_node(name: str) -> str:
    """A host's name that is nothing else. Raises Refused."""
    if not _NODE.fullmatch(name):
        raise Refused(f"{name[:80]!r} is no name of a host")
    return name


def checked_name(name: str) -> str:
    """A file's name without a folder, and no option. Raises Refused."""
    if not _NAME.fullmatch(name):
        raise Refused(f"{name[:80]!r} is no name of a file in that folder")
    return name


def one_of(kind: str, wanted: str | None, allowed: Sequence[str]) -> str:
    """A program that may be run, the first by default. Raises Refused."""
    if not wanted:
        return allowed[0]
    if wanted not in allowed:
        raise Refused(f"{wanted[:80]!r} is no {kind} that may be run here; there are {', '.join(allowed)}")
    return wanted


async def run_program(
    argv: Sequence[str],
    on_line: Callable[[str], object],
    on_error_line: Callable[[str], object] = lambda _: None,
    *,
    folder: str = "/",
) -> int:
    """Run a program to its end; its exit status. Ends it if we are cancelled. Raises ProgramError."""
    loop = asyncio.get_running_loop()
    tellers = {"stdout": on_line, "stderr": on_error_line}

    def tell(stream: str, line: str) -> None:
        loop.call_soon_threadsafe(tellers[stream], line)

    program = Program(argv, folder=folder, environment=run_environment(), on_line=tell)
    try:
        status = await asyncio.to_thread(program.wait)
    except asyncio.CancelledError:
        loop.run_in_executor(None, program.end, _END_SECONDS)
        raise
    assert status is not None
    return status


async def run_tool(
    session: Session,
    argv: Sequence[str],
    on_line: Callable[[str], object],
    on_error_line: Callable[[str], object] = lambda _: None,
    *,
    folder: str = "/",
    version: str | None = None,
) -> int:
    """The same in a version of DiFX. Raises VersionError too."""
    return await run_program([*setup_of(session, version), *argv], on_line, on_error_line, folder=folder)


# -- vex2difx and calc ----------------------------------------------------------------------------


async def vex2difx(session: Session, channel: Channel, body: Vex2DifxRun) -> None:
    """Make jobs of a .v2d file, then models of them; tell of each new file."""
    folder, options = body.path, session.gateway.options
    try:
        calc = one_of("calc program", body.calc_command, options.calc_programs)
        setup = " ".join(setup_of(session, body.version))
        if body.calc_only:
            begun = await asyncio.to_thread(_renewed, session, folder, checked_name(body.file))
        else:
            argv = ["vex2difx", "-f", checked_name(body.file)]
            before = await asyncio.to_thread(_stamps, session, folder)
            session.warn(f"Executing: cd {folder}; {setup} {' '.join(argv)}")
            failed = await _told_run(session, "vex2difx", argv, folder, body.version)
            if failed:
                session.say(Id.ERROR, "vex2difx RETURNED ERRORS")
            after = await asyncio.to_thread(_stamps, session, folder)
            new = sorted(path for path, stamp in after.items() if before.get(path) != stamp)
            for path in new:
                if path.endswith(".input"):
                    await send_counted(channel, encoded(path))
            begun = [path for path in new if path.endswith(".calc")]
        session.warn(f"running {calc} on all new .calc files")
        for path in begun:
            model = f"{path.removesuffix('.calc')}.im"
            was = (await asyncio.to_thread(_stamps, session, folder)).get(model)
            argv = [calc, "-f", os.path.basename(path)]
            await _told_run(session, calc, argv, folder, body.version)
            stamp = (await asyncio.to_thread(_stamps, session, folder)).get(model)
            if stamp is not None and stamp != was and stamp[1]:
                await send_counted(channel, encoded(model))
        session.warn(f"{calc} complete")
    except (OSError, MpiframeError) as error:
        session.say(Id.ERROR, f"vex2difx: {error}")
    await channel.items(write_int(0))


async def _told_run(
    session: Session, name: str, argv: Sequence[str], folder: str, version: str | None
) -> bool:
    """Run a program whose lines become diagnostics; whether it failed."""
    complained = False

    def error_line(line: str) -> None:
        nonlocal complained
        complained = True
        session.say(Id.ERROR, f"{name}... {line}")

    status = await run_tool(
        session,
        argv,
        lambda line: session.say(Id.INFORMATION, f"{name}... {line}"),
        error_line,
        folder=folder,
        version=version,
    )
    return status != 0 or (complained and session.gateway.options.judge_by_stderr)


def _stamps(session: Session, folder: str) -> dict[str, tuple[float, int]]:
    """When each file was written, and its size."""
    found = session.gateway.files.ls(folder)
    return {one.path: (one.modified, one.size_bytes) for one in found if one.kind == "file"}


def _renewed(session: Session, folder: str, job: str) -> list[str]:
    """The .calc files of jobs, whose .im files are removed."""
    files = session.gateway.files
    paths = [one.path for one in files.ls(f"{folder.rstrip('/')}/{job}.calc")]
    for path in paths:
        files.touch(path)
        files.rm(f"{path.removesuffix('.calc')}.im", missing_ok=True)
    return paths


# -- machines and threads -------------------------------------------------------------------------


_STEPS_WITH_TEXT = {
    MachinesStep.MACHINES_FILE,
    MachinesStep.THREADS_FILE,
    MachinesStep.MACHINES_NOT_WRITTEN,
    MachinesStep.THREADS_NOT_WRITTEN,
    MachinesStep.NODE_FAILED,
    MachinesStep.NODE_WORKS,
}


async def define_machines(session: Session, channel: Channel, body: MachinesDefinition) -> None:
    """Write a job's .machines and .threads."""
    loop = asyncio.get_running_loop()
    told: list[MachinesStep] = []

    def tell(step: MachinesStep, text: str) -> None:
        told.append(step)
        loop.call_soon_threadsafe(
            channel.offer, *framed_items(step, encoded(text) if step in _STEPS_WITH_TEXT else b"")
        )

    def write() -> None:
        options = session.gateway.options
        for node in (body.manager, *body.datastreams, *(n for one in body.processes for n in one.nodes)):
            if node:
                checked_node(node)
        mpirun = None
        if body.test_processors:
            launcher = one_of("launcher", body.mpi_wrapper, options.launchers)
            mpirun = Mpirun.find(launcher, environment=run_environment(), options=options.mpi_options)
        write_machines(
            body.input,
            body.manager,
            body.datastreams,
            [(node, one.threads) for one in body.processes for node in one.nodes],
            session.gateway.files,
            test_with=mpirun,
            environment=run_environment(),
            prefix=setup_of(session, body.version),
            machines_file=body.machines_file,
            threads_file=body.threads_file,
            on_step=tell,
        )

    try:
        await asyncio.to_thread(write)
    except (OSError, ValueError, MpiframeError) as error:
        session.say(Id.ERROR, f"the machines were not defined: {error}")
        if not (isinstance(error, JobError) and MachinesStep.TERMINATED in told):
            await send_framed(channel, MachinesStep.TERMINATED)


# -- Mark 5 ---------------------------------------------------------------------------------------


async def mark5_control(session: Session, channel: Channel, body: Mark5Control) -> None:
    """Send a command to a Mark 5 unit by mk5control."""
    await send_framed(channel, 102)
    status = await _lines_on(
        session, channel, ["mk5control", checked_argument(body.command), checked_node(body.node)], (108, 110)
    )
    if status:
        await send_framed(channel, 110, f"mk5control ended with status {status}".encode())
    await send_framed(channel, 101)


def checked_argument(text: str) -> str:
    """An argument that is no option. Raises Refused."""
    if text.startswith("-") or "\0" in text:
        raise Refused(f"{text[:80]!r} would be taken for an option")
    return text


async def _lines_on(
    session: Session,
    channel: Channel,
    argv: Sequence[str],
    ids: tuple[int, int],
    version: str | None = None,
    plain: bool = False,
) -> int:
    """Run a program whose lines become packets on the channel; its status, -1 where it cannot be run."""

    def tell(number: int) -> Callable[[str], object]:
        return lambda line: channel.offer(*framed_items(number, encoded(line)))

    try:
        if plain:
            return await run_program(argv, tell(ids[0]), tell(ids[1]))
        return await run_tool(session, argv, tell(ids[0]), tell(ids[1]), version=version)
    except (OSError, MpiframeError) as error:
        await send_framed(channel, ids[1], encoded(f"{argv[0]} cannot be run: {error}"))
        return -1


def _on_unit(session: Session, body: GetDirectory | Mark5Copy, argv: Sequence[str]) -> list[str]:
    """A program of DiFX on a Mark 5 unit."""
    launcher = one_of("launcher", body.mpi_wrapper, session.gateway.options.launchers)
    return [launcher, "-host", checked_node(body.mark5), *setup_of(session, body.version), *argv]


async def module_directory(session: Session, channel: Channel, body: GetDirectory) -> None:
    """The directory of a module, made anew if that is wanted."""
    await send_framed(channel, 301)
    folder = run_environment().get("MARK5_DIR_PATH")
    if not folder:
        await send_framed(channel, 306)
        await send_framed(channel, 304)
        return
    vsn = checked_name(body.vsn)
    if body.generate_new:
        await send_framed(channel, 311)
        argv = _on_unit(session, body, ["mk5dir", "-n", "-f", vsn])
        status = await _lines_on(session, channel, argv, (312, 314), plain=True)
        await send_framed(channel, 313 if status == 0 else 314)
    path = os.path.join(folder, f"{vsn}.dir")
    await send_framed(channel, 303, encoded(path))
    try:
        text, modified = await asyncio.to_thread(_content, path)
    except OSError:
        await send_framed(channel, 308)
        await send_framed(channel, 304)
        return
    await send_framed(channel, 307, time.ctime(modified).encode())
    await send_framed(channel, 309)
    for line in text.splitlines():
        await send_framed(channel, 310, encoded(line))
    await send_framed(channel, 302)


def _content(path: str) -> tuple[str, float]:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read(), os.fstat(file.fileno()).st_mtime


async def mark5_copy(session: Session, channel: Channel, body: Mark5Copy) -> None:
    """Copy scans of a module to files."""
    await send_framed(channel, 301)
    await asyncio.to_thread(session.gateway.files.stat, body.destination)  # raises outside of the roots
    argv = ["mk5cp", "-f", checked_name(body.vsn), checked_argument(body.scans), body.destination]
    status = await _lines_on(session, channel, _on_unit(session, body, argv), (312, 314), plain=True)
    await send_framed(channel, 302 if status == 0 else 304)
