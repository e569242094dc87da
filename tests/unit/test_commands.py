"""Commands are checked where they are pushed: what is wrong is told before anything is sent."""

from __future__ import annotations

import functools
import os
import threading
from typing import Any

import numpy as np
import pytest

from mpiframe import codec
from mpiframe.commands import CommandEncoder
from mpiframe.errors import (
    CommandArgumentError,
    CommandSyntaxError,
    MpiframeError,
    SerializationError,
)
from mpiframe.messages import Mode
from mpiframe.namespace import Namespace

LARGE = 64 * 1024


@pytest.fixture
def encoder() -> CommandEncoder:
    return CommandEncoder(LARGE)


# -- strings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "mode", "value"),
    [
        ("1 + 1", Mode.EVAL, 2),
        ("1 + 1\n", Mode.EVAL, 2),
        ("# why\n1 + 1", Mode.EVAL, 2),
        ("(1 +\n 1)", Mode.EVAL, 2),
        ("1 + 1  # why", Mode.EVAL, 2),
        ("  1 + 1", Mode.EVAL, 2),
        ("\t1 + 1", Mode.EVAL, 2),
        ("\n    1 + 1\n    ", Mode.EVAL, 2),
        ("x = 1 + 1", Mode.EXEC, None),
        ("x = 1\nx + 1", Mode.EXEC, None),
        ("    x = 1\n    y = x + 1\n", Mode.EXEC, None),
        ("\n    if True:\n        x = 1\n    ", Mode.EXEC, None),
        ("1; 2", Mode.EXEC, None),
        ("", Mode.EXEC, None),
        ("# nothing", Mode.EXEC, None),
        ("pass", Mode.EXEC, None),
        ("lambda: (yield)", Mode.EVAL, ...),
    ],
)
def test_an_expression_is_evaluated_and_all_else_executed(
    encoder: CommandEncoder, source: str, mode: Mode, value: object
) -> None:
    encoded = encoder.encode(source, None)
    found = Namespace().run_string(encoded.mode, encoded.body, None)
    assert found == value or value is ...
    assert encoded.mode == mode


@pytest.mark.parametrize(
    ("source", "line", "shown", "column"),
    [
        ("1 +", 1, "1 +", None),
        ("x = 1\ny = = 2\nz = 3", 2, "y = = 2", 4),
        ("    y = = 2", 1, "y = = 2", 4),
        ("x = (1,", 1, "x = (1,", 4),
        ("if x:\ny", 2, "y", 0),
        ("é = = 1", 1, "é = = 1", 4),
        ("for", 1, "for", None),
        ("x = 1\n  y = 2", 2, "y = 2", None),
        ("return 5", 1, "return 5", 0),
        ("x = 1\nreturn x", 2, "return x", 0),
        ("await x", 1, "await x", 0),
        ("x = [\n  break_it for x in y", 1, "x = [", 4),
    ],
)
def test_a_string_that_does_not_compile_is_told_with_its_caret(
    encoder: CommandEncoder, source: str, line: int, shown: str, column: int | None
) -> None:
    with pytest.raises(CommandSyntaxError) as caught:
        encoder.encode(source, None)
    text = str(caught.value)
    first, code, caret = text.split("\n")
    assert first.startswith("the command does not compile: ")
    assert first.endswith(f"(line {line})")
    assert code.strip() == shown
    assert caret.strip() == "^"
    if column is not None:
        assert caret.index("^") - (len(code) - len(code.lstrip())) == column
    assert caught.value.lineno == line
    assert isinstance(caught.value, SyntaxError)
    assert isinstance(caught.value, MpiframeError)


@pytest.mark.parametrize("source", ["x\0y", "x = '\ud800'", "\ud800"], ids=ascii)
def test_what_python_cannot_even_read_is_a_syntax_error_too(encoder: CommandEncoder, source: str) -> None:
    with pytest.raises(CommandSyntaxError, match="does not compile"):
        encoder.encode(source, None)


def test_flags_of_this_module_do_not_leak_into_commands(encoder: CommandEncoder) -> None:
    # This package's modules have `from __future__ import annotations`; a command must not.
    encoded = encoder.encode("def f(x: 1 + 1): pass", None)
    namespace = Namespace()
    namespace.run_string(encoded.mode, encoded.body, None)
    assert namespace.names["f"].__annotations__ == {"x": 2}


def test_a_string_is_compiled_once(encoder: CommandEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    first = encoder.encode("x = 1", None)
    monkeypatch.setattr("builtins.compile", lambda *args, **kwargs: pytest.fail("compiled again"))
    second = encoder.encode("x = 1", {})
    monkeypatch.undo()
    assert second is first


# -- what is no command ---------------------------------------------------------------------------


@pytest.mark.parametrize("command", [None, 1, b"x", ["x"], 1.5], ids=repr)
def test_a_command_is_a_string_or_a_callable(encoder: CommandEncoder, command: Any) -> None:
    with pytest.raises(CommandArgumentError, match="a string of Python or a callable") as caught:
        encoder.encode(command, None)
    assert repr(command) in str(caught.value)
    assert type(command).__name__ in str(caught.value)
    assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize("function", [None, 1, "x.mean"], ids=repr)
def test_what_cannot_be_called(encoder: CommandEncoder, function: Any) -> None:
    with pytest.raises(CommandArgumentError, match="cannot be called"):
        encoder.call(function, (), {})


# -- parameters -----------------------------------------------------------------------------------


def scale(x: float, by: float = 2.0) -> float:
    return x * by


@pytest.mark.parametrize("command", ["x", scale])
@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ([("x", 1)], "must be a dict of names, not a list"),
        ("x", "must be a dict of names, not a str"),
        (3, "must be a dict of names, not a int"),
        ({1: 2}, "the parameter name 1 is no Python name"),
        ({"not a name": 2}, "'not a name' is no Python name"),
        ({"": 2}, "'' is no Python name"),
    ],
)
def test_parameters_are_a_dict_of_names(
    encoder: CommandEncoder, command: Any, parameters: Any, says: str
) -> None:
    with pytest.raises(CommandArgumentError, match="parameter") as caught:
        encoder.encode(command, parameters)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"x": 1, "bye": 2}, "'bye'"),
        ({"by": 1}, "'x'"),
        (None, "'x'"),
    ],
)
def test_a_callable_with_parameters_it_does_not_take(
    encoder: CommandEncoder, parameters: Any, says: str
) -> None:
    with pytest.raises(CommandArgumentError, match="cannot be called with these parameters") as c:
        encoder.encode(scale, parameters)
    assert says in str(c.value)
    assert "scale(x: 'float', by: 'float' = 2.0)" in str(c.value)


