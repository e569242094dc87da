"""Tracebacks at a prompt: what the user wrote, and what went wrong on the server; not what lies between."""

from __future__ import annotations

import os
import traceback
import types
from typing import Any

from mpiframe.errors import MpiframeError

_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_MAGIC = ("run_line_magic", "run_cell_magic")  # IPython's, between the user's line and our function


def cut(tb: types.TracebackType | None, skip: int = 0) -> types.TracebackType | None:
    """The frames before the first of ours, as a new chain; the first `skip` frames are kept untried."""
    frames: list[types.TracebackType] = []
    while tb is not None:
        if len(frames) >= skip and os.path.abspath(tb.tb_frame.f_code.co_filename).startswith(_OURS):
            break
        frames.append(tb)
        tb = tb.tb_next
    names = [frame.tb_frame.f_code.co_name for frame in frames]
    for at, name in enumerate(names):
        if name in _MAGIC:  # the line before it only says so in other words
            frames = frames[: max(at - 1, skip)]
            break
    chain = None
    for frame in reversed(frames):
        chain = types.TracebackType(chain, frame.tb_frame, frame.tb_lasti, frame.tb_lineno)
    return chain


def lines(error: BaseException, tb: types.TracebackType | None) -> list[str]:
    """What a plain prompt prints; of an error of ours no more than its text, which has the server's part."""
    if isinstance(error, (MpiframeError, KeyboardInterrupt)):
        name = type(error).__name__
        what = f"{name}: {error}" if str(error) else name
        if tb is None:
            return [what + "\n"]
        return ["Traceback (most recent call last):\n", *traceback.format_tb(tb), what + "\n"]
    return traceback.format_exception(type(error), error, tb)


def install(shell: Any) -> None:
    """Have IPython show our errors like this."""

    def show(
        shell: Any, kind: type[BaseException], error: BaseException, tb: Any, tb_offset: int | None = None
    ) -> list[str]:
        short = cut(tb, skip=1)
        text: list[str]
        if short is None or short.tb_next is None:
            text = [line.rstrip("\n") for line in lines(error, None)]
        else:
            cause, error.__cause__ = error.__cause__, None  # its text is part of the error's
            try:
                text = shell.InteractiveTB.structured_traceback(kind, error, short, tb_offset=tb_offset)
            finally:
                error.__cause__ = cause
        shell._showtraceback(kind, error, text)
        return text

    shell.set_custom_exc((MpiframeError, KeyboardInterrupt), show)
