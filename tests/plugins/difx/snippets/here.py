"""Runs snippets of the documentation: what one of them finds here, and what became of it.

A snippet's text is the documentation's own, but for three things: the import, Python 3's print, and comments
that are left out. Its "..." is Python's own `...`. Hosts, ports and paths in it are replaced by those of the
test, and its clients wait for longer; where more has to be, `run` is told so.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import shutil
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mpiframe.compat import DiFXControl, DiFXFileTransfer, DiFXJobControl, DiFXvex2difx
from mpiframe.plugins.difx.formats import Calc, Input

SAMPLE = Path(__file__).resolve().parents[1] / "data" / "real_run_tiny"
SECONDS = 40.0
MODULES = {
    "DiFXControl": DiFXControl,
    "DiFXFileTransfer": DiFXFileTransfer,
    "DiFXJobControl": DiFXJobControl,
    "DiFXvex2difx": DiFXvex2difx,
}


@dataclass
class Here:
    """root: a folder of the server's, for one snippet. port: of the server, None over MPI."""

    root: Path
    port: int | None
    names: dict[str, Any] = field(default_factory=dict)
    printed: io.StringIO = field(default_factory=io.StringIO)
    _clients: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.root.mkdir()
        self.names |= MODULES | {"__name__": "snippet"}

    def client(self, module: str = "DiFXControl") -> Any:
        """The `difx` of snippets that begin in the midst: a client that is connected and listens."""
        difx: Any = MODULES[module].Client()  # type: ignore[attr-defined]
        difx.connect("localhost", self.port)
        assert difx.socketOK
        difx.monitor()
        difx.waitTime(SECONDS)
        self.names["difx"] = difx
        self._clients.append(difx)
        return difx

    def run(self, text: str, replaced: dict[str, str] | None = None) -> str:
        """Run a snippet, as `replaced` and the places here have it; what has been printed then."""
        text = textwrap.dedent(text)
        places = {"/full/path": str(self.root), "/the/full/path/to/the": str(self.root)}
        places |= {"/data/correlator/newExperiment": str(self.root)}
        places |= {"difx.monitor()": f"difx.monitor(); difx.waitTime( {SECONDS} )"}
        if self.port is not None:
            places |= {'"headnode.difxcluster", 50400': f'"127.0.0.1", {self.port}'}
            places |= {'"localhost", 50401': f'"127.0.0.1", {self.port}'}
        # The longest first: one may begin with another.
        for one, other in sorted((places | (replaced or {})).items(), key=lambda pair: -len(pair[0])):
            text = text.replace(one, other)
        exec(compile(text, "snippet", "exec"), self.names)
        difx = self.names.get("difx")
        if isinstance(difx, DiFXControl.Client) and difx not in self._clients:
            self._clients.append(difx)
        return self.said()

    def said(self) -> str:
        """All that was printed."""
        return self.printed.getvalue()

    def put(self, name: str, text: str = "") -> Path:
        """A file on the server."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def schedule(self, name: str) -> None:
        """The .vex and .v2d files of an experiment."""
        shutil.copy(SAMPLE / "tiny.vex", self.root)
        shutil.copy(SAMPLE / "tiny.v2d", self.root / f"{name}.v2d")

    def job(self, name: str, behaviour: str = "") -> Path:
        """The .input file of a job that can be run; how the stand-in for mpifxcorr will behave."""
        stem = str(self.root / name)
        Path(stem).parent.mkdir(parents=True, exist_ok=True)
        job = Input.read(SAMPLE / "tiny_1.input")
        job = dataclasses.replace(
            job, calc_path=f"{stem}.calc", threads_path=f"{stem}.threads", output_path=f"{stem}.difx"
        )
        job.write(f"{stem}.input")
        dataclasses.replace(Calc.read(SAMPLE / "tiny_1.calc"), im_path=f"{stem}.im").write(f"{stem}.calc")
        shutil.copy(SAMPLE / "tiny_1.im", f"{stem}.im")
        self.put(f"{name}.machines", "localhost\n" * 4)
        self.put(f"{name}.threads", "NUMBER OF CORES:    1\n1\n")
        if behaviour:
            self.put(f"{name}.stand_in", behaviour)
        return Path(f"{stem}.input")

    def control(self, path: Path) -> Any:
        """A client for jobs that has been given what comes before `newJob` in the documentation."""
        difx = self.client("DiFXJobControl")
        difx.inputFile(str(path))
        assert difx.getMachines()
        return difx

    def close(self) -> None:
        """Close the clients that are left."""
        for one in self._clients:
            if one.sock is not None and one.sock.fileno() >= 0:
                one.close()


def until(what: Callable[[], object]) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + SECONDS
    while not what():
        assert time.monotonic() < deadline, "it did not become so"
        time.sleep(0.01)


def processes(path: Path) -> list[str]:
    """Command lines in which a path stands."""
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if folder.name.isdecimal() and int(folder.name) != os.getpid() and str(path) in line:
                found.append(line)
    return found


@dataclass(frozen=True)
class Snippet:
    """One snippet: the section that it stands in, and what runs it."""

    section: str
    name: str
    check: Callable[[Here], None]

    def run(self, here: Here) -> None:
        """Run it, and what looks at it; raises what it raises."""
        with contextlib.redirect_stdout(here.printed):
            try:
                self.check(here)
            finally:
                here.close()


SNIPPETS: list[Snippet] = []


def snippet(section: str) -> Callable[[Callable[[Here], None]], Callable[[Here], None]]:
    """A function that runs a snippet of this section."""

    def register(check: Callable[[Here], None]) -> Callable[[Here], None]:
        SNIPPETS.append(Snippet(section, check.__name__, check))
        return check

    return register
