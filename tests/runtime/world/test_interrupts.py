"""Commands that are cancelled or interrupted, by call or by Ctrl-C, while they wait, run or end."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import mpiframe

pytestmark = pytest.mark.timeout(90)

ALL = "sum(map(len, ['mpi', 'frame']))"
STUBBORN = """
import time
until = time.monotonic() + 1.5
while time.monotonic() < until:
    try:
        open(started, "w").close()  # in here, for the interrupt may come at once
        time.sleep(1.5)
    except KeyboardInterrupt:
        pass
"""
LOSES = """
import signal, time
def lose(*_):
    signal.pthread_kill = kill
kill, signal.pthread_kill = signal.pthread_kill, lose
open(started, "w").close()
time.sleep(60)
"""


@pytest.fixture
def press(client) -> Iterator[Callable[..., None]]:
    """Ctrl-C, as soon as something is so and somebody waits for an answer."""
    threads = []

    def later(condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 20
        while not (condition() and client._loop._foreground) and time.monotonic() < end:
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)

    def start(condition: Callable[[], bool]) -> None:
        threads.append(threading.Thread(target=later, args=[condition]))
        threads[-1].start()

    yield start
    for thread in threads:
        thread.join()


def runs(client, count=1):
    """How many commands run now, as the client knows it."""
    dispatcher = client._loop.dispatcher
    return lambda: sum(dispatcher.running(rank) is not None for rank in dispatcher.ranks()) >= count


# -- cancel ----------------------------------------------------------------------------------------


def test_cancelling_a_running_command(client, busy):
    after = client.push("'next'", target=1)
    assert client.cancel(busy) is True
    assert client.cancel(busy) is False
    cancelled, next_one = client.get([busy, after], timeout=20)
    assert cancelled.status == "cancelled"
    assert "server 1" in cancelled.traceback
    with pytest.raises(mpiframe.CommandCancelled, match="was interrupted"):
        cancelled.result()
    assert next_one.ret == "next"  # though nobody opened the gate


def test_an_interrupt_that_comes_just_before_a_system_call(client, gate):
    """It does not end the call, as if it had been lost; nobody can aim so well, so its signal is dropped."""
    id = client.push(LOSES, target=1, parameters=gate.parameters)
    gate.await_start()
    assert client.cancel(id) is True
    assert client.push(ALL, target=1, block=True, timeout=20)[0].ret == 8


def test_cancelling_futures(client, gate):
    running = client.submit(gate.command, target=1, **gate.parameters)
    gate.await_start()
    queued = client.submit(abs, -1, target=1)
    assert client.cancel(queued)
    assert client.cancel(running)
    assert running.cancelled()
    assert queued.cancelled()
    with pytest.raises(mpiframe.CommandCancelled, match="server 1"):
        running.result()
    done = client.submit(abs, -1, target=1)
    assert done.result(20) == 1
    assert client.cancel(done) is False


def test_cancelling_what_was_sent_ahead(client, gate, until, monkeypatch):
    """It never runs, and what was sent behind it does."""
    monkeypatch.setattr(client._loop.dispatcher.pace, "expected", lambda key: 1e-6)  # all is sent ahead
    client.push("marks = []", target=1, block=True)
    slow = client.push(gate.command, target=1, parameters=gate.parameters)
    gate.await_start()
    ahead = [client.push("marks.append(0)", target=1) for _ in range(3)]
    sent = [client._loop.requests[id].server for id in ahead]
    assert sent == [1, 1, 1], "nothing was sent ahead"
    assert client.cancel(ahead[1]) is True
    until(lambda: client._loop.dispatcher.row(1)[0] == 2)  # the server has heard of it
    gate.open()
    first, cancelled, last, _ = client.get([ahead[0], ahead[1], ahead[2], slow], timeout=20)
    assert (first.status, cancelled.status, last.status) == ("done", "cancelled", "done")
    assert client.push("len(marks)", target=1, block=True)[0].ret == 2


def test_cancels_that_race_with_everything(client):
    """Each command is done or cancelled, never both, and the books are right in the end."""
    chance = random.Random(5)
    client.push("count = 0", target=1, block=True)
    done = cancelled = 0
    for _ in range(60):
        ids = [client.push("count += 1", target=1) for _ in range(chance.randrange(1, 12))]
        wanted = chance.sample(ids, len(ids) // 2)
        if chance.random() < 0.5:
            client.get(ids[:0])
        told = {id for id in wanted if client.cancel(id)}
        for response in client.get(ids, timeout=20):
            assert response.status == ("cancelled" if response.id in told else "done")
            done += response.successful
            cancelled += not response.successful
    assert cancelled > 0
    count = client.push("count", target=1, block=True)[0].ret
    assert done <= count <= done + cancelled  # a cancelled one may have run, but not a done one twice


# -- Ctrl-C ----------------------------------------------------------------------------------------


def test_ctrl_c_interrupts_the_command_that_is_waited_for(client, gate, press):
    press(gate._started.exists)
    id = client.push(gate.command, target=1, parameters=gate.parameters)
    with pytest.raises(KeyboardInterrupt):
        client.get(id)
    (response,) = client.get(id, timeout=20)
    assert response.status == "failed"
    assert "KeyboardInterrupt" in response.traceback


def test_ctrl_c_in_a_blocking_push_and_in_a_result(client, gate, press):
    press(gate._started.exists)
    with pytest.raises(KeyboardInterrupt):
        client.push(gate.command, target=1, block=True, parameters=gate.parameters)
    gate._started.unlink()
    press(gate._started.exists)
    future = client.submit(gate.command, target=1, **gate.parameters)
    with pytest.raises(KeyboardInterrupt):
        future.result()
    with pytest.raises(mpiframe.CommandError, match="KeyboardInterrupt"):
        future.result(20)


def test_ctrl_c_cancels_what_is_waited_for_and_has_not_begun(client, gate, busy, press):
    """The command that runs is not the one that is waited for, and goes on."""
    id = client.push("ran = 'it ran'", target=1)
    press(lambda: True)
    with pytest.raises(KeyboardInterrupt):
        client.get(id)
    assert client.get(id, timeout=20)[0].status == "cancelled"
    gate.open()
    assert client.get(busy, timeout=20)[0].successful
    assert client.push("globals().get('ran')", target=1, block=True)[0].ret is None


@pytest.mark.parametrize("ordered", [True, False])
def test_ctrl_c_in_a_map_ends_all_of_it(client, servers, ordered, press):
    press(runs(client, len(servers)))
    with pytest.raises(KeyboardInterrupt):
        list(client.map(time.sleep, [600.0] * 9, ordered=ordered))
    assert client.push(ALL, target="all", block=True, timeout=20)[0].ret == 8


def test_ctrl_c_in_a_collective(client, servers, press):
    press(runs(client, len(servers)))
    with pytest.raises(KeyboardInterrupt):
        client.spmd(lambda comm: time.sleep(600))
    assert client.push(ALL, target="all", block=True, timeout=20)[0].ret == 8


def test_ctrl_c_while_another_thread_drives(client, gate, busy, press):
    """The main thread only follows it."""
    other = threading.Thread(target=client.get, args=[busy])
    other.start()
    while not client._loop._driving.locked():
        time.sleep(0.001)
    id = client.push("1", target=1)
    press(lambda: client._loop._followers > 0)
    with pytest.raises(KeyboardInterrupt):
        client.get(id)
    gate.open()
    other.join(20)
    assert not other.is_alive()


@pytest.mark.servers(2)
def test_a_handler_of_the_programs_own_stays(client, gate, busy):
    """And Python's own, which Jupyter puts back for each cell, makes room for ours."""
    ours = signal.getsignal(signal.SIGINT)
    assert ours == client._loop.ctrl_c._strike
    heard = []
    signal.signal(signal.SIGINT, lambda *_: heard.append(1) or gate.open())
    try:
        future = client.submit(os.kill, os.getpid(), signal.SIGINT)
        assert client.get(busy, timeout=20)[0].successful
        assert future.result(20) is None
        assert heard == [1]
        signal.signal(signal.SIGINT, signal.default_int_handler)
        assert client.submit(time.sleep, 0.05).result(20) is None
        assert signal.getsignal(signal.SIGINT) == ours
    finally:
        signal.signal(signal.SIGINT, ours)


