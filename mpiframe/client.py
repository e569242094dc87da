"""The client: where the user pushes commands and gets responses.

client.push("x.mean()", target=[1, 2])
  |  commands.CommandEncoder   compiles or pickles it once, checks it; a Request for each target
  |  queues.Dispatcher         says which server gets it, and when
  |  client_loop.ClientLoop    packs what goes to one server into one message
  v  transport.Transport       MPI, and the doorbell if the server sleeps
server.Server                  its FIFO queue; execution.Executor runs it in the user's namespace
  |                            (what it prints travels ahead of the answer, live)
  v
ClientLoop -> answers.decode -> Request -> Response, or the Future's result
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from mpiframe import doorbell
from mpiframe.answers import CommandFuture
from mpiframe.errors import CommandArgumentError, WorldError
from mpiframe.messages import ServerInfo, WorldFacts
from mpiframe.session import Session, current_session
from mpiframe.targets import Target, each, places, resolve
from mpiframe.views import ServerTable


def current_client() -> Client | None:
    """The client of this process, open or closed, if there was one."""
    session = current_session()
    return session if isinstance(session, Client) else None


class Client(Session):
    """Rank 0's handle on the servers. On a server rank the call serves, then leaves the process.

    Parameters
    ----------
    output: where the text goes that commands print. "redirect": to this process, line by line, marked
        with server and request; "files": to `mpiframe-server-N.log` in `output_dir`; "quiet": nowhere.
        `Response.stdout` and `stderr` have it in any case.
    log_level: servers send log records from this level on to this process's `logging`; each record has
        the attributes `rank`, `host` and `request`, and "server N@host" as its processName.

    restart: what becomes of the place of a server that died. "never": it stays empty, until `restart` is
        called; "always": another server is started in it, runs what `setup` was given, and takes up its
        queue. Needs a world that outlives a dead server (`mpiframe run --resilient`).

    Raises WorldError where there is no world of at least two ranks, where there is a client already, or where
    servers cannot be replaced but are to be.

    As a context manager it ends well by waiting for all that was pushed, and ends badly (an exception
    leaves the block) by dropping what is queued and interrupting what runs.
    """

    # -- requests ----------------------------------------------------------------------------------

    def cancel(self, id: Any) -> bool:
        """Cancel a request, by its id or its future: True, unless it has ended already.

        A queued one never runs. A running one ends here and now, and KeyboardInterrupt is raised in its
        command; until that has ended, its server is busy. (`future.cancel()` leaves a running one alone.)

        Raises WorldError where it runs on a server that has no doorbell.
        """
        if self._closed:
            self._refuse()
        request = id.request if isinstance(id, CommandFuture) else self._known(id)
        if request is None:  # the future has its value
            return False
        rank = request.server
        if rank is not None and not request.ended and not self._loop.lines.reach(rank):
            raise self._unreachable(rank)
        return self._loop.call_off(request)

    def interrupt(self, target: Target = "all") -> None:
        """Raise KeyboardInterrupt in the commands that run on these servers; idle ones are not touched.

        Raises WorldError for a server that has no doorbell, by which alone a busy server can be reached.
        """
        if self._closed:
            self._refuse()
        if target is None:
            raise CommandArgumentError('interrupt needs to know which servers: a rank, a list, or "all"')
        ranks = resolve(target, self._loop.dispatcher)
        for rank in each(ranks):
            running = self._loop.dispatcher.running(rank)
            if running is not None and not self._loop.lines.send(rank, doorbell.INTERRUPT, running):
                raise self._unreachable(rank)

    def _unreachable(self, rank: int) -> WorldError:
        why = self._world.why_polling.get(rank, "its connection is closed")
        return WorldError(
            f"server {rank} has no doorbell ({why}), so a running command cannot be interrupted"
        )

    # -- servers that are replaced -----------------------------------------------------------------

    def setup(self, command: str | Callable[[], Any]) -> None:
        """Run a command on every server now, and on every replacement before it takes up its queue.

        Variables that other commands made, and plugins, are not brought back on a replacement: make them in
        the setup. Returns when all have run it; raises the error of the first that failed, and forgets it
        then.
        """
        if self._closed:
            self._refuse()
        self._recovery.setup(command, self._encoder.encode(command, None))

    def restart(self, target: int | Iterable[int] | str) -> None:
        """Replace servers, dead or alive; returns when the new ones serve.

        A live one is ended first: the command it runs is interrupted and its request is lost (or retried, as
        its `retries` say), its plugins stop, and after `MPIFRAME_GRACE` seconds it is ended by force. What is
        queued for it waits for the new one. Raises TargetError, and WorldError where servers cannot be
        replaced or one does not come.
        """
        if self._closed:
            self._refuse()
        self._recovery.restart(places(target, self._world.servers))

    @property
    def servers(self) -> ServerTable:
        """One row a server: rank, host, pid, state, queued, running, CPU seconds, resident bytes.

        Every server is asked, and answers at once whatever it computes. One that does not is waited for,
        `Config.patience` seconds once, and is "unresponsive" then, until it answers.
        """
        if not self._closed:
            self._loop.pulse.ask()
        return self._rows()

    def _rows(self) -> ServerTable:
        """The same as it is known, asking nobody."""
        loop, dispatcher, pulse = self._loop, self._loop.dispatcher, self._loop.pulse
        rows = ServerTable()
        with loop.lock:
            for rank in self._world.servers:
                member = self._world.members[rank]
                state, queued, running = "lost" if dispatcher.is_lost(rank) else "closed", 0, None
                if dispatcher.is_absent(rank):
                    state, queued = "starting", dispatcher.row(rank)[0]
                elif dispatcher.is_live(rank) and not self._closed:
                    queued, running = dispatcher.row(rank)
                    state = "idle" if running is None else "busy"
                cpu, rss = pulse.usage.get(rank, (None, None))
                if pulse.is_unresponsive(rank) and not self._closed:
                    state, cpu, rss = "unresponsive", None, None
                rows.append(ServerInfo(rank, member.host, member.pid, state, queued, running, cpu, rss))
        return rows

    def story(self, id: int) -> list[str]:
        """What happened to a request so far, for debugging; the record is bounded."""
        return self._loop.dispatcher.story(id)

    def facts(self) -> WorldFacts:
        """What this world stands on: MPI, doorbells, cores."""
        return self._world.facts()

    # -- the end -----------------------------------------------------------------------------------

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As `Executor.shutdown`; the servers end either way, so `wait=False` drops what is unfinished."""
        if wait and not cancel_futures:
            self.close()
        elif not wait:
            self.abandon()
        else:
            self._cancel_queued()
            self.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if error is None:
            self.close()
        else:
            self.abandon(failed=not (isinstance(error, SystemExit) and error.code in (None, 0)))
