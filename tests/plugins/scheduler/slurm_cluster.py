"""A Slurm of our own for tests: munged, slurmctld and two slurmd on free loopback ports, in one folder.

The programs are Debian's (slurmctld, slurmd, slurm-client, slurm-wlm-basic-plugins, munge), run as root;
`launch/test --schedulers` installs them. Nothing of the machine's own Slurm is touched.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

from tests.plugins.scheduler.daemons import Daemons, free_ports

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "sinfo")
NODES, CPUS = 2, 4
_START_SECONDS = 30.0
_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])

_CONF = """\
ClusterName=mpiframe-test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
TmpFS={folder}/tmp/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldPort={port}
{tracking}
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_min_interval=0,batch_sched_delay=0,bf_interval=1
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
AccountingStorageType=accounting_storage/none
ReturnToService=2
KillWait=2
MinJobAge={age}
MaxArraySize=1001
DefMemPerCPU=100
SlurmdParameters=config_overrides
NodeName=DEFAULT CPUs={cpus} RealMemory=4000 State=UNKNOWN
NodeName={prefix}[1-{nodes}] NodeHostname={host} NodeAddr=127.0.0.1 Port={ports}
PartitionName=debug Nodes={prefix}[1-{nodes}] Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""

# Without cgroups Slurm looks at a job's memory now and then, and ends it without saying why.
_PLAIN = """\
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherParams=OverMemoryKill"""
_GROUPS = "ProctrackType=proctrack/cgroup\nTaskPlugin=task/cgroup"
_CGROUPS = ("/sys/fs/cgroup/freezer", "/sys/fs/cgroup/memory")


def has_cgroups() -> bool:
    """Whether Slurm can make the cgroups here (of version 1) that bound a job's memory."""
    try:
        for parent in _CGROUPS:
            os.rmdir(tempfile.mkdtemp(dir=parent))
    except OSError:
        return False
    return True


class PrivateSlurm(Daemons):
    """Two nodes that are imitated, on this host."""

    def __init__(self, min_job_age: int = 300) -> None:
        missing = [program for program in PROGRAMS if shutil.which(program, path=_PATH) is None]
        assert not missing, f"not installed: {', '.join(missing)}; launch/test --schedulers does that"
        super().__init__("mf-slurm-")
        self.variables = {"SLURM_CONF": str(self.folder / "slurm.conf")}
        self.extra = {"PATH": _PATH}
        self._age = min_job_age
        self.bounds_memory = has_cgroups()
        """Whether a job that uses too much memory is told from others that were killed."""
        # The nodes' names are in those of their cgroups, of which the host has but one tree.
        self._prefix = f"mf{secrets.token_hex(3)}n"

    def start(self) -> None:
        """All daemons, until the nodes are idle."""
        for name in (
            "state",
            *(f"{kind}/{self._prefix}{i + 1}" for kind in ("spool", "tmp") for i in range(NODES)),
        ):
            (self.folder / name).mkdir(parents=True)
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        ports = free_ports(NODES + 1)
        (self.folder / "slurm.conf").write_text(
            _CONF.format(
                host=socket.gethostname(),
                user=subprocess.check_output(["id", "-un"], text=True).strip(),
                folder=self.folder,
                port=ports[0],
                ports=f"[{','.join(map(str, ports[1:]))}]",
                nodes=NODES,
                cpus=CPUS,
                age=self._age,
                prefix=self._prefix,
                tracking=_GROUPS if self.bounds_memory else _PLAIN,
            )
        )
        (self.folder / "cgroup.conf").write_text(
            "CgroupPlugin=cgroup/v1\nConstrainCores=no\nConstrainRAMSpace=yes\nConstrainSwapSpace=yes\n"
            "AllowedSwapSpace=0\n"
        )
        folder = self.folder
        self.run(
            "munged", "--foreground", "--force", f"--key-file={key}", f"--socket={folder}/munge.socket",
            f"--pid-file={folder}/munged.pid", f"--log-file={folder}/munged.log",
            f"--seed-file={folder}/munged.seed", "--num-threads=2",
        )  # fmt: skip
        self._await("munge", "-n", "-S", f"{folder}/munge.socket")
        self.start_controller()
        for node in range(1, NODES + 1):
            name = f"{self._prefix}{node}"
            self.run("slurmd", "-D", "-N", name, "-L", f"{folder}/slurmd.{node}.log")
        self._await("sinfo", "-h", "-o", "%T", said="idle")

    def start_controller(self) -> None:
        """slurmctld, with whatever state there is."""
        self._controller = self.run("slurmctld", "-D", "-L", f"{self.folder}/slurmctld.log")

    def stop_controller(self) -> None:
        """End slurmctld: from now on no command of Slurm's is answered."""
        self._controller.terminate()
        self._controller.wait(30)

    def stop(self) -> None:
        """End everything, jobs included. Raises AssertionError if a process is left."""
        try:
            self.command("scancel", "--me")
            self.command("scancel", "--full", "-s", "KILL", "--me")
            # A job whose end nobody is there to hear keeps its slurmd.
            self._await("squeue", "-h", "-t", "running,completing", said="")
        except (subprocess.SubprocessError, AssertionError) as error:
            print(f"the jobs do not end: {error}")  # what they leave is seen below
        # munged last: a slurmctld that cannot sign its last messages tries for long.
        try:
            self.end(self.processes[1:], self.processes[:1], seconds=40)
        finally:
            for parent in _CGROUPS:
                for top in Path(parent).glob(f"slurm_{self._prefix}*"):
                    for folder, _, _ in os.walk(top, topdown=False):
                        os.rmdir(folder)

    def _await(self, *argv: str, said: str | None = None) -> None:
        def has_come() -> bool:
            done = self.command(*argv)
            return done.returncode == 0 and said in (None, done.stdout.strip())

        self.wait_until(has_come, _START_SECONDS, f"{' '.join(argv)} has no success")
