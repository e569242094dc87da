"""Objects to bytes and back, and when a function may be cached."""

from __future__ import annotations

import operator
import os
import pickle
import subprocess
import sys
import threading
import types
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mpiframe import codec
from mpiframe.errors import SerializationError

LARGE = 64 * 1024
quick = settings(max_examples=60, deadline=None, derandomize=True, database=None)

numbers = st.none() | st.booleans() | st.integers() | st.floats() | st.complex_numbers(allow_nan=True)
texts = st.text(st.characters(), max_size=40) | st.text(st.characters(categories=["Cs"]), max_size=5)
plain = numbers | texts | st.binary(max_size=40)
nested = st.recursive(
    plain,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(texts | st.integers(), inner, max_size=4)
        | st.frozensets(st.integers(), max_size=4)
    ),
    max_leaves=12,
)


def travel(value: object, large: int = LARGE) -> Any:
    """There and back: what does not fit into a frame goes beside it, and lands in new memory."""
    pickled, payload, buffers = codec.encode(value, large)
    (arrived,) = codec.unpack(codec.pack((payload,)))
    if not pickled:
        assert not buffers
        return arrived
    return codec.loads(arrived, [bytearray(memoryview(b).cast("B")) for b in buffers])


def same(a: object, b: object) -> bool:
    """Equal, of equal types all the way down; NaN equals NaN, -0.0 is not 0.0."""
    if type(a) is not type(b):
        return False
    if isinstance(a, (list, tuple)):
        assert isinstance(b, (list, tuple))
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        assert isinstance(b, dict)
        return same(list(a.items()), list(b.items()))
    if isinstance(a, (float, complex)):
        return repr(a) == repr(b)
    return a == b


# -- round trips ----------------------------------------------------------------------------------


@quick
@given(plain)
def test_plain_values_travel_in_the_frame_with_their_exact_type(value: object) -> None:
    assert codec.is_plain(value)
    assert same(travel(value), value)


@quick
@given(nested, st.sampled_from([1, 64, LARGE]))
def test_nested_values(value: object, large: int) -> None:
    assert same(travel(value, large), value)


@quick
@given(st.tuples(nested, nested))
def test_a_frame_carries_plain_containers(message: tuple[Any, ...]) -> None:
    if "frozenset" not in repr(message):
        assert same(codec.unpack(codec.pack(message)), message)


class Text(str):
    __slots__ = ()


@pytest.mark.parametrize(
    "value",
    [Text("x"), True, np.int64(3), np.float64(0.5), np.str_("x"), OSError(2, "no"), range(3), ...],
    ids=repr,
)
def test_subclasses_of_plain_types_keep_their_type(value: object) -> None:
    back = travel(value)
    assert type(back) is type(value)
    assert repr(back) == repr(value)


@pytest.mark.parametrize("size", [4095, 4096, 4097, LARGE - 1, LARGE, LARGE + 1, 1 << 20])
@pytest.mark.parametrize("unit", ["a", "é", "\ud800", "\U0001f52d", "\0", b"a", b"\xff"], ids=repr)
def test_long_strings_and_bytes(unit: str | bytes, size: int) -> None:
    value = unit * size
    back = travel(value)
    assert type(back) is type(value)
    assert back == value


@pytest.mark.parametrize("value", ["x" * LARGE, b"x" * LARGE, bytearray(LARGE)], ids=type)
def test_long_strings_and_bytes_go_beside_the_frame(value: Any) -> None:
    _, payload, buffers = codec.encode(value, LARGE)
    if type(value) is not bytearray:  # pickle keeps these in its stream; their type is rare
        assert len(payload) < 1000
        assert sum(memoryview(b).nbytes for b in buffers) == LARGE
    assert travel(value) == value


