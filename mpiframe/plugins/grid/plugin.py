"""The grid as a plugin of a server: `client.plugin("grid", target="all", token_type="t_obs")`.

What `client.plugin` returns has these commands, and `pilot`, which works off tokens on all servers.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mpiframe.plugins.base import Context, command
from mpiframe.plugins.grid.arc.commands import ArcCommands
from mpiframe.plugins.grid.claims import Claims
from mpiframe.plugins.grid.couchdb import Database
from mpiframe.plugins.grid.credentials import Credentials
from mpiframe.plugins.grid.crew import PilotSettings
from mpiframe.plugins.grid.errors import PilotError, TokenError
from mpiframe.plugins.grid.mig.commands import MigCommands
from mpiframe.plugins.grid.pilots import GridFace
from mpiframe.plugins.grid.runner import Runner, TokenRun, Work
from mpiframe.plugins.grid.storage_commands import StorageCommands
from mpiframe.plugins.grid.token_list import TokenList
from mpiframe.plugins.grid.tokens import Token


@dataclass
class GridOptions:
    """url, database: of the tokens, None takes those of the credentials. token_type: which tokens.

    credentials: None finds them on the server, where they then need not be sent. verify: as for `Database`.
    """

    url: str | None = None
    database: str | None = None
    token_type: str | None = None
    credentials: Credentials | None = None
    verify: bool | str = True


class Grid(ArcCommands, MigCommands, StorageCommands):
    """Tokens, pilots and storage from a server."""

    name = "grid"
    Options = GridOptions
    face = GridFace

    def start(self, context: Context) -> None:
        """Nothing is asked yet."""
        self.context = context
        self._database: Database | None = None
        self._crews: dict[str, tuple[Claims, Runner]] = {}
        self._counts: dict[str, dict[str, int]] = {}  # of tokens by type, as they were seen last

    def panel(self) -> dict[str, Any]:
        """How many tokens are in which state, as the commands of this server saw them last."""
        states = list(dict.fromkeys(state for counts in self._counts.values() for state in counts))
        return {
            "title": "Tokens",
            "shared": True,
            "columns": ["type", *states],
            "rows": [[kind, *(counts.get(s) for s in states)] for kind, counts in self._counts.items()],
            "note": "" if self._counts else "not counted yet",
        }

    def stop(self) -> None:
        """End what pilots have started and what is being waited for, and close the connections."""
        self.stop_storage()
        self.arc_close()
        for key in list(self._crews):
            self.pilot_end(key)
        if self._database is not None:
            self._database.close()

    # -- tokens ------------------------------------------------------------------------------------

    @command
    def overview(self, token_type: str | None = None) -> dict[str, int]:
        """How many tokens are in each category."""
        return self._overview(token_type)

    @command
    def create(self, docs: list[dict[str, Any]], token_type: str | None = None) -> list[str]:
        """Save new tokens, given as their fields with `_id`, and add the views; the ids."""
        tokens = self._tokens(token_type)
        for doc in docs:
            token = Token(tokens.token_type, doc.get("_id"), tokens.database)
            token.update(doc)
            tokens.append(token)
        tokens.save()
        tokens.add_views(replace=False)
        return [one.id for one in tokens.tokens()]

    @command
    def list(self, view: str, token_type: str | None = None) -> Any:
        """The tokens of a view, as dicts."""
        return [dict(one) for one in self._tokens(token_type).list_view(view).tokens()]

    @command
    def get(self, id: str) -> dict[str, Any]:
        """A token, as a dict."""
        return self._open().get(id)

    @command
    def reset(self, view: str, token_type: str | None = None) -> int:
        """Make all tokens of a view tokens to be done; how many."""
        found = self._tokens(token_type).list_view(view)
        found.reset()
        return len(found)

    @command
    def set(self, view: str, field: str, value: Any, token_type: str | None = None) -> int:
        """Set a field of all tokens of a view; how many."""
        found = self._tokens(token_type).list_view(view)
        found.set(field, value)
        return len(found)

    @command
    def delete(self, view: str, token_type: str | None = None) -> int:
        """Delete all tokens of a view; how many."""
        found = self._tokens(token_type).list_view(view)
        count = len(found)
        found.delete()
        return count

    @command
    def archive(self, folder: str, delete: bool = False, token_type: str | None = None) -> str:
        """Pack all tokens with their attachments into a folder of the server's host; the archive's path."""
        return self._tokens(token_type).list_all().archive(folder, delete)

    # -- pilots; `pilots` calls these ----------------------------------------------------------------

    @command
    def pilot_prepare(self, key: str, settings: PilotSettings, work: Work) -> None:
        """Get ready to run tokens so."""
        claims = Claims(
            self._open(),
            self._type(None),
            settings.view,
            lease_seconds=settings.lease_seconds,
            max_returns=settings.max_returns,
            session=settings.session,
        )
        claims.prepare()
        runner = Runner(
            claims,
            self._in_namespace(work) if callable(work) and not settings.isolate else work,
            max_token_seconds=settings.max_token_seconds,
            isolate=settings.isolate,
            attach=settings.attach,
            work_dir=settings.work_dir,
            kill_seconds=settings.kill_seconds,
        )
        self._crews[key] = (claims, runner)

    @command
    def pilot_claim(self, key: str, count: int) -> Any:
        """Claim tokens, for any server."""
        return [dict(one) for one in self._crew(key)[0].claim(count)]

    @command
    def pilot_release(self, key: str, claims: dict[str, str], counted: bool, reason: str) -> Any:
        """Give tokens back."""
        return self._crew(key)[0].release(claims, counted, reason)

    @command
    def pilot_recover(self, key: str, known: Any) -> Any:
        """Give back what was claimed and got lost on the way to the client."""
        return self._crew(key)[0].recover(known)

    @command
    def pilot_look(self, key: str) -> Any:
        """Take back what has expired: (the ids, the overview after it)."""
        return self._crew(key)[0].reclaim(), self._overview(None)

    @command
    def pilot_run(self, key: str, doc: dict[str, Any], seconds: float | None) -> TokenRun:
        """Run a token that was claimed, for so long at most."""
        runner = self._crew(key)[1]
        until = None if seconds is None else time.monotonic() + seconds
        return runner(Token.of(doc, self._open()), until)

    @command
    def pilot_end(self, key: str) -> None:
        """Forget what `pilot_prepare` was told."""
        crew = self._crews.pop(key, None)
        if crew is not None:
            crew[1].close()

    # ------------------------------------------------------------------------------------------------

    def _crew(self, key: str) -> tuple[Claims, Runner]:
        if key not in self._crews:
            raise PilotError(
                f"server {self.context.rank} knows nothing of these pilots: the plugin was reloaded"
            )
        return self._crews[key]

    def _in_namespace(self, function: Callable[[Token], Any]) -> Callable[[Token], Any]:
        """The same function, which finds what earlier commands left on this server."""
        return lambda token: self.context.call(function, (token,), {})

    def _open(self) -> Database:
        if self._database is None:
            config: GridOptions = self.context.config
            self._database = Database(config.database, config.url, config.credentials, verify=config.verify)
        return self._database

    def _type(self, token_type: str | None) -> str:
        found = token_type or self.context.config.token_type
        if not found:
            raise TokenError('no type of tokens is named: client.plugin("grid", token_type="...")')
        return str(found)

    def _overview(self, token_type: str | None) -> dict[str, int]:
        counts = self._tokens(token_type).overview()
        self._counts[self._type(token_type)] = counts
        self.context.changed()
        return counts

    def _tokens(self, token_type: str | None) -> TokenList:
        return TokenList(self._type(token_type), self._open())
