"""The original casampi against ours: one script, the same MPI, a client and two servers for each, in turn.

    python benchmarks/casampi.py [--quick]

The original is measured if it is installed here: pip install casampi casatools casatasks six, and Open MPI.
It takes about five minutes then, with --quick one and a half, nearly all of it the original's; without it a
few seconds. Each workload has a world of its own on either side, the original's first, so that a machine
whose speed drifts does the same to both. Every world ends in time or is ended.

Both keep results that were fetched, ours the last 64 MiB. So our first results of a size arrive in memory
that is new to the process, the later ones in memory that was let go of: the worst and the median tell the two
apart. On a virtual machine memory that is new to its host, too, can cost ten times as much again.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
MEASURES = ROOT / "tests" / "compat" / "casa" / "measures_data.py"

# What each side does in a world. The original sleeps half a second over each command, so it says in a few
# what ours says in thousands; a MiB takes it a second.
Workloads = dict[str, Any]
ORIGINAL: tuple[Workloads, ...] = (
    {"latency": 10},
    {"commands": [500, 1]},
    {"results": {"1": 3, "16": 1, "128": 1}},
)
OURS: tuple[Workloads, ...] = (
    {"latency": 5000},
    {"commands": [500, 15]},
    {"results": {"1": 100, "16": 30, "128": 10}},
)
# It takes the original some twenty seconds to start and to stop, so there are fewer worlds too.
ORIGINAL_QUICK: tuple[Workloads, ...] = (
    {"latency": 3, "commands": [50, 1]},
    {"results": {"1": 1, "16": 1}},
)
OURS_QUICK: tuple[Workloads, ...] = (
    {"latency": 1000, "commands": [500, 5]},
    {"results": {"1": 30, "16": 10, "128": 3}},
)

ORIGINAL_SECONDS = 240  # for one of its worlds, whatever it does there
OUR_SECONDS = 60
CHECK_SECONDS = 60  # for an import on a cold file system, or the measures data
END_SECONDS = 10  # for a launcher that was asked to end

# The launcher's own way to start a program on some ranks, here with nothing of ours in these.
PLAIN = "import sys; from mpiframe import launcher; sys.exit(launcher.run(launcher.plan(3, sys.argv[1:])))"

MISSING = """
import importlib.util
for name in ("casampi", "casatools", "casatasks", "six", "mpi4py"):
    if importlib.util.find_spec(name) is None:
        print(name)
"""


class Line(NamedTuple):
    """A line of the table, of the samples of one name."""

    sample: str
    title: str
    unit: str
    more_is_better: bool
    wanted: str


LINES = (
    Line("latency", "blocking `1+1`", "s", False, "1,000 x"),
    Line("commands", "500 commands for any of two servers", "commands/s", True, "1,000 x"),
    Line("result 1", "result of 1 MiB", "MiB/s", True, "300 x"),
    Line("result 16", "result of 16 MiB", "MiB/s", True, "300 x"),
    Line("result 128", "result of 128 MiB", "MiB/s", True, "300 x"),
    Line("start", "start_services", "s", False, ""),
    Line("stop", "stop_services", "s", False, "ours within 1 s"),
    Line("end", "from there until the launcher has ended", "s", False, ""),
)

Samples = dict[str, list[float]]


class NotRunError(Exception):
    """Something did not run; the text says why."""


@contextlib.contextmanager
def workshop() -> Iterator[Path]:
    """A folder for all that the worlds write, with the script in it; gone at the end."""
    with tempfile.TemporaryDirectory(prefix="mf-", ignore_cleanup_errors=True) as text:
        folder = Path(text).resolve()
        (folder / "tmp").mkdir()
        # Python looks for modules beside a script first. Here it would find this file by the name of casampi.
        shutil.copy(HERE / "casampi_workloads.py", folder)
        yield folder


def environment(folder: Path) -> dict[str, str]:
    """That of all processes here: mpiframe from the checkout, CASA's settings and data from the folder."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {
        "PYTHONPATH": path,
        "CASASITECONFIG": str(folder / "site.py"),
        "TMPDIR": str(folder / "tmp"),
    }


