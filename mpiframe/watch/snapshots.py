"""What a world does, to be looked at from outside: `mpiframe top`, the dashboard.

client_loop --ended, printed--> two short queues --now and then, and when somebody looks--> rings, counters
                                                            snapshot(since) <-- the hub, a dashboard

A command costs the client a tuple and its place in a queue. What follows is done for many at once: commands
that are too short to be seen one by one share a span.
"""

from __future__ import annotations

import functools
import sys
import threading
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Sequence
from time import time as clock
from typing import TYPE_CHECKING, Any

from mpiframe.messages import Request, Status, within_session
from mpiframe.output import STDERR, Piece

if TYPE_CHECKING:
    from mpiframe.client import Client

BOUNDS = (0.0001, 0.001, 0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3600.0)
"""Seconds that the classes of the two histograms end at; one more class has what took longer."""
_SPANS = 20_000  # kept
_SPANS_AT_ONCE = 5_000  # in one snapshot
_CHARACTERS = 1 << 20  # of output kept
_CHARACTERS_AT_ONCE = 1 << 17
_LONGEST_PIECE = 1 << 14
_LONGEST_COMMAND = 200
_FOLD = 2_000  # so many ends of commands are looked at in one go
_SHORT, _GAP, _BLOCK = 5e-3, 5e-3, 0.25  # seconds: of commands that share a span, between them, of the span
_DONE = Status.DONE
_FAILED = (Status.FAILED, Status.LOST, Status.TIMEOUT)


