"""Runs the user's script on rank 0 and serves on every other rank: `python -m mpiframe script.py`."""

from __future__ import annotations

import contextlib
import os
import runpy
import socket
import sys
import traceback
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mpiframe import machine, starting
from mpiframe.errors import MpiframeError
from mpiframe.launcher.environment import NEWS, RUN_DIR, SEGMENTS, STDIN

_INTERRUPTED = 130  # what a shell reports for a program that Ctrl-C ended


def run(argv: list[str], before_end: Callable[[], None] = lambda: None) -> int:
    """`argv` is [script, arguments...] or ["-m", module, arguments...]; the exit status of this rank.

    `before_end` is called on rank 0 when the script has ended, however it did, and before the world ends.
    """
    starting.start_mpi()
    # These import mpi4py.MPI.
    from mpiframe import client, opening, process
    from mpiframe.world import CLIENT

    try:
        opened = opening.open_world()
    except MpiframeError as error:
        print(f"mpiframe: {error}", file=sys.stderr, flush=True)
        opening.give_up(2)  # the others would wait for us
        return 2
    if opened.rank != CLIENT:
        process.serve_and_leave(opened)
    _tell_launcher()
    _take_input()
    status = run_alone(argv)
    before_end()
    return _end(client.current_client(), process, opened, status)


def _tell_launcher() -> None:
    """Let `mpiframe run` know which process is the client, so that Ctrl-C reaches it alone."""
    segments = [path for name in SEGMENTS for path in machine.mapped_segments(name)]
    _write("segments", "\n".join(segments))
    _write("client", f"{socket.gethostname()} {os.getpid()}\n")


def _take_input() -> None:
    """Read what the launcher was given to read, where it says that it is to be opened here."""
    begin, _, path = os.environ.pop(STDIN, "").partition("@")
    if not path or not os.path.isdir(os.environ.get(RUN_DIR, "")):  # on another host
        return
    with contextlib.suppress(OSError):  # a descriptor that is nobody else's: mpiexec's is there
        fd = os.open(path, os.O_RDONLY)
        if int(begin):
            os.lseek(fd, int(begin), os.SEEK_SET)
        os.dup2(fd, 0)
        os.close(fd)


def _write(name: str, text: str) -> None:
    """Put a file into the launcher's folder of this run, if it is there, in one step."""
    folder = os.environ.get(RUN_DIR)
    if not folder or not os.path.isdir(folder):
        return  # started otherwise, or on another host than the launcher's
    path = os.path.join(folder, name)
    with open(path + ".new", "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(path + ".new", path)
    with contextlib.suppress(OSError):  # nobody listens
        news = os.open(os.path.join(folder, NEWS), os.O_WRONLY | os.O_NONBLOCK)
        os.write(news, b"!")
        os.close(news)


def run_alone(argv: list[str]) -> int:
    """Run a script or module as the interpreter would, as `__main__`, without a world; its exit status."""
    try:
        if argv[0] == "-m":
            sys.argv = argv[1:]
            sys.path.insert(0, os.getcwd())
            runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = list(argv)
            sys.path.insert(0, str(Path(argv[0]).resolve().parent))
            _run_file(argv[0])
    except SystemExit as leaving:
        return _status_of(leaving)
    except KeyboardInterrupt as error:
        _print_exception(error)
        return _INTERRUPTED
    except BaseException as error:
        _print_exception(error)
        return 1
    return 0


def _run_file(path: str) -> None:
    # Not runpy.run_path: that empties the script's globals when it ends, and callbacks and exit handlers
    # may still need them.
    module = types.ModuleType("__main__")
    module.__file__ = path
    module.__dict__["__builtins__"] = __builtins__
    sys.modules["__main__"] = module
    code = compile(Path(path).read_bytes(), path, "exec", dont_inherit=True)
    exec(code, module.__dict__)


def _status_of(leaving: SystemExit) -> int:
    if leaving.code is None:
        return 0
    if isinstance(leaving.code, int):
        return leaving.code & 0xFF
    print(leaving.code, file=sys.stderr)
    return 1


def _print_exception(error: BaseException) -> None:
    """The traceback as the script's own, without the frames of this module and of runpy."""
    tb = error.__traceback__
    while tb is not None and _is_ours(tb):
        tb = tb.tb_next
    sys.stdout.flush()
    traceback.print_exception(type(error), error, tb)


def _is_ours(tb: types.TracebackType) -> bool:
    name = tb.tb_frame.f_code.co_filename
    return name == __file__ or name.startswith("<frozen runpy") or name.endswith("/runpy.py")


def _end(current: Any, process: Any, opened: Any, status: int) -> int:
    """End the world, well or badly as the script did; the exit status that tells the truth."""
    if current is None:
        process.dismiss(opened)
        _write("status", f"{status}\n")
        return status
    try:
        if status == 0:
            current.close()
        else:
            current.abandon(failed=True)
    except KeyboardInterrupt:
        status = status or _INTERRUPTED
        current.abandon(failed=True)
    except MpiframeError as error:
        print(f"mpiframe: {type(error).__name__}: {error}", file=sys.stderr)
        status = 1
    if (status == 0 and current.tell_losses()) or current.must_abort:
        status = status or 1
    _write("status", f"{status}\n")
    if current.must_abort:
        opened.abort(status)
    if current.lost_a_server:
        process.leave(opened, finalize=not opened.resilient)
        process.finalize_and_exit(status, finalize=False)
    return status
