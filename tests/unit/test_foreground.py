"""A terminal that is lent: when it is refused, and that it is given back. Starts no MPI."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpiframe.errors import WorldError
from mpiframe.launcher import foreground
from mpiframe.shell import rank0

SECONDS = 30


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """(the side of the person, the side of programs) of a pseudo-terminal."""
    person, program = pty.openpty()
    yield person, program
    for fd in (person, program):
        try:
            os.close(fd)
        except OSError:
            pass  # the test has closed it


def run(program: str, **streams: int) -> subprocess.CompletedProcess[str]:
    """Python, in a session of its own."""
    return subprocess.run(
        [sys.executable, "-c", program],
        stderr=subprocess.PIPE,
        text=True,
        timeout=SECONDS,
        start_new_session=True,
        check=False,
        **streams,
    )


MAKE = "from mpiframe.launcher.foreground import Foreground\nf = Foreground()\n"


def test_a_terminal_is_given_back_as_it_was(terminal: tuple[int, int]) -> None:
    person, program = terminal
    before = termios.tcgetattr(person)
    raw = "import tty\ntty.setraw(0)\n"
    run(MAKE + raw, stdin=program, stdout=program)
    assert termios.tcgetattr(person) != before
    termios.tcsetattr(person, termios.TCSANOW, before)
    done = run(MAKE + raw + "f.restore(orderly=True)", stdin=program, stdout=program)
    assert done.returncode == 0, done.stderr
    assert termios.tcgetattr(person) == before
    run(MAKE + "f.restore(orderly=False)", stdin=program, stdout=program)
    assert b"\x1b[?2004l" in os.read(person, 4096)  # no pasting in brackets


@pytest.mark.parametrize("which", ["stdin", "stdout"])
def test_what_is_no_terminal_is_refused(terminal: tuple[int, int], which: str) -> None:
    _, program = terminal
    nowhere = os.open(os.devnull, os.O_RDWR)
    streams = {"stdin": program, "stdout": program} | {which: nowhere}
    done = run(MAKE, **streams)
    os.close(nowhere)
    assert "WorldError: standard " in done.stderr
    assert ("nobody to type" if which == "stdin" else "would not be seen") in done.stderr


def test_a_window_that_was_closed_is_no_trouble(terminal: tuple[int, int]) -> None:
    person, program = terminal
    wait = "import sys\nsys.stderr.write('.')\nsys.stderr.flush()\nimport os, contextlib\n"
    wait += "with contextlib.suppress(OSError): os.read(0, 1)\n"
    process = subprocess.Popen(
        [sys.executable, "-c", f"{MAKE}{wait}f.restore(orderly=False)"],
        stdin=program,
        stdout=program,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stderr is not None
    assert process.stderr.read(1) == b"."
    os.close(person)
    try:
        assert process.wait(SECONDS) == 0
    finally:
        process.kill()
        process.communicate()


def test_a_terminal_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(WorldError, match=f"cannot open the terminal {tmp_path}/none: No such file"):
        foreground.take(str(tmp_path / "none"))


def test_rank_0_on_another_host_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MPIFRAME_RUN_DIR", str(tmp_path / "not-here"))
    monkeypatch.setenv("MPIFRAME_TERMINAL", "/dev/pts/0")
    monkeypatch.setattr(rank0, "take", lambda name: pytest.fail("it was taken"))
    assert rank0.main(["--plain"]) == 2


def test_rank_0_without_a_terminal_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MPIFRAME_RUN_DIR", raising=False)
    monkeypatch.setattr(rank0, "is_terminal", lambda fd: False)
    assert rank0.main([]) == 2
    assert "start with `mpiframe shell" in capsys.readouterr().err
