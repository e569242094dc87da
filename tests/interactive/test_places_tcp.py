"""Worlds over TCP: keys and certificates that are right or wrong, and strangers at the door."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from mpiframe.worlds.secure import Key
from tests.conftest import launching, pythons
from tests.interactive import sshd
from tests.interactive.worlds import Desk, desk_of

pytestmark = pytest.mark.long

WORKS = """
with mpiframe.attach({world!r}, key={key!r}) as client:
    print([r.ret for r in client.push('6 * 7', target='all', block=True)])
"""


@pytest.fixture(scope="module")
def desk() -> Iterator[Desk]:
    """With the first MPI: TLS does not know which it is."""
    with launching(pythons()[0]) as launcher, desk_of(launcher) as found:
        yield found


@pytest.fixture(scope="module")
def shared(desk: Desk) -> Iterator[Key]:
    """The key of a world with two servers, which listens on loopback."""
    started = desk.mpiframe(
        "start", "-n", "3", "--name", "survey", "--listen", "127.0.0.1:0", "--key", "survey.key"
    ).expect(0)
    key = Key.read(desk.folder / "survey.key")
    assert f"(at {key.address})" in started.out
    yield key
    assert "in order" in desk.mpiframe("stop", "survey").expect(0).out
    desk.expect_nothing_left()


@pytest.fixture
def key(desk: Desk, shared: Key) -> Iterator[Key]:
    """Whatever the test does with it, nothing is broken."""
    yield shared
    works(desk, shared.address)


def works(desk: Desk, world: str | None, key: str = "survey.key") -> None:
    assert desk.script(WORKS.format(world=world, key=key)).expect(0).out == "[42, 42]\n"


def refused(desk: Desk, world: str | None, key: Key | None) -> str:
    """The error of one who may not attach."""
    path = desk.folder / "wrong.key"
    if key is not None:
        path.unlink(missing_ok=True)
        key.write(path)
    said = desk.script(WORKS.format(world=world, key=None if key is None else str(path))).expect(1)
    assert said.out == ""
    assert "WorldError: " in said.err
    return said.err.rpartition("WorldError: ")[2]


def reach(key: Key) -> socket.socket:
    host, _, port = key.address.partition(":")
    sock = socket.create_connection((host, int(port)), 20)
    sock.settimeout(20)
    return sock


def test_with_the_key_one_attaches_from_anywhere(desk: Desk, key: Key) -> None:
    assert stat.S_IMODE((desk.folder / "survey.key").stat().st_mode) == 0o600
    works(desk, None)  # the key says where
    works(desk, key.address)
    assert desk.mpiframe("key", "survey").expect(0).out == key.text()
    for pid in desk.pids():
        with contextlib.suppress(OSError):
            assert key.secret.hex().encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
            assert key.secret.hex().encode() not in Path(f"/proc/{pid}/environ").read_bytes()
    assert key.secret.hex() not in (desk.worlds / "survey/log").read_text()


def test_large_arrays_go_over_tls_both_ways(desk: Desk, key: Key) -> None:
    script = """
import numpy as np
with mpiframe.attach(key='survey.key') as client:
    a = np.arange(5_000_000.0)
    out, = client.push('a * 2', target=1, parameters={'a': a}, block=True)
    assert np.array_equal(out.result(), a * 2)
"""
    desk.script(script).expect(0)


def test_a_wrong_secret_is_refused(desk: Desk, key: Key) -> None:
    wrong = Key("survey", key.address, key.fingerprint, os.urandom(32))
    assert "the secret in the key file is not that of the world at 127.0.0.1:" in refused(desk, None, wrong)


def test_a_wrong_certificate_is_refused(desk: Desk, key: Key) -> None:
    wrong = Key("survey", key.address, "sha256:" + "0" * 64, key.secret)
    assert "is not the one that the key file names" in refused(desk, None, wrong)


def test_without_a_key_one_is_told_where_to_get_it(desk: Desk, key: Key) -> None:
    assert "takes the key of its world: `mpiframe key NAME > FILE`" in refused(desk, key.address, None)


def test_a_key_that_others_may_read_is_refused(desk: Desk, key: Key) -> None:
    (desk.folder / "survey.key").chmod(0o644)
    said = desk.script(WORKS.format(world=None, key="survey.key")).expect(1)
    assert "others may read the key file survey.key (mode 0644)" in said.err
    (desk.folder / "survey.key").chmod(0o600)


def test_strangers_at_the_door_break_nothing(desk: Desk, key: Key) -> None:
    host, _, port = key.address.partition(":")
    with contextlib.closing(http.client.HTTPConnection(host, int(port), timeout=20)) as browser:
        browser.request("GET", "/")
        with pytest.raises((http.client.HTTPException, OSError)):
            browser.getresponse()
    for words in (b"", b"\x16\x03\x01", b"SSH-2.0-x\r\n", b"\0" * 4096, os.urandom(4096)):
        with reach(key) as sock, contextlib.suppress(OSError):
            sock.sendall(words)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(4096):
                pass
    works(desk, key.address)


def test_who_says_nothing_is_sent_away_and_keeps_nobody_out(desk: Desk, key: Key) -> None:
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(reach(key)) for _ in range(200)]
        works(desk, key.address)
        assert silent[-1].recv(1) == b""  # within some seconds, and not for ever
    assert time.monotonic() - began < 20


def test_a_port_that_is_taken_is_said_to_be(desk: Desk) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        failed = desk.mpiframe(
            "start", "-n", "2", "--name", "other", "--listen", f"127.0.0.1:{port}", "--key", "other.key"
        ).expect(2)
    assert f"the hub cannot listen on 127.0.0.1:{port}: Address already in use" in failed.err
    assert not (desk.folder / "other.key").exists()
    assert not (desk.worlds / "other").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--listen", "127.0.0.1:0"], "--listen wants --key FILE"),
        (["--key", "x.key"], "--key is of use with --listen only"),
        (["--listen", "here", "--key", "x.key"], "'here' is no address: give HOST:PORT"),
        (["--listen", "127.0.0.1:0", "--key", "no/x.key"], "cannot write the key file no/x.key"),
        (["--listen", "127.0.0.1:0", "--key", "thesis.tex"], "thesis.tex is no key file"),
        (["--listen", "127.0.0.1:0", "--key", "x.key", "--cert", "thesis.tex"], "cannot use the certificate"),
    ],
)
def test_what_cannot_be_is_said_before_anything_starts(desk: Desk, words: list[str], says: str) -> None:
    (desk.folder / "thesis.tex").write_text("mpiframe\n")
    assert says in desk.mpiframe("start", "-n", "2", *words).expect(2).err
    assert (desk.folder / "thesis.tex").read_text() == "mpiframe\n"
    assert not (desk.worlds / "world").exists()


def test_with_a_certificate_of_the_site_copies_of_the_key_stay_good(desk: Desk) -> None:
    trustme.CA().issue_cert("node1.example.org").private_key_and_cert_chain_pem.write_to_path(
        desk.folder / "site.pem"
    )
    port = str(sshd.free_port())
    for turn in range(2):
        words = ["--listen", f"127.0.0.1:{port}", "--key", "site.key", "--cert", "site.pem"]
        desk.mpiframe("start", "-n", "3", "--name", "site", *words).expect(0)
        if not turn:
            shutil.copy(desk.folder / "site.key", desk.folder / "copy.key")
        works(desk, None, "copy.key")
        desk.mpiframe("stop", "site").expect(0)
