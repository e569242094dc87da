"""A double of a world that works: a source of snapshots, made up by the clock, with no process behind it."""

from __future__ import annotations

import itertools
import math
import random
import time
from typing import Any

from mpiframe.errors import WorldError

NASTY = "<img src=x onerror=\"document.title='HACKED'\"><script>document.title='HACKED'</script>"


class FakeWorld:
    """Call it as a source. `end` makes it go away; `nasty` puts HTML wherever text can be."""

    def __init__(
        self, servers: int = 4, nasty: bool = False, history: float = 0.0, name: str = "survey"
    ) -> None:
        self.nasty, self.name = nasty, name
        self.started = time.time() - max(history, 1.0)
        self._servers = [_FakeServer(rank, self.started) for rank in range(1, servers + 1)]
        self._ids = itertools.count(1)
        self._seq = 0
        self._spans: list[dict[str, Any]] = []
        self._output: list[dict[str, Any]] = []
        self._random = random.Random(7)
        self.gone: str | None = None
        self.asked = 0

    def end(self, why: str = "The connection to it is closed.") -> None:
        self.gone = why

    def __call__(self, since: int) -> dict[str, Any]:
        self.asked += 1
        if self.gone is not None:
            raise WorldError(self.gone)
        now = time.time()
        for server in self._servers:
            self._work(server, now)
        rows = [server.row(now) for server in self._servers]
        done = sum(s.done for s in self._servers)
        failed = sum(s.failed for s in self._servers)
        return {
            "seq": self._seq,
            "now": now,
            "world": {
                "name": self.name,
                "mpi": "Open MPI 5.0.8",
                "ranks": len(rows) + 1,
                "hosts": 1,
                "started": self.started,
                "command": NASTY if self.nasty else "reduce_survey.py --band L",
                "closed": False,
            },
            "servers": rows,
            "shared_queue": 12,
            "sessions": [
                {"name": "ann-1", "connected": True, "queued": 3, "running": 2, "done": done // 2},
                {"name": NASTY if self.nasty else "bob-1", "connected": False, "queued": 0, "running": 0,
                 "done": done - done // 2},
            ],
            "statuses": {"done": done, "failed": failed},
            "run_seconds": {"bounds": [0.1, 1.0, 10.0], "counts": [1, done, failed, 0], "sum": 0.8 * done},
            "wait_seconds": {"bounds": [0.1, 1.0, 10.0], "counts": [done, failed, 1, 0], "sum": 0.02 * done},
            "spans": [one for one in self._spans if one["seq"] > since],
            "output": [one for one in self._output if one["seq"] > since],
            "panels": self._panels(now),
        }  # fmt: skip

    def _work(self, server: _FakeServer, now: float) -> None:
        while (end := server.since + server.seconds) < now:
            status = "failed" if self._random.random() < 0.05 else "done"
            self._seq += 1
            self._spans.append(
                {
                    "seq": self._seq, "id": server.id, "session": "ann-1", "server": server.rank,
                    "command": server.command, "status": status, "queued": server.since - 0.4,
                    "sent": server.since, "started": server.since, "finished": end,
                }
            )  # fmt: skip
            server.done += status == "done"
            server.failed += status == "failed"
            server.busy += server.seconds
            self._say(server, status)
            server.since = end + self._random.random() * 0.3
            server.seconds = self._random.choice([0.2, 0.5, 0.9, 1.5, 3.0, 6.0])
            server.id = next(self._ids)
            server.command = self._random.choice(
                [
                    f"flag(field={server.id})",
                    f"fringe_fit(scan={server.id}, refant='EF')",
                    "image.clean(niter=500)",
                ]
            )
            if self.nasty:
                server.command = NASTY

    def _say(self, server: _FakeServer, status: str) -> None:
        texts = [("stdout", f"{server.command}: rms {self._random.random():.3f} mJy\n")]
        if status == "failed":
            texts.append(("stderr", f"WARNING: no solutions for scan {server.id}\n"))
        for stream, text in texts:
            self._seq += 1
            self._output.append(
                {
                    "seq": self._seq,
                    "server": server.rank,
                    "request": server.id,
                    "stream": stream,
                    "text": text,
                }
            )

    def _panels(self, now: float) -> dict[str, Any]:
        text = NASTY if self.nasty else "exp_1"
        return {
            "scheduler": [
                {"server": 1, "at": now, "title": "Batch jobs (slurm)", "facts": {"submitted": 3},
                 "columns": ["job", "name", "state", "details"],
                 "rows": [["4713", "image", "running", ""], ["4712", "cal", "completed", "exit code 0"],
                          ["4711", text, "failed", "failed, exit code 3"]]}
            ],
            "grid": [
                {"server": 2, "at": now, "title": "Tokens", "shared": True,
                 "columns": ["type", "todo", "locked", "done", "error"], "rows": [["L123", 40, 4, 156, 2]]}
            ],
            "difx": [
                {"server": 1, "at": now, "title": "DiFX jobs", "facts": {"running": 1, "queued": 2},
                 "columns": ["run", "job", "state", "progress", "details"],
                 "rows": [[2, text, "Running", {"progress": math.modf(now / 60)[0]}, ""],
                          [1, "exp_0", "done", {"progress": 1.0}, "all is well"]]}
            ],
        }  # fmt: skip


class _FakeServer:
    def __init__(self, rank: int, started: float) -> None:
        self.rank = rank
        self.id = rank
        self.since, self.seconds, self.command = started, 0.3 * rank, "import casatasks"
        self.done = self.failed = 0
        self.busy = 0.0

    def row(self, now: float) -> dict[str, Any]:
        runs = self.since <= now
        return {
            "rank": self.rank, "host": "node17", "pid": 4000 + self.rank, "state": "busy" if runs else "idle",
            "queued": self.rank % 3, "running": self.id if runs else None,
            "command": self.command if runs else None, "since": self.since if runs else None,
            "cpu": 0.93 * (self.busy + (now - self.since if runs else 0.0)),
            "rss": (300 + 37 * self.rank) << 20, "done": self.done, "failed": self.failed,
            "busy": self.busy + (now - self.since if runs else 0.0),
        }  # fmt: skip
