"""Makes a small MeasurementSet whose visibilities are known: python simulate.py X54.ms --seed 1."""

from __future__ import annotations

import argparse
import math
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

FLUX = 2.0  # Jy, of the one point source, at the phase centre
NOISE = 0.05  # Jy, of the real and of the imaginary part of a visibility
FIELD = "point"
POINTING = ("00h00m00", "-30d00m00")
START = 58909.75  # MJD in UTC: 2020-03-01 18:00, when the field is high over ALMA
STEP = 10.0  # seconds
SCANS = 4
FREQUENCY, CHANNEL = 230e9, 2e6  # Hz

# What a radiometer sees in its four channels at 183 GHz: so many kelvin, and so many more for each mm that
# water vapour adds to the path. From these wvrgcal concludes on 1 mm of water, and on about the same slopes.
RADIOMETER = (180.0, 83.0, 38.4, 26.0)
RADIOMETER_SLOPES = (14.9, 10.1, 5.0, 3.2)
PATH = 0.1  # mm, how much the path to an antenna differs, with time and from one antenna to the next
LIGHT = 299792458e3  # mm / s


def gains(seed: int, antennas: int) -> np.ndarray:
    """The error that each antenna multiplies onto what it receives, complex, the same at all times."""
    random = np.random.default_rng([seed, 1])
    size = random.uniform(0.8, 1.2, antennas)
    return np.asarray(size * np.exp(1j * random.uniform(-math.pi, math.pi, antennas)))


def make_ms(
    path: Path,
    *,
    seed: int,
    antennas: int = 7,
    channels: int = 8,
    times: int = 10,
    spws: int = 1,
    wvr: bool = False,
) -> None:
    """Makes an MS of ALMA: a point source times the gains of `gains`, and noise.

    With `wvr`, water vapour delays what each antenna receives by its own amount each time, and there is one
    more spectral window with what the radiometers of the antennas see of that.
    """
    shutil.rmtree(path, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=path.absolute().parent) as scratch:
        whole, made = Path(scratch) / "whole.ms", Path(scratch) / "made.ms"
        _observe(whole, antennas, channels, times, spws, wvr)
        _select(whole, made, spws)
        _point(made)
        _fill(made, seed, antennas, times, spws, wvr)
        made.rename(path)  # not before it is whole


def _observe(path: Path, antennas: int, channels: int, times: int, spws: int, wvr: bool) -> None:
    """Has CASA write the subtables, and the rows with their times and uvw coordinates."""
    import casatools  # not at the top: not there for a test that only wants `gains`

    casatools.logger.setglobal(True)  # else what CASA has to say goes to the terminal, not to its log file
    me, sm = casatools.measures(), casatools.simulator()
    sm.open(str(path))
    # A spiral of some hundred metres, in which no two baselines are alike
    angle = 2.4 * np.arange(antennas)
    radius = 60.0 * np.sqrt(1 + np.arange(antennas))
    sm.setconfig(
        telescopename="ALMA",
        x=list(radius * np.cos(angle)),
        y=list(radius * np.sin(angle)),
        z=[0.0] * antennas,
        dishdiameter=[12.0] * antennas,
        mount=["alt-az"] * antennas,
        antname=[f"DA{41 + number}" for number in range(antennas)],
        padname=[f"A{1 + number:03}" for number in range(antennas)],
        coordsystem="local",
        referencelocation=me.observatory("ALMA"),
    )
    for spw in range(spws):
        sm.setspwindow(
            spwname=f"spw{spw}",
            freq=f"{FREQUENCY + 2 * spw * channels * CHANNEL}Hz",
            deltafreq=f"{CHANNEL}Hz",
            freqresolution=f"{CHANNEL}Hz",
            nchannels=channels,
            stokes="XX YY",
        )
    names = [f"spw{spw}" for spw in range(spws)]
    if wvr:
        names.append("WVR#NOMINAL")  # wvrgcal goes by the number of channels: any window with four
        sm.setspwindow(names[-1], "184.19GHz", "1.44GHz", "1.44GHz", nchannels=len(RADIOMETER), stokes="XX")
    sm.setfeed("perfect X Y", pol=[""])
    sm.setfield(sourcename=FIELD, sourcedirection=me.direction("J2000", *POINTING), calcode="C")
    sm.setlimits(shadowlimit=0.001, elevationlimit="8deg")
    sm.setauto(autocorrwt=1.0 if wvr else 0.0)
    sm.settimes(integrationtime=f"{STEP}s", usehourangle=False, referencetime=me.epoch("UTC", f"{START}d"))
    for number, scan in enumerate(filter(len, np.array_split(np.arange(times), SCANS))):
        start = STEP * scan[0] + 30.0 * number  # half a minute to the next scan
        for name in names:
            sm.observe(
                FIELD,
                name,
                starttime=f"{start}s",
                stoptime=f"{start + STEP * len(scan)}s",
                state_obs_mode="CALIBRATE_PHASE#ON_SOURCE",
            )
    sm.close()


