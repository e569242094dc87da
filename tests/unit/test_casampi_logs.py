"""Where the client's log lines go, by mode. No MPI."""

from __future__ import annotations

import io
import logging
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mpiframe.compat.casampi import _logs
from mpiframe.compat.casampi._logs import Logs, server_file


@pytest.fixture
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Logs]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging, "raiseExceptions", True)
    logs = Logs()
    yield logs
    logs.close()


def record(text: str, level: int = logging.INFO, name: str = "mpiframe.x", rank: int | None = None) -> Any:
    made = logging.LogRecord(name, level, "file.py", 1, text, None, None)
    made.created = 1_000_000_000.25  # 2001-09-09 01:46:40 UTC
    if rank is not None:
        made.rank = rank
    return made


def words(path: Path) -> list[str]:
    """The last word of each line."""
    return [line.split()[-1] for line in path.read_text().splitlines()]


def found(folder: Path) -> dict[str, list[str]]:
    return {re.sub(r"\d{8}-\d{6}", "DATE", path.name): words(path) for path in sorted(folder.glob("casa-*"))}


def say(logs: Logs) -> None:
    """One record of this process, and one of each of two servers."""
    logs.emit(record("mine"))
    logs.hear(record("one", rank=1))
    logs.hear(record("two", rank=2))


# -- modes ----------------------------------------------------------------------------------------


def test_unified_is_the_first_mode(logs: Logs, tmp_path: Path, capsys: Any) -> None:
    assert logs.mode == "unified"
    assert found(tmp_path) == {}
    say(logs)
    assert found(tmp_path) == {"casa-DATE.log": ["mine", "one", "two"]}
    assert capsys.readouterr() == ("", "")


def test_separated(logs: Logs, tmp_path: Path, capsys: Any) -> None:
    logs.switch("separated")
    say(logs)
    say(logs)
    assert found(tmp_path) == {
        "casa-DATE.log": ["mine"] * 2,
        "casa-DATE.log-server-1": ["one"] * 2,
        "casa-DATE.log-server-2": ["two"] * 2,
    }
    assert capsys.readouterr() == ("", "")


def test_redirect(logs: Logs, tmp_path: Path, capsys: Any) -> None:
    logs.switch("redirect")
    say(logs)
    assert found(tmp_path) == {}
    out, err = capsys.readouterr()
    assert (out, [line.split()[-1] for line in err.splitlines()]) == ("", ["mine", "one", "two"])


def test_switching(logs: Logs, tmp_path: Path) -> None:
    """Lines that were written stay; the file of a mode is the same when the mode comes again."""
    for mode in ("unified", "separated", "redirect", "unified"):
        logs.switch(mode)
        logs.hear(record(mode, rank=1))
    assert found(tmp_path) == {
        "casa-DATE.log": ["unified", "unified"],
        "casa-DATE.log-server-1": ["separated"],
    }


def test_a_record_after_the_end_opens_the_file_again(logs: Logs, tmp_path: Path) -> None:
    logs.emit(record("before"))
    logs.switch(logs.mode)
    logs.emit(record("after"))
    assert found(tmp_path) == {"casa-DATE.log": ["before", "after"]}


@pytest.mark.parametrize("mode", _logs.MODES)
@pytest.mark.parametrize("level", [logging.WARNING, logging.ERROR, logging.CRITICAL])
def test_warnings_are_on_the_terminal_in_every_mode(logs: Logs, capsys: Any, mode: str, level: int) -> None:
    logs.switch(mode)
    logs.emit(record("mine", level))
    logs.hear(record("one", level, rank=1))
    assert [line.split()[-1] for line in capsys.readouterr().err.splitlines()] == ["mine", "one"]


def test_lines_are_there_at_once(logs: Logs, tmp_path: Path) -> None:
    """CASA may append to the same file, and somebody may follow it."""
    for number in range(3):
        logs.emit(record(str(number)))
        assert found(tmp_path) == {"casa-DATE.log": [str(n) for n in range(number + 1)]}
        assert Path(logs.path).read_text().endswith("\n")


def test_a_servers_record_is_written_once(logs: Logs, tmp_path: Path) -> None:
    """It is heard, and then handled by the loggers of this process as well."""
    made = record("one", rank=1)
    logs.hear(made)
    logs.handle(made)
    assert found(tmp_path) == {"casa-DATE.log": ["one"]}


