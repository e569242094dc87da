"""VLBI baseband recordings: what is in a file, and any range of its samples.

The formats are decoded by the package `baseband` (https://baseband.readthedocs.io):
VDIF (VLBI Data Interchange Format, specification release 1.1.1, vlbi.org) keeps every input in
its own thread and names station, sample rate and full time in its frame headers. Mark 5B
(Haystack Mark 5 memo 019) records channels side by side; its headers lack the number of channels,
the sample rate, the station and the thousands of the Julian day, so the reader has to supply them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import baseband
import numpy as np
from astropy import units as u
from astropy.time import Time
from baseband import mark4, mark5b, vdif
from baseband.data import SAMPLE_MARK5B, SAMPLE_VDIF

FORMATS = {"vdif": vdif, "mark5b": mark5b, "mark4": mark4}


@dataclass(frozen=True)
class Recording:
    """One baseband file, described well enough for any process to read any part of it.

    An *input* is one sampled band: a thread (VDIF), a channel (Mark 5B, Mark 4), or both. A
    *frame set* is the frames of all inputs of one time span; counts of frames here are of those.
    """

    path: str
    format: str
    station: str
    start_utc: str
    sample_rate_mhz: float
    samples: int  # complete samples, that is samples per input
    samples_per_frame: int
    bits: int
    complex_data: bool
    inputs: tuple[str, ...]
    file_bytes: int
    options: dict[str, Any] = field(default_factory=dict)  # what baseband must be told to open it

    @property
    def name(self) -> str:
        """The file name as a stem for the names of results, its suffix included."""
        return Path(self.path).name.replace(".", "_")

    @property
    def frames(self) -> int:
        return self.samples // self.samples_per_frame

    @property
    def stop_utc(self) -> str:
        seconds = self.samples / (self.sample_rate_mhz * 1e6)
        return str((Time(self.start_utc, precision=6) + seconds * u.s).isot)

    def segment_length(self, channels: int) -> int:
        """Samples that give `channels` spectral channels: a real band needs two for each."""
        return channels if self.complex_data else 2 * channels

    def blocks(self, first: int, stop: int, size: int) -> Iterator[np.ndarray]:
        """Decode the samples first to stop (absolute numbers) in blocks, (at most size, inputs).

        Only the frames that hold them are read from the file. Values are in decoder levels
        (2 bit: +-1 and +-3.3165); samples of invalid or missing frames are NaN.
        """
        with _open(self.path, self.format, self.options) as stream:
            stream.seek(first)
            for start in range(first, stop, size):
                count = min(size, stop - start)
                yield stream.read(count).reshape(count, len(self.inputs))


def inspect(
    path: str | Path,
    sample_rate_mhz: float | None = None,
    nchan: int | None = None,
    bits: int | None = None,
    date: str | None = None,
) -> Recording:
    """Describe a recording from its headers; what they do not hold has to be given.

    `date` (ISO, within 500 days of the observation) completes the short dates of Mark 5B and
    within four years those of Mark 4. Raises ValueError if the file cannot be read so.
    """
    path = str(Path(path).resolve(strict=True))
    given = {
        "sample_rate": None if sample_rate_mhz is None else sample_rate_mhz * u.MHz,
        "nchan": nchan,
        "bps": bits,
        "ref_time": None if date is None else Time(date),
    }
    info = baseband.file_info(path, format=tuple(FORMATS))
    if not info:
        raise ValueError(f"{path}: neither of {', '.join(FORMATS)}")
    # VDIF headers hold all of these but, in short files, the sample rate.
    takes = {"vdif": ("sample_rate",), "mark4": ("sample_rate", "ref_time")}
    names = takes.get(info.format, tuple(given))
    options = {name: given[name] for name in names if given[name] is not None}
    try:
        with _open(path, info.format, options) as stream:
            return _describe(path, info.format, options, stream)
    except (EOFError, TypeError, ValueError, AssertionError) as error:
        missing = "; ".join(f"{key}: {why}" for key, why in getattr(info, "missing", {}).items())
        raise ValueError(f"{path} ({info.format}): {error} {missing}".rstrip()) from error


def sample_recordings() -> list[Recording]:
    """The two real observations of PSR B1957+20 that are part of the package `baseband`.

    VDIF: an EVN/VLBA station, 8 threads. Mark 5B: EVN/WSRT, 8 channels. 16 MHz bands, 2 bit.
    """
    return [
        inspect(SAMPLE_VDIF),
        inspect(SAMPLE_MARK5B, sample_rate_mhz=32, nchan=8, bits=2, date="2014-06-01"),
    ]


def _open(path: str, format: str, options: dict[str, Any]) -> Any:
    # NaN marks what was not recorded, so that it gets no weight instead of counting as silence.
    return FORMATS[format].open(path, "rs", squeeze=False, fill_value=np.nan, **options)


def _describe(path: str, format: str, options: dict[str, Any], stream: Any) -> Recording:
    if format == "vdif":
        stream.fh_raw.seek(0)
        threads = stream.fh_raw.get_thread_ids()
        nchan = stream.sample_shape.nchan
        inputs = [f"T{t}" if nchan == 1 else f"T{t}C{c}" for t in threads for c in range(nchan)]
    else:
        inputs = [f"C{c}" for c in range(stream.sample_shape.nchan)]
    station = getattr(stream.header0, "station", None)
    return Recording(
        path=path,
        format=format,
        station="not recorded" if station is None else str(station),
        start_utc=str(Time(stream.start_time, precision=6).isot),
        sample_rate_mhz=float(stream.sample_rate.to_value(u.MHz)),
        samples=int(stream.shape[0]),
        samples_per_frame=int(stream.samples_per_frame),
        bits=int(stream.bps),
        complex_data=bool(stream.complex_data),
        inputs=tuple(inputs),
        file_bytes=Path(path).stat().st_size,
        options=options,
    )