kinds = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(),
    hnp.floating_dtypes(),
    hnp.complex_number_dtypes(),
    hnp.datetime64_dtypes(),
    hnp.byte_string_dtypes(max_len=5),
    hnp.unicode_string_dtypes(max_len=5),
    st.just(np.dtype([("a", "<i4"), ("b", ">f8", (2,)), ("c", "S3")])),
)


def equal(a: np.ndarray, b: np.ndarray) -> bool:
    if a.dtype.hasobject:
        return a.tolist() == b.tolist()
    # numpy's own pickles keep the byte order of contiguous arrays only.
    a, b = (x.astype(x.dtype.newbyteorder("="), copy=False) for x in (a, b))
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@quick
@given(
    st.data(),
    kinds,
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
    st.sampled_from([1, 16, LARGE]),
)
def test_arrays(data: st.DataObject, kind: np.dtype, shape: tuple[int, ...], large: int) -> None:
    size = int(np.prod(shape)) * kind.itemsize
    raw = data.draw(st.binary(min_size=size, max_size=size))
    if kind.kind == "b":
        raw = bytes(byte & 1 for byte in raw)
    if kind.kind == "U":
        raw = bytes(size)
    array = np.frombuffer(bytearray(raw), kind, int(np.prod(shape)) if size else 0)
    array = array.reshape(shape) if size else np.zeros(shape, kind)
    for variant in (array, np.asfortranarray(array), array.T, array[::-1] if shape else array):
        back = travel(variant, large)
        assert equal(back, variant)
        assert back.flags.writeable
        assert back.flags.f_contiguous == variant.flags.f_contiguous or not (variant.flags.f_contiguous)


@pytest.mark.parametrize(
    "array",
    [
        np.array(3.5),
        np.zeros((0, 3)),
        np.zeros((3, 0), order="F"),
        np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        np.arange(100)[::7],
        np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2)[:, ::-1],
        np.broadcast_to(np.arange(3), (4, 3)),
        np.array([1, "two", None, [3]], dtype=object),
        np.array([(1, 2.0), (3, 4.0)], dtype=[("a", "i4"), ("b", "f8")]),
        np.rec.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
        np.ma.masked_array([1, 2, 3], [False, True, False]),
        np.arange(3, dtype=">u2"),
        np.array(["2026-01-01"], dtype="M8[D]"),
        np.arange(100_000, dtype="c16").reshape(100, 1000)[:, 1:],
    ],
    ids=lambda a: f"{a.dtype}{a.shape}",
)
@pytest.mark.parametrize("large", [1, LARGE])
def test_arrays_of_every_kind(array: np.ndarray, large: int) -> None:
    back = travel(array, large)
    assert type(back) is type(array)
    assert equal(np.asarray(back), np.asarray(array))
    if isinstance(array, np.ma.MaskedArray):
        assert back.mask.tolist() == array.mask.tolist()


@pytest.mark.parametrize("size", [8, 2 * LARGE])
def test_arrays_arrive_writable_and_apart_from_the_original(size: int) -> None:
    array = np.zeros(size, np.uint8)
    back = travel(array)
    assert back.flags.writeable
    back[0] = 1
    assert array[0] == 0


@pytest.mark.parametrize("size", [8, 2 * LARGE])
def test_an_array_that_is_read_only_stays_so_whatever_its_size(size: int) -> None:
    assert not travel(np.frombuffer(bytes(size), np.uint8)).flags.writeable


def test_large_arrays_are_not_copied_on_the_way_out() -> None:
    array = np.zeros(LARGE, np.uint8)
    _, payload, buffers = codec.encode({"deep": [array]}, LARGE)
    assert len(payload) < 1000
    (buffer,) = buffers
    assert np.shares_memory(np.frombuffer(buffer, np.uint8), array)


def test_one_below_the_limit_stays_in_the_frame() -> None:
    assert not codec.encode(np.zeros(LARGE - 1, np.uint8), LARGE)[2]


def test_an_array_that_occurs_twice_arrives_as_one() -> None:
    array = np.zeros(2 * LARGE, np.uint8)
    a, b = travel([array, array])
    assert a is b


