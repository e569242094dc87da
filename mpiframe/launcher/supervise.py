"""Starts `mpiexec`, passes signals on, and leaves nothing behind.

The life of one run:

1. A private run directory is made; rank 0 writes its host and process id to `client` in it.
2. `mpiexec` starts in a session of its own, so that a terminal's Ctrl-C reaches this process only.
3. This process sleeps until a signal arrives; the end of a child is one (SIGCHLD).
4. The first SIGINT goes to the client alone, whose script sees one KeyboardInterrupt and may end
   its servers in good order. SIGTERM likewise. (Where the client is at a prompt, each SIGINT goes to it,
   and none ends the world: see `foreground`.)
5. When the client's process has ended, the others have a bounded time to follow: a launcher would
   wait for ever for its daemon on a host that cannot be reached.
6. After the grace time, or at a second signal, all ends by force: SIGTERM to the launcher, which
   knows its ranks on other hosts; shortly after, SIGKILL to every process that is left on this
   host.
7. The run directory is removed.
"""

from __future__ import annotations

import contextlib
import glob
import math
import os
import select
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

from mpiframe import machine
from mpiframe.config import Config
from mpiframe.errors import WorldError
from mpiframe.launcher.environment import (
    CALLER_ENV,
    MPICH_SEGMENTS,
    NEWS,
    RUN_DIR,
    SEGMENTS,
    STARTED,
    STDIN,
    TERMINAL,
    TERMINAL_STREAMS,
    record_caller,
    scrub_environment,
)
from mpiframe.launcher.foreground import Foreground
from mpiframe.launcher.planning import LaunchPlan
from mpiframe.launcher.processes import (
    descendants,
    end_with_parent,
    group_below,
    reap,
    send,
    was_given,
)

GRACE_SECONDS = 2.2
"""How long a job may take to end by itself after Ctrl-C; with force it is gone within 3 s then."""

TERM_SECONDS = 0.4  # for the launcher to end its ranks after SIGTERM, before SIGKILL
_SETTLE_SECONDS = 0.5  # for a launcher's helpers to leave after the launcher ended by itself
_LEAVE_SECONDS = 2.0  # for servers and launchers to leave when the client has
_KILL_SECONDS = 2.0  # for the kernel to take away what was killed
_FOLLOW_SECONDS = 2.0  # for the launcher to end after the last rank
_SAME_PRESS_SECONDS = 0.1  # `timeout` and some shells deliver one Ctrl-C twice

_NOT_STARTED = (
    "mpiframe run: MPI has not started within {:g} s (MPIFRAME_INIT_TIMEOUT). It waits for all ranks: one "
    "may not have come that far, a host may be out of reach, or a firewall drops what hosts send each other. "
    "The run was ended by force"
)

TIMED_OUT = 124
"""The exit status of a run that took longer than its time-out, as the command `timeout` has it."""

