"""Scripts that record what they compute, run again: over real servers, in processes that hash otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(120)

HEAD = """
import os, signal, sys, time
import numpy as np
import mpiframe

FOLDER = os.environ["RECORDS"]

def note(what):
    file = os.open(os.path.join(FOLDER, "log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(file, f"{what}\\n".encode())
    os.close(file)
"""

SCRIPT = (
    HEAD
    + """
WORDS = {"alpha", "beta", "gamma"}

class Point:
    def __init__(self, x):
        self.x = x

def fit(n, by):
    note(f"map {n}")
    if n in FAIL:
        raise ValueError(n)
    return Point(n * by["x"]), np.full(40_000, n), WORDS & {"beta"}

def once(n):
    note(f"submit {n}")
    return np.full(n, 1.0)

FAIL = eval(os.environ.get("FAIL", "()"))
if __name__ == "__main__":
    with mpiframe.Client() as client:
        items = [{"x": 2, "words": WORDS}] * 60
        path = os.path.join(FOLDER, "run.db")
        journal = mpiframe.Journal(path, changed=os.environ.get("CHANGED", "refuse"))
        results = client.on("all").map(fit, range(60), items, journal=journal)
        for n, (point, array, words) in enumerate(results):
            assert type(point) is Point and point.x == 2 * n, point
            assert array.sum() == 40_000 * n and words == {"beta"}
            array[0] = point.x = -1
        futures = [client.submit(once, n, journal=path) for n in (3, 3, 3_000_000)]
        assert [future.result().sum() for future in futures] == [3, 3, 3_000_000]
        print("same")
"""
)


@pytest.fixture
def records(tmp_path: Path) -> Path:
    return tmp_path


def log(folder: Path) -> list[str]:
    """What servers have computed since this was last asked."""
    path = folder / "log"
    found = sorted(path.read_text().splitlines()) if path.exists() else []
    path.unlink(missing_ok=True)
    return found


def test_a_script_run_again(launcher: Any, records: Path) -> None:
    env = {"RECORDS": str(records)}
    every = sorted([f"map {n}" for n in range(60)] + ["submit 3", "submit 3", "submit 3000000"])

    # An item that fails ends the run. Both the function and one of its globals are as before, then.
    failed = launcher.run(SCRIPT, env=env | {"FAIL": "(40,)", "PYTHONHASHSEED": "1"}).expect(1)
    assert "item 40 of the map" in failed.stderr
    first = log(records)
    assert "map 40" in first

    refused = launcher.run(SCRIPT, env=env | {"PYTHONHASHSEED": "2"}).expect(1)
    assert "JournalError" in refused.stderr
    assert "(map of fit #1) was recorded by another function than this one: the global FAIL" in refused.stderr
    assert log(records) == []

    # What was recorded is kept, what is missing is computed; then nothing is missing.
    ended = launcher.run(SCRIPT, env=env | {"CHANGED": "keep", "PYTHONHASHSEED": "3"}).expect(0)
    assert ended.stdout == "same\n"
    second = log(records)
    assert set(first) | set(second) == set(every)
    ended = launcher.run(SCRIPT, 4, env=env | {"CHANGED": "keep", "PYTHONHASHSEED": "4"}).expect(0)
    assert ended.stdout == "same\n"
    assert log(records) == []

    # All anew, for the function is another one; and that is what is recorded now.
    launcher.run(SCRIPT, env=env | {"CHANGED": "recompute"}).expect(0)
    computed = log(records)
    assert set(second) - {"submit 3", "submit 3000000"} <= set(every) - set(computed)
    launcher.run(SCRIPT, 2, env=env | {"PYTHONHASHSEED": "5"}).expect(0)
    assert log(records) == []


def test_two_runs_at_once(launcher: Any, records: Path) -> None:
    script = (
        HEAD
        + """
def wait(n):
    open(os.path.join(FOLDER, "started"), "w").close()
    until = time.monotonic() + 60
    while not os.path.exists(os.path.join(FOLDER, "go")):
        assert time.monotonic() < until
        time.sleep(0.01)
    return n

with mpiframe.Client() as client:
    print(list(client.map(wait, range(2), journal=os.path.join(FOLDER, "run.db"))))
"""
    )
    env = {"RECORDS": str(records)}
    first = launcher.start(script, 2, env=env)
    first.await_file(str(records / "started"))
    refused = launcher.run(script, 2, env=env).expect(1)
    assert "JournalError" in refused.stderr
    assert "is in use: another run" in refused.stderr
    (records / "go").touch()
    assert first.wait().expect(0).stdout == "[0, 1]\n"


@pytest.mark.parametrize("plain", [True, False])
def test_a_server_that_dies(launcher: Any, records: Path, plain: bool) -> None:
    """The MPI ends the job, as it does; what was recorded is there for the next run."""
    script = (
        HEAD
        + """
def fit(n):
    note(n)
    if n == 12 and not os.path.exists(os.path.join(FOLDER, "dead")):
        while not os.path.exists(os.path.join(FOLDER, "seen")):
            time.sleep(0.01)
        open(os.path.join(FOLDER, "dead"), "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return n * n

if __name__ == "__main__":
    with mpiframe.Client() as client:
        path = os.path.join(FOLDER, "run.db")
        got = []
        for value in client.map(fit, range(30), journal=path, chunksize=1, target=[1]):
            got.append(value)
            if len(got) == 12:
                client.submit(len, "flushed", journal=path, target=2).result()
                list(client.map(len, ["all"], journal=path, target=[2]))  # whose end is written at once
                open(os.path.join(FOLDER, "seen"), "w").close()
        print(sum(got))
"""
    )
    env = {"RECORDS": str(records)}
    assert launcher.run(script, 3, plain=plain, env=env).status != 0
    assert (records / "dead").exists()
    assert sorted(map(int, log(records))) == list(range(13))
    ended = launcher.run(script, 3, plain=plain, env=env).expect(0)
    assert ended.stdout == f"{sum(n * n for n in range(30))}\n"
    assert sorted(map(int, log(records))) == list(range(12, 30))
