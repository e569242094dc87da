"""The `.im` file: the delay model as polynomials.

Each polynomial is in seconds since its own start; delays in us (of the opposite sign to CALC's), angles
in degrees, u, v, w in metres.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mpiframe.plugins.difx.formats.errors import FormatError
from mpiframe.plugins.difx.formats.keyed import (
    INTEGER,
    TEXT,
    Count,
    Each,
    KeyedFile,
    Line,
    Record,
    Table,
    real,
    reals,
)

Polynomial = tuple[float, ...]

_TERMS = reals(" .15e", "\t")
_DAY_SECONDS = 86400.0


@dataclass(frozen=True)
class Model(Record):
    """The polynomials of one telescope for one source, over one interval."""

    delay_us: Polynomial
    dry_us: Polynomial
    wet_us: Polynomial
    u_m: Polynomial
    v_m: Polynomial
    w_m: Polynomial
    azimuth_deg: Polynomial | None = None
    elevation_deg: Polynomial | None = None  # geometric
    refracted_elevation_deg: Polynomial | None = None
    parallactic_deg: Polynomial | None = None

    # Path: scan, interval, source, telescope.
    LINES = (
        Line("delay_us", "SRC {2} ANT {3} DELAY (us)", _TERMS),
        Line("dry_us", "SRC {2} ANT {3} DRY (us)", _TERMS),
        Line("wet_us", "SRC {2} ANT {3} WET (us)", _TERMS),
        Line("azimuth_deg", "SRC {2} ANT {3} AZ", _TERMS, optional=True),
        Line("elevation_deg", "SRC {2} ANT {3} EL GEOM", _TERMS, optional=True),
        Line("refracted_elevation_deg", "SRC {2} ANT {3} EL CORR", _TERMS, optional=True),
        Line("parallactic_deg", "SRC {2} ANT {3} PAR ANGLE", _TERMS, optional=True),
        Line("u_m", "SRC {2} ANT {3} U (m)", _TERMS),
        Line("v_m", "SRC {2} ANT {3} V (m)", _TERMS),
        Line("w_m", "SRC {2} ANT {3} W (m)", _TERMS),
    )


@dataclass(frozen=True)
class SourceModel(Record):
    """The models of all telescopes for one source."""

    telescopes: tuple[Model, ...]

    LINES = (Table("telescopes", Model, lambda _, file: len(file["telescopes"])),)


@dataclass(frozen=True)
class Interval(Record):
    """The models from `mjd` and `seconds` on; sources: the pointing centre, then the phase centres."""

    mjd: int
    seconds: float
    sources: tuple[SourceModel, ...]

    LINES = (
        Line("mjd", "SCAN {0} POLY {1} MJD", INTEGER),
        Line("seconds", "SCAN {0} POLY {1} SEC", real(".15g")),
        Table("sources", SourceModel),
    )


@dataclass(frozen=True)
class ImScan(Record):
    """A scan: the names of its sources, and models for its time."""

    pointing_source: str
    phase_centres: tuple[str, ...]
    intervals: tuple[Interval, ...]

    LINES = (
        Line("pointing_source", "SCAN {0} POINTING SRC", TEXT),
        Count("phase_centres", "SCAN {0} NUM PHS CTRS"),
        Each("phase_centres", "SCAN {0} PHS CTR {1} SRC", TEXT),
        Count("intervals", "SCAN {0} NUM POLY"),
        Table("intervals", Interval),
    )


@dataclass(frozen=True)
class Im(KeyedFile):
    """A `.im` file: models of `order` for every `interval_seconds`."""

    year: int
    month: int
    day: int
    hour: int
    minute: int
    second: int
    order: int
    interval_seconds: int
    telescopes: tuple[str, ...]
    scans: tuple[ImScan, ...]
    calc_server: str = "NONE"
    calc_program: str = "NONE"
    calc_version: str = "0"
    difx_version: str | None = None
    difx_label: str | None = None
    aberration: str = "EXACT"

    LINES = (
        Line("calc_server", "CALC SERVER", TEXT),
        Line("calc_program", "CALC PROGRAM", TEXT),
        Line("calc_version", "CALC VERSION", TEXT),
        Line("difx_version", "DIFX VERSION", TEXT, optional=True),
        Line("difx_label", "DIFX LABEL", TEXT, optional=True),
        Line("year", "START YEAR", INTEGER),
        Line("month", "START MONTH", INTEGER),
        Line("day", "START DAY", INTEGER),
        Line("hour", "START HOUR", INTEGER),
        Line("minute", "START MINUTE", INTEGER),
        Line("second", "START SECOND", INTEGER),
        Line("order", "POLYNOMIAL ORDER", INTEGER),
        Line("interval_seconds", "INTERVAL (SECS)", INTEGER),
        Line("aberration", "ABERRATION CORR", TEXT),
        Count("telescopes", "NUM TELESCOPES"),
        Each("telescopes", "TELESCOPE {0} NAME", TEXT),
        Count("scans", "NUM SCANS"),
        Table("scans", ImScan),
    )

    def model(self, scan: int, source: int, telescope: int, mjd: int, seconds: float) -> tuple[Model, float]:
        """The model for a time (UTC), and the seconds since its start, for `evaluate`.

        source: 0 for the pointing centre, 1 for the first phase centre. Raises FormatError for a time
        that no interval covers.
        """
        for interval in reversed(self.scans[scan].intervals):
            since = (mjd - interval.mjd) * _DAY_SECONDS + seconds - interval.seconds
            if since >= 0:
                if since <= self.interval_seconds:
                    return interval.sources[source].telescopes[telescope], since
                break
        raise FormatError(f"scan {scan} has no model for MJD {mjd}, second {seconds:g}")


def evaluate(polynomial: Sequence[float], seconds: float) -> float:
    """The value of a polynomial, the terms from the constant one on."""
    value = 0.0
    for term in reversed(polynomial):
        value = value * seconds + term
    return value
