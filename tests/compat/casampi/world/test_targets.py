"""Which server gets a request, and when."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest


def done(client: Any, ids: list[int]) -> list[int]:
    """Those that have ended."""
    return [response["id"] for response in client.get_command_response(ids, False)]


@pytest.mark.parametrize(
    "target",
    [
        (1,),
        (),
        [],
        np.int64(1),
        [np.int64(1)],
        "all",
        "1",
        ["1"],
        0,
        [0],
        -1,
        99,
        True,
        False,
        [True],
        1.0,
        [1, 99],
        [1, None],
        [[1]],
        {1},
        {1: 1},
        range(1, 2),
    ],
    ids=repr,
)
def test_what_is_no_target_is_refused(client: Any, caplog: Any, target: Any) -> None:
    """One bad element refuses them all; None and no exception; the log says why."""
    known = set(client.get_command_request_list())
    for block in (True, False):
        caplog.clear()
        assert client.push_command_request("1", block, target) is None
        assert [(r.name, r.levelname) for r in caplog.records] == [("mpiframe.casampi", "ERROR")]
        assert f"target_server={target!r}" in caplog.text
    assert set(client.get_command_request_list()) == known


def test_a_duplicate_is_a_request_of_its_own(client: Any) -> None:
    client.push_command_request("count = 0", True, 1)
    client.push_command_request("count += 1", True, [1, 1, 1])
    responses = client.push_command_request("count", True, [1, 1])
    assert [r["ret"] for r in responses] == [3, 3]
    assert [r["server"] for r in responses] == [1, 1]
    assert responses[0]["id"] + 1 == responses[1]["id"]


@pytest.mark.servers(2)
def test_responses_have_the_order_of_the_targets(client: Any, servers: list[int]) -> None:
    backwards = servers[::-1]
    command = "MPIEnvironment.mpi_processor_rank"
    responses = client.push_command_request(command, True, backwards)
    assert [r["ret"] for r in responses] == backwards
    ids = client.push_command_request(command, False, backwards)
    assert [r["ret"] for r in client.get_command_response(ids, True)] == backwards
    assert [r["ret"] for r in client.get_command_response(ids[::-1], True)] == servers


def test_the_highest_free_rank_comes_first(
    client: Any, servers: list[int], gates: Callable[[], Any], until: Any
) -> None:
    """One after the other, until none is free; then a request waits for the first that is."""
    made = [gates() for _ in servers]
    ids = [client.push_command_request(gate.command)[0] for gate in made]
    requests = client.get_command_request_list()
    assert [requests[id]["server"] for id in ids] == servers[::-1]
    (waiting,) = client.push_command_request("MPIEnvironment.mpi_processor_rank")
    request = client.get_command_request_list()[waiting]
    assert (request["server"], request["status"]) == (None, "holding queue")
    made[-1].open()  # which is on server 1
    (response,) = client.get_command_response(waiting, True)
    assert (response["ret"], response["server"]) == (1, 1)
    for gate in made:
        gate.open()
    responses = client.get_command_response(ids, True)
    assert [r["server"] for r in responses] == servers[::-1]


def test_requests_for_one_server_keep_their_order(client: Any, busy: int, gate: Any) -> None:
    client.push_command_request("seen = []", False, 1)
    ids = []
    for number in range(40):
        parameters = {"number": number} if number % 2 else None
        command = "seen.append(number)" if number % 2 else f"seen.append({number})"
        ids += client.push_command_request(command, False, 1, parameters)
    last = client.push_command_request("seen", False, 1)
    assert done(client, [*ids, *last]) == []
    gate.open()
    assert client.get_command_response(last, True)[0]["ret"] == list(range(40))
    assert done(client, ids) == ids
    client.get_command_response(busy, True)


@pytest.mark.servers(2)
def test_a_busy_server_among_the_targets(client: Any, servers: list[int], busy: int, gate: Any) -> None:
    """The others do their part; who asks for what is finished gets that."""
    ids = client.push_command_request("MPIEnvironment.mpi_processor_rank", False, servers)
    others = client.get_command_response(ids[1:], True)
    assert [r["ret"] for r in others] == servers[1:]
    assert done(client, ids) == ids[1:]
    requests = client.get_command_request_list()
    assert [requests[id]["status"] for id in ids] == ["holding queue"] + ["response received"] * len(others)
    assert requests[busy]["status"] == "request sent"
    assert requests[ids[0]]["server"] == 1
    gate.open()
    assert [r["ret"] for r in client.get_command_response(ids, True)] == servers


@pytest.mark.servers(2)
def test_requests_for_no_server_overtake_those_that_wait(client: Any, busy: int, gate: Any) -> None:
    held = client.push_command_request("'held'", False, 1)
    for number in range(20):
        (response,) = client.push_command_request(f"{number}", True)
        assert response["ret"] == number
        assert response["server"] != 1
    assert done(client, held) == []
    gate.open()
    assert client.get_command_response(held, True)[0]["ret"] == "held"
    client.get_command_response(busy, True)


@pytest.mark.servers(2)
def test_nothing_waits_behind_a_long_command_while_a_server_is_free(
    client: Any, servers: list[int], gates: Callable[[], Any], until: Any
) -> None:
    """However many short ones with parameters there were before it."""
    for _ in range(300):
        client.push_command_request("a", True, servers, {"a": 1})
    before = [gates() for _ in servers]
    firsts = [client.push_command_request(gate.command)[0] for gate in before]
    long = gates()
    (long_id,) = client.push_command_request(long.command, parameters={"a": 1})
    shorts = [client.push_command_request("a + 1", parameters={"a": n})[0] for n in range(5)]
    before[0].open()
    until(long.begun)
    for gate in before:
        gate.open()
    client.get_command_response(firsts, True)
    try:
        until(lambda: done(client, shorts) == shorts)
    finally:
        long.open()
    assert client.get_command_response([long_id], True)[0]["successful"]
