"""The messages' part of the DiFX plugin, called as a server does, over real multicast on the loopback."""

from __future__ import annotations

import logging
import queue
from collections.abc import Iterator
from typing import Any

import pytest

from mpiframe.plugins.base import Context, Plugin
from mpiframe.plugins.difx.messages_bodies import Alert, Status, Stop
from mpiframe.plugins.difx.messages_commands import MessageCommands, Traffic
from mpiframe.plugins.difx.messages_xml import MessageError
from mpiframe.plugins.difx.multicast import Group, Sender

SECONDS = 20.0


class Messages(MessageCommands, Plugin):
    """As the DiFX plugin has them."""

    name = "messages"


@pytest.fixture
def events() -> queue.Queue[Any]:
    return queue.Queue()


@pytest.fixture
def plugin(group: Group, events: queue.Queue[Any]) -> Iterator[Messages]:
    made = Messages()
    made.context = Context(None, logging.getLogger("difx"), events.put, 1, "here", 2)
    yield made
    made.messages_close()


def test_what_is_chosen_becomes_events(plugin: Messages, group: Group, events: queue.Queue[Any]) -> None:
    assert plugin.messages_traffic() == Traffic(group, 0, 0)
    assert plugin.messages_hear(["DifxStatusMessage"], ["job_1"]) == group
    with Sender(group, "job_1") as sender:
        sender.send(Alert(message="not this one"))
        sender.send(Status(), identifier="job_2")
        wanted = sender.send(Status())
        assert events.get(timeout=SECONDS) == ("message", wanted)
        plugin.messages_hear(["DifxAlertMessage"])
        sender.send(Status())
        wanted = sender.send(Alert(message="now"))
        assert events.get(timeout=SECONDS) == ("message", wanted)
        assert plugin.messages_traffic().received == 5
        plugin.messages_ignore()
        sender.send(Alert(message="too late"))
    assert events.empty()
    with pytest.raises(MessageError, match="unknown types"):
        plugin.messages_hear(["Status"])


def test_what_is_sent_is_heard(plugin: Messages, events: queue.Queue[Any]) -> None:
    plugin.messages_hear()
    sent = plugin.messages_send(Stop("/a.input"), identifier="a", process=0)
    assert events.get(timeout=SECONDS) == ("message", sent)
    assert (sent.identifier, sent.process, sent.body) == ("a", 0, Stop("/a.input"))


def test_they_are_commands_of_the_plugin() -> None:
    mine = {name for name in Messages.commands() if name.startswith("messages_")}
    assert mine == {"messages_hear", "messages_ignore", "messages_send", "messages_traffic"}
