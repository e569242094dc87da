"""A run with --trace leaves a file that is what the run was, also if somebody was killed."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from mpiframe import cli
from mpiframe.report.analysis import analyse
from mpiframe.report.reading import Trace, read
from mpiframe.trace_file import CLIENT_PID
from tests.unit.test_trace_file import check, phases, runs

LONG = pytest.mark.long

MUCH = """
import json, sys, time
import numpy
import mpiframe

def spin(seconds):
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass
    return seconds

with mpiframe.Client() as client:
    for r in client.push("__import__('os').environ.get('MPIFRAME_TRACE')", target="all", block=True):
        assert r.ret is None  # a run within this one would write there, too
    busy = {rank: 0.0 for rank in (1, 2, 3)}
    ids = [client.push(spin, target=rank, parameters={"seconds": 0.01 * rank}) for rank in (1, 2, 3, 2, 2)]
    ids += [client.push(f"{n} + 1") for n in range(20)]
    ids.append(client.push("1/0", target=1))
    responses = client.get(ids)
    for r in responses:
        busy[r.server] += r.finished_at - r.started_at
    assert sum(client.map(abs, range(-5000, 0))) == 12502500
    big = numpy.zeros(1 << 20)
    got = client.push("big * 2", target=3, parameters={"big": big}, block=True)[0]
    busy[got.server] += got.finished_at - got.started_at
    assert client.spmd(lambda comm: comm.allreduce(1)) == [3, 3, 3]
    late = client.submit(time.sleep, 30, target=1, timeout=1.5)
    queued = client.submit(time.sleep, 30, target=1)
    assert queued.cancel()
    assert isinstance(late.exception(), mpiframe.CommandTimeout)
    client.push("0", target=1, block=True)  # until its server is free again
    print(json.dumps({"busy": busy, "ids": ids, "got": got.id, "late": ids[-1]}))
"""


def load(path: Path) -> list[dict[str, Any]]:
    data = path.read_bytes()
    events: list[dict[str, Any]] = json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)
    check(events)
    return events


def busy_in(trace: Trace, ids: list[int]) -> dict[str, float]:
    found: dict[str, float] = {}
    for row, id in enumerate(trace.id):
        if id in ids:
            rank = str(trace.server[row])
            found[rank] = found.get(rank, 0.0) + float(trace.finished[row] - trace.started[row])
    return found


@pytest.mark.parametrize("name", ["run.json", pytest.param("run.json.gz", marks=LONG)])
def test_a_trace_is_what_the_run_was(launcher, name: str) -> None:
    world = launcher.start(MUCH, 4, options=("--trace", name))
    told = json.loads(world.wait().expect(0).stdout)
    path = world.folder / name
    events = load(path)
    names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert re.fullmatch(r"client @\S+", names.pop(CLIENT_PID))
    assert all(re.fullmatch(rf"server {rank}@\S+", name) for rank, name in names.items())
    assert sorted(names) == [1, 2, 3]

    ran = runs(events)
    assert set(told["ids"]) <= ran.keys()
    assert ran[told["late"]]["args"]["status"] == "failed"
    for id in told["ids"]:
        assert {"queue", "send", "answer"} <= {phase for phase, _, _ in phases(events, id)}
    got = ran[told["got"]]
    assert (got["args"]["out"], got["args"]["back"]) == (8 << 20, 8 << 20)
    assert any(run["name"].startswith("abs [") for run in ran.values())
    assert [run["name"] for run in ran.values()].count("<lambda>") == 3  # spmd
    ends = [e["name"] for e in events if e["ph"] == "i"]
    assert sorted(ends) == ["cancelled", "timeout"]
    late = [run for run in ran.values() if run["args"]["status"] == "timeout"]
    assert len(late) == 1
    assert 0.05e6 < late[0]["dur"] < 20e6
    assert {e["name"] for e in events if e["ph"] == "C"} >= {"queue", "shared queue"}
    assert any(e["ph"] == "f" for e in events)

    trace = read(str(path))
    assert trace.whole
    assert busy_in(trace, [*told["ids"], told["got"]]) == pytest.approx(told["busy"], abs=1e-4)
    assert trace.facts["missing"] == 0
    assert cli.main(["report", "--text", str(path)]) == 0


KILLED = """
import contextlib, os, signal, sys, time
import mpiframe
from mpiframe.report.reading import read