SEGMENTS_FILE = "segments"
"""In the run directory: the paths of the shared memory that the client has mapped."""

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class World:
    """One running `mpiexec` and all that is below it."""

    def __init__(
        self,
        plan: LaunchPlan,
        directory: Path,
        inbox: socket.socket,
        output: IO[bytes] | None,
        foreground: Foreground | None = None,
    ) -> None:
        self._inbox, self._directory = inbox, directory
        self._foreground = foreground
        self._pressed_at = 0.0  # when Ctrl-C was passed on to a prompt
        self._client_file = directory / "client"
        self._segments_file = directory / SEGMENTS_FILE
        self._status_file = directory / "status"  # written by the client when it has ended its world
        # The client writes a byte here when it has written a file, so that nobody has to look for it.
        os.mkfifo(directory / NEWS, 0o600)
        self._news = os.open(directory / NEWS, os.O_RDWR | os.O_NONBLOCK)
        self._client: int | None = None  # can be read when the client's process has ended
        self._followers_limit: float | None = None
        config = Config.from_environment()
        self._init_timeout = config.init_timeout
        # When MPI must have started. Of ranks on other hosts alone nothing is heard.
        bounded = plan.tells_of_start and config.init_timeout
        self._start_limit = time.monotonic() + config.init_timeout if bounded else None
        self._follow = config.grace + config.stop_timeout + _FOLLOW_SECONDS
        # Children of a program that calls `run`: not ours to end, nor to take the status of.
        self._strangers = descendants(os.getpid(), dead=True)
        self._forced = False
        self._segments: set[str] = set()  # MPICH's shared memory that has a name yet
        env = scrub_environment(os.environ, purpose="step")
        env |= {CALLER_ENV: record_caller(env), RUN_DIR: str(directory), **plan.env_added}
        if sys.stderr is not None and sys.stderr.isatty():
            env[TERMINAL] = os.ttyname(sys.stderr.fileno())  # ranks get pipes; progress bars want this
            env[TERMINAL_STREAMS] = "" if output is not None else _streams_on(env[TERMINAL])
        if foreground is not None:
            env[TERMINAL] = foreground.name
        self._plan, self._env, self._output = plan, env, output
        stdin = _standard_input()
        if plan.opens_stdin and (path := _path_of_input(stdin)) is not None:
            env[STDIN], stdin = path, subprocess.DEVNULL
        self._mpiexec = self._launch(plan.argv, env, stdin)

    def _launch(
        self, argv: tuple[str, ...], env: dict[str, str], stdin: int | None, stdout: int | None = None
    ) -> subprocess.Popen[bytes]:
        try:
            # A preexec_fn is safe here: no other thread of this process could hold a lock.
            return subprocess.Popen(
                argv,
                env=env,
                stdin=stdin,
                stdout=self._output if stdout is None else stdout,
                stderr=self._output,
                start_new_session=True,
                preexec_fn=end_with_parent,
            )
        except OSError as error:
            raise WorldError(f"cannot start {argv[0]}: {error.strerror}") from error

    def wait(self, grace: float, timeout: float | None) -> int:
        """Wait for the end, act on signals, and return the exit status."""
        limit = None if timeout is None else time.monotonic() + timeout
        first, first_at, asked_client = 0, 0.0, False
        while self._mpiexec.poll() is None and not self._over():
            arrived = self._next_signal(_sooner(limit, self._start_limit))
            if arrived is None and _is_over(self._start_limit):
                self._start_limit = None
                if first or (self._directory / STARTED).exists():
                    continue
                print(_NOT_STARTED.format(self._init_timeout), file=sys.stderr)
                self._end_by_force()
                return 1
            if arrived is None and _is_over(self._followers_limit) and not first:
                print(
                    "mpiframe run: the client has ended, but mpiexec has not, as if it waited for a host "
                    "that cannot be reached; it was ended by force",
                    file=sys.stderr,
                )
                self._end_by_force()
                return self._own_status() if self._status_file.exists() else 1
            if arrived is None:  # the time is over
                self._end_by_force()
                return TIMED_OUT if not first else 128 + first
            if arrived == signal.SIGCHLD:  # a child has ended: mpiexec, or an orphan that was adopted
                self._reap()
                continue
            if self._foreground is not None and self._is_for_prompt(arrived):
                continue
            if arrived == signal.SIGQUIT:
                self._end_by_force()
                return 128 + arrived
            if not first:
                first, first_at = arrived, time.monotonic()
                asked_client = self._pass_on(arrived)
                limit = first_at + grace
            elif time.monotonic() - first_at > _SAME_PRESS_SECONDS:
                self._end_by_force()
                return 128 + first
        status = self._status()
        # MPICH's mpiexec ends with 0 when it got the signal itself, though the job was cut short.
        if first and (status != 0 or not asked_client):
            return 128 + first
        if self._client_file.exists() and not self._status_file.exists():
            # A rank that ended out of turn took the client along. MPICH's mpiexec may say nothing of that,
            # or even call it a success.
            hint = (
                "" if self._plan.resilient else ". With --resilient a dead server fails only its own requests"
            )
            print(
                "mpiframe run: the client was ended before its script was, because another rank had ended "
                f"or by a signal (mpiexec's exit status: {status}); see above{hint}",
                file=sys.stderr,
            )
            status = status or 1
        if status == 0:
            status = self._own_status()  # which MPICH's mpiexec does not always hear
        return status if status >= 0 else 128 - status

    def _is_for_prompt(self, number: int) -> bool:
        """Pass on what a client at a prompt lives through; False if this is to end the world."""
        if number in (signal.SIGTSTP, signal.SIGCONT):
            return True
        if number not in (signal.SIGINT, signal.SIGWINCH):
            return False
        client = self._client_pid()
        if client is None:
            return number == signal.SIGWINCH  # not at its prompt yet: Ctrl-C calls the start off
        if number == signal.SIGWINCH:
            send([client], number)
        elif time.monotonic() - self._pressed_at > _SAME_PRESS_SECONDS:
            self._pressed_at = time.monotonic()
            # A terminal's own way: a program that was started at the prompt is to hear of it, too.
            send([client, *group_below(client)], number)
        return True

    def _over(self) -> bool:
        """Whether the world has ended, though its launcher has not."""
        return False

    def _status(self) -> int:
        """How the launcher says that the world ended."""
        return self._mpiexec.returncode

    def _own_status(self) -> int:
        """What the client said it would end with; 0 if it said nothing that can be read."""
        try:
            return int(self._status_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return 0

    def clear(self) -> None:
        """End what is left: nothing, as a rule, because a launcher ends its own helpers."""
        ended_by_itself = self._mpiexec.poll() is not None and not self._forced
        self._wait_until_gone(_SETTLE_SECONDS if ended_by_itself else 0.0)
        limit = time.monotonic() + _KILL_SECONDS
        while (left := self._alive()) and time.monotonic() < limit:
            send(left, signal.SIGKILL)
            self._wait_until_gone(TERM_SECONDS)
        self._mpiexec.poll()
        forget_segments(self._segments_file)
        for path in self._segments:
            with contextlib.suppress(OSError):  # whoever made it has come to that
                os.unlink(path)
        if self._foreground is not None:
            self._foreground.restore(orderly=self._status_file.exists())
        os.close(self._news)
        if self._client is not None:
            os.close(self._client)

    def _pass_on(self, number: int) -> bool:
        """Send a signal to the client (True), or to mpiexec if that cannot be reached (False)."""
        pid = self._client_pid()
        send([self._mpiexec.pid if pid is None else pid], number)
        return pid is not None

    def _client_pid(self) -> int | None:
        """The client's process id, if it wrote it, lives, and runs on this host."""
        try:
            host, pid = self._client_file.read_text(encoding="utf-8").split()
        except (OSError, ValueError):
            return None
        if host != socket.gethostname() or not pid.isdigit():
            return None
        alive = self._alive()
        # Under Slurm mpiexec has the ranks of its own host started by a daemon, too: they are not below us.
        ours = int(pid) in alive or not alive or was_given(int(pid), RUN_DIR, str(self._directory))
        return int(pid) if ours else None

    def _end_by_force(self) -> None:
        self._forced = True
        for pid in self._alive():
            self._segments.update(machine.mapped_segments(MPICH_SEGMENTS, pid))
        self._followers_limit = math.inf
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._mpiexec.pid, signal.SIGTERM)
        self._wait_until_gone(TERM_SECONDS)

    def _alive(self) -> set[int]:
        return descendants(os.getpid(), without=self._strangers)

    def _reap(self) -> None:
        self._mpiexec.poll()  # by its own object, which keeps the status
        reap(keep={self._mpiexec.pid, *self._kept(), *self._strangers})

    def _kept(self) -> set[int]:
        """Children that are not to be reaped here, because their own objects do it."""
        return set()

    def _wait_until_gone(self, seconds: float) -> None:
        """Return when no process of the world is left, or after so many seconds."""
        limit = time.monotonic() + seconds
        while True:
            self._reap()
            if not self._alive() or self._next_signal(limit) is None:
                return

    def _watched(self) -> list[int]:
        """Descriptors to look at beside the signals."""
        return []

    def _heed(self) -> None:
        """One of these can be read."""

    def _next_signal(self, limit: float | None) -> int | None:
        """The next signal to arrive, waiting until `limit` (monotonic time); None if none did."""
        while True:
            until = _sooner(limit, self._followers_limit)
            seconds = None if until is None else max(0.0, until - time.monotonic())
            inbox, watched = self._inbox.fileno(), self._watched()
            sources = [inbox, self._news, *watched]
            if self._client is not None and self._followers_limit is None:
                sources.append(self._client)
            readable, _, _ = select.select(sources, [], [], seconds)
            if inbox in readable:
                return self._inbox.recv(1)[0]
            if self._news in readable:
                os.read(self._news, 4096)
                self._look_for_client()
            elif set(readable) & set(watched):
                self._heed()
                return signal.SIGCHLD  # something has happened that is no signal to pass on
            elif readable:
                self._followers_limit = time.monotonic() + self._follow
            else:
                return None

    def _look_for_client(self) -> None:
        """Be told when the client's process ends (on a Linux that can do that)."""
        if self._client is not None or not hasattr(os, "pidfd_open"):
            return
        pid = self._client_pid()
        if pid is not None:
            try:
                self._client = os.pidfd_open(pid)
                return
            except ProcessLookupError:
                pass  # it lived when we looked
            except OSError:
                return  # it cannot be watched here
        elif not self._status_file.exists():
            return
        self._followers_limit = time.monotonic() + self._follow  # it has ended, and was quicker than we


