"""Visibilities are handed out as their file grows, and their means with them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from mpiframe.plugins.difx import follow, plot
from mpiframe.plugins.difx.follow import Batch, Follower
from mpiframe.plugins.difx.formats import FormatError, Input
from mpiframe.plugins.difx.formats.visibilities import Visibilities, file_name
from mpiframe.plugins.difx.monitor import Monitor

RECORD = 74 + 8 * 320
NAME = "DIFX_60022_075600.s0000.b0000"
WAIT = 60.0  # seconds until a test gives up
LONG = 600.0  # between looks that nothing prompted: longer than any test


@pytest.fixture
def folder(job: Path) -> Path:
    """The folder of visibilities of a job that was not yet started: it is not there."""
    shutil.rmtree(job / "tiny_1.difx")
    return job / "tiny_1.difx"


@pytest.fixture
def whole(data: Path) -> bytes:
    """What the job will write."""
    return (data / "real_run_tiny" / "tiny_1.difx" / NAME).read_bytes()


@pytest.fixture
def follower(job: Path, folder: Path) -> Iterator[Follower]:
    """A follower from before the job's start, that does not look without being told to."""
    before = set(threading.enumerate())
    with Follower(job / "tiny_1.input", recheck_seconds=LONG) as made:
        yield made
    # Those of the observer, which are called Thread-1 and so on.
    wait_for(lambda: not [one for one in set(threading.enumerate()) - before if "Inotify" in repr(one)])


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until it holds, or fail."""
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def gather(follower: Follower, number: int) -> list[Batch]:
    """Batches with so many records in all, or a failure."""
    found: list[Batch] = []
    deadline = time.monotonic() + WAIT
    while sum(len(one.headers) for one in found) < number:
        batches = follower.read(deadline - time.monotonic())
        assert batches, f"{sum(len(one.headers) for one in found)} of {number} records came"
        found += batches
    return found


def test_records_come_as_they_are_written(follower: Follower, folder: Path, whole: bytes) -> None:
    assert len(follower.products) == 12
    assert follower.read(0) == []
    folder.mkdir()
    with (folder / NAME).open("wb") as out:
        for at in range(0, len(whole), 12 * RECORD):
            out.write(whole[at : at + 12 * RECORD])
            out.flush()
            batches = gather(follower, 12)
            assert sum(len(one.spectra) for one in batches) == 12
            assert follower.read(0) == []


def test_part_of_a_record_waits_for_the_rest(follower: Follower, folder: Path, whole: bytes) -> None:
    folder.mkdir()
    with (folder / NAME).open("wb", buffering=0) as out:
        out.write(whole[: 3 * RECORD + 50])
        assert [len(one.headers) for one in gather(follower, 3)] == [3]
        out.write(whole[3 * RECORD + 50 : 4 * RECORD - 1])
        assert follower.read(0.2) == []
        out.write(whole[4 * RECORD - 1 : 4 * RECORD])
        (batch,) = gather(follower, 1)
    assert batch.headers["polarisations"].tolist() == [b"LL"]
    expected = np.frombuffer(whole, np.complex64, 320, 3 * RECORD + 74)
    np.testing.assert_array_equal(batch.spectra[0], expected)


def test_a_reader_that_waits_is_woken(follower: Follower, folder: Path, whole: bytes) -> None:
    got: list[int] = []
    reader = threading.Thread(target=lambda: got.extend(len(one.headers) for one in follower))
    reader.start()
    folder.mkdir()
    (folder / NAME).write_bytes(whole)
    (folder / file_name(60022, 75602)).write_bytes(whole[:RECORD])
    wait_for(lambda: sum(got) >= 49)
    follower.stop()
    reader.join(WAIT)
    assert not reader.is_alive()


def test_what_was_written_before_the_end_is_still_handed_out(
    follower: Follower, folder: Path, whole: bytes
) -> None:
    folder.mkdir()
    (folder / NAME).write_bytes(whole)
    follower.stop()
    follower.stop()
    assert sum(len(one.headers) for one in follower) == 48
    assert follower.read() == []


@pytest.mark.parametrize("how", ["truncated", "replaced", "folder", "rewritten"])
def test_a_job_that_is_started_again_is_read_from_its_begin(
    follower: Follower, folder: Path, whole: bytes, how: str
) -> None:
    folder.mkdir()
    (folder / NAME).write_bytes(whole)
    assert not any(one.restarted for one in gather(follower, 48))
    if how == "folder":
        shutil.rmtree(folder)
        folder.mkdir()
    if how == "rewritten":  # in the same place, and by now longer than before
        with (folder / NAME).open("r+b") as out:
            out.write(whole[2 * RECORD :] + whole[: 4 * RECORD])
        batches = gather(follower, 50)
        assert batches[0].restarted
        return
    if how == "truncated":
        (folder / NAME).write_bytes(whole[: 2 * RECORD])
    else:
        (folder / "new").write_bytes(whole[: 2 * RECORD])
        os.replace(folder / "new", folder / NAME)
    batches = gather(follower, 2)
    assert sum(len(one.headers) for one in batches) == 2
    assert batches[0].restarted


def test_a_folder_that_is_made_anew_is_watched_again(follower: Follower, folder: Path, whole: bytes) -> None:
    """Also where it has the inode of the one before, as many file systems have it."""
    folder.mkdir()
    (folder / NAME).write_bytes(whole)
    gather(follower, 48)
    got: list[int] = []
    reader = threading.Thread(target=lambda: got.extend(len(one.headers) for one in follower))
    reader.start()
    shutil.rmtree(folder)
    folder.mkdir()
    with (folder / NAME).open("wb", buffering=0) as out:
        for number in range(1, 6):  # of which one may be seen without having been told of, when it looks
            out.write(whole[(number - 1) * RECORD : number * RECORD])
            wait_for(lambda number=number: sum(got) >= number)
    follower.stop()
    reader.join(WAIT)
    assert not reader.is_alive()
    assert sum(got) == 5


def test_a_large_file_is_handed_out_in_pieces(job: Path, monkeypatch: pytest.MonkeyPatch, data: Path) -> None:
    monkeypatch.setattr(follow, "READ_BYTES", 10 * RECORD + 1000)
    with Follower(job / "tiny_1") as follower:
        assert [len(one.headers) for one in follower.read(0)] == [10, 10, 10, 10, 8]


def test_without_word_it_looks_again(
    job: Path, folder: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Follower, "_happened", lambda *_: None)  # as where another host writes
    with Follower(job / "tiny_1", recheck_seconds=0.05) as follower:
        folder.mkdir()
        (folder / NAME).write_bytes(whole)
        assert len(gather(follower, 48)) == 1


def test_reading_costs_nothing_while_nothing_comes(follower: Follower, folder: Path, whole: bytes) -> None:
    folder.mkdir()
    (folder / NAME).write_bytes(whole[: RECORD + 5])
    gather(follower, 1)
    looks = 0
    look = follower._look

    def counted(stopped: bool) -> list[Batch]:
        nonlocal looks
        looks += 1
        return look(stopped)

    follower._look = counted  # type: ignore[method-assign]
    deadline = time.monotonic() + WAIT
    while True:  # the word of what was written above may come late, but once
        looks = 0
        assert follower.read(0.5) == []
        if looks <= 2:
            break
        assert time.monotonic() < deadline  # its own reading must not wake it


def test_what_is_no_file_of_visibilities_is_an_error(follower: Follower, folder: Path, whole: bytes) -> None:
    folder.mkdir()
    (folder / NAME).write_bytes(whole[:RECORD] + b"nonsense" * 100)
    with pytest.raises(FormatError, match=f"sync word ff00ff00 at byte {RECORD}"):
        gather(follower, 2)


def test_no_thread_is_left_by_a_job_that_is_not_there(tmp_path: Path) -> None:
    before = threading.active_count()
    with pytest.raises(FileNotFoundError):
        Follower(tmp_path / "no" / "job")
    assert threading.active_count() <= before  # another test's may have ended meanwhile


# -- the monitor ----------------------------------------------------------------------------------


def batch_of(read: Visibilities, rows: slice, *, restarted: bool = False) -> Batch:
    numbers = range(48)[rows]
    return Batch("x", read.headers[rows], tuple(read.spectra(numbers)), restarted)


def test_updates_are_of_the_products_that_are_wanted(data: Path) -> None:
    read = Visibilities.of_job(data / "real_run_tiny" / "tiny_1")
    assert read.job is not None
    monitor = Monitor(read.job, [0])
    assert monitor.products[0].polarisations == "RR"
    updates = monitor.take(batch_of(read, slice(0, 24)))
    assert [(one.id, one.seconds, one.integration_seconds) for one in updates] == [
        (0, 75600.25, 0.5),
        (0, 75600.75, 0.5),
    ]
    updates += monitor.take(batch_of(read, slice(24, 48)))
    chosen = read.select("FD-OV", 0, "RR")
    np.testing.assert_allclose(updates[-1].mean, np.average(chosen.data, axis=0, weights=chosen.weights))
    assert updates[-1].mean_lags.snr > updates[-1].lags.snr > 50
    assert abs(updates[-1].mean_lags.delay_us) < 1e-3
    assert updates[0].mhz[0] == 4909.0
    np.testing.assert_array_equal(updates[0].amplitude, np.abs(chosen.data[0].astype(complex)))
    monitor.request([4, 5])
    assert {one.product.telescopes for one in monitor.take(batch_of(read, slice(0, 12)))} == {(0, 0)}
    with pytest.raises(IndexError, match="there is no product 12, only 0 to 11"):
        monitor.request([12])


def test_a_mean_begins_anew_with_the_job_and_bad_weights_do_not_count(data: Path) -> None:
    read = Visibilities.of_job(data / "real_run_tiny" / "tiny_1")
    monitor = Monitor(Input.read(data / "real_run_tiny" / "tiny_1.input"), [0])
    monitor.take(batch_of(read, slice(0, 12)))
    (update,) = monitor.take(batch_of(read, slice(12, 24), restarted=True))
    np.testing.assert_array_equal(update.mean, update.spectrum)
    for bad in (0.0, float("nan")):
        worthless = read.headers[24:25].copy()
        worthless["weight"] = bad
        (after,) = monitor.take(Batch("x", worthless, tuple(read.spectra([24]))))
        np.testing.assert_array_equal(after.mean, update.mean)


# -- the picture of a running job -----------------------------------------------------------------


def test_the_picture_is_drawn_anew_as_the_job_runs(job: Path, folder: Path, whole: bytes) -> None:
    pictures = plot.follow_job(job / "tiny_1", "fd-ov", every_seconds=0, recheck_seconds=LONG)
    with contextlib.closing(pictures):
        got: list[bytes] = []

        def draw() -> None:
            for path in pictures:
                got.append(Path(path).read_bytes())
                if len(got) == 2:
                    return

        drawer = threading.Thread(target=draw)
        drawer.start()
        folder.mkdir()
        with (folder / NAME).open("wb", buffering=0) as out:
            out.write(whole[: 12 * RECORD])
            wait_for(lambda: len(got) >= 1)
            out.write(whole[12 * RECORD : 24 * RECORD])
            drawer.join(WAIT)
    assert len(set(got)) == 2
    assert (job / "tiny_1.FD-OV.png").read_bytes() == got[1]
    assert not list(job.glob("*~"))


def test_following_ends_with_ctrl_c(job: Path, folder: Path, whole: bytes, tmp_path: Path) -> None:
    out = tmp_path / "live.png"
    command = [
        sys.executable,
        "-m",
        "mpiframe",
        "difx",
        "plot",
        str(job / "tiny_1"),
        "--follow",
        "-o",
        str(out),
    ]
    # It hears Ctrl-C as these tests do, which do also where they were started in the background.
    assert signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        try:
            folder.mkdir()
            (folder / NAME).write_bytes(whole)
            assert process.stdout is not None
            assert process.stdout.readline().strip() == str(out)
            process.send_signal(signal.SIGINT)
            rest, errors = process.communicate(timeout=WAIT)
        finally:
            process.kill()
    assert (process.returncode, rest, errors) == (0, "", "")
    assert out.read_bytes().startswith(b"\x89PNG")


def test_what_a_job_will_not_have_is_not_waited_for(job: Path, folder: Path) -> None:
    with pytest.raises(KeyError, match="there is no baseline 'FD-HN', only FD-OV, FD-FD, OV-OV"):
        next(plot.follow_job(job / "tiny_1", "FD-HN"))
    with pytest.raises(FormatError, match="there are no such visibilities of baseline FD-OV"):
        next(plot.follow_job(job / "tiny_1", polarisations=["XX"]))
