"""Is there a common signal on a baseline, and how much later does the second input receive it?

A delay turns the phase of a cross-spectrum linearly with frequency: first times the conjugate of
second has the phase 2 pi f tau if the second input is tau late. The search is the usual fringe
fit: the peak of the delay function, then a fit of the phase slope. Its standard error is
1 / (2 pi S/N rms bandwidth) (Thompson, Moran & Swenson, "Interferometry and Synthesis in Radio
Astronomy", chapter 9 on VLBI).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fx.spectra import Spectra

DETECTION_SNR = 6.0  # a false alarm in about 1 of 10,000 recordings of 8 inputs
OVERSAMPLING = 8  # points of the delay function for each lag
EDGE = 0.05  # part of the band left out at either end, where the filters fall off
LINE = 1.5  # a channel with this many times the median power around it is a line
AROUND = 8  # channels on either side of it


@dataclass(frozen=True)
class Fringe:
    """The best fit of a delayed common signal to one cross-spectrum.

    amplitude: correlation coefficient; snr: amplitude over its noise per quadrature component;
    phase_deg: at centre_mhz, the middle of the channels that were fitted.
    """

    amplitude: float
    snr: float
    delay_ns: float
    error_ns: float
    phase_deg: float
    centre_mhz: float

    def phase_at(self, frequency_mhz: np.ndarray) -> np.ndarray:
        """The phase of the fit in degrees, not wrapped."""
        return self.phase_deg + 0.36 * (frequency_mhz - self.centre_mhz) * self.delay_ns

    @property
    def detected(self) -> bool:
        return self.snr >= DETECTION_SNR


def fit_fringes(spectra: Spectra) -> list[Fringe | None]:
    """Fit each cross-spectrum; None for autos, in the order of the baselines."""
    coherence, pairs = spectra.coherence(), spectra.baselines
    auto = [row for row, (i, j) in enumerate(pairs) if i == j]
    usable = [_continuum(spectra.density[row].real) for row in auto]
    return [
        None
        if i == j
        else fit(spectra.frequency_mhz, coherence[row], usable[i] & usable[j], spectra.weights[row])
        for row, (i, j) in enumerate(pairs)
    ]


def fit(frequency_mhz: np.ndarray, coherence: np.ndarray, usable: np.ndarray, weight: int) -> Fringe:
    """Fit one cross-spectrum, (channels,), averaged over `weight` segments.

    Only the channels in `usable` (bool) count. Delays up to half a segment are searched.
    """
    if weight == 0 or usable.sum() < 3:
        return Fringe(0.0, 0.0, 0.0, float("inf"), 0.0, 0.0)
    width = frequency_mhz[1] - frequency_mhz[0]
    bins = OVERSAMPLING * len(coherence)
    lags = np.abs(np.fft.fft(np.where(usable, coherence, 0), bins))
    delay = np.fft.fftfreq(bins, width)[np.argmax(lags)]  # microseconds

    centre = frequency_mhz[usable].mean()
    f = frequency_mhz[usable] - centre
    for _ in range(10):  # three would do: the start is within 1/16 of a lag
        rotated = coherence[usable] * np.exp(-2j * np.pi * f * delay)
        total = rotated.sum()
        # Least squares for the slope of what is left of the phase, weighted by amplitude.
        level = rotated * np.conj(total)
        steepness = (f**2 * level.real).sum()
        if steepness <= 0:  # no common signal: noise has no slope to converge to
            break
        delay += (f * level.imag).sum() / steepness / (2 * np.pi)
    amplitude = abs(total) / len(f)
    snr = amplitude * np.sqrt(2 * weight * len(f))
    error = 1 / (2 * np.pi * snr * np.sqrt((f**2).mean())) if snr else np.inf
    return Fringe(
        amplitude=float(amplitude),
        snr=float(snr),
        delay_ns=float(delay * 1e3),
        error_ns=float(error * 1e3),
        phase_deg=float(np.degrees(np.angle(total))),
        centre_mhz=float(centre),
    )


def _continuum(power: np.ndarray) -> np.ndarray:
    """The channels of an auto-spectrum, (channels,), that hold neither line nor band edge."""
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(power, AROUND, "edge"), 2 * AROUND + 1)
    usable = (power > 0) & (power < LINE * np.median(windows, axis=1))
    edge = max(1, round(EDGE * len(power)))
    usable[:edge] = usable[-edge:] = False
    return usable
