"""How a command goes through a server's namespace and its cached functions."""

from __future__ import annotations

from typing import Any

import pytest

from mpiframe import codec
from mpiframe.execution import Executor
from mpiframe.messages import Mode


def test_a_function_is_there_though_the_command_it_came_with_never_ran() -> None:
    executor = Executor(1 << 16)
    executor.keep(3, codec.dumps(abs, 1 << 62)[0])
    assert executor.run(int(Mode.CALL), None, 3, False, ((-5,), {}), ()) == 5
    executor.forget()
    with pytest.raises(AssertionError, match="function 3 was never sent here"):
        executor.run(int(Mode.CALL), None, 3, False, ((-5,), {}), ())


def test_a_function_whose_reading_was_interrupted_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    executor, data = Executor(1 << 16), codec.dumps(abs, 1 << 62)[0]

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(codec, "loads", interrupted)
        with pytest.raises(KeyboardInterrupt):
            executor.run(int(Mode.CALL), data, 3, False, ((-5,), {}), ())
    assert executor.run(int(Mode.CALL), None, 3, False, ((-5,), {}), ()) == 5
