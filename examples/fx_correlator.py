"""An FX correlator: averaged auto- and cross-spectra of VLBI baseband recordings.

    mpiframe run -n 3 examples/fx_correlator.py                        two real recordings
    mpiframe run -n 5 examples/fx_correlator.py --mib 256 --compare    a long synthetic one, timed
    mpiframe run -n 5 examples/fx_correlator.py scan.vdif --channels 1024

Each server reads its own shares of a recording from the file, Fourier-transforms their segments
(F) and multiplies all pairs of inputs (X); the client adds up the sums as they come in. Then it
computes the same alone, checks one against the other, and writes a picture (PNG), a table of
baselines (CSV) and the spectra (NPZ). The exit status is 1 if a check fails.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from fx import synthetic
from fx.fringes import Fringe, fit_fringes
from fx.recordings import Recording, inspect, sample_recordings
from fx.spectra import Spectra, correlate, deviation

import mpiframe

# Sums of the same numbers in another order differ by rounding: about 1e-16 times the square root
# of their count. This leaves room for 10^9 segments and is far below any error of interest.
RTOL = 1e-10
MIB = 2**20
GET_READY = "import fx.spectra, fx.synthetic; fx.recordings.sample_recordings()"
Map = Callable[..., Iterable[Any]]  # a client's map, or Python's own


def main(client: mpiframe.Client, options: argparse.Namespace) -> int:
    """Process all recordings; return the exit status."""
    options.out.mkdir(parents=True, exist_ok=True)
    servers = len(client.servers)
    start = time.perf_counter()
    # Imports and first use of astropy take their time once: here, and not in the times below.
    for response in client.push(GET_READY, target="all", block=True):
        response.result()
    print(f"{plural(servers)} ready after {time.perf_counter() - start:.1f} s")

    run: Map = partial(client.map, ordered=False)
    good = True
    try:
        recordings = find_recordings(options, run)
    except (OSError, ValueError) as error:
        print(f"fx_correlator.py: {error}", file=sys.stderr)
        return 2
    for recording in recordings:
        good &= process(recording, run, servers, options)
    print("all checks passed" if good else "A CHECK FAILED")
    return 0 if good else 1


def process(recording: Recording, run: Map, servers: int, options: argparse.Namespace) -> bool:
    """Correlate one recording, check the result, write it; return whether the checks passed."""
    print(describe(recording))
    frames = options.frames_per_command or share_size(recording, servers)
    bar = partial(run, progress=f"{recording.name}, {plural(servers)}")
    spectra, seconds = timed(bar, recording, options.channels, frames)
    print(f"  {plural(servers)}: {rate(recording, seconds)}")

    good, off = True, None
    if options.check:
        # Python's own map, over shares of another size: one process, the same segments.
        print("  the same in one process ...", flush=True)
        reference, alone = timed(map, recording, options.channels, 2 * frames + 1)
        if options.compare:
            speedup = f"{alone / seconds:.2f} x as long"
            print(f"  one process: {rate(recording, alone)}, {speedup}")
        off = deviation(spectra, reference)
        good = bool((off <= RTOL).all())
        print(
            f"  largest deviation from the single process: {off.max():.2g} of sqrt(auto x auto), "
            f"{RTOL:g} allowed: {'passed' if good else 'FAILED'}"
        )
    fringes = fit_fringes(spectra)
    if options.synthetic:
        good &= check_synthetic(spectra, fringes)
    write_results(options.out, spectra, fringes, off)
    return good


def timed(run: Map, recording: Recording, channels: int, frames: int) -> tuple[Spectra, float]:
    """Correlate; return the spectra and the seconds it took."""
    start = time.perf_counter()
    spectra = correlate(run, recording, channels, frames)
    return spectra, time.perf_counter() - start


def check_synthetic(spectra: Spectra, fringes: list[Fringe | None]) -> bool:
    """Does the slope of each phase give the delay that was put in, and is the tone in its place?"""
    worst, allowed_there, good = 0.0, 0.0, True
    for (i, j), fringe in zip(spectra.baselines, fringes, strict=True):
        if fringe is not None:
            true = synthetic.DELAYS_NS[j] - synthetic.DELAYS_NS[i]
            # Six standard errors; two-bit samples are not good for less than 1/100 sample.
            allowed = max(6 * fringe.error_ns, 10 / synthetic.SAMPLE_RATE_MHZ)
            error = abs(fringe.delay_ns - true)
            good &= fringe.detected and error <= allowed
            if error >= worst:
                worst, allowed_there = error, allowed
    width = spectra.frequency_mhz[1]
    peak = spectra.frequency_mhz[np.argmax(spectra.density[0].real)]
    good &= bool(abs(peak - synthetic.TONE_MHZ) <= width)
    print(
        f"  delays recovered to {worst:.3f} ns, {allowed_there:.3f} ns allowed; tone found at "
        f"{peak:.3f} of {synthetic.TONE_MHZ} MHz: {'passed' if good else 'FAILED'}"
    )
    return good


def write_results(out: Path, spectra: Spectra, fringes: list[Fringe | None], off: np.ndarray | None) -> None:
    """Write picture, table and spectra; print the summary and the names of the files."""
    from fx import report  # brings matplotlib, which the servers do without

    name = spectra.recording.name
    report.plot(out / f"{name}.png", spectra, fringes)
    report.write_table(out / f"{name}_baselines.csv", spectra, fringes, off)
    report.write_spectra(out / f"{name}_spectra.npz", spectra)
    print(report.summary(spectra, fringes))
    print(f"  wrote {out / name}.png, {name}_baselines.csv, {name}_spectra.npz\n")


def find_recordings(options: argparse.Namespace, run: Map) -> list[Recording]:
    """The files that were named, the synthetic one, or the real samples."""
    if options.synthetic:
        return [inspect(synthetic_file(options.out, options.synthetic, run))]
    if options.files:
        about = (options.sample_rate, options.nchan, options.bits, options.date)
        return [inspect(path, *about) for path in options.files]
    return sample_recordings()


def synthetic_file(out: Path, frames: int, run: Map) -> Path:
    """Have the servers write the synthetic recording, unless an earlier run left it."""
    path: Path = out / f"synthetic_{frames}.vdif"
    size = frames * synthetic.FRAME_BYTES
    if path.exists() and path.stat().st_size == size:
        print(f"using {path} of an earlier run")
        return path
    start = time.perf_counter()
    synthetic.write(partial(run, progress="writing"), path, frames)
    seconds = time.perf_counter() - start
    print(f"wrote {path}: {size / MIB:.1f} MiB in {seconds:.1f} s")
    return path


def share_size(recording: Recording, servers: int) -> int:
    """Frame sets a command: eight commands a server balance the load; 4 MiB bound the wait."""
    most = 4 * MIB * recording.frames // recording.file_bytes
    return max(1, min(recording.frames // (8 * servers), most))


def describe(recording: Recording) -> str:
    kind = "complex" if recording.complex_data else "real"
    return (
        f"{recording.path}\n"
        f"  {recording.format}, station {recording.station}, {recording.start_utc} to "
        f"{recording.stop_utc} UTC\n"
        f"  {len(recording.inputs)} inputs, {recording.bits} bit {kind}, "
        f"{recording.sample_rate_mhz:g} Msample/s, {recording.frames:,} frame sets of "
        f"{recording.samples_per_frame:,} samples"
    )


def plural(servers: int) -> str:
    return f"{servers} server{'s' if servers != 1 else ''}"


def rate(recording: Recording, seconds: float) -> str:
    size = recording.file_bytes / MIB
    return f"{recording.frames:,} frame sets, {size:.2f} MiB in {seconds:.3f} s ({size / seconds:.1f} MiB/s)"


def parse(arguments: list[str]) -> argparse.Namespace:
    def positive(text: str) -> int:
        if (number := int(text)) < 1:
            raise argparse.ArgumentTypeError("must be at least 1")
        return number

    parser = argparse.ArgumentParser(
        prog="fx_correlator.py", description="Correlate VLBI baseband recordings."
    )
    add = parser.add_argument
    add("files", nargs="*", type=Path, help="VDIF, Mark 5B or Mark 4; default: two real samples")
    add("--channels", type=positive, default=128, help="spectral channels (default 128)")
    add("--out", type=Path, default=Path("fx_result"), help="folder of results")
    add("--frames-per-command", type=positive, metavar="N", help="frame sets to one command")
    add("--no-check", dest="check", action="store_false", help="do not compute it again alone")
    add("--compare", action="store_true", help="print the time of a single process beside")
    made = parser.add_argument_group("a synthetic recording of known delays")
    made.add_argument("--synthetic", type=float, metavar="SECONDS", help="of so long")
    made.add_argument("--mib", type=float, metavar="N", help="of this size")
    facts = parser.add_argument_group("what the headers of the files do not hold")
    facts.add_argument("--sample-rate", type=float, metavar="MHZ", help="short files, Mark 5B")
    facts.add_argument("--nchan", type=positive, help="channels, Mark 5B")
    facts.add_argument("--bits", type=positive, help="a sample, Mark 5B (default 2)")
    facts.add_argument("--date", metavar="YYYY-MM-DD", help="near the observation, Mark 5B, Mark 4")
    options = parser.parse_args(arguments)

    if bool(options.files) + (options.synthetic is not None) + (options.mib is not None) > 1:
        parser.error("choose one of files, --synthetic and --mib")
    if options.compare and not options.check:
        parser.error("--compare needs the check")
    if options.channels < 32:
        parser.error("--channels must be at least 32")
    frames = (options.synthetic or 0) * synthetic.FRAMES_PER_SECOND
    frames += (options.mib or 0) * MIB / synthetic.FRAME_BYTES
    if (options.synthetic is not None or options.mib is not None) and frames < 1:
        parser.error("a synthetic recording of less than one frame")
    options.synthetic = round(frames)  # in frame sets; 0: none
    return options


if __name__ == "__main__":
    with mpiframe.Client() as client:
        sys.exit(main(client, parse(sys.argv[1:])))
