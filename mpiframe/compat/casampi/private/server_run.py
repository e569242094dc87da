"""Importing this, too, is where a server rank begins to serve."""

from mpiframe.compat.casampi import _roles

_roles.join()
