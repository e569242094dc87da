"""Which versions of DiFX there are, how programs of one are run, and what clients may see of the environment.

Each version has a script `$DIFX_BASE/bin/rungeneric.VERSION` that sets its environment up and runs what
it is given.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence

from mpiframe.errors import MpiframeError
from mpiframe.launcher.environment import scrub_environment

BASE = "DIFX_BASE"
DEFAULT_VERSION = "DIFX-DEVEL"
_PREFIX = "rungeneric."
_OTHER_SHELLS = (".csh", ".sh")  # scripts to be sourced, of the same name

SHOWN = (
    "CALC_SERVER",
    "DIFXROOT",
    "DIFX_ARCH",
    "DIFX_BASE",
    "DIFX_BINARY_GROUP",
    "DIFX_BINARY_PORT",
    "DIFX_CALC_PROGRAM",
    "DIFX_CONTROL_HOST",
    "DIFX_CONTROL_PORT",
    "DIFX_GROUP_ID",
    "DIFX_HEAD_NODE",
    "DIFX_LABEL",
    "DIFX_MACHINES",
    "DIFX_MESSAGE_GROUP",
    "DIFX_MESSAGE_PORT",
    "DIFX_MPIRUNOPTIONS",
    "DIFX_PREFIX",
    "DIFX_USER_ID",
    "DIFX_VERSION",
    "GAIN_CURVE_PATH",
    "JOB_ROOT",
    "MARK5_DIR_PATH",
    "VEX_PATH",
)
"""The variables that clients may see, of those that are set; no others unless they are named."""


class VersionError(MpiframeError, LookupError):
    """There is no such version of DiFX; the text names those that there are."""


class Versions:
    """The versions below a folder."""

    def __init__(self, base: str | os.PathLike[str] | None = None) -> None:
        """`base`: default $DIFX_BASE; there are no versions where that is not set either."""
        found = os.fspath(base) if base is not None else os.environ.get(BASE, "")
        self.base = os.path.abspath(found) if found else ""

    def names(self) -> list[str]:
        """The versions that can be run now, sorted."""
        folder = os.path.join(self.base, "bin")
        try:
            names = os.listdir(folder) if self.base else []
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(
            name.removeprefix(_PREFIX)
            for name in names
            if name.startswith(_PREFIX) and name != _PREFIX and not name.endswith(_OTHER_SHELLS)
            if _is_program(os.path.join(folder, name))
        )

    def choose(self, wanted: str | None = None) -> str | None:
        """The version to use: `wanted`, or else $DIFX_VERSION, DIFX-DEVEL, or the only one.

        None where there are no versions at all and none is wanted: programs are then those on the PATH.
        Raises VersionError for one that there is not, and where there are several to choose from.
        """
        names = self.names()
        if wanted is not None:
            if wanted not in names:
                raise VersionError(f"there is no version {wanted!r} of DiFX, {self._known(names, wanted)}")
            return wanted
        for likely in (os.environ.get("DIFX_VERSION"), DEFAULT_VERSION, *names[: len(names) == 1]):
            if likely in names:
                return likely
        if names:
            raise VersionError(f"no version of DiFX was named, {self._known(names, '')}")
        return None

    def command(self, arguments: Sequence[str], version: str | None = None) -> list[str]:
        """The command line that runs a program of a version, chosen as by `choose`. Raises VersionError."""
        chosen = self.choose(version)
        if chosen is None:
            return list(arguments)
        return [os.path.join(self.base, "bin", _PREFIX + chosen), *arguments]

    def _known(self, names: list[str], wanted: str) -> str:
        if not names:
            return f"for there is no {_PREFIX}* in {self.base}/bin" if self.base else f"for {BASE} is not set"
        close = difflib.get_close_matches(wanted, names, 1)
        return f"did you mean {close[0]!r}?" if close else f"only {', '.join(names)}"


def _is_program(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)


def shown_environment(
    also: Iterable[str] = (), environment: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The variables that clients may see, by name: SHOWN and `also`, of those that are set."""
    source = os.environ if environment is None else environment
    return {name: source[name] for name in sorted({*SHOWN, *also}) if name in source}


def run_environment(settings: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for programs of DiFX: this process's without what is a rank's own, and `settings`.

    An mpirun that inherited the variables of a rank would take itself for one.
    """
    return scrub_environment(os.environ, purpose="child") | dict(settings or {})
