"""What a server answered, as the user sees it: values, errors with their place, futures."""

from __future__ import annotations

import concurrent.futures
import gc
import linecache
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mpiframe import answers, codec, errors
from mpiframe.answers import CommandFuture
from mpiframe.execution import Executor
from mpiframe.instructions import End
from mpiframe.messages import Mode, PluginCall, Request, Status
from mpiframe.wording import shorten


class Loop:
    """What a future needs of the client's loop."""

    def __init__(self, wait: Callable[..., bool], cancel: Callable[[Request], bool]) -> None:
        self.wait, self.cancel = wait, cancel

    def status_of(self, request: Request) -> Status:
        return request.status if request.server is None else Status.SENT


def request(command: Any = "x", id: int = 7, server: int | None = 2) -> Request:
    found = Request(id=id, target=server, key=1, command=command, frame=())
    found.server = server
    return found


def travel(asked: Request, mode: Mode, body: Any, payload: Any = None) -> Request:
    """Run a command as a server does, and read its answer as the client does."""
    executor = Executor(1 << 16)
    data = None if payload is None else codec.dumps(payload, 1 << 60)[0]
    try:
        ended = executor.ended(executor.run(int(mode), body, 0, data is not None, data, ()))
    except BaseException as error:
        ended = executor.raised(error)
    outcome, result, buffers = ended
    frame = (asked.id, int(outcome), result, 1.0, 2.0, [], len(buffers))
    (answer,) = codec.unpack(codec.pack((frame,)))
    answers.decode(asked, answer, [bytearray(memoryview(b)) for b in buffers], "node7")
    return asked


def response(asked: Request) -> Any:
    return answers.response(asked, "node7")


@pytest.mark.parametrize("source", ["3", "[1, 'a']", "None", "'x' * 100_000"])
def test_a_value(source: str) -> None:
    found = response(travel(request(source), Mode.EVAL, source))
    assert found.ret == eval(source)
    assert found.status is Status.DONE
    assert found.successful
    assert found.traceback is None
    assert found.result() == found.ret
    assert (found.id, found.server, found.host, found.command) == (7, 2, "node7", source)
    assert (found.started_at, found.finished_at) == (1.0, 2.0)


def test_an_array_arrives_writable() -> None:
    found = travel(request(), Mode.EVAL, "__import__('numpy').zeros(100_000)")
    array = response(found).ret
    assert array.flags.writeable
    assert array.shape == (100_000,)
    assert np.all(array == 0)


def test_statements_give_none() -> None:
    assert response(travel(request(), Mode.EXEC, "x = 3")).ret is None


def test_an_error_says_what_where_and_shows_the_remote_lines() -> None:
    source = "def f(x):\n    return 1 / x  # the line\nf(0)"
    found = response(travel(request(source), Mode.EXEC, source))
    assert found.status is Status.FAILED
    assert not found.successful
    assert found.ret is None
    assert "return 1 / x  # the line" in found.traceback
    with pytest.raises(errors.CommandError) as caught:
        found.result()
    error = caught.value
    assert type(error) is errors.CommandError
    assert isinstance(error.__cause__, ZeroDivisionError)
    assert (error.request, error.server, error.host) == (7, 2, "node7")
    assert error.remote_traceback == found.traceback
    text = str(error)
    for part in ("request 7", "server 2", "node7", "ZeroDivisionError: division by zero"):
        assert part in text
    assert "return 1 / x  # the line" in text


@pytest.mark.parametrize("name", ["SystemExit", "KeyboardInterrupt", "GeneratorExit"])
def test_what_would_end_a_process_is_an_error_like_any_other(name: str) -> None:
    found = response(travel(request(), Mode.EXEC, f"raise {name}"))
    assert found.status is Status.FAILED
    with pytest.raises(errors.CommandError, match=name) as caught:
        found.result()
    assert type(caught.value.__cause__).__name__ == name


def test_an_exception_that_cannot_travel_has_a_stand_in() -> None:
    source = "import threading\nraise ValueError('told', threading.Lock())"
    error = response(travel(request(source), Mode.EXEC, source)).error
    assert isinstance(error.__cause__, errors.RemoteException)
    assert "ValueError" in str(error.__cause__)
    assert "told" in str(error)


