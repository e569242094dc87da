"""What bars look like, and that what is printed beside them is not torn."""

from __future__ import annotations

import contextlib
import io
import re
import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from mpiframe import displays
from mpiframe.bars import Picture, clock, number, paint, to_html
from mpiframe.displays import LogDisplay, Screen, TerminalDisplay
from mpiframe.output import STDOUT, Printer


def picture(**changes: Any) -> Picture:
    values: dict[str, Any] = {
        "label": "simulate",
        "total": 400,
        "done": 120,
        "failed": 0,
        "seconds": 60.0,
        "rate": 2.0,
        "left": 140.0,
        "servers": {1: 70, 2: 50},
    }
    return Picture(**values | changes)


# -- words -----------------------------------------------------------------------------------------


def test_times_and_rates_are_short() -> None:
    assert [clock(s) for s in (0.04, 9.94, 12.4, 59.4, 60, 187, 43200)] == [
        "0.0 s",
        "9.9 s",
        "12 s",
        "59 s",
        "1:00",
        "3:07",
        "12:00:00",
    ]
    assert [number(v) for v in (0.0123, 0.5, 1.26, 99.94, 1234567.0)] == [
        "0.012",
        "0.5",
        "1.3",
        "99.9",
        "1,234,567",
    ]


def test_a_bar_says_how_much_is_done() -> None:
    first, second = paint(picture(failed=3), 80)
    assert re.fullmatch(r"simulate \[#+\.+\] 120/400  3 failed  2:20 left  2.0/s", first)
    assert first.count("#") == int((first.count("#") + first.count(".") - 1) * 0.3)
    assert second == "1: 70 (1.2/s)  2: 50 (0.83/s)"


def test_a_bar_without_a_total_has_no_bar() -> None:
    (line,) = paint(picture(total=None, left=None, servers={1: 120}), 80)
    assert line == "simulate 120  2.0/s"
    assert paint(picture(total=0, done=0, servers={}), 80)[0].startswith("simulate [####")


@pytest.mark.parametrize("width", [10, 20, 40, 57, 80, 200])
@pytest.mark.parametrize("label", ["", "simulate", "a label that is much longer than anybody wants"])
@pytest.mark.parametrize("total", [None, 400, 10**9])
def test_no_line_is_wider_than_the_terminal(width: int, label: str, total: int | None) -> None:
    servers = {rank: 10 * rank for rank in range(1, 33)}
    for over in (False, True):
        lines = paint(picture(label=label, total=total, failed=2, servers=servers, over=over), width)
        assert all(len(line) < width for line in lines), lines
        assert "120" in lines[0]


def test_html_is_escaped_and_folds_servers_away() -> None:
    text = to_html(picture(label="<script>alert(1)</script>", failed=2))
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    assert 'value="0.3000"' in text
    assert "<summary>2 servers</summary>" in text
    assert "2 failed</b>" in text
    assert "value=" not in to_html(picture(total=None))


# -- the terminal ----------------------------------------------------------------------------------


class Terminal(io.StringIO):
    """A terminal of 80 columns that understands what bars write: carriage return, clear, up."""

    def isatty(self) -> bool:
        return True

    def lines(self) -> list[str]:
        rows, row, column = [""], 0, 0
        for part in re.findall(r"\x1b\[\d*[A-Za-z]|\r|\n|[^\x1b\r\n]+", self.getvalue()):
            if part == "\r":
                column = 0
            elif part == "\n":
                row, column = row + 1, 0
                rows += [""] * (row + 1 - len(rows))
            elif part == "\x1b[2K":
                rows[row] = ""
            elif part == "\x1b[1A":
                row -= 1
            else:
                assert not part.startswith("\x1b"), part
                old = rows[row].ljust(column)
                rows[row] = old[:column] + part + old[column + len(part) :]
                column += len(part)
        return [line for line in rows if line]


