"""`mpiframe difx serve` in a process of its own."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.plugins.difx.conftest import mpiruns

ROOT = Path(__file__).resolve().parents[3]
SECONDS = 60.0


@contextlib.contextmanager
def served(folder: Path, root: Path, env: dict[str, str], *words: str) -> Iterator[tuple[int, Path]]:
    """`mpiframe difx serve`: its port, and the file with what it says."""
    path = f"{Path(mpiruns()[-1]).parent}{os.pathsep}{os.environ['PATH']}"
    env = os.environ | env | {"PATH": path, "PYTHONPATH": str(ROOT)}
    env.pop("DIFX_MPIRUNOPTIONS", None)
    argv = [sys.executable, "-m", "mpiframe", "difx", "serve", "--root", str(root), *words]
    log = folder / "log"
    with open(log, "wb") as file:
        process = subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=file, text=True)
    with process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            found = re.fullmatch(r"server at port (\d+)\n", said)
            assert found, (said, log.read_text())
            yield int(found[1]), log
        finally:
            process.terminate()
            try:
                status = process.wait(SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
    assert status == 0, log.read_text()


def await_text(path: Path, text: str) -> None:
    deadline = time.monotonic() + SECONDS
    while text not in path.read_text():
        assert time.monotonic() < deadline, path.read_text()
        time.sleep(0.01)
