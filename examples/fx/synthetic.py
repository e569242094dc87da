"""VDIF recordings with a known answer, of any length: four antennas, one source, one tone.

The source is white noise that reaches the antennas at different times, under three times as much
receiver noise of each antenna's own. A correlator has to find the delays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.time import Time
from baseband import vdif
from baseband.base.encoding import TWO_BIT_1_SIGMA

# Not on 1 January or July: there a new VDIF reference epoch begins.
START_UTC = "2024-03-01T12:00:00"
SAMPLE_RATE_MHZ = 32.0
SAMPLES_PER_FRAME = 20_000  # 5,000 bytes of 2-bit samples, as VLBA stations write them
FRAMES_PER_SECOND = round(SAMPLE_RATE_MHZ * 1e6 / SAMPLES_PER_FRAME)
DELAYS_NS = (0.0, 101.5625, -237.5, 388.0)  # at which each antenna receives the source
FRAME_BYTES = len(DELAYS_NS) * (SAMPLES_PER_FRAME // 4 + 32)  # a frame set: payloads and headers
SOURCE_POWER = 0.25  # of the power of an antenna; two bits keep 0.88 of the correlation
TONE_POWER = 0.02
TONE_MHZ = 5.3
PERIOD = 2**20  # samples after which source and tone repeat; the receiver noise never does
FRAMES_PER_SHARE = 25


@dataclass(frozen=True)
class Stretch:
    """Frame sets to write: `count` of them from number `first`."""

    path: str
    first: int
    count: int


def write(
    run: Callable[[Callable[[Stretch], int], Iterable[Stretch]], Iterable[int]],
    path: Path,
    frames: int,
) -> None:
    """Write a VDIF file of so many frame sets, of four threads each.

    `run` maps a function over stretches of the file, which are written independently and in any
    order. The file has its name only once it is complete.
    """
    unfinished = path.with_suffix(".part")
    with unfinished.open("wb") as file:
        file.truncate(frames * FRAME_BYTES)
    for _ in run(write_stretch, stretches(unfinished, frames)):
        pass
    unfinished.replace(path)


def stretches(path: Path, frames: int) -> list[Stretch]:
    """The parts of a file of so many frame sets, in order."""
    return [
        Stretch(str(path.resolve()), first, min(FRAMES_PER_SHARE, frames - first))
        for first in range(0, frames, FRAMES_PER_SHARE)
    ]


def write_stretch(stretch: Stretch) -> int:
    """Write one stretch at its place in the file; return the number of frame sets."""
    samples = np.arange(stretch.count * SAMPLES_PER_FRAME) + stretch.first * SAMPLES_PER_FRAME
    # The first frame seeds the noise, so the same file comes out wherever its parts are written.
    generator = np.random.default_rng([1, stretch.first])
    voltages = generator.standard_normal((len(samples), len(DELAYS_NS)), dtype=np.float32)
    voltages *= np.float32(np.sqrt(1 - SOURCE_POWER - TONE_POWER))
    voltages += _source()[samples % PERIOD]
    # The coder has its threshold at one standard deviation.
    voltages *= np.float32(TWO_BIT_1_SIGMA)
    with open(stretch.path, "r+b") as file:
        file.seek(stretch.first * FRAME_BYTES)
        with vdif.open(
            file,
            "ws",
            sample_rate=SAMPLE_RATE_MHZ * u.MHz,
            samples_per_frame=SAMPLES_PER_FRAME,
            nthread=len(DELAYS_NS),
            nchan=1,
            bps=2,
            complex_data=False,
            edv=1,
            station="Sy",
            time=Time(START_UTC) + stretch.first / FRAMES_PER_SECOND * u.s,
        ) as writer:
            writer.write(voltages)
    return stretch.count


@lru_cache(maxsize=1)
def _source() -> np.ndarray:
    """Source and tone as the antennas receive them, shape (PERIOD, antennas), float32.

    As the noise repeats after PERIOD samples, a phase slope delays it exactly, by any fraction
    of a sample.
    """
    signal = np.random.default_rng(0).standard_normal(PERIOD) * np.sqrt(SOURCE_POWER)
    tone = np.rint(TONE_MHZ / SAMPLE_RATE_MHZ * PERIOD)
    signal += np.sqrt(2 * TONE_POWER) * np.cos(2 * np.pi * tone * np.arange(PERIOD) / PERIOD)
    spectrum = np.fft.rfft(signal)
    spectrum[-1] = 0  # the Nyquist point of a real signal cannot be delayed
    frequency = np.fft.rfftfreq(PERIOD, 1 / SAMPLE_RATE_MHZ)
    late = [np.fft.irfft(spectrum * np.exp(-2e-3j * np.pi * frequency * t)) for t in DELAYS_NS]
    return np.stack(late, axis=1).astype(np.float32)
