"""Ways to look at the client: the table of servers, and its verbs bound to a target."""

from __future__ import annotations

import html
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mpiframe.answers import CommandFuture
from mpiframe.messages import ServerInfo
from mpiframe.proxy import Proxy
from mpiframe.targets import Target, each, resolve

if TYPE_CHECKING:
    from mpiframe.verbs import Verbs


_HEAD = ("rank", "host", "pid", "state", "queued", "running", "cpu", "rss")
_LEFT_OUT = ("pid", "rss", "cpu", "host")
"""Columns that a narrow terminal does without, the least missed first."""
_COLOURS = {
    "idle": "#2a7",
    "busy": "#06c",
    "starting": "#a60",
    "unresponsive": "#c60",
    "lost": "#b00",
    "closed": "#888",
}


_STYLES = {
    "idle": "green",
    "busy": "blue",
    "starting": "yellow",
    "unresponsive": "magenta",
    "lost": "red",
    "closed": "dim",
}


class ServerTable(list[ServerInfo]):
    """The rows of `Client.servers`; prints as a table, as wide as the terminal is."""

    def text(self, width: int) -> str:
        """The table in lines of at most `width` characters, if that leaves room for the states."""
        columns = self._columns()
        for name in _LEFT_OUT:
            if _width(columns) <= width:
                break
            if name == "host":  # its beginning tells more than nothing
                room = width - _width({k: v for k, v in columns.items() if k != "host"}) - 2
                if room >= 4:
                    columns["host"] = [_cut(cell, room) for cell in columns["host"]]
                    break
            del columns[name]
        widths = [max(map(len, cells)) for cells in columns.values()]
        rows = zip(*columns.values(), strict=True)
        return "\n".join(
            "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows
        )

    def __str__(self) -> str:
        return self.text(shutil.get_terminal_size(fallback=(1000, 24)).columns)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """The table for a notebook."""
        columns = self._columns()
        head = "".join(f"<th>{name}</th>" for name in _HEAD)
        body = ""
        for row in zip(*(cells[1:] for cells in columns.values()), strict=True):
            cells = dict(zip(_HEAD, map(html.escape, row), strict=True))
            colour = _COLOURS.get(row[3], "inherit")
            cells["state"] = f'<span style="color:{colour}">&#9679;</span> {cells["state"]}'
            body += "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells.values()) + "</tr>"
        return f'<table class="mpiframe-servers"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'

    def __rich__(self) -> Any:
        """The table for rich's console."""
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in _HEAD:
            right = name not in ("host", "state")
            table.add_column(name, justify="right" if right else "left", no_wrap=True, overflow="ellipsis")
        for row in zip(*(cells[1:] for cells in self._columns().values()), strict=True):
            style = {"state": _STYLES.get(row[3], "")}
            table.add_row(*(Text(c, style.get(name, "")) for name, c in zip(_HEAD, row, strict=True)))
        return table

    def _columns(self) -> dict[str, list[str]]:
        """By name, the cells of each column, its name the first of them."""
        rows = [_HEAD]
        for s in self:
            cpu = "-" if s.cpu is None else f"{s.cpu:.1f} s"
            rss = "-" if s.rss is None else f"{s.rss / 2**20:.0f} MiB"
            running = "-" if s.running is None else str(s.running)
            rows.append((str(s.rank), s.host, str(s.pid), s.state, str(s.queued), running, cpu, rss))
        return {cells[0]: list(cells) for cells in zip(*rows, strict=True)}


def _width(columns: dict[str, list[str]]) -> int:
    return sum(max(map(len, cells)) for cells in columns.values()) + 2 * (len(columns) - 1)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "~"


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
