"""`broadcast`, `scatter`, `gather`, `reduce`, `allreduce`: variables and items spread over the servers."""

from __future__ import annotations

import collections
import concurrent.futures
import functools
import itertools
import operator
import sys
import threading

import numpy as np
import pytest

import mpiframe
from mpiframe.session import Session

pytestmark = pytest.mark.timeout(60)

PARTIALS = "len(__import__('mpiframe.group', fromlist=['group'])._partials)"


def in_main(source, name):
    """What the source defines, as if it were part of the user's script."""
    names = vars(sys.modules["__main__"])
    exec(source, names)
    return names[name]


def everywhere(client, expression):
    """The value of an expression on each server."""
    return [r.result() for r in client.push(expression, "all", True)]


@pytest.fixture(params=["near", "far"])
def place(request, monkeypatch):
    """Once as it is, and once as if every server were on another host."""
    if request.param == "far":
        monkeypatch.setattr(Session, "_is_near", lambda self, rank: False)


# -- broadcast -------------------------------------------------------------------------------------


@pytest.mark.smoke
@pytest.mark.parametrize("size", [0, 1, 8191, 8192, 8193, 1 << 20])
def test_broadcast_of_arrays(client, servers, place, size):
    table = np.arange(size, dtype=np.float64)
    client.broadcast(table=table, scale=2, words=["a", {"b": None}])
    for response in client.push("table, scale, words", "all", True):
        got, scale, words = response.result()
        assert np.array_equal(got, table)
        assert (scale, words) == (2, ["a", {"b": None}])
    client.push("table += 1", "all", True)
    assert everywhere(client, "float(table.sum())") == [float((table + 1).sum())] * len(servers)
    assert np.array_equal(table, np.arange(size))


@pytest.mark.parametrize("target", [1, [1], "all"])
def test_broadcast_to_some(client, servers, place, target):
    client.push("shared = 'old'", "all", True)
    client.broadcast(target=target, shared="new")
    wanted = ["new" if target == "all" or rank == 1 else "old" for rank in servers]
    assert everywhere(client, "shared") == wanted


@pytest.mark.servers(3)
def test_broadcast_in_any_order(client, place):
    client.push("shared = None", "all", True)
    client.broadcast(target=[3, 1], shared=np.arange(50_000))
    assert everywhere(client, "None if shared is None else int(shared[-1])")[:3] == [49_999, None, 49_999]


@pytest.mark.servers(3)
def test_broadcast_to_near_and_far_at_once(client, servers, monkeypatch):
    monkeypatch.setattr(Session, "_is_near", lambda self, rank: rank == 1)
    client.broadcast(table=np.arange(100_000), name="x")
    assert everywhere(client, "(int(table.sum()), name)") == [(4999950000, "x")] * len(servers)


def test_broadcast_of_the_scripts_own_things(client, servers, place):
    thing = in_main(
        "LIMIT = 7\nclass Thing:\n def get(self): return LIMIT, self.data.nbytes, self.f(1)\nthing = Thing()",
        "thing",
    )
    thing.data, by = np.zeros(20_000), 3
    thing.f = lambda x: x + by
    client.broadcast(thing=thing)
    assert everywhere(client, "thing.get()") == [(7, 160_000, 4)] * len(servers)


def test_one_array_under_two_names_is_one_array(client, servers, place):
    table = np.zeros(50_000)
    client.broadcast(a=table, b=table)
    assert everywhere(client, "a is b") == [True] * len(servers)


@pytest.mark.parametrize("verb", ["broadcast", "scatter"])
def test_refused_variables(client, verb):
    send = getattr(client, verb)
    with pytest.raises(mpiframe.CommandArgumentError, match="by name"):
        send()
    with pytest.raises(mpiframe.CommandArgumentError, match="needs to know its servers"):
        send(target=None, x=[1])
    with pytest.raises(mpiframe.CommandArgumentError, match="twice"):
        send(target=[1, 1], x=[1])
    with pytest.raises(mpiframe.TargetError):
        send(target=[], x=[1])
    with pytest.raises(mpiframe.SerializationError, match="cannot be pickled") as caught:
        send(fine=[2] * 9, broken=[threading.Lock()] * 9)
    assert "broken" in str(caught.value)


