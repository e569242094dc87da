"""vex2difx and calc: from a schedule and options to the files of jobs, each told of as it appears."""

from __future__ import annotations

import fnmatch
import os
import shlex
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mpiframe.plugins.difx.files import Files
from mpiframe.plugins.difx.job_events import JobError
from mpiframe.plugins.difx.mpirun import check_program
from mpiframe.plugins.difx.programs import OnLine, Program
from mpiframe.plugins.difx.versions import Versions, run_environment

CALC = "calcif2"
CALC_PROGRAMS = (CALC, "difxcalc", "difxcalc_f")
"""Those that a client may choose from, the first by default."""
END_SECONDS = 2.0

OnFile = Callable[[str], object]
"""Called with the path of a new file."""


@dataclass(frozen=True)
class PassReport:
    """What was made. files: paths of .input and .im files, in the order in which they appeared.

    failed: programs that ended badly, with their exit status; log: what they said, by lines.
    """

    files: tuple[str, ...]
    failed: tuple[tuple[str, int], ...] = ()
    log: tuple[str, ...] = ()

    @property
    def successful(self) -> bool:
        """Whether all programs ended well. What they say on stderr does not count."""
        return not self.failed


class Pass:
    """Runs vex2difx and calc in a folder. `run` once; `stop` from any thread."""

    def __init__(
        self,
        folder: str,
        file: str,
        files: Files,
        versions: Versions,
        *,
        version: str | None = None,
        calc_command: str = CALC,
        calc_only: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`file`: the .v2d file, or with calc_only the name of a job, in which wildcards may be.

        calc_command: a program and its options, as on a command line. Raises ValueError, JobError,
        VersionError, PathRefused, OSError.
        """
        self._calc = shlex.split(calc_command)
        if not self._calc:
            raise ValueError("calc_command names no program")
        check_program(self._calc[0])
        if not file or file != os.path.basename(file) or not file.isprintable() or file.startswith("-"):
            raise ValueError(f"{file!r} is no name of a file in {folder}")
        if not os.path.isabs(folder):
            raise ValueError(f"{folder!r} is no absolute path")
        self._folder, self._file, self._calc_only = folder.rstrip("/") or "/", file, calc_only
        if not calc_only and files.stat(self._path(file)).kind == "folder":
            raise JobError(f"{self._path(file)} is a folder")
        self._files, self._versions, self._version = files, versions, version
        versions.choose(version)
        self._environment = dict(environment or run_environment())
        self._lock = threading.Lock()
        self._stopped = False
        self._program: Program | None = None
        self._calcs: list[str] = []
        self.inputs: list[str] = []
        self._models: list[str] = []
        self._failed: list[tuple[str, int]] = []
        self._log: list[str] = []

    def run(self, on_file: OnFile = lambda _: None, on_line: OnLine = lambda *_: None) -> PassReport:
        """Run it all; `on_file` with each new path, `on_line` with what is said, as it happens.

        A calc that fails does not keep the next job's from being run. Raises ProgramError where a program
        cannot be run, JobError if it was stopped.
        """
        self.make_jobs(on_line)
        for path in self.inputs:
            on_file(path)
        self.make_models(on_file, on_line)
        return PassReport((*self.inputs, *self._models), tuple(self._failed), tuple(self._log))

    def make_jobs(self, on_line: OnLine) -> bool:
        """The first half of `run`, vex2difx, which there is not with calc_only; whether it ended well.

        The .input files that it made are `inputs` then.
        """
        if self._calc_only:
            self._calcs = self._matching()
            if not self._calcs:
                raise JobError(f"there is no job {self._path(self._file)}, of which calc could be run")
            return True
        before = self._seen(".input"), self._seen(".calc")
        well = self._call(["vex2difx", "-f", self._file], "vex2difx", on_line)
        self.inputs = self._new(".input", before[0])
        self._calcs = self._new(".calc", before[1])
        return well

    def make_models(self, on_file: OnFile, on_line: OnLine) -> bool:
        """The second half, calc; whether all of it ended well."""
        well = True
        for calc in self._calcs:
            model = calc.removesuffix(".calc") + ".im"
            self._files.rm(model, missing_ok=True)  # calc leaves alone what is newer than its own file
            name = os.path.basename(calc)
            well = self._call([*self._calc, "-f", name], f"{self._calc[0]} {name}", on_line) and well
            if model in self._seen(".im") and self._files.size(model):
                self._models.append(model)
                on_file(model)
        return well

    def stop(self, seconds: float = END_SECONDS) -> bool:
        """End it; whether what ran is gone."""
        with self._lock:
            self._stopped = True
            program = self._program
        return program is None or program.end(seconds)

    # ------------------------------------------------------------------------------------------------

    def _call(self, words: list[str], name: str, on_line: OnLine) -> bool:
        command = self._versions.command(words, self._version)

        def said(stream: str, line: str) -> None:
            self._log.append(line)
            on_line(stream, line)

        with self._lock:
            self._check()
            self._program = program = Program(
                command, folder=self._folder, environment=self._environment, on_line=said
            )
        code = program.wait()
        assert code is not None
        self._check()
        if code:
            self._failed.append((name, code))
        return not code

    def _check(self) -> None:
        if self._stopped:
            raise JobError(f"the making of jobs in {self._folder} was stopped")

    def _path(self, name: str) -> str:
        return f"{self._folder.rstrip('/')}/{name}"

    def _matching(self) -> list[str]:
        wanted = self._file.removesuffix(".calc") + ".calc"
        return [path for path in self._seen(".calc") if fnmatch.fnmatchcase(os.path.basename(path), wanted)]

    def _seen(self, suffix: str) -> dict[str, tuple[float, int]]:
        """The files with this suffix: when they were written, and how large they are."""
        entries = self._files.ls(self._folder)
        return {one.path: (one.modified, one.size_bytes) for one in entries if one.path.endswith(suffix)}

    def _new(self, suffix: str, before: Mapping[str, tuple[float, int]]) -> list[str]:
        now = self._seen(suffix)
        return [path for path, seen in now.items() if before.get(path) != seen]
