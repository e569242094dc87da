"""The user's namespace: what a command finds there, and what it leaves behind."""

from __future__ import annotations

import builtins
import pickle
import sys
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from mpiframe import codec
from mpiframe.execution import Executor
from mpiframe.messages import Mode, Outcome
from mpiframe.namespace import ItemError, Namespace, describe

EVAL, EXEC = int(Mode.EVAL), int(Mode.EXEC)


@pytest.fixture
def space() -> Iterator[Namespace]:
    """A namespace; whatever a test does to the builtins is undone."""
    before = dict(vars(builtins))
    yield Namespace()
    vars(builtins).update(before)


@pytest.fixture
def installed(space: Namespace, monkeypatch: pytest.MonkeyPatch) -> Namespace:
    """The namespace as `__main__`."""
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    space.install()
    return space


def run(space: Namespace, source: str, **parameters: Any) -> Any:
    try:
        compile(source, "", "eval")
    except SyntaxError:
        return space.run_string(EXEC, source, parameters or None)
    return space.run_string(EVAL, source, parameters or None)


def script(source: str, **names: Any) -> Any:
    """The function `f` of a client's script, as it arrives at a server."""
    names["__name__"] = "__main__"
    exec(source, names)
    return codec.loads(codec.dumps(names["f"], 1 << 60)[0])


# -- strings --------------------------------------------------------------------------------------


def test_state_lasts_from_command_to_command(space: Namespace) -> None:
    assert run(space, "x = 3") is None
    assert run(space, "x + 1") == 4
    run(space, "def f(): return x * 2")
    run(space, "x = 10")
    assert run(space, "f()") == 20
    assert run(space, "[x for _ in range(2)]") == [10, 10]


def test_the_runtimes_names_are_never_in_it(space: Namespace) -> None:
    names = set(space.names)
    assert names <= {"__name__", "__doc__", "__package__", "__loader__", "__spec__", "__builtins__"}
    run(space, "1")
    assert set(space.names) == names
    assert run(space, "__name__") == "__main__"
    for name in ("codec", "sys", "Namespace", "self", "source"):
        with pytest.raises(NameError):
            run(space, name)


def test_parameters_last_for_one_command(space: Namespace) -> None:
    assert run(space, "a + b", a=1, b=2) == 3
    with pytest.raises(NameError):
        run(space, "a")


def test_parameters_shadow_for_one_command(space: Namespace) -> None:
    run(space, "a = 1")
    assert run(space, "a", a=2) == 2
    assert run(space, "a") == 1


def test_parameters_are_taken_back_after_a_failure(space: Namespace) -> None:
    run(space, "a = 1")
    with pytest.raises(ZeroDivisionError):
        run(space, "a / b", a=2, b=0)
    assert run(space, "a") == 1
    assert "b" not in space.names


def test_what_a_command_binds_anew_is_its_own_and_stays(space: Namespace) -> None:
    run(space, "a = a + 1; c = a", a=1)
    assert run(space, "(a, c)") == (2, 2)
    run(space, "del a", a=1)
    assert "a" not in space.names


def test_parameters_with_any_name_harm_nothing(space: Namespace) -> None:
    names = ["time", "os", "print", "eval", "sys", "code", "self", "source", "mode", "parameters"]
    assert space.run_string(EVAL, "(time, os, print)", dict.fromkeys(names, 7)) == (7, 7, 7)
    assert run(space, "len('ab')") == 2
    run(space, "import time")
    assert run(space, "time", time=1) == 1
    assert run(space, "time.time() > 0")


def test_a_mutable_parameter_is_not_restored_by_equality(space: Namespace) -> None:
    run(space, "x = [0]")
    run(space, "x = [1]", x=[1])  # equal to the parameter, but the command's own
    assert run(space, "x") == [1]


