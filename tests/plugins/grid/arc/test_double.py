"""The client against a stand-in for an element (see `double.py`): both versions, and what goes wrong."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from mpiframe.plugins.grid.arc import (
    ArcDown,
    ArcError,
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
    TransferError,
)
from tests.plugins.grid.arc.authority import Authority
from tests.plugins.grid.arc.double import Double
from tests.plugins.grid.arc.test_credentials import request

QUICK = {"poll_seconds": 0.001, "longest_poll_seconds": 0.01}
BYTES = bytes(range(256)) * 13000  # 3 MB: several pieces


def submit(element: ComputingElement, **more: object) -> str:
    return element.submit(JobDescription("/bin/x", **more))  # type: ignore[arg-type]


# -- jobs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_jobs_life(
    double: Double, element: ComputingElement, run_sh: Path, tmp_path: Path, version: str
) -> None:
    double.version = version
    assert element.version == version
    assert element.jobs() == []
    (tmp_path / "in.dat").write_bytes(BYTES)
    (tmp_path / "empty").touch()
    seen: list[tuple[str, int, int]] = []
    job = element.submit(
        JobDescription(
            "run.sh", inputs={"run.sh": run_sh, "a/e": tmp_path / "empty", "in.dat": tmp_path / "in.dat"}
        ),
        progress=lambda *what: seen.append(what),
    )
    assert element.jobs() == [job]
    assert double.jobs[job].files == {"run.sh": run_sh.read_bytes(), "a/e": b"", "in.dat": BYTES}
    assert seen[-1] == ("in.dat", len(BYTES), len(BYTES))
    changes: list[tuple[str, ArcState]] = []
    [info] = element.wait(job, on_change=lambda *what: changes.append(what), **QUICK)
    assert [state for _, state in changes] == [ArcState.ACCEPTED, ArcState.RUNNING, ArcState.FINISHED]
    assert info.check() is info
    double.jobs[job].files |= {"sub/x/y": b"deep", "sub/z": b"", "a b%ü#?": b"odd"}
    assert element.files(job) == ["a b%ü#?", "a/e", "in.dat", "run.sh", "sub/x/y", "sub/z"]
    assert element.files(job, "sub/x") == ["sub/x/y"]
    assert element.read(job, "a b%ü#?") == b"odd"
    assert element.get(job, "in.dat", tmp_path / "back.dat") == len(BYTES)
    assert (tmp_path / "back.dat").read_bytes() == BYTES
    got = element.fetch(job, tmp_path / "all")
    assert sorted(path.relative_to(tmp_path / "all").as_posix() for path in got) == element.files(job)
    assert (tmp_path / "all/sub/x/y").read_bytes() == b"deep"
    element.clean(job)
    with pytest.raises(JobNotFound, match="does not know 1 of 1 jobs"):
        element.status(job)


def test_version_1_1_takes_queue_and_delegation_beside_the_text(
    double: Double, element: ComputingElement
) -> None:
    double.version, double.csr = "1.1", request(version_3=True)
    job = element.submit('&(executable="/bin/x")', queue="long", delegate=True)
    assert double.jobs[job].params == {"action": "new", "queue": "long", "delegation_id": "d0"}
    assert element.delegations() == ["d0"]


def test_version_1_0_takes_them_in_the_text(double: Double, element: ComputingElement) -> None:
    double.csr = request(version_3=True)
    job = element.submit(JobDescription("/bin/x", queue="long"), queue="long", delegate=True)
    assert double.jobs[job].params == {"action": "new"}
    assert "DelegationID>d0<" in double.jobs[job].description
    assert b"BEGIN CERTIFICATE" in double.delegations["d0"]
    before = double.delegations["d0"]
    element.renew_delegation("d0")
    assert double.delegations["d0"] != before
    element.remove_delegation("d0")
    assert element.delegations() == []
    for wrong in ({"queue": "long"}, {"delegate": True}):
        with pytest.raises(DescriptionError, match=r"1.0 takes them in the text"):
            element.submit('&(executable="/bin/x")', **wrong)  # type: ignore[arg-type]
    with pytest.raises(DescriptionError, match=r"1.0 takes it in the JobDescription"):
        element.submit(JobDescription("/bin/x"), queue="long")


def test_what_reads_elsewhere_is_delegated(double: Double, element: ComputingElement) -> None:
    double.csr = request()
    submit(element, inputs={"far": "https://store.example.org/far"})
    assert list(double.delegations) == ["d0"]
    submit(element)
    assert list(double.delegations) == ["d0"]


def test_a_token_is_sent_and_delegated(
    double: Double, authority: Authority, connect: Callable[..., ComputingElement]
) -> None:
    double.version = "1.1"
    element = connect(Credentials(token="abc", authorities=str(authority.file)))
    element.submit(JobDescription("/bin/x"), delegate=True)
    assert {headers.get("Authorization") for _, _, headers in double.requests} == {"Bearer abc"}
    assert double.delegations == {"d0": b"Bearer abc"}
    assert not [path for _, path, _ in double.requests if "abc" in path]


def test_an_element_that_wants_a_proxy_for_a_token_is_told_of(
    double: Double, authority: Authority, connect: Callable[..., ComputingElement]
) -> None:
    double.csr = request(version_3=True)
    element = connect(Credentials(token="abc", authorities=str(authority.file)))
    with pytest.raises(CredentialError, match="does not take tokens to act for us, only proxies"):
        element.submit(JobDescription("/bin/x"), delegate=True)
    assert (double.jobs, double.delegations) == ({}, {})


def test_texts_are_taken_as_they_are(double: Double, element: ComputingElement, run_sh: Path) -> None:
    text = '&(executable="run.sh")(inputfiles=("run.sh" ""))'
    job = element.submit(text, {"run.sh": run_sh})
    assert double.jobs[job].description == text
    assert double.jobs[job].files == {"run.sh": run_sh.read_bytes()}
    with pytest.raises(DescriptionError, match="are in it"):
        element.submit(JobDescription("/bin/x"), {})
    with pytest.raises(DescriptionError, match="one job at a time, that text makes 2"):
        element.submit('+(&(executable="/bin/x"))(&(executable="/bin/y"))')
    assert [made.states[-1] for made in list(double.jobs.values())[1:]] == ["KILLED", "KILLED"]


def test_refusals_say_why(double: Double, element: ComputingElement) -> None:
    with pytest.raises(DescriptionError, match="did not take the job: emies:adl parsing error"):
        element.submit("<unreadable/>")
    with pytest.raises(ArcRefused, match="Requested queue is not allowed"):
        element.submit("<refused/>")
    job = submit(element)
    with pytest.raises(ArcRefused, match=r"did not restart 1 of 1 jobs.*can't be restarted"):
        element.restart(job)
    for odd in ("nonsense", "../1", "a/b", ""):
        with pytest.raises(JobNotFound):
            element.cancel(odd)
        with pytest.raises((JobNotFound, NoSuchFile)):
            element.read(odd, "x")


def test_many_jobs_are_asked_about_in_few_requests(double: Double, element: ComputingElement) -> None:
    jobs = [submit(element) for _ in range(5)]
    double.requests.clear()
    assert element.statuses([*jobs, *jobs]) == dict.fromkeys(jobs, ArcState.ACCEPTED)
    assert len(double.requests) == 1
    with pytest.raises(JobNotFound, match="1 of 6 jobs: nonsense: Job not found"):
        element.statuses([*jobs, "nonsense"])


def test_how_a_job_failed_is_said(double: Double, element: ComputingElement) -> None:
    double.states = ["FAILED"]
    job = submit(element)
    double.jobs[job].info = {
        "Name": "sim", "ExitCode": "3", "Error": "LRMS error: (3)", "UsedTotalWallTime": "x",
        "RequestedSlots": "2", "ExecutionNode": ["n1", "n2"], "EndTime": "2026-11-21T22:18:54Z",
    }  # fmt: skip
    [info] = element.wait(job)
    assert (info.exit_code, info.slots, info.wall_seconds, info.hosts) == (3, 2, None, ("n1", "n2"))
    assert info.ended_at is not None
    assert info.ended_at.isoformat() == "2026-11-21T22:18:54+00:00"
    with pytest.raises(JobFailed, match=r"\(sim\) is FAILED, exit code 3: LRMS error") as raised:
        info.check()
    assert (raised.value.state, raised.value.exit_code) == ("FAILED", 3)


def test_states_of_tomorrow_are_other(double: Double, element: ComputingElement) -> None:
    double.states = ["DREAMING", "FINISHED"]
    seen: list[ArcState] = []
    element.wait(submit(element), on_change=lambda _, state: seen.append(state), **QUICK)
    assert seen == [ArcState.OTHER, ArcState.FINISHED]


# -- waiting --------------------------------------------------------------------------------------


class Recorder(threading.Event):
    """Notes how long somebody would have waited."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.pauses.append(timeout)
        return self.is_set()


