"""Where the worlds of this user on this host are found: a folder for each, with what it takes to reach it.

    FOLDER/NAME/lock      locked by the process that runs the world, for as long as it runs
                card      who it is, as JSON: pid, host, MPI, ranks, since when, which command
                secret    32 bytes; who knows them may run code in the world
                socket    where its hub listens
                news      a pipe, in which the hub says that it does
                log       what the world prints, where it runs in the background
                certificate   of the hub, with its key, where it listens on TCP, too

The lock tells the living from the dead: the kernel lets it go when the process ends, however it does, and no
later process with the same number can be taken for it. Of a world that ended in order nothing is left. Of one
that died, its card and log stay for a week, or until a world of the same name starts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import errno
import fcntl
import json
import os
import re
import secrets
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpiframe.errors import WorldError
from mpiframe.launcher.environment import PLACE
from mpiframe.worlds import folders
from mpiframe.worlds.secure import SECRET_BYTES, Key

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")
_SOCKET_BYTES = 107  # of a Unix socket's path, without the zero at its end
_KEPT_SECONDS = 7 * 86400.0  # for the card and the log of a world that died


@dataclass(frozen=True, slots=True)
class Card:
    """What a world says of itself.

    Attributes
    ----------
    pid, ticks: the process that runs it (`mpiframe start`, or `mpiframe run`), and when that was started, in
        the kernel's count; `space` names the boot and the process namespace in which these mean something.
    hub_pid: of rank 0, once it is `ready`.
    how: "background", "foreground", "script" (beside one) or "private" (of one process, which ends it).
    since, ended: epoch seconds; `ended` is set of one that did not end in order, and is None while it runs.
    estimated: nobody was left to write down when it ended: `ended` is when it was last heard of.
    grace: seconds that its launcher gives it to end after a signal.
    listen, fingerprint: where it can be reached over TCP, and by which certificate; empty if it cannot.
    key_file: where the hub is to write what others need for that.
    """

    name: str
    pid: int
    ticks: int
    space: str
    host: str
    mpi: str
    ranks: int
    command: str
    cwd: str
    since: float
    how: str
    grace: float
    resilient: bool = False
    ready: bool = False
    hub_pid: int = 0
    sessions: int = 0
    listen: str = ""
    fingerprint: str = ""
    key_file: str = ""
    ended: float | None = None
    estimated: bool = False
    status: int | None = None

    @classmethod
    def from_json(cls, text: str) -> Card:
        """Raises ValueError or TypeError for what is no card."""
        values = json.loads(text)
        names = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in names})


@dataclass(frozen=True, slots=True)
class Place:
    """The folder of one world."""

    folder: Path

    @classmethod
    def of_this_process(cls) -> Place | None:
        """Where rank 0 of a world that has a name is to have its hub; None for other processes."""
        folder = os.environ.get(PLACE)
        return cls(Path(folder)) if folder else None

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def socket(self) -> Path:
        return self.folder / "socket"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def news(self) -> Path:
        return self.folder / "news"

    def secret(self) -> bytes:
        """What attached sessions prove that they know; WorldError where it cannot be read, or others may."""
        path = self.folder / "secret"
        try:
            with open(path, "rb") as file:
                folders.check_owner(path, os.fstat(file.fileno()))
                secret = file.read(SECRET_BYTES + 1)
        except OSError as error:
            raise WorldError(
                f"cannot read the secret of the world {self.name}: {error.strerror}: {path}"
            ) from None
        if len(secret) != SECRET_BYTES:
            raise WorldError(f"{path} is damaged: it has {len(secret)} bytes and not {SECRET_BYTES}")
        return secret

    def key(self, card: Card) -> Key:
        """What another machine needs to attach to it."""
        return Key(self.name, card.listen, card.fingerprint if card.listen else "", self.secret())

    def card(self) -> Card | None:
        """None where there is none that can be read, which is so for an instant while a world starts."""
        try:
            return Card.from_json((self.folder / "card").read_text(encoding="utf-8"))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, name: str, data: bytes) -> None:
        """Write a file of the folder, in one step, and never readable by others."""
        path = self.folder / name
        new = path.with_name(f"{name}.{os.getpid()}.new")
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(data)
        os.replace(new, path)

    def write_card(self, card: Card) -> None:
        """Replace the card."""
        self.write("card", json.dumps(dataclasses.asdict(card), indent=1).encode())

    def note(self, **changes: Any) -> None:
        """Change the card: the hub says `sessions=3`, or that it listens by `announce`."""
        card = self.card()
        if card is not None:
            self.write_card(dataclasses.replace(card, **changes))

    @property
    def certificate(self) -> Path:
        """With its key; there where the card says that the hub is to `listen` on TCP, too."""
        return self.folder / "certificate"

    def announce(self, listen: str = "") -> None:
        """Called by the hub when it listens on `socket`: who has started the world hears it.

        `listen`: the address where it listens on TCP, with the port that it got.
        """
        os.chmod(self.socket, 0o600)
        card = self.card()
        if card is not None:
            self.write_card(dataclasses.replace(card, ready=True, hub_pid=os.getpid(), listen=listen))
            if listen and card.key_file:
                self.key(dataclasses.replace(card, listen=listen)).write(Path(card.key_file))
        with contextlib.suppress(OSError):  # nobody waits for it
            news = os.open(self.news, os.O_WRONLY | os.O_NONBLOCK)
            os.write(news, b"!")
            os.close(news)

    def is_alive(self) -> bool:
        """Whether a process holds the lock. Ask within `guard` only."""
        try:
            lock = os.open(self.folder / "lock", os.O_RDWR)
        except OSError:
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno in (errno.EWOULDBLOCK, errno.EACCES, errno.EAGAIN)
        finally:
            os.close(lock)
        return False


# -- to start one ----------------------------------------------------------------------------------


def check_name(name: str) -> str:
    """The name, if it can be one; WorldError otherwise."""
    if not _NAME.fullmatch(name):
        raise WorldError(
            f"{name!r} cannot be the name of a world: use up to 32 letters, digits, dots, hyphens and "
            "underscores, a letter or digit first"
        )
    return name


def claim(name: str) -> tuple[Place, int]:
    """Make the folder of a new world, with a secret; the descriptor that holds its lock.

    Raises WorldError if a world of that name runs, and if the folder cannot be used.
    """
    folder = folders.base()
    place = Place(folder / check_name(name))
    if len(os.fsencode(place.socket)) > _SOCKET_BYTES:
        raise WorldError(
            f"the path of the world's socket would have more than the {_SOCKET_BYTES} bytes it may have: "
            f"{place.socket}. Name a shorter folder by {folders.FOLDER}"
        )
    with folders.guard(folder):
        if place.is_alive():
            raise WorldError(_taken(place))
        bury(place)
        remove(place)
        place.folder.mkdir(mode=0o700)
        lock = os.open(place.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.mkfifo(place.news, 0o600)
        place.write("secret", secrets.token_bytes(SECRET_BYTES))
    return place, lock


def _taken(place: Place) -> str:
    card = place.card()
    if card is None:
        return f"a world named {place.name} is just being started on {socket.gethostname()}"
    return (
        f"a world named {place.name} runs already: {describe(card)}. Use it (mpiframe attach {place.name}), "
        f"end it (mpiframe stop {place.name}), or give another --name"
    )


def describe(card: Card) -> str:
    """Who a world is, for messages."""
    return (
        f"{card.ranks} ranks of {card.mpi} on {card.host} since {moment(card.since)} (process {card.pid}: "
        f"{card.command})"
    )


def moment(epoch: float) -> str:
    """A time as people here write it."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(epoch))


