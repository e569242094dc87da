"""What a command can be, how it ends, and what its parameters do."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

KEYS = {
    "command",
    "parameters",
    "mode",
    "id",
    "server",
    "status",
    "command_start_time",
    "ret",
    "successful",
    "traceback",
    "command_stop_time",
}
QUICK = 20.0  # seconds in which whatever goes wrong has to be told, on a busy machine; at once as a rule
LARGE = 25.0  # and for the largest values; below one as a rule

COMMANDS = {  # (mode, how the parameters are given, whether it is to succeed)
    ("eval", "string", True): ("6 * 7", None),
    ("eval", "string", False): ("6 / 0", None),
    ("eval", "dict", True): ("a * b", {"a": 6, "b": 7}),
    ("eval", "dict", False): ("a / b", {"a": 6, "b": 0}),
    ("exec", "string", True): ("answer = 6 * 7", None),
    ("exec", "string", False): ("answer = 6 / 0", None),
    ("exec", "dict", True): ("answer = a * b", {"a": 6, "b": 7}),
    ("exec", "dict", False): ("answer = a / b", {"a": 6, "b": 0}),
}


@pytest.mark.parametrize("block", [True, False], ids=["block", "no-block"])
@pytest.mark.parametrize("target", ["one", "one in a list", "all", "undefined"])
@pytest.mark.parametrize("kind", COMMANDS, ids=lambda kind: "-".join(map(str, kind)))
def test_every_kind_of_request(
    client: Any, servers: list[int], kind: tuple[str, str, bool], target: str, block: bool
) -> None:
    mode, _, successful = kind
    command, parameters = COMMANDS[kind]
    client.push_command_request("answer = None", True, servers)
    given = {"one": 1, "one in a list": [1], "all": servers, "undefined": None}[target]
    ranks = servers if target == "all" else [servers[-1] if target == "undefined" else 1]
    before = time.time()
    result = client.push_command_request(command, block, given, parameters)
    if block:
        responses = result
        assert client.get_command_response([r["id"] for r in responses], True) == responses
    else:
        assert [type(id) for id in result] == [int] * len(ranks)
        responses = client.get_command_response(result, True)
        assert [response["id"] for response in responses] == result
    assert [response["server"] for response in responses] == ranks
    for response in responses:
        assert set(response) == KEYS
        assert response["command"] == command
        assert response["parameters"] == parameters
        assert response["mode"] == mode
        assert response["status"] == "response received"
        assert response["successful"] is successful
        assert before <= response["command_start_time"] <= response["command_stop_time"] <= time.time()
        assert response["ret"] == (42 if successful and mode == "eval" else None)
        if successful:
            assert response["traceback"] is None
        else:
            assert "ZeroDivisionError" in response["traceback"]
            assert command in response["traceback"]
    answers = client.push_command_request("answer", True, ranks)
    assert [r["ret"] for r in answers] == [42 if successful and mode == "exec" else None] * len(ranks)


def test_ids_are_consecutive_and_the_refused_take_none(client: Any, servers: list[int]) -> None:
    ids = client.push_command_request("1", False, 1)
    assert client.push_command_request("1 +", False, 1) is None
    assert client.push_command_request("1", False, 99) is None
    assert client.push_command_request("1", False, 1, {"no name": 1}) is None
    ids += client.push_command_request("1", False, servers)
    ids += client.push_command_request("1")
    assert ids == list(range(ids[0], ids[0] + len(servers) + 2))
    client.get_command_response(ids, True)


@pytest.mark.parametrize(
    ("command", "mode", "ret"),
    [
        ("1 + 1", "eval", 2),
        ("1 + 1\n", "eval", 2),
        ("1 + 1  ", "eval", 2),
        ("", "exec", None),
        ("\n", "exec", None),
        ("# a comment", "exec", None),
        ("1 + 1; 2", "exec", None),
        ("pass", "exec", None),
        ("for i in range(3):\n    last = i", "exec", None),
        ("(1 +\n 1)", "eval", 2),
        ("lambda: 1", "eval", ...),
        ("push", "push", None),
        ("'push'", "eval", "push"),
        ("None", "eval", None),
        ("'é' + '\\u4e2d'", "eval", "é中"),
    ],
)
def test_the_mode_of_a_command(client: Any, command: str, mode: str, ret: Any) -> None:
    (response,) = client.push_command_request(command, True, 1)
    assert response["successful"], response["traceback"]
    assert response["mode"] == mode
    assert ret is ... or response["ret"] == ret
    assert response["command"] == command


@pytest.mark.parametrize(
    "command",
    [
        " 1 + 1",
        "\t1 + 1",
        "1 +",
        "x = = 1",
        "return 1",
        "def f(:\n    pass",
        "1\x00",
        "'unfinished",
        lambda: 1,
        len,
        None,
        5,
        b"1 + 1",
        ["1 + 1"],
    ],
    ids=repr,
)
def test_what_is_no_command_is_refused(client: Any, caplog: Any, command: Any) -> None:
    """By None, and no exception; the log says why."""
    known = set(client.get_command_request_list())
    assert client.push_command_request(command, True, 1) is None
    assert client.push_command_request(command) is None
    assert set(client.get_command_request_list()) == known
    assert [r.name for r in caplog.records] == ["mpiframe.casampi"] * 2
    assert all(r.levelname == "ERROR" for r in caplog.records)
    said = caplog.records[0].getMessage()
    assert said.startswith("push_command_request: ")
    assert "string" in said or "neither a statement nor an expression" in said


def test_a_command_that_is_too_deep_to_compile_is_refused(client: Any, caplog: Any) -> None:
    """Whatever Python calls that: it is no exception here."""
    assert client.push_command_request("-" * 100_000 + "1", True, 1) is None
    assert [r.levelname for r in caplog.records] == ["ERROR"]


# -- what a command may do ------------------------------------------------------------------------


def test_a_server_keeps_its_state(client: Any, servers: list[int], value: Callable[..., Any]) -> None:
    client.push_command_request("import math as mine\ndef double(v): return v * factor", True, servers)
    for rank in servers:
        client.push_command_request(f"factor = {rank}", False, rank)
    responses = client.push_command_request("double(mine.floor(10.5))", True, servers)
    assert [r["ret"] for r in responses] == [10 * rank for rank in servers]
    client.push_command_request("del factor", True, servers)
    (response,) = client.push_command_request("double(1)", True, 1)
    assert "NameError" in response["traceback"]
    assert "return v * factor" in response["traceback"]


@pytest.mark.parametrize(
    ("command", "named"),
    [
        ("import sys; sys.exit(3)", "SystemExit"),
        ("exit(0)", "SystemExit"),
        ("raise SystemExit", "SystemExit"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise BaseException('base')", "BaseException: base"),
        ("class Own(Exception): pass\nraise Own('mine')", "Own: mine"),
        ("def f(): return f()\nf()", "RecursionError"),
    ],
)
@pytest.mark.parametrize("parameters", [None, {"a": 1}], ids=["bare", "with-parameters"])
def test_whatever_a_command_raises_is_its_response(
    client: Any, command: str, named: str, parameters: Any
) -> None:
    start = time.monotonic()
    (response,) = client.push_command_request(command, True, 1, parameters)
    assert time.monotonic() - start < QUICK
    assert response["successful"] is False
    assert response["ret"] is None
    assert response["status"] == "response received"
    assert named in response["traceback"]
    assert "mpiframe" not in response["traceback"]
    assert response["command_start_time"] <= response["command_stop_time"]


@pytest.mark.parametrize(
    "command", ["(i for i in [])", "[__import__('threading').Lock()]", "[__import__('socket').socket()]"]
)
@pytest.mark.parametrize("parameters", [None, {"a": 1}], ids=["bare", "with-parameters"])
def test_a_value_that_cannot_be_pickled_is_a_failure(client: Any, command: str, parameters: Any) -> None:
    start = time.monotonic()
    (response,) = client.push_command_request(command, True, 1, parameters)
    assert time.monotonic() - start < QUICK
    assert response["successful"] is False
    assert response["ret"] is None
    assert "cannot be pickled" in response["traceback"]
    assert response["parameters"] == parameters


def test_a_value_that_cannot_be_unpickled_is_a_failure(client: Any) -> None:
    command = """
