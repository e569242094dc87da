"""The templates in launch/ as jobs of a real Slurm and a real Grid Engine. Run by `launch/test --schedulers`.

There is no PBS to be had: that template is read and run by Slurm's imitation of Torque's qsub, whose jobs
have none of PBS's variables but the list that its `generate_pbs_nodefile` writes, and whose ranks are started
on the second node by Slurm instead of ssh. tests/faults/test_host_templates.py has it reach hosts as by ssh.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import each_python
from tests.faults.test_hosts import vendor_of
from tests.plugins.scheduler.torque_wrappers import put_on_path
from tests.templates import ROOT, choose, command_of, fill_in, text_of

SECONDS = 100.0
ENDS_WITH = 7  # the script, if nobody interrupts it

# `node`: where the launcher's daemon runs that started this rank, which Slurm tells it; or this rank itself,
# if it is Slurm that started it.
SCRIPT = f"""
import os, sys
import mpiframe

def node():
    with open(f"/proc/{{os.getppid()}}/environ") as environ:
        variables = dict(line.partition("=")[::2] for line in environ.read().split("\\0"))
    return variables.get("SLURMD_NODENAME", os.environ.get("SLURMD_NODENAME", ""))

with mpiframe.Client() as client:
    nodes = {{node(), *(client.submit(node, target=s.rank).result() for s in client.servers)}}
    print("servers:", len(client.servers), "nodes:", len(nodes), *sys.argv[1:], flush=True)
    if "wait" in sys.argv:
        open("waiting", "w").close()
        try:
            client.push("import time; time.sleep(600)", target="all", block=True)
        except KeyboardInterrupt:
            print("saved", flush=True)
            if "well" in sys.argv:
                sys.exit(0)
            raise
sys.exit({ENDS_WITH})
"""


pytest_generate_tests = each_python


@pytest.fixture
def fill(room: Path, python: Any) -> Callable[..., str]:
    """Makes a job of a template: with other lines, and other arguments for the script."""
    (room / "script.py").write_text(SCRIPT)

    def fill(name: str, changes: dict[str, str], arguments: str = "--its-own-option") -> str:
        changes = dict(changes)
        # The command that is left, as it is or with a change of its own, is the one that gets the arguments.
        changes.setdefault(command_of(name), command_of(name))
        changed = {old: new.replace("--its-own-option", arguments) for old, new in changes.items()}
        return str(fill_in(name, room, python.executable, changed))

    return fill


def call(*argv: str) -> str:
    return subprocess.check_output(argv, text=True, timeout=SECONDS)


def slurm_job(*argv: str) -> dict[str, str]:
    """Submit a job and wait for its end (`sbatch --wait` looks every ten seconds): what Slurm knows of it."""
    return slurm_end(call(*argv).split(".")[0].strip())


def slurm_end(number: str) -> dict[str, str]:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        shown = call("scontrol", "show", "job", "-o", number)
        words = dict(word.partition("=")[::2] for word in shown.split())
        if words["JobState"] in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT"):
            return words
        time.sleep(0.1)
    raise AssertionError(f"the job does not end: {shown}")


def grid_engine_end(number: str) -> str:
    """The exit status of a job, from Grid Engine's books."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        done = subprocess.run(
            ["qacct", "-j", number], capture_output=True, text=True, check=False, timeout=60
        )
        for line in done.stdout.splitlines():
            if line.startswith("exit_status"):
                return line.split()[1]
        time.sleep(0.1)
    raise AssertionError(f"job {number} does not end")


def at_a_terminal(argv: list[str], line: str, answer: str) -> str:
    """Type a line at a prompt, until the answer is on the screen; then leave. What was on the screen."""
    pid, terminal = pty.fork()
    if not pid:
        try:
            os.execvp(argv[0], argv)
        finally:
            os._exit(127)
    screen, typed = "", False
    deadline = time.monotonic() + SECONDS
    try:
        while answer not in screen.replace(line, ""):
            ready, _, _ = select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"no answer came: {screen}"
            try:
                screen += os.read(terminal, 4096).decode(errors="replace")
            except OSError:  # so a terminal says that nobody is there any more
                raise AssertionError(f"it ended: {screen}") from None
            if not typed and ("In [1]" in screen or ">>> " in screen):
                os.write(terminal, line.encode() + b"\r")
                typed = True
        os.write(terminal, b"exit()\r")
        with contextlib.suppress(OSError):
            while select.select([terminal], [], [], SECONDS)[0] and os.read(terminal, 4096):
                pass
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise
    finally:
        os.close(terminal)
        os.waitpid(pid, 0)
    return screen


def await_file(path: Path) -> None:
    deadline = time.monotonic() + SECONDS
    while not path.exists():
        assert time.monotonic() < deadline, f"{path.name} was not made: {said(path.parent)}"
        time.sleep(0.05)


def said(room: Path) -> str:
    """What the jobs wrote."""
    return "\n".join(path.read_text() for pattern in ("*.out", "*.[oe][0-9]*") for path in room.glob(pattern))


# -- Slurm ----------------------------------------------------------------------------------------

