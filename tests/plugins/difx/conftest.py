"""Samples of DiFX's files, and copies of the real job to write to."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

DATA = Path(__file__).parent / "data"


@pytest.fixture
def data() -> Path:
    """The folder of the samples."""
    return DATA


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """The folder of a copy of the real job, whose files are named tiny_1.*"""
    return Path(shutil.copytree(DATA / "real_run_tiny", tmp_path / "job"))