def process_space() -> str:
    """Names the boot and the namespace in which a process number means a process."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def ticks_of(pid: int) -> int:
    """When a process was started, in the kernel's count since boot; 0 where there is none that lives."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            # The program's name is in brackets and may itself hold brackets and spaces.
            state, *fields = file.read().rpartition(")")[2].split()
            return int(fields[18]) if state not in "ZX" else 0
    except (OSError, ValueError, IndexError):
        return 0


# -- to find one -----------------------------------------------------------------------------------


def running(name: str | None = None) -> tuple[Place, Card]:
    """The world of that name, or the only one that runs.

    Raises WorldError where there is none, with what there is; where it has died, with when and its log.
    """
    if name is not None:
        check_name(name)
    alive, dead = survey()
    if name is None:
        if len(alive) == 1:
            return alive[0]
        raise WorldError(
            f"which world? {_those_that_run(alive)}" if alive else f"no world runs on {socket.gethostname()}"
        )
    for place, card in alive:
        if place.name == name:
            return place, card
    for place, card in dead:
        if place.name == name:
            raise WorldError(_obituary(place, card))
    near = difflib.get_close_matches(name, [place.name for place, _ in alive], 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise WorldError(
        f"there is no world named {name} on {socket.gethostname()}: {_those_that_run(alive)}{hint}"
    )


def _those_that_run(alive: list[tuple[Place, Card]]) -> str:
    return (
        f"{', '.join(place.name for place, _ in alive) or 'none'} {'run' if len(alive) > 1 else 'runs'} here"
    )


def _obituary(place: Place, card: Card) -> str:
    assert card.ended is not None
    when = f"{'some time after ' if card.estimated else ''}{moment(card.ended)}"
    status = "" if card.status is None else f" with status {card.status}"
    log = f" Its log is {place.log}." if place.log.exists() else ""
    return (
        f"the world {place.name} has died, {when}{status}; it had been {describe(card)}.{log} "
        f"`mpiframe start --name {place.name}` starts another"
    )


def survey() -> tuple[list[tuple[Place, Card]], list[tuple[Place, Card]]]:
    """The worlds that run, and those that died; of these, what nobody can use any more is removed."""
    alive: list[tuple[Place, Card]] = []
    dead: list[tuple[Place, Card]] = []
    for folder in folders.bases():
        with folders.guard(folder):
            for path in sorted(folder.iterdir()):
                if not path.is_dir():
                    continue
                place = Place(path)
                lives = place.is_alive()
                card = place.card() if lives else bury(place)
                if card is not None:
                    (alive if lives else dead).append((place, card))
    alive.sort(key=lambda pair: pair[0].name)
    dead.sort(key=lambda pair: pair[0].name)
    return alive, dead


def bury(place: Place, status: int | None = None) -> Card | None:
    """Of a world that has died, keep its card and log, for a while; the card. Within `guard` only.

    `status`: of the world's end, from the one who saw it; else when it was is known by its files alone.
    """
    card = place.card()
    now = time.time()
    if card is None or (card.ended is not None and now - card.ended > _KEPT_SECONDS):
        remove(place)
        return None
    for name in ("socket", "secret", "news", "certificate", "orders"):
        (place.folder / name).unlink(missing_ok=True)
    if card.ended is None:
        heard = [path.stat().st_mtime for path in (place.folder / "card", place.log) if path.exists()]
        ended = now if status is not None else max(heard)
        card = dataclasses.replace(card, ended=ended, estimated=status is None, status=status, sessions=0)
        place.write_card(card)
        if status is None and card.space == process_space() and not ticks_of(card.pid):
            from mpiframe.launcher.running import tidy_after  # late: few have to clear up after the dead

            tidy_after(card.pid)
    return card


def remove(place: Place) -> None:
    """Remove its folder. Within `guard` only."""
    with contextlib.suppress(FileNotFoundError):
        for path in place.folder.iterdir():
            path.unlink(missing_ok=True)
        place.folder.rmdir()
