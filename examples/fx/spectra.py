"""The F and the X of an FX correlator, on any part of a recording.

The samples of each input are cut into *segments* that are counted from the first sample of the
recording: segment k is samples k*N to (k+1)*N. F: each segment is Fourier-transformed. X: the
spectra of each pair of inputs (a *baseline*; an input with itself gives an *auto-spectrum*, two
inputs a *cross-spectrum*) are multiplied, first times the conjugate of second, and summed.
As sums add up, parts of a recording can be correlated anywhere and in any order. Since segments
are counted from the start of the recording, every partition gives the same set of segments.

Thompson, Moran & Swenson, "Interferometry and Synthesis in Radio Astronomy", chapter 8, has the
theory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

from fx.recordings import Recording

# Samples of all inputs processed at a time: as doubles 2 MiB, about what a core's caches hold.
BLOCK_SAMPLES = 2**18


@dataclass(frozen=True)
class Share:
    """A part of a recording to correlate: the segments first to stop."""

    recording: Recording
    channels: int
    first: int
    stop: int


@dataclass
class SpectraSum:
    """Products summed over segments, and how many segments are in each sum.

    products: complex, (baselines, channels), in squared decoder levels.
    weights: int, (baselines,): the segments in which both inputs were recorded throughout.
    """

    products: np.ndarray
    weights: np.ndarray

    def __iadd__(self, other: SpectraSum) -> SpectraSum:
        self.products += other.products
        self.weights += other.weights
        return self


@dataclass(frozen=True)
class Spectra:
    """Averaged auto- and cross-spectra of one recording.

    density: complex, (baselines, channels): squared decoder levels per MHz. The band of a real
    input is one-sided, so its auto-spectrum sums to the variance of the samples.
    """

    recording: Recording
    frequency_mhz: np.ndarray
    density: np.ndarray
    weights: np.ndarray

    @property
    def baselines(self) -> list[tuple[int, int]]:
        return baselines(len(self.recording.inputs))

    @property
    def segment_seconds(self) -> float:
        length = self.recording.segment_length(len(self.frequency_mhz))
        return length / (self.recording.sample_rate_mhz * 1e6)

    def label(self, baseline: int) -> str:
        i, j = self.baselines[baseline]
        return f"{self.recording.inputs[i]}-{self.recording.inputs[j]}"

    def geometric_mean(self) -> np.ndarray:
        """sqrt(auto i * auto j) of every baseline, shape (baselines, channels): its scale."""
        pairs = np.array(self.baselines)
        autos = self.density[pairs[:, 0] == pairs[:, 1]].real
        return np.sqrt(autos[pairs[:, 0]] * autos[pairs[:, 1]])

    def coherence(self) -> np.ndarray:
        """Cross-spectra over that scale: correlation coefficients, complex, absolute value <= 1."""
        scale = self.geometric_mean()
        return np.divide(self.density, scale, out=np.zeros_like(self.density), where=scale > 0)


def baselines(inputs: int) -> list[tuple[int, int]]:
    """All pairs (i, j) with i <= j, in the order of the rows of every array here."""
    return [(i, j) for i in range(inputs) for j in range(i, inputs)]


def split(recording: Recording, channels: int, frames_per_share: int) -> Iterator[Share]:
    """Cut a recording into shares of so many frames; a segment is in the share it starts in."""
    length = recording.segment_length(channels)
    segments = recording.samples // length
    share_samples = frames_per_share * recording.samples_per_frame
    first = 0
    for start in range(0, recording.samples, share_samples):
        stop = min(-((start + share_samples) // -length), segments)  # rounded up
        if stop > first:
            yield Share(recording, channels, first, stop)
        first = stop


def f_step(samples: np.ndarray, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Fourier-transform segments: samples (segments, N, inputs) to (channels, inputs, segments).

    Real samples: channel 0 is zero frequency and the Nyquist point is dropped, as correlators do.
    Complex samples: zero frequency is in the middle. Also returns which segments of which input
    are fully recorded, bool, (inputs, segments); the spectra of the others are zero.
    """
    kind = np.complex128 if np.iscomplexobj(samples) else np.float64
    lines = np.array(samples.transpose(2, 0, 1), dtype=kind, order="C")
    valid = ~np.isnan(lines.sum(axis=2))  # one NaN makes the sum NaN
    lines[~valid] = 0
    if kind is np.complex128:
        spectra = np.fft.fftshift(np.fft.fft(lines), axes=2)
    else:
        spectra = np.fft.rfft(lines)[:, :, :channels]
    return np.ascontiguousarray(spectra.transpose(2, 0, 1)), valid