def test_the_pauses_grow_until_something_changes(double: Double, element: ComputingElement) -> None:
    double.states = ["QUEUING"] * 6 + ["RUNNING"] * 2 + ["FINISHED"]
    recorder = Recorder()
    element.wait(submit(element), poll_seconds=2, longest_poll_seconds=10, stop=recorder)
    assert recorder.pauses == [2, 3, 4.5, 6.75, 10, 10, 2, 3]


def test_waiting_ends_in_time_and_when_it_is_told_to(double: Double, element: ComputingElement) -> None:
    double.states = ["RUNNING"]
    job = submit(element)
    with pytest.raises(TimeoutError, match=f"1 of 1 jobs have not ended in 0.05 s: {job} RUNNING"):
        element.wait(job, timeout_seconds=0.05, **QUICK)
    stop = threading.Event()
    stop.set()
    with pytest.raises(TimeoutError, match="stopped"):
        element.wait(job, stop=stop)


def test_an_element_that_is_away_is_asked_on(double: Double, element: ComputingElement) -> None:
    job = submit(element)
    double.faults.down = 3
    assert element.wait(job, **QUICK)[0].state is ArcState.FINISHED
    double.jobs[job].states[:] = ["RUNNING"]
    double.faults.down = 10**9
    with pytest.raises(ArcDown, match="cannot be reached, or hung up"):
        element.wait(job, patience_seconds=0.05, **QUICK)


