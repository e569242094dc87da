"""What limited a run, for traces made up so that the answer is known; and files that are no whole traces."""

from __future__ import annotations

import gzip
import json
import random
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpiframe import cli
from mpiframe.errors import WorldError
from mpiframe.report import default_output
from mpiframe.report.analysis import REASONS, RUNNING, Analysis, analyse, busy_until, merged
from mpiframe.report.reading import Trace, read
from mpiframe.report.words import headline, limits, notes, text
from mpiframe.trace_file import BEGIN, CLOSE, END, SAMPLE, Writer

START = 1.8e9
MIB = 2**20


def command(
    id: int,
    rank: int | None,
    queued: float,
    started: float,
    finished: float,
    *,
    sent: float | None = None,
    ended: float | None = None,
    out: int = 0,
    back: int = 0,
    anywhere: bool = True,
    name: str = "f",
    status: str = "done",
) -> tuple[Any, ...]:
    """A record; it leaves 50 us before it starts and is heard of 50 us after its end, if nothing is said."""
    sent = max(started - 5e-5, queued) if sent is None else sent
    ended = finished + 5e-5 if ended is None else ended
    times = [START + t for t in (queued, sent, started, finished, ended)]
    return (END, id, status, rank, name, *times, out, back, anywhere, None)


def spell(records: Iterable[tuple[Any, ...]], servers: int = 4, *, close: bool = True) -> str:
    """The text of a trace."""
    parts: list[str] = []
    writer = Writer(parts.append)
    hosts = {rank: ("here", 100 + rank, True) for rank in range(1, servers + 1)}
    facts = {"mpi": "Open MPI v5", "host": "here", "command": ["script.py", "-x"], "servers": hosts}
    writer.take([(BEGIN, START, facts), *records])
    if close:
        writer.take([(CLOSE, START + 100, 0)])
        writer.finish()
    return "".join(parts)


Make = Callable[..., Trace]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def made(records: Iterable[tuple[Any, ...]], servers: int = 4) -> Trace:
        path = tmp_path / "run.json"
        path.write_text(spell(records, servers))
        return read(str(path))

    return made


def main_reason(found: Analysis) -> str:
    return max(REASONS, key=lambda key: found.spent[key])


def filled(servers: int, count: int, seconds: float, first: int = 1, at: float = 0.0) -> list[Any]:
    """So many commands one after the other on each server, all pushed at once."""
    records = []
    for number in range(count):
        for rank in range(1, servers + 1):
            begin = at + 1e-3 + number * (seconds + 1e-4)
            records.append(
                command(first + len(records), rank, at + len(records) * 1e-6, begin, begin + seconds)
            )
    return records


# -- what limited it ---------------------------------------------------------------------------------


def test_servers_that_are_busy_all_the_time_are_what_limits(make: Make) -> None:
    found = analyse(make(filled(4, 50, 0.02)))
    assert found.spent[RUNNING] > 0.97
    assert limits(found)[0].startswith("The servers: they ran commands for 9")
    assert len(limits(found)) == 1


def test_a_script_that_pushes_nothing(make: Make) -> None:
    found = analyse(make(filled(4, 5, 0.02) + filled(4, 5, 0.02, first=100, at=2.0)))
    assert main_reason(found) == "unpushed"
    assert found.spent["unpushed"] == pytest.approx((2.0 - 0.1) / found.seconds, abs=0.02)
    assert limits(found)[0].startswith("The script: for 9")
    assert "nothing was pushed" in limits(found)[0]


def test_commands_that_are_pushed_now_and_then_while_one_goes_on(make: Make) -> None:
    records = [command(1, 1, 0, 0.001, 3.0)]
    records += [command(2 + n, 2 + n % 3, 0.1 * n, 0.1 * n + 1e-3, 0.1 * n + 0.02) for n in range(29)]
    found = analyse(make(records))
    assert main_reason(found) == "unpushed"


def test_a_script_that_waits_for_each_command(make: Make) -> None:
    records = [command(n, 1, 0.05 * n, 0.05 * n + 1e-4, 0.05 * n + 0.049) for n in range(1, 60)]
    found = analyse(make(records))
    assert main_reason(found) == "few"
    assert found.spent["few"] == pytest.approx(0.75, abs=0.03)
    assert "fewer than there are servers (4)" in limits(found)[0]


def test_a_client_that_cannot_keep_up(make: Make) -> None:
    # One every 10 us for four servers, which need 5 us; the client hears of the ends when it has a moment.
    records = []
    for n in range(20_000):
        at = 1e-5 * n
        records.append(command(n + 1, 1 + n % 4, at, at + 2e-5, at + 2.5e-5, sent=at + 2e-6, ended=at + 2e-4))
    found = analyse(make(records))
    assert main_reason(found) == "client"
    assert found.spent["client"] > 0.8
    assert limits(found)[0].startswith("The client: for 8")
    rate = re.search(r"managed about ([\d,]+) a second", limits(found)[0])
    assert rate is not None
    assert float(rate[1].replace(",", "")) == pytest.approx(100_000, rel=0.02)


