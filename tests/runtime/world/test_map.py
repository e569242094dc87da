"""`map`: order, chunks, windows, failures."""

from __future__ import annotations

import bisect
import concurrent.futures
import contextlib
import itertools
import operator
import os
import threading
import time
import tracemalloc

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


def test_results_do_not_wait_for_the_end_of_a_command_after_them(client, gate):
    def item(path):
        import os
        import time

        while path and not os.path.exists(path):
            time.sleep(0.001)
        return path

    path = gate.parameters["opened"]
    for _ in range(5):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        results = client.map(item, [None] * 12 + [path], chunksize=1, target=1, timeout=20)
        assert list(itertools.islice(results, 12)) == [None] * 12
        gate.open()
        assert list(results) == [path]


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


# -- without a chunk size --------------------------------------------------------------------------


def stop(n):
    if n == 30:
        raise StopIteration("not the end")
    return n


def meet(folder, number, everyone):
    """Come to a meeting: over when so many are there. Nobody has to come whose folder is None."""
    if folder is not None:
        open(os.path.join(folder, str(number)), "w").close()
        until = time.monotonic() + 30
        while len(os.listdir(folder)) < everyone:
            assert time.monotonic() < until, "the others do not come"
            time.sleep(0.001)
    return number


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("buffersize", [None, 1, 100, 5000])
def test_all_results_many_times(client, ordered, buffersize):
    count = 100 if buffersize == 1 else 1500
    for _ in range(5):
        for items in (range(count), list(range(count)), iter(range(count))):
            got = list(client.map(square, items, ordered=ordered, buffersize=buffersize))
            assert (got if ordered else sorted(got)) == [n * n for n in range(count)]
    options = {"ordered": ordered, "buffersize": buffersize}
    got = list(client.map(operator.sub, range(count), itertools.repeat(3), **options))
    assert (got if ordered else sorted(got)) == [n - 3 for n in range(count)]


def test_maps_of_several_threads(client):
    """Each result once, and no thread waits for another that waits for it."""
    start = threading.Barrier(4)

    def work(number):
        start.wait(20)
        for turn in range(15):
            ordered = bool((turn + number) % 2)
            got = list(client.map(square, range(400), ordered=ordered))
            assert (got if ordered else sorted(got)) == [n * n for n in range(400)]
        return True

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4), timeout=40))


def test_maps_that_are_taken_by_turns(client):
    runs = [client.map(square, range(300), ordered=n % 2 == 0) for n in range(4)]
    taken = [list(results) for results in zip(*(zip(*[run] * 3, strict=True) for run in runs), strict=True)]
    for n in range(4):
        got = [value for row in taken for value in row[n]]
        assert sorted(got) == [n * n for n in range(300)]


@pytest.mark.servers(2)
def test_slow_items_are_shared_out(client, tmp_path):
    """One long item at the start does not keep the others waiting behind it: it ends when they have."""
    everyone = itertools.chain([41], itertools.repeat(1))
    assert list(client.map(meet, [tmp_path] * 41, range(41), everyone)) == list(range(41))


def test_quick_items_before_slow_ones(client, servers, tmp_path):
    """Chunks have grown by then; what they hold must still be shared out: each ends when all have begun."""
    for round in range(5):
        folder = tmp_path / str(round)
        folder.mkdir()
        folders = [None] * 2000 + [folder] * len(servers)
        got = list(client.map(meet, folders, range(len(folders)), [len(servers)] * len(folders)))
        assert got == list(range(len(folders)))


def test_endless_items_take_no_memory(client):
    results = client.map(abs, itertools.count(), buffersize=5000)
    for _ in itertools.islice(results, 20_000):
        pass
    tracemalloc.start(1)
    before = tracemalloc.get_traced_memory()[0]
    for _ in itertools.islice(results, 300_000):
        pass
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    results.close()
    assert grown < 4 << 20


@pytest.mark.parametrize("options", [{}, {"ordered": False}, {"chunksize": 7}, {"buffersize": 10}])
def test_a_function_that_raises_stop_iteration(client, options):
    with pytest.raises(mpiframe.CommandError, match=r"item 30 of the map raised StopIteration"):
        list(client.map(stop, range(100), **options))


@pytest.mark.parametrize("options", [{}, {"ordered": False}, {"buffersize": 50}])
def test_an_item_that_cannot_be_sent_far_behind(client, options):
    items = [*range(3000), threading.Lock(), *range(10)]
    with pytest.raises(mpiframe.SerializationError, match="cannot be pickled"):
        list(client.map(abs, items, **options))
    assert list(client.map(abs, range(100), **options)) is not None


def keep(results, values):
    """As `list.extend`, which keeps nothing where this keeps what came before an error."""
    for value in results:
        values.append(value)


def test_what_came_before_an_item_that_cannot_be_sent_is_yielded(client):
    for _ in range(20):
        got = []
        results = client.map(abs, [*range(3000), threading.Lock()])
        with pytest.raises(mpiframe.SerializationError):
            keep(results, got)
        assert got == list(range(len(got)))
        assert len(got) > 2000


# -- bursts of commands ----------------------------------------------------------------------------


def test_many_submits_in_a_loop(client):
    futures = [client.submit(abs, -n) for n in range(20_000)]
    assert [f.result(30) for f in futures] == list(range(20_000))


@pytest.mark.parametrize("seconds", [0.0003, 0.0008, 0.005])
def test_answers_arrive_between_submits(client, seconds):
    """Nobody waits for them, and the next command comes soon; still they do not lie about.

    Counted is how often the client went on since an answer was made: on a crowded machine both take long.
    """
    many = round(0.4 / seconds)
    turns = []  # when each began, by the clock that all of this host have

    def since(future):
        return len(turns) - bisect.bisect(turns, future.result(20))

    for _ in range(3):
        turns.clear()
        waiting = [client.submit(time.monotonic) for _ in range(20)]  # a burst, to begin with
        late = 0
        for _ in range(many):
            turns.append(now := time.monotonic())
            waiting.append(client.submit(time.monotonic))
            while time.monotonic() < now + seconds:  # computes
                pass
            done = [future for future in waiting if future.done()]
            late = max([late, *map(since, done)])
            waiting = [future for future in waiting if future not in done]
        late = max([late, *map(since, waiting)])
        assert late < many / 2, "an answer has not come in"
