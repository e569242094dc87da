"""What the README shows is run, and the tests that it names are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def test_the_five_lines(launcher) -> None:
    (example,) = blocks("python")
    assert len(example.splitlines()) == 5
    assert launcher.run(example, 4).expect(0).stdout == "4.5 4.5\n332833500\n"


def test_the_clock(launcher) -> None:
    example = (ROOT / "examples" / "plugin_clock.py").read_text(encoding="utf-8")
    assert "['ring', 'ring']" in launcher.run(example, 3).expect(0).stdout


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`(tests/[\w/.]+|launch/\w+)`", TEXT))))
def test_what_it_names_is_there(path: str) -> None:
    assert (ROOT / path).exists()
