"""What a server prints to ends for the launcher once it is done with its connection, not before."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from mpiframe.ends import Ends


@pytest.fixture
def in_the_launchers_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process reads what the servers print."""
    monkeypatch.setattr("mpiframe.launcher.processes.open_mpi_launcher", os.getpid)


@pytest.fixture
def server() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [sys.executable, "-c", "print('here', flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"
        yield process
        process.kill()


def have_ended(server: subprocess.Popen[bytes]) -> list[bool]:
    """Whether nobody has its output and its errors open for writing any more, or a moment later."""
    streams = [stream for stream in (server.stdout, server.stderr) if stream is not None]
    return [bool(select.select([stream], [], [], 0.5)[0]) and not stream.read() for stream in streams]


@pytest.mark.usefixtures("in_the_launchers_place")
def test_it_is_open_until_the_launcher_is_at_rest(
    server: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    rests, asked = threading.Event(), []

    def await_rest(pid: int, seconds: float) -> None:
        asked.append((pid, seconds > 0))
        assert rests.wait(30)

    monkeypatch.setattr("mpiframe.machine.await_rest", await_rest)
    ends = Ends()
    ends.hold({1: server.pid})
    server.kill()
    server.wait()
    ends.gone(1)  # does not wait
    assert have_ended(server) == [False, False]
    rests.set()
    ends.settle()
    assert have_ended(server) == [True, True]
    assert set(asked) == {(os.getpid(), True)}


@pytest.mark.usefixtures("in_the_launchers_place")
def test_a_launcher_that_never_rests_is_waited_for_a_moment(server: subprocess.Popen[bytes]) -> None:
    """As this process, which looks at itself."""
    ends = Ends()
    ends.hold({1: server.pid})
    server.kill()
    server.wait()
    assert have_ended(server) == [False, False]
    ends.gone(1)
    ends.settle()
    assert have_ended(server) == [True, True]


@pytest.mark.usefixtures("in_the_launchers_place")
def test_only_what_the_launcher_reads_is_held() -> None:
    before = set(os.listdir("/proc/self/fd"))
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=2) as process:
        opened = set(os.listdir("/proc/self/fd"))
        ends = Ends()
        ends.hold({1: process.pid})
        assert set(os.listdir("/proc/self/fd")) == opened != before
        process.kill()


@pytest.mark.usefixtures("in_the_launchers_place")
def test_one_that_has_died_already(server: subprocess.Popen[bytes]) -> None:
    server.kill()
    server.wait()
    ends = Ends()
    ends.hold({1: server.pid})
    assert have_ended(server) == [True, True]
    ends.gone(1)
    ends.gone(2)  # nobody has heard of it
    ends.settle()


def test_without_open_mpis_launcher_nothing_is_held(server: subprocess.Popen[bytes]) -> None:
    ends = Ends()
    ends.hold({1: server.pid})
    server.kill()
    server.wait()
    assert have_ended(server) == [True, True]
    ends.gone(1)
    ends.settle()
