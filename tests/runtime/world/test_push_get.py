"""Strings and callables by `push`; responses by `get`."""

from __future__ import annotations

import os
import socket
import time

import numpy as np
import pytest

import mpiframe

pytestmark = pytest.mark.timeout(60)


def where() -> tuple[str, int]:
    return socket.gethostname(), os.getpid()


@pytest.mark.smoke
def test_an_expression_is_evaluated(client):
    before = time.time()
    id = client.push("6 * 7", target=1)
    assert isinstance(id, int)
    (response,) = client.get(id)
    assert isinstance(response, mpiframe.Response)
    assert (response.id, response.server, response.command) == (id, 1, "6 * 7")
    assert (response.status, response.successful, response.ret) == ("done", True, 42)
    assert (response.traceback, response.stdout, response.stderr) == (None, "", "")
    assert response.host == socket.gethostname()
    assert before <= response.queued_at <= response.started_at <= response.finished_at
    assert response.finished_at <= time.time()
    assert response.result() == 42


@pytest.mark.smoke
def test_all_servers_answer_in_target_order(client, servers):
    turned = servers[::-1]
    ids = client.push("__name__", target=turned)
    assert ids == sorted(ids)
    responses = client.get(ids)
    assert [r.server for r in responses] == turned
    assert [r.ret for r in responses] == ["__main__"] * len(servers)
    hosts_and_pids = {r.ret for r in client.push(where, target="all", block=True)}
    assert len(hosts_and_pids) == len(servers)


@pytest.mark.parametrize("many", [tuple, np.array, lambda r: range(1, len(r) + 1), iter])
def test_what_names_several_servers(client, servers, many):
    responses = client.push("1", target=many(servers), block=True)
    assert [r.server for r in responses] == servers


@pytest.mark.parametrize("one", [1, np.int64(1), np.uint8(1), np.array([1])[0]])
def test_what_names_one_server(client, one):
    id = client.push("1", target=one)
    assert isinstance(id, int)
    assert client.get(id)[0].server == 1


def test_no_target_is_the_first_free_server(client, servers):
    id = client.push("1")
    assert isinstance(id, int)
    assert client.get([id])[0].server in servers


def test_get_keeps_the_order_asked(client, servers):
    ids = [client.push(f"{i}", target=servers[i % len(servers)]) for i in range(20)]
    wanted = ids[::-1]
    assert [r.ret for r in client.get(wanted, block=True)] == list(range(20))[::-1]


def test_get_takes_the_lists_that_push_returned(client, servers):
    lists = [client.push(f"{i}", target="all") for i in range(3)]
    assert len(client.get(lists)) == 3 * len(servers)


def test_get_without_blocking_gives_the_finished_ones(client, gate, until):
    first = client.push("'first'", target=1)
    last = client.push(gate.command, target=1, parameters=gate.parameters)
    found = []
    until(lambda: found.extend(client.get([r for r in (first, last) if not found], False)) or found)
    assert [r.ret for r in found] == ["first"]
    assert client.get(last, block=False) == []
    gate.open()
    assert client.get(last)[0].successful


def test_get_with_a_time_out_fetches_nothing(client, gate, busy):
    quick = client.push("1", target=1)
    with pytest.raises(mpiframe.CommandTimeout, match=rf"request {busy}\b.*server 1") as caught:
        client.get([busy, quick], timeout=0.05)
    assert isinstance(caught.value, TimeoutError)
    gate.open()
    assert [r.successful for r in client.get([busy, quick])] == [True, True]


def test_a_response_can_be_had_once(client):
    (response,) = client.push("1", block=True, target=1)
    twice = client.push("1", target=1)
    with pytest.raises(mpiframe.RequestError, match="twice"):
        client.get([twice, twice])
    assert client.get(twice)[0].ret == 1
    for id in (response.id, twice):
        for verb in (client.get, client.cancel):
            with pytest.raises(mpiframe.RequestError, match="fetched before"):
                verb(id)


def test_push_that_blocks_with_a_time_out(client, gate):
    with pytest.raises(mpiframe.CommandTimeout):
        client.push(gate.command, 1, block=True, parameters=gate.parameters, timeout=0.05)
    gate.open()


