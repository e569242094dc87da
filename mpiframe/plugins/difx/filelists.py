"""Lists of data files with their times: the programs of DiFX that know these, and their lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mpiframe.plugins.difx.files import Files
from mpiframe.plugins.difx.programs import run
from mpiframe.plugins.difx.versions import Versions, run_environment

SECONDS = 600.0
PROGRAMS = {"MARK5B": "m5bsum", "VDIF": "vsum"}
"""By the beginning of the format's name."""


@dataclass
class FileList:
    """A list as it is made. rows: the begin (MJD) and the line of each file; missing: files without one."""

    rows: list[tuple[float, str]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def add(self, name: str, said: Sequence[str]) -> str | None:
        """The line of a file, of what its program said; None if there is none."""
        for line in said:
            words = line.split()
            if words[:1] == [name] and len(words) >= 3 and _is_number(words[1]) and _is_number(words[2]):
                self.rows.append((float(words[1]), line.strip()))
                return line.strip()
        self.missing.append(name)
        return None

    def text(self) -> str:
        """The content of the `.filelist` file, the earliest first."""
        return "".join(f"{line}\n" for _, line in sorted(self.rows))


def command_for(form: str, mjd: int, name: str) -> list[str] | None:
    """The program that tells a file's times, given a day near to them; None for a format that has none."""
    found = [one for start, one in PROGRAMS.items() if form.upper().startswith(start)]
    return [found[0], "-s", "-r", str(mjd), name] if found else None


def make_list(
    files: Files, versions: Versions, names: Sequence[str], to: str, form: str, mjd: int, version: str | None
) -> FileList:
    """Ask for the times of files of the roots, and write their list, which has to be new.

    Raises ValueError for the format, FileExistsError, PathRefused, ProgramError and other OSErrors.
    """
    if command_for(form, mjd, "") is None:
        raise ValueError(f"{form!r} is no format whose times are known; there are {', '.join(PROGRAMS)}")
    try:
        files.stat(to)
    except FileNotFoundError:
        pass
    else:
        raise FileExistsError(f"{to} is there already")
    made = FileList()
    for name in names:
        files.stat(name)
        words = command_for(form, mjd, name) or []
        _, said, _ = run(
            versions.command(words, version), folder="/", environment=run_environment(), seconds=SECONDS
        )
        made.add(name, said)
    files.send(to, made.text().encode("utf-8", "surrogateescape"))
    return made


def _is_number(text: str) -> bool:
    try:
        return float(text) == float(text)
    except ValueError:
        return False
