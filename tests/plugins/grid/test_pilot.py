"""Pilots without MPI: what they run, how it is stopped, and what becomes of it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mpiframe.plugins.grid import Claims, Database, DatabaseDown, NotFound, Pilot, Token, TokenList, children

ROOT = Path(__file__).resolve().parents[3]
PYTHON = sys.executable


def fill(database: Database, count: int, **fields: Any) -> TokenList:
    tokens = TokenList("t", database, [Token("t", f"t_{i:03}") for i in range(count)])
    for number, one in enumerate(tokens):
        one.update(n=number, **fields)
    tokens.save()
    tokens.add_views()
    return tokens


def await_(condition: Callable[[], Any], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it does not become so"
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def of(tokens: TokenList, number: int = 0) -> dict[str, Any]:
    return tokens.database.get(f"t_{number:03}")


# -- functions ----------------------------------------------------------------------------------------


def test_a_function_of_the_token(database: Database) -> None:
    tokens = fill(database, 5, gone=1)
    told = []

    def work(token: Token) -> Any:
        token["seen"] = True
        del token["gone"]
        token.attach(b"x" * token["n"], "x.bin")
        return {"mean": np.float64(token["n"]), "list": np.arange(2)}

    report = Pilot(database, "t", work, batch=2, on_token=told.append).run()
    assert (report.done, report.error, report.stopped) == (5, 0, "")
    assert sorted(one.id for one in told) == [one.id for one in tokens]
    doc = of(tokens, 3)
    assert (doc["result"], doc["seen"], doc["status"], doc["output"], doc["exit_code"]) == (
        {"mean": 3.0, "list": [0, 1]}, True, "done", 0, 0
    )  # fmt: skip
    assert doc["gone"] is None
    assert doc["_attachments"]["x.bin"]["length"] == 3
    assert tokens.overview()["done"] == 5
    assert str(report).startswith("5 done, 0 in error; ")


class Known(Exception):
    exit_code = 22


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (ValueError("no such source"), 1, "ValueError: no such source"),
        (Known("not staged"), 22, "Known: not staged"),
        (SystemExit(7), 7, "SystemExit: 7"),
    ],
)
def test_a_function_that_fails(database: Database, raised: BaseException, code: int, said: str) -> None:
    tokens = fill(database, 1, error=["before"])

    def work(token: Token) -> None:
        token["reached"] = "the middle"
        raise raised

    report = Pilot(database, "t", work).run()
    assert (report.error, report.runs[0].exit_code, report.runs[0].message) == (1, code, said)
    doc = of(tokens)
    assert (doc["status"], doc["output"], doc["reached"]) == ("error", code, "the middle")
    assert doc["error"][0] == "before"
    assert doc["error"][1]["message"] == said
    assert "raise raised" in doc["error"][1]["exception"]
    assert tokens.overview()["error"] == 1


@pytest.mark.parametrize(("result", "said"), [(float("nan"), "not JSON"), ({1, 2}, "set"), (b"x", "bytes")])
def test_a_result_that_json_has_not(database: Database, result: Any, said: str) -> None:
    tokens = fill(database, 1)
    Pilot(database, "t", lambda token: result).run()
    assert "cannot be kept in a token" in of(tokens)["error"][0]["message"]
    assert said in of(tokens)["error"][0]["message"]


def test_a_function_that_takes_too_long(database: Database) -> None:
    tokens = fill(database, 2)
    begun = []

    def work(token: Token) -> int:
        begun.append(token.id)
        if token["n"] == 0:
            threading.Event().wait()
        return 5

    report = Pilot(database, "t", work, max_token_seconds=1).run()
    assert (report.done, report.error) == (1, 1)
    assert of(tokens, 0)["exit_code"] == 124
    assert of(tokens, 0)["error"][0]["message"] == "stopped: not ended after 1 s"
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_function_in_another_thread_has_no_limit_but_isolated(database: Database) -> None:
    tokens = fill(database, 1)
    reports = []
    pilot = Pilot(database, "t", abs, max_token_seconds=9)
    thread = threading.Thread(target=lambda: reports.append(pilot.run()))
    thread.start()
    thread.join(60)
    assert "isolate=True" in of(tokens)["error"][0]["message"]


def test_an_isolated_function(database: Database) -> None:
    tokens = fill(database, 3)

    def work(token: Token) -> Any:
        print("said", token.id)
        Path("out.png").write_bytes(b"png")
        Path("other.txt").write_bytes(b"left alone")
        token["seen"] = os.getpid()
        if token["n"] == 1:
            raise Known("gone")
        if token["n"] == 2:
            os._exit(9)
        return token["n"]

    report = Pilot(database, "t", work, isolate=True, attach=["*.png"]).run()
    assert sorted(one.exit_code for one in report.runs) == [0, 9, 22]
    doc = of(tokens, 0)
    assert doc["seen"] not in (None, os.getpid())
    assert doc["result"] == 0
    assert sorted(doc["_attachments"]) == ["logs_err", "logs_out", "out.png"]
    assert Token.of(doc, database).read("logs_out") == b"said t_000\n"
    assert of(tokens, 1)["error"][0]["message"] == "Known: gone"
    assert "exit code 9 and no answer" in of(tokens, 2)["error"][0]["message"]


# -- programs -----------------------------------------------------------------------------------------


def test_a_program(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PICAS_USR_PWD", "hush-hush")
    config = {"variables": {"_token_keys": {"$OBSID": "OBSID"}, "_attachments": {"$SRMFILE": "srm.txt"}}}
    tokens = fill(database, 2, OBSID="L 1; rm -rf /", **{"config.json": config})
    tokens.attach(b"srm://a\n", "srm.txt")
    (tmp_path / "step.py").write_text(
        textwrap.dedent("""
        import json, os, sys
        doc = json.load(open(os.environ["TOKEN_FILE"]))
        assert doc["_id"] == os.environ["TOKEN"]
        assert sys.argv[1:] == [doc["OBSID"], "$NOBODY"], sys.argv
        print(open(os.environ["SRMFILE"]).read(), os.listdir("."))
        print("PWD" if "PICAS_USR_PWD" in os.environ else "hidden", file=sys.stderr)
        os.mkdir("deep")
        open("deep/big.dat", "wb").write(b"b" * 700_000)
        os.symlink("/etc/passwd", "deep/passwd.dat")
        json.dump({"n": doc["n"]}, open(os.environ["TOKEN_RESULT"], "w"))
        sys.exit(doc["n"] * 22)
    """)
    )
    words = [PYTHON, str(tmp_path / "step.py"), "$OBSID", "$NOBODY"]
    work_dir = tmp_path / "work"
    work_dir.mkdir()
    report = Pilot(database, "t", words, attach=["*.dat"], work_dir=str(work_dir)).run()
    assert (report.done, report.error) == (1, 1), [one.message for one in report.runs]
    good, bad = of(tokens, 0), of(tokens, 1)
    assert (good["result"], bad["result"]) == ({"n": 0}, {"n": 1})
    assert (bad["output"], bad["exit_code"], bad["status"]) == (22, 22, "error")
    assert sorted(good["_attachments"]) == ["deep/big.dat", "logs_err", "logs_out", "srm.txt"]
    token = Token.of(good, database)
    assert token.read("logs_out") == b"srm://a\n ['srm.txt']\n"
    assert token.read("logs_err") == b"hidden\n"
    assert len(token.read("deep/big.dat")) == 700_000
    assert os.listdir(work_dir) == []
    assert "hush-hush" not in json.dumps(good)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("/not/there x", 1, "could not be started"),
        ([PYTHON, "-c", "import os; os.kill(os.getpid(), 11)"], 139, "signal 11"),
        ([PYTHON, "-c", "import os; open(os.environ['TOKEN_RESULT'], 'w').write('{')"], 1, "is no JSON"),
    ],
)
def test_a_program_that_fails(database: Database, words: Any, code: int, said: str) -> None:
    tokens = fill(database, 1)
    Pilot(database, "t", words).run()
    doc = of(tokens)
    assert (doc["exit_code"], doc["status"]) == (code, "error")
    assert said in doc["error"][0]["message"]


STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
inner = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open(sys.argv[1] + ".part", "w").write(f"{os.getpid()} {inner.pid}")
os.rename(sys.argv[1] + ".part", sys.argv[1])
time.sleep(600)
"""