def test_transfers(make: Make) -> None:
    records = []
    for n in range(40):
        at = n // 4 * 0.8
        begin = at + 0.5 + 1e-3 * (n % 4)
        records.append(
            command(
                n + 1, 1 + n % 4, 0.0, begin, begin + 0.1, sent=at, ended=begin + 0.25, out=64 * MIB, back=MIB
            )
        )
    found = analyse(make(records))
    assert main_reason(found) == "transfer"
    assert found.spent["transfer"] == pytest.approx(0.65 / 0.8, abs=0.04)
    assert limits(found)[0].startswith("Transfers: for 8")
    assert "2.5 GiB in all" in limits(found)[0]
    assert [t.size for t in found.transfers] == [64 * MIB] * 10
    assert found.transfers[0].seconds == pytest.approx(0.5, abs=0.01)


def test_one_server_for_which_all_is_pushed(make: Make) -> None:
    records = [command(n + 1, 3, 0.0, 0.05 * n + 1e-3, 0.05 * n + 0.049, anywhere=False) for n in range(40)]
    records += [command(101 + n, 1 + n % 2, 1e-3, 2e-3 + 0.01 * n, 0.01 * n + 0.01) for n in range(8)]
    found = analyse(make(records))
    assert found.busiest.rank == 3
    assert main_reason(found) == "elsewhere"
    said = limits(found)[0]
    assert said.startswith("One server: for 7")
    assert "server 3@here was the busiest (9" in said
    assert "40 commands pushed for it" in said


def test_a_few_long_commands_at_the_end(make: Make) -> None:
    records = filled(4, 10, 0.02)
    records.append(command(99, 2, 1e-5, 0.25, 2.25, name="the_long_one"))
    found = analyse(make(records))
    assert main_reason(found) == "stragglers"
    assert found.spent["stragglers"] == pytest.approx(0.75 * 2 / 2.25, abs=0.03)
    assert found.busiest.rank == 2
    said = limits(found)[0]
    assert said.startswith("A few long commands: for 6")
    assert "the longest was the_long_one (2 s, request 99)" in said


def test_where_nothing_stands_out_it_is_said(make: Make) -> None:
    records = filled(4, 10, 0.0225)
    records += [command(90, 1, 0.0, 0.25, 0.27)]
    found = analyse(make(records))
    found.spent.update(dict.fromkeys(REASONS, 0.05), running=0.7)
    assert limits(found) == [
        "Nothing stands out: the servers ran commands for 70% of the time, and waited for many things, each "
        "for less than a tenth of it."
    ]


def test_the_shares_of_a_server_are_its_whole_time(make: Make) -> None:
    for records in (filled(4, 5, 0.02), [command(1, 2, 0, 1, 2, out=MIB)]):
        for server in analyse(make(records)).servers:
            assert sum(server.spent.values()) == pytest.approx(1.0)
            assert min(server.spent.values()) >= 0.0


@pytest.mark.parametrize("seed", range(8))
def test_the_busiest_is_named_truly(make: Make, seed: int) -> None:
    """Commands in the background overlap, and time is not counted twice."""
    chance = random.Random(seed)
    records, covered = [], dict.fromkeys((1, 2, 3, 4), 0)
    for rank in covered:
        marks = np.zeros(2000, bool)
        for _ in range(chance.randrange(1, 60)):
            begin, length = chance.randrange(1, 1900), chance.randrange(1, 99)
            marks[begin : begin + length] = True
            times = begin / 1024, (begin + length) / 1024
            records.append(command(len(records) + 1, rank, 0.0, *times, sent=0.0))
        covered[rank] = int(marks.sum())
    chance.shuffle(records)
    found = analyse(make(records))
    assert {s.rank: pytest.approx(s.busy * 1024, abs=0.1) for s in found.servers} == covered
    assert covered[found.busiest.rank] == max(covered.values())
    assert f"busiest: server {found.busiest.rank}@here" in headline(found)
    for server in found.servers:
        assert server.busy_in.mean() * found.seconds == pytest.approx(server.busy, rel=1e-3)


def test_stretches_that_overlap_are_merged() -> None:
    begin, end = merged(np.array([5.0, 0, 1, 1.5, 9]), np.array([6.0, 2, 1.2, 3, 9]))
    assert begin.tolist() == [0, 5, 9]
    assert end.tolist() == [3, 6, 9]
    assert busy_until(begin, end, np.array([-1.0, 1, 4, 5.5, 20])).tolist() == [0, 1, 3, 3.5, 4]
    assert busy_until(np.empty(0), np.empty(0), np.zeros(2)).tolist() == [0, 0]