class Breaks:
    def __reduce__(self): return eval, ("1 / 0",)
"""
    client.push_command_request(command, True, 1)
    (response,) = client.push_command_request("Breaks()", True, 1)
    assert response["successful"] is False
    assert "cannot be unpickled" in response["traceback"]


def test_an_object_of_a_class_that_the_server_defined(client: Any) -> None:
    client.push_command_request("class Point:\n    def __init__(self, x): self.x = x", True, 1)
    (response,) = client.push_command_request("Point(7)", True, 1)
    assert response["ret"].x == 7


def test_what_a_command_prints_does_not_harm(client: Any, capfd: Any) -> None:
    (response,) = client.push_command_request("print('said by a server')", True, 1)
    assert response["successful"]
    assert f"[server 1 #{response['id']}] said by a server\n" in capfd.readouterr().out


# -- parameters -----------------------------------------------------------------------------------


def test_parameters_last_for_one_command(client: Any, value: Callable[..., Any]) -> None:
    client.push_command_request("shadowed = 'before'", True, 1)
    (response,) = client.push_command_request("(shadowed, fresh)", True, 1, {"shadowed": 1, "fresh": 2})
    assert response["ret"] == (1, 2)
    assert value("shadowed") == "before"
    assert value("'fresh' in globals()") is False


def test_parameters_that_a_command_binds_anew_do_not_stay(client: Any, value: Callable[..., Any]) -> None:
    client.push_command_request("shadowed = 'before'", True, 1)
    command = "shadowed += 1; fresh = 9; other = fresh; del gone"
    parameters = {"shadowed": 1, "fresh": 2, "gone": 3}
    (response,) = client.push_command_request(command, True, 1, parameters)
    assert response["successful"], response["traceback"]
    assert value("(shadowed, other)") == ("before", 9)
    assert value("'fresh' in globals() or 'gone' in globals()") is False


def test_parameters_are_gone_after_a_failure_too(client: Any, value: Callable[..., Any]) -> None:
    (response,) = client.push_command_request("1 / fresh", True, 1, {"fresh": 0})
    assert "ZeroDivisionError" in response["traceback"]
    assert value("'fresh' in globals()") is False


CHANGES = {
    "exec": "table['k'] = 1; rows.append(2); deep['a']['b'].append(3); bare = 'bound anew'",
    "eval": "table.update(k=1) or rows.append(2) or deep['a']['b'].append(3)",
    "failure": "table['k'] = 1; rows.append(2); deep['a']['b'].append(3); raise ValueError",
}


@pytest.mark.parametrize("how", CHANGES)
def test_parameters_come_back_as_the_server_has_changed_them(client: Any, how: str) -> None:
    given: dict[str, Any] = {"table": {}, "rows": [], "deep": {"a": {"b": []}}, "bare": 5}
    (response,) = client.push_command_request(CHANGES[how], True, 1, given)
    assert response["successful"] is (how != "failure")
    changed = {"table": {"k": 1}, "rows": [2], "deep": {"a": {"b": [3]}}, "bare": 5}
    assert response["parameters"] == changed
    assert given == {"table": {}, "rows": [], "deep": {"a": {"b": []}}, "bare": 5}


@pytest.mark.parametrize("length", [3, 100_000])
def test_an_array_among_the_parameters_is_changed_in_place(client: Any, length: int) -> None:
    """Small ones travel inside the message, large ones beside it."""
    given = np.arange(length)
    (response,) = client.push_command_request("data += 1", True, 1, {"data": given})
    assert response["successful"], response["traceback"]
    assert np.array_equal(response["parameters"]["data"], np.arange(length) + 1)
    assert np.array_equal(given, np.arange(length))


def test_parameters_that_cannot_come_back_are_left_out(client: Any) -> None:
    command = "rows.append(__import__('threading').Lock())"
    (response,) = client.push_command_request(command, True, 1, {"rows": [], "kept": 1})
    assert response["successful"] is True
    assert response["parameters"] == {"kept": 1}


def test_each_target_has_parameters_of_its_own(client: Any, servers: list[int]) -> None:
    command = "rows.append(MPIEnvironment.mpi_processor_rank)"
    responses = client.push_command_request(command, True, servers, {"rows": []})
    assert [r["parameters"] for r in responses] == [{"rows": [rank]} for rank in servers]


@pytest.mark.parametrize(
    ("command", "ret"),
    [
        ("call()", 8),
        ("call(),call()", (None, 8)),
        ("(1, call())", (1, None)),
        ("box.call()", 8),
        ("call() ", None),
        ("call( )", None),
        ("call()+0 if False else call(a)", 8),
        ("[call()][0]", None),
        ("call", ...),
    ],
)
def test_a_call_without_arguments_gets_the_parameters(client: Any, command: str, ret: Any) -> None:
    """Only one that ends the command: as measured on the original."""
    define = "def call(a=None): return a\nclass box: call = staticmethod(call)"
    client.push_command_request(define, True, 1)
    (response,) = client.push_command_request(command, True, 1, {"a": 8})
    assert response["successful"], response["traceback"]
    assert ret is ... or response["ret"] == ret
    assert response["command"] == command


def test_a_statement_gets_no_keywords(client: Any, value: Callable[..., Any]) -> None:
    client.push_command_request("def call(a=None): return a", True, 1)
    (response,) = client.push_command_request("got = call()", True, 1, {"a": 8})
    assert response["successful"], response["traceback"]
    assert value("got") is None


def test_a_call_that_does_not_know_a_parameter_fails(client: Any) -> None:
    client.push_command_request("def call(a=None): return a", True, 1)
    (response,) = client.push_command_request("call()", True, 1, {"b": 8})
    assert "unexpected keyword argument 'b'" in response["traceback"]


def test_no_parameters_in_a_dict(client: Any) -> None:
    client.push_command_request("def call(a=None): return a", True, 1)
    (response,) = client.push_command_request("call()", True, 1, {})
    assert response["successful"], response["traceback"]
    assert response["ret"] is None


@pytest.mark.parametrize("parameters", [[("a", 1)], "a=1", 5, ("a",)], ids=repr)
def test_parameters_that_are_no_dict_are_ignored(client: Any, caplog: Any, parameters: Any) -> None:
    (response,) = client.push_command_request("6 * 7", True, 1, parameters)
    assert response["successful"], response["traceback"]
    assert response["ret"] == 42
    assert "no dict" in caplog.text


@pytest.mark.parametrize("name", ["no name", "", "1st", "class", 1, None, ("a",)], ids=repr)
def test_names_that_no_variable_can_have_are_refused(client: Any, caplog: Any, name: Any) -> None:
    assert client.push_command_request("1", True, 1, {name: 5}) is None
    assert "no name of a variable" in caplog.text


def test_parameters_that_cannot_be_pickled_are_refused(client: Any, caplog: Any) -> None:
    start = time.monotonic()
    assert client.push_command_request("1", True, 1, {"lock": threading.Lock()}) is None
    assert client.push_command_request("push", True, 1, {"lock": threading.Lock()}) is None
    assert time.monotonic() - start < QUICK
    assert caplog.text.count("cannot be pickled") + caplog.text.count("cannot pickle") >= 2


# -- the mode push --------------------------------------------------------------------------------


def test_push_sets_variables_that_stay(client: Any, servers: list[int], value: Callable[..., Any]) -> None:
    given = {"first": {"a": [1]}, "second": 2.5}
    responses = client.push_command_request("push", True, servers, given)
    for response in responses:
        assert response["mode"] == "push"
        assert response["successful"] is True
        assert response["ret"] is None
        assert response["parameters"] == given
    for rank in servers:
        assert value("(first, second)", rank) == ({"a": [1]}, 2.5)
    client.push_command_request("push", True, servers[-1], {"second": "changed"})
    assert value("(first, second)", servers[-1]) == ({"a": [1]}, "changed")
    client.push_command_request("second += 1 if second == 2.5 else 's'", True, servers)
    assert value("second", servers[-1]) == "changeds"


# -- names that commands find ---------------------------------------------------------------------

FOUND = {
    "time": "time.time() > 1e9",
    "os": "os.getpid() == MPIEnvironment.mpi_pid",
    "traceback": "traceback.format_stack() != []",
    "subprocess": "subprocess.call(['true']) == 0",
    "tempfile": "os.path.isdir(tempfile.gettempdir())",
    "uuid": "len(uuid.uuid4().hex) == 32",
    "casalog": "casalog.post('a message')",
    "MPIEnvironment": "MPIEnvironment.is_mpi_enabled",
}


@pytest.mark.parametrize("name", FOUND)
def test_names_that_need_no_import(client: Any, servers: list[int], name: str) -> None:
    responses = client.push_command_request(FOUND[name], True, servers)
    assert [(r["ret"], r["traceback"]) for r in responses] == [(True, None)] * len(servers)


def framework_works(client: Any, servers: list[int]) -> None:
    """Commands of all kinds have answers, with their times, and so have questions."""
    responses = client.push_command_request("6 * 7", True, servers)
    responses += client.push_command_request("a * b", True, servers, {"a": 6, "b": 7})
    for response in responses:
        assert response["ret"] == 42, response["traceback"]
        assert isinstance(response["command_stop_time"], float)
    (failure,) = client.push_command_request("1 / 0", True, 1)
    assert "ZeroDivisionError" in failure["traceback"]
    assert all(row["pid"] > 1 for row in client.get_server_status().values())
    client.set_log_level("DEBUG")
    (printed,) = client.push_command_request("print('word')", True, 1)
    assert printed["successful"]


@pytest.mark.parametrize("name", FOUND)
def test_parameters_named_as_what_commands_find(client: Any, servers: list[int], name: str) -> None:
    (response,) = client.push_command_request(name, True, 1, {name: 3})
    assert response["ret"] == 3
    assert response["parameters"] == {name: 3}
    assert isinstance(response["command_stop_time"], float)
    framework_works(client, servers)
    responses = client.push_command_request(FOUND[name], True, servers)
    assert [r["ret"] for r in responses] == [True] * len(servers)


@pytest.mark.parametrize("name", FOUND)
def test_a_command_that_binds_what_commands_find(client: Any, servers: list[int], name: str) -> None:
    client.push_command_request(f"kept, {name} = {name}, 5", True, servers)
    try:
        framework_works(client, servers)
        assert client.push_command_request(name, True, 1)[0]["ret"] == 5
        assert client.getNumCPUs(False, 1) >= 1
    finally:
        client.push_command_request(f"{name} = kept", True, servers)
    framework_works(client, servers)


@pytest.mark.parametrize("name", ["print", "len", "__builtins__", "__name__", "f", "names", "self"])
def test_other_names_that_harm_nothing(client: Any, servers: list[int], name: str) -> None:
    client.push_command_request("1", True, servers, {name: 3})
    framework_works(client, servers)


# -- large values ---------------------------------------------------------------------------------


def test_a_large_value_comes_back(client: Any, servers: list[int]) -> None:
    """200 MiB, where the original has a buffer of 150."""
    size = 200 << 20
    start = time.monotonic()
    (response,) = client.push_command_request(f"bytes({size})", True, 1)
    assert time.monotonic() - start < LARGE
    assert response["successful"], response["traceback"]
    assert len(response["ret"]) == size


def test_large_parameters_go_to_every_server(client: Any, servers: list[int]) -> None:
    data = bytes(90 << 20)
    start = time.monotonic()
    responses = client.push_command_request("len(data)", True, servers[:2], {"data": data})
    assert time.monotonic() - start < LARGE
    assert [r["ret"] for r in responses] == [len(data)] * len(servers[:2]), responses[0]["traceback"]
    assert all(len(r["parameters"]["data"]) == len(data) for r in responses)


# -- many -----------------------------------------------------------------------------------------


def worked(*pids: int) -> float:
    """Seconds for which threads of these processes have run, or waited for a core."""
    stats = [path for pid in pids for path in Path(f"/proc/{pid}/task").glob("*/schedstat")]
    return sum(int(word) for path in stats for word in path.read_text().split()[:2]) / 1e9


def test_many_small_commands_do_not_stall(client: Any) -> None:
    """Where a message is kept back until the receiver has room, the receiver has to be woken for it."""
    both = os.getpid(), client.get_server_status(1)["pid"]
    idle = []
    for _ in range(12):
        start = time.monotonic() - worked(*both)
        ids = [client.push_command_request("0", False, 1)[0] for _ in range(500)]
        client.get_command_response(ids, True)
        idle.append(time.monotonic() - worked(*both) - start)
    # On a busy machine it takes long, but there they wait for a core; who has to be woken sleeps for 0.5 s.
    assert len([s for s in idle if s > 0.2]) < 2, idle


# -- threads --------------------------------------------------------------------------------------


def test_threads_that_push_at_the_same_time(client: Any, servers: list[int]) -> None:
    targets: list[Any] = [None, 1, servers]
    got: list[list[tuple[int, int, list[Any]]]] = []
    ready = threading.Barrier(6)

    def work(number: int) -> None:
        mine = []
        ready.wait()
        for turn in range(20):
            target = targets[turn % 3]
            if turn % 2:
                responses = client.push_command_request(f"{number} * 1000 + {turn}", True, target)
            else:
                ids = client.push_command_request("a + b", False, target, {"a": number * 1000, "b": turn})
                responses = client.get_command_response(ids, True)
            mine.append((number, turn, responses))
        got.append(mine)

    first = client.push_command_request("0", True)[0]["id"]
    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    responses = []
    for number, turn, some in itertools.chain(*got):
        assert [r["ret"] for r in some] == [number * 1000 + turn] * len(some)
        ids = [r["id"] for r in some]
        assert ids == list(range(ids[0], ids[0] + len(ids)))  # of one request, whatever others did
        responses += some
    assert len(got) == 6
    assert sorted(r["id"] for r in responses) == list(range(first + 1, first + 1 + len(responses)))
