"""With a journal, `kill -9` of everything at any moment costs what was not recorded yet, and nothing else."""

from __future__ import annotations

import os
import random
import sqlite3
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.timeout(120), pytest.mark.long]

KILLS = 5  # with each kind of map
ITEMS = 1600  # more than can be computed before the last kill
SCRIPT = """
import hashlib, os, sys, time
import mpiframe

FOLDER = os.environ["RECORDS"]
KINDS = {"plain", "odd", "large"}

def item(n):
    file = os.open(os.path.join(FOLDER, "computed"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(file, f"{n}\\n".encode())
    os.close(file)
    time.sleep(0.004)
    if n % 100 == 7:
        return bytes([n % 256]) * 1_500_000
    return {kind: n for kind in KINDS}, n * n

def main():
    with mpiframe.Client() as client:
        open(os.path.join(FOLDER, "begun"), "w").close()
        path = os.path.join(FOLDER, "run.db")
        items = (n for n in range(int(sys.argv[1])))
        options = {"buffersize": 64} if len(sys.argv) > 2 else {}
        digest = hashlib.sha256()
        for value in client.map(item, items, journal=path, **options):
            if type(value) is tuple:
                value = repr((sorted(value[0].items()), value[1])).encode()
            digest.update(value)
        total = sum(client.submit(item, n, journal=path).result()[1] for n in range(5))
        print(digest.hexdigest(), total)

if __name__ == "__main__":
    main()
"""


def computed(folder: Path) -> Counter[int]:
    """The items that servers have computed since this was last asked, and how often."""
    path = folder / "computed"
    found = Counter(map(int, path.read_text().split())) if path.exists() else Counter()
    path.unlink(missing_ok=True)
    return found


def await_computed(folder: Path, count: int) -> None:
    """Wait until so many items were computed."""
    path, deadline = folder / "computed", time.monotonic() + 60
    while not path.exists() or len(path.read_bytes().split()) < count:
        assert time.monotonic() < deadline, f"{count} items are not computed within a minute"
        time.sleep(0.01)


def recorded(folder: Path, call: str) -> set[int]:
    """The items of a call that are in the journal, as SQLite itself reads it."""
    path = folder / "run.db"
    if not path.exists() or not path.stat().st_size:
        return set()
    # The time-out, in seconds, is for the locks of processes that are about to be gone.
    with sqlite3.connect(path, timeout=20) as sql:
        assert sql.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        if sql.execute("SELECT 1 FROM sqlite_master").fetchone() is None:
            return set()  # killed before it had its tables
        keys = sql.execute(
            "SELECT key & ((1 << 40) - 1) FROM items JOIN parts ON key >> 40 = id WHERE label = ?", (call,)
        )
        found = {key for (key,) in keys}
    sql.close()
    return found


@pytest.mark.parametrize("window", [pytest.param(False, id="all"), pytest.param(True, id="window")])
def test_kills_and_an_end(launcher: Any, tmp_path: Path, window: bool) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    words = [str(script), str(ITEMS), *(["window"] if window else [])]
    folder = tmp_path / "undisturbed"
    folder.mkdir()
    expected = launcher.run(words, env={"RECORDS": str(folder)}).expect(0).stdout
    every, calls = Counter(range(ITEMS)), Counter(range(5))
    assert computed(folder) == every + calls

    seed = int(os.environ.get("MPIFRAME_TEST_SEED", random.randrange(10**6)))
    print("MPIFRAME_TEST_SEED", seed)
    dice = random.Random(seed)
    folder = tmp_path / "killed"
    folder.mkdir()
    env = {"RECORDS": str(folder)}
    before: set[int] = set()
    growth = []
    for number in range(KILLS):
        (folder / "begun").unlink(missing_ok=True)
        world = launcher.start(words, env=env | {"PYTHONHASHSEED": str(number)})
        world.await_file(str(folder / "begun"))
        if number == 0:
            await_computed(folder, 300)  # which take longer than the first of them have to be written
        time.sleep(dice.uniform(0.1, 0.5))  # not for anything: the moment is to be any
        world.crash()
        again = computed(folder)
        now = recorded(folder, "map of item #1")
        assert before <= now, "recorded, and lost"
        assert not before & again.keys(), "computed though it was recorded"
        assert now - before <= again.keys(), "recorded though it was not computed"
        assert max(again.values(), default=1) == 1
        growth.append(len(now - before))
        before = now
    print("recorded between the kills:", growth, "of", ITEMS)
    assert 0 < len(before) < ITEMS  # there was work to be killed at

    ended = launcher.run(words, env=env | {"PYTHONHASHSEED": "77"}).expect(0)
    assert ended.stdout == expected
    assert computed(folder) == every - Counter(before) + calls
    assert recorded(folder, "map of item #1") == set(every)
    assert recorded(folder, "submit of item") == set(calls)
    assert launcher.run(words, env=env).expect(0).stdout == expected
    assert not computed(folder)
