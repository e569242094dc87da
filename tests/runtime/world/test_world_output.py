"""What commands print and log, live at the client and in their responses."""

from __future__ import annotations

import logging
import re
import sys

import pytest

pytestmark = pytest.mark.timeout(60)


def run(client, command, **parameters):
    return client.push(command, 1, True, parameters or None, timeout=40)[0]


@pytest.fixture(autouse=True)
def _settled(client, capsys):
    client.push("None", target="all", block=True)
    capsys.readouterr()


@pytest.mark.smoke
def test_lines_are_marked_with_server_and_request(client, capsys):
    response = run(client, "import sys; print('out'); print('err', file=sys.stderr)")
    assert (response.stdout, response.stderr) == ("out\n", "err\n")
    out, err = capsys.readouterr()
    assert out == f"[server 1 #{response.id}] out\n"
    assert err == f"[server 1 #{response.id}] err\n"


def test_a_line_without_an_end_is_printed_too(client, capsys):
    response = run(client, "print('no', 'end', sep='-', end='')")
    assert response.stdout == "no-end"
    assert capsys.readouterr().out == f"[server 1 #{response.id}] no-end\n"


def test_all_ways_to_print(client):
    response = run(
        client,
        """
import os, subprocess, sys
print("one", flush=True)
os.write(1, b"two\\n")
sys.stdout.buffer.write(b"three\\n")
sys.stdout.writelines(["fo", "ur\\n"])
subprocess.run(["/bin/sh", "-c", "echo five; echo six >&2"], check=True)
subprocess.run(["/bin/sh", "-c", "echo seven"], check=True, stdout=sys.stdout)
print("eight \u00e4\U0001f600")
os.write(2, b"\\xff\\n")
""",
    )
    assert response.successful, response.traceback
    words = response.stdout.replace("\n", " ")
    assert words == "one two three four five seven eight \u00e4\U0001f600 "
    assert response.stderr == "six\n\\xff\n"


def test_output_of_a_failed_command(client):
    response = run(client, "print('before'); 1 / 0")
    assert (response.status, response.stdout) == ("failed", "before\n")


def test_output_belongs_to_the_command_that_printed_it(client):
    ids = [client.push(f"print({n})", target=1) for n in range(200)]
    assert [r.stdout for r in client.get(ids)] == [f"{n}\n" for n in range(200)]


def test_lines_of_several_servers_never_interleave(client, servers, capsys):
    command = """
import sys
for n in range(1000):
    for word in ("line", str(n), "of", str(me)):
        sys.stdout.write(word + " ")
    print("end")
"""
    ids = [client.push(command, target=s, parameters={"me": s}) for s in servers]
    responses = client.get(ids)
    assert all(r.stdout.count("\n") == 1000 for r in responses)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1000 * len(servers)
    numbers = dict.fromkeys(servers, 0)
    for line in lines:
        found = re.fullmatch(r"\[server (\d+) #\d+\] line (\d+) of (\d+) end", line)
        assert found, line
        server, number, me = map(int, found.groups())
        assert server == me
        assert number == numbers[server]
        numbers[server] += 1


class Listener:
    """Stands in for `sys.stdout`; calls back when a word is heard."""

    def __init__(self, word, then):
        self.word, self.then, self.heard = word, then, ""

    def write(self, text):
        self.heard += text
        if self.word in self.heard:
            self.then()

    def flush(self):
        pass


@pytest.mark.parametrize("how", ["print('now')", "import os; os.write(1, b'now\\n')"])
@pytest.mark.parametrize("wait", [True, False])
def test_output_appears_before_the_command_ends(client, gate, monkeypatch, until, how, wait):
    """The command ends only once its output was seen."""
    monkeypatch.setattr(sys, "stdout", Listener("now", gate.open))
    id = client.push(how + "\n" + gate.command, target=1, parameters=gate.parameters)
    if not wait:
        until(lambda: "now" in sys.stdout.heard)
    (response,) = client.get(id)
    assert response.successful, response.traceback
    assert response.stdout == "now\n"


def test_a_client_whose_stdout_is_closed(client, monkeypatch):
    with open("/dev/null", "w") as closed:
        pass
    monkeypatch.setattr(sys, "stdout", closed)
    assert run(client, "print('into the void')").stdout == "into the void\n"
    monkeypatch.setattr(sys, "stdout", None)
    assert run(client, "print('into the void')").stdout == "into the void\n"


@pytest.mark.parametrize("how", ["print(line)", "os.write(1, line.encode() + b'\\n')"])
def test_a_hundred_megabytes(client, monkeypatch, how):
    monkeypatch.setattr(sys, "stdout", Listener("never said", print))
    monkeypatch.setattr(Listener, "write", lambda self, text: None)
    command = f"import os\nline = 'x' * 999_999\nfor _ in range(100): {how}"
    response = run(client, command)
    assert response.successful, response.traceback
    assert len(response.stdout) == 100_000_000
    assert response.stdout.count("\n") == 100


def test_a_hundred_thousand_short_lines(client, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Listener("never said", print))
    monkeypatch.setattr(Listener, "write", lambda self, text: None)
    response = run(client, "for n in range(100_000): print(n)")
    assert response.stdout.split() == [str(n) for n in range(100_000)]


def test_output_of_a_thread_between_commands(client, monkeypatch, until, gate):
    listener = Listener("late", lambda: None)
    monkeypatch.setattr(sys, "stdout", listener)
    run(
        client,
        """
import os, threading, time
def speak(path=opened):
    while not os.path.exists(path): time.sleep(0.001)
    print("late")
threading.Thread(target=speak).start()
""",
        **gate.parameters,
    )
    gate.open()
    until(lambda: "[server 1] late\n" in listener.heard)


def test_warnings_are_shown(client):
    response = run(client, "import warnings; warnings.warn('careful')")
    assert "UserWarning: careful" in response.stderr


class Records(logging.Handler):
    def __init__(self):
        super().__init__()
        self.records = []

    def emit(self, record):
        self.records.append(record)


@pytest.fixture
def records():
    handler = Records()
    logger = logging.getLogger("reduction")
    logger.addHandler(handler)
    yield handler.records
    logger.removeHandler(handler)


def test_log_records_come_with_rank_and_host(client, servers, records, until):
    command = """
import logging
log = logging.getLogger("reduction.step")
log.info("at %s of %d", "one", 2, extra={"unknown": object()})
log.debug("not asked for")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("it failed")
"""
    responses = client.push(command, target="all", block=True)
    until(lambda: len(records) >= 2 * len(servers))
    assert len(records) == 2 * len(servers)
    for response in responses:
        first, second = [r for r in records if r.rank == response.server]
        assert (first.request, first.host) == (response.id, response.host)
        assert first.getMessage() == "at one of 2"
        assert (first.name, first.levelname) == ("reduction.step", "INFO")
        assert first.processName == f"server {response.server}@{response.host}"
        assert response.started_at - 1 <= first.created <= response.finished_at + 1
        assert "ZeroDivisionError" in logging.Formatter().format(second)


def test_a_log_record_that_cannot_be_formatted(client, records, until):
    response = run(client, "import logging; logging.getLogger('reduction').error('%d', 'x')")
    assert response.successful
    run(client, "logging.getLogger('reduction').error('after')")
    until(lambda: [r.getMessage() for r in records] == ["after"])


def test_many_log_records(client, records, until):
    run(client, "import logging\nfor n in range(1000): logging.getLogger('reduction').error(n)")
    until(lambda: len(records) == 1000)
    assert [r.getMessage() for r in records] == [str(n) for n in range(1000)]
