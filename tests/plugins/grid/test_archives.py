"""Archives that are what they say, and those that are made to harm."""

from __future__ import annotations

import errno
import gzip
import io
import os
import resource
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mpiframe.plugins.grid import archives
from mpiframe.plugins.grid.storage_errors import (
    AlreadyThere,
    ArchiveError,
    DiskFull,
    NoSuchFile,
    SandboxEmpty,
)


def tar(path: Path, *members: tuple[str, object], mode: str = "w") -> Path:
    """members: (name, content), or (name, what to change in the header)."""
    with tarfile.open(path, mode) as made:  # type: ignore[call-overload]
        for name, what in members:
            info = tarfile.TarInfo(name)
            content = what if isinstance(what, bytes) else b""
            info.size = len(content)
            if isinstance(what, dict):
                for key, value in what.items():
                    setattr(info, key, value)
            made.addfile(info, io.BytesIO(content))
    return path


def symlink(target: str) -> dict[str, object]:
    return {"type": tarfile.SYMTYPE, "linkname": target}


def hardlink(target: str) -> dict[str, object]:
    return {"type": tarfile.LNKTYPE, "linkname": target}


FOLDER = {"type": tarfile.DIRTYPE}


def held(folder: Path) -> dict[str, bytes | str]:
    found: dict[str, bytes | str] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = "-> " + os.readlink(path)
        elif path.is_file():
            found[name] = path.read_bytes()
    return found


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_tars(tmp_path: Path, mode: str) -> None:
    path = tar(
        tmp_path / "any.name",
        ("./", FOLDER),
        ("./a.sh", {"mode": 0o6777}),
        ("b/c.txt", b"hello" * 100_000),
        ("b/again", hardlink("b/c.txt")),
        ("b/up", symlink("../a.sh")),
        ("down", symlink("b")),
        ("twice", b"1"),
        ("twice", b"2"),
        mode=mode,
    )
    assert archives.kind_of(path) == {"w": "tar"}.get(mode, "tar." + mode[2:])
    names = archives.extract(path, tmp_path / "out")
    content = b"hello" * 100_000
    assert held(tmp_path / "out") == {
        "a.sh": b"", "b/again": content, "b/c.txt": content, "b/up": "-> ../a.sh", "down": "-> b",
        "twice": b"2",
    }  # fmt: skip
    assert names == ["a.sh", "b/again", "b/c.txt", "b/up", "down", "twice"]
    assert stat.S_IMODE((tmp_path / "out" / "a.sh").stat().st_mode) & 0o7022 == 0
    assert os.access(tmp_path / "out" / "a.sh", os.X_OK)
    assert not os.access(tmp_path / "out" / "twice", os.X_OK)


def test_zips(tmp_path: Path) -> None:
    path = tmp_path / "sandbox.tar"  # the content counts, not the name
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("b/", "")
        made.writestr("b/c.txt", "hello")
        link = zipfile.ZipInfo("link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        made.writestr(link, "b/c.txt")
        program = zipfile.ZipInfo("run.sh")
        program.external_attr = (stat.S_IFREG | 0o755) << 16
        made.writestr(program, "#!/bin/sh")
    archives.extract(path, tmp_path / "out")
    assert held(tmp_path / "out") == {"b/c.txt": b"hello", "link": "-> b/c.txt", "run.sh": b"#!/bin/sh"}
    assert os.access(tmp_path / "out" / "run.sh", os.X_OK)


HARMFUL: dict[str, list[tuple[str, object]]] = {
    "a path up": [("../evil", b"x")],
    "a path up in the middle": [("a/../../evil", b"x")],
    "an absolute path": [("/tmp/evil", b"x")],
    "a link up": [("l", symlink("../evil"))],
    "an absolute link": [("l", symlink("/etc/passwd"))],
    "a link up behind a name": [("d/l", symlink("x/../../../evil"))],
    "links that lead out together": [
        ("z", FOLDER), ("p", FOLDER), ("p/q", FOLDER), ("p/q/b", symlink("../../z")),
        ("l", symlink("p/q/b/../..")),
    ],
    "a file through a link": [("d", FOLDER), ("l", symlink("d")), ("l/evil", b"x")],
    "a link where a folder is": [("d/x", b"x"), ("d", symlink("."))],
    "a hard link out": [("l", hardlink("../evil"))],
    "a hard link to a link": [("s", symlink("x")), ("l", hardlink("s"))],
    "a hard link to nothing": [("l", hardlink("none"))],
    "a device": [("null", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3})],
    "a pipe": [("pipe", {"type": tarfile.FIFOTYPE})],
    "no name": [(".", b"x")],
    "a folder and a file": [("a/b", b"x"), ("a", b"x")],
    "a file and a folder": [("a", b"x"), ("a/b", b"x")],
}  # fmt: skip


