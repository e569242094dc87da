"""Jobs that the gateway's clients start and stop, told in the guiServer's packets."""

from __future__ import annotations

import asyncio
import shlex
from typing import TYPE_CHECKING

from mpiframe.errors import MpiframeError
from mpiframe.plugins.difx.gateway_channels import Channel, kept, send_framed
from mpiframe.plugins.difx.gateway_runs import Refused, encoded, one_of, version_of
from mpiframe.plugins.difx.job_events import JobEvent, JobStep
from mpiframe.plugins.difx.jobs import JobOptions
from mpiframe.plugins.difx.messages_bodies import Start, Stop
from mpiframe.plugins.difx.messages_states import StartFunction
from mpiframe.plugins.difx.protocol import Id, framed_items
from mpiframe.plugins.difx.versions import SHOWN

if TYPE_CHECKING:
    from mpiframe.plugins.difx.gateway_session import Session

_CHECKS = {StartFunction.CONFIG_ONLY: "only", StartFunction.BAIL_ON_CONFIG_FAIL: "require"}
_WITH_TEXT = {JobStep.MESSAGE, JobStep.WARNING, JobStep.ERROR}
_ENDS = {
    JobStep.TERMINATED,
    JobStep.ENDED,
    JobStep.FAILED,
    JobStep.ENDED_WITH_ERRORS,
    JobStep.STOPPED_AFTER_CHECK,
}
_REFUSALS = {JobStep.NO_MANAGER, JobStep.NO_DATASTREAMS, JobStep.NO_CORES}
"""Ends too, after which the guiServer says TERMINATED."""


async def start(session: Session, channel: Channel, body: Start) -> None:
    """Start a job, and tell of it until its end; it goes on if the client goes."""
    missing = [
        step
        for step, is_there in (
            (JobStep.NO_INPUT, body.input),
            (JobStep.NO_MANAGER, body.manager),
            (JobStep.NO_DATASTREAMS, body.datastreams),
            (JobStep.NO_CORES, body.processes),
        )
        if not is_there
    ]
    if missing:
        for step in (JobStep.STARTED, JobStep.CHECKING, missing[0], JobStep.TERMINATED):
            await send_framed(channel, step)
        return
    loop = asyncio.get_running_loop()
    teller = Teller(session, channel)
    try:
        options = _options(session, body)
        starting = asyncio.to_thread(
            session.gateway.jobs.start,
            body.input,
            options,
            lambda event: loop.call_soon_threadsafe(teller.tell, event),
        )
        run = await kept(starting, lambda _: None)  # also if the client goes at once
    except (OSError, ValueError, MpiframeError) as error:
        session.say(Id.ERROR, f"{body.input}: {error}")
        for step in (JobStep.STARTED, JobStep.CHECKING, JobStep.TERMINATED):
            await send_framed(channel, step)
        return
    # Not of this client's alone: it goes on if we are cancelled.
    await asyncio.shield(asyncio.wrap_future(run.result))
    # What its thread told is in the loop's order; this comes after all of it.
    done = asyncio.Event()
    loop.call_soon(done.set)
    await done.wait()
    await channel.items(*teller.last_items())


