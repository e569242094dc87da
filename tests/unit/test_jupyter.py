"""Which cell a line of a server belongs to; with doubles of a kernel's streams and events, not Jupyter."""

from __future__ import annotations

import sys
import threading
from collections import defaultdict
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any

import pytest

from mpiframe.errors import WorldError
from mpiframe.output import STDERR, STDOUT, Printer
from mpiframe.shell import jupyter


class Stream:
    """As ipykernel's: each thread prints for the message that it has in its context, or for the last one."""

    def __init__(self) -> None:
        self._parent_header: ContextVar[Any] = ContextVar("parent_header")
        self.last: Any = {}
        self.texts: dict[str, str] = defaultdict(str)
        self.flushed = 0

    @property
    def parent_header(self) -> Any:
        return self._parent_header.get(self.last)

    def run_cell(self, name: str) -> None:
        self.last = {"msg_id": name}
        self._parent_header.set(self.last)

    def write(self, text: str) -> int:
        self.texts[self.parent_header["msg_id"]] += text
        return len(text)

    def flush(self) -> None:
        self.flushed += 1


class Notebook:
    """A client, and the kernel it is in."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.out, self.err = Stream(), Stream()
        self._monkeypatch = monkeypatch
        self.loop = SimpleNamespace(last_id=0)
        self.client = SimpleNamespace(_loop=self.loop, _closed=False)
        self.events: dict[str, Any] = {}
        shell = SimpleNamespace(events=self)
        self.take_over("first")
        self.cells = jupyter._Cells(self.client, shell)
        self.printer = Printer("redirect")
        self.printer.find_stream = self.cells.find_stream

    def register(self, name: str, function: Any) -> None:
        self.events[name] = function

    def unregister(self, name: str, function: Any) -> None:
        assert self.events.pop(name) == function

    def take_over(self, name: str) -> None:
        self._monkeypatch.setattr(sys, "stdout", self.out)
        self._monkeypatch.setattr(sys, "stderr", self.err)
        self.out.run_cell(name)
        self.err.run_cell(name)

    def run_cell(self, name: str, pushes: int) -> range:
        """Run a cell that pushes so many commands; their ids."""
        self.take_over(name)
        if "pre_run_cell" in self.events:
            self.events["pre_run_cell"](None)
        first = self.loop.last_id + 1
        self.loop.last_id += pushes
        return range(first, first + pushes)

    def printed(self, request: int, text: str = "x\n", stream: int = STDOUT) -> None:
        """A server prints; another thread hears of it."""
        thread = threading.Thread(target=self.printer.feed, args=(1, request, [(stream, text)]))
        thread.start()
        thread.join()


def test_a_line_goes_below_the_cell_that_pushed_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = Notebook(monkeypatch)
    one = notebook.run_cell("one", 2)
    notebook.run_cell("nothing", 0)
    two = notebook.run_cell("two", 1)
    notebook.run_cell("three", 0)
    for request in (*one, *two):
        notebook.printed(request)
    notebook.printed(one[1], "wrong\n", STDERR)
    assert notebook.out.texts == {
        "one": "[server 1 #1] x\n[server 1 #2] x\n",
        "two": "[server 1 #3] x\n",
    }
    assert notebook.err.texts == {"one": "[server 1 #2] wrong\n"}
    assert notebook.out.parent_header == {"msg_id": "three"}  # the cell's own thread prints as before
    assert notebook.out.flushed == 0


def test_the_cell_that_made_the_client_may_push_and_print_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = Notebook(monkeypatch)
    notebook.loop.last_id = 1
    notebook.printed(1)
    assert notebook.out.texts == {"first": "[server 1 #1] x\n"}


def test_what_no_request_has_caused_goes_to_the_last_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = Notebook(monkeypatch)
    notebook.run_cell("one", 5)
    notebook.run_cell("two", 5)
    notebook.printed(0)
    notebook.printed(-3)
    assert set(notebook.out.texts) == {"two"}


def test_cells_of_long_ago_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jupyter, "_KEPT", 3)
    notebook = Notebook(monkeypatch)
    for number in range(10):
        notebook.run_cell(f"cell {number}", 1)
    assert len(notebook.cells._firsts) == len(notebook.cells._headers) == 3
    notebook.printed(1)
    notebook.printed(9)
    assert set(notebook.out.texts) == {"cell 9", "cell 8"}


def test_a_client_that_is_closed_is_let_go_of(monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = Notebook(monkeypatch)
    notebook.client._closed = True
    notebook.run_cell("after", 0)
    assert notebook.events == {}


def test_streams_that_are_no_kernels_are_printed_to_as_ever(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    notebook = Notebook(monkeypatch)
    monkeypatch.undo()
    notebook.printer.feed(1, 1, [(STDOUT, "plain\n")])
    assert capsys.readouterr().out == "[server 1 #1] plain\n"


def test_without_ipython_nobody_is_welcomed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jupyter, "running_ipython", lambda: None)
    jupyter.welcome(object())


def test_without_a_client_the_magics_say_how_to_get_one() -> None:
    with pytest.raises(WorldError, match=r"mpiframe\.launch\(4\)"):
        jupyter._NoClient().servers  # noqa: B018 - asking is the test
    assert not hasattr(jupyter._NoClient(), "_private")
