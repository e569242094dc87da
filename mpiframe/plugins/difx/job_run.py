"""One run of a job, in a thread of its own; `Jobs.start` makes it."""

from __future__ import annotations

import collections
import logging
import os
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING

from mpiframe.errors import MpiframeError
from mpiframe.plugins.difx.formats import Input
from mpiframe.plugins.difx.formats.visibilities import output_folder
from mpiframe.plugins.difx.hosts import JobHosts
from mpiframe.plugins.difx.job_events import JobEvent, JobResult, JobStep, Outcome, StopReport
from mpiframe.plugins.difx.job_log import LOGGED, LogWriter
from mpiframe.plugins.difx.messages import Message
from mpiframe.plugins.difx.messages_bodies import Alert, Status
from mpiframe.plugins.difx.messages_states import DifxState, Severity
from mpiframe.plugins.difx.multicast import Listener
from mpiframe.plugins.difx.programs import Program, ProgramError, is_missing
from mpiframe.plugins.difx.stopping import Patience, Stoppable, stop

if TYPE_CHECKING:
    from mpiframe.plugins.difx.jobs import JobOptions, Jobs

_log = logging.getLogger(__name__)
_LAST_LINES = 40
_CHECK_SECONDS = 120.0
_QUIET_SECONDS = 0.1  # what a job said last is heard when it says nothing for so long
_LAST_WORDS_SECONDS = 1.0
_BEHIND_SECONDS = 10.0  # and so long it is waited for who takes what was said
_BAD = re.compile(r"\s*(fatal|severe|error)\b", re.IGNORECASE)
ANSWERS = (DifxState.TERMINATING, DifxState.TERMINATED, DifxState.ABORTING)
"""States by which a job says that it heard that it is to end."""


class _Over(Exception):
    """The run ends here, before mpirun or instead of it."""

    def __init__(self, outcome: Outcome, step: JobStep, text: str) -> None:
        super().__init__(text)
        self.outcome, self.step, self.text = outcome, step, text


