"""Words for figures, in top and elsewhere."""

from __future__ import annotations

import pytest

from mpiframe.watch import source as watching


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (None, "-"),
        (0, "0 B"),
        (1023, "1023 B"),
        (612 << 20, "612 MiB"),
        (1 << 30, "1 GiB"),
        (5.5 * 2**30, "5.5 GiB"),
        (3 << 40, "3 TiB"),
    ],
)
def test_bytes(count: float | None, words: str) -> None:
    assert watching.size(count) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "-"),
        (-1, "0 ms"),
        (0.0123, "12 ms"),
        (3.44, "3.4 s"),
        (125, "2:05"),
        (3723, "1:02:03"),
        (86400 * 3 + 4 * 3600, "3 d 4 h"),
    ],
)
def test_spans_of_time(seconds: float | None, words: str) -> None:
    assert watching.span(seconds) == words


@pytest.mark.parametrize(
    ("per_second", "words"), [(None, "-"), (0.0, "0"), (0.31, "0.3"), (12.4, "12"), (3400, "3.4k")]
)
def test_rates(per_second: float | None, words: str) -> None:
    assert watching.rate(per_second) == words


def test_a_missing_extra_is_told_with_what_to_do() -> None:
    error = watching.missing(ImportError("no", name="rich"))
    assert "rich" in str(error)
    assert "pip install 'mpiframe[interactive]'" in str(error)
