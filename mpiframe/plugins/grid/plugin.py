"""The grid as a plugin of a server: `client.plugin("grid", target=1, token_type="t_obs")`."""

from __future__ import annotations

from dataclasses import dataclass

from mpiframe.plugins.base import Context
from mpiframe.plugins.grid.credentials import Credentials
from mpiframe.plugins.grid.storage_commands import StorageCommands


@dataclass
class GridOptions:
    """url, database: of the tokens, None takes those of the credentials. token_type: which tokens.

    credentials: None finds them on the server, where they then need not be sent.
    """

    url: str | None = None
    database: str | None = None
    token_type: str | None = None
    credentials: Credentials | None = None


class Grid(StorageCommands):
    """Tokens, pilots and storage from a server."""

    name = "grid"
    Options = GridOptions

    def start(self, context: Context) -> None:
        """Nothing is asked yet."""
        self.context = context

    def stop(self) -> None:
        """End what is being waited for."""
        self.stop_storage()
