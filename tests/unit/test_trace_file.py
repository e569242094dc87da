"""From records to events: every phase in its place, whatever the clocks say, and no bracket out of joint."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import marshal
import os
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from mpiframe import trace_file
from mpiframe.trace_file import BEGIN, CLIENT_PID, CLOSE, END, LATE, LENGTH, ROWS, SAMPLE, ServerClock, Writer

START = 1.8e9
FACTS = {"host": "here", "servers": {1: ("here", 11, True), 2: ("there", 12, False)}}

Event = dict[str, Any]


def end(
    id: int,
    started: float,
    finished: float,
    *,
    rank: int | None = 1,
    queued: float | None = None,
    sent: float | None = None,
    ended: float | None = None,
    status: str = "done",
    name: str = "f",
    out: int = 0,
    back: int = 0,
    free: bool = False,
    session: str | None = None,
    kind: int = END,
) -> tuple[Any, ...]:
    """A record; the times are seconds after the start, what is left out is a little before or after."""
    sent = started - 1e-4 if sent is None else sent
    queued = sent - 1e-5 if queued is None else queued
    ended = finished + 1e-4 if ended is None else ended
    times = [START + t for t in (queued, sent, started, finished, ended)]
    return (kind, id, status, rank, name, *times, out, back, free, session)


def write(*records: tuple[Any, ...], whole: bool = True) -> list[Event]:
    text: list[str] = []
    writer = Writer(text.append)
    writer.take([(BEGIN, START, FACTS), *records])
    if whole:
        writer.finish()
        events: list[Event] = json.loads("".join(text))
    else:
        events = json.loads("".join(text) + "]")
    check(events)
    return events


def check(events: list[Event]) -> None:
    """What the format asks for: fields, phases, brackets that match, rows without overlap."""
    open_: dict[Any, list[float]] = defaultdict(list)
    rows: dict[Any, list[tuple[float, float]]] = defaultdict(list)
    for event in events:
        assert event["ph"] in "XbeisfCM"
        assert {"ph", "name", "pid", "tid", "ts"} <= event.keys(), event
        assert event["ts"] >= 0
        if event["ph"] == "X":
            assert event["dur"] >= 0
            rows[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
        elif event["ph"] in "be":
            key = event["cat"], event["id"], event["pid"], event["name"]
            if event["ph"] == "b":
                assert not open_[key]
                open_[key].append(event["ts"])
            else:
                assert open_[key].pop() <= event["ts"]
    assert not any(open_.values())
    for (pid, _), spans in rows.items():
        if pid != CLIENT_PID:
            spans.sort()
            assert all(a[1] <= b[0] + 1e-6 for a, b in itertools.pairwise(spans)), spans


def runs(events: list[Event]) -> dict[int, Event]:
    return {e["args"]["id"]: e for e in events if e.get("cat") == "run"}


def phases(events: list[Event], id: int) -> list[tuple[str, float, float]]:
    """(name, from, to) in whole microseconds of the phases of a command beside its run."""
    mine = [e for e in events if e["ph"] in "be" and e["id"] == str(id)]
    return [(b["name"], round(b["ts"]), round(e["ts"])) for b, e in zip(mine[::2], mine[1::2], strict=True)]


def test_the_phases_of_a_command_for_an_idle_server() -> None:
    events = write(
        end(1, 3.0, 3.5, queued=1.0, sent=2.0, ended=4.0, out=7, back=9, name='say "ü"', free=True)
    )
    assert phases(events, 1) == [("queue", 1e6, 2e6), ("send", 2e6, 3e6), ("answer", 3.5e6, 4e6)]
    run = runs(events)[1]
    assert (run["ts"], run["dur"], run["pid"], run["name"]) == (3e6, 5e5, 1, 'say "ü"')
    assert run["args"] == {
        "id": 1,
        "status": "done",
        "queued": 1e6,
        "sent": 2e6,
        "free": 2e6,
        "taken": 3e6,
        "ended": 4e6,
        "out": 7,
        "back": 9,
        "any": 1,
    }
    sizes = {e["cat"]: e["args"]["bytes"] for e in events if e["ph"] == "b" and "bytes" in e["args"]}
    assert sizes == {"send": 7, "answer": 9}


def test_what_was_sent_ahead_waits_for_the_server_and_then_for_its_turn() -> None:
    # 2 and 3 travel in one message while the server is on 1.
    events = write(
        end(1, 1.0, 3.0),
        end(2, 3.1, 3.2, queued=1.5, sent=2.0),
        end(3, 3.3, 3.4, queued=1.5, sent=2.0),
    )
    assert phases(events, 2)[:2] == [("queue", 1.5e6, 3e6), ("send", 3e6, 3.1e6)]
    assert phases(events, 3)[:3] == [
        ("queue", 1.5e6, 3e6),
        ("send", 3e6, 3.1e6),
        ("queue", 3.1e6, 3.3e6),
    ]


def test_what_goes_on_in_the_background_gets_a_row_of_its_own() -> None:
    events = write(end(1, 1.0, 1.1), end(3, 2.0, 2.5), end(2, 1.2, 3.0), end(4, 3.1, 3.2))
    assert [runs(events)[id]["tid"] - ROWS for id in (1, 2, 3, 4)] == [0, 1, 0, 0]
    names = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert names == {ROWS: "commands", ROWS + 1: "in the background 1", CLIENT_PID: "push"}


def test_a_request_that_never_ran_has_waited_and_an_end() -> None:
    events = write(
        (END, 1, "cancelled", None, "f", START + 1, None, None, None, START + 2, 0, 0, True, None),
        (END, 2, "lost", 1, "g", START + 1, START + 1.5, None, None, START + 3, 0, 0, False, None),
    )
    ends = {e["args"]["id"]: e for e in events if e["ph"] == "i"}
    assert (ends[1]["name"], ends[1]["pid"], ends[1]["ts"]) == ("cancelled", CLIENT_PID, 2e6)
    assert (ends[2]["name"], ends[2]["pid"], ends[2]["ts"]) == ("lost", 1, 3e6)
    assert phases(events, 1) == [("queue", 1e6, 2e6)]
    assert phases(events, 2) == [("queue", 1e6, 1.5e6)]
    assert not runs(events)


def test_a_late_answer_shows_that_its_server_was_busy() -> None:
    events = write(
        (END, 1, "timeout", 1, "f", START + 1, START + 1, None, None, START + 2, 0, 0, True, None),
        end(1, 1.1, 2.5, queued=1.0, sent=1.0, status="timeout", kind=LATE),
    )
    assert round(runs(events)[1]["dur"]) == 1.4e6
    assert phases(events, 1) == [("queue", 1e6, 1e6)]


def test_long_commands_get_an_arrow_from_their_push() -> None:
    events = write(end(1, 1.0, 1.5, queued=0.5), end(2, 2.0, 2.0005))
    arrows = [(e["ph"], e["id"], e["pid"], e["ts"]) for e in events if e["ph"] in "sf"]
    assert arrows == [("s", "1", CLIENT_PID, 5e5), ("f", "1", 1, 1e6)]
    pushes = [(e["ts"], e["args"]["id"]) for e in events if e.get("cat") == "push" and e["ph"] == "X"]
    assert pushes == [(5e5, 1)]  # which the arrow leaves from


def test_a_command_of_a_session_says_whose_it_is() -> None:
    events = write(end((3 << 32) + 1, 1.0, 1.5, session='ann "1"'), end(2, 2.0, 2.5))
    assert runs(events)[1]["args"]["session"] == 'ann "1"'
    assert "session" not in runs(events)[2]["args"]


def test_queues_are_counted_when_they_change() -> None:
    events = write(
        (SAMPLE, START, 0, {1: 0, 2: 0}, 1.0),
        (SAMPLE, START + 1, 5, {1: 3, 2: 0}, 1.5),
        (SAMPLE, START + 2, 5, {1: 3, 2: 0}, 2.5),
        (SAMPLE, START + 3, 0, {1: 0, 2: 0}, 2.5),
    )
    counted = [(e["name"], e["pid"], e["ts"], *e["args"].values()) for e in events if e["ph"] == "C"]
    assert [c for c in counted if c[0] == "queue" and c[1] == 1] == [
        ("queue", 1, 0, 0),
        ("queue", 1, 1e6, 3),
        ("queue", 1, 3e6, 0),
    ]
    assert [c for c in counted if c[0] == "shared queue"] == [
        ("shared queue", CLIENT_PID, 0, 0),
        ("shared queue", CLIENT_PID, 1e6, 5),
        ("shared queue", CLIENT_PID, 3e6, 0),
    ]
    assert [c[2:] for c in counted if c[0] == "cpu"] == [(0, 0.5), (1e6, 1.0), (2e6, 0.0)]


# -- clocks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ahead", [-3600.0, -0.01, 0.0, 0.02, 5.0])
def test_another_hosts_clock_is_put_on_the_clients(ahead: float) -> None:
    records = []
    for n in range(300):
        at, way = 0.01 * n, 1e-4 * (1 + n % 7)
        started, finished = at + way + ahead, at + way + 0.005 + ahead
        records.append(end(n, started, finished, rank=2, sent=at, ended=at + 0.005 + 2.5 * way))
    events = write(*records)
    for n, run in runs(events).items():
        assert run["ts"] / 1e6 == pytest.approx(0.01 * n + 1e-4 * (1 + n % 7), abs=3e-4)
        assert run["dur"] / 1e6 == pytest.approx(0.005, abs=4e-4)
    (clock,) = [e["args"] for e in events if e["name"] == "mpiframe_clock"][-1:]
    assert abs(clock["offset"] - ahead) <= clock["error"] + 1e-6
    assert clock["error"] <= 2e-4


def test_what_is_held_until_the_clock_is_known_is_written_at_the_end() -> None:
    assert len(runs(write(end(1, 1.0, 1.1, rank=2)))) == 1


def test_on_the_clients_host_the_clock_is_its_own_unless_messages_prove_otherwise() -> None:
    same, set_ = ServerClock(True), ServerClock(True)
    same.learn(0.0, 0.4, 0.5, 0.6)
    set_.learn(0.0, 5.4, 5.5, 0.6)
    assert (same.offset, same.error) == (0.0, 0.0)
    assert set_.offset == pytest.approx(5.15)
    assert set_.error == pytest.approx(0.25)


def test_a_clock_that_drifts_is_followed() -> None:
    clock = ServerClock(False)
    for n in range(1000):
        at = float(n)
        ahead = 1e-4 * at
        clock.learn(at, at + 1e-3 + ahead, at + 2e-3 + ahead, at + 3e-3)
    assert clock.offset == pytest.approx(1e-4 * 1000, abs=3e-3)


def test_a_clock_that_is_set_is_followed_at_once() -> None:
    clock = ServerClock(True)
    clock.learn(0.0, 0.1, 0.2, 0.3)
    clock.learn(1.0, 1.1, 3601.2, 1.3)  # meanwhile
    clock.learn(2.0, 3602.1, 3602.2, 2.3)
    assert clock.offset == pytest.approx(3600.0)
    assert clock.error == pytest.approx(0.1)


def test_a_clock_that_was_set_back_breaks_nothing() -> None:
    write(end(1, 1.0, 2.0, sent=1.5, ended=1.2), end(2, 0.5, 0.4, sent=3.0), end(3, -9.0, -8.0))


# -- the process -------------------------------------------------------------------------------------


def frame(*records: tuple[Any, ...]) -> bytes:
    data = marshal.dumps(list(records))
    return LENGTH.pack(len(data)) + data


def begin(path: Path, kind: str = "plain") -> subprocess.Popen[bytes]:
    with open(path, "wb") as file:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", trace_file.__file__, kind, str(path)],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.PIPE,
        )


@pytest.mark.parametrize("kind", ["plain", "gzip"])
@pytest.mark.parametrize("how", ["closed", "in the midst of a batch"])
def test_a_file_is_whole_when_the_client_is_gone(tmp_path: Path, kind: str, how: str) -> None:
    path = tmp_path / "run.json"
    process = begin(path, kind)
    assert process.stdin is not None
    process.stdin.write(frame((BEGIN, START, FACTS), end(1, 1.0, 1.1)))
    process.stdin.write(frame(end(2, 1.2, 1.3), (CLOSE, START + 2, 4)))
    if how != "closed":
        process.stdin.write(frame(end(3, 1.4, 1.5))[:-5])
    process.stdin.flush()
    _, said = process.communicate(timeout=30)  # which closes its input
    assert (process.returncode, said) == (0, b"")
    data = path.read_bytes()
    events = json.loads(gzip.decompress(data) if kind == "gzip" else data)
    check(events)
    assert list(runs(events)) == [1, 2]
    assert [e["args"].get("missing") for e in events if e["name"] == "mpiframe"] == [None, 4]


def test_a_disk_that_is_full_is_told_and_the_run_goes_on() -> None:
    with open("/dev/full", "wb") as full:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", trace_file.__file__, "plain", "run.json"],
            stdin=subprocess.PIPE,
            stdout=full,
            stderr=subprocess.PIPE,
        )
    many = frame((BEGIN, START, FACTS), *[end(n, 1.0 + n, 1.5 + n) for n in range(2000)])
    _, said = process.communicate(many * 20, 60)  # all of it is taken
    assert process.returncode == 1
    assert said.decode() == f"mpiframe: the trace run.json is not whole: {os.strerror(28)}\n"


def test_nothing_at_all_is_an_empty_array() -> None:
    text: list[str] = []
    Writer(text.append).finish()
    assert json.loads("".join(text)) == []


def test_batches_end_where_the_pipe_does() -> None:
    data = frame((1, 2)) + frame((3,))
    assert list(trace_file.batches(io.BytesIO(data))) == [[(1, 2)], [(3,)]]
    assert list(trace_file.batches(io.BytesIO(data[:-1]))) == [[(1, 2)]]
    assert not list(trace_file.batches(io.BytesIO(data[:2])))


def test_each_event_is_a_line() -> None:
    text: list[str] = []
    writer = Writer(text.append)
    writer.take([(BEGIN, START, FACTS), *[end(n, 1.0 + n, 1.5 + n) for n in range(20)]])
    writer.finish()
    lines = "".join(text).splitlines()
    assert (lines[0], lines[-1]) == ("[", "]")
    kinds = Counter(json.loads(line.rstrip(","))["ph"] for line in lines[1:-1])
    assert kinds["X"] == 40
