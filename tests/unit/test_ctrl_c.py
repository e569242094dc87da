"""Where KeyboardInterrupt may be raised: not in the books, and not in what is printed in their midst."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from mpiframe.ctrl_c import CtrlC, _keeps_books


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
    ctrl_c, heard = CtrlC(lambda: None), []

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
