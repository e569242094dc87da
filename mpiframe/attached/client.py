"""A client without MPI: a process that is attached to a running world by a socket.

import mpiframe

client = mpiframe.attach("survey")
client.push("x = 1", target="all", block=True)
client.close()  # what was pushed goes on: attach("survey", session=...) comes back for it
"""

from __future__ import annotations

import atexit
import getpass
import itertools
import logging
import os
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mpiframe.answers import CommandFuture
from mpiframe.attached.loop import AttachedLoop
from mpiframe.codec import ByName
from mpiframe.commands import CommandEncoder, Encoded
from mpiframe.config import Config
from mpiframe.errors import CommandArgumentError, MpiframeError, WorldError
from mpiframe.hub import wire
from mpiframe.messages import Request, Response, ServerInfo, WorldFacts, world_wide
from mpiframe.output import Printer
from mpiframe.progress import each_given
from mpiframe.targets import Target, each, places, resolve
from mpiframe.verbs import Verbs, flatten
from mpiframe.views import ServerTable

log = logging.getLogger("mpiframe")

Address = tuple[Any, ...]
"""("unix", path) or ("tcp", host, port)"""


_ADD_TO_PATH = ByName("mpiframe.namespace", "add_to_path")


@dataclass(frozen=True, slots=True)
class Waiting:
    """One row of `AttachedClient.requests`: a request whose response was not fetched.

    status: queued, sent, running; done, failed, cancelled, lost, timeout; or dropped, where its result had to
    be let go. server: the rank that runs or ran it. command: its text, shortened.
    """

    id: int
    status: str
    server: int | None
    command: str


def connect(
    address: Address,
    secret: bytes,
    session: str | None = None,
    *,
    take_over: bool = False,
    timeout: float = 10.0,
    context: ssl.SSLContext | None = None,
    name: str = "",
    output: str = "redirect",
    output_dir: str | None = None,
    sock: socket.socket | None = None,
    kind: type[AttachedClient] | None = None,
    watch: bool = False,
) -> AttachedClient:
    """Attach this process to the world whose hub listens at `address`.

    session: its name; None for a new one. With the name of one that is there, what was pushed in it can be
    fetched. take_over: also if another process is attached to it, which then is no more. timeout: seconds for
    all of this. context: of TLS, for TCP. name: the world's, for messages. sock: a connection to `address`
    that is open already. kind: of client. watch: only to look on, so that its session is not shown.

    Raises WorldError where nobody listens, or who does does not know the secret, or where the hub refuses.
    """
    deadline = time.monotonic() + timeout
    where = f"the world {name!r}" if name else f"the world at {':'.join(map(str, address[1:]))}"
    if output not in Printer.MODES:
        raise WorldError(
            f"output={output!r} is no choice; choose one of {', '.join(map(repr, Printer.MODES))}"
        )
    try:
        if sock is None:
            sock = _open(address, context, deadline)
        try:
            wire.introduce(sock, secret, deadline)
        except BaseException:
            sock.close()
            raise
    except OSError as error:
        raise WorldError(f"{where} cannot be attached to: {error}") from error
    client = (kind or AttachedClient)(sock, Printer(output, output_dir), where)
    client._enter(session, take_over, watch, deadline)
    return client


def _open(address: Address, context: ssl.SSLContext | None, deadline: float) -> socket.socket:
    left = max(deadline - time.monotonic(), 0.01)
    if address[0] == "unix":
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        place: Any = address[1]
    elif context is None:
        raise WorldError("a world is attached to by TCP with TLS only")
    else:
        return _open_tls(str(address[1]), int(address[2]), context, left)
    try:
        sock.settimeout(left)
        sock.connect(place)
    except BaseException:
        sock.close()
        raise
    return sock


def _open_tls(host: str, port: int, context: ssl.SSLContext, left: float) -> socket.socket:
    plain = socket.create_connection((host, port), left)
    try:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return context.wrap_socket(plain, server_hostname=host)
    except BaseException:
        plain.close()
        raise