class Teller:
    """Tells a client of a job. The client may lag behind: what it does not take in time is left out."""

    def __init__(self, session: Session, channel: Channel) -> None:
        self._session = session
        self._channel = channel
        self._running = False
        self._complaints = 0
        self._last_complaint = ""
        self._last: list[JobStep] = []

    def tell(self, event: JobEvent) -> None:
        """Pass on an event; in the gateway's loop."""
        step, text = event.step, event.text
        if step is JobStep.STATUS:
            return
        self._diagnose(step, text)
        if step in _ENDS:
            self._last = self._by_stderr(step) if self._session.gateway.options.judge_by_stderr else [step]
            return
        if step in _REFUSALS:
            self._last = [JobStep.TERMINATED]
        self._channel.offer(*framed_items(step, encoded(text) if step in _WITH_TEXT else b""))

    def last_items(self) -> list[bytes]:
        """How it ended, which is not left out."""
        made = []
        for step in self._last or [JobStep.TERMINATED]:
            text = self._last_complaint if step is JobStep.ERROR else ""
            made += framed_items(step, encoded(text))
        return made

    def _diagnose(self, step: JobStep, text: str) -> None:
        say, program = self._session.say, "mpifxcorr" if self._running else "checkmpicorr"
        if step is JobStep.RUNNING:
            self._running = True
            say(Id.WARNING, f"executing: {text} \n")
        elif step is JobStep.COMPLETE:
            say(Id.WARNING, "mpifxcorr complete")
        elif step is JobStep.MESSAGE:
            self._last_complaint = ""
            say(Id.INFORMATION, f"{program}... {text}")
        elif step in (JobStep.WARNING, JobStep.ERROR):
            self._complaints += self._running
            self._last_complaint = text
            say(Id.WARNING if step is JobStep.WARNING else Id.ERROR, f"{program}... {text}")
        elif step is JobStep.ENDED_WITH_ERRORS:
            if not self._session.gateway.options.judge_by_stderr:
                say(Id.WARNING, text)
        elif text and step not in (JobStep.ENDED, JobStep.DELETING_OUTPUT):
            say(Id.ERROR, text)

    def _by_stderr(self, step: JobStep) -> list[JobStep]:
        """How the guiServer would judge: by whether anything was on stderr, and whether that came last."""
        if step not in (JobStep.ENDED, JobStep.ENDED_WITH_ERRORS, JobStep.FAILED) or not self._complaints:
            return [step]
        return [JobStep.ERROR, JobStep.FAILED] if self._last_complaint else [JobStep.ENDED_WITH_ERRORS]


def _options(session: Session, body: Start) -> JobOptions:
    """Raises ValueError and Refused for what a client may not have."""
    options = session.gateway.options
    if body.mpi_options and shlex.split(body.mpi_options) != shlex.split(options.mpi_options or ""):
        raise Refused(f"options for mpirun are not taken from clients, such as {body.mpi_options[:80]!r}")
    function = body.function if isinstance(body.function, StartFunction) else StartFunction.DEFAULT
    return JobOptions(
        force=body.force,
        restart_seconds=body.restart_seconds or 0.0,
        check=_CHECKS.get(function, "warn"),
        program=one_of("correlator", body.program, options.correlators),
        version=version_of(session, body.version),
        mpirun=one_of("launcher", body.mpi_wrapper, options.launchers),
        mpi_options=options.mpi_options,
        environment=_settings(session, body),
    )


def _settings(session: Session, body: Start) -> dict[str, str]:
    """Variables that the client sets, of those that it may."""
    allowed = {*SHOWN, *session.gateway.options.shown}
    found = {}
    for one in body.environment:
        name, equals, value = one.partition("=")
        if equals and name in allowed:
            found[name] = value
        else:
            session.warn(f"the variable {name[:80]!r} is not one that clients may set, and was left out")
    return found


async def stop(session: Session, body: Stop) -> None:
    """End a job, whoever started it; there is no reply but the end that its own channel tells of."""
    path, options = body.input or "", session.gateway.options
    try:
        chosen = JobOptions(
            program=one_of("correlator", body.program, options.correlators),
            version=version_of(session, body.version),
            mpirun=one_of("launcher", body.mpi_wrapper, options.launchers),
            mpi_options=options.mpi_options,
        )
        await asyncio.to_thread(session.gateway.files.stat, path)  # raises outside of the roots
        report = await asyncio.to_thread(session.gateway.jobs.stop, path, options=chosen)
    except (OSError, ValueError, MpiframeError) as error:
        session.say(Id.ERROR, f"{path[:200]} was not stopped: {error}")
        return
    session.say(Id.INFORMATION if report.gone else Id.ERROR, str(report))
