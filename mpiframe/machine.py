"""What this process can know of its machine without MPI: cores, host identity, addresses."""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import socket
import time

_SIOCGIFADDR = 0x8915  # Linux's number; elsewhere the call fails, and the host's name has to do


def usable_cores() -> int:
    """Cores this process may use: its affinity, or the container's CPU quota where that is less."""
    return max(1, min(len(affinity()), quota() or 1 << 20))


def affinity() -> list[int]:
    """The numbers of the cores that the kernel may run this process on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def quota() -> int | None:
    """Whole cores that a cgroup quota (version 2 or 1) leaves, or None without one."""
    try:
        allowed, period = _read("/sys/fs/cgroup/cpu.max").split()
    except (OSError, ValueError):
        try:
            allowed = _read("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").strip()
            period = _read("/sys/fs/cgroup/cpu/cpu.cfs_period_us").strip()
        except OSError:
            return None
    if allowed in ("max", "-1"):
        return None
    return max(1, math.ceil(int(allowed) / int(period)))


def is_stopped(pid: int) -> bool:
    """Whether a process of this host was stopped by a signal, or by a debugger; False where none can tell."""
    try:
        return _read(f"/proc/{pid}/stat").rpartition(")")[2].split()[0] in "tT"
    except (OSError, IndexError):
        return False


def threads_asleep(pid: int) -> dict[str, str] | None:
    """How often each thread of a process of this host has gone to sleep; None while one of them does not.

    Equal twice in a row: no thread of it did anything in between. Empty where there is nothing to be known.
    """
    counts: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            state, counts[thread] = _sleeps(pid, thread)
            if state in "RD":
                return None
    return counts


def await_rest(pid: int, seconds: float) -> None:
    """Return when no thread of a process of this host does anything any more, or after so many seconds."""
    limit = time.monotonic() + seconds
    before, now = None, threads_asleep(pid)
    while (now is None or now != before) and time.monotonic() < limit:
        time.sleep(1e-3)  # nothing tells when another process has gone to sleep
        before, now = now, threads_asleep(pid)


def asleep(thread: int) -> str | None:
    """How often this thread of ours has gone to sleep; None if it does not, is stopped, or none can tell.

    `thread`: its `native_id`. Equal twice in a row: it did nothing in between.
    """
    try:
        state, count = _sleeps("self", thread)
    except (OSError, KeyError):
        return None
    return count if state == "S" else None


def _sleeps(pid: int | str, thread: int | str) -> tuple[str, str]:
    lines = dict(line.split(":", 1) for line in _read(f"/proc/{pid}/task/{thread}/status").splitlines())
    return lines["State"].split()[0], lines["voluntary_ctxt_switches"] + lines["nonvoluntary_ctxt_switches"]


def host_key() -> str:
    """Equal for two processes exactly if a Unix socket and shared memory can join them.

    Host name and boot id name the kernel; the two namespaces tell containers and network namespaces
    on one kernel apart.
    """
    parts = [socket.gethostname()]
    try:
        parts.append(_read("/proc/sys/kernel/random/boot_id").strip())
    except OSError:
        parts.append("-")
    for link in ("/proc/self/ns/net", "/proc/self/ns/mnt"):
        try:
            parts.append(os.readlink(link))
        except OSError:
            parts.append("-")
    return "|".join(parts)


def addresses() -> list[str]:
    """IPv4 addresses by which other hosts may reach this one, loopback left out.

    First what its name stands for; that may be nothing, or a loopback address (as on Debian), so those of
    its interfaces follow.
    """
    found: list[str] = []
    try:
        for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET, socket.SOCK_STREAM):
            found.append(str(info[4][0]))
    except OSError:
        pass  # a host name that does not resolve
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, interface in socket.if_nameindex():
            name = interface.encode()[:15].ljust(40, b"\0")
            try:
                found.append(socket.inet_ntoa(fcntl.ioctl(probe, _SIOCGIFADDR, name)[20:24]))
            except OSError:
                continue  # it has none
    return [a for a in dict.fromkeys(found) if not a.startswith("127.")]


def address_towards(peer: str) -> str | None:
    """The address of the interface from which this host reaches `peer` (no packet is sent)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((peer, 9))
        except OSError:
            return None
        return str(probe.getsockname()[0])


def mapped_segments(prefix: str, pid: int | str = "self") -> list[str]:
    """The paths in /dev/shm that a process of this host has mapped, of names that begin with `prefix`."""
    try:
        lines = _read(f"/proc/{pid}/maps").splitlines()
    except OSError:
        return []
    paths = {line.split(None, 5)[5] for line in lines if f"/dev/shm/{prefix}" in line}
    return sorted(path for path in paths if not path.endswith(" (deleted)"))


def process_usage() -> tuple[float, int]:
    """CPU seconds (user and system) and resident bytes of this process."""
    times = os.times()
    try:
        pages = int(_read("/proc/self/statm").split()[1])
        rss = pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        rss = 0
    return times.user + times.system, rss


def _read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()
