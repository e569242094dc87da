"""Leaves out what needs the extras of `interactive`, unless `launch/test --interactive` installed them."""

from __future__ import annotations

import os
from pathlib import Path

CORE = ("test_attached", "test_places", "test_trace")
"""What runs in every `launch/test`: it needs nothing but the core."""

collect_ignore = (
    []
    if os.environ.get("MPIFRAME_TEST_INTERACTIVE")
    else [path.name for path in Path(__file__).parent.glob("test_*.py") if not path.name.startswith(CORE)]
)