class JobRun:
    """A run. result: a Future of its `JobResult`, which never has an exception; progress: 0 to 1, or None."""

    def __init__(
        self,
        number: int,
        path: str,
        name: str,
        options: JobOptions,
        jobs: Jobs,
        listener: Listener,
        on_event: Callable[[JobEvent], object],
    ) -> None:
        self.number, self.input, self.options = number, path, options
        self.result: Future[JobResult] = Future()
        self.progress: float | None = None
        self.state = ""
        self._name, self._jobs, self._listener, self._on_event = name, jobs, listener, on_event
        self._stopping = threading.Event()
        self._stop_lock = threading.Lock()
        self._answered = threading.Event()
        self._spoke = threading.Event()
        self._program: Program | None = None
        self._hosts: JobHosts | None = None
        self._last: collections.deque[str] = collections.deque(maxlen=_LAST_LINES)
        self._errors = 0
        self._begun = time.monotonic()

    def start(self) -> None:
        """Begin; for `Jobs.start`."""
        threading.Thread(target=self._run, name=f"DiFX run {self.number}", daemon=True).start()

    def wait(self, seconds: float | None = None) -> JobResult:
        """How it ended. Raises TimeoutError if it has not after so many seconds."""
        return self.result.result(seconds)

    def stop(self, patience: Patience) -> StopReport:
        """End it, on all hosts; see `stopping`."""
        self._stopping.set()
        with self._stop_lock:
            program, hosts = self._program, self._hosts
            if self.result.done() or program is None or hosts is None:
                if program is not None and not self.result.done():  # the check of its configuration
                    program.end(patience.signalled)
                begun = time.monotonic()
                gone = self._awaited(patience.killed)
                # It may have been on its way to the hosts all the same.
                states = self._hosts.look(patience.killed) if self._hosts is not None else []
                gone = gone and all(one.gone for one in states)
                return StopReport(self.input, gone, "nothing", time.monotonic() - begun, tuple(states))
            report = stop(
                Stoppable(
                    self.input,
                    lambda: self._jobs.ask_to_stop(self.input, self.options),
                    answered=self._has_answered,
                    ended=lambda seconds: program.wait(seconds) is not None,
                    signal=program.signal,
                    hosts=hosts,
                ),
                patience,
            )
        if report.gone:
            self._awaited(_LAST_WORDS_SECONDS + 1.0)
        return report

    def _has_answered(self, seconds: float) -> bool:
        """Whether it says that it ends, or has."""
        assert self._program is not None
        deadline = time.monotonic() + seconds
        while not self._answered.is_set() and self._program.code is None:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._answered.wait(min(left, _QUIET_SECONDS))
        return True

    def _awaited(self, seconds: float) -> bool:
        try:
            self.result.result(seconds)
        except TimeoutError:
            return False
        return True

    # -- in its thread --

    def _run(self) -> None:
        code: int | None = None
        log: LogWriter | None = None
        subscription = self._listener.subscribe(
            lambda message: self._heard(message, log), LOGGED, [self._name]
        )
        try:
            self._tell(JobStep.STARTED)
            self._check()
            log = self._log_file()
            code = self._correlate()
            outcome, step, text = self._judged(code)
        except _Over as over:
            outcome, step, text = over.outcome, over.step, over.text
        except (MpiframeError, OSError) as error:
            outcome, step, text = Outcome.FAILED, JobStep.FAILED, str(error)
        except Exception as error:  # a mistake of ours: it has to be an end all the same
            _log.exception("run %d of %s", self.number, self.input)
            outcome, step, text = Outcome.FAILED, JobStep.FAILED, f"{type(error).__name__}: {error}"
        subscription.cancel()
        if log is not None:
            log.close()
        if self._stopping.is_set() and outcome is not Outcome.DONE:
            outcome, step = Outcome.TERMINATED, JobStep.TERMINATED
        self._tell(step, text)
        self.result.set_result(
            JobResult(
                self.number, self.input, outcome, text, code, self.state, self.progress, self._errors,
                time.monotonic() - self._begun, tuple(self._last),
            )
        )  # fmt: skip

    def _check(self) -> None:
        """Look at all that the job needs. Raises _Over."""
        refused = Outcome.REFUSED
        self._tell(JobStep.CHECKING)
        try:
            job = self._jobs.read_input(self.input)
        except (MpiframeError, OSError) as error:
            text = f"{self.input}: {getattr(error, 'strerror', None) or error}"
            is_there = not isinstance(error, OSError)
            self._tell(JobStep.BAD_CONFIGURATION if is_there else JobStep.INPUT_NOT_FOUND, text)
            raise _Over(refused, JobStep.TERMINATED, text) from error
        if self.options.check != "no":
            self._check_configuration()
        self._read_machines(job)
        self._tell(JobStep.CHECKED)
        self._make_room(job)

    def _check_configuration(self) -> None:
        self._tell(JobStep.CHECKING_CONFIGURATION)
        bad: list[str] = []

        def said(stream: str, line: str) -> None:
            if stream == "stderr" and _BAD.match(line):
                bad.append(line)
            self._tell(JobStep.MESSAGE if stream == "stdout" else JobStep.WARNING, line)

        try:
            code = self._run_program(["checkmpifxcorr", self.input], said, _CHECK_SECONDS)
        except ProgramError as error:
            code, bad = 127, [str(error)]
        if self._stopping.is_set():
            raise _Over(Outcome.TERMINATED, JobStep.TERMINATED, "it was stopped")
        if is_missing(code):
            self._tell(JobStep.NO_CHECKER, bad[0] if bad else "there is no checkmpifxcorr")
            if self.options.check == "only":
                raise _Over(Outcome.FAILED, JobStep.FAILED, "there is no checkmpifxcorr to check with")
            return
        if code or bad:
            text = bad[0] if bad else f"checkmpifxcorr ended with {code}"
            self._tell(JobStep.BAD_CONFIGURATION, text)
            if self.options.check != "warn":
                raise _Over(Outcome.REFUSED, JobStep.STOPPED_AFTER_CHECK, f"the configuration is bad: {text}")
            return
        self._tell(JobStep.CONFIGURATION_PASSED)
        if self.options.check == "only":
            raise _Over(Outcome.CHECKED, JobStep.STOPPED_AFTER_CHECK, "the configuration is good")

    def _read_machines(self, job: Input) -> None:
        try:
            self._machines = self._jobs.machines(self.input).hosts
        except (MpiframeError, OSError) as error:
            text = f"{getattr(error, 'strerror', None) or error}: define the job's machines first"
            raise _Over(Outcome.REFUSED, JobStep.NO_MANAGER, text) from error
        count, streams = len(self._machines), len(job.datastreams)
        if count < streams + 2:
            step = (
                JobStep.NO_MANAGER if not count
                else JobStep.NO_DATASTREAMS if count < streams + 1
                else JobStep.NO_CORES
            )  # fmt: skip
            text = f"{count} machines are too few: a manager, {streams} datastreams and a core are needed"
            raise _Over(Outcome.REFUSED, step, text)

    def _make_room(self, job: Input) -> None:
        """Delete old output, if that may be done."""
        folder = output_folder(self.input, job)
        try:
            self._jobs.files.stat(folder)
        except FileNotFoundError:
            return
        if self.options.restart_seconds > 0:
            return
        if not self.options.force:
            text = f"{folder} exists: force=True deletes it"
            self._tell(JobStep.OUTPUT_EXISTS, text)
            raise _Over(Outcome.REFUSED, JobStep.TERMINATED, text)
        self._tell(JobStep.DELETING_OUTPUT, folder)
        if not folder.endswith(".difx"):
            raise _Over(Outcome.REFUSED, JobStep.TERMINATED, f"{folder} does not end in .difx, and stays")
        self._jobs.files.rm(folder, recursive=True)

    def _log_file(self) -> LogWriter | None:
        path = self.input.removesuffix(".input") + ".difxlog"
        try:
            return LogWriter(path)
        except OSError as error:
            self._tell(JobStep.WARNING, f"{path} cannot be written: {error.strerror}")
            return None

    def _correlate(self) -> int:
        """Run the correlator to its end; the exit status of mpirun."""
        mpirun = self._jobs.mpirun(self.options)
        words = [self.options.program]
        if self.options.restart_seconds > 0:
            words += ["-r", f"{self.options.restart_seconds:g}"]
        command = self._jobs.versions.command([*words, self.input], self.options.version)
        environment = self._jobs.environment(self.options)
        machines_file = self.input.removesuffix(".input") + ".machines"
        line = mpirun.job(self._machines, machines_file, command, environment)
        self._hosts = self._jobs.hosts(self.input, self._machines, self.options, mpirun)
        self._tell(JobStep.RUNNING, " ".join(line))
        code = self._start(line, self._said).wait()
        assert code is not None
        self._hear_the_rest()
        return code

    def _said(self, stream: str, line: str) -> None:
        if stream == "stderr":
            self._last.append(line)
        wrong = JobStep.WARNING if "warning" in line.lower() else JobStep.ERROR
        self._tell(JobStep.MESSAGE if stream == "stdout" else wrong, line)

    def _judged(self, code: int) -> tuple[Outcome, JobStep, str]:
        """By exit status and messages. What stands on stderr is no sign of anything."""
        if self._stopping.is_set() or self.state == DifxState.TERMINATED:
            return Outcome.TERMINATED, JobStep.TERMINATED, "it was stopped"
        if code:
            how = f"exit status {code}" if code > 0 else f"signal {-code}"
            return Outcome.FAILED, JobStep.FAILED, f"mpirun ended with {how}" + self._last_words()
        if self.state in (DifxState.CRASHED, DifxState.ABORTING):
            return (
                Outcome.FAILED,
                JobStep.FAILED,
                f"the job says that it is {self.state}" + self._last_words(),
            )
        if self.state and self.state not in (DifxState.DONE, DifxState.MPI_DONE):
            text = f"mpirun ended well, but the last that the job told was {self.state}"
            return Outcome.FAILED, JobStep.FAILED, text + self._last_words()
        self._tell(JobStep.COMPLETE)
        if self._errors:
            return Outcome.DONE, JobStep.ENDED_WITH_ERRORS, f"done, with {self._errors} alerts of errors"
        return Outcome.DONE, JobStep.ENDED, "done"

    def _last_words(self) -> str:
        return f"; it said last: {self._last[-1][:200]}" if self._last else ""

    # -- messages --

    def _heard(self, message: Message, log: LogWriter | None) -> None:
        """Called in the listener's thread."""
        self._spoke.set()
        body = message.body
        if isinstance(body, Alert) and body.severity <= Severity.ERROR:
            self._errors += 1
        if isinstance(body, Status):
            ended = isinstance(self.state, DifxState) and self.state.ended
            if not ended:
                self.state = body.state
            if body.state in ANSWERS:
                self._answered.set()
            if body.progress is not None:  # the last of them may speak of no visibilities
                self.progress = max(self.progress or 0.0, body.progress)
            self._tell(JobStep.STATUS, body.message, body)
        if log is not None:
            try:
                log.write(message)
            except OSError:
                _log.exception("the log of %s cannot be written", self.input)

    def _hear_the_rest(self) -> None:
        """What was sent before the end may come a little after it, and wait to be handed on."""
        begun = time.monotonic()
        while (waited := time.monotonic() - begun) < _BEHIND_SECONDS:
            self._spoke.clear()
            spoke = self._spoke.wait(_QUIET_SECONDS)
            if not self._listener.is_behind() and (not spoke or waited > _LAST_WORDS_SECONDS):
                return

    def _tell(self, step: JobStep, text: str = "", status: Status | None = None) -> None:
        try:
            self._on_event(JobEvent(self.number, self.input, step, text, status))
        except Exception:
            _log.exception("a subscriber of run %d raised", self.number)

    # -- programs --

    def _start(self, line: list[str], on_line: Callable[[str, str], object]) -> Program:
        if self._stopping.is_set():
            raise _Over(Outcome.TERMINATED, JobStep.TERMINATED, "it was stopped")
        program = Program(
            line,
            folder=os.path.dirname(self.input),
            environment=self._jobs.environment(self.options),
            on_line=on_line,
        )
        self._program = program
        if self._stopping.is_set():  # meanwhile, by one who saw no program yet
            program.end(1.0)
        return program

    def _run_program(self, words: list[str], on_line: Callable[[str, str], object], seconds: float) -> int:
        program = self._start(self._jobs.versions.command(words, self.options.version), on_line)
        code = program.wait(seconds)
        if code is None:
            program.end(1.0)
            raise ProgramError(f"{words[0]} has not ended after {seconds:g} s and was killed")
        return code
