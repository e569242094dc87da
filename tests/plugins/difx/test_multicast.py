"""Messages over real multicast, pinned to the loopback; interfaces are told apart in a network namespace."""

from __future__ import annotations

import logging
import queue
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpiframe.plugins.difx.messages import Message
from mpiframe.plugins.difx.messages_bodies import Alert, Status, Stop, Vsis
from mpiframe.plugins.difx.messages_states import DifxState
from mpiframe.plugins.difx.messages_xml import MessageError
from mpiframe.plugins.difx.multicast import DEFAULT_GROUP, DEFAULT_PORT, Group, Listener, Sender

SECONDS = 20.0
HERE = Path(__file__).parent


class Heard:
    """What came, in order; waits for it."""

    def __init__(self) -> None:
        self._queue: queue.Queue[Message] = queue.Queue()

    def __call__(self, message: Message) -> None:
        self._queue.put(message)

    def next(self) -> Message:
        return self._queue.get(timeout=SECONDS)

    @property
    def empty(self) -> bool:
        return self._queue.empty()


@pytest.fixture
def group() -> Group:
    """A group of this test's own, on the loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    return Group(f"239.{random.randrange(1, 255)}.{random.randrange(255)}.{random.randrange(1, 255)}", port)


@pytest.fixture
def listener(group: Group) -> Iterator[Listener]:
    before = threading.active_count()
    with Listener(group) as made:
        yield made
    assert threading.active_count() <= before  # another test's may have ended meanwhile


def test_messages_reach_all_who_listen(group: Group, listener: Listener) -> None:
    one, other = Heard(), Heard()
    listener.subscribe(one)
    with Listener(group) as second, Sender(group, "tiny_1", process=0, sender="n1") as sender:
        second.subscribe(other)
        sent = [sender.send(Status(state=DifxState.RUNNING)), sender.send(Vsis("go"), receivers=["n2"])]
        assert [message.sequence for message in sent] == [0, 1]
        for heard in (one, other):
            assert [heard.next(), heard.next()] == sent
        assert second.received == 2


def test_each_hears_what_it_subscribed_to(group: Group, listener: Listener) -> None:
    statuses, of_job, all_of_it = Heard(), Heard(), Heard()
    listener.subscribe(statuses, types=[Status])
    listener.subscribe(of_job, types=["DifxStatusMessage", "DifxAlertMessage"], jobs=["b"])
    subscription = listener.subscribe(all_of_it)
    with Sender(group, "a") as sender:
        first = sender.send(Status())
        second = sender.send(Alert(message="x"), identifier="b")
        third = sender.send(Stop(), identifier="b", process=0)
        last = sender.send(Status(), identifier="b")
        assert [all_of_it.next() for _ in range(4)] == [first, second, third, last]
        assert [statuses.next(), statuses.next()] == [first, last]
        assert [of_job.next(), of_job.next()] == [second, last]
        subscription.cancel()
        end = sender.send(Status())
        assert statuses.next() == end
    assert all_of_it.empty
    assert of_job.empty


def test_what_nobody_wants_is_not_read(group: Group, listener: Listener) -> None:
    heard = Heard()
    listener.subscribe(heard, types=[Status])
    with Sender(group) as sender:
        sender.send_raw(b"<difxMessage><type>DifxAlertMessage</type>" + b"<broken")
        wanted = sender.send(Status())
        assert heard.next() == wanted
    assert (listener.received, listener.unreadable) == (2, 0)


def test_rubbish_is_counted_and_shown(group: Group) -> None:
    shown: list[tuple[bytes, str, MessageError]] = []
    heard = Heard()
    with Listener(group, on_unreadable=lambda *what: shown.append(what)) as listener, Sender(group) as sender:
        listener.subscribe(heard)
        sender.send_raw(b"rubbish")
        sender.send_raw(b"x" * 60000)
        sender.send_raw(b"")
        wanted = sender.send(Vsis("x"))
        assert heard.next() == wanted
    assert [data for data, _, _ in shown] == [b"rubbish", b"x" * 60000, b""]
    assert {address for _, address, _ in shown} == {"127.0.0.1"}
    assert (listener.received, listener.unreadable) == (4, 3)


def test_a_subscriber_that_raises_stops_nobody(
    group: Group, listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    heard = Heard()

    def raises(message: Message) -> None:
        raise RuntimeError("not today")

    listener.subscribe(raises)
    listener.subscribe(heard)
    with caplog.at_level(logging.ERROR), Sender(group) as sender:
        sent = [sender.send(Vsis(str(n))) for n in range(2)]
        assert sent == [heard.next(), heard.next()]
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == ["not today"] * 2


def test_it_is_behind_until_all_is_handed_on(group: Group) -> None:
    going_on = threading.Event()
    heard = Heard()

    def slow(message: Message) -> None:
        heard(message)
        assert going_on.wait(SECONDS)

    with Listener(group) as listener, Sender(group) as sender:
        listener.subscribe(slow)
        assert not listener.is_behind()
        sender.send(Vsis("x"))
        assert listener.is_behind()
        heard.next()
        assert listener.is_behind()  # the subscriber has not taken it yet
        going_on.set()
        deadline = time.monotonic() + SECONDS
        while listener.is_behind():
            assert time.monotonic() < deadline
    assert not listener.is_behind()


def test_many_senders_number_their_own(group: Group, listener: Listener) -> None:
    heard = Heard()
    listener.subscribe(heard)
    with Sender(group, "shared") as sender:
        threads = [
            threading.Thread(target=lambda: [sender.send(Vsis("x")) for _ in range(25)]) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        assert sorted(heard.next().sequence for _ in range(100)) == list(range(100))
        for thread in threads:
            thread.join(SECONDS)


def test_one_host_can_be_meant(group: Group) -> None:
    alone = Group("127.0.0.1", group.port)
    heard = Heard()
    assert not alone.is_multicast
    with Listener(alone) as listener, Sender(alone) as sender:
        listener.subscribe(heard)
        sent = sender.send(Vsis("x"))
        assert heard.next() == sent


def test_a_listener_can_be_closed_by_its_subscriber(group: Group) -> None:
    done = threading.Event()
    listener = Listener(group)

    def close(message: Message) -> None:
        listener.close()
        listener.close()
        done.set()

    listener.subscribe(close)
    with Sender(group) as sender:
        sender.send(Vsis("x"))
        assert done.wait(SECONDS)
    listener.close()


def test_unknown_types_and_interfaces_are_named(group: Group, listener: Listener) -> None:
    with pytest.raises(
        MessageError, match=r"unknown types DifxStatus; there are DifxAlertMessage, .*DifxStatusMessage"
    ):
        listener.subscribe(print, types=["DifxStatus"])
    with pytest.raises(MessageError, match=r"interface 'nowhere0' is not there; there are .*lo"):
        Listener(Group(group.address, group.port, "nowhere0"))
    with pytest.raises(MessageError, match="cannot hear"):
        Listener(Group("203.0.113.1", group.port))


def test_the_group_is_that_of_the_environment() -> None:
    assert Group.find(environment={}) == Group(DEFAULT_GROUP, DEFAULT_PORT, "lo")
    env = {"DIFX_MESSAGE_GROUP": "239.1.2.3", "DIFX_MESSAGE_PORT": "50201"}
    assert Group.find("eth1", env) == Group("239.1.2.3", 50201, "eth1")
    for wrong in ({"DIFX_MESSAGE_PORT": "x"}, {"DIFX_MESSAGE_PORT": "70000"}, {"DIFX_MESSAGE_GROUP": "host"}):
        with pytest.raises(MessageError, match=next(iter(wrong))):
            Group.find(environment=wrong)


def test_only_the_pinned_interface_is_heard() -> None:
    """In a namespace with two interfaces; wants root, as the tests of several hosts do."""
    script = (
        "ip link set lo up && ip link add d0 type veth peer name d1 && ip addr add 10.9.0.1/24 dev d0"
        ' && ip link set d1 up && ip link set d0 up && exec "$0" "$1"'
    )
    words = ["unshare", "--net", "bash", "-c", script, sys.executable, str(HERE / "interfaces.py")]
    run = subprocess.run(
        words, capture_output=True, text=True, timeout=60, check=False, cwd=HERE.parents[2],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": str(HERE.parents[2])},
    )  # fmt: skip
    if "Operation not permitted" in run.stderr:
        pytest.skip("no right to make a network namespace")
    assert run.stdout == "d0 heard only d0, lo heard only lo\n", run.stdout + run.stderr