# -- which file -----------------------------------------------------------------------------------


def test_the_file_stays_where_it_was(logs: Logs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever folder the script goes to."""
    path = Path(logs.path)
    assert path.parent == tmp_path
    assert re.fullmatch(r"casa-\d{8}-\d{6}\.log", path.name)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    logs.emit(record("mine"))
    assert words(path) == ["mine"]


def test_the_file_of_casa_if_there_is_one(
    logs: Logs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    casatools = types.ModuleType("casatools")
    monkeypatch.setitem(sys.modules, "casatools", casatools)
    assert _logs._casa_file() is None
    casatools.logsink = lambda: types.SimpleNamespace(logfile=lambda: "")  # type: ignore[attr-defined]
    assert _logs._casa_file() is None
    path = tmp_path / "casapy.log"
    path.write_text("what CASA said\n")
    casatools.logsink = lambda: types.SimpleNamespace(logfile=lambda: str(path))  # type: ignore[attr-defined]
    say(logs)
    assert words(path) == ["said", "mine", "one", "two"]
    assert server_file(str(path), 3) == f"{path}-server-3"


# -- lines ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "word"),
    [
        (logging.CRITICAL, "SEVERE"),
        (logging.ERROR, "SEVERE"),
        (logging.WARNING, "WARN"),
        (logging.INFO, "INFO"),
        (logging.INFO - 5, "INFO"),
        (logging.DEBUG, "DEBUG"),
        (logging.DEBUG - 2, "DEBUG"),
    ],
)
def test_a_line(level: int, word: str) -> None:
    """In universal time, the level as CASA calls it, and who says it."""
    assert _logs._line(record("text", level), None) == f"2001-09-09 01:46:40\t{word}\tmpiframe.x\ttext\n"
    line = _logs._line(record("text", level, rank=3), 3)
    assert line == f"2001-09-09 01:46:40\t{word}\tmpiframe.x::server-3\ttext\n"


def test_what_casalog_says_has_its_place_already() -> None:
    line = _logs._line(record("task::casa::MPIServer-3\ttext", name="casa", rank=3), 3)
    assert line == "2001-09-09 01:46:40\tINFO\ttask::casa::MPIServer-3\ttext\n"


def test_arguments_and_tracebacks() -> None:
    made = record("%d of %s")
    made.args = (1, "two")
    made.exc_text = "Traceback\n  ...\nValueError"
    assert _logs._line(made, None).endswith("\tmpiframe.x\t1 of two\nTraceback\n  ...\nValueError\n")


def test_the_traceback_of_an_exception_is_written(logs: Logs, tmp_path: Path) -> None:
    """No other handler may have formatted it before."""
    made = record("it failed", logging.ERROR)
    try:
        raise ValueError("the reason")
    except ValueError:
        made.exc_info = sys.exc_info()
    logs.handle(made)
    lines = Path(logs.path).read_text().splitlines()
    assert lines[0].endswith("\tmpiframe.x\tit failed")
    assert lines[1].startswith("Traceback")
    assert lines[-1] == "ValueError: the reason"


# -- what goes wrong ------------------------------------------------------------------------------


class Broken(io.StringIO):
    """A terminal that is closed."""

    def write(self, text: str) -> int:
        raise OSError("nobody reads this")


def test_a_terminal_that_is_gone_stops_nothing(logs: Logs, tmp_path: Path, monkeypatch: Any) -> None:
    for broken in (Broken(), None):
        monkeypatch.setattr(sys, "stderr", broken)
        logs.emit(record("mine", logging.ERROR))
        logs.switch("redirect")
        logs.hear(record("one", rank=1))
        logs.switch("unified")
    assert found(tmp_path) == {"casa-DATE.log": ["mine", "mine"]}


def test_a_folder_that_is_gone_stops_nothing(logs: Logs, tmp_path: Path, capsys: Any) -> None:
    Path(logs.path).mkdir()
    logs.emit(record("mine"))
    logs.hear(record("one", rank=1))
    assert "Logging error" in capsys.readouterr().err


def test_a_message_whose_arguments_do_not_fit_stops_nothing(logs: Logs, capsys: Any) -> None:
    """As with every handler of the logging module: it is told, and the program goes on."""
    made = record("%d of %d")
    made.args = ("one",)
    logs.emit(made)
    assert "Logging error" in capsys.readouterr().err