def test_a_result_that_cannot_be_pickled_is_told() -> None:
    found = response(travel(request(), Mode.EVAL, "__import__('threading').Lock()"))
    assert found.status is Status.FAILED
    with pytest.raises(errors.SerializationError, match="a lock, cannot be pickled") as caught:
        found.result()
    assert "server 2 on node7" in str(caught.value)


@pytest.mark.parametrize("leave", ["ValueError(1)", "SystemExit(3)", "KeyboardInterrupt()"])
def test_a_result_that_cannot_be_unpickled_is_told(leave: str) -> None:
    # exec() of a raise: what pickle calls at the client raises there.
    source = (
        "type('R', (), {'__reduce__': lambda self: "
        f"(exec, ('if __name__ != \"at home\": raise {leave}', {{'__name__': 'x'}}))}})()"
    )
    found = response(travel(request(), Mode.EVAL, source))
    assert found.status is Status.FAILED
    with pytest.raises(errors.SerializationError, match="cannot be unpickled here"):
        found.result()


def test_the_item_of_a_map_is_counted_from_its_beginning() -> None:
    asked = request(np.sqrt)
    asked.future = CommandFuture(Loop(lambda test, timeout: True, lambda r: False), asked, first_item=100)
    travel(asked, Mode.MAP, None, (lambda x: 1 / x, (True, [1, 0])))
    assert "item 101 of the map raised ZeroDivisionError" in str(response(asked).error)


def test_a_plugins_error_is_a_plugin_error() -> None:
    error = response(travel(request(PluginCall("echo.say")), Mode.EXEC, "1 / 0")).error
    assert type(error) is errors.PluginError
    assert "echo.say" in str(error)


def test_output_is_told_apart() -> None:
    asked = travel(request(), Mode.EVAL, "1")
    asked.output = [(1, "a"), (2, "b"), (1, "c")]
    found = response(asked)
    assert (found.stdout, found.stderr) == ("ac", "b")


@pytest.mark.parametrize(
    ("status", "server", "kind", "says"),
    [
        (Status.CANCELLED, None, errors.CommandCancelled, "was cancelled before it was sent"),
        (Status.TIMEOUT, None, errors.CommandTimeout, "still queued when its time-out passed"),
        (Status.TIMEOUT, 2, errors.CommandTimeout, "did not end on server 2 on node7"),
        (Status.LOST, None, errors.ServerLost, "no server is left"),
        (Status.LOST, 2, errors.ServerLost, "server 2 on node7 ended before it answered. Its last words"),
        (Status.CANCELLED, 2, errors.CommandCancelled, "had begun on server 2 on node7, it was interrupted"),
    ],
)
def test_requests_that_end_without_an_answer(
    status: Status, server: int | None, kind: type[Exception], says: str
) -> None:
    asked = request("x = 1")
    asked.sent_at = 5.0
    error = answers.lost_error(asked, End(asked, status, server), "node7" if server else None)
    assert type(error) is kind
    assert says in str(error)
    assert "request 7 (x = 1)" in str(error)


def test_a_request_that_was_queued_for_a_server_that_ended_and_why() -> None:
    asked = request("x = 1")
    error = answers.lost_error(asked, End(asked, Status.LOST, 2), "node7", "It was ended")
    assert str(error) == (
        "request 7 (x = 1) cannot run: it was queued for server 2 on node7, which has ended. It was ended"
    )
    asked.sent_at = 5.0
    error = answers.lost_error(asked, End(asked, Status.LOST, 2), "node7", "It was ended")
    assert str(error).endswith("server 2 on node7 ended before it answered. It was ended")
    error = answers.lost_error(asked, End(asked, Status.LOST, 2), "node7")
    assert "retries=1" in str(error)
    assert "--resilient" in str(error)
    assert "request 7 (x = 1)" in str(error)