# -- scatter and gather ----------------------------------------------------------------------------


def shares(count, servers):
    size, rest = divmod(count, servers)
    return [size + (index < rest) for index in range(servers)]


@pytest.mark.smoke
@pytest.mark.parametrize("rows", [0, 1, 2, 7, 20_001])
@pytest.mark.parametrize("kind", ["flat", "rows", "list", "tuple", "range", "bytearray"])
def test_scatter_and_gather(client, servers, rows, kind):
    whole = {
        "flat": np.arange(rows, dtype=np.int64),
        "rows": np.arange(rows * 6.0).reshape(rows, 2, 3),
        "list": list(range(rows)),
        "tuple": tuple(map(str, range(rows))),
        "range": range(rows),
        "bytearray": bytearray(rows),
    }[kind]
    client.scatter(part=whole)
    assert everywhere(client, "len(part)") == shares(rows, len(servers))
    assert set(everywhere(client, "type(part)")) == {type(whole)}
    got = client.gather("part")
    if isinstance(whole, np.ndarray):
        assert got.dtype == whole.dtype
        assert np.array_equal(got, whole)
        got += 1
    elif kind in ("list", "tuple"):
        assert type(got) is type(whole)
        assert got == whole
    else:
        assert list(itertools.chain.from_iterable(got)) == list(whole)


def test_scatter_of_several(client, servers):
    count = len(servers)
    client.scatter(a=np.arange(2 * count), b=[*"xy" * count])
    assert everywhere(client, "a.tolist(), b") == [([2 * n, 2 * n + 1], ["x", "y"]) for n in range(count)]
    client.push("a *= 10", "all", True)
    assert client.gather("a").tolist() == list(range(0, 20 * count, 10))


@pytest.mark.servers(2)
def test_the_parts_follow_the_order_of_the_targets(client):
    client.on([2, 1]).scatter(part=[1, 2, 3])
    assert everywhere(client, "part")[:2] == [[3], [1, 2]]
    assert client.on([2, 1]).gather("part") == [1, 2, 3]
    assert client.gather("part", [1, 2]) == [3, 1, 2]
    assert client.gather("part[0]", [2, 1]) == [1, 3]


@pytest.mark.parametrize("value", [np.array(3.5), "text", b"bytes", {"a": 1}, {1, 2}, 7, None, iter([1])])
def test_what_cannot_be_scattered(client, value):
    last = client._loop.last_id
    with pytest.raises(mpiframe.CommandArgumentError, match="scatter"):
        client.scatter(fine=[1, 2], part=value)
    assert client._loop.last_id == last


def test_scatter_of_a_sequence_that_has_no_slices(client):
    with pytest.raises(mpiframe.CommandArgumentError, match="deque"):
        client.scatter(part=collections.deque([1, 2, 3]))


def test_gather_of_other_values(client, servers):
    ranks = "__import__('mpi4py.MPI').MPI.COMM_WORLD.Get_rank()"
    assert client.gather(ranks) == servers
    assert client.gather(f" {ranks} ") == servers
    mixed = f"[1] if {ranks} == 1 else (2,)"
    assert client.gather(mixed) == ([1] if len(servers) == 1 else [[1], *[(2,)] * (len(servers) - 1)])
    assert client.gather("__import__('numpy').array(5)") == [5] * len(servers)
    assert client.gather("'ab'") == ["ab"] * len(servers)


def test_gather_keeps_masks(client, servers):
    client.push("import numpy", "all", True)
    got = client.gather("numpy.ma.masked_greater([1, 2, 3], 2)")
    parts = got if isinstance(got, list) else [got]
    assert sum(part.count() for part in parts) == 2 * len(servers)


