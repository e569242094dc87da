"""The states that a MiG server gives its jobs."""

from __future__ import annotations

QUEUED = "QUEUED"
EXECUTING = "EXECUTING"
FINISHED = "FINISHED"
FAILED = "FAILED"
CANCELED = "CANCELED"

STATES = ("PARSE", QUEUED, "FROZEN", EXECUTING, "RETRY", FINISHED, FAILED, CANCELED, "EXPIRED")
ENDED = frozenset({FINISHED, FAILED, CANCELED, "EXPIRED"})
"""From these a job does not come back."""
