"""The gfal2 that all functions here share: one process, started when it is first needed."""

from __future__ import annotations

from functools import cache

from mpiframe.plugins.grid.gfal import Gfal


@cache
def storage() -> Gfal:
    """gfal2; its process ends with this one."""
    return Gfal()
