"""Cgroups of the local queue's tasks: what is written into them, and what is read.

The folders here stand for cgroups of either version; what the kernel does with real ones is in test_jobs.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from mpiframe.plugins.scheduler.local_memory import MemoryGroups

PROGRAM = ["/bin/bash", "-c", 'echo "$1"', "x", "a b"]


@pytest.mark.parametrize(
    ("version", "limits", "events"),
    [
        (
            1,
            {"memory.limit_in_bytes": "3145728", "memory.memsw.limit_in_bytes": "3145728"},
            "memory.oom_control",
        ),
        (2, {"memory.max": "3145728", "memory.swap.max": "0"}, "memory.events"),
    ],
)
def test_a_task_is_bounded_before_it_begins(
    tmp_path: Path, version: int, limits: dict[str, str], events: str
) -> None:
    groups = MemoryGroups("/books", (str(tmp_path), version))
    argv = groups.argv("7.3", 3, PROGRAM)
    (folder,) = tmp_path.iterdir()
    assert folder.name.endswith("-7.3")
    assert {path.name: path.read_text() for path in folder.iterdir()} == limits
    run = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout == "a b\n"
    assert (folder / "cgroup.procs").read_text().strip().isdigit()
    assert not groups.ran_out("7.3")
    (folder / events).write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 0\n")
    assert not groups.ran_out("7.3")
    (folder / events).write_text("low 0\noom 3\noom_kill 2\n")
    assert groups.ran_out("7.3")
    assert MemoryGroups("/books", (str(tmp_path), version)).ran_out("7.3")  # a queue after this one
    assert not MemoryGroups("/other", (str(tmp_path), version)).ran_out("7.3")
    groups.remove("7.3")
    assert folder.exists()  # something is in it still
    for path in folder.iterdir():
        path.unlink()
    groups.remove("8")
    assert not folder.exists()


def test_without_a_bound_or_a_cgroup_the_command_is_left_as_it_is(tmp_path: Path) -> None:
    groups = MemoryGroups("/books", (str(tmp_path), 2))
    assert groups.argv("1", 0, PROGRAM) == PROGRAM
    assert list(tmp_path.iterdir()) == []
    nowhere = MemoryGroups("/books", ("/proc/1/nowhere", 1))
    assert nowhere.argv("1", 5, PROGRAM) == PROGRAM
    assert not nowhere.ran_out("1")