SIX_TASKS = {"#SBATCH --ntasks=16": "#SBATCH --ntasks=6"}  # so that the second node is needed
TWO_AND_TWO = {"#SBATCH --ntasks=16": "#SBATCH --ntasks=4\n#SBATCH --nodes=2\n#SBATCH --ntasks-per-node=2"}
# Slurm looks every 30 s whether a warning is due in the next 30 s: it comes 10 to 40 s after the start.
SOON = {"#SBATCH --time=01:00:00": "#SBATCH --time=00:01:00"}
TO_MPIFRAME = {"#SBATCH --signal=B:INT@60": "#SBATCH --signal=B:INT@20"}
TO_STEPS = {"#SBATCH --signal=B:INT@60": "#SBATCH --signal=INT@20"}


def srun_of(python: Any) -> dict[str, str]:
    kind = "pmix" if vendor_of(python.executable) == "Open MPI" else "pmi2"
    return {
        old: new.replace("--mpi=pmix", f"--mpi={kind}") for old, new in choose("slurm", "exec srun").items()
    }


def sbatch(job: str) -> str:
    """The exit status of a job, as `code:signal`."""
    return slurm_job("sbatch", "--parsable", job)["ExitCode"]


def test_slurm_runs_a_script(slurm: Any, room: Path, fill: Callable[..., str]) -> None:
    assert sbatch(fill("slurm", SIX_TASKS)) == f"{ENDS_WITH}:0", said(room)
    assert "servers: 5 nodes: 2 --its-own-option" in said(room)


def test_slurm_starts_a_script_itself(slurm: Any, room: Path, python: Any, fill: Callable[..., str]) -> None:
    # Not more of them on a node: the third one cannot start MPI where Slurm is as old as Debian's and
    # Open MPI is a wheel.
    assert sbatch(fill("slurm", TWO_AND_TWO | srun_of(python))) == f"{ENDS_WITH}:0", said(room)
    assert "servers: 3 nodes: 2 --its-own-option" in said(room)


def test_slurm_cancels(slurm: Any, room: Path, fill: Callable[..., str]) -> None:
    number = call("sbatch", "--parsable", fill("slurm", SIX_TASKS, "wait")).strip()
    await_file(room / "waiting")
    call("scancel", number)
    assert slurm_end(number)["JobState"] == "CANCELLED"


def test_slurm_warns_before_the_time_is_over(slurm: Any, room: Path, fill: Callable[..., str]) -> None:
    assert sbatch(fill("slurm", SIX_TASKS | SOON | TO_MPIFRAME, "wait")) == "130:0", said(room)
    assert said(room).count("saved") == 1


def test_slurm_warns_what_it_started_itself(
    slurm: Any, room: Path, python: Any, fill: Callable[..., str]
) -> None:
    job = fill("slurm", TWO_AND_TWO | SOON | TO_STEPS | srun_of(python), "wait well")
    assert sbatch(job) == "0:0", said(room)
    assert said(room).count("saved") == 1


# -- Grid Engine ----------------------------------------------------------------------------------

FOUR_SLOTS = {"#$ -pe mpi 16": "#$ -pe smp 4"}


def qsub(job: str) -> str:
    return grid_engine_end(call("qsub", "-terse", job).strip())


def test_grid_engine_runs_a_script(sge: Any, room: Path, fill: Callable[..., str]) -> None:
    assert qsub(fill("sge", FOUR_SLOTS)) == str(ENDS_WITH), said(room)
    assert "servers: 3" in said(room)
    assert "--its-own-option" in said(room)


def test_grid_engine_warns_before_the_time_is_over(sge: Any, room: Path, fill: Callable[..., str]) -> None:
    soon = {"#$ -l s_rt=00:59:00": "#$ -l s_rt=00:00:15"}
    assert qsub(fill("sge", FOUR_SLOTS | soon, "wait well")) == "0", said(room)
    assert said(room).count("saved") == 1


def test_grid_engine_warns_of_a_deletion(sge: Any, room: Path, fill: Callable[..., str]) -> None:
    number = call("qsub", "-terse", fill("sge", FOUR_SLOTS, "wait")).strip()
    await_file(room / "waiting")
    call("qdel", number)
    assert grid_engine_end(number) == "130", said(room)
    assert said(room).count("saved") == 1


# -- PBS, imitated ----------------------------------------------------------------------------------


