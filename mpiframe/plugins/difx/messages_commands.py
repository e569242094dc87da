"""DiFX's messages as commands and events of the DiFX plugin; a mixin for it.

difx = client.plugin("difx", target=1, interface="eth1")
difx.subscribe(print)                      # called with (server, ("message", Message))
difx.messages_hear(["DifxStatusMessage"])  # chosen at the server: what nobody wants does not travel
difx.messages_send(Stop(input), identifier="job_1", process=0)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mpiframe.plugins.base import Context, command
from mpiframe.plugins.difx.messages import NO_PROCESS, Message
from mpiframe.plugins.difx.messages_fields import Body
from mpiframe.plugins.difx.multicast import Group, Listener, Sender, Subscription


@dataclass(frozen=True)
class Traffic:
    """received: datagrams since the group is heard; unreadable: those looked at that were no messages."""

    group: Group
    received: int
    unreadable: int


class MessageCommands:
    """The plugin's `messages_group` says which group; its `stop` has to call `messages_close`."""

    context: Context
    _listener: Listener | None = None
    _sender: Sender | None = None
    _subscription: Subscription | None = None

    def messages_group(self) -> Group:
        """Of the environment, on the loopback."""
        return Group.find()

    @command
    def messages_hear(self, types: Sequence[str] | None = None, jobs: Sequence[str] | None = None) -> Group:
        """Emit messages of these types and of these jobs as events ("message", Message); None: all.

        A second call takes the place of the first.
        """
        if self._listener is None:
            self._listener = Listener(self.messages_group())
        made = self._listener.subscribe(lambda found: self.context.emit(("message", found)), types, jobs)
        if self._subscription is not None:
            self._subscription.cancel()
        self._subscription = made
        return self._listener.group

    @command
    def messages_ignore(self) -> None:
        """Emit no more."""
        if self._subscription is not None:
            self._subscription.cancel()
            self._subscription = None

    @command
    def messages_send(
        self, body: Body, receivers: Sequence[str] = (), identifier: str = "", process: int = NO_PROCESS
    ) -> Message:
        """Send a message to the group; what it became."""
        if self._sender is None:
            self._sender = Sender(self.messages_group())
        return self._sender.send(body, receivers=receivers, identifier=identifier, process=process)

    @command
    def messages_traffic(self) -> Traffic:
        """How much there was since `messages_hear`."""
        one = self._listener
        return (
            Traffic(one.group, one.received, one.unreadable) if one else Traffic(self.messages_group(), 0, 0)
        )

    def messages_close(self) -> None:
        """Hear and send no more."""
        for one in (self._listener, self._sender):
            if one is not None:
                one.close()
        self._listener = self._sender = self._subscription = None
