"""Between a hub and the processes attached to it: frames over a stream socket, and who may send them.

    attached process                       hub
    HELLO (magic, nonce)        ------>
                                <------    its nonce, its proof
    its proof                   ------>
    frames                      <----->    frames

Both ends prove that they know the world's secret (HMAC-SHA256 over both sides' nonces) before anything else
is read. A frame is a prefix, a header of JSON, and the buffers whose lengths the header names in "sizes":

    magic and version (4 bytes) | length of the header (4 bytes) | header | buffer | buffer ...

Buffers are sent from where they lie, and received into memory of their own. Nothing here undoes a pickle:
what is pickled travels in buffers, from the process that made it to the one that is to have it.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import socket
import ssl
import struct
import threading
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

from mpiframe.doorbell import receive_exactly, seconds_left
from mpiframe.memory import ReceiveMemory

MAGIC = b"mpiframe-session-1\n\n"
NONCE = PROOF = SECRET = 32
HELLO = struct.Struct(f"!{len(MAGIC)}s{NONCE}s")  # magic, the attached process's nonce
CHALLENGE = struct.Struct(f"!{NONCE}s{PROOF}s")  # the hub's nonce and proof
PATIENCE = 5.0
"""Seconds that a connection may take to prove itself."""

_PREFIX = struct.Struct("!4sI")
_VERSION = b"mfs1"
_LONGEST_HEADER = (1 << 31) - 1  # what commands print is among it
_STAGE = 256 << 10  # bytes asked for at once, where it is not known what comes
_DIRECT = 64 << 10  # a buffer from this size on is received in its place
_TURN = 4 << 20  # bytes that one stream may take from its socket until others have their turn
_PARTS = 64  # pieces that one system call sends

Frame = tuple[dict[str, Any], list[Any]]
"""(header, buffers)"""


class WireError(ConnectionError):
    """What came is no frame of ours; the connection is of no further use."""


# -- who may speak ----------------------------------------------------------------------------------------


def prove(secret: bytes, side: bytes, nonces: bytes) -> bytes:
    """The proof of one side ("hub" or "attached") over the nonces of the attached process and of the hub."""
    return hmac.digest(secret, b"mpiframe session, " + side + nonces, "sha256")


def is_proof(secret: bytes, side: bytes, nonces: bytes, proof: bytes) -> bool:
    """Whether this is what `prove` gives; in a time that tells nothing of it."""
    return hmac.compare_digest(proof, prove(secret, side, nonces))


def introduce(sock: socket.socket, secret: bytes, deadline: float) -> None:
    """Prove to a hub that we know its secret, and have it prove the same; `deadline` in monotonic seconds.

    Raises ConnectionRefusedError where the other end does not know the secret or does not take ours, and
    another OSError where it is no hub at all or does not answer in time.
    """
    nonce = os.urandom(NONCE)
    sock.settimeout(seconds_left(deadline))
    sock.sendall(HELLO.pack(MAGIC, nonce))
    theirs, proof = CHALLENGE.unpack(receive_exactly(sock, CHALLENGE.size, deadline))
    if not is_proof(secret, b"hub", nonce + theirs, proof):
        raise ConnectionRefusedError("whoever listens there does not know the secret of this world")
    sock.sendall(prove(secret, b"attached", nonce + theirs))


# -- frames -----------------------------------------------------------------------------------------------


def encode(header: dict[str, Any], buffers: Sequence[Any] = ()) -> list[memoryview]:
    """The pieces of a frame, uncopied."""
    views = [memoryview(buffer).cast("B") for buffer in buffers]
    if views:
        header = {**header, "sizes": [view.nbytes for view in views]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    head = _PREFIX.pack(_VERSION, len(text)) + text
    if sum(view.nbytes for view in views) <= _DIRECT:
        return [memoryview(b"".join([head, *views]))]  # one piece is quicker than several small ones
    return [memoryview(head), *(view for view in views if view.nbytes)]


class Stream:
    """Frames both ways over one connected socket, plain or TLS; no call waits for the other end.

    `send` may be called by any thread, `receive` and `flush` by the one that watches the socket. What the
    other end does not take at once is kept, in order; `want_write` tells then that the socket is to be
    watched for room, and `flush` goes on.
    """

    def __init__(self, sock: socket.socket, want_write: Callable[[], None], reuse: int = 0) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._tls = isinstance(sock, ssl.SSLSocket)
        self._want_write = want_write
        self._lock = threading.RLock()  # reentrant: a destructor may send while it is held
        self._talking = threading.RLock() if self._tls else None  # OpenSSL takes one thread at a time
        self._out: deque[memoryview] = deque()
        self._sending = False
        self.queued = 0  # bytes that were ever given to `send`
        self.sent = 0  # those of them that the kernel has taken
        self._broken = False
        self._memory = ReceiveMemory(reuse)
        self._data = bytearray()  # received, and not yet understood
        self._header: dict[str, Any] | None = None  # whose buffers are on their way
        self._sizes: list[int] = []
        self._buffers: list[Any] = []
        self._filling: memoryview | None = None  # what is left to fill of the buffer on its way
        self.more = False  # there is more to receive, though the socket may not show it

    def fileno(self) -> int:
        """The socket's; -1 when it is closed."""
        return self.sock.fileno()

    @property
    def unsent(self) -> int:
        """Bytes that wait for the other end to take them."""
        return self.queued - self.sent

    def close(self) -> None:
        """Close the socket; what was not sent is dropped."""
        with self._lock:
            self._broken = True
            self._out.clear()
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)  # whoever watches it is to know
        self.sock.close()

    # -- out ---------------------------------------------------------------------------------------------

    def send(self, header: dict[str, Any], buffers: Sequence[Any] = ()) -> int:
        """Send a frame, as much of it as goes now; the mark that `sent` reaches when it is gone.

        A connection that is broken takes it and drops it: whoever receives hears of that.
        """
        pieces = encode(header, buffers)
        with self._lock:
            self.queued += sum(piece.nbytes for piece in pieces)
            mark = self.queued
            if self._broken:
                return mark
            first = not self._out
            self._out.extend(pieces)
            if first and not self._sending and not self._push_out():
                self._want_write()
        return mark

    def flush(self) -> bool:
        """Send what waits, as much of it as goes; whether all is gone."""
        with self._lock:
            return self._sending or self._push_out()

    def _push_out(self) -> bool:
        self._sending = True  # a frame that a destructor sends meanwhile is not to get in between
        try:
            out = self._out
            while out:
                gone = self._talk_out()
                self.sent += gone
                while gone:
                    first = out[0]
                    if gone < first.nbytes:
                        out[0] = first[gone:]
                        break
                    gone -= first.nbytes
                    out.popleft()
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            return False
        except (OSError, ValueError):  # broken, or closed
            self._broken = True
            self._out.clear()
        finally:
            self._sending = False
        return True

    def _talk_out(self) -> int:
        if self._talking is not None:
            with self._talking:
                return self.sock.send(self._out[0][:_STAGE])
        if len(self._out) == 1:
            return self.sock.send(self._out[0])
        return self.sock.sendmsg(list(islice(self._out, _PARTS)))

    # -- in ----------------------------------------------------------------------------------------------

    def receive(self) -> list[Frame]:
        """The frames that have come in whole. Raises ConnectionError when the other end is gone, WireError
        (one of those) when it speaks nonsense.
        """
        frames: list[Frame] = []
        taken = 0
        self.more = False
        while taken < _TURN:
            filling = self._filling
            try:
                if filling is not None:
                    size = self._talk_in(filling)
                else:
                    part = self._talk()
                    size = len(part)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return frames
            except ValueError:
                raise ConnectionResetError("the connection is closed") from None
            if not size:
                if frames:
                    self.more = True  # the end is for the next call to tell
                    return frames
                raise ConnectionResetError("the connection was closed")
            taken += size
            if filling is not None:
                self._filling = filling[size:] if size < filling.nbytes else None
                if self._filling is None:
                    self._understand(frames)
            else:
                self._data += part
                self._understand(frames)
                if size < _STAGE and not self._tls and self._filling is None:
                    return frames
        self.more = True
        return frames

    def _talk(self) -> bytes:
        if self._talking is not None:
            with self._talking:
                return self.sock.recv(_STAGE)
        return self.sock.recv(_STAGE)

    def _talk_in(self, room: memoryview) -> int:
        if self._talking is not None:
            with self._talking:
                return self.sock.recv_into(room)
        return self.sock.recv_into(room)

    def _understand(self, frames: list[Frame]) -> None:
        """Take apart what has come, as far as it goes."""
        data, at = self._data, 0
        while self._filling is None:
            if self._header is None:
                if len(data) - at < _PREFIX.size:
                    break
                version, length = _PREFIX.unpack_from(data, at)
                if version != _VERSION or length > _LONGEST_HEADER:
                    raise WireError("the other end does not speak the protocol of mpiframe's sessions")
                if len(data) - at < _PREFIX.size + length:
                    break
                at += _PREFIX.size
                self._header, self._sizes = _read_header(data[at : at + length])
                at += length
            elif self._sizes:
                size = self._sizes[0]
                here = len(data) - at
                if size < _DIRECT:
                    if here < size:
                        break
                    self._buffers.append(bytes(memoryview(data)[at : at + size]))
                    at += size
                else:
                    here = min(here, size)
                    try:
                        space = self._memory.take(size)
                    except (MemoryError, ValueError, OverflowError):
                        raise WireError(f"there is no room for a buffer of {size} bytes") from None
                    view = memoryview(space)
                    view[:here] = memoryview(data)[at : at + here]
                    at += here
                    self._buffers.append(space)
                    if here < size:
                        self._filling = view[here:]
                del self._sizes[0]
            if self._header is not None and not self._sizes and self._filling is None:
                frames.append((self._header, self._buffers))
                self._header, self._buffers = None, []
        if at:
            del data[:at]


def _read_header(text: bytearray) -> tuple[dict[str, Any], list[int]]:
    try:
        header = json.loads(text)
        sizes = header.pop("sizes", [])
        if not all(type(size) is int and size >= 0 for size in sizes):
            raise ValueError(sizes)
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise WireError("the other end sent a frame that cannot be read") from None
    return header, list(sizes)
