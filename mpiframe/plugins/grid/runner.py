"""Runs one claimed token: by a function here, a function in a process of its own, or a program.

Meanwhile it sends heartbeats. Whatever happens, the token ends done, in error, or among those to be done.
"""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
import pickle
import shlex
import signal
import socket
import string
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mpiframe.plugins.grid.attachments import content_type_of
from mpiframe.plugins.grid.builders import CONFIG
from mpiframe.plugins.grid.children import KILL_SECONDS, Ended, Guard, Stop, environment, run
from mpiframe.plugins.grid.claims import Claims, failure
from mpiframe.plugins.grid.couchdb import plain
from mpiframe.plugins.grid.errors import DatabaseError, GridError, PilotError
from mpiframe.plugins.grid.tokens import Token

Work = Callable[[Token], Any] | str | Sequence[str]
"""A function of the token, or a program and its arguments, in one text or word by word."""

RETURNED, LATE = "returned", "late"
TIME_LIMIT_CODE = 124
_INLINE = 256 * 1024  # bytes up to which an attachment is saved together with the result
_FIRST_BEAT_SECONDS = 5.0
_TAKEN = "the token was taken from us"
_TIME, _TOTAL = "time", "total"
_OWN = frozenset({"lock", "done", "claim", "heartbeat", "lease", "_rev", "_id", "type"})


class Interrupted(BaseException):
    """Raised in a pilot's function by a signal that ends the pilot."""


class _OverTime(BaseException):
    """Raised in a function whose time is over."""


@dataclass(frozen=True)
class TokenRun:
    """How one token went. state: done, error, returned (to be done again) or late (somebody else has it)."""

    id: str
    state: str
    exit_code: int
    seconds: float
    message: str = ""


@dataclass
class _Outcome:
    """What is to be saved."""

    exit_code: int = 0
    result: Any = None
    message: str = ""
    text: str = ""  # of a traceback
    returned: str = ""  # why it is to go back
    fields: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)  # attachment -> path


