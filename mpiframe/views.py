"""Ways to look at the client: the table of servers, and its verbs bound to a target."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mpiframe.answers import CommandFuture
from mpiframe.messages import ServerInfo
from mpiframe.proxy import Proxy
from mpiframe.targets import Target, each, resolve

if TYPE_CHECKING:
    from mpiframe.verbs import Verbs


class ServerTable(list[ServerInfo]):
    """The rows of `Client.servers`; prints as a table."""

    _HEAD = ("rank", "host", "pid", "state", "queued", "running", "cpu", "rss")

    def __str__(self) -> str:
        rows = [self._HEAD]
        for s in self:
            cpu = "-" if s.cpu is None else f"{s.cpu:.1f} s"
            rss = "-" if s.rss is None else f"{s.rss / 2**20:.0f} MiB"
            running = "-" if s.running is None else str(s.running)
            rows.append((str(s.rank), s.host, str(s.pid), s.state, str(s.queued), running, cpu, rss))
        widths = [max(len(row[i]) for row in rows) for i in range(len(self._HEAD))]
        return "\n".join(
            "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows
        )

    __repr__ = __str__


class View:
    """The client's verbs, bound to a target. Get one by `client.on(target)`."""

    def __init__(self, client: Verbs, target: Target) -> None:
        resolve(target, client._loop.dispatcher)
        self.client = client
        self.target = target

    def push(self, command: Any, block: bool = False, parameters: Mapping[str, Any] | None = None) -> Any:
        """As `Client.push`."""
        return self.client.push(command, self.target, block, parameters)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> CommandFuture:
        """As `Client.submit`; the target must be one server or None."""
        return self.client.submit(fn, *args, target=self.target, **kwargs)

    def map(self, fn: Callable[..., Any], *iterables: Iterable[Any], **options: Any) -> Iterator[Any]:
        """As `Client.map`, on these servers only."""
        return self.client.map(fn, *iterables, target=self.target, **options)

    def spmd(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> list[Any]:
        """As `Client.spmd`."""
        return self.client.spmd(fn, *args, target=self.target, **kwargs)

    def broadcast(self, **variables: Any) -> None:
        """As `Client.broadcast`."""
        self.client.broadcast(target=self.target, **variables)

    def scatter(self, **variables: Any) -> None:
        """As `Client.scatter`."""
        self.client.scatter(target=self.target, **variables)

    def gather(self, expression: str) -> Any:
        """As `Client.gather`."""
        return self.client.gather(expression, self.target)

    def reduce(
        self, op: Callable[[Any, Any], Any], fn: Any, *iterables: Iterable[Any], **options: Any
    ) -> Any:
        """As `Client.reduce`."""
        return self.client.reduce(op, fn, *iterables, target=self.target, **options)

    def allreduce(self, op: Callable[[Any, Any], Any], fn: Any, *iterables: Iterable[Any], name: str) -> None:
        """As `Client.allreduce`."""
        self.client.allreduce(op, fn, *iterables, name=name, target=self.target)

    def plugin(self, name: str, **options: Any) -> Proxy:
        """As `Client.plugin`."""
        return self.client.plugin(name, target=self.target, **options)

    @property
    def servers(self) -> ServerTable:
        """The rows of these servers."""
        ranks = resolve(self.target, self.client._loop.dispatcher)
        return ServerTable(s for s in self.client.servers if ranks is None or s.rank in each(ranks))
