"""Journals without MPI: what is in the file after whatever happened, who may use it, and what is refused."""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
import os
import random
import sqlite3
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpiframe import journal as journal_module
from mpiframe.answers import CommandFuture
from mpiframe.errors import CommandArgumentError, CommandError, JournalError
from mpiframe.fingerprint import Fingerprinter
from mpiframe.journal import GROUP_ITEMS, Journal, JournalFile
from mpiframe.mapping import Items, MapRun
from mpiframe.messages import Request, Status
from mpiframe.recording import Recorder, RecordingFuture

ROOT = Path(__file__).resolve().parents[2]
DIGEST = bytes(16)


def add(file: JournalFile, first: int, *values: Any, part: int = 1) -> None:
    file.add(part, first, 1, DIGEST * len(values), values)


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it does not become so"
        time.sleep(0.005)


@pytest.fixture
def child() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts other processes, which have the journal open; none outlives the test."""
    with contextlib.ExitStack() as ends:

        def start(body: str, path: Path, **options: Any) -> subprocess.Popen[str]:
            head = f"import os, sys\nfrom mpiframe.journal import *\nfile = JournalFile({str(path)!r})\n"
            process = subprocess.Popen(
                [sys.executable, "-c", head + textwrap.dedent(body)],
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                **options,
            )
            ends.enter_context(process)
            ends.callback(process.kill)  # before the context waits for it
            return process

        yield start


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.db"


@pytest.fixture
def file(path: Path) -> Iterator[JournalFile]:
    found = JournalFile(path)
    yield found
    found.close()


# -- what goes in comes out ------------------------------------------------------------------------


class Named:
    """Of this module, so stored by name."""


def test_values_come_back_in_another_run(path: Path) -> None:
    class Local(list[int]):
        pass

    values = [
        1,
        None,
        "x" * 10_000,
        b"\0",
        {"a": [1.5]},
        np.arange(5),
        Named(),
        Local([1, 2]),
        lambda n: n + 1,
    ]
    file = JournalFile(path)
    add(file, 0, *values[:4])
    add(file, 4, *values[4:])
    add(file, 2**40 - 1, "last", part=1)
    add(file, 0, "other", part=2)
    file.close()
    file = JournalFile(path)
    got = file.values(1, 0, len(values))
    assert got[:5] == values[:5]
    assert (got[5] == values[5]).all()
    got[5][0] = 7  # it is the user's own
    assert type(got[6]) is Named
    assert list(got[7]) == [1, 2]
    assert got[8](1) == 2
    assert [row.index for row in file.rows(1, 2, 100)] == [*range(2, len(values)), 2**40 - 1]
    assert [row.index for row in file.rows(1, 0, 3)] == [0, 1, 2]
    assert file.values(2, 0, 1) == ["other"]
    file.close()
    assert list(path.parent.iterdir()) == [path]


def test_large_values_are_kept_in_pieces(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "_PIECE", 10_000)
    monkeypatch.setattr(journal_module, "_LARGE", 20_000)
    values = [
        "x" * 45_000,  # in the pickle data itself
        np.arange(12_345.0),
        {"a": np.arange(10_000), "b": [np.zeros(0), np.arange(5000, dtype="i4").reshape(50, 100)]},
        np.asfortranarray(np.arange(10_000.0).reshape(100, 100)),
        np.arange(40_000.0)[::2],
        5,
    ]
    file = JournalFile(path)
    add(file, 0, *values)
    values[1][:] = -1  # it is in the file when `add` returns
    add(file, 2, values[2])  # again, over what is there
    file.close()
    file = JournalFile(path)
    got = file.values(1, 0, len(values))
    assert got[0] == values[0]
    assert got[1].tolist() == list(range(12_345))
    assert got[1].flags.writeable
    assert (got[2]["b"][1] == values[2]["b"][1]).all()
    assert got[2]["b"][0].size == 0
    assert (got[3] == values[3]).all()
    assert (got[4] == values[4]).all()
    assert got[5] == 5
    assert [row.size > 20_000 for row in file.rows(1, 0, 6)] == [True] * 5 + [False]
    file.close()


def test_a_value_that_cannot_be_read_is_named(file: JournalFile, monkeypatch: pytest.MonkeyPatch) -> None:
    add(file, 3, Named())
    file.flush()
    monkeypatch.delattr(sys.modules[__name__], "Named")
    with pytest.raises(JournalError, match=r"the value recorded of item 3 cannot be read: AttributeError"):
        file.values(1, 3, 1)


def test_a_value_that_cannot_be_written_is_named(file: JournalFile) -> None:
    with pytest.raises(JournalError, match="the value of item 8 cannot be recorded"):
        add(file, 7, 1, threading.Lock())
    add(file, 7, 1)  # nothing of the two is there, and the file goes on
    file.flush()
    assert [row.index for row in file.rows(1, 0, 9)] == [7]


# -- groups ----------------------------------------------------------------------------------------


def test_what_is_added_is_written_without_being_asked(file: JournalFile) -> None:
    add(file, 0, "a")
    until(lambda: file.rows(1, 0, 9))
    add(file, 1, *range(GROUP_ITEMS))
    add(file, 1 + GROUP_ITEMS, "z")
    file.flush()
    assert len(file.rows(1, 0, 5000)) == GROUP_ITEMS + 2


def test_no_more_than_a_group_waits_to_be_written(file: JournalFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "GROUP_SECONDS", 1000.0)  # a group is written when it is full only
    thread = threading.Thread(target=lambda: [add(file, n, n) for n in range(5 * GROUP_ITEMS)], daemon=True)
    with file._sql:  # as by a disk that takes its time
        thread.start()
        until(lambda: file._added - file._written >= 2 * GROUP_ITEMS)
        assert file._added == 2 * GROUP_ITEMS
        assert thread.is_alive()
    thread.join(30)
    file.flush()
    assert len(file.values(1, 0, 5 * GROUP_ITEMS)) == 5 * GROUP_ITEMS


def test_threads_that_add_and_read(file: JournalFile) -> None:
    def work(part: int) -> None:
        for start in range(0, 600, 20):
            add(file, start, *range(start, start + 20), part=part)
            if start % 100 == 0:
                file.flush()
                assert file.values(part, 0, start + 20) == list(range(start + 20))

    threads = [threading.Thread(target=work, args=(part,)) for part in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    file.flush()
    assert [len(file.rows(part, 0, 5000)) for part in (1, 2, 3)] == [600] * 3


def test_kill_9_leaves_whole_items(path: Path, child: Any) -> None:
    """All that was flushed is there, what was not is there or is not, and each value is right."""
    seed = random.randrange(10**6)
    print("seed", seed)
    dice = random.Random(seed)
    start = flushed = 0
    for _ in range(6):
        process = child(
            f"""
            for n in range({start}, 10**9):
                file.add(1, n, 1, bytes(16), [[n] * (n % 700)])
                if n % 50 == 0:
                    file.flush()
                    print(n, flush=True)
            """,
            path,
        )
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(dice.randrange(1, 12))]
        time.sleep(dice.random() * 0.1)  # any moment will do
        process.kill()
        lines += process.communicate(timeout=20)[0].splitlines()
        flushed = max(int(line) for line in lines if line.strip())
        file = JournalFile(path)
        rows = file.rows(1, 0, 10**6)
        assert [row.index for row in rows] == list(range(len(rows)))
        assert len(rows) > flushed >= start - 50
        assert file.values(1, 0, len(rows)) == [[n] * (n % 700) for n in range(len(rows))]
        file.close()
        start = len(rows)


# -- who may use it --------------------------------------------------------------------------------


def test_it_is_its_owners_alone(path: Path) -> None:
    before = os.umask(0)
    try:
        file = JournalFile(path)
        add(file, 0, 1)
        file.flush()
        modes = {name.name: stat.S_IMODE(name.stat().st_mode) for name in path.parent.iterdir()}
    finally:
        os.umask(before)
    file.close()
    assert modes == {"run.db": 0o600, "run.db-wal": 0o600}


@pytest.mark.parametrize("suffix", ["", "-wal", "-journal"])
@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_what_others_may_write_is_refused(path: Path, suffix: str, mode: int) -> None:
    JournalFile(path).close()
    name = Path(f"{path}{suffix}")
    name.touch()
    name.chmod(mode)
    with pytest.raises(JournalError, match=r"can be written by other users.*chmod go-w"):
        JournalFile(path)
    name.chmod(0o644)
    JournalFile(path).close()


def test_what_belongs_to_another_user_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    JournalFile(path).close()
    own = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: own + 1)
    with pytest.raises(JournalError, match="belongs to another user"):
        JournalFile(path)


def test_two_at_once(path: Path, child: Any) -> None:
    holder = child("print('open', flush=True)\nsys.stdin.read()", path, stdin=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "open\n"
    with pytest.raises(JournalError, match=r"run.db is in use: another run"):
        JournalFile(path)
    holder.kill()
    holder.communicate(timeout=20)
    JournalFile(path).close()


def test_two_at_once_in_one_process(file: JournalFile) -> None:
    with pytest.raises(JournalError, match="is in use"):
        JournalFile(file.path)
    add(file, 0, 1)
    file.flush()


def test_a_file_that_is_something_else(path: Path) -> None:
    path.write_bytes(b"something else, and long enough to look at" * 100)
    with pytest.raises(JournalError, match="no journal of mpiframe, or it is damaged"):
        JournalFile(path)
    path.unlink()
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE mine (x)")
    other.close()
    with pytest.raises(JournalError, match="another program's database"):
        JournalFile(path)
    with sqlite3.connect(path) as other:
        assert other.execute("SELECT count(*) FROM sqlite_master").fetchone() == (1,)
    other.close()


def test_a_journal_of_another_version(path: Path) -> None:
    JournalFile(path).close()
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA user_version = 99")
    other.close()
    with pytest.raises(JournalError, match="another version of mpiframe"):
        JournalFile(path)


def test_an_empty_file_is_a_new_one(path: Path) -> None:
    path.touch(0o600)
    JournalFile(path).close()


def test_places_where_it_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="cannot be made: No such file"):
        JournalFile(tmp_path / "none" / "run.db")
    with pytest.raises(JournalError, match="is no file"):
        JournalFile(tmp_path)


def test_a_folder_that_may_not_be_written() -> None:
    # Not below pytest's own folder, into which nobody but its owner may go.
    with tempfile.TemporaryDirectory(prefix="mf-", dir="/tmp") as folder:
        demote = ""
        if os.geteuid() == 0:  # who may write anywhere
            demote = "os.setuid(65534)"
            os.chown(folder, 65534, 65534)
        os.chmod(folder, 0o500)
        code = f"import os, mpiframe.journal as j\n{demote}\nj.JournalFile({folder + '/run.db'!r})"
        run = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=30,
        )
    assert "JournalError" in run.stderr
    assert "cannot be made: Permission denied" in run.stderr


def test_a_full_disk(path: Path, child: Any) -> None:
    """The error comes at once, what was recorded stays, and nothing is recorded by half."""
    JournalFile(path).close()
    process = child(
        """
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
        try:
            for n in range(10**9):
                file.add(1, n, 1, bytes(16), ["x" * 1000])
                if n % 10 == 0:
                    file.flush()
                    print(n, flush=True)
        except JournalError as error:
            print(f"{error} STAYS", file=sys.stderr)
            for again in (file.flush, lambda: file.add(1, 0, 1, bytes(16), [1]), file.close):
                try:
                    again()
                except JournalError as error:
                    continue
                sys.exit("no error")
        """,
        path,
    )
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert f"{path} cannot be read or written" in err
    assert "What it holds stays as it was" in err
    flushed = int(out.split()[-1])
    file = JournalFile(path)
    rows = file.rows(1, 0, 10**6)
    assert len(rows) > flushed > 50
    assert set(file.values(1, 0, len(rows))) == {"x" * 1000}
    file.close()


def test_a_closed_one(path: Path) -> None:
    file = JournalFile(path)
    file.close()
    with pytest.raises(JournalError, match="is closed"):
        add(file, 0, 1)
    with pytest.raises(JournalError, match="cannot be read or written"):
        file.rows(1, 0, 1)


@pytest.mark.parametrize(
    "given", [{"path": 5}, {"path": ""}, {"path": "x", "name": ""}, {"path": "x", "changed": "no"}]
)
def test_bad_journals(given: dict[str, Any]) -> None:
    with pytest.raises(CommandArgumentError):
        Journal(**given)


# -- map -------------------------------------------------------------------------------------------


class Loop:
    def wait(self, done: Callable[[], bool], timeout: float | None = None) -> bool:
        return done()

    def cancel(self, request: Request) -> bool:
        return False


class Session:
    """A run of a script: what a client does, with servers that answer at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recorder = Recorder()
        self.computed: list[int] = []
        self.seconds = 0.01

    def _future(self, make: Any, first: int, work: Callable[[], Any]) -> CommandFuture:
        request = Request(1, None, 1, "f", ())
        future: CommandFuture = make(Loop(), request, first)
        request.started_at, request.finished_at = 100.0, 100.0 + self.seconds
        try:
            request.value, request.status = work(), Status.DONE
        except Exception as error:
            request.error, request.status = CommandError(str(error)), Status.FAILED
        request.ended = request.told = True
        future.settle(request)
        return future

    def map(
        self,
        fn: Any,
        items: Any,
        size: int | None = None,
        limit: int | None = None,
        ordered: bool = True,
        **options: Any,
    ) -> Iterator[Any]:
        def submit(chunk: Sequence[Any], first: int, make: Any) -> CommandFuture:
            self.computed += range(first, first + len(chunk))
            return self._future(make, first, lambda: list(map(fn, chunk)))

        journal = Journal(self.path, **options) if options else self.path
        recording = self.recorder.map(journal, fn, Items([items], limit is not None), submit)
        wait = Loop().wait
        run = MapRun(recording.items, size, limit, 2, ordered, 20.0, recording.start, wait)
        return recording.results(run)

    def submit(self, fn: Any, *args: Any, **options: Any) -> CommandFuture:
        def submit(make: Any) -> CommandFuture:
            self.computed.append(args[0])
            return self._future(make, 0, lambda: fn(*args))

        journal = Journal(self.path, **options) if options else self.path
        return self.recorder.submit(journal, fn, (args, {}), Loop(), submit)

    def end(self) -> None:
        assert self.recorder.close() is None


