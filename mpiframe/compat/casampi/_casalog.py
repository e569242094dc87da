"""A log for servers without CASA: what scripts call of casatools' logsink, over Python's logging."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os

LEVELS = {
    "SEVERE": logging.ERROR,
    "WARN": logging.WARNING,
    "INFO": logging.INFO,
    **{f"INFO{i}": logging.INFO - i for i in range(1, 6)},
    "NORMAL": logging.INFO,
    **{f"NORMAL{i}": logging.INFO - i for i in range(1, 6)},
    "DEBUG": logging.DEBUG,
    "DEBUG1": logging.DEBUG - 1,
    "DEBUG2": logging.DEBUG - 2,
}
"""CASA's names of levels, in steps of Python's."""

_KIB = 1024
_OPENMP = ("libgomp", "libiomp", "libomp")


class LogSink:
    """Posts to the logger "casa", whose records reach the client as those of every logger do.

    Without CASA this stands for `casalog`. Memory is in KiB, as there, but for `setMemoryTotal`, which takes
    MiB; values below 0 take a setting back.
    """

    def __init__(self, processor: str = "") -> None:
        self._log = logging.getLogger("casa")
        self._log.setLevel(logging.INFO)
        self._origin = ""
        self._processor = processor
        self._hidden: list[str] = []
        self._memory: float | None = None
        self._cpus: int | None = None

    def post(self, message: str, priority: str = "INFO", origin: str = "") -> bool:
        """Write a message; whether its priority is a known one."""
        level = LEVELS.get(priority.upper())
        origin = origin or self._origin
        if not any(text in message for text in self._hidden):
            where = "::".join(filter(None, [origin, "casa", self._processor]))
            self._log.log(logging.INFO if level is None else level, "%s\t%s", where, message)
        return level is not None

    postLocally = post

    def origin(self, fromwhere: str) -> bool:
        """Say whose messages follow."""
        self._origin = fromwhere
        return True

    def getOrigin(self) -> str:
        """Whose messages these are."""
        return self._origin

    def processorOrigin(self, fromwhere: str) -> bool:
        """Say on which process they arise."""
        self._processor = fromwhere
        return True

    def filter(self, level: str = "INFO") -> bool:
        """Write messages of this level and above; False for an unknown level."""
        if level.upper() not in LEVELS:
            return False
        self._log.setLevel(LEVELS[level.upper()])
        return True

    def filterMsg(self, messages: str | list[str]) -> None:
        """Leave out messages that contain any of these texts."""
        self._hidden += [messages] if isinstance(messages, str) else messages

    def clearFilterMsgList(self) -> None:
        """Leave out none."""
        self._hidden.clear()

    def logfile(self) -> str:
        """Empty: the client writes what is posted here (see `MPICommandClient.set_log_mode`)."""
        return ""

    def version(self) -> str:
        """Whose log this is."""
        return "mpiframe, without CASA"

    # -- resources ---------------------------------------------------------------------------------

    def getMemoryTotal(self, use_aipsrc: bool = False) -> float:
        """Memory in KiB: the machine's, or what was set."""
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // _KIB
        return self._memory if use_aipsrc and self._memory is not None else whole

    def setMemoryTotal(self, memory: float) -> bool:
        """Set it, in MiB."""
        self._memory = memory * _KIB if memory >= 0 else None
        return True

    def setMemoryFraction(self, fraction: float) -> bool:
        """Set it, in per cent of the machine's."""
        self._memory = self.getMemoryTotal() * fraction / 100 if fraction >= 0 else None
        return True

    def getNumCPUs(self, use_aipsrc: bool = False) -> int:
        """Cores: the machine's, or what was set."""
        return self._cpus if use_aipsrc and self._cpus is not None else os.cpu_count() or 1

    def setNumCPUs(self, cpus: int) -> bool:
        """Set it."""
        self._cpus = cpus if cpus >= 0 else None
        return True

    def ompGetNumThreads(self) -> int:
        """How many threads OpenMP takes."""
        for library in _openmp_libraries():
            return int(library.omp_get_max_threads())
        return int(os.environ.get("OMP_NUM_THREADS") or self.getNumCPUs())

    ompNumThreadsTest = ompGetNumThreads

    def ompSetNumThreads(self, threads: int) -> bool:
        """Set it, in libraries that are loaded and for those that will be."""
        os.environ["OMP_NUM_THREADS"] = str(int(threads))
        for library in _openmp_libraries():
            library.omp_set_num_threads(int(threads))
        return True


def _openmp_libraries() -> list[ctypes.CDLL]:
    """The OpenMP runtimes in this process; wheels bring their own, under names of their own."""
    paths = set()
    with contextlib.suppress(OSError), open("/proc/self/maps", encoding="utf-8") as maps:
        for line in maps:
            path = line.rstrip().partition("/")[2]
            if os.path.basename(path).startswith(_OPENMP):
                paths.add("/" + path)
    return [ctypes.CDLL(path) for path in sorted(paths)]
