"""`mpiframe doctor`: what works on this machine, and what to do about what does not.

It looks first (Python, MPI, launcher, cores), which starts nothing, then starts a world of two
ranks and measures in it. Each look adds lines to one report, and advice where something is not as
it should be.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shlex
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mpiframe import launcher, machine
from mpiframe.errors import WorldError
from mpiframe.worlds import folders

_WORLD_SECONDS = 60.0  # for two ranks to start and measure; a second or two where all is well
_SLOW_SECONDS = 1e-3  # a doorbell needs a tenth of this after a pause
_TAIL_LINES = 15  # of what the ranks printed, when they failed


@dataclass(slots=True)
class Report:
    """What was found, in the order in which it is printed, and what to do about it."""

    lines: list[tuple[str, str]] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)
    ok: bool = True

    def add(self, topic: str, text: str) -> None:
        self.lines.append((topic, text))

    def fail(self, topic: str, text: str, *, advice: str) -> None:
        self.add(topic, text)
        self.advice.append(advice)
        self.ok = False

    def __str__(self) -> str:
        rows = [f"{topic:<12} {text}" for topic, text in self.lines]
        if self.advice:
            rows += ["", "What to do", *[f"- {text}" for text in self.advice]]
        else:
            rows += ["", "All is well."]
        return "\n".join(rows)


def main(mpiexec: str | None = None) -> int:
    """Print the report; 0 if a world of two ranks can be started, else 1."""
    report = examine(mpiexec)
    print(report)
    return 0 if report.ok else 1


def examine(mpiexec: str | None = None) -> Report:
    """Look at everything, and start a world of two ranks where there is an MPI to do it with."""
    report = Report()
    _look_at_python(report)
    _look_at_cores(report)
    _look_at_folders(report)
    with tempfile.TemporaryDirectory(prefix="mpiframe-doctor-") as directory:
        answer = Path(directory) / "answer"
        plan = _look_at_mpi(report, answer, mpiexec)
        if plan is not None:
            _look_at_world(report, plan, answer, Path(directory) / "output")
            if report.ok:
                _look_at_resilience(report, plan.library, Path(directory), mpiexec)
    return report


def _look_at_python(report: Report) -> None:
    report.add("Python", f"{platform.python_version()}, {sys.executable}")
    for package in ("mpiframe", "mpi4py"):
        try:
            report.add(package, importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            report.add(package, "not installed as a package")


def _look_at_cores(report: Report) -> None:
    usable, allowed = machine.usable_cores(), len(machine.affinity())
    present = os.cpu_count() or allowed
    limits = []
    if allowed < present:
        limits.append(f"the affinity mask leaves {allowed}")
    if usable < allowed:
        limits.append(f"the container's CPU quota leaves {usable}")
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    why = f" ({'; '.join(limits)})" if limits else ""
    report.add("cores", f"{usable} usable of {present}{why}; load {load}")
    if usable < 2:
        report.advice.append(
            "There is one core for all ranks: they take turns, and more servers bring nothing. "
            "Ask the batch system for more cores (Slurm: --ntasks=N, without --cpu-bind to one)."
        )


def _look_at_folders(report: Report) -> None:
    """Of use to worlds with a name only, so it is no failure; and nothing is said where all is well."""
    try:
        folder = folders.base()
        with folders.guard(folder):
            pass
    except (WorldError, OSError) as error:
        report.add("worlds", "none can be started in the background, nor found by a name")
        report.advice.append(f"`mpiframe start` and `attach` cannot be used: {error}.")


def _look_at_mpi(report: Report, answer: Path, mpiexec: str | None) -> launcher.LaunchPlan | None:
    arguments = ["-m", "mpiframe", "-m", "mpiframe._roundtrip", str(answer)]
    try:
        library = launcher.find_library()
        report.add("MPI", f"{library.vendor} {library.version}, {_origin(library)}")
        plan = launcher.plan(2, arguments, mpiexec=mpiexec)
    except WorldError as error:
        first, _, rest = str(error).partition("\n")
        report.fail("world", f"cannot be started: {first}", advice=rest or first)
        return None
    report.add("launcher", plan.mpiexec)
    added = [f"{name}={shlex.quote(value)}" for name, value in plan.env_added.items()]
    report.add("settings", "none needed" if not added else "added by `mpiframe run`:")
    for setting in added:
        report.add("", f"  {setting}")
    return plan


def _origin(library: launcher.MpiLibrary) -> str:
    where = library.prefixes[0] if library.prefixes else "unknown place"
    return f"a wheel in {where}" if library.wheel else f"the site's own in {where}"


def _look_at_world(report: Report, plan: launcher.LaunchPlan, answer: Path, output_path: Path) -> None:
    start = time.monotonic()
    with output_path.open("wb") as output:
        status = launcher.run(plan, timeout=_WORLD_SECONDS, output=output)
    seconds = time.monotonic() - start
    try:
        found = json.loads(answer.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if status != 0 or found is None:
        _world_failed(report, plan, status, output_path)
        return
    report.add("world", f"2 ranks started, measured and ended in {seconds:.1f} s")
    _look_at_facts(report, found)


def _world_failed(report: Report, plan: launcher.LaunchPlan, status: int, output: Path) -> None:
    late = status == launcher.TIMED_OUT
    what = f"did not end within {_WORLD_SECONDS:g} s" if late else f"ended with status {status}"
    said = output.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:]
    report.fail(
        "world",
        f"two ranks {what}" + "".join(f"\n    {line}" for line in said),
        advice="Run the command by hand to see more, then send it with its output to whoever runs "
        f"the machine:\n  {plan}",
    )


def _look_at_resilience(
    report: Report, library: launcher.MpiLibrary, directory: Path, mpiexec: str | None
) -> None:
    """Whether a world outlives a dead server here: one is started, and its server killed and replaced."""
    how, _ = launcher.resilience(library)
    if not how:
        report.add(
            "resilient", f"not with {library}: a server that dies ends the run, and none can be replaced"
        )
        return
    answer, output_path = directory / "survival", directory / "survival-output"
    words = ["-m", "mpiframe", "-m", "mpiframe._survival", str(answer)]
    try:
        plan = launcher.plan(2, words, mpiexec=mpiexec, resilient=True)
        with output_path.open("wb") as output:
            status = launcher.run(plan, timeout=_WORLD_SECONDS, output=output)
        found = json.loads(answer.read_text(encoding="utf-8"))
    except (WorldError, OSError, ValueError) as error:
        status, found = 1, {"worked": False, "why": error}
    if status == 0 and found.get("worked"):
        times = f"noticed after {found['noticed'] * 1e3:.0f} ms, replaced in {found['replaced']:.1f} s"
        where = "" if how == "joined" else "; on other hosts than the client's none is replaced"
        report.add("resilient", f"with `mpiframe run --resilient` a dead server is {times}{where}")
        return
    said = output_path.read_text(encoding="utf-8", errors="replace") if output_path.exists() else ""
    lines = [str(found.get("why", f"status {status}")), *said.splitlines()[-_TAIL_LINES:]]
    report.add(
        "resilient", "a server was killed, and not replaced as it should be" + "\n    ".join(["", *lines])
    )
    report.advice.append(
        "Do not use `mpiframe run --resilient` here: a world that outlives its servers failed."
    )


def _look_at_facts(report: Report, found: dict[str, Any]) -> None:
    report.add("threads", found["thread_level"])
    kinds = sorted(set(found["doorbell"].values()))
    if "polling" in kinds:
        report.add("wake-up", "polling: no socket could be opened between the ranks")
        report.advice.append(
            "Ranks poll MPI, which costs latency after a pause and some CPU while idle. Let "
            "processes on these hosts connect to each other (a firewall?), and see that "
            "MPIFRAME_DOORBELL is not off."
        )
    else:
        report.add("wake-up", f"doorbell ({', '.join(kinds)} socket)")
    spin = "looks for a short time before it sleeps" if found["spin"] else "sleeps at once"
    enough = "a core for each" if found["cores"] >= found["ranks"] else "fewer cores than ranks"
    report.add("waiting", f"a rank {spin}: {found['ranks']} ranks, {found['cores']} cores, {enough}")
    hot, paused = found["hot"], found["paused"]
    report.add(
        "round trip",
        f"{hot * 1e6:.1f} us back to back, {paused * 1e6:.1f} us after a pause of 5 ms",
    )
    if paused > _SLOW_SECONDS:
        report.advice.append(
            f"A command takes {paused * 1e3:.1f} ms after a pause, where 0.1 ms is usual: the "
            "cores are busy with something else (see the load), or the ranks poll."
        )
