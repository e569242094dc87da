"""A fuse: ends this process at a set time, whatever it is doing, unless it is put out before.

The kernel keeps the time and sends the signals, so neither C code that holds the interpreter's lock nor a
command that catches everything is in its way, nor that the process is stopped. The first signal is SIGABRT:
faulthandler, which every server enables, then writes where each thread is. The second is SIGKILL.
"""

from __future__ import annotations

import ctypes
import os
import signal

_CLOCK_MONOTONIC, _SIGEV_SIGNAL = 1, 0
_LAST_WORDS = 0.5  # seconds between the two signals


class _SigEvent(ctypes.Structure):
    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signo", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("rest", ctypes.c_int * 16),  # no less than any libc's
    )


class _Itimerspec(ctypes.Structure):
    _fields_ = (
        ("again_seconds", ctypes.c_long),
        ("again_nanoseconds", ctypes.c_long),
        ("seconds", ctypes.c_long),
        ("nanoseconds", ctypes.c_long),
    )


class Fuse:
    """One for a process; its timers are made when it is first lit, and are not inherited by a fork."""

    def __init__(self) -> None:
        self._library: ctypes.CDLL | None = None
        self._timers: list[ctypes.c_void_p] = []

    def light(self, seconds: float) -> None:
        """End this process in so many seconds. Raises OSError where the system has no timer left."""
        if not self._timers:
            self._library = _library()
            self._timers = [self._create(number) for number in (signal.SIGABRT, signal.SIGKILL)]
        for timer, delay in zip(self._timers, (0.0, _LAST_WORDS), strict=True):
            self._set(timer, max(seconds, 1e-3) + delay)

    def put_out(self) -> None:
        """Let this process live; nothing where no fuse burns."""
        for timer in self._timers:
            self._set(timer, 0.0)

    def _create(self, number: int) -> ctypes.c_void_p:
        timer = ctypes.c_void_p()
        event = _SigEvent(None, number, _SIGEV_SIGNAL)
        assert self._library is not None
        if self._library.timer_create(_CLOCK_MONOTONIC, ctypes.byref(event), ctypes.byref(timer)):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return timer

    def _set(self, timer: ctypes.c_void_p, seconds: float) -> None:
        whole = int(seconds)
        value = _Itimerspec(0, 0, whole, int((seconds - whole) * 1e9))
        assert self._library is not None
        self._library.timer_settime(timer, 0, ctypes.byref(value), None)


def _library() -> ctypes.CDLL:
    """The C library that has POSIX timers: before glibc 2.34 they are in one of their own."""
    library = ctypes.CDLL(None, use_errno=True)
    return library if hasattr(library, "timer_create") else ctypes.CDLL("librt.so.1", use_errno=True)
