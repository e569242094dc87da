"""`mpiframe shell`, as a person meets it: in a terminal, with keys."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Launcher
from tests.interactive.terminal import (
    CTRL_BACKSLASH,
    CTRL_C,
    CTRL_D,
    CTRL_Z,
    ENTER,
    HOME,
    LEFT,
    TAB,
    UP,
    Terminal,
)

Start = Callable[..., Terminal]
PROMPTS = pytest.mark.parametrize("kind", ["ipython", "plain"])


@pytest.fixture
def start(launcher: Launcher) -> Iterator[Start]:
    """Start a shell of three ranks in a terminal of its own."""
    terminals: list[Terminal] = []

    def begin(
        *options: str, ranks: int = 3, home: Path | None = None, path: Path | None = None, **size: int
    ) -> Terminal:
        folder = launcher._base / f"terminal{len(terminals)}"
        folder.mkdir()
        words = [launcher.python.executable, "-m", "mpiframe", "shell", "-n", str(ranks), *options]
        env = launcher._environment() | {
            "XDG_STATE_HOME": str(home or folder / "state"),
            "MPIFRAME_WORLDS": str(folder / "worlds"),
        }
        if path is not None:
            env["PYTHONPATH"] = os.pathsep.join([str(path), env["PYTHONPATH"]])
        terminal = Terminal(words, folder, env, **size)
        terminals.append(terminal)
        return terminal

    yield begin
    for terminal in terminals:
        terminal.kill()


def options_of(kind: str) -> list[str]:
    return ["--plain"] if kind == "plain" else []


def leave(terminal: Terminal) -> int:
    """By Ctrl-D, and yes if IPython asks."""
    terminal.type(CTRL_D)
    terminal.until(lambda: re.search("really want|ended with", terminal.text), "the question or the end")
    if "really want" in terminal.text:
        terminal.type("y\r")
    return terminal.ended()


@PROMPTS
def test_a_session_from_its_start_to_its_end(start: Start, kind: str) -> None:
    shell = start(*options_of(kind))
    shell.prompt(1)
    assert "2 servers on" in shell.text
    # Editing: 6*8 becomes 6*7 by the arrow keys.
    shell.type("%on 1 6*8" + LEFT)
    shell.type("\x1b[3~7")  # Delete
    shell.until(lambda: shell.line == "In [1]: %on 1 6*7", "the edited line")
    shell.type(ENTER)
    shell.prompt(2)
    assert "[1] 42" in shell.text
    shell.enter("%on all __import__('os').getpid()")
    shell.prompt(3)
    own = re.findall(r"^\[[12]\] (\d+)$", shell.text, re.M)
    assert len(set(own)) == 2
    # History.
    shell.type(UP + UP)
    shell.until(lambda: shell.line == "In [3]: %on 1 6*7", "the line before the last")
    shell.type("1" + ENTER)
    shell.prompt(4)
    assert "[1] 426" in shell.text
    shell.enter("client.push('1 + 1', target=2, block=True)[0].ret")
    shell.prompt(5)
    assert "Out[4]: 2" in shell.text
    assert leave(shell) == 0


@PROMPTS
@pytest.mark.parametrize("word", ["exit", "exit()"])
def test_exit_leaves(start: Start, kind: str, word: str) -> None:
    shell = start(*options_of(kind))
    shell.prompt(1)
    shell.enter(word)
    assert shell.ended() == 0


@PROMPTS
@pytest.mark.parametrize("options", [(), ("--resilient",)], ids=["", "resilient"])
def test_ctrl_c_interrupts_the_command_and_not_the_session(
    start: Start, kind: str, options: tuple[str, ...]
) -> None:
    shell = start(*options_of(kind), *options)
    shell.prompt(1)
    shell.enter("%on all import time; print('begun'); time.sleep(100)")
    shell.shows("] begun", 2)
    shell.type(CTRL_C)
    shell.prompt(2)
    assert "KeyboardInterrupt" in shell.text
    # In the client's own code, twice.
    for number in (2, 3):
        shell.enter("import time; print('wa' + 'its'); time.sleep(100)")
        shell.shows("waits", number - 1)
        shell.type(CTRL_C)
        shell.prompt(number + 1)
    # At the prompt: a new line, and what was typed is dropped.
    shell.type("never_run(")
    shell.until(lambda: "never_run(" in shell.line)
    shell.type(CTRL_C)
    shell.prompt(4)
    shell.enter("%on all 'still ' + 'here'")
    shell.prompt(5)
    assert shell.text.count("'still here'") == 2
    assert "mpiframe/" not in shell.text, "a frame of ours was shown"
    assert leave(shell) == 0


@PROMPTS
def test_a_command_that_heeds_no_ctrl_c_does_not_end_the_session(start: Start, kind: str) -> None:
    shell = start(*options_of(kind))
    shell.prompt(1)
    stubborn = (
        "import time; end = time.monotonic() + 6; print('begun')\\nwhile time.monotonic() < end:\\n"
        " try: time.sleep(6)\\n except KeyboardInterrupt: print('no')"
    )
    shell.enter(f'%on 1 exec("{stubborn}")')
    shell.shows("] begun")
    shell.type(CTRL_C)
    shell.shows("] no", 1)
    shell.type(CTRL_C)
    shell.type(CTRL_C)
    shell.shows("not ended yet: request")
    shell.prompt(2)
    shell.enter("%on 2 'the other ' + 'works'")
    shell.prompt(3)
    assert "'the other works'" in shell.text
    shell.enter("%results 1")
    shell.prompt(4)
    assert leave(shell) == 0


@PROMPTS
def test_what_servers_print_does_not_break_the_line_being_typed(start: Start, kind: str) -> None:
    shell = start(*options_of(kind))
    shell.prompt(1)
    shell.enter("%on --async 1 import time; [(print('live', i), time.sleep(0.01)) for i in range(300)];")
    shell.prompt(2)
    shell.type("value = 'so it ")
    shell.shows("] live", 20)
    shell.until(lambda: shell.line == "In [2]: value = 'so it", "the line below what is printed")
    shell.type("goes'" + HOME + "my_")
    shell.shows("] live", 60)
    shell.until(lambda: shell.line == "In [2]: my_value = 'so it goes'", "the line as it was typed")
    shell.type(ENTER)
    shell.prompt(3)
    for number in range(3, 13):  # prompts that come and go in the midst of it
        shell.prompt(number)
        shell.type("my_value" + ENTER)
        shell.until(lambda n=number: f"Out[{n}]: 'so it goes'" in shell.text, f"Out[{number}]")
    shell.shows("] live 299")
    shell.prompt(13)
    seen = [int(n) for n in re.findall(r"^\[server 1 #\d+\] live (\d+)$", shell.text, re.M)]
    assert seen == list(range(300)), "a line was lost, doubled or broken"
    shell.enter("%results")
    shell.prompt(14)
    assert leave(shell) == 0


@PROMPTS
def test_the_window_may_change_its_size(start: Start, kind: str) -> None:
    shell = start(*options_of(kind))
    shell.prompt(1)
    shell.enter("import os; os.get_terminal_size()")
    shell.shows("columns=100, lines=30")
    shell.prompt(2)
    shell.resize(40, 20)
    shell.type("'" + "x" * 50)
    # Forty columns: the line goes on in the next row.
    shell.until(lambda: any(row == "In [2]: '" + "x" * 31 for row in shell.screen.display), "a row of 40")
    shell.type("'" + ENTER)
    shell.until(lambda: shell.line == "In [3]:")
    shell.enter("os.get_terminal_size()")
    shell.until(lambda: "columns=40, lines=20" in shell.text.replace("\n", ""), "the new size")
    shell.until(lambda: shell.line == "In [4]:")
    assert leave(shell) == 0


@PROMPTS
def test_forty_columns_are_enough(start: Start, kind: str) -> None:
    shell = start(*options_of(kind), columns=40, lines=24)
    shell.prompt(1)
    banner = [line for line in shell.text.split("\n") if line and not line.startswith("In [")]
    assert len(banner) == 3, "the banner was wrapped"
    shell.enter("%servers")
    shell.prompt(2)
    rows = [line.split()[:2] for line in shell.text.split("\n") if re.match(r" *\d+ +\S", line)]
    assert [row[0] for row in rows] == ["1", "2"], "a row of the table was wrapped"
    shell.enter("%on all 1/0")
    shell.prompt(3)
    assert "On servers 1, 2:" in shell.text
    assert leave(shell) == 0


@PROMPTS
def test_tab_completes(start: Start, kind: str) -> None:
    shell = start(*options_of(kind))
    shell.prompt(1)
    shell.type("client.broadc" + TAB)
    shell.until(lambda: "client.broadcast" in shell.line, "client.broadcast")
    shell.type(CTRL_C)
    shell.until(lambda: shell.line == "In [1]:")
    shell.type("%on 1," + TAB)
    shell.until(lambda: "%on 1,2" in shell.line, "the other server")
    shell.type(CTRL_C)
    shell.until(lambda: shell.line == "In [1]:")
    shell.type("%on al" + TAB)
    shell.until(lambda: "%on all" in shell.line, "all")
    shell.type(CTRL_C)
    shell.until(lambda: shell.line == "In [1]:")
    assert leave(shell) == 0


@PROMPTS
def test_history_is_kept_for_the_next_session(start: Start, kind: str, tmp_path: Path) -> None:
    first = start(*options_of(kind), home=tmp_path)
    first.prompt(1)
    first.enter("'remembered'")
    first.prompt(2)
    assert leave(first) == 0
    second = start(*options_of(kind), home=tmp_path)
    second.prompt(1)
    second.type(UP)
    second.until(lambda: second.line == "In [1]: 'remembered'", "the line of the session before")
    second.type(ENTER)
    second.prompt(2)
    assert leave(second) == 0
    assert (tmp_path / "mpiframe").stat().st_mode & 0o77 == 0


def test_what_still_runs_at_the_end_is_waited_for_until_ctrl_c(start: Start) -> None:
    shell = start("--plain")
    shell.prompt(1)
    shell.enter("%on --async all import time; print('begun'); time.sleep(100)")
    shell.shows("] begun", 2)
    shell.prompt(2)
    shell.type(CTRL_D)
    shell.shows("waiting for 2 requests that have not ended")
    shell.type(CTRL_C)
    assert shell.ended() == 0


def test_a_failure_that_nobody_saw_is_told_at_the_end(start: Start) -> None:
    shell = start("--plain")
    shell.prompt(1)
    shell.enter("client.push('1/0', target=1)")
    shell.prompt(2)
    shell.type(CTRL_D)
    assert shell.ended() == 0
    assert "ZeroDivisionError" in shell.text


def test_ctrl_c_before_there_is_a_prompt_calls_the_start_off(start: Start) -> None:
    shell = start()
    shell.until(lambda: shell.pids(), "a process")
    shell.until(lambda: any("-m mpiframe.shell" in line for line in shell.left()), "the world")
    shell.type(CTRL_C)
    assert shell.ended() == 128 + signal.SIGINT


@PROMPTS
def test_a_cell_runs_on_servers(start: Start, kind: str) -> None:
    shell = start(*options_of(kind))
    shell.prompt(1)
    cell = "%%on 1,2\nimport math\nfor i in range(2):\n    x = math.sqrt(4) * i\n\nx + 40\n"
    if kind == "ipython":
        shell.type(f"\x1b[200~{cell}\x1b[201~")  # pasted
        shell.until(lambda: "x + 40" in shell.text, "what was pasted")
        shell.type("\x1b" + ENTER)  # Alt-Enter runs a cell from anywhere in it
    else:
        for line in cell.replace("\n\n", "\n").split("\n"):
            shell.type(line + ENTER)
    shell.prompt(2)
    assert "[1] 42.0\n[2] 42.0" in shell.text
    assert leave(shell) == 0


@PROMPTS
def test_ctrl_z_does_nothing_and_ctrl_backslash_ends(start: Start, kind: str) -> None:
    shell = start(*options_of(kind))
    shell.prompt(1)
    shell.enter("import time; print('slee' + 'ps'); time.sleep(1); print('wo' + 'ke')")
    shell.shows("sleeps")
    shell.type(CTRL_Z)
    shell.shows("woke")
    shell.prompt(2)
    shell.type(CTRL_Z)
    shell.enter("6 * 7")
    shell.shows("Out[2]: 42")
    shell.prompt(3)
    shell.enter("print('slee' + 'ps'); time.sleep(100)")
    shell.shows("sleeps", 2)
    shell.type(CTRL_BACKSLASH)
    assert shell.ended() == 128 + signal.SIGQUIT


@PROMPTS
@pytest.mark.parametrize("options", [(), ("--resilient",)], ids=["", "resilient"])
def test_a_client_that_is_killed_leaves_the_terminal_as_it_was(
    start: Start, kind: str, options: tuple[str, ...]
) -> None:
    shell = start(*options_of(kind), *options)
    shell.prompt(1)
    shell.type("half a li")
    shell.until(lambda: "half a li" in shell.line)
    os.kill(shell.client_pid(), signal.SIGKILL)
    assert shell.ended() != 0  # which compares the settings


@PROMPTS
def test_a_launcher_that_is_told_to_end_leaves_the_terminal_as_it_was(start: Start, kind: str) -> None:
    shell = start(*options_of(kind))
    shell.prompt(1)
    launchers = [
        pid for pid, line in shell.pids().items() if " -m mpiframe shell " in line and "stty" not in line
    ]
    os.kill(launchers[0], signal.SIGTERM)
    assert shell.ended() == 128 + signal.SIGTERM


@PROMPTS
@pytest.mark.parametrize("options", [(), ("--resilient",)], ids=["", "resilient"])
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_a_window_that_is_closed_ends_all(
    start: Start, kind: str, options: tuple[str, ...], busy: bool
) -> None:
    shell = start(*options_of(kind), *options)
    shell.prompt(1)
    if busy:
        shell.enter("%on all import time; print('begun'); time.sleep(100)")
        shell.shows("] begun", 2)
    shell.hang_up()
    shell.nothing_left()


@PROMPTS
def test_a_server_that_dies_leaves_a_resilient_session(start: Start, kind: str) -> None:
    shell = start(*options_of(kind), "--resilient")
    shell.prompt(1)
    shell.enter("%on 1 import os; os.kill(os.getpid(), 9)")
    shell.shows("ServerLost")
    shell.shows("In [2]:")
    # What MPICH's launcher has to say of it comes when it comes, also behind the prompt.
    shell.enter("client.restart(1)")
    shell.prompt(3)
    shell.enter("%on all 6 * 7")
    shell.prompt(4)
    assert shell.text.count("] 42") == 2
    assert leave(shell) == 0


def test_ctrl_c_reaches_a_program_that_was_started_at_the_prompt(start: Start) -> None:
    shell = start()
    shell.prompt(1)
    shell.enter("!echo begun; sleep 100")
    shell.shows("begun", 2)
    shell.type(CTRL_C)
    shell.prompt(2)
    assert leave(shell) == 0


def test_a_shell_with_a_name_can_be_attached_to(start: Start, launcher: Launcher) -> None:
    shell = start("--name", "looked-at")
    shell.prompt(1)
    env = launcher._environment() | {"MPIFRAME_WORLDS": str(shell.folder / "worlds")}
    program = (
        "import mpiframe; client = mpiframe.attach('looked-at')\n"
        "print(client.push('6 * 7', target=1, block=True)[0].ret)"
    )
    argv = [launcher.python.executable, "-c", program]
    run = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60)
    assert run.stdout == "42\n", run.stderr
    shell.enter("'not ' + 'disturbed'")
    shell.shows("'not disturbed'")
    assert leave(shell) == 0


def test_without_ipython_the_prompt_is_plain(start: Start, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['IPython'] = None\n")
    shell = start(path=tmp_path)
    shell.prompt(1)
    shell.enter("%on all 6 * 7")
    shell.prompt(2)
    assert "[1] 42\n[2] 42" in shell.text
    shell.type(CTRL_D)
    assert shell.ended() == 0


# -- where there is no terminal --------------------------------------------------------------------


def test_commands_from_a_pipe_are_run_as_a_script(launcher: Launcher) -> None:
    for commands, status, said in (
        ("%on all x = 20\n%%on all\ny = 1\nx + y\n\nprint('end')\n", 0, "[1] 21\n[2] 21\nend\n"),
        ("%on 1 1/0\nprint('never')\n", 1, ""),
    ):
        run = subprocess.run(
            [launcher.python.executable, "-m", "mpiframe", "shell", "-n", "3"],
            input=commands,
            env=launcher._environment(),
            cwd=launcher._base,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert run.stdout == said
        assert run.returncode == status, run.stderr
        assert ("ZeroDivisionError" in run.stderr) == bool(status)


def test_output_into_a_pipe_is_refused(start: Start, launcher: Launcher) -> None:
    folder = launcher._base / "refused"
    folder.mkdir()
    words = f"{launcher.python.executable} -m mpiframe shell -n 3 | cat"
    terminal = Terminal(["sh", "-c", words], folder, launcher._environment())
    try:
        terminal.shows("standard output is not")
        terminal.ended()
    finally:
        terminal.kill()
