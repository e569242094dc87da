"""Commands that do what no command should: each gets an answer, and the server serves on.

That it does is checked after every test, by a fixture.
"""

from __future__ import annotations

import builtins
import os
import signal
import sys
import threading

import pytest

import mpiframe
from mpiframe import server

pytestmark = pytest.mark.timeout(60)


def run(client, command, **parameters):
    return client.push(command, 1, True, parameters or None, timeout=30)[0]


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("import sys; sys.exit()", "SystemExit"),
        ("import sys; sys.exit(3)", "SystemExit"),
        ("exit('bye')", "SystemExit"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise KeyboardInterrupt('mine')", "KeyboardInterrupt"),
        ("raise GeneratorExit", "GeneratorExit"),
        ("raise BaseException('base')", "BaseException"),
        ("class Own(BaseException): pass\nraise Own", "Own"),
        ("def f(): return f()\nf()", "RecursionError"),
        ("raise MemoryError", "MemoryError"),
        ("raise 3", "TypeError"),
        ("bytearray(1 << 60)", "MemoryError"),
    ],
)
def test_what_a_command_raises(client, command, name):
    response = run(client, command)
    assert response.status == "failed"
    assert name in response.traceback
    with pytest.raises(mpiframe.CommandError, match=name):
        response.result()
    with pytest.raises(mpiframe.CommandError, match=name):
        client.submit(command, target=1).result(20)


def test_the_cause_is_the_users_exception(client):
    with pytest.raises(mpiframe.CommandError) as caught:
        run(client, "raise SystemExit(3)").result()
    assert isinstance(caught.value.__cause__, SystemExit)
    assert caught.value.__cause__.code == 3


@pytest.mark.parametrize(
    "command",
    [
        "(i for i in [])",
        "__import__('threading').Lock()",
        "__import__('sys')._getframe()",
    ],
)
def test_a_result_that_cannot_be_pickled(client, command):
    response = run(client, command)
    assert response.status == "failed"
    with pytest.raises(mpiframe.SerializationError, match=r"cannot be pickled") as caught:
        response.result()
    assert "server 1" in str(caught.value)


def explode(*args):
    raise RuntimeError("not here")


def explode_hard(*args):
    raise SystemExit("not here either")


class Bad:
    """Comes as what its argument says when it is unpickled."""

    def __init__(self, how):
        self.how = how

    def __reduce__(self):
        return self.how, (self.how,)


class Reducing:
    def __reduce__(self):
        sys.exit("while pickling")


def make(kind, *args):
    return kind(*args)


@pytest.mark.parametrize("how", [explode, explode_hard])
def test_a_result_that_cannot_be_unpickled(client, how):
    future = client.submit(make, Bad, how, target=1)
    after = client.submit(abs, -1, target=1)
    with pytest.raises(mpiframe.SerializationError, match="cannot be unpickled") as caught:
        future.result(20)
    assert type(caught.value.__cause__) in (RuntimeError, SystemExit)
    assert after.result(20) == 1
    assert run(client, "1").ret == 1


def test_a_result_that_leaves_while_it_is_pickled(client):
    with pytest.raises(mpiframe.SerializationError, match="cannot be pickled"):
        client.submit(Reducing, target=1).result(20)


def test_an_argument_that_cannot_be_unpickled(client):
    for how in (explode, explode_hard):
        future = client.submit(len, Bad(how), target=1)
        with pytest.raises(mpiframe.CommandError, match="not here"):
            future.result(20)


class NoPickle(Exception):
    def __init__(self, text):
        super().__init__(text)
        self.lock = threading.Lock()


class NoUnpickle(Exception):
    def __init__(self, a, b):
        super().__init__(f"{a} and {b}")


class NoText(Exception):
    def __str__(self):
        raise ValueError("no text")

    __repr__ = __str__


class LeavesOnText(Exception):
    def __str__(self):
        sys.exit(1)


class LeavesOnPickle(Exception):
    def __reduce__(self):
        os.kill(os.getpid(), signal.SIGINT)
        sys.exit(2)


def raise_it(kind, *args):
    raise kind(*args)


