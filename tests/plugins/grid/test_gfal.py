"""gfal2 in a process of its own: what goes wrong with that process, and (`launch/test --grid`) the real one.

Debian's bindings are for its own Python; `launch/test --grid` installs them, and then their absence is a
failure. Without, the process is a stand-in: a script that breaks off, hangs or babbles on purpose.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpiframe.plugins.grid.credentials import Secret
from mpiframe.plugins.grid.gfal import BearerToken, Gfal
from mpiframe.plugins.grid.srmlist import srmlist
from mpiframe.plugins.grid.staging import (
    FileState,
    Locality,
    StagingProgress,
    percent_staged,
    stage,
    state,
    wait_staged,
)
from mpiframe.plugins.grid.storage_errors import (
    MissingTool,
    NoLinksError,
    NoSuchFile,
    StagingFailed,
    StorageError,
    StorageTimeout,
)
from tests.plugins.grid import doubles

GRID = bool(os.environ.get("MPIFRAME_TEST_GRID"))
DATA = Path(__file__).parent / "data"


def stand_in(folder: Path, program: str) -> str:
    """A script in the place of a Python with bindings."""
    path = folder / "python"
    path.write_text(f"#!{sys.executable}\nimport json, os, sys, time\n{program}\n")
    path.chmod(0o700)
    return str(path)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


READY = 'print(json.dumps({"ready": "0"}), flush=True)\nsys.stdin.readline()\nprint("{}", flush=True)\n'


def test_where_it_is_missing_the_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for python in (sys.executable, str(tmp_path / "none")):
        monkeypatch.setenv("MPIFRAME_GFAL_PYTHON", python)
        with pytest.raises(MissingTool, match="apt-get install gfal2 python3-gfal2") as caught:
            state(["mock://h/p"])
        assert python in str(caught.value)
    monkeypatch.setenv("MPIFRAME_GFAL_PYTHON", stand_in(tmp_path, "sys.exit(3)"))
    with pytest.raises(StorageError, match="exit status 3"):
        state(["mock://h/p"])


def test_a_call_that_hangs_is_ended(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    program = f"open({str(pid)!r}, 'w').write(str(os.getpid()))\n{READY}time.sleep(1000)"
    with Gfal(stand_in(tmp_path, program), call_seconds=0.5) as gfal:
        with pytest.raises(StorageTimeout, match=r"within 0\.5 s"):
            gfal.status(["mock://h/p"])
        assert not alive(int(pid.read_text()))


def test_a_process_that_dies_or_babbles(tmp_path: Path) -> None:
    with Gfal(stand_in(tmp_path, READY + "sys.stdin.readline()\nsys.exit(7)"), call_seconds=10) as gfal:
        for _ in range(2):  # each call has a new one
            with pytest.raises(StorageError, match="exit status 7"):
                gfal.version()
    program = READY + "sys.stdin.readline()\nprint('hello', flush=True)\ntime.sleep(1000)"
    gfal = Gfal(stand_in(tmp_path, program), call_seconds=10)
    with pytest.raises(StorageError, match="no JSON"):
        gfal.version()
    program = READY + "sys.stdin.readline()\nprint(json.dumps({'error': [2, 'gone']}))"
    gfal = Gfal(stand_in(tmp_path, program), call_seconds=10)
    with pytest.raises(NoSuchFile, match=r"https://h/p\?\.\.\.: gone \(No such file"):
        gfal.size("https://user:pw@h/p?authz=secret")


def test_no_process_is_left(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    program = f"open({str(pid)!r}, 'w').write(str(os.getpid()))\n{READY}print('{{}}', flush=True)\ninput()"
    gfal = Gfal(stand_in(tmp_path, program), call_seconds=10)
    assert gfal.call("version") is None
    del gfal
    assert not alive(int(pid.read_text()))


def test_the_part_that_is_staged() -> None:
    states = [FileState("srm://h/a", Locality.ONLINE), FileState("srm://h/b", Locality.NEARLINE)]
    assert percent_staged(states) == 0.5
    assert percent_staged([("a", "ONLINE_AND_NEARLINE"), ("b", "online ")]) == 1.0
    # GRID_LRT divided by zero here, and did not count what is lost.
    assert percent_staged([("a", "UNKNOWN"), ("b", "what is that")]) == 0.0
    assert percent_staged([("a", "ONLINE"), ("b", "LOST")]) == 0.5
    with pytest.raises(NoLinksError):
        percent_staged([])
    with pytest.raises(NoLinksError):
        stage([])
    names = [FileState(link, Locality.NONE).name for link in srmlist().from_file(DATA / "srm_50_sara.txt")]
    assert names[0] == "L229507_SB100_uv.dppp.MS_3d78b8f1.tar"
    assert FileState("srm://h:8443/srm/managerv2?SFN=/pnfs/x.tar", Locality.NONE).name == "x.tar"


# -- the real one ---------------------------------------------------------------------------------

if GRID:

    @pytest.fixture
    def gfal() -> Iterator[Gfal]:
        with Gfal(call_seconds=60) as made:
            yield made

    def test_the_version(gfal: Gfal) -> None:
        assert int(gfal.version().split(".")[0]) >= 2

    def test_states_of_real_files(gfal: Gfal, tmp_path: Path) -> None:
        links = []
        for name in ("NEARLINE", "ONLINE", "ONLINE_AND_NEARLINE", "LOST", "odd"):
            path = tmp_path / f"{name}.tar"
            path.write_bytes(b"x")
            os.setxattr(path, "user.status", name.encode() + b"\0")
            links.append(f"file://{path}")
        bare = tmp_path / "bare"
        bare.write_bytes(b"x")
        links += [f"file://{bare}", f"file://{tmp_path}/none", "srm://nowhere.invalid/x"]
        found = state(links, gfal=gfal)
        assert [one.link for one in found] == links
        localities = [str(one.locality) for one in found]
        assert localities == ["NEARLINE", "ONLINE", "ONLINE_AND_NEARLINE", "LOST", *["UNKNOWN"] * 4]
        assert found[4].error is None
        assert "No such file" in str(found[6].error)
        assert "apt-get install" in str(found[7].error)
        assert percent_staged(found) == 2 / 8

    def test_staging_with_the_mock(gfal: Gfal) -> None:
        links = [f"mock://host/{name}?staging_time={time}" for name, time in (("a", 1), ("b", 2))]
        seen: list[StagingProgress] = []
        request = stage(links, gfal=gfal)
        assert request.token
        last = wait_staged(request, 60, seen.append, poll_seconds=0.1, longest_poll_seconds=0.5)
        assert (last.staged, last.total) == (2, 2)
        assert [progress.staged for progress in seen] in ([0, 1, 2], [0, 2])
        request.release()
        request.abort()

    def test_staging_that_fails_in_part(gfal: Gfal) -> None:
        links = ["mock://host/a?staging_time=1", "mock://host/b?staging_errno=5"]
        request = stage(links, gfal=gfal)
        with pytest.raises(StagingFailed, match="1 of 2 files cannot be staged") as caught:
            wait_staged(request, 60, poll_seconds=0.1, longest_poll_seconds=0.5)
        assert list(caught.value.failed) == links[1:]
        assert "Input/output error" in caught.value.failed[links[1]]
        with pytest.raises(StorageTimeout, match="0 of 1"):
            wait_staged(stage(["mock://host/c?staging_time=100"], gfal=gfal), 0.3, poll_seconds=0.1)

    def test_many_files_at_once(gfal: Gfal) -> None:
        links = [f"mock://host/{number}?user.status=NEARLINE" for number in range(200)]
        assert [one.locality for one in state(links, gfal=gfal)] == [Locality.NEARLINE] * 200

    def test_a_tape_rest_interface(gfal: Gfal) -> None:
        """gfal2-http's own protocol, against a double."""
        double = doubles.TapeRest({"/data/a.tar": b"a", "/data/b.tar": b"b"})
        with doubles.serving(double) as server:
            double.url = server.url
            links = [f"{server.url}{path}" for path in double.files]
            assert [str(one.locality) for one in state(links, gfal=gfal)] == ["NEARLINE"] * 2
            request = stage(links, gfal=gfal)
            seen: list[StagingProgress] = []
            wait_staged(request, 60, seen.append, poll_seconds=0.1, longest_poll_seconds=0.5)
            assert [progress.staged for progress in seen] == [0, 2]
            assert percent_staged(state(links, gfal=gfal)) == 1.0
            assert {str(one.locality) for one in state(links, gfal=gfal)} == {"ONLINE_AND_NEARLINE"}
            request.release()
            assert double.released == [list(double.files)]

    def test_a_token_goes_to_its_storage_only() -> None:
        double = doubles.TapeRest({"/data/a.tar": b"a"})
        with doubles.serving(double) as server, doubles.serving(double) as other:
            double.url = server.url
            token = BearerToken(Secret("sesame"), server.url)
            with Gfal(tokens=[token], call_seconds=30) as gfal:
                state([f"{server.url}/data/a.tar"], gfal=gfal)
                double.url = other.url
                state([f"{other.url}/data/a.tar"], gfal=gfal)
            assert "sesame" not in repr(token)
            assert {one.headers.get("authorization") for one in server.requests} >= {"Bearer sesame"}
            assert {one.headers.get("authorization") for one in other.requests} == {None}

    def test_files_are_copied_listed_and_removed(gfal: Gfal, tmp_path: Path) -> None:
        source, target = tmp_path / "a.tar", tmp_path / "new" / "folder" / "b.tar"
        source.write_bytes(b"x" * 1000)
        gfal.copy(f"file://{source}", f"file://{target}")
        assert gfal.size(f"file://{target}") == 1000
        assert gfal.listdir(f"file://{target.parent}") == ["b.tar"]
        with pytest.raises(StorageError, match="exists"):
            gfal.copy(f"file://{source}", f"file://{target}")
        gfal.copy(f"file://{source}", f"file://{target}", overwrite=True)
        gfal.remove(f"file://{target}")
        with pytest.raises(NoSuchFile):
            gfal.size(f"file://{target}")
