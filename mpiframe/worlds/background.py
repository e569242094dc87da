"""Worlds that can be found by a name: how they are run, and left running in the background.

    mpiframe start                              python -m mpiframe.worlds.background (a session of its own)
      launcher.plan: what is wrong is said here
      places.claim: folder, lock, secret  ----->  inherits the lock, writes the card, launcher.run
                                                    rank 0: python -m mpiframe.worlds._hosted: its hub says so
      waits for that, or for the end              the world has ended: its folder is removed; of one that
                                                  did not end in order, the card and the log stay

The lock is the world's life: who ends it (`ending`) waits until nobody holds it any more.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import fcntl
import json
import os
import select
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mpiframe import launcher
from mpiframe.errors import WorldError
from mpiframe.launcher.environment import PLACE
from mpiframe.launcher.processes import descendants, send
from mpiframe.worlds import folders, places
from mpiframe.worlds.ending import FORCE_SECONDS, KILL_SECONDS, await_gone
from mpiframe.worlds.places import Card, Place

HUB = ("-m", "mpiframe", "-m", "mpiframe.worlds._hosted")
"""What the ranks of a world run that has no script: rank 0 the hub, the others serve."""


def hosted(restart: str) -> tuple[str, ...]:
    """`HUB`, whose client replaces servers that died as `Client(restart=...)` says."""
    return HUB if restart == "never" else (*HUB, restart)


START_SECONDS = 60.0
"""How long a world may take until its hub answers; some seconds as a rule."""

_TAIL_LINES = 15
_TAIL_BYTES = 8192
_INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Orders:
    """What kind of world is to run; `how` as in `Card`, the others as for `launcher.plan`."""

    n: int
    how: str
    program: tuple[str, ...] = HUB
    variables: Mapping[str, str] = field(default_factory=dict)
    mpiexec: str | None = None
    hostfile: str | None = None
    extra: tuple[str, ...] = ()
    resilient: bool = False
    grace: float = launcher.GRACE_SECONDS
    listen: str = ""
    fingerprint: str = ""
    key_file: str = ""

    def plan(self, place: Place | None = None) -> launcher.LaunchPlan:
        """How it is started, in its place; raises WorldError where it cannot be."""
        variables = dict(self.variables) if place is None else {**self.variables, PLACE: str(place.folder)}
        return launcher.plan(
            self.n,
            self.program,
            mpiexec=self.mpiexec,
            hostfile=self.hostfile,
            extra=self.extra,
            resilient=self.resilient,
            variables=variables,
        )

    @property
    def is_hosted(self) -> bool:
        """Whether it has no script, only a hub."""
        return self.program[: len(HUB)] == HUB

    @property
    def command(self) -> str:
        """What it runs, for people."""
        if self.is_hosted:
            return f"mpiframe start -n {self.n}"
        if "mpiframe.shell" in self.program:
            return f"mpiframe shell -n {self.n}"
        return f"mpiframe run -n {self.n} {shlex.join(self.program).removeprefix('-m mpiframe ')}"


def orders(
    options: argparse.Namespace,
    how: str,
    program: Sequence[str] = HUB,
    variables: Mapping[str, str] | None = None,
) -> Orders:
    """From the options of the command line (`cli.add_launching`)."""
    return Orders(
        options.n,
        how,
        tuple(program),
        variables=dict(variables or {}),
        mpiexec=options.mpiexec,
        hostfile=options.hostfile,
        extra=tuple(options.launcher_arg),
        resilient=options.resilient,
        grace=options.grace,
    )


# -- to run one ------------------------------------------------------------------------------------


def run_named(
    name: str,
    orders: Orders,
    prepare: Callable[[Place], Orders] | None = None,
    foreground: launcher.Foreground | None = None,
) -> int:
    """Run a world that can be found by its name, from start to end, in this process; its exit status.

    `prepare` may put more into its folder, and amend the orders; `foreground` as for `launcher.run`. Raises
    WorldError where it cannot start.
    """
    orders.plan()  # what is wrong is said before there is a folder
    place, lock = places.claim(name)
    try:
        if prepare is not None:
            orders = prepare(place)
        return _conduct(place, lock, orders, foreground)
    finally:
        with contextlib.suppress(OSError):
            os.close(lock)


def _conduct(place: Place, lock: int, orders: Orders, foreground: launcher.Foreground | None = None) -> int:
    """Run the world of a place whose lock this process holds, and leave there what is to stay."""
    status = None
    held = _hold(place)
    try:
        plan = orders.plan(place)
        place.write_card(_card(place, orders, plan))
        status = launcher.run(plan, grace=orders.grace, foreground=foreground)
        return status
    finally:
        card = place.card()
        answered = card is not None and (card.ready or not orders.is_hosted)
        in_order = answered and (status == 0 or orders.how == "private")
        by_user = status == _INTERRUPTED and orders.how in ("foreground", "script")
        with folders.guard(place.folder.parent):
            if in_order or by_user:
                places.remove(place)
            else:
                places.bury(place, 1 if status is None else status)
            os.close(lock)
        _close(held)


def _hold(place: Place) -> int:
    """Have those who clear up /tmp leave the folder alone: systemd passes over what is locked."""
    folder = os.open(place.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    with contextlib.suppress(OSError):
        fcntl.flock(folder, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return folder


def _card(place: Place, orders: Orders, plan: launcher.LaunchPlan) -> Card:
    return Card(
        name=place.name,
        pid=os.getpid(),
        ticks=places.ticks_of(os.getpid()),
        space=places.process_space(),
        host=socket.gethostname(),
        mpi=f"{plan.library.vendor} {plan.library.version}",
        ranks=orders.n,
        command=orders.command,
        cwd=os.getcwd(),
        since=time.time(),
        how=orders.how,
        resilient=bool(plan.resilient),
        grace=orders.grace,
        listen=orders.listen,
        fingerprint=orders.fingerprint,
        key_file=orders.key_file,
    )


# -- to leave one running --------------------------------------------------------------------------


@dataclass(slots=True)
class Started:
    """A world that was left running by this process.

    `lifeline` is a descriptor at whose closing, at the latest with this process, the world ends; -1 where it
    outlives this process.
    """

    place: Place
    card: Card
    process: subprocess.Popen[bytes]
    lifeline: int = -1


def start(
    name: str,
    orders: Orders,
    *,
    prepare: Callable[[Place], Orders] | None = None,
    timeout: float = START_SECONDS,
    owned: bool = False,
) -> Started:
    """Start a world in the background, and return when its hub answers.

    prepare: as in `run_named`.
    timeout: seconds for that; then it is ended.
    owned: it is to end with this process, however that ends.

    Raises WorldError where it cannot be started, with the last lines that it printed; nothing is left then.
    """
    orders.plan()
    place, lock = places.claim(name)
    news = os.open(place.news, os.O_RDWR | os.O_NONBLOCK)
    ours, theirs = os.pipe()  # the end of `theirs`, of which we keep no copy, is the end of the process
    line_end, lifeline = os.pipe() if owned else (-1, -1)
    process = None
    try:
        if prepare is not None:
            orders = prepare(place)
        place.write("orders", json.dumps(dataclasses.asdict(orders)).encode())
        process = _detach(place, (lock, theirs, line_end))
        for fd in (lock, theirs, line_end):
            _close(fd)
        lock = theirs = line_end = -1
        readable, _, _ = select.select([news, ours], [], [], timeout)
        card = place.card()
        if news in readable and card is not None and card.ready:
            return Started(place, card, process, lifeline)
        why = "ended before its hub could be reached" if ours in readable else (
            f"was not there after {timeout:g} s"
        )  # fmt: skip
        raise WorldError(f"the world {name} {why}{_said(place)}")
    except BaseException:
        if process is not None:
            _put_down(process)
        _close(lifeline)
        with folders.guard(place.folder.parent):
            places.remove(place)
        raise
    finally:
        for fd in (lock, theirs, line_end, ours, news):
            _close(fd)


def _detach(place: Place, fds: tuple[int, int, int]) -> subprocess.Popen[bytes]:
    lock, alive, line = fds
    argv = [
        sys.executable,
        "-m",
        "mpiframe.worlds.background",
        str(place.folder),
        *map(str, (lock, alive, line)),
    ]
    log = os.open(place.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[fd for fd in fds if fd >= 0],
            start_new_session=True,  # the terminal's Ctrl-C and hang-up are not for it
        )
    finally:
        os.close(log)


def _close(fd: int) -> None:
    if fd >= 0:
        with contextlib.suppress(OSError):
            os.close(fd)


def tail(place: Place) -> list[str]:
    """The last lines of a world's log."""
    try:
        with open(place.log, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            return file.read().decode(errors="replace").splitlines()[-_TAIL_LINES:]
    except OSError:
        return []


def _said(place: Place) -> str:
    lines = tail(place)
    return "; it printed:\n" + "\n".join(f"    {line}" for line in lines) if lines else "; it printed nothing"


def _put_down(process: subprocess.Popen[bytes]) -> None:
    """End a world that does not come up, without asking it."""
    for number in (signal.SIGTERM, signal.SIGTERM):  # the second one means: at once
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.send_signal(number)
            process.wait(launcher.GRACE_SECONDS)
            return
    pids = descendants(process.pid)
    send([process.pid, *pids], signal.SIGKILL)
    process.wait()
    await_gone(pids, KILL_SECONDS)
    launcher.tidy_after(process.pid)


def _main(argv: Sequence[str]) -> int:
    """The process in the background."""
    folder, lock, alive, line = argv[0], *map(int, argv[1:4])
    place = Place(Path(folder))
    for fd in (lock, alive, line):
        if fd >= 0:
            os.set_inheritable(fd, False)
    path = place.folder / "orders"
    values = json.loads(path.read_text(encoding="utf-8"))
    path.unlink()
    values |= {name: tuple(values[name]) for name in ("program", "extra")}
    if line >= 0:
        args = (line, os.getppid())
        threading.Thread(target=_follow_owner, args=args, name="mpiframe-owner", daemon=True).start()
    return _conduct(place, lock, Orders(**values))


def _follow_owner(line: int, owner: int) -> None:
    """End this process in order when nobody holds the other end of the line any more, or the owner has ended.

    It only waits, and holds no lock of Python, so the launcher may go on to fork.
    """
    handles = [line]
    if hasattr(os, "pidfd_open"):  # a process that the owner has forked holds the line, too
        with contextlib.suppress(OSError):
            handles.append(os.pidfd_open(owner))
    select.select(handles, [], [])
    os.kill(os.getpid(), signal.SIGTERM)


def let_go(started: Started) -> None:
    """End a world that was started with `owned`, at once, and wait until nothing of it is left."""
    _close(started.lifeline)
    started.lifeline = -1
    try:
        started.process.wait(started.card.grace + FORCE_SECONDS)
    except subprocess.TimeoutExpired:
        _put_down(started.process)
    with folders.guard(started.place.folder.parent):
        if not started.place.is_alive():
            places.remove(started.place)


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
