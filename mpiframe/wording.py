"""Commands, times and values in a few words, for tables, messages and reports."""

from __future__ import annotations

from typing import Any


def shorten(command: Any, width: int = 60) -> str:
    """A command, or any text, in one short line."""
    named = command if isinstance(command, str) else getattr(command, "__qualname__", None)
    text = represent(command) if named is None else named
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 3] + "..."


def represent(value: Any) -> str:
    """The `repr` of a value, also of one that cannot say what it is."""
    try:
        return repr(value)
    except Exception as error:  # the user's class; what it stands in is shown all the same
        return f"<{type(value).__name__} whose repr raised {type(error).__name__}>"


def duration(seconds: float) -> str:
    """A time in its best unit: `12.3 us`, `450 ms`, `1,234 s`."""
    for unit, size in (("us", 1e-6), ("ms", 1e-3)):
        if seconds < 999.5 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s" if seconds < 1000 else f"{seconds:,.0f} s"


def without_middle(text: str, most: int = 20_000) -> str:
    """A long text without its middle: a notebook keeps what it shows."""
    left_out = len(text) - most
    if left_out <= 0:
        return text
    return f"{text[: most // 2]}\n[{left_out:,} characters left out here]\n{text[-most // 2 :]}"
