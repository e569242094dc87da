"""Sandboxes of real repositories: configurations, archives, uploads, downloads."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import pytest
import yaml

from mpiframe.plugins.grid.error_codes import ErrorCode
from mpiframe.plugins.grid.sandbox import Sandbox, fetch
from mpiframe.plugins.grid.sandbox_config import GitSource, SandboxConfig, config_of, read_config
from mpiframe.plugins.grid.storage_errors import (
    ArchiveError,
    ConfigError,
    DiskFull,
    MissingTool,
    NoSuchFile,
    SandboxEmpty,
    StorageError,
    StorageTimeout,
)

DATA = Path(__file__).parent / "data"


def git(folder: Path, *words: str) -> str:
    env = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null"}
    for role in ("AUTHOR", "COMMITTER"):
        env |= {f"GIT_{role}_NAME": "me", f"GIT_{role}_EMAIL": "me@x", f"GIT_{role}_DATE": "1700000000 +0000"}
    done = subprocess.run(
        ["git", "-C", str(folder), *words], env=env, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def repository(folder: Path, **files: str) -> Path:
    folder.mkdir()
    git(folder, "init", "-q", "-b", "master")
    return commit(folder, **files)


def commit(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "x")
    return folder


@pytest.fixture
def repositories(tmp_path: Path) -> dict[str, Any]:
    """Two repositories: scripts with branches, and a pipeline with an older commit."""
    scripts = repository(tmp_path / "scripts", master="master", README="main")
    git(scripts, "checkout", "-q", "-b", "prefactor")
    commit(scripts, master="of prefactor")
    git(scripts, "checkout", "-q", "master")
    pipeline = repository(tmp_path / "pipeline", run="old")
    old = git(pipeline, "rev-parse", "HEAD")
    (pipeline / "link").symlink_to("run")
    commit(pipeline, run="new")
    return {"scripts": scripts, "pipeline": pipeline, "old": old, "new": git(pipeline, "rev-parse", "HEAD")}


def v05(repositories: dict[str, Any], **sandbox: Any) -> dict[str, Any]:
    return {
        "Token": {"OBSID": ""},
        "Sandbox": {
            "name": "pref_cal1",
            "loc": "/SKSP/prefactor/",
            "loc2": "None",
            "git": {"location": f"file://{repositories['scripts']}", "branch": "prefactor"},
            "git_scripts": {
                "prefactor": {"git_url": str(repositories["pipeline"]), "commit": repositories["old"][:7]},
                "newest": {"git_url": str(repositories["pipeline"]), "branch": "master"},
            },
            "remove_when_done": True,
            **sandbox,
        },
        "Shell_variables": {"_id": "$TOKEN", "OBSID": "$OBSID", "_attachments": {"srm.txt": "srm.txt"}},
    }


def test_a_sandbox_of_yaml(repositories: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "pref.cfg"
    path.write_text(yaml.safe_dump(v05(repositories)))
    with Sandbox.from_file(path) as sandbox:
        assert sandbox.sbxloc == "SKSP/prefactor/pref_cal1.tar"
        built = sandbox.build()
        assert list(built.names) == [
            "README", "master", "newest", "newest/link", "newest/run", "prefactor", "prefactor/run",
            "tokvar.cfg",
        ]  # fmt: skip
        assert built.commits["prefactor"] == repositories["old"]
        assert built.commits["newest"] == repositories["new"]
        with tarfile.open(built.path, "r:") as tar:  # not compressed
            assert tar.getmember("prefactor/run").mtime == 1_700_000_000
            assert tar.getmember("master").mode == 0o755
            said = yaml.safe_load(tar.extractfile("tokvar.cfg") or b"")
            assert said == {"_id": "$TOKEN", "OBSID": "$OBSID", "_attachments": {"srm.txt": "srm.txt"}}
        again = Sandbox.from_file(path)
        assert again.build().sha256 == built.sha256
        again.close()
        where = sandbox.upload(f"file://{tmp_path}/storage")
    assert where == f"file://{tmp_path}/storage/SKSP/prefactor/pref_cal1.tar"
    assert not os.path.exists(built.path)
    assert "tokvar.cfg" in fetch(where, tmp_path / "node" / "work", size=built.size)
    assert (tmp_path / "node" / "work" / "master").read_text() == "of prefactor"
    assert (tmp_path / "node" / "work" / "prefactor" / "run").read_text() == "old"
    assert os.listdir(tmp_path / "node") == ["work"]


def test_a_sandbox_of_json(repositories: dict[str, Any], tmp_path: Path) -> None:
    config = json.loads((DATA / "cal_pref3.json").read_text())
    config["sandbox"]["git"]["url"] = str(repositories["scripts"])
    config["sandbox"]["scripts"][0]["prefactor"]["url"] = str(repositories["pipeline"])
    path = tmp_path / "cal_pref3.json"
    path.write_text(json.dumps(config))
    with Sandbox.from_file(path) as sandbox:
        built = sandbox.build(tmp_path)
        assert built.path == str(tmp_path / "cal_pref3.tar")
        assert set(built.commits) == {".", "prefactor"}
        assert sandbox.config.variables["OBSID"] == "$OBSID"
        assert sandbox.config.variables["_attachments"]["srm.txt"] == "$SRMFILE"
    assert os.path.exists(built.path)  # it was put where it was wanted
    as_published = read_config(DATA / "cal_pref3.json")
    assert as_published.base == GitSource("https://github.com/apmechev/GRID_Sandbox.git", "prefactor")
    assert as_published.scripts[0].checkout_dir == "prefactor"


def test_nothing_is_left_when_building_fails(
    repositories: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = tmp_path / "tmp"
    room.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(room))
    source = str(repositories["scripts"])
    (repositories["pipeline"] / "evil").symlink_to("/etc/passwd")
    evil = commit(repositories["pipeline"])
    for wrong, kind, text in (
        (GitSource(source, "none"), NoSuchFile, "none"),
        (GitSource(source, commit="0" * 40), NoSuchFile, "has no commit 0000000"),
        (GitSource(str(tmp_path / "nowhere")), NoSuchFile, "does not"),
        (GitSource(str(evil)), ArchiveError, "evil"),
        (GitSource("https://127.0.0.1:9/x.git"), StorageError, "git says"),
    ):
        with pytest.raises(kind, match=text):
            Sandbox(SandboxConfig("x", wrong)).build()
        assert os.listdir(room) == []
    twice = SandboxConfig("x", GitSource(source), (GitSource(source, checkout_dir="README"),))
    with pytest.raises(ArchiveError, match="README"):
        Sandbox(twice).build()
    monkeypatch.setenv("PATH", str(room))
    with pytest.raises(MissingTool, match="apt-get install git"):
        Sandbox(SandboxConfig("x", GitSource(source))).build()
    assert os.listdir(room) == []


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def test_a_git_that_hangs_is_ended(repositories: dict[str, Any], tmp_path: Path, monkeypatch: Any) -> None:
    program = tmp_path / "bin" / "git"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\nsleep 1000 & echo $! > "$0.pid"\nwait\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    with pytest.raises(StorageTimeout, match=r"within 1 s"):
        Sandbox(SandboxConfig("x", GitSource("/x")), git_seconds=1).build()
    pid = int((tmp_path / "bin" / "git.pid").read_text())
    deadline = time.monotonic() + 30
    while runs(pid):  # it was killed; when it is gone is the kernel's affair
        assert time.monotonic() < deadline, "what it has started runs on"
        time.sleep(0.005)


def test_hooks_and_options_of_others_are_not_run(repositories: dict[str, Any], tmp_path: Path) -> None:
    """Neither a template's hooks, nor what looks like an option, nor transports that run programs."""
    hooks = tmp_path / "template" / "hooks"
    hooks.mkdir(parents=True)
    (hooks / "post-checkout").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (hooks / "post-checkout").chmod(0o755)
    (tmp_path / "home" / ".gitconfig").write_text(f"[init]\n\ttemplateDir = {hooks.parent}\n")
    with Sandbox(SandboxConfig("x", GitSource(str(repositories["scripts"])))) as sandbox:
        sandbox.build()
    for url in (f"ext::touch {tmp_path}/ran", "--upload-pack=touch", "-x", "fd::7", "relative/path", "",
                "https//x", "me@host::x"):  # fmt: skip
        with pytest.raises(ConfigError, match="no repository"):
            GitSource(url)
    for branch in ("-x", "--upload-pack=x", "a..b", "a b", "a@{1}", "a:b", "x/", "", "a\nb"):
        with pytest.raises(ConfigError, match="no name of a branch"):
            GitSource("/x", branch)
    for number in ("HEAD", "-1234567", "123456", "--all", "g" * 40):
        with pytest.raises(ConfigError, match="no commit"):
            GitSource("/x", commit=number)
    for folder in ("../x", "/x", "a/../b", "-x", "a//b", ".git", "a/.git"):
        with pytest.raises(ConfigError, match="no folder below"):
            GitSource("/x", checkout_dir=folder)
    assert not (tmp_path / "ran").exists()
    GitSource("git@github.com:apmechev/x.git", "feature/new-one", "c625e8f", "a/b")