@pytest.mark.parametrize(
    ("kind", "args", "words"),
    [
        (NoPickle, ("locked",), "NoPickle: locked"),
        (NoUnpickle, (1, 2), "NoUnpickle: 1 and 2"),
        (NoText, (), "NoText"),
        (LeavesOnText, (), "LeavesOnText"),
        (LeavesOnPickle, (), "LeavesOnPickle"),
    ],
)
def test_an_exception_that_does_not_travel(client, kind, args, words):
    with pytest.raises(mpiframe.CommandError, match=words) as caught:
        client.submit(raise_it, kind, *args, target=1).result(20)
    assert "raise kind(*args)" in caught.value.remote_traceback


def test_a_chain_that_does_not_travel(client):
    command = """
import threading
try:
    1 / 0
except Exception as error:
    error.lock = threading.Lock()
    raise OSError(error)
"""
    assert "OSError" in run(client, command).traceback


def put_right():
    """What strings need in order to run, so that one failure does not spoil all tests after it."""
    namespace = server.current()._executor.namespace
    namespace.names["__builtins__"] = builtins
    namespace.install()


def speak():
    print("word")
    return len("word")


@pytest.mark.parametrize(
    ("command", "undo"),
    [
        ("print = len = None", "del print, len"),
        ("del globals()['__builtins__']", ""),
        ("globals().clear()", ""),
        ("__builtins__.len = None", "import builtins; __builtins__.len = builtins.len"),
        ("__builtins__ = {}", ""),
        ("__name__ = 3", "__name__ = '__main__'"),
        ("import builtins; builtins.len = builtins.print = builtins.isinstance = None", ""),
        ("import builtins; del builtins.len", ""),
        ("import sys; sys.stdout = None", ""),
        ("import sys; sys.stdout = sys.stderr = object()", ""),
        ("import sys, io; sys.stdout = io.StringIO()", ""),
        ("import sys; sys.stdout.close(); sys.stderr.close()", ""),
        ("import sys; sys.__stdout__ = None", ""),
        ("import sys; sys.argv = None", "import sys; sys.argv = ['']"),
        ("import sys; sys.modules['__main__'] = None", ""),
        ("import os; old = os.getcwd(); os.chdir('/')", "os.chdir(old)"),
        ("import os; old = dict(os.environ); os.environ.clear()", "os.environ.update(old)"),
        ("import gc; gc.disable(); gc.collect()", "gc.enable()"),
        ("import linecache; linecache.clearcache()", ""),
    ],
)
def test_what_a_command_rebinds(client, command, undo):
    response = run(client, command)
    try:
        assert response.successful, response.traceback
        assert client.submit(speak, target=1).result(20) == 4
        spoken = run(client, speak)
        assert (spoken.ret, spoken.stdout) == (4, "word\n")
    finally:
        client.submit(put_right, target=1).result(20)
        run(client, undo).result()


def break_streams():
    sys.stdout = sys.stderr = None


def test_an_importable_function_that_breaks_the_streams(client):
    client.submit(break_streams, target=1).result(20)
    response = run(client, speak)
    assert (response.ret, response.stdout) == (4, "word\n")


def test_a_rebound_print_lasts_in_the_users_namespace_only(client):
    run(client, "print = 'mine'").result()
    assert run(client, "print").ret == "mine"
    assert client.submit(speak, target=1).result(20) == 4
    run(client, "del print").result()
    assert run(client, "print('again')").stdout == "again\n"


def test_a_signal_from_outside_is_the_clients_affair(client, gate):
    """A terminal's Ctrl-C reaches every rank; servers leave it to the client."""
    pid = run(client, "__import__('os').getpid()").ret
    os.kill(pid, signal.SIGINT)
    id = client.push(gate.command, target=1, parameters=gate.parameters)
    gate.await_start()
    os.kill(pid, signal.SIGINT)
    gate.open()
    assert client.get(id)[0].successful
    assert run(client, "1").ret == 1


def test_threads_that_are_left_behind(client):
    response = run(
        client,
        """
import threading
flag = threading.Event()
def late():
    flag.wait(20)
    raise RuntimeError("nobody hears me")
thread = threading.Thread(target=late)
thread.start()
""",
    )
    assert response.successful
    assert run(client, "flag.set(); thread.join()").successful


def test_exit_handlers_and_destructors_that_print(client):
    response = run(
        client,
        """
class Loud:
    def __del__(self): print("gone")
loud = [Loud() for _ in range(3)]
loud.append(loud)
del loud
import gc; gc.collect()
""",
    )
    assert response.stdout.count("gone") == 3