class Watch:
    """An observer of a client's loop that keeps the last of what happened, and counts.

    name: of the world. command: what it was started with, None takes this process's. sessions: where it is
    set, it returns one dict a session of the hub: name, connected, queued, running, done.
    """

    def __init__(self, client: Client, name: str = "", command: str | None = None) -> None:
        self._client = client
        self.name = name
        self._command = _one_line(" ".join(sys.argv) if command is None else command)
        self.sessions: Callable[[], list[dict[str, Any]]] = list
        self._started = clock()
        self._lock = threading.Lock()  # of all below but the two queues
        self._ends: deque[tuple[Any, ...]] = deque(maxlen=50 * _FOLD)
        self._texts: deque[tuple[int, int, str | None, int, str]] = deque(maxlen=2 * _FOLD)
        self._seq = 0
        self._spans: deque[dict[str, Any]] = deque(maxlen=_SPANS)
        self._output: deque[dict[str, Any]] = deque()
        self._characters = 0
        self._servers: dict[int, _Server] = {}
        self._statuses: Counter[Status] = Counter()
        self._run, self._wait = _Histogram(), _Histogram()
        client._loop.observe(self)

    def close(self) -> None:
        """Observe no longer; what was seen can still be asked for."""
        self._client._loop.unobserve(self)

    # -- what the loop tells, with its lock; each of these is on the path of every command -------------

    def sent(self, rank: int, requests: Sequence[Request], now: float) -> None:
        """Its time stands in the request."""

    def ended(self, request: Request) -> None:
        """Keep what is told of a command, but neither its arguments nor its value."""
        command = request.command
        if type(command) is not str or len(command) > _LONGEST_COMMAND:
            command = text_of(command)
        ends = self._ends
        ends.append(
            (
                request.id,
                request.server,
                command,
                request.status,
                request.queued_at,
                request.sent_at,
                request.started_at,
                request.finished_at or clock(),
                request.owner,
            )
        )
        if len(ends) >= _FOLD:
            self._fold_if_free()

    def printed(self, rank: int, id: int, pieces: list[Piece]) -> None:
        """Keep what was printed; of very long pieces the end."""
        request = self._client._loop.requests.get(id)
        session = request.owner.name if request is not None and request.owner is not None else None
        for stream, text in pieces:
            self._texts.append((rank, within_session(id), session, stream, text[-_LONGEST_PIECE:]))
        if len(self._texts) >= _FOLD:
            self._fold_if_free()

    # -- looking -------------------------------------------------------------------------------------

    def snapshot(self, since: int = 0) -> dict[str, Any]:
        """How the world is now, and what happened after the snapshot whose "seq" is `since`; fits JSON.

        All times are seconds since the epoch, or seconds; "rss" is bytes. A span with a "count" stands for
        so many commands that followed close upon each other, of which "command" is the first. What is asked
        for after a long time has only the last of what happened. It waits for no server: "cpu" and "rss" are
        what a server said last, and each call has them asked again.
        """
        client = self._client
        if not client._closed:
            client._loop.pulse.ping()
        servers, shared = self._rows()
        panels = self._panels([row["rank"] for row in servers if row["state"] != "lost"])
        with self._lock:
            self._fold()
            self._close_spans()
            now = clock()
            for row in servers:
                server = self._servers.get(row["rank"]) or _Server()
                row.update(server.facts())
                if row["since"] is not None:
                    # It began when the one before it had ended; these may be the clocks of two hosts.
                    row["since"] = min(max(row["since"], server.last), now)
                    row["busy"] += now - row["since"]
            return {
                "seq": self._seq,
                "now": now,
                "world": self._world(),
                "servers": servers,
                "shared_queue": shared,
                "sessions": self.sessions(),
                "statuses": {status.value: count for status, count in self._statuses.items() if count},
                "run_seconds": self._run.facts(),
                "wait_seconds": self._wait.facts(),
                "spans": self._spans_since(since),
                "output": self._output_since(since),
                "panels": panels,
            }

    def _world(self) -> dict[str, Any]:
        facts = self._facts
        return {
            "name": self.name,
            "mpi": facts.mpi.partition(",")[0],
            "ranks": facts.ranks,
            "hosts": facts.hosts,
            "started": self._started,
            "command": self._command,
            "closed": self._client._closed,
        }

    @functools.cached_property
    def _facts(self) -> Any:
        return self._client.facts()

    def _rows(self) -> tuple[list[dict[str, Any]], int]:
        """The servers, and how many commands wait for the first one that is free."""
        loop = self._client._loop
        rows = []
        with loop.lock:
            for info in self._client._rows():
                running = loop.requests.get(info.running) if info.running is not None else None
                rows.append(
                    {
                        "rank": info.rank,
                        "host": info.host,
                        "pid": info.pid,
                        "state": info.state,
                        "queued": info.queued,
                        "running": None if info.running is None else within_session(info.running),
                        "session": None if running is None or running.owner is None else running.owner.name,
                        "command": _one_line(text_of(running.command)) if running is not None else None,
                        "since": running.sent_at if running is not None else None,
                        "cpu": info.cpu,
                        "rss": info.rss,
                    }
                )
            return rows, loop.dispatcher.shared()

    def _panels(self, ranks: list[int]) -> dict[str, list[dict[str, Any]]]:
        """What plugins show, by their names; of one that is the same on all servers, the newest."""
        found: dict[str, list[dict[str, Any]]] = {}
        newest: dict[str, dict[str, Any]] = {}
        for (plugin, rank), (at, content) in sorted(self._client._hearing.panels.items()):
            if rank not in ranks:
                continue
            panel = {"title": plugin, **content, "server": rank, "at": at}
            if panel.get("shared"):
                if plugin not in newest or newest[plugin]["at"] <= at:
                    newest[plugin] = panel
            else:
                found.setdefault(plugin, []).append(panel)
        for plugin, panel in newest.items():
            found.setdefault(plugin, []).insert(0, panel)
        return found

    # -- rings and counters (with the lock) ------------------------------------------------------------

    def _fold_if_free(self) -> None:
        """Not if another thread is at it, nor ever by waiting: the loop's lock may be held."""
        if self._lock.acquire(False):
            try:
                self._fold()
            finally:
                self._lock.release()

    def _fold(self) -> None:
        ends, texts = self._ends, self._texts
        while ends:
            self._count([ends.popleft() for _ in range(min(len(ends), _FOLD))])
        while texts:
            rank, id, session, stream, text = texts.popleft()
            self._seq += 1
            self._output.append(
                {
                    "seq": self._seq,
                    "server": rank,
                    "session": session,
                    "request": id,
                    "stream": "stderr" if stream == STDERR else "stdout",
                    "text": text,
                }
            )
            self._characters += len(text)
            while self._characters > _CHARACTERS:
                self._characters -= len(self._output.popleft()["text"])

    def _count(self, ends: list[tuple[Any, ...]]) -> None:
        """Take ends of commands into the books. Nothing here is called for each but what is unusual."""
        servers, run, wait = self._servers, self._run, self._wait
        done = 0
        for end in ends:
            _, rank, _, status, queued, _, started, finished, owner = end
            server = servers.get(rank)
            if server is None:
                if rank is None:  # it was never sent
                    self._statuses[status] += 1
                    self._keep(_span(end))
                    continue
                server = servers[rank] = _Server()
            if finished > server.last:
                server.last = finished
            if started is None:
                seconds = _SHORT
            else:
                seconds = finished - started
                server.busy += seconds
                run.counts[bisect_left(BOUNDS, seconds)] += 1
                run.sum += seconds
                waited = started - queued  # below 0 where the clocks of two hosts differ
                wait.counts[bisect_left(BOUNDS, waited)] += 1
                if waited > 0:
                    wait.sum += waited
            if status is _DONE:
                done += 1
                server.done += 1
            else:
                self._statuses[status] += 1
                if status in _FAILED:
                    server.failed += 1
            if (
                seconds < _SHORT
                and status is server.status
                and owner is server.owner
                and -_GAP < started - server.finished < _GAP
                and finished < server.until
            ):
                server.count += 1
                server.finished = finished
                continue
            if server.end is not None:
                self._keep(_span(server.end, server))
            server.end, server.status, server.owner, server.count = end, status, owner, 1
            server.finished = finished
            server.until = started + _BLOCK if seconds < _SHORT else 0.0
        self._statuses[_DONE] += done

    def _close_spans(self) -> None:
        for server in self._servers.values():
            if server.end is not None:
                self._keep(_span(server.end, server))
                server.end, server.until = None, 0.0

    def _keep(self, span: dict[str, Any]) -> None:
        self._seq += 1
        span["seq"] = self._seq
        self._spans.append(span)

    def _spans_since(self, since: int) -> list[dict[str, Any]]:
        return _newest(self._spans, since if since <= self._seq else 0, _SPANS_AT_ONCE)

    def _output_since(self, since: int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        left = _CHARACTERS_AT_ONCE
        for piece in reversed(self._output):
            left -= len(piece["text"])
            if left < 0 or piece["seq"] <= (since if since <= self._seq else 0):
                break
            found.append(piece)
        return found[::-1]


class _Server:
    """What one server has done, and the span that its next command may still share."""

    __slots__ = ("busy", "count", "done", "end", "failed", "finished", "last", "owner", "status", "until")

    def __init__(self) -> None:
        self.done = self.failed = self.count = 0
        self.busy = 0.0  # seconds
        self.last = 0.0  # when its last command ended
        self.end: tuple[Any, ...] | None = None  # of the first command of the span
        self.status: Status | None = None  # of all its commands
        self.owner: Any = None
        self.finished = 0.0  # when its last command ended
        self.until = 0.0  # when it is to be over

    def facts(self) -> dict[str, Any]:
        return {"done": self.done, "failed": self.failed, "busy": self.busy}


class _Histogram:
    """How often something took how long."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.sum = 0.0

    def facts(self) -> dict[str, Any]:
        return {"bounds": list(BOUNDS), "counts": list(self.counts), "sum": self.sum}


def _span(end: tuple[Any, ...], shared: _Server | None = None) -> dict[str, Any]:
    """A command that has ended, or several that share a span."""
    id, rank, command, status, queued, sent, started, finished, owner = end
    span = {
        "id": within_session(id),
        "session": None if owner is None else owner.name,
        "server": rank,
        "command": _one_line(command),
        "status": status.value,
        "queued": queued,
        "sent": sent,
        "started": started,
        "finished": finished if shared is None else shared.finished,
    }
    if shared is not None and shared.count > 1:
        span["count"] = shared.count
    return span


def text_of(command: Any) -> str:
    """A command as text, without a look at arguments, which may be large."""
    if isinstance(command, str):
        return command if len(command) <= _LONGEST_COMMAND else command[: _LONGEST_COMMAND - 3] + "..."
    if isinstance(command, functools.partial):
        return text_of(command.func)
    name = getattr(command, "__qualname__", None)
    return name[:_LONGEST_COMMAND] if isinstance(name, str) else type(command).__name__


def _one_line(text: str) -> str:
    return " ".join(text[: 4 * _LONGEST_COMMAND].split())[:_LONGEST_COMMAND]


def _newest(ring: deque[dict[str, Any]], since: int, at_most: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for one in reversed(ring):
        if one["seq"] <= since or len(found) >= at_most:
            break
        found.append(one)
    return found[::-1]
