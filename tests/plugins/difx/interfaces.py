"""Run by test_multicast.py where there are two interfaces, lo and d0: each listener hears its own only."""

import queue

from mpiframe.plugins.difx.messages_bodies import Vsis
from mpiframe.plugins.difx.multicast import Group, Listener, Sender

SECONDS = 20.0
ADDRESS, PORT = "239.9.9.9", 50555
pins = {"d0": "10.9.0.1", "lo": "lo"}  # one by its address, one by its name
heard: dict[str, "queue.Queue[str]"] = {name: queue.Queue() for name in pins}
listeners = {name: Listener(Group(ADDRESS, PORT, pin)) for name, pin in pins.items()}
for name, listener in listeners.items():
    listener.subscribe(lambda message, name=name: heard[name].put(message.body.vsis))
for _ in range(2):
    for name, pin in pins.items():
        with Sender(Group(ADDRESS, PORT, pin)) as sender:
            sender.send(Vsis(name))
for name in pins:
    # What the other one sent first was sent before the second of these: it would be among them.
    assert [heard[name].get(timeout=SECONDS) for _ in range(2)] == [name, name]
for listener in listeners.values():
    listener.close()
assert all(left.empty() for left in heard.values())
print("d0 heard only d0, lo heard only lo")
