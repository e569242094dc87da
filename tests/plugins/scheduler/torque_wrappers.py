"""Slurm's imitation of Torque: Debian's slurm-wlm-torque, unpacked where MPIFRAME_TEST_TORQUE says."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest


def put_on_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have qsub, qstat and qdel of this folder found first, before Grid Engine's."""
    unpacked = Path(os.environ["MPIFRAME_TEST_TORQUE"])
    programs = folder / "torque"
    programs.mkdir()
    for path in (unpacked / "usr/bin").iterdir():
        shutil.copy(path, programs)
    for name in ("sbatch", "squeue", "scancel", "salloc", "srun"):  # which it looks for beside itself
        found = shutil.which(name)
        assert found is not None
        (programs / name).symlink_to(found)
    modules = [*unpacked.glob("usr/lib/*/perl5/*"), unpacked / "usr/share/perl5"]
    monkeypatch.setenv("PERL5LIB", os.pathsep.join(map(str, modules)))
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
