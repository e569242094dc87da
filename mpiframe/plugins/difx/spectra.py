"""What one looks at in a spectrum: frequencies, its mean, lags, delay."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mpiframe.plugins.difx.formats.input_records import Freq

Floats = npt.NDArray[np.float64]
Complexes = npt.NDArray[np.complex128]

_PADDING = 2  # as a real transform has: twice as many lags as channels
_BESIDE = 3  # lags beside the peak that are part of it, on each side, for each of the padding


def frequencies_mhz(freq: Freq, channels: int) -> Floats:
    """The sky frequency of each channel; the last one of a lower sideband is at the band's edge."""
    step = freq.bandwidth_mhz / channels
    if freq.sideband.upper() == "L":
        return np.asarray(freq.mhz - freq.bandwidth_mhz + step * np.arange(1, channels + 1), np.float64)
    return np.asarray(freq.mhz + step * np.arange(channels), np.float64)


def mean_spectrum(spectra: npt.ArrayLike, weights: npt.ArrayLike) -> Complexes:
    """The mean of spectra (rows) by their weights; nan where all of these are 0."""
    rows = np.asarray(spectra, dtype=np.complex128)
    shares = np.asarray(weights, dtype=np.float64)
    total = shares.sum()
    if not total > 0:
        return np.full(rows.shape[1:], np.nan, dtype=np.complex128)
    return np.asarray((rows * shares[:, None]).sum(axis=0) / total)


@dataclass(frozen=True)
class Lags:
    """A lag spectrum: the time of each lag and its amplitude; where its peak is, in us, and how clear.

    A positive delay is a phase that rises with frequency. snr: the peak over the rms of what is not
    near it; nan where there is no such.
    """

    delays_us: Floats
    amplitudes: Floats
    delay_us: float
    snr: float


def lag_spectrum(spectrum: npt.ArrayLike, bandwidth_mhz: float) -> Lags:
    """The lag spectrum of one band, lag 0 in the middle.

    The peak is found between lags by a parabola. Raises ValueError for fewer than two channels.
    """
    row = np.asarray(spectrum, dtype=np.complex128)
    if row.ndim != 1 or len(row) < 2:
        raise ValueError("a lag spectrum needs one spectrum, with two channels at least")
    number = _PADDING * len(row)
    lags = np.fft.fftshift(np.fft.fft(row, number)) / len(row)
    step = len(row) / (bandwidth_mhz * number)
    delays = np.asarray((np.arange(number) - number // 2) * step, np.float64)
    amplitudes = np.asarray(np.abs(lags), np.float64)
    if not np.isfinite(amplitudes).all():
        return Lags(delays, amplitudes, float("nan"), float("nan"))
    peak = int(np.argmax(amplitudes))
    low, top, high = (amplitudes[(peak + shift) % number] for shift in (-1, 0, 1))
    curve = low - 2 * top + high
    shift = 0.5 * (low - high) / curve if curve else 0.0
    away = np.abs((np.arange(number) - peak + number // 2) % number - number // 2) > _BESIDE * _PADDING
    rest = np.sqrt(np.mean(amplitudes[away] ** 2)) if away.any() else 0.0
    snr = float(top / rest) if rest > 0 else float("nan")
    return Lags(delays, amplitudes, float(delays[peak] + shift * step), snr)
