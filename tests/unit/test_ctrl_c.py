"""Where KeyboardInterrupt may be raised: not in the books, and not in what is printed in their midst."""

from __future__ import annotations

import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType, SimpleNamespace
from typing import Any

import pytest

from mpiframe.attached.loop import AttachedLoop
from mpiframe.ctrl_c import CtrlC, _keeps_books
from mpiframe.driver import Driver


def calls(*modules: str) -> FrameType:
    """The innermost frame of functions of these modules, each called by the one before."""
    inner: Callable[[], Any] = lambda: sys._getframe(1)  # noqa: E731
    for name in reversed(modules):
        space: dict[str, Any] = {"__name__": name, "inner": inner}
        exec("def call(): return inner()", space)
        inner = space["call"]
    frame = inner()
    assert isinstance(frame, FrameType)
    return frame


@pytest.mark.parametrize(
    ("modules", "expected"),
    [
        (["script"], False),
        (["script", "mpiframe.client", "mpiframe.driver", "mpiframe.transport"], True),
        (["script", "mpiframe.client", "mpiframe.driver", "selectors"], True),
        (["script", "mpiframe.client", "mpiframe.driver", "threading"], True),
        # A callback of a future, an unpickled class.
        (["script", "mpiframe.driver", "mpiframe.answers", "users"], False),
        (["script", "mpiframe.driver", "mpiframe.answers", "users", "json"], False),
        # What a server printed, by the streams of Jupyter and of a bar.
        (["script", "mpiframe.client_loop", "mpiframe.output", "ipykernel.iostream", "zmq"], True),
        (["script", "mpiframe.client_loop", "mpiframe.output", "ipykernel.iostream", "threading"], True),
        (["script", "mpiframe.client_loop", "mpiframe.output", "mpiframe.bars", "rich.text"], True),
        # The user's own, by the same streams.
        (["script", "mpiframe.bars", "rich.text"], False),
        (["script", "mpiframe.progress", "mpiframe.bars", "rich.text"], False),
        (["script", "mpiframe.progress"], False),
        # A callback that prints while a bar is shown.
        (["script", "mpiframe.driver", "mpiframe.answers", "users", "mpiframe.bars"], False),
    ],
)
def test_where_an_interrupt_may_be_raised(modules: list[str], expected: bool) -> None:
    assert _keeps_books(calls(*modules)) is expected


def test_a_press_that_was_put_off_is_raised_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though a wait raises it just as it is tried again."""
    ctrl_c, heard = CtrlC(lambda: None, lambda: None), []

    def too_late(_: int, number: int) -> None:
        with pytest.raises(KeyboardInterrupt):
            ctrl_c.check()
        heard.append(number)
        ctrl_c._strike(number, calls("script"))

    monkeypatch.setattr("signal.pthread_kill", too_late)
    ctrl_c.pressed = True
    ctrl_c._again()
    assert heard == [signal.SIGINT]
    with pytest.raises(KeyboardInterrupt):  # the next press is another one
        ctrl_c._strike(signal.SIGINT, calls("script"))


def follower_of_an_attached_loop(changed: threading.Condition) -> Callable[[], None]:
    loop: Any = SimpleNamespace(_changed=changed, gone=None)
    return lambda: AttachedLoop._follow(loop, lambda: False, 30.0)


def follower_of_a_driver(changed: threading.Condition) -> Callable[[], None]:
    driving = threading.Lock()
    driving.acquire()
    driver: Any = SimpleNamespace(_changed=changed, _followers=0, _driving=driving)
    return lambda: Driver._follow(driver, lambda: False, time.monotonic() + 30.0)


@pytest.mark.parametrize("follower", [follower_of_an_attached_loop, follower_of_a_driver])
def test_one_that_sleeps_in_a_condition_is_woken_and_its_locks_are_whole(
    follower: Callable[[threading.Condition], Callable[[], None]],
) -> None:
    """Whenever it is pressed: also as the condition takes its lock, or lets go of it."""
    changed, chance = threading.Condition(), random.Random(4)
    follow = follower(changed)

    def notify() -> None:
        with changed:
            changed.notify_all()

    ctrl_c = CtrlC(lambda: None, notify)
    main = threading.current_thread()

    raised = threading.Event()

    def press(seconds: float) -> None:
        # Python sees none that comes just before a system call that blocks, until another one comes.
        while not raised.wait(seconds):
            signal.pthread_kill(main.ident or 0, signal.SIGINT)
            seconds = 0.2

    def wait() -> None:
        raised.clear()
        threading.Thread(target=press, args=(chance.random() * 2e-4,)).start()
        while True:
            follow()
            ctrl_c.check()

    before = signal.signal(signal.SIGINT, ctrl_c._strike)
    begin = time.monotonic()
    try:
        for _ in range(100):
            with pytest.raises(KeyboardInterrupt):
                wait()
            raised.set()
            assert changed.acquire(blocking=False)
            changed.release()
            for thread in set(threading.enumerate()) - {main}:
                thread.join()  # or the system takes the next press and the last one's repetition for one
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - begin < 29.0  # none has slept to its end