def test_a_failure_is_a_response_and_raises_when_asked(client):
    (response,) = client.push("x = 1\ny = x / 0\n", target=1, block=True)
    assert not response.successful
    assert (response.status, response.ret) == ("failed", None)
    assert "ZeroDivisionError" in response.traceback
    assert "y = x / 0" in response.traceback
    with pytest.raises(mpiframe.CommandError, match="server 1") as caught:
        response.result()
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert (caught.value.request, caught.value.server) == (response.id, 1)


def test_commands_start_in_the_order_they_were_pushed(client):
    client.push("order = []", target=1)
    for i in range(500):
        if i % 3 == 0:
            client.push("order.append(i)", target=1, parameters={"i": i})
        elif i % 3 == 1:
            client.push(f"order.append({i})", target=1)
        else:
            client.push(f"order += [{i}]", target=1)
    assert client.push("order", target=1, block=True)[0].ret == list(range(500))


def test_state_lasts_and_is_the_servers_own(client, servers):
    client.push("import math\nmine = own * 2", target=1, parameters={"own": 21})
    assert client.push("math.floor(mine + 0.5)", target=1, block=True)[0].ret == 42
    for server in servers[1:]:
        assert client.push("'mine' in globals()", server, block=True)[0].ret is False
    client.push("del mine", target=1, block=True)


def test_parameters_last_for_one_command(client):
    client.push("kept = 1", target=1)
    parameters = {"time": 1, "os": "2", "kept": 3, "len_": [4], "self": 5}
    (response,) = client.push("(time, os, kept, len_, self)", 1, True, parameters)
    assert response.ret == (1, "2", 3, [4], 5)
    assert client.push("kept", target=1, block=True)[0].ret == 1
    assert client.push("'self' in globals()", target=1, block=True)[0].ret is False
    assert client.push("bound = 1 + p", 1, True, {"p": 1, "bound": 0})[0].successful
    assert client.push("bound", target=1, block=True)[0].ret == 2


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("  1 + 1", 2),
        ("1 + 1\n", 2),
        ("(1 +\n 1)", 2),
        ("x = 3", None),
        ("x = 3; x", None),
        ("", None),
        ("# nothing", None),
        ("    x = 4\n    y = x\n", None),
        ("[i for i in range(3) if (lambda n: n != 1)(i)]", [0, 2]),
        ("'\u00e4\U0001f600' + '\\n'", "\u00e4\U0001f600\n"),
        ("None", None),
    ],
)
def test_expressions_have_values_and_statements_have_none(client, text, value):
    (response,) = client.push(text, target=1, block=True)
    assert response.successful, response.traceback
    assert response.ret == value


def test_what_strings_define_works_like_a_script(client):
    client.push(
        """
        from dataclasses import dataclass
        @dataclass
        class Point:
            x: float
            def twice(self): return helper(self.x)
        def helper(value): return 2 * value
        """,
        target=1,
    )
    assert client.push("Point(4).twice()", target=1, block=True)[0].result() == 8
    point = client.push("Point(5)", target=1, block=True)[0].result()
    assert point.x == 5
    assert client.push("p == Point(5)", 1, True, {"p": point})[0].successful


def test_a_long_traceback_names_the_lines_of_every_command(client):
    client.push("def inner(v):\n    return 1 / v  # the culprit\n", target=1)
    (response,) = client.push("inner(\n    0\n)", target=1, block=True)
    assert "return 1 / v  # the culprit" in response.traceback
    assert "mpiframe/" not in response.traceback


@pytest.mark.parametrize("n", [1, 1000])
def test_many_small_commands(client, servers, n):
    ids = [client.push("1 + 1", target=servers[i % len(servers)]) for i in range(n)]
    assert [r.ret for r in client.get(ids)] == [2] * n


def test_a_callable_takes_parameters_as_keywords(client):
    def area(width, height=2):
        return width * height

    assert client.push(area, 1, True, {"width": 4})[0].ret == 8
    assert client.push(area, 1, True, {"width": 4, "height": 1})[0].ret == 4


def test_an_interrupted_command_fails_and_the_next_one_runs(client, busy):
    after = client.push("'next'", target=1)
    client.interrupt(1)
    stopped, next_one = client.get([busy, after], timeout=20)
    assert stopped.status == "failed"
    assert "KeyboardInterrupt" in stopped.traceback
    assert next_one.ret == "next"


