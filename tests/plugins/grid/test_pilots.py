"""The grid as a plugin of servers: pilots in real worlds, and what they do when servers are killed."""

from __future__ import annotations

import ast
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from mpiframe.plugins.grid import Database, Token, TokenList

ROOT = Path(__file__).resolve().parents[3]
LONG = bool(os.environ.get("MPIFRAME_TEST_GRID"))


def declared() -> str:
    """The entry points of setup.py, as an installed package has them."""
    for node in ast.walk(ast.parse((ROOT / "setup.py").read_text())):
        if isinstance(node, ast.keyword) and node.arg == "entry_points":
            groups = ast.literal_eval(node.value)
            return "\n".join(line for group, entries in groups.items() for line in [f"[{group}]", *entries])
    raise AssertionError("setup.py declares none")


@pytest.fixture
def surroundings(couch: Any, database: Database, tmp_path: Path) -> dict[str, str]:
    """The environment of a world that finds the plugin by its name, and the database as a user's would be."""
    made = tmp_path / "mpiframe-0.dist-info"
    made.mkdir()
    (made / "METADATA").write_text("Metadata-Version: 2.1\nName: mpiframe\nVersion: 0\n")
    (made / "entry_points.txt").write_text(declared())
    return {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)]),
        "PICAS_USR": couch.user,
        "PICAS_USR_PWD": couch.password,
        "PICAS_URL": couch.host_url,
        "PICAS_DB": database.name,
    }


def fill(database: Database, count: int) -> TokenList:
    tokens = TokenList("t", database, [Token("t", f"t_{i:03}") for i in range(count)])
    for number, one in enumerate(tokens):
        one["n"] = number
    tokens.save()
    tokens.add_views()
    return tokens


COMMANDS = """
import mpiframe, time
from mpiframe.plugins.grid import NotFound

with mpiframe.Client() as client:
    here = client.plugin("grid", target=1, token_type="t")
    ids = here.create([{"_id": f"t_{i}", "n": i} for i in range(12)])
    assert ids[:2] == ["t_0", "t_1"], ids
    assert here.overview() == {"todo": 12, "locked": 0, "done": 0, "error": 0}
    assert here.set("todo", "note", "x") == 12
    assert here.get("t_3")["note"] == "x"
    grid = client.plugin("grid", token_type="t")
    client.push("factor = 10", target="all", block=True)
    told, progress = [], []

    def work(token):
        if token["n"] == 5:
            raise LookupError("not here")
        return factor * token["n"]

    report = grid.pilot(run=work, max_tokens=8, on_token=lambda rank, run: told.append((rank, run)))
    assert len(report.runs) == len(told) == 8, report
    assert report.stopped == "8 tokens were run", report
    report = grid.pilot(run=work, on_progress=progress.append, progress=True)
    assert len(report.runs) == 4, report
    assert {rank for rank, _ in told} <= {1, 2}
    last = progress[-1]
    assert (last.todo, last.running, last.done, last.error) == (0, 0, 11, 1), last
    assert here.get("t_7")["result"] == 70
    assert here.reset("error") == 1
    report = grid.pilot(run=["sh", "-c", "exit 3"])
    assert (report.error, report.runs[0].exit_code) == (1, 3), report
    assert "t_5.json" in str(__import__("tarfile").open(here.archive(".")).getnames())
    for call, kind in (
        (lambda: grid.pilot(view="nothing", run=work), NotFound),
        (lambda: here.list("nothing"), NotFound),
    ):
        try:
            call()
        except mpiframe.CommandError as error:
            assert isinstance(error.__cause__, kind), repr(error.__cause__)
            assert "no view 'nothing'; it has done, error, locked, overview, todo" in str(error), error
        else:
            raise AssertionError("nothing was raised")
    for options in ({"max_tokens": 0}, {"attach": "*.png"}, {"run": None}):
        try:
            grid.pilot(**{"run": work, **options})
        except ValueError:
            continue
        raise AssertionError(options)
    print("all well")
"""


def test_the_plugin(launcher: Any, surroundings: dict[str, str]) -> None:
    ended = launcher.run(COMMANDS, 3, env=surroundings, seconds=100).expect(0)
    assert ended.stdout == "all well\n", ended.said
    assert surroundings["PICAS_USR_PWD"] not in ended.said
    assert re.search(r"\[#+\] 0 todo, 0 running, 11 done, 1 error, ", ended.stderr), ended.stderr


KILLED = """
import os, pathlib, signal, sys, time
from collections import Counter
import mpiframe

COUNT, LEASE = int(sys.argv[1]), 30.0

def work(token):
    if token["n"] in (20, 50) and not token.get("scrub_count"):
        os.kill(os.getpid(), signal.SIGKILL)     # with a token in its hands
    time.sleep(0.005)
    return {"square": token["n"] ** 2}

with mpiframe.Client() as client:
    grid = client.plugin("grid", token_type="t")
    before = time.monotonic()
    report = grid.pilot(run=work, lease_seconds=LEASE)
    took = time.monotonic() - before
    assert len(report.lost) == 2, report
    assert report.done == COUNT and report.error == 0, report
    twice = [id for id, times in Counter(run.id for run in report.runs).items() if times > 1]
    assert twice == [], twice
    print("all well", report)
"""


@pytest.mark.timeout(300)
def test_two_of_four_servers_are_killed_with_tokens_in_their_hands(
    launcher: Any, surroundings: dict[str, str], database: Database, tmp_path: Path
) -> None:
    count = 500 if LONG else 80
    tokens = fill(database, count)
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    ended = launcher.run(
        [str(script), str(count)], 5, options=("--resilient",), env=surroundings, seconds=150
    ).expect(0)
    assert ended.stdout.startswith("all well"), ended.said
    done = tokens.list_view("done")
    assert len(done) == count
    assert {one["n"]: one["result"]["square"] for one in done} == {n: n * n for n in range(count)}
    assert {one["n"]: one.get("scrub_count") for one in done if one.get("scrub_count")} == {20: 1, 50: 1}
    assert not [one.id for one in done if "late_results" in one]


