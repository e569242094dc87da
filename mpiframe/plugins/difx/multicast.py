"""The multicast group over which DiFX's programs talk: one message a datagram, nobody is asked who they are.

Whoever reaches the group can send anything, so an interface is always pinned: the loopback unless another is
named. What does not come in on it is not received, and nothing is sent by another.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import logging
import os
import select
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from mpiframe.plugins.difx.messages import NO_PROCESS, Message, read
from mpiframe.plugins.difx.messages_bodies import BODIES
from mpiframe.plugins.difx.messages_fields import Body
from mpiframe.plugins.difx.messages_xml import LONGEST_BYTES, MessageError

DEFAULT_GROUP, DEFAULT_PORT = "224.2.2.1", 50200
"""Those of guiServer and startdifx. DiFX's library itself has none: without both variables it is silent."""
_TTL = 3
_GAP_SECONDS = 20e-6
"""Between two messages, as DiFX leaves it: a switch may drop what comes closer."""
_BUFFER_BYTES = 1 << 20
_LONGEST_NAME = 31
_IP_MULTICAST_ALL = 49
_SIOCGIFADDR = 0x8915
_JOIN_SECONDS = 5.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Group:
    """address: an IPv4 group, or one host's address; interface: the name or address of one of ours."""

    address: str = DEFAULT_GROUP
    port: int = DEFAULT_PORT
    interface: str = "lo"

    def __post_init__(self) -> None:
        try:
            ipaddress.IPv4Address(self.address)
        except ValueError as error:
            raise MessageError(f"DIFX_MESSAGE_GROUP: {self.address!r} is no IPv4 address") from error
        if not 0 < self.port < 65536:
            raise MessageError(f"DIFX_MESSAGE_PORT: {self.port} is no port")

    @classmethod
    def find(cls, interface: str = "lo", environment: Mapping[str, str] | None = None) -> Group:
        """From DIFX_MESSAGE_GROUP and DIFX_MESSAGE_PORT. Raises MessageError if they make no sense."""
        env = os.environ if environment is None else environment
        port = env.get("DIFX_MESSAGE_PORT") or str(DEFAULT_PORT)
        if not (port.isascii() and port.isdecimal()):
            raise MessageError(f"DIFX_MESSAGE_PORT: {port!r} is no port")
        return cls(env.get("DIFX_MESSAGE_GROUP") or DEFAULT_GROUP, int(port), interface)

    @property
    def is_multicast(self) -> bool:
        """Whether it is a group, and not one host."""
        return ipaddress.IPv4Address(self.address).is_multicast

    def _membership(self) -> bytes:
        """ip_mreqn: the group, the interface's address, its number."""
        number = 0
        try:
            local = ipaddress.IPv4Address(self.interface).packed
        except ValueError:
            try:
                number = socket.if_nametoindex(self.interface)
            except OSError:
                known = ", ".join(name for _, name in socket.if_nameindex())
                raise MessageError(f"interface {self.interface!r} is not there; there are {known}") from None
            local = _address_of(self.interface)
        return ipaddress.IPv4Address(self.address).packed + local + struct.pack("@i", number)

    def receiving_socket(self) -> socket.socket:
        """A socket that hears the group. Raises MessageError."""
        with contextlib.ExitStack() as undo:
            made = undo.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC))
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
            try:
                # Bound to the group: what is sent to this port of ours alone is not for us.
                made.bind((self.address, self.port))
                if self.is_multicast:
                    # Only what we joined ourselves, on the interface where we did.
                    made.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
                    made.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, self._membership())
            except OSError as error:
                raise MessageError(f"cannot hear {self}: {error.strerror}") from error
            made.setblocking(False)
            undo.pop_all()
            return made

    def sending_socket(self) -> socket.socket:
        """A socket that reaches the group. Raises MessageError."""
        with contextlib.ExitStack() as undo:
            made = undo.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC))
            try:
                if self.is_multicast:
                    made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, self._membership())
                    made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, _TTL)
                    made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
                made.connect((self.address, self.port))
            except OSError as error:
                raise MessageError(f"cannot reach {self}: {error.strerror}") from error
            undo.pop_all()
            return made


def _address_of(interface: str) -> bytes:
    """The IPv4 address of an interface, else another one's would be the sender's; zeros if it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        try:
            answer = fcntl.ioctl(one, _SIOCGIFADDR, struct.pack("256s", interface.encode()[:15]))
        except OSError:
            return b"\0" * 4
    return answer[20:24]


class Sender:
    """Sends messages to a group, numbered. May be used by several threads.

    identifier, process: of the header, as in `Message`; sender: this host's name, cut as DiFX cuts it.
    """

    def __init__(
        self, group: Group, identifier: str = "", *, process: int = NO_PROCESS, sender: str = ""
    ) -> None:
        self.group = group
        self._socket = group.sending_socket()
        self._head = (identifier, process, sender or socket.gethostname()[:_LONGEST_NAME])
        self._sequence = 0
        self._last = 0.0
        self._lock = threading.Lock()

    def __enter__(self) -> Sender:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Send no more."""
        self._socket.close()

    def send(
        self,
        body: Body,
        *,
        receivers: Iterable[str] = (),
        identifier: str | None = None,
        process: int | None = None,
    ) -> Message:
        """Send a body; the message it became. Raises MessageError, also if the network refuses it."""
        own_identifier, own_process, sender = self._head
        with self._lock:
            message = Message(
                body,
                sender=sender,
                receivers=tuple(receivers),
                process=own_process if process is None else process,
                identifier=own_identifier if identifier is None else identifier,
                sequence=self._sequence,
            )
            self._send(message.write())
            self._sequence += 1
        return message

    def send_raw(self, data: bytes) -> None:
        """Send a datagram as it is, such as one to be relayed. Raises MessageError."""
        with self._lock:
            self._send(data)

    def _send(self, data: bytes) -> None:
        while time.perf_counter() - self._last < _GAP_SECONDS:
            pass  # shorter than any wait the system offers
        try:
            self._socket.send(data)
        except OSError as error:
            raise MessageError(f"cannot send to {self.group}: {error.strerror}") from error
        finally:
            self._last = time.perf_counter()