# -- commands that rebind what the runtime stands on ----------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        "print = len = None",
        "__builtins__ = {}",
        "__builtins__ = None",
        "del __builtins__",
        "__builtins__.len = None",
        "del __builtins__.len",
        "vars(__builtins__).clear()",
        "import builtins; builtins.len = None; builtins.print = None",
        "import builtins; del builtins.len",
        "import builtins; vars(builtins).update(len=None, isinstance=None)",
    ],
)
def test_rebound_builtins_are_the_commands_own_affair(space: Namespace, source: str) -> None:
    pristine = builtins.len, builtins.print, builtins.isinstance
    space.run_string(EXEC, source, None)
    assert (builtins.len, builtins.print, builtins.isinstance) == pristine
    assert space.run_string(EVAL, "1 + 1", None) == 2
    assert Namespace().run_string(EVAL, "len('ab')", None) == 2


def test_rebinding_a_builtin_changes_the_users_world(space: Namespace) -> None:
    run(space, "len = lambda x: 42")
    assert run(space, "len('ab')") == 42
    run(space, "del len")
    assert run(space, "len('ab')") == 2
    run(space, "__builtins__.len = lambda x: 43")
    assert run(space, "len('ab')") == 43


@pytest.mark.parametrize(
    "source",
    [
        "def f():\n  import builtins\n  builtins.len = None",
        "import builtins\ndef f(): builtins.len = None",
        "def f(): __builtins__['len'] = None",
        "def g():\n  import builtins\n  builtins.len = None\ndef f(): g()",
        "import builtins\ndef g(): builtins.len = None\ndef f(): g()",
    ],
)
@pytest.mark.parametrize("each", [False, True])
def test_a_function_of_the_users_cannot_take_the_builtins_away(
    space: Namespace, source: str, each: bool
) -> None:
    pristine = builtins.len
    f = script(source)
    if each:
        space.call_each(f, False, [()])
    else:
        space.call(f, (), {})
    changed = builtins.len
    builtins.len = pristine
    assert changed is pristine


def test_builtins_are_restored_after_a_failure(space: Namespace) -> None:
    with pytest.raises(ZeroDivisionError):
        run(space, "import builtins; builtins.zip = 1; 1 / 0")
    assert zip is builtins.zip
    assert callable(zip)


# -- functions ------------------------------------------------------------------------------------


def test_a_function_borrows_names_of_the_namespace(space: Namespace) -> None:
    f = script("def f(k): return x * k + g()\ndef g(): return y")
    with pytest.raises(NameError):
        space.call(f, (2,), {})
    run(space, "x, y = 10, 1")
    assert space.call(f, (2,), {}) == 21
    assert space.call(f, (), {"k": 3}) == 31
    run(space, "x = 20")
    assert space.call(f, (2,), {}) == 41
    assert space.call_each(f, False, [(1,), (2,)]) == [21, 41]
    assert space.call_each(f, True, [1, 2]) == [21, 41]


def test_what_a_function_brought_along_comes_first(space: Namespace) -> None:
    run(space, "x = 10")
    assert space.call(script("x = 1\ndef f(): return x"), (), {}) == 1


def test_a_name_that_is_gone_is_not_lent_any_more(space: Namespace) -> None:
    f = script("def f(): return x")
    run(space, "x = 1")
    assert space.call(f, (), {}) == 1
    run(space, "del x")
    with pytest.raises(NameError):
        space.call(f, (), {})


def test_what_was_lent_is_not_kept_alive(space: Namespace) -> None:
    f = script("def f(): return id(x)")
    run(space, "class Big: pass\nx = Big()")
    gone = weakref.ref(space.names["x"])
    space.call(f, (), {})
    run(space, "x = None")
    space.call(f, (), {})
    assert gone() is None


def test_functions_of_modules_borrow_nothing(space: Namespace) -> None:
    run(space, "x = 1")

    def f() -> Any:
        return x  # type: ignore[name-defined]  # noqa: F821 - that is the point

    with pytest.raises(NameError):
        space.call(f, (), {})