def test_interrupting_an_idle_server_does_nothing(client):
    for _ in range(20):
        client.interrupt("all")
        assert client.push("1", target=1, block=True)[0].ret == 1


def test_interrupts_that_race_with_the_end_of_commands(client):
    """Whatever an interrupt hits, each command ends as done or interrupted, and nothing else."""
    for _ in range(100):
        id = client.push("sum(range(2000))", target=1)
        client.interrupt(1)
        (response,) = client.get(id, timeout=20)
        assert response.successful or "KeyboardInterrupt" in response.traceback


def test_cancel(client, gate, busy):
    queued = [client.push("ran = True", target=1), client.push("'kept'", target=1)]
    assert client.cancel(queued[0]) is True
    assert client.cancel(queued[0]) is False
    gate.open()
    cancelled, kept = client.get(queued)
    assert (cancelled.status, cancelled.server, cancelled.started_at) == ("cancelled", None, None)
    assert not cancelled.successful
    with pytest.raises(mpiframe.CommandCancelled):
        cancelled.result()
    assert kept.ret == "kept"
    assert client.push("'ran' in globals()", target=1, block=True)[0].ret is False
    assert client.get(busy)[0].successful


@pytest.mark.servers(2)
def test_a_busy_server_does_not_hold_up_the_others(client, servers, gate, busy):
    waits = client.push("'mine'", target=1)
    for _ in range(20):
        assert client.push("1", target=servers[1:], block=True, timeout=20)[0].ret == 1
        assert client.get(client.push("2"), timeout=20)[0].server != 1
    assert client.get(waits, block=False) == []
    gate.open()
    assert client.get(waits)[0].ret == "mine"
    client.get(busy)


@pytest.mark.servers(2)
def test_long_commands_without_a_target_spread(client, servers, tmp_path):
    """Each waits for all the others, so it ends only if all run at once."""
    command = """
import os, time
open(os.path.join(folder, str(number)), "w").close()
until = time.monotonic() + 30
while len(os.listdir(folder)) < everyone:
    assert time.monotonic() < until, "the others did not start"
    time.sleep(0.001)
"""
    common = {"folder": str(tmp_path), "everyone": len(servers)}
    ids = [client.push(command, parameters={**common, "number": n}) for n in servers]
    responses = client.get(ids)
    assert [r.traceback for r in responses] == [None] * len(servers)
    assert sorted(r.server for r in responses) == servers


def test_the_table_of_servers(client, servers, gate, busy):
    waits = [client.push("1", target=1) for _ in range(3)]
    table = client.servers
    assert [row.rank for row in table] == servers
    row = table[0]
    assert (row.host, row.state, row.queued, row.running) == (
        socket.gethostname(),
        "busy",
        3,
        busy,
    )
    assert all(row.cpu > 0 and row.rss > 2**20 for row in table)
    assert [row.state for row in table[1:]] == ["idle"] * (len(servers) - 1)
    lines = str(table).splitlines()
    assert " ".join(lines[0].split()) == "rank host pid state queued running cpu rss"
    assert len(lines) == len(servers) + 1
    gate.open()
    client.get([busy, waits])
    pids = [r.ret for r in client.push("__import__('os').getpid()", "all", block=True)]
    assert [row.pid for row in client.servers] == pids
    assert {row.state for row in client.servers} == {"idle"}


def test_a_view(client, servers):
    view = client.on(1)
    assert view.push("1", block=True)[0].server == 1
    assert view.submit(abs, -1).result() == 1
    assert list(view.map(abs, [-1, 2])) == [1, 2]
    assert [row.rank for row in view.servers] == [1]
    assert [r.server for r in client.on("all").push("1", block=True)] == servers
    assert len(client.on(servers).servers) == len(servers)
    with pytest.raises(mpiframe.TargetError):
        client.on(0)


def test_the_story_of_a_request(client):
    id = client.push("1", target=1)
    client.get(id)
    assert client.story(id) == ["sent (server 1)", "answered (server 1)"]


def test_facts(client, servers):
    facts = client.facts()
    assert facts.ranks == len(servers) + 1
    assert sorted(facts.doorbell) == servers
    assert facts.hosts == 1
    assert not client.lost_a_server
