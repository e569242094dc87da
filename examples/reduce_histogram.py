"""The amplitude histogram of many blocks of voltage samples, by `Client.reduce`.

    mpiframe run -n 3 examples/reduce_histogram.py
    mpiframe run -n 5 examples/reduce_histogram.py --blocks 256 --samples 4194304

A sampler of 8 bits saw the noise of a receiver, with a weak tone in it. Each server makes blocks of samples
and counts their 256 levels; the servers add up their counts among themselves, and the client gets one
histogram. Three things are read from it: how large the signal is, what a sampler of 2 bits would have made
of it, and, from its kurtosis, how much of its power is the tone's. Some blocks are then counted by the client
alone, which has to give the same counts, and tells the speed. The exit status is 1 if a check fails.
"""

from __future__ import annotations

import argparse
import functools
import math
import sys
import time
from statistics import NormalDist

import numpy as np

import mpiframe

LEVELS = 256
RMS = 20.0  # of noise and tone together, in levels
TONE = 0.1  # the tone's share of the power
CYCLES = 0.1234567  # of the tone in a sample
# A sampler of 2 bits tells weak samples from strong ones. It loses least where its threshold is 0.9816 times
# the rms (Thompson, Moran and Swenson, chapter 8). Ours is between the levels 19 and 20.
THRESHOLD, BEST = 19.5, 0.9816


def make_block(number: int, samples: int) -> np.ndarray:
    """The samples of a block, levels from -128 to 127, the same wherever it is made."""
    index = np.arange(number * samples, (number + 1) * samples)
    signal = np.random.default_rng([2024, number]).standard_normal(samples)
    signal *= RMS * math.sqrt(1 - TONE)
    signal += RMS * math.sqrt(2 * TONE) * np.sin(2 * math.pi * CYCLES * index)
    return np.clip(np.rint(signal), -LEVELS // 2, LEVELS // 2 - 1).astype(np.int8)


def histogram_of_block(number: int, samples: int) -> np.ndarray:
    """How many samples of the block have each level, from -128 on."""
    return np.bincount(make_block(number, samples) + np.int16(LEVELS // 2), minlength=LEVELS)


def main(client: mpiframe.Client, options: argparse.Namespace) -> int:
    """Count, check, report; return the exit status."""
    blocks, samples, servers = options.blocks, options.samples, len(client.servers)
    count = functools.partial(histogram_of_block, samples=samples)
    few = range(0, blocks, max(blocks // 8, 1))
    client.reduce(np.add, count, range(servers))  # the first time takes longer: not in the times below
    count(0)

    start = time.perf_counter()
    histogram = client.reduce(np.add, count, range(blocks))
    rate = blocks * samples / (time.perf_counter() - start)
    start = time.perf_counter()
    alone = functools.reduce(np.add, map(count, few))
    rate_alone = len(few) * samples / (time.perf_counter() - start)

    print(f"{blocks} blocks of {samples:,} samples on {servers} server{'s' if servers > 1 else ''}")
    chart(histogram)
    passed = read(histogram, blocks * samples)
    passed.append(bool((client.reduce(np.add, count, few) == alone).all()))
    print(f"{len(few)} of the blocks, counted by the client alone, bit for bit: {verdict(passed[-1])}")
    print(
        f"{rate / 1e6:.1f} Msample/s, the client alone {rate_alone / 1e6:.1f}: "
        f"{rate / rate_alone:.2f} x as fast"
    )
    print("all checks passed" if all(passed) else "A CHECK FAILED")
    return 0 if all(passed) else 1


def chart(histogram: np.ndarray, width: int = 8) -> None:
    """Print a bar for every `width` levels, as far as there are samples."""
    sums = histogram.reshape(-1, width).sum(axis=1)
    for index in np.flatnonzero(sums * 1000 > sums.max()):
        level = index * width - LEVELS // 2
        print(f"  {level:4d} to {level + width - 1:3d} {'#' * round(50 * sums[index] / sums.max())}")


def read(histogram: np.ndarray, total: int) -> list[bool]:
    """Print what the distribution tells; return whether that is what was put in."""
    level = np.arange(LEVELS) - LEVELS // 2
    share = histogram / total
    mean = float(share @ level)
    rms = math.sqrt(share @ (level - mean) ** 2)
    allowed = 6 * rms / math.sqrt(total)  # six standard errors, here and below
    passed = [int(histogram.sum()) == total and abs(mean) <= allowed]
    print(f"mean {mean:+.4f} levels, {allowed:.4f} allowed: {verdict(passed[-1])}")

    outer = float(share[np.abs(level) > THRESHOLD].sum())
    # The share of the outer states tells the rms of Gaussian noise where nothing else was recorded.
    told = THRESHOLD / NormalDist().inv_cdf(1 - outer / 2) if 0 < outer < 1 else math.nan
    allowed = rms * (6 / math.sqrt(total) + 0.002)  # the tone makes it a little less Gaussian
    passed.append(abs(told - rms) <= allowed)
    print(
        f"in 2 bits, {100 * outer:.2f} % in the outer states imply an rms of {told:.3f} levels, it is "
        f"{rms:.3f}, {allowed:.3f} allowed: {verdict(passed[-1])}\n"
        f"  the input is {20 * math.log10(told * BEST / THRESHOLD):+.2f} dB from where 2 bits lose least"
    )

    # A sine's kurtosis is 1.5 below that of noise, and a share of the power counts by its square.
    kurtosis = float(share @ (level - mean) ** 4) / rms**4
    expected, allowed = 3 - 1.5 * TONE**2, 6 * math.sqrt(24 / total)
    passed.append(abs(kurtosis - expected) <= allowed)
    print(
        f"kurtosis {kurtosis:.4f}, expected {expected:.4f}, {allowed:.4f} allowed: {verdict(passed[-1])}\n"
        f"  a tone of {100 * math.sqrt(max(3 - kurtosis, 0) / 1.5):.1f} % of the power; "
        f"{100 * TONE:.1f} % were put in"
    )
    return passed


def verdict(passed: bool) -> str:
    return "passed" if passed else "FAILED"


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="reduce_histogram.py", description="A histogram of samples.")
    parser.add_argument("--blocks", type=int, default=96, help="blocks of samples (default 96)")
    parser.add_argument("--samples", type=int, default=2**20, help="samples a block (default 2^20)")
    options = parser.parse_args(arguments)
    if options.blocks < 1 or options.samples < 1000:
        parser.error("at least one block, of at least 1000 samples")
    return options


if __name__ == "__main__":
    with mpiframe.Client() as client:
        sys.exit(main(client, parse(sys.argv[1:])))
