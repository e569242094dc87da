"""Recorded sessions of DiFX's own guiServer and client, played to our gateway and to our client.

The same packets come in the same order, but for times, names, the environment, and what `ls -l` says of
sizes. What a program says and what a job multicasts have no order between them; each has its own.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpiframe.compat import DiFXControl, DiFXJobControl, DiFXvex2difx
from mpiframe.plugins.difx.gateway import Gateway, GatewayOptions
from mpiframe.plugins.difx.multicast import Group
from mpiframe.plugins.difx.protocol import Id, Packet, Reader, write_int, write_packet
from tests.plugins.difx.recorded.transcript import Recorded, read

SECONDS = 60.0
HERE = Path(__file__).parent
RECORDED = HERE / "recorded" / "programs.py"


class Packets:
    """Packets of a socket, one by one."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._reader = Reader(whole=True, longest=1 << 30)
        self._found: list[Packet] = []

    def next(self) -> Packet:
        while not self._found:
            data = self.connection.recv(1 << 16)
            assert data, "the connection was closed"
            self._found += self._reader.feed(data)
        return self._found.pop(0)

    def send(self, packet: Recorded) -> None:
        self.connection.sendall(write_packet(packet.id, packet.packet_data))


def shown(number: int, data: bytes, channel: int, base: str) -> tuple[int, int, str]:
    """A packet without what may differ."""
    text = data.decode("latin-1")
    text = re.sub(r"\w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d \d{4}", "TIME", text)
    text = re.sub(r"\btotal \d+", "total", text)
    text = re.sub(r"^([-dl]\S{9}) .* (\S+)$", r"\1 \2", text, flags=re.MULTILINE)
    text = text.replace(f"{base}/bin/rungeneric.DIFX-DEVEL", "")
    if number in (Id.VERSION, Id.DIFX_BASE) or text.startswith("executing: "):
        text = "NAME"
    return number, channel, text


def comparable(packets: list[tuple[int, bytes, int]], base: str) -> list[tuple[int, int, str]]:
    """The packets but those of the environment, in which lengths of what may differ are left out too."""
    made = [shown(*one, base) for one in packets if one[0] not in (Id.ENVIRONMENT, Id.USER)]
    result = []
    for place, one in enumerate(made):
        following = made[place + 1][2] if place + 1 < len(made) else ""
        if (
            one[0] == Id.CHANNEL_DATA
            and len(one[2]) == 4
            and re.search(r"TIME|^total|^[-dl]\S{9} ", following)
        ):
            one = (*one[:2], "LENGTH")
        result.append(one)
    return result


# -- our gateway, the recorded client -------------------------------------------------------------


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Gateway, int]]:
    """A gateway where the recording was made: DIFX-DEVEL, the programs, a folder with a .v2d file."""
    base, programs = tmp_path / "difx", tmp_path / "programs"
    (base / "bin").mkdir(parents=True)
    programs.mkdir()
    folder = tmp_path / "data" / "exp0" / "exp1"
    folder.mkdir(parents=True)
    (tmp_path / "nonexistent").mkdir()
    for name in ("tiny.v2d", "tiny.vex", "tiny.fd.filelist", "tiny.ov.filelist"):
        shutil.copy(HERE / "data" / "real_run_tiny" / name, folder)
    setup = base / "bin" / "rungeneric.DIFX-DEVEL"
    setup.write_text('#!/bin/sh\nexec "$@"\n')
    setup.chmod(0o755)
    for name in ("vex2difx", "difxcalc_f", "checkmpifxcorr", "mpirun"):
        path = programs / name
        path.write_text(f'#!/bin/sh\nexec {sys.executable} {RECORDED} {name} "$@"\n')
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("RECORDED_ROOT", str(tmp_path))
    monkeypatch.setenv("DIFX_BASE", str(base))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.1", 0))
        monkeypatch.setenv("DIFX_MESSAGE_PORT", str(one.getsockname()[1]))
    monkeypatch.setenv("DIFX_MESSAGE_GROUP", "239.77.1.2")
    options = GatewayOptions([str(tmp_path)], group=Group.find(), judge_by_stderr=True)
    with Gateway(options) as gateway:
        yield gateway, gateway.listen(port=0)


