"""The local queue: one process a user and host, started by the first client, which outlives its clients.

    client --Unix socket, JSON lines, after a secret--> this process --fork--> the jobs' scripts
                                                          journal on disk

It sleeps in one `select` on the socket, its clients, and a pidfd for each job; it ends by itself when
nothing is left to do. Killed, it is started again by the next client, reads its journal, and finds its
jobs where they are: they run on in sessions of their own, and write their exit codes themselves.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hmac
import itertools
import json
import math
import os
import secrets
import selectors
import signal
import socket
import struct
import subprocess
import sys
import time
from collections import OrderedDict
from typing import Any

from mpiframe.machine import usable_cores
from mpiframe.plugins.scheduler import files
from mpiframe.plugins.scheduler.local_journal import KEPT_JOBS, Journal, process_start, total_memory_mb
from mpiframe.plugins.scheduler.local_rules import Dropped, Job, Key, Ledger
from mpiframe.plugins.scheduler.states import State

KILL_SECONDS = 5.0
"""How long a job that is to end has from SIGTERM to SIGKILL."""
LINE_LIMIT = 64 * 1024 * 1024
_ENV = "MPIFRAME_ARRAY_INDEX"


class Running:
    """A process of a task. It is ours, or one of a queue before this one (`process` is None)."""

    def __init__(self, key: Key, pid: int, process: subprocess.Popen[bytes] | None) -> None:
        self.key, self.pid, self.process = key, pid, process
        self.pidfd = os.pidfd_open(pid)
        self.fate: State | None = None

    def signal(self, number: int) -> None:
        """To all processes of its group. The leader is not reaped yet, so its number is its own."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)


class Connection:
    """One client. Nothing of it is read as a request before it has shown the secret."""

    def __init__(self, link: socket.socket) -> None:
        self.link, self.trusted = link, False
        self.incoming, self.outgoing = bytearray(), bytearray()
        self.watching: tuple[int, float] | None = None