def test_waits_names_and_ends(make: Make) -> None:
    records = [
        command(1, 1, 0.0, 1.0, 1.5, sent=0.9, ended=1.7, name="load [0...]"),
        command(2, 2, 0.0, 1.0, 3.5, sent=0.9, ended=3.7, name="load [16...]"),
        command(3, 1, 0.0, 2.0, 2.5, sent=0.5, ended=2.6, status="failed", name="g"),
        (END, 4, "cancelled", None, "h", START, None, None, None, START + 2, 0, 0, True, None),
        (SAMPLE, START + 2, 0, {1: 0}, 0.5),
    ]
    found = analyse(make(records))
    assert found.waits["queue"].tolist() == pytest.approx([0.9, 0.9, 1.5], abs=1e-6)
    assert found.waits["send"].tolist() == pytest.approx([0.1, 0.1, 0.5], abs=1e-6)
    assert found.waits["answer"].tolist() == pytest.approx([0.2, 0.2, 0.1], abs=1e-6)
    assert [(name, count) for name, count, _ in found.names] == [("load", 2), ("g", 1)]
    assert notes(found) == ["Of the requests 1 failed, 1 cancelled."]


# -- as text -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_the_text_fits(make: Make, width: int) -> None:
    records = [
        *filled(4, 5, 0.02),
        command(99, 2, 0, 1.0, 2.0, out=MIB, name="a_function_with_a_long_name_" * 3),
    ]
    lines = text(analyse(make(records)), width).splitlines()
    assert max(map(len, lines)) <= max(width, 40)
    for head in ("What limited the run", "Commands by the time they ran", "Largest transfers"):
        assert head in lines


def test_the_subcommand_prints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.json"
    path.write_text(spell(filled(4, 5, 0.02)))
    assert cli.main(["report", "--text", str(path)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("20 commands on 4 servers in 101 ms; servers busy 9")
    assert "wrote" not in said
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "mpiframe.report.picture", raising=False)
    assert cli.main(["report", str(path)]) == 2
    assert "pip install 'mpiframe[interactive]', or ask for --text" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_the_picture_lies_beside_the_trace() -> None:
    assert default_output("a/run.json.gz") == "a/run.png"
    assert default_output("run.json") == "run.png"
    assert default_output("trace") == "trace.png"


# -- files -------------------------------------------------------------------------------------------


def same(a: Trace, b: Trace) -> bool:
    return all(np.array_equal(a.columns[name], b.columns[name]) for name in a.columns) and a.names == b.names


def test_a_file_that_lacks_its_end_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    whole = spell(filled(4, 50, 0.02))
    path = tmp_path / "run.json"
    for cut in range(2000, len(whole), 3777):
        path.write_text(whole[:cut])
        trace = read(str(path))
        assert not trace.whole
        assert len(trace) <= 200
    assert len(trace) > 150
    assert notes(analyse(trace))[0] == "The trace lacks its end: the run was ended by force, or goes on."


def test_a_compressed_file_that_lacks_its_end(tmp_path: Path) -> None:
    path = tmp_path / "run.json.gz"
    data = gzip.compress(spell(filled(4, 500, 0.02)).encode())
    path.write_bytes(data)
    assert read(str(path)).whole
    path.write_bytes(data[: len(data) // 2])
    trace = read(str(path))
    assert not trace.whole
    assert 0 < len(trace) < 2000


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("key", [None, "traceEvents"])
def test_what_another_program_has_written_anew_is_read(tmp_path: Path, indent: int, key: str | None) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.write_text(spell(filled(4, 5, 0.02)))
    events = json.loads(ours.read_text())
    theirs.write_text(json.dumps({key: events} if key else events, indent=indent))
    assert same(read(str(ours)), read(str(theirs)))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "it is no JSON"),
        (b"hello\n", "it is no JSON"),
        (b"\x1f\x8b\x08\x00rubbish", "it is no JSON"),
        (b"[]", "nothing in it says so"),
        (b'[{"ph":"M","name":"process_name","pid":7,"args":{"name":"other"}}]', "nothing in it says so"),
        (b'[\n{"ph":"X","cat":"run","name":"x","pid":1,"ts":1,"dur":1,"args":{}}\n]', "an event lacks"),
        (b"[\nnonsense\n]", "it is no JSON"),
    ],
)
def test_what_is_no_trace_is_refused(tmp_path: Path, data: bytes, why: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(data)
    with pytest.raises(WorldError, match="is no trace that `mpiframe run --trace` has written: " + why):
        read(str(path))


def test_a_trace_without_commands_and_a_file_that_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.json"
    path.write_text(spell([]))
    assert cli.main(["report", str(path)]) == 2
    assert "no command was run in it" in capsys.readouterr().err
    assert cli.main(["report", str(tmp_path / "none")]) == 2
    assert "No such file" in capsys.readouterr().err