@pytest.fixture
def session(path: Path) -> Iterator[Callable[[], Session]]:
    """Begins a run, after the end of the one before."""
    sessions: list[Session] = []

    def begin() -> Session:
        for before in sessions:
            before.end()
        sessions.append(Session(path))
        return sessions[-1]

    yield begin
    for left in sessions:
        left.end()


def square(n: int) -> int:
    return n * n


WAYS = [(None, None), (7, None), (None, 50), (5, 50), (1, 1)]


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize(("size", "limit"), WAYS)
def test_the_second_run_computes_nothing(
    session: Any, size: int | None, limit: int | None, ordered: bool
) -> None:
    for count, computed in ((300, 300), (300, 0), (3000, 2700), (100, 0), (0, 0)):
        run = session()
        got = list(run.map(square, iter(range(count)), size, limit, ordered))
        assert (got if ordered else sorted(got)) == [n * n for n in range(count)]
        assert sorted(run.computed) == list(range(count - computed, count))


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize(("size", "limit"), WAYS)
def test_holes_are_filled(
    session: Any, path: Path, size: int | None, limit: int | None, ordered: bool
) -> None:
    list(session().map(square, range(3000)))
    session()
    dice = random.Random(7)
    missing = sorted({*dice.sample(range(3000), 40), *range(1500, 1600), 0, 2999})
    with sqlite3.connect(path) as sql:
        sql.executemany("DELETE FROM items WHERE key & ((1 << 40) - 1) = ?", [(n,) for n in missing])
    sql.close()
    run = session()
    got = list(run.map(square, range(3000), size, limit, ordered))
    assert (got if ordered else sorted(got)) == [n * n for n in range(3000)]
    assert sorted(run.computed) == missing


