"""`map`: order, chunks, windows, failures."""

from __future__ import annotations

import itertools
import operator

import pytest

import mpiframe

pytestmark = pytest.mark.timeout(60)


def square(n):
    return n * n


def reciprocal(n):
    return 1 / n


@pytest.mark.smoke
@pytest.mark.parametrize("chunksize", [None, 1, 7, 1000])
@pytest.mark.parametrize("ordered", [True, False])
def test_results(client, chunksize, ordered):
    got = list(client.map(square, range(100), chunksize=chunksize, ordered=ordered))
    assert (got if ordered else sorted(got)) == [n * n for n in range(100)]


def test_several_iterables_end_with_the_shortest(client):
    assert list(client.map(operator.add, [1, 2, 3], itertools.count(10))) == [11, 13, 15]


def test_no_items(client):
    assert list(client.map(square, [])) == []


def test_lambdas_and_closures(client):
    by = 3
    assert list(client.map(lambda n: n * by, range(5))) == [0, 3, 6, 9, 12]


def test_the_work_starts_at_the_call(client, until):
    results = client.map(square, range(3), target=1)
    until(lambda: client.servers[0].state == "idle")
    assert list(results) == [0, 1, 4]


@pytest.mark.parametrize("target", ["all", 1, [1]])
def test_targets(client, servers, target):
    got = list(client.map(eval, ["__import__('os').getpid()"] * 20, target=target))
    wanted = {s.pid for s in client.servers if target == "all" or s.rank == 1}
    assert set(got) == wanted


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize(("buffersize", "chunksize"), [(1, None), (8, None), (20, 5), (3, 10)])
def test_endless_items_in_a_window(client, ordered, buffersize, chunksize):
    drawn = itertools.count()
    items = map(lambda _: next(drawn), itertools.repeat(None))  # noqa: C417 - counts what is drawn
    options = {"buffersize": buffersize, "chunksize": chunksize, "ordered": ordered}
    results = client.map(square, items, **options)
    most = max(buffersize, chunksize or 1)
    for taken in range(1, 201):
        next(results)
        assert next(drawn) <= taken + most + (chunksize or 1) + taken  # each look draws one, too
    results.close()


def test_what_was_not_taken_is_cancelled(client, gate, busy):
    results = client.map(square, range(50), target=1, timeout=0.1, chunksize=1)
    assert client.servers[0].queued == 50
    with pytest.raises(TimeoutError):
        next(results)
    assert client.servers[0].queued == 0
    gate.open()
    client.get(busy)


def test_unordered_results_do_not_wait_for_a_slow_one(client, gate):
    def item(n):
        import os
        import time

        while n == 0 and not os.path.exists(path):
            time.sleep(0.001)
        return n

    path = gate.parameters["opened"]
    results = client.map(item, range(20), ordered=False)
    if len(client.servers) > 1:
        assert sorted(itertools.islice(results, 19)) == list(range(1, 20))
    gate.open()
    assert 0 in results


@pytest.mark.parametrize("chunksize", [1, 4, 100])
@pytest.mark.parametrize("ordered", [True, False])
def test_a_failure_names_the_item(client, chunksize, ordered):
    items = [1] * 17 + [0] + [1] * 5
    results = client.map(reciprocal, items, chunksize=chunksize, ordered=ordered)
    with pytest.raises(mpiframe.CommandError, match=r"item 17 of the map") as caught:
        list(results)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert "return 1 / n" in caught.value.remote_traceback
    with pytest.raises(StopIteration):
        next(results)


def test_an_iterable_that_raises(client):
    def items():
        yield 1
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        list(client.map(square, items()))


def test_an_iterable_that_raises_later(client):
    def items():
        yield from range(5)
        raise OSError("no more")

    got = []
    with pytest.raises(OSError, match="no more"):
        got.extend(client.map(square, items(), buffersize=2))


def test_a_time_out(client, gate):
    def wait(path):
        import os
        import time

        while not os.path.exists(path):
            time.sleep(0.001)

    results = client.map(wait, [gate.parameters["opened"]], timeout=0.1)
    with pytest.raises(TimeoutError):
        next(results)
    gate.open()


def test_map_inside_map_of_results(client):
    first = client.map(square, range(10))
    assert list(client.map(square, first)) == [n**4 for n in range(10)]
