"""The client's side of the local queue: starts it where there is none, and speaks with it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mpiframe.launcher.environment import scrub_environment
from mpiframe.plugins.scheduler import files
from mpiframe.plugins.scheduler.backends import Backend, Mark
from mpiframe.plugins.scheduler.drivers import Dialect, Submission
from mpiframe.plugins.scheduler.errors import OptionError, SchedulerDown, SubmitError
from mpiframe.plugins.scheduler.local_server import in_folder
from mpiframe.plugins.scheduler.options import simple_flags
from mpiframe.plugins.scheduler.records import state_folder
from mpiframe.plugins.scheduler.states import JobStatus, State

START_SECONDS = 30.0
ANSWER_SECONDS = 60.0
LINGER_SECONDS = 10.0
"""How long a queue with nothing to do stays, so that the next job need not start one."""
_RETRY_SECONDS = 0.05


class Local(Dialect):
    """Scripts for the local queue: no directives."""

    name = "local"
    prefix = "#"
    suffix = "job"
    index = "${MPIFRAME_ARRAY_INDEX-}"
    redirects = False
    # The queue lets it begin when it has written down that it has started it: if it is killed before that,
    # the next one starts it, and it must not run twice. Without a pipe somebody has started it by hand.
    gate = "if [ -p /dev/stdin ]; then\n    read -r && exec </dev/null || exit 1\nfi\n"

    def header(self, job: Submission) -> list[str]:
        """None; it is only said which options are left out."""
        simple_flags(job.options, self.name)
        return []


class _Gone(Exception):
    """The queue ended, or has not begun."""


class _Link:
    """One connection to the queue."""

    def __init__(self, folder: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.socket.settimeout(ANSWER_SECONDS)
            with in_folder(folder) as short:
                self.socket.connect(f"{short}/socket")
            self._file = self.socket.makefile("rb")
            hello = self.ask({"secret": files.read_text(os.path.join(folder, "secret"))})
        except OSError as error:
            self.socket.close()
            raise _Gone(str(error)) from error
        except BaseException:
            self.socket.close()
            raise
        self.epoch, self.sequence = str(hello["epoch"]), int(hello["seq"])

    def ask(self, request: dict[str, Any], seconds: float = ANSWER_SECONDS) -> dict[str, Any]:
        """One request and its answer. Raises _Gone, SchedulerDown."""
        try:
            self.socket.settimeout(seconds)
            self.socket.sendall(json.dumps(request).encode() + b"\n")
            line = self._file.readline()
        except TimeoutError as error:
            raise SchedulerDown(f"the local queue did not answer within {seconds:g} s") from error
        except OSError as error:
            raise _Gone(str(error)) from error
        if not line.endswith(b"\n"):
            raise _Gone("it hung up")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """Hang up."""
        with contextlib.suppress(OSError, AttributeError):
            self._file.close()
        self.socket.close()

    def __del__(self) -> None:
        # Each thread that ever asked has one; none of them has an end at which to hang up.
        self.close()


class LocalBackend(Backend):
    """The queue of this user on this host.

    folder: where it keeps its books, by default below the user's state folder. cores, memory_mb: what its
    jobs may use together, by default all there is.
    """

    def __init__(
        self,
        folder: str | None = None,
        cores: int | None = None,
        memory_mb: int | None = None,
        linger_seconds: float = LINGER_SECONDS,
    ) -> None:
        if not hasattr(os, "pidfd_open"):
            raise OptionError("the local queue needs Linux 5.3 or later")
        self.dialect = Local()
        self.folder = folder or os.path.join(state_folder(), "local", socket.gethostname())
        self._cores, self._memory, self._linger = cores or 0, memory_mb or 0, linger_seconds
        self._links = threading.local()
        self._lock = threading.Lock()
        self._mark: Mark = ("", 0)
        self._seen: set[str] = set()

    # -- the verbs -------------------------------------------------------------------------------

    def submit(self, job: Submission, meanwhile: Callable[[], object] | None = None) -> str:
        """Hand over the job with the environment of this process, without what is a rank's own."""
        env = scrub_environment(os.environ, purpose="child")
        # Like a batch system's: the same words give the same name, which is sent instead the next time.
        name = hashlib.sha256(json.dumps(sorted(env.items())).encode("utf-8", "replace")).hexdigest()
        options = job.options
        spec = {
            "key": secrets.token_hex(8), "name": job.name, "folder": job.folder, "script": job.script,
            "out": job.out, "err": job.err, "env": name,
            "cores": options.total_cores, "memory": (options.mem or 0) * options.nodes,
            "seconds": options.time, "count": job.count, "limit": job.limit, "gated": job.ours,
            "depends": [{"job": one.job, "kind": one.kind} for one in job.depends],
        }  # fmt: skip
        if meanwhile is not None:
            meanwhile()
        request: dict[str, Any] = {"op": "submit", "spec": spec}
        answer = self._ask(request)
        if answer.get("wants") == "env":
            answer = self._ask({**request, "values": env})
        if "refused" in answer:
            raise SubmitError(f"the local queue refused the job {job.name!r}: {answer['refused']}")
        return str(answer["id"])

    def status(self, ids: Sequence[str]) -> list[JobStatus]:
        """All tasks of these jobs."""
        return _statuses(self._ask({"op": "status", "ids": list(ids)}))

    def changes(self, ids: Sequence[str]) -> tuple[list[JobStatus], set[str]]:
        """Only what changed since the last call; all of those that are asked about for the first time."""
        with self._lock:
            while True:
                link = self._link()
                if link.epoch != self._mark[0]:  # a queue that knows nothing of the last one's numbers
                    self._mark = link.epoch, link.sequence
                    self._seen.clear()
                new = [number for number in ids if number not in self._seen]
                # The changes first: what changes between the two queries is in the second.
                late = self._ask({"op": "changes", "since": self._mark[1]})
                full = self._ask({"op": "status", "ids": new}) if new else {"statuses": [], "unknown": []}
                if link is self._link():
                    break
            self._mark = link.epoch, int(late["seq"])
            unknown = set(full["unknown"])
            self._seen.update(number for number in new if number not in unknown)
            return _statuses(late) + _statuses(full), unknown

    def listing(self, user: str | None) -> list[JobStatus]:  # noqa: ARG002
        """Everything that the queue remembers; it is one user's own."""
        return _statuses(self._ask({"op": "list"}))

    def accounting(self, ids: Sequence[str]) -> list[JobStatus]:  # noqa: ARG002
        """Nothing beyond the status."""
        return []

    def cancel(self, ids: Sequence[str]) -> None:
        """SIGTERM, and SIGKILL after some seconds, to all processes of the jobs."""
        self._ask({"op": "cancel", "ids": list(ids)})

    @property
    def pushes(self) -> bool:
        """The queue tells of changes."""
        return True

    def mark(self) -> Mark:
        """The queue, and the number of its last change that was seen."""
        return self._mark

    def pause(self, seconds: float, mark: Mark) -> None:
        """Until something changes, or there is another queue."""
        link = self._link()
        if link.epoch != mark[0]:
            return
        try:
            link.ask({"op": "watch", "since": mark[1], "seconds": seconds}, seconds + ANSWER_SECONDS)
        except _Gone:
            self._drop_link()
        except BaseException:
            self._drop_link()
            raise

    def stop(self) -> None:
        """End the queue itself. Its running jobs go on, and the next queue takes them up."""
        try:
            self._connect_once().ask({"op": "stop"})
        except _Gone:
            return

    # -- the connection --------------------------------------------------------------------------

    def _ask(self, request: dict[str, Any], seconds: float = ANSWER_SECONDS) -> dict[str, Any]:
        """Ask, once more if the queue ended meanwhile. Every request may be asked twice."""
        for _ in range(5):
            link = self._link()
            try:
                return link.ask(request, seconds)
            except _Gone:
                self._drop_link()
            except BaseException:
                self._drop_link()  # its answer may still come, and is not the next one's
                raise
        raise SchedulerDown(f"the local queue ends as soon as it is asked; see {self.folder}/log")

    def _link(self) -> _Link:
        link: _Link | None = getattr(self._links, "link", None)
        if link is None or self._links.pid != os.getpid():
            link = self._connect()
            self._links.link, self._links.pid = link, os.getpid()
        return link

    def _drop_link(self) -> None:
        link: _Link | None = self._links.__dict__.pop("link", None)
        if link is not None:
            link.close()

    def _connect_once(self) -> _Link:
        if not os.path.isdir(self.folder):
            raise _Gone("it was never started")
        return _Link(self.folder)

    def _connect(self) -> _Link:
        for started in self._starts():
            try:
                link = self._connect_once()
                if (self._cores or self._memory) and started == 0:
                    link.ask({"op": "limits", "cores": self._cores, "memory": self._memory})
                return link
            except _Gone as error:
                reason = error  # killed even between the two: the next one is started with the limits
        raise SchedulerDown(f"the local queue cannot be reached ({reason}); see {self.folder}/log")

    def _starts(self) -> Iterator[int]:
        """Before each try to connect but the first, start a queue; none is started twice over."""
        deadline = time.monotonic() + START_SECONDS
        tries = 0
        while True:
            yield tries
            if time.monotonic() > deadline:
                return
            if tries > 0:  # one is on its way out and holds the lock
                threading.Event().wait(_RETRY_SECONDS)
            tries += 1
            self._start()

    def _start(self) -> None:
        try:
            os.makedirs(self.folder, mode=0o700, exist_ok=True)
            os.chmod(self.folder, 0o700)
        except OSError as error:
            raise SchedulerDown(f"the local queue cannot keep its books in {self.folder}: {error}") from error
        env = scrub_environment(os.environ, purpose="child")
        env["PYTHONPATH"] = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        argv = [sys.executable, "-m", "mpiframe.plugins.scheduler.local_server", self.folder]
        argv += ["--cores", str(self._cores), "--memory", str(self._memory), "--linger", str(self._linger)]
        try:
            done = subprocess.run(
                argv,
                env=env,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=START_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise SchedulerDown(f"the local queue cannot be started: {error}") from error
        if done.returncode != 0:
            raise SchedulerDown(f"the local queue cannot be started: {done.stderr.strip()[-2000:]}")


def _statuses(answer: dict[str, Any]) -> list[JobStatus]:
    return [
        JobStatus(
            one["job"],
            State(one["state"]),
            one["task"],
            one["exit_code"],
            one["signal"],
            one["reason"],
            name=one["name"],
            cores=one["cores"],
            host=socket.gethostname(),
        )
        for one in answer["statuses"]
    ]
