"""The folders of worlds: whose they may be, who gets one, and what becomes of those that died. No MPI."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mpiframe import doctor
from mpiframe.errors import WorldError
from mpiframe.worlds import folders, hosting, listing, places, secure
from mpiframe.worlds.places import Card, Place


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of worlds, which only this test knows."""
    monkeypatch.setenv(folders.FOLDER, str(tmp_path / "worlds"))
    return tmp_path / "worlds"


def a_card(**changes: object) -> Card:
    card = Card(
        name="survey", pid=os.getpid(), ticks=places.ticks_of(os.getpid()), space=places.process_space(),
        host="node1", mpi="MPICH 5.0.2", ranks=8, command="mpiframe start -n 8", cwd="/data",
        since=time.time() - 60, how="background", grace=2.0, ready=True,
    )  # fmt: skip
    return dataclasses.replace(card, **changes)  # type: ignore[arg-type]


Claim = Callable[[str], Place]


@pytest.fixture
def claim() -> Iterator[Claim]:
    """Makes a world that lives as long as the test."""
    with contextlib.ExitStack() as stack:

        def make(name: str, **changes: object) -> Place:
            place, lock = places.claim(name)
            stack.callback(os.close, lock)
            place.write_card(a_card(name=name, **changes))
            return place

        yield make


def a_dead_one(name: str = "survey", **changes: object) -> Place:
    """Its process is gone, and has left everything, a socket that nobody listens on among it."""
    place, lock = places.claim(name)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    ticks = places.ticks_of(gone.pid)
    gone.wait()
    place.write_card(a_card(name=name, **{"pid": gone.pid, "ticks": ticks, **changes}))
    place.log.write_text("the last words\n")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(place.socket))
        sock.listen()
        place.announce()
    os.close(lock)
    return place


# -- whose folder it is ----------------------------------------------------------------------------------


def test_a_new_folder_and_all_that_is_in_it_are_for_the_user_alone(folder: Path, claim: Claim) -> None:
    os.umask(old := os.umask(0))
    try:
        os.umask(0)
        place = claim("survey")
        modes = {path.name: path.stat().st_mode & 0o777 for path in [folder, *folder.rglob("*")]}
    finally:
        os.umask(old)
    assert modes.pop("worlds") == modes.pop(place.name) == 0o700
    assert set(modes) == {"lock", "news", "secret", "card", ".lock"}
    assert set(modes.values()) == {0o600}
    assert len(place.secret()) == secure.SECRET_BYTES