@pytest.fixture
def pbs(slurm: Any, room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm's qsub, and what PBS would give to a job."""
    put_on_path(room.parent, monkeypatch)
    monkeypatch.setenv("PBS_O_WORKDIR", str(room))
    monkeypatch.setenv("TMPDIR", str(room))


OF_PBS = {
    "#PBS -l select=2:ncpus=8:mpiprocs=8": "#PBS -l nodes=2:ppn=3",  # as the template says for Torque
    "#module load openmpi": "export PBS_NODEFILE=$(generate_pbs_nodefile)",
}


def qsub_of_slurm(job: str) -> str:
    ended = slurm_job("qsub", job)
    assert (ended["NumNodes"], ended["TimeLimit"], ended["JobName"]) == ("2", "01:00:00", "mpiframe")
    return ended["ExitCode"]


def test_pbs_runs_a_script(pbs: None, room: Path, fill: Callable[..., str]) -> None:
    assert qsub_of_slurm(fill("pbs", OF_PBS)) == f"{ENDS_WITH}:0", said(room)
    assert "servers: 5 nodes: 2 --its-own-option" in said(room)


def test_pbs_job_warns_itself(pbs: None, room: Path, fill: Callable[..., str]) -> None:
    job = fill("pbs", OF_PBS | {"warn_after=3540": "warn_after=15"}, "wait")
    assert qsub_of_slurm(job) == "130:0", said(room)
    assert said(room).count("saved") == 1


# -- a world to attach to ---------------------------------------------------------------------------

ATTACH = """
import mpiframe
with mpiframe.attach("survey") as client:
    print(len(client.servers), client.submit(pow, 2, 5, target=2).result())
"""


@pytest.fixture
def worlds(room: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test's worlds are, for its jobs too."""
    monkeypatch.setenv("MPIFRAME_WORLDS", str(room.parent / "w"))
    return room.parent / "w"


def await_world(worlds: Path, room: Path) -> None:
    """Until it can be attached to, as its card says."""
    deadline = time.monotonic() + SECONDS
    card = worlds / "survey" / "card"
    while not (card.exists() and json.loads(card.read_text())["ready"]):
        assert time.monotonic() < deadline, f"there is no world to attach to: {said(room)}"
        time.sleep(0.05)


def mpiframe(python: Any, *words: str) -> str:
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    argv = [python.executable, *words]
    return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=SECONDS, check=True).stdout


def test_slurm_leaves_a_world(
    slurm: Any,
    room: Path,
    worlds: Path,
    python: Any,
    fill: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    changes = SIX_TASKS | choose("slurm", "exec mpiframe start")
    number = call("sbatch", "--parsable", fill("slurm", changes)).strip()
    await_world(worlds, room)
    # As the template says: a prompt in the job, at a terminal.
    (line,) = re.findall(r"srun --jobid=NUMBER .* mpiframe attach survey", text_of("slurm"))
    programs = [str(room / "bin"), str(Path(python.executable).parent)]
    monkeypatch.setenv("PATH", os.pathsep.join([*programs, os.environ["PATH"]]))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    screen = at_a_terminal(
        line.replace("NUMBER", number).split(), "print(len(client.servers), 2 ** 21)", "5 2097152"
    )
    assert "5 2097152" in screen
    assert "survey" in mpiframe(python, "-m", "mpiframe", "list")
    mpiframe(python, "-m", "mpiframe", "stop", "survey")
    assert slurm_end(number)["ExitCode"] == "0:0", said(room)


def test_slurm_ends_a_world_before_the_time_is_over(
    slurm: Any, room: Path, worlds: Path, python: Any, fill: Callable[..., str]
) -> None:
    changes = SIX_TASKS | SOON | TO_MPIFRAME | choose("slurm", "exec mpiframe start")
    number = call("sbatch", "--parsable", fill("slurm", changes)).strip()
    await_world(worlds, room)
    assert mpiframe(python, "-c", ATTACH) == "5 32\n"
    assert slurm_end(number)["ExitCode"] == "130:0", said(room)
    assert mpiframe(python, "-m", "mpiframe", "list") == "no world runs here\n"


def test_grid_engine_leaves_a_world(
    sge: Any, room: Path, worlds: Path, python: Any, fill: Callable[..., str]
) -> None:
    changes = (
        FOUR_SLOTS | choose("sge", "run=(mpiframe start") | {"#$ -cwd": "#$ -cwd\n#$ -v MPIFRAME_WORLDS"}
    )
    number = call("qsub", "-terse", fill("sge", changes)).strip()
    await_world(worlds, room)
    assert mpiframe(python, "-c", ATTACH) == "3 32\n"
    mpiframe(python, "-m", "mpiframe", "stop", "survey")
    assert grid_engine_end(number) == "0", said(room)


def test_pbs_leaves_a_world(
    pbs: None, room: Path, worlds: Path, python: Any, fill: Callable[..., str]
) -> None:
    number = call("qsub", fill("pbs", OF_PBS | choose("pbs", "run=(mpiframe start"))).split(".")[0].strip()
    await_world(worlds, room)
    assert mpiframe(python, "-c", ATTACH) == "5 32\n"
    call("qdel", number)
    assert slurm_end(number)["JobState"] == "CANCELLED"
    assert mpiframe(python, "-m", "mpiframe", "list").startswith("no world runs here")


# -- all --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "words"), [("slurm", "Slurm"), ("pbs", "PBS"), ("sge", "Grid Engine")])
def test_outside_of_a_job_it_says_what_to_do(name: str, words: str) -> None:
    path = ROOT / "launch" / f"{name}.sh"
    batch = ("SLURM_", "PBS_", "PE_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(batch)}
    done = subprocess.run(
        ["bash", path], env=env, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode != 0
    assert f"this is no job of {words}" in done.stderr
