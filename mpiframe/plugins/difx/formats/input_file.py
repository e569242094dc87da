"""The `.input` file: what mpifxcorr is to correlate, and how.

Format: "Description of various files" in DiFX's user guide, and what vex2difx 3 writes; files of DiFX 1
are read as well. Indices count from 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from mpiframe.plugins.difx.formats.errors import FormatError
from mpiframe.plugins.difx.formats.input_records import (
    Baseline,
    Configuration,
    DataFiles,
    Datastream,
    Freq,
    NetworkPort,
    Rule,
    Telescope,
)
from mpiframe.plugins.difx.formats.keyed import (
    INTEGER,
    TEXT,
    Count,
    KeyedFile,
    Line,
    Section,
    Table,
    real,
)

_SECONDS = real(".15g")


class Product(NamedTuple):
    """One spectrum that a job writes for each integration.

    telescopes: two indices in the telescope table, equal for an autocorrelation; freq: index in the
    frequency table; polarisations: as "RL".
    """

    telescopes: tuple[int, int]
    freq: int
    polarisations: str

    @property
    def baseline(self) -> int:
        """The number of the baseline in the records."""
        return 256 * (self.telescopes[0] + 1) + self.telescopes[1] + 1


@dataclass(frozen=True)
class Input(KeyedFile):
    """A `.input` file. The job begins at `start_mjd` and `start_seconds` (UTC) and is `seconds` long."""

    seconds: float
    start_mjd: int
    start_seconds: float
    active_datastreams: int
    active_baselines: int
    output_path: str
    configurations: tuple[Configuration, ...]
    freqs: tuple[Freq, ...]
    telescopes: tuple[Telescope, ...]
    datastreams: tuple[Datastream, ...]
    baselines: tuple[Baseline, ...]
    data_files: tuple[DataFiles, ...] = ()
    calc_path: str | None = None
    threads_path: str | None = None
    delay_path: str | None = None  # this and the next one: DiFX 1
    uvw_path: str | None = None
    vis_buffer_length: int | None = 80
    output_format: str = "SWIN"
    rules: tuple[Rule, ...] = ()
    data_buffer_factor: int = 32
    data_segments: int = 8
    network: tuple[NetworkPort, ...] = ()

    BLANK_AT_END = True
    LINES = (
        Section(
            "# COMMON SETTINGS ##!",
            (
                Line("calc_path", "CALC FILENAME", TEXT, optional=True),
                Line("delay_path", "DELAY FILENAME", TEXT, optional=True),
                Line("uvw_path", "UVW FILENAME", TEXT, optional=True),
                Line("threads_path", "CORE CONF FILENAME", TEXT, optional=True),
                Line("seconds", "EXECUTE TIME (SEC)", _SECONDS),
                Line("start_mjd", "START MJD", INTEGER),
                Line("start_seconds", "START SECONDS", _SECONDS),
                Line("active_datastreams", "ACTIVE DATASTREAMS", INTEGER),
                Line("active_baselines", "ACTIVE BASELINES", INTEGER),
                Line("vis_buffer_length", "VIS BUFFER LENGTH", INTEGER, optional=True),
                Line("output_format", "OUTPUT FORMAT", TEXT),
                Line("output_path", "OUTPUT FILENAME", TEXT),
            ),
        ),
        Section(
            "# CONFIGURATIONS ###!",
            (Count("configurations", "NUM CONFIGURATIONS"), Table("configurations", Configuration)),
        ),
        Section("# RULES ############!", (Count("rules", "NUM RULES"), Table("rules", Rule)), optional=True),
        Section("# FREQ TABLE #######!", (Count("freqs", "FREQ ENTRIES"), Table("freqs", Freq))),
        Section(
            "# TELESCOPE TABLE ##!",
            (Count("telescopes", "TELESCOPE ENTRIES"), Table("telescopes", Telescope)),
        ),
        Section(
            "# DATASTREAM TABLE #!",
            (
                Count("datastreams", "DATASTREAM ENTRIES"),
                Line("data_buffer_factor", "DATA BUFFER FACTOR", INTEGER),
                Line("data_segments", "NUM DATA SEGMENTS", INTEGER),
                Table("datastreams", Datastream),
            ),
        ),
        Section(
            "# BASELINE TABLE ###!",
            (Count("baselines", "BASELINE ENTRIES"), Table("baselines", Baseline)),
        ),
        Section("# DATA TABLE #######!", (Table("data_files", DataFiles),), optional=True),
        Section("# NETWORK TABLE ####!", (Table("network", NetworkPort),), optional=True),
    )

    def channels(self, freq: int, configuration: int = 0) -> int:
        """How many points the spectra of this frequency have. Raises FormatError."""
        try:
            band = self.freqs[freq]
            full = band.num_channels or self.configurations[configuration].num_channels
        except IndexError:
            raise FormatError(f"the job has no frequency {freq} in configuration {configuration}") from None
        step = band.channels_to_average or 1
        if not full or full < 0 or step < 0 or full % step:
            raise FormatError(f"frequency {freq} has {full} channels, of which {step} are averaged")
        return full // step

    def channel_counts(self) -> dict[int, int]:
        """`channels` of each frequency."""
        return {index: self.channels(index) for index in range(len(self.freqs))}

    def telescope_index(self, name: str) -> int:
        """Where a telescope stands in the table. Raises KeyError, which names those that there are."""
        names = [one.name for one in self.telescopes]
        if name.upper() not in (upper := [one.upper() for one in names]):
            raise KeyError(f"the job has no telescope {name!r}, only {', '.join(names)}")
        return upper.index(name.upper())

    def products(self, configuration: int = 0) -> list[Product]:
        """The spectra that each integration gives, in no order. Raises FormatError.

        Those of the baselines first; then the autocorrelations of the bands that they use, if these are
        written, with the products of both hands where a baseline has such ones.
        """
        try:
            found = dict.fromkeys(self._cross_products(configuration))
            if self.configurations[configuration].write_autocorrelations:
                found |= dict.fromkeys(self._auto_products(configuration, found))
        except IndexError:
            raise FormatError("a table of the job names an entry that another table does not have") from None
        return list(found)

    def _cross_products(self, configuration: int) -> Iterator[Product]:
        for index in self.configurations[configuration].baselines:
            baseline = self.baselines[index]
            one, other = (self.datastreams[i] for i in (baseline.datastream_a, baseline.datastream_b))
            for freq in baseline.freqs:
                for pair in freq.products:
                    hand_a, freq_a = one.band(pair.band_a)
                    hand_b, _ = other.band(pair.band_b)
                    target = freq_a if freq.target_freq is None else freq.target_freq
                    yield Product((one.telescope, other.telescope), target, hand_a + hand_b)

    def _auto_products(self, configuration: int, cross: Mapping[Product, Any]) -> Iterator[Product]:
        both_hands = any(product.polarisations[0] != product.polarisations[-1] for product in cross)
        used = {(telescope, product.freq) for product in cross for telescope in product.telescopes}
        for index in self.configurations[configuration].datastreams:
            stream = self.datastreams[index]
            hands: dict[int, list[str]] = {}
            for band in range(len(stream.bands) + len(stream.zoom_bands)):
                hand, freq = stream.band(band)
                if (stream.telescope, freq) in used:
                    hands.setdefault(freq, []).append(hand)
            for freq, here in hands.items():
                pairs = [a + b for a in here for b in here if both_hands or a == b]
                for pair in pairs:
                    yield Product((stream.telescope,) * 2, freq, pair)
