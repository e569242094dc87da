"""Getting responses: by which ids, in which order, how often; and lists of what there was."""

from __future__ import annotations

import pickle
import threading
from typing import Any

import pytest

from mpiframe.compat.casampi import _books


@pytest.fixture
def ids(client: Any) -> list[int]:
    """Of three requests that return 10, 11 and 12."""
    return [client.push_command_request(str(10 + n), False, 1)[0] for n in range(3)]


def rets(responses: list[Any]) -> list[Any]:
    return [response["ret"] for response in responses]


def test_ids_in_every_form(client: Any, ids: list[int]) -> None:
    """A flat list, and lists in a list, as they come out of pushes that do not block; or one."""
    a, b, c = ids
    assert rets(client.get_command_response([a, b, c], True)) == [10, 11, 12]
    assert rets(client.get_command_response([[a], [b], [c]], True)) == [10, 11, 12]
    assert rets(client.get_command_response([[a, b], [c]], True)) == [10, 11, 12]
    assert rets(client.get_command_response([a, [b, [c]]], True)) == [10, 11, 12]
    assert rets(client.get_command_response((a, (b, c)), True)) == [10, 11, 12]
    assert rets(client.get_command_response(b, True)) == [11]
    assert rets(client.get_command_response([], True)) == []
    assert rets(client.get_command_response([[]], False)) == []


def test_responses_come_in_the_order_asked_as_often_as_asked(client: Any, ids: list[int]) -> None:
    a, b, c = ids
    for _ in range(3):
        assert rets(client.get_command_response([c, a, b], True)) == [12, 10, 11]
    assert rets(client.get_command_response([b, b, a, b], True)) == [11, 11, 10, 11]
    assert rets(client.get_command_response([c, a], False)) == [12, 10]
    assert rets(client.get_command_response([c, a], True, False)) == [12, 10]
    assert rets(client.get_command_response([c], block=True, verbose=True)) == [12]
    by_name = client.get_command_response(command_request_id_list=[a], block=True)
    assert rets(by_name) == [10]


def test_without_block_there_are_only_those_that_have_ended(client: Any, busy: int, gate: Any) -> None:
    (late,) = client.push_command_request("'late'", False, 1)
    assert client.get_command_response([busy, late], False) == []
    assert client.get_command_response([[busy], [late]]) == []
    gate.open()
    assert rets(client.get_command_response([late, busy], True)) == ["late", None]
    assert rets(client.get_command_response([late, busy], False)) == ["late", None]


@pytest.mark.parametrize("unknown", [0, -1, 10**9, "x", None, 1.5], ids=repr)
@pytest.mark.parametrize("block", [True, False])
def test_an_unknown_id_is_an_error(client: Any, ids: list[int], unknown: Any, block: bool) -> None:
    for asked in ([unknown], [ids[0], unknown], [[ids[0]], [unknown]]):
        with pytest.raises(KeyError, match="no command request"):
            client.get_command_response(asked, block)
    with pytest.raises(KeyError):
        client.get_command_response_event([unknown])
    with pytest.raises(KeyError):
        client.wait_for_command_request_sent([unknown])
    assert rets(client.get_command_response(ids, True)) == [10, 11, 12]


def test_a_response_is_a_dict_like_any_other(client: Any) -> None:
    (response,) = client.push_command_request("a", True, 1, {"a": [1]})
    assert isinstance(response, dict)
    assert pickle.loads(pickle.dumps(response)) == response
    assert dict(response) == response.copy() == response


