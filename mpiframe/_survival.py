"""Runs in a resilient world of two ranks for `mpiframe doctor`: kills the server and has it replaced.

    python -m mpiframe -m mpiframe._survival ANSWER

writes the seconds that each took, as JSON, to the file ANSWER.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import mpiframe


def main(answer: str) -> None:
    """Measure, and write the answer to the file of that name."""
    with mpiframe.Client() as client:
        pid = client.submit(os.getpid, target=1).result()
        running = client.submit(time.sleep, 600, target=1)
        start = time.perf_counter()
        os.kill(pid, signal.SIGKILL)
        lost = isinstance(running.exception(), mpiframe.ServerLost)
        noticed = time.perf_counter()
        client.restart(1)
        replaced = client.submit(os.getpid, target=1).result() != pid
        found = {
            "worked": lost and replaced,
            "noticed": noticed - start,
            "replaced": time.perf_counter() - noticed,
        }
    Path(answer).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
