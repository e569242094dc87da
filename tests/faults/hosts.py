"""Three hosts on one machine: namespaces with a host name, a network interface and processes of their own.

Each host is an init process in namespaces of its own (network, host name, processes, mounts, IPC), on a
switch (a bridge in a fourth network namespace). Files are shared, as on a cluster; shared memory is not.
The init starts programs on request, as an SSH daemon would, so nothing on another host is a child of who
asked for it; `agent` is what an MPI launcher calls in place of `ssh`.

Nothing has a name outside: when the processes are gone the kernel takes the rest away, and they go with the
process that made them, however that ends. Needs root (or CAP_SYS_ADMIN and CAP_NET_ADMIN), `unshare`,
`nsenter` and `ip`.

    python hosts.py init SOCKET NAME HOSTSFILE      the first process of a host
    python hosts.py agent [-x] NAME command ...     run a command there, as `ssh NAME command` would
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SECONDS = 60.0  # for a host to come up; a tenth of one as a rule
FOLDER = "MF_HOSTS"  # names the folder with the sockets of the hosts
_MARK = "MPIFRAME_TEST_MARK"
_PR_SET_PDEATHSIG = 1


class HostsError(Exception):
    """This system does not let us make hosts."""


@dataclass
class Host:
    """One host: its name, its address, and the process whose end is its end."""

    name: str
    address: str
    init: subprocess.Popen[bytes]
    pid: int = 0  # of the host's first process, as seen from outside

    def run(self, *words: str) -> str:
        """Run a program of the outside in this host's network namespace."""
        return _call("nsenter", "-t", str(self.pid), "-n", *words)

    def processes(self) -> list[str]:
        """The command lines of this host's processes, each after its id (as seen from outside)."""
        mine = os.readlink(f"/proc/{self.pid}/ns/pid")
        found = []
        for directory in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if os.readlink(directory / "ns" / "pid") == mine:
                    words = (directory / "cmdline").read_text().replace("\0", " ")
                    found.append(f"{directory.name} {words}")
        return found

    def signal(self, name: str, words: str) -> None:
        """Send a signal to the processes of this host whose command line holds these words."""
        for line in self.processes():
            pid, _, command = line.partition(" ")
            if words in command:
                os.kill(int(pid), signal.Signals[f"SIG{name}"])

    def shared_memory(self) -> list[str]:
        """What is in this host's /dev/shm."""
        return sorted(os.listdir(f"/proc/{self.pid}/root/dev/shm"))


@dataclass
class Hosts:
    """A cluster in a box."""

    folder: Path
    hosts: list[Host] = field(default_factory=list)
    switch: subprocess.Popen[bytes] | None = None

    def __getitem__(self, index: int) -> Host:
        return self.hosts[index]

    @property
    def environment(self) -> dict[str, str]:
        """What makes Open MPI and MPICH reach the hosts."""
        agent = str(self.folder / "agent")
        return {FOLDER: str(self.folder), "PRTE_MCA_plm_ssh_agent": agent, "HYDRA_LAUNCHER_EXEC": agent}

    def hostfile(self, vendor: str, *slots: int) -> str:
        """A list of hosts, with so many ranks on the first, the second, ..."""
        form = "{} slots={}\n" if vendor == "Open MPI" else "{}:{}\n"
        path = self.folder / f"hosts-{'-'.join(map(str, slots))}"
        lines = [form.format(h.name, n) for h, n in zip(self.hosts, slots, strict=False) if n]
        path.write_text("".join(lines))
        return str(path)

    def interpreter(self, executable: str, index: int = 0) -> str:
        """A program that is this interpreter, on one of the hosts, with its caller's environment."""
        path = self.folder / f"python-{self[index].name}-{abs(hash(executable))}"
        me = f"{sys.executable} {Path(__file__).resolve()} agent --whole {self[index].name}"
        path.write_text(f'#!/bin/sh\nexec {me} {executable} "$@"\n')
        path.chmod(0o755)
        return str(path)

    def cut(self, index: int) -> None:
        """Pull the plug between a host and the switch: its packets, and those for it, are lost in silence."""
        self._port(index, "0")

    def mend(self, index: int) -> None:
        """Plug it in again."""
        self._port(index, "3")

    def die(self, index: int) -> None:
        """The power of a host fails: it says nothing more, not even goodbye."""
        self.cut(index)
        _end(self[index].init)

    def drop(self, index: int, first: int, last: int) -> None:
        """A firewall on a host: TCP packets for these ports vanish."""
        host = self[index]
        # The table of the host's own addresses is looked at first; ours has to come before it.
        host.run("ip", "rule", "add", "pref", "50", "lookup", "local")
        host.run("ip", "rule", "del", "pref", "0")
        ports = f"{first}-{last}"
        host.run("ip", "rule", "add", "pref", "10", "blackhole", "ipproto", "tcp", "dport", ports)

    def listening(self, index: int) -> list[tuple[str, int]]:
        """(address, port) of every TCP socket that listens on a host, IPv4 and IPv6."""
        return listening(self[index].pid)

    def _port(self, index: int, state: str) -> None:
        assert self.switch is not None
        pid = str(_first_child(self.switch, self.folder))
        _call("nsenter", "-t", pid, "-n", "bridge", "link", "set", "dev", f"port{index}", "state", state)

    def close(self) -> None:
        """Turn everything off."""
        for process in [h.init for h in self.hosts] + ([self.switch] if self.switch else []):
            _end(process)


