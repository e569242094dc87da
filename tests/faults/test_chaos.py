"""Everything at once; see chaos.py, and run it for ten minutes by hand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

SCRIPT = str(Path(__file__).parent / "chaos.py")


@pytest.mark.long
@pytest.mark.parametrize("seed", [1, 2])
def test_every_request_ends_and_the_counts_add_up(launcher: Any, seed: int) -> None:
    words = [SCRIPT, "12", str(seed)]  # seconds, seed
    ended = launcher.run(words, 5, options=("--resilient",), seconds=100).expect(0)
    counts = re.search(r"pushed (\d+) = done (\d+) \+", ended.stdout)
    assert counts is not None
    assert int(counts[1]) >= int(counts[2]) > 100
    assert "the sum holds" in ended.stdout
    faults = re.search(r"faults: (.*)", ended.stdout)
    assert faults is not None
    assert "kill" in faults[1]