def test_threads_that_wait_for_one_response(client: Any, busy: int, gate: Any) -> None:
    (id,) = client.push_command_request("a", False, 1, {"a": "word"})
    got: list[Any] = []
    threads = [
        threading.Thread(target=lambda: got.extend(client.get_command_response([busy, id], True)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    gate.open()
    for thread in threads:
        thread.join()
    assert rets(got) == [None, "word"] * 8
    assert [r["parameters"] for r in got] == [None, {"a": "word"}] * 8


# -- events ---------------------------------------------------------------------------------------


def test_an_event_that_is_made_before_the_end(client: Any, busy: int, gate: Any) -> None:
    ids = client.push_command_request("1", False, [1, 1])
    quick, slow = client.get_command_response_event([[busy], ids]), client.get_command_response_event(busy)
    assert isinstance(quick, threading.Event)
    assert not quick.is_set()
    assert not slow.is_set()
    gate.open()
    assert slow.wait(20)
    assert quick.wait(20)
    assert rets(client.get_command_response(ids, False)) == [1, 1]


@pytest.mark.servers(2)
def test_an_event_waits_for_the_last_one(client: Any, busy: int, gate: Any) -> None:
    (other,) = client.push_command_request("1", False, 2)
    both = client.get_command_response_event([other, busy, other])
    client.get_command_response(other, True)
    assert client.get_command_response_event(other).wait(20)
    assert not both.is_set()
    gate.open()
    assert both.wait(20)


def test_an_event_that_is_made_after_the_end_is_set(client: Any, ids: list[int]) -> None:
    """In the original it never is."""
    client.get_command_response(ids, True)
    assert client.get_command_response_event(ids).is_set()
    assert client.get_command_response_event(ids[0]).is_set()
    assert client.get_command_response_event([]).is_set()


def test_events_while_responses_arrive(client: Any, servers: list[int]) -> None:
    """Made at every moment of a request's life, all are set."""
    for _ in range(100):
        ids = client.push_command_request("1", False, servers)
        assert client.get_command_response_event(ids).wait(20)
        assert len(client.get_command_response(ids, False)) == len(ids)


def test_an_event_tells_of_a_failure_too(client: Any) -> None:
    ids = client.push_command_request("1 / 0", False, 1)
    assert client.get_command_response_event(ids).wait(20)
    assert client.get_command_response(ids)[0]["successful"] is False


# -- what is known of requests --------------------------------------------------------------------


def test_the_list_of_requests(client: Any, busy: int, gate: Any) -> None:
    (held,) = client.push_command_request("a", False, 1, {"a": [1]})
    (push,) = client.push_command_request("push", False, 1, {"b": 2})
    running = {"command": gate.command, "parameters": None, "mode": "exec", "id": busy, "server": 1}
    waiting = {"command": "a", "parameters": {"a": [1]}, "mode": "eval", "id": held, "server": 1}
    pushed = {"command": "push", "parameters": {"b": 2}, "mode": "push", "id": push, "server": 1}
    requests = client.get_command_request_list()
    assert requests[busy] == running | {"status": "request sent"}
    assert requests[held] == waiting | {"status": "holding queue"}
    assert requests[push] == pushed | {"status": "holding queue"}
    assert list(requests) == sorted(requests)
    gate.open()
    client.get_command_response_event([busy, held, push]).wait(20)
    for ended in (running, waiting, pushed):
        request = client.get_command_request_list()[ended["id"]]
        assert request == ended | {"status": "response received"}


def test_the_list_of_requests_keeps_the_parameters(client: Any) -> None:
    """Once the response has been fetched, too."""
    (response,) = client.push_command_request("a", True, 1, {"a": [1]})
    assert client.get_command_request_list()[response["id"]]["parameters"] == {"a": [1]}


def test_the_list_of_responses(client: Any, gate: Any, until: Any) -> None:
    (response,) = client.push_command_request("a", True, 1, {"a": 1})
    (running,) = client.push_command_request(gate.command, False, 1)
    until(gate.begun)
    listed = client.get_command_response_list()
    assert listed[response["id"]] == response
    assert running not in listed
    gate.open()
    client.get_command_response_event(running).wait(20)
    assert client.get_command_response_list()[running]["successful"] is True  # before anybody fetched it
    assert client.get_command_response_list()[running] == client.get_command_response(running)[0]


def test_waiting_until_requests_are_sent(client: Any, busy: int, gate: Any) -> None:
    client.wait_for_command_request_sent(busy)
    client.wait_for_command_request_sent([[busy]])
    held = client.push_command_request("'held'", False, [1, 1])
    seen: list[Any] = []

    def wait() -> None:
        client.wait_for_command_request_sent(held)
        seen.extend(client.get_command_request_list()[id]["status"] for id in held)

    thread = threading.Thread(target=wait)
    thread.start()
    thread.join(0.1)  # not to wait for something: this long nothing may happen
    assert thread.is_alive()
    gate.open()
    thread.join(20)
    assert len(seen) == 2
    assert "holding queue" not in seen
    assert rets(client.get_command_response(held, True)) == ["held", "held"]
    client.wait_for_command_request_sent(held)


# -- handles --------------------------------------------------------------------------------------


def test_every_client_is_a_handle_on_the_same_services(client: Any, ids: list[int]) -> None:
    from casampi.MPICommandClient import MPICommandClient

    other = MPICommandClient()
    assert other.get_lifecyle_state() == client.get_lifecyle_state() == 1
    assert rets(other.get_command_response(ids, True)) == [10, 11, 12]
    (id,) = other.push_command_request("13")
    assert id == ids[-1] + 1
    del other
    assert rets(client.get_command_response([id], True)) == [13]
    third = MPICommandClient(start_services=True)
    third.start_services()
    assert third.get_lifecyle_state() == 1
    assert third.get_command_request_list() == client.get_command_request_list()


def test_responses_of_long_ago_are_let_go_of(client: Any, ids: list[int], monkeypatch: Any) -> None:
    """Those that were fetched, when many came after them; the text of the error says so."""
    monkeypatch.setattr(_books, "_KEPT", 20)
    held, gone, unfetched = ids
    (mine,) = client.get_command_response(held, True)
    client.get_command_response(gone, True)
    later = [client.push_command_request("0", False, 1)[0] for _ in range(30)]
    client.get_command_response(later, True)
    assert client.get_command_response([held, held], True) == [mine, mine]
    with pytest.raises(KeyError, match="let go"):
        client.get_command_response([gone], True)
    with pytest.raises(KeyError, match="let go"):
        client.get_command_response_event(gone)
    assert client.get_command_response_event([held]).is_set()
    client.wait_for_command_request_sent([held])
    assert rets(client.get_command_response([unfetched, later[-1]], True)) == [12, 0]
    assert not {held, gone} & set(client.get_command_request_list())