def test_a_folder_of_another_user_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir(mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(WorldError, match=rf"{folder} belongs to another user .* {folders.FOLDER}"):
        folders.base()
    with pytest.raises(WorldError, match="belongs to another user"):
        places.survey()


def test_a_folder_that_others_may_write_to_is_refused(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o770)
    with pytest.raises(WorldError, match=r"others may write to .* \(mode 0770\).*chmod go="):
        places.claim("survey")


def test_a_folder_that_others_may_read_is_closed(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o755)
    assert folders.base() == folder
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_link_in_its_place_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(WorldError, match="is a link"):
        folders.base()


def test_a_folder_that_others_could_put_another_in_place_of_is_refused(folder: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(WorldError, match=f"could be replaced by others.*{tmp_path}"):
        folders.base()
    tmp_path.chmod(0o1777)
    assert folders.base() == folder


def test_a_folder_that_cannot_be_made_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(folders.FOLDER, str(tmp_path / "no/where"))
    with pytest.raises(WorldError, match=f"No such file or directory: .*/no/where.*{folders.FOLDER}"):
        places.claim("survey")


def test_the_doctor_mentions_a_folder_that_cannot_be_used(folder: Path) -> None:
    report = doctor.Report()
    doctor._look_at_folders(report)
    assert (report.lines, report.advice) == ([], [])
    folder.chmod(0o777)
    doctor._look_at_folders(report)
    assert report.lines == [("worlds", "none can be started in the background, nor found by a name")]
    assert "others may write to" in report.advice[0]


def test_the_runtime_directory_is_used_where_it_outlasts_the_user(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(folders.FOLDER)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert folders.base() == tmp_path / "mpiframe"
    # systemd's own goes when the user logs out, and a world in the background is to stay.
    monkeypatch.setattr(folders, "_outlasts_logout", lambda runtime: False)
    assert folders._candidates()[0] == Path(f"/tmp/mpiframe-{os.geteuid()}")
    assert folders._candidates()[-1] == tmp_path / "mpiframe"
    monkeypatch.undo()
    assert folders._outlasts_logout("/run/user/no-such-user") in (True, False)


def test_worlds_are_found_where_another_shell_has_put_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(folders.FOLDER)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    place, lock = places.claim("elsewhere")
    place.write_card(a_card(name="elsewhere"))
    try:
        monkeypatch.setattr(folders, "_outlasts_logout", lambda runtime: False)
        assert place in [found for found, _ in places.survey()[0]]
    finally:
        os.close(lock)


# -- who gets one ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "-n", ".lock", "host:7643", "x" * 33, "näme"])
def test_a_name_that_cannot_be_one_is_refused(name: str) -> None:
    with pytest.raises(WorldError, match="cannot be the name of a world"):
        places.claim(name)


def test_a_socket_whose_path_would_be_too_long_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    long = tmp_path / ("x" * 100)
    monkeypatch.setenv(folders.FOLDER, str(long))
    with pytest.raises(WorldError, match=f"the 107 bytes .*Name a shorter folder by {folders.FOLDER}"):
        places.claim("survey")
    assert list(long.iterdir()) == []


def test_a_second_world_of_the_same_name_is_told_of_the_first(claim: Claim) -> None:
    claim("survey")
    with pytest.raises(WorldError) as caught:
        places.claim("survey")
    for part in ("survey runs already", "8 ranks of MPICH 5.0.2 on node1", f"process {os.getpid()}",
                 "mpiframe attach survey", "mpiframe stop survey", "--name"):  # fmt: skip
        assert part in str(caught.value)


def test_one_that_is_just_being_started_is_in_the_way_too() -> None:
    _, lock = places.claim("survey")
    with pytest.raises(WorldError, match="just being started"):
        places.claim("survey")
    os.close(lock)
    _, lock = places.claim("survey")
    os.close(lock)


def test_of_many_at_the_same_moment_one_gets_the_name() -> None:
    program = (
        "import sys\nfrom mpiframe import errors\nfrom mpiframe.worlds import places\nsys.stdin.readline()\n"
        "try: places.claim('survey'); print('won', flush=True)\n"
        "except errors.WorldError as error: print('lost', flush=True)\n"
        "sys.stdin.readline()\n"
    )
    with contextlib.ExitStack() as stack:
        rivals = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
                )
            )
            for _ in range(6)
        ]
        for _ in range(2):  # to begin, and, when all have said how it was, to end
            for rival in rivals:
                assert rival.stdin is not None
                rival.stdin.write("go\n")
                rival.stdin.flush()
            if _ == 0:
                said = [rival.stdout.readline().strip() for rival in rivals if rival.stdout is not None]
    assert sorted(said) == ["lost"] * 5 + ["won"]


# -- who is found ----------------------------------------------------------------------------------------


def test_the_only_world_needs_no_name(claim: Claim) -> None:
    with pytest.raises(WorldError, match="no world runs on"):
        places.running()
    place = claim("survey")
    assert places.running()[0] == place == places.running("survey")[0]
    claim("second")
    with pytest.raises(WorldError, match=r"which world\? second, survey run here"):
        places.running()


def test_an_unknown_name_is_told_the_nearest(claim: Claim) -> None:
    claim("survey")
    with pytest.raises(
        WorldError, match=r"no world named surwey .*: survey runs here; did you mean survey\?"
    ):
        places.running("surwey")


def test_a_dead_world_is_known_and_what_nobody_can_use_is_removed() -> None:
    place = a_dead_one()
    with pytest.raises(WorldError) as caught:
        places.running("survey")
    for part in ("survey has died, some time after 20", str(place.log), "mpiframe start --name survey"):
        assert part in str(caught.value)
    assert sorted(path.name for path in place.folder.iterdir()) == ["card", "lock", "log"]
    alive, [(found, card)] = places.survey()
    assert (alive, found) == ([], place)
    assert card.estimated
    assert card.ended is not None
    assert abs(card.ended - time.time()) < 60


