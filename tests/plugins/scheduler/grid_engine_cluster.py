"""A Grid Engine of our own for tests: qmaster and execd on free ports, in one folder.

The programs are Debian's (gridengine-master, -exec, -client), run as root; `launch/test --schedulers`
installs them. The cell that the packages made is not touched.
"""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.plugins.scheduler.daemons import Daemons, free_ports

PACKAGED = Path("/var/lib/gridengine")
PROGRAMS = Path("/usr/lib/gridengine")
SHARED = Path("/usr/share/gridengine")
SLOTS = 8
_START_SECONDS = 60.0

_BOOTSTRAP = """\
admin_user              none
default_domain          none
ignore_fqdn             false
spooling_method         berkeleydb
spooling_lib            libspoolb
spooling_params         {folder}/spooldb
binary_path             /usr/sbin
qmaster_spool_dir       {folder}/qmaster
security_mode           none
listener_threads        2
worker_threads          2
scheduler_threads       1
"""

_SETTINGS = {
    "min_uid": "0",
    "min_gid": "0",
    "load_report_time": "00:00:02",
    "reporting_params": "accounting=true reporting=false flush_time=00:00:01 joblog=false sharelog=00:00:00",
}

_PARALLEL = """\
pe_name            smp
slots              999
user_lists         NONE
xuser_lists        NONE
start_proc_args    NONE
stop_proc_args     NONE
allocation_rule    $pe_slots
control_slaves     FALSE
job_is_first_task  TRUE
urgency_slots      min
accounting_summary FALSE
qsort_args         NONE
"""


class PrivateGridEngine(Daemons):
    """One cell with one host, this one."""

    def __init__(self) -> None:
        missing = [name for name in ("sge_qmaster", "sge_execd", "qsub") if not (PROGRAMS / name).exists()]
        assert not missing, f"not installed: {', '.join(missing)}; launch/test --schedulers does that"
        super().__init__("mf-sge-")
        ports = free_ports(2)
        self.variables = {
            "SGE_ROOT": str(self.folder / "root"),
            "SGE_CELL": "default",
            "SGE_QMASTER_PORT": str(ports[0]),
            "SGE_EXECD_PORT": str(ports[1]),
        }
        self.extra = {"SGE_ND": "1"}

    def start(self) -> None:
        """Both daemons, until a queue takes jobs."""
        host = socket.gethostname()
        common = self.folder / "root" / "default" / "common"
        common.mkdir(parents=True)
        for name in ("qmaster/job_scripts", "spooldb", "execd"):
            (self.folder / name).mkdir(parents=True)
        for name in ("bin", "lib", "util", "utilbin"):
            (self.folder / "root" / name).symlink_to(PACKAGED / name)
        (common / "bootstrap").write_text(_BOOTSTRAP.format(folder=self.folder))
        (common / "act_qmaster").write_text(f"{host}\n")
        (common / "host_aliases").write_text(f"{host} localhost\n")
        configuration = self.folder / "configuration"
        values = {**_SETTINGS, "execd_spool_dir": str(self.folder / "execd")}
        lines = [
            f"{line.split()[0]} {values[line.split()[0]]}"
            if line.split()[:1] and line.split()[0] in values
            else line
            for line in (SHARED / "default-configuration").read_text().splitlines()
        ]
        configuration.write_text("\n".join(lines) + "\n")
        self._tool("spoolinit", "berkeleydb", "libspoolb", str(self.folder / "spooldb"), "init")
        self._tool("spooldefaults", "configuration", str(configuration))
        self._tool("spooldefaults", "complexes", str(SHARED / "util/resources/centry"))
        self._tool("spooldefaults", "usersets", str(SHARED / "util/resources/usersets"))
        self._tool("spooldefaults", "managers", "root")
        self.run(str(PROGRAMS / "sge_qmaster"))
        self._await(lambda: self._command("qconf", "-sh").returncode == 0)
        self._tool("qconf", "-as", host)
        self._command("qconf", "-ah", host)
        self._tool("qconf", "-au", "root", "users")
        self._configure(host)
        self.run(str(PROGRAMS / "sge_execd"))
        self._await(lambda: " -NA- " not in self._queues() and "lx-" in self._queues())

    def stop(self) -> None:
        """End everything, jobs included. Raises AssertionError if a process is left."""
        self._command("qdel", "-f", "-u", "*")
        self.end(self.processes[::-1], seconds=20)

    def _configure(self, host: str) -> None:
        shown = self._tool("qconf", "-ssconf")
        quick = {"schedule_interval": "0:0:1", "flush_submit_sec": "1", "flush_finish_sec": "1"}
        lines = [
            f"{line.split()[0]} {quick[line.split()[0]]}" if line.split()[0] in quick else line
            for line in shown.splitlines()
        ]
        self._apply("-Msconf", "\n".join(lines) + "\n")
        self._apply("-Ap", _PARALLEL)
        queue = self.folder / "queue"
        template = self._tool("qconf", "-sq").splitlines()
        wanted = {
            "qname": "all.q", "hostlist": host, "pe_list": "smp", "slots": str(SLOTS), "shell": "/bin/sh",
            "shell_start_mode": "unix_behavior", "load_thresholds": "NONE", "processors": "UNDEFINED",
        }  # fmt: skip
        queue.write_text(
            "\n".join(f"{n} {wanted[n]}" if (n := line.split()[0]) in wanted else line for line in template)
            + "\n"
        )
        self._tool("qconf", "-Aq", str(queue))

    def _apply(self, verb: str, text: str) -> None:
        path = self.folder / "change"
        path.write_text(text)
        self._tool("qconf", verb, str(path))

    def _queues(self) -> str:
        return self._command("qstat", "-f").stdout

    def _command(self, program: str, *args: str) -> subprocess.CompletedProcess[str]:
        return self.command(str(PROGRAMS / program), *args)

    def _tool(self, program: str, *args: str) -> str:
        done = self._command(program, *args)
        assert done.returncode == 0, f"{program} {' '.join(args)}: {done.stdout}{done.stderr}"
        return done.stdout

    def _await(self, condition: Callable[[], bool]) -> None:
        self.wait_until(condition, _START_SECONDS, "Grid Engine does not start")