def take_over(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A terminal in place of the standard streams; not as a fixture, for pytest puts its own between."""
    found = Terminal()
    monkeypatch.setattr(sys, "stdout", found)
    monkeypatch.setattr(sys, "stderr", found)
    monkeypatch.setattr(displays, "_painter", lambda: paint)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    return found


def test_a_bar_is_the_last_line_and_is_drawn_over(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = take_over(monkeypatch)
    bar = TerminalDisplay(Screen(terminal))
    print("before")
    bar.draw(picture(done=0, servers={1: 0, 2: 0}))
    bar.draw(picture(done=200))
    print("between")
    lines = terminal.lines()
    assert lines[:2] == ["before", "between"]
    assert "200/400" in lines[2]
    assert len(lines) == 4
    bar.draw(picture(done=400, over=True))
    print("after")
    lines = terminal.lines()
    assert len(lines) == 5
    assert lines[-1] == "after"
    assert "400/400" in lines[2]
    assert sys.stdout is terminal
    assert sys.stderr is terminal


def test_two_bars_stand_one_below_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = take_over(monkeypatch)
    screen = Screen(terminal)
    one, two = TerminalDisplay(screen), TerminalDisplay(screen)
    one.draw(picture(label="one", servers={}))
    two.draw(picture(label="two", servers={}))
    print("text")
    assert [line.split()[0] for line in terminal.lines()] == ["text", "one", "two"]
    one.draw(picture(label="one", servers={}, over=True))
    print("more")
    assert [line.split()[0] for line in terminal.lines()] == ["text", "one", "more", "two"]
    two.draw(picture(label="two", servers={}, over=True))
    assert [line.split()[0] for line in terminal.lines()] == ["text", "one", "more", "two"]
    assert sys.stdout is terminal


def test_a_line_without_its_end_is_not_written_into(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = take_over(monkeypatch)
    bar = TerminalDisplay(Screen(terminal))
    bar.draw(picture(servers={}))
    print("a ", end="")
    bar.draw(picture(servers={}, done=130))
    print("line")
    assert terminal.lines()[0] == "a line"
    assert "130/400" not in terminal.lines()[0]
    print("the rest", end="")
    bar.draw(picture(servers={}, done=140, over=True))
    assert [line.split()[0] for line in terminal.lines()] == ["a", "the", "simulate"]


def test_what_many_threads_print_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = take_over(monkeypatch)
    bar = TerminalDisplay(Screen(terminal))
    bar.draw(picture())
    printer = Printer("redirect")

    def serve(server: int) -> None:
        for line in range(50):
            printer.feed(server, line + 1, [(STDOUT, f"line {line}\n")])

    threads = [threading.Thread(target=serve, args=(server,)) for server in range(1, 5)]
    for thread in threads:
        thread.start()
    for done in range(30):
        bar.draw(picture(done=done))
    for thread in threads:
        thread.join()
    bar.draw(picture(over=True, done=400))
    lines = terminal.lines()
    wanted = {f"[server {s} #{n + 1}] line {n}" for s in range(1, 5) for n in range(50)}
    assert set(lines[:-2]) == wanted
    assert len(lines) == len(wanted) + 2


def test_a_bar_that_is_not_over_leaves_a_prompt_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Events:
        def register(self, name: str, function: Any) -> None:
            self.found = name, function

    terminal, events = take_over(monkeypatch), Events()
    monkeypatch.setattr(displays, "running_ipython", lambda: SimpleNamespace(events=events))
    bar = TerminalDisplay(Screen(terminal))
    bar.draw(picture())
    name, at_prompt = events.found
    assert name == "post_run_cell"
    at_prompt(None)
    assert terminal.lines() == []
    assert sys.stdout is terminal
    print("In [2]: next(results)")
    bar.draw(picture(done=130))
    assert len(terminal.lines()) == 3
    at_prompt(None)
    at_prompt(None)
    assert terminal.lines() == ["In [2]: next(results)"]


def test_a_stream_that_was_kept_goes_on_when_the_bar_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = take_over(monkeypatch)
    bar = TerminalDisplay(Screen(terminal))
    bar.draw(picture())
    kept = sys.stdout
    assert kept is not terminal
    assert kept.isatty()
    kept.writelines(["one\n", "two\n"])
    bar.draw(picture(over=True))
    kept.write("three\n")
    assert "three" in terminal.lines()
    with pytest.raises(TypeError):
        kept.write(b"bytes")  # type: ignore[arg-type]


def piped(monkeypatch: pytest.MonkeyPatch) -> tuple[io.StringIO, Terminal]:
    """Standard streams that are pipes, and a terminal that is not one of them."""
    pipe, terminal = io.StringIO(), Terminal()
    for name in ("stdout", "stderr", "__stdout__", "__stderr__"):
        monkeypatch.setattr(sys, name, pipe)
    monkeypatch.setattr(displays, "_painter", lambda: paint)
    return pipe, terminal


def test_through_pipes_the_bar_makes_room_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, terminal = piped(monkeypatch)
    now = 1000.0
    monkeypatch.setattr(displays, "time", SimpleNamespace(monotonic=lambda: now))
    bar = TerminalDisplay(Screen(terminal, through=[]))
    bar.draw(picture())
    assert len(terminal.lines()) == 2
    print("text")
    bar.draw(picture())  # too early
    assert terminal.lines() == []
    assert pipe.getvalue() == "text\n"
    now += 0.06
    bar.draw(picture())
    assert len(terminal.lines()) == 2
    print("more")
    bar.draw(picture(over=True))
    assert len(terminal.lines()) == 2
    assert sys.stdout is pipe


def test_pipes_that_end_on_the_terminal_are_passed_by(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, terminal = piped(monkeypatch)
    bar = TerminalDisplay(Screen(terminal, through=["stdout", "stderr"]))
    bar.draw(picture())
    print("text")
    print("more", file=sys.stderr)
    assert [line.split()[0] for line in terminal.lines()] == ["text", "more", "simulate", "1:"]
    assert pipe.getvalue() == ""
    bar.draw(picture(over=True))
    print("after")
    assert pipe.getvalue() == "after\n"


def test_what_the_user_has_redirected_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    _, terminal = piped(monkeypatch)
    bar, mine = TerminalDisplay(Screen(terminal, through=["stdout", "stderr"])), io.StringIO()
    with contextlib.redirect_stdout(mine):
        bar.draw(picture())
        print("text")
        bar.draw(picture(over=True))
    assert mine.getvalue() == "text\n"
    assert "text" not in terminal.lines()


def test_output_that_goes_to_a_file_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = take_over(monkeypatch)
    file = io.StringIO()
    monkeypatch.setattr(sys, "stdout", file)
    bar = TerminalDisplay(Screen(terminal))
    bar.draw(picture())
    assert sys.stdout is file
    assert sys.stderr is not terminal
    print("text")
    assert file.getvalue() == "text\n"
    bar.draw(picture(over=True))
    assert sys.stderr is terminal


def test_a_terminal_that_is_gone_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(Terminal):
        def write(self, text: str) -> int:
            raise OSError(5, "Input/output error")

    gone = Gone()
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    bar = TerminalDisplay(Screen(gone))
    bar.draw(picture())
    bar.draw(picture(over=True))


# -- where it is drawn -----------------------------------------------------------------------------


def test_where_there_is_no_terminal_there_is_no_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(displays.TERMINAL, raising=False)
    assert displays.find_display(None) is None
    assert displays.find_display(False) is None
    log = displays.find_display(True)
    assert isinstance(log, LogDisplay)
    for seconds in (0.0, 1.0, 10.5, 12.0, 21.0):
        log.draw(picture(seconds=seconds))
    log.draw(picture(seconds=22.0, over=True, done=400, failed=1))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "simulate: 120/400, 2:20 left, 2.0/s",
        "simulate: 120/400, 2:20 left, 2.0/s",
        "simulate: 400/400, 1 failed, in 22 s, 2.0/s",
    ]


def test_a_terminal_is_found_and_a_poor_one_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    take_over(monkeypatch)
    monkeypatch.setattr(displays, "_screen", None)
    first, second = displays.find_display(None), displays.find_display(None)
    assert isinstance(first, TerminalDisplay)
    assert isinstance(second, TerminalDisplay)
    assert first._screen is second._screen
    monkeypatch.setenv("TERM", "dumb")
    assert displays.find_display(None) is None


def test_the_terminal_that_the_launcher_names_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    import os
    import pty

    ours, theirs = pty.openpty()
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(displays, "_screen", None)
    monkeypatch.setenv(displays.TERMINAL, os.ttyname(theirs))
    monkeypatch.setenv(displays.TERMINAL_STREAMS, "stdout")
    try:
        found = displays.find_display(None)
        assert isinstance(found, TerminalDisplay)
        found.draw(picture(label="here"))
        found.draw(picture(label="here", over=True))
        assert b"here" in os.read(ours, 1000)
        assert found._screen._through == ["stdout"]
        monkeypatch.setenv(displays.TERMINAL, "/nowhere/tty")
        assert displays.find_display(None) is None
    finally:
        for file in displays._opened.values():
            file.close()
        displays._opened.clear()
        os.close(ours)
        os.close(theirs)
