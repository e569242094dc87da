"""The stand-in for CASA's log where CASA is not. No MPI."""

from __future__ import annotations

import itertools
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from mpiframe.compat.casampi._casalog import LEVELS, LogSink

WHOLE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1024


@pytest.fixture
def sink() -> Iterator[LogSink]:
    logger = logging.getLogger("casa")
    before = logger.level
    yield LogSink("MPIServer-7")
    logger.setLevel(before)


def posted(caplog: Any) -> list[tuple[int, str]]:
    """(level, text) of what was posted since the last call."""
    found = [(record.levelno, record.getMessage()) for record in caplog.records]
    assert {record.name for record in caplog.records} <= {"casa"}
    caplog.clear()
    return found


# -- messages -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("priority", "level"),
    [("SEVERE", "ERROR"), ("WARN", "WARNING"), ("INFO", "INFO"), ("NORMAL", "INFO"), ("warn", "WARNING")],
)
def test_priorities(sink: LogSink, caplog: Any, priority: str, level: str) -> None:
    assert sink.post("a message", priority) is True
    assert posted(caplog) == [(getattr(logging, level), "casa::MPIServer-7\ta message")]
    assert sink.postLocally("another", priority, "me") is True
    assert posted(caplog) == [(getattr(logging, level), "me::casa::MPIServer-7\tanother")]


def test_a_priority_that_is_none(sink: LogSink, caplog: Any) -> None:
    """The message is not lost."""
    assert sink.post("a message", "LOUD") is False
    assert posted(caplog) == [(logging.INFO, "casa::MPIServer-7\ta message")]


def test_per_cent_signs_are_text(sink: LogSink, caplog: Any) -> None:
    sink.post("100 %s of %d")
    assert posted(caplog) == [(logging.INFO, "casa::MPIServer-7\t100 %s of %d")]


def test_which_levels_are_written(sink: LogSink, caplog: Any) -> None:
    order = ["SEVERE", "WARN", "INFO", "INFO1", "INFO5", "DEBUG", "DEBUG1", "DEBUG2"]
    assert [LEVELS[a] > LEVELS[b] for a, b in itertools.pairwise(order)] == [True] * 7
    for lowest in order:
        assert sink.filter(lowest) is True
        for level in order:
            sink.post("a message", level)
        assert len(posted(caplog)) == order.index(lowest) + 1
    assert sink.filter("LOUD") is False
    sink.post("a message", "DEBUG2")
    assert len(posted(caplog)) == 1


def test_what_is_finer_than_info_is_left_out_at_first(sink: LogSink, caplog: Any) -> None:
    for level in ("INFO1", "NORMAL5", "DEBUG"):
        assert sink.post("a message", level) is True
    assert posted(caplog) == []


def test_messages_that_are_hidden(sink: LogSink, caplog: Any) -> None:
    sink.filterMsg("secret")
    sink.filterMsg(["hush", "quiet"])
    for message in ("a secret of mine", "hush now", "be quiet", "heard"):
        assert sink.post(message) is True
    assert [text.partition("\t")[2] for _, text in posted(caplog)] == ["heard"]
    sink.clearFilterMsgList()
    sink.post("a secret of mine")
    assert len(posted(caplog)) == 1


def test_origins(sink: LogSink, caplog: Any) -> None:
    assert sink.getOrigin() == ""
    assert sink.origin("mytask") is True
    assert sink.getOrigin() == "mytask"
    assert sink.processorOrigin("here") is True
    sink.post("1")
    sink.post("2", origin="other")
    sink.processorOrigin("")
    sink.post("3")
    texts = [text for _, text in posted(caplog)]
    assert texts == ["mytask::casa::here\t1", "other::casa::here\t2", "mytask::casa\t3"]


def test_there_is_no_file_and_no_casa(sink: LogSink) -> None:
    assert sink.logfile() == ""
    assert "without CASA" in sink.version()


# -- resources ------------------------------------------------------------------------------------


def test_memory(sink: LogSink) -> None:
    """KiB, but set in MiB; what was set is told to those who ask for it."""
    assert sink.getMemoryTotal() == sink.getMemoryTotal(True) == WHOLE
    assert sink.setMemoryTotal(100) is True
    assert sink.getMemoryTotal(use_aipsrc=True) == 100 * 1024
    assert sink.getMemoryTotal(False) == WHOLE
    assert sink.setMemoryFraction(50) is True
    assert sink.getMemoryTotal(True) == WHOLE / 2
    sink.setMemoryFraction(-1)
    assert sink.getMemoryTotal(True) == WHOLE
    sink.setMemoryTotal(100)
    sink.setMemoryTotal(-1)
    assert sink.getMemoryTotal(True) == WHOLE


def test_cores(sink: LogSink) -> None:
    assert sink.getNumCPUs() == sink.getNumCPUs(True) == os.cpu_count()
    assert sink.setNumCPUs(3) is True
    assert (sink.getNumCPUs(True), sink.getNumCPUs(False)) == (3, os.cpu_count())
    sink.setNumCPUs(-1)
    assert sink.getNumCPUs(True) == os.cpu_count()


def test_threads_of_openmp_where_no_library_is_loaded(sink: LogSink, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is for those that will be."""
    monkeypatch.setattr("mpiframe.compat.casampi._casalog._openmp_libraries", list)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert sink.ompGetNumThreads() == os.cpu_count()
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert sink.ompGetNumThreads() == sink.ompNumThreadsTest() == 5
    assert sink.ompSetNumThreads(2) is True
    assert (sink.ompGetNumThreads(), os.environ["OMP_NUM_THREADS"]) == (2, "2")


class Library:
    """Stands for a loaded OpenMP."""

    threads = 4

    def omp_get_max_threads(self) -> int:
        return self.threads

    def omp_set_num_threads(self, threads: int) -> None:
        self.threads = threads


def test_threads_of_openmp_where_libraries_are_loaded(sink: LogSink, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them: each wheel brings its own."""
    libraries = [Library(), Library()]
    monkeypatch.setattr("mpiframe.compat.casampi._casalog._openmp_libraries", lambda: libraries)
    monkeypatch.setenv("OMP_NUM_THREADS", "9")
    assert sink.ompGetNumThreads() == 4
    sink.ompSetNumThreads(3)
    assert [library.threads for library in libraries] == [3, 3]
    assert sink.ompGetNumThreads() == 3


# -- what is imported -----------------------------------------------------------------------------


def test_these_modules_start_no_mpi() -> None:
    """Only `MPIEnvironment`, and what needs it, does."""
    code = """
import sys
from mpiframe.compat.casampi import _books, _casalog, _logs
from mpiframe.compat import mpi4casa
print("mpi4py" in sys.modules)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout == "False\n"
