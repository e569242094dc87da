"""Pilots in real worlds, what takes long: run by `launch/test --grid`."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

from mpiframe.plugins.grid import Database
from tests.plugins.grid.test_pilots import fill, surroundings

__all__ = ["surroundings"]  # a fixture


DOWN = """
import mpiframe, os, time

def work(token):
    open(f"ran-{token.id}", "w").close()
    while not os.path.exists("go"):
        time.sleep(0.01)
    return token["n"]

with mpiframe.Client() as client:
    grid = client.plugin("grid", token_type="t")
    report = grid.pilot(run=work)
    assert (report.done, report.error) == (12, 0), report
    print("all well")
"""


def test_a_database_that_is_away_for_a_while_loses_nothing(
    launcher: Any, surroundings: dict[str, str], own_couch: Any
) -> None:
    database = Database("x", own_couch.url)
    database.create()
    tokens = fill(database, 12)
    where = {"PICAS_URL": own_couch.host_url, "PICAS_DB": "x", "PICAS_USR_PWD": own_couch.password}
    world = launcher.start(DOWN, 3, env=surroundings | where)
    while len(list(world.folder.glob("ran-*"))) < 2:
        assert world.process.poll() is None, world.said()
        time.sleep(0.01)
    own_couch.stop()
    (world.folder / "go").touch()
    starting = threading.Timer(3.0, own_couch.start)  # longer than a request is repeated
    starting.start()
    try:
        assert world.wait(90).expect(0).stdout == "all well\n"
    finally:
        starting.join()
    tokens.fetch()
    assert [one["result"] for one in tokens] == list(range(12))


REPLACED = """
import os, signal, time
import mpiframe

def work(token):
    if token["n"] % 40 == 20 and not token.get("scrub_count"):
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)
    return os.getpid()

with mpiframe.Client(restart="always") as client:
    grid = client.plugin("grid", token_type="t")
    pids = {one.pid for one in client.servers}
    ranks = set()
    report = grid.pilot(run=work, on_token=lambda rank, run: ranks.add(rank))
    assert len(report.lost) == 4, report
    assert (report.done, report.error) == (160, 0), report
    assert ranks == {1, 2}, ranks
    print("all well", report.lost)
"""


def test_servers_that_are_replaced_go_on(
    launcher: Any, surroundings: dict[str, str], database: Database, tmp_path: Path
) -> None:
    tokens = fill(database, 160)
    ended = launcher.run(REPLACED, 3, options=("--resilient",), env=surroundings, seconds=100).expect(0)
    assert ended.stdout.startswith("all well"), ended.said
    done = tokens.list_view("done")
    assert len(done) == 160
    assert len({one["result"] for one in done}) > 2  # processes


SHARED = """
import mpiframe, os, time

def work(token):
    time.sleep(0.02)
    return os.getpid()

with mpiframe.Client() as client:
    grid = client.plugin("grid", token_type="t")
    open("ready", "w").close()
    report = grid.pilot(run=work)
    assert report.error == 0, report
    assert report.done > 0, report
    print("done", report.done)
"""


def test_two_worlds_share_the_tokens(launcher: Any, surroundings: dict[str, str], database: Database) -> None:
    tokens = fill(database, 300)
    worlds = [launcher.start(SHARED, 3, env=surroundings) for _ in range(2)]
    counts = [int(world.wait(100).expect(0).stdout.split()[1]) for world in worlds]
    assert sum(counts) == 300
    assert tokens.overview() == {"todo": 0, "locked": 0, "done": 300, "error": 0}
    assert not [one.id for one in tokens.list_view("done") if "late_results" in one]
