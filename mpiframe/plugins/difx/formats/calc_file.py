"""The `.calc` file: where the telescopes and sources are, for the delay model and for FITS."""

from __future__ import annotations

from dataclasses import dataclass

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

_METRES = real(".6f")
_MJD = real(".7f")
_ANGLE = real(" .16f")  # a blank where a minus could be
_SECONDS = real(".15g")


@dataclass(frozen=True)
class Station(Record):
    """A telescope: geocentric position and axis offset in metres; the shelf its module lies on."""

    name: str
    mount: str
    axis_offset_m: float
    x_m: float
    y_m: float
    z_m: float
    shelf: str | None = "NONE"

    LINES = (
        Line("name", "TELESCOPE {0} NAME", TEXT),
        Line("mount", "TELESCOPE {0} MOUNT", TEXT),
        Line("axis_offset_m", "TELESCOPE {0} OFFSET (m)", _METRES),
        Line("x_m", "TELESCOPE {0} X (m)", _METRES),
        Line("y_m", "TELESCOPE {0} Y (m)", _METRES),
        Line("z_m", "TELESCOPE {0} Z (m)", _METRES),
        Line("shelf", "TELESCOPE {0} SHELF", TEXT, optional=True),
    )


@dataclass(frozen=True)
class Source(Record):
    """A source: J2000 position in radians."""

    name: str
    ra_rad: float
    dec_rad: float
    calcode: str = ""
    qualifier: int = 0

    LINES = (
        Line("name", "SOURCE {0} NAME", TEXT),
        Line("ra_rad", "SOURCE {0} RA", _ANGLE),
        Line("dec_rad", "SOURCE {0} DEC", _ANGLE),
        Line("calcode", "SOURCE {0} CALCODE", TEXT),
        Line("qualifier", "SOURCE {0} QUAL", INTEGER),
    )


@dataclass(frozen=True)
class CalcScan(Record):
    """A scan: start after the job's, and length, in seconds; sources by their index.

    The fields of DiFX 1, which had no table of sources, come last; a scan has the one kind or the other.
    """

    name: str | None = None
    start_seconds: float | None = None
    seconds: float | None = None
    mode: str | None = None
    uvshift_ns: int | None = None
    autocorrelation_ns: int | None = None
    pointing_source: int | None = None
    phase_centres: tuple[int, ...] = ()
    points: int | None = None
    start_point: int | None = None
    source_name: str | None = None
    real_name: str | None = None
    ra_rad: float | None = None
    dec_rad: float | None = None
    calcode: str | None = None
    qualifier: int | None = None
    oversampling: int | None = None

    LINES = (
        Line("name", "SCAN {0} IDENTIFIER", TEXT, optional=True),
        Line("start_seconds", "SCAN {0} START (S)", _SECONDS, optional=True),
        Line("seconds", "SCAN {0} DUR (S)", _SECONDS, optional=True),
        Line("mode", "SCAN {0} OBS MODE NAME", TEXT, optional=True),
        Line("uvshift_ns", "SCAN {0} UVSHIFT INTERVAL (NS)", INTEGER, optional=True),
        Line("autocorrelation_ns", "SCAN {0} AC AVG INTERVAL (NS)", INTEGER, optional=True),
        Line("pointing_source", "SCAN {0} POINTING SRC", INTEGER, optional=True),
        Count("phase_centres", "SCAN {0} NUM PHS CTRS"),
        Each("phase_centres", "SCAN {0} PHS CTR {1}", INTEGER),
        Line("points", "SCAN {0} POINTS", INTEGER, optional=True),
        Line("start_point", "SCAN {0} START PT", INTEGER, optional=True),
        Line("source_name", "SCAN {0} SRC NAME", TEXT, optional=True),
        Line("real_name", "SCAN {0} REAL NAME", TEXT, optional=True),
        Line("ra_rad", "SCAN {0} SRC RA", real(".12f"), optional=True),
        Line("dec_rad", "SCAN {0} SRC DEC", real(".12f"), optional=True),
        Line("calcode", "SCAN {0} CALCODE", TEXT, optional=True),
        Line("qualifier", "SCAN {0} QUAL", INTEGER, optional=True),
        Line("oversampling", "SCAN {0} OVERSAMP", INTEGER, optional=True),
    )