def listening(pid: int | str = "self") -> list[tuple[str, int]]:
    """(address, port) of every TCP socket that listens in a process's network namespace."""
    found = []
    for name, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]:
            local, _, state = line.split()[1:4]
            if state == "0A":
                address, port = local.split(":")
                # Words of the host's byte order.
                words = [bytes.fromhex(address[i : i + 8])[::-1] for i in range(0, len(address), 8)]
                found.append((socket.inet_ntop(family, b"".join(words)), int(port, 16)))
    return sorted(found)


@contextlib.contextmanager
def make_hosts(folder: Path, count: int = 3, *, resolved: bool = True) -> Iterator[Hosts]:
    """Hosts that last as long as the block. HostsError where this system does not let us make them.

    resolved: False for what Debian writes into /etc/hosts: a host's own name stands for a loopback address.
    """
    hosts = Hosts(folder)
    try:
        _make(hosts, count, resolved)
        yield hosts
    finally:
        hosts.close()


def _make(hosts: Hosts, count: int, resolved: bool) -> None:
    names = [f"mf-host{n}" for n in range(count)]
    addresses = [f"10.231.77.{n + 1}" for n in range(count)]
    agent = hosts.folder / "agent"
    agent.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).resolve()} agent "$@"\n')
    agent.chmod(0o755)
    hosts.switch = _unshared(hosts.folder / "said-switch", "--net", "sleep", "infinity")
    for name, address in zip(names, addresses, strict=True):
        (hosts.folder / f"tmp-{name}").mkdir()
        table = hosts.folder / f"etc-hosts-{name}"
        known = dict(zip(names, addresses, strict=True)) | ({} if resolved else {name: "127.0.1.1"})
        table.write_text("127.0.0.1 localhost\n" + "".join(f"{a} {n}\n" for n, a in known.items()))
        spaces = ("--net", "--uts", "--ipc", "--mount", "--pid", "--mount-proc")
        init = (sys.executable, "-I", str(Path(__file__).resolve()), "init", str(hosts.folder / name), name)
        hosts.hosts.append(
            Host(name, address, _unshared(hosts.folder / f"said-{name}", *spaces, *init, str(table)))
        )
    switch = str(_first_child(hosts.switch, hosts.folder))
    _call("nsenter", "-t", switch, "-n", "ip", "link", "add", "switch", "type", "bridge")
    _call("nsenter", "-t", switch, "-n", "ip", "link", "set", "switch", "up")
    for n, host in enumerate(hosts.hosts):
        host.pid = _first_child(host.init, hosts.folder)
        _call(
            "nsenter", "-t", switch, "-n", "ip", "link", "add", f"port{n}", "type", "veth",
            "peer", "name", "eth0", "netns", str(host.pid),
        )  # fmt: skip
        _call("nsenter", "-t", switch, "-n", "ip", "link", "set", f"port{n}", "master", "switch", "up")
        host.run("ip", "addr", "add", f"{host.address}/24", "dev", "eth0")
        host.run("ip", "link", "set", "eth0", "up")
        host.run("ip", "link", "set", "lo", "up")
    for host in hosts.hosts:
        path = hosts.folder / host.name
        _until(lambda path=path: path.exists(), f"{host.name} did not come up", host.init, hosts.folder)


