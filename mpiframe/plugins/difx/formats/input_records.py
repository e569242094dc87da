"""The records of an `.input` file: configurations, bands, telescopes, datastreams, baselines and the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mpiframe.plugins.difx.formats.keyed import (
    FLAG,
    INTEGER,
    TEXT,
    Count,
    Each,
    Line,
    Record,
    Remark,
    Table,
    real,
)

_SECONDS = real(".15g")
_MICRO = real(".6f")
_CLOCK = real(".15e")


@dataclass(frozen=True)
class Configuration(Record):
    """How the scans of a mode are correlated: INT TIME in seconds, subintegration and guard in ns."""

    name: str
    integration_seconds: float
    num_channels: int | None = None  # of DiFX 1; later versions have it in the frequency table
    subint_ns: int | None = None
    guard_ns: int | None = None
    fringe_rotation_order: int | None = None
    array_stride: int | None = None
    xmac_stride: int | None = None
    buffered_ffts: int | None = None
    write_autocorrelations: bool = True
    pulsar_binning: bool = False
    pulsar_file: str | None = None
    phased_array: bool | None = False
    phased_array_file: str | None = None
    datastreams: tuple[int, ...] = ()
    baselines: tuple[int, ...] = ()

    LINES = (
        Line("name", "CONFIG NAME", TEXT, "CONFIG SOURCE"),
        Line("integration_seconds", "INT TIME (SEC)", _MICRO),
        Line("num_channels", "NUM CHANNELS", INTEGER, optional=True),
        Line("subint_ns", "SUBINT NANOSECONDS", INTEGER, optional=True),
        Line("guard_ns", "GUARD NANOSECONDS", INTEGER, optional=True),
        Line("fringe_rotation_order", "FRINGE ROTN ORDER", INTEGER, optional=True),
        Line("array_stride", "ARRAY STRIDE LENGTH", INTEGER, optional=True),
        Line("xmac_stride", "XMAC STRIDE LENGTH", INTEGER, optional=True),
        Line("buffered_ffts", "NUM BUFFERED FFTS", INTEGER, optional=True),
        Line("write_autocorrelations", "WRITE AUTOCORRS", FLAG),
        Line("pulsar_binning", "PULSAR BINNING", FLAG),
        Line("pulsar_file", "PULSAR CONFIG FILE", TEXT, optional=True),
        Line("phased_array", "PHASED ARRAY", FLAG, optional=True),
        Line("phased_array_file", "PHASED ARRAY CONFIG FILE", TEXT, optional=True),
        Each(
            "datastreams",
            "DATASTREAM {1} INDEX",
            INTEGER,
            lambda _, file: int(file["active_datastreams"]),
        ),
        Each("baselines", "BASELINE {1} INDEX", INTEGER, lambda _, file: int(file["active_baselines"])),
    )


@dataclass(frozen=True)
class Rule(Record):
    """Which configuration is used for which scans; None matches all."""

    configuration: str
    source: str | None = None
    scan: str | None = None
    calcode: str | None = None
    qualifier: str | None = None
    mjd_start: str | None = None
    mjd_stop: str | None = None

    LINES = (
        Line("source", "RULE {0} SOURCE", TEXT, optional=True),
        Line("scan", "RULE {0} SCAN ID", TEXT, optional=True),
        Line("calcode", "RULE {0} CALCODE", TEXT, optional=True),
        Line("qualifier", "RULE {0} QUAL", TEXT, optional=True),
        Line("mjd_start", "RULE {0} MJD START", TEXT, optional=True),
        Line("mjd_stop", "RULE {0} MJD STOP", TEXT, optional=True),
        Line("configuration", "RULE {0} CONFIG NAME", TEXT),
    )


@dataclass(frozen=True)
class Freq(Record):
    """A band: the frequency of its edge (the upper one for sideband L) and its width, in MHz."""

    mhz: float
    bandwidth_mhz: float
    sideband: str
    num_channels: int | None = None
    channels_to_average: int | None = 1
    oversampling: int | None = 1
    decimation: int | None = 1
    phase_cals: tuple[int, ...] = ()

    LINES = (
        Line("mhz", "FREQ (MHZ) {0}", _MICRO),
        Line("bandwidth_mhz", "BW (MHZ) {0}", _MICRO),
        Line("sideband", "SIDEBAND {0}", TEXT),
        Line("num_channels", "NUM CHANNELS {0}", INTEGER, optional=True),
        Line("channels_to_average", "CHANS TO AVG {0}", INTEGER, optional=True),
        Line("oversampling", "OVERSAMPLE FAC. {0}", INTEGER, optional=True),
        Line("decimation", "DECIMATION FAC. {0}", INTEGER, optional=True),
        Count("phase_cals", "PHASE CALS {0} OUT"),
        Each("phase_cals", "PHASE CAL {0}/{1} INDEX", INTEGER),
    )


@dataclass(frozen=True)
class Telescope(Record):
    """A telescope with its clock: a polynomial in seconds since `clock_mjd`, term n in us / s^n."""

    name: str
    clock_mjd: float | None = None
    clock_us: tuple[float, ...] = ()
    clock_offset_us: float | None = None  # this and the next one: DiFX 1
    clock_rate_us_per_s: float | None = None

    LINES = (
        Line("name", "TELESCOPE NAME {0}", TEXT),
        Line("clock_offset_us", "CLOCK DELAY (us) {0}", _MICRO, optional=True),
        Line("clock_rate_us_per_s", "CLOCK RATE(us/s) {0}", _CLOCK, optional=True),
        Line("clock_mjd", "CLOCK REF MJD {0}", real(".10f"), optional=True),
        Count("clock_us", "CLOCK POLY ORDER {0}", offset=1),
        Remark("@ ***** Clock poly coeff N: has units microsec / sec^N ***** @"),
        Each("clock_us", "CLOCK COEFF {0}/{1}", _CLOCK),
    )


@dataclass(frozen=True)
class RecordedFreq(Record):
    """A frequency that a datastream holds, in how many polarisations."""

    freq: int
    clock_offset_us: float = 0.0
    offset_hz: float | None = 0.0
    polarisations: int = 1

    LINES = (
        Line("freq", "REC FREQ INDEX {1}", INTEGER, "FREQ TABLE INDEX {1}"),
        Line("clock_offset_us", "CLK OFFSET {1} (us)", _MICRO),
        Line("offset_hz", "FREQ OFFSET {1} (Hz)", _MICRO, optional=True),
        Line("polarisations", "NUM REC POLS {1}", INTEGER, "NUM POLS {1}"),
    )


@dataclass(frozen=True)
class Band(Record):
    """A recorded band: its polarisation, and which of the datastream's recorded frequencies it is of."""

    polarisation: str
    freq: int

    LINES = (
        Line("polarisation", "REC BAND {1} POL", TEXT, "INPUT BAND {1} POL"),
        Line("freq", "REC BAND {1} INDEX", INTEGER, "INPUT BAND {1} INDEX"),
    )


