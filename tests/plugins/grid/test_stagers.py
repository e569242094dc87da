"""The archive's stagers, against doubles that say they are doubles."""

from __future__ import annotations

import logging
import pickle
import ssl
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mpiframe.plugins.grid.credentials import Secret
from mpiframe.plugins.grid.lta_stager import LtaStager
from mpiframe.plugins.grid.stageit import StageIt
from mpiframe.plugins.grid.stager_credentials import ApiToken, Login
from mpiframe.plugins.grid.staging import StagingProgress, wait_staged
from mpiframe.plugins.grid.storage_errors import (
    AccessDenied,
    ConfigError,
    CredentialsMissing,
    NoLinksError,
    NoSuchFile,
    StagingFailed,
    StorageDown,
    StorageError,
    StorageTimeout,
)
from tests.plugins.grid import doubles

SURLS = [f"srm://srm.grid.sara.nl:8443/pnfs/L1_SB{number}" for number in range(3)]
QUICK = {"poll_seconds": 0.001, "longest_poll_seconds": 0.01}


@pytest.fixture(autouse=True)
def no_logins(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOFAR_LTA_USER", "LOFAR_LTA_PWD", "STAGEIT_API_TOKEN", "STAGEIT_HOSTNAME", "X509_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)


def private(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o600)
    return path


# -- credentials ----------------------------------------------------------------------------------


def test_logins_are_found_in_their_order(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CredentialsMissing, match="LOFAR_LTA_USER"):
        Login.find()
    monkeypatch.setenv("LOFAR_LTA_USER", "env")
    monkeypatch.setenv("LOFAR_LTA_PWD", "p3")
    assert Login.find() == Login("env", Secret("p3"))
    private(home / ".stagingrc", "# mine\nuser = rc\npassword=a=b c=\n")
    assert Login.find() == Login("rc", Secret("a=b c="))  # GRID_LRT cut it at the second sign
    private(home / ".awe/Environment.cfg", "[global]\ndatabase_user : cfg\ndatabase_password : x:y\n")
    assert Login.find() == Login("cfg", Secret("x:y"))


def test_tokens_are_found_and_old_logins_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rc = private(home / ".stagingrc", "user=me\npassword=sesame-open\n")
    with pytest.raises(CredentialsMissing, match="of the old stager") as caught:
        ApiToken.find()
    assert "sesame" not in str(caught.value)
    monkeypatch.setenv("STAGEIT_API_TOKEN", "env")
    assert ApiToken.find() == ApiToken(Secret("env"))
    private(rc, "api_token=t=1\nhostname=sdc-dev.astron.nl\n")
    assert ApiToken.find() == ApiToken(Secret("t=1"), "sdc-dev.astron.nl")
    private(rc, "api_token=t\nhostname=evil/path\n")
    with pytest.raises(ConfigError, match="evil"):
        ApiToken.find()
    rc.write_bytes(b"api_token=\xff\n")
    with pytest.raises(ConfigError, match="no text"):
        ApiToken.find()


# -- XML-RPC --------------------------------------------------------------------------------------


@pytest.fixture
def stager() -> Iterator[tuple[LtaStager, doubles.Stager, Any]]:
    double = doubles.Stager()
    with doubles.serving(double) as server:
        client = LtaStager(
            Login(double.user, Secret(double.password)), url=f"{server.url}/service-public/xmlrpc"
        )
        yield client, double, server
        client.close()


def test_a_single_surl_is_one(stager: Any) -> None:
    client, double, _ = stager
    number = client.stage(SURLS[0])
    assert double.wanted[number] == [SURLS[0]]  # GRID_LRT sent its letters, too
    client.stage(SURLS, notify=False)
    assert double.calls[-1] == ("LtaStager.add_getid", (SURLS, False))
    with pytest.raises(NoLinksError):
        client.stage([])


def test_every_function_of_the_stager(stager: Any) -> None:
    client, _double, _ = stager
    number = client.stage(SURLS)
    assert client.get_status(number) == "scheduled"
    assert client.get_surls_online(number) == SURLS[:1]
    assert client.get_srm_token(number) == f"srm-{number}"
    assert client.abort(number) is True
    assert client.get_status(number) == "aborted"
    assert client.reschedule(number) is True
    assert client.get_progress() == {str(number): {"Status": "in progress", "Files": 3}}
    assert client.get_storage_info() == {"sara": "10 TB"}


def test_waiting_for_the_stager(stager: Any) -> None:
    client, _double, _ = stager
    seen: list[StagingProgress] = []
    number = client.stage(SURLS)
    last = wait_staged(client.request(number, SURLS), 30, seen.append, **QUICK)
    assert (last.staged, last.fraction, last.ended) == (3, 1.0, True)
    assert [progress.staged for progress in seen] == [1, 2, 3]
    number = client.stage(SURLS)
    client.abort(number)
    with pytest.raises(StagingFailed, match="2 of 3") as caught:
        wait_staged(client.request(number, SURLS), 30, **QUICK)
    assert set(caught.value.failed) == set(SURLS[1:])
    assert pickle.loads(pickle.dumps(caught.value)).failed == caught.value.failed


