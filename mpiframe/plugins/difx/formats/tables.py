"""The small files of a job: `.flag`, `.machines`, `.threads`, `.joblist`, `.filelist`.

The text that was read is kept, and is what is written as long as it says the same as the values.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from mpiframe.plugins.difx.formats.errors import FormatError
from mpiframe.plugins.difx.formats.text import TextFile, integer, lines_of, number

_T = TypeVar("_T")

_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?", re.ASCII)


@dataclass(frozen=True)
class _Lines(TextFile):
    """A file of lines, of which each is an item, or none."""

    read_as: str = field(default="", compare=False, repr=False, kw_only=True)

    def text(self) -> str:
        """The content of the file. Raises FormatError for a value that does not fit on its line."""
        if self.read_as and type(self).parse(self.read_as) == self:
            return self.read_as
        text = "".join(f"{line}\n" for line in self._written())
        if type(self).parse(text) != self:
            raise FormatError(f"these values would be read as others: {self!r}")
        return text

    @abstractmethod
    def _written(self) -> Iterable[str]: ...


def _content(text: str, comment: str = "#") -> list[tuple[int, str]]:
    """The lines that are neither blank nor comments, without their comments, counted from 1."""
    found = []
    for index, line in enumerate(lines_of(text)):
        stripped = line.partition(comment)[0].strip()
        if stripped:
            found.append((index + 1, stripped))
    return found


def _each(lines: Iterable[tuple[int, str]], path: str, read: Callable[[str], _T], expected: str) -> list[_T]:
    """What `read` makes of each line; the ValueErrors that it raises are FormatErrors."""
    found = []
    for index, line in lines:
        try:
            found.append(read(line))
        except ValueError:
            raise FormatError(f"expected {expected}, found {line[:80]!r}", path, index) from None
    return found


def _short(value: float, form: str) -> str:
    text = format(value, form)
    return text if float(text) == value else repr(float(value))


# -- .flag ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FlagSpan:
    """From one MJD to another a telescope (its index in the `.input` file) is not to be used."""

    mjd_start: float
    mjd_stop: float
    telescope: int


@dataclass(frozen=True)
class Flags(_Lines):
    """A `.flag` file."""

    spans: tuple[FlagSpan, ...] = ()

    @classmethod
    def parse(cls, text: str, path: str = "") -> Flags:
        """The spans in `text`. Raises FormatError, also where there are not as many as it says."""
        lines = _content(text)
        counts = _each(lines[:1], path, integer, "the number of flags")
        spans = _each(lines[1:], path, _flag_span, "two MJDs and the index of a telescope")
        if counts != [len(spans)]:
            said = f"{counts[0]} flags" if counts else "the number of flags"
            raise FormatError(f"expected {said}, found {len(spans)} flags", path, 1)
        return cls(tuple(spans), read_as=text)

    def _written(self) -> Iterable[str]:
        yield str(len(self.spans))
        for one in self.spans:
            yield f"{_short(one.mjd_start, '.12g')} {_short(one.mjd_stop, '.12g')} {one.telescope}"


def _flag_span(line: str) -> FlagSpan:
    start, stop, telescope = line.split()
    return FlagSpan(number(start), number(stop), integer(telescope))


# -- .machines and .threads -----------------------------------------------------------------------


@dataclass(frozen=True)
class Machine:
    """The host of one rank, with what mpirun is told about it besides, as `slots=1`."""

    host: str
    options: str = ""


@dataclass(frozen=True)
class Machines(_Lines):
    """A `.machines` file: the hosts in the order of the ranks: the manager, datastreams, cores."""

    machines: tuple[Machine, ...] = ()

    @classmethod
    def parse(cls, text: str, path: str = "") -> Machines:
        """The machines in `text`; blank lines and comments (#) are none. Raises FormatError."""
        return cls(tuple(_each(_content(text), path, _machine, "the name of a host")), read_as=text)

    @classmethod
    def of(cls, manager: str, datastreams: Sequence[str], cores: Sequence[str]) -> Machines:
        """The file for these hosts, of which one may stand in several places."""
        return cls(tuple(Machine(host) for host in (manager, *datastreams, *cores)))

    @property
    def hosts(self) -> list[str]:
        """The host of each rank."""
        return [one.host for one in self.machines]

    def split(self, datastreams: int) -> tuple[str, list[str], list[str]]:
        """The manager, the hosts of so many datastreams, and those of the cores. Raises FormatError."""
        hosts = self.hosts
        if len(hosts) < datastreams + 2:
            raise FormatError(
                f"{len(hosts)} machines are too few: {datastreams} datastreams want a manager and a core too"
            )
        return hosts[0], hosts[1 : datastreams + 1], hosts[datastreams + 1 :]

    def _written(self) -> Iterable[str]:
        for one in self.machines:
            yield f"{one.host} {one.options}".rstrip()


def _machine(line: str) -> Machine:
    host, _, options = line.partition(" ")
    # What mpirun could take for an option is no host.
    if not _HOST.fullmatch(host) or not options.isprintable():
        raise ValueError("a host")
    return Machine(host, options.strip())


@dataclass(frozen=True)
class Threads(_Lines):
    """A `.threads` file: how many threads each core has."""

    threads: tuple[int, ...] = ()

    @classmethod
    def parse(cls, text: str, path: str = "") -> Threads:
        """The numbers in `text`. Raises FormatError, also where there are not as many as it says.

        More cores than lines are no error: guiServer counts those that it leaves out.
        """
        lines = _content(text)
        counts = _each(lines[:1], path, _core_count, "'NUMBER OF CORES:' and their number")
        threads = _each(lines[1:], path, integer, "a number of threads")
        if not counts or counts[0] < len(threads):
            said = f"{counts[0]} numbers" if counts else "'NUMBER OF CORES:'"
            raise FormatError(f"expected {said}, found {len(threads)} numbers", path, 1)
        return cls(tuple(threads), read_as=text)

    def _written(self) -> Iterable[str]:
        yield "NUMBER OF CORES:".ljust(20) + str(len(self.threads))
        yield from map(str, self.threads)


def _core_count(line: str) -> int:
    key, _, said = line.partition(":")
    if key.strip() != "NUMBER OF CORES":
        raise ValueError("a number of cores")
    return integer(said.strip())


# -- .joblist -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ListedJob:
    """A job of a pass: its times (MJD), sizes, and the names of its telescopes."""

    name: str
    mjd_start: float
    mjd_stop: float
    telescope_count: int
    pulsar_bins: int
    phase_centres: int
    tera_operations: float
    output_mb: float
    telescopes: tuple[str, ...] = ()


@dataclass(frozen=True)
class JobList(_Lines):
    """A `.joblist` file; header: exper, v2d, pass, mjd, DiFX, vex2difx, vex, in this order."""

    header: tuple[tuple[str, str], ...]
    jobs: tuple[ListedJob, ...] = ()

    @classmethod
    def parse(cls, text: str, path: str = "") -> JobList:
        """The jobs in `text`. Raises FormatError."""
        lines = _content(text, comment="\0")
        header = _each(lines[:1], path, _pairs, "exper=... and other names with values")
        if not header:
            raise FormatError("expected exper=... and other names with values, but the file is empty", path)
        jobs = _each(lines[1:], path, _listed_job, "a job: its name, 7 numbers, # and telescopes")
        return cls(header[0], tuple(jobs), read_as=text)

    def get(self, name: str, default: str = "") -> str:
        """A value of the header."""
        return dict(self.header).get(name, default)

    def _written(self) -> Iterable[str]:
        yield "  ".join(f"{name}={value}" for name, value in self.header)
        for one in self.jobs:
            numbers = [_short(one.mjd_start, ".12g"), _short(one.mjd_stop, ".12g")]
            numbers += [str(one.telescope_count), str(one.pulsar_bins), str(one.phase_centres)]
            numbers += [_short(one.tera_operations, ".6g"), _short(one.output_mb, ".6g")]
            telescopes = f"  # {' '.join(one.telescopes)}" if one.telescopes else ""
            yield " ".join([one.name, *numbers]) + telescopes


def _pairs(line: str) -> tuple[tuple[str, str], ...]:
    pairs: list[tuple[str, list[str]]] = []
    for word in line.split():
        name, equals, value = word.partition("=")
        if equals and name.isidentifier():
            pairs.append((name, [value]))
        elif pairs:
            pairs[-1][1].append(word)  # a path with blanks in it
        else:
            raise ValueError("a name and a value")
    return tuple((name, " ".join(words)) for name, words in pairs)


def _listed_job(line: str) -> ListedJob:
    numbers, _, telescopes = line.partition("#")
    name, start, stop, count, bins, centres, operations, size = numbers.split()
    return ListedJob(
        name,
        number(start),
        number(stop),
        integer(count),
        integer(bins),
        integer(centres),
        number(operations),
        number(size),
        tuple(telescopes.split()),
    )


# -- .filelist ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DataFile:
    """A file of recorded data, and the MJDs that it covers where they are known."""

    path: str
    mjd_start: float | None = None
    mjd_stop: float | None = None


@dataclass(frozen=True)
class FileList(_Lines):
    """A `.filelist` file."""

    files: tuple[DataFile, ...] = ()

    @classmethod
    def parse(cls, text: str, path: str = "") -> FileList:
        """The files in `text`. Raises FormatError."""
        lines = _content(text)
        return cls(tuple(_each(lines, path, _data_file, "a path, alone or with two MJDs")), read_as=text)

    def _written(self) -> Iterable[str]:
        for one in self.files:
            dates = [one.mjd_start, one.mjd_stop]
            known = [_short(date, ".15g") for date in dates if date is not None]
            yield " ".join([one.path, *known])


def _data_file(line: str) -> DataFile:
    path, *dates = line.split()
    if len(dates) not in (0, 2):
        raise ValueError("two dates")
    return DataFile(path, *map(number, dates))
