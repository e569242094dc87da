"""`mpiframe top` and `mpiframe dashboard` on real worlds: started, attached to, looked at."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest
from playwright.sync_api import Page, expect, sync_playwright
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import Launcher
from tests.interactive.fake_world import NASTY
from tests.interactive.test_dashboard_page import FLAGS, SECONDS, picture, until
from tests.interactive.worlds import Desk, desk_of

WORK = """
client = mpiframe.attach("survey", session="ann")
client.push("import time", target="all")
for i in range(6):
    client.push("print('field', i); time.sleep(0.5)", target=[1, 2], parameters={"i": i})
client.push("1 / 0", target=1)
client.push("print(text)", target=2, parameters={"text": sys.argv[1]})
class Show(mpiframe.Plugin):
    name = "show"

    def panel(self):
        return {"title": "Shown", "columns": ["job", "state"], "rows": [["ingest", "running"]]}

client.plugin(Show, target=1)
long = client.push("time.sleep(600)", target=3)
list(client.map(lambda i: i, range(3000), chunksize=1, target=2))
client.close()
print("long is", long)
"""


@pytest.fixture
def desk(launcher: Launcher) -> Iterator[Desk]:
    with desk_of(launcher) as found:
        yield found


def begin(desk: Desk, *words: str) -> subprocess.Popen[str]:
    """`mpiframe ...`, which goes on."""
    return subprocess.Popen(
        [desk.python, "-m", "mpiframe", *words],
        cwd=desk.folder,
        env=desk.env,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


@contextlib.contextmanager
def dashboard_of(desk: Desk, *words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A running `mpiframe dashboard` and the address that it printed."""
    with begin(desk, "dashboard", *words) as process:
        assert process.stdout is not None
        try:
            first = process.stdout.readline()
            assert first.startswith("mpiframe dashboard of survey, until Ctrl-C"), (
                first + process.stdout.read()
            )
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


@contextlib.contextmanager
def page_of(url: str) -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.set_default_timeout(SECONDS)
        page.goto(url)
        yield page
        browser.close()


def cancel(desk: Desk, id: str) -> None:
    """End a command that goes on, as who pushed it."""
    words = "with mpiframe.attach('survey', session='ann') as c: c.cancel(int(sys.argv[1]))"
    desk.script("import sys\n" + words, id).expect(0)


def cells(page: Page, rank: int) -> list[str]:
    return page.locator("#servers tbody tr").nth(rank - 1).locator("td").all_text_contents()


