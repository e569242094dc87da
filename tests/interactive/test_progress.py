"""Bars as a person sees them, in a real terminal, beside what servers print."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterator

import pytest

from tests.conftest import Launcher
from tests.interactive.terminal import CTRL_C, Terminal

Start = Callable[..., Terminal]

SCRIPT = """
    import sys, time
    import mpiframe

    def work(item):
        time.sleep(0.02)
        if item % 7 == 0:
            print(f"item {item} of a server", flush=True)
        return item

    with mpiframe.Client() as client:
        assert list(client.map(work, range(100), progress="first", chunksize=1)) == list(range(100))
        for value in client.map(work, range(30), progress="second", ordered=False, chunksize=2):
            if value % 10 == 0:
                print(f"value {value} of the client", file=[sys.stdout, sys.stderr][value % 20 // 10])
        futures = [client.submit(work, 1) for _ in range(20)] + [client.submit(divmod, 1, 0)]
        for future in client.progress(futures, label="third", ordered=False):
            pass
        print("all done")
"""


@pytest.fixture
def start(launcher: Launcher) -> Iterator[Start]:
    """Run a script on three ranks in a terminal."""
    terminals: list[Terminal] = []

    def begin(script: str, columns: int = 80, env: dict[str, str] | None = None) -> Terminal:
        folder = launcher._base / f"terminal{len(terminals)}"
        folder.mkdir()
        (folder / "script.py").write_text(textwrap.dedent(script))
        words = [launcher.python.executable, "-m", "mpiframe", "run", "-n", "3", "script.py"]
        terminal = Terminal(words, folder, launcher._environment() | (env or {}), columns=columns)
        terminals.append(terminal)
        return terminal

    yield begin
    for terminal in terminals:
        terminal.kill()


@pytest.mark.parametrize("columns", [80, 40])
@pytest.mark.parametrize("rich", [True, False])
def test_bars_below_what_servers_print(start: Start, columns: int, rich: bool) -> None:
    # NO_COLOR is how one asks for the plain bar, which is also what there is without rich.
    terminal = start(SCRIPT, columns, {} if rich else {"NO_COLOR": "1"})
    assert terminal.ended() == 0
    assert re.search(rb"first[^\r\n]*[^\d][1-9]\d?/100", terminal.raw), "it was never drawn on its way"
    lines = terminal.text.splitlines()
    for item in range(0, 100, 7):
        assert any(re.fullmatch(rf"\[server \d #\d+\] item {item} of a server", x) for x in lines), item
    for value in (0, 10, 20):
        assert f"value {value} of the client" in lines
    bars = [line for line in lines if "/" in line and "in " in line and "server" not in line]
    assert len(bars) == 3, terminal.picture()
    assert ["100/100" in bars[0], "30/30" in bars[1], "21/21" in bars[2]] == [True] * 3
    assert "1 failed" in bars[2]
    # Each is followed by its servers, and nothing is left of those that were drawn on the way.
    rows = [line for line in lines if re.fullmatch(r"1: \d+ \(.*/s\)  2: \d+ \(.*/s\)", line)]
    assert len(rows) == 3, terminal.picture()
    known = len(bars) + len(rows) + 15 + 5 + 3 + len(["all done", "ended with 0"])
    assert len([line for line in lines if line]) == known, terminal.picture()
    assert (b"\x1b[3" in terminal.raw) is rich


def test_ctrl_c_ends_the_bar_and_what_it_waits_for(start: Start) -> None:
    terminal = start("""
        import time
        import mpiframe

        with mpiframe.Client() as client:
            ids = client.push("import time; time.sleep(1000)", target="all")
            try:
                client.progress(ids)
            except KeyboardInterrupt:
                statuses = [str(r.status) for r in client.get(ids)]
                print("interrupted:", *statuses)
    """)
    terminal.shows("0/2")
    terminal.type(CTRL_C)
    terminal.shows("interrupted: failed failed")
    assert terminal.ended() == 0
