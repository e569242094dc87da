"""Jobs on a real ARC computing element, Debian's: `launch/test --arc`.

A job takes half a minute there, however small it is, and a cancellation up to a minute.
"""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpiframe.plugins.grid.arc import (
    ArcDown,
    ArcRefused,
    ArcState,
    ComputingElement,
    CredentialError,
    Credentials,
    DescriptionError,
    JobDescription,
    JobFailed,
    JobInfo,
    JobNotFound,
    NoSuchFile,
)
from tests.plugins.grid.arc.authority import Authority
from tests.plugins.grid.arc.computing_element import ISSUER, STORE
from tests.plugins.grid.arc.computing_element import ComputingElement as RealElement

pytestmark = pytest.mark.timeout(300)
CONTENT = bytes(range(256)) * 40000


@pytest.fixture(scope="module")
def real() -> Iterator[RealElement]:
    made = RealElement()
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def user(real: RealElement) -> Credentials:
    trust = real.authority.folder / "certificates"  # a folder, as grids have it
    return Credentials(str(real.certificate), str(real.key), authorities=str(trust))


@pytest.fixture(scope="module")
def element(real: RealElement, user: Credentials) -> Iterator[ComputingElement]:
    with ComputingElement(real.url, user) as made:
        yield made


@dataclasses.dataclass
class Ran:
    """Jobs that have ended, by what they are for."""

    ids: dict[str, str]
    infos: dict[str, JobInfo]
    seen: list[ArcState]
    folder: Path
    logs: str


@pytest.fixture(scope="module")
def ran(
    real: RealElement, user: Credentials, element: ComputingElement, tmp_path_factory: pytest.TempPathFactory
) -> Ran:
    """All jobs of this module side by side: the element takes up to a minute to notice a request."""
    folder = tmp_path_factory.mktemp("jobs")
    (folder / "in.dat").write_bytes(CONTENT)
    (folder / "fail.sh").write_text("#!/bin/sh\nprintenv ODD\nexit 3\n")
    (folder / "run.sh").write_text(
        '#!/bin/sh\necho "[$1] [$2]"; mkdir -p out/deep; cat in.dat >"out/deep/b c%.dat"\n'
    )
    whole = JobDescription(
        "run.sh",
        ["a b", "quote \" and '"],
        name="first & <one>",
        inputs={"run.sh": folder / "run.sh", "in.dat": folder / "in.dat"},
        outputs={"out/": ""},
        slots=2,
        wall_seconds=600,
        cpu_seconds=500,
        memory_bytes=200 << 20,
    )
    failing = JobDescription(
        "fail.sh", inputs={"fail.sh": folder / "fail.sh"}, environment={"ODD": "x y'z\"$HOME"}
    )
    ids = {
        "adl": element.submit(whole),
        "xrsl": element.submit(whole.to_xrsl(), whole.uploads),
        "fails": element.submit(failing),
        "delegated": element.submit(JobDescription("/bin/true"), delegate=True),
        "cancelled": element.submit(JobDescription("/bin/sleep", ["1000"])),
        # Its file never comes.
        "unfed": element.submit('&(executable="never.sh")(inputfiles=("never.sh" ""))(stdout="o")'),
    }
    proxy = Credentials(str(real.authority.proxy()), authorities=user.authorities)
    with ComputingElement(real.url, proxy) as other:
        # A store that lets nobody in without a certificate: the element reads it in our name.
        (real.folder / "store" / "far.dat").write_text("from afar")
        ids["far"] = other.submit(
            JobDescription("/bin/cat", stdin="in", inputs={"in": f"{STORE}/far.dat"}, stdout="out")
        )
        ids["nowhere"] = other.submit(JobDescription("/bin/cat", inputs={"in": f"{STORE}/nowhere.dat"}))
    element.cancel(ids["unfed"])
    seen: list[ArcState] = []

    def changed(job: str, state: ArcState) -> None:
        seen.append(state)
        if (job, state) == (ids["cancelled"], ArcState.RUNNING):
            element.cancel(job)

    infos = element.wait(
        *ids.values(), timeout_seconds=280, poll_seconds=0.5, longest_poll_seconds=4.0, on_change=changed
    )
    return Ran(ids, dict(zip(ids, infos, strict=True)), seen, folder, real.logs())


def test_what_it_says_of_itself(ran: Ran, element: ComputingElement) -> None:
    assert element.version in ("1.0", "1.1")
    assert element.queues() == ["fork"]  # it knows after a while: `ran` took one


def test_jobs_end_as_they_should(ran: Ran) -> None:
    assert {name: info.state.value for name, info in ran.infos.items()} == {
        "adl": "FINISHED",
        "xrsl": "FINISHED",
        "fails": "FAILED",
        "delegated": "FINISHED",
        "cancelled": "KILLED",
        "unfed": "KILLED",
        "far": "FINISHED",
        "nowhere": "FAILED",
    }, ran.logs
    assert {name: info.id for name, info in ran.infos.items()} == ran.ids
    assert ArcState.RUNNING in ran.seen
    assert ArcState.OTHER not in ran.seen
    for name, said in (
        ("fails", "exit code 3: LRMS error"),
        ("cancelled", "is KILLED"),
        ("unfed", "is KILLED"),
    ):
        with pytest.raises(JobFailed, match=said):
            ran.infos[name].check()
    with pytest.raises(JobFailed, match=r"(?i)is FAILED.*(stag|input|download|cach)"):
        ran.infos["nowhere"].check()


