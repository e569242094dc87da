"""The commands of the grid plugin for ARC, called as a server does; the element is a stand-in."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mpiframe.plugins.base import Context, Plugin
from mpiframe.plugins.grid.arc import ArcState, JobDescription, JobNotFound
from mpiframe.plugins.grid.arc.commands import ArcCommands
from tests.plugins.grid.arc.authority import Authority
from tests.plugins.grid.arc.double import Double


class Arc(ArcCommands, Plugin):
    """As the grid plugin has them."""

    name = "arc"


@pytest.fixture
def events() -> list[Any]:
    return []


@pytest.fixture
def plugin(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, events: list[Any]
) -> Iterator[Arc]:
    for name in ("BEARER_TOKEN", "BEARER_TOKEN_FILE", "X509_USER_CERT", "X509_USER_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("X509_USER_PROXY", str(authority.proxy()))
    monkeypatch.setenv("X509_CERT_DIR", str(authority.file))
    made = Arc()
    made.context = Context(None, logging.getLogger("arc"), events.append, 1, "here", 2)
    yield made
    made.arc_close()


def test_they_are_commands_of_the_plugin() -> None:
    assert {name for name in Arc.commands() if name.startswith("arc_")} == {
        "arc_submit", "arc_jobs", "arc_status", "arc_describe", "arc_wait", "arc_files", "arc_read",
        "arc_fetch", "arc_cancel", "arc_clean",
    }  # fmt: skip
    assert all(Arc.commands().values())


def test_a_jobs_life(plugin: Arc, double: Double, events: list[Any], tmp_path: Path, run_sh: Path) -> None:
    job = plugin.arc_submit(double.url, JobDescription("run.sh", inputs={"run.sh": str(run_sh)}))
    assert plugin.arc_jobs(double.url) == [job]
    double.jobs[job].states[:] = ["FINISHED"]
    [info] = plugin.arc_wait(double.url, [job]).result(30)
    assert info == plugin.arc_describe(double.url, [job])[0]
    assert events == [("arc", job, ArcState.FINISHED)]
    assert plugin.arc_status(double.url, [job]) == {job: ArcState.FINISHED}
    assert plugin.arc_files(double.url, job) == ["run.sh"]
    assert plugin.arc_read(double.url, job, "run.sh") == run_sh.read_bytes()
    assert plugin.arc_fetch(double.url, job, str(tmp_path / "got")) == [str(tmp_path / "got" / "run.sh")]
    plugin.arc_cancel(double.url, [job])
    plugin.arc_clean(double.url, [job])
    with pytest.raises(JobNotFound):
        plugin.arc_wait(double.url, [job]).result(30)


def test_waits_end_with_the_plugin(plugin: Arc, double: Double) -> None:
    double.states = ["RUNNING"]
    answer = plugin.arc_wait(double.url, [plugin.arc_submit(double.url, JobDescription("/bin/x"))])
    assert not answer.done()
    plugin.arc_close()
    with pytest.raises(TimeoutError, match="stopped"):
        answer.result(30)
