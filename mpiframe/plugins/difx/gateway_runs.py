"""Programs of DiFX as the gateway's clients ask for them: vex2difx and calc, nodes.

Only programs that the gateway's options name are run, never through a shell; what a client writes into a
command becomes one argument each, of which none can be taken for an option.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mpiframe.errors import MpiframeError
from mpiframe.plugins.difx.gateway_channels import Channel, send_counted, send_framed
from mpiframe.plugins.difx.job_events import JobError, MachinesStep
from mpiframe.plugins.difx.machines import define_machines as write_machines
from mpiframe.plugins.difx.messages_bodies import (
    MachinesDefinition,
    Vex2DifxRun,
)
from mpiframe.plugins.difx.mpirun import Mpirun
from mpiframe.plugins.difx.passes import Pass
from mpiframe.plugins.difx.programs import Program
from mpiframe.plugins.difx.protocol import Id, framed_items, write_int
from mpiframe.plugins.difx.versions import run_environment

if TYPE_CHECKING:
    from mpiframe.plugins.difx.gateway_session import Session

_NODE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,254}")
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
    try:
        calc = one_of("calc program", body.calc_command, session.gateway.options.calc_programs)
        version = version_of(session, body.version)
        made = await asyncio.to_thread(
            Pass, body.path, body.file, session.gateway.files, session.gateway.versions,
            version=version, calc_command=calc, calc_only=bool(body.calc_only),
        )  # fmt: skip
        if not body.calc_only:
            argv = [*setup_of(session, body.version), "vex2difx", "-f", body.file]
            session.warn(f"Executing: cd {body.path}; {' '.join(argv)}")
        tell = _Lines(session, "vex2difx")
        well = await _step(made, lambda: made.make_jobs(tell))
        if not well or (tell.complained and session.gateway.options.judge_by_stderr):
            session.say(Id.ERROR, "vex2difx RETURNED ERRORS")
        for path in made.inputs:
            await send_counted(channel, encoded(path))
        session.warn(f"running {calc} on all new .calc files")
        loop = asyncio.get_running_loop()

        def found(path: str) -> None:
            asyncio.run_coroutine_threadsafe(send_counted(channel, encoded(path)), loop).result()

        tell_calc = _Lines(session, calc)
        await _step(made, lambda: made.make_models(found, tell_calc))
        session.warn(f"{calc} complete")
    except (OSError, ValueError, MpiframeError) as error:
        session.say(Id.ERROR, f"vex2difx: {error}")
    await channel.items(write_int(0))


class _Lines:
    """What a program says becomes diagnostics; complained: whether any of it was on stderr."""

    def __init__(self, session: Session, name: str) -> None:
        self.complained = False
        self._session, self._name, self._loop = session, name, asyncio.get_running_loop()

    def __call__(self, stream: str, line: str) -> None:
        self.complained = self.complained or stream == "stderr"
        kind = Id.ERROR if stream == "stderr" else Id.INFORMATION
        self._loop.call_soon_threadsafe(self._session.say, kind, f"{self._name}... {line}")


async def _step(made: Pass, part: Callable[[], bool]) -> bool:
    """Run a part of a pass in a thread; ends it if we are cancelled."""
    try:
        return await asyncio.to_thread(part)
    except asyncio.CancelledError:
        asyncio.get_running_loop().run_in_executor(None, made.stop)
        raise


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
