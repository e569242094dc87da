"""One job of DiFX, correlated: its `.input` and `.im` files, its VDIF recordings, records for `.difx`.

A wavefront that passes the centre of the Earth at time t is in a station's recording at t - tau(t), where tau
is the delay of the `.im` file (positive where the source is above the horizon) plus the station's clock, of
which the sign is taken to be the same: no data that could show it are at hand. For each Fourier transform
the samples from the one nearest to that time on are taken; what is left of a sample is a slope of phase over
the band, and the sky frequency of the band's edge turns by tau (the rate of fringes within one transform is
neglected). Spectra are scaled so that those of a station with itself have a mean of 1, which DiFX does not
do; channels, times, weights and (u, v, w) are as DiFX has them.

What is not done: pulsar bins, several phase centres, zoom bands, other formats than VDIF, data from modules.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fx.recordings import Recording, inspect
from mpiframe.plugins.difx.formats import Im, Input
from mpiframe.plugins.difx.formats.im_file import evaluate
from mpiframe.plugins.difx.formats.input_file import Datastream, Product
from mpiframe.plugins.difx.formats.visibilities import Headers, baseline_number, make_headers

SEGMENTS_AT_ONCE = 512
DAY_SECONDS = 86400.0


@dataclass(frozen=True)
class Files:
    """The files of a job; its recordings are named in the first."""

    input: str
    model: str

    @classmethod
    def of(cls, input_file: str) -> Files:
        return cls(input_file, str(Path(input_file).with_suffix(".im")))


@dataclass(frozen=True)
class Integration:
    """The records of one integration: headers with their spectra, and each telescope's share of data."""

    number: int
    headers: Headers
    spectra: list[np.ndarray]
    weights: tuple[float, ...]


def integrations(job: Input) -> int:
    return round(job.seconds / job.configurations[0].integration_seconds)


def check(job: Input) -> None:
    """Raise ValueError for what is not done here."""
    for stream in job.datastreams:
        if "VDIF" not in stream.data_format or (stream.source or "FILE") != "FILE" or stream.zoom_bands:
            raise ValueError(
                f"{stream.data_format} from {stream.source}: only VDIF files, without zoom bands"
            )
        if stream.sampling not in (None, "REAL"):
            raise ValueError(f"{stream.sampling} samples: only real ones")
    if job.configurations[0].pulsar_binning:
        raise ValueError("pulsar bins are not made here")


def correlate_integration(files: Files, number: int) -> Integration:
    """Correlate one integration. This is the command the servers work on."""
    job, model = _read(files)
    step = job.configurations[0].integration_seconds
    start = job.start_seconds + number * step
    spectra: dict[tuple[int, str, int], np.ndarray] = {}
    valid: dict[tuple[int, str, int], np.ndarray] = {}
    for index, stream in enumerate(job.datastreams):
        for band in range(len(stream.bands)):
            hand, freq = stream.band(band)
            key = (stream.telescope, hand, freq)
            spectra[key], valid[key] = _station(job, model, index, band, start, step)
    middle = start + step / 2
    products = job.products()
    headers = make_headers(len(products))
    rows = []
    for header, product in zip(headers, products, strict=True):
        one, other = (
            (telescope, hand, product.freq)
            for telescope, hand in zip(product.telescopes, product.polarisations, strict=True)
        )
        both = valid[one] & valid[other]
        row = _mean_product(spectra[one], spectra[other], both)
        header["weight"] = both.mean()
        rows.append(_averaged(job, product, row))
        _fill(header, job, model, product, middle)
    weights = tuple(
        float(np.mean([mask.mean() for key, mask in valid.items() if key[0] == telescope]))
        for telescope in range(len(job.telescopes))
    )
    return Integration(number, headers, rows, weights)


# ----------------------------------------------------------------------------------------------------


