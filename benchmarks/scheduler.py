"""Batch jobs, side by side on one real Slurm and in local queues: seconds a job, and ratios.

    python benchmarks/scheduler.py [--quick] [--part local|submit|array|watch ...]

The Slurm is that of the tests (slurmctld, two imitated nodes, loopback), started for this and ended after;
that takes root and Debian's packages. What is compared with: `sbatch` in a shell loop, PSI/J, submitit, and
for local jobs PSI/J's local executor and fyrd's local mode. The contestants take turns, in rounds; what is
printed are medians over the rounds, and of the ratios within each round. Nothing here passes or fails.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mpiframe.plugins.scheduler import Job, LocalBackend, Queue  # noqa: E402
from tests.plugins.scheduler.slurm_cluster import PrivateSlurm  # noqa: E402

TRIVIAL = "#!/bin/bash\ntrue\n"
PARTS = ("local", "submit", "array", "watch")
Round = dict[str, float]


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def report(title: str, rounds: list[Round], base: str, unit: float, name: str) -> None:
    """One table: the median of each contestant, and of its ratio to `base` in the same round."""
    print(f"\n### {title}\n\n| | {name} | over {base} |\n|---|---|---|")
    for who in rounds[0]:
        median = statistics.median(one[who] for one in rounds)
        ratios = sorted(one[who] / one[base] for one in rounds)
        spread = f" ({ratios[0]:.2f} to {ratios[-1]:.2f})" if len(ratios) > 1 else ""
        print(f"| {who} | {median * unit:.3g} | {statistics.median(ratios):.2f} x{spread} |")
    print(f"\n{len(rounds)} rounds; load {load()}", flush=True)


def load() -> str:
    return ", ".join(f"{one:.2f}" for one in os.getloadavg())


# -- Slurm ----------------------------------------------------------------------------------------


def shell(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


@contextlib.contextmanager
def no_job_starts() -> Iterator[None]:
    """Jobs are taken and not started, so that what is timed is the submission. None is left after it."""
    shell("scontrol", "update", "partitionname=debug", "state=DOWN")
    try:
        yield
    finally:
        shell("scancel", "--me")
        shell("scontrol", "update", "partitionname=debug", "state=UP")
        until_empty()


def until_empty() -> None:
    while shell("squeue", "-h", "--me").strip():
        time.sleep(0.2)


def sbatch_loop(count: int) -> None:
    Path("trivial.sh").write_text(TRIVIAL)
    loop = f"for ((i = 0; i < {count}; i++)); do sbatch --parsable -o /dev/null trivial.sh; done"
    shell("bash", "-c", loop)


def ours_each(count: int) -> list[Job]:
    queue = Queue("slurm")
    return [Job("true", queue=queue).submit() for _ in range(count)]


def psij_each(count: int, kind: str = "slurm") -> list[object]:
    import psij

    executor = psij.JobExecutor.get_instance(kind)
    jobs = []
    for _ in range(count):
        job = psij.Job(psij.JobSpec(executable="/bin/true"))
        executor.submit(job)
        jobs.append(job)
    return jobs


def submitit_executor() -> object:
    import submitit

    executor = submitit.AutoExecutor(folder="submitit", cluster="slurm")
    executor.update_parameters(slurm_array_parallelism=256)
    return executor


def nothing(*_: object) -> None:
    """What submitit's jobs do: it submits functions only."""


def submitit_each(count: int) -> list[object]:
    executor = submitit_executor()
    return [executor.submit(nothing) for _ in range(count)]  # type: ignore[attr-defined]


def submission(rounds: int, count: int) -> None:
    """Seconds to submit so many jobs, one by one."""
    found: list[Round] = []
    contestants = {"sbatch loop": sbatch_loop, "mpiframe": ours_each, "PSI/J": psij_each}
    for number in range(rounds):
        one: Round = {}
        for name in rotated(contestants, number):
            with no_job_starts():
                one[name] = seconds(lambda name=name: contestants[name](count)) / count  # type: ignore[misc]
        with no_job_starts():  # it pauses 0.2 s after each, so a few will do
            one["submitit"] = seconds(lambda: submitit_each(3)) / 3
        found.append({name: one[name] for name in (*contestants, "submitit")})
    report(f"Jobs submitted one by one, {count} a round", found, "sbatch loop", 1e3, "ms a job")


def rotated(names: dict[str, object], by: int) -> list[str]:
    """Each is first, once in a while."""
    order = list(names)
    return order[by % len(order) :] + order[: by % len(order)]


def arrays(rounds: int, count: int) -> None:
    """Seconds to submit an array, of a command and of a function."""

    def sbatch_array() -> None:
        Path("trivial.sh").write_text(TRIVIAL)
        shell("sbatch", "--parsable", "-o", "/dev/null", f"--array=0-{count - 1}", "trivial.sh")

    queue = Queue("slurm")
    contestants = {
        "sbatch --array": sbatch_array,
        "mpiframe, a command": lambda: Job("true", queue=queue, array=count).submit(),
        "mpiframe, a function": lambda: Job(nothing, queue=queue, each=range(count)).submit(),
        "submitit map_array": lambda: submitit_executor().map_array(nothing, range(count)),  # type: ignore[attr-defined]
    }
    found: list[Round] = []
    for number in range(rounds):
        one: Round = {}
        for name in rotated(contestants, number):
            with no_job_starts():
                one[name] = seconds(contestants[name])
        found.append({name: one[name] for name in contestants})
    report(f"an array of {count}", found, "sbatch --array", 1e3, "ms")