# -- who is who -----------------------------------------------------------------------------------


def test_another_authority_is_not_believed(double: Double, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other", "other CA")
    certificate, key = other.user()
    mine = Credentials(str(certificate), str(key), authorities=str(other.file))
    with (
        ComputingElement(double.url, mine) as element,
        pytest.raises(
            CredentialError, match=r"is not who it says, or its authority is not in .*other/ca.pem"
        ),
    ):
        element.jobs()
    assert double.requests == []


def test_a_certificate_of_another_authority_is_refused(
    double: Double, authority: Authority, tmp_path: Path
) -> None:
    other = Authority(tmp_path / "other", "other CA")
    certificate, key = other.user()
    mine = Credentials(str(certificate), str(key), authorities=str(authority.file))
    with (
        ComputingElement(double.url, mine) as element,
        pytest.raises(CredentialError, match=r"does not accept certificate .*user-cert.pem"),
    ):
        element.jobs()


def test_a_proxy_is_as_good_as_its_user(
    authority: Authority, connect: Callable[..., ComputingElement]
) -> None:
    element = connect(Credentials(str(authority.proxy()), authorities=str(authority.file)))
    assert element.jobs() == []


def test_the_name_of_the_element_is_checked(authority: Authority, credentials: Credentials) -> None:
    double = Double(authority, name="elsewhere.example.org")
    double.start()
    try:
        with (
            ComputingElement(double.url, credentials) as element,
            pytest.raises(CredentialError, match="is not who it says"),
        ):
            element.jobs()
    finally:
        double.stop()


def test_who_may_not_is_told_so(double: Double, element: ComputingElement) -> None:
    double.faults.refuse = (403, "User can't be assigned configuration")
    with pytest.raises(
        CredentialError, match=r"403 \(User can't be.*it does not let CN=user,O=mpiframe tests do this"
    ):
        element.jobs()


@pytest.mark.parametrize(
    "url", ["http://ce.example.org", "https://", "ftp://x/arex", "https://user:word@ce.example.org/arex"]
)
def test_what_is_no_element(url: str, credentials: Credentials) -> None:
    with pytest.raises(ArcError, match="is no element"):
        ComputingElement(url, credentials)


@pytest.mark.parametrize(
    "url", ["ce.example.org", "ce.example.org/arex/", "https://ce.example.org/arex/rest/1.0"]
)
def test_addresses_are_completed(url: str, credentials: Credentials) -> None:
    with ComputingElement(url, credentials) as element:
        assert element.url == "https://ce.example.org/arex"


# -- what goes wrong ------------------------------------------------------------------------------


def test_nobody_there(credentials: Credentials, closed_port: int) -> None:
    with (
        ComputingElement(f"https://localhost:{closed_port}/arex", credentials) as element,
        pytest.raises(ArcDown, match="cannot be reached"),
    ):
        element.jobs()


def test_silence_is_an_error_in_time(double: Double, connect: Callable[..., ComputingElement]) -> None:
    double.faults.silent = True
    with pytest.raises(ArcDown, match=r"did not answer GET .* in time"):
        connect(timeout_seconds=0.2).jobs()


@pytest.mark.parametrize(
    "garbage", [b"<html>", b"[1]", b"\xff", b'{"version": "9.9"}', b'{"version": null}', b"[" * 10**5]
)
def test_answers_that_make_no_sense(double: Double, element: ComputingElement, garbage: bytes) -> None:
    double.faults.garbage = garbage
    with pytest.raises(ArcError):
        element.jobs()


@pytest.mark.parametrize(
    "result",
    [{}, {"id": "x"}, {"status-code": "x"}, {"status-code": None}, "text", None, [], {"status-code": "200"}],
)
def test_results_that_make_no_sense(double: Double, element: ComputingElement, result: object) -> None:
    job = submit(element)
    double.faults.garbage = json.dumps({"job": result}).encode()
    with pytest.raises(ArcError):
        element.status(job)
    with pytest.raises(ArcError):
        element.submit("<x/>")


def test_a_redirect_is_not_followed(double: Double, element: ComputingElement) -> None:
    double.faults.refuse = (302, "Found")
    with pytest.raises(ArcRefused, match="302"):
        element.jobs()
    assert len(double.requests) == 1


def test_a_submission_is_sent_once(double: Double, element: ComputingElement) -> None:
    assert element.version == "1.0"
    double.faults.down = 1
    with pytest.raises(ArcDown):
        submit(element)
    assert [path for method, path, _ in double.requests if method == "POST"] == [
        "/arex/rest/1.0/jobs?action=new"
    ]


# -- files ----------------------------------------------------------------------------------------


def test_a_download_that_breaks_off_goes_on_from_there(
    double: Double, element: ComputingElement, tmp_path: Path
) -> None:
    job = submit(element)
    double.jobs[job].files["big"] = BYTES
    double.faults.hang_up_after = [2_000_000, 5, 1_000_000]
    assert element.get(job, "big", tmp_path / "big") == len(BYTES)
    assert (tmp_path / "big").read_bytes() == BYTES
    ranges = [headers.get("Range") for _, path, headers in double.requests if path.endswith("/big")]
    assert ranges[0] is None
    assert len(ranges) == 4
    assert all(ranges[1:])


def test_a_download_that_never_ends_well_leaves_what_was_there(
    double: Double, element: ComputingElement, tmp_path: Path
) -> None:
    job = submit(element)
    double.jobs[job].files["big"] = BYTES
    (tmp_path / "big").write_text("before")
    double.faults.hang_up_after = [10] * 100
    with pytest.raises(TransferError, match=f"broke off after .* of {len(BYTES)} bytes"):
        element.get(job, "big", tmp_path / "big")
    double.faults.hang_up_after = [1_000_000]
    double.faults.change_while_fetched = True
    with pytest.raises(TransferError, match="changed while it was fetched"):
        element.get(job, "big", tmp_path / "big")
    with pytest.raises(NoSuchFile, match="has no file nothing"):
        element.get(job, "nothing", tmp_path / "big")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("big")] == ["big"]
    assert (tmp_path / "big").read_text() == "before"


