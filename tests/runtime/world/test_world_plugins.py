"""Plugins on servers: options, commands, deferred answers, events, life."""

from __future__ import annotations

import concurrent.futures
import os
import threading
from dataclasses import dataclass

import pytest

import mpiframe
from mpiframe import Plugin, command

pytestmark = pytest.mark.timeout(60)


class Echo(Plugin):
    name = "echo"

    @dataclass
    class Options:
        prefix: str = ""
        times: int = 1

        def __post_init__(self):
            if self.times < 0:
                raise ValueError("times must not be negative")

    def start(self, context):
        self.options = context.config
        self.context = context
        self.futures = []
        self.threads = []

    @command
    def say(self, text, *, loud=False):
        """Return the text.

        More of the documentation.
        """
        said = self.options.prefix + text * self.options.times
        return said.upper() if loud else said

    @command
    def where(self):
        return self.context.rank, self.context.host, self.context.ranks, os.getpid()

    @command
    def later(self):
        future = concurrent.futures.Future()
        self.futures.append(future)
        return future

    @command
    def release(self, value):
        def work():
            for future in self.futures:
                if isinstance(value, BaseException):
                    future.set_exception(value)
                else:
                    future.set_result(value)
            self.futures.clear()

        self.threads.append(threading.Thread(target=work))
        self.threads[-1].start()

    @command
    def tell(self, events):
        def work():
            for event in events:
                self.context.emit(event)

        self.threads.append(threading.Thread(target=work))
        self.threads[-1].start()

    @command
    def tell_at_once(self, event):
        self.context.emit(event)

    @command
    def crash(self, how):
        raise how

    @command
    def log(self, text):
        self.context.log.error(text)

    def stop(self):
        for thread in self.threads:
            thread.join(10)
        self.context.emit("stopped")

    def hidden(self):
        return "not a command"


class Broken(Plugin):
    name = "broken"

    def start(self, context):
        raise OSError("no such instrument")


class Nameless(Plugin):
    pass


@pytest.fixture
def echo(client):
    proxy = client.plugin(Echo, target=1, prefix="> ")
    yield proxy
    proxy.unload()


def test_commands_are_requests(client, echo):
    assert echo.say("hello") == "> hello"
    assert echo.say("hello", loud=True) == "> HELLO"
    assert echo.say.submit("later").result(20) == "> later"
    assert echo.say.__doc__ == "Return the text."
    rank, host, ranks, pid = echo.where()
    row = client.servers[0]
    assert (rank, host, ranks, pid) == (1, row.host, len(client.servers) + 1, row.pid)


def test_the_proxy_knows_its_commands(client, echo):
    assert {"say", "later", "crash"} <= set(dir(echo))
    assert not hasattr(echo, "hidden")
    assert "say" in repr(echo)
    with pytest.raises(mpiframe.PluginError, match=r"no command 'sya'.*say"):
        echo.sya("x")


def test_several_servers(client, servers):
    proxy = client.plugin(Echo, target="all")
    try:
        assert [where[0] for where in proxy.where()] == servers
        assert [f.result(20) for f in proxy.say.submit("x")] == ["x"] * len(servers)
    finally:
        proxy.unload()


def test_a_deferred_answer(client, echo):
    first, second = echo.later.submit(), echo.later.submit()
    assert echo.say("meanwhile") == "> meanwhile"
    assert client.push("1", target=1, block=True)[0].ret == 1
    assert not first.done()
    assert client.servers[0].state == "idle"
    echo.release({"answer": 42})
    assert first.result(20) == second.result(20) == {"answer": 42}


def test_a_deferred_failure(client, echo):
    future = echo.later.submit()
    echo.release(KeyError("lost"))
    with pytest.raises(mpiframe.PluginError, match="lost") as caught:
        future.result(20)
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_deferred_result_that_cannot_be_pickled(client, echo):
    future = echo.later.submit()
    client.push("import mpiframe.plugin_host as h, threading", target=1)
    client.push("h._loaded['echo'][0].release(threading.Lock())", target=1, block=True)
    with pytest.raises(mpiframe.SerializationError):
        future.result(20)


def test_a_plain_command_may_defer_its_answer_too(client):
    client.push(
        "import concurrent.futures as cf, threading\n"
        "pool = cf.ThreadPoolExecutor(1)\nflag = threading.Event()",
        target=1,
    )
    id = client.push("pool.submit(lambda: flag.wait(20) and 'deferred')", target=1)
    client.push("flag.set()", target=1, block=True)
    assert client.get(id)[0].result() == "deferred"
    client.push("pool.shutdown(); del pool, flag", target=1, block=True)