def test_secrets_in_urls_are_refused_and_not_shown() -> None:
    for url in ("https://me:sesame@host/x.git", "https://sesame@host/x.git", "ssh://me:sesame@host/x"):
        with pytest.raises(ConfigError) as caught:
            GitSource(url)
        assert "sesame" not in "".join(traceback.format_exception(caught.value)).replace(url, "")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("Sandbox:\n  name: x\n  git: {location: y\n  loc: z\n", "line 4"),
        ("Sandbox:\n\tname: x\n", "line 2"),
        ("a: b: c\n", "line 1"),
        ("Sandbox:\n  name: 'x\n", "line 3"),
        ("Sandbox: !!python/object/apply:os.system [touch ran]\n", "line 1"),
        ('{"sandbox": {\n  "git": {"url": "x",}\n}}\n', "line 2"),
    ],
)
def test_malformed_configurations_name_the_line(tmp_path: Path, text: str, line: str) -> None:
    path = tmp_path / "bad.cfg"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"bad\.cfg, {line}"):
        read_config(path)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"git": None, "git_scripts": None}, "names no repository"),
        ({"name": "../evil"}, "no name of a sandbox"),
        ({"loc": "a/../../b"}, "no folder to upload to"),
        ({"git": {"loaction": "/x"}}, "git has no option 'loaction'; did you mean 'location'"),
        ({"git": {"branch": "x"}}, "git has no location"),
        ({"git_scripts": {"a": {"git_url": "/x", "comit": "1234567"}}}, "did you mean 'commit'"),
        ({"git_scripts": ["a"]}, "section git_scripts"),
        ({"git_scripts": {"../a": {"git_url": "/x"}}}, "no folder below"),
        ({"git_scripts": {"tokvar.cfg": {"git_url": "/x"}}}, "several things at 'tokvar.cfg'"),
    ],
)
def test_configurations_that_cannot_be(repositories: dict[str, Any], change: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        config_of(v05(repositories, **change), "x")


def test_other_files_that_are_no_configurations(tmp_path: Path) -> None:
    for found, text in (
        ([], "not of a list"),
        (None, "not of a NoneType"),
        ({"Sandbx": {}}, "did you mean 'Sandbx'"),
        ({"sandbox": {"scripts": {}, "git": {"url": "/x"}}}, None),
        ({"sandbox": {"scripts": {"a": 1}}}, "has to be a list"),
        ({"sandbox": {"scripts": [{"a": {"url": "/x"}, "b": 1}]}}, "one name"),
    ):
        if text is None:
            config_of(found, "x")
            continue
        with pytest.raises(ConfigError, match=text):
            config_of(found, "x")
    with pytest.raises(NoSuchFile):
        read_config(tmp_path / "none.cfg")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="no text"):
        read_config(tmp_path / "binary")


