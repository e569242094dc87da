"""Fingerprints: the same in every process; another one when what a function does, or an input says, is."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpiframe.errors import JournalError
from mpiframe.fingerprint import Fingerprinter, changes, name_of, summary

pytestmark = pytest.mark.timeout(120)

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = '''
import collections, dataclasses, datetime, decimal, enum, functools, json, math, operator, pathlib, re, sys
import numpy as np
import own

WORDS = {"alpha", "beta", "gamma", "delta"}
TABLE = {word: len(word) for word in WORDS}
LIMIT = 3

class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"

@dataclasses.dataclass
class Point:
    x: float
    tags: set = dataclasses.field(default_factory=lambda: {"a", "b", "c"})
    def far(self): return self.x > LIMIT

class Slotted:
    __slots__ = ("a", "b")
    def __init__(self): self.a, self.b = {"x", "y", "z"}, 2

Pair = collections.namedtuple("Pair", "left right")

def helper(n): return n in {"one", "two", "three", "four"}
def fit(n, by=2, *, words=frozenset(WORDS)):
    """Text."""
    def inner(m): return helper(m) and TABLE.get(m, LIMIT)
    return [inner(k) for k in (n, by)], own.double(n), Point(n), Colour.RED, {"p", "q", "r"} & words
def odd(n): return n and even(n - 1)
def even(n): return not n or odd(n - 1)
def maker(by):
    return lambda n: n * by
@functools.lru_cache
def cached(n): return helper(n)
@functools.wraps(helper)
def wrapped(n): return helper(n)
def generated(items):
    yield from (i for i in items if i not in {"u", "v", "w"})

loop = [1, {"a"}]
loop.append(loop)
shared = ["x"]
functions = [fit, odd, generated, maker(3), maker({"a", "b", "c"}), cached, wrapped,
             functools.partial(fit, by=WORDS), Point(1.0).far, Point, operator.add, math.sqrt,
             np.sin, own.double, "x + 1", str.upper]
values = [1, 1.0, True, None, "x", b"x", -0.0, float("nan"), 10**5000, "\\udcff", WORDS, frozenset(WORDS),
          TABLE, (WORDS, [TABLE]), collections.OrderedDict(TABLE), collections.Counter(WORDS), Pair(WORDS, 2),
          collections.deque(sorted(WORDS), 9), Point(2.0), Slotted(), Colour.BLUE, {Colour.RED: WORDS},
          {(1, "a"): WORDS}, loop, [shared, shared], range(9), slice(1, 2), ..., complex(1, 2),
          pathlib.Path("/x/y"), datetime.datetime(2020, 1, 1), decimal.Decimal("1.5"), re.compile("a+"),
          np.arange(6.0).reshape(2, 3), np.float32(1.5), np.array(["a", WORDS], object), np.zeros(0),
          np.array(["2020-01-01"], "M8[D]"), np.dtype("f4,i2"), np.longdouble(1) / 3, np.zeros(3, "f4,u1"),
          np.ma.masked_array([1, 2], [True, False]), np.random.default_rng(1), helper, Point, maker(WORDS),
          functools.partial(helper, 1), memoryview, bytearray(b"x"), own, 2**70, np.True_, np.array(5)]
'''

MAIN = """
from mpiframe.fingerprint import Fingerprinter, summary
prints = Fingerprinter()
print(json.dumps([[prints.function(f) for f in functions], [prints.value(v).hex() for v in values]]))
"""

OWN = "def double(n): return twice(n, {'s', 't', 'u'})\ndef twice(n, by): return 2 * n\n"


def found_by(folder: Path, seed: str, script: str = SCRIPT, own: str = OWN) -> Any:
    folder.mkdir(exist_ok=True)
    (folder / "own.py").write_text(own)
    (folder / "script.py").write_text(script + MAIN)
    env = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    run = subprocess.run(
        [sys.executable, "script.py"], cwd=folder, env=env, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_every_process_finds_the_same(tmp_path: Path) -> None:
    functions, values = found_by(tmp_path / "a", "0")
    for seed in ("1", "77", "4242"):
        # Another folder, and other line numbers.
        others, other_values = found_by(tmp_path / seed, seed, "\n\n# moved\n" + SCRIPT)
        for number, (one, other) in enumerate(zip(functions, others, strict=True)):
            assert changes(one, other) == [], number
        assert [n for n, v in enumerate(values) if v != other_values[n]] == []
    assert len({summary(f) for f in functions}) == len(functions)
    assert len(set(values)) == len(values)


CHANGES = {
    "body": (("return [inner(k)", "return [not inner(k)"), "the code of fit"),
    "inner": (("return helper(m) and", "return helper(m) or"), "the code of fit"),
    "default": (("def fit(n, by=2,", "def fit(n, by=5,"), "the default of by in fit"),
    "keyword": (("words=frozenset(WORDS)", "words=frozenset()"), "the default of words in fit"),
    "helper": (('"three", "four"', '"three", "five"'), "the code of helper"),
    "global": (("LIMIT = 3", "LIMIT = 4"), "the global LIMIT"),
    "table": (("word: len(word)", "word: -len(word)"), "the global TABLE"),
    "method": (("return self.x > LIMIT", "return self.x < LIMIT"), "the code of Point.far"),
    "class": (('RED = "red"', 'RED = "pink"'), "Colour._member_map_"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_is_seen_and_named(tmp_path: Path, what: str) -> None:
    (old, new), name = CHANGES[what]
    assert SCRIPT.count(old) == 1
    before = found_by(tmp_path, "1")[0][0]
    after = found_by(tmp_path, "2", SCRIPT.replace(old, new))[0][0]
    assert name in changes(before, after)
    assert all(other in name or "Colour" in other or "LIMIT" in other for other in changes(before, after))


def test_a_change_in_a_module_of_the_users(tmp_path: Path) -> None:
    before = found_by(tmp_path, "1")[0]
    after = found_by(tmp_path, "1", own=OWN.replace("return 2 * n", "return 3 * n"))[0]
    changed = [number for number, f in enumerate(before) if summary(f) != summary(after[number])]
    assert changes(before[0], after[0]) == ["the code of own.twice"]
    assert changed == [0, 7, 13]  # fit, partial of fit, own.double


def test_what_a_closure_holds_and_what_differs_by_nothing_else() -> None:
    def maker(by: Any) -> Any:
        return lambda n: n * by

    prints = Fingerprinter()
    (changed,) = changes(prints.function(maker(2)), prints.function(maker(3)))
    assert changed.startswith("the variable by around ")
    assert prints.function(maker(2)) == prints.function(maker(2))


def test_comments_names_of_files_and_lines_are_no_change() -> None:
    spaces: list[dict[str, Any]] = [{"__name__": "__main__"}, {"__name__": "__main__"}]
    exec(compile("def f(x):\n    return x + 1\n", "one.py", "exec"), spaces[0])
    exec(compile("\n\n# words\ndef f(x):\n\n    # more\n    return (x\n + 1)\n", "two.py", "exec"), spaces[1])
    prints = Fingerprinter()
    assert changes(prints.function(spaces[0]["f"]), prints.function(spaces[1]["f"])) == []


def test_another_python_is_the_first_to_be_named() -> None:
    now = Fingerprinter().function(found_by)
    before = {**now, "the version of Python": "2.7", "the code of found_by": "?"}
    (changed,) = changes(before, now)
    assert changed.startswith("the version of Python (2.7 then, 3.")


DIFFERENT = [
    (1, 1.0),
    (1, True),
    ("x", b"x"),
    (0.0, -0.0),
    ([1, 2], (1, 2)),
    ([1, 2], [2, 1]),
    ({1: 2}, {1: 3}),
    ({1, 2}, frozenset({1, 2})),
    (np.arange(4), np.arange(4).reshape(2, 2)),
    (np.arange(4, dtype="i4"), np.arange(4, dtype="u4")),
    (np.zeros(3), np.array([0.0, 0.0, -0.0])),
    (np.zeros(2, "f4,u1"), np.array([(0, 0), (0, 1)], "f4,u1")),
    (np.array([1, "a"], object), np.array([1, "b"], object)),
    ([[1], [2]], [[1, 2]]),
    (range(3), range(4)),
    ("ab", ["a", "b"]),
]


@pytest.mark.parametrize("pair", DIFFERENT, ids=repr)
def test_values_that_differ(pair: tuple[Any, Any]) -> None:
    one, other = map(Fingerprinter().value, pair)
    assert one != other


def test_values_that_are_equal() -> None:
    """Whether two equal objects are one object, or in which order a dict was filled, is nothing of theirs."""
    text = "".join(["spa", "m"])
    prints = Fingerprinter()
    assert prints.value((text, text)) == prints.value(("spam", "".join(["sp", "am"])))
    assert prints.value([[1], [1]]) == prints.value([[1]] * 2)
    assert prints.value({"a": 1, "b": 2}) == prints.value({"b": 2, "a": 1})
    whole = np.arange(12).reshape(3, 4)
    assert prints.value(whole) == prints.value(np.asfortranarray(whole))
    assert prints.value(whole[:, 1]) == prints.value(whole[:, 1].copy())
    kind = np.dtype({"names": ["a", "b"], "formats": ["u1", "f4"], "offsets": [0, 4]})
    padded = np.frombuffer(bytes(8), kind)
    other = np.frombuffer(b"\0xyz\0\0\0\0", kind)
    assert prints.value(padded) == prints.value(other)


@pytest.mark.parametrize(
    "value", [threading.Lock(), (n for n in "ab"), [1, {"a": threading.Lock()}]], ids=str
)
def test_what_cannot_be_compared_is_refused(value: Any) -> None:
    with pytest.raises(JournalError, match="cannot be compared with what was recorded"):
        Fingerprinter().value(value)


def test_what_is_too_deep_is_refused() -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(JournalError, match="nested too deeply"):
        Fingerprinter().value(value)


def test_a_global_that_cannot_be_compared_counts_by_its_kind() -> None:
    space: dict[str, Any] = {"__name__": "__main__", "lock": threading.Lock()}
    exec("def f(x):\n    with lock: return x", space)
    parts = Fingerprinter().function(space["f"])
    assert parts["the global lock"] == "a lock"
    space["lock"] = 5
    assert changes(parts, Fingerprinter().function(space["f"])) == ["the global lock"]


def test_attributes_are_no_globals() -> None:
    space: dict[str, Any] = {"__name__": "__main__", "mean": 1}
    exec("def f(x): return x.mean()", space)
    parts = Fingerprinter().function(space["f"])
    space["mean"] = 2
    assert Fingerprinter().function(space["f"]) == parts


def test_names() -> None:
    assert name_of(functools.partial(json.dumps)) == "partial(json.dumps)"
    assert name_of(json.dumps) == "json.dumps"
    assert name_of("x + 1") == "a string"
    assert name_of(lambda: 1).endswith("test_names.<locals>.<lambda>")
