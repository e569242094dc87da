"""How plugins show themselves: the sender on a server, what the client keeps, and what our plugins show."""

from __future__ import annotations

import json
import logging
import queue
import threading
from types import SimpleNamespace
from typing import Any

import mpi4py
import pytest

mpi4py.rc(initialize=False, finalize=False)  # nothing here calls MPI

from mpiframe.hearing import Hearing  # noqa: E402 - MPI is started when it is imported first
from mpiframe.messages import Outcome, Up  # noqa: E402
from mpiframe.output import Printer  # noqa: E402
from mpiframe.plugins.base import Context, Plugin  # noqa: E402
from mpiframe.plugins.difx.job_queue import JobQueue  # noqa: E402
from mpiframe.plugins.difx.plugin import Difx, DifxOptions  # noqa: E402
from mpiframe.plugins.grid.plugin import Grid, GridOptions  # noqa: E402
from mpiframe.plugins.panels import PANEL, PanelSender  # noqa: E402
from mpiframe.plugins.scheduler.plugin import Scheduler  # noqa: E402
from mpiframe.plugins.scheduler.states import JobStatus, State  # noqa: E402

log = logging.getLogger("test panels")


# -- the sender ---------------------------------------------------------------------------------------


def test_many_changes_are_few_messages_and_the_last_one_counts() -> None:
    sent: queue.SimpleQueue[Any] = queue.SimpleQueue()
    count = 0
    sender = PanelSender(lambda: {"facts": {"n": count}}, sent.put, log, seconds=0.05)
    for _ in range(1, 5001):
        count += 1
        sender.changed()
    found = [json.loads(sent.get(timeout=10))]
    while found[-1] != {"facts": {"n": 5000}}:
        found.append(json.loads(sent.get(timeout=10)))
    assert len(found) < 100
    sender.stop()
    assert sent.get(timeout=10) is None


def test_nothing_is_sent_where_nothing_differs_nor_without_a_change() -> None:
    sent: queue.SimpleQueue[Any] = queue.SimpleQueue()
    made = threading.Semaphore(0)

    def make() -> Any:
        made.release()
        return {"title": "same"}

    sender = PanelSender(make, sent.put, log, seconds=0.01)
    assert sender._thread is None
    for _ in range(3):
        sender.changed()
        assert made.acquire(timeout=10)
    sender.stop()
    assert sent.get(timeout=10) == '{"title": "same"}'
    assert sent.get(timeout=10) is None
    assert sent.empty()


def test_a_plugin_that_shows_nothing_says_nothing_at_its_end() -> None:
    sent: list[Any] = []
    sender = PanelSender(lambda: None, sent.append, log)
    sender.changed()
    sender.stop()
    sender.changed()
    assert sent == []


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (ZeroDivisionError("oh"), "oh"),
        (["no", "dict"], "a panel is a dict, not a list"),
        ({"rows": [[object()]]}, "not JSON serializable"),
        ({"title": "x" * 100_000}, "too long"),
        ({"facts": {"a": float("nan")}}, "not JSON compliant"),
    ],
)
def test_a_panel_that_cannot_be_made_says_so_and_the_next_one_is_sent(
    caplog: pytest.LogCaptureFixture, content: Any, word: str
) -> None:
    sent: queue.SimpleQueue[Any] = queue.SimpleQueue()
    contents: list[Any] = [content, {"title": "better"}]

    def make() -> Any:
        one = contents.pop(0)
        if isinstance(one, Exception):
            raise one
        return one

    sender = PanelSender(make, sent.put, log, seconds=0.01)
    sender.changed()
    assert word in json.loads(sent.get(timeout=10))["note"]
    sender.changed()
    assert sent.get(timeout=10) == '{"title": "better"}'
    sender.stop()
    assert word in caplog.text


# -- what the client keeps ------------------------------------------------------------------------------


def hearing() -> Hearing:
    return Hearing(SimpleNamespace(members={}), Printer("quiet"))  # type: ignore[arg-type]


def panel(text: Any) -> tuple[Any, ...]:
    return int(Up.EVENT), PANEL + "mine", int(Outcome.VALUE), text


