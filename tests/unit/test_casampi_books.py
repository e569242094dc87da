"""The books of the client for casampi's scripts: requests, responses, and how long they are kept. No MPI."""

from __future__ import annotations

import gc
import pickle
import threading
import weakref
from typing import Any

import numpy as np
import pytest

from mpiframe.compat.casampi import _books
from mpiframe.compat.casampi._books import Books, Echo, Record, Response
from mpiframe.errors import CommandError, ServerLost
from mpiframe.messages import Request, Status


class Desk:
    """Books, and requests that end as a test says."""

    def __init__(self) -> None:
        self.books = Books()
        self.ended: list[int] = []

    def push(self, command: str = "1", parameters: Any = None, target: int | None = None) -> Record:
        id = self.books.next_id()
        request = Request(id=id, target=target, key=0, command=command, frame=())
        return self._add(id, command, parameters, request)

    def _add(self, id: int, command: str, parameters: Any, request: Any) -> Record:
        record = Record(id, command, parameters, "eval", request, self._ended, "server n# {}".format)
        self.books.add(record)
        return record

    def _ended(self, record: Record) -> None:
        self.ended.append(record.id)

    def answer(self, record: Record, value: Any = None, error: Any = None, server: int = 1) -> Record:
        request = record.request
        request.server, request.started_at, request.finished_at = server, 10.0, 12.5
        request.status = Status.DONE if error is None else Status.FAILED
        request.value, request.error = value, error
        request.ended = request.told = True
        record.settle(request)
        return record

    def end(self, record: Record, status: Status, server: int | None, error: Any) -> Record:
        request = record.request
        request.status, request.server, request.error = status, server, error
        request.ended = request.told = True
        record.settle(request)
        return record

    def done(self, value: Any = None) -> Record:
        return self.answer(self.push(), value)


@pytest.fixture
def desk() -> Desk:
    return Desk()


# -- requests -------------------------------------------------------------------------------------


def test_ids_are_consecutive_from_1(desk: Desk) -> None:
    assert [desk.push().id for _ in range(3)] == [1, 2, 3]
    assert [record.id for record in desk.books.records()] == [1, 2, 3]


def test_what_is_told_of_a_request(desk: Desk) -> None:
    record = desk.push("f(a)", {"a": 1}, target=2)
    row = {"command": "f(a)", "parameters": {"a": 1}, "mode": "eval", "id": 1, "server": 2}
    assert record.as_request() == row | {"status": "holding queue"}
    record.request.status, record.request.server = Status.SENT, 2
    assert record.as_request() == row | {"status": "request sent"}
    record.hung = True
    assert record.as_request() == row | {"status": "timeout"}
    record.hung = False
    desk.answer(record, Echo((True, 5, {"a": 1})), server=2)
    assert record.as_request() == row | {"status": "response received"}


def test_where_a_request_is(desk: Desk) -> None:
    record = desk.push()
    assert record.server is None
    record.request.server = 3
    assert record.server == 3


@pytest.mark.parametrize(
    ("status", "words"),
    [(Status.CANCELLED, "holding queue"), (Status.LOST, "timeout"), (Status.FAILED, "response received")],
)
def test_the_last_state_of_a_request(desk: Desk, status: Status, words: str) -> None:
    assert desk.end(desk.push(), status, None, ServerLost("x")).status == words


def test_who_listens_is_told_once(desk: Desk) -> None:
    record, heard = desk.push(), []
    record.listeners += [lambda: heard.append("a"), lambda: heard.append("b")]
    desk.answer(record)
    assert sorted(heard) == ["a", "b"]
    assert record.listeners == []
    assert desk.ended == [1]


# -- responses ------------------------------------------------------------------------------------


def test_a_good_response(desk: Desk) -> None:
    record = desk.answer(desk.push("f(a)", None, target=2), 42, server=2)
    assert record.respond() == {
        "command": "f(a)",
        "parameters": None,
        "mode": "eval",
        "id": 1,
        "server": 2,
        "status": "response received",
        "command_start_time": 10.0,
        "command_stop_time": 12.5,
        "successful": True,
        "traceback": None,
        "ret": 42,
    }
    assert record.respond() is record.respond()


def test_a_response_with_parameters(desk: Desk) -> None:
    """They come back as the server has them."""
    record = desk.answer(desk.push("f()", {"a": []}), Echo((True, 7, {"a": [1]})))
    response = record.respond()
    assert (response["ret"], response["parameters"]) == (7, {"a": [1]})
    assert (response["successful"], response["traceback"]) == (True, None)


