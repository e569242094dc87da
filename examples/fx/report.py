"""What a correlation leaves behind: a picture, a table of baselines, the spectra themselves."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fx.fringes import Fringe
from fx.spectra import Spectra

CROSSES_SHOWN = 4
AUTOS_SHOWN = 8
COLUMNS = (
    "baseline", "segments", "power_levels2", "correlation", "snr", "delay_ns", "delay_error_ns",
    "phase_deg", "deviation_from_single_process",
)  # fmt: skip


def write_table(path: Path, spectra: Spectra, fringes: list[Fringe | None], off: Any) -> None:
    """Write one row a baseline as CSV; `off` is the deviation of each, or None if not checked.

    power_levels2 (autos): squared decoder levels over the whole band. Crosses: the fringe fit of
    `fx.fringes`; delay and phase only where a fringe is detected.
    """
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for row, fringe in enumerate(fringes):
            power, fitted = _numbers(spectra, row, fringe)
            checked = "" if off is None else f"{off[row]:.3g}"
            writer.writerow([spectra.label(row), spectra.weights[row], power, *fitted, checked])


def write_spectra(path: Path, spectra: Spectra) -> None:
    """Write the averaged spectra in full as NPZ; numpy.load gives the arrays by name."""
    recording = spectra.recording
    np.savez(
        path,
        frequency_mhz=spectra.frequency_mhz,
        baselines=np.array([spectra.label(row) for row in range(len(spectra.weights))]),
        density_levels2_per_mhz=spectra.density,
        segments=spectra.weights,
        start_utc=np.array(recording.start_utc),
        stop_utc=np.array(recording.stop_utc),
        station=np.array(recording.station),
    )


def summary(spectra: Spectra, fringes: list[Fringe | None], crosses: int = 6) -> str:
    """The table for a terminal: all autos, and the crosses with the strongest fringes."""
    lines = ["  auto  segments  power [levels^2]"]
    for row, fringe in enumerate(fringes):
        if fringe is None:
            power, _ = _numbers(spectra, row, fringe)
            label = spectra.recording.inputs[spectra.baselines[row][0]]
            lines.append(f"  {label:<5} {spectra.weights[row]:8d}  {power:>16}")
    rows = _strongest(fringes, crosses)
    if rows:
        lines.append("  cross      segments  correlation     S/N       delay [ns]   phase [deg]")
    for row in rows:
        fringe = fringes[row]
        assert fringe is not None
        delay, phase = "no fringe", ""
        if fringe.detected:
            delay = f"{fringe.delay_ns:.2f} +- {fringe.error_ns:.2f}"
            phase = f"{fringe.phase_deg:.1f}"
        lines.append(
            f"  {spectra.label(row):<10} {spectra.weights[row]:8d} {fringe.amplitude:12.4f} "
            f"{fringe.snr:7.1f} {delay:>16} {phase:>13}"
        )
    left = sum(fringe is not None for fringe in fringes) - len(rows)
    if left:
        lines.append(f"  and {left} cross-spectra with weaker fringes: see the table in the file")
    return "\n".join(lines)


def plot(path: Path, spectra: Spectra, fringes: list[Fringe | None]) -> None:
    """Draw auto-spectra, the strongest cross-spectra and all correlations into one PNG."""
    autos = [row for row, fringe in enumerate(fringes) if fringe is None][:AUTOS_SHOWN]
    crosses = _strongest(fringes, CROSSES_SHOWN)
    columns = 4
    auto_rows = -(-len(autos) // columns)
    figure = Figure(figsize=(13, 2.0 + 2.1 * auto_rows + (4.9 if crosses else 0)), dpi=110)
    figure.suptitle(_title(spectra), fontsize=11, x=0.01, ha="left")
    figure.set_layout_engine("constrained", h_pad=0.06, w_pad=0.06)
    parts = figure.subfigures(
        2 if crosses else 1, 1, height_ratios=[2.1 * auto_rows + 0.5] + [4.9] * bool(crosses),
        squeeze=False,
    )[:, 0]  # fmt: skip
    _plot_autos(parts[0], spectra, autos, columns)
    if crosses:
        left, right = parts[1].subfigures(1, 2, width_ratios=[3.1, 1])
        _plot_crosses(left, spectra, fringes, crosses)
        _plot_matrix(right, spectra, fringes)
    figure.savefig(path)


def _plot_autos(part: Any, spectra: Spectra, autos: list[int], columns: int) -> None:
    rows = -(-len(autos) // columns)
    axes = part.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axis, row in zip(axes, autos, strict=False):
        axis.plot(spectra.frequency_mhz, spectra.density[row].real, lw=0.9, color="tab:blue")
        axis.set_title(spectra.recording.inputs[spectra.baselines[row][0]], fontsize=9, pad=3)
        _grid(axis, spectra)
    axes[0].set_ylim(bottom=0)  # shared; set once all is drawn, as it ends the automatic scaling
    for axis in axes[len(autos) :]:
        axis.set_visible(False)
    total = len(spectra.recording.inputs)
    some = "" if len(autos) == total else f" (the first {len(autos)} of {total} inputs)"
    levels = ", 2 bit: ±1 and ±3.3165" if spectra.recording.bits == 2 else ""
    title = f"Auto-spectra{some}, in units of decoded sample values (levels{levels})"
    part.suptitle(title, fontsize=10, fontweight="bold")
    part.supxlabel("baseband frequency [MHz]", fontsize=9)
    part.supylabel("power [levels²/MHz]", fontsize=9)


def _plot_crosses(part: Any, spectra: Spectra, fringes: list[Fringe | None], crosses: list[int]) -> None:
    """Amplitude above phase, a column a baseline; the fitted fringe is drawn over the phase."""
    coherence, frequency = spectra.coherence(), spectra.frequency_mhz
    axes = part.subplots(2, len(crosses), sharex=True, sharey="row", squeeze=False)
    for (upper, lower), row in zip(axes.T, crosses, strict=True):
        fringe = fringes[row]
        assert fringe is not None
        upper.plot(frequency, np.abs(coherence[row]), lw=0.9, color="tab:green")
        noise = 1 / np.sqrt(max(spectra.weights[row], 1))
        upper.axhline(noise, ls="--", lw=0.8, color="0.4")
        upper.set_title(f"{spectra.label(row)}   S/N {fringe.snr:.1f}", fontsize=9, pad=3)
        phase = np.degrees(np.angle(coherence[row]))
        lower.plot(frequency, phase, ".", ms=2.5, color="tab:green")
        text = "no fringe"
        if fringe.detected:
            text = f"delay {fringe.delay_ns:.2f} ± {fringe.error_ns:.2f} ns"
            model = _wrapped(fringe.phase_at(frequency))
            lower.plot(frequency, model, lw=1, color="tab:red", alpha=0.8)
        lower.set_title(text, fontsize=8, pad=3)
        lower.set_ylim(-180, 180)
        lower.set_yticks([-180, -90, 0, 90, 180])
        for axis in (upper, lower):
            _grid(axis, spectra)
    axes[0, 0].set_ylim(bottom=0)
    axes[0, 0].set_ylabel("|correlation coefficient|\n(dashed: noise)", fontsize=9)
    axes[1, 0].set_ylabel("phase [deg]\n(red: fitted delay)", fontsize=9)
    part.suptitle("Cross-spectra, strongest fringes first", fontsize=10, fontweight="bold")
    part.supxlabel("baseband frequency [MHz]", fontsize=9)


def _plot_matrix(part: Any, spectra: Spectra, fringes: list[Fringe | None]) -> None:
    names = spectra.recording.inputs
    matrix = np.full((len(names), len(names)), np.nan)
    for (i, j), fringe in zip(spectra.baselines, fringes, strict=True):
        if fringe is not None:
            matrix[i, j] = matrix[j, i] = fringe.snr
    axis = part.subplots()
    image = axis.imshow(matrix, cmap="viridis", vmin=0, aspect="auto")
    axis.set_xticks(range(len(names)), names, fontsize=8, rotation=90 if len(names) > 8 else 0)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    bar = part.colorbar(image, ax=axis, orientation="horizontal", shrink=0.9)
    bar.set_label("S/N of the fringe", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    part.suptitle("All baselines", fontsize=10, fontweight="bold")


def _grid(axis: Axes, spectra: Spectra) -> None:
    low, high = spectra.frequency_mhz[[0, -1]]
    axis.set_xlim(low, high + (spectra.frequency_mhz[1] - low))
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.3, lw=0.5)


def _wrapped(degrees: np.ndarray) -> np.ndarray:
    """Phases in -180 to 180, with a gap (NaN) instead of a line where they wrap."""
    phase = (degrees + 180) % 360 - 180
    phase[1:][np.abs(np.diff(phase)) > 180] = np.nan
    return phase


def _title(spectra: Spectra) -> str:
    recording = spectra.recording
    segments, length = int(spectra.weights.max()), spectra.segment_seconds
    resolution = 1e-3 / length
    return (
        f"{Path(recording.path).name} ({recording.format}, {recording.bits} bit, "
        f"{recording.sample_rate_mhz:g} Msample/s)   station: {recording.station}   "
        f"{recording.start_utc} to {recording.stop_utc.partition('T')[2]} UTC\n"
        f"{segments:,} segments of {length * 1e6:g} µs   "
        f"integration {segments * length * 1e3:,.4g} ms   "
        f"{len(spectra.frequency_mhz)} channels of {resolution:g} kHz"
    )


def _strongest(fringes: list[Fringe | None], count: int) -> list[int]:
    """Rows of the crosses with the highest signal-to-noise ratio."""
    found = [(fringe.snr, -row) for row, fringe in enumerate(fringes) if fringe is not None]
    return [-row for _, row in sorted(found, reverse=True)[:count]]


def _numbers(spectra: Spectra, row: int, fringe: Fringe | None) -> tuple[str, list[str]]:
    """The columns power, and correlation to phase, of one row; empty where they mean nothing."""
    if fringe is None:
        width = spectra.frequency_mhz[1] - spectra.frequency_mhz[0]
        return f"{spectra.density[row].real.sum() * width:.6g}", [""] * 5
    fitted = [f"{fringe.amplitude:.6g}", f"{fringe.snr:.2f}"]
    if not fringe.detected:
        return "", [*fitted, "", "", ""]
    return "", [
        *fitted, f"{fringe.delay_ns:.4f}", f"{fringe.error_ns:.4f}", f"{fringe.phase_deg:.2f}"
    ]  # fmt: skip