@pytest.mark.parametrize("limit", [None, 20])
def test_what_failed_is_computed_again(session: Any, limit: int | None) -> None:
    broken = [True]

    def fragile(n: int) -> int:
        if n == 30 and broken:
            raise ValueError(n)
        return n

    run = session()
    got: list[int] = []
    with pytest.raises(CommandError, match="30"):
        got.extend(run.map(fragile, range(100), 4, limit, name="part", changed="keep"))
    assert got == list(range(28))
    broken.clear()
    again = run if limit else session()  # also in the same session, as in a notebook
    done = set(run.computed) - {28, 29, 30, 31}
    again.computed.clear()
    assert list(again.map(fragile, range(100), 4, limit, name="part", changed="keep")) == list(range(100))
    assert set(again.computed) == set(range(100)) - done


def test_results_are_recorded_as_they_were_before_anybody_changed_them(session: Any) -> None:
    def listed(n: int) -> list[int]:
        return [n]

    for values in session().map(listed, range(50)):
        values.append("spoilt")
    run = session()
    assert list(run.map(listed, range(50))) == [[n] for n in range(50)]
    assert run.computed == []


def test_a_value_is_recorded_before_anybody_has_it() -> None:
    kept: list[Any] = []

    def keep(value: Any) -> None:
        kept.append((value, future.done()))

    request = Request(1, None, 1, "f", (), status=Status.DONE)
    request.value = [5]
    future = RecordingFuture(Loop(), request, 0, keep)
    future.settle(request)
    assert kept == [([5], False)]
    assert future.result() == [5]


