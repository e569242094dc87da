"""`mpiframe top` and `dashboard` of a real world that runs in the background, and its prompt."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpiframe.worlds.secure import Key
from tests.conftest import launching, pythons
from tests.interactive.worlds import SECONDS, Desk, await_that, desk_of

BROWSER = """\
#!{python}
# Follows the page that it is given to where that leads, as a browser does, and notes what it saw.
import json, os, re, stat, sys, urllib.parse, urllib.request

path = urllib.parse.unquote(urllib.parse.urlsplit(sys.argv[1]).path)
url, = re.findall('content="0; url=([^"]+)"', open(path).read())
with urllib.request.urlopen(url, timeout={seconds}) as page:
    seen = {{"url": url, "status": page.status, "page": page.read().decode()}}
seen["argv"] = sys.argv[1:]
seen["modes"] = [stat.S_IMODE(os.stat(p).st_mode) for p in (path, os.path.dirname(path))]
with open("seen.new", "w") as file:
    json.dump(seen, file)
os.rename("seen.new", "seen")
"""


@pytest.fixture(scope="module")
def desk() -> Iterator[Desk]:
    """With a world of two servers; with the first MPI, because these know nothing of it."""
    with launching(pythons()[0]) as launcher, desk_of(launcher) as found:
        words = ["--listen", "127.0.0.1:0", "--key", "survey.key"]
        found.mpiframe("start", "-n", "3", "--name", "survey", *words).expect(0)
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


@pytest.fixture
def elsewhere(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """Where no world is found by its name, as on another machine: it takes the key."""
    monkeypatch.setitem(desk.env, "MPIFRAME_WORLDS", str(desk.folder / "no-worlds"))
    assert "survey" not in desk.mpiframe("list").expect(0).out
    return desk


def test_top_with_a_key_shows_a_world_of_another_machine(elsewhere: Desk) -> None:
    key = Key.read(elsewhere.folder / "survey.key")
    for words in (["--key", "survey.key"], [key.address, "--key", "survey.key"]):
        shown = elsewhere.mpiframe("top", "--once", *words).expect(0).out
        assert shown.startswith("mpiframe survey - up ")
        assert shown.count("idle") == 2
    assert "takes the key of its world" in elsewhere.mpiframe("top", "--once", key.address).expect(2).err


@pytest.mark.parametrize("command", ["top", "dashboard"])
def test_a_wrong_key_shows_nothing(elsewhere: Desk, command: str) -> None:
    path = elsewhere.folder / "wrong.key"
    path.unlink(missing_ok=True)
    dataclasses.replace(Key.read(elsewhere.folder / "survey.key"), secret=os.urandom(32)).write(path)
    said = elsewhere.mpiframe(command, "--key", "wrong.key", *(["--once"] if command == "top" else []))
    assert said.expect(2).out == ""
    assert said.err.startswith(f"mpiframe {command}: the secret in the key file is not that of the world at")


@contextlib.contextmanager
def dashboard(desk: Desk, *words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A dashboard and its address, until Ctrl-C."""
    with desk.running("-m", "mpiframe", "dashboard", *words) as served:
        assert served.stdout is not None
        assert "dashboard of survey" in served.stdout.readline()
        yield served, served.stdout.readline().strip()
        served.send_signal(signal.SIGINT)
        assert served.wait(SECONDS) == 0


def metrics(url: str) -> str:
    address, _, token = url.partition("?")
    with urllib.request.urlopen(f"{address}metrics?{token}", timeout=SECONDS) as answer:
        text: str = answer.read().decode()
        return text


def test_the_dashboard_serves_its_metrics(desk: Desk) -> None:
    with dashboard(desk, "survey") as (_, url):
        assert "mpiframe_" in metrics(url)


def test_the_dashboard_with_a_key_is_of_a_world_of_another_machine(elsewhere: Desk) -> None:
    with dashboard(elsewhere, "--key", "survey.key") as (_, url):
        assert 'mpiframe_servers{state="idle"} 2.0' in metrics(url)


def browse(desk: Desk, monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    path = desk.folder / "browser"
    path.unlink(missing_ok=True)
    path.write_text(program.format(python=desk.python, seconds=SECONDS))
    path.chmod(0o700)
    monkeypatch.setitem(desk.env, "BROWSER", str(path))


def test_open_has_a_browser_show_the_page_and_nobody_else_sees_the_token(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The browser ends when it has the page, as one in the terminal does: that has to come meanwhile."""
    browse(desk, monkeypatch, BROWSER)
    path = desk.folder / "seen"
    path.unlink(missing_ok=True)
    with dashboard(desk, "survey", "--open") as (served, url):
        await_that(lambda: path.exists() or served.poll() is not None)
        seen = json.loads(path.read_text())
        token = url.partition("token=")[2]
        assert len(token) >= 32
        for pid in desk.pids():
            with contextlib.suppress(OSError):  # it has just ended
                assert token.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
                assert token.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
    assert seen["url"] == url
    assert seen["status"] == 200
    assert "<title>mpiframe" in seen["page"]
    (given,) = seen["argv"]
    assert given.startswith("file:///")
    assert token not in given
    assert seen["modes"][1] == 0o700  # who may not enter its folder cannot read the file
    assert not Path(given.removeprefix("file://")).exists()


def test_where_no_browser_starts_it_says_so_and_serves_all_the_same(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    browse(desk, monkeypatch, "#!/bin/sh\nexit 1\n")
    monkeypatch.setitem(desk.env, "PATH", str(desk.folder))  # where there is no other
    with dashboard(desk, "survey", "--open") as (served, url):
        assert served.stdout is not None
        assert "no browser could be started; open the address by hand" in served.stdout.readline()
        assert "mpiframe_" in metrics(url)


def test_the_prompt_is_a_client_of_the_world(desk: Desk) -> None:
    said = desk.mpiframe("attach", "survey", "--session", "ann", feed="n = client.push('6 * 7', target=1)\n")
    said.expect(0)
    again = desk.mpiframe(
        "attach", "--session", "ann", feed="print(client.get(client.requests()[0].id)[0].ret)\n"
    )
    assert again.expect(0).out == "42\n"