def stubborn(tmp_path: Path) -> tuple[list[str], Path]:
    """A program that ignores SIGTERM and has a child of its own, and the file it writes their pids to."""
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    return [PYTHON, str(tmp_path / "stubborn.py"), str(tmp_path / "pids")], tmp_path / "pids"


def gone(path: Path) -> None:
    pids = [int(word) for word in path.read_text().split()]
    assert len(pids) == 2
    await_(lambda: not [pid for pid in pids if is_alive(pid)])


def test_a_program_over_its_time_ends_with_all_it_started(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = fill(database, 1)
    words, pids = stubborn(tmp_path)
    wait = children._await

    def once_it_is_up(pidfd: int, stop: children.Stop, seconds: float | None) -> str:
        await_(pids.exists)
        return wait(pidfd, stop, seconds)

    monkeypatch.setattr(children, "_await", once_it_is_up)
    report = Pilot(database, "t", words, max_token_seconds=0.5, kill_seconds=0.3).run()
    assert of(tokens)["exit_code"] == 124
    assert report.runs[0].seconds < 60
    gone(pids)


def test_the_time_of_all_gives_back_what_runs(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = fill(database, 2)
    words, pids = stubborn(tmp_path)
    wait, real = children._await, time.monotonic
    passed = [0.0]
    monkeypatch.setattr(
        "mpiframe.plugins.grid.pilot.time", SimpleNamespace(monotonic=lambda: real() + passed[0])
    )

    def until_all_is_over(pidfd: int, stop: children.Stop, seconds: float | None) -> str:
        assert seconds is not None
        assert 0 < seconds <= 600, "no more than what is left of all"
        await_(pids.exists)
        passed[0] = 600.0
        return wait(pidfd, stop, 0.01)

    monkeypatch.setattr(children, "_await", until_all_is_over)
    report = Pilot(database, "t", words, max_seconds=600, kill_seconds=0.3, batch=2).run()
    assert [one.state for one in report.runs] == ["returned"]
    assert report.stopped == "600 s are over"
    assert tokens.overview() == {"todo": 2, "locked": 0, "done": 0, "error": 0}
    assert sorted(of(tokens, n).get("scrub_count", 0) for n in (0, 1)) == [0, 1]
    gone(pids)


def test_the_number_of_tokens(database: Database) -> None:
    tokens = fill(database, 5)
    report = Pilot(database, "t", lambda token: None, max_tokens=3, batch=2).run()
    assert (report.done, report.stopped) == (3, "3 tokens were run")
    assert tokens.overview() == {"todo": 2, "locked": 0, "done": 3, "error": 0}


@pytest.mark.parametrize(
    "options",
    [{"max_seconds": 0}, {"max_tokens": 0}, {"max_token_seconds": -1}, {"batch": 0}, {"attach": "*.png"}],
)
def test_limits_that_are_none(database: Database, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Pilot(database, "t", abs, **options)
    with pytest.raises(ValueError):
        Pilot(database, "t", "")


def test_a_view_that_is_not_there(database: Database) -> None:
    fill(database, 1)
    with pytest.raises(NotFound, match="no view 'tood'"):
        Pilot(database, "t", abs, view="tood").run()


def test_no_database(closed_port: int) -> None:
    with pytest.raises(DatabaseDown, match="cannot be reached"):
        Pilot(Database("x", f"http://u:p@127.0.0.1:{closed_port}"), "t", abs).run()


def test_it_stays_for_the_tokens_of_a_dead_pilot(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = fill(database, 2)
    dead = Claims(database, "t", lease_seconds=600)
    (held,) = dead.claim()
    pilot = Pilot(database, "t", lambda token: 1, linger=True, lease_seconds=10)
    real = database.now
    waits = []

    def passing() -> float:  # its lease runs out once the pilot has found nothing else to do
        return real() + (1000 if waits else 0)

    monkeypatch.setattr(database, "now", passing)
    wait = pilot._wait_for_others
    monkeypatch.setattr(pilot, "_wait_for_others", lambda until: (waits.append(1), wait(0.0))[1])
    report = pilot.run()
    assert report.done == 2
    assert of(tokens, int(held.id[-1]))["scrub_count"] == 1


# -- signals, and the end of the pilot ------------------------------------------------------------------

PILOT = """
import sys, time
from mpiframe.plugins.grid import Database, Pilot

def work(token):
    print("begun", flush=True)
    while True:
        time.sleep(0.01)  # a signal that comes just before it ends no sleep

words = sys.argv[2:]
Pilot(Database(sys.argv[1]), "t", words or work, kill_seconds=0.3).run()
"""


@contextlib.contextmanager
def running(database: Database, couch: Any, words: list[str], tmp_path: Path) -> Any:
    (tmp_path / "pilot.py").write_text(PILOT)
    who = {"PICAS_USR": couch.user, "PICAS_USR_PWD": couch.password, "PICAS_URL": couch.host_url}
    env = os.environ | {"PYTHONPATH": str(ROOT)} | who
    process = subprocess.Popen(
        [PYTHON, "pilot.py", database.name, *words], cwd=tmp_path, env=env, stdout=subprocess.PIPE
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=30)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, -2)])
@pytest.mark.parametrize("kind", ["program", "function"])
def test_a_signal_gives_back_what_runs(
    database: Database, couch: Any, tmp_path: Path, number: int, status: int, kind: str
) -> None:
    tokens = fill(database, 2)
    words, pids = stubborn(tmp_path)
    with running(database, couch, words if kind == "program" else [], tmp_path) as process:
        if kind == "program":
            await_(pids.exists)
        else:
            assert process.stdout.readline() == b"begun\n"
        process.send_signal(number)
        assert process.wait(30) == status
    assert tokens.overview() == {"todo": 2, "locked": 0, "done": 0, "error": 0}
    assert sorted(of(tokens, n).get("scrub_count", 0) for n in (0, 1)) == [0, 1]
    if kind == "program":
        gone(pids)


def test_a_pilot_that_is_killed_leaves_no_process_and_its_token_comes_back(
    database: Database, couch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = fill(database, 1)
    words, pids = stubborn(tmp_path)
    with running(database, couch, words, tmp_path) as process:
        await_(pids.exists)
        process.kill()
        process.wait(30)
    gone(pids)
    assert tokens.overview()["locked"] == 1
    real = database.now
    monkeypatch.setattr(database, "now", lambda: real() + 700)
    report = Pilot(database, "t", lambda token: 1).run()
    assert report.done == 1
    assert of(tokens)["scrub_count"] == 1


def test_heartbeats_while_it_runs(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = fill(database, 1)
    monkeypatch.setattr("mpiframe.plugins.grid.runner._FIRST_BEAT_SECONDS", 0.05)

    def work(token: Token) -> None:
        first = database.get(token.id)["heartbeat"]
        await_(lambda: database.get(token.id)["heartbeat"] > first)
        await_(lambda: database.get(token.id)["status"] == "running")

    assert Pilot(database, "t", work, lease_seconds=4.1).run().done == 1
    assert tokens.overview()["done"] == 1
