"""The `.difxlog` file: what a job said while it ran, each time it ran.

A line is the local time as ctime writes it, the MPI rank, the host, and one of:
an alert (severity and text), `STATUS` with a state, `WEIGHTS` of the telescopes.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from mpiframe.plugins.difx.formats.errors import FormatError
from mpiframe.plugins.difx.formats.text import TextFile, lines_of, number

SEVERITIES = ("FATAL", "SEVERE", "ERROR", "WARNING", "INFO", "VERBOSE", "DEBUG")
FINAL_STATES = frozenset({"Done", "MpiDone", "Terminated", "Aborting", "Crashed"})
"""States after which a run says no more than goodbye."""

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_LINE = re.compile(
    r"(?P<day>\w{3}) (?P<month>\w{3}) (?P<date>[ \d]\d) (?P<h>\d\d):(?P<m>\d\d):(?P<s>\d\d) (?P<year>\d{4})"
    r" (?P<rank> *-?\d+) (?P<host>\S+)"
    r"(?:  STATUS (?P<state>\S+)  (?P<status>.*)|  WEIGHTS(?P<weights>(?: \S+)*) ?| (?P<alert>.*))",
    re.ASCII | re.DOTALL,
)
_ALERT = re.compile(rf"({'|'.join(SEVERITIES)})  (.*)", re.DOTALL)


@dataclass(frozen=True)
class LogLine:
    """A line: when (local time of the writer), from which rank on which host."""

    time: datetime.datetime
    rank: int
    host: str
    read_as: str = field(default="", compare=False, repr=False, kw_only=True)

    def _text(self, rest: str) -> str:
        day, month = _DAYS[self.time.weekday()], _MONTHS[self.time.month - 1]
        stamp = f"{day} {month} {self.time.day:2d} {self.time:%H:%M:%S} {self.time.year:04d}"
        return f"{stamp} {self.rank:3d} {self.host} {rest}"

    def text(self) -> str:
        """The line: as it was read, where that still says the same."""
        if self.read_as and _log_line(self.read_as) == self:
            return self.read_as
        return self._new_text()

    def _new_text(self) -> str:
        raise NotImplementedError


@dataclass(frozen=True)
class Alert(LogLine):
    """A message; severity: one of SEVERITIES, or "" where the line names none."""

    severity: str
    message: str

    def _new_text(self) -> str:
        return self._text(f"{self.severity}  {self.message}" if self.severity else self.message)


@dataclass(frozen=True)
class Status(LogLine):
    """A change of state."""

    state: str
    message: str = ""

    def _new_text(self) -> str:
        return self._text(f" STATUS {self.state}  {self.message}")


@dataclass(frozen=True)
class Weights(LogLine):
    """The share of good data of each telescope, in the integration that was written."""

    weights: tuple[float, ...]

    def _new_text(self) -> str:
        return self._text("".join([" WEIGHTS", *(f" {weight:4.2f}" for weight in self.weights)]))


@dataclass(frozen=True)
class Run:
    """One run of a job. state: the last one ("" if none was told)."""

    lines: tuple[LogLine, ...]

    @property
    def started(self) -> datetime.datetime:
        """The time of the first line, local to the writer."""
        return self.lines[0].time

    @property
    def ended(self) -> datetime.datetime:
        """The time of the last line."""
        return self.lines[-1].time

    @property
    def states(self) -> list[Status]:
        """The changes of state."""
        return [line for line in self.lines if isinstance(line, Status)]

    @property
    def state(self) -> str:
        """The state that counts: a final one where there was one, else the last one."""
        states = [status.state for status in self.states]
        final = [state for state in states if state in FINAL_STATES]
        return (final or states or [""])[-1]

    @property
    def weights(self) -> list[Weights]:
        """The weights of each integration."""
        return [line for line in self.lines if isinstance(line, Weights)]

    def alerts(self, severity: str = "WARNING") -> list[Alert]:
        """Messages of at least this severity. Raises ValueError for one that there is not."""
        if severity not in SEVERITIES:
            raise ValueError(f"there is no severity {severity!r}, only {', '.join(SEVERITIES)}")
        loud = SEVERITIES[: SEVERITIES.index(severity) + 1]
        return [line for line in self.lines if isinstance(line, Alert) and line.severity in loud]


@dataclass(frozen=True)
class DifxLog(TextFile):
    """A `.difxlog` file."""

    lines: tuple[LogLine, ...] = ()
    unfinished: str = ""
    """What follows the last line end: a line of which the rest is still to be written."""

    @classmethod
    def parse(cls, text: str, path: str = "") -> DifxLog:
        """The lines of `text`. Raises FormatError."""
        whole, end, unfinished = text.rpartition("\n")
        read = []
        for index, line in enumerate(lines_of(whole + end)):
            try:
                read.append(replace(_log_line(line), read_as=line))
            except ValueError:
                raise FormatError(
                    f"expected a time, a rank, a host and a message, found {line[:80]!r}", path, index + 1
                ) from None
        return cls(tuple(read), unfinished)

    def text(self) -> str:
        """The content of the file."""
        return "".join(f"{line.text()}\n" for line in self.lines) + self.unfinished

    def runs(self) -> list[Run]:
        """The runs of the job that the file tells of, the oldest first.

        A run begins with the first message of its kind after one that ended, or after `Starting`.
        """
        found: list[list[LogLine]] = []
        ended = True
        for line in self.lines:
            begins = isinstance(line, Alert) and _begins(line.message)
            starts = isinstance(line, Status) and line.state == "Starting"
            if not found or (ended and (begins or starts)) or (starts and _started(found[-1])):
                found.append([])
                ended = False
            found[-1].append(line)
            if isinstance(line, Status) and line.state in FINAL_STATES:
                ended = True
        return [Run(tuple(lines)) for lines in found]


def _begins(message: str) -> bool:
    return message.startswith("MPI Process ") and " is running on host " in message


def _started(lines: Sequence[LogLine]) -> bool:
    return any(isinstance(line, Status) and line.state == "Starting" for line in lines)


def _log_line(line: str) -> LogLine:
    match = _LINE.fullmatch(line)
    if match is None or match["day"] not in _DAYS:
        raise ValueError("a line of a log")
    month = _MONTHS.index(match["month"]) + 1
    day = datetime.date(int(match["year"]), month, int(match["date"]))
    # A leap second is no time that Python knows.
    clock = datetime.time(int(match["h"]), int(match["m"]), min(int(match["s"]), 59))
    time = datetime.datetime.combine(day, clock)
    where = (time, int(match["rank"]), match["host"])
    if match["state"] is not None:
        return Status(*where, match["state"], match["status"])
    if match["weights"] is not None:
        return Weights(*where, tuple(number(word) for word in match["weights"].split()))
    alert = _ALERT.fullmatch(match["alert"])
    return Alert(*where, alert[1], alert[2]) if alert else Alert(*where, "", match["alert"])
