"""Jobs on a real ARC computing element, Debian's: `launch/test --arc`.

A job takes half a minute there, however small it is; those of a test run side by side.
"""

from __future__ import annotations

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
    JobNotFound,
    NoSuchFile,
)
from tests.plugins.grid.arc.authority import Authority
from tests.plugins.grid.arc.computing_element import ComputingElement as RealElement

pytestmark = pytest.mark.timeout(300)
QUICK = {"timeout_seconds": 240, "poll_seconds": 0.5, "longest_poll_seconds": 4.0}


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


def test_what_it_says_of_itself(element: ComputingElement) -> None:
    assert element.version in ("1.0", "1.1")
    assert element.queues() == ["fork"]


def test_jobs_run_and_end_as_they_should(
    element: ComputingElement, real: RealElement, run_sh: Path, tmp_path: Path
) -> None:
    content = bytes(range(256)) * 40000
    (tmp_path / "in.dat").write_bytes(content)
    (tmp_path / "fail.sh").write_text("#!/bin/sh\nprintenv ODD\nexit 3\n")
    whole = JobDescription(
        "run.sh",
        ["a b", "quote \" and '"],
        name="first & <one>",
        inputs={"run.sh": run_sh, "in.dat": tmp_path / "in.dat"},
        outputs={"out/": ""},
        slots=2,
        wall_seconds=600,
        cpu_seconds=500,
        memory_bytes=200 << 20,
    )
    by_adl = element.submit(whole)
    by_xrsl = element.submit(whole.to_xrsl(), whole.uploads)
    failing = element.submit(
        JobDescription(
            "fail.sh", inputs={"fail.sh": tmp_path / "fail.sh"}, environment={"ODD": "x y'z\"$HOME"}
        )
    )
    # The job is handed a proxy of ours, which our delegation let the element make.
    delegated = element.submit(JobDescription("/bin/sh", ["-c", "true"]), delegate=True)
    seen: list[ArcState] = []
    jobs = (by_adl, by_xrsl, failing, delegated)
    infos = element.wait(*jobs, on_change=lambda job, state: seen.append(state), **QUICK)  # type: ignore[arg-type]
    assert [info.id for info in infos] == list(jobs)
    assert [info.state.value for info in infos] == ["FINISHED", "FINISHED", "FAILED", "FINISHED"], real.logs()
    assert seen
    assert ArcState.OTHER not in seen
    for info in infos[:2]:
        assert (info.check().exit_code, info.name, info.slots) == (0, "first & <one>", 2)
        assert info.requested_wall_seconds == 1200  # of all slots
        assert info.submitted_at is not None
        assert info.erased_at is not None
        assert info.erased_at > info.submitted_at
        assert element.files(info.id) == ["out/deep/b c%.dat", "stderr.txt", "stdout.txt"]
        assert element.read(info.id, "stdout.txt") == b"[a b] [quote \" and ']\n"
        element.fetch(info.id, tmp_path / info.id)
        assert (tmp_path / info.id / "out/deep/b c%.dat").read_bytes() == content
    with pytest.raises(JobFailed, match="exit code 3: LRMS error"):
        infos[2].check()
    assert element.read(failing, "stdout.txt") == b"x y'z\"$HOME\n"
    assert "exit code - 3" in element.diagnose(failing, "failed") + element.diagnose(failing)
    with pytest.raises(NoSuchFile):
        element.read(failing, "nothing")
    assert set(jobs) <= set(element.jobs())
    element.clean(*jobs)
    with pytest.raises(JobNotFound):
        element.describe(by_adl)
    for delegation in element.delegations():
        element.renew_delegation(delegation)


def test_a_job_is_cancelled_where_it_is(element: ComputingElement) -> None:
    job = element.submit(JobDescription("/bin/sleep", ["1000"]))
    cancelled: list[str] = []

    def cancel(which: str, state: ArcState) -> None:
        if state is ArcState.RUNNING:
            element.cancel(which)
            cancelled.append(which)

    [info] = element.wait(job, on_change=cancel, **QUICK)  # type: ignore[arg-type]
    assert cancelled == [job]
    with pytest.raises(JobFailed, match="is KILLED"):
        info.check()
    element.clean(job)
    assert job not in element.jobs()


def test_a_job_that_waits_for_its_file_is_cancelled(element: ComputingElement) -> None:
    text = '&(executable="never.sh")(inputfiles=("never.sh" ""))(stdout="o")'
    job = element.submit(text)
    assert not element.status(job).ended
    element.cancel(job)
    assert element.wait(job, **QUICK)[0].state is ArcState.KILLED  # type: ignore[arg-type]


def test_a_job_with_a_proxy_and_a_remote_input(
    real: RealElement, element: ComputingElement, tmp_path: Path
) -> None:
    proxy = Credentials(str(real.authority.proxy()), authorities=element._link.credentials.authorities)
    with ComputingElement(real.url, proxy) as other:
        where = "https://localhost:1/nowhere.dat"  # nobody is there: the element tries, and says so
        job = other.submit(JobDescription("/bin/cat", ["in"], inputs={"in": where}))
        assert "DelegationID" in other.diagnose(job, "description")
        [info] = other.wait(job, **QUICK)  # type: ignore[arg-type]
        with pytest.raises(JobFailed, match=r"(?i)fail.*stag|fail.*input"):
            info.check()


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
    job = element.submit(JobDescription("/bin/sleep", ["1"], name="seen by both"))
    (tmp_path / "client.conf").write_text("[common]\n")
    words = ["arcstat", "-z", str(tmp_path / "client.conf"), "-j", str(tmp_path / "jobs.dat"), "-J"]
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "X509_CERT_DIR": str(real.authority.folder / "certificates"),
        "X509_USER_PROXY": str(real.authority.proxy()),
    }
    sync = ["arcsync", "-z", words[2], "-j", words[4], "-f", "-Q", "NONE", "-C", real.url, "-T", "arcrest"]
    run = subprocess.run(sync, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    run = subprocess.run(
        ["arcstat", "-z", words[2], "-j", words[4], "-a", "-l"],
        env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert job in run.stdout, run.stdout + run.stderr
    assert "seen by both" in run.stdout
    element.cancel(job)


def test_an_element_that_ends_is_down(real: RealElement, user: Credentials) -> None:
    """The last of this module: the element is gone after it."""
    with ComputingElement(real.url, user) as made:
        made.jobs()
        real.stop()
        with pytest.raises(ArcDown):
            made.jobs()
