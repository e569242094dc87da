"""A session with a DiFX correlator: versions, files, vex2difx, machines, a job and its progress, history.

    mpiframe difx serve --root /data &                              # or DiFX's own guiServer
    python examples/difx_session.py PASS.v2d SCHEDULE.vex /data/exp [HOST:PORT]
    mpiframe run -n 2 examples/difx_session.py PASS.v2d SCHEDULE.vex /data/exp mpi

With `mpi` the correlator's host is the server of a world, and nothing listens on a port. Where there is no
DiFX: `python tests/plugins/difx/programs/install.py FOLDER` puts stand-ins for its programs there, and says
what to set in the environment.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mpiframe.compat import DiFXControl, DiFXJobControl, DiFXvex2difx

WIDTH = 40


@contextlib.contextmanager
def reached(where: str, folder: str) -> Iterator[tuple[Any, ...]]:
    """What `connect` takes."""
    if where != "mpi":
        host, _, port = where.partition(":")
        yield host, int(port or 50200)
        return
    from mpiframe import Client

    with Client() as client:
        DiFXControl.mpi_mode_on(client, 1, roots=[str(Path(folder).parent)])
        yield (None,)
        DiFXControl.mpi_mode_off()


class Progress:
    """Draws a bar of what a job says of itself."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, text: str) -> None:
        message: Any = DiFXControl.parseXML(text)
        if message is None or message.typeStr != "DifxStatusMessage" or message.identifier != self.name:
            return
        done = 1.0 if message.state in ("Done", "MpiDone") else 0.0
        with contextlib.suppress(TypeError, ValueError, ZeroDivisionError):
            begin, end = float(message.jobstartMJD), float(message.jobstopMJD)
            done = max(done, min(1.0, (float(message.visibilityMJD) - begin) / (end - begin)))
        bar = "#" * int(done * WIDTH)
        print(f"\r{self.name} [{bar:<{WIDTH}}] {100 * done:3.0f} % {message.state:<12}", end="", flush=True)


def main(v2d: str, vex: str, folder: str, where: str = "localhost:50200") -> int:
    with reached(where, folder) as address:
        passes = DiFXvex2difx.Client()
        passes.connect(*address)
        if not passes.socketOK:
            return 1
        passes.monitor()
        passes.waitTime(600.0)
        passes.versionRequest()
        passes.mkdir(folder)
        for path in (v2d, vex):
            passes.sendFile(f"{folder}/{Path(path).name}", Path(path).read_bytes())
        print(f"{passes.serverVersion}, versions of DiFX: {', '.join(passes.availableVersion) or 'none'}")
        print("files:", *(passes.ls(folder) or ["none"]))
        made: list[str] = []
        passes.errorCallback(lambda text: print("error:", text))
        passes.newFileCallback(made.append)
        passes.passPath(folder)
        passes.v2dFile(Path(v2d).name)
        passes.runVex2Difx()
        jobs = [path for path in made if path.endswith(".input")]
        print("made:", *(Path(path).name for path in made))

        difx = DiFXJobControl.Client(passes)
        difx.errorCallback(lambda text: print("\nerror:", text))
        difx.messageSelection(["DifxStatusMessage"])
        difx.relayPackets()
        good = bool(jobs)
        for path in jobs:
            name = Path(path).stem
            difx.inputFile(path)
            if not difx.getMachines():
                difx.machinesDefinition(path, "localhost", ["localhost"] * 2, [("localhost", 2)])
            difx.addRelayCallback(Progress(name))
            job = difx.newJob()
            job.start()
            print()
            good = good and job.finalMessage() == 101
        when, states = difx.jobStatus(f"{folder}/*.input")
        for path, (moment, state) in states or []:
            print(f"{when}: {Path(path).name}: {state.strip()} ({moment})")
        passes.close()
    return 0 if good else 1


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