@pytest.mark.servers(2)
def test_gather_of_arrays_that_do_not_fit(client):
    client.push("x = __import__('numpy').ones((2, 3))", 1, True)
    client.push("x = __import__('numpy').ones((2, 4))", 2, True)
    with pytest.raises(ValueError, match="dimension"):
        client.gather("x", [1, 2])


def test_gather_where_one_fails(client, servers):
    client.push("special = 1", "all", True)
    client.push("del special", servers[-1], True)
    with pytest.raises(mpiframe.CommandError, match="special") as caught:
        client.gather("special")
    assert caught.value.server == servers[-1]
    assert isinstance(caught.value.__cause__, NameError)


@pytest.mark.parametrize(
    ("expression", "error"),
    [
        ("1 +", mpiframe.CommandSyntaxError),
        ("x = 1", mpiframe.CommandSyntaxError),
        (len, mpiframe.CommandArgumentError),
        (None, mpiframe.CommandArgumentError),
    ],
)
def test_gather_of_no_expression(client, expression, error):
    last = client._loop.last_id
    with pytest.raises(error):
        client.gather(expression)
    with pytest.raises(mpiframe.CommandArgumentError):
        client.gather("1", None)
    assert client._loop.last_id == last


# -- reduce ----------------------------------------------------------------------------------------


def same(value):
    return value


def ones(n):
    return np.full((3, 2), n, np.float64)


KEEPERS = {
    "a global": "KEPT.setdefault(i, np.full(8, float(i)))",
    "a view": "KEPT.setdefault(i, np.full(16, float(i)))[:8]",
    "its base": "KEPT.setdefault(i, np.full((2, 8), float(i))[:1]).base[0]",
    "nobody": "np.full(8, float(i))",
}


@pytest.mark.parametrize("how", KEEPERS)
def test_reduce_changes_no_array_that_somebody_else_holds(client, how):
    client.push("import numpy as np; KEPT = {}", target="all", block=True)
    keeper = in_main(f"def keeper(i): return {KEEPERS[how]}", "keeper")
    for _ in range(2):  # had the first call changed what is kept, the second would see it
        assert client.reduce(np.add, keeper, range(12)).tolist() == [66.0] * 8
    assert everywhere(client, "all((v == k).all() for k, v in KEPT.items())") == [True] * len(client.servers)


@pytest.mark.smoke
@pytest.mark.parametrize("count", [1, 2, 3, 5, 40, 1000])
def test_reduce_keeps_the_order_of_the_items(client, count):
    items = [f"<{n}>" for n in range(count)]
    assert client.reduce(operator.add, same, items) == "".join(items)
    assert client.reduce(lambda a, b: a + b, str.upper, ["a", "b", "c"]) == "ABC"


