"""GRID_LRT's names for staging and sandboxes: what its documentation shows, and what its code got wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mpiframe.compat.GRID_LRT import sandbox as sandbox_module
from mpiframe.compat.GRID_LRT.Staging import (
    srmlist as srmlist_module,
)
from mpiframe.compat.GRID_LRT.Staging import (
    stage_all,
    stage_all_LTA,
    stager_access,
    state_all,
)
from mpiframe.plugins.grid.credentials import Secret
from mpiframe.plugins.grid.lta_stager import LtaStager
from mpiframe.plugins.grid.stageit import StageIt
from mpiframe.plugins.grid.stager_credentials import ApiToken, Login
from mpiframe.plugins.grid.storage_errors import (
    ConfigError,
    CredentialsMissing,
    LinkError,
    StorageError,
)
from tests.plugins.grid import doubles

GRID = bool(os.environ.get("MPIFRAME_TEST_GRID"))
SARA = Path(__file__).parents[2] / "plugins" / "grid" / "data" / "srm_50_sara.txt"


@pytest.fixture(autouse=True)
def stager_of_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("LOFAR_LTA_USER", "LOFAR_LTA_PWD", "STAGEIT_API_TOKEN", "STAGEIT_HOSTNAME"):
        monkeypatch.delenv(name, raising=False)
    stager_access.use(None)
    yield
    stager_access.use(None)


@pytest.fixture
def stager() -> Iterator[doubles.Stager]:
    double = doubles.Stager()
    with doubles.serving(double) as server:
        login = Login(double.user, Secret(double.password))
        with LtaStager(login, url=f"{server.url}/service-public/xmlrpc") as client:
            stager_access.use(client)
            yield double


@pytest.fixture
def stageit() -> Iterator[doubles.StageIt]:
    double = doubles.StageIt()
    with doubles.serving(double) as server, StageIt(ApiToken(Secret(double.token)), url=server.url) as client:
        stager_access.use(client)
        yield double


def test_importing_asks_for_nothing(tmp_path: Path) -> None:
    """Neither credentials, nor gfal2, nor a network; nor does it write."""
    program = (
        "from mpiframe.compat.GRID_LRT.Staging import srmlist, state_all, stage_all, stage_all_LTA\n"
        "from mpiframe.compat.GRID_LRT.Staging import stager_access\n"
        "from mpiframe.compat.GRID_LRT import sandbox\n"
        "import sys; print([m for m in ('httpx', 'gfal2', 'yaml', 'mpi4py') if m in sys.modules])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"HOME": str(tmp_path)},
        capture_output=True,
        timeout=60,
    )
    assert ended.stdout == b"[]\n", ended.stderr


def test_the_stager_by_its_old_functions(stager: doubles.Stager) -> None:
    number = stager_access.stage("srm://h/L1_SB1")
    assert stager.wanted[number] == ["srm://h/L1_SB1"]
    assert stager.calls[-1] == ("LtaStager.add_getid", (["srm://h/L1_SB1"],))
    assert stager_access.get_status(number) == "scheduled"
    assert stager_access.get_surls_online(number) == ["srm://h/L1_SB1"]
    assert stager_access.get_srm_token(number) == f"srm-{number}"
    assert stager_access.abort(number) is True
    assert stager_access.reschedule(number) == "scheduled"
    assert set(stager_access.get_progress()) == {str(number)}
    assert stager_access.get_storage_info() == {"sara": "10 TB"}
    with pytest.raises(StorageError, match="StageIT does"):
        stager_access.get_macaroons(number)


def test_stageit_by_the_same_functions(stageit: doubles.StageIt) -> None:
    number = stager_access.stage(["srm://h/L1_SB1", "srm://h/L1_SB2"], send_notifications=False)
    assert stager_access.get_status(number) == "new"
    assert stager_access.get_surls_requested(number) == ["srm://h/L1_SB1", "srm://h/L1_SB2"]
    assert stager_access.get_surls_online(number) == ["srm://h/L1_SB1", "srm://h/L1_SB2"]
    assert stager_access.get_surls_pending(number) == stager_access.get_surls_failed(number) == []
    assert stager_access.get_macaroons(number) == [{"SURF": "MDAxY2xvY2F0aW9u"}]
    assert stager_access.get_webdav_urls_requested(number)[0] == "https://h/L1_SB1"
    assert stager_access.get_gridftp_urls_requested(number)[0] == "gsiftp://h/L1_SB1"
    assert set(stager_access.get_progress("S", exclude=True)) == {str(number)}
    with pytest.raises(StorageError, match="how full"):
        stager_access.get_storage_info()


def test_which_stager_is_asked(tmp_path: Path) -> None:
    with pytest.raises(CredentialsMissing, match="LOFAR_LTA_USER"):
        stager_access.get_status(1)
    stager_access.use(None)
    (tmp_path / ".stagingrc").write_text("api_token=t\nhostname=127.0.0.1:1\n")
    with pytest.raises(StorageError, match=r"https://127\.0\.0\.1:1/stageit"):
        stager_access.get_status(1)


def test_staging_a_list(stager: doubles.Stager, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    number = stage_all_LTA.main(str(SARA))
    assert number is not None
    assert "Setting up 51 srms to stage" in capsys.readouterr().out
    assert len(stager.wanted[number]) == 51
    assert {link.partition("/pnfs")[0] for link in stager.wanted[number]} == {
        "srm://srm.grid.sara.nl:8443/srm/managerv2?SFN="
    }
    assert stage_all_LTA.get_stage_status(str(number)) == "scheduled"
    assert stage_all_LTA.main(str(SARA), test=True) is None
    assert stage_all_LTA.location(str(SARA)) == "s"
    text, pattern = stage_all_LTA.replace("j")
    assert pattern.sub(text, "/pnfs/x") == "srm://lofar-srm.fz-juelich.de:8443/srm/managerv2?SFN=/pnfs/x"
    with pytest.raises(ValueError, match="'x' is none of s, j, p"):
        stage_all_LTA.replace("x")
    pairs = dict(srmlist_module.srmlist().from_file(SARA).sbn_dict())
    number = stage_all_LTA.state_dict(pairs)
    assert number is not None
    assert len(stager.wanted[number]) == 51
    bare = tmp_path / "bare.txt"
    bare.write_text("/pnfs/fz-juelich.de/data/lofar/L1_SB1.tar\n")
    (link,) = stage_all_LTA.return_srmlist(str(bare))
    assert link == (
        "srm://lofar-srm.fz-juelich.de:8443/srm/managerv2?SFN=/pnfs/fz-juelich.de/data/lofar/L1_SB1.tar"
    )


def test_states_and_their_part() -> None:
    assert len(state_all.load_file_into_srmlist(str(SARA))) == 51
    assert state_all.percent_staged([("a", "ONLINE"), ("b", "NEARLINE")]) == 0.5
    assert state_all.percent_staged([("a", "UNKNOWN")]) == 0.0
    assert srmlist_module.GSI_FQDNs == {
        "grid.sara.nl": "sara", "fz-juelich.de": "juelich", "lofar.psnc.pl": "poznan",
    }  # fmt: skip
    assert srmlist_module.slice_dicts({"001": ["srm://x/L1"]}) == {"001": ["srm://x/L1"]}


if GRID:

    def test_states_of_real_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / "L1_SB001.tar"
        path.write_bytes(b"x")
        os.setxattr(path, "user.status", b"ONLINE_AND_NEARLINE\0")
        assert state_all.check_status(f"file://{path}") == ("L1_SB001.tar", "ONLINE_AND_NEARLINE")
        assert capsys.readouterr().out == "L1_SB001.tar ONLINE_AND_NEARLINE\n"
        listed = tmp_path / "srm.txt"
        listed.write_text(f"file://{path}\nfile://{path}x\n")
        results = state_all.main(str(listed), verbose=False)
        assert results == [("L1_SB001.tar", "ONLINE_AND_NEARLINE"), ("L1_SB001.tarx", "UNKNOWN")]
        assert capsys.readouterr().out == ""
        assert state_all.percent_staged(results) == 0.5
        (tmp_path / "L1").mkdir()
        for name in ("L1_a.tar", "L1_b.tar"):
            (tmp_path / "L1" / name).write_bytes(b"x")
        made = srmlist_module.make_srmlist_from_gsiftpdir(f"file://{tmp_path}/L1")
        assert made == [f"file://{tmp_path}/L1/L1_a.tar", f"file://{tmp_path}/L1/L1_b.tar"]
        assert srmlist_module.count_files_uberftp(f"file://{tmp_path}/L1") == 2

    def test_staging_with_gfal(tmp_path: Path) -> None:
        listed = tmp_path / "srm.txt"
        listed.write_text("mock://h/L1_a?staging_time=1\nmock://h/L1_b?staging_errno=5\n")
        refused, token = stage_all.main(str(listed))
        assert token
        assert list(refused) == ["mock://h/L1_b?staging_errno=5"]
        stager = stage_all.LTA_Stager(srmlist=srmlist_module.srmlist(link="mock://h/L1_a?staging_time=1"))
        stager.wait(60)


def test_a_sandbox_in_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = tmp_path / "scripts"
    subprocess.run(["git", "init", "-q", str(made)], check=True)
    (made / "master.sh").write_text("#!/bin/sh\n")
    name = ["-c", "user.name=me", "-c", "user.email=me@x"]
    subprocess.run(["git", "-C", str(made), "add", "-A"], check=True)
    subprocess.run(["git", *name, "-C", str(made), "commit", "-q", "-m", "x"], check=True)
    config = tmp_path / "sbx.cfg"
    text = {"Sandbox": {"name": "sbx", "loc": "SKSP", "git": {"location": f"file://{made}"}}}
    config.write_text(
        json.dumps({**text, "Shell_variables": {"OBSID": "$OBSID", "_attachments": {"s": "$S"}}})
    )
    with pytest.raises(ConfigError, match="parseconfig"):
        sandbox_module.Sandbox().zip_sbx()
    here = os.getcwd()
    one = sandbox_module.Sandbox(str(config))
    assert one.make_tokvar_dict() == {"OBSID": "$OBSID", "_attachments": {"s": "$S"}}
    assert one.check_token({"OBSID": "L1"}) == ["s"]
    assert one.check_token({"_attachments": {"s": {}}}) == ["OBSID"]
    one.build_sandbox()
    copy = tmp_path / "copy.tar"
    assert one.zip_sbx(str(copy)) == str(copy)
    where = one.upload_gsi_sbx(f"file://{tmp_path}/storage", "other.tar")
    assert where == f"file://{tmp_path}/storage/SKSP/other.tar"
    assert one.sbxloc == "SKSP/other.tar"
    assert (tmp_path / "storage" / "SKSP" / "other.tar").read_bytes() == copy.read_bytes()
    assert one.sbxtarfile is not None
    assert os.path.exists(one.sbxtarfile)
    left = one.sbxtarfile
    one.cleanup()
    assert not os.path.exists(left)
    assert os.getcwd() == here
    if GRID:
        assert one.sandbox_exists(where)
        one.delete_gsi_sandbox(where)
        assert not one.sandbox_exists(where)


def test_lists_are_checked_under_their_old_name() -> None:
    links: Any = srmlist_module.srmlist()
    with pytest.raises(AttributeError):
        links.extend(["srm://x/L1", "srm://x/L2"])
    assert issubclass(LinkError, AttributeError)
