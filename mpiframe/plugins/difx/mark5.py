"""Mark 5 units, by the programs that DiFX has for them: mk5control, mk5dir and mk5cp.

They need the units' own hardware and are built with its library only, so most machines have none of them.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mpiframe.errors import MpiframeError
from mpiframe.plugins.difx.mpirun import Mpirun
from mpiframe.plugins.difx.programs import Program, ProgramError, is_missing, run
from mpiframe.plugins.difx.versions import Versions, run_environment

DIRECTORIES = "MARK5_DIR_PATH"
"""The variable that says, on a Mark 5 unit, where the directories of modules are."""
_SECONDS = 60.0
_COPY_SECONDS = 7 * 86400.0
_VSN = re.compile(r"[A-Z0-9_+-]{1,32}", re.IGNORECASE | re.ASCII)
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)
_SCANS = re.compile(r"[A-Za-z0-9_.,:+-]{1,4096}", re.ASCII)


class Mark5Error(MpiframeError):
    """A Mark 5 unit, or the program for it, is not there or failed; the text says which."""


@dataclass(frozen=True)
class Module:
    """The directory of a module: where its file is on the unit, and its lines."""

    vsn: str
    path: str
    lines: tuple[str, ...]

    @property
    def scans(self) -> int:
        """How many scans it says that there are; 0 where it does not say."""
        words = self.lines[0].split() if self.lines else []
        return int(words[1]) if len(words) > 1 and words[1].isdecimal() else 0


class Mark5:
    """The Mark 5 units that mpirun reaches."""

    def __init__(self, versions: Versions, mpirun: Mpirun | None, version: str | None = None) -> None:
        """Without an mpirun there is `control` only, which mk5control does by itself."""
        self._versions, self._mpirun, self._version = versions, mpirun, version

    def control(self, unit: str, command: str) -> list[str]:
        """Send a command, such as "getvsn", to the daemon of a unit; what mk5control said."""
        words = self.control_words(unit, command)
        self._need("mk5control", words)
        return self._run(words, "mk5control")

    def directory(self, unit: str, vsn: str, *, generate: bool = False) -> Module:
        """The directory of a module, which with `generate` is read anew from the module itself."""
        if generate:
            self._run(self.generate_words(unit, vsn), "mk5dir", unit)
        where = self._run(self.where_words(unit), f"printenv {DIRECTORIES}", unit)
        path = directory_path(where, vsn)
        if path is None:
            raise Mark5Error(f"{DIRECTORIES} is not set on {unit}: nobody knows where directories are there")
        return Module(vsn, path, tuple(self._run(self.plain_words(unit, ["cat", "--", path]), path, unit)))

    def files(self, unit: str, folder: str) -> list[str]:
        """The names in a folder of a unit, with sizes and times, as `ls -l` prints them."""
        if not os.path.isabs(folder) or not folder.isprintable():
            raise ValueError(f"{folder!r} is no absolute path")
        return self._run(self.plain_words(unit, ["ls", "-l", "--", folder]), folder, unit)

    def copy(
        self,
        unit: str,
        vsn: str,
        scans: str,
        to: str,
        on_line: Callable[[str, str], object] = lambda *_: None,
        *,
        seconds: float = _COPY_SECONDS,
    ) -> None:
        """Copy scans of a module to a folder on the unit, by mk5cp. scans: as mk5cp takes them, "1-3"."""
        words = self.copy_words(unit, vsn, scans, to)
        said: list[str] = []

        def heard(stream: str, line: str) -> None:
            said.append(line)
            on_line(stream, line)

        running = Program(words, folder="/", environment=run_environment(), on_line=heard)
        code = running.wait(seconds)
        if code is None:
            running.end(2.0)
            raise Mark5Error(f"mk5cp on {unit} has not ended after {seconds:g} s, and was ended")
        self._judge(code, said, "mk5cp", unit)

    # -- the command lines of these; each raises ValueError for names that are none, and VersionError --

    def control_words(self, unit: str, command: str) -> list[str]:
        """Sends a command to the daemon of a unit."""
        if not command or command.startswith("-") or not command.isprintable():
            raise ValueError(f"{command!r} is no command for a Mark 5 unit")
        return self._versions.command(["mk5control", command, _checked(unit, _HOST)], self._version)

    def generate_words(self, unit: str, vsn: str) -> list[str]:
        """Reads a module, and writes its directory."""
        return self._difx_words(unit, ["mk5dir", "-n", "-f", _checked(vsn, _VSN)])

    def where_words(self, unit: str) -> list[str]:
        """Says where directories are; see `directory_path`."""
        return self._difx_words(unit, ["printenv", DIRECTORIES])

    def copy_words(self, unit: str, vsn: str, scans: str, to: str) -> list[str]:
        """Copies scans of a module."""
        if not os.path.isabs(to) or not to.isprintable():
            raise ValueError(f"{to!r} is no absolute path")
        return self._difx_words(unit, ["mk5cp", "-f", _checked(vsn, _VSN), _checked(scans, _SCANS), to])

    def plain_words(self, unit: str, program: Sequence[str]) -> list[str]:
        """Runs a program that is not of DiFX on a unit."""
        if self._mpirun is None:
            raise Mark5Error(f"{program[0]} is run on {unit} by an mpirun, and there is none")
        return self._mpirun.on(_checked(unit, _HOST), program)

    def _difx_words(self, unit: str, program: Sequence[str]) -> list[str]:
        return self.plain_words(unit, self._versions.command(program, self._version))

    # ------------------------------------------------------------------------------------------------

    def _run(self, words: Sequence[str], what: str, unit: str = "") -> list[str]:
        try:
            code, out, err = run(words, folder="/", environment=run_environment(), seconds=_SECONDS)
        except ProgramError as error:
            raise Mark5Error(f"{what}: {error}") from error
        self._judge(code, out + err, what, unit)
        return out

    def _judge(self, code: int, said: Sequence[str], what: str, unit: str) -> None:
        if not code:
            return
        text = "\n".join(said)
        on = f" on {unit}" if unit else ""
        if (
            is_missing(code)
            or f"{what}: not found" in text
            or "could not be found" in text
            or (what in text and "No such file" in text and "/" not in what)
        ):
            raise Mark5Error(
                f"there is no {what}{on}: it comes with DiFX where that was built for Mark 5 units"
            )
        about = " ".join(line.strip() for line in said if line.strip("- \t"))
        raise Mark5Error(f"{what}{on} ended with {code}: {about[:400]}")

    def _need(self, program: str, words: Sequence[str]) -> None:
        if words[0] == program and shutil.which(program, path=run_environment().get("PATH")) is None:
            raise Mark5Error(
                f"there is no {program} here: it comes with DiFX where that was built for Mark 5 units"
            )


def directory_path(said: Sequence[str], vsn: str) -> str | None:
    """The path of a module's directory on a unit, of what `where_words` said there; None if it is not set."""
    folder = next((line for line in said if line.startswith("/")), "")
    return f"{folder.rstrip('/')}/{_checked(vsn, _VSN)}.dir" if folder else None


def _checked(text: str, form: re.Pattern[str]) -> str:
    if not form.fullmatch(text) or text.startswith("-"):
        raise ValueError(f"{text!r} is no name of a Mark 5 unit, a module, or scans")
    return text