def watching(count: int, intervals: int) -> None:
    """How often squeue is called while so many jobs are waited for, and what that costs."""
    shim = Path("bin")
    shim.mkdir()
    real = shell("bash", "-c", "command -v squeue").strip()
    (shim / "squeue").write_text(f'#!/bin/bash\necho x >>{shim.resolve()}/calls\nexec {real} "$@"\n')
    (shim / "squeue").chmod(0o755)
    queue = Queue("slurm", poll_seconds=1.0, longest_poll_seconds=1.0)
    with no_job_starts():
        jobs = [Job("true", queue=queue, extra=["--hold"]).submit() for _ in range(count)]
        before = os.environ["PATH"]
        os.environ["PATH"] = f"{shim.resolve()}:{before}"
        cpu = time.process_time()
        queue.wait(jobs, intervals)
        used = time.process_time() - cpu
        os.environ["PATH"] = before
        calls = len((shim / "calls").read_text().split())
        per_query = statistics.median(
            seconds(lambda: queue.backend.status([job.id for job in jobs])) for _ in range(5)
        )
    print(f"\n### {count} jobs watched for {intervals} intervals of 1 s\n")
    print(f"squeue was called {calls} times; a query with its reading takes {per_query * 1e3:.0f} ms;")
    print(f"the client's CPU: {used / intervals:.1%} of a core. Load {load()}", flush=True)


# -- this machine ---------------------------------------------------------------------------------


def ours_local(count: int) -> None:
    with tempfile.TemporaryDirectory(dir=".") as folder:
        backend = LocalBackend(os.path.abspath(folder), linger_seconds=1.0)
        queue = Queue("local", backend=backend)
        jobs = [Job("true", queue=queue, filedir=folder).submit() for _ in range(count)]
        queue.wait(jobs)
        assert all([job.exit_code == 0 for job in jobs])
        backend.stop()


def psij_local(count: int) -> None:
    for job in psij_each(count, "local"):
        status = job.wait()  # type: ignore[attr-defined]
        assert status.exit_code == 0


FYRD = """
import os, sys, fyrd
here = os.getcwd()
jobs = []
for number in range(int(sys.argv[1])):
    places = {"scriptpath": here, "outpath": here, "runpath": here}
    jobs.append(fyrd.Job("true", qtype="local", name=f"j{number}", **places))
    jobs[-1].submit()
fyrd.Queue(qtype="local").wait(jobs)
assert [job.exitcode for job in jobs] == [0] * len(jobs)
"""


def fyrd_local(count: int) -> None:
    with tempfile.TemporaryDirectory() as home:
        argv = [sys.executable, "-W", "ignore", "-c", FYRD, str(count)]
        env = os.environ | {"HOME": home}
        # Its daemon outlives it, with whatever it was given to write to.
        process = subprocess.Popen(
            argv,
            cwd=home,
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            assert process.wait(120) == 0, "fyrd failed"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            for path in Path(home).rglob("local_queue.pid"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(path.read_text().split()[0]), 9)


def local(rounds: int, count: int) -> None:
    """Seconds a job, from the first submission until the last end is known."""
    few = 10
    contestants: dict[str, Callable[[], None]] = {
        "mpiframe": lambda: ours_local(count),
        "PSI/J local": lambda: psij_local(count),
    }
    found: list[Round] = []
    for number in range(rounds):
        one = {name: seconds(contestants[name]) / count for name in rotated(contestants, number)}
        if fyrd_is_here():
            one["fyrd local"] = seconds(lambda: fyrd_local(few)) / few
        found.append({name: one[name] for name in (*contestants, "fyrd local") if name in one})
    report(f"{count} `true` jobs in the local queue", found, "mpiframe", 1e3, "ms a job")
    print(f"fyrd: {few} jobs" if fyrd_is_here() else "fyrd is not installed")


def fyrd_is_here() -> bool:
    return importlib.util.find_spec("fyrd") is not None


def main() -> int:
    """Run the parts; 0."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer jobs and rounds")
    parser.add_argument("--part", action="append", choices=PARTS, help="only this; repeat for more")
    given = parser.parse_args()
    parts = given.part or PARTS
    # Short rounds, so that what else the machine does meets all contestants alike.
    rounds, jobs = (4, 25) if given.quick else (20, 25)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    names = ("psij-python", "submitit", "fyrd")
    print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in names if has(name)))
    print(f"{len(os.sched_getaffinity(0))} cores, load {load()} before")
    with tempfile.TemporaryDirectory(prefix="mf-bench-", dir="/tmp") as folder:
        os.chdir(folder)
        os.environ.update({"MPIFRAME_SCHEDULER_STATE": f"{folder}/state", "HOME": folder})
        if "local" in parts:
            local(2 if given.quick else 5, 100 if given.quick else 1000)
        if set(parts) - {"local"}:
            with a_slurm():
                if "submit" in parts:
                    submission(rounds, jobs)
                if "array" in parts:
                    arrays(rounds, 100)
                if "watch" in parts:
                    watching(100 if given.quick else 1000, 5 if given.quick else 20)
        os.chdir("/")
    return 0


@contextlib.contextmanager
def a_slurm() -> Iterator[None]:
    slurm = PrivateSlurm()
    try:
        slurm.start()
        os.environ.update(slurm.variables)
        yield
    finally:
        slurm.stop()


def has(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
