"""DiFX's `DiFXJobStatus`: `Client(client).jobStatus(path)`, the last states of jobs."""

from __future__ import annotations

from mpiframe.compat._difx_attached import AttachedClient


class Client(AttachedClient):
    """As DiFXControl.Client, whose method it is."""
