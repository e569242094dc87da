#!/usr/bin/env python3
"""A correlator for jobs of DiFX: what mpifxcorr is, with an FX correlator of our own in it.

    mpirun -np 4 examples/fx_difx.py /data/exp/exp_1.input         under any mpirun, as DiFX's own
    difx.start_job("/data/exp/exp_1.input", program="/path/of/examples/fx_difx.py")

It reads JOB.input and JOB.im and the VDIF files that the first names, and writes JOB.difx; it sends the
messages that mpifxcorr sends, and ends when it hears a DifxStop. Rank 0 writes, all others correlate,
an integration each at a time. `fx/difx_job.py` says how, and what it does not do.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # so that every rank finds fx

from fx.difx_job import Files, check, correlate_integration, integrations

import mpiframe
from mpiframe.plugins.difx.formats import Input
from mpiframe.plugins.difx.formats.visibilities import file_name, write_records
from mpiframe.plugins.difx.messages import Message
from mpiframe.plugins.difx.messages_bodies import Alert, Status, Stop, Weight
from mpiframe.plugins.difx.messages_states import DifxState, Severity
from mpiframe.plugins.difx.multicast import Group, Listener, Sender


def correlate(files: Files, client: mpiframe.Client, say: Sender, stopped: threading.Event) -> int:
    job = Input.read(files.input)
    check(job)
    start = job.start_mjd + job.start_seconds / 86400
    stop = start + job.seconds / 86400

    def state(which: DifxState, done: float = 0.0, weights: tuple[float, ...] = ()) -> None:
        mjd = start + done / 86400 if weights else 0.0
        shares = tuple(Weight(index, share) for index, share in enumerate(weights))
        say.send(Status(None, which, "", mjd, start, stop, shares))

    state(DifxState.STARTING)
    folder = Path(files.input).with_suffix(".difx")
    folder.mkdir()
    count, step = integrations(job), job.configurations[0].integration_seconds
    with open(folder / file_name(job.start_mjd, int(job.start_seconds)), "wb", buffering=0) as out:
        pending = client.map(correlate_integration, [files] * count, range(count), buffersize=4)
        for one in pending:
            write_records(out, one.headers, one.spectra)
            state(DifxState.RUNNING, (one.number + 1) * step, one.weights)
            if stopped.is_set():
                state(DifxState.TERMINATING)
                state(DifxState.TERMINATED)
                return 0
    state(DifxState.DONE)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("input", metavar="JOB.input")
    parser.add_argument("--interface", default=os.environ.get("FX_INTERFACE", "lo"), help="of the messages")
    options = parser.parse_args()
    with mpiframe.Client() as client:
        group = Group.find(options.interface)
        name = Path(options.input).stem
        stopped = threading.Event()

        def heard(message: Message) -> None:
            if message.process == 0:
                stopped.set()

        with Sender(group, name, process=0) as say, Listener(group) as listener:
            listener.subscribe(heard, [Stop], [name])
            say.send(Alert(message=f"MPI Process 0 is running on host {socket.gethostname()}"))
            try:
                return correlate(Files.of(options.input), client, say, stopped)
            except Exception as error:
                say.send(
                    Alert(message=f"{type(error).__name__}: {error}"[:900], severity=int(Severity.FATAL))
                )
                raise


if __name__ == "__main__":
    sys.exit(main())
