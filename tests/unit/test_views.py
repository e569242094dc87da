"""How the client's answers look: the table of servers, responses and futures, as text and as HTML."""

from __future__ import annotations

import re
from typing import Any

import pytest

from mpiframe.answers import CommandFuture
from mpiframe.errors import CommandError
from mpiframe.messages import Request, Response, ServerInfo, Status
from mpiframe.views import ServerTable


def table(count: int = 3, host: str = "node17.cluster.example.org") -> ServerTable:
    states = ["idle", "busy", "unresponsive", "lost", "starting"]
    rows = [
        ServerInfo(rank, host, 40_000 + rank, states[(rank - 1) % 5], rank, 1000 + rank, 12.34, 300 << 20)
        for rank in range(1, count + 1)
    ]
    rows.append(ServerInfo(count + 1, host, 50_000, "lost", 0, None, None, None))
    return ServerTable(rows)


# -- the table -------------------------------------------------------------------------------------


def test_a_wide_table_has_all_columns() -> None:
    lines = table().text(200).splitlines()
    assert lines[0].split() == ["rank", "host", "pid", "state", "queued", "running", "cpu", "rss"]
    assert lines[1].split() == (
        ["1", "node17.cluster.example.org", "40001", "idle", "1", "1001", "12.3", "s", "300", "MiB"]
    )
    assert lines[-1].split()[-3:] == ["-", "-", "-"]


@pytest.mark.parametrize("width", [40, 44, 50, 60, 72, 80, 120])
@pytest.mark.parametrize("host", ["vm", "node17", "node17.cluster.example.org"])
def test_a_narrow_table_keeps_what_matters(width: int, host: str) -> None:
    lines = table(host=host).text(width).splitlines()
    assert max(map(len, lines)) <= width
    assert len(lines) == 5
    head = lines[0].split()
    assert {"rank", "state", "queued", "running"} <= set(head)
    assert all("unresponsive" in line for line in lines if line.startswith("3 "))
    assert "host" in head or width == 40


def test_the_table_prints_as_wide_as_the_terminal_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert max(map(len, str(table()).splitlines())) <= 40
    assert repr(table()) == str(table())
    monkeypatch.setenv("COLUMNS", "200")
    assert "rss" in str(table())
    assert str(ServerTable()).split()[0] == "rank"


def test_the_html_of_the_table_is_escaped() -> None:
    text = table(host="<img src=x onerror=alert(1)>")._repr_html_()
    assert "<img" not in text
    assert "&lt;img" in text
    assert text.count("<tr>") == 5
    assert re.search(r'color:#b00">&#9679;</span> lost', text)


# -- responses -------------------------------------------------------------------------------------


def response(**changes: Any) -> Response:
    values: dict[str, Any] = {
        "id": 7,
        "server": 2,
        "command": "x.mean()",
        "status": Status.DONE,
        "successful": True,
        "ret": 2.5,
        "traceback": None,
        "stdout": "",
        "stderr": "",
        "queued_at": 99.0,
        "started_at": 100.0,
        "finished_at": 100.25,
        "host": "node17",
    }
    return Response(**values | changes)


def test_a_response_says_in_a_line_what_became_of_it() -> None:
    assert repr(response()) == "<Response 7: done on server 2 in 250 ms, ret=2.5>"
    assert repr(response(ret=None, finished_at=100.0000421)) == "<Response 7: done on server 2 in 42.1 us>"
    long = repr(response(ret="x" * 10_000, stdout="one\ntwo\n"))
    assert len(long) < 200
    assert r"stdout='one\ntwo\n'" in long
    trace = "Traceback (most recent call last):\n  File ...\nZeroDivisionError: division by zero\n"
    failed = response(ret=None, successful=False, status=Status.FAILED, traceback=trace)
    assert repr(failed).endswith("failed on server 2 in 250 ms, error=ZeroDivisionError: division by zero>")
    lost = response(ret=None, server=None, status=Status.CANCELLED, started_at=None, finished_at=None)
    assert repr(lost) == "<Response 7: cancelled>"
    assert lost.seconds is None
    assert response().seconds == 0.25


def test_the_html_of_a_response_shows_all_of_it_escaped() -> None:
    text = response(command="a < b", ret="<b>", stdout="out & more\n", stderr="err", host="<h>")._repr_html_()
    assert "a &lt; b" in text
    assert "&#x27;&lt;b&gt;&#x27;" in text
    assert "out &amp; more" in text
    assert "<h>" not in text
    assert "#2a7" in text
    failed = response(ret=None, successful=False, status=Status.FAILED, traceback="Trace<back>")
    assert "Trace&lt;back&gt;" in failed._repr_html_()
    assert "#b00" in failed._repr_html_()


def test_what_cannot_be_shown_or_is_endless_harms_nothing() -> None:
    class Bad:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    assert "Bad whose repr raised RuntimeError" in repr(response(ret=Bad()))
    assert "whose repr raised" in response(ret=Bad())._repr_html_()
    text = response(stdout="x" * 10**6)._repr_html_()
    assert len(text) < 30_000
    assert "980,000 characters left out here" in text


# -- futures ---------------------------------------------------------------------------------------


def test_a_future_says_what_it_waits_for() -> None:
    request = Request(12, None, 1, abs, ())
    future = CommandFuture(None, request)  # type: ignore[arg-type]
    assert repr(future) == "<CommandFuture of request 12 (abs): pending>"
    request.server = 3
    assert repr(future) == "<CommandFuture of request 12 (abs): sent to server 3>"
    assert not future._asked  # to look at it costs nothing later
    request.status, request.value = Status.DONE, [1]
    future.settle(request)
    assert repr(future) == "<CommandFuture: returned list>"
    failed = CommandFuture(None, Request(13, 1, 1, "1/0", ()))  # type: ignore[arg-type]
    failed.set_exception(CommandError("it failed"))
    assert repr(failed) == "<CommandFuture of request 13 (1/0): CommandError>"
