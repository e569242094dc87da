"""The https transport, over real TLS, with a double of the server that says of itself that it is one."""

from __future__ import annotations

import importlib.util
import logging
import os
import pickle
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mpiframe.compat.miginterface as compat
from mpiframe.plugins.grid.mig import (
    HttpsServer,
    Mig,
    MigLocalError,
    MigServerError,
    MigUnknownJobIdError,
    replies,
)
from mpiframe.plugins.grid.mig.call_log import CallLog
from mpiframe.plugins.grid.mig.settings import Settings

HERE = Path(__file__).parent
PASSWORD = "a quiet-word"


def load(name: str) -> Any:
    """A module beside this one."""
    if f"mig_test_{name}" not in sys.modules:
        spec = importlib.util.spec_from_file_location(f"mig_test_{name}", HERE / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[f"mig_test_{name}"]


class Site:
    """An authority, a double of the server, and the user's files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = load("authority").Authority(folder)
        self.doubles: list[Any] = []
        self.servers: list[HttpsServer] = []
        self.user = self.authority.issue("user", password=PASSWORD)
        self.double = self.start()

    def start(self, days: int = 30, **options: Any) -> Any:
        pair = self.authority.issue(f"server{len(self.doubles)}", days)
        double = load("mig_double").MigDouble(self.authority.server_context(pair), **options)
        self.doubles.append(double)
        return double

    def configure(self, **changes: Any) -> None:
        """Write ~/.mig/miguser.conf."""
        values = {
            "migserver": self.double.url,
            "certfile": self.user.certificate,
            "keyfile": self.user.key,
            "cacertfile": self.authority.file,
            "password": PASSWORD,
            **changes,
        }
        path = Path.home() / ".mig" / "miguser.conf"
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            "# how to get there\n" + "".join(f"{k} {v}\n" for k, v in values.items() if v is not None)
        )
        path.chmod(0o600)

    def mig(self, **changes: Any) -> Mig:
        self.configure(**changes)
        server = HttpsServer()
        self.servers.append(server)
        return Mig(server)

    def stop(self) -> None:
        for server in self.servers:
            server.close()
        for double in self.doubles:
            double.stop()


@pytest.fixture
def site(room: Path) -> Iterator[Site]:
    found = Site(room)
    try:
        yield found
    finally:
        found.stop()


def test_a_life_on_the_server(site: Site) -> None:
    mig, double = site.mig(), site.double
    assert mig.test_connection()
    Path("tool.sh").write_text("#!/bin/sh\necho $1\n")
    Path("data in").mkdir()
    Path("data in/x.dat").write_bytes(b"\0\1\2")
    os.chdir("data in")
    job = mig.create_job(
        ["./tool.sh 3 > out.txt # not this"],
        input_files=["x.dat y.dat"],
        executables=["../tool.sh"],
        output_files=["out.txt"],
        resource_specifications={"VGRID": "ANY"},
        name="first",
    )
    description = double.descriptions[job]
    assert description["EXECUTE"] == ("./tool.sh 3 > out.txt # not this",)
    assert description.files("INPUTFILES") == [("x.dat", "y.dat")]
    assert (description["VGRID"], description["JOBNAME"]) == (("ANY",), "first")
    assert set(double.home) == {"x.dat", "tool.sh"}  # what was only for the way is gone again
    assert os.listdir(site.folder / "tmp") == []

    info = mig.job_info(job)
    assert (info["ID"], info["STATUS"]) == (job, "QUEUED")
    assert info["SCHEDULE HINT"] == "GO now: 3"
    assert not mig.job_finished(job)
    double.advance(job, "EXECUTING")
    assert mig.jobs_status([job]) == ["EXECUTING"]
    assert mig.job_output(job) == ""
    double.advance(job, "FINISHED")
    double.home[f"job_output/{job}/{job}.stdout"] = b"out\nTitle: mine\n"
    double.home[f"job_output/{job}/{job}.stderr"] = b"\n\nerr\n"
    double.home["out.txt"] = b"3\r\n" * 100_000
    assert mig.wait(job, 5) == ["FINISHED"]
    assert mig.job_output(job) == "\n\nerr\nout\nTitle: mine\n"
    assert mig.get_file("out.txt") == "out.txt"
    assert Path("out.txt").read_bytes() == double.home["out.txt"]
    mig.remove("out.txt")
    assert not mig.path_exists("out.txt")

    for method, path, body in double.seen:
        assert b";" not in body or method == "CERTPUT"
        assert PASSWORD.encode() not in body
        assert PASSWORD not in path


def test_files(site: Site) -> None:
    mig = site.mig()
    Path("a b.txt").write_text("text\n")
    mig.mk_dir("d")
    mig.upload_file("a b.txt", "d/a b.txt")
    mig.upload_file("a b.txt", "plus+&;=.txt")
    assert mig.ls() == ["d", "plus+&;=.txt"]
    assert mig.ls("d") == ["a b.txt"]
    assert mig.cat_file(["d/a b.txt", "plus+&;=.txt"]) == "text\ntext\n"
    assert mig.get_file("d/a b.txt", "here") == "here"
    assert Path("here").read_text() == "text\n"
    with pytest.raises(MigServerError, match="invalid directory") as caught:
        mig.upload_file("a b.txt", "nowhere/x")
    assert caught.value.error_code == 100
    mig.remove(["d/a b.txt", "plus+&;=.txt"])
    mig.remove_dir("d")
    assert mig.ls() == []
    for call in (mig.cat_file, mig.get_file, mig.remove, mig.ls):
        with pytest.raises(MigServerError, match="No such file") as caught:
            call("nothing")
        assert caught.value.error_code == 105
    assert not mig.path_exists("nothing")
    assert not Path("nothing").exists()


def test_cancel_and_unknown_ids(site: Site) -> None:
    mig = site.mig()
    jobs = [mig.create_job("sleep 60") for _ in range(2)]
    mig.cancel_jobs(jobs)
    assert mig.jobs_status(jobs) == ["CANCELED", "CANCELED"]
    with pytest.raises(MigServerError, match="You can only cancel") as caught:
        mig.cancel_job(jobs[0])
    assert not isinstance(caught.value, MigUnknownJobIdError)
    for call in (mig.job_info, mig.job_status, mig.job_finished, mig.cancel_job, mig.job_output):
        for name in ("nobody", "*", "", "../x"):
            with pytest.raises(MigUnknownJobIdError) as unknown:
                call(name)
            assert unknown.value.error_code == 100


def test_a_job_in_a_file(site: Site) -> None:
    mig = site.mig()
    Path("j.mRSL").write_text("::EXECUTE::\nls\n\n::CPUTIME::\n5\n")
    job = mig.submit_job("j.mRSL", "kept.mRSL")
    assert site.double.descriptions[job]["CPUTIME"] == 5
    assert "kept.mRSL" in site.double.home


def test_the_originals_separator_is_refused_by_the_double(site: Site) -> None:
    server = site.mig().server
    assert isinstance(server, HttpsServer)
    reply = server._client.post("/cgi-bin/ls.py", content=b"output_format=txt;path=.")
    assert replies.parse(reply.content)[0] == 100


def test_a_server_that_cannot_take_uploads(site: Site) -> None:
    site.double = site.start(python3=True)
    with pytest.raises(MigServerError, match="Servers that run on Python 3 cannot"):
        site.mig().create_job("true")


def test_a_job_that_the_server_refuses(site: Site) -> None:
    server = site.mig().server
    with pytest.raises(MigServerError, match="did not take the job: Failure: unknown keyword: ::ODD::"):
        server.submit("::ODD::\nx\n", [], "name")


@pytest.mark.parametrize(
    ("status", "content", "said"),
    [
        (200, b"<html>hello</html>", "no MiG server"),
        (200, b"", "no MiG server"),
        (200, b"Exit code: 200 Description System error\n** the disk is full **\n", "the disk is full"),
        (200, b"Exit code: 104 Description\n", "the certificate was not accepted"),
        (403, b"no", "does not allow it"),
        (500, b"oops", "HTTP status 500"),
        (302, b"", "sends us to elsewhere"),
    ],
)
def test_answers_that_are_none(site: Site, status: int, content: bytes, said: str) -> None:
    mig = site.mig()
    site.double.answer = (status, content)
    with pytest.raises(MigServerError, match=said):
        mig.test_connection()


def test_titles_are_taken_off_once() -> None:
    page = b"Title: cat\n\n___CAT___\n\n"
    for content in (b"", b"x", b"\n\nx\n", b"Title: mine\n\n___MINE___\n\n", b"___X___\n\n"):
        assert replies.without_titles(page + content) == content
    assert replies.without_titles(b"x\n") == b"x\n"


@pytest.mark.parametrize(
    "content",
    [
        b"0\n[__import__('os').system('touch ran')]",
        b"0\n[" * 5000,
        b"0\n[{'a': 1}, 3]",
        b"0\n['" + b"x" * (1 << 20) + b"']",
        b"soon\n[]",
        b"0\n[1, 2",
    ],
)
def test_literals_are_read_and_nothing_is_run(content: bytes) -> None:
    with pytest.raises(MigServerError, match="cannot be read"):
        replies.submitted(content)
    assert not Path("ran").exists()


# -- certificates ------------------------------------------------------------------------------------


def test_a_wrong_password(site: Site) -> None:
    with pytest.raises(MigLocalError, match=r"password of the key .* is wrong") as caught:
        site.mig(password="another")
    assert "another" not in str(caught.value)
    with pytest.raises(MigLocalError, match=r"password of the key .* is missing"):
        site.mig(password=None)  # and nothing asks on the terminal


def test_an_expired_certificate_of_the_user(site: Site) -> None:
    old = site.authority.issue("old", days=-3)
    with pytest.raises(MigLocalError, match=r"your certificate .*old.crt expired on"):
        site.mig(certfile=old.certificate, keyfile=old.key)


def test_an_expired_certificate_of_the_server(site: Site) -> None:
    site.double = site.start(days=-1)
    with pytest.raises(MigServerError, match=r"certificate of https.* cannot be trusted: .*has expired"):
        site.mig().test_connection()


def test_a_server_of_another_authority(site: Site) -> None:
    other = load("authority").Authority(site.folder, "other")
    for authority in (other.file, None, "AUTO"):
        with pytest.raises(MigServerError, match="cannot be trusted"):
            site.mig(cacertfile=authority).test_connection()
    assert site.double.seen == []
    assert site.mig(cacertfile=other.file, insecure="yes").test_connection()


def test_a_server_under_another_name(site: Site) -> None:
    mig = site.mig(migserver=site.double.url.replace("127.0.0.1", "localhost"))
    with pytest.raises(MigServerError, match=r"cannot be trusted: Hostname mismatch.*localhost"):
        mig.test_connection()


def test_a_user_of_another_authority(site: Site) -> None:
    stranger = load("authority").Authority(site.folder, "other").issue("stranger")
    mig = site.mig(certfile=stranger.certificate, keyfile=stranger.key)
    with pytest.raises(MigServerError, match="your certificate"):
        mig.test_connection()
    assert site.double.seen == []


def test_a_key_of_another_certificate(site: Site) -> None:
    other = site.authority.issue("other_user")
    with pytest.raises(MigLocalError, match="cannot be used"):
        site.mig(keyfile=other.key)
    Path("nothing").write_text("no certificate")
    with pytest.raises(MigLocalError, match="holds no certificate"):
        site.mig(certfile="nothing")
    with pytest.raises(MigLocalError, match="there is no file"):
        site.mig(keyfile="/no/such/file")


def test_a_server_that_is_down(site: Site) -> None:
    mig = site.mig()
    site.doubles.remove(site.double)
    site.double.stop()
    with pytest.raises(MigServerError, match="cannot be reached"):
        mig.test_connection()


def test_a_server_that_does_not_answer(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        mig = site.mig(migserver=f"https://127.0.0.1:{port}", connect_timeout=0.2, max_time=0.2)
        with pytest.raises(MigServerError, match="does not answer"):
            mig.test_connection()


# -- settings ----------------------------------------------------------------------------------------


def test_the_password_shows_nowhere(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    log = site.folder / "log.txt"
    mig = site.mig()
    mig.log = CallLog(str(log))
    mig.create_job("true")
    settings = Settings.read()
    assert settings.password == PASSWORD
    for text in (repr(settings), str(settings), log.read_text(), caplog.text, repr(mig.__dict__)):
        assert PASSWORD not in text
    with pytest.raises(TypeError, match="password"):
        pickle.dumps(settings)


def test_a_password_that_others_can_read(site: Site) -> None:
    site.configure()
    (Path.home() / ".mig" / "miguser.conf").chmod(0o644)
    with pytest.raises(MigLocalError, match="chmod 600"):
        HttpsServer()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"migserver": None}, "no line `migserver"),
        ({"certfile": ""}, "no line `certfile"),
        ({"migserver": "http://127.0.0.1"}, "has to be an https"),
        ({"certfil": "x"}, "did you mean 'certfile'"),
        ({"max_time": "soon"}, "max_time has to be seconds"),
        ({"connect_timeout": "0"}, "connect_timeout has to be seconds"),
        ({"cacertfile": "/no/such/file"}, "there is no file /no/such/file"),
    ],
)
def test_settings_that_are_wrong(site: Site, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(MigLocalError, match=said):
        site.mig(**changes)


def test_scripts_use_the_server_by_default(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.configure()
    monkeypatch.setattr(compat, "_modes", [])
    monkeypatch.setattr(compat, "_remote", None)
    monkeypatch.setattr(compat, "_log", CallLog())
    job = compat.create_job("echo HELLO GRID")
    assert compat.job_status(job) == "QUEUED"
    compat.local_mode_on()
    with pytest.raises(MigUnknownJobIdError):
        compat.job_status(job)
    compat.local_mode_off()
    compat.cancel_job(job)
    assert site.double.jobs[job]["Status"] == "CANCELED"
    remote = compat._mig().server
    assert isinstance(remote, HttpsServer)
    remote.close()
