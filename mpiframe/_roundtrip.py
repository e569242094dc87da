"""Runs in a world of two ranks for `mpiframe doctor`: measures a no-op and tells what it found.

    python -m mpiframe -m mpiframe._roundtrip ANSWER

writes the measurements and the facts of the world as JSON to the file ANSWER.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import sys
import time
from pathlib import Path

import mpiframe

_HOT = 2000  # round trips back to back; the first fifth is for the caches
_PAUSED = 100
_PAUSE_SECONDS = 5e-3


def main(answer: str) -> None:
    """Measure, and write the answer to the file of that name."""
    with mpiframe.Client() as client:
        hot = [_round_trip(client) for _ in range(_HOT)][_HOT // 5 :]
        paused = []
        for _ in range(_PAUSED):
            time.sleep(_PAUSE_SECONDS)  # the pause is what is measured, not a way to wait
            paused.append(_round_trip(client))
        found = {
            "hot": statistics.median(hot),
            "paused": statistics.median(paused),
            **dataclasses.asdict(client.facts()),
        }
    Path(answer).write_text(json.dumps(found), encoding="utf-8")


def _round_trip(client: mpiframe.Client) -> float:
    start = time.perf_counter()
    client.push("None", target=1, block=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    main(sys.argv[1])