def test_what_nobody_took_is_recorded_too(session: Any) -> None:
    run = session()
    run.map(square, range(50), 10, name="part")
    assert list(run.map(square, range(50), name="part")) == [n * n for n in range(50)]
    assert run.computed == list(range(50))


def test_an_input_that_changed(session: Any) -> None:
    list(session().map(square, range(50)))
    items = [*range(17), 100, *range(18, 60)]
    run = session()
    got: list[int] = []
    with pytest.raises(JournalError, match=r"item 17 \(map of .*square #1\) was recorded for another input"):
        got.extend(run.map(square, items, limit=200))
    assert got == [n * n for n in range(17)]
    with pytest.raises(JournalError, match="item 0 "):
        session().map(square, [5])
    assert run.computed == []

    run = session()
    assert list(run.map(square, items, changed="keep")) == [n * n for n in range(60)]
    assert sorted(run.computed) == list(range(50, 60))
    run = session()
    for _ in range(2):
        assert list(run.map(square, items, changed="recompute", name="x")) == [n * n for n in items]
    run = session()
    assert list(run.map(square, items, changed="recompute")) == [n * n for n in items]
    assert run.computed == [17]
    run = session()
    assert list(run.map(square, items)) == [n * n for n in items]
    assert run.computed == []


def versions(*sources: str) -> list[Any]:
    """Functions of the same name, as before and after the script was edited."""
    found = []
    for source in sources:
        space: dict[str, Any] = {"__name__": "__main__"}
        exec(source, space)
        found.append(space["fit"])
    return found


