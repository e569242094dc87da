"""Pictures of a baseline: amplitude and phase against frequency, and the lag spectrum."""

from __future__ import annotations

import io
import math
import os
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mpiframe.plugins.difx.follow import RECHECK_SECONDS, Follower
from mpiframe.plugins.difx.formats import dates
from mpiframe.plugins.difx.formats.calc_file import Calc
from mpiframe.plugins.difx.formats.errors import FormatError
from mpiframe.plugins.difx.formats.input_file import Input, Product
from mpiframe.plugins.difx.formats.visibilities import Visibilities, input_path, telescopes_of
from mpiframe.plugins.difx.monitor import Monitor, Update
from mpiframe.plugins.difx.replacing import replacing
from mpiframe.plugins.difx.spectra import (
    Complexes,
    Floats,
    Lags,
    frequencies_mhz,
    lag_spectrum,
    mean_spectrum,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EVERY_SECONDS = 2.0

_COLOURS = {"RR": "#0b5fa5", "LL": "#c2410c", "RL": "#6b9bc3", "LR": "#e3a27e"}
_MORE_COLOURS = ["#0b5fa5", "#c2410c", "#2e7d32", "#6a3d9a"]
_SIZE_INCHES = (10.0, 9.5)
_DPI = 110
_CLEAR_SNR = 6.0  # the highest of a thousand lags of noise is at 3 or so


@dataclass(frozen=True)
class _Band:
    """The mean spectrum of one polarisation product in one band."""

    freq: int
    polarisations: str
    mhz: Floats
    mean: Complexes
    lags: Lags


def plot_job(
    job: str | os.PathLike[str],
    baseline: str | int | None = None,
    output: str | os.PathLike[str] | None = None,
    *,
    freqs: list[int] | None = None,
    polarisations: list[str] | None = None,
    source: int | None = None,
) -> str:
    """Write a picture of a baseline of a job, and return its path.

    job: its `.input` file, or what the names of its files begin with. baseline: as "FD-OV", or its
    number; default: the first one between two telescopes. output: default JOB.BASELINE.png beside the
    job; the ending says the format. freqs, polarisations, source: only these. The means are over all
    integrations, by weight. Raises FormatError, KeyError for a baseline that there is not, OSError.
    """
    visibilities = Visibilities.of_job(job)
    number = _choose(visibilities, baseline)
    if output is None:
        name = visibilities.baseline_name(number)
        output = f"{os.path.splitext(input_path(job))[0]}.{name}.png"
    figure = plot_baseline(
        visibilities, number, freqs=freqs, polarisations=polarisations, source=source, title=_title(job)
    )
    return _save(figure, output)


def follow_job(
    job: str | os.PathLike[str],
    baseline: str | None = None,
    output: str | os.PathLike[str] | None = None,
    *,
    freqs: list[int] | None = None,
    polarisations: list[str] | None = None,
    source: int | None = None,
    every_seconds: float = EVERY_SECONDS,
    recheck_seconds: float = RECHECK_SECONDS,
) -> Generator[str, None, None]:
    """Draw the picture anew as a job runs, and give its path each time; goes on until it is closed.

    Arguments and errors as for `plot_job`; the job may not have begun. Not more often than
    `every_seconds`. source: default the one that is observed at the time.
    """
    with Follower(job, recheck_seconds=recheck_seconds) as follower:
        number = _promised(follower.job, follower.products, baseline)
        name = "-".join(follower.job.telescopes[index].name for index in telescopes_of(number))
        if output is None:
            output = f"{os.path.splitext(input_path(job))[0]}.{name}.png"
        wanted = [
            index
            for index, one in enumerate(follower.products)
            if one.baseline == number
            and (freqs is None or one.freq in freqs)
            and (polarisations is None or one.polarisations in polarisations)
        ]
        if not wanted:
            raise FormatError(f"there are no such visibilities of baseline {name}")
        monitor = Monitor(follower.job, wanted)
        latest: dict[int, Update] = {}
        count, drawn = 0, -math.inf
        due = False
        while True:
            left = max(0.0, drawn + every_seconds - time.monotonic()) if due else None
            for batch in follower.read(left):
                for update in monitor.take(batch):
                    if source is None or update.source == source:
                        anew = latest and next(iter(latest.values())).source != update.source
                        if batch.restarted or anew:
                            latest, count = {}, 0
                        count += update.id == wanted[0]
                        latest[update.id] = update
                        due = True
            if due and time.monotonic() >= drawn + every_seconds:
                figure = _figure(
                    list(map(_band_of, latest.values())), f"{_title(job)}   {name}", _now(latest, count)
                )
                drawn, due = time.monotonic(), False
                yield _save(figure, output)


def _promised(job: Input, products: list[Product], baseline: str | None) -> int:
    """The number of a baseline of a job that may not have begun."""
    names = {
        "-".join(job.telescopes[index].name for index in one.telescopes).upper(): one.baseline
        for one in products
        if all(index < len(job.telescopes) for index in one.telescopes)
    }
    if not names:
        raise FormatError("the job has no baselines")
    if baseline is None:
        return next(iter(names.values()))  # those between two telescopes come first
    if baseline.upper() not in names:
        raise KeyError(f"there is no baseline {baseline!r}, only {', '.join(names)}")
    return names[baseline.upper()]


def _band_of(update: Update) -> _Band:
    product = update.product
    return _Band(product.freq, product.polarisations, update.mhz, update.mean, update.mean_lags)


def _now(latest: dict[int, Update], count: int) -> str:
    last = max(latest.values(), key=lambda one: (one.mjd, one.seconds))
    moment = dates.moment_of(last.mjd + last.seconds / 86400.0)
    return f"until {moment:%Y-%m-%d %H:%M:%S} UTC, {count} integrations, last weight {last.weight:.2f}"


def _save(figure: Figure, output: str | os.PathLike[str]) -> str:
    """Write the picture, so that at no time there is half of one."""
    path = os.fspath(output)
    form = os.path.splitext(path)[1].removeprefix(".") or "png"
    content = io.BytesIO()
    figure.savefig(content, format=form, dpi=_DPI)
    with replacing(path) as file:
        file.write(content.getvalue())
    return path


def plot_baseline(
    visibilities: Visibilities,
    baseline: str | int,
    *,
    freqs: list[int] | None = None,
    polarisations: list[str] | None = None,
    source: int | None = None,
    title: str = "",
) -> Figure:
    """The picture as a figure of matplotlib. Raises as `plot_job` does."""
    number = _choose(visibilities, baseline)
    bands = _bands(visibilities, number, freqs, polarisations, source)
    name = visibilities.baseline_name(number)
    if not bands:
        raise FormatError(f"there are no such visibilities of baseline {name}")
    return _figure(bands, f"{title}   {name}", _summary(visibilities, number))


def _figure(bands: list[_Band], title: str, summary: str) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise FormatError("plots need matplotlib: pip install 'mpiframe[difx]'") from None

    # The crossed hands first, so that they lie below.
    bands = sorted(bands, key=lambda one: (-len(set(one.polarisations)), one.polarisations, one.freq))
    figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
    figure.suptitle(f"{title.strip()}\n{summary}")
    amplitude, phase, lag = figure.subplots(3, 1, height_ratios=(3, 2.2, 3))
    phase.sharex(amplitude)
    colours = _colours(bands)
    labelled: set[str] = set()
    for band in bands:
        colour = colours[band.polarisations]
        label = band.polarisations if band.polarisations not in labelled else None
        labelled.add(band.polarisations)
        amplitude.plot(band.mhz, np.abs(band.mean), color=colour, lw=1.1, label=label)
        points = {"linestyle": "none", "marker": ".", "markersize": 3.5}
        phase.plot(band.mhz, np.degrees(np.angle(band.mean)), color=colour, **points)
    _label_spectra(amplitude, phase)
    _draw_lags(lag, bands, colours)
    return figure


def _choose(visibilities: Visibilities, baseline: str | int | None) -> int:
    if isinstance(baseline, str):
        return visibilities.find_baseline(baseline)
    there = visibilities.baselines()
    if baseline is None:
        cross = [one for one in there if len(set(telescopes_of(one))) == 2]
        if not there:
            raise FormatError("the job has no visibilities yet", " ".join(visibilities.paths))
        return (cross or there)[0]
    if baseline not in there:
        raise KeyError(f"there is no baseline {baseline}, only {', '.join(map(str, there))}")
    return baseline


def _bands(
    visibilities: Visibilities,
    baseline: int,
    freqs: list[int] | None,
    polarisations: list[str] | None,
    source: int | None,
) -> list[_Band]:
    if visibilities.job is None:
        raise FormatError("without the .input file the frequencies are not known")
    selection = visibilities.select(baseline, source=source)
    pairs = np.unique(selection.headers[["freq", "polarisations"]])
    found = []
    for freq, pair in sorted((int(freq), pair.decode()) for freq, pair in pairs.tolist()):
        if (freqs is None or freq in freqs) and (polarisations is None or pair in polarisations):
            chosen = visibilities.select(baseline, freq, pair, source=source)
            mean = mean_spectrum(chosen.data, chosen.weights)
            band = visibilities.job.freqs[freq]
            lags = lag_spectrum(mean, band.bandwidth_mhz)
            found.append(_Band(freq, pair, frequencies_mhz(band, len(mean)), mean, lags))
    return found


def _colours(bands: list[_Band]) -> dict[str, str]:
    names = list(dict.fromkeys(band.polarisations for band in bands))
    spare = iter(_MORE_COLOURS * len(names))
    return {name: _COLOURS.get(name) or next(spare) for name in names}


def _label_spectra(amplitude: Axes, phase: Axes) -> None:
    amplitude.set_ylabel("amplitude")
    amplitude.set_ylim(bottom=0)
    amplitude.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=8, frameon=False)
    amplitude.tick_params(labelbottom=False)
    phase.set_ylabel("phase (deg)")
    phase.set_ylim(-185, 185)
    phase.set_yticks([-180, -90, 0, 90, 180])
    phase.set_xlabel("sky frequency (MHz)")
    phase.ticklabel_format(axis="x", useOffset=False)
    for axes in (amplitude, phase):
        axes.grid(alpha=0.3)


