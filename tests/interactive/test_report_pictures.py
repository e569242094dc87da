"""The FX example's trace names the busiest server truly; the picture is one that can be looked at."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from mpiframe import cli
from mpiframe.report.analysis import analyse
from mpiframe.report.reading import read
from mpiframe.report.words import headline
from tests.interactive.test_trace import load
from tests.unit.test_report import command, filled, spell
from tests.unit.test_trace_file import runs

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

COUNTED = f"""
import json, os, sys, time
sys.path.insert(0, {str(EXAMPLES)!r})
import fx_correlator
import mpiframe

def counted(fn, item):
    start = time.time()
    value = fn(item)
    return os.getpid(), time.time() - start, value

class Counting:
    '''A client that counts, apart from any trace, for how long each server works.'''

    def __init__(self, client):
        self.client, self.busy = client, {{s.pid: 0.0 for s in client.servers}}
        self.ranks = {{s.pid: s.rank for s in client.servers}}
        self.servers = client.servers

    def push(self, command, target=None, block=False):
        responses = self.client.push(command, target=target, block=True)
        pids = {{rank: pid for pid, rank in self.ranks.items()}}
        for r in responses:
            self.busy[pids[r.server]] += r.finished_at - r.started_at
        return responses

    def map(self, fn, items, ordered=True, progress=False):
        from functools import partial
        for pid, seconds, value in self.client.map(partial(counted, fn), items, ordered=ordered, chunksize=1):
            self.busy[pid] += seconds
            yield value

with mpiframe.Client() as client:
    counting = Counting(client)
    options = fx_correlator.parse(["--mib", "12", "--frames-per-command", "60", "--no-check"])
    status = fx_correlator.main(counting, options)
    busy = {{counting.ranks[pid]: seconds for pid, seconds in counting.busy.items()}}
    open("busy.json", "w").write(json.dumps(busy))
    sys.exit(status)
"""


def test_the_trace_of_the_fx_example_names_the_busiest_server(launcher, capsys) -> None:
    world = launcher.start(COUNTED, 4, options=("--trace", "run.json"))
    world.wait(180).expect(0)
    path = world.folder / "run.json"
    events = load(path)  # valid Trace Event JSON
    counted = {int(k): v for k, v in json.loads((world.folder / "busy.json").read_text()).items()}
    found = analyse(read(str(path)))
    ours = {s.rank: s.busy for s in found.servers}
    assert ours == pytest.approx(counted, rel=0.02, abs=0.02)
    assert counted[found.busiest.rank] == pytest.approx(max(counted.values()), rel=0.02, abs=0.02)
    names = {name for name, _, _ in found.names}
    assert any("counted" in name for name in names), names
    assert len(runs(events)) == len(found.trace)
    assert cli.main(["report", str(path)]) == 0
    said = capsys.readouterr().out
    assert f"busiest: server {found.busiest.rank}@" in said.replace("\n", " ")
    assert headline(found).split(";")[0] in said.replace("\n", " ")
    check_png(world.folder / "run.png")


def check_png(path: Path) -> None:
    """Of a size that can be read, and not blank."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    assert 1000 <= width <= 2000
    assert 800 <= height <= 4000
    from matplotlib import image

    pixels = image.imread(path)
    assert len({tuple(p) for p in pixels[::7, ::7, :3].reshape(-1, 3).round(2).tolist()}) > 20


@pytest.mark.parametrize("servers", [1, 3, 40, 200])
@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_pictures_of_small_and_large_worlds(tmp_path: Path, servers: int, ending: str) -> None:
    path = tmp_path / "run.json"
    long = command(9000, 1, 0.0, 1.0, 1.5, out=1 << 25, back=1 << 20, name="<lambda> $x_1$ & more " * 9)
    path.write_text(spell([*filled(servers, 10, 0.05), long], servers))
    picture = tmp_path / f"run.{ending}"
    assert cli.main(["report", str(path), "-o", str(picture)]) == 0
    assert picture.stat().st_size > 10_000
    if ending == "png":
        check_png(picture)


def test_a_picture_of_a_form_that_is_not_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.json"
    path.write_text(spell(filled(2, 3, 0.1), 2))
    assert cli.main(["report", str(path), "-o", str(tmp_path / "run.docx")]) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert cli.main(["report", str(path), "-o", str(tmp_path / "no" / "run.png")]) == 2
    assert "No such file" in capsys.readouterr().err