@pytest.mark.parametrize("name", HARMFUL)
def test_what_leaves_the_folder_is_refused_whole(tmp_path: Path, name: str) -> None:
    (tmp_path / "room").mkdir()
    path = tar(tmp_path / "evil.tar", ("good", b"x"), *HARMFUL[name])
    with pytest.raises(ArchiveError):
        archives.extract(path, tmp_path / "room" / "out")
    assert os.listdir(tmp_path / "room") == []
    assert sorted(os.listdir(tmp_path)) == ["evil.tar", "home", "room"]


PARTS = st.sampled_from(["a", "b", "c", "..", ".", "", "a"])
PATHS = st.lists(PARTS, min_size=1, max_size=5).map("/".join)
MEMBERS = st.lists(
    st.one_of(
        st.tuples(PATHS, st.just(b"content")),
        st.tuples(PATHS, st.just(FOLDER)),
        st.tuples(PATHS, PATHS.map(symlink)),
        st.tuples(PATHS, PATHS.map(hardlink)),
    ),
    max_size=8,
)


def leads_to_itself(path: str) -> bool:
    """Whether this is a link that the system follows nowhere, because its way comes past itself."""
    try:
        os.stat(path)
    except OSError as error:
        return error.errno == errno.ELOOP
    return False


@settings(max_examples=100, deadline=None)
@given(MEMBERS)
@example([("a", symlink("a//a"))])
@example(HARMFUL["links that lead out together"])
@example([("a/b", FOLDER), ("c", symlink("a/b")), ("a/b/a", symlink("../../c")), ("x", symlink("c/a/.."))])
def test_whatever_is_unpacked_stays_inside(members: list[tuple[str, object]]) -> None:
    """Every path, also through all links, is inside; and nothing beside the folder is touched."""
    with tempfile.TemporaryDirectory() as text:
        room = Path(text) / "deep" / "room"
        room.mkdir(parents=True)
        path = tar(Path(text) / "any.tar", *members)
        try:
            archives.extract(path, room / "out")
        except ArchiveError:
            assert os.listdir(room) == []
            return
        finally:
            assert sorted(os.listdir(text)) == ["any.tar", "deep"]
            assert os.listdir(Path(text) / "deep") == ["room"]
        assert os.listdir(room) == ["out"]
        inside = os.path.realpath(room / "out")
        for base, folders, files in os.walk(room / "out"):
            for name in [*folders, *files]:
                path = os.path.join(base, name)
                if leads_to_itself(path):
                    continue  # of which `realpath` makes whatever it has not read yet
                real = os.path.realpath(path)
                assert real == inside or real.startswith(inside + "/"), (base, name, real)


def test_harmful_zips(tmp_path: Path) -> None:
    for name, kind, content in (
        ("../evil", stat.S_IFREG, "x"),
        ("/tmp/evil", stat.S_IFREG, "x"),
        ("link", stat.S_IFLNK, "../evil"),
        ("device", stat.S_IFCHR, ""),
    ):
        path = tmp_path / "evil.zip"
        with zipfile.ZipFile(path, "w") as made:
            info = zipfile.ZipInfo(name)
            info.external_attr = (kind | 0o777) << 16
            made.writestr(info, content)
        with pytest.raises(ArchiveError, match=name.strip("./")):
            archives.extract(path, tmp_path / "out")
        assert not (tmp_path / "out").exists()


def bomb_gz(path: Path) -> None:
    with tarfile.open(path, "w:gz") as made:
        info = tarfile.TarInfo("zeros")
        info.size = 50_000_000
        made.addfile(info, io.BytesIO(bytes(info.size)))


def bomb_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("zeros", bytes(50_000_000))


def bomb_header(path: Path) -> None:
    """A name of 50 MB, which tarfile would read into memory."""
    info = tarfile.TarInfo("name")
    info.type, info.size = tarfile.XHDTYPE, 50_000_000
    with gzip.open(path, "wb", 1) as made:
        made.write(info.tobuf())
        made.write(b"50000000 path=" + b"a" * 50_000_000)


