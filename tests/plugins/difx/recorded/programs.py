"""Stand-ins that say, and make, what DiFX's programs said and made when the session `flow` was recorded.

Nothing is computed: files are those of the real job, messages those that were relayed. Run as `programs.py
NAME arguments ...`; the folder of the session is in RECORDED_ROOT.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import sys
import termios
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[3]))

from mpiframe.plugins.difx.multicast import Group, Sender  # noqa: E402
from mpiframe.plugins.difx.protocol import Id  # noqa: E402
from tests.plugins.difx.recorded import transcript  # noqa: E402

SAMPLE = HERE.parent / "data" / "real_run_tiny"
ROOT = os.environ["RECORDED_ROOT"]


def taken(stream: int) -> None:
    """Wait until what was written has been read: two pipes have no order between them."""
    while struct.unpack("i", fcntl.ioctl(stream, termios.FIONREAD, b"\0" * 4))[0]:
        time.sleep(0.001)  # nothing tells


def say(stream: int, lines: list[str]) -> None:
    os.write(stream, "".join(f"{line}\n" for line in lines).encode())
    taken(stream)


def said(prefix: str, number: int) -> list[str]:
    """The lines that the guiServer passed on with this prefix, as diagnostics of this kind."""
    packets = [one for one in transcript.read("flow", ROOT) if not one.from_client and one.id == number]
    texts = [one.data.decode("latin-1") for one in packets]
    return [text.removeprefix(prefix) for text in texts if text.startswith(prefix)]


def sample(name: str) -> None:
    """A file of the real job, in this folder."""
    text = (SAMPLE / name).read_text()
    Path(name).write_text(text.replace("/data/exp0/exp1/", f"{os.getcwd()}/"))


def vex2difx() -> int:
    say(2, said("vex2difx... ", Id.ERROR))
    for name in (
        "tiny.joblist",
        "tiny_1.calc",
        "tiny_1.flag",
        "tiny_1.input",
        "tiny_1.machines",
        "tiny_1.threads",
    ):
        sample(name)
    say(1, said("vex2difx... ", Id.INFORMATION))
    return 0


def difxcalc_f() -> int:
    sample("tiny_1.im")
    return 0


def checkmpifxcorr() -> int:
    say(1, said("checkmpicorr... ", Id.INFORMATION))
    return 0


def mpirun() -> int:
    if sys.argv[2:] == ["--version"]:
        print("mpirun (Open MPI) 4.1.4")
        return 0
    say(2, said("mpifxcorr... ", Id.ERROR))
    shutil.copytree(SAMPLE / "tiny_1.difx", "tiny_1.difx")
    say(1, said("mpifxcorr... ", Id.INFORMATION))
    with Sender(Group.find()) as sender:
        for one in transcript.read("flow", ROOT):
            if not one.from_client and one.id == Id.RELAY:
                sender.send_raw(one.data)
    return 0


if __name__ == "__main__":
    sys.exit(globals()[sys.argv[1]]())