# -- functions and classes of __main__ ------------------------------------------------------------

SCRIPT = """
import sys
from mpiframe import codec
class Point:
    def __init__(self, x): self.x = x
    def __eq__(self, other): return self.x == other.x
def double(p, *, by=factor_default): return Point(p.x * by * scale)
scale = 10
fast = lambda p: double(p)
data, buffers = codec.dumps((double, fast, Point(4), Point), 1 << 60)
assert not buffers
sys.stdout.buffer.write(data)
""".replace("factor_default", "2")


def test_what_main_defines_travels_by_value() -> None:
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, check=True)
    double, fast, point, kind = codec.loads(run.stdout)
    assert "Point" not in vars(sys.modules["__main__"])
    assert double(point).x == 80
    assert fast(point).x == 80
    assert type(point) is kind
    assert double(point) == kind(80)


def test_what_is_importable_travels_by_name() -> None:
    data, _ = codec.dumps([os.path.join, np.mean, threading.Thread], LARGE)
    assert len(data) < 200
    assert codec.loads(data) == [os.path.join, np.mean, threading.Thread]


def test_lambdas_and_local_functions_travel() -> None:
    offset = 5
    assert travel(lambda x: x + offset)(1) == 6


@pytest.mark.parametrize("value", [threading.Lock(), (n for n in ()), sys._getframe()], ids=type)
def test_what_cannot_be_pickled_raises(value: object) -> None:
    with pytest.raises(Exception):  # noqa: B017 - whatever pickle says
        codec.encode([value], LARGE)


def test_blame_names_the_argument() -> None:
    lock = threading.Lock()
    cause = TypeError("cannot pickle")
    error = codec.blame((1, lock), {}, cause)
    assert isinstance(error, SerializationError)
    assert "argument 2 (a lock)" in str(error)
    assert "argument 'key' (a lock)" in str(codec.blame((1,), {"a": 2, "key": [lock][0]}, cause))
    assert "argument 'inside' (a list)" in str(codec.blame((), {"inside": [lock]}, cause))
    assert "cannot pickle" in str(codec.blame((1,), {}, cause))


# -- damage ---------------------------------------------------------------------------------------

SAMPLE = {"a": [1, 2.5, "text"], "b": np.arange(5), "c": (None, b"bytes")}


def test_a_truncated_pickle_raises_an_ordinary_exception() -> None:
    data, _ = codec.dumps(SAMPLE, LARGE)
    for length in range(len(data)):
        with pytest.raises(Exception):  # noqa: B017 - any but a crash or a hang
            codec.loads(data[:length])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b".",
        b"\0" * 100,
        b"\xff" * 100,
        b"\x80\x05",
        b"\x80\x7f.",
        b"hello, world",
        b"\x80\x05cno.such.module\nname\n.",
        b"\x80\x05cos\nno_such_name\n.",
        b"\x80\x05(((((.",
        b"\x80\x05]\x94(K\x01e",
        b"\x80\x05\x97.",  # asks for a buffer that did not come
    ],
)
def test_garbage_raises_an_ordinary_exception(data: bytes) -> None:
    with pytest.raises(Exception):  # noqa: B017 - any but a crash or a hang
        codec.loads(data)


def test_a_missing_buffer_raises_an_ordinary_exception() -> None:
    data, buffers = codec.dumps([np.zeros(LARGE), np.zeros(LARGE)], LARGE)
    with pytest.raises(pickle.UnpicklingError):
        codec.loads(data, buffers[:1])


# -- the function cache ---------------------------------------------------------------------------


def define(source: str, **names: Any) -> dict[str, Any]:
    """The globals of a script; what it defines looks as if it came from __main__."""
    space: dict[str, Any] = {"__name__": "__main__", **names}
    exec(source, space)
    return space