@pytest.mark.parametrize("command", [dict, functools.partial(scale, 1), print, os.getpid])
def test_callables_of_every_kind_are_taken(encoder: CommandEncoder, command: Any) -> None:
    assert encoder.encode(command, None).mode == Mode.CALL


def test_parameters_of_a_string_travel(encoder: CommandEncoder) -> None:
    big = np.zeros(LARGE, np.uint8)
    encoded = encoder.encode("x", {"x": big, "y": 1})
    assert len(encoded.buffers) == 1
    values = codec.loads(encoded.payload, encoded.buffers)
    assert values["y"] == 1
    assert np.shares_memory(values["x"], big)
    assert encoded.frame(7)[0] == 7
    assert encoded.frame(7)[-1] == 1


# -- what cannot be pickled -----------------------------------------------------------------------


def test_an_argument_that_cannot_be_pickled_is_named(encoder: CommandEncoder) -> None:
    lock = threading.Lock()
    with pytest.raises(SerializationError, match=r"argument 2 \(a lock\) cannot be pickled"):
        encoder.call(scale, (1, lock), {})
    with pytest.raises(SerializationError, match=r"argument 'by' \(a lock\) cannot be pickled"):
        encoder.call(scale, (1,), {"by": lock})
    with pytest.raises(SerializationError, match=r"argument 'by' \(a lock\) cannot be pickled"):
        encoder.encode(scale, {"x": 1, "by": lock})
    with pytest.raises(SerializationError, match=r"argument 'deep' \(a list\) cannot be pickled"):
        encoder.encode("x", {"x": 1, "deep": [{"a": lock}]})
    with pytest.raises(SerializationError, match="an item of map cannot be pickled"):
        encoder.chunk(scale, [1, lock], True)


def test_an_argument_of_a_function_that_is_not_cached_is_named_too(encoder: CommandEncoder) -> None:
    mutable: list[int] = []
    with pytest.raises(SerializationError, match=r"argument 1 \(a lock\) cannot be pickled"):
        encoder.call(lambda x: mutable, (threading.Lock(),), {})


def test_a_callable_that_cannot_be_pickled_is_named(encoder: CommandEncoder) -> None:
    lock = threading.Lock()

    def uses_a_lock() -> None:
        lock.acquire()

    for encode in (
        lambda: encoder.encode(uses_a_lock, None),
        lambda: encoder.call(uses_a_lock, (1,), {}),
        lambda: encoder.chunk(uses_a_lock, [1], True),
        lambda: encoder.encode(lock.acquire, None),
    ):
        with pytest.raises(SerializationError, match=r"the callable .*(uses_a_lock|acquire)"):
            encode()


class Rude:
    def __reduce__(self) -> str:
        raise ValueError("not today")


def test_the_reason_is_told(encoder: CommandEncoder) -> None:
    with pytest.raises(SerializationError, match=r"argument 1 \(a Rude\).*not today") as caught:
        encoder.call(scale, (Rude(),), {})
    assert isinstance(caught.value.__cause__, ValueError)
    assert isinstance(caught.value, TypeError)


# -- calls ----------------------------------------------------------------------------------------


def test_plain_arguments_travel_in_the_frame(encoder: CommandEncoder) -> None:
    encoded = encoder.call(os.path.join, ("a", "b"), {})
    assert not encoded.pickled
    assert encoded.payload == (("a", "b"), {})
    assert encoded.function_key
    assert codec.loads(encoded.body) is os.path.join


def test_a_function_that_may_change_unseen_travels_with_each_call(encoder: CommandEncoder) -> None:
    mutable = [1]
    encoded = encoder.call(lambda: mutable, (), {})
    assert encoded.function_key == 0
    function, (args, kwargs) = codec.loads(encoded.payload)
    assert function(*args, **kwargs) == [1]


def test_a_chunk_of_a_map(encoder: CommandEncoder) -> None:
    encoded = encoder.chunk(scale, [(1, 2), (3, 4)], False)
    assert encoded.mode == Mode.MAP
    assert encoded.pickled
    assert codec.loads(encoded.payload) == (False, [(1, 2), (3, 4)])


def test_a_chunk_of_a_range_is_small_however_long(encoder: CommandEncoder) -> None:
    encoded = encoder.chunk(scale, range(10**9), True)
    assert codec.loads(encoded.payload) == (True, range(10**9))
    assert len(encoded.payload) < 200
