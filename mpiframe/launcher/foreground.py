r"""The user's terminal, while rank 0 of a world is at a prompt in it.

MPI's launchers give rank 0 pipes, in which no line can be edited. So `mpiexec` runs in a session of its own,
rank 0 opens the terminal by its name, and this process, the launcher, stays where the user's shell has put
it, in the foreground: it is who gets the terminal's signals, and passes on those that are for the prompt.

    Ctrl-C     to rank 0, and to what it has started in its own process group, as often as it is pressed
    resize     to rank 0
    Ctrl-Z     nothing: half a world that is stopped would be of no use
    Ctrl-\      the end of the world, by force

However the world ends, the terminal is left as it was found.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import termios
from typing import Any

from mpiframe.errors import WorldError
from mpiframe.launcher.environment import TERMINAL_STREAMS

SIGNALS = (signal.SIGWINCH, signal.SIGTSTP, signal.SIGQUIT)
"""What arrives from a terminal, beside what ends any world."""

# Bracketed paste, keys and mouse as programs are used to; the cursor seen; no colour. None of these moves it.
_PLAIN_SCREEN = b"\x1b[?2004l\x1b[?1l\x1b>\x1b[?1000l\x1b[?25h\x1b[0m"


class Foreground:
    """The terminal of this process, with the settings it has now.

    Raises WorldError where there is none that a prompt could be put in.
    """

    def __init__(self) -> None:
        if not is_terminal(0):
            raise WorldError("standard input is no terminal, so there is nobody to type at a prompt")
        if not is_terminal(1):
            raise WorldError(
                "standard input is a terminal, but standard output is not, so a prompt would not be seen"
            )
        with contextlib.suppress(OSError):  # not the terminal of this session, which has no background then
            if os.tcgetpgrp(0) != os.getpgrp():
                raise WorldError("a prompt needs the foreground of its terminal: start it without `&`")
        try:
            self.name = os.ttyname(0)
        except OSError:  # it belongs to another container; /proc leads to it all the same
            self.name = f"/proc/{os.getpid()}/fd/0"
        self._settings: list[Any] = termios.tcgetattr(0)

    def restore(self, orderly: bool) -> None:
        """Give the terminal back; `orderly` if rank 0 has left its prompt by itself."""
        with contextlib.suppress(OSError, termios.error):  # the window was closed
            # Somebody may have put this process into the background; the kernel would stop it here.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTTOU])
            try:
                termios.tcsetattr(0, termios.TCSANOW, self._settings)
                if not orderly:
                    # A prompt that was killed has left the cursor in its line.
                    os.write(1, _PLAIN_SCREEN + b"\r\n")
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)


def is_terminal(fd: int) -> bool:
    """Whether this descriptor is one."""
    try:
        return os.isatty(fd)
    except OSError:
        return False


def is_ours(fd: int) -> bool:
    """Whether this is the terminal of this process's own session, in which it may be stopped and go on."""
    try:
        os.tcgetpgrp(fd)
    except OSError:
        return False
    return True


def take(name: str) -> None:
    """In rank 0: make the terminal of this name the standard streams. Raises WorldError if it cannot."""
    try:
        fd = os.open(name, os.O_RDWR | os.O_NOCTTY)
    except OSError as error:
        raise WorldError(
            f"cannot open the terminal {name}: {error.strerror}. After `su` it belongs to somebody else; "
            "`script -qc 'mpiframe shell ...' /dev/null` makes one of your own"
        ) from error
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    for standard in (0, 1, 2):
        os.dup2(fd, standard)
    if fd > 2:
        os.close(fd)
    # New ones: those there are were made for pipes, and hold a line back.
    sys.stdin = sys.__stdin__ = open(0, closefd=False)  # type: ignore[misc]  # noqa: SIM115
    sys.stdout = sys.__stdout__ = open(1, "w", closefd=False)  # type: ignore[misc]  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(2, "w", closefd=False, errors="backslashreplace")  # type: ignore[misc]  # noqa: SIM115
    # The size is of the moment when somebody exported it; and the streams need no other way to the screen.
    for name in ("COLUMNS", "LINES", TERMINAL_STREAMS):
        os.environ.pop(name, None)
