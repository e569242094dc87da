"""Callables by `submit`, and the futures that it makes."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import math
import operator
import pickle
import sys
import threading
import time

import numpy as np
import pytest

import mpiframe

pytestmark = pytest.mark.timeout(60)

SCALE = 3


def scaled(value, by=1, *rest, plus=0, **more):
    return value * SCALE * by + plus, rest, more


def fibonacci(n):
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)


class Adder:
    def __init__(self, amount):
        self.amount = amount

    def __call__(self, value):
        return value + self.amount

    def method(self, value):
        return value - self.amount

    @classmethod
    def made(cls, amount):
        return cls(amount)

    @staticmethod
    def doubled(value):
        return 2 * value


def in_main(source, name):
    """What the source defines, as if it were part of the user's script."""
    names = vars(sys.modules["__main__"])
    exec(source, names)
    return names[name]


@pytest.mark.smoke
def test_a_future(client):
    future = client.submit(scaled, 2, 5, "rest", plus=1, other=None, target=1)
    assert isinstance(client, concurrent.futures.Executor)
    assert isinstance(future, concurrent.futures.Future)
    assert future.result(20) == (31, ("rest",), {"other": None})
    assert future.done()
    assert not future.cancelled()
    assert not future.running()
    assert future.exception() is None


@pytest.mark.parametrize(
    ("function", "args", "value"),
    [
        (len, ("abc",), 3),
        (math.sqrt, (4.0,), 2.0),
        (operator.itemgetter(1), ("ab",), "b"),
        (functools.partial(scaled, 1, plus=2), (), (5, (), {})),
        (np.add, (1, 2), 3),
        ("{}-{}".format, (1, 2), "1-2"),
        (fibonacci, (10,), 55),
        (Adder(2), (1,), 3),
        (Adder(2).method, (1,), -1),
        (Adder.doubled, (4,), 8),
        (lambda value: value + SCALE, (1,), 4),
        (int, ("12",), 12),
    ],
)
def test_all_kinds_of_callables(client, function, args, value):
    for _ in range(2):  # the second time it is known to the server
        assert client.submit(function, *args, target=1).result(20) == value


def test_classes_make_instances(client):
    made = client.submit(Adder, 2).result(20)
    assert type(made) is Adder
    assert client.submit(Adder.made, 3).result(20).amount == 3


def test_what_the_users_script_defines(client, servers):
    source = """
import collections
LIMIT = 10
class Point:
    def __init__(self, x): self.x = x
    def moved(self, by): return Point(self.x + by)
class Special(Point):
    def moved(self, by): return super().moved(by * LIMIT)
def helper(p): return p.moved(1)
def use(x): return helper(Special(x)), collections.Counter("aab")["a"]
"""
    use = in_main(source, "use")
    for server in servers:
        point, count = client.submit(use, 5, target=server).result(20)
        assert (point.x, count) == (15, 2)
        assert type(point).__name__ == "Point"
    special = in_main(source, "Special")
    assert client.submit(special(1).moved, 2).result(20).x == 21


def test_a_function_of_the_script_uses_names_of_the_namespace(client):
    client.push("table = {'a': 1}", target=1, block=True)
    use = in_main("def use(key): return table[key]", "use")
    assert client.submit(use, "a", target=1).result(20) == 1
    client.push("table = {'a': 2}", target=1, block=True)
    assert client.submit(use, "a", target=1).result(20) == 2


def test_closures_travel_with_what_they_hold_now(client):
    seen = []

    def count():
        return len(seen)

    for n in range(3):
        assert client.submit(count, target=1).result(20) == n
        seen.append(n)
    number = 1

    def get():
        return number

    assert client.submit(get, target=1).result(20) == 1
    number = 2
    assert client.submit(get, target=1).result(20) == 2