def test_a_failure_with_parameters(desk: Desk) -> None:
    record = desk.answer(desk.push("f()", {"a": []}), Echo((False, "Traceback: no", {"a": [1]})))
    assert record.failure() == "Traceback: no"
    response = record.respond()
    assert (response["ret"], response["parameters"]) == (None, {"a": [1]})
    assert (response["successful"], response["traceback"]) == (False, "Traceback: no")
    assert response["command_stop_time"] == 12.5


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (CommandError("in short", request=1, server=1, host="h", remote_traceback="at length"), "at length"),
        (CommandError("in short", request=1, server=1, host="h", remote_traceback=None), "in short"),
        (ServerLost("lost"), "lost"),
    ],
)
def test_a_failure(desk: Desk, error: Any, text: str) -> None:
    record = desk.answer(desk.push(parameters={"a": 1}), error=error)
    response = record.respond()
    assert (response["successful"], response["ret"], response["traceback"]) == (False, None, text)
    assert response["parameters"] == {"a": 1}
    assert response["status"] == "response received"


def test_a_value_that_looks_like_an_echo_is_a_value(desk: Desk) -> None:
    value = (False, "not mine", {"a": 1})
    response = desk.answer(desk.push(), value).respond()
    assert (response["successful"], response["ret"], response["parameters"]) == (True, value, None)


def test_a_request_that_never_ran(desk: Desk) -> None:
    record = desk.end(desk.push(target=1), Status.CANCELLED, None, CommandError("cancelled"))
    response = record.respond()
    assert response["status"] == "holding queue"
    assert (response["successful"], response["ret"]) == (False, None)
    assert "never ran" in response["traceback"]
    assert not {"command_start_time", "command_stop_time"} & set(response)


@pytest.mark.parametrize(("server", "words"), [(2, "server n# 2. gone"), (None, "server. gone")])
def test_a_request_whose_server_is_lost(desk: Desk, server: int | None, words: str) -> None:
    response = desk.end(desk.push(), Status.LOST, server, ServerLost("gone")).respond()
    assert response["status"] == "timeout"
    assert response["traceback"] == f"Timeout of assigned {words}"
    assert not {"command_start_time", "command_stop_time"} & set(response)


def test_a_request_whose_server_hangs(desk: Desk) -> None:
    """Its response is good until the server comes to itself; then there is the true one."""
    record = desk.push("f()", {"a": 1}, target=2)
    record.hung = True
    response = desk.books.fetch(record)
    assert (response["status"], response["successful"], response["ret"]) == ("timeout", False, None)
    assert response["traceback"] == "Timeout of assigned server n# 2"
    assert response["parameters"] == {"a": 1}
    record.hung = False
    desk.answer(record, Echo((True, 5, {"a": 2})), server=2)
    assert desk.books.fetch(record)["ret"] == 5
    assert desk.books.fetch(record)["status"] == "response received"
    assert response["status"] == "timeout"


def test_a_response_can_be_copied_and_sent(desk: Desk) -> None:
    response = desk.done(5).respond()
    assert pickle.loads(pickle.dumps(response)) == response
    assert weakref.ref(response)() is response


