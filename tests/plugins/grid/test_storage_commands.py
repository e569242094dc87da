"""Staging and sandboxes as commands of the grid's plugin, in real worlds."""

from __future__ import annotations

import ast
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mpiframe.plugins.base import Context
from mpiframe.plugins.grid.storage_commands import StorageCommands
from mpiframe.plugins.grid.storage_errors import NoSuchFile
from tests.plugins.grid import doubles

ROOT = Path(__file__).resolve().parents[3]

SCRIPT = """
import os, sys, threading
import mpiframe
from mpiframe.plugins.grid.srmlist import slice_dicts, srmlist
from mpiframe.plugins.grid.staging import StagingProgress
from mpiframe.plugins.grid.storage_errors import ArchiveError, MissingTool, NoSuchFile, StagingFailed

url, folder, links = sys.argv[1:]
links = srmlist().from_file(links)

with mpiframe.Client() as client:
    grid = client.plugin("grid", target=1)
    events, fast = [], {"poll_seconds": 0.01, "longest_poll_seconds": 0.05}
    grid.subscribe(lambda server, event: events.append((server, event)))
    number = grid.stage(links[:5], via="lta", url=url)
    waiting = grid.wait_staged.submit(number, **fast)
    # Its queue of commands goes on while that is waited for.
    assert client.submit(os.getpid, target=1).result(30) > 0
    last = waiting.result(60)
    assert isinstance(last, StagingProgress) and last.staged == last.total == 5, last
    # Slices of links travel as the lists they are.
    slices = slice_dicts(dict(links.sbn_dict()), 10)
    back = client.submit(lambda s: s["100"][:2], slices, target=1).result(30)
    assert type(back) is srmlist and back == slices["100"][:2]
    assert grid.upload_sandbox(folder + "/sbx.cfg", "file://" + folder + "/storage") == (
        "file://" + folder + "/storage/SKSP/sbx.tar", "SKSP/sbx.tar")
    names = grid.fetch_sandbox("file://" + folder + "/storage/SKSP/sbx.tar", folder + "/node")
    assert names == ["master.sh"], names
    for call, kind, text in (
        (lambda: grid.stage(links, via="gfl"), ValueError, "did you mean 'gfal'"),
        (lambda: grid.wait_staged("lta-9"), NoSuchFile, number),
        (lambda: grid.fetch_sandbox(folder + "/sbx.cfg", folder + "/other"), ArchiveError, "is no tar"),
        (lambda: grid.state(links[:1]), MissingTool, "apt-get install"),
    ):
        try:
            call()
        except mpiframe.CommandError as error:
            assert isinstance(error.__cause__, kind), repr(error.__cause__)
            assert text in str(error.__cause__), error.__cause__
        else:
            raise AssertionError("nothing was raised")
    progress = [event.progress.staged for server, event in events if server == 1 and event.request == number]
    assert progress == sorted(progress) and progress[-1] == 5, progress
    # What is waited for when the plugin goes is answered.
    number = grid.stage(links, via="lta", url=url)
    waiting = grid.wait_staged.submit(number, poll_seconds=50.0)
    assert grid.staging_progress(number).total == 51
    grid.unload()
    try:
        waiting.result(30)
    except mpiframe.MpiframeError as error:
        pass
    else:
        raise AssertionError("it was waited for")
    print("all well")
"""


def declared() -> str:
    """The entry points of setup.py, as an installed package has them."""
    for node in ast.walk(ast.parse((ROOT / "setup.py").read_text())):
        if isinstance(node, ast.keyword) and node.arg == "entry_points":
            groups = ast.literal_eval(node.value)
            return "\n".join(line for group, entries in groups.items() for line in [f"[{group}]", *entries])
    raise AssertionError("setup.py declares none")


def test_the_commands(launcher: Any, tmp_path: Path) -> None:
    made = tmp_path / "mpiframe-0.dist-info"  # so that it is found by name in a checkout, too
    made.mkdir()
    (made / "METADATA").write_text("Metadata-Version: 2.1\nName: mpiframe\nVersion: 0\n")
    (made / "entry_points.txt").write_text(declared())
    (tmp_path / "script.py").write_text(SCRIPT)
    scripts = tmp_path / "scripts"
    subprocess.run(["git", "init", "-q", str(scripts)], check=True)
    (scripts / "master.sh").write_text("#!/bin/sh\n")
    subprocess.run(["git", "-C", str(scripts), "add", "-A"], check=True)
    name = ["-c", "user.name=me", "-c", "user.email=me@x"]
    subprocess.run(["git", *name, "-C", str(scripts), "commit", "-q", "-m", "x"], check=True)
    (tmp_path / "sbx.cfg").write_text(f"Sandbox: {{name: sbx, loc: SKSP, git: {{location: {scripts}}}}}\n")
    double = doubles.Stager()
    links = Path(__file__).parent / "data" / "srm_50_sara.txt"
    with doubles.serving(double) as server:
        url = f"{server.url}/service-public/xmlrpc"
        env = {
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)]),
            "LOFAR_LTA_USER": double.user,
            "LOFAR_LTA_PWD": double.password,
            "MPIFRAME_GFAL_PYTHON": str(tmp_path / "none"),
        }
        words = [str(tmp_path / "script.py"), url, str(tmp_path), str(links)]
        ended = launcher.run(words, 2, env=env, seconds=100).expect(0)
    assert ended.stdout == "all well\n", ended.said
    assert double.password not in ended.said


def test_commands_without_a_world() -> None:
    import logging

    plugin = StorageCommands()
    plugin.context = Context(None, logging.getLogger("x"), lambda event: None, 1, "here", 2)
    plugin.stop_storage()  # nothing was begun
    with pytest.raises(NoSuchFile, match="there are none"):
        plugin.wait_staged("gfal-1")
    with pytest.raises(ValueError, match="did you mean 'stageit'"):
        plugin.stage(["srm://x"], via="stage-it")
    plugin.stop_storage()