def test_an_upload_that_is_not_kept_whole_cancels_the_job(
    double: Double, element: ComputingElement, run_sh: Path
) -> None:
    double.faults.lose_upload_bytes = 1
    with pytest.raises(TransferError, match=r"has \d+ bytes, the element kept \d+ of run.sh"):
        submit(element, inputs={"run.sh": run_sh})
    [job] = double.jobs.values()
    assert job.states == ["KILLING", "KILLED"]


def test_an_input_that_is_not_there_makes_no_job(double: Double, element: ComputingElement) -> None:
    with pytest.raises(FileNotFoundError, match="no-such-file"):
        submit(element, inputs={"x": "no-such-file"})
    assert double.jobs == {}


@pytest.mark.parametrize("name", ["..", "../x", "/etc/passwd", "", ".", "a/../../b", "x\0"])
def test_an_element_cannot_write_outside_our_folder(
    double: Double, element: ComputingElement, tmp_path: Path, name: str
) -> None:
    job = submit(element)
    double.jobs[job].files["good"] = b"x"
    double.faults.extra_names = [name]
    with pytest.raises(TransferError, match="cannot be in its folder"):
        element.fetch(job, tmp_path / "in" / "it")
    assert not (tmp_path / "in").exists()


def test_a_link_in_our_folder_is_not_followed(
    double: Double, element: ComputingElement, tmp_path: Path
) -> None:
    job = submit(element)
    double.jobs[job].files["sub/x"] = b"x"
    (tmp_path / "in").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "in" / "sub").symlink_to(tmp_path / "outside")
    with pytest.raises(ArcError, match="would be outside"):
        element.fetch(job, tmp_path / "in")
    assert list((tmp_path / "outside").iterdir()) == []


def test_wanted_files_that_are_missing_are_named(
    double: Double, element: ComputingElement, tmp_path: Path
) -> None:
    job = submit(element)
    double.jobs[job].files |= {"a": b"1", "b": b"2"}
    with pytest.raises(NoSuchFile, match="has no c; it has a, b"):
        element.fetch(job, tmp_path / "in", ["a", "c"])
    assert [path.name for path in element.fetch(job, tmp_path / "in", ["b"])] == ["b"]
    with pytest.raises(TransferError, match="more than 0 bytes"):
        element.read(job, "a", most_bytes=0)
