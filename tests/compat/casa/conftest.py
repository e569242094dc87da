"""Real CASA, where it is installed: `launch/test --casa` does that, and runs what is in this folder."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
SECONDS = 240.0  # for one world; most of it is the import of casatasks and the first use of a task

# Not collected rather than skipped: this is a suite of its own.
collect_ignore_glob = [] if importlib.util.find_spec("casatasks") else ["test_*.py"]


@pytest.fixture(scope="session")
def casa_environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The variables with which CASA finds measures data that were made for these tests, and nothing else."""
    folder = tmp_path_factory.mktemp("casa")
    data = _module("measures_data")
    data.make(folder / "data")
    site = folder / "site.py"
    site.write_text(data.site_config(folder / "data", Path("casa.log")))
    home = folder / "home"
    home.mkdir()
    # A child forked by a process that has used OpenMP would hang in its next use of it.
    return {"CASASITECONFIG": str(site), "HOME": str(home), "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}


@pytest.fixture
def make_ms(casa_environment: dict[str, str]) -> Callable[..., None]:
    """Makes a MeasurementSet: make_ms(path, seed=1, spws=8, wvr=True)."""

    def make(path: Path, **options: Any) -> None:
        words = [f"--{name}" if value is True else f"--{name}={value}" for name, value in options.items()]
        subprocess.run(
            [sys.executable, HERE / "simulate.py", path, *words],
            env=os.environ | casa_environment,
            cwd=path.parent,
            check=True,
            timeout=SECONDS,
            stdout=subprocess.DEVNULL,
        )

    return make


def _module(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"casa_{name}", HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