@pytest.mark.parametrize("name", ["smoke", "flow"])
def test_the_gateway_answers_a_recorded_client_as_the_guiserver_did(
    name: str, tmp_path: Path, session: tuple[Gateway, int]
) -> None:
    _, port = session
    wanted: list[tuple[int, bytes, int]] = []
    found: list[tuple[int, bytes, int]] = []
    relayed: tuple[list[bytes], list[bytes]] = ([], [])
    recording = read(name, str(tmp_path))
    connection = None
    for one in recording:
        if one.from_client:
            if one.id == Id.CHANNEL_ALL_DATA_ON:  # each client began with it
                if connection is not None:
                    connection.connection.close()
                connection = Packets(socket.create_connection(("127.0.0.1", port), SECONDS))
            assert connection is not None
            connection.send(one)
            continue
        if one.id == Id.ENVIRONMENT:
            continue
        if one.id == Id.RELAY:
            relayed[0].append(one.data)
            continue
        assert connection is not None
        wanted.append((one.id, one.data, one.channel))
        while True:
            packet = connection.next()
            if packet.id == Id.RELAY:
                relayed[1].append(packet.data)
            elif packet.id not in (Id.ENVIRONMENT, Id.USER):
                break
        found.append((packet.id, packet.data, packet.channel))
        base = str(tmp_path / "difx")
        # As soon as one differs: what is waited for after that may never come.
        assert shown(*found[-1], base)[:2] == shown(*wanted[-1], base)[:2], (found[-3:], wanted[-3:])
    base = str(tmp_path / "difx")
    assert comparable(found, base) == comparable(wanted, base)
    assert relayed[1] == relayed[0]
    if connection is not None:
        connection.connection.close()


# -- our client, the recorded server --------------------------------------------------------------


class RecordedServer:
    """Sends what the guiServer sent, after it was sent what the client did, which has to be the same."""

    def __init__(self, packets: list[Recorded]) -> None:
        self.wrong: list[str] = []
        self._packets = packets
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.settimeout(SECONDS)
        self.port = self._listening.getsockname()[1]
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        connection: Packets | None = None
        try:
            for one in self._packets:
                if one.from_client and one.id == Id.CHANNEL_ALL_DATA_ON:
                    if connection is not None:
                        connection.connection.close()
                    connection = Packets(self._listening.accept()[0])
                    connection.connection.settimeout(SECONDS)
                assert connection is not None
                if not one.from_client:
                    connection.send(one)
                    continue
                packet = connection.next()
                ours = (packet.id, packet.channel, packet.data)
                if ours != (one.id, one.channel, one.data):
                    self.wrong.append(f"{ours} and not {(one.id, one.channel, one.data)}")
        except (OSError, AssertionError) as error:
            self.wrong.append(repr(error))
        finally:
            if connection is not None:
                connection.connection.close()
            self._listening.close()

    def end(self) -> None:
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()
        assert self.wrong == []


def test_the_client_asks_a_recorded_server_for_files_as_the_original_did() -> None:
    server = RecordedServer(read("smoke", ""))
    difx = DiFXControl.Client()
    difx.connect("127.0.0.1", server.port)
    difx.monitor()
    difx.waitTime(SECONDS)
    difx.version()
    assert (difx.serverVersion, difx.difxBase, difx.serverUser) == ("DEVELr7531", "/opt/difx/base", None)
    assert (difx.availableVersion, difx.versionPreference) == (["DIFX-DEVEL"], "DIFX-DEVEL")
    assert difx.getenv("DIFX_MESSAGE_PORT") == "50201"
    assert difx.runFile() == "/opt/difx/base/bin/rungeneric.DIFX-DEVEL"
    folder = "/data/exp0/smoke"
    difx.rm(folder, "-rf")
    difx.mkdir(f"{folder}/a/b")
    assert difx.ls(folder, "-l") == ["total 4", "drwxr-xr-x 3 root root 4096 Nov 21 09:53 a"]
    assert difx.ls("/nonexistent/x", "-l") is None
    assert difx.sendFile(f"{folder}/t.txt", "hello\nworld\n") == 12
    assert difx.getFile(f"{folder}/t.txt") == "hello\nworld\n"
    assert difx.getFile(f"{folder}/nope.txt") is None
    difx.mv(f"{folder}/t.txt", f"{folder}/a/u.txt")
    difx.cp(f"{folder}/a/u.txt", f"{folder}/a/v.txt")
    difx.touch(f"{folder}/a/w.txt")
    difx.rmdir(f"{folder}/a/b")
    assert difx.ls(f"{folder}/a") == ["u.txt", "v.txt", "w.txt"]
    assert difx.jobStatus("/data/exp0/*.input", True) == ("Sat Nov 21 09:53:39 2026", [])
    server.end()
    difx.close()