def test_fetching_what_is_no_sandbox(tmp_path: Path) -> None:
    (tmp_path / "empty.tar").write_bytes(b"")
    with pytest.raises(SandboxEmpty, match=r"file://.*empty\.tar"):
        fetch(f"file://{tmp_path}/empty.tar", tmp_path / "node" / "work")
    assert ErrorCode.SANDBOX_EMPTY == -2
    (tmp_path / "page.tar").write_text("<html>")
    with pytest.raises(ArchiveError, match=r"file://.*page\.tar.* is no tar"):
        fetch(f"file://{tmp_path}/page.tar", tmp_path / "node" / "work")
    with pytest.raises(NoSuchFile):
        fetch(f"file://{tmp_path}/none.tar", tmp_path / "node" / "work")
    assert os.listdir(tmp_path / "node") == []


def test_a_full_disk_while_building(repositories: dict[str, Any], tmp_path: Path) -> None:
    import resource

    config = SandboxConfig("x", GitSource(str(repositories["scripts"])))
    large = tmp_path / "storage"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Sandbox(config) as sandbox:
        built = sandbox.build()
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        try:
            with pytest.raises(DiskFull, match="no room"):
                sandbox.upload(f"file://{large}")
            assert os.listdir(large) == []
            with pytest.raises(StorageError):  # git's words are its own
                Sandbox(config).build()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert sandbox.built == built  # what could not be uploaded is still here
        shutil.rmtree(large)
        sandbox.upload(f"file://{large}")
    assert os.listdir(large) == ["x.tar"]
