"""The database and the home folder of the grid's own tests."""

from tests.plugins.grid.conftest import couch, database, home

__all__ = ["couch", "database", "home"]