@dataclass(eq=False)
class Subscription:
    """Who wants to hear what: None means all; `Listener.subscribe` makes one, `cancel` ends it."""

    callback: Callable[[Message], None]
    types: frozenset[str] | None
    jobs: frozenset[str] | None
    _listener: Listener

    def wants(self, message: Message) -> bool:
        """Whether a message is for it."""
        return (self.types is None or message.type in self.types) and (
            self.jobs is None or message.identifier in self.jobs
        )

    def cancel(self) -> None:
        """Hear no more. A call under way may still end after this."""
        self._listener.forget(self)


class Listener:
    """Hears a group in a thread of its own, and hands each message to those who want it.

    What nobody wants is not even read as XML. received, unreadable: how many datagrams there were, and how
    many of them were no messages; those go to `on_unreadable(data, address, error)`, if that is given.
    """

    def __init__(
        self,
        group: Group,
        *,
        on_unreadable: Callable[[bytes, str, MessageError], None] | None = None,
    ) -> None:
        self.group = group
        self.received = 0
        self.unreadable = 0
        self._on_unreadable = on_unreadable
        self._subscriptions: tuple[Subscription, ...] = ()
        self._lock = threading.Lock()
        self._busy = False
        self._socket = group.receiving_socket()
        self._bell, self._ring = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="DiFX messages", daemon=True)
        self._thread.start()

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def subscribe(
        self,
        callback: Callable[[Message], None],
        types: Iterable[str | type[Body]] | None = None,
        jobs: Iterable[str] | None = None,
    ) -> Subscription:
        """Call back with messages of these types (names or body classes) and of these jobs' identifiers.

        It is called in the listener's thread; what it raises is logged. Raises MessageError: unknown type.
        """
        names = None
        if types is not None:
            names = frozenset(one if isinstance(one, str) else one.type for one in types)
            if unknown := sorted(names - BODIES.keys()):
                raise MessageError(
                    f"unknown types {', '.join(unknown)}; there are {', '.join(sorted(BODIES))}"
                )
        made = Subscription(callback, names, None if jobs is None else frozenset(jobs), self)
        with self._lock:
            self._subscriptions += (made,)
        return made

    def forget(self, subscription: Subscription) -> None:
        """As `Subscription.cancel`."""
        with self._lock:
            self._subscriptions = tuple(one for one in self._subscriptions if one is not subscription)

    def is_behind(self) -> bool:
        """Whether something has come that is not handed on yet, or just being so."""
        poller = select.poll()
        try:
            poller.register(self._socket, select.POLLIN)
        except ValueError:  # closed
            return False
        # In this order: what is taken between the two looks makes it busy before.
        waits = any(found & select.POLLIN for _, found in poller.poll(0))
        return waits or self._busy

    def close(self) -> None:
        """Hear no more; what has come but was not handed on yet is lost."""
        if self._ring.fileno() < 0:
            return
        self._ring.close()
        if threading.current_thread() is not self._thread:
            self._thread.join(_JOIN_SECONDS)

    def _run(self) -> None:
        with self._socket, self._bell, selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            selector.register(self._bell, selectors.EVENT_READ)
            while True:
                ready = {key.fileobj for key, _ in selector.select()}
                if self._bell in ready:
                    return
                self._busy = True
                try:
                    data, (address, _) = self._socket.recvfrom(LONGEST_BYTES)
                except OSError:  # a bad checksum, an ICMP error: the next one may be good
                    continue
                else:
                    self.received += 1
                    self._hand_on(data, str(address))
                finally:
                    self._busy = False

    def _hand_on(self, data: bytes, address: str) -> None:
        subscriptions = self._subscriptions
        # The name of a type is in the message as it is: cheaper to look for than to read all the XML.
        if not any(
            one.types is None or any(name.encode() in data for name in one.types) for one in subscriptions
        ):
            return
        try:
            message = read(data)
        except MessageError as error:
            self.unreadable += 1
            if self._on_unreadable is not None:
                self._call(self._on_unreadable, data, address, error)
            return
        for one in subscriptions:
            if one.wants(message):
                self._call(one.callback, message)

    def _call(self, callback: Callable[..., None], *arguments: object) -> None:
        try:
            callback(*arguments)
        except Exception:
            _log.exception("a subscriber of %s raised", self.group)
