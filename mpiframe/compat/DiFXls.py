"""DiFX's `DiFXls`: `Client(client).ls(path, args)`, on that client's connection or on one of its own."""

from __future__ import annotations

from mpiframe.compat._difx_attached import AttachedClient


class Client(AttachedClient):
    """As DiFXControl.Client, whose method it is."""