@dataclass(frozen=True)
class Eop(Record):
    """The Earth's orientation on a day: times in seconds, the pole in arc seconds."""

    mjd: float
    tai_utc_seconds: float
    ut1_utc_seconds: float
    x_pole_arcsec: float
    y_pole_arcsec: float

    LINES = (
        Line("mjd", "EOP {0} TIME (mjd)", _SECONDS),
        Line("tai_utc_seconds", "EOP {0} TAI_UTC (sec)", _SECONDS),
        Line("ut1_utc_seconds", "EOP {0} UT1_UTC (sec)", _ANGLE),
        Line("x_pole_arcsec", "EOP {0} XPOLE (arcsec)", _ANGLE),
        Line("y_pole_arcsec", "EOP {0} YPOLE (arcsec)", _ANGLE),
    )


@dataclass(frozen=True)
class Spacecraft(Record):
    """A spacecraft; each row: MJD, position in metres (3), velocity in metres a second (3)."""

    name: str
    rows: tuple[tuple[float, ...], ...] = ()

    LINES = (
        Line("name", "SPACECRAFT {0} NAME", TEXT),
        Count("rows", "SPACECRAFT {0} ROWS"),
        Each("rows", "SPACECRAFT {0} ROW {1}", reals(".17g", " ")),
    )


@dataclass(frozen=True)
class Calc(KeyedFile):
    """A `.calc` file. Times are UTC; `start_mjd` and what follows is the begin of this job's part."""

    job_id: int
    job_start_mjd: float
    job_stop_mjd: float
    obscode: str
    start_mjd: float
    year: int
    month: int
    day: int
    hour: int
    minute: int
    second: int
    stations: tuple[Station, ...]
    scans: tuple[CalcScan, ...]
    eops: tuple[Eop, ...]
    sources: tuple[Source, ...] = ()
    spacecraft: tuple[Spacecraft, ...] = ()
    duty_cycle: float | None = None
    session: str | None = None
    difx_version: str | None = None
    difx_label: str | None = None
    subjob_id: int = 0
    subarray_id: int | None = 0
    vex_path: str | None = None
    increment_seconds: float | None = None
    spectral_average: int = 1
    start_channel: int | None = None
    output_channels: float | None = None
    taper: str = "UNIFORM"
    im_path: str | None = None
    flag_path: str | None = None
    delay_path: str | None = None  # this and the next one: DiFX 1
    uvw_path: str | None = None

    LINES = (
        Line("job_id", "JOB ID", INTEGER),
        Line("job_start_mjd", "JOB START TIME", _MJD),
        Line("job_stop_mjd", "JOB STOP TIME", _MJD, "JOB END TIME"),
        Line("duty_cycle", "DUTY CYCLE", real(".3f"), optional=True),
        Line("obscode", "OBSCODE", TEXT),
        Line("session", "SESSION", TEXT, optional=True),
        Line("difx_version", "DIFX VERSION", TEXT, optional=True),
        Line("difx_label", "DIFX LABEL", TEXT, optional=True),
        Line("subjob_id", "SUBJOB ID", INTEGER),
        Line("subarray_id", "SUBARRAY ID", INTEGER, optional=True),
        Line("vex_path", "VEX FILE", TEXT, optional=True),
        Line("start_mjd", "START MJD", _MJD),
        Line("year", "START YEAR", INTEGER),
        Line("month", "START MONTH", INTEGER),
        Line("day", "START DAY", INTEGER),
        Line("hour", "START HOUR", INTEGER),
        Line("minute", "START MINUTE", INTEGER),
        Line("second", "START SECOND", INTEGER),
        Line("increment_seconds", "INCREMENT (SECS)", _SECONDS, optional=True),
        Line("spectral_average", "SPECTRAL AVG", INTEGER),
        Line("start_channel", "START CHANNEL", INTEGER, optional=True),
        Line("output_channels", "OUTPUT CHANNELS", _SECONDS, optional=True),
        Line("taper", "TAPER FUNCTION", TEXT),
        Count("stations", "NUM TELESCOPES"),
        Table("stations", Station),
        Count("sources", "NUM SOURCES"),
        Table("sources", Source),
        Count("scans", "NUM SCANS"),
        Table("scans", CalcScan),
        Count("eops", "NUM EOPS", "NUM EOP"),
        Table("eops", Eop),
        Count("spacecraft", "NUM SPACECRAFT"),
        Table("spacecraft", Spacecraft),
        Line("im_path", "IM FILENAME", TEXT, optional=True),
        Line("flag_path", "FLAG FILENAME", TEXT, optional=True),
        Line("delay_path", "DELAY FILENAME", TEXT, optional=True),
        Line("uvw_path", "UVW FILENAME", TEXT, optional=True),
    )