@pytest.mark.parametrize("name", ["adl", "xrsl"])
def test_what_was_described_is_what_ran(
    ran: Ran, element: ComputingElement, tmp_path: Path, name: str
) -> None:
    info = ran.infos[name]
    assert (info.check().exit_code, info.name, info.slots) == (0, "first & <one>", 2)
    assert info.requested_wall_seconds == 1200  # of all slots
    assert info.submitted_at is not None
    assert info.erased_at is not None
    assert info.erased_at > info.submitted_at
    assert element.files(info.id) == ["out/deep/b c%.dat", "stderr.txt", "stdout.txt"]
    assert element.read(info.id, "stdout.txt") == b"[a b] [quote \" and ']\n"
    element.fetch(info.id, tmp_path)
    assert (tmp_path / "out/deep/b c%.dat").read_bytes() == CONTENT


def test_what_failed_says_why(ran: Ran, element: ComputingElement) -> None:
    job = ran.ids["fails"]
    assert element.read(job, "stdout.txt") == b"x y'z\"$HOME\n"
    assert "wrong exit code - 3" in element.diagnose(job, "failed")
    with pytest.raises(NoSuchFile):
        element.read(job, "nothing")


def test_what_acts_for_us_has_a_delegation(ran: Ran, element: ComputingElement) -> None:
    assert "DelegationID" in element.diagnose(ran.ids["far"], "description")
    assert element.read(ran.ids["far"], "out") == b"from afar"
    found = element.delegations()
    assert len(found) >= 2
    for delegation in found:
        element.renew_delegation(delegation)


def test_a_token_is_as_good_as_a_certificate(real: RealElement, user: Credentials, ran: Ran) -> None:
    token = real.authority.token("user", ISSUER)
    with ComputingElement(real.url, Credentials(token=token, authorities=user.authorities)) as made:
        assert made.jobs() == []  # those of the certificate are another's
        job = made.submit(JobDescription("/bin/echo", ["by token"]))
        assert (
            made.wait(job, timeout_seconds=120, longest_poll_seconds=4)[0].check().owner == f"{ISSUER}/user"
        )
        assert made.read(job, "stdout.txt") == b"by token\n"
        if made.version == "1.0":
            with pytest.raises(CredentialError, match="only proxies"):
                made.delegate()
        assert made.delegations() == []
    head, _, signature = token.rpartition(".")
    forged = f"{head}.{signature[:10]}{'A' * (len(signature) - 10)}"
    for wrong in (forged, real.authority.token("stranger", ISSUER)):
        bad = Credentials(token=wrong, authorities=user.authorities)
        with ComputingElement(real.url, bad) as made, pytest.raises(CredentialError, match="this token"):
            made.jobs()


def test_what_is_cleaned_is_gone(ran: Ran, element: ComputingElement) -> None:
    assert set(ran.ids.values()) <= set(element.jobs())
    job = ran.ids["delegated"]
    element.clean(job)
    with pytest.raises(JobNotFound):
        element.describe(job)


def test_it_says_no(element: ComputingElement) -> None:
    with pytest.raises(DescriptionError, match="adl parsing error"):
        element.submit("<x/>")
    with pytest.raises(DescriptionError, match="xrsl parsing error"):
        element.submit("&(executable=x")
    with pytest.raises(ArcRefused, match="queue nonsense"):
        element.submit(JobDescription("/bin/true", queue="nonsense"))
    for odd in ("nonsense", "x" * 500):
        with pytest.raises(JobNotFound):
            element.status(odd)
    with pytest.raises(NoSuchFile):
        element.read("nonsense", "x")
    with pytest.raises(ArcRefused):
        element.remove_delegation("nonsense")


def test_who_may_not(real: RealElement, user: Credentials, tmp_path: Path) -> None:
    stranger = Credentials(*map(str, real.authority.user("stranger")), authorities=user.authorities)
    with ComputingElement(real.url, stranger) as made, pytest.raises(CredentialError, match="CN=stranger"):
        made.jobs()
    other = Authority(tmp_path / "other", "other CA")
    foreign = Credentials(*map(str, other.user()), authorities=user.authorities)
    with ComputingElement(real.url, foreign) as made, pytest.raises(CredentialError, match="does not accept"):
        made.jobs()
    distrust = Credentials(user.certificate, user.key, authorities=str(other.file))
    with (
        ComputingElement(real.url, distrust) as made,
        pytest.raises(CredentialError, match="not who it says"),
    ):
        made.jobs()
    token = Credentials(token="abc", authorities=user.authorities)
    with (
        ComputingElement(real.url, token) as made,
        pytest.raises(CredentialError, match="owner of this token"),
    ):
        made.jobs()


def test_debians_own_client_sees_our_jobs(
    real: RealElement, element: ComputingElement, tmp_path: Path
) -> None:
    job = element.submit(JobDescription("/bin/sleep", ["1"]))
    (tmp_path / "client.conf").write_text("[common]\n")
    words = ["arcstat", "-z", str(tmp_path / "client.conf"), "-j", str(tmp_path / "jobs.dat"), "-J"]
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "X509_CERT_DIR": str(real.authority.folder / "certificates"),
        "X509_USER_PROXY": str(real.authority.proxy()),
    }
    sync = ["arcsync", "-z", words[2], "-j", words[4], "-f", "-C", real.url, "-T", "arcrest"]
    run = subprocess.run(sync, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    run = subprocess.run(
        ["arcstat", "-z", words[2], "-j", words[4], "-a", "-l"],
        env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert job in run.stdout, run.stdout + run.stderr
    element.cancel(job)


def test_an_element_that_ends_is_down(real: RealElement, user: Credentials) -> None:
    """The last of this module: the element is gone after it."""
    with ComputingElement(real.url, user) as made:
        made.jobs()
        real.stop()
        with pytest.raises(ArcDown):
            made.jobs()