OPS = {
    "numpy.add": (np.add, lambda n: np.full(4, n), sum),
    "add": (operator.add, lambda n: np.full(4, n), sum),
    "multiply": (operator.mul, lambda n: np.full(3, n % 3 + 1.0), lambda v: np.multiply.reduce(list(v))),
    "or": (operator.or_, lambda n: np.array([1, 2]) << n % 30, lambda v: np.bitwise_or.reduce(list(v))),
    "or of sets": (operator.or_, lambda n: {n % 5}, lambda v: set().union(*v)),
    "and": (np.bitwise_and, lambda n: np.array([255 - n % 4]), lambda v: np.bitwise_and.reduce(list(v))),
    "xor": (operator.xor, lambda n: np.array([n, 3 * n]), lambda v: np.bitwise_xor.reduce(list(v))),
    "or of booleans": (operator.or_, lambda n: np.array([n == 3, n > 99]), lambda v: np.any(list(v), axis=0)),
    "max": (max, lambda n: (n * 7) % 23, max),
    "maximum": (np.maximum, lambda n: np.array([n % 7, -n]), lambda v: np.max(list(v), axis=0)),
    "minimum with NaN": (np.minimum, lambda n: np.array([n, np.nan]), lambda v: np.min(list(v), axis=0)),
    "complex": (np.add, lambda n: np.array([n + 2j]), sum),
    "float16": (np.add, lambda n: np.full(3, n, np.float16), sum),
    "bytes": (np.add, lambda n: np.array([100], np.uint8), lambda v: functools.reduce(np.add, v)),
    "longdouble": (np.add, lambda n: np.array([n], np.longdouble), sum),
    "big endian": (np.add, lambda n: np.array([n], ">i4"), sum),
    "fortran": (np.add, lambda n: np.asfortranarray(np.arange(6.0).reshape(2, 3) + n), sum),
    "strided": (np.add, lambda n: np.arange(20.0)[::3] + n, sum),
    "no dimensions": (np.add, lambda n: np.array(1.5 * n), sum),
    "numpy scalars": (np.add, lambda n: np.float32(n), sum),
    "empty": (np.add, lambda n: np.zeros((0, 3)), sum),
    "objects": (np.add, lambda n: np.array([n, 10**30], object), sum),
    "times": (np.add, lambda n: np.array([n], "m8[s]"), lambda v: np.add.reduce(list(v))),
    "ints with floats": (np.add, lambda n: np.array([n], np.int64 if n % 2 else np.float64), sum),
    "other dtypes on other servers": (
        np.add,
        lambda n: np.array([n], np.int32 if n < 6 else np.float64),
        sum,
    ),
    "shapes that broadcast": (np.add, lambda n: np.full((1, 3) if n < 6 else (2, 1), n), sum),
    "counters": (
        operator.add,
        lambda n: collections.Counter(str(n)),
        lambda v: sum(v, collections.Counter()),
    ),
}


def value_of(n, name):
    return OPS[name][1](n)


@pytest.mark.parametrize("name", OPS)
def test_operations(client, place, name):
    op, _, expected = OPS[name]
    wanted = expected(value_of(n, name) for n in range(12))
    for _ in range(2):
        got = client.reduce(op, value_of, range(12), itertools.repeat(name))
        assert type(got) is type(wanted)
        if isinstance(wanted, np.ndarray):
            assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape)
            np.testing.assert_array_equal(got, wanted)
            got += got  # it is the caller's own
        else:
            assert got == wanted
    client.allreduce(op, value_of, range(12), itertools.repeat(name), name="whole")
    for response in client.push("whole", "all", True):
        np.testing.assert_array_equal(response.result(), wanted)


def test_reduce_of_the_scripts_own_class(client):
    source = """
class Sum:
    def __init__(self, n): self.n = n
    def __add__(self, other): return Sum(self.n + other.n)
def as_sum(n): return Sum(str(n))
"""
    as_sum = in_main(source, "as_sum")
    got = client.reduce(operator.add, as_sum, range(10))
    assert type(got) is type(as_sum(0))
    assert got.n == "0123456789"


class Joiner(dict):
    """Can be called, but not hashed."""

    def __call__(self, a, b):
        return f"{a}{self['by']}{b}"


def test_an_operation_that_is_an_object(client):
    assert client.reduce(Joiner(by="-"), same, "abcd") == "a-b-c-d"


def test_initial_values(client, servers):
    assert client.reduce(operator.add, same, [], initial="nothing") == "nothing"
    assert client.reduce(operator.add, same, [], initial=None) is None
    assert client.reduce(operator.add, same, "abc", initial=">") == ">abc"
    assert client.reduce(operator.add, "1", initial=10) == 10 + len(servers)
    assert client.reduce(operator.add, same, [7]) == 7
    whole = client.reduce(np.add, ones, range(4), initial=np.full((3, 2), 100.0))
    assert (whole == 106).all()


def test_several_iterables_end_with_the_shortest(client):
    assert client.reduce(operator.add, operator.mul, [1, 2, 3], itertools.count(10)) == 10 + 22 + 36


def test_generators_are_read_once(client):
    assert client.reduce(operator.add, same, (str(n) for n in range(5))) == "01234"


