"""What a vex file says, with units: scans, sources, stations, channels."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from mpiframe.plugins.difx.formats import dates
from mpiframe.plugins.difx.formats.errors import FormatError
from mpiframe.plugins.difx.formats.text import number
from mpiframe.plugins.difx.formats.vex import Definition, Statement, Vex

_T = TypeVar("_T")

_RA = re.compile(r"(\d+)h(\d+)m([\d.]+)s", re.ASCII)
_DEC = re.compile(r"([+-]?)(\d+)d(\d+)'([\d.]+)\"?", re.ASCII)
_SECONDS = {"": 1.0, "sec": 1.0, "s": 1.0, "min": 60.0, "m": 60.0, "hr": 3600.0, "h": 3600.0}
_METRES = {"": 1.0, "m": 1.0, "km": 1000.0, "cm": 0.01, "mm": 0.001}
_MHZ = {"": 1.0, "MHz": 1.0, "GHz": 1000.0, "kHz": 0.001, "Hz": 1e-6}


@dataclass(frozen=True, slots=True)
class StationSpan:
    """When a station takes part in a scan: seconds from the begin of the scan."""

    station: str
    start_seconds: float
    stop_seconds: float


@dataclass(frozen=True, slots=True)
class ScheduledScan:
    """A scan: its begin as an MJD."""

    name: str
    mjd_start: float
    mode: str
    source: str
    stations: tuple[StationSpan, ...]

    @property
    def seconds(self) -> float:
        """How long the scan is: until the last station ends."""
        return max((one.stop_seconds for one in self.stations), default=0.0)


@dataclass(frozen=True, slots=True)
class ScheduledSource:
    """A source: its position in radians, in the frame that is named."""

    name: str
    ra_rad: float
    dec_rad: float
    frame: str


@dataclass(frozen=True, slots=True)
class ScheduledStation:
    """A station: geocentric position in metres."""

    code: str
    site: str
    position_m: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Channel:
    """A recorded channel: the sky frequency of its edge and its width, in MHz; sideband U or L."""

    name: str
    mhz: float
    sideband: str
    bandwidth_mhz: float


def scans(vex: Vex) -> list[ScheduledScan]:
    """The scans of a schedule. Raises FormatError."""
    return [_scan(one) for one in vex.block("SCHED").definitions if one.kind == "scan"]


def sources(vex: Vex) -> list[ScheduledSource]:
    """The sources of a schedule. Raises FormatError."""
    return [_source(one) for one in vex.block("SOURCE").definitions]


def stations(vex: Vex) -> list[ScheduledStation]:
    """The stations of a schedule. Raises FormatError."""
    found = []
    for one in vex.block("STATION").definitions:
        site = vex.block("SITE").definition(_first(one, "ref $SITE"))
        x, y, z = _three(site.get("site_position"))
        found.append(ScheduledStation(one.name, _first(site, "site_name"), (x, y, z)))
    return found


def channels(vex: Vex, mode: str, station: str) -> list[Channel]:
    """What a station records in a mode. Raises FormatError; [] if it takes no part."""
    for ref in vex.block("MODE").definition(mode).all("ref $FREQ"):
        if station in ref.values[1:] or len(ref.values) == 1:
            found = vex.block("FREQ").definition(ref.values[0])
            return [_channel(one) for one in found.all("chan_def")]
    return []


def _scan(scan: Definition) -> ScheduledScan:
    return ScheduledScan(
        scan.name,
        _read(scan.get("start"), 0, dates.mjd),
        _first(scan, "mode"),
        _first(scan, "source"),
        tuple(
            StationSpan(_value(one, 0), _quantity(one, 1, _SECONDS), _quantity(one, 2, _SECONDS))
            for one in scan.all("station")
        ),
    )


def _source(source: Definition) -> ScheduledSource:
    frame = source.all("ref_coord_frame")
    return ScheduledSource(
        _first(source, "source_name"),
        _read(source.get("ra"), 0, _hours),
        _read(source.get("dec"), 0, _degrees),
        _value(frame[0], 0) if frame else "J2000",
    )


def _channel(one: Statement) -> Channel:
    # chan_def = band : frequency : sideband : bandwidth : channel : BBC : phase-cal
    return Channel(_value(one, 4), _quantity(one, 1, _MHZ), _value(one, 2), _quantity(one, 3, _MHZ))


def _three(one: Statement) -> tuple[float, ...]:
    return tuple(_quantity(one, index, _METRES) for index in range(3))


def _first(definition: Definition, name: str) -> str:
    return _value(definition.get(name), 0)


def _value(one: Statement, index: int) -> str:
    if index >= len(one.values):
        raise FormatError(f"{one.name} has {len(one.values)} values, expected at least {index + 1}")
    return one.values[index].strip('"')


def _read(one: Statement, index: int, read: Callable[[str], _T]) -> _T:
    text = _value(one, index) if read is not _degrees else one.values[index] if one.values else ""
    try:
        return read(text)
    except ValueError as error:
        raise FormatError(f"{one.name} = {text}: {error}") from None


def _quantity(one: Statement, index: int, units: dict[str, float]) -> float:
    value, *unit = _value(one, index).split()
    name = unit[0] if unit else ""
    if len(unit) > 1 or name not in units:
        raise FormatError(
            f"{one.name}: {' '.join(unit)!r} is no unit here, only {', '.join(filter(None, units))}"
        )
    try:
        return number(value) * units[name]
    except ValueError:
        raise FormatError(f"{one.name}: a number was expected, not {value!r}") from None


def _hours(text: str) -> float:
    match = _RA.fullmatch(text)
    if match is None:
        raise ValueError("a right ascension was expected, as 20h05m30.99s")
    return math.radians(15 * (int(match[1]) + int(match[2]) / 60 + number(match[3]) / 3600))


def _degrees(text: str) -> float:
    match = _DEC.fullmatch(text)
    if match is None:
        raise ValueError("a declination was expected, as -05d47'21.5\"")
    size = math.radians(int(match[2]) + int(match[3]) / 60 + number(match[4]) / 3600)
    return -size if match[1] == "-" else size
