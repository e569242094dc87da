"""Damaged data ends in the declared errors, whatever the damage is; see fuzz_codec.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SECONDS = 600.0 if os.environ.get("MPIFRAME_TEST_LONG") else 100.0


@pytest.mark.timeout(SECONDS + 10)
@pytest.mark.parametrize("what", ["results", "garbage", "raised", "frames"])
def test_damage_is_an_error_that_was_promised(what: str) -> None:
    root = Path(__file__).parents[2]
    run = subprocess.run(
        [sys.executable, "-W", "ignore", str(Path(__file__).with_name("fuzz_codec.py")), what],
        env={**os.environ, "PYTHONPATH": str(root), "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert run.returncode == 0, run.stderr[-4_000:]
    assert "no damage did any" in run.stdout