def _sooner(*limits: float | None) -> float | None:
    return min((at for at in limits if at is not None), default=None)


def _is_over(limit: float | None) -> bool:
    return limit is not None and limit <= time.monotonic()


def forget_segments(listed: Path) -> None:
    """Remove the shared memory that ranks which were killed have left; Open MPI does not."""
    with contextlib.suppress(OSError):
        for path in listed.read_text(encoding="utf-8").splitlines():
            if path.startswith(tuple(f"/dev/shm/{name}" for name in SEGMENTS)):
                name, job, _ = path.rsplit(".", 2)
                # Its last four digits number the jobs of one run: there may be spawned ones.
                jobs = f"{job[:-4]}????" if len(job) > 4 else job
                for left in glob.glob(f"{glob.escape(name)}.{jobs}.*"):
                    os.unlink(left)


def _streams_on(terminal: str) -> str:
    """The standard streams of this process that lead to a terminal."""
    found = []
    for name, stream in (("stdout", sys.stdout), ("stderr", sys.stderr)):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or no terminal
            if os.ttyname(stream.fileno()) == terminal:
                found.append(name)
    return " ".join(found)


def _path_of_input(stdin: int | None) -> str | None:
    """Where another process of this host finds it, and from which byte on; None if it cannot open it."""
    if stdin is not None:
        return f"0@{os.devnull}"
    mode = os.fstat(0).st_mode
    if stat.S_ISSOCK(mode):
        return None
    begin = os.lseek(0, 0, os.SEEK_CUR) if stat.S_ISREG(mode) else 0
    return f"{begin}@/proc/{os.getpid()}/fd/0"


def _standard_input() -> int | None:
    """Rank 0 gets what is piped in; a terminal stays with this process and its session."""
    try:
        return subprocess.DEVNULL if sys.stdin is None or os.isatty(0) else None
    except OSError:
        return subprocess.DEVNULL
