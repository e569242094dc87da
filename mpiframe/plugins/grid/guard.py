"""Run by its path beside a pilot: ends the pilot's children, should the pilot be killed.

It reads lines from standard input: `+PID` for a process group that began, `-PID` for one that has ended.
At the end of the input, which comes with the pilot's however that ends, the groups that are left get SIGTERM,
and SIGKILL so many seconds later as its argument says. It needs nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys


def main(seconds: float) -> None:
    """Read until the end, then end what is left."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a launcher sends it to all; the pilot decides
    groups: dict[int, int] = {}
    for line in sys.stdin.buffer:
        number = int(line[1:])
        if line[:1] == b"+":
            with contextlib.suppress(OSError):
                groups[number] = os.pidfd_open(number)
        elif number in groups:
            os.close(groups.pop(number))
    for number in groups:
        _kill(number, signal.SIGTERM)
    poller = select.poll()
    for pidfd in groups.values():
        poller.register(pidfd, select.POLLIN)
    left = dict(groups)
    while left and (ended := poller.poll(seconds * 1000)):
        for pidfd, _ in ended:
            poller.unregister(pidfd)
            left = {number: one for number, one in left.items() if one != pidfd}
    for number in groups:
        _kill(number, signal.SIGKILL)


def _kill(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


if __name__ == "__main__":
    main(float(sys.argv[1]))
