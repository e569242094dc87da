"""Frames over a socket: whole, in order, whatever pieces they come in; and nothing but frames."""

from __future__ import annotations

import itertools
import json
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpiframe import doorbell
from mpiframe.hub import wire
from mpiframe.hub.wire import Frame, Stream, WireError

LIMIT = 60.0  # seconds after which a test gives up
SECRET = b"k" * wire.SECRET


class Ends:
    """Two streams that speak to each other; a thread of the test watches both."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.wanted: list[str] = []
        self.near = Stream(ours, lambda: self.wanted.append("near"))
        self.far = Stream(theirs, lambda: self.wanted.append("far"))

    def carry(self, count: int) -> list[Frame]:
        """What comes out at the far end, until there are so many frames."""
        frames: list[Frame] = []
        deadline = time.monotonic() + LIMIT
        while len(frames) < count:
            assert time.monotonic() < deadline, f"{len(frames)} of {count} frames have come"
            writing = [self.near] if self.near.unsent else []
            reading, room, _ = select.select([self.far], writing, [], 0.0 if self.far.more else 1.0)
            if room:
                self.near.flush()
            if reading or self.far.more:
                frames += self.far.receive()
        return frames

    def close(self) -> None:
        self.near.close()
        self.far.close()


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    made.close()


def test_a_frame_arrives_with_its_buffers(ends: Ends) -> None:
    array = numpy.arange(10.0)
    ends.near.send({"op": "push", "text": "naïve ☃"}, [b"", b"one", array, bytearray(3)])
    ((header, buffers),) = ends.carry(1)
    assert header == {"op": "push", "text": "naïve ☃"}
    assert [bytes(b) for b in buffers] == [b"", b"one", array.tobytes(), bytes(3)]


def test_text_of_any_kind_and_length_can_be_told(ends: Ends) -> None:
    text = "\ud800 \0 é \n" + "☃" * 1_000_000
    ends.near.send({"pieces": [[1, text]]})
    ((header, _),) = ends.carry(1)
    assert header["pieces"] == [[1, text]]


def test_a_buffer_for_which_there_is_no_room_ends_the_connection(ends: Ends) -> None:
    text = b'{"sizes":[9000000000000000000]}'
    ends.near.sock.sendall(struct.pack("!4sI", b"mfs1", len(text)) + text)
    with pytest.raises(WireError, match="no room for a buffer"):
        ends.carry(1)


def test_large_buffers_arrive_in_memory_that_can_be_written_and_are_not_copied_to_be_sent(ends: Ends) -> None:
    array = numpy.random.default_rng(0).integers(0, 255, 9 << 20, numpy.uint8)
    ends.near.send({"op": "a"}, [array, b"small", array[: 1 << 20]])
    assert any(piece.obj is array for piece in ends.near._out)
    ends.near.send({"op": "b"})
    (first, buffers), second = ends.carry(2)
    assert (first, second) == ({"op": "a"}, ({"op": "b"}, []))
    assert numpy.array_equal(buffers[0], array)
    assert bytes(buffers[1]) == b"small"
    assert numpy.array_equal(buffers[2], array[: 1 << 20])
    buffers[0][0] ^= 1  # what an array is built on


def test_whoever_does_not_read_holds_nobody_up(ends: Ends) -> None:
    piece = bytes(1 << 20)
    start = time.monotonic()
    marks = [ends.near.send({"n": n}, [piece]) for n in range(64)]
    assert time.monotonic() - start < LIMIT
    assert "near" in ends.wanted
    assert ends.near.unsent > 32 << 20
    assert ends.near.sent < marks[-1]
    assert [header["n"] for header, _ in ends.carry(64)] == list(range(64))
    assert ends.near.unsent == 0
    assert ends.near.sent == marks[-1]


HEADERS = st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=20) | st.none(), max_size=4)
SIZES = st.sampled_from([0, 1, 7, 300, (64 << 10) - 1, 64 << 10, 100_000])


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    frames=st.lists(st.tuples(HEADERS, st.lists(SIZES, max_size=3)), max_size=6),
    cuts=st.lists(st.sampled_from([1, 5, 9, 100, 4096, 60_000]), min_size=1, max_size=30),
)
def test_frames_are_whole_whatever_pieces_they_come_in(frames: list[Any], cuts: list[int]) -> None:
    frames = [({k: v for k, v in h.items() if k != "sizes"}, [os.urandom(n) for n in s]) for h, s in frames]
    whole = b"".join(bytes(piece) for h, b in frames for piece in wire.encode(h, b))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(LIMIT)
        stream = Stream(theirs, lambda: None)
        found: list[Frame] = []
        sizes = itertools.chain(cuts, itertools.repeat(60_000))
        at = 0
        while at < len(whole):
            size = next(sizes)
            ours.sendall(whole[at : at + size])
            at += size
            found += stream.receive()
        while stream.more:
            found += stream.receive()
        assert [(h, [bytes(b) for b in buffers]) for h, buffers in found] == frames


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        struct.pack("!4sI", b"mfs1", 1 << 31),
        struct.pack("!4sI", b"mfs1", 4) + b"{{{{",
        struct.pack("!4sI", b"mfs1", 2) + b"[]",
        struct.pack("!4sI", b"mfs1", 2) + b"17",
        struct.pack("!4sI", b"mfs1", 14) + b'{"sizes":[-1]}',
        struct.pack("!4sI", b"mfs1", 16) + b'{"sizes":[true]}',
        struct.pack("!4sI", b"mfs1", 11) + b'{"sizes":1}',
        struct.pack("!4sI", b"mfs1", 200_000) + b"[" * 200_000,
    ],
)
def test_what_is_no_frame_ends_the_connection(ends: Ends, garbage: bytes) -> None:
    ends.near.sock.setblocking(True)
    ends.near.sock.sendall(garbage)
    with pytest.raises(WireError, match="other end"):
        ends.carry(1)


def test_the_end_is_told_when_all_before_it_was(ends: Ends) -> None:
    ends.near.send({"op": "last"}, [bytes(100)])
    ends.near.close()
    assert [header for header, _ in ends.carry(1)] == [{"op": "last"}]
    with pytest.raises(ConnectionError):
        ends.carry(1)
    ends.near.send({"op": "later"})  # nobody hears it, and that is no error
    assert ends.near.flush()


def test_frames_of_several_threads_are_not_mixed(ends: Ends) -> None:
    def send(who: int) -> None:
        for n in range(200):
            ends.near.send({"who": who, "n": n}, [bytes([who]) * 3000])

    threads = [threading.Thread(target=send, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    frames = ends.carry(800)
    for thread in threads:
        thread.join(LIMIT)
    for who in range(4):
        own = [(header["n"], bytes(b)) for header, (b,) in frames if header["who"] == who]
        assert own == [(n, bytes([who]) * 3000) for n in range(200)]


# -- who may speak --------------------------------------------------------------------------------


def hub(sock: socket.socket, secret: bytes, ended: list[Any]) -> None:
    """The hub's side of the proof, step by step."""
    magic, nonce = wire.HELLO.unpack(
        doorbell.receive_exactly(sock, wire.HELLO.size, time.monotonic() + LIMIT)
    )
    assert magic == wire.MAGIC
    mine = b"m" * wire.NONCE
    sock.sendall(wire.CHALLENGE.pack(mine, wire.prove(secret, b"hub", nonce + mine)))
    try:
        proof = doorbell.receive_exactly(sock, wire.PROOF, time.monotonic() + LIMIT)
    except OSError as error:
        ended.append(error)
    else:
        ended.append(proof == wire.prove(secret, b"attached", nonce + mine))