@pytest.mark.parametrize(
    ("command", "short"),
    [
        ("x = 1", "x = 1"),
        ("x  =  1\n\ny = 2", "x = 1 y = 2"),
        ("a" * 61, "a" * 57 + "..."),
        (np.linalg.norm, "norm"),
        (Executor.run, "Executor.run"),
    ],
)
def test_commands_are_shortened_to_one_line(command: Any, short: str) -> None:
    assert shorten(command) == short


def test_source_lines_that_only_the_client_has_are_added(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["def f():\n", "    return 1 / 0\n"]
    monkeypatch.setitem(linecache.cache, "<cell 1>", (30, None, lines, "<cell 1>"))
    before = (
        "Traceback (most recent call last):\n"
        '  File "<cell 1>", line 2, in f\n'
        '  File "<command 1>", line 1, in <module>\n'
        "    f()\n"
        '  File "<nowhere>", line 1, in g\n'
        "ZeroDivisionError: division by zero\n"
    )
    after = before.replace("line 2, in f\n", "line 2, in f\n    return 1 / 0\n")
    assert answers.with_source_lines(before) == after
    assert answers.with_source_lines(after) == after


# -- futures --------------------------------------------------------------------------------------


def future_of(asked: Request, wait: Callable[..., bool] = lambda test, timeout: test()) -> CommandFuture:
    def cancel(found: Request) -> bool:
        if found.server is not None:
            return False
        found.status = Status.CANCELLED
        future.settle(found)
        return True

    future = CommandFuture(Loop(wait, cancel), asked)
    return future


def test_a_future_has_the_value() -> None:
    asked = request()
    future = future_of(asked)
    assert not future.done()
    assert future.running()
    future.settle(travel(asked, Mode.EVAL, "3"))
    assert future.result() == 3
    assert future.exception() is None
    assert not future.running()
    assert not future.cancel()


def test_a_future_raises_the_error() -> None:
    asked = request()
    future = future_of(asked)
    future.settle(travel(asked, Mode.EXEC, "1 / 0"))
    assert isinstance(future.exception(), errors.CommandError)
    with pytest.raises(errors.CommandError):
        future.result()


def test_waiting_too_long_for_a_future_is_a_timeout_and_ends_nothing() -> None:
    future = future_of(request())
    for wait in (future.result, future.exception):
        with pytest.raises(errors.CommandTimeout, match=r"request 7 .* 0.5 s"):
            wait(timeout=0.5)
        with pytest.raises(concurrent.futures.TimeoutError):
            wait(0)
    assert not future.done()


def test_only_a_queued_future_can_be_cancelled() -> None:
    assert not future_of(request(server=2)).cancel()
    future = future_of(request(server=None))
    assert future.cancel()
    assert future.cancelled()
    assert future.cancel()
    for ask in (future.result, future.exception):
        with pytest.raises(errors.CommandCancelled):
            ask()
    assert concurrent.futures.wait([future], 0).done == {future}


def test_threads_that_follow_a_future_at_once_are_all_told() -> None:
    """Whichever of them makes what it takes, there is one of it."""
    for _ in range(200):
        asked = request()
        future, told = future_of(asked), threading.Semaphore(0)
        ready = threading.Barrier(3)

        def follow(future: CommandFuture = future, told: Any = told, ready: Any = ready) -> None:
            ready.wait(30)
            future.add_done_callback(lambda _: told.release())

        followers = [threading.Thread(target=follow) for _ in range(2)]
        for follower in followers:
            follower.start()
        ready.wait(30)
        future.settle(travel(asked, Mode.EVAL, "3"))  # in the midst of it
        for follower in followers:
            follower.join()
        for _ in followers:
            assert told.acquire(timeout=30)
        assert not told.acquire(blocking=False)


def test_a_future_lives_without_a_dict() -> None:
    """CPython can spoil one that two threads make at once; it is also two thirds of a future's memory."""
    asked = request()
    futures = [future_of(asked) for _ in range(100)]
    for future in futures:
        assert not concurrent.futures.wait([future], 0).done
        future.add_done_callback(lambda _: None)
        future.settle(travel(asked, Mode.EVAL, "3"))
        assert future.result() == 3
        assert not any(type(held) is dict for held in gc.get_referents(future))
