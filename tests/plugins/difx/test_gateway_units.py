"""The gateway, Mark 5 units, lists of data files, and tests of nodes, on stand-ins for the programs.

Each as packets, and through the clients of mpiframe.compat, which have no methods of their own for these.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mpiframe.compat import DiFXJobControl
from mpiframe.compat._difx_packets import Frames
from mpiframe.plugins.difx.gateway import Gateway, GatewayOptions
from mpiframe.plugins.difx.multicast import Group
from mpiframe.plugins.difx.protocol import Id, framed_items, read_int, write_counted, write_int
from mpiframe.plugins.difx.versions import Versions
from tests.plugins.difx.peers import SECONDS, Peer, connected

Said = list[tuple[int, str]]
Ask = Callable[..., Said]
ENDS = {100, 101, 302, 304}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """What clients may use."""
    made = tmp_path / "root"
    made.mkdir()
    return made


@pytest.fixture
def directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the directories of modules are, on all units."""
    made = tmp_path / "directories"
    made.mkdir()
    monkeypatch.setenv("MARK5_DIR_PATH", str(made))
    return made


@pytest.fixture
def port(root: Path, group: Group, versions: Versions, mpirun: str) -> Iterator[int]:
    """Of a gateway."""
    options = GatewayOptions([str(root)], base=versions.base, group=group, launchers=(mpirun,))
    with Gateway(options) as gateway:
        yield gateway.listen(port=0)


@pytest.fixture(params=[pytest.param("packets", marks=pytest.mark.long), "compat"])
def ask(request: pytest.FixtureRequest, port: int) -> Iterator[Ask]:
    """Sends a command, or packet, and gives the packets of its reply; `answer` to one with this number."""
    if request.param == "packets":
        peer = Peer(port)
        peer.send(Id.CHANNEL_ALL_DATA_ON)

        def by_packets(kind: str | Id, body: str | bytes, answer: tuple[int, int] | None = None) -> Said:
            if isinstance(body, bytes):
                peer.send(kind, body + write_int(7))  # type: ignore[arg-type]
            else:
                peer.command(str(kind), f"{body}<port>7</port>")
            found: Said = []
            frames = Frames()
            while not found or found[-1][0] not in ENDS:
                item = peer.until(lambda one: one.channel == 7).data
                for number, data in frames.feed(item):
                    found.append((number, text_of(number, data)))
                    if answer and number == answer[0]:
                        peer.send(Id.CHANNEL_DATA, write_int(7) + write_int(answer[1]))
            return found

        yield by_packets
        peer.close()
        return
    difx = connected(port)

    def by_compat(kind: str | Id, body: str | bytes, answer: tuple[int, int] | None = None) -> Said:
        found: Said = []
        frames = Frames()

        def take(item: bytes) -> None:
            for number, data in frames.feed(item):
                found.append((number, text_of(number, data)))
                if answer and number == answer[0]:
                    difx.sendChannelData(channel, write_int(answer[1]))

        channel = difx.newChannel(take)
        if isinstance(body, bytes):
            difx.sendPacket(int(kind), body + write_int(channel))
        else:
            difx.sendCommandPacket(str(kind), f"{body}<port>{channel}</port>")
        assert difx._waitFor(lambda: found and found[-1][0] in ENDS), found
        difx.closeChannel(channel)
        return found

    yield by_compat
    difx.close()


def text_of(number: int, data: bytes) -> str:
    return str(read_int(data)) if number == 110 and len(data) == 4 and data < b"\1" else data.decode()


# -- Mark 5 units ---------------------------------------------------------------------------------


def test_a_command_for_a_unit(ask: Ask) -> None:
    body = "<mark5Command>getvsn</mark5Command><targetNode>{}</targetNode>".replace("mark5Command", "command")
    assert ask("DifxMk5Control", body.format("mark5fx01")) == [
        (102, ""),
        (108, "mark5fx01 : getvsn : OK"),
        (101, ""),
    ]
    assert ask("DifxMk5Control", body.format("silent")) == [
        (102, ""),
        (110, "silent does not answer"),
        (110, "mk5control ended with status 1"),
        (101, ""),
    ]
    for unit in ("-x", "a; touch b"):
        (_, told, end) = ask("DifxMk5Control", body.format(unit))
        assert (told[0], end) == (110, (101, ""))
        assert "no name of a Mark 5 unit" in told[1]