def test_an_item_of_a_map_that_raises_is_told_by_its_index(space: Namespace) -> None:
    with pytest.raises(ItemError) as caught:
        space.call_each(lambda x: 1 / x, True, [2, 1, 0, 3])
    assert caught.value.index == 2
    assert isinstance(caught.value.error, ZeroDivisionError)
    assert caught.value.__cause__ is caught.value.error


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, StopIteration])
def test_an_item_may_raise_anything(space: Namespace, error: type[BaseException]) -> None:
    def f(x: int) -> None:
        raise error(x)

    with pytest.raises(ItemError) as caught:
        space.call_each(f, False, [(5,)])
    assert caught.value.index == 0
    assert type(caught.value.error) is error


# -- classes and pickle ---------------------------------------------------------------------------


def test_what_commands_define_can_be_pickled(installed: Namespace) -> None:
    run(installed, "class Point:\n  def __init__(self, x): self.x = x")
    run(installed, "def double(x): return 2 * x")
    assert run(installed, "Point.__module__") == "__main__"
    point = run(installed, "Point(3)")
    assert pickle.loads(pickle.dumps(point)).x == 3
    data, _ = codec.dumps((point, installed.names["double"]), 1 << 60)
    del installed.names["Point"], installed.names["double"]
    back, double = codec.loads(data)  # as at the client, whose __main__ has neither
    assert double(back.x) == 6


def test_pickle_within_a_command(installed: Namespace) -> None:
    run(installed, "import pickle\nclass P: pass")
    run(installed, "q = pickle.loads(pickle.dumps(P()))")
    assert run(installed, "type(q) is P")


def test_type_hints_of_commands_resolve(installed: Namespace) -> None:
    run(installed, "import typing\nclass A:\n  other: 'B'\nclass B: pass")
    assert run(installed, "typing.get_type_hints(A)['other'] is B")


# -- tracebacks -----------------------------------------------------------------------------------


def failure(space: Namespace, source: str, **parameters: Any) -> tuple[str, str]:
    with pytest.raises(BaseException) as caught:
        run(space, source, **parameters)
    return describe(caught.value)


def test_a_traceback_has_the_source_line_of_a_string_command(space: Namespace) -> None:
    run(space, "def f(x):\n    y = x\n    return 1 / y  # here")
    text, summary = failure(space, "a = 1\nf(0)")
    assert summary == "ZeroDivisionError: division by zero"
    assert "return 1 / y  # here" in text
    assert "f(0)" in text
    assert text.startswith("Traceback (most recent call last):\n")
    assert "line 2, in <module>" in text
    assert "line 3, in f" in text


def test_chained_exceptions_are_told(space: Namespace) -> None:
    text, summary = failure(space, "try:\n  1 / 0\nexcept Exception as e:\n  raise KeyError('k') from e")
    assert summary == "KeyError: 'k'"
    assert "ZeroDivisionError" in text
    assert "direct cause" in text


@pytest.mark.parametrize(
    ("source", "summary"),
    [
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise ValueError('one\\ntwo')", None),
        ("raise ValueError", "ValueError"),
        ("eval('1 +')", "SyntaxError: invalid syntax"),
    ],
)
def test_summaries_are_one_line(space: Namespace, source: str, summary: str | None) -> None:
    found = failure(space, source)[1]
    assert "\n" not in found
    assert found
    assert summary is None or found == summary


def test_an_exception_without_a_usable_text_is_described(space: Namespace) -> None:
    text, summary = failure(
        space, "class Bad(Exception):\n  def __str__(self): raise RuntimeError('no')\nraise Bad"
    )
    assert "Bad" in summary
    assert "raise Bad" in text