class Slow:
    """A request whose error is asked for by one thread, while the others are let through."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self.asked, self.go_on = threading.Event(), threading.Event()

    def __getattr__(self, name: str) -> Any:
        if name == "error" and threading.current_thread() is not threading.main_thread():
            self.asked.set()
            self.go_on.wait(0.5)  # or the other thread may have to wait for this one
        return getattr(self._request, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("_request", "asked", "go_on"):
            object.__setattr__(self, name, value)
        else:
            setattr(self._request, name, value)


def both_fetch(desk: Desk) -> tuple[Any, Any]:
    """What two threads get that fetch the same response, one in the middle of the other."""
    record = desk.answer(desk.push("f()", {"a": 1}), Echo((True, 5, {"a": 2})))
    record.request = slow = Slow(record.request)  # type: ignore[assignment]
    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.append(desk.books.fetch(record)))
    thread.start()
    assert slow.asked.wait(10)
    mine = desk.books.fetch(record)
    slow.go_on.set()
    thread.join(10)
    return mine, got[0]


def test_threads_that_fetch_the_same_response_get_the_same(desk: Desk) -> None:
    mine, others = both_fetch(desk)
    assert (mine["ret"], mine["parameters"]) == (5, {"a": 2})
    assert others == mine
    assert desk.books.fetch(desk.books.records()[0]) == mine


def test_what_threads_fetch_at_once_is_let_go_of_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_books, "_KEPT", 2)
    both_fetch(desk)
    for number in range(5):
        assert desk.books.fetch(desk.done(number))["ret"] == number
    assert len(desk.books.records()) == 2


# -- finding --------------------------------------------------------------------------------------


def test_finding_by_id(desk: Desk) -> None:
    a, b = desk.push(), desk.push()
    assert desk.books.find([2, 1, 2]) == [b, a, b]
    assert desk.books.find([]) == []


@pytest.mark.parametrize("unknown", [0, 3, -1, "1", None, 1.5], ids=repr)
def test_finding_what_is_not_there(desk: Desk, unknown: Any) -> None:
    desk.push()
    desk.push()
    with pytest.raises(KeyError, match=f"there is no command request {unknown!r}; the last one is 2"):
        desk.books.find([1, unknown])


# -- keeping --------------------------------------------------------------------------------------


def ids(desk: Desk) -> list[int]:
    return [record.id for record in desk.books.records()]


def test_only_so_many_fetched_responses_are_kept(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_books, "_KEPT", 3)
    for number in range(10):
        desk.books.fetch(desk.done(number))
    assert ids(desk) == [8, 9, 10]
    assert [desk.books.fetch(r)["ret"] for r in desk.books.find([8, 10])] == [7, 9]  # type: ignore[arg-type]
    gc.collect()
    with pytest.raises(KeyError, match="command request 7 was fetched long ago and has been let go of"):
        desk.books.find([7])
    with pytest.raises(KeyError, match="there is no command request 11"):
        desk.books.find([11])


def test_the_order_of_fetching_counts(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_books, "_KEPT", 2)
    records = [desk.done(number) for number in range(4)]
    for index in (3, 0, 2):
        desk.books.fetch(records[index])
    assert ids(desk) == [1, 2, 3]  # 4 was fetched first; 2 never


def test_fetching_again_counts_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_books, "_KEPT", 2)
    a, b = desk.done(), desk.done()
    for _ in range(5):
        desk.books.fetch(a)
        desk.books.fetch(b)
    assert ids(desk) == [1, 2]


def test_what_was_not_fetched_is_kept(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_books, "_KEPT", 1)
    for _ in range(5):
        desk.done()
    hung = desk.push()
    hung.hung = True
    for _ in range(3):
        desk.books.fetch(hung)
    desk.books.fetch(desk.done())
    desk.books.fetch(desk.done())
    assert ids(desk) == [1, 2, 3, 4, 5, 6, 8]


def test_only_so_many_bytes_are_kept(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_books, "_KEPT_BYTES", 100_000)
    for _ in range(4):
        desk.books.fetch(desk.done(bytes(30_000)))
    assert ids(desk) == [2, 3, 4]
    desk.books.fetch(desk.done(bytes(95_000)))
    assert ids(desk) == [5]
    desk.books.fetch(desk.done(bytes(300_000)))
    assert ids(desk) == [6]  # the last one stays, however large it is
    desk.books.fetch(desk.done(b""))
    assert ids(desk) == [7]


def test_parameters_count_as_bytes(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_books, "_KEPT_BYTES", 100_000)
    for _ in range(3):
        desk.books.fetch(desk.answer(desk.push("f()", {"a": 1}), Echo((True, None, {"a": bytes(60_000)}))))
    assert ids(desk) == [3]


def test_what_somebody_holds_can_be_fetched_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_books, "_KEPT", 1)
    held = desk.books.fetch(desk.done("held"))
    for _ in range(3):
        desk.books.fetch(desk.done())
    assert desk.books.find([1, 1]) == [held, held]
    assert isinstance(held, Response)
    del held
    gc.collect()
    with pytest.raises(KeyError, match="let go of"):
        desk.books.find([1])


@pytest.mark.parametrize(
    ("value", "least", "most"),
    [
        (bytes(5000), 5000, 5200),
        (np.zeros(1000), 8000, 8000),
        ([np.zeros(1000)] * 3, 24_000, 24_000),
        ({"a": np.zeros(1000), "b": bytes(5000)}, 13_000, 13_200),
        ((bytes(1000),) * 100_000, 100_000_000, 110_000_000),
        ({bytes([n]) * 1000 for n in range(10)}, 10_000, 11_000),
        ([], 0, 100),
        ({}, 0, 100),
        (None, 1, 100),
        (5, 1, 100),
    ],
    ids=["bytes", "array", "arrays", "dict", "a long tuple", "set", "no list", "no dict", "None", "int"],
)
def test_about_how_large_a_value_is(value: Any, least: int, most: int) -> None:
    assert least <= _books._size(value) <= most
