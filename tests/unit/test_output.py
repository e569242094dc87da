"""What commands print: caught whole, attributed, and printed in whole lines."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

from mpiframe.output import STDERR, STDOUT, Capture, Printer

TAIL = 64 * 1024


def nothing() -> None:
    pass


def text_of(pieces: list[tuple[int, str]], stream: int = STDOUT) -> str:
    return "".join(text for number, text in pieces if number == stream)


# -- what is kept (plain writes) ------------------------------------------------------------------


def test_text_belongs_to_the_command_that_runs() -> None:
    capture = Capture(1000, nothing)
    capture.request = 5
    capture.write(STDOUT, "one\n")
    capture.write(STDERR, "two\n")
    capture.write(STDOUT, "three")
    assert capture.pending()
    assert capture.end() == [(STDOUT, "one\n"), (STDERR, "two\n"), (STDOUT, "three")]
    assert not capture.pending()
    assert capture.request == 0
    capture.request = 6
    assert capture.end() == []


def test_live_text_is_taken_once() -> None:
    capture = Capture(1000, nothing)
    capture.request = 5
    capture.write(STDOUT, "a")
    capture.write(STDOUT, "b")
    assert capture.take() == (5, [(STDOUT, "ab")])
    assert capture.take()[1] == []
    capture.write(STDOUT, "c")
    assert capture.end() == [(STDOUT, "c")]


def test_live_text_is_taken_in_pieces_of_bounded_size() -> None:
    capture = Capture(10**6, nothing)
    capture.request = 1
    for _ in range(10):
        capture.write(STDOUT, "x" * 100)
    assert len(text_of(capture.take(250)[1])) == 200
    assert len(text_of(capture.take(50)[1])) == 100  # one piece at least: it goes on
    assert len(text_of(capture.take()[1])) == 700


def test_each_write_is_announced_with_the_lock_free() -> None:
    heard = []
    capture = Capture(1000, lambda: heard.append(capture.take()))
    capture.request = 3
    capture.write(STDOUT, "now")
    assert heard == [(3, [(STDOUT, "now")])]


def test_text_printed_between_commands_belongs_to_none() -> None:
    capture = Capture(1000, nothing)
    capture.write(STDOUT, "from a thread")
    assert capture.take() == (0, [(STDOUT, "from a thread")])


def test_text_printed_before_a_command_is_not_its_own() -> None:
    capture = Capture(1000, nothing)
    capture.write(STDOUT, "from a thread\n")
    capture.request = 5
    capture.write(STDOUT, "mine\n")
    assert text_of(capture.end()) == "mine\n"


# -- the limit ------------------------------------------------------------------------------------


def kept(limit: int, *texts: str, live: bool = False) -> str:
    capture = Capture(limit, nothing)
    capture.request = 1
    found = ""
    for text in texts:
        capture.write(STDOUT, text)
        if live:
            found += text_of(capture.take()[1])
    return found + text_of(capture.end())


@pytest.mark.parametrize("live", [False, True])
def test_up_to_the_limit_all_is_kept(live: bool) -> None:
    assert kept(10, "12345", "67890", live=live) == "1234567890"


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("chunk", [1000, 65_536, 10**6])
def test_beyond_it_the_middle_is_left_out(chunk: int, live: bool) -> None:
    whole = "".join(f"{i:09}\n" for i in range(100_000))
    texts = [whole[i : i + chunk] for i in range(0, len(whole), chunk)]
    found = kept(1000, *texts, live=live)
    note_start, note_end = found.index("\n[mpiframe: "), found.index(" left out here]\n")
    head, tail = found[:note_start], found[note_end + len(" left out here]\n") :]
    assert head == whole[:1000]
    assert whole.endswith(tail)
    assert TAIL <= len(tail) <= 2 * TAIL
    count = int(found[note_start + 12 : note_end].split()[0].replace(",", ""))
    assert count == len(whole) - len(head) - len(tail)


def test_nothing_is_left_out_of_what_is_a_little_too_long() -> None:
    assert kept(1000, "x" * 1001) in ("x" * 1001, "x" * 1000)


def test_memory_is_bounded_while_a_command_prints_without_end() -> None:
    capture = Capture(1000, nothing)
    capture.request = 1
    for _ in range(2000):
        capture.write(STDOUT, "y" * 1000)
    assert len(text_of(capture.end())) < 1000 + 2 * TAIL + 100


def test_each_command_and_stream_has_a_limit_of_its_own() -> None:
    capture = Capture(10, nothing)
    for request in (1, 2):
        capture.request = request
        capture.write(STDOUT, "1234567890")
        capture.write(STDERR, "abcdefghij")
        assert capture.end() == [(STDOUT, "1234567890"), (STDERR, "abcdefghij")]


# -- the real streams, in a process of their own --------------------------------------------------


def captured(body: str) -> Any:
    """Run `body` with an installed capture named `capture`; what it puts in `found`."""
    program = f"""
