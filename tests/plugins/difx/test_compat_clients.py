"""The clients of mpiframe.compat for one task each, and the forms that only the code of DiFX has."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mpiframe.compat import (
    DiFXControl,
    DiFXFileTransfer,
    DiFXJobControl,
    DiFXJobStatus,
    DiFXls,
    DiFXvex2difx,
)
from mpiframe.plugins.difx.gateway import Gateway, GatewayOptions
from mpiframe.plugins.difx.gateway_peers import owner_of_peer
from mpiframe.plugins.difx.multicast import Group
from mpiframe.plugins.difx.protocol import Id
from mpiframe.plugins.difx.stopping import Patience
from mpiframe.plugins.difx.versions import Versions
from tests.plugins.difx.peers import SECONDS, connected
from tests.plugins.difx.snippets.here import processes, until

TASKS = (DiFXls, DiFXFileTransfer, DiFXJobStatus, DiFXvex2difx, DiFXJobControl)


@pytest.fixture
def gateway(tmp_path: Path, group: Group, versions: Versions, mpirun: str) -> Iterator[Gateway]:
    options = GatewayOptions([str(tmp_path)], base=versions.base, group=group, launchers=(mpirun,))
    with Gateway(options) as made:
        made.jobs.patience = Patience(answer=SECONDS)  # of jobs that all hear it
        yield made


@pytest.fixture
def difx(gateway: Gateway) -> Iterator[DiFXControl.Client]:
    made = connected(gateway.listen(port=0))
    yield made
    made.close()


@pytest.mark.parametrize("module", TASKS, ids=lambda module: module.__name__.rpartition(".")[2])
def test_a_task_uses_the_connection_of_a_client_or_one_of_its_own(
    module: Any, difx: DiFXControl.Client, gateway: Gateway, tmp_path: Path
) -> None:
    (tmp_path / "one").write_text("x")
    shared = module.Client(difx)
    assert shared.ls(f"{tmp_path}/one") == [f"{tmp_path}/one"]
    assert gateway.clients == 1
    shared.waitTime(SECONDS + 1)  # settings are of the connection
    assert difx._waitTime == SECONDS + 1
    own = module.Client()
    assert difx.sock is not None
    own.connect(difx.sock.getpeername())
    own.monitor()
    own.waitTime(SECONDS)
    assert own.getFile(f"{tmp_path}/one") == "x"
    assert gateway.clients == 2
    own.close()
    assert shared.sendFile(f"{tmp_path}/two", "more") == 4


def test_states_of_jobs_in_the_codes_form(difx: DiFXControl.Client, job: Path) -> None:
    for client in (difx, DiFXJobStatus.Client(difx)):
        when, states = client.jobStatus(f"{job}/*.input", True)
        assert when
        assert states is not None
        assert [(path, state) for path, (_, state) in states] == [(f"{job}/tiny_1.input", "Done  ")]
    assert difx.jobStatus(f"{job}/none*.input", shortStatus=True)[1] == []
    assert difx.jobStatus(f"{job}/*.input", True, waitToFinish=False) == (None, None)


def test_jobs_in_the_codes_forms(difx: DiFXControl.Client, job: Path, experiment: Path) -> None:
    passes = DiFXvex2difx.Client(difx)
    made: list[str] = []
    passes.newFileCallback(made.append)
    passes.passPath(str(experiment))
    passes.fileName("tiny.v2d")
    passes.runVex2Difx()
    passes.v2dFile("tiny.v2d")  # once more: an instance may run it any number of times
    passes.runVex2Difx()
    assert made == 2 * [f"{experiment}/tiny_1.input", f"{experiment}/tiny_1.im"]

    control = DiFXJobControl.Client(difx)
    path = made[0]
    steps: list[tuple[int, Any]] = []
    said: list[str] = []
    control.messageCallback(said.append)
    control.setMachinesDefCallback(lambda number, text: steps.append((number, text)), exclusive=True)
    control.inputFile(path)
    control.setHeadNode("localhost")
    control.addDataSource("localhost")
    control.addDataSource("localhost")
    control.addProcessor("localhost", 3)
    control.defineMachines()
    assert steps[0] == (control.MACHINE_DEF_TASK_STARTED, None)
    assert steps[-1] == (control.MACHINE_DEF_TASK_ENDED_GRACEFULLY, None)
    assert control.machinesFileName == f"{experiment}/tiny_1.machines"
    assert said == []
    # `start` of the client itself makes a job.
    run = control.start()
    assert run.finalMessage() == run.RUN_DIFX_JOB_ENDED_GRACEFULLY
    assert "Job ended gracefully" in said

    checked = control.newJob()
    told: list[int] = []
    checked.setStartCallback(lambda number, _: told.append(number), exclusive=True)
    checked.configOnly(True)
    checked.start()
    assert (checked.jobComplete, told[-1]) == (True, checked.RUN_DIFX_STOPPED_AFTER_CONFIG)
    kept = control.newJob()
    kept.forceJobStart(False)
    kept.start()
    assert kept.finalMessage() == kept.RUN_DIFX_JOB_TERMINATED
    assert "Deleting previous output" not in said


def test_what_was_asked_for_is_done_though_the_client_goes_at_once(
    gateway: Gateway, difx: DiFXControl.Client, job: Path
) -> None:
    """A job is started, and another client has it stopped; neither waits for anything."""
    assert difx.sock is not None
    (job / "tiny_1.machines").write_text("localhost\n" * 4)
    (job / "tiny_1.stand_in").write_text("slow")
    path = f"{job}/tiny_1.input"
    watching = DiFXJobControl.Client(difx)
    ended = threading.Event()
    running = threading.Event()

    def heard(text: str) -> None:
        message: Any = DiFXControl.parseXML(text)
        if message.typeStr == "DifxStatusMessage":
            for state, event in (("Running", running), ("Terminated", ended)):
                if message.state == state:  # which it hears its stop in; before, it takes its time
                    event.set()

    watching.addRelayCallback(heard)
    watching.relayPackets()
    watching.version("STAND-IN")
    for what, done in (("start", running), ("stop", ended)):
        client = DiFXJobControl.Client()
        client.connect(difx.sock.getpeername())
        client.channelData(True)
        client.inputFile(path)
        client.setHeadNode("localhost")
        client.addDataSource("localhost")
        client.addProcessor("localhost", 2)
        client.start(False) if what == "start" else client.stop()
        client.close()
        assert done.wait(SECONDS), what
    until(lambda: not processes(Path(path)))


def test_a_client_goes_when_the_server_has_taken_what_it_asked_for() -> None:
    """Else a gateway that is busy could not tell any more whose it was, and would not serve it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(SECONDS)
        difx = DiFXControl.Client()
        difx.connect(listening.getsockname())
        difx.rm("/data/exp/a")
        closing = threading.Thread(target=difx.close)
        closing.start()
        connection, _ = listening.accept()
        with connection:
            connection.settimeout(SECONDS)
            sent = b""
            while data := connection.recv(1000):
                sent += data
            assert b"/data/exp/a" in sent
            assert owner_of_peer(connection) == os.getuid()
        closing.join(SECONDS)
        assert not closing.is_alive()
    assert difx.sock is not None
    assert difx.sock.fileno() == -1


