"""Versions of DiFX, and what clients see of the environment."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from mpiframe.plugins.difx.versions import VersionError, Versions, run_environment, shown_environment


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation with three versions."""
    monkeypatch.delenv("DIFX_VERSION", raising=False)
    monkeypatch.setenv("DIFX_BASE", str(tmp_path))
    (tmp_path / "bin").mkdir()
    for name in ("DIFX-DEVEL", "DIFX-2.8", "trunk", "DIFX-2.8.sh", "DIFX-2.8.csh"):
        script = tmp_path / "bin" / f"rungeneric.{name}"
        script.write_text(f'#!/bin/sh\nDIFX_VERSION={name}\nexport DIFX_VERSION\nexec "$@"\n')
        script.chmod(0o755)
    (tmp_path / "bin" / "rungeneric.broken").write_text("not a program")
    (tmp_path / "bin" / "rungeneric.folder").mkdir()
    (tmp_path / "bin" / "rungeneric.").touch(0o755)
    return tmp_path


def test_versions_are_the_scripts_that_can_be_run(base: Path) -> None:
    assert Versions().names() == Versions(base).names() == ["DIFX-2.8", "DIFX-DEVEL", "trunk"]


def test_a_program_is_run_by_the_script_of_its_version(base: Path) -> None:
    command = Versions().command(["sh", "-c", 'echo $DIFX_VERSION; echo "$1"', "x", "a  b;c"], "DIFX-2.8")
    assert command[0] == str(base / "bin" / "rungeneric.DIFX-2.8")
    said = subprocess.run(command, capture_output=True, text=True, check=True, env=run_environment())
    assert said.stdout == "DIFX-2.8\na  b;c\n"


def test_a_version_is_chosen(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = Versions()
    assert versions.choose("trunk") == "trunk"
    assert versions.choose() == "DIFX-DEVEL"
    monkeypatch.setenv("DIFX_VERSION", "DIFX-2.8")
    assert versions.choose() == "DIFX-2.8"
    monkeypatch.setenv("DIFX_VERSION", "gone")
    assert versions.choose() == "DIFX-DEVEL"
    (base / "bin" / "rungeneric.DIFX-DEVEL").unlink()
    with pytest.raises(VersionError, match=r"no version of DiFX was named, only DIFX-2.8, trunk"):
        versions.choose()
    (base / "bin" / "rungeneric.trunk").unlink()
    assert versions.choose() == "DIFX-2.8"


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ("DIFX_DEVEL", "no version 'DIFX_DEVEL' of DiFX, did you mean 'DIFX-DEVEL'?"),
        ("9", "only DIFX-2.8, DIFX-DEVEL, trunk"),
        ("../../bin/sh", "no version"),
        ("broken", "no version"),
        ("", "no version ''"),
    ],
)
def test_a_version_that_there_is_not_is_an_error_that_names_those_that_there_are(
    base: Path, wanted: str, says: str
) -> None:
    with pytest.raises(VersionError) as caught:
        Versions().command(["true"], wanted)
    assert says in str(caught.value)


def test_without_versions_programs_are_those_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DIFX_BASE", raising=False)
    assert Versions().names() == Versions(tmp_path).names() == []
    assert Versions().command(["vex2difx", "-f"]) == ["vex2difx", "-f"]
    with pytest.raises(VersionError, match="DIFX_BASE is not set"):
        Versions().choose("x")
    with pytest.raises(VersionError, match=r"there is no rungeneric.\* in"):
        Versions(tmp_path).choose("x")


def test_clients_see_what_is_named_and_nothing_else() -> None:
    environment = {
        "DIFX_VERSION": "DIFX-2.8",
        "DIFX_MESSAGE_PORT": "50200",
        "DIFX_PASSWORD": "secret",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "HOME": "/home/oper",
        "OURS": "x",
    }
    shown = {"DIFX_MESSAGE_PORT": "50200", "DIFX_VERSION": "DIFX-2.8"}
    assert shown_environment(environment=environment) == shown
    assert shown_environment(["OURS", "UNSET"], environment) == shown | {"OURS": "x"}


def test_programs_do_not_inherit_what_is_a_ranks_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "1")
    monkeypatch.setenv("PMI_RANK", "1")
    monkeypatch.setenv("DIFX_MESSAGE_PORT", "50200")
    made = run_environment({"DIFX_MESSAGE_PORT": "1", "NEW": "2"})
    assert "OMPI_COMM_WORLD_RANK" not in made
    assert "PMI_RANK" not in made
    assert (made["DIFX_MESSAGE_PORT"], made["NEW"]) == ("1", "2")