def directory_of(vsn: str, generate: int = 0) -> str:
    return f"<mark5>localhost</mark5><vsn>{vsn}</vsn><generateNew>{generate}</generateNew>"


def test_the_directory_of_a_module(ask: Ask, directories: Path) -> None:
    path = f"{directories}/VLBA-004.dir"
    assert ask("DifxGetDirectory", directory_of("VLBA-004")) == [
        (301, ""),
        (303, path),
        (308, ""),
        (304, ""),
    ]
    made = ask("DifxGetDirectory", directory_of("VLBA-004", 1))
    assert made[:5] == [(301, ""), (311, ""), (312, "reading module VLBA-004"), (313, ""), (303, path)]
    assert re.fullmatch(r"\w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d 2\d{3}", made[5][1])
    lines = Path(path).read_text().splitlines()
    assert made[5][0] == 307
    assert made[6:] == [(309, ""), *((310, line) for line in lines), (302, "")]
    assert len(lines) == 3
    # What is there is told of without being made anew.
    assert ask("DifxGetDirectory", directory_of("VLBA-004")) == [made[0], *made[4:]]


def test_a_module_that_cannot_be_read(ask: Ask, directories: Path) -> None:
    assert ask("DifxGetDirectory", directory_of("EMPTY", 1))[-2:] == [
        (314, "mk5dir ended with status 1"),
        (304, ""),
    ]
    for wrong in ("../secret", "-n"):
        (_, told, end) = ask("DifxGetDirectory", directory_of(wrong, 1))
        assert (told[0], end) == (314, (304, ""))
    assert not list(directories.iterdir())