def _station(
    job: Input, model: Im, index: int, band: int, start: float, seconds: float
) -> tuple[np.ndarray, np.ndarray]:
    """The spectra of one band of a station: (segments, channels), and which of them are of whole data."""
    stream = job.datastreams[index]
    _, freq_index = stream.band(band)
    freq = job.freqs[freq_index]
    channels = freq.num_channels or job.configurations[0].num_channels or 0
    rate = 2e6 * freq.bandwidth_mhz
    length = 2 * channels
    count = round(seconds * rate / length)
    recording = _recording(job.data_files[index].paths[0], rate / 1e6)
    column = _column(stream, recording, band)
    times = start + (np.arange(count) + 0.5) * (length / rate)  # the middle of each segment
    delays = np.array([delay_seconds(job, model, stream.telescope, float(time)) for time in times])
    first = (times - delays - _begin(recording, job.start_mjd)) * rate - length / 2
    nearest = np.rint(first).astype(np.int64)
    offset = np.arange(channels) * (rate / length)  # Hz from the band's edge
    spectra = np.zeros((count, channels), complex)
    valid = np.zeros(count, bool)
    for at in range(0, count, SEGMENTS_AT_ONCE):
        part = slice(at, min(at + SEGMENTS_AT_ONCE, count))
        lines = _samples(recording, column, nearest[part], length)
        valid[part] = ~np.isnan(lines).any(axis=1)
        lines[~valid[part]] = 0.0
        transformed = np.fft.rfft(lines)[:, :channels]
        left = (nearest[part] - first[part]) / rate  # seconds by which it begins too late
        if freq.sideband == "U":
            turns = freq.mhz * 1e6 * delays[part, np.newaxis] + np.outer(left, offset)
        else:
            turns = freq.mhz * 1e6 * delays[part, np.newaxis] - np.outer(left, offset)
            transformed = transformed.conj()
        spectra[part] = transformed * np.exp(-2j * np.pi * turns)
    return spectra, valid


def delay_seconds(job: Input, model: Im, telescope: int, seconds: float) -> float:
    """How much earlier a station has the wavefront than the centre of the Earth, by its own clock."""
    polynomials, since = model.model(0, 1, telescope, job.start_mjd, seconds)
    clock = job.telescopes[telescope]
    reference = (job.start_mjd - (clock.clock_mjd or 0.0)) * DAY_SECONDS + seconds
    return (evaluate(polynomials.delay_us, since) + evaluate(clock.clock_us, reference)) * 1e-6


def _samples(recording: Recording, column: int, first: np.ndarray, length: int) -> np.ndarray:
    """A line of samples from each of these on; NaN where there are none."""
    begin, end = int(first[0]), int(first[-1]) + length
    inside = slice(max(begin, 0), min(end, recording.samples))
    data = np.full(end - begin, np.nan)
    if inside.stop > inside.start:
        (block,) = recording.blocks(inside.start, inside.stop, inside.stop - inside.start)
        data[inside.start - begin : inside.stop - begin] = block[:, column].real
    return data[(first - begin)[:, np.newaxis] + np.arange(length)]


def _mean_product(one: np.ndarray, other: np.ndarray, both: np.ndarray) -> np.ndarray:
    if not both.any():
        return np.zeros(one.shape[1], complex)
    product = (one[both] * other[both].conj()).mean(axis=0)
    power = [float(np.mean(np.abs(spectra[both]) ** 2)) for spectra in (one, other)]
    scale = np.sqrt(power[0] * power[1])
    return np.asarray(product / scale) if scale else product


def _averaged(job: Input, product: Product, row: np.ndarray) -> np.ndarray:
    """Several channels in one, as the job wants it."""
    return np.asarray(row.reshape(job.channels(product.freq), -1).mean(axis=1), np.complex64)


def _fill(header: np.void, job: Input, model: Im, product: Product, middle: float) -> None:
    one, other = product.telescopes
    header["baseline"] = baseline_number(one, other)
    header["mjd"] = job.start_mjd + int(middle // DAY_SECONDS)
    header["seconds"] = middle % DAY_SECONDS
    header["freq"] = product.freq
    header["polarisations"] = product.polarisations.encode()
    if one != other:
        ends = []
        for telescope in product.telescopes:
            polynomials, since = model.model(0, 1, telescope, job.start_mjd, middle)
            ends.append(
                [evaluate(term, since) for term in (polynomials.u_m, polynomials.v_m, polynomials.w_m)]
            )
        header["uvw_m"] = np.subtract(*ends)


def _column(stream: Datastream, recording: Recording, band: int) -> int:
    """Where a band is among the inputs of a recording."""
    _, slash, threads = stream.data_format.partition("/")
    if not slash:
        return band
    return recording.inputs.index(f"T{int(threads.split(':')[band])}")


def _begin(recording: Recording, mjd: int) -> float:
    """The time of the first sample, in seconds of this day."""
    from astropy.time import Time

    begin = Time(recording.start_utc)
    return float((begin.jd1 - 2400000.5 - mjd + begin.jd2) * DAY_SECONDS)


@functools.lru_cache(maxsize=4)
def _read(files: Files) -> tuple[Input, Im]:
    return Input.read(files.input), Im.read(files.model)


@functools.lru_cache(maxsize=64)
def _recording(path: str, rate_mhz: float) -> Recording:
    return inspect(path, sample_rate_mhz=rate_mhz)
