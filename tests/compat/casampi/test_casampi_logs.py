"""Where logs go: by log mode, which files there are, what is in them, and what is on the terminal."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from .conftest import HEAD

pytestmark = pytest.mark.timeout(60)

Casampi = Callable[..., Any]
SECONDS = 30.0
LINE = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\t(SEVERE|WARN|INFO|DEBUG)\t.*"

TALK = """
client.set_log_level("INFO")
for server in (1, 2):
    client.push_command_request(f"casalog.post('quiet word {server}')", True, server)
    client.push_command_request(f"casalog.post('loud word {server}', 'WARN', 'mine')", True, server)
    client.push_command_request(f"casalog.post('finest word {server}', 'DEBUG2')", True, server)
    command = "import logging; logging.getLogger('own').warning('of logging')"
    client.push_command_request(command, True, server)
client.push_command_request("print('printed')", True, 1)
client.push_command_request("1 / 0", True, 2)
client.push_command_request("1", True, 99)
client.stop_services()
"""


def talk(before: str = "", after: str = "") -> str:
    begin = f"client = MPICommandClient()\n{before}\nclient.start_services()\n{after}\n"
    return HEAD + begin + TALK


def files(world: Any) -> dict[str, str]:
    """The log files by name, with the date out of it, and their text."""
    found = {path.name: path.read_text() for path in world.folder.glob("*.log*")}
    return {re.sub(r"^casa-\d{8}-\d{6}", "casa-DATE", name): text for name, text in found.items()}


def on_the_terminal(ended: Any) -> None:
    """What is shown in every mode: what commands print, warnings and errors, each once."""
    printed = [line for line in ended.stdout.splitlines() if "printed" in line]
    assert [re.sub(r"#\d+", "#N", line) for line in printed] == ["[server 1 #N] printed"]
    for server in (1, 2):
        assert len(re.findall(rf"\tWARN\t.*\tloud word {server}$", ended.stderr, re.M)) == 1
        assert not re.search(r"\tfinest word", ended.said)
    assert len(re.findall(r"\tof logging$", ended.stderr, re.M)) == 2
    assert ended.stderr.count("ZeroDivisionError") >= 1
    assert ended.stderr.count("there is no server 99") == 1


def all_lines(text: str) -> None:
    """Each record begins a line of its own, as CASA writes them."""
    assert re.fullmatch(LINE, text.splitlines()[0]), text
    for word in ("quiet", "loud"):
        for line in text.splitlines():
            assert f"{word} word" not in line or re.fullmatch(LINE, line), line


@pytest.mark.parametrize("how", ["default", "after"])
def test_unified(casampi_once: Casampi, how: str) -> None:
    """One file for all."""
    modes = [f"client.set_log_mode('{mode}')" for mode in ("redirect", "unified")]
    script = talk(*modes) if how == "after" else talk()
    world = casampi_once(script)
    ended = world.wait(SECONDS).expect(0)
    on_the_terminal(ended)
    assert "quiet word" not in ended.said
    ((name, text),) = files(world).items()
    assert name == "casa-DATE.log"
    all_lines(text)
    for server in (1, 2):
        assert len(re.findall(rf"\tINFO\t.*casa::MPIServer-{server}\tquiet word {server}$", text, re.M)) == 1
        assert len(re.findall(rf"\tWARN\tmine::.*MPIServer-{server}\tloud word {server}$", text, re.M)) == 1
        assert len(re.findall(rf"\tWARN\town::server-{server}\tof logging$", text, re.M)) == 1
    assert "finest word" not in re.sub(r"command request .*", "", text)
    assert "ZeroDivisionError" in text
    assert "there is no server 99" in text
    assert len(re.findall(r"command request \d+ was made", text)) == 10
    assert "printed" not in re.sub(r"command request .*", "", text)


def test_separated(casampi_once: Casampi) -> None:
    """One file for each server, and one for the client."""
    world = casampi_once(talk("client.set_log_mode('separated')"))
    ended = world.wait(SECONDS).expect(0)
    on_the_terminal(ended)
    assert "quiet word" not in ended.said
    found = files(world)
    assert sorted(found) == ["casa-DATE.log", "casa-DATE.log-server-1", "casa-DATE.log-server-2"]
    for server in (1, 2):
        text = found[f"casa-DATE.log-server-{server}"]
        all_lines(text)
        assert text.count(f"quiet word {server}") == text.count(f"loud word {server}") == 1
        assert f"word {3 - server}" not in text
        assert text.count("of logging") == 1
    mine = found["casa-DATE.log"]
    assert "there is no server 99" in mine
    assert "ZeroDivisionError" in mine
    assert "of logging" not in re.sub(r"command request .*", "", mine)


@pytest.mark.parametrize("how", ["client", "interface"])
def test_redirect(casampi_once: Casampi, how: str) -> None:
    """The terminal, and no file."""
    if how == "client":
        script = talk("client.set_log_mode('redirect')")
    else:
        script = talk("MPIInterface.set_log_mode('redirect')\nMPIInterface.getCluster()")
    world = casampi_once(script)
    ended = world.wait(SECONDS).expect(0)
    on_the_terminal(ended)
    assert files(world) == {}
    for server in (1, 2):
        posted = rf"^\d.*\tINFO\t.*MPIServer-{server}\tquiet word {server}$"
        assert len(re.findall(posted, ended.stderr, re.M)) == 1
    assert len(re.findall(r"command request \d+ was made", ended.stderr)) == 10


def test_a_mode_that_changes_on_the_way(casampi_once: Casampi) -> None:
    script = (
        HEAD
        + """