def test_units_that_do_not_say_where_directories_are(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MARK5_DIR_PATH", raising=False)
    assert ask("DifxGetDirectory", directory_of("VLBA-004")) == [(301, ""), (306, ""), (304, "")]


def test_scans_are_copied(ask: Ask, root: Path) -> None:
    body = "<mark5>localhost</mark5><vsn>VLBA-004</vsn><scans>{}</scans><destination>{}</destination>"
    assert ask("DifxMark5Copy", body.format("1-2", root)) == [
        (301, ""),
        (312, "copied scan 1 of VLBA-004"),
        (312, "copied scan 2 of VLBA-004"),
        (302, ""),
    ]
    assert (root / "VLBA-004_2").read_text() == "scan 2 of VLBA-004"
    told = ask("DifxMark5Copy", body.format("9", root))
    assert (told[0], told[-1]) == ((301, ""), (304, ""))
    assert (314, "VLBA-004 has no scan 9") in told
    (_, why, end) = ask("DifxMark5Copy", body.format("1", root.parent))
    assert (why[0], end) == (314, (304, ""))
    assert not list(root.parent.glob("VLBA*"))


def test_without_the_programs_it_says_so(ask: Ask, versions: Versions, directories: Path) -> None:
    for name in ("mk5control", "mk5dir"):
        (Path(versions.base) / "programs" / name).unlink()
    told = ask("DifxMk5Control", "<command>getvsn</command><targetNode>a</targetNode>")
    assert any("mk5control" in text and "not found" in text for number, text in told if number == 110)
    assert told[-1] == (101, "")
    told = ask("DifxGetDirectory", directory_of("V", 1))
    assert told[-1] == (304, "")
    assert any("mk5dir" in text for number, text in told if number == 314)


# -- lists of data files --------------------------------------------------------------------------


def wanted(names: list[Path], to: Path, form: str = "VDIF_8000-512-16-2") -> bytes:
    """But for its port."""
    parts = [write_int(len(names)), *(write_counted(str(one).encode()) for one in names)]
    parts += [write_counted(str(to).encode()), write_counted(form.encode()), write_int(60022)]
    return b"".join([*parts, write_counted(b"127.0.0.1")])


@pytest.mark.parametrize("form", ["VDIF_8000-512-16-2", "MARK5B-512-16-2"])
def test_a_list_of_data_files(ask: Ask, root: Path, form: str) -> None:
    names = [root / name for name in ("b", "a", "c")]
    for name, times in zip(names, ("60022.8 60022.9", "60022.7 60022.8", "60022.8 60022.85"), strict=True):
        name.write_text(times)
    to = root / "list"
    rows = {
        name: f"{root}/{name} {times}"
        for name, times in (
            ("b", "60022.8000000 60022.9000000"),
            ("a", "60022.7000000 60022.8000000"),
            ("c", "60022.8000000 60022.8500000"),
        )
    }
    steps = [(111, rows["b"]), (110, "1"), (111, rows["a"]), (110, "2"), (111, rows["c"]), (110, "3")]
    begin = [(102, ""), (104, str(to))]
    assert ask(Id.GENERATE_FILELIST, wanted(names, to, form)) == [*begin, *steps, (101, "")]
    # Sorted by time; the two that begin at the same time are both there.
    assert to.read_text().splitlines() == [rows["a"], rows["b"], rows["c"]]

    to.write_text("before")
    asked = wanted(names[:1], to, form)
    assert ask(Id.GENERATE_FILELIST, asked, (103, 107)) == [(102, ""), (103, str(to)), (100, "")]
    assert to.read_text() == "before"
    told = ask(Id.GENERATE_FILELIST, asked, (103, 106))
    assert told == [(102, ""), (103, str(to)), (104, str(to)), *steps[:2], (101, "")]
    assert to.read_text() == f"{rows['b']}\n"


def test_a_list_that_cannot_be_made(ask: Ask, root: Path) -> None:
    good, bad = root / "good", root / "bad"
    good.write_text("60022.8 60022.9")
    bad.write_text("no data")
    secret = root.parent / "secret"
    secret.write_text("60022.8 60022.9")
    to = root / "list"
    told = ask(Id.GENERATE_FILELIST, wanted([bad, secret, root / "none", good], to))
    row = f"{good} 60022.8000000 60022.9000000"
    assert told[2:] == [(110, "1"), (110, "2"), (110, "3"), (111, row), (110, "4"), (112, ""), (101, "")]
    assert to.read_text() == f"{row}\n"
    for asked, number in (
        (wanted([good], root / "other", "K5-512-16-2"), 109),
        (wanted([good], root.parent / "list"), 105),
        (wanted([good], root / "no folder" / "list"), 108),
    ):
        told = ask(Id.GENERATE_FILELIST, asked)
        assert number in [one for one, _ in told], told
    assert sorted(one.name for one in root.parent.iterdir() if "list" in one.name) == []


# -- nodes ----------------------------------------------------------------------------------------


def test_nodes_are_tested(ask: Ask, root: Path) -> None:
    """One of them is not there: it is left out."""
    (root / "a.input").write_text("x")
    body = (
        f'<input>{root}/a.input</input><manager node="localhost"/><datastream nodes="localhost "/>'
        '<process nodes="localhost" threads="3"/><process nodes="nowhere.invalid" threads="2"/>'
        "<testProcessors>true</testProcessors>"
    )
    told = ask("DifxMachinesDefinition", body)
    assert sorted(told[5:8]) == [(119, "nowhere.invalid"), (120, "localhost"), (122, "")]
    assert [number for number, _ in told] == [
        102,
        103,
        111,
        110,
        104,
        122,
        *[n for n, _ in told[6:8]],
        115,
        116,
        101,
    ]
    assert (root / "a.machines").read_text() == "localhost\n" * 3
    assert (root / "a.threads").read_text().splitlines()[1:] == ["2"]


def test_nodes_are_tested_for_the_clients_of_jobs(port: int, root: Path) -> None:
    (root / "a.input").write_text("x")
    difx = DiFXJobControl.Client()
    said: list[str] = []
    difx.messageCallback(said.append)
    difx.warningCallback(said.append)
    difx.connect("127.0.0.1", port)
    difx.monitor()
    difx.waitTime(SECONDS)
    difx.testProcessors(True)
    nodes = [("localhost", 3), ("nowhere.invalid", 2)]
    difx.machinesDefinition(f"{root}/a.input", "localhost", ["localhost"], nodes)
    assert 'Node "localhost" passed the mpirun test.' in said
    assert 'Node "nowhere.invalid" failed the mpirun test.' in said
    assert (root / "a.machines").read_text() == "localhost\n" * 3
    difx.close()


def test_frames_are_as_they_were_sent() -> None:
    frames = Frames()
    items = framed_items(301) + framed_items(312, b"a line") + framed_items(302)
    assert [one for item in items for one in frames.feed(item)] == [(301, b""), (312, b"a line"), (302, b"")]
