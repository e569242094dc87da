"""Reads a trace file, also one that lacks its end, into columns of numbers."""

from __future__ import annotations

import gzip
import json
import zlib
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from mpiframe.errors import WorldError
from mpiframe.trace_file import CLIENT_PID

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

TIMES = ("queued", "sent", "free", "taken", "started", "finished", "ended")
_NUMBERS = ("id", "server", "name", "out", "back", "any")


@dataclass(slots=True)
class Trace:
    """What a trace file says; times in seconds since its start, by the client's clock.

    The columns have a row for each command that was run, in the order of the file.

    Attributes
    ----------
    queued, sent, ended: when it was pushed, when it left the client, when that heard of its end.
    free, taken, started, finished: on its server: free to take it, had all of it, began, ended it.
    server: its rank. name: index in `names`. out, back: bytes of large arguments and results. any: 1 where
        it was pushed for the first server that is free.
    failed: commands that raised. unrun: of each request that was never run, or whose server did not answer:
        (pushed, ended, status).
    servers: the labels by rank. cpu: (time, cores that the client used from there on). clocks: by rank, how
        far its clock was ahead and by how much that may be wrong. facts: of the world.
    whole: the file has its end.
    """

    columns: dict[str, Any]
    names: list[str]
    failed: int
    unrun: list[tuple[float, float, str]]
    servers: dict[int, str]
    cpu: list[tuple[float, float]]
    clocks: dict[int, tuple[float, float]]
    facts: dict[str, Any]
    whole: bool

    def __getattr__(self, name: str) -> Any:
        try:
            return self.columns[name]
        except KeyError:
            raise AttributeError(name) from None

    def __len__(self) -> int:
        return len(self.columns["id"])


@dataclass(slots=True)
class _Reader:
    times: dict[str, array[float]] = field(default_factory=lambda: {name: array("d") for name in TIMES})
    numbers: dict[str, array[int]] = field(default_factory=lambda: {name: array("q") for name in _NUMBERS})
    names: dict[str, int] = field(default_factory=dict)
    failed: int = 0
    unrun: list[tuple[float, float, str]] = field(default_factory=list)
    late: set[int] = field(default_factory=set)
    servers: dict[int, str] = field(default_factory=dict)
    cpu: list[tuple[float, float]] = field(default_factory=list)
    clocks: dict[int, tuple[float, float]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def take(self, event: dict[str, Any]) -> None:
        kind, args = event.get("ph"), event.get("args", {})
        if kind == "X" and event.get("cat") == "run":
            self._run(event, args)
        elif kind == "i" and event.get("cat") == "end":
            self.unrun.append((args["queued"] * 1e-6, event["ts"] * 1e-6, args["status"]))
        elif kind == "C" and event["name"] == "cpu":
            self.cpu.append((event["ts"] * 1e-6, args["cores"]))
        elif kind == "M":
            pid, name = event["pid"], event["name"]
            if name == "process_name" and pid != CLIENT_PID:
                self.servers[pid] = args["name"]
            elif name == "mpiframe_clock":
                self.clocks[pid] = args["offset"], args["error"]
            elif name == "mpiframe":
                self.facts = args

    def _run(self, event: dict[str, Any], args: dict[str, Any]) -> None:
        status = args["status"]
        if status == "failed":
            self.failed += 1
        started = event["ts"]
        row = {**args, "started": started, "finished": started + event["dur"]}
        row |= {"server": event["pid"], "name": self.names.setdefault(event["name"], len(self.names))}
        for column, values in self.times.items():
            values.append(row[column] * 1e-6)
        for column, numbers in self.numbers.items():
            numbers.append(row[column])


def read(path: str) -> Trace:
    """Raises WorldError for what is no trace of mpiframe, OSError for what cannot be read."""
    reader = _Reader()
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    with gzip.open(path, "rb") if packed else open(path, "rb") as file:
        try:
            whole = _read_lines(reader, file)
            if not reader.facts:  # which are in the first event of ours
                raise _OtherForm
        except _OtherForm:
            whole = _read_whole(reader, path, packed)
        except (KeyError, TypeError, AttributeError) as error:
            raise _strange(path, f"an event lacks what it should have ({error!r})") from error
    if not reader.facts:
        raise _strange(path, "nothing in it says so")
    columns: dict[str, Any] = {name: np.frombuffer(v) for name, v in reader.times.items() if v}
    columns |= {name: np.frombuffer(v, np.int64) for name, v in reader.numbers.items() if v}
    if not columns:
        columns = {name: np.empty(0) for name in TIMES} | {name: np.empty(0, int) for name in _NUMBERS}
    return Trace(
        columns,
        list(reader.names),
        reader.failed,
        reader.unrun,
        reader.servers,
        reader.cpu,
        reader.clocks,
        reader.facts,
        whole,
    )


class _OtherForm(Exception):
    """It has not an event a line: something else has written it anew."""


def _strange(path: str, why: str) -> WorldError:
    return WorldError(f"{path} is no trace that `mpiframe run --trace` has written: {why}")


_WANTED = (b'"cat":"run"', b'"ph":"i"', b'"ph":"C"', b'"ph":"M"')


def _read_lines(reader: _Reader, file: Any) -> bool:
    """Our own form, an event a line; whether it has its end."""
    lines = _lines(file)
    if next(lines, b"").strip() not in (b"[", b"[]"):
        raise _OtherForm
    for line in lines:
        text = line.strip().rstrip(b",")
        if text == b"]":
            return True
        if not any(mark in line for mark in _WANTED):
            continue
        try:
            event = json.loads(text)
        except ValueError:
            if not line.endswith(b"\n"):
                return False  # its last line
            raise _OtherForm from None
        reader.take(event)
    return False


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    try:
        yield from file
    except (EOFError, zlib.error):
        return  # compressed, and cut off


def _read_whole(reader: _Reader, path: str, packed: bool) -> bool:
    with gzip.open(path, "rb") if packed else open(path, "rb") as file:
        try:
            content = json.load(file)
        except (ValueError, EOFError, zlib.error) as error:
            raise _strange(path, f"it is no JSON ({error})") from error
    events: Iterable[Any] = content.get("traceEvents", ()) if isinstance(content, dict) else content
    other = _Reader()
    for event in events:
        other.take(event)
    for name in _Reader.__dataclass_fields__:
        setattr(reader, name, getattr(other, name))
    return True
