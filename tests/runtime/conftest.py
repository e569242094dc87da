"""Leaves out what runs inside a world, unless this is one."""

from __future__ import annotations

import os

collect_ignore = [] if "MPIFRAME_TEST_RANKS" in os.environ else ["world"]