def test_a_wrong_password_is_shown_nowhere(stager: Any, caplog: pytest.LogCaptureFixture) -> None:
    _, _double, server = stager
    caplog.set_level(logging.DEBUG)
    client = LtaStager(Login("me", Secret("sesame-open")), url=f"{server.url}/service-public/xmlrpc")
    with pytest.raises(AccessDenied) as caught:
        client.get_status(1)
    shown = "".join(traceback.format_exception(caught.value)) + repr(client) + repr(client._login)
    assert "sesame" not in shown + caplog.text
    assert "c2VzYW1l" not in shown + caplog.text  # nor as Basic authentication writes it


def test_faults_do_not_show_the_password(stager: Any) -> None:
    client, double, _ = stager
    with pytest.raises(StorageError, match="KeyError 9") as caught:
        client.get_status(9)
    assert double.password not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "raw",
    [
        b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>'
        b"<methodResponse><params><param><value><string>&b;</string></value></param></params></methodResponse>",
        b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><methodResponse><params><param><value>&e;'
        b"</value></param></params></methodResponse>",
        b"<methodResponse><params><param><value><int>x</int></value></param></params></methodResponse>",
        b"<html>come back later</html>",
        b"<methodResponse><params>",
        b"",
    ],
)
def test_answers_that_are_none(stager: Any, raw: bytes) -> None:
    client, double, _ = stager
    double.raw = raw
    with pytest.raises(StorageError, match="no XML-RPC"):
        client.get_status(1)


def test_a_stager_that_is_not_there() -> None:
    with doubles.serving(doubles.Stager()) as server:
        url = server.url
    client = LtaStager(Login("a", Secret("b")), url=url)
    with pytest.raises(StorageDown, match="cannot be reached"):
        client.get_status(1)


def test_a_stager_that_does_not_answer() -> None:
    end = threading.Event()

    def answer(request: doubles.Request) -> doubles.Answer:
        end.wait(30)
        return 200, {}, b""

    with doubles.serving(answer) as server:
        client = LtaStager(Login("a", Secret("b")), url=server.url, call_seconds=0.2)
        with pytest.raises(StorageTimeout, match="does not answer"):
            client.get_status(1)
        end.set()


def test_no_password_goes_out_unencrypted() -> None:
    with pytest.raises(ConfigError, match="use https"):
        LtaStager(Login("a", Secret("b")), url="http://stager.example.org/xmlrpc")


# -- certificates ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "wrong", "trusted"),
    [
        ("127.0.0.1", "expired", True),
        ("elsewhere.example.org", "mismatch", True),
        ("127.0.0.1", "self-signed|unable to get local issuer", False),
        ("127.0.0.1", "", True),
    ],
)
def test_certificates_are_verified(tmp_path: Path, name: str, wrong: str, trusted: bool) -> None:
    import datetime

    trustme = pytest.importorskip("trustme")
    ca = trustme.CA()
    times: dict[str, Any] = {}
    if wrong == "expired":
        now = datetime.datetime.now(datetime.timezone.utc)
        day = datetime.timedelta(days=1)
        times = {"not_before": now - 3 * day, "not_after": now - day}
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(name, **times).configure_cert(context)
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    double = doubles.Stager()
    double.wanted[1], double.online[1] = SURLS, 0
    with doubles.serving(double, context) as server:
        client = LtaStager(
            Login(double.user, Secret(double.password)),
            url=f"{server.url}/service-public/xmlrpc",
            ca=str(tmp_path / "ca.pem") if trusted else None,
        )
        if not wrong:
            assert client.get_status(1) == "scheduled"
        else:
            with pytest.raises(StorageDown, match=f"certificate is not valid: .*({wrong})"):
                client.get_status(1)
            assert not server.requests
        client.close()


# -- StageIT --------------------------------------------------------------------------------------


@pytest.fixture
def stageit() -> Iterator[tuple[StageIt, doubles.StageIt, Any]]:
    double = doubles.StageIt()
    with doubles.serving(double) as server:
        client = StageIt(ApiToken(Secret(double.token)), url=server.url)
        yield client, double, server
        client.close()


def test_every_function_of_stageit(stageit: Any) -> None:
    client, double, _ = stageit
    number = client.stage(SURLS[0])
    assert double.requests[number]["surls"] == SURLS[:1]
    number = client.stage(SURLS, notify=False)
    assert client.get_status(number) == "new"
    assert client.get_surls_requested(number) == SURLS
    assert client.get_surls_online(number) == SURLS[:2]
    assert client.get_surls_pending(number) == []
    assert client.get_surls_failed(number) == {}
    assert client.get_srm_token(number) == f"srm-{number}"
    (macaroon,) = client.get_macaroons(number)
    assert (macaroon.site, macaroon.valid_until) == ("SURF", "2026-12-01")
    assert macaroon.content.reveal() == "MDAxY2xvY2F0aW9u"
    assert "MDAx" not in repr(macaroon)
    assert client.get_webdav_urls_requested(number)[0].startswith("https://srm.grid")
    assert client.get_gridftp_urls_requested(number)[0].startswith("gsiftp://srm.grid")
    client.abort(number)
    assert client.get_status(number) == "aborted"
    client.reschedule(number)
    assert set(client.get_progress()) == {str(one) for one in double.requests}
    assert set(client.get_progress("S", exclude=True, only_last24h=True)) == {str(n) for n in double.requests}
    with pytest.raises(ValueError, match="status code"):
        client.get_progress('S) { id } } { request(id: "')
    for call in (client.get_status, client.abort, client.get_webdav_urls_requested):
        with pytest.raises(NoSuchFile):
            call(1)