@dataclass(frozen=True)
class ZoomFreq(Record):
    """A frequency that is cut out of a recorded one."""

    freq: int
    polarisations: int

    LINES = (
        Line("freq", "ZOOM FREQ INDEX {1}", INTEGER),
        Line("polarisations", "NUM ZOOM POLS {1}", INTEGER),
    )


@dataclass(frozen=True)
class ZoomBand(Record):
    """A zoom band: its polarisation, and which of the datastream's zoom frequencies it is of."""

    polarisation: str
    freq: int

    LINES = (
        Line("polarisation", "ZOOM BAND {1} POL", TEXT),
        Line("freq", "ZOOM BAND {1} INDEX", INTEGER),
    )


def _polarisations(name: str) -> Any:
    return lambda values, _: sum(one.polarisations for one in values[name])


@dataclass(frozen=True)
class Datastream(Record):
    """What one telescope recorded, or a part of it; the frame size in bytes, tsys in kelvin."""

    telescope: int
    data_format: str
    bits: int
    tsys_kelvin: float = 0.0
    fanout: int | None = None
    frame_bytes: int | None = None
    sampling: str | None = "REAL"
    source: str | None = "FILE"
    filterbank: bool = False
    from_file: bool | None = None
    phase_cal_mhz: float | None = 0.0
    freqs: tuple[RecordedFreq, ...] = ()
    bands: tuple[Band, ...] = ()
    zoom_freqs: tuple[ZoomFreq, ...] = ()
    zoom_bands: tuple[ZoomBand, ...] = ()

    LINES = (
        Line("telescope", "TELESCOPE INDEX", INTEGER),
        Line("tsys_kelvin", "TSYS", _MICRO),
        Line("data_format", "DATA FORMAT", TEXT),
        Line("fanout", "FANOUT", INTEGER, optional=True),
        Line("bits", "QUANTISATION BITS", INTEGER),
        Line("frame_bytes", "DATA FRAME SIZE", INTEGER, optional=True),
        Line("sampling", "DATA SAMPLING", TEXT, optional=True),
        Line("source", "DATA SOURCE", TEXT, optional=True),
        Line("filterbank", "FILTERBANK USED", FLAG),
        Line("from_file", "READ FROM FILE", FLAG, optional=True),
        Line("phase_cal_mhz", "PHASE CAL INT (MHZ)", real(".15g"), optional=True),
        Count("freqs", "NUM RECORDED FREQS", "NUM FREQS"),
        Table("freqs", RecordedFreq),
        Table("bands", Band, _polarisations("freqs")),
        Count("zoom_freqs", "NUM ZOOM FREQS"),
        Table("zoom_freqs", ZoomFreq),
        Table("zoom_bands", ZoomBand, _polarisations("zoom_freqs")),
    )

    def band(self, index: int) -> tuple[str, int]:
        """The polarisation of a band, and its index in the frequency table; zoom bands come last.

        Raises IndexError.
        """
        if not 0 <= index < len(self.bands) + len(self.zoom_bands):
            raise IndexError(index)
        if index < len(self.bands):
            band = self.bands[index]
            return band.polarisation, self.freqs[band.freq].freq
        zoom = self.zoom_bands[index - len(self.bands)]
        return zoom.polarisation, self.zoom_freqs[zoom.freq].freq