def test_the_sources_kept_are_bounded(space: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    import linecache

    monkeypatch.setattr("mpiframe.namespace._SOURCES", 5)
    before = len(linecache.cache)
    for number in range(50):
        run(space, f"{number}")
    assert len(linecache.cache) - before <= 6


# -- commands as they arrive ----------------------------------------------------------------------


def outcome(executor: Executor, mode: int, body: Any, payload: Any = None) -> tuple[Any, ...]:
    """As a server does it: whatever happens is an outcome."""
    try:
        value = executor.run(mode, body, 0, payload is not None, payload, ())
        return executor.ended(value)
    except BaseException as error:
        frames = error.__traceback__
        return executor.raised(error.with_traceback(frames and frames.tb_next))  # not this one


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise GeneratorExit", "GeneratorExit"),
        ("def f(): f()\nf()", "RecursionError"),
        ("class E(BaseException):\n  def __init__(self, a, b): pass\nraise E(1, 2)", "E"),
    ],
)
def test_whatever_a_command_raises_is_an_outcome(source: str, name: str) -> None:
    kind, (data, text, summary, item), buffers = outcome(Executor(1 << 16), EXEC, source)
    assert kind == Outcome.RAISED
    assert name in summary
    assert "Traceback" in text
    assert item is None
    assert not buffers
    if data is not None:
        assert isinstance(codec.loads(data), BaseException)


@pytest.mark.parametrize(
    "source",
    [
        "__import__('threading').Lock()",
        "(x for x in ())",
        "type('R', (), {'__reduce__': lambda self: 1 / 0})()",
        "type('R', (), {'__reduce__': lambda self: __import__('sys').exit()})()",
    ],
)
def test_a_result_that_cannot_be_pickled_is_an_outcome(source: str) -> None:
    kind, (_, what), _ = outcome(Executor(1 << 16), EVAL, source)
    assert kind == Outcome.UNSENDABLE
    assert "cannot be pickled" in what


def test_an_exception_that_cannot_be_pickled_is_told_by_its_text() -> None:
    executor = Executor(1 << 16)
    source = "import threading\nraise ValueError('told', threading.Lock())"
    kind, (data, text, summary, _), _ = outcome(executor, EXEC, source)
    assert kind == Outcome.RAISED
    assert data is None
    assert "told" in summary
    assert "raise ValueError" in text


def test_the_runtimes_own_frames_are_left_out() -> None:
    executor = Executor(1 << 16)
    payload, _ = codec.dumps((lambda x: 1 / x, ((0,), {})), 1 << 60)
    chunk, _ = codec.dumps((lambda x: 1 / x, (True, [0])), 1 << 60)
    for said in (
        outcome(executor, EVAL, "1 / 0"),
        outcome(executor, int(Mode.CALL), None, payload),
        outcome(executor, int(Mode.MAP), None, chunk),
    ):
        text = said[1][1]
        assert "mpiframe/" not in text
        assert text.count("  File ") == 1


def test_the_index_of_a_failed_item_travels() -> None:
    payload, _ = codec.dumps((lambda x: 1 / x, (False, [(1,), (0,)])), 1 << 60)
    kind, (data, _, summary, item), _ = outcome(Executor(1 << 16), int(Mode.MAP), None, payload)
    assert kind == Outcome.RAISED
    assert item == 1
    assert "ZeroDivisionError" in summary
    assert isinstance(codec.loads(data), ZeroDivisionError)


def test_arguments_that_cannot_be_unpickled_are_an_outcome() -> None:
    kind, payload, _ = outcome(Executor(1 << 16), int(Mode.CALL), None, b"garbage")
    assert kind == Outcome.RAISED
    assert "Unpickling" in payload[2]


def test_a_cached_function_is_used_until_it_is_forgotten() -> None:
    executor = Executor(1 << 16)
    data, _ = codec.dumps(lambda x: x + 1, 1 << 60)
    assert executor.run(int(Mode.CALL), data, 5, False, ((1,), {}), ()) == 2
    assert executor.run(int(Mode.CALL), None, 5, False, ((2,), {}), ()) == 3
    executor.forget()
    with pytest.raises(AssertionError, match="never sent"):
        executor.run(int(Mode.CALL), None, 5, False, ((2,), {}), ())


def test_a_function_that_cannot_be_unpickled_fails_each_call() -> None:
    executor = Executor(1 << 16)
    data = b"\x80\x05cno_such_module_here\nf\n."
    for body in (data, None):
        with pytest.raises(ModuleNotFoundError):
            executor.run(int(Mode.CALL), body, 5, False, ((), {}), ())
