"""Files are worked on inside the roots only, whatever paths and links say."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import shutil
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpiframe.plugins.difx import files as files_module
from mpiframe.plugins.difx.files import Files
from mpiframe.plugins.difx.roots import PathRefused

_CWD = -100  # AT_FDCWD
SECONDS = 60.0

OPERATIONS = {
    "ls": lambda files, path: files.ls(path),
    "glob": lambda files, path: files.ls(f"{path}/*"),
    "stat": lambda files, path: files.stat(f"{path}/secret"),
    "mkdir": lambda files, path: files.mkdir(f"{path}/new"),
    "rmdir": lambda files, path: files.rmdir(f"{path}/empty"),
    "rm": lambda files, path: files.rm(f"{path}/secret"),
    "rm all": lambda files, path: files.rm(f"{path}/*", recursive=True),
    "mv": lambda files, path: files.mv(f"{path}/secret", f"{files.roots[0]}/stolen"),
    "mv into": lambda files, path: files.mv(f"{files.roots[0]}/own", f"{path}/own"),
    "cp": lambda files, path: files.cp(f"{path}/secret", f"{files.roots[0]}/stolen"),
    "cp into": lambda files, path: files.cp(f"{files.roots[0]}/own", path),
    "cp all": lambda files, path: files.cp(path, f"{files.roots[0]}/stolen", recursive=True),
    "touch": lambda files, path: files.touch(f"{path}/new"),
    "read": lambda files, path: files.read(f"{path}/secret"),
    "chunks": lambda files, path: list(files.chunks(f"{path}/secret")),
    "send": lambda files, path: files.send(f"{path}/secret", b"changed"),
    "upload": lambda files, path: files.upload(f"{path}/new"),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with a file in it; beside it a folder that is none of our business."""
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "own").write_text("own\n")
    (tmp_path / "outside" / "empty").mkdir(parents=True)
    (tmp_path / "outside" / "secret").write_text("secret\n")
    return tmp_path / "root"


@pytest.fixture
def files(root: Path) -> Iterator[Files]:
    """Files below the root; no open file is left by what is done with them."""
    with Files([root]) as made:
        yield made
    assert open_below(root.parent) == []


