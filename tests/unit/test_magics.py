"""The magics: how a line is read, what is shown of the answers, what a word may become. Starts no MPI."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mpiframe.errors import CommandArgumentError, CommandError, MpiframeError, RequestError, TargetError
from mpiframe.messages import Response, Status
from mpiframe.shell import cells, magics
from mpiframe.shell.magics import Magics, parse_target, split_on

HOSTS = {1: "node1.site.org", 2: "node1.site.org", 3: "node-2"}


class Servers:
    """Stands in for a client: answers what it is told to, and remembers what it was asked."""

    def __init__(self, answers: dict[int, Any] | None = None) -> None:
        self.answers = answers or {}
        self.pushed: list[tuple[Any, Any]] = []
        self.interrupted: list[Any] = []
        self.late: set[int] = set()

    @property
    def servers(self) -> list[Any]:
        return [SimpleNamespace(rank=rank, host=host, state="idle") for rank, host in HOSTS.items()]

    def push(self, command: Any, target: Any = None) -> Any:
        self.pushed.append((command, target))
        ranks = list(HOSTS) if target == "all" else target
        self._ranks = {10 * len(self.pushed) + rank: rank for rank in (ranks or [1])}
        return list(self._ranks) if ranks is not None else 10 * len(self.pushed) + 1

    def get(self, ids: list[int], block: bool = True) -> list[Response]:
        return [self._response(id) for id in ids if block or id not in self.late]

    def interrupt(self, target: Any) -> None:
        self.interrupted.append(target)

    def _response(self, id: int) -> Response:
        rank = id % 10
        value = self.answers.get(rank)
        error = value if isinstance(value, MpiframeError) else None
        trace = getattr(error, "remote_traceback", None)
        status = Status.FAILED if error else Status.DONE
        ret = None if error else value
        return Response(id, rank, "x", status, not error, ret, trace, "", "", 0.0, 0.0, 0.0, "node1", error)


@pytest.mark.parametrize(
    ("line", "cell", "expected"),
    [
        ("1 x + 1", None, (True, "1", "x + 1")),
        ("  1,2   x  ", None, (True, "1,2", "x")),
        ("1, 2 x", None, (True, "1,2", "x")),
        ("--async all x", None, (False, "all", "x")),
        ("--block --async all x", None, (False, "all", "x")),
        ("all", "  x = 1\n  x\n", (True, "all", "x = 1\nx")),
        ("--async 3", "x\n", (False, "3", "x")),
        ("all {'a': 1}", None, (True, "all", "{'a': 1}")),
    ],
)
def test_what_stands_behind_on(line: str, cell: str | None, expected: tuple[bool, str, str]) -> None:
    assert split_on(line, cell) == expected


@pytest.mark.parametrize(
    ("line", "cell", "words"),
    [
        ("", None, "needs a target"),
        ("all", None, "needs code"),
        ("all", " \n", "needs code"),
        ("all x", "y", "on the lines below"),
        ("--asinc all x", None, "did you mean --async"),
        ("--nowait all x", None, "It has --block"),
    ],
)
def test_a_wrong_line_says_what_is_wrong(line: str, cell: str | None, words: str) -> None:
    with pytest.raises(CommandArgumentError, match=words):
        split_on(line, cell)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("all", "all"),
        ("any", None),
        ("1", [1]),
        ("3,1,3", [3, 1]),
        ("1-3", [1, 2, 3]),
        ("node1", [1, 2]),
        ("node1.site.org,3", [1, 2, 3]),
        ("node-2", [3]),
        ("7", [7]),  # the client says that there is none
    ],
)
def test_targets(text: str, target: Any) -> None:
    assert parse_target(text, HOSTS) == target


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("al", "did you mean all"),
        ("nodel", "did you mean"),
        ("3-1", "no target"),
        ("1-99999999999", "no server 99999999999"),
        ("1,,2", "'' is no target"),
        ("x", r"ranks \(1-3\), or a host \(node1.site.org, node-2\)"),
    ],
)
def test_a_wrong_target_says_what_there_is(text: str, words: str) -> None:
    with pytest.raises(TargetError, match=words):
        parse_target(text, HOSTS)


def test_on_gives_the_values_with_their_servers() -> None:
    client = Servers({1: 10, 2: 20, 3: [30]})
    values = Magics(client).on("all x")
    assert values == [10, 20, [30]]
    assert repr(values) == "[1] 10\n[2] 20\n[3] [30]"
    assert client.pushed == [("x", "all")]
    assert Magics(client).on("any x") == [10]
    assert client.pushed[-1] == ("x", None)


def test_long_values_stand_beside_their_server() -> None:
    class Array:
        def __repr__(self) -> str:
            return "array([1,\n       2])"

    assert repr(Magics(Servers({3: Array()})).on("3 x")) == "[3] array([1,\n           2])"


def test_statements_and_a_semicolon_show_nothing() -> None:
    client = Servers({1: None})
    assert Magics(client).on("1 x = 1") is None
    assert Magics(Servers({1: 5})).on("1 x;") is None


def test_errors_that_are_alike_are_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    def error(number: int) -> CommandError:
        text = f'Traceback (most recent call last):\n  File "<command {number}>", line 1\nZeroDivisionError\n'
        return CommandError("request failed", server=1, remote_traceback=text)

    client = Servers({1: error(3), 2: 7, 3: error(4)})
    with pytest.raises(CommandError) as caught:
        Magics(client).on("all 1/x")
    assert str(caught.value).startswith("2 of 3 servers failed\n\nOn servers 1, 3:\nTraceback")
    assert str(caught.value).count("ZeroDivisionError") == 1
    assert capsys.readouterr().out == "[2] 7\n"
    single = error(1)
    with pytest.raises(CommandError) as caught:
        Magics(Servers({1: single})).on("1 1/x")
    assert caught.value is single


def test_async_and_results(capsys: pytest.CaptureFixture[str]) -> None:
    client = Servers({1: "a", 2: "b"})
    shell = Magics(client)
    assert shell.on("--async 1,2 x") is None
    assert "requests 11, 12;" in capsys.readouterr().out
    client.late = {12}
    assert shell.results() == ["a"]
    assert "not ended yet: request 12" in capsys.readouterr().out
    with pytest.raises(RequestError, match="no request 11 waits for %results; there is: 12"):
        shell.results("11")
    with pytest.raises(RequestError, match="'x' is no request id"):
        shell.results("x")
    assert shell.results("12") == ["b"]
    assert shell.results() is None


def test_interrupt() -> None:
    client = Servers()
    shell = Magics(client)
    for line in ("", "1,2", "all"):
        shell.interrupt(line)
    assert client.interrupted == ["all", [1, 2], "all"]
    with pytest.raises(TargetError):
        shell.interrupt("any")


def test_an_unknown_magic_names_the_nearest() -> None:
    with pytest.raises(CommandArgumentError, match="did you mean %servers"):
        Magics(Servers()).run("server", "")
    with pytest.raises(CommandArgumentError, match="takes no lines"):
        Magics(Servers()).run("servers", "", "x")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("%o", ["on"]),
        ("%", list(magics.NAMES)),
        ("%on ", ["1", "2", "3", "all", "any", "node1.site.org", "node-2"]),
        ("%on a", ["all", "any"]),
        ("%%on a", ["all", "any"]),
        ("%on 1,", ["2", "3"]),
        ("%on 1,2", ["2"]),
        ("%on node", ["node1.site.org", "node-2"]),
        ("%on --", ["--block", "--async"]),
        ("%on --async ", ["1", "2", "3", "all", "any", "node1.site.org", "node-2"]),
        ("%on 1 x", []),
        ("%on 1 ", []),
        ("%interrupt a", ["all"]),
        ("%servers ", []),
        ("%time ", []),
        ("x = 1", []),
    ],
)
def test_completion(line: str, words: list[str]) -> None:
    assert Magics(Servers()).complete(line) == words


# -- cells -----------------------------------------------------------------------------------------


def test_a_cell_gives_the_value_of_its_last_expression(monkeypatch: pytest.MonkeyPatch) -> None:
    main = SimpleNamespace()
    monkeypatch.setitem(__import__("sys").modules, "__main__", main)
    cell = cells.as_command("import math\nx = 3\nmath.sqrt(x * 12)")
    assert isinstance(cell, cells.Cell)
    assert cell() == 6.0
    assert main.x == 3


@pytest.mark.parametrize("source", ["x", "x = 1", "x = 1\nfor i in y: pass", "'a'\n"])
def test_what_needs_no_cell_stays_a_string(source: str) -> None:
    assert cells.as_command(source) == source