def test_a_global_that_is_bound_anew(client):
    use = in_main("SETTING = 1\ndef use_setting(): return SETTING", "use_setting")
    assert client.submit(use, target=1).result(20) == 1
    use.__globals__["SETTING"] = 2
    assert client.submit(use, target=1).result(20) == 2
    use.__globals__["SETTING"] = [3]
    assert client.submit(use, target=1).result(20) == [3]
    use.__globals__["SETTING"].append(4)
    assert client.submit(use, target=1).result(20) == [3, 4]


def test_a_function_that_is_defined_anew(client):
    assert client.submit(in_main("def again(): return 1", "again")).result(20) == 1
    assert client.submit(in_main("def again(): return 2", "again")).result(20) == 2


def test_many_functions(client):
    futures = [client.submit(eval(f"lambda: {n}"), target=1) for n in range(300)]
    assert [f.result(20) for f in futures] == list(range(300))


def test_a_string(client):
    assert client.submit("a + b", a=1, b=2, target=1).result(20) == 3


def test_arguments_named_like_our_own(client):
    """`fn` is positional only, so it can be a keyword of the user's function."""
    assert client.submit(dict, fn=1, self_=2).result(20) == {"fn": 1, "self_": 2}


def fails(what):
    raise what


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a", 1),
        KeyError("k"),
        StopIteration(3),
        TimeoutError("t"),
        concurrent.futures.CancelledError(),
        OSError(2, "no", "file"),
        UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"),
        GeneratorExit(),
        asyncio.CancelledError(),
    ],
)
def test_an_exception_comes_back_as_the_cause(client, error):
    future = client.submit(fails, error, target=1)
    with pytest.raises(mpiframe.CommandError, match=type(error).__name__) as caught:
        future.result(20)
    assert type(caught.value.__cause__) is type(error)
    assert caught.value.__cause__.args == error.args
    assert "raise what" in caught.value.remote_traceback
    assert future.exception() is caught.value
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (copy.server, copy.request, str(copy)) == (1, caught.value.request, str(caught.value))


def test_a_chain_of_exceptions_is_told(client):
    def chained():
        try:
            {}["missing"]
        except KeyError as error:
            raise RuntimeError("outer") from error

    with pytest.raises(mpiframe.CommandError, match=r"(?s)'missing'.*RuntimeError: outer"):
        client.submit(chained).result(20)


def test_waiting_with_a_time_out(client, gate, busy):
    future = client.submit(abs, -1, target=1)
    with pytest.raises(mpiframe.CommandTimeout, match="goes on"):
        future.result(timeout=0.05)
    with pytest.raises(concurrent.futures.TimeoutError):
        future.exception(timeout=0)
    assert not future.done()
    gate.open()
    assert future.result(20) == 1
    client.get(busy)


def test_the_time_out_of_a_queued_request(client, gate, busy):
    future = client.submit(abs, -1, target=1, timeout=0.05)
    with pytest.raises(mpiframe.CommandTimeout, match="queued"):
        future.result(20)
    gate.open()
    client.get(busy)


def test_the_time_out_of_a_running_request_interrupts_it(client, until):
    future = client.submit(time.sleep, 600, target=1, timeout=0.2)
    with pytest.raises(mpiframe.CommandTimeout, match="server 1"):
        future.result(20)
    assert client.submit(abs, -2, target=1).result(20) == 2


def test_a_time_out_fires_while_nobody_waits(client):
    told = threading.Event()
    future = client.submit(time.sleep, 600, target=1, timeout=0.1)
    future.add_done_callback(lambda f: told.set())
    assert told.wait(20)
    assert isinstance(future.exception(), mpiframe.CommandTimeout)


def test_a_time_out_that_is_not_reached(client):
    assert client.submit(abs, -1, timeout=30).result(20) == 1


