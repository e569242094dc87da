"""`mpiframe top` and `dashboard` of a real world that runs in the background, and its prompt."""

from __future__ import annotations

import signal
import urllib.request
from collections.abc import Iterator

import pytest

from tests.conftest import launching, pythons
from tests.interactive.worlds import SECONDS, Desk, desk_of


@pytest.fixture(scope="module")
def desk() -> Iterator[Desk]:
    """With a world of two servers; with the first MPI, because these know nothing of it."""
    with launching(pythons()[0]) as launcher, desk_of(launcher) as found:
        found.mpiframe("start", "-n", "3", "--name", "survey").expect(0)
        yield found
        assert "in order" in found.mpiframe("stop", "survey").expect(0).out
        found.expect_nothing_left()


def test_top_shows_the_servers_and_who_is_attached(desk: Desk) -> None:
    script = """
import subprocess, sys
with mpiframe.attach('survey', 'ann') as client:
    client.push('seen = 1', target='all', block=True)
    top = [sys.executable, '-m', 'mpiframe', 'top', '--once']
    print(subprocess.run(top, capture_output=True, text=True).stdout)
"""
    shown = desk.script(script).expect(0).out
    assert "survey" in shown
    assert "ann" in shown
    assert shown.count("idle") >= 2


def test_the_dashboard_serves_its_metrics(desk: Desk) -> None:
    with desk.running("-m", "mpiframe", "dashboard", "survey") as served:
        assert served.stdout is not None
        assert "dashboard of survey" in served.stdout.readline()
        address, _, token = served.stdout.readline().strip().partition("?")
        with urllib.request.urlopen(f"{address}metrics?{token}", timeout=SECONDS) as answer:
            assert b"mpiframe_" in answer.read()
        served.send_signal(signal.SIGINT)
        served.wait(SECONDS)


def test_the_prompt_is_a_client_of_the_world(desk: Desk) -> None:
    said = desk.mpiframe("attach", "survey", "--session", "ann", feed="n = client.push('6 * 7', target=1)\n")
    said.expect(0)
    again = desk.mpiframe(
        "attach", "--session", "ann", feed="print(client.get(client.requests()[0].id)[0].ret)\n"
    )
    assert again.expect(0).out == "42\n"