class LocalServer:
    """The queue of one folder. Requests: submit, status, changes, watch, list, cancel, limits, stop."""

    def __init__(self, folder: str, cores: int, memory: int, linger: float) -> None:
        self._folder, self._linger = folder, linger
        self._ledger = Ledger(cores, memory)
        self._specs: dict[str, dict[str, Any]] = {}
        self._by_script: dict[str, str] = {}
        self._envs: dict[str, dict[str, str]] = {}
        self._status: OrderedDict[Key, dict[str, Any]] = OrderedDict()  # in the order of the last change
        self._sequence = 0
        self._epoch = secrets.token_hex(8)
        self._numbers = itertools.count(1)
        self._running: dict[Key, Running] = {}
        self._timers: dict[Key, tuple[float, int]] = {}
        self._connections: dict[int, Connection] = {}
        self._journal = Journal(os.path.join(folder, "journal"))
        self._selector = selectors.DefaultSelector()
        self._idle_since = time.monotonic()
        self._stopping = False

    # -- life ------------------------------------------------------------------------------------

    def open(self) -> None:
        """Read the journal, take up what runs, listen. Raises OSError."""
        self._recover()
        self._secret = secrets.token_hex(32)
        files.replace(os.path.join(self._folder, "secret"), self._secret.encode())
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with in_folder(self._folder) as short:
            files.remove([f"{short}/socket"])
            self._listener.bind(f"{short}/socket")
            os.chmod(f"{short}/socket", 0o600)
        self._listener.listen(64)
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ, self._listener)

    def run(self) -> None:
        """Serve until there has been nothing to do for the linger time."""
        self._start_tasks()
        while not self._stopping:
            self._journal.commit()
            self._answer_watchers()
            timeout = self._next_timeout()
            if timeout is not None and timeout <= 0 and self._is_idle():
                break
            for key, events in self._selector.select(timeout):
                self._handle(key.data, events)
            self._run_timers()
            self._start_tasks()
        self._journal.commit()
        files.remove([os.path.join(self._folder, "socket")])

    def _is_idle(self) -> bool:
        return self._ledger.is_idle and not self._connections

    def _next_timeout(self) -> float | None:
        now = time.monotonic()
        due = [when for when, _ in self._timers.values()]
        due += [c.watching[1] for c in self._connections.values() if c.watching]
        if self._is_idle():
            due.append(self._idle_since + self._linger)
        else:
            self._idle_since = now
        return max(0.0, min(due) - now) if due and min(due) < math.inf else None

    def _handle(self, what: Any, events: int) -> None:
        if isinstance(what, Running):
            self._finished(what)
        elif isinstance(what, Connection):
            self._serve(what, events)
        else:
            with contextlib.suppress(BlockingIOError, ConnectionError):
                link, _ = self._listener.accept()
                link.setblocking(False)
                connection = Connection(link)
                self._connections[link.fileno()] = connection
                self._selector.register(link, selectors.EVENT_READ, connection)

    # -- jobs ------------------------------------------------------------------------------------

    def _add(self, number: str, spec: dict[str, Any]) -> Job:
        self._specs[number], self._by_script[spec["script"]] = spec, number
        return Job(
            number,
            spec["cores"],
            spec["memory"],
            spec["seconds"] or math.inf,
            spec["count"],
            spec["limit"],
            {one["job"]: one["kind"] for one in spec["depends"]},
        )

    def _start_tasks(self) -> None:
        while started := self._ledger.startable(time.time()):
            for key in started:
                self._start(key)

    def _start(self, key: Key) -> None:
        number, task = key
        spec = self._specs[number]
        env = {**self._envs[spec["env"]], _ENV: "" if task is None else str(task)}
        try:
            with (
                _output(files.of_task(spec["out"], task)) as out,
                _output(files.of_task(spec["err"], task)) as err,
            ):
                process = subprocess.Popen(
                    ["/bin/bash", spec["script"]],
                    cwd="/",
                    env=env,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    start_new_session=True,
                )
        except OSError as error:
            self._end(key, State.FAILED, None, None, f"it could not be started: {error}")
            return
        self._take_up(Running(key, process.pid, process), time.time())
        self._journal.add(
            start=number, task=task, pid=process.pid, born=process_start(process.pid), at=time.time()
        )

    def _take_up(self, running: Running, since: float) -> None:
        key = running.key
        self._running[key] = running
        self._selector.register(running.pidfd, selectors.EVENT_READ, running)
        seconds = self._specs[key[0]]["seconds"]
        if seconds:
            self._timers[key] = (time.monotonic() + max(0.0, since + seconds - time.time()), signal.SIGTERM)
        self._change(key, State.RUNNING)

    def _finished(self, running: Running) -> None:
        key = running.key
        self._selector.unregister(running.pidfd)
        os.close(running.pidfd)
        code: int | None = None
        if running.process is not None:
            running.signal(signal.SIGKILL)  # what it left behind ends with it, as on any batch system
            code = running.process.wait()
        else:
            words = files.read_text(self._end_file(key)).split("\n")[-2:-1]
            if words and words[0].startswith("exit "):
                code = int(words[0].split()[1])
        del self._running[key]
        self._timers.pop(key, None)
        if code is None:
            self._end(key, running.fate or State.UNKNOWN, None, None, "it ended unseen, while no queue ran")
        elif code < 0:
            self._end(key, running.fate or State.FAILED, None, -code, "")
        else:
            self._end(key, running.fate or (State.COMPLETED if code == 0 else State.FAILED), code, None, "")

    def _end_file(self, key: Key) -> str:
        stem = self._specs[key[0]]["script"].removesuffix(".job")
        return files.of_task(f"{stem}.end", key[1])

    def _end(self, key: Key, state: State, code: int | None, sign: int | None, reason: str) -> None:
        if state is State.UNKNOWN:
            state = State.FAILED  # it is over, and nothing says that it went well
        self._change(key, state, code, sign, reason)
        self._journal.add(end=key[0], task=key[1], status=self._status[key])
        self._drop(self._ledger.ended(key, state))

    def _drop(self, dropped: list[Dropped]) -> None:
        for one in dropped:
            reason = f"job {one.waited_for}, for which it waited, did not end as it had to"
            for task in self._ledger.jobs[one.job].states:
                key = (one.job, task)
                if not State(self._status[key]["state"]).ended:
                    self._change(key, State.CANCELLED, reason=reason)
                    self._journal.add(end=one.job, task=task, status=self._status[key])

    def _change(
        self, key: Key, state: State, code: int | None = None, sign: int | None = None, reason: str = ""
    ) -> None:
        self._sequence += 1
        spec = self._specs[key[0]]
        self._status[key] = {
            "job": key[0], "task": key[1], "state": state.value, "exit_code": code, "signal": sign,
            "reason": reason, "name": spec["name"], "cores": spec["cores"], "seq": self._sequence,
        }  # fmt: skip
        self._status.move_to_end(key)

    def _run_timers(self) -> None:
        now = time.monotonic()
        for key, (when, number) in list(self._timers.items()):
            if when <= now:
                self._stop_task(self._running[key], number, State.TIMEOUT)

    def _stop_task(self, running: Running, number: int, fate: State) -> None:
        running.fate = running.fate or fate
        running.signal(number)
        self._timers[running.key] = (
            (time.monotonic() + KILL_SECONDS if number == signal.SIGTERM else math.inf),
            signal.SIGKILL,
        )

    # -- after a restart -------------------------------------------------------------------------

    def _recover(self) -> None:
        submitted: dict[str, dict[str, Any]] = {}
        started: dict[Key, dict[str, Any]] = {}
        ended: dict[Key, dict[str, Any]] = {}
        envs: dict[str, dict[str, str]] = {}
        for event in self._journal.read():
            if "env" in event:
                envs[event["env"]] = event["values"]
            elif "submit" in event:
                submitted[event["submit"]] = event["spec"]
            elif "start" in event:
                started[event["start"], event["task"]] = event
            elif "end" in event:
                ended[event["end"], event["task"]] = event["status"]
        last = max((int(number) for number in submitted), default=0)
        self._numbers = itertools.count(last + 1)
        self._forget_old(submitted, ended)
        self._envs = {
            name: values for name, values in envs.items() if name in {s["env"] for s in submitted.values()}
        }
        events: list[dict[str, Any]] = [
            {"env": name, "values": values} for name, values in self._envs.items()
        ]
        for number, spec in submitted.items():
            events.append({"submit": number, "spec": spec})
            job = self._add(number, spec)
            for task in job.states:
                key = (number, task)
                if key in ended:
                    job.states[task] = State(ended[key]["state"])
                    self._sequence += 1
                    self._status[key] = {**ended[key], "seq": self._sequence}
                    events.append({"end": number, "task": task, "status": ended[key]})
                elif key in started:
                    job.states[task] = State.RUNNING
                    events.append(started[key])
                else:
                    self._change(key, job.states[task])
            self._drop(self._ledger.add(job))
        self._journal.restart(events)
        for key, event in started.items():
            if key not in ended and key[0] in submitted:
                self._find_again(key, event)
        self._journal.commit()

    def _find_again(self, key: Key, event: dict[str, Any]) -> None:
        self._ledger.adopt(key, event["at"])
        if event["born"] and process_start(event["pid"]) == event["born"]:
            with contextlib.suppress(ProcessLookupError):
                self._take_up(Running(key, event["pid"], None), event["at"])
                return
        self._change(key, State.RUNNING)
        words = files.read_text(self._end_file(key)).split("\n")[-2:-1]
        code = int(words[0].split()[1]) if words and words[0].startswith("exit ") else None
        state = State.COMPLETED if code == 0 else State.FAILED
        self._end(key, state, code, None, "" if code is not None else "it ended unseen, while no queue ran")

    @staticmethod
    def _forget_old(submitted: dict[str, dict[str, Any]], ended: dict[Key, dict[str, Any]]) -> None:
        needed = {one["job"] for spec in submitted.values() for one in spec["depends"]}
        over = [
            number
            for number, spec in submitted.items()
            if all(
                [
                    (number, task) in ended
                    for task in ([None] if spec["count"] is None else range(spec["count"]))
                ]
            )
        ]
        for number in over[: max(0, len(over) - KEPT_JOBS)]:
            if number not in needed:
                del submitted[number]

    # -- clients ---------------------------------------------------------------------------------

    def _serve(self, connection: Connection, events: int) -> None:
        try:
            if events & selectors.EVENT_READ:
                data = connection.link.recv(1 << 20)
                if not data:
                    raise ConnectionError
                connection.incoming += data
                if len(connection.incoming) > (LINE_LIMIT if connection.trusted else 4096):
                    raise ConnectionError
                self._read_lines(connection)
            self._flush(connection)
        except (BlockingIOError, InterruptedError):
            pass
        except (OSError, ValueError, KeyError, TypeError):
            self._hang_up(connection)

    def _read_lines(self, connection: Connection) -> None:
        while (cut := connection.incoming.find(b"\n")) >= 0:
            line = bytes(connection.incoming[:cut])
            del connection.incoming[: cut + 1]
            request = json.loads(line)
            if not connection.trusted:
                shown = str(request.get("secret", ""))
                if not hmac.compare_digest(shown.encode(), self._secret.encode()) or not _same_user(
                    connection.link
                ):
                    raise ConnectionError
                connection.trusted = True
                self._reply(connection, {"epoch": self._epoch, "seq": self._sequence})
                continue
            answer = self._answer(connection, request)
            if answer is not None:
                self._reply(connection, answer)

    def _reply(self, connection: Connection, answer: dict[str, Any]) -> None:
        self._journal.commit()  # nobody is told what a crash could still undo
        connection.outgoing += json.dumps(answer).encode() + b"\n"
        self._flush(connection)

    def _flush(self, connection: Connection) -> None:
        if connection.outgoing:
            with contextlib.suppress(BlockingIOError):
                del connection.outgoing[: connection.link.send(connection.outgoing)]
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if connection.outgoing else 0)
        self._selector.modify(connection.link, wanted, connection)

    def _hang_up(self, connection: Connection) -> None:
        self._connections.pop(connection.link.fileno(), None)
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(connection.link)
        connection.link.close()
        self._idle_since = time.monotonic()

    def _answer(self, connection: Connection, request: dict[str, Any]) -> dict[str, Any] | None:
        verb = request["op"]
        if verb == "submit":
            return self._submit(request["spec"], request.get("values"))
        if verb == "status":
            keys = [
                (n, t) for n in request["ids"] if n in self._ledger.jobs for t in self._ledger.jobs[n].states
            ]
            unknown = [number for number in request["ids"] if number not in self._ledger.jobs]
            return {"statuses": [self._status[k] for k in keys], "unknown": unknown, "seq": self._sequence}
        if verb == "changes":
            changed = itertools.takewhile(
                lambda s: s["seq"] > request["since"], reversed(self._status.values())
            )
            return {"statuses": list(changed)[::-1], "seq": self._sequence}
        if verb == "watch":
            connection.watching = (request["since"], time.monotonic() + request["seconds"])
            return None
        if verb == "list":
            return {"statuses": list(self._status.values()), "seq": self._sequence}
        if verb == "cancel":
            return self._cancel(request["ids"])
        if verb == "limits":
            self._ledger.cores = request["cores"] or self._ledger.cores
            self._ledger.memory = request["memory"] or self._ledger.memory
            return {"cores": self._ledger.cores, "memory": self._ledger.memory}
        if verb == "stop":
            self._stopping = True
            return {"pid": os.getpid()}
        raise ValueError(f"no such request: {verb!r}")

    def _submit(self, spec: dict[str, Any], values: dict[str, str] | None) -> dict[str, Any]:
        if spec["script"] in self._by_script:  # asked again, after a connection that broke
            return {"id": self._by_script[spec["script"]]}
        if spec["env"] not in self._envs:
            if values is None:
                return {"wants": "env"}
            self._envs[spec["env"]] = values
            self._journal.add(env=spec["env"], values=values)
        number = str(next(self._numbers))
        job = self._add(number, spec)
        if refusal := self._ledger.refusal(job):
            del self._specs[number], self._by_script[spec["script"]]
            return {"refused": refusal}
        self._journal.add(submit=number, spec=spec)
        for task in job.states:
            self._change((number, task), job.states[task])
        self._drop(self._ledger.add(job))
        return {"id": number}

    def _cancel(self, ids: list[str]) -> dict[str, Any]:
        for number in ids:
            if number not in self._ledger.jobs:
                continue
            for key, runs in self._ledger.open_tasks(number):
                if runs and key in self._running:
                    self._stop_task(self._running[key], signal.SIGTERM, State.CANCELLED)
                elif not runs and not State(self._status[key]["state"]).ended:
                    self._end(key, State.CANCELLED, None, None, "")
        return {"seq": self._sequence}

    def _answer_watchers(self) -> None:
        now = time.monotonic()
        for connection in list(self._connections.values()):
            if connection.watching is None:
                continue
            since, until = connection.watching
            if self._sequence > since or now >= until:
                connection.watching = None
                try:
                    self._reply(connection, {"seq": self._sequence})
                except OSError:
                    self._hang_up(connection)


@contextlib.contextmanager
def in_folder(folder: str) -> Any:
    """A short name for a folder: the path of a socket may have about a hundred letters."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _output(path: str) -> Any:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _same_user(link: socket.socket) -> bool:
    _, uid, _ = struct.unpack("3i", link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return bool(uid == os.getuid())


def main() -> int:
    """Become the queue of a folder, in the background; 0 once it listens, or another one does."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--cores", type=int, default=0)
    parser.add_argument("--memory", type=int, default=0)
    parser.add_argument("--linger", type=float, default=10.0)
    given = parser.parse_args()
    # Held for life, and not by the jobs: whoever has it is the queue of this folder.
    lock = os.open(os.path.join(given.folder, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return 0
    server = LocalServer(
        given.folder, given.cores or usable_cores(), given.memory or total_memory_mb(), given.linger
    )
    server.open()
    if os.fork():
        os._exit(0)  # whoever started us need not wait for the queue's end
    os.setsid()
    log = os.open(
        os.path.join(given.folder, "log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
    )
    null = os.open(os.devnull, os.O_RDONLY)
    for target, source in ((0, null), (1, log), (2, log)):
        os.dup2(source, target)
    os.chdir("/")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    server.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
