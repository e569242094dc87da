"""Damaged data for the codec: run by test_fuzz_codec.py in a process of its own, whose memory is bounded.

A damaged pickle may ask for any amount of memory; that has to be an error like any other.
"""

from __future__ import annotations

import os
import resource
import sys
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpiframe import answers, codec
from mpiframe.errors import SerializationError
from mpiframe.messages import Outcome, Request, Status

LONG = bool(os.environ.get("MPIFRAME_TEST_LONG"))
FUZZ = settings(
    max_examples=20_000 if LONG else 500,
    derandomize=not LONG,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def inner(x: float, y: int = 2) -> float:
    return x * y


PLAIN = [
    {"a": [1, 2.5, "text"], "c": (None, b"bytes" * 50)},
    ValueError("no", 3),
    {1, 2, frozenset({3})},
    "x" * 5_000,
]
# Here, other damage than that the end is missing can make addresses out of numbers: NumPy and Python
# themselves then crash, whoever unpickles it.
FRAGILE = [
    {"a": [1, 2.5, "text"], "b": np.arange(5), "c": (None, b"bytes" * 50)},
    [np.arange(2_000.0), np.ones((3, 4), dtype="f4")],
    lambda x: x + inner(x),
]
FRAMES = [
    codec.pack((1, [(7, 0, "x + 1", 3, False, {"a": 1}, 0), (8, 2, b"data" * 9, 0, True, b"more", 2)])),
    codec.pack((2, [(7, 1, 2.5, 1e9, 1e9 + 1, [(1, "text")], 0)])),
    codec.pack((None, [1 << 40, 3])),
]

CHANGE = st.tuples(
    st.sampled_from(["flip", "insert", "delete", "cut", "double"]),
    st.integers(0, 1 << 16),
    st.binary(max_size=9),
)
CUT = st.tuples(st.just("cut"), st.integers(0, 1 << 16), st.just(b""))


def pickled(samples: list[Any]) -> st.SearchStrategy[tuple[bytes, Any]]:
    return st.sampled_from([codec.encode(sample, 4_096)[1:] for sample in samples])


DAMAGED = st.one_of(
    st.tuples(pickled(PLAIN), st.lists(CHANGE, min_size=1, max_size=4)),
    st.tuples(pickled(FRAGILE), st.lists(CUT, min_size=1, max_size=1)),
)


def damaged(data: bytes, changes: list[tuple[str, int, bytes]]) -> bytes:
    for how, place, words in changes:
        at = place % (len(data) + 1)
        if how == "flip":
            data = data[:at] + words + data[at + len(words) :]
        elif how == "insert":
            data = data[:at] + words + data[at:]
        elif how == "delete":
            data = data[:at] + data[at + len(words) :]
        elif how == "cut":
            data = data[:at]
        else:
            data = data[:at] + data[max(0, at - 40) :]
    return data


def decoded(outcome: Outcome, payload: Any, buffers: Any) -> Request:
    request = Request(id=7, target=None, key=0, command="x", frame=())
    request.server = 2
    answers.decode(request, (7, outcome, payload, 1.0, 2.0, [], len(buffers)), buffers, "host")
    return request


@FUZZ
@given(sample=DAMAGED, lost=st.booleans())
def results(sample: tuple[tuple[bytes, Any], list[tuple[str, int, bytes]]], lost: bool) -> None:
    """A result that was damaged is a value, or a SerializationError of its request."""
    (data, buffers), changes = sample
    arrived = [bytearray(memoryview(b).cast("B")) for b in buffers][lost:]
    request = decoded(Outcome.PICKLED, damaged(bytes(data), changes), arrived)
    if request.error is not None:
        assert isinstance(request.error, SerializationError), request.error
        assert request.status is Status.FAILED
        assert "request 7" in str(request.error)
    else:
        assert request.status is Status.DONE


@FUZZ
@given(garbage=st.binary(max_size=200))
def garbage(garbage: bytes) -> None:
    """So is what was no pickle at all."""
    request = decoded(Outcome.PICKLED, garbage, ())
    assert request.error is None or isinstance(request.error, SerializationError)


@FUZZ
@given(sample=DAMAGED, text=st.text(max_size=50))
def raised(sample: tuple[tuple[bytes, Any], list[tuple[str, int, bytes]]], text: str) -> None:
    """An exception that was damaged is a failed command still, with what the server said of it."""
    (data, _), changes = sample
    request = decoded(Outcome.RAISED, (damaged(bytes(data), changes), text, "ValueError: no", None), ())
    assert request.status is Status.FAILED
    assert request.error is not None
    assert "ValueError: no" in str(request.error)


@FUZZ
@given(frame=st.sampled_from(FRAMES), length=st.integers(0, 1 << 16))
def frames(frame: bytes, length: int) -> None:
    """A frame that was cut off is an error, never another frame."""
    cut = frame[: length % len(frame)]
    try:
        found = codec.unpack(cut)
    except (EOFError, ValueError, TypeError):
        return
    raise AssertionError((cut, found))


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    globals()[sys.argv[1]]()
    print("no damage did any")