def x_step(spectra: np.ndarray, valid: np.ndarray) -> SpectraSum:
    """Multiply the spectra of all baselines, input i times conjugate of j; sum over segments."""
    first, second = np.array(baselines(len(valid))).T
    products = spectra @ spectra.conj().swapaxes(1, 2)  # (channels, inputs, inputs)
    counts = valid.astype(np.int64) @ valid.T.astype(np.int64)
    return SpectraSum(products[:, first, second].T.copy(), counts[first, second])


def correlate_share(share: Share) -> SpectraSum:
    """Read one share from the file and correlate it. This is the command the servers work on."""
    _keep_freed_memory()
    recording, channels = share.recording, share.channels
    inputs, length = len(recording.inputs), recording.segment_length(channels)
    total = nothing(recording, channels)
    block = max(1, BLOCK_SAMPLES // (inputs * length))
    for samples in recording.blocks(share.first * length, share.stop * length, block * length):
        total += x_step(*f_step(samples.reshape(-1, length, inputs), channels))
    return total


def nothing(recording: Recording, channels: int) -> SpectraSum:
    """The sum over no segments."""
    count = len(baselines(len(recording.inputs)))
    return SpectraSum(np.zeros((count, channels), complex), np.zeros(count, np.int64))


def correlate(
    run: Callable[[Callable[[Share], SpectraSum], Iterable[Share]], Iterable[SpectraSum]],
    recording: Recording,
    channels: int,
    frames_per_share: int,
) -> Spectra:
    """Correlate a recording; `run` maps a function over shares and yields results in any order.

    `run` is the map of a client, of an executor, or Python's own for a single process.
    Raises ValueError if there is not one full segment.
    """
    shares = list(split(recording, channels, frames_per_share))
    if not shares:
        raise ValueError(
            f"{recording.path} has {recording.samples} samples per input, "
            f"fewer than the {recording.segment_length(channels)} of one segment"
        )
    total = nothing(recording, channels)
    for part in run(correlate_share, shares):
        total += part
    return average(total, recording)


def average(total: SpectraSum, recording: Recording) -> Spectra:
    """Divide sums by weights and scale them to spectral densities."""
    channels = total.products.shape[1]
    length, rate = recording.segment_length(channels), recording.sample_rate_mhz
    if recording.complex_data:
        frequency = np.fft.fftshift(np.fft.fftfreq(length, 1 / rate))
        scale = np.full(channels, 1 / (length * rate))
    else:
        frequency = np.fft.rfftfreq(length, 1 / rate)[:channels]
        scale = np.full(channels, 2 / (length * rate))
        scale[0] /= 2  # zero frequency has no negative twin
    weights = np.maximum(total.weights, 1)[:, np.newaxis]  # no segments: zero, not NaN
    return Spectra(recording, frequency, total.products / weights * scale, total.weights)


def deviation(result: Spectra, reference: Spectra) -> np.ndarray:
    """Largest difference of each baseline relative to sqrt(auto i * auto j), shape (baselines,).

    The scale is that of the noise: a cross-spectrum passes near zero, where a ratio says nothing.
    Infinite where the weights differ, as the two are then not the same segments.
    """
    scale = reference.geometric_mean()
    difference = np.abs(result.density - reference.density)
    # An input that is zero (a dead sampler) has no scale: there any difference counts in full.
    relative = np.divide(difference, scale, out=difference.copy(), where=scale > 0).max(axis=1)
    return np.where(result.weights == reference.weights, relative, np.inf)


@cache
def _keep_freed_memory() -> None:
    """Have the C library keep the memory of freed blocks, which halves the time of a share.

    The GNU library returns large blocks to the system when they are freed, and every next one
    costs a page fault for each 4 KiB. Once a larger block was freed it keeps those up to that
    size (M_MMAP_THRESHOLD in man 3 mallopt; 32 MiB at most). Elsewhere this does nothing.
    """
    np.empty(31 * 2**20, np.uint8)