def _unshared(said: Path, *words: str) -> subprocess.Popen[bytes]:
    libc = ctypes.CDLL(None)

    def with_us() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    flags = ("--fork", "--kill-child=SIGKILL")
    try:
        with open(said, "wb") as output:
            return subprocess.Popen(
                ["unshare", *flags, *words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={"PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin"},
                preexec_fn=with_us,
            )
    except OSError as error:
        raise HostsError(f"unshare (of util-linux): {error}") from error


def _first_child(process: subprocess.Popen[bytes], folder: Path) -> int:
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    _until(lambda: path.exists() and path.read_text().split(), "unshare started nothing", process, folder)
    return int(path.read_text().split()[0])


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the first process of a host, and so all of them; `unshare` ends when they are gone."""
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if process.poll() is None:
        for pid in path.read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
    try:
        process.wait(SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _call(*words: str) -> str:
    env = {**os.environ, "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin"}
    try:
        done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=SECONDS)
    except OSError as error:
        raise HostsError(f"{words[0]}: {error}") from error
    if done.returncode:
        raise HostsError(f"{' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def _until(
    condition: Callable[[], object], problem: str, process: subprocess.Popen[bytes], folder: Path
) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            said = "".join(path.read_text() for path in sorted(folder.glob("said-*")))
            raise HostsError(f"{problem} (exit status of unshare: {process.poll()}) {said}".strip())
        time.sleep(0.005)


# -- inside a host ---------------------------------------------------------------------------------


def init(path: str, name: str, table: str) -> None:
    """The first process of a host: starts what it is asked to, and collects what ends."""
    socket.sethostname(name)
    subprocess.run(["mount", "-t", "tmpfs", "none", "/dev/shm"], check=True)
    subprocess.run(["mount", "--bind", table, "/etc/hosts"], check=True)
    ours, kernels = socket.socketpair()
    kernels.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(kernels.fileno(), warn_on_full_buffer=False)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path + ".new")
    listener.listen(64)
    os.rename(path + ".new", path)
    asked: dict[int, socket.socket] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(ours, selectors.EVENT_READ)
        selector.register(listener, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is listener:
                    connection, _ = listener.accept()
                    asked[_start(connection)] = connection
                else:
                    ours.recv(4096)
            _collect(asked)


def _start(connection: socket.socket) -> int:
    data, fds, _, _ = socket.recv_fds(connection, 1 << 20, 3)
    wish = json.loads(data)
    child = subprocess.Popen(
        wish["argv"],
        env=wish["env"],
        cwd=wish["cwd"],
        stdin=fds[0],
        stdout=fds[1],
        stderr=fds[2],
        start_new_session=True,
    )
    child.returncode = 0  # we collect it ourselves
    for fd in fds:
        os.close(fd)
    return child.pid


def _collect(asked: dict[int, socket.socket]) -> None:
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            connection = asked.pop(ended[0], None)
            if connection is not None:
                with connection, contextlib.suppress(OSError):
                    connection.sendall(json.dumps(os.waitstatus_to_exitcode(ended[1])).encode())


def agent(words: list[str]) -> int:
    """Run a command on a host as `ssh` would: by its shell, with a small environment; its exit status."""
    whole = words[0] == "--whole"
    while words[0].startswith("-"):
        words = words[1:]
    name, *command = words
    kept = {"PATH", "HOME", "USER", "LANG", FOLDER, _MARK, "TMPDIR"}
    wish: dict[str, Any] = {
        "argv": command if whole else ["/bin/sh", "-c", " ".join(command)],
        "env": dict(os.environ) if whole else {k: v for k, v in os.environ.items() if k in kept},
        "cwd": os.getcwd() if whole else "/",
    }
    folder = os.environ[FOLDER]
    # Open MPI's daemons take for their own, by their process number, what they find in the folder for
    # temporary files, and on two of our hosts that number is often the same: without one each they crash.
    wish["env"]["TMPDIR"] = os.path.join(folder, f"tmp-{name}")
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(os.path.join(folder, name))
        socket.send_fds(connection, [json.dumps(wish).encode()], [0, 1, 2])
        status = connection.recv(64)
    if not status:
        # The power failed over there. `ssh` hears nothing, and waits.
        signal.pause()
    code = int(json.loads(status))
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    if sys.argv[1] == "init":
        init(*sys.argv[2:])
    else:
        sys.exit(agent(sys.argv[2:]))