def _select(whole: Path, path: Path, spws: int) -> None:
    """Copies the rows that a telescope would have: the simulator correlates radiometers too."""
    from casatools import table

    tool: Any = table()
    tool.open(str(whole))
    part = tool.query(f"(DATA_DESC_ID < {spws}) == (ANTENNA1 != ANTENNA2)")  # the radiometers come last
    part.copy(str(path), deep=True).close()
    part.close()
    tool.close()


def _point(path: Path) -> None:
    """Gives the pointing in azimuth and elevation, as ALMA does; the simulator gives it in J2000."""
    from casatools import measures, quanta, table

    me, qa, tool = measures(), quanta(), table()
    me.doframe(me.observatory("ALMA"))
    tool.open(str(path / "POINTING"), nomodify=False)
    seen: dict[float, np.ndarray] = {}
    for row, moment in enumerate(tool.getcol("TIME")):
        if moment not in seen:
            me.doframe(me.epoch("UTC", f"{moment}s"))
            place = me.measure(me.direction("J2000", *POINTING), "AZELGEO")
            angles = [[qa.convert(place[m], "rad")["value"]] for m in ("m0", "m1")]
            seen[moment] = np.array(angles)
        for column in ("DIRECTION", "TARGET"):
            tool.putcell(column, row, seen[moment])
    for column in ("DIRECTION", "TARGET"):
        keyword = tool.getcolkeyword(column, "MEASINFO")
        tool.putcolkeyword(column, "MEASINFO", {**keyword, "Ref": "AZELGEO"})
    tool.close()


def _fill(path: Path, seed: int, antennas: int, times: int, spws: int, wvr: bool) -> None:
    """Puts in the visibilities, and takes out what an MS from a telescope has not."""
    from casatools import table

    random = np.random.default_rng([seed, 2])
    extra = PATH * wvr * random.standard_normal((times, antennas))
    tool: Any = table()
    tool.open(str(path), nomodify=False)
    tool.removecols(["MODEL_DATA", "CORRECTED_DATA"])
    moments, when = np.unique(tool.getcol("TIME"), return_inverse=True)
    # the simulator counts each window of a scan as a scan
    scan = 1 + np.concatenate(([0], np.cumsum(np.diff(moments) > 2 * STEP)))
    tool.putcol("SCAN_NUMBER", scan[when])

    one, two = tool.getcol("ANTENNA1"), tool.getcol("ANTENNA2")
    error = gains(seed, antennas) * np.exp(-2j * math.pi * FREQUENCY / LIGHT * extra)
    for spw in range(spws + wvr):
        part = tool.query(f"DATA_DESC_ID == {spw}")
        rows = tool.getcol("DATA_DESC_ID") == spw
        if spw == spws:
            seen = np.outer(RADIOMETER_SLOPES, extra[when[rows], one[rows]])
            data = (np.array(RADIOMETER)[:, np.newaxis] + seen)[np.newaxis].astype(complex)
        else:
            shape = part.getcol("DATA").shape  # (correlations, channels, rows)
            data = FLUX * error[when[rows], one[rows]] * error[when[rows], two[rows]].conj()
            data = data + random.normal(0, NOISE, shape) + 1j * random.normal(0, NOISE, shape)
        part.putcol("DATA", data)
        part.putcol("SIGMA", np.full(data.shape[::2], NOISE))
        part.putcol("WEIGHT", np.full(data.shape[::2], NOISE**-2))
        part.close()
    tool.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--seed", type=int, required=True)
    for option, count in (("antennas", 7), ("channels", 8), ("times", 10), ("spws", 1)):
        parser.add_argument(f"--{option}", type=int, default=count)
    parser.add_argument("--wvr", action="store_true")
    make_ms(**vars(parser.parse_args()))
