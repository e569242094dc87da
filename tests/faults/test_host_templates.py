"""The templates of launch/ for hosts that are reached as by ssh: a list of hosts, and PBS.

The hosts are namespaces (`hosts.py`). There is no PBS to be had: the job's shell is started here, on the
first of its hosts, with the variables and the list that OpenPBS writes. That a qsub reads the template as
it is meant is shown by tests/plugins/scheduler/test_templates.py, as far as that can be.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import each_python
from tests.faults import hosts as cluster
from tests.templates import ROOT, choose, fill_in

pytestmark = pytest.mark.long

SECONDS = 100.0
SCRIPT = """
import socket, sys
import mpiframe

with mpiframe.Client() as client:
    hosts = [r.ret for r in client.push("__import__('socket').gethostname()", target="all", block=True)]
    print(socket.gethostname(), *hosts, *sys.argv[1:], flush=True)
    if "wait" in sys.argv:
        open("waiting", "w").close()
        try:
            client.push("import time; time.sleep(600)", target="all", block=True)
        except KeyboardInterrupt:
            print("saved", flush=True)
            raise
sys.exit(7)
"""


pytest_generate_tests = each_python


@pytest.fixture
def hosts() -> Iterator[cluster.Hosts]:
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="mf-hosts-", dir="/tmp"))
        try:
            made = stack.enter_context(cluster.make_hosts(Path(folder)))
        except cluster.HostsError as error:  # in CI a skip is a failure
            pytest.skip(f"no hosts can be made here, which takes root and iproute2: {error}")
        (made.folder / "work").mkdir()
        (made.folder / "work" / "script.py").write_text(SCRIPT)
        yield made


def start(hosts: cluster.Hosts, script: Path, **variables: str) -> subprocess.Popen[str]:
    """The script in a shell on the first host, in its own folder."""
    return on_first(hosts, "/bin/bash", str(script), **variables)


def on_first(hosts: cluster.Hosts, *words: str, **variables: str) -> subprocess.Popen[str]:
    agent = [sys.executable, str(Path(cluster.__file__)), "agent", "--whole", hosts[0].name]
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "MPIFRAME_"))}
    return subprocess.Popen(
        [*agent, *words],
        cwd=hosts.folder / "work",
        env=env | hosts.environment | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end_of(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    return process.returncode, out, err


def await_file(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + SECONDS
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"{path.name} was not made"
        time.sleep(0.05)


def leaves_no_process(hosts: cluster.Hosts) -> None:
    """But the first process of each host."""
    deadline = time.monotonic() + 10
    while [line for host in hosts.hosts for line in host.processes() if " init " not in line]:
        assert time.monotonic() < deadline, [host.processes() for host in hosts.hosts]
        time.sleep(0.05)


NODES = {"node1": "mf-host0", "node2": "mf-host1", "node3": "mf-host2"}


def hosts_of(template: Path) -> Path:
    """The template with our hosts in its list of them, which is marked, too."""
    text = template.read_text()
    for old, new in NODES.items():
        assert f"\n{old}\n" in text
        text = re.sub(rf"^{old}$", new, text, flags=re.MULTILINE)
    template.write_text(text)
    return template


def test_a_list_of_hosts(hosts: cluster.Hosts, python: Any) -> None:
    job = hosts_of(fill_in("hostfile", hosts.folder / "work", python.executable, {}))
    status, out, err = end_of(start(hosts, job))
    assert status == 7, out + err
    assert out == "mf-host0 mf-host1 mf-host1 mf-host2 mf-host2 --its-own-option\n", out + err
    leaves_no_process(hosts)


def test_a_list_of_hosts_is_interrupted(hosts: cluster.Hosts, python: Any) -> None:
    command = 'exec mpiframe run -n "$ranks" --hostfile "$hosts" --grace 45 script.py --its-own-option'
    changes = {command: command.replace("--its-own-option", "wait")}
    job = hosts_of(fill_in("hostfile", hosts.folder / "work", python.executable, changes))
    process = start(hosts, job)
    await_file(job.parent / "waiting", process)
    hosts[0].signal("INT", "mpiframe run")
    status, out, err = end_of(process)
    assert status == 128 + signal.SIGINT, out + err
    assert out.endswith("saved\n"), out + err
    leaves_no_process(hosts)


ATTACH = """
import mpiframe
with mpiframe.attach("survey") as client:
    print(*[r.ret for r in client.push("__import__('socket').gethostname()", target="all", block=True)])
    client.stop_world()
"""


def test_a_world_on_hosts_to_attach_to(hosts: cluster.Hosts, python: Any) -> None:
    room = hosts.folder / "work"
    job = hosts_of(fill_in("hostfile", room, python.executable, choose("hostfile", "exec mpiframe start")))
    worlds = str(hosts.folder / "w")
    process = start(hosts, job, MPIFRAME_WORLDS=worlds)
    await_file(Path(worlds) / "survey" / "socket", process)
    attached = on_first(hosts, python.executable, "-c", ATTACH, MPIFRAME_WORLDS=worlds, PYTHONPATH=str(ROOT))
    assert end_of(attached) == (0, "mf-host1 mf-host1 mf-host2 mf-host2\n", "")
    status, out, err = end_of(process)
    assert status == 0, out + err
    leaves_no_process(hosts)


@pytest.mark.parametrize(("arguments", "status"), [("--its-own-option", 7), ("wait", 130)])
def test_a_job_of_pbs(hosts: cluster.Hosts, python: Any, arguments: str, status: int) -> None:
    room = hosts.folder / "work"
    command = (
        'run=(mpiframe run -n "$ranks" --hostfile "$PBS_NODEFILE" --grace 45 script.py --its-own-option)'
    )
    changes = {command: command.replace("--its-own-option", arguments)}
    if arguments == "wait":
        changes["warn_after=3540"] = "warn_after=15"
    job = fill_in("pbs", room, python.executable, changes)
    (room / "aux").mkdir()
    listed = room / "aux" / "17.mf-host0"
    listed.write_text("mf-host0\nmf-host1\nmf-host2\nmf-host2\n")
    variables = {
        "PBS_ENVIRONMENT": "PBS_BATCH", "PBS_JOBID": "17.mf-host0", "PBS_JOBNAME": "mpiframe",
        "PBS_NODEFILE": str(listed), "PBS_NODENUM": "0", "PBS_O_WORKDIR": str(room), "PBS_TASKNUM": "1",
    }  # fmt: skip
    ended, out, err = end_of(start(hosts, job, **variables))
    assert ended == status, out + err
    assert out.startswith(f"mf-host0 mf-host1 mf-host2 mf-host2 {arguments}\n"), out + err
    assert out.count("saved") == (arguments == "wait"), out + err
    leaves_no_process(hosts)