def test_the_page_of_a_world_while_somebody_works_with_it(desk: Desk, tmp_path: Path) -> None:
    desk.mpiframe("start", "-n", "4", "--name", "survey").expect(0)
    with dashboard_of(desk) as (process, url), page_of(url) as page:
        expect(page.locator("#link")).to_have_text("live")
        expect(page.locator("#servers tbody tr")).to_have_count(3)
        assert {cells(page, rank)[2] for rank in (1, 2, 3)} == {"idle"}
        before = picture(page)

        long = desk.script("import sys\n" + WORK, NASTY).expect(0).out.rpartition("long is ")[2]
        expect(page.locator("#servers tbody tr").nth(2)).to_contain_text("busy")
        assert cells(page, 3)[4] == "time.sleep(600)"
        expect(page.locator("#output")).to_contain_text("field 5")
        expect(page.locator("#output")).to_contain_text(NASTY)
        expect(page.locator(".tile.bad")).to_contain_text("1failed, late or lost")
        expect(page.locator("#sessions")).to_contain_text("ann")
        expect(page.locator(".panel h2")).to_have_text("Shown")
        expect(page.locator(".panel tbody")).to_contain_text("ingest")
        expect(page.locator(".panel tbody .state")).to_have_text("running")
        expect(page.locator("#about")).to_contain_text("mpiframe start -n 4")
        assert page.title() == "survey · mpiframe"
        assert page.locator("#output img").count() == 0
        assert picture(page) != before
        row = "document.querySelector('#servers tbody').rows[1]"
        until(page, f"Number({row}.cells[8].textContent.replace(/\\D/g, '')) > 3000")
        until(
            page,
            "[...document.querySelectorAll('#servers tbody td:nth-child(8)')]"
            ".every(td => td.textContent.endsWith('MiB'))",
        )

        page.select_option("#window", "30")
        page.click("#freeze")
        box = page.locator("#timeline").bounding_box()
        assert box is not None
        rows = 3
        page.mouse.move(box["x"] + box["width"] - 12, box["y"] + (box["height"] - 20) / rows * 2.5)
        expect(page.locator("#told")).to_contain_text("of ann on server 3: time.sleep(600) · running since")
        page.screenshot(path=tmp_path / "world.png")

        token = url.partition("token=")[2]
        request = urllib.request.Request(
            url.partition("?")[0] + "metrics", headers={"Authorization": f"Bearer {token}"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            text = answer.read().decode()
        seen = {
            (s.name, s.labels.get("status")): s.value
            for f in text_string_to_metric_families(text)
            for s in f.samples
        }
        assert seen["mpiframe_commands_total", "failed"] == 1
        assert seen["mpiframe_commands_total", "done"] >= 3000

        cancel(desk, long)
        expect(page.locator("#servers tbody tr").nth(2)).to_contain_text("idle")
        desk.mpiframe("stop", "survey").expect(0)
        expect(page.locator("#banner")).to_contain_text("This world has gone")
        expect(page.locator("#link")).to_have_text("gone")
        assert process.wait(30) == 0
        said = process.stdout.read() if process.stdout is not None else ""
        assert "the world has gone" in said
        assert "session=" not in said  # nobody is to come back to the session of a dashboard
        assert token not in said
    desk.expect_nothing_left()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_dashboard_that_is_ended_leaves_the_world_alone(desk: Desk, number: int) -> None:
    desk.mpiframe("start", "-n", "2", "--name", "survey").expect(0)
    with dashboard_of(desk, "survey") as (process, _):
        process.send_signal(number)
        assert process.wait(30) == 0
        assert process.stdout is not None
        assert process.stdout.read() == ""
    assert (
        desk.script("print(mpiframe.attach('survey').push('6 * 7', block=True)[0].ret)").expect(0).out
        == "42\n"
    )
    desk.mpiframe("stop", "survey").expect(0)
    desk.expect_nothing_left()


def test_the_rows_of_top_are_those_of_the_world(desk: Desk) -> None:
    desk.mpiframe("start", "-n", "3", "--name", "survey").expect(0)
    desk.script(
        "c = mpiframe.attach('survey', session='ann'); c.push('import time; time.sleep(600)', target=2)\n"
        "c.push('1', target=2); c.close()"
    ).expect(0)
    for columns in (40, 80):
        shown = desk.mpiframe("top", "--once", columns=columns).expect(0).out
        rows = {line.split()[0]: line.split() for line in shown.splitlines() if re.match(r" +\d", line)}
        assert rows["1"][1:3] == ["idle", "0"]
        assert rows["2"][1:3] == ["busy", "1"]
        assert "import" in rows["2"]
        assert rows["2"][3].isdigit(), "CPU% is known at once"
        assert max(map(len, shown.splitlines())) <= columns
    cancel(desk, "1")
    desk.mpiframe("stop", "survey").expect(0)
    desk.expect_nothing_left()


def test_top_goes_on_until_the_world_ends(desk: Desk) -> None:
    desk.mpiframe("start", "-n", "2", "--name", "survey").expect(0)
    top = pexpect.spawn(
        desk.python,
        ["-m", "mpiframe", "top", "survey"],
        env={**desk.env, "TERM": "xterm"},
        cwd=str(desk.folder),
        dimensions=(24, 80),
        timeout=30,
    )
    try:
        top.expect("mpiframe survey - up")
        desk.mpiframe("stop", "survey").expect(0)
        top.expect("mpiframe top: the world has gone")
        top.expect(pexpect.EOF)
        top.wait()
        assert top.exitstatus == 0
    finally:
        top.close(force=True)
    desk.expect_nothing_left()


def test_worlds_that_cannot_be_looked_at_are_told_with_what_there_is(desk: Desk) -> None:
    for words in (["top", "--once"], ["dashboard"]):
        nothing = desk.mpiframe(*words).expect(2)
        assert nothing.err.startswith(f"mpiframe {words[0]}: ")
        assert "Traceback" not in nothing.err
    desk.mpiframe("start", "-n", "2", "--name", "one").expect(0)
    desk.mpiframe("start", "-n", "2", "--name", "two").expect(0)
    for words in (["top", "--once"], ["dashboard"]):
        several = desk.mpiframe(*words).expect(2)
        assert "one" in several.err
        assert "two" in several.err
        assert "one" in desk.mpiframe(words[0], "onne", *words[1:]).expect(2).err
    for name in ("one", "two"):
        desk.mpiframe("stop", name).expect(0)
    desk.expect_nothing_left()


def test_a_batch_script_with_a_name_can_be_looked_at(desk: Desk) -> None:
    (desk.folder / "job.py").write_text(
        "import time, mpiframe\n"
        "with mpiframe.Client() as client:\n"
        "    client.push('import time; time.sleep(600)', target=1)\n"
        "    print('it runs', flush=True)\n"
        "    time.sleep(600)\n"
    )
    run = begin(desk, "run", "-n", "3", "--name", "batch", "job.py")
    assert run.stdout is not None
    try:
        assert run.stdout.readline() == "it runs\n"
        shown = desk.mpiframe("top", "batch", "--once").expect(0).out
        assert "1/2 busy" in shown
        assert "#1 import time" in shown
    finally:
        run.send_signal(signal.SIGINT)
        deadline = time.monotonic() + 30
        while run.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        run.kill()
        run.communicate()
    desk.expect_nothing_left()