def test_one_whose_end_was_seen_is_told_with_its_status() -> None:
    place = a_dead_one()
    with folders.guard(place.folder.parent):
        places.bury(place, status=137)
    with pytest.raises(WorldError, match=r"has died, 20\S+ \S+ with status 137"):
        places.running("survey")


def test_a_process_that_got_the_number_of_a_dead_one_is_not_taken_for_it() -> None:
    a_dead_one(pid=os.getpid(), ticks=places.ticks_of(os.getpid()))  # even one started in the same tick
    with pytest.raises(WorldError, match="has died"):
        places.running("survey")


def test_a_dead_worlds_name_is_free() -> None:
    old = a_dead_one().secret()
    place, lock = places.claim("survey")
    assert place.secret() != old
    assert not place.log.exists()
    assert not place.socket.exists()
    os.close(lock)


def test_a_week_later_nothing_is_left_of_a_dead_one() -> None:
    place = a_dead_one(ended=time.time() - 8 * 86400)
    assert places.survey() == ([], [])
    assert not place.folder.exists()


def test_what_a_start_left_that_was_killed_at_once_is_removed(folder: Path) -> None:
    place, lock = places.claim("survey")
    os.close(lock)
    assert places.survey() == ([], [])
    assert not place.folder.exists()


def test_a_secret_that_others_may_read_is_not_used(claim: Claim) -> None:
    place = claim("survey")
    (place.folder / "secret").chmod(0o640)
    with pytest.raises(WorldError, match=r"others may read .*secret \(mode 0640\)"):
        place.secret()


def test_a_damaged_secret_is_said_to_be(claim: Claim) -> None:
    place = claim("survey")
    (place.folder / "secret").write_bytes(b"short")
    with pytest.raises(WorldError, match=r"secret is damaged: it has 5 bytes and not 32"):
        place.secret()


def test_a_client_on_another_host_than_its_place_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MPIFRAME_PLACE", str(tmp_path / "of-another-host"))
    with pytest.raises(WorldError, match="is not the host that the world was started on"):
        hosting.open_hub(None)
    assert "MPIFRAME_PLACE" not in os.environ


# -- how they are listed ---------------------------------------------------------------------------------

NOON = time.mktime((2026, 11, 22, 12, 0, 0, 0, 0, -1))


def rows(width: int) -> list[str]:
    cards = [
        a_card(since=NOON, sessions=2),
        a_card(name="deep", ranks=128, since=NOON - 2 * 86400, how="script"),
    ]
    return listing.table([(Place(Path("/w") / card.name), card) for card in cards], width, NOON + 60)


def test_the_list_is_a_table_where_there_is_room() -> None:
    assert rows(80) == [
        "NAME    MPI          RANKS  SESSIONS  SINCE             HOST   HOW",
        "survey  MPICH 5.0.2  8      2         12:00             node1  start",
        "deep    MPICH 5.0.2  128    0         2026-11-20 12:00  node1  script",
    ]


def test_the_list_fits_in_40_columns() -> None:
    lines = rows(40)
    assert lines == [
        "survey",
        "  MPICH 5.0.2, 8 ranks, 2 sessions",
        "  since 12:00, on node1, start",
        "deep",
        "  MPICH 5.0.2, 128 ranks, 0 sessions",
        "  since 2026-11-20 12:00, on node1",
        "  script",
    ]
    assert max(map(len, lines)) <= 40


def test_the_dead_are_listed_in_40_columns_too() -> None:
    place = a_dead_one()
    card = a_card(ended=NOON, estimated=True)
    assert listing._death(place, card, 40) == f"survey died after 2026-11-22 12:00:00\n  log {place.log}"
    assert listing._death(place, card, 400) == f"survey died after 2026-11-22 12:00:00, log {place.log}"


def test_an_empty_list_has_no_heading() -> None:
    assert listing.table([], 80, NOON) == []