def written():
    with contextlib.suppress(mpiframe.MpiframeError, OSError):  # there is nothing of it yet
        return len(read(sys.argv[1]))
    return 0

with mpiframe.Client() as client:
    for n in range(300):
        client.push(f"{n}", block=True)
    client.push("import time; time.sleep(60)", target=1)
    while written() < 300:  # what was seen is handed over by and by, and the writer has time
        time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("name", ["run.json.gz", pytest.param("run.json", marks=LONG)])
def test_a_client_that_is_killed_leaves_a_file_that_loads(launcher, name: str) -> None:
    world = launcher.start(KILLED.replace("sys.argv[1]", repr(name)), 3, options=("--trace", name))
    assert world.wait().status != 0
    path = world.folder / name
    trace = read(str(path))
    assert len(trace) == 300
    assert len(analyse(trace).servers) == 2
    if trace.whole:  # the writer has seen the client go, and was not killed with the rest
        load(path)
    elif name == "run.json":
        check(json.loads(path.read_text() + "]"))


CLOCKS = """
import mpiframe

def set_clock(ahead):
    import time
    from mpiframe import server
    server.clock = lambda: time.time() + ahead

with mpiframe.Client() as client:
    client.push(set_clock, target=2, parameters={"ahead": 3600.0}, block=True)
    for n in range(600):
        client.push("import time; time.sleep(1e-4)", target=1 + n % 2, block=True)
"""


@LONG
def test_a_server_whose_clock_is_an_hour_ahead(launcher) -> None:
    world = launcher.start(CLOCKS, 3, env={"MPIFRAME_TRACE": "run.json"})
    world.wait().expect(0)
    events = load(world.folder / "run.json")
    (clock,) = [e["args"] for e in events if e["name"] == "mpiframe_clock"][-1:]
    assert abs(clock["offset"] - 3600) <= clock["error"] + 1e-5
    assert clock["error"] < 0.05
    spans = sorted((run["ts"], run["ts"] + run["dur"], run["pid"]) for run in runs(events).values())[-500:]
    # They took turns, so the rows interlock once the clock is known.
    assert [pid for _, _, pid in spans] == [spans[0][2], 3 - spans[0][2]] * 250
    assert max(end for _, end, _ in spans) < 60e6


@LONG
def test_a_file_that_cannot_be_written_is_told_before_anything_is_run(launcher) -> None:
    script = "import mpiframe\nclient = mpiframe.Client()\nprint('begun')"
    ended = launcher.run(script, 2, options=("--trace", "no/such/folder/run.json")).expect(1)
    assert ended.stdout == ""
    assert re.search(r"the trace \S*/no/such/folder/run.json cannot be written: No such file", ended.stderr)


RESILIENT = """
import os, signal, time
import mpiframe

client = mpiframe.Client()
client.push("1", target=[1, 2], block=True)
lost = client.submit(lambda: os.kill(os.getpid(), 9), target=1)
assert isinstance(lost.exception(), mpiframe.ServerLost)
client.restart(1)
client.push("2", target=[1, 2], block=True)
client.close()
"""


@LONG
def test_a_lost_server_and_its_replacement_are_in_the_trace(launcher) -> None:
    world = launcher.start(RESILIENT, 3, options=("--resilient", "--trace", "run.json"))
    world.wait().expect(0)
    events = load(world.folder / "run.json")
    assert [(e["name"], e["pid"]) for e in events if e["ph"] == "i"] == [("lost", 1)]
    assert sorted((run["name"], run["pid"]) for run in runs(events).values()) == [
        ("1", 1),
        ("1", 2),
        ("2", 1),
        ("2", 2),
    ]


@LONG
def test_a_trace_that_ctrl_c_ends_has_its_end(launcher) -> None:
    script = """
    import time
    import mpiframe
    with mpiframe.Client() as client:
        client.push("1", target="all", block=True)
        open("ready", "w").close()
        client.push("import time; time.sleep(60)", target=1, block=True)
    """
    world = launcher.start(script, 3, options=("--trace", "run.json"))
    world.await_file("ready")
    os.kill(world.process.pid, signal.SIGINT)
    world.wait().expect(130)
    events = load(world.folder / "run.json")
    assert sum(run["name"] == "1" for run in runs(events).values()) == 2
    assert read(str(world.folder / "run.json")).whole
