"""How DiFX's programs are started on several hosts: the command lines of Open MPI's and MPICH's mpirun."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mpiframe.plugins.difx.programs import ProgramError, run

OPEN_MPI, MPICH = "Open MPI", "MPICH"
_ASK_SECONDS = 10.0
_OURS = {
    "-n", "-np", "--n", "--np", "-c", "-f", "-hostfile", "--hostfile", "-machinefile", "--machinefile",
    "-host", "--host", "-hosts", "-H", "--app", "-configfile", ":",
}  # fmt: skip
"""Options of mpirun that say which ranks run where, which a job's .machines file does."""
_SHARED = ("DIFX_MESSAGE_GROUP", "DIFX_MESSAGE_PORT", "DIFX_BINARY_GROUP", "DIFX_BINARY_PORT")
"""Variables that Open MPI has to be told to take to other hosts; MPICH takes all."""


def checked_options(options: str | Sequence[str]) -> list[str]:
    """Options for mpirun, as a list or as on a command line, which no shell ever sees.

    Raises ValueError for one by which the ranks would be elsewhere.
    """
    words = shlex.split(options) if isinstance(options, str) else list(options)
    for word in words:
        if not isinstance(word, str) or not word.isprintable():
            raise ValueError(f"{word!r} is no option of mpirun")
        if word.partition("=")[0] in _OURS:
            raise ValueError(
                f"mpirun's {word} is not an option of a job: its .machines file says which ranks run where"
            )
    if words and not words[0].startswith("-"):
        raise ValueError(f"options of mpirun begin with -, not as {words[0]!r}")
    return words


@dataclass(frozen=True)
class Mpirun:
    """An mpirun that is there: its path, whose it is, and options for jobs.

    exported: names of environment variables that other hosts get too.
    """

    path: str
    vendor: str
    options: tuple[str, ...] = ()
    exported: tuple[str, ...] = ()

    @classmethod
    def find(
        cls,
        program: str = "mpirun",
        *,
        environment: Mapping[str, str],
        options: str | Sequence[str] | None = None,
        exported: Sequence[str] = (),
    ) -> Mpirun:
        """Ask one what it is. Raises ProgramError where there is none, ValueError for the options.

        options: None are those of $DIFX_MPIRUNOPTIONS, or else one rank for each line of .machines in order.
        """
        path = shutil.which(program, path=environment.get("PATH"))
        if path is None:
            raise ProgramError(
                f"there is no {program!r} on the PATH: jobs need the mpirun that DiFX was built with"
            )
        code, said, wrong = run(
            [path, "--version"], folder="/", environment=environment, seconds=_ASK_SECONDS
        )
        text = "\n".join(said)
        vendor = OPEN_MPI if "Open MPI" in text or "OpenRTE" in text else MPICH if "HYDRA" in text else ""
        if code or not vendor:
            about = (said + wrong or ["nothing"])[0]
            raise ProgramError(f"{path} is neither Open MPI's nor MPICH's mpirun: it said {about[:200]!r}")
        if options is None:
            usual = "--map-by seq" if vendor == OPEN_MPI else ""
            options = environment.get("DIFX_MPIRUNOPTIONS") or usual
        return cls(path, vendor, tuple(checked_options(options)), (*_SHARED, *exported))

    def job(
        self,
        machines: Sequence[str],
        machines_file: str,
        command: Sequence[str],
        environment: Mapping[str, str],
    ) -> list[str]:
        """The command line that starts one rank for each machine, in their order."""
        words = [self.path, "-np", str(len(machines))]
        if self.vendor == OPEN_MPI:
            words += ["--hostfile", machines_file, *self.options]
            for name in dict.fromkeys(self.exported):
                if name in environment:
                    words += ["-x", name]
        else:
            words += ["-hosts", ",".join(machines), *self.options]
        return [*words, *command]

    def on(self, host: str, command: Sequence[str]) -> list[str]:
        """The command line that runs something once on a host."""
        return [self.path, "-np", "1", "-host", host, *command]


def check_program(name: str) -> str:
    """The name of a program, which is no option and has no blanks. Raises ValueError."""
    if not name or name.startswith("-") or not name.isprintable() or any(sign.isspace() for sign in name):
        raise ValueError(f"{name!r} is no name of a program")
    return os.fspath(name)