def test_a_function_that_changed(session: Any) -> None:
    one, other = versions("BY = 2\ndef fit(n): return n * BY", "BY = 3\ndef fit(n): return n * BY + 1")
    list(session().map(one, range(5, 50)))
    run = session()
    words = r"item 0 \(map of fit #1\) was recorded by another function than this one: "
    with pytest.raises(JournalError, match=f"{words}the code of fit, the global BY changed since"):
        run.map(other, range(5, 50))
    assert run.computed == []

    run = session()
    half = run.map(other, range(5, 50), 1, 10, changed="recompute")
    assert [next(half) for _ in range(20)] == [3 * n + 1 for n in range(5, 25)]
    half.close()
    recomputed = set(run.computed)
    with pytest.raises(JournalError, match="by another function"):
        list(session().map(other, range(5, 50)))
    run = session()
    assert list(run.map(other, range(5, 50), changed="recompute")) == [3 * n + 1 for n in range(5, 50)]
    assert set(run.computed) == set(range(45)) - recomputed
    run = session()
    assert list(run.map(other, range(5, 50))) == [3 * n + 1 for n in range(5, 50)]
    assert run.computed == []
    run = session()
    assert list(run.map(one, range(5, 50), changed="keep")) == [3 * n + 1 for n in range(5, 50)]
    assert run.computed == []


def test_several_calls_in_one_file(session: Any) -> None:
    def once(run: Session) -> Any:
        return (
            list(run.map(square, range(20))),
            list(run.map(square, range(10, 40))),
            list(run.map(abs, range(20))),
            list(run.map(square, range(7), name="own")),
        )

    first = session()
    results = once(first)
    assert results[1] == [n * n for n in range(10, 40)]
    assert len(first.computed) == 77
    again = session()
    assert once(again) == results
    assert again.computed == []
    with pytest.raises(JournalError, match=r"item 0 \(map of .*square #1\)"):
        list(session().map(square, range(10, 40)))  # the script without its first call
    run = session()
    assert list(run.map(square, range(7), name="own")) == results[3]  # but a name is found in any order
    assert run.computed == []


def test_endless_items_are_drawn_as_results_are_taken(session: Any) -> None:
    for count in (100, 300):
        drawn: list[int] = []
        results = session().map(square, (drawn.append(n) or n for n in itertools.count()), limit=20)
        for taken in range(1, count):
            assert next(results) == (taken - 1) ** 2
            assert len(drawn) <= taken + 21
        results.close()


def test_memory_stays_flat(session: Any) -> None:
    for _ in range(2):
        run = session()
        tracemalloc.start()
        total = sum(1 for _ in run.map(abs, iter(range(60_000)), 100, 1000))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert total == 60_000
        assert peak - len(run.computed) * 40 < 4e6, peak  # the list of what was computed is the test's


