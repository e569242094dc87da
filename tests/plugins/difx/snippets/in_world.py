"""A client of a world, which runs the snippets that it is asked for through a socket, over MPI.

in_world.py SOCKET ROOT MPIRUN          SOCKET: a path; lines of JSON go both ways
"""

from __future__ import annotations

import json
import os
import socket
import sys
import traceback
from pathlib import Path

from mpiframe import Client
from mpiframe.compat import DiFXControl
from mpiframe.plugins.difx.stopping import Patience
from tests.plugins.difx.snippets import clients, jobs
from tests.plugins.difx.snippets.here import SNIPPETS, Here

assert clients
assert jobs


def main(path: str, root: str, mpirun: str) -> None:
    with Client() as client, socket.socket(socket.AF_UNIX) as listening:
        calc = ["calcif2", "mycalcprocess"]
        # A job that hears has to be able to say so on a busy machine; one that does not takes all of this.
        patience = Patience(answer=3.0)
        DiFXControl.mpi_mode_on(client, 1, roots=[root], mpirun=mpirun, calc_programs=calc, patience=patience)
        listening.bind(f"{path}~")
        listening.listen()
        os.rename(f"{path}~", path)  # which is there from when one can connect to it
        connection, _ = listening.accept()
        with connection, connection.makefile("rw", encoding="utf-8") as lines:
            known = {one.name: one for one in SNIPPETS}
            for line in lines:
                name = json.loads(line)
                here = Here(Path(root) / name, None)
                wrong = None
                try:
                    known[name].run(here)
                except BaseException:  # told to the test; the next one is to be run, too
                    wrong = traceback.format_exc() + here.said()
                print(json.dumps(wrong), file=lines, flush=True)
        DiFXControl.mpi_mode_off()


if __name__ == "__main__":
    main(*sys.argv[1:])