def sent(cache: codec.FunctionCache, function: Any) -> Any:
    """The function as a server would have it that never had it before."""
    found = cache.lookup(function)
    data = codec.dumps(function, LARGE)[0] if found is None else found[1]
    return codec.loads(data)


def test_a_function_is_pickled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = codec.FunctionCache()
    f = define("def f(): return x + g()\ndef g(): return 1\nx = 1")["f"]
    first = cache.lookup(f)
    assert first is not None

    def dumps(*args: object) -> Any:
        raise AssertionError("pickled again")

    monkeypatch.setattr(codec, "dumps", dumps)
    assert cache.lookup(f) == first


@pytest.mark.parametrize("function", [os.path.join, operator.add, len, np.mean, dict], ids=repr)
def test_what_travels_by_name_is_cached(function: Any) -> None:
    cache = codec.FunctionCache()
    first = cache.lookup(function)
    assert first is not None
    assert cache.lookup(function) == first
    assert codec.loads(first[1]) is function


@pytest.mark.parametrize(
    ("before", "change", "after"),
    [
        ("x = 1\ndef f(): return x", "x = 2", 2),
        ("x = 1.5\ndef f(): return (lambda: x)()", "x = 2.5", 2.5),
        ("def g(): return 1\ndef f(): return g()", "def g(): return 2", 2),
        ("x = 1\ndef g(): return x\ndef f(): return g()", "x = 2", 2),
        ("def f(a=1): return a", "f.__defaults__ = (2,)", 2),
        ("def f(*, a=1): return a", "f.__kwdefaults__ = {'a': 2}", 2),
        ("def f(*, a=1): return a", "f.__kwdefaults__['a'] = 2", 2),
        ("def f(): return 1", "f.__code__ = (lambda: 2).__code__", 2),
        ("x = [1]\ndef f(): return x[0]", "x[0] = 2", 2),
        ("x = {}\ndef f(): return len(x)", "x[1] = 1; x[2] = 2", 2),
        ("x = ([1],)\ndef f(): return x[0][0]", "x[0][0] = 2", 2),
        ("class C:\n  x = 1\ndef f(): return C.x", "C.x = 2", 2),
        ("class C: pass\nc = C(); c.x = 1\ndef f(): return c.x", "c.x = 2", 2),
        ("def f(): return f.x\nf.x = 1", "f.x = 2", 2),
        ("def g(): return 1\ng.x = 1\ndef f(): return g.x", "g.x = 2", 2),
        ("def f(a=[1]): return a[0]", "f.__defaults__[0][0] = 2", 2),
        ("def f(): return len((1,))", "def len(x): return 2", 2),
        ("import math\ndef f(): return math.floor(1.5)", "import operator as math\n"
         "class math: floor = staticmethod(lambda x: 2)", 2),
        ("import functools\ndef g(x): return x\ng = functools.partial(g, 1)\n"
         "def f(): return g()", "g = functools.partial(g.func, 2)", 2),
    ],
)  # fmt: skip
def test_servers_see_what_the_client_sees_now(before: str, change: str, after: object) -> None:
    cache = codec.FunctionCache()
    space = define(before)
    f = space["f"]
    first = f()
    assert first != after
    assert sent(cache, f)() == first
    assert sent(cache, f)() == first
    exec(change, space)
    assert f() == after
    assert sent(cache, f)() == after


def test_a_closure_that_is_rebound_is_seen() -> None:
    cache = codec.FunctionCache()
    x = 1

    def f() -> int:
        return x

    f.__module__ = "__main__"
    assert sent(cache, f)() == 1
    x = 2
    assert sent(cache, f)() == 2


def test_a_value_that_moves_to_another_name_is_seen() -> None:
    cache = codec.FunctionCache()
    space = define("def f():\n  try: return a\n  except NameError: return -b\na = 1")
    f = space["f"]
    assert sent(cache, f)() == 1
    del space["a"]
    space["b"] = 1
    assert f() == -1
    assert sent(cache, f)() == -1


