"""Runs a batch system's commands: their output, within a bounded time."""

from __future__ import annotations

import os
import select
import selectors
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence


def run(
    argv: Sequence[str],
    env: Mapping[str, str],
    folder: str | None,
    meanwhile: Callable[[], object] | None,
    seconds: float,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; `meanwhile` is called once it was started.

    Raises OSError if it cannot be started, TimeoutExpired after so many seconds, when it is killed.
    """
    deadline = time.monotonic() + seconds
    with subprocess.Popen(
        argv,
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            if meanwhile is not None:
                meanwhile()
            out, err = _read(process, deadline)
            _await_end(process, deadline)
        except TimeoutError:
            process.kill()
            raise subprocess.TimeoutExpired(argv, seconds) from None
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(argv, process.returncode, out, err)


def _read(process: subprocess.Popen[bytes], deadline: float) -> tuple[str, str]:
    assert process.stdout is not None
    assert process.stderr is not None
    parts: dict[int, list[bytes]] = {process.stdout.fileno(): [], process.stderr.fileno(): []}
    with selectors.PollSelector() as selector:
        for pipe in parts:
            selector.register(pipe, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError
            for key, _ in ready:
                part = os.read(key.fd, 1 << 16)
                if part:
                    parts[key.fd].append(part)
                else:
                    selector.unregister(key.fd)
    out, err = (b"".join(found).decode(errors="replace") for found in parts.values())
    return out, err


def _await_end(process: subprocess.Popen[bytes], deadline: float) -> None:
    """Its pipes are closed, so it is about to end; with a time-out, subprocess would look in steps."""
    left = max(0.0, deadline - time.monotonic())
    try:
        descriptor = os.pidfd_open(process.pid)
    except (AttributeError, OSError):  # not Linux 5.3, or it has ended and was reaped
        try:
            process.wait(left)
        except subprocess.TimeoutExpired:
            raise TimeoutError from None
        return
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        if not poll.poll(left * 1000):
            raise TimeoutError
    finally:
        os.close(descriptor)
    process.wait()