import json, os, subprocess, sys, threading
from mpiframe.output import Capture, STDOUT, STDERR
capture = Capture(1 << 20, lambda: None)
print("before")
capture.install()
found = []
try:
{textwrap.indent(textwrap.dedent(body), "    ")}
finally:
    capture.remove()
print(json.dumps(found))
"""
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    before, answer = run.stdout.splitlines()
    assert before == "before"
    return json.loads(answer)


def test_both_ways_of_printing_are_caught_in_their_order() -> None:
    found = captured(
        """
        capture.request = 7
        print("python")
        os.write(1, b"descriptor\\n")
        print("error", file=sys.stderr)
        os.write(2, b"error descriptor\\n")
        subprocess.run(["sh", "-c", "echo child; echo child error >&2"], check=True)
        print("last")
        found = capture.end()
        """
    )
    assert text_of(found, STDOUT) == "python\ndescriptor\nchild\nlast\n"
    assert text_of(found, STDERR) == "error\nerror descriptor\nchild error\n"


def test_text_of_descriptors_belongs_to_the_command_that_ran() -> None:
    assert captured(
        """
        for request in (1, 2):
            capture.request = request
            os.write(1, b"%d" % request)
            found.append(capture.end())
        """
    ) == [[[STDOUT, "1"]], [[STDOUT, "2"]]]


def test_what_streams_can_do() -> None:
    assert captured(
        """
        capture.request = 1
        sys.stdout.buffer.write(b"bytes ")
        sys.stdout.writelines(["a", "b"])
        sys.stdout.write("")
        sys.stdout.flush()
        sys.stdout.close()
        print(" still", sys.stdout.fileno(), sys.stdout.encoding, sys.stdout.isatty(), end="")
        try:
            sys.stdout.write(b"x")
        except TypeError as error:
            print("", error, end="")
        found = capture.end()
        """
    ) == [[STDOUT, "bytes ab still 1 utf-8 False write() argument must be str, not bytes"]]


def test_odd_text_is_no_error() -> None:
    assert captured(
        """
        capture.request = 1
        os.write(1, b"\\xff\\n")
        print("\\ud800")
        found = [[stream, ascii(text)] for stream, text in capture.end()]
        """
    ) == [[STDOUT, ascii("\\xff\n\ud800\n")]]


def test_a_character_that_arrives_in_two_parts_is_whole() -> None:
    found = captured(
        """
        capture.request = 1
        os.write(1, "é".encode()[:1])
        capture.drain()
        os.write(1, "é".encode()[1:])
        found = capture.end()
        """
    )
    assert text_of(found) == "é"


def test_a_stream_that_a_command_rebinds_is_put_back() -> None:
    assert captured(
        """
        import io
        capture.request = 1
        sys.stdout = sys.stderr = io.StringIO()
        print("lost on purpose")
        capture.reclaim()
        print("heard")
        found = capture.end()
        """
    ) == [[STDOUT, "heard\n"]]


def test_a_logging_handler_of_before_does_not_escape() -> None:
    assert captured(
        """
        import logging
        logging.basicConfig(format="%(message)s")
        capture.request = 1
        logging.warning("told")
        found = capture.end()
        """
    ) == [[STDERR, "told\n"]]


def test_much_text_does_not_block() -> None:
    assert captured(
        """
        capture.request = 1
        line = b"x" * 99 + b"\\n"
        for _ in range(5000):
            os.write(1, line)  # half a megabyte: a pipe would be full
        found = len("".join(text for _, text in capture.end()))
        """
    ) == 500_000  # fmt: skip


# -- the client's side ----------------------------------------------------------------------------


def test_each_line_is_marked(capsys: pytest.CaptureFixture[str]) -> None:
    printer = Printer("redirect")
    printer.feed(3, 12, [(STDOUT, "one\ntwo\n"), (STDERR, "oh\n")])
    printer.feed(1, 0, [(STDOUT, "between\n")])
    out, err = capsys.readouterr()
    assert out == "[server 3 #12] one\n[server 3 #12] two\n[server 1] between\n"
    assert err == "[server 3 #12] oh\n"


def test_lines_are_never_mixed(capsys: pytest.CaptureFixture[str]) -> None:
    printer = Printer("redirect")
    printer.feed(1, 1, [(STDOUT, "a")])
    printer.feed(2, 2, [(STDOUT, "x")])
    printer.feed(1, 1, [(STDOUT, "b\nc")])
    printer.feed(2, 2, [(STDOUT, "y"), (STDERR, "e"), (STDOUT, "z\n")])
    assert capsys.readouterr().out == "[server 1 #1] ab\n[server 2 #2] xyz\n"
    printer.finish(1, 1)
    printer.finish(1, 1)
    assert capsys.readouterr().out == "[server 1 #1] c\n"
    printer.close()
    assert capsys.readouterr().err == "[server 2 #2] e\n"


def test_empty_lines_are_lines(capsys: pytest.CaptureFixture[str]) -> None:
    printer = Printer("redirect")
    printer.feed(1, 1, [(STDOUT, "\n\na\n"), (STDOUT, "")])
    assert capsys.readouterr().out == "[server 1 #1] \n[server 1 #1] \n[server 1 #1] a\n"


def test_lines_are_whole_whatever_thread_feeds_them(capsys: pytest.CaptureFixture[str]) -> None:
    printer = Printer("redirect")
    start = threading.Barrier(4)

    def feed(server: int) -> None:
        start.wait(10)
        for number in range(1, 201):
            printer.feed(server, number, [(STDOUT, f"begin {server} "), (STDOUT, "end\n")])

    threads = [threading.Thread(target=feed, args=(server,)) for server in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    lines = capsys.readouterr().out.splitlines()
    expected = [f"[server {s} #{n}] begin {s} end" for s in range(1, 5) for n in range(1, 201)]
    assert sorted(lines) == sorted(expected)


def test_quiet_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    printer = Printer("quiet")
    printer.feed(1, 1, [(STDOUT, "one\ntwo")])
    printer.finish(1, 1)
    printer.close()
    assert capsys.readouterr() == ("", "")


def test_one_file_a_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printer = Printer("files", str(tmp_path))
    printer.feed(1, 4, [(STDOUT, "one\ntw"), (STDERR, "é\n")])
    printer.feed(2, 5, [(STDOUT, "x\n")])
    printer.feed(1, 4, [(STDOUT, "o\nrest")])
    assert (tmp_path / "mpiframe-server-2.log").read_text() == "[#5] x\n"  # at once, not at close
    printer.close()
    text = (tmp_path / "mpiframe-server-1.log").read_text(encoding="utf-8")
    assert text == "[#4] one\n[#4] é\n[#4] two\n[#4] rest\n"
    assert capsys.readouterr() == ("", "")
    printer = Printer("files", str(tmp_path))
    printer.feed(2, 6, [(STDOUT, "y\n")])
    printer.close()
    assert (tmp_path / "mpiframe-server-2.log").read_text() == "[#5] x\n[#6] y\n"


def test_a_closed_stream_at_the_client_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def write(self, text: str) -> None:
            raise BrokenPipeError

    printer = Printer("redirect")
    for stream in (Broken(), None):
        monkeypatch.setattr(sys, "stdout", stream)
        printer.feed(1, 1, [(STDOUT, "one\n")])
    monkeypatch.undo()
    printer.close()