def test_waiting_for_stageit(stageit: Any) -> None:
    client, double, _ = stageit
    seen: list[StagingProgress] = []
    last = wait_staged(client.request(client.stage(SURLS), SURLS), 30, seen.append, **QUICK)
    assert (last.staged, last.status) == (3, "success")
    assert seen[0].staged == 0
    double.errors = {SURLS[1]: "the tape is torn"}
    number = client.stage(SURLS)
    with pytest.raises(StagingFailed, match=r"1 of 3 files cannot be staged; .*the tape is torn"):
        wait_staged(client.request(number), 30, **QUICK)


def test_a_wrong_token_is_shown_nowhere(stageit: Any, caplog: pytest.LogCaptureFixture) -> None:
    _, _double, server = stageit
    caplog.set_level(logging.DEBUG)
    client = StageIt(ApiToken(Secret("sesame-open")), url=server.url)
    with pytest.raises(AccessDenied) as caught:
        client.stage(SURLS)
    shown = "".join(traceback.format_exception(caught.value)) + repr(client) + repr(client._token)
    assert "sesame" not in shown + caplog.text


def test_a_token_is_not_sent_on_to_another_host() -> None:
    with doubles.serving(lambda request: doubles.as_json({"id": 5})) as other:
        leave = lambda request: (307, {"Location": f"{other.url}{request.path}"}, b"")  # noqa: E731
        with doubles.serving(leave) as server:
            client = StageIt(ApiToken(Secret("sesame")), url=server.url)
            assert client.stage(SURLS) == 5
            assert "authorization" in server.requests[0].headers
            assert "authorization" not in other.requests[0].headers
            assert other.requests[0].body == server.requests[0].body
    turn = lambda request: (302, {"Location": request.path}, b"")  # noqa: E731
    with doubles.serving(turn) as server, pytest.raises(StorageDown, match="redirects more than"):
        StageIt(ApiToken(Secret("sesame")), url=server.url).get_webdav_urls_requested(1)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ((200, {}, b"<html>"), "no JSON"),
        ((200, {}, b'{"data": {}}'), "did not answer"),
        ((200, {}, b"[]"), "did not answer"),
        ((503, {"Content-Type": "text/plain"}, b"maintenance until noon"), "maintenance until noon"),
        ((200, {}, b'{"errors": [{"message": "no such field"}]}'), "no such field"),
    ],
)
def test_other_answers(answer: doubles.Answer, expected: str) -> None:
    with doubles.serving(lambda request: answer) as server:
        client = StageIt(ApiToken(Secret("t")), url=server.url)
        with pytest.raises(StorageError, match=expected):
            client.get_status(1)
        client.close()


# -- waiting --------------------------------------------------------------------------------------


class Scripted:
    """A request whose answers are given."""

    def __init__(self, *answers: StagingProgress | StorageError) -> None:
        self.answers = list(answers)

    def poll(self) -> StagingProgress:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, StorageError):
            raise answer
        return answer


def test_waiting_ends_in_time_and_when_told() -> None:
    with pytest.raises(StorageTimeout, match=r"1 of 2 files are staged after 0\.01 s"):
        wait_staged(Scripted(StagingProgress(2, 1)), 0.01, **QUICK)
    stop = threading.Event()
    assert wait_staged(Scripted(StagingProgress(2, 1)), None, lambda _: stop.set(), stop=stop).staged == 1
    for wrong in ({"poll_seconds": 0}, {"poll_seconds": 5, "longest_poll_seconds": 1}):
        with pytest.raises(ValueError, match="poll_seconds"):
            wait_staged(Scripted(StagingProgress(1, 1)), **wrong)  # type: ignore[arg-type]


def test_a_storage_that_is_away_for_a_while() -> None:
    away = StorageDown("away")
    seen: list[StagingProgress] = []
    request = Scripted(away, StagingProgress(2, 1), away, away, away, away, StagingProgress(2, 2))
    assert wait_staged(request, 30, seen.append, **QUICK).ended
    assert seen == [StagingProgress(2, 1), StagingProgress(2, 2)]
    with pytest.raises(StorageDown, match="away"):
        wait_staged(Scripted(StagingProgress(2, 1), away), 30, **QUICK)


def test_polls_come_less_and_less_often() -> None:
    waits: list[float] = []

    class Clock(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout or 0)
            return len(waits) == 30

    wait_staged(Scripted(StagingProgress(2, 1)), stop=Clock(), poll_seconds=1, longest_poll_seconds=60)
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (1, 60)
