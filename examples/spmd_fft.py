"""A radio image by a Fourier transform that is spread over the servers: `scatter`, `spmd`, `gather`.

    mpiframe run -n 3 examples/spmd_fft.py
    mpiframe run -n 5 examples/spmd_fft.py --size 4000

The client simulates what an array of antennas measures of five point sources, and puts it on a grid, the uv
plane. Each server gets some of its rows and transforms them; all servers together transpose the plane, by
MPI's Alltoallv; and each transforms the rows that it has now. What the client gathers is the dirty image: it
is compared with numpy's transform of the whole plane, and has to show each source at its place. The exit
status is 1 if a check fails.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from typing import TYPE_CHECKING

import numpy as np

import mpiframe

if TYPE_CHECKING:
    from mpi4py import MPI

    plane: np.ndarray  # on each server, its rows of the plane

# Flux density in jansky, and the distances from the centre, in parts of the image's width.
SOURCES = ((10.0, 0.0, 0.0), (7.0, 0.21, 0.13), (5.0, -0.32, 0.05), (3.0, 0.1, -0.4), (2.0, -0.17, -0.23))
FLUX_ERROR = 0.3  # in jansky: what the noise and the sidelobes of other sources may add
RTOL = 1e-12  # of the peak: rounding is some 1e-16 in each step
ROUNDS = 5  # of which the best time counts: memory is slow the first time it is used


def transform(comm: MPI.Intracomm) -> tuple[float, float]:
    """Transform the plane in place, and transpose it; (seconds of FFTs, seconds of the transposition)."""
    ours = plane  # noqa: F821 - scatter left it on this server
    times = [time.perf_counter()]
    rows = np.fft.ifft(ours, axis=1, norm="forward")
    times.append(time.perf_counter())
    transpose(comm, rows, ours)
    times.append(time.perf_counter())
    ours[:] = np.fft.ifft(rows, axis=1, norm="forward")
    return time.perf_counter() - times[2] + times[1] - times[0], times[2] - times[1]


def transpose(comm: MPI.Intracomm, rows: np.ndarray, space: np.ndarray) -> None:
    """Transpose a square whose rows are spread over `comm`, in any shares; `space` is overwritten."""
    shares = np.array(comm.allgather(len(rows)))
    counts = len(rows) * shares
    # In the transpose our rows are columns, and some of its rows, in one piece, are what each server needs.
    comm.Alltoallv([np.ascontiguousarray(rows.T), counts], [space, counts])
    pieces = zip(np.split(space.ravel(), np.cumsum(counts)[:-1]), shares, strict=True)
    np.concatenate([piece.reshape(len(rows), share) for piece, share in pieces], axis=1, out=rows)


def observe(size: int) -> tuple[np.ndarray, int]:
    """(the uv plane with the visibilities of a day, summed in each cell; how many they are).

    Thirty antennas, on a spiral, look at the celestial pole: while the Earth turns, each baseline draws a
    circle. The cell (u, v) of the plane, in the order of FFTs, is `plane[u % size, v % size]`.
    """
    number = np.arange(30)
    antennas = 0.235 * size * np.sqrt(number / 30) * np.exp(2.4j * number)
    first, second = np.triu_indices(30, 1)
    turn = np.exp(1j * np.linspace(0, math.pi, 720, endpoint=False))  # 12 h; the rest is conjugate
    baselines = np.outer(antennas[first] - antennas[second], turn).ravel()
    u, v = np.rint(baselines.real).astype(int), np.rint(baselines.imag).astype(int)
    noise = np.random.default_rng(1).standard_normal((2, u.size))
    visibilities = noise[0] + 1j * noise[1]
    for flux, x, y in places(size):
        visibilities += flux * np.exp(-2j * math.pi / size * (u * x + v * y))
    plane = np.zeros((size, size), complex)
    np.add.at(plane, (u, v), visibilities)
    np.add.at(plane, (-u, -v), visibilities.conj())
    return plane, 2 * u.size


def places(size: int) -> list[tuple[float, int, int]]:
    """The sources: flux density, and whole pixels from the centre."""
    return [(flux, round(x * size), round(y * size)) for flux, x, y in SOURCES]


def main(client: mpiframe.Client, options: argparse.Namespace) -> int:
    """Make the image, check it; return the exit status."""
    size, servers = options.size, len(client.servers)
    observed, count = observe(size)
    print(f"{count:,} visibilities, a plane of {size} x {size}, {servers} server{'s' if servers > 1 else ''}")
    rounds = []
    for _ in range(ROUNDS):
        times = [time.perf_counter()]
        client.scatter(plane=observed)
        times.append(time.perf_counter())
        ffts, turns = zip(*client.spmd(transform), strict=True)
        times.append(time.perf_counter())
        image = client.gather("plane")
        times.append(time.perf_counter())
        # Transposed as the servers leave it, so that x runs along the rows of the image.
        reference = np.fft.ifft2(observed, norm="forward").T
        times.append(time.perf_counter())
        rounds.append([*np.diff(times), times[3] - times[0], max(ffts), max(turns)])

    error = float(np.abs(image - reference).max() / np.abs(reference).max())
    passed = error <= RTOL
    print(f"largest error against numpy's, {error:.2g} of the peak, {RTOL:g} allowed: {verdict(passed)}")
    passed &= find_sources(image.real / count, size)
    scattering, working, gathering, alone, together, fft, turn = np.min(rounds, axis=0)
    print(
        f"best of {ROUNDS}: scatter {scattering:.3f} s, spmd {working:.3f} s (FFTs {fft:.3f}, transposition "
        f"{turn:.3f}), gather {gathering:.3f} s\nnumpy.fft.ifft2 on the client {alone:.3f} s: spmd is "
        f"{alone / working:.2f} x as fast, with scatter and gather {alone / together:.2f} x"
    )
    print("all checks passed" if passed else "A CHECK FAILED")
    return 0 if passed else 1


def find_sources(image: np.ndarray, size: int) -> bool:
    """Print the brightest peaks; return whether they are the sources."""
    good, left = True, image.copy()
    around = np.arange(-(size // 40), size // 40 + 1)  # in pixels; a source is no wider than that
    for flux, x, y in places(size):
        row, column = (int(index) for index in np.unravel_index(np.argmax(left), left.shape))
        peak = float(left[row, column])
        left[np.ix_((row + around) % size, (column + around) % size)] = 0
        found = (column, row) == (x % size, y % size) and abs(peak - flux) <= FLUX_ERROR
        at = tuple((index + size // 2) % size - size // 2 for index in (column, row))
        print(f"  peak of {peak:6.3f} Jy at {at}, a source of {flux:g} Jy at {(x, y)}: {verdict(found)}")
        good &= found
    return good


def verdict(passed: bool) -> str:
    return "passed" if passed else "FAILED"


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="spmd_fft.py", description="An image of simulated sources.")
    parser.add_argument("--size", type=int, default=2000, help="of the image in pixels (default 2000)")
    options = parser.parse_args(arguments)
    if options.size < 64:
        parser.error("--size must be at least 64")
    return options


if __name__ == "__main__":
    with mpiframe.Client() as client:
        sys.exit(main(client, parse(sys.argv[1:])))
