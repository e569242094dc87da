"""A Slurm of our own for tests: munged, slurmctld and two slurmd on free loopback ports, in one folder.

The programs are Debian's (slurmctld, slurmd, slurm-client, slurm-wlm-basic-plugins, munge), run as root;
`launch/test --schedulers` installs them. Nothing of the machine's own Slurm is touched.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

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
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_min_interval=0,batch_sched_delay=0,bf_interval=1
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
ReturnToService=2
KillWait=2
MinJobAge={age}
MaxArraySize=1001
DefMemPerCPU=100
SlurmdParameters=config_overrides
NodeName=DEFAULT CPUs={cpus} RealMemory=4000 State=UNKNOWN
NodeName=n[1-{nodes}] NodeHostname={host} NodeAddr=127.0.0.1 Port={ports}
PartitionName=debug Nodes=n[1-{nodes}] Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""


class PrivateSlurm:
    """Started by `start`, ended by `stop`; jobs are submitted with `variables` in the environment."""

    def __init__(self, min_job_age: int = 300) -> None:
        missing = [program for program in PROGRAMS if shutil.which(program, path=_PATH) is None]
        assert not missing, f"not installed: {', '.join(missing)}; launch/test --schedulers does that"
        # Not pytest's own folder: the path of a Unix socket may have about a hundred letters.
        self.folder = Path(tempfile.mkdtemp(prefix="mf-slurm-", dir="/tmp"))
        self.variables = {"SLURM_CONF": str(self.folder / "slurm.conf")}
        self._age = min_job_age
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """All daemons, until the nodes are idle."""
        self.folder.chmod(0o755)
        for name in ("state", *(f"{kind}/n{i + 1}" for kind in ("spool", "tmp") for i in range(NODES))):
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
            )
        )
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nConstrainCores=no\n")
        folder = self.folder
        self._run(
            "munged", "--foreground", "--force", f"--key-file={key}", f"--socket={folder}/munge.socket",
            f"--pid-file={folder}/munged.pid", f"--log-file={folder}/munged.log",
            f"--seed-file={folder}/munged.seed", "--num-threads=2",
        )  # fmt: skip
        self._await("munge", "-n", "-S", f"{folder}/munge.socket")
        self.start_controller()
        for node in range(1, NODES + 1):
            self._run("slurmd", "-D", "-N", f"n{node}", "-L", f"{folder}/slurmd.{node}.log")
        self._await("sinfo", "-h", "-o", "%T", said="idle\n")

    def start_controller(self) -> None:
        """slurmctld, with whatever state there is."""
        self._controller = self._run("slurmctld", "-D", "-L", f"{self.folder}/slurmctld.log")

    def stop_controller(self) -> None:
        """End slurmctld: from now on no command of Slurm's is answered."""
        self._controller.terminate()
        self._controller.wait(30)

    def stop(self) -> None:
        """End everything, jobs included. Raises AssertionError if a process is left."""
        with contextlib.suppress(subprocess.SubprocessError):
            self._command("scancel", "--full", "-s", "KILL", "--me")
        # munged last: a slurmctld that cannot sign its last messages tries for long.
        for some in (self._processes[1:], self._processes[:1]):
            for process in some:
                process.terminate()
            for process in some:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(40)
        left = self._left()
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in self._processes:
            process.wait(10)
        shutil.rmtree(self.folder, ignore_errors=True)
        assert not left, f"left behind: {left}"

    def _left(self) -> dict[int, str]:
        """Processes that were started with our configuration, a moment for them to go included."""
        deadline = time.monotonic() + 10
        while True:
            found = {}
            for entry in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):
                    words = (entry / "cmdline").read_text().replace("\0", " ")
                    variables = (entry / "environ").read_bytes()
                    ours = f"SLURM_CONF={self.folder}".encode() in variables or str(self.folder) in words
                    if ours and int(entry.name) != os.getpid() and "pytest" not in words:
                        found[int(entry.name)] = words
            if not found or time.monotonic() > deadline:
                return found
            time.sleep(0.05)

    def _environment(self) -> dict[str, str]:
        return {**os.environ, **self.variables, "PATH": _PATH}

    def _run(self, *argv: str) -> subprocess.Popen[bytes]:
        with open(self.folder / f"{argv[0]}.out", "ab") as out:
            process = subprocess.Popen(
                argv,
                env=self._environment(),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        self._processes.append(process)
        return process

    def _command(self, *argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            argv, env=self._environment(), capture_output=True, text=True, timeout=30, check=False
        )

    def _await(self, *argv: str, said: str = "") -> None:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            done = self._command(*argv)
            if (
                done.returncode == 0
                and said in done.stdout
                and (not said or done.stdout.strip() == said.strip())
            ):
                return
            if time.monotonic() > deadline:
                logs = "\n".join(p.read_text(errors="replace")[-2000:] for p in self.folder.glob("*.log"))
                raise AssertionError(f"{argv[0]}: {done.stdout}{done.stderr}\n{logs}")
            time.sleep(0.05)


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