def test_cancel(client, gate, busy):
    future = client.submit(abs, -1, target=1)
    told = []
    future.add_done_callback(told.append)
    assert future.cancel()
    assert future.cancel()
    assert future.cancelled()
    assert future.done()
    assert told == [future]
    with pytest.raises(mpiframe.CommandCancelled) as caught:
        future.result()
    assert isinstance(caught.value, concurrent.futures.CancelledError)
    gate.open()
    client.get(busy)


def test_a_running_command_cannot_be_cancelled(client, gate):
    future = client.submit(gate.command, target=1, **gate.parameters)
    gate.await_start()
    assert future.running()
    assert not future.cancel()
    gate.open()
    assert future.result(20) is None
    assert not future.cancel()


def test_wait_and_as_completed(client):
    futures = [client.submit(abs, -n) for n in range(50)]
    done, waiting = concurrent.futures.wait(futures, 20)
    assert (len(done), len(waiting)) == (50, 0)
    futures = [client.submit(abs, -n) for n in range(50)]
    completed = concurrent.futures.as_completed(futures, 20)
    assert sorted(f.result() for f in completed) == list(range(50))
    first = concurrent.futures.wait(
        [client.submit(fails, ValueError()), client.submit(abs, 1)],
        20,
        concurrent.futures.FIRST_EXCEPTION,
    )
    assert any(f.exception() for f in first.done)


def test_from_a_coroutine(client):
    async def main():
        futures = [client.submit(abs, -n) for n in range(9)]
        return await asyncio.gather(*map(asyncio.wrap_future, futures))

    assert asyncio.run(asyncio.wait_for(main(), 20)) == list(range(9))


def test_callbacks_run_while_nobody_waits(client):
    told = threading.Event()
    client.submit(abs, -1, target=1).add_done_callback(lambda f: told.set())
    assert told.wait(20)


def test_callbacks_submit_the_next_command(client):
    ended = threading.Event()
    values = []

    def follow(future):
        values.append(future.result())
        if len(values) < 100:
            client.submit(abs, -len(values)).add_done_callback(follow)
        else:
            ended.set()

    client.submit(abs, 0).add_done_callback(follow)
    assert ended.wait(20)
    assert values == list(range(100))


def test_callbacks_that_push_and_wait(client):
    ended = threading.Event()
    values = []

    def follow(future):
        try:
            values.append(client.push("1 + 1", target=1, block=True, timeout=10)[0].ret)
            values.append(client.submit(abs, -3, target=1).result(10))
        finally:
            ended.set()

    client.submit(abs, 0, target=1).add_done_callback(follow)
    assert ended.wait(25)
    assert values == [2, 3]


def test_a_callback_that_raises_does_no_harm(client, caplog):
    told = threading.Event()

    def bad(future):
        told.set()
        raise RuntimeError("in a callback")

    future = client.submit(abs, -1, target=1)
    future.add_done_callback(bad)
    assert future.result(20) == 1
    assert told.wait(20)


def test_threads(client, servers):
    def ask(number):
        values = [client.submit(pow, number, 2).result(20) for _ in range(50)]
        values += [client.push("n * n", None, True, {"n": number})[0].ret for _ in range(50)]
        return set(values)

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        assert list(pool.map(ask, range(6))) == [{n * n} for n in range(6)]


def test_a_second_thread_waits_while_the_first_pushes(client):
    futures = [client.submit(abs, -n) for n in range(200)]
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lambda: [f.result(20) for f in futures])
        ids = [client.push("1") for _ in range(200)]
        assert [r.ret for r in client.get(ids)] == [1] * 200
        assert waiting.result(20) == list(range(200))


def test_a_thread_that_waits_long_does_not_hold_up_another(client, servers, gate, busy):
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.get, busy)
        for _ in range(50):
            # Only server 1 is there in the smallest world, and it is busy.
            client.cancel(client.push("1", target=1))
            for server in servers[1:]:
                assert client.submit(abs, -1, target=server).result(20) == 1
        assert not waiting.done()
        gate.open()
        assert waiting.result(20)[0].successful