class Runner:
    """Runs tokens one after another.

    Parameters
    ----------
    work: see `Work`. A program finds its token's id in $TOKEN, the token in the file $TOKEN_FILE as JSON, and
        may write a result as JSON to $TOKEN_RESULT; $NAMES in its arguments are the variables that it gets.
    max_token_seconds: how long one token may take. A function here is stopped by an exception, which waits
        for C code to return (as heartbeats do, if that holds the interpreter); what is isolated always ends.
    isolate: run the function in a process of its own, which ends whatever it does. Its token belongs
        to no database there; its changes and its result come back.
    attach: patterns; files of these names that a program, or an isolated function, leaves in its folder
        become attachments, beside what it printed (logs_out, logs_err).
    work_dir: where such folders are made, one for each token, deleted after it.
    """

    def __init__(
        self,
        claims: Claims,
        work: Work,
        *,
        max_token_seconds: float | None = None,
        isolate: bool = False,
        attach: Sequence[str] = (),
        work_dir: str | None = None,
        kill_seconds: float = KILL_SECONDS,
    ) -> None:
        if max_token_seconds is not None and not max_token_seconds > 0:
            raise ValueError(f"max_token_seconds has to be more than 0, not {max_token_seconds!r}")
        if isinstance(attach, str):
            raise ValueError(f"attach is a list of patterns, not the text {attach!r}")
        self.claims = claims
        self.max_token_seconds = max_token_seconds
        self.function: Callable[[Token], Any] | None = None
        self._argv: list[str] = []
        if callable(work):
            self.function = work
        else:
            self._argv = shlex.split(work) if isinstance(work, str) else [str(word) for word in work]
            if not self._argv:
                raise ValueError("the command is empty")
        self._isolate = isolate
        self._attach = tuple(attach)
        self._work_dir = work_dir
        self._kill_seconds = kill_seconds
        self.stop = Stop()
        self.in_function = False
        self._guard = Guard(kill_seconds)

    def close(self) -> None:
        """Let go of what it holds."""
        self._guard.close()
        self.stop.close()

    def __call__(self, token: Token, until: float | None = None) -> TokenRun:
        """Run a token that was claimed; on the monotonic clock `until` everything has to have ended.

        Raises PilotError if its result could not be saved. An interrupt gives the token back and is raised.
        """
        begun = time.monotonic()
        try:
            with self._beating(token), contextlib.ExitStack() as stack:
                outcome = self._do(token, until, stack)
                return self._conclude(token, outcome, begun)
        except (KeyboardInterrupt, Interrupted):
            self._give_back(token, "its pilot was interrupted")
            raise

    def _do(self, token: Token, until: float | None, stack: contextlib.ExitStack) -> _Outcome:
        left = None if until is None else until - time.monotonic()
        limits = [one for one in (left, self.max_token_seconds) if one is not None]
        seconds = min(limits, default=None)
        over = _TIME if self.max_token_seconds is not None and seconds == self.max_token_seconds else _TOTAL
        try:
            if self.function is not None and not self._isolate:
                return self._call(token, seconds, over)
            return self._run_child(token, seconds, over, stack)
        except GridError as error:  # an attachment that cannot be had, a database that is down
            return _Outcome(1, message=str(error), text=traceback.format_exc())

    # -- a function, here --------------------------------------------------------------------------

    def _call(self, token: Token, seconds: float | None, over: str) -> _Outcome:
        assert self.function is not None
        try:
            with _alarm(seconds):
                self.in_function = True
                try:
                    if self.stop.reason:
                        raise Interrupted
                    result = self.function(token)
                finally:
                    self.in_function = False
        except _OverTime:
            return self._over(over, seconds)
        except (Exception, SystemExit) as error:
            code, words = _code_of(error), f"{type(error).__name__}: {error}"
            return _Outcome(code, message=words, text=traceback.format_exc()) if code else _Outcome()
        return _Outcome(result=result)

    def _over(self, over: str, seconds: float | None) -> _Outcome:
        if over == _TOTAL:
            return _Outcome(returned="its pilot's time was over")
        return _Outcome(TIME_LIMIT_CODE, message=f"stopped: not ended after {seconds:g} s")

    # -- a program, or a function in a process of its own ------------------------------------------

    def _run_child(
        self, token: Token, seconds: float | None, over: str, stack: contextlib.ExitStack
    ) -> _Outcome:
        try:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="token-", dir=self._work_dir))
            room = stack.enter_context(tempfile.TemporaryDirectory(prefix="pilot-", dir=self._work_dir))
            variables = self._prepare(token, folder, room)
            argv = self._function_argv(token, room) if self.function is not None else self._words(variables)
            out, err = os.path.join(room, "out"), os.path.join(room, "err")
            ended = run(
                argv, folder, environment(variables), out, err,
                seconds=seconds, stop=self.stop, guard=self._guard, kill_seconds=self._kill_seconds,
            )  # fmt: skip
        except OSError as error:
            return _Outcome(1, message=f"it could not be started: {error}")
        outcome = self._judge(ended, over, seconds, variables["TOKEN_RESULT"], room)
        outcome.files = {"logs_out": out, "logs_err": err, **self._found(folder)}
        return outcome

    def _prepare(self, token: Token, folder: str, room: str) -> dict[str, str]:
        """Write what the program is to find; the variables it gets."""
        path = os.path.join(room, "token.json")
        with open(path, "w", encoding="utf-8") as file:
            json.dump(token, file, default=plain)
        variables = {"TOKEN": token.id, "TOKEN_FILE": path, "TOKEN_RESULT": os.path.join(room, "result.json")}
        config = token.get(CONFIG)
        wanted = config.get("variables", {}) if isinstance(config, dict) else {}
        for name, key in wanted.get("_token_keys", {}).items():
            variables[name.lstrip("$")] = str(token.get(key, ""))
        for name, attachment in wanted.get("_attachments", {}).items():
            target = os.path.join(folder, os.path.basename(attachment.replace("/", "_")))
            token.download(attachment, target)
            variables[name.lstrip("$")] = target
        return variables

    def _words(self, variables: Mapping[str, str]) -> list[str]:
        return [string.Template(word).safe_substitute(variables) for word in self._argv]

    def _function_argv(self, token: Token, room: str) -> list[str]:
        import cloudpickle  # late: programs do without

        path = os.path.join(room, "call")
        plain_token = Token.of(dict(token))
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(pickle.dumps([os.path.abspath(entry) for entry in sys.path]))
            file.write(cloudpickle.dumps((self.function, plain_token), protocol=5))
        return [sys.executable, str(Path(__file__).with_name("run_function.py")), path]

    def _judge(self, ended: Ended, over: str, seconds: float | None, result: str, room: str) -> _Outcome:
        if ended.stopped == _TIME:
            return self._over(over, seconds)
        if ended.stopped:
            return _Outcome(returned=ended.stopped)
        if self.function is not None:
            return _answer_of(os.path.join(room, "call.answer"), ended.code)
        outcome = _Outcome(ended.code)
        if ended.code:
            signalled = f" (signal {ended.code - 128})" if ended.code > 128 else ""
            outcome.message = f"{self._argv[0]} ended with exit code {ended.code}{signalled}"
        try:
            with open(result, encoding="utf-8") as file:
                outcome.result = json.load(file)
        except FileNotFoundError:
            pass
        except ValueError as error:
            outcome.exit_code, outcome.message = ended.code or 1, f"its result is no JSON: {error}"
        return outcome

    def _found(self, folder: str) -> dict[str, str]:
        """The files that are to be attached, by their paths below the folder."""
        found = {}
        for base, _, names in os.walk(folder):
            for name in names:
                path = os.path.join(base, name)
                if any([fnmatch.fnmatch(name, one) for one in self._attach]) and not os.path.islink(path):
                    found[os.path.relpath(path, folder)] = path
        return found

    # -- the end -----------------------------------------------------------------------------------

    def _conclude(self, token: Token, outcome: _Outcome, begun: float) -> TokenRun:
        seconds = time.monotonic() - begun
        if outcome.returned:
            self._give_back(token, outcome.returned)
            return TokenRun(token.id, RETURNED, 0, seconds, outcome.returned)
        changes = {name: value for name, value in token.changes().items() if name not in _OWN}
        fields = {**changes, **outcome.fields, "result": outcome.result}
        try:
            json.dumps(fields, default=plain, allow_nan=False)
        except (TypeError, ValueError) as error:
            words = f"what it returned cannot be kept in a token: {error}; attach it, or return what JSON has"
            outcome = _Outcome(outcome.exit_code or 1, message=words, files=outcome.files)
            fields = {}
        if fields.get("result") is None:
            fields.pop("result", None)
        small = self._upload(token, outcome)
        code = outcome.exit_code
        state = "error" if code else "done"
        fields |= {"status": state, "exit_code": code, "output": code, "seconds": round(seconds, 3)}
        fields["hostname"] = socket.gethostname()
        if code:
            known = token.get("error")
            entry = failure(outcome.message, time.time(), outcome.text)
            fields["error"] = [*(known if isinstance(known, list) else []), entry]
        counts = self.claims.finish(token, fields, small, lambda: bool(self.stop.reason))
        return TokenRun(token.id, state if counts else LATE, code, seconds, outcome.message)

    def _upload(self, token: Token, outcome: _Outcome) -> dict[str, tuple[bytes, str]]:
        """Store the large files; the small ones are to be saved with the result."""
        small: dict[str, tuple[bytes, str]] = {}
        for name, path in outcome.files.items():
            kind = "text/plain" if name in ("logs_out", "logs_err") else content_type_of(name)
            try:
                if os.path.getsize(path) > _INLINE:
                    token.attach(path, name, kind)
                else:
                    small[name] = (Path(path).read_bytes(), kind)
            except (GridError, OSError) as error:
                outcome.exit_code = outcome.exit_code or 1
                outcome.message = f"{outcome.message}; {name} was not attached: {error}".lstrip("; ")
        return small

    def _give_back(self, token: Token, reason: str) -> None:
        with contextlib.suppress(DatabaseError):  # then its lease runs out
            self.claims.release({token.id: token["claim"]}, reason=reason)

    @contextlib.contextmanager
    def _beating(self, token: Token) -> Iterator[None]:
        """Send heartbeats meanwhile, from a thread."""
        period = self.claims.lease_seconds / 4
        ended = threading.Event()
        known = {"_id": token.id, "claim": token["claim"]}

        def beat() -> None:
            wait = min(period, _FIRST_BEAT_SECONDS)
            fields = {"hostname": socket.gethostname(), "status": "running"}
            while not ended.wait(wait):
                wait = period
                try:
                    ours = self.claims.beat(known, **fields)
                except DatabaseError:
                    continue  # it may be there again for the next one
                if not ours:
                    return  # what comes of it is kept as a late result
                fields = {}

        thread = threading.Thread(target=beat, name="grid heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(_FIRST_BEAT_SECONDS)


@contextlib.contextmanager
def _alarm(seconds: float | None) -> Iterator[None]:
    """Raise _OverTime in the block after so many seconds. Only the main thread can be reached so."""
    if seconds is None:
        yield
        return
    if threading.current_thread() is not threading.main_thread():
        raise PilotError(
            "a function is stopped at its limit by a signal, which only reaches the main thread; "
            "isolate=True runs it in a process of its own, which can be ended from anywhere"
        )

    def over(*_: Any) -> None:
        raise _OverTime

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-6))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _code_of(error: BaseException) -> int:
    """The exit code of an exception: its own or its cause's, if they say so, else 1."""
    if isinstance(error, SystemExit):
        code = error.code
        return code if isinstance(code, int) else 0 if code is None else 1
    cause: BaseException | None = error
    while cause is not None:
        code = getattr(cause, "exit_code", None)
        if isinstance(code, int) and code:
            return int(code)
        cause = cause.__cause__
    return 1


def _answer_of(path: str, code: int) -> _Outcome:
    """What an isolated function left."""
    try:
        with open(path, "rb") as file:
            answer = pickle.load(file)  # made by our own child, in a folder that only we can read
    except FileNotFoundError:
        return _Outcome(
            code or 1, message=f"the function's process ended with exit code {code} and no answer"
        )
    fields = {name: value for name, value in answer["fields"].items() if name not in _OWN}
    return _Outcome(answer["code"], answer["result"], answer["message"], answer["text"], fields=fields)