@dataclass(frozen=True)
class BandPair(Record):
    """A polarisation product: a band of the first datastream with one of the second."""

    band_a: int
    band_b: int

    LINES = (
        Line("band_a", "D/STREAM A BAND {2}", INTEGER),
        Line("band_b", "D/STREAM B BAND {2}", INTEGER),
    )


@dataclass(frozen=True)
class BaselineFreq(Record):
    """The products of a baseline at one frequency."""

    products: tuple[BandPair, ...]
    target_freq: int | None = None  # index in the frequency table

    LINES = (
        Line("target_freq", "TARGET FREQ {0}/{1}", INTEGER, optional=True),
        Count("products", "POL PRODUCTS {0}/{1}"),
        Table("products", BandPair),
    )


@dataclass(frozen=True)
class Baseline(Record):
    """Two datastreams that are correlated with each other."""

    datastream_a: int
    datastream_b: int
    freqs: tuple[BaselineFreq, ...]

    LINES = (
        Line("datastream_a", "D/STREAM A INDEX {0}", INTEGER),
        Line("datastream_b", "D/STREAM B INDEX {0}", INTEGER),
        Count("freqs", "NUM FREQS {0}"),
        Table("freqs", BaselineFreq),
    )


@dataclass(frozen=True)
class DataFiles(Record):
    """Where the data of a datastream are: paths, or the number of a module."""

    paths: tuple[str, ...] = ()

    LINES = (
        Count("paths", "D/STREAM {0} FILES"),
        Each("paths", "FILE {0}/{1}", TEXT),
    )


@dataclass(frozen=True)
class NetworkPort(Record):
    """Where a datastream that comes over the network arrives; the window in KB, negative: the default."""

    port: str
    tcp_window_kb: int | None = None

    LINES = (
        Line("port", "PORT NUM {0}", TEXT),
        Line("tcp_window_kb", "TCP WINDOW (KB) {0}", INTEGER, optional=True),
    )