def test_ctrl_c_does_not_wait_long_for_a_stubborn_command(client, tmp_path, press):
    started = tmp_path / "started"
    press(started.exists)
    id = client.push(STUBBORN, target=1, parameters={"started": str(started)})
    with pytest.raises(KeyboardInterrupt):
        client.get(id)
    assert client.push("1", target=1, block=True, timeout=20)[0].ret == 1
    assert client.get(id)[0].successful


def test_ctrl_c_in_the_users_own_code(client, gate, busy):
    """As without a client; nothing that runs is touched."""
    entered = threading.Event()

    def compute() -> None:
        entered.set()
        for _ in range(200):  # not one sleep: a signal may come just before it begins
            time.sleep(0.1)

    def press() -> None:
        entered.wait(20)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press).start()
    with pytest.raises(KeyboardInterrupt):
        compute()
    gate.open()
    assert client.get(busy, timeout=20)[0].successful


def test_ctrl_c_in_the_midst_of_the_books_loses_nothing(client):
    """Pressed at any moment whatever: every command is done, and no wait hangs."""
    over, armed, chance = threading.Event(), threading.Event(), random.Random(3)

    def hammer() -> None:
        while not over.is_set():
            if armed.wait(0.1):
                over.wait(chance.random() * 10e-3)
                armed.clear()
                os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=hammer)
    thread.start()
    pressed, number = 0, 0
    end = time.monotonic() + (5 if os.environ.get("MPIFRAME_TEST_LONG") else 2)
    try:
        while time.monotonic() < end or pressed <= 10:
            futures: dict[int, Any] = {}
            try:
                armed.set()
                while True:  # until it is pressed, which it is once
                    number += 1
                    future = futures[number] = client.submit(abs, -number)
                    if number % 3 == 0:
                        client._loop.wait(future.done)
            except KeyboardInterrupt:
                pressed += 1
            for value, future in futures.items():
                assert future.result(20) == value
    finally:
        over.set()
        thread.join()
    assert client._loop.wait(lambda: client._loop.open == 0, 20)
    assert client._loop._foreground == client._loop._followers == 0