def open_below(folder: Path) -> list[str]:
    """What this process has open there, also what was removed meanwhile."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed by now: another's, as the list's own
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return [path for path in found if path.startswith(f"{folder}/")]


def names(files: Files, path: Path, **options: bool) -> list[str]:
    return [entry.name for entry in files.ls(str(path), **options)]


def contents(folder: Path) -> dict[str, bytes | None]:
    found = sorted(folder.rglob("*"))
    return {str(one.relative_to(folder)): one.read_bytes() if one.is_file() else None for one in found}


# -- nothing leads out ----------------------------------------------------------------------------


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(
    "way", ["outside", "dots", "up and down", "link", "relative link", "chain", "sibling", "above"]
)
def test_no_way_leads_out_of_the_roots(files: Files, root: Path, operation: str, way: str) -> None:
    outside = root.parent / "outside"
    (root / "a" / "b").mkdir(parents=True)
    (root / "link").symlink_to(outside)
    (root / "relative").symlink_to("../outside")
    (root / "chain").symlink_to(root / "a" / "next")
    (root / "a" / "next").symlink_to("../link")
    path = {
        "outside": str(outside),
        "dots": f"{root}/../outside",
        "up and down": f"{root}/a/b/../../../outside",
        "link": f"{root}/link",
        "relative link": f"{root}/relative",
        "chain": f"{root}/chain",
        "sibling": f"{root}-sibling",
        "above": str(root.parent),
    }[way]
    before = contents(outside), contents(root)
    with pytest.raises(PathRefused):
        OPERATIONS[operation](files, path)
    assert (contents(outside), contents(root)) == before


@pytest.mark.parametrize("path", ["", "own", "./own", "~/own", "file:///own", "/\0", "/etc/passwd\0.input"])
def test_a_path_has_to_be_one_and_absolute(files: Files, path: str) -> None:
    for operation in (files.ls, files.read, files.mkdir, files.touch):
        with pytest.raises(PathRefused):
            operation(path)


def test_a_root_itself_stays(files: Files, root: Path) -> None:
    (root / "a").mkdir()
    for path in (str(root), f"{root}/", f"{root}/.", f"{root}/a/.."):
        for remove in (files.rmdir, files.rm, lambda path: files.rm(path, recursive=True)):
            with pytest.raises(PathRefused, match="has to stay"):
                remove(path)
        with pytest.raises(PathRefused):
            files.mv(path, f"{root}/a")
    assert (root / "own").exists()


def test_a_link_is_removed_or_moved_and_not_what_it_leads_to(files: Files, root: Path) -> None:
    outside = root.parent / "outside"
    (root / "link").symlink_to(outside)
    (root / "file").symlink_to(outside / "secret")
    files.mv(f"{root}/link", f"{root}/renamed")
    files.rm(f"{root}/renamed", recursive=True)
    files.send(f"{root}/new", b"x")
    with pytest.raises(PathRefused):
        files.send(f"{root}/file", b"changed")
    files.rm(f"{root}/file")
    assert contents(outside) == {"empty": None, "secret": b"secret\n"}
    assert names(files, root) == ["new", "own"]


def test_links_within_the_roots_are_followed(files: Files, root: Path) -> None:
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "f").write_text("f")
    (root / "short").symlink_to("a/b")
    (root / "long").symlink_to(root / "a" / "b" / ".." / "b")
    assert files.read(f"{root}/short/f") == files.read(f"{root}/long/f") == b"f"
    assert files.read(f"{root}/short/../../own") == b"own\n"  # the parent of what it leads to
    (root / "name").symlink_to("a/b/f")
    files.send(f"{root}/name", b"through")
    assert (root / "name").is_symlink()
    assert (root / "a" / "b" / "f").read_bytes() == b"through"


def test_links_that_go_in_circles_are_an_error(files: Files, root: Path) -> None:
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    with pytest.raises(OSError, match="symbolic links"):
        files.read(f"{root}/a")
    assert [entry.kind for entry in files.ls(str(root))] == ["link", "link", "file"]


def test_a_link_from_one_root_may_lead_into_another(root: Path) -> None:
    outside = root.parent / "outside"
    (root / "link").symlink_to(outside)
    with Files([root, outside]) as files:
        assert files.read(f"{root}/link/secret") == b"secret\n"


def test_a_root_may_be_known_by_a_link(root: Path) -> None:
    alias = root.parent / "alias"
    alias.symlink_to(root)
    with Files([alias]) as files:
        assert files.read(f"{alias}/own") == files.read(f"{root}/own") == b"own\n"


def test_roots_have_to_be_folders_that_are_there(root: Path) -> None:
    with pytest.raises(PathRefused):
        Files(["relative"])
    with pytest.raises(FileNotFoundError):
        Files([root, root / "nothing"])
    with pytest.raises(NotADirectoryError):
        Files([root / "own"])
    with Files([]) as none, pytest.raises(PathRefused, match="none are"):
        none.ls("/")


def test_nothing_leads_out_while_folders_become_links(files: Files, root: Path) -> None:
    outside = root.parent / "outside"
    (root / "flip").mkdir()
    stop = threading.Event()

    (root / "other").symlink_to(outside)
    libc = ctypes.CDLL(None, use_errno=True)

    def swap() -> None:
        one, other = os.fsencode(root / "flip"), os.fsencode(root / "other")
        while not stop.is_set():
            # RENAME_EXCHANGE: at no time there is nothing by the name.
            assert libc.renameat2(_CWD, one, _CWD, other, 2) == 0, os.strerror(ctypes.get_errno())

    swapper = threading.Thread(target=swap)
    swapper.start()
    done = refused = 0
    begun = time.monotonic()
    try:
        # Both happen within so long, but where this thread hardly ran.
        while (took := time.monotonic() - begun) < 1.0 or (not (done and refused) and took < SECONDS):
            for operation in (
                lambda: files.send(f"{root}/flip/secret", b"changed"),
                lambda: files.touch(f"{root}/flip/touched"),
                lambda: files.rm(f"{root}/flip/secret"),
                lambda: files.mkdir(f"{root}/flip/made/below"),
                lambda: files.rm(f"{root}/flip/made", recursive=True),
            ):
                try:
                    operation()
                    done += 1
                except OSError:
                    refused += 1
            assert contents(outside) == {"empty": None, "secret": b"secret\n"}
    finally:
        stop.set()
        swapper.join()
    assert done
    assert refused


PARTS = st.sampled_from(
    ["..", ".", "", "a", "b", "link", "out", "own", "up", "*", "root", "outside", "secret"]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    parts=st.lists(PARTS, max_size=8),
    other=st.lists(PARTS, max_size=5),
    operation=st.sampled_from([*OPERATIONS]),
)
def test_no_path_at_all_leads_out(tmp_path: Path, parts: list[str], other: list[str], operation: str) -> None:
    shutil.rmtree(tmp_path)
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "a" / "b").mkdir(parents=True)
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (root / "own").write_text("own")
    (root / "link").symlink_to("a/b")
    (root / "out").symlink_to(outside)
    (root / "a" / "up").symlink_to("../..")
    (root / "a" / "b" / "root").symlink_to(root)
    with Files([root]) as files:
        for path in ("/".join([str(root), *parts]), "/".join([str(tmp_path), *other])):
            try:
                found = OPERATIONS[operation](files, path)
            except (OSError, ValueError):
                continue
            if isinstance(found, bytes):
                assert found != b"secret"
            if operation == "upload":
                found.abort()
    assert contents(outside) == {"secret": b"secret"}
    assert sorted(os.listdir(tmp_path)) == ["outside", "root"]


# -- what they do ---------------------------------------------------------------------------------


def test_a_session_with_files(files: Files, root: Path) -> None:
    files.mkdir(f"{root}/exp/pass/deep")
    files.mkdir(f"{root}/exp")
    files.touch(f"{root}/exp/a.input")
    files.send(f"{root}/exp/b.input", b"text")
    assert files.cp(f"{root}/exp/b.input", f"{root}/exp/pass") == f"{root}/exp/pass/b.input"
    assert files.mv(f"{root}/exp/a.input", f"{root}/exp/c.input") == f"{root}/exp/c.input"
    assert [one.path for one in files.ls(f"{root}/e*/*.input")] == [
        f"{root}/exp/b.input",
        f"{root}/exp/c.input",
    ]
    with pytest.raises(OSError, match="not empty"):
        files.rmdir(f"{root}/exp/pass")
    files.rmdir(f"{root}/exp/pass/deep")
    with pytest.raises(IsADirectoryError):
        files.rm(f"{root}/exp")
    assert files.rm(f"{root}/exp/*.input") == [f"{root}/exp/b.input", f"{root}/exp/c.input"]
    assert files.rm(f"{root}/exp", recursive=True) == [f"{root}/exp"]
    assert names(files, root) == ["own"]


@pytest.mark.parametrize(
    ("operation", "error"),
    [
        (lambda files, root: files.ls(f"{root}/no"), FileNotFoundError),
        (lambda files, root: files.read(f"{root}/no/file"), FileNotFoundError),
        (lambda files, root: files.read(f"{root}"), IsADirectoryError),
        (lambda files, root: files.read(f"{root}/own/below"), NotADirectoryError),
        (lambda files, root: files.mkdir(f"{root}/own"), FileExistsError),
        (lambda files, root: files.mkdir(f"{root}/own/below"), NotADirectoryError),
        (lambda files, root: files.rm(f"{root}/no"), FileNotFoundError),
        (lambda files, root: files.rm(f"{root}/no*"), FileNotFoundError),
        (lambda files, root: files.mv(f"{root}/no", f"{root}/new"), FileNotFoundError),
        (lambda files, root: files.send(f"{root}/no/file", b""), FileNotFoundError),
        (lambda files, root: files.send(f"{root}", b""), IsADirectoryError),
        (lambda files, root: files.read(f"{root}/pipe"), OSError),
        (lambda files, root: files.send(f"{root}/pipe", b""), OSError),
        (lambda files, root: files.send(f"{root}/{'x' * 300}", b""), OSError),
    ],
)
def test_what_cannot_be_done_is_an_error_with_the_path(
    files: Files, root: Path, operation: object, error: type[OSError]
) -> None:
    os.mkfifo(root / "pipe")
    before = contents(root)
    with pytest.raises(error) as caught:
        operation(files, root)  # type: ignore[operator]
    assert str(root) in str(caught.value)
    assert contents(root) == before


def test_removing_what_is_not_there_may_be_well(files: Files, root: Path) -> None:
    assert files.rm(f"{root}/no", missing_ok=True) == []
    assert files.rm(f"{root}/no*", missing_ok=True) == []


@pytest.mark.parametrize("size", [0, 1, 1000, 1 << 20, (1 << 20) + 1, 5_000_001])
def test_content_of_any_kind_and_size_comes_back_as_it_was(
    files: Files, root: Path, tmp_path: Path, size: int
) -> None:
    content = random.Random(size).randbytes(size)
    told: list[tuple[int, int | None]] = []
    assert files.send(f"{root}/f", content, progress=lambda *state: told.append(state)) == size
    assert not told or told[-1] == (size, size)
    assert files.read(f"{root}/f") == content
    assert files.read(f"{root}/f", 10, 100) == content[10:110]
    assert b"".join(files.chunks(f"{root}/f", size=4096)) == content
    assert files.get(f"{root}/f", tmp_path / "mine", progress=lambda *state: told.append(state)) == size
    assert (tmp_path / "mine").read_bytes() == content
    assert files.send(f"{root}/g", (content[at : at + 333] for at in range(0, size, 333))) == size
    assert (root / "g").read_bytes() == content


def test_what_is_not_sent_in_full_leaves_what_was_there(files: Files, root: Path) -> None:
    def breaks() -> Iterator[bytes]:
        yield b"new"
        raise ConnectionError("gone")

    (root / "own").chmod(0o640)
    with pytest.raises(ConnectionError):
        files.send(f"{root}/own", breaks())
    with files.upload(f"{root}/own") as upload:
        upload.write(b"new")
        assert names(files, root) == ["own"]
        assert len(names(files, root, hidden=True)) == 2
    assert names(files, root, hidden=True) == ["own"]
    assert (root / "own").read_text() == "own\n"
    with pytest.raises(ValueError, match="has ended"):
        upload.write(b"more")
    files.send(f"{root}/own", b"new")
    assert stat.S_IMODE((root / "own").stat().st_mode) == 0o640


def test_a_full_disk_is_an_error_and_leaves_nothing_behind(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"mounting takes root: {mounted.stderr.decode()}")
    try:
        with Files([disk, tmp_path]) as files:
            files.send(f"{disk}/kept", b"kept")
            with pytest.raises(OSError, match="No space left"):
                files.send(f"{disk}/kept", bytes(4 << 20))
            assert contents(disk) == {"kept": b"kept"}
            (tmp_path / "tree" / "a").mkdir(parents=True)
            (tmp_path / "tree" / "a" / "f").write_bytes(b"f")
            (tmp_path / "tree" / "l").symlink_to("a/f")
            files.mv(f"{tmp_path}/tree", str(disk))  # over to another file system
            assert contents(disk / "tree") == {"a": None, "a/f": b"f", "l": b"f"}
            assert (disk / "tree" / "l").is_symlink()
            files.mv(f"{disk}/tree/l", str(tmp_path))
            assert os.readlink(tmp_path / "l") == "a/f"
            assert not (tmp_path / "tree").exists()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_file_that_is_cut_short_while_it_is_read_is_an_error(files: Files, root: Path) -> None:
    (root / "f").write_bytes(bytes(10_000))
    chunks = files.chunks(f"{root}/f", size=1000)
    next(chunks)
    os.truncate(root / "f", 1500)
    with pytest.raises(OSError, match="cut short at 1500 of 10000 bytes"):
        list(chunks)


def test_a_folder_is_copied_with_its_links(files: Files, root: Path) -> None:
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "f").write_text("f")
    (root / "a" / "b" / "f").chmod(0o750)
    (root / "a" / "out").symlink_to("/etc/passwd")
    with pytest.raises(IsADirectoryError):
        files.cp(f"{root}/a", f"{root}/c")
    files.cp(f"{root}/a", f"{root}/c", recursive=True)
    assert contents(root / "c" / "b") == {"f": b"f"}
    assert stat.S_IMODE((root / "c" / "b" / "f").stat().st_mode) == 0o750
    assert os.readlink(root / "c" / "out") == "/etc/passwd"
    with pytest.raises(PathRefused):
        files.read(f"{root}/c/out")
    (root / "alias").symlink_to("a")
    files.cp(f"{root}/a", f"{root}/alias/copy", recursive=True)  # into itself: once, and not for ever
    assert sorted(os.listdir(root / "a" / "copy")) == ["b", "out"]


def test_folders_that_lie_too_deep_are_an_error(
    files: Files, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files_module, "_DEPTH", 5)
    (root / "1" / "2" / "3" / "4" / "5" / "6").mkdir(parents=True)
    with pytest.raises(OSError, match="more than 5 deep"):
        files.rm(f"{root}/1", recursive=True)
    with pytest.raises(OSError, match="more than 5 deep"):
        files.cp(f"{root}/1", f"{root}/copy", recursive=True)


def test_names_of_all_kinds(files: Files, root: Path) -> None:
    odd = ["a b", "$(touch x)", "; rm -r *", "-rf", "ü", "new\nline", "b'\udcff", "[1]"]
    for name in odd:
        files.send(f"{root}/{name}", name.encode(errors="surrogateescape"))
        assert files.read(f"{root}/{name}") == name.encode(errors="surrogateescape")
    assert sorted(names(files, root)) == sorted([*odd, "own"])
    files.rm(f"{root}/[a-z] b")
    assert "a b" not in names(files, root)


# -- ls -------------------------------------------------------------------------------------------


@pytest.fixture
def shown(root: Path) -> Path:
    """A folder with something of each kind."""
    (root / "folder" / "inner").mkdir(parents=True)
    (root / "folder" / "inner" / "f").write_text("f")
    (root / ".hidden").write_text("hidden")
    (root / "big file").write_bytes(bytes(123_456))
    (root / "link").symlink_to("big file")
    os.utime(root / "own", (1e9, 1e9))
    os.utime(root / "folder", (1.7e9, 1.7e9))
    return root


@pytest.mark.parametrize("options", ["", "-l", "-1", "-lt", "-lS -r", "-A", "-ld", "-tr", "-d"])
@pytest.mark.parametrize("path", ["", "/own", "/folder", "/b*", "/*", "/fol*"])
def test_lines_are_those_of_the_command(files: Files, shown: Path, options: str, path: str) -> None:
    chosen = [word for word in options.split() if word != "-A" or "*" not in path]
    command = ["bash", "-c", f'exec ls "$@" {shown}{path}', "ls", "-1", *chosen]
    environment = os.environ | {"LC_ALL": "C", "QUOTING_STYLE": "literal"}
    real = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert files.ls_lines(f"{shown}{path}", options) == real.stdout.splitlines()


def test_an_option_of_ls_that_there_is_not_is_named(files: Files, root: Path) -> None:
    for wrong in ("-lZ", "--help", "-l; id", "x"):
        with pytest.raises(ValueError, match=r"ls has no option .*, only -1 -A -a -d -l -r -S -t"):
            files.ls_lines(str(root), wrong)


def test_matches_that_lead_out_are_left_out(files: Files, root: Path) -> None:
    (root / "in").mkdir()
    (root / "in" / "secret").write_text("ours")
    (root / "out").symlink_to(root.parent / "outside")
    assert [one.path for one in files.ls(f"{root}/*/secret")] == [f"{root}/in/secret"]
    with pytest.raises(PathRefused):
        files.ls(f"{root}/out/s*")
