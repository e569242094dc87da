"""Waiting with a bar, drawn on a pseudo-terminal beside the lines that servers print."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import pty
import re
import struct
import sys
import termios
import threading
import time
from collections.abc import Iterator

import pytest

import mpiframe
from mpiframe import bars, displays


class Terminal:
    """A pseudo-terminal, whose text is read all the time."""

    def __init__(self) -> None:
        self._ours, self.fd = pty.openpty()
        self.name = os.ttyname(self.fd)
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
        self.data = b""
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while part := os.read(self._ours, 65536):
                self.data += part

    def end(self) -> str:
        """All that was written."""
        os.close(self.fd)
        for file in displays._opened.values():
            file.close()
        displays._opened.clear()
        self._thread.join(10)
        return self.data.decode()

    def __del__(self) -> None:
        os.close(self._ours)


@pytest.fixture
def terminal(monkeypatch) -> Iterator[Terminal]:
    """The terminal that `mpiframe run` names, where ranks have pipes."""
    found = Terminal()
    monkeypatch.setattr(displays, "_screen", None)
    monkeypatch.setattr(displays, "_painter", lambda: bars.paint)
    monkeypatch.setenv(displays.TERMINAL, found.name)
    monkeypatch.delenv(displays.TERMINAL_STREAMS, raising=False)
    return found


def plain(text: str) -> list[str]:
    """The lines that a person has seen, whatever became of them."""
    return [line for line in re.split(r"\x1b\[\d*[A-Z]|\r|\n", text) if line]


@pytest.mark.parametrize("options", [{}, {"ordered": False}, {"chunksize": 3}, {"buffersize": 20}])
def test_a_bar_in_map(client, terminal, servers, options):
    items = range(60)
    found = list(client.map(lambda x: x + 1, items, progress=True, **options))
    assert sorted(found) == list(range(1, 61))
    last = [line for line in plain(terminal.end()) if "60/60" in line][-1]
    assert re.search(r" in \d", last), last


def test_a_bar_in_an_endless_map_with_a_journal(client, terminal, tmp_path):
    def first(count: int) -> list[int]:
        options = {"buffersize": 8, "journal": tmp_path / "j.db", "progress": "squares"}
        # A function of the same name each time is another call: the journal tells them apart by number.
        results = client.map(lambda x: x * x, itertools.count(), **options)
        return list(itertools.islice(results, count))

    assert first(20) == [x * x for x in range(20)]
    lines = plain(terminal.end())
    assert any(line.startswith("squares 2") for line in lines), lines
    assert not any("[" in line for line in lines)  # no bar: nobody knows how much there is


def test_no_terminal_no_bar(client, capsys):
    assert list(client.map(abs, [-1, 2], progress=True)) == [1, 2]
    ids = client.push("1", target="all")
    assert client.progress(ids) == ids
    client.get(ids)
    assert capsys.readouterr() == ("", "")


def test_waiting_for_ids_and_futures(client, terminal, servers):
    ids = client.push("import time; time.sleep(0.05)", target="all")
    ids += client.push("1/0", target="all")
    futures = [client.submit(abs, -number) for number in range(30)]
    assert client.progress([ids, futures]) == [*ids, *futures]
    responses = client.get(ids)
    assert [r.successful for r in responses] == [True] * len(servers) + [False] * len(servers)
    total = len(ids) + len(futures)
    last = plain(terminal.end())
    assert any(f"{total}/{total}  {len(servers)} failed  in " in line for line in last), last


def test_each_as_it_ends(client, servers, gate, busy):
    """The first server is held up; what the others do is had meanwhile."""
    held = client.push("'held'", target=1)
    others = [client.push("'free'", target=rank) for rank in servers[1:]]
    ended = client.progress([held, others, busy], ordered=False, show=False)
    found = [next(ended) for _ in others]
    assert sorted(found) == others
    gate.open()
    assert set(ended) == {held, busy}
    assert {r.ret for r in client.get([held, others])} == ({"held", "free"} if others else {"held"})
    client.get(busy)


def test_time_out_leaves_them_going(client, gate, busy):
    with pytest.raises(mpiframe.CommandTimeout, match="1 of 1"):
        client.progress(busy, timeout=0.05)
    gate.open()
    assert client.progress(busy, timeout=20) == [busy]
    client.get(busy)


def test_lines_of_servers_stand_above_the_bar(client, terminal, monkeypatch, servers):
    """The terminal is standard error itself, and the servers' lines go there, too."""
    with open(terminal.name, "w", encoding="utf-8") as out:
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", out)
        monkeypatch.setenv("TERM", "xterm")

        def say(number: int) -> None:
            time.sleep(0.005)
            print(f"item {number}", flush=True)

        list(client.map(say, range(40), chunksize=1, progress=True))
        assert sys.stdout is out
    text = terminal.end()
    for number in range(40):
        # Each line begins where a bar was taken away, or below another line, and is whole.
        assert re.search(rf"(\x1b\[2K|\n|^)\[server \d+ #\d+\] item {number}\r\n", text), (number, text)