def test_the_client_runs_a_job_at_a_recorded_server_as_the_original_did() -> None:
    server = RecordedServer(read("flow", ""))
    passes = DiFXvex2difx.Client()
    passes.connect(("127.0.0.1", server.port))
    passes.monitor()
    passes.waitTime(SECONDS)
    passes.version()
    made: list[str] = []
    done: list[int] = []
    passes.newFileCallback(made.append)
    passes.processCompleteCallback(lambda: done.append(1))
    folder = "/data/exp0/exp1"
    passes.passPath(folder)
    passes.v2dFile("tiny.v2d")
    passes.calcCommand("difxcalc_f")
    passes.runVex2Difx()
    assert (made, done) == ([f"{folder}/tiny_1.input", f"{folder}/tiny_1.im"], [1])
    listed = passes.ls(folder, "-1")
    assert listed is not None
    assert len(listed) == 11
    passes.close()

    difx = DiFXJobControl.Client()
    said: list[tuple[str, str | None]] = []
    for kind in ("message", "warning", "error"):
        getattr(difx, f"{kind}Callback")(lambda text, kind=kind: said.append((kind, text)))
    difx.connect("127.0.0.1", server.port)
    difx.monitor()
    difx.waitTime(SECONDS)
    states: list[tuple[str | None, ...]] = []

    def relayed(text: str) -> None:
        message = DiFXControl.parseXML(text)
        if isinstance(message, DiFXControl.DifxStatusMessage):
            states.append((message.identifier, message.state, message.visibilityMJD))

    difx.addRelayCallback(relayed)
    difx.relayPackets()
    difx.inputFile(f"{folder}/tiny_1.input")
    difx.setHeadNode("vm")
    difx.addDataSource("vm")
    difx.addDataSource("vm")
    difx.addProcessor("vm", 2)
    difx.defineMachines()
    assert [text for _, text in said] == [
        "Machines definition process started on guiServer.",
        "Checking parameters.",
        f'Will create .machines file "{folder}/tiny_1.machines".',
        f'Will create .threads file "{folder}/tiny_1.threads".',
        "Parameter check complete.",
        f'Machines file "{folder}/tiny_1.machines" created.',
        f'Threads file "{folder}/tiny_1.threads" created.',
        "Machines definition ended gracefully.",
    ]
    said.clear()
    assert difx.getMachines()
    assert (difx.headNode(), difx.dataSources(), difx.processors()) == ("vm", ["vm", "vm"], [("vm", 2)])
    job = difx.newJob()
    job.start()
    assert (job.jobComplete, job.finalMessage()) == (True, 120)
    assert said[:6] == [
        ("message", "Start parameter check"),
        ("message", "Running configuration check."),
        ("message", f"No errors with input file {folder}/tiny_1.input"),
        ("message", "Configuration test passed."),
        ("message", "Parameter check was successful"),
        ("message", "Starting DiFX"),
    ]
    assert ("error", None) in said  # an empty line
    assert said[-2:] == [("message", "Job complete"), ("warning", "Job ended with errors")]
    assert [state for _, state, _ in states] == ["Starting", "Ending", *["Running"] * 4, "Done"]
    assert states[2] == ("tiny_1", "Running", "60022.8750029")
    output = difx.ls(f"{folder}/tiny_1.difx", "-l")
    assert output is not None
    assert output[0] == "total 124"
    assert difx.jobStatus(f"{folder}/*.input") == (
        "Sat Nov 21 09:53:45 2026",
        [(f"{folder}/tiny_1.input", ("Sat Nov 21 09:53:44 2026", "Done  "))],
    )
    server.end()
    difx.close()


def test_a_recording_is_read_with_lengths_that_fit() -> None:
    packets = read("flow", "")
    items = [one for one in packets if one.channel >= 0 and not one.from_client]
    paths = [place for place, one in enumerate(items) if one.data == b"/data/exp0/exp1/tiny_1.input"]
    assert paths
    assert all(items[place - 1].data == write_int(28) for place in paths)
