"""From a trace to what limited the run: where the time of each server went, and who is to be asked.

The time from the first push to the last answer is looked at in many moments. In each, a server that runs
nothing does so for one of the reasons in `REASONS`. A round is a stretch of time in which something is
pushed and has not ended: a script that waits for all it has pushed makes one round after the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mpiframe.report.reading import Floats, Trace

RUNNING = "running"
REASONS = {
    "transfer": "large arguments or results were on their way",
    "client": "commands were there, but the client did not hand them over as fast",
    "few": "the script waited for the few commands it had pushed, fewer than there are servers",
    "elsewhere": "the commands that waited were for other servers",
    "stragglers": "the last commands of a round ran on other servers, and nothing followed until they ended",
    "unpushed": "nothing was pushed",
}
"""Why a server runs nothing, in the order in which they are looked for."""

MOMENTS = 20_000  # to look at
BINS = 240  # of time, in pictures
_DENSE = 1e-3  # seconds between two pushes of a client that pushes as fast as it can
_SOON = 10e-3  # seconds after an answer in which a script pushes that waited for it


@dataclass(frozen=True, slots=True)
class Server:
    """What one server did. busy: seconds; spent: the share of the run, for RUNNING and each reason."""

    rank: int
    label: str
    commands: int
    busy: float
    spent: dict[str, float]
    busy_in: Floats  # the share of each of BINS parts of the run


@dataclass(frozen=True, slots=True)
class Transfer:
    """Large arguments ("out") or results ("back") of one command."""

    size: int
    seconds: float
    way: str
    name: str
    server: str
    id: int


@dataclass(frozen=True, slots=True)
class Analysis:
    """Of a run: what the text and the picture say. Times in seconds."""

    trace: Trace
    start: float
    end: float
    servers: list[Server]
    steps: Floats  # the edges of bins of time
    rate: Floats  # commands that ended in each, a second
    waiting: Floats  # commands that waited, at the middle of each
    waits: dict[str, Floats]  # by phase: of each command
    transfers: list[Transfer]
    names: list[tuple[str, int, float]]  # (name, commands, seconds of running), the most first
    spent: dict[str, float]  # the mean of the servers'

    @property
    def seconds(self) -> float:
        """From the first push to the last answer."""
        return self.end - self.start

    @property
    def busiest(self) -> Server:
        """The server that ran commands for the longest time."""
        return max(self.servers, key=lambda s: s.busy)


def analyse(trace: Trace) -> Analysis:
    """Look at a trace in which at least one command was run; ValueError if there is none."""
    if not len(trace):
        raise ValueError("no command was run in it")
    start = min([float(trace.queued.min()), *[queued for queued, _, _ in trace.unrun]])
    end = max(float(trace.ended.max()), start + 1e-6)
    edges = np.linspace(start, end, BINS + 1)
    moments = _Moments(trace, start, end)
    servers = [_server(trace, rank, label, edges, moments) for rank, label in sorted(trace.servers.items())]
    spent = {key: float(np.mean([s.spent[key] for s in servers])) for key in (RUNNING, *REASONS)}
    # Of few commands wide bins tell more.
    steps = np.linspace(start, end, int(np.clip(len(trace) // 5, 20, BINS)) + 1)
    middles = (steps[1:] + steps[:-1]) / 2
    return Analysis(
        trace,
        start,
        end,
        servers,
        steps,
        np.histogram(trace.finished, steps)[0] / (steps[1] - steps[0]),
        _count(trace.queued, middles) - _count(trace.started, middles),
        {
            "queue": (trace.free - trace.queued) + (trace.started - trace.taken),
            "send": trace.taken - trace.free,
            "answer": trace.ended - trace.finished,
        },
        _transfers(trace),
        _names(trace),
        spent,
    )


def _count(times: Floats, moments: Floats) -> Floats:
    """How many of these had passed, at each moment."""
    return np.searchsorted(np.sort(times), moments, side="right").astype(float)


def _between(begin: Floats, end: Floats, moments: Floats) -> Floats:
    """Of how many a moment lies between begin and end."""
    return _count(begin, moments) - _count(end, moments)


def merged(begin: Floats, end: Floats) -> tuple[Floats, Floats]:
    """The same time in stretches that do not overlap, in order."""
    order = np.argsort(begin, kind="stable")
    begin, end = begin[order], np.maximum.accumulate(end[order])
    first = np.ones(len(begin), bool)
    first[1:] = begin[1:] > end[:-1]
    last = np.append(first[1:], True) if len(first) else first
    return begin[first], end[last]


def busy_until(begin: Floats, end: Floats, moments: Floats) -> Floats:
    """Seconds that lie in these stretches (from `merged`) up to each moment."""
    if not len(begin):
        return np.zeros(len(moments))
    times = np.column_stack([begin, end]).ravel()
    done = np.concatenate([[0.0], np.cumsum(end - begin)])
    values = np.column_stack([done[:-1], done[1:]]).ravel()
    result: Floats = np.interp(moments, times, values)
    return result


class _Moments:
    """What was the case at each of many moments of the run."""

    def __init__(self, trace: Trace, start: float, end: float) -> None:
        steps = np.arange(MOMENTS) + np.random.default_rng(7).random(MOMENTS)  # so that no rhythm is missed
        self.times = start + (end - start) * steps / MOMENTS
        self.trace = trace
        t = self.times
        never = np.array([(q, e) for q, e, _ in trace.unrun]).reshape(-1, 2)
        queued = np.sort(np.concatenate([trace.queued, never[:, 0]]))
        ended = np.sort(np.concatenate([trace.ended, never[:, 1]]))
        self.open = np.searchsorted(queued, t, "right") - np.searchsorted(ended, t, "right")
        following = np.searchsorted(queued, t, "right")
        self.last_push = np.append(queued, np.inf)[following - 1]
        self.next_push = np.append(queued, np.inf)[following]
        self._rounds(queued, ended)
        anywhere = trace.any.astype(bool)
        self.waits_for_any = _between(trace.queued[anywhere], trace.free[anywhere], t) > 0
        own = ~anywhere
        self.own = {
            rank: _between(trace.queued[mask], trace.started[mask], t) > 0
            for rank in trace.servers
            if (mask := own & (trace.server == rank)) is not None
        }
        self.targeted = _between(trace.queued[own], trace.started[own], t) > 0

    def _rounds(self, queued: Floats, ended: Floats) -> None:
        """For each moment: commands of its round, or of the one before if it is between two; its end."""
        times = np.concatenate([queued, ended])
        steps = np.concatenate([np.ones(len(queued)), -np.ones(len(ended))])
        order = np.lexsort((-steps, times))
        times, level = times[order], np.cumsum(steps[order])
        ends = times[level == 0]
        sizes = np.diff(np.concatenate([[0], np.searchsorted(queued, ends, "right")]))
        if not len(ends):
            ends, sizes = np.array([np.inf]), np.array([len(queued)])
        # A push at the very end of a round belongs to it; good enough.
        index = np.searchsorted(ends, self.times, "left")
        inside = self.open > 0
        which = np.clip(np.where(inside, index, index - 1), 0, len(ends) - 1)
        self.size, self.round_end = sizes[which], ends[which]

    def why_idle(self, rank: int, idle: npt.NDArray[np.bool_]) -> Any:
        """For each moment the index of the reason, in the order of REASONS."""
        trace, t = self.trace, self.times
        mine = trace.server == rank
        out, back = mine & (trace.out > 0), mine & (trace.back > 0)
        moving = _between(trace.free[out], trace.taken[out], t) > 0
        moving |= _between(trace.finished[back], trace.ended[back], t) > 0
        sending = _between(trace.free[mine], trace.taken[mine], t) > 0
        few = self.size < len(trace.servers)
        between = self.open == 0
        gap = self.next_push - self.round_end
        ready = self.waits_for_any | self.own[rank] | sending
        follows = self.next_push < self.round_end
        dense = follows & (self.next_push - self.last_push <= _DENSE)
        conditions = [
            moving,
            between & few & (gap <= _SOON),
            between,
            ready & ~few,
            self.targeted & ~self.own[rank],
            few,
            dense,
            follows,
        ]
        names = ["transfer", "few", "unpushed", "client", "elsewhere", "few", "client", "unpushed"]
        keys = list(REASONS)
        chosen = np.select(conditions, [keys.index(name) for name in names], keys.index("stragglers"))
        return np.where(idle, chosen, -1)


def _server(trace: Trace, rank: int, label: str, edges: Floats, moments: _Moments) -> Server:
    mine = trace.server == rank
    begin, end = merged(trace.started[mine], trace.finished[mine])
    idle = _between(begin, end, moments.times) == 0
    why = moments.why_idle(rank, idle)
    total = edges[-1] - edges[0]
    busy = float((end - begin).sum())
    spent = {RUNNING: min(busy / total, 1.0)}
    # The shares of what is not busy are counted in moments; what is busy is known exactly.
    counts = np.bincount(why[why >= 0], minlength=len(REASONS))
    scale = (1.0 - spent[RUNNING]) / max(counts.sum(), 1)
    spent |= {key: float(count * scale) for key, count in zip(REASONS, counts, strict=True)}
    in_bins = np.diff(busy_until(begin, end, edges)) / np.diff(edges)
    return Server(rank, label, int(mine.sum()), busy, spent, in_bins)


def _transfers(trace: Trace, most: int = 10) -> list[Transfer]:
    found = []
    for way, sizes, begin, end in (
        ("out", trace.out, trace.free, trace.taken),
        ("back", trace.back, trace.finished, trace.ended),
    ):
        for row in np.argsort(-sizes, kind="stable")[:most]:
            if sizes[row]:
                found.append(
                    Transfer(
                        int(sizes[row]),
                        float(end[row] - begin[row]),
                        way,
                        trace.names[trace.name[row]],
                        trace.servers.get(int(trace.server[row]), "?"),
                        int(trace.id[row]),
                    )
                )
    return sorted(found, key=lambda t: -t.size)[:most]


def _names(trace: Trace, most: int = 8) -> list[tuple[str, int, float]]:
    """Chunks of one map count together."""
    short = [name.partition(" [")[0] if name.endswith("...]") else name for name in trace.names]
    kinds = sorted(set(short))
    place = {name: index for index, name in enumerate(kinds)}
    index = np.array([place[name] for name in short])[trace.name]
    seconds = np.bincount(index, trace.finished - trace.started, len(kinds))
    counts = np.bincount(index, minlength=len(kinds))
    order = np.argsort(-seconds, kind="stable")[:most]
    return [(kinds[i], int(counts[i]), float(seconds[i])) for i in order]