@pytest.mark.parametrize("right", [True, False])
def test_each_side_proves_that_it_knows_the_secret(right: bool) -> None:
    ours, theirs = socket.socketpair()
    ended: list[Any] = []
    with theirs:
        theirs.settimeout(LIMIT)
        thread = threading.Thread(target=hub, args=(theirs, SECRET if right else b"x" * 32, ended))
        thread.start()
        with ours:
            if right:
                wire.introduce(ours, SECRET, time.monotonic() + LIMIT)
            else:
                with pytest.raises(ConnectionRefusedError, match="secret"):
                    wire.introduce(ours, SECRET, time.monotonic() + LIMIT)
        thread.join(LIMIT)
    assert ended == [True] if right else isinstance(ended[0], ConnectionResetError)


def test_the_hubs_own_proof_is_not_the_attached_ones() -> None:
    assert wire.prove(SECRET, b"hub", b"n") != wire.prove(SECRET, b"attached", b"n")


def test_a_silent_listener_is_not_waited_for_for_ever() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(TimeoutError):
        wire.introduce(ours, SECRET, time.monotonic() + 0.05)


def test_headers_are_json_and_nothing_else() -> None:
    (piece,) = wire.encode({"op": "x", "n": [1, None]}, [b"ab"])
    version, length = struct.unpack_from("!4sI", piece)
    assert version == b"mfs1"
    assert json.loads(bytes(piece[8 : 8 + length])) == {"op": "x", "n": [1, None], "sizes": [2]}
    assert bytes(piece[8 + length :]) == b"ab"