def test_the_time_out_of_a_deferred_answer(client, echo):
    wait = client.submit(_defer_for_ever, target=1, timeout=0.2)
    with pytest.raises(mpiframe.CommandTimeout):
        wait.result(20)


def _defer_for_ever():
    return concurrent.futures.Future()


def test_events(client, echo, until):
    heard = []
    stop = echo.subscribe(lambda server, event: heard.append((server, event)))
    echo.tell([1, "two", {"three": [3]}, list(range(100_000))])
    until(lambda: len(heard) == 4)
    assert heard[:3] == [(1, 1), (1, "two"), (1, {"three": [3]})]
    stop()
    stop()
    echo.tell_at_once("unheard")
    assert echo.say("x") == "> x"
    assert len(heard) == 4


def test_a_subscriber_that_raises_and_one_that_does_not(client, echo, until, caplog):
    heard = []

    def bad(server, event):
        raise RuntimeError("bad subscriber")

    echo.subscribe(bad)
    echo.subscribe(lambda server, event: heard.append(event))
    echo.tell_at_once("x")
    until(lambda: heard == ["x"])
    assert "bad subscriber" in caplog.text


def test_an_event_that_cannot_be_pickled_does_no_harm(client, echo, caplog, until):
    client.push("import mpiframe.plugin_host as h, threading", target=1)
    client.push("h._loaded['echo'][0].context.emit(threading.Lock())", target=1, block=True)
    until(lambda: "cannot be read" in caplog.text)


def test_events_of_a_stop_are_heard(client, until):
    proxy = client.plugin(Echo, target=1)
    heard = []
    proxy.subscribe(lambda server, event: heard.append(event))
    proxy.unload()
    until(lambda: heard == ["stopped"])


@pytest.mark.parametrize(
    "how", [ValueError("bad value"), SystemExit(3), KeyboardInterrupt("stop"), AssertionError()]
)
def test_a_crash_is_a_plugin_error(client, echo, how):
    with pytest.raises(mpiframe.PluginError, match=type(how).__name__) as caught:
        echo.crash(how)
    assert isinstance(caught.value, mpiframe.CommandError)
    assert isinstance(caught.value.__cause__, type(how))
    assert "echo.crash" in str(caught.value)
    assert echo.say("still here") == "> still here"


def test_wrong_arguments(client, echo):
    with pytest.raises(mpiframe.PluginError, match="TypeError"):
        echo.say()


def test_logs(client, echo, caplog, until):
    echo.log("a word")
    until(lambda: [r for r in caplog.records if r.name == "mpiframe.plugins.echo"])


def test_the_same_plugin_again(client, echo):
    again = client.plugin(Echo, target=1, prefix="> ")
    assert again.say("x") == "> x"
    with pytest.raises(mpiframe.PluginError, match="other options"):
        client.plugin(Echo, target=1, prefix="+ ")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prefx": "x"}, r"no option 'prefx'.*did you mean 'prefix'"),
        ({"other": 1}, r"no option 'other'.*prefix, times"),
        ({"times": -1}, "times must not be negative"),
    ],
)
def test_options_are_checked(client, options, words):
    with pytest.raises(mpiframe.PluginError, match=words):
        client.plugin(Echo, target=1, **options)


def test_a_plugin_without_options(client):
    with pytest.raises(mpiframe.PluginError, match="takes no options"):
        client.plugin(Broken, target=1, fast=True)


def test_a_plugin_that_does_not_start(client):
    with pytest.raises(mpiframe.PluginError, match="no such instrument") as caught:
        client.plugin(Broken, target=1)
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize("wanted", [Nameless, int])
def test_what_is_no_plugin(client, wanted):
    with pytest.raises(mpiframe.PluginError, match=wanted.__name__):
        client.plugin(wanted, target=1)


def test_a_plugin_that_is_not_installed(client):
    with pytest.raises(mpiframe.PluginError, match="no plugin 'unheard'"):
        client.plugin("unheard", target=1)


def test_after_unload(client):
    proxy = client.plugin(Echo, target=1)
    proxy.unload()
    with pytest.raises(mpiframe.PluginError, match="not loaded"):
        proxy.say("x")
    proxy.unload()
