"""Jobs on an element from a client, through a server of a world; the element is a stand-in."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tests.plugins.grid.arc.authority import Authority
from tests.plugins.grid.arc.double import Double
from tests.plugins.grid.test_pilots import declared

ROOT = Path(__file__).resolve().parents[4]

SCRIPT = """
import queue, sys
import mpiframe
from mpiframe.plugins.grid.arc import ArcState, JobDescription, JobNotFound

url, folder = sys.argv[1:]
events = queue.Queue()
with mpiframe.Client() as client:
    grid = client.plugin("grid", target=1)
    grid.subscribe(lambda server, event: events.put((server, event)))
    with open(f"{folder}/run.sh", "w") as file:
        file.write("#!/bin/sh\\n")
    job = grid.arc_submit(url, JobDescription("run.sh", inputs={"run.sh": f"{folder}/run.sh"}))
    [info] = grid.arc_wait(url, [job], 30)
    assert info.check().state is ArcState.FINISHED
    print("event", events.get(timeout=30) == (1, ("arc", job, ArcState.FINISHED)))
    print("read", grid.arc_read(url, job, "run.sh"))
    grid.arc_clean(url, [job])
    try:
        grid.arc_status(url, [job])
    except mpiframe.PluginError as error:
        print("cause", type(error.__cause__).__name__, isinstance(error.__cause__, JobNotFound))
"""


def test_a_jobs_life(launcher: Any, double: Double, authority: Authority, tmp_path: Path) -> None:
    made = tmp_path / "mpiframe-0.dist-info"
    made.mkdir()
    (made / "METADATA").write_text("Metadata-Version: 2.1\nName: mpiframe\nVersion: 0\n")
    (made / "entry_points.txt").write_text(declared())
    (tmp_path / "script.py").write_text(SCRIPT)
    surroundings = {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)]),
        "X509_USER_PROXY": str(authority.proxy()),
        "X509_CERT_DIR": str(authority.file),
        "XDG_RUNTIME_DIR": str(tmp_path),
    }
    double.states = ["FINISHED"]
    words = [str(tmp_path / "script.py"), double.url, str(tmp_path)]
    ended = launcher.run(words, 2, env=surroundings, seconds=60).expect(0)
    assert "event True\n" in ended.stdout
    assert "read b'#!/bin/sh\\n'\n" in ended.stdout
    assert "cause JobNotFound True\n" in ended.stdout
