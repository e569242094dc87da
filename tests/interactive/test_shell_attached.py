"""The prompt of `mpiframe attach`, in a terminal: the same prompt, in a process without MPI."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.conftest import Launcher
from tests.interactive.terminal import CTRL_C, CTRL_D, ENTER, LEFT, Terminal
from tests.interactive.worlds import Desk, desk_of


@pytest.fixture
def desk(launcher: Launcher) -> Iterator[Desk]:
    with desk_of(launcher) as found:
        found.mpiframe("start", "-n", "3", "--name", "survey").expect(0)
        yield found
        found.mpiframe("stop", "survey").expect(0)
        found.expect_nothing_left()


def test_a_session_at_a_terminal(desk: Desk) -> None:
    folder = desk.folder / "terminal"
    folder.mkdir()
    env = desk.env | {"XDG_STATE_HOME": str(folder / "state")}
    shell = Terminal([desk.python, "-m", "mpiframe", "attach", "survey", "--session", "ann"], folder, env)
    try:
        shell.prompt(1)
        assert "mpiframe survey: 2 servers on" in shell.text
        shell.type("%on all 6*8" + LEFT + "\x1b[3~7")
        shell.until(lambda: shell.line == "In [1]: %on all 6*7", "the edited line")
        shell.type(ENTER)
        shell.prompt(2)
        assert "[1] 42\n[2] 42" in shell.text
        shell.enter("%on 1 import time; print('begun'); time.sleep(100)")
        shell.shows("] begun")
        shell.type(CTRL_C)
        shell.prompt(3)
        shell.enter("%on --async 2 import time; [(print('live', i), time.sleep(0.02)) for i in range(100)];")
        shell.prompt(4)
        shell.type("value = 'as typed'")
        shell.shows("] live 50")
        shell.until(lambda: shell.line == "In [4]: value = 'as typed'", "the line as it was typed")
        shell.shows("] live 99")
        seen = [int(n) for n in re.findall(r"^\[server 2 #\d+\] live (\d+)$", shell.text, re.M)]
        assert seen == list(range(100)), "a line was lost, doubled or broken"
        shell.type(ENTER)
        shell.prompt(5)
        shell.enter("left = client.push('6 * 7', target=1)")
        shell.prompt(6)
        shell.type(CTRL_D)
        shell.shows("really want")
        shell.type("y\r")
        shell.until(lambda: "ended with" in shell.text, "the end")
        assert "ended with 0" in shell.text
    finally:
        shell.child.close(force=True)
    # It has detached only.
    again = desk.mpiframe(
        "attach", "--session", "ann", feed="print(client.get(client.requests()[-1].id)[0].ret)\n"
    )
    assert again.expect(0).out == "42\n"
