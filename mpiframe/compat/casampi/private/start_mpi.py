"""Importing this is where a server rank begins to serve, as casatasks has it; elsewhere nothing happens."""

from mpiframe.compat.casampi import _roles

_roles.join()