def test_the_client_keeps_the_last_panel_of_each_and_forgets_what_is_unloaded() -> None:
    ears = hearing()
    told: list[Any] = []
    ears.subscribe("mine", lambda rank, value: told.append((rank, value)))
    ears.event_taps.append(lambda *event: told.append(event))  # as of a hub
    ears.hear(1, panel('{"title": "a"}'), ())
    ears.hear(2, panel('{"title": "b"}'), ())
    ears.hear(1, panel('{"title": "c"}'), ())
    assert {key: content for key, (_, content) in ears.panels.items()} == {
        ("mine", 1): {"title": "c"},
        ("mine", 2): {"title": "b"},
    }
    assert told == []  # a panel is no event of the plugin's
    ears.hear(1, panel(None), ())
    assert list(ears.panels) == [("mine", 2)]


@pytest.mark.parametrize("text", ["no JSON", "[1]", 7, b"bytes", "9" * 100_000])
def test_what_is_no_panel_spoils_nothing(text: Any) -> None:
    ears = hearing()
    ears.hear(1, panel(text), ())
    assert "cannot be read" in ears.panels["mine", 1][1]["note"]


# -- what our plugins show --------------------------------------------------------------------------------


class Told:
    """What a plugin said through its context; a double."""

    def __init__(self, config: Any) -> None:
        self.events: list[Any] = []
        self.changes = 0
        self.context = Context(config, log, self.events.append, 1, "here", 3, changed=self._changed)

    def _changed(self) -> None:
        self.changes += 1


def test_a_plugin_without_a_panel_shows_none() -> None:
    assert Plugin().panel() is None


def test_the_scheduler_shows_its_jobs_the_newest_first() -> None:
    plugin = Scheduler()
    told = Told(None)
    plugin.context = told.context
    statuses = {
        "7": [JobStatus("7", State.FAILED, exit_code=3)],
        "8": [JobStatus("8", State.RUNNING, task=0), JobStatus("8", State.COMPLETED, task=1, exit_code=0)],
    }
    plugin._queue = SimpleNamespace(qtype="slurm", last_status=statuses.__getitem__)  # type: ignore[assignment]
    plugin._jobs = {"7": SimpleNamespace(name="cal"), "8": SimpleNamespace(name="image")}  # type: ignore[dict-item]
    panel = plugin.panel()
    assert panel["title"] == "Batch jobs (slurm)"
    assert panel["rows"] == [
        ["8", "image", "running", "1 running, 1 completed"],
        ["7", "cal", "failed", "failed, exit code 3"],
    ]
    json.dumps(panel)
    plugin._changed(statuses["7"][0])
    assert (told.events, told.changes) == ([statuses["7"][0]], 1)


def test_the_grid_shows_tokens_by_state(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = Grid()
    told = Told(GridOptions(token_type="L1"))
    plugin.start(told.context)
    assert plugin.panel()["note"] == "not counted yet"
    counts = {"todo": 3, "locked": 1, "done": 5, "error": 0}
    monkeypatch.setattr(plugin, "_tokens", lambda token_type: SimpleNamespace(overview=lambda: counts))
    assert plugin.overview() == counts
    panel = plugin.panel()
    assert panel["columns"] == ["type", "todo", "locked", "done", "error"]
    assert panel["rows"] == [["L1", 3, 1, 5, 0]]
    assert panel["shared"] is True
    assert told.changes == 1


def test_difx_shows_its_runs_with_their_progress() -> None:
    plugin = Difx()
    plugin.start(Told(DifxOptions()).context)
    assert plugin.panel() is None  # nothing is opened for it

    class Over:
        def __init__(self, result: Any) -> None:
            self._result = result

        def done(self) -> bool:
            return self._result is not None

        def result(self) -> Any:
            return self._result

    ended = SimpleNamespace(outcome="failed", text="mpirun ended with 1")
    runs = [
        SimpleNamespace(number=1, input="/d/exp_1.input", state="Ending", progress=0.4, result=Over(ended)),
        SimpleNamespace(number=2, input="/d/exp_2.input", state="Running", progress=0.25, result=Over(None)),
        SimpleNamespace(number=3, input="/d/exp_3.input", state="", progress=None, result=Over(None)),
    ]
    plugin._jobs = SimpleNamespace(runs=lambda: runs)  # type: ignore[assignment]
    plugin._queue = JobQueue(lambda waiting: pytest.fail("nothing is to be started"))
    panel = plugin.panel()
    assert panel is not None
    assert panel["rows"] == [
        [3, "exp_3", "", None, ""],
        [2, "exp_2", "Running", {"progress": 0.25}, ""],
        [1, "exp_1", "failed", {"progress": 0.4}, "mpirun ended with 1"],
    ]
    assert panel["facts"] == {"running": 2, "queued": 0}
    json.dumps(panel)
