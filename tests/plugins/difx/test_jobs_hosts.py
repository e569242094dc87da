"""A job on three hosts, which are namespaces: run, and stopped where it is stuck, on all of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.faults import hosts as cluster

ROOT = Path(__file__).resolve().parents[3]
SECONDS = 100.0

SCRIPT = """
import json, os, shutil, sys, threading
from pathlib import Path

from mpiframe.plugins.difx.files import Files
from mpiframe.plugins.difx.jobs import JobOptions, Jobs
from mpiframe.plugins.difx.machines import define_machines
from mpiframe.plugins.difx.multicast import Group
from mpiframe.plugins.difx.stopping import Patience
from mpiframe.plugins.difx.versions import Versions
from tests.plugins.difx.programs.install import HERE, install

folder, mpirun, agent = Path(sys.argv[1]), sys.argv[2], os.environ["HYDRA_LAUNCHER_EXEC"]
shutil.copytree(HERE.parent / "data" / "real_run_tiny", folder / "exp")
shutil.rmtree(folder / "exp" / "tiny_1.difx")
os.unlink(folder / "exp" / "tiny_1.difxlog")
job = str(folder / "exp" / "tiny_1.input")
files = Files([folder])
jobs = Jobs(files, Group("239.77.7.7", 50777, "eth0"), Versions(install(folder / "difx")))
common = {"STAND_IN_INTERFACE": "eth0", "HYDRA_LAUNCHER_EXEC": agent}
options = JobOptions(mpirun=mpirun, environment=common)
defined = define_machines(
    job, "mf-host0", ["mf-host1", "mf-host2"], [("mf-host1", 3), ("mf-host2", 2), ("mf-host9", 1)], files,
    test_with=jobs.mpirun(options), environment=jobs.environment(options),
)
told = {"machines": defined.machines, "dropped": [host for host, _ in defined.dropped]}
for behaviour in ("", "stuck"):
    running = threading.Event()
    settings = JobOptions(mpirun=mpirun, environment=common | {"STAND_IN": behaviour}, force=True)
    run = jobs.start(job, settings, lambda event: event.progress and running.set())
    if not behaviour:
        result = run.wait(60)
        told["good"] = [str(result.outcome), result.text]
        continue
    assert running.wait(60), run.result
    told["before"] = [[one.host, one.left] for one in run._hosts.look(20)]
    patience = Patience(killed=60.0)  # a look at another host may take long
    report = jobs.stop(run.number, patience)
    told["after"] = [[one.host, one.left] for one in report.hosts]
    in_time = report.seconds < patience.graceful  # which is for jobs that answer
    told["stop"] = [report.gone, in_time, report.how, str(run.wait(60).outcome)]
told["log"] = sorted({line.host for told_run in jobs.log(job) for line in told_run.lines})
jobs.close()
print(json.dumps(told))
"""


def test_a_stuck_job_on_three_hosts_is_gone_from_all_of_them(long_mpirun: str) -> None:
    with tempfile.TemporaryDirectory(prefix="mf-difx-", dir="/tmp") as text:
        folder = Path(text)
        script = folder / "script.py"
        script.write_text(SCRIPT)
        try:
            with cluster.make_hosts(folder) as hosts:
                for host in hosts.hosts:
                    host.run("ip", "route", "add", "224.0.0.0/4", "dev", "eth0")
                allowed = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
                path = os.pathsep.join([str(Path(long_mpirun).parent), os.environ.get("PATH", "")])
                env = {**os.environ, **hosts.environment, **allowed, "PYTHONPATH": str(ROOT), "PATH": path}
                words = [hosts.interpreter(sys.executable), str(script), str(folder), long_mpirun]
                ended = subprocess.run(
                    words, env=env, capture_output=True, text=True, timeout=SECONDS, check=False
                )
                assert ended.returncode == 0, ended.stdout + ended.stderr
                left = {
                    host.name: [line for line in host.processes() if "mpifxcorr" in line]
                    for host in hosts.hosts
                }
        except cluster.HostsError as error:  # in CI a skip is a failure
            pytest.skip(f"no hosts can be made here, which takes root and iproute2: {error}")
    told = json.loads(ended.stdout)
    assert told["machines"] == ["mf-host0", "mf-host1", "mf-host2", "mf-host1", "mf-host2"]
    assert told["dropped"] == ["mf-host9"]
    assert told["good"] == ["done", "done"]
    # On the first there are mpirun's own processes besides, which name the job too.
    assert [(host, count >= 1) for host, count in told["before"]] == [
        ("localhost", True),
        ("mf-host1", True),
        ("mf-host2", True),
    ]
    gone, in_time, how, outcome = told["stop"]
    assert (gone, in_time, outcome) == (True, True, "terminated")
    assert how in ("signal", "kill")
    assert told["after"] == [["localhost", 0], ["mf-host1", 0], ["mf-host2", 0]]
    assert left == {"mf-host0": [], "mf-host1": [], "mf-host2": []}  # as seen from outside
    assert told["log"] == ["mf-host0", "mf-host1", "mf-host2"]
