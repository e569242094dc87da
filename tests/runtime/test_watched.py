"""A world that is looked at: what is seen while commands run, from a thread beside the client's."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.timeout(120)

WATCHED = """
import json, os, signal, threading, time
import mpiframe
from mpiframe.watch.snapshots import Watch

class Show(mpiframe.Plugin):
    name = "show"
    count = 0

    def start(self, context):
        self.context = context

    def panel(self):
        return {"title": "Shown", "facts": {"count": self.count}}

    @mpiframe.command
    def begin(self):
        def work():
            for self.count in range(1, 101):
                self.context.changed()
        threading.Thread(target=work).start()

def waits(*_):
    raise AssertionError("a snapshot had to wait")

def snapshot(watch, since):
    loop = watch._client._loop
    loop.wait, before, loop.pulse._wait = waits, loop.pulse._wait, waits
    try:
        return watch.snapshot(since)
    finally:
        loop.pulse._wait = before
        del loop.wait

def seen(watch, what, since=0, seconds=30.0):
    \"\"\"The first snapshot for which that is so; spans and output of all that were taken.\"\"\"
    until, spans, output = time.monotonic() + seconds, [], []
    while True:
        now = snapshot(watch, since)
        json.dumps(now, allow_nan=False)
        since = now["seq"]
        spans += now["spans"]
        output += now["output"]
        now["spans"], now["output"] = spans, output
        if what(now):
            return now
        assert time.monotonic() < until, json.dumps(now, indent=1)
        threading.Event().wait(0.02)

def row(now, rank):
    return next(s for s in now["servers"] if s["rank"] == rank)

with mpiframe.Client(output="quiet") as client:
    watch = Watch(client, "watched")
    show = client.plugin(Show, target=1)

    # While a command runs: its text, its output before it ends, and the panel of a plugin behind it.
    show.begin()
    client.push("import os, time; print('begun', flush=True)", target=1, block=True)
    client.push("path = " + repr(os.path.abspath("seen")), target=1, block=True)
    live = "print('live')\\nwhile not os.path.exists(path): time.sleep(0.01)"
    ids = client.push(live, target=1)
    client.push("x = 1", target=1)
    now = seen(watch, lambda now: row(now, 1)["running"] == ids
               and any(o["text"].startswith("live") for o in now["output"])
               and now["panels"].get("show", [{}])[0].get("facts") == {"count": 100}
               and row(now, 1)["rss"] and row(now, 1)["state"] == "busy" and row(now, 2)["state"] == "idle")
    assert row(now, 1)["queued"] == 1, row(now, 1)
    assert row(now, 1)["command"] == live.replace("\\n", " ")
    assert now["now"] - 60 < row(now, 1)["since"] <= now["now"]
    assert now["world"]["ranks"] == 3 and now["world"]["name"] == "watched"
    open("seen", "w").close()

    # Many at once share spans, none is missed, failures are seen.
    before = now["statuses"].get("done", 0)
    list(client.map(lambda i: i, range(2000), chunksize=1, target=2))
    bad = client.push("1 / 0", target=2, block=True)[0]
    assert not bad.successful
    now = seen(watch, lambda now: now["statuses"].get("failed") == 1, now["seq"])
    assert now["statuses"]["done"] >= before + 2000
    assert sum(s.get("count", 1) for s in now["spans"] if s["status"] == "done") >= 2000
    assert len(now["spans"]) < 1000
    assert [s["command"] for s in now["spans"] if s["status"] == "failed"] == ["1 / 0"]
    assert row(now, 2)["failed"] == 1 and row(now, 2)["busy"] > 0

    # One that is stopped is unresponsive; nobody waits for it.
    os.kill(row(now, 2)["pid"], signal.SIGSTOP)
    seen(watch, lambda now: row(now, 2)["state"] == "unresponsive")
    os.kill(row(now, 2)["pid"], signal.SIGCONT)
    seen(watch, lambda now: row(now, 2)["state"] == "idle")

    show.unload()
    seen(watch, lambda now: "show" not in now["panels"])
after = watch.snapshot(0)
assert after["world"]["closed"] and {s["state"] for s in after["servers"]} == {"closed"}, after
print("all was seen")
"""


def test_what_a_world_does_can_be_seen_while_it_does_it(launcher: Any) -> None:
    assert "all was seen" in launcher.run(WATCHED, ranks=3).expect(0).stdout