def bomb_files(path: Path) -> None:
    tar(path, *[(f"f{number}", b"") for number in range(2000)], mode="w:gz")


@pytest.mark.parametrize("make", [bomb_gz, bomb_zip, bomb_header, bomb_files])
def test_bombs_are_bounded(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = tmp_path / "bomb"
    make(path)
    assert path.stat().st_size < 400_000
    with pytest.raises(ArchiveError, match=r"more than|header"):
        archives.extract(path, tmp_path / "out", max_bytes=1_000_000, max_files=1000)
    assert sorted(os.listdir(tmp_path)) == ["bomb", "home"]


def test_what_is_no_archive(tmp_path: Path) -> None:
    path = tmp_path / "sandbox.tar"
    with pytest.raises(NoSuchFile):
        archives.extract(path, tmp_path / "out")
    path.write_bytes(b"")
    with pytest.raises(SandboxEmpty, match="0 bytes"):
        archives.extract(path, tmp_path / "out")
    path.write_text("<html>\nNot found")
    with pytest.raises(ArchiveError, match="begins with '<html>'"):
        archives.extract(path, tmp_path / "out")


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz", "zip"])
def test_archives_that_are_cut_or_altered(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "whole"
    content = os.urandom(100_000)
    if mode == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
            made.writestr("a", content)
    else:
        tar(path, ("a", content), mode=mode)
    data = path.read_bytes()
    for cut in (520, 50_000, len(data) - 10_300 if mode == "w" else len(data) - 30):
        path.write_bytes(data[:cut])
        with pytest.raises(ArchiveError):
            archives.extract(path, tmp_path / "out")
        assert sorted(os.listdir(tmp_path)) == ["home", "whole"]
    if mode != "w":  # a plain tar has no checksum of its content
        path.write_bytes(data[:60_000] + bytes([data[60_000] ^ 255]) + data[60_001:])
        with pytest.raises(ArchiveError):
            archives.extract(path, tmp_path / "out")


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", ("a", b"new"))
    (tmp_path / "out").mkdir()
    archives.extract(path, tmp_path / "out")
    with pytest.raises(AlreadyThere):
        archives.extract(path, tmp_path / "out")
    (tmp_path / "link").symlink_to(tmp_path / "out")
    with pytest.raises(AlreadyThere):
        archives.extract(path, tmp_path / "link")


def test_a_full_disk(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", ("a", bytes(200_000)))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # no file may be larger
    try:
        with pytest.raises(DiskFull, match="no room"):
            archives.extract(path, tmp_path / "out")
        with pytest.raises(DiskFull, match="no room"):
            archives.pack(str(tmp_path), str(tmp_path / "b.tar"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert sorted(os.listdir(tmp_path)) == ["a.tar", "home"]


def test_the_same_folder_makes_the_same_archive(tmp_path: Path) -> None:
    made = []
    for name in ("one", "two"):
        folder = tmp_path / name
        (folder / "sub" / ".git").mkdir(parents=True)
        (folder / ".git").mkdir()
        (folder / "sub" / ".git" / "config").write_text("x")
        (folder / ".hidden").write_text("h")
        (folder / "run.sh").write_text("#!/bin/sh")
        (folder / "run.sh").chmod(0o750)
        os.link(folder / "run.sh", folder / "sub" / "same.sh")
        (folder / "sub" / "link").symlink_to("../run.sh")
        made.append(tmp_path / f"{name}.tar")
        names = archives.pack(str(folder), str(made[-1]), modified=1_700_000_000)
        assert names == [".hidden", "run.sh", "sub", "sub/link", "sub/same.sh"]
    assert made[0].read_bytes() == made[1].read_bytes()
    archives.extract(made[0], tmp_path / "out")
    assert held(tmp_path / "out")["sub/link"] == "-> ../run.sh"
    assert held(tmp_path / "out")["sub/same.sh"] == b"#!/bin/sh"
    (tmp_path / "one" / "evil").symlink_to("/etc/passwd")
    with pytest.raises(ArchiveError, match="evil"):
        archives.pack(str(tmp_path / "one"), str(tmp_path / "x.tar"))
    assert not list(tmp_path.glob("x.tar*"))
