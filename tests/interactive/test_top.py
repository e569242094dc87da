"""`mpiframe top` on pseudo-terminals of 80 and 40 columns, and as one table, on a double of a world."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mpiframe.watch.top import View, once, plain

from .fake_world import FakeWorld
from .terminal import CTRL_C, Terminal

ROOT = Path(__file__).resolve().parents[2]

# The real command line; only where its snapshots come from is the double.
PROGRAM = """
import contextlib, sys
from tests.interactive.fake_world import FakeWorld
import mpiframe.watch.top

@contextlib.contextmanager
def open_source(name, what, key):
    world = FakeWorld(servers={servers}, history=60, name=name or "survey")
    if {ends}:
        limit = iter(range({ends}))
        def source(since):
            if next(limit, None) is None:
                world.end("It ended with status 0.")
            return world(since)
        yield source, world.name
    else:
        yield world, world.name

mpiframe.watch.top.open_source = open_source
from mpiframe.cli import main
sys.exit(main(sys.argv[1:]))
"""


def lines(top: Terminal) -> list[str]:
    """What stands on the screen."""
    return [line.rstrip() for line in top.screen.display]


def rows(top: Terminal) -> list[str]:
    """The lines of servers."""
    return [line for line in lines(top) if re.match(r" *\d+ .*\b(busy|idle)\b", line)]


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    """Of so many columns and lines, on which `top` runs."""
    terminals: list[Terminal] = []

    def make(columns: int, height: int, *argv: str, servers: int = 4, ends: int = 0) -> Terminal:
        env = {**os.environ, "PYTHONPATH": str(ROOT), "LANG": "C.UTF-8"}
        for name in ("COLUMNS", "LINES", "NO_COLOR"):
            env.pop(name, None)
        folder = tmp_path / str(len(terminals))
        folder.mkdir()
        program = PROGRAM.replace("{servers}", str(servers)).replace("{ends}", str(ends))
        words = [sys.executable, "-c", program, "top", *argv]
        terminals.append(Terminal(words, folder, env, columns, height))
        return terminals[-1]

    yield make
    for one in terminals:
        one.kill()


def is_restored(top: Terminal) -> bool:
    """Whether the other screen was left, and the cursor is there again."""
    return top.raw.rindex(b"\x1b[?1049l") > top.raw.rindex(b"\x1b[?1049h") and top.raw.rindex(
        b"\x1b[?25h"
    ) > top.raw.rindex(b"\x1b[?25l")


def test_it_shows_the_world_live_and_q_leaves(terminal: Callable[..., Terminal]) -> None:
    top = terminal(80, 24, "--every", "0.2")
    top.until(lambda: len(rows(top)) == 4)
    assert lines(top)[0].startswith("mpiframe survey - up 1:0")
    assert "Open MPI 5.0.8 - 5 ranks on 1 host" in lines(top)[0]
    assert re.match(r"\d/4 busy, [\d.]+ cmd/s, \d+ queued, \d+ done, \d+ failed", lines(top)[1])
    assert lines(top)[3].split() == [
        "rank",
        "state",
        "queue",
        "CPU%",
        "memory",
        "cmd/s",
        "failed",
        "for",
        "command",
    ]
    assert "337 MiB" in rows(top)[0]
    assert [row.split()[0] for row in rows(top)] == ["1", "2", "3", "4"]
    before = list(lines(top))
    top.until(lambda: lines(top) != before and len(rows(top)) == 4)
    assert any(line.startswith("ann-1: attached, 3 queued") for line in lines(top))
    top.type("q")
    assert top.ended() == 0
    assert is_restored(top)


def test_ctrl_c_leaves_as_quietly(terminal: Callable[..., Terminal]) -> None:
    top = terminal(80, 24)
    top.until(lambda: rows(top))
    top.type(CTRL_C)
    assert top.ended() == 0
    assert is_restored(top)
    assert b"Traceback" not in top.raw


def test_a_signal_leaves_the_terminal_as_it_was(terminal: Callable[..., Terminal]) -> None:
    top = terminal(80, 24)
    top.until(lambda: rows(top))
    (pid,) = [pid for pid, line in top.pids().items() if " top" in line and line.startswith(sys.executable)]
    os.kill(pid, signal.SIGTERM)
    assert top.ended() == 128 + signal.SIGTERM
    assert is_restored(top)


def test_forty_columns_have_what_matters(terminal: Callable[..., Terminal]) -> None:
    top = terminal(40, 16, "--every", "0.2")
    top.until(lambda: len(rows(top)) == 4)
    assert lines(top)[0].startswith("mpiframe survey - up")
    assert "busy" in lines(top)[1]
    assert lines(top)[4].split() == ["rank", "state", "queue", "CPU%", "command"]
    assert all("#" in row for row in rows(top) if "busy" in row)
    assert len(top.screen.display[0]) == 40
    top.type("q")
    assert top.ended() == 0


def test_it_follows_the_size_of_the_terminal(terminal: Callable[..., Terminal]) -> None:
    top = terminal(80, 24, "--every", "60")  # so that only the change of size can have it drawn anew
    top.until(lambda: any("memory" in line for line in lines(top)))
    top.screen.reset()
    top.resize(40, 16)
    top.until(lambda: rows(top) and "CPU%" in lines(top)[4])
    assert not any("memory" in line for line in lines(top))
    top.screen.reset()
    top.resize(120, 24)
    top.until(lambda: any("host" in line for line in lines(top)[3:5]))
    top.type("q")
    assert top.ended() == 0


def test_more_servers_than_lines_are_counted(terminal: Callable[..., Terminal]) -> None:
    top = terminal(80, 20, servers=100)
    top.until(lambda: any("more" in line for line in lines(top)))
    shown = len(rows(top))
    (rest,) = [line for line in lines(top) if "more" in line]
    assert rest == f"... and {100 - shown} more"
    assert 5 < shown < 20
    assert lines(top)[0].startswith("mpiframe survey")
    top.type("q")
    assert top.ended() == 0


def test_the_end_of_the_world_is_told_and_its_last_state_stays(terminal: Callable[..., Terminal]) -> None:
    top = terminal(80, 24, "--every", "0.1", ends=4)
    assert top.ended() == 0
    assert is_restored(top)
    assert any("the world has gone: It ended with status 0." in line for line in lines(top))
    assert len(rows(top)) == 4


def test_where_there_is_no_terminal_it_says_what_to_do(
    terminal: Callable[..., Terminal], tmp_path: Path
) -> None:
    import subprocess

    program = PROGRAM.replace("{servers}", "2").replace("{ends}", "0")
    run = subprocess.run(
        [sys.executable, "-c", program, "top"], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert run.returncode == 2
    assert "mpiframe top: this is no terminal; `mpiframe top --once` prints one table" in run.stderr


@pytest.mark.parametrize("width", [40, 80, 200])
def test_once_prints_one_plain_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    world = FakeWorld(history=60)
    assert once(world) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert max(len(line) for line in out.splitlines()) <= width
    assert len(re.findall(r"^ +\d .*(?:busy|idle)", out, re.M)) == 4
    assert world.asked == 3  # rates take two looks, and CPU times one more


def test_text_gives_the_terminal_no_orders(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Evil(FakeWorld):
        """Its texts hold escape sequences and markup."""

        def __call__(self, since: int) -> dict[str, Any]:
            now = super().__call__(since)
            for server in now["servers"]:
                server["running"], server["command"] = 1, "\x1b]0;HACKED\x07\x1b[2J[red]x[/red]\u202e\r"
            now["sessions"][0]["name"] = "\x1b[31mann"
            now["world"]["name"] = "a\x9b31mb"
            return now

    monkeypatch.setenv("COLUMNS", "120")
    once(Evil(history=5))
    out = capsys.readouterr().out
    assert not set(out) & set("\x1b\x07\r\x9b\u202e")
    assert "[red]x[/red]" in out
    assert plain("a\tb\x00c é 日") == "a?b?c é 日"


def test_rates_are_of_the_time_between_two_looks() -> None:
    view = View()
    first = FakeWorld()(0)
    second = {**first, "now": first["now"] + 4.0, "servers": [dict(s) for s in first["servers"]]}
    second["servers"][0]["done"] = first["servers"][0]["done"] + 10
    second["servers"][1]["pid"] += 1  # another has come in its place
    view.take(first)
    assert view.rate("done", first["servers"][0]) is None
    view.take(second)
    assert view.rate("done", second["servers"][0]) == 2.5
    assert view.rate("done", second["servers"][1]) is None
    assert view.rate("rss", {**second["servers"][2], "rss": None}) is None