import re

def post(word):
    # A thread may have the word in its hands while another has the response.
    client.push_command_request(f"casalog.post('{word} word')", True, 1)
    until(lambda: any(re.search(rf"\\t{word} word$", text, re.M) for text in texts()))

def texts():
    # What this world has written so far, the terminal among it.
    return [path.read_text(errors="replace") for path in pathlib.Path().iterdir() if path.is_file()]

client = MPICommandClient()
client.set_log_mode("separated")
client.start_services()
post("first")
client.set_log_mode("redirect")
post("second")
client.set_log_mode("unified")
post("third")
client.set_log_mode("nonsense")
post("fourth")
client.stop_services()
client.set_log_mode("redirect")
"""
    )
    world = casampi_once(script, 2)
    ended = world.wait(SECONDS).expect(0)
    found = files(world)
    words = {name: re.findall(r"\t(\w+) word$", text, re.M) for name, text in found.items()}
    assert words == {"casa-DATE.log-server-1": ["first"], "casa-DATE.log": ["third", "fourth"]}
    assert re.findall(r"\t(\w+) word$", ended.stderr, re.M) == ["second"]
    assert "'nonsense' is no log mode" in ended.stderr


def test_nothing_to_log_makes_no_file(casampi_once: Casampi) -> None:
    world = casampi_once(
        HEAD + "client = MPICommandClient(True)\nclient.push_command_request('1', True, 1)", 2
    )
    assert world.wait(SECONDS).expect(0).said == ""
    assert files(world) == {}


def test_commands_are_told_at_the_levels_that_say_so(casampi_once: Casampi) -> None:
    script = (
        HEAD
        + """
client = MPICommandClient(True)
client.set_log_mode("redirect")
for level in ("NORMAL", "DEBUG", "INFO5", "DEBUG2"):
    client.set_log_level(level)
    client.push_command_request(f"'at {level}'", True, 1)
client.stop_services()
"""
    )
    ended = casampi_once(script, 2).wait(SECONDS).expect(0)
    assert re.findall(r"was made: 'at (\w+)'", ended.stderr) == ["NORMAL", "INFO5"]
    assert len(re.findall("has ended on server 1", ended.stderr)) == 2