def _draw_lags(axes: Axes, bands: list[_Band], colours: dict[str, str]) -> None:
    """One line for each product: the mean over its bands, of those that have the most common width."""
    shapes = [(len(band.lags.delays_us), float(band.lags.delays_us[0])) for band in bands]
    common = max(set(shapes), key=lambda shape: (shapes.count(shape), shape))
    for pair, colour in colours.items():
        chosen = [
            band
            for band, shape in zip(bands, shapes, strict=True)
            if band.polarisations == pair and shape == common
        ]
        if not chosen:
            continue
        best = max(chosen, key=lambda band: np.nan_to_num(band.lags.snr, nan=-1.0)).lags
        label = f"{pair}: no clear peak"
        if best.snr >= _CLEAR_SNR:
            label = f"{pair}: {round(best.delay_us, 4) + 0.0:.4f} us, SNR {best.snr:.1f}"
        mean = np.mean([band.lags.amplitudes for band in chosen], axis=0)
        axes.plot(chosen[0].lags.delays_us, mean, color=colour, lw=1.1, label=label)
    axes.set_xlabel("delay (us)")
    axes.set_ylabel("amplitude of the lags")
    axes.set_ylim(bottom=0)
    axes.margins(x=0.01)
    bands_of = "" if shapes.count(common) == len(colours) else ", the clearest band"
    axes.legend(loc="upper right", title=f"peak{bands_of}", title_fontsize="small", fontsize="small")
    axes.grid(alpha=0.3)


def _title(job: str | os.PathLike[str]) -> str:
    """The name of the job, with its code and sources where there is a `.calc` file."""
    stem = os.path.splitext(input_path(job))[0]
    name = os.path.basename(stem)
    try:
        calc = Calc.read(f"{stem}.calc")
    except (OSError, FormatError):
        return name  # the picture is worth having without
    names = [one.name for one in calc.sources]
    shown = ", ".join([*names[:3], *(["..."] if len(names) > 3 else [])])
    return f"{name}   {calc.obscode}   {shown}".rstrip()


def _summary(visibilities: Visibilities, baseline: int) -> str:
    chosen = visibilities.select(baseline)
    days = np.unique(chosen.mjd)
    begin, end = (dates.moment_of(float(day)) for day in (days[0], days[-1]))
    times = f"{begin:%Y-%m-%d %H:%M:%S} to {end:%H:%M:%S} UTC"
    return f"{times}, {len(days)} integrations, mean weight {chosen.weights.mean():.2f}"