class AttachedClient(Verbs):
    """The client's verbs from a process without MPI; get one by `mpiframe.attach`.

    What it pushes is numbered from 1 in its session, and takes turns with what other sessions and the world's
    own script push. `close` detaches: what was pushed goes on, and its results wait. A later process that
    attaches to the same session finds them by `requests` and fetches them by `get`; the futures of a process
    end with it, but their values can be had so as well, unless they had arrived.

    Attributes
    ----------
    session: the name to come back by. world: the world's name.
    """

    def __init__(self, sock: socket.socket, printer: Printer, where: str) -> None:
        self._closed = False
        self._where = where
        self.session = ""
        self.world = ""
        self._printer = printer
        self._recorder = None
        self._loop: AttachedLoop = AttachedLoop(
            sock, printer, self._why_broken, Config.from_environment().reuse
        )
        self._facts: dict[str, Any] = {}
        self._path_told = False
        self._loop.start()

    def _enter(self, session: str | None, take_over: bool, watch: bool, deadline: float) -> None:
        words = {"session": session, "take_over": take_over, "watch": watch, "user": _user()}
        who = f"process {os.getpid()} on {socket.gethostname()}, of {_user()}"
        try:
            left = max(deadline - time.monotonic(), 0.01)
            reply, _ = self._loop.ask("hello", left, who=who, **words)
        except MpiframeError as error:
            self._loop.close("it was never opened")
            raise WorldError(f"{self._where} cannot be attached to: {error}") from None
        self.session, self.world = reply["session"], reply["name"]
        self._number = reply["number"]
        self._facts = reply["world"]
        self._loop.last_id = reply["last"]
        self._loop.grace = reply["grace"]
        if tuple(reply["python"]) != sys.version_info[:2]:
            log.warning(
                "this is Python %d.%d and the servers of %s run %d.%d: strings can be sent to them, while "
                "functions that are not in a module of theirs may fail",
                *sys.version_info[:2],
                self._where,
                *reply["python"],
            )
        roster = {word: reply[word] for word in ("live", "absent", "lost", "places")}
        self._loop.dispatcher.update(**roster)
        self._encoder = CommandEncoder(reply["large"], self._loop.forget_functions, plain=False)
        self._ids = itertools.count(reply["last"] + 1)
        self._service_ids = itertools.count(reply["last_service"] - 1, -1)
        self._reductions = itertools.count(1)
        atexit.register(self.close)

    def _why_broken(self, why: str) -> str:
        back = ""
        if self.session:
            named = f"{self.world!r}, " if self.world else ""
            back = (
                f". If it is there (`mpiframe list` tells), come back with mpiframe.attach({named}"
                f"session={self.session!r}): what was pushed goes on, and its results wait"
            )
        return f"{self._where} cannot be reached any more: {why}{back}"

    # -- what the verbs need ------------------------------------------------------------------------------

    def _refuse(self) -> None:
        raise WorldError(self._loop.gone or "this client is detached from its world")

    def _is_near(self, _rank: int) -> bool:
        return True  # all is sent to the hub, so to hand it on from server to server would spare nothing here

    def _new_number(self) -> int:
        return world_wide(self._number, next(self._reductions))

    def _together(self, label: str, parts: Sequence[tuple[int, Encoded]], timeout: float | None) -> list[Any]:
        self._tell_path()
        return self._loop.together(label, parts, self._ids, timeout)

    def _request(self, command: Any, encoded: Encoded, rank: int | None, id: int = 0) -> Request:
        self._tell_path()
        return super()._request(command, encoded, rank, id)

    def _tell_path(self) -> None:
        """Once, ahead of the first command: modules that this process can import, servers can as well."""
        if self._path_told:
            return
        self._path_told = True
        path = [entry for entry in map(os.path.abspath, sys.path) if os.path.isdir(entry)]
        self._loop.tell("path", entries=path)  # for those that will come in place of others
        self._service(self._loop.dispatcher.ranks(), "sys.path", _ADD_TO_PATH, path)

    # -- requests -----------------------------------------------------------------------------------------

    def get(self, ids: Any, block: bool = True, timeout: float | None = None) -> list[Response]:
        """As `Client.get`; also of requests that an earlier process of this session has pushed."""
        if self._closed:
            self._refuse()
        wanted = list(flatten(ids))
        mine = [id for id in wanted if type(id) is int and id not in self._loop.requests]
        if mine:
            self._loop.adopt(mine)
        return super().get(wanted, block, timeout)

    def progress(self, requests: Any, **options: Any) -> Any:
        """As `Client.progress`; also of requests that an earlier process of this session has pushed."""
        if self._closed:
            self._refuse()
        given = list(each_given(requests))
        mine = [id for id in given if type(id) is int and id not in self._loop.requests]
        if mine:
            self._loop.adopt(mine)
        return super().progress(given, **options)

    def requests(self) -> list[Waiting]:
        """Those of this session whose responses were not fetched, whichever of its processes pushed them."""
        if self._closed:
            self._refuse()
        return [Waiting(*row) for row in self._loop.ask("requests")[0]["rows"]]

    def cancel(self, id: Any) -> bool:
        """As `Client.cancel`; requests of other sessions cannot be named."""
        if self._closed:
            self._refuse()
        if isinstance(id, CommandFuture):
            request: Request | None = id.request
        else:
            if type(id) is int and id not in self._loop.requests:
                self._loop.adopt([id])
            request = self._known(id)
        return request is not None and self._loop.call_off(request)

    def interrupt(self, target: Target = "all") -> None:
        """Raise KeyboardInterrupt in the commands of this session that run on these servers.

        Those of others are left alone; WorldError where a server that is named runs one.
        """
        if self._closed:
            self._refuse()
        if target is None:
            raise CommandArgumentError('interrupt needs to know which servers: a rank, a list, or "all"')
        ranks = each(resolve(target, self._loop.dispatcher))
        self._loop.ask("interrupt", ranks=ranks, named=target != "all")

    # -- servers ------------------------------------------------------------------------------------------

    def setup(self, command: str | Callable[[], Any]) -> None:
        """As `Client.setup`, for the whole world."""
        if self._closed:
            self._refuse()
        encoded = self._encoder.encode(command, None)
        self._tell_path()
        words, buffers = self._loop.describe(encoded, command)
        self._loop.ask("setup", command=words, buffers=buffers)

    def restart(self, target: int | Iterable[int] | str) -> None:
        """As `Client.restart`."""
        if self._closed:
            self._refuse()
        self._loop.ask("restart", ranks=places(target, sorted(self._loop.dispatcher.members)))

    @property
    def servers(self) -> ServerTable:
        """As `Client.servers`; `running` is the id of a request of this session, 0 for one of another."""
        if self._closed:
            self._refuse()
        rows = self._loop.ask("servers")[0]["rows"]
        return ServerTable(ServerInfo(*row) for row in rows)

    def facts(self) -> WorldFacts:
        """As `Client.facts`."""
        return WorldFacts(**{**self._facts, "doorbell": dict(self._facts["doorbell"])})

    def snapshot(self, since: int = 0) -> dict[str, Any]:
        """What the world's watcher has to show since its number `since`; see `mpiframe.watch.snapshots`."""
        value: dict[str, Any] = self._loop.ask("snapshot", since=since)[0]["value"]
        return value

    # -- the end ------------------------------------------------------------------------------------------

    def close(self, *, drop: bool = False) -> None:
        """Detach. What was pushed goes on, unless `drop` says that nobody will come back for it.

        Futures that have not ended do so with WorldError. Raises JournalError if the last of what was to be
        recorded could not be.
        """
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        if self._loop.gone is None:
            try:
                self._loop.ask("bye", 5.0, drop=drop)
            except MpiframeError:
                pass  # the world ends, or hangs: either way we leave
        self._loop.close(f"this client has detached from {self._where}")
        self._printer.close()
        unwritten = None if self._recorder is None else self._recorder.close()
        if unwritten is not None:
            raise unwritten

    def stop_world(self, *, drain: bool = False) -> None:
        """End the world, for everybody. `drain`: once all that was pushed has ended, else at once."""
        if self._closed:
            self._refuse()
        self._loop.ask("stop", drain=drain)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As `Executor.shutdown`, then `close`; the world goes on."""
        if self._closed:
            return
        futures = [r for r in list(self._loop._waiting.values()) if r.future is not None]
        if cancel_futures:
            for request in futures:
                self._loop.cancel(request)
        if wait:
            self._loop.wait(lambda: all(request.told for request in futures))
        self.close()

    def __enter__(self) -> AttachedClient:
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if error is None:
            self.shutdown()
        else:
            self.close()

    def __repr__(self) -> str:
        state = "detached" if self._closed else f"session {self.session!r}"
        return f"<client of {self._where}, {state}>"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no such user is known here
        return f"user{os.getuid()}"