@pytest.mark.parametrize("form", [lambda heard: lambda code: heard.append(code), lambda heard: heard.clear])
def test_a_connection_that_breaks_or_was_none(
    form: Callable[[list[int]], Callable[..., object]],
    gateway: Gateway,
    difx: DiFXControl.Client,
    capsys: pytest.CaptureFixture[str],
) -> None:
    heard = [0]
    difx.addFailCallback(form(heard))  # with the code's argument, or without as the documentation says
    gateway.close()
    while heard == [0]:
        assert difx.monitorThread is not None
        difx.monitorThread.join(0.01)
    assert heard in ([0, difx.BROKEN_SOCKET], [])
    assert not difx.socketOK
    assert difx.ls("/") is None
    nobody = DiFXControl.Client()
    failed: list[int] = []
    nobody.addFailCallback(failed.append)
    with socket.socket() as bound:  # and does not listen
        bound.bind(("127.0.0.1", 0))
        nobody.connect("127.0.0.1", bound.getsockname()[1])
    assert (nobody.socketOK, failed) == (False, [nobody.FAILED_CONNECTION])
    assert "connection to the DiFX server failed" in capsys.readouterr().out
    nobody.monitor()
    assert "call connect() first" in capsys.readouterr().out
    nobody.close()


def test_where_to_connect_is_in_the_environment(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    port = str(gateway.listen(port=0))
    monkeypatch.delenv("DIFX_CONTROL_HOST", raising=False)  # then it is localhost
    for name in ("DIFX_CONTROL_PORT", "DIFX_MESSAGE_PORT"):
        monkeypatch.setenv(name, port)
        difx = DiFXControl.Client()
        difx.connect()
        assert difx.socketOK
        difx.close()
        monkeypatch.setenv(name, "")


def test_packets_of_a_channel_by_hand(difx: DiFXControl.Client, tmp_path: Path) -> None:
    state: Any = None
    for item in (b"\0\0\0\7", b"\0\0\0\3", b"ab", b"c"):
        state = difx.packetProtocol(item, state)
    assert state == (7, 3, b"abc", True)
    assert difx.packetProtocol(b"\0\0\0\0", difx.packetProtocol(b"\0\0\0\7", None)) == (7, 0, None, True)
    seen: list[int] = []
    difx.addAllCallback(lambda number, data: seen.append(number))
    difx.ls(str(tmp_path))
    assert seen[0] == Id.CHANNEL_CONNECTION
    assert set(seen[1:]) == {Id.CHANNEL_DATA}
