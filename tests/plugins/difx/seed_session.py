"""The session of DiFX's documentation, in its own forms, over what `connect` reaches; run by test_seed.py."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mpiframe.compat import DiFXControl, DiFXFileTransfer, DiFXJobControl, DiFXvex2difx


def run_all(folder: str, address: tuple[Any, ...], sample: Path) -> None:
    """Each part of the documentation, one after the other, in a folder of the server's."""
    versions_and_environment(address)
    files(folder, address)
    passive(address)
    make_jobs(folder, address, sample)
    run_jobs(f"{folder}/tiny_1.input", address)


def versions_and_environment(address: tuple[Any, ...]) -> None:
    difx = DiFXControl.Client()
    difx.connect(address)
    difx.monitor()
    difx.versionRequest()
    difx._waitFor(lambda: difx.channelResponse)  # the documentation sleeps for a second
    assert str(difx.serverVersion).startswith("mpiframe")
    assert difx.serverUser
    assert difx.availableVersion == ["STAND-IN"]
    for key in difx.serverEnvironment:
        print(key + " = " + difx.serverEnvironment[key])
    difx.version("STAND_IN")
    assert difx.versionPreference == "STAND-IN"
    difx.close()


def files(folder: str, address: tuple[Any, ...]) -> None:
    difx = DiFXFileTransfer.Client()
    difx.connect(*address)
    difx.monitor()
    assert difx.sendFile(f"{folder}/newfile", "this is the file data") == 21
    assert difx.getFile(f"{folder}/newfile") == "this is the file data"
    difx.mkdir(f"{folder}/new/directory")
    difx.rmdir(f"{folder}/new/directory")
    difx.rm(f"{folder}/new", "-r")
    difx.mv(f"{folder}/newfile", f"{folder}/moved")
    dirlist = difx.ls(folder, "-l")
    assert dirlist is not None
    assert [line.split()[-1] for line in dirlist if not line.startswith("total")] == ["moved"]
    assert difx.ls("/full/path", "-l") is None
    difx.close()


def passive(address: tuple[Any, ...]) -> None:
    import select

    difx = DiFXControl.Client()
    difx.connect(*address)
    difx.passiveMonitor()
    difx.versionRequest()
    assert difx.monitorThread is not None
    while not difx.channelResponse:
        ready, _, _ = select.select([difx.sock], [], [], 20.0)
        assert ready
        difx.monitorThread.newPacket()
    difx.close()


def make_jobs(folder: str, address: tuple[Any, ...], sample: Path) -> None:
    difx = DiFXvex2difx.Client()
    difx.connect(address)
    difx.monitor()
    difx.waitTime(60.0)
    for name in ("tiny.vex", "tiny.v2d"):
        difx.sendFile(f"{folder}/{name}", (sample / name).read_text())
    made: list[str] = []
    done = threading.Event()
    difx.passPath(folder)
    difx.v2dFile("tiny")  # without its extension, as the documentation has it
    difx.newFileCallback(made.append)
    difx.processCompleteCallback(done.set)
    difx.runVex2Difx(False)
    assert done.wait(60.0)
    assert made == [f"{folder}/tiny_1.input", f"{folder}/tiny_1.im"]
    made.clear()
    difx.calcOnly(True)
    difx.jobName("tiny_*")
    difx.runVex2Difx()
    assert made == [f"{folder}/tiny_1.im"]
    difx.close()


def run_jobs(path: str, address: tuple[Any, ...]) -> None:
    difx = DiFXJobControl.Client()
    difx.connect(*address)
    difx.monitor()
    difx.waitTime(300.0)
    difx.inputFile(path)
    difx.headNode("localhost")
    difx.clearDataSources()
    difx.addDataSource("localhost")
    difx.addDataSource("localhost")
    difx.addProcessor("localhost", 3)
    difx.defineMachines()
    assert difx.getMachines()
    assert (difx.headNode(), difx.dataSources()) == ("localhost", ["localhost", "localhost"])
    assert [node[0] + " " + str(node[1]) for node in difx.processors()] == ["localhost 3"]

    said: list[str] = []
    difx.messageCallback(said.append)
    difx.warningCallback(lambda text: said.append("WARNING: " + str(text)))
    difx.errorCallback(lambda text: said.append("ERROR: " + str(text)))
    progress: list[float] = []

    def relayed(self: object, data: str) -> None:  # with the `self` that the documentation has
        message: Any = DiFXControl.parseXML(data)
        if message.typeStr == "DifxStatusMessage" and message.identifier == "tiny_1":
            if message.state in ("Done", "MpiDone"):
                progress.append(100.0)
            elif message.jobstartMJD is not None and message.visibilityMJD is not None:
                begin, end = float(message.jobstartMJD), float(message.jobstopMJD)
                progress.append(100.0 * (float(message.visibilityMJD) - begin) / (end - begin))

    difx.messageSelection(["DifxAlertMessage", "DifxStatusMessage"])
    difx.addRelayCallback(relayed)
    difx.relayPackets()
    job = difx.newJob()
    job.start()
    assert job.jobComplete
    assert job.finalMessage() == 101, (job.finalMessage(), said)
    assert "Job ended gracefully" in said
    assert progress
    assert progress[-1] == 100.0
    again = difx.newJob()
    again.start(False)
    until(lambda: again.jobComplete)
    again.closeChannel()
    statusInfo: Any = difx.jobStatus(f"{path.rsplit('/', 1)[0]}/*.input")
    assert [(item[0], item[1][1].strip()) for item in statusInfo[1]] == [(path, "Done")]
    spectra(difx)
    difx.close()


def until(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60.0
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)  # as the documentation's own class does


def spectra(difx: DiFXJobControl.Client) -> None:
    """The output that is there is told of as that of a running job would be."""
    came = threading.Event()
    lags: list[tuple[int, float]] = []

    def lagCallback() -> None:
        seen: Any = difx
        lags.append((len(seen.meanLag), seen.meanLagSnr))
        came.set()

    difx.monitorDataCallbacks(None, None, None, None, None, lagCallback)
    difx.startMonitor()
    products = difx.getMonitorProducts()
    assert products
    assert products[0][6] >= 1
    assert [one[:2] for one in products[0][7]] == [("FD", "OV")]
    difx.requestProducts((0, 1))
    difx.runWithMonitor(True)
    assert came.wait(60.0)
    assert lags[0][0] > 0
    difx.stopMonitor()


if __name__ == "__main__":
    from mpiframe import Client

    with Client() as client:
        DiFXControl.mpi_mode_on(client, 1, roots=[sys.argv[1]], mpirun=sys.argv[3])
        run_all(sys.argv[1], ("not used", 1), Path(sys.argv[2]))
        DiFXControl.mpi_mode_off()
    print("all of it, over MPI")