def run(folder: Path, arguments: list[str], seconds: float) -> str:
    """Run Python in the folder; what it printed.

    Raises NotRunError if it fails or does not end in time.
    """
    with open(folder / "output", "w+b") as output:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=folder,
            env=environment(folder),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        status: int | None = None
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                status = process.wait(seconds)
        finally:
            end(process)
        output.seek(0)
        said = output.read().decode(errors="replace")
    if status == 0:
        return said
    last = [line for line in said.splitlines() if line.strip()][-20:]
    print("\n".join(last), file=sys.stderr)
    if status is None:
        raise NotRunError(f"not ended after {seconds:g} s")
    why = next((line.strip() for line in reversed(last) if "Error" in line), "what it said is above")
    raise NotRunError(f"exit status {status}; {why}")


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process that still runs, after a time-out or Ctrl-C.

    It is asked first: a launcher has ranks below it, in sessions of their own, that only it can end.
    """
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def prepare(folder: Path) -> str | None:
    """Lay out what CASA needs; why the original cannot run here, None if it can."""
    try:
        missing = run(folder, ["-c", MISSING], CHECK_SECONDS).split()
        if "casatools" not in missing:  # where CASA is, our servers import it too
            make_data(folder)
        if missing:
            return f"not installed here: {', '.join(missing)}"
        run(folder, ["-c", "import casatasks, casampi.MPICommandClient"], CHECK_SECONDS)
        which = "from mpiframe import launcher; print(launcher.find_library().vendor)"
        vendor = run(folder, ["-c", which], CHECK_SECONDS).strip()
    except NotRunError as error:
        return str(error)
    return None if vendor == "Open MPI" else f"it knows only Open MPI, and mpi4py loads {vendor} here"


def make_data(folder: Path) -> None:
    """Make the measures data without which casatools cannot be imported, and the settings that name them."""
    spec = importlib.util.spec_from_file_location("measures_data", MEASURES)
    assert spec is not None
    assert spec.loader is not None
    measures_data = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(measures_data)
    data = folder / "data"
    (folder / "site.py").write_text(measures_data.site_config(data, folder / "casa.log"))
    run(folder, [str(MEASURES), str(data)], CHECK_SECONDS)


def measure(folder: Path, side: str, workloads: Workloads) -> Samples:
    """What the script measured in one world. Raises NotRunError."""
    found = folder / "found.json"
    script = ["casampi_workloads.py", str(found), json.dumps(workloads)]
    if side == "original":
        run(folder, ["-c", PLAIN, *script], ORIGINAL_SECONDS)
    else:
        run(folder, ["-m", "mpiframe", "run", "--casampi", "-n", "3", *script], OUR_SECONDS)
    ended = time.time()
    samples = json.loads(found.read_text(encoding="utf-8"))
    found.unlink()
    samples["end"] = [ended - samples.pop("stopping")]
    load = samples.pop("load")
    return {**samples, **{f"load of {name}": [load] for name in samples}}


def figure(line: Line, samples: Samples) -> str:
    """The median, with the number of samples and the worst of them."""
    taken = samples.get(line.sample)
    if not taken:
        return "-"
    more = ""
    if len(taken) > 1:
        more = f"; worst {amount((min if line.more_is_better else max)(taken), line.unit)}"
    return f"{amount(statistics.median(taken), line.unit)} ({len(taken)}{more})"


def amount(value: float, unit: str) -> str:
    """A number with its unit; parts of a second in a smaller one."""
    if unit == "s" and value < 1:
        value, unit = (value * 1e3, "ms") if value >= 1e-3 else (value * 1e6, "us")
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f} {unit}"


def ratio(line: Line, original: Samples, ours: Samples) -> str:
    """How many times better ours is, by the medians."""
    if not original.get(line.sample) or not ours.get(line.sample):
        return "-"
    a, b = statistics.median(original[line.sample]), statistics.median(ours[line.sample])
    times = b / a if line.more_is_better else a / b
    return f"{times:,.0f} x" if times >= 10 else f"{times:.1f} x"


def load(line: Line, samples: Samples) -> str:
    """The machine's load when the worlds of these samples began."""
    taken = samples.get(f"load of {line.sample}")
    return f"{statistics.median(taken):.1f}" if taken else "-"


def main() -> int:
    """Measure and print the table; 1 if ours did not run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, for the original no 128 MiB")
    quick = parser.parse_args().quick
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # the folder goes then, too
    samples: dict[str, Samples] = {"original": {}, "ours": {}}
    notes: list[str] = []
    with workshop() as folder:
        reason = prepare(folder)
        if reason is not None:
            notes.append(f"The original was not run: {reason}.")
        sides = ["ours"] if reason is not None else list(samples)
        for workloads in zip(*((ORIGINAL_QUICK, OURS_QUICK) if quick else (ORIGINAL, OURS)), strict=True):
            for side, what in zip(samples, workloads, strict=True):
                if side not in sides:
                    continue
                try:
                    for name, taken in measure(folder, side, what).items():
                        samples[side].setdefault(name, []).extend(taken)
                except NotRunError as error:
                    sides.remove(side)  # the others would hardly do better, and take as long to fail
                    notes.append(f"Failed, and not tried further: {side}, with {json.dumps(what)}; {error}.")
    original, ours = samples.values()
    if quick and original:
        notes.append("For --quick the original was given 50 commands in place of 500, and no 128 MiB.")
    print(f"\n{os.cpu_count()} cores; medians (samples; the worst); load as each side began\n")
    print("| workload | original | ours | ratio | wanted | load |\n|---|---|---|---|---|---|")
    for line in LINES:
        cells = [line.title, figure(line, original), figure(line, ours), ratio(line, original, ours)]
        print(f"| {' | '.join([*cells, line.wanted, f'{load(line, original)}, {load(line, ours)}'])} |")
    print("".join(f"\n{note}" for note in notes), flush=True)
    return int(not ours)


if __name__ == "__main__":
    sys.exit(main())