@pytest.mark.parametrize("source", ["part.sum()", " part.sum() ", "sum(part)"])
def test_an_expression_on_each_server(client, source):
    client.scatter(part=np.arange(100))
    assert client.reduce(operator.add, source) == 4950
    client.allreduce(max, source, name="most")
    assert set(everywhere(client, "int(most)")) == {max(everywhere(client, "int(part.sum())"))}


def test_an_expression_gives_arrays(client, servers):
    client.broadcast(table=np.arange(100_000.0))
    for _ in range(2):
        whole = client.reduce(np.add, "table")
        assert np.array_equal(whole, len(servers) * np.arange(100_000.0))
        whole += 1
    assert everywhere(client, "float(table[1])") == [1.0] * len(servers)  # nobody changed theirs


@pytest.mark.parametrize("target", ["all", 1])
def test_the_whole_is_a_variable_of_its_own(client, servers, target):
    """To change it does not change what it was made from."""
    client.broadcast(table=np.ones(5))
    client.allreduce(np.add, "table", name="whole", target=target)
    client.push("whole += 1", target, True)
    assert everywhere(client, "float(table.sum())") == [5.0] * len(servers)


def test_large_arrays(client, servers):
    def make(n):
        import numpy

        return numpy.full(1 << 20, n, numpy.float64)

    whole = client.reduce(np.add, make, range(9))
    assert whole.shape == (1 << 20,)
    assert (whole == 36).all()
    client.allreduce(np.add, make, range(9), name="whole")
    assert everywhere(client, "float(whole.min()), float(whole.max())") == [(36.0, 36.0)] * len(servers)


def noise(n):
    return np.random.default_rng(n).normal(size=1000) * 10.0 ** (n % 17)


@pytest.mark.parametrize("op", [np.add, operator.add, lambda a, b: a + b])
def test_the_same_bits_every_time(client, op):
    found = {client.reduce(op, noise, range(60)).tobytes() for _ in range(8)}
    assert len(found) == 1
    np.testing.assert_allclose(
        np.frombuffer(found.pop()), sum(map(noise, range(60))), rtol=1e-9, atol=10.0**10
    )


def test_allreduce_leaves_the_whole_on_its_targets_only(client, servers):
    client.push("whole = 'untouched'", "all", True)
    assert client.allreduce(operator.add, same, "abcdef", name="whole", target=1) is None
    assert everywhere(client, "whole") == ["abcdef", *["untouched"] * (len(servers) - 1)]
    client.on(servers[-1:]).allreduce(operator.add, same, "xyz", name="whole")
    assert everywhere(client, "whole")[-1] == "xyz"
    client.allreduce(operator.add, same, "abc", name="whole")
    assert everywhere(client, "whole") == ["abc"] * len(servers)


def reciprocal(n):
    return 1 / n


@pytest.mark.parametrize("index", [0, 1, 17, 39])
def test_an_item_that_raises_names_its_index(client, index):
    items = [1.0] * 40
    items[index] = 0.0
    with pytest.raises(mpiframe.CommandError, match=rf"item {index} of the map raised Zero") as caught:
        client.reduce(operator.add, reciprocal, items)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert "return 1 / n" in caught.value.remote_traceback
    assert set(everywhere(client, PARTIALS)) == {0}


def choosy(a, b):
    if "5" in a + b:
        raise LookupError("does not like it")
    return a + b


def test_an_operation_that_raises(client, servers):
    with pytest.raises(mpiframe.CommandError, match="does not like it") as caught:
        client.reduce(choosy, str, range(10))
    assert isinstance(caught.value.__cause__, LookupError)
    assert client.reduce(choosy, str, range(5)) == "01234"
    assert set(everywhere(client, PARTIALS)) == {0}


