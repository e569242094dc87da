"""Where processes attach to a running world: one thread of the client's process that serves their sockets.

    attached process      hub                                   the client's loop
    CommandEncoder  --->  numbers of the world's own  ------->  Dispatcher, as the client's own requests
                          (sessions.Session keeps them)         servers ...
    decode          <---  passed on as it came        <-------  answer

The hub undoes no pickle and no marshal: commands travel on to the servers as they came, and so do answers to
the process that asked. Who knows the world's secret may run code on its servers, as its user; no one else
gets beyond the proof.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import selectors
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mpiframe.errors import MpiframeError
from mpiframe.hub import calls as hub_calls
from mpiframe.hub import wire
from mpiframe.hub.session import Attached, Refused
from mpiframe.hub.sessions import Sessions
from mpiframe.messages import within_session

if TYPE_CHECKING:
    from mpiframe.client import Client

log = logging.getLogger("mpiframe")

Listener = tuple[socket.socket, ssl.SSLContext | None]
"""A socket that listens, and what its connections are wrapped in"""

_HALF_OPEN = 64  # connections that may be proving themselves at once
_MOST = 1000  # connections that are attached
_LAST_WORDS = 1.0  # seconds that attached processes have to hear of the end


@dataclass(slots=True, eq=False)
class _Guest:
    """A connection that has yet to prove itself."""

    sock: socket.socket
    since: float
    shaking: bool = False  # TLS is being agreed upon
    data: bytearray = field(default_factory=bytearray)
    nonces: bytes = b""


class Hub:
    """Serves attached processes beside a client, from `start` until the client ends or `close`.

    listeners: sockets that listen already; one on TCP needs a TLS context. secret: of `wire.SECRET` bytes.
    name: the world's, for messages. snapshot: what a watcher gets for {"since": number}.
    on_stop: called, in a thread of the hub, when a session asks for the world's end; `wait` tells of it, too.
    """

    def __init__(
        self,
        client: Client,
        listeners: Iterable[Listener],
        secret: bytes,
        *,
        name: str = "",
        snapshot: Callable[[int], dict[str, Any]] | None = None,
        on_stop: Callable[[], None] = lambda: None,
    ) -> None:
        if len(secret) < wire.SECRET:
            raise ValueError(f"the secret of a hub has {wire.SECRET} bytes")
        self.client = client
        self.name = name
        self.snapshot = snapshot
        self.sessions = Sessions(client, self._wake)
        self._secret = secret
        self._on_stop = on_stop
        self.on_change: Callable[[], None] = lambda: None  # a process has come or gone; in the hub's thread
        self._asked_to_stop = threading.Event()
        self.drain = False  # whoever asked for the end wants what was pushed to be done first
        self._selector = selectors.DefaultSelector()
        self._guests: dict[socket.socket, _Guest] = {}
        self._attached: dict[socket.socket, Attached] = {}
        self._listeners: dict[socket.socket, ssl.SSLContext | None] = {}
        self._listening = False
        for sock, context in listeners:
            if sock.family != socket.AF_UNIX and context is None:
                raise ValueError("a hub listens on TCP with TLS only")
            sock.setblocking(False)
            self._listeners[sock] = context
        self._wake_in, self._wake_out = os.pipe()
        os.set_blocking(self._wake_in, False)
        os.set_blocking(self._wake_out, False)
        self._awake = False
        self._over = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mpiframe-hub", daemon=True)

    # -- life ---------------------------------------------------------------------------------------------

    def start(self) -> Hub:
        """Begin to serve; `close` is called when the client ends."""
        self._listen(True)
        self._selector.register(self._wake_in, selectors.EVENT_READ)
        self.client.before_end(self.sessions.call_all_off)
        self.client.at_end(self.close)
        self.client._loop.on_roster = self._tell_roster
        self.client._hearing.log_taps.append(self._tell_log)
        self.client._hearing.event_taps.append(self._tell_event)
        self._thread.start()
        return self

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until a session asks for the world's end; whether one did."""
        return self._asked_to_stop.wait(timeout)

    def serve(self) -> None:
        """Wait until a session asks for the world's end, then end it: what a world without a script does."""
        self._asked_to_stop.wait()
        if self.drain:
            self.sessions.drain()
            self.client.close()
        else:
            self.client.abandon()

    def stop(self, drain: bool = False) -> dict[str, Any]:
        """Ask for the world's end, as a session does."""
        self.drain = drain
        self._asked_to_stop.set()
        self._on_stop()
        return {}

    def close(self, why: str = "") -> None:
        """Tell all sessions that the world ends, and close their connections."""
        if self._over.is_set():
            return
        world = f"the world {self.name!r}" if self.name else "the world"
        self.sessions.end(why or f"{world} has ended, and with it what was pushed to it")
        self._over.set()
        if self._thread.ident is not None:
            self._wake()
            if threading.current_thread() is not self._thread:
                self._ended.wait(_LAST_WORDS + 1.0)

    def _wake(self) -> None:
        """Some stream has to be watched for room, or the end has come; from any thread."""
        if not self._awake:
            self._awake = True
            with contextlib.suppress(OSError):
                os.write(self._wake_out, b"!")

    def _tell_roster(self) -> None:
        roster = self.sessions.roster()
        for attached in self.sessions.attached():
            attached.stream.send({"op": "roster", **roster})

    def _tell_log(self, rank: int, id: int, fields: Any) -> bool:
        """A log record of a session's command goes to its process, if there is one."""
        request = self.client._loop.requests.get(id)
        owner: Any = request.owner if request is not None else None
        attached: Attached | None = owner.attached if owner is not None else None
        if attached is None:
            return False
        attached.stream.send(
            {"op": "log", "server": rank, "id": within_session(id), "fields": [_plain(f) for f in fields]}
        )
        return True

    def _tell_event(self, rank: int, source: str, content: bytes, buffers: Any) -> None:
        for attached in self.sessions.attached():
            if source in attached.sources:
                attached.stream.send({"op": "event", "server": rank, "source": source}, [content, *buffers])

    # -- the thread ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._over.is_set():
                self._step(self._patience())
            self._say_farewell()
        except Exception:
            log.exception("the hub of this world has failed, and nobody can attach any more")
        finally:
            for sock in [*self._guests, *self._listeners]:
                sock.close()
            for attached in list(self._attached.values()):
                self._drop(attached, "the world has ended")
            self._selector.close()
            os.close(self._wake_in)
            wake, self._wake_out = self._wake_out, -1
            os.close(wake)
            self._ended.set()

    def _patience(self) -> float | None:
        if any(a.stream.more for a in self._attached.values()):
            return 0.0
        if not self._guests:
            return None
        oldest = min(guest.since for guest in self._guests.values())
        return max(oldest + wire.PATIENCE - time.monotonic(), 0.01)

    def _step(self, timeout: float | None) -> None:
        """Take everything one step further; each has its turn, and none is waited for."""
        events = self._selector.select(timeout)
        self._awake = False
        ready: dict[Attached, None] = {}
        for key, mask in events:
            found: Any = key.fileobj
            if found == self._wake_in:
                with contextlib.suppress(OSError):
                    os.read(self._wake_in, 4096)
            elif found in self._listeners:
                self._welcome(found)
            elif found in self._guests:
                self._hear_guest(self._guests[found])
            elif (attached := self._attached.get(found)) is not None:
                if mask & selectors.EVENT_WRITE:
                    attached.stream.flush()
                    if attached.session is not None:
                        attached.session.weigh()
                if mask & selectors.EVENT_READ:
                    ready[attached] = None
        for attached in [*ready, *(a for a in self._attached.values() if a.stream.more and a not in ready)]:
            self._hear(attached)
        for attached in self._attached.values():
            self._watch(attached)
        now = time.monotonic()
        for guest in [g for g in self._guests.values() if now - g.since > wire.PATIENCE]:
            self._dismiss(guest)

    def _watch(self, attached: Attached) -> None:
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if attached.stream.unsent else 0)
        if wanted != attached.watched:
            attached.watched = wanted
            self._selector.modify(attached.stream.sock, wanted)

    def _say_farewell(self) -> None:
        deadline = time.monotonic() + _LAST_WORDS
        while time.monotonic() < deadline and any(a.stream.unsent for a in self._attached.values()):
            for key, mask in self._selector.select(0.05):
                attached = self._attached.get(key.fileobj)  # type: ignore[call-overload]
                if attached is not None and mask & selectors.EVENT_WRITE:
                    attached.stream.flush()
            for attached in self._attached.values():
                self._watch(attached)

    # -- strangers ----------------------------------------------------------------------------------------

    def _welcome(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self._listen(False)  # until a connection ends; else it would be tried again and again
            return  # else it went away before we looked
        context = self._listeners[listener]
        try:
            sock.setblocking(False)
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if context is not None:
                sock = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        except (OSError, ValueError):
            sock.close()
            return
        if len(self._guests) >= _HALF_OPEN:
            self._dismiss(min(self._guests.values(), key=lambda g: g.since))
        self._guests[sock] = _Guest(sock, time.monotonic(), shaking=context is not None)
        self._selector.register(sock, selectors.EVENT_READ)

    def _hear_guest(self, guest: _Guest) -> None:
        try:
            if guest.shaking:
                guest.sock.do_handshake()  # type: ignore[attr-defined]
                guest.shaking = False
            while guest.sock in self._guests:
                wanted = wire.PROOF if guest.nonces else wire.HELLO.size
                part = guest.sock.recv(wanted - len(guest.data))
                if not part:
                    self._dismiss(guest)
                    return
                guest.data += part
                if len(guest.data) == wanted:
                    data = bytes(guest.data)
                    guest.data.clear()
                    self._judge(guest, data)
        except (BlockingIOError, ssl.SSLWantReadError):
            self._selector.modify(guest.sock, selectors.EVENT_READ)
        except ssl.SSLWantWriteError:
            self._selector.modify(guest.sock, selectors.EVENT_WRITE)
        except (OSError, ValueError):
            self._dismiss(guest)

    def _judge(self, guest: _Guest, data: bytes) -> None:
        if not guest.nonces:
            magic, nonce = wire.HELLO.unpack(data)
            if magic != wire.MAGIC:
                self._dismiss(guest)
                return
            mine = os.urandom(wire.NONCE)
            guest.nonces = nonce + mine
            proof = wire.prove(self._secret, b"hub", guest.nonces)
            guest.sock.sendall(wire.CHALLENGE.pack(mine, proof))
            return
        if not wire.is_proof(self._secret, b"attached", guest.nonces, data) or len(self._attached) >= _MOST:
            self._dismiss(guest)
            return
        del self._guests[guest.sock]
        reuse = self.client._world.config.reuse
        attached = Attached(wire.Stream(guest.sock, self._wake, reuse), self.sessions.next_number())
        self._attached[guest.sock] = attached
        attached.watched = selectors.EVENT_READ
        attached.stream.more = True  # what came with the proof may be in TLS's hands already
        self._selector.modify(guest.sock, selectors.EVENT_READ)

    def _dismiss(self, guest: _Guest) -> None:
        self._selector.unregister(guest.sock)
        del self._guests[guest.sock]
        guest.sock.close()
        self._listen(True)

    def _listen(self, on: bool) -> None:
        if on != self._listening:
            self._listening = on
            for sock in self._listeners:
                if on:
                    self._selector.register(sock, selectors.EVENT_READ)
                else:
                    self._selector.unregister(sock)

    # -- the attached -------------------------------------------------------------------------------------

    def _hear(self, attached: Attached) -> None:
        try:
            for header, buffers in attached.stream.receive():
                self._obey(attached, header, buffers)
        except OSError as error:
            self._drop(attached, str(error))
        except Exception:
            log.exception(
                "a message of an attached process (%s) has failed; its connection ends", attached.who
            )
            self._drop(attached, "a message has failed")

    def _obey(self, attached: Attached, header: dict[str, Any], buffers: Sequence[Any]) -> None:
        number = header.pop("n", None)
        reply: dict[str, Any] | None
        try:
            op = header.pop("op")
            if op == "hello":
                reply = self._hello(attached, **header)
            elif attached.session is None:
                raise Refused("say hello first")
            elif op == "bye":
                reply = self.sessions.leave(attached, **header)
            elif op == "stop":
                reply = self.stop(**header)
            else:
                found = hub_calls.CALLS.get(op)
                if found is None:
                    raise Refused(f"the hub does not know {op!r}: it is of another version")
                call = hub_calls.Call(self, attached, attached.session, number, buffers)
                reply = found(call, **header)
        except MpiframeError as error:
            self._refuse(attached, number, error, header)
        except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
            words = Refused(f"the hub cannot make sense of a message: {error!r}")
            self._refuse(attached, number, words, header)
        else:
            if number is not None and reply is not None:
                attached.stream.send({"op": "reply", "n": number, **reply})

    def _refuse(
        self, attached: Attached, number: int | None, error: MpiframeError, header: dict[str, Any]
    ) -> None:
        """A message cannot be obeyed: whoever waits for what it was to bring is told."""
        if number is None and "ids" in header and "to" in header:
            for id in header["ids"]:
                attached.stream.send(
                    {
                        "op": "answer",
                        "id": id,
                        "server": None,
                        "times": [0.0] + [None] * 3,
                        "refused": str(error),
                    }
                )
        else:
            self.answer_error(attached, number, error)

    @staticmethod
    def answer_error(attached: Attached, number: int | None, error: BaseException) -> None:
        """Say that a call has failed; where nobody waits for an answer, to whoever reads the log."""
        if number is None:
            log.warning("a message of an attached process failed: %s", error)
            return
        kind = type(error).__name__
        attached.stream.send({"op": "reply", "n": number, "error": kind, "text": str(error)})

    def _hello(self, attached: Attached, **words: Any) -> dict[str, Any]:
        old = self.sessions.find(words.get("session"))
        if old is not None and old.attached is not None and old.attached.has_left():
            self._see_off(old.attached)
        before = self.sessions.enter(attached, **words)
        if before is not None:
            why = "the session was taken over by another process"
            before.stream.send({"op": "gone", "why": why, "ended": False})
            self._drop(before, "taken over")
        config = self.client._world.config
        session = attached.session
        assert session is not None
        self.on_change()
        return {
            "name": self.name,
            "session": session.name,
            "number": session.number,
            "last": session.last_id,
            "last_service": session.last_service,
            "records": len(session.records),
            "large": config.large,
            "grace": config.grace,
            "world": hub_calls.world(self),
            "python": list(sys.version_info[:2]),
            **self.sessions.roster(),
        }

    def _see_off(self, attached: Attached) -> None:
        """Its process is gone: take in what it said last, for its next one is here already."""
        while attached.stream.sock in self._attached:
            self._hear(attached)

    def _drop(self, attached: Attached, why: str) -> None:
        if self._attached.pop(attached.stream.sock, None) is None:
            return
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(attached.stream.sock)
        attached.stream.flush()
        attached.stream.close()
        self._listen(not self._over.is_set())
        self.sessions.detach(attached)
        self.on_change()
        log.debug("an attached process has left: %s", why)


def _plain(value: Any) -> Any:
    return value if isinstance(value, (str, int, float, type(None))) else str(value)
