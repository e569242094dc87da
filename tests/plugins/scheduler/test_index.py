"""From ids to records: lists that grow, are cut off, are put aside, and are written by many at once."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mpiframe.plugins.scheduler import index
from mpiframe.plugins.scheduler.index import Entry, records_of

ROOT = Path(__file__).resolve().parents[3]


def add(folder: Path, *pairs: tuple[str, str]) -> None:
    entry = Entry(str(folder))
    for number, path in pairs:
        entry.add(number, path)
    entry.close()


def test_the_last_line_of_an_id_counts(tmp_path: Path) -> None:
    odd = '/a "b"\n["1", /c\tü'
    add(tmp_path, ("1", "/first"), ("11", "/eleven"), ("[2].host", odd))
    add(tmp_path, ("1", "/second"))
    assert list(records_of(str(tmp_path), "1")) == ["/second"]
    assert list(records_of(str(tmp_path), "[2].host")) == [odd]
    assert list(records_of(str(tmp_path), "2")) == []
    assert list(records_of(str(tmp_path / "nowhere"), "1")) == []


def test_a_line_that_was_cut_off_spoils_no_other(tmp_path: Path) -> None:
    add(tmp_path, ("1", "/one"))
    (path,) = tmp_path.iterdir()
    with open(path, "a") as file:
        file.write('\n["2", "/tw')
    assert list(records_of(str(tmp_path), "2")) == []
    add(tmp_path, ("3", "/three"))
    assert [list(records_of(str(tmp_path), number)) for number in "123"] == [["/one"], [], ["/three"]]


def test_a_long_list_is_put_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "MOST_BYTES", 1000)
    for number in range(100):
        add(tmp_path, (str(number), f"/somewhere/{number}"))
    assert list(records_of(str(tmp_path), "99")) == ["/somewhere/99"]
    assert list(records_of(str(tmp_path), "60")) == ["/somewhere/60"]
    assert list(records_of(str(tmp_path), "0")) == []  # long ago
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 2200


def test_a_list_that_another_process_puts_aside_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While this one waits for the lock; and nobody has begun the next list yet."""
    add(tmp_path, ("1", "/first"))
    (path,) = tmp_path.iterdir()
    lock = fcntl.flock

    def lock_late(descriptor: int, operation: int) -> None:
        path.rename(f"{path}.old")
        lock(descriptor, operation)

    monkeypatch.setattr(index, "MOST_BYTES", 10)
    monkeypatch.setattr(fcntl, "flock", lock_late)
    add(tmp_path, ("2", "/second"))
    assert [list(records_of(str(tmp_path), number)) for number in "12"] == [["/first"], ["/second"]]


def test_a_list_that_is_put_aside_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(tmp_path, ("1", "/first"))
    (path,) = tmp_path.iterdir()
    look = os.listdir

    def look_before(folder: str) -> list[str]:
        found = look(folder)
        path.rename(f"{path}.old")
        return found

    monkeypatch.setattr(os, "listdir", look_before)
    assert list(records_of(str(tmp_path), "1")) == ["/first"]


def test_many_processes_write_at_once(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom mpiframe.plugins.scheduler import index\nindex.MOST_BYTES = 20_000\n"
        "for n in range(100):\n"
        "    entry = index.Entry(sys.argv[1])\n"
        "    entry.add(f'{sys.argv[2]}-{n}', '/' + 'x' * 50)\n"
        "    entry.close()\n"
    )
    argv = [sys.executable, "-c", program, str(tmp_path)]
    processes = [subprocess.Popen([*argv, str(number)], cwd=ROOT) for number in range(4)]
    assert [process.wait(60) for process in processes] == [0] * 4
    for process in range(4):
        assert list(records_of(str(tmp_path), f"{process}-99")) == ["/" + "x" * 50]