@pytest.mark.servers(2)
def test_an_operation_that_raises_between_the_servers(client, servers):
    with pytest.raises(mpiframe.CommandError) as caught:
        client.reduce(operator.add, same, ["text", 5], target=[1, 2])
    assert isinstance(caught.value.__cause__, TypeError)
    with pytest.raises(mpiframe.CommandError) as caught:  # numpy has no such operation on floats
        client.reduce(operator.or_, "__import__('numpy').ones(3)")
    assert isinstance(caught.value.__cause__, TypeError)
    assert set(everywhere(client, PARTIALS)) == {0}
    assert client.reduce(operator.add, same, "abc") == "abc"


def test_an_item_that_cannot_be_sent(client):
    with pytest.raises(mpiframe.SerializationError, match="cannot be pickled"):
        client.reduce(operator.add, same, [*range(50), threading.Lock()])
    assert set(everywhere(client, PARTIALS)) == {0}  # nor is what was begun left on a server


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda c: c.reduce(operator.add, same, []), mpiframe.CommandArgumentError),
        (lambda c: c.reduce(operator.add, same), mpiframe.CommandArgumentError),
        (lambda c: c.reduce("sum", same, [1]), mpiframe.CommandArgumentError),
        (lambda c: c.reduce(operator.add, 3, [1]), mpiframe.CommandArgumentError),
        (lambda c: c.reduce(operator.add, "x", [1]), mpiframe.CommandArgumentError),
        (lambda c: c.reduce(operator.add, "1 +"), mpiframe.CommandSyntaxError),
        (lambda c: c.reduce(operator.add, "x = 1"), mpiframe.CommandSyntaxError),
        (lambda c: c.reduce(operator.add, same, [1], target=None), mpiframe.CommandArgumentError),
        (lambda c: c.reduce(operator.add, same, [1], target=[1, 1]), mpiframe.CommandArgumentError),
        (lambda c: c.allreduce(operator.add, same, [1], name="no name"), mpiframe.CommandArgumentError),
        (lambda c: c.allreduce(operator.add, same, [], name="x"), mpiframe.CommandArgumentError),
    ],
)
def test_refusals(client, call, error):
    last = client._loop.last_id
    with pytest.raises(error):
        call(client)
    assert client._loop.last_id == last


# -- together --------------------------------------------------------------------------------------


def test_views(client, servers):
    view = client.on(servers)
    view.broadcast(table=np.arange(4))
    view.scatter(part=list(range(10)))
    assert view.gather("part") == list(range(10))
    assert view.reduce(operator.add, "int(table.sum())") == 6 * len(servers)
    assert view.reduce(operator.add, same, "abc", initial="-") == "-abc"
    view.allreduce(operator.add, same, "abc", name="text")
    assert view.gather("text") == ["abc"] * len(servers)
    assert view.spmd(lambda comm: comm.rank) == list(range(len(servers)))


def test_everything_from_threads(client, servers):
    """Each thread's variables and reductions are its own, on servers that all share."""
    start = threading.Barrier(4)

    def work(number):
        start.wait(20)
        for turn in range(8):
            name = f"v{number}"
            target = servers if number % 2 else servers[::-1]
            client.broadcast(target=target, **{name: np.full(20_000, number + turn)})
            assert client.reduce(operator.add, f"int({name}[-1])", target=target) == len(servers) * (
                number + turn
            )
            client.scatter(target=target, **{name: list(range(number, 20))})
            assert client.gather(name, target) == list(range(number, 20))
            assert client.reduce(operator.add, str, range(10), target=target) == "0123456789"
            client.allreduce(np.add, ones, range(4), name=name, target=target)
            assert client.reduce(np.maximum, name, target=target).max() == 6
        return True

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4), timeout=50))


def test_collectives_follow_commands_in_order(client, servers):
    ids = []
    for n in range(30):
        ids.append(client.push(f"x = {n}", target="all"))
        if n % 3 == 0:
            assert client.gather("x") == [n] * len(servers)
        elif n % 3 == 1:
            assert client.reduce(operator.add, "x") == n * len(servers)
        else:
            client.allreduce(max, "x + 1", name="x")
            ids.append(client.push(f"assert x == {n + 1}", target="all"))
    assert all(r.successful for r in client.get(ids))
