"""A parameter sweep on whichever batch system is there: Slurm, PBS, Grid Engine, or this machine alone.

    python examples/sweep.py                     # 50 jobs, one for each pair of starting values
    python examples/sweep.py --qtype local --jobs 12

Each fits a black body to the same noisy photometry of a star, by Gauss and Newton's method, from its own pair
of starting values, and tells where it ended and in how many steps. The jobs are one array: `each` hands every
task its own item.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np

from mpiframe.plugins.scheduler import Job, Queue

BANDS = np.array([0.365, 0.445, 0.551, 0.658, 0.806, 1.22, 1.63, 2.19])  # U to K, micrometres
TRUE_TEMPERATURE, TRUE_SCALE = 5_800.0, 1.3
NOISE = 0.01


def planck(temperature: float, scale: float) -> np.ndarray:
    """The flux in each band, 1 at 5000 K in V for a scale of 1."""
    reference = 1.0 / np.expm1(14_387.8 / (0.551 * 5_000.0)) / 0.551**5
    return scale / np.expm1(np.minimum(14_387.8 / (BANDS * temperature), 600.0)) / BANDS**5 / reference


def fit(start: tuple[float, float]) -> tuple[float, float, int]:
    """Gauss-Newton from one pair of starting values: (temperature, residual in sigmas, steps)."""
    rng = np.random.default_rng(1)
    measured = planck(TRUE_TEMPERATURE, TRUE_SCALE) * (1 + NOISE * rng.standard_normal(BANDS.size))
    sigma = NOISE * measured
    guess = np.array(start)
    steps = 0
    for _ in range(200):
        steps += 1
        model = planck(*guess)
        slopes = np.stack([(planck(*(guess + d)) - model) / d.sum() for d in np.diag([1.0, 1e-3])], axis=1)
        change = np.linalg.lstsq(slopes / sigma[:, None], (measured - model) / sigma, rcond=None)[0]
        guess = np.clip(guess + np.clip(change, -0.3 * guess, 0.3 * guess), [500.0, 1e-3], [60_000.0, 1e3])
        if abs(change[0]) < 1e-3:
            break
    residual = float(np.sqrt(np.mean(((measured - planck(*guess)) / sigma) ** 2)))
    return float(guess[0]), residual, steps


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--qtype", help="slurm, pbs, torque, sge or local; found out without it")
    parser.add_argument("--jobs", type=int, default=50)
    given = parser.parse_args()

    rows = max(1, given.jobs // 5)
    temperatures = np.geomspace(1_500, 30_000, rows)
    starts = [(float(t), float(s)) for t in temperatures for s in np.geomspace(0.1, 10, 5)][: given.jobs]
    queue = Queue(given.qtype)
    job = Job(fit, each=starts, queue=queue, name="sweep", mem="200MB", time="10:00").submit()
    print(f"{len(starts)} fits on {queue.qtype}, job {job.id}")
    job.wait(progress=True)
    results = job.result()
    job.clean(delete_outputs=True)

    print(f"{'start T':>9} {'scale':>7} {'T':>9} {'sigmas':>8} {'steps':>5}")
    for (temperature, scale), (found, residual, steps) in zip(starts, results, strict=True):
        print(f"{temperature:9.0f} {scale:7.2f} {found:9.1f} {residual:8.2f} {steps:5}")
    good = [found for found, residual, _ in results if residual < 3]
    print(f"{len(good)} of {len(starts)} fits found the star: {np.median(good):.0f} K (true: 5800 K)")
    return 0 if good and abs(np.median(good) - TRUE_TEMPERATURE) < 50 else 1


if __name__ == "__main__":
    sys.exit(main())