def test_an_input_that_cannot_be_compared(session: Any) -> None:
    with pytest.raises(JournalError, match=r"item 2 .*: a lock cannot be compared"):
        list(session().map(str, [1, 2, threading.Lock()], 1, 1))
    run = session()
    for _ in range(2):
        got = list(run.map(repr, [1, threading.Lock()], changed="keep", name="locks"))
        assert got[0] == "1"
    assert run.computed == [0, 1]


def test_what_cannot_be_recorded_fails_its_chunk(session: Any) -> None:
    got = []
    with pytest.raises(JournalError, match="the value of item 2 cannot be recorded"):
        got.extend(session().map(lambda n: n if n != 2 else threading.Lock(), range(9), 1))
    assert got == [0, 1]


def test_one_file_by_several_names(session: Any, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = session()
    (path.parent / "link.db").symlink_to(path)
    monkeypatch.chdir(path.parent)
    for name in (path, path.parent / "link.db", Path("run.db"), Path("link.db")):
        run.path = name
        assert list(run.map(square, range(3), name="one")) == [0, 1, 4]
    assert run.computed == [0, 1, 2]


def test_a_file_that_was_deleted_meanwhile(session: Any, path: Path) -> None:
    run = session()
    list(run.map(square, range(3)))
    path.unlink()
    with pytest.raises(JournalError, match="was moved or deleted"):
        run.map(square, range(3))


# -- submit ----------------------------------------------------------------------------------------


def test_submits(session: Any) -> None:
    def once(run: Session, *numbers: int) -> list[Any]:
        return [run.submit(square, n).result() for n in numbers] + [
            run.submit(abs, n).result() for n in numbers
        ]

    first = session()
    assert once(first, 1, 2, 2, 5) == [1, 4, 4, 25, 1, 2, 2, 5]
    assert first.computed == [1, 2, 2, 5] * 2
    again = session()
    assert once(again, 1, 2, 2, 5) == [1, 4, 4, 25, 1, 2, 2, 5]
    assert again.computed == []
    run = session()
    run.submit(square, 1)
    with pytest.raises(JournalError, match=r"item 1 \(submit of .*square\) was recorded for another input"):
        run.submit(square, 3)
    run = session()
    assert run.submit(square, 1, changed="recompute").result() == 1
    assert run.submit(square, 3, changed="recompute").result() == 9
    assert run.submit(square, 9, changed="keep").result() == 4
    assert run.computed == [3]
    future = run.submit(square, 5)
    assert future.done()
    assert concurrent.futures.wait([future], 5).done == {future}


def test_submits_of_functions_that_differ_by_what_they_hold(session: Any) -> None:
    def times(by: int) -> Any:
        return lambda n: n * by

    for computed in ([5, 5, 5], []):
        run = session()
        assert [run.submit(times(by), 5).result() for by in (1, 2, 3)] == [5, 10, 15]
        assert run.computed == computed
    run = session()
    with pytest.raises(JournalError, match=r"item 0 .*the variable by around"):
        run.submit(times(2), 5)


def test_a_submit_that_failed_is_not_recorded(session: Any) -> None:
    def reciprocal(n: int) -> float:
        return 1 / n

    for _ in range(2):
        run = session()
        with pytest.raises(CommandError, match="division"):
            run.submit(reciprocal, 0).result()
        assert run.submit(reciprocal, 2).result() == 0.5
        assert 0 in run.computed


def test_a_string_command(session: Any) -> None:
    run = session()
    part = run.recorder
    asked: list[str] = []

    def submit(make: Any) -> CommandFuture:
        asked.append("computed")
        return run._future(make, 0, lambda: 7)

    assert part.submit(run.path, "x + 1", ((), {"x": 6}), Loop(), submit).result() == 7
    run = session()
    assert run.recorder.submit(run.path, "x + 1", ((), {"x": 6}), Loop(), submit).result() == 7
    assert asked == ["computed"]
    run = session()
    with pytest.raises(JournalError, match="the text changed since"):
        run.recorder.submit(run.path, "x + 2", ((), {"x": 6}), Loop(), submit)


def test_fingerprinters_hold_what_they_have_seen() -> None:
    """A class that is gone must not lend its digest to one that has its address."""
    prints = Fingerprinter()
    seen = set()
    for n in range(50):
        space: dict[str, Any] = {"__name__": "__main__"}
        exec(f"class P:\n    def f(self): return {n}\nvalue = P()", space)
        seen.add(prints.value(space["value"]))
    assert len(seen) == 50
