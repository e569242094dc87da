"""Our own correlator as a program of DiFX: a job of two stations, whose data are made with known delays."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpiframe.plugins.difx.files import Files
from mpiframe.plugins.difx.formats import Im, Input
from mpiframe.plugins.difx.formats.visibilities import Visibilities
from mpiframe.plugins.difx.job_events import Outcome
from mpiframe.plugins.difx.jobs import JobOptions, Jobs
from mpiframe.plugins.difx.machines import define_machines
from mpiframe.plugins.difx.multicast import Group
from mpiframe.plugins.difx.versions import Versions

ROOT = Path(__file__).resolve().parents[3]
DATA = Path(__file__).parent / "data" / "real_run_tiny"
SECONDS = 60.0
RATE = 16e6
STEP, COUNT = 0.02, 3  # seconds of an integration, and how many
# For each telescope: microseconds, and microseconds in a second, which is some 16 fringes a second here.
DELAYS = ((1.2345, -1.3e-3), (-0.7771, 2.0e-3))
SHARE = 0.5  # of the source in the power of a station
TWO_BITS = 0.88  # of the correlation is what two bits leave


@pytest.fixture
def job(tmp_path: Path) -> str:
    """The real job, shorter, with delays of ours and data to go with them."""
    pytest.importorskip("baseband")
    folder = tmp_path / "exp"
    folder.mkdir()
    model = Im.read(DATA / "tiny_1.im")
    (scan,) = model.scans
    intervals = []
    for interval in scan.intervals:
        sources = tuple(
            dataclasses.replace(
                source,
                telescopes=tuple(
                    dataclasses.replace(one, delay_us=(*terms, 0.0, 0.0, 0.0, 0.0))
                    for one, terms in zip(source.telescopes, DELAYS, strict=True)
                ),
            )
            for source in interval.sources
        )
        intervals.append(dataclasses.replace(interval, sources=sources))
    scan = dataclasses.replace(scan, intervals=tuple(intervals))
    dataclasses.replace(model, scans=(scan,)).write(folder / "tiny_1.im")
    real = Input.read(DATA / "tiny_1.input")
    paths = [str(folder / f"{one.name}.vdif") for one in real.telescopes]
    changed = dataclasses.replace(
        real,
        seconds=1,
        configurations=(dataclasses.replace(real.configurations[0], integration_seconds=STEP),),
        telescopes=tuple(dataclasses.replace(one, clock_us=(0.0, 0.0)) for one in real.telescopes),
        data_files=tuple(
            dataclasses.replace(one, paths=(path,)) for one, path in zip(real.data_files, paths, strict=True)
        ),
    )
    text = changed.text().replace("EXECUTE TIME (SEC): 1", f"EXECUTE TIME (SEC): {STEP * COUNT}")
    (folder / "tiny_1.input").write_text(text)
    record(paths, real.freqs[0].mhz * 1e6)
    return str(folder / "tiny_1.input")


def record(paths: list[str], edge_hz: float) -> None:
    """What the two stations record: in each hand a source of its own, with noise, in two bits."""
    from astropy import units as u
    from astropy.time import Time
    from baseband import vdif
    from baseband.base.encoding import TWO_BIT_1_SIGMA

    random = np.random.default_rng(5)
    samples = 20000 * round(RATE * (STEP * COUNT + 0.01) / 20000)
    frequency = np.fft.fftfreq(samples, 1 / RATE)
    seconds = np.arange(samples) / RATE
    sources = []
    for _ in range(2):
        spectrum = np.fft.fft(random.standard_normal(samples)) * (frequency > 0) * 2
        sources.append(spectrum)
    for path, (delay, rate) in zip(paths, DELAYS, strict=True):
        hands = []
        for spectrum in sources:
            early = np.fft.ifft(spectrum * np.exp(2j * np.pi * frequency * delay * 1e-6))
            # In this short time the rate turns the phase on the sky, and shifts the samples by nothing.
            early *= np.exp(2j * np.pi * edge_hz * (delay + rate * seconds) * 1e-6)
            noise = random.standard_normal(samples)
            hands.append(np.sqrt(SHARE) * early.real + np.sqrt(1 - SHARE) * noise)
        with vdif.open(
            path, "ws", sample_rate=RATE / 1e6 * u.MHz, samples_per_frame=20000, nthread=2, nchan=1, bps=2,
            complex_data=False, edv=1, station="Fd", time=Time(60022, 75600 / 86400, format="mjd"),
        ) as writer:  # fmt: skip
            writer.write((np.stack(hands, axis=1) * TWO_BIT_1_SIGMA).astype(np.float32))


@pytest.mark.long
def test_a_job_of_difx_by_our_own_correlator(
    job: str, tmp_path: Path, group: Group, versions: Versions, mpirun_with_baseband: str
) -> None:
    python = Path(mpirun_with_baseband).parent / "python"
    program = Path(versions.base) / "programs" / "fx-difx"
    program.write_text(f'#!/bin/sh\nexec {python} {ROOT}/examples/fx_difx.py "$@"\n')
    program.chmod(0o755)
    with Files([tmp_path]) as files:
        jobs = Jobs(files, group, versions)
        try:
            define_machines(job, "localhost", ["localhost"] * 2, [("localhost", 2)], files)
            options = JobOptions(
                program="fx-difx", mpirun=mpirun_with_baseband, environment={"PYTHONPATH": str(ROOT)}
            )
            result = jobs.start(job, options).wait(SECONDS)
            assert result.outcome is Outcome.DONE, result
            assert result.progress == 1.0
            assert len(jobs.log(job)[0].weights) == COUNT
        finally:
            jobs.close()
    found = Visibilities.of_job(job)
    assert len(found) == COUNT * len(Input.read(job).products())
    for header, spectrum in found:
        hands, inside = header["polarisations"], spectrum[20:-20]  # the filters' edges
        # At the begin one station would need what came before its recording.
        assert 0.99 < header["weight"] <= 1.0
        if header["baseline"] != 258:
            expected = 1.0 if hands[0] == hands[1] else 0.0
        else:
            expected = SHARE * TWO_BITS if hands[0] == hands[1] else 0.0
        mean = inside.mean()
        assert abs(mean.real - expected) < 0.05, (hands, mean)
        # In phase over the whole band, and between integrations: the model is what the data were made with.
        assert abs(mean.imag) < 0.03, (hands, mean)
    assert_like_the_real_job(found)


def assert_like_the_real_job(found: Visibilities) -> None:
    """What the real job's first integration has in its headers but for times; (u, v, w) change with these."""
    real = Visibilities.of_job(DATA / "tiny_1.input")

    def heads(one: Visibilities, seconds: float) -> set[tuple[Any, ...]]:
        return {
            (int(h["baseline"]), int(h["mjd"]), int(h["configuration"]), int(h["source"]), int(h["freq"]),
             bytes(h["polarisations"]), int(h["bin"]), len(spectrum))
            for h, spectrum in one if abs(h["seconds"] - seconds) < 1e-6
        }  # fmt: skip

    assert heads(found, 75600 + STEP / 2) == heads(real, 75600.25)
    ours, theirs = (next(h for h, _ in one if h["baseline"] == 258)["uvw_m"] for one in (found, real))
    assert np.max(np.abs(ours - theirs)) < 100  # metres: a quarter of a second of the Earth's turning
    model = Im.read(DATA / "tiny_1.im")
    for one in (found, real):
        header = next(h for h, _ in one if h["baseline"] == 258)
        ends = [model.model(0, 1, index, 60022, float(header["seconds"])) for index in (0, 1)]
        expected = [
            float(np.polyval(getattr(ends[0][0], axis)[::-1], ends[0][1]))
            - float(np.polyval(getattr(ends[1][0], axis)[::-1], ends[1][1]))
            for axis in ("u_m", "v_m", "w_m")
        ]
        assert np.allclose(header["uvw_m"], expected, rtol=0, atol=1e-6)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "mpirun_with_baseband" in metafunc.fixturenames:
        # The other MPIs' environments have no baseband.
        path = str(Path(sys.executable).parent / "mpirun")
        assert os.path.exists(path), "the interpreter that runs the tests has an MPI beside it"
        metafunc.parametrize("mpirun_with_baseband", [path], ids=["own"])
