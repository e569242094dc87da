"""The fuse ends a process whatever it does; each is lit in a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap

import pytest

HEAD = """
import ctypes, faulthandler, os, signal, sys, threading, time
from mpiframe import fuse as module
from mpiframe.fuse import Fuse
faulthandler.enable()
fuse = Fuse()
"""


def run(body: str) -> subprocess.CompletedProcess[str]:
    program = HEAD + textwrap.dedent(body)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)


@pytest.mark.parametrize(
    "what",
    [
        "ctypes.PyDLL(None).usleep(20000000)  # holds the interpreter's lock",
        "while True:\n    try: time.sleep(20)\n    except BaseException: pass",
        "threading.Thread(target=time.sleep, args=[20]).start()",
    ],
)
def test_it_burns_through_whatever_the_process_does(what: str) -> None:
    # The second signal comes late, however long the first one's words take.
    done = run(f"module._LAST_WORDS = 15.0\nfuse.light(0.2)\n{what}")
    assert done.returncode == -signal.SIGABRT
    assert "most recent call first" in done.stderr  # where it was


@pytest.mark.parametrize(
    "what",
    [
        "signal.signal(signal.SIGABRT, signal.SIG_IGN); time.sleep(20)",
        "os.kill(os.getpid(), signal.SIGSTOP)",
    ],
)
def test_who_does_not_hear_the_first_signal_gets_the_second(what: str) -> None:
    assert run(f"fuse.light(0.1)\n{what}").returncode == -signal.SIGKILL


def test_it_can_be_put_out_and_lit_again() -> None:
    done = run("""
        fuse.put_out()
        for seconds in [30] * 100 + [0.5]:
            fuse.light(seconds)
            fuse.put_out()
        time.sleep(1.2)  # longer than both signals would take
        module._LAST_WORDS = 15.0
        fuse.light(30)
        print("alive", flush=True)
        fuse.light(0)
        time.sleep(20)
    """)
    assert done.stdout == "alive\n"
    assert done.returncode == -signal.SIGABRT


def test_a_forked_child_has_none() -> None:
    done = run("""
        fuse.light(1.0)
        child = os.fork()
        if child == 0:
            time.sleep(1.7)  # longer than both signals would take
            os._exit(7)
        fuse.put_out()
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """)
    assert done.stdout == "7\n", done.stderr


def test_where_there_are_no_timers_it_says_so() -> None:
    done = run("""
        import resource
        resource.setrlimit(resource.RLIMIT_SIGPENDING, (0, 0))
        try:
            fuse.light(5)
        except OSError as error:
            print(error.errno in (11, 12))
    """)
    assert done.stdout == "True\n", done.stderr