def test_a_module_that_cannot_be_imported_travels_by_value_so_it_may_change() -> None:
    cache = codec.FunctionCache()
    module = types.ModuleType("a_module_made_by_hand")
    f = define("def f(): return module.x", module=module)["f"]
    module.x = 1  # type: ignore[attr-defined]
    assert sent(cache, f)() == 1
    module.x = 2  # type: ignore[attr-defined]
    assert sent(cache, f)() == 2


@pytest.mark.parametrize(
    "source",
    [
        "x = []\ndef f(): return x",
        "x = {}\nf = lambda: x",
        "class C: pass\ndef f(): return C",
        "class C:\n  def __call__(self): return 1\nf = C()",
        "class C:\n  def m(self): return 1\nf = C().m",
        "import functools\nf = functools.partial(print)",
        "def make():\n  x = [1]\n  return lambda: x\nf = make()",
        "def f(a={}): return a",
    ],
)
def test_what_holds_something_mutable_is_never_cached(source: str) -> None:
    assert codec.FunctionCache().lookup(define(source)["f"]) is None


def test_equal_functions_share_a_key_and_others_do_not() -> None:
    cache = codec.FunctionCache()
    source = "x = 1\ndef f(): return x"
    space = define(source)
    one = cache.lookup(space["f"])
    assert one is not None
    space["x"] = 2
    other = cache.lookup(space["f"])
    assert other is not None
    assert other[0] != one[0]
    space["x"] = 1
    assert cache.lookup(space["f"]) == one


def test_an_id_that_is_used_again_is_no_mistake() -> None:
    cache = codec.FunctionCache(size=2)
    for number in range(50):
        f = define(f"def f(): return {number}")["f"]
        assert sent(cache, f)() == number
        del f


def test_the_cache_is_bounded_and_can_be_cleared() -> None:
    cache = codec.FunctionCache(size=4)
    assert not cache.full()
    for number in range(17):
        assert cache.lookup(define(f"def f(): return {number}")["f"]) is not None
    assert cache.full()
    cache.clear()
    assert not cache.full()
    assert cache.lookup(define("def f(): return 0")["f"]) is not None


def test_recursion_is_no_obstacle() -> None:
    cache = codec.FunctionCache()
    f = define("def f(n): return 1 if n == 0 else n * f(n - 1)")["f"]
    found = cache.lookup(f)
    assert found is not None
    assert codec.loads(found[1])(5) == 120
    f = define("def f(n): return n == 0 or g(n - 1)\ndef g(n): return f(n)")["f"]
    assert sent(cache, f)(3) is True


def test_global_names_include_those_of_inner_code() -> None:
    code = define("def f():\n  a\n  return [lambda: b for _ in c]")["f"].__code__
    assert {"a", "b", "c"} <= set(codec.global_names(code))


@pytest.mark.parametrize(
    ("value", "expected"),
    [(os.path.join, True), (threading.Thread, True), (lambda: 0, False), (3, False)],
)
def test_travels_by_name(value: object, expected: bool) -> None:
    assert codec.travels_by_name(value) is expected


def test_a_function_that_was_replaced_in_its_module_does_not_travel_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = types.ModuleType("replaced_here")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec("def f(): return 1", vars(module))
    old = module.f
    assert codec.travels_by_name(old)
    exec("def f(): return 2", vars(module))
    assert not codec.travels_by_name(old)


def test_modules_registered_by_value_do_not_travel_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    import cloudpickle

    module = types.ModuleType("registered_here")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec("def f(): return 1", vars(module))
    cloudpickle.register_pickle_by_value(module)
    try:
        assert not codec.travels_by_name(module.f)
        data, _ = codec.dumps(module.f, LARGE)
    finally:
        cloudpickle.unregister_pickle_by_value(module)
    monkeypatch.delitem(sys.modules, module.__name__)
    assert codec.loads(data)() == 1