INTERRUPTED = """
import os, signal, sys, threading, time
import mpiframe

with mpiframe.Client() as client:
    grid = client.plugin("grid", token_type="t")
    begun = []
    words = [sys.executable, "-c", "import sys, time; open(sys.argv[1], 'w').close(); time.sleep(600)",
             os.path.abspath("begun-") + "$N"]

    def watch():
        while len([name for name in os.listdir() if name.startswith("begun-")]) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=watch, daemon=True).start()
    try:
        grid.pilot(run=words, kill_seconds=1.0)
    except KeyboardInterrupt:
        print("interrupted")
    assert client.push("1 + 1", target="all", block=True)[1].ret == 2
    counts = grid.overview()[0]
    assert counts == {"todo": 5, "locked": 0, "done": 0, "error": 0}, counts
"""


def test_ctrl_c_gives_back_what_runs(launcher: Any, surroundings: dict[str, str], database: Database) -> None:
    tokens = fill(database, 5)
    for one in tokens:
        one["config.json"] = {"variables": {"_token_keys": {"$N": "n"}}}
    tokens.save()
    ended = launcher.run(INTERRUPTED, 3, env=surroundings).expect(0)
    assert "interrupted\n" in ended.stdout
    tokens.fetch()
    assert sorted(one.get("scrub_count", 0) for one in tokens) == [0, 0, 0, 1, 1]


TERMINATED = """
import os, sys, time
import mpiframe

with mpiframe.Client() as client:
    grid = client.plugin("grid", token_type="t")
    print("ready", flush=True)
    grid.pilot(run=[sys.executable, "-c", "open('begun', 'w').close(); import time; time.sleep(600)"],
               work_dir=os.getcwd(), kill_seconds=0.5)
"""


def test_a_world_that_is_ended_gives_back_what_runs(
    launcher: Any, surroundings: dict[str, str], database: Database
) -> None:
    tokens = fill(database, 1)
    world = launcher.start(TERMINATED, 2, env=surroundings)
    while not list(world.folder.glob("token-*/begun")) and world.process.poll() is None:
        assert world.process.returncode is None, world.said()
        time.sleep(0.01)
    world.process.terminate()
    assert world.wait(60).status != 0
    tokens.fetch()
    # Back at once, or by its lease where the MPI leaves its ranks no time.
    assert tokens[0].get("scrub_count") == 1 or tokens[0].category == "locked"


EXAMPLE = ROOT / "examples" / "lofar_pilots.py"


def test_the_example(launcher: Any, surroundings: dict[str, str], couch: Any, tmp_path: Path) -> None:
    server = os.environ.get("POUCHDB_SERVER")
    env = surroundings | ({"POUCHDB_SERVER": server} if server else {})
    words = [str(EXAMPLE)]
    if "MPIFRAME_COUCHDB_URL" in os.environ:  # nothing needs to be started then
        words += ["--url", couch.host_url]
    if not LONG:
        env["MPIFRAME_GFAL_PYTHON"] = str(tmp_path / "none")
    ended = launcher.run(words, 4, env=env).expect(0)
    lines = ended.stdout.splitlines()
    assert lines[0] == "51 links of L229507 at sara, 6 tokens"
    assert ("51 of 51 files on disk" if LONG else "only pretended") in ended.stdout
    assert "before: {'todo': 6, 'locked': 0, 'done': 0, 'error': 0}" in lines
    assert "after:  {'todo': 0, 'locked': 0, 'done': 6, 'error': 0}" in lines
    assert re.fullmatch(r"51 subbands on [123] servers", lines[-2])
    assert re.fullmatch(r"spectral index -0\.\d+ \+- 0\.0\d+, the source has -0\.7: right", lines[-1])


def test_the_example_without_a_server_for_tokens(
    launcher: Any, surroundings: dict[str, str], tmp_path: Path
) -> None:
    env = surroundings | {"POUCHDB_SERVER": "", "PATH": os.defpath}
    assert shutil.which("pouchdb-server", path=os.defpath) is None
    ended = launcher.run([str(EXAMPLE)], 2, env=env).expect(1)
    assert "npm install --ignore-scripts pouchdb-server" in ended.stderr


def test_what_the_readme_shows(launcher: Any, surroundings: dict[str, str], couch: Any) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (example,) = [one for one in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "grid.pilot(" in one]
    assert "https://couch.example.org:6984" in example
    example = example.replace("https://couch.example.org:6984", couch.host_url)
    example = example.replace('"mydb"', repr(surroundings["PICAS_DB"]))
    said = launcher.run(example, 3, env=surroundings).expect(0).stdout.splitlines()
    assert said[0].startswith("5 done, 0 in error; ")
    assert said[1] == "{'todo': 0, 'locked': 0, 'done': 5, 'error': 0}"


WRONG = """
import mpiframe
from mpiframe.plugins.grid import NotAllowed

with mpiframe.Client() as client:
    grid = client.plugin("grid", token_type="t")
    try:
        grid.pilot(run=abs)
    except mpiframe.CommandError as error:
        assert isinstance(error.__cause__, NotAllowed), repr(error.__cause__)
        print(error)
"""


def test_a_wrong_password(launcher: Any, surroundings: dict[str, str]) -> None:
    ended = launcher.run(WRONG, 3, env=surroundings | {"PICAS_USR_PWD": "hush-hush"}).expect(0)
    assert "the password is wrong" in ended.stdout
    assert "hush-hush" not in ended.said
